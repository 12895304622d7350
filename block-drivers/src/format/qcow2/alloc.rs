//! Refcounts: which host clusters are in use, and finding ones that are not.
//! Called by `write` and `resize` (reserve), `discard` and `write` (free), `cache` (write back).
//! Invariants: a cluster is reserved in memory before anything is written to it; a count falls only
//! after the removal of what pointed there is durable and those who may have looked there before have
//! left, so a free cluster is free on disk too and nobody reads it; a new
//! refcount block is durable before the table entry that names it.
//! Spec: qcow2 "Host cluster management". Not here: room for more counts (`growth.rs`), when things
//! are written (`cache.rs`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use block_core::layer::Readers;
use block_core::sync::AsyncMutex;
use block_core::{Error, Result};
use block_schema::types::BlkdebugEvent;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::cache::write_copy;
use super::error::ImageError;
use super::geometry::Geometry;
use super::image::Image;
use super::layout::{CompressedCluster, HOST_LIMIT, RefcountTableEntry};
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};
use crate::kit::table_cache::{Acquire, Loading, Needs, Pinned, TableCache};

/// The refcounts of an image.
pub(super) struct Refcounts {
    geometry: Geometry,
    pub(super) table: Mutex<Table>,
    pub(super) blocks: TableCache,
    pub(super) state: Mutex<State>,
    /// The end of the file at open, or of the last cluster that was ever reserved. What lies behind
    /// was never written: it reads as zeroes.
    pub(super) host_end: AtomicU64,
    /// Held by whoever makes room for more counts (`growth.rs`).
    pub(super) growing: AsyncMutex,
    /// Held by the one who places compressed clusters (`pack.rs`).
    pub(super) packing: AsyncMutex,
}

/// The refcount table in memory.
pub(super) struct Table {
    pub(super) entries: Vec<u64>,
    /// Entries that differ from the disk.
    pub(super) unwritten: BTreeSet<u64>,
    /// Where the table goes, when it has outgrown its place.
    pub(super) moved: Option<Place>,
}

/// Where a table is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: HostOffset,
    pub(super) clusters: u32,
}

pub(super) struct State {
    /// No cluster before this one is free.
    cursor: u64,
    /// Where the next compressed cluster may go: in a host cluster that others are in already.
    pub(super) open: Option<HostOffset>,
    /// Whether there ever was one.
    pub(super) has_packed: bool,
    freed: Vec<Freed>,
    /// Durably given up, and perhaps still read by those who looked there before.
    settling: Vec<(Readers, Vec<Freed>)>,
}

/// References to a cluster that were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    cluster: u64,
    reason: FreeReason,
}

/// Why a cluster is freed: what the schema's `pass-discard-*` options distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeReason {
    /// A guest discarded it.
    Request,
    /// Something else took its place.
    Other,
}

/// Clusters that nobody else can get; given back when dropped before [`commit`](Self::commit).
pub(super) struct Reservation<'a> {
    refcounts: &'a Refcounts,
    block: Pinned<'a>,
    first: u64,
    count: u64,
    fresh: bool,
}

impl Reservation<'_> {
    /// The first byte.
    pub(super) fn offset(&self) -> HostOffset {
        self.refcounts.geometry.host_of(self.first)
    }

    /// The first byte behind it.
    pub(super) fn end(&self) -> HostOffset {
        self.refcounts.geometry.host_of(self.first + self.count)
    }

    /// How many clusters there are, at least 1.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether they are known to read as zeroes.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Keeps the clusters: something in memory points at them now.
    pub(super) fn commit(mut self) {
        self.count = 0;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        // Writes to the clusters have settled: whoever drops this has awaited them.
        let mut state = self.refcounts.state.lock();
        for cluster in self.first..self.first + self.count {
            self.refcounts.set_count(&self.block, cluster, 0);
        }
        state.cursor = state.cursor.min(self.first);
    }
}

impl Refcounts {
    pub(super) fn new(
        geometry: Geometry,
        entries: Vec<u64>,
        blocks: TableCache,
        file_len: u64,
    ) -> Refcounts {
        Refcounts {
            geometry,
            table: Mutex::new(Table {
                entries,
                unwritten: BTreeSet::new(),
                moved: None,
            }),
            blocks,
            // Cluster 0 is the header; its offset never stands for an allocation.
            state: Mutex::new(State {
                cursor: 1,
                open: None,
                has_packed: false,
                freed: Vec::new(),
                settling: Vec::new(),
            }),
            host_end: AtomicU64::new(file_len),
            growing: AsyncMutex::new(),
            packing: AsyncMutex::new(),
        }
    }

    /// The count of a cluster that `block` describes.
    pub(super) fn count(&self, block: &Pinned<'_>, cluster: u64) -> u64 {
        let (word, shift) = self
            .geometry
            .refcount_place(cluster % self.geometry.block_reach());
        (block.entry(word) >> shift) & self.geometry.max_refcount()
    }

    /// Sets a count. The caller holds `state`, which makes this read and write one step.
    pub(super) fn set_count(&self, block: &Pinned<'_>, cluster: u64, count: u64) {
        let (word, shift) = self
            .geometry
            .refcount_place(cluster % self.geometry.block_reach());
        let mask = self.geometry.max_refcount() << shift;
        let value = (block.entry(word) & !mask) | (count << shift);
        block.set(word, value, Needs::Nothing);
    }

    /// Changes a count, and lets the cluster be found when it is free then.
    fn assign(&self, block: &Pinned<'_>, cluster: u64, new: impl FnOnce(u64) -> u64) {
        let mut state = self.state.lock();
        let count = new(self.count(block, cluster));
        self.set_count(block, cluster, count);
        if count == 0 {
            // Cluster 0 is the header, whatever its count.
            state.cursor = state.cursor.min(cluster.max(1));
            // Whoever finds it next has it alone.
            let open = state.open.map(|at| self.geometry.cluster_of(at));
            state.open = state.open.filter(|_| open != Some(cluster));
        }
    }

    /// The first run of free clusters in `range`, at most `want` long.
    fn find(&self, block: &Pinned<'_>, range: Range<u64>, want: u64) -> Option<Range<u64>> {
        let mut clusters = range.clone();
        let first = clusters.find(|&c| self.count(block, c) == 0)?;
        let end = clusters
            .take_while(|&c| self.count(block, c) == 0)
            .take(usize::try_from(want - 1).unwrap_or(usize::MAX))
            .last()
            .map_or(first + 1, |last| last + 1);
        Some(first..end)
    }

    /// Takes free clusters. The caller holds `state`.
    fn take<'a>(&'a self, block: &Pinned<'a>, run: Range<u64>) -> Reservation<'a> {
        for cluster in run.clone() {
            self.set_count(block, cluster, 1);
        }
        let (start, end) = (
            self.geometry.host_of(run.start),
            self.geometry.host_of(run.end),
        );
        let before = self.host_end.fetch_max(end.0, Ordering::AcqRel);
        Reservation {
            refcounts: self,
            block: block.clone(),
            first: run.start,
            count: run.end - run.start,
            fresh: start.0 >= before,
        }
    }

    /// Gives up a reference to each cluster of a host range, once the next flush has made durable
    /// that nothing points there.
    pub(super) fn free_later(&self, at: HostOffset, len: u64, reason: FreeReason) {
        let first = self.geometry.cluster_of(at);
        let last = self.geometry.cluster_of(at.plus(len.saturating_sub(1)));
        self.state
            .lock()
            .freed
            .extend((first..=last).map(|cluster| Freed { cluster, reason }));
    }

    /// As [`free_later`](Self::free_later), for a compressed cluster.
    pub(super) fn free_compressed_later(&self, c: CompressedCluster, reason: FreeReason) {
        self.free_later(c.host, c.len, reason);
    }

    pub(super) fn take_freed(&self) -> Vec<Freed> {
        std::mem::take(&mut self.state.lock().freed)
    }

    /// Keeps what was durably given up until its last readers have left.
    pub(super) fn settle(&self, readers: Readers, freed: Vec<Freed>) {
        if !freed.is_empty() {
            self.state.lock().settling.push((readers, freed));
        }
    }

    /// What was durably given up and nobody reads any more.
    pub(super) fn take_settled(&self) -> Vec<Freed> {
        let mut settled = Vec::new();
        self.state.lock().settling.retain_mut(|(readers, freed)| {
            let left = readers.have_left();
            if left {
                settled.append(freed);
            }
            !left
        });
        settled
    }

    /// Whether the table on disk does not name all blocks yet.
    pub(super) fn has_new_blocks(&self) -> bool {
        let table = self.table.lock();
        table.moved.is_some() || !table.unwritten.is_empty()
    }

    /// Whether clusters wait to be freed.
    pub(super) fn has_freed(&self) -> bool {
        let state = self.state.lock();
        !state.freed.is_empty() || !state.settling.is_empty()
    }

    pub(super) fn put_back(&self, freed: Vec<Freed>) {
        self.state.lock().freed.extend(freed);
    }
}

impl Image {
    /// The first host byte that no entry may name: behind the file, and behind all reservations.
    pub(super) fn host_end(&self) -> u64 {
        self.refcounts.host_end.load(Ordering::Acquire)
    }

    /// Whether a cluster holds the header, the L1 table, the refcount table or the first snapshot.
    pub(super) fn in_fixed_metadata(&self, at: HostOffset) -> bool {
        let header = self.header.lock();
        let within = |start: HostOffset, len: u64| {
            at.0 < self.geometry.ceil(start.0 + len)
                && start.0 < at.0 + self.geometry.cluster_size()
        };
        at.0 < self.geometry.cluster_size()
            || within(header.l1_table, header.l1_bytes())
            || within(header.refcount_table, header.refcount_table_bytes())
            || (header.snapshot_count > 0 && within(header.snapshots, 1))
    }

    /// How many references a cluster has.
    ///
    /// # Errors
    /// `Corrupt` when the refcount table is wrong; errors of the file.
    pub(super) async fn refcount<E: Surroundings>(&self, env: &E, cluster: u64) -> Result<u64> {
        let index = cluster / self.geometry.block_reach();
        let block = self.block(env, index).await?;
        Ok(block.map_or(0, |block| self.refcounts.count(&block, cluster)))
    }

    /// A refcount block; `None` when there is none.
    pub(super) async fn block<E: Surroundings>(
        &self,
        env: &E,
        index: u64,
    ) -> Result<Option<Pinned<'_>>> {
        let Some(at) = self.block_place(index).map_err(|e| self.error(e))? else {
            return Ok(None);
        };
        match self.acquire(env, &self.refcounts.blocks, index).await? {
            Ok(block) => Ok(Some(block)),
            Err(slot) => self.load_block(env, at, slot).await.map(Some),
        }
    }

    async fn load_block<'a, E: Surroundings>(
        &self,
        env: &E,
        at: HostOffset,
        slot: Loading<'a>,
    ) -> Result<Pinned<'a>> {
        env.file().event(BlkdebugEvent::RefblockLoad);
        let bytes = env
            .file()
            .read_bytes(at.0, self.geometry.cluster_len())
            .await?;
        Ok(slot.fill(&words_be(&bytes)))
    }

    /// Where a refcount block is.
    fn block_place(&self, index: u64) -> std::result::Result<Option<HostOffset>, ImageError> {
        let entry = {
            let table = self.refcounts.table.lock();
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            table.entries.get(place).copied().unwrap_or(0)
        };
        let wrong = |what| ImageError::RefcountEntry { index, entry, what };
        let entry = RefcountTableEntry(entry);
        if entry.reserved() != 0 {
            return Err(wrong("reserved bits set"));
        }
        let Some(at) = entry.block() else {
            return Ok(None);
        };
        if self.geometry.within(at.0) != 0 {
            return Err(wrong("an offset off a cluster boundary"));
        }
        if at.0 >= self.host_end() {
            return Err(wrong("an offset behind the end of the file"));
        }
        if self.in_fixed_metadata(at) {
            return Err(wrong(
                "an offset inside the header, the L1 table or the refcount table",
            ));
        }
        Ok(Some(at))
    }

    /// Reserves at least one and at most `want` clusters, next to each other.
    ///
    /// # Errors
    /// `NOSPC` when no host offset is left; `Corrupt` when the refcounts are wrong; errors of the
    /// file.
    pub(super) async fn reserve<E: Surroundings>(
        &self,
        env: &E,
        want: u64,
    ) -> Result<Reservation<'_>> {
        let reach = self.geometry.block_reach();
        env.file().event(BlkdebugEvent::ClusterAlloc);
        loop {
            let index = self.refcounts.state.lock().cursor / reach;
            let block = self.block_or_new(env, index).await?;
            let mut state = self.refcounts.state.lock();
            let here = index * reach..(index + 1) * reach;
            let from = state.cursor.max(here.start);
            if let Some(run) = self.refcounts.find(&block, from..here.end, want) {
                let (start, end) = (run.start, run.end);
                // Nothing before the run is free if the cursor was in this block or before it.
                if state.cursor >= here.start {
                    state.cursor = end;
                }
                self.check_free(start..end)?;
                return Ok(self.refcounts.take(&block, run));
            }
            if here.contains(&state.cursor) {
                state.cursor = here.end;
            }
        }
    }

    /// Reserves exactly `count` clusters next to each other, and commits them: for tables.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub(super) async fn reserve_table<E: Surroundings>(
        &self,
        env: &E,
        count: u64,
    ) -> Result<HostOffset> {
        let reach = self.geometry.block_reach();
        if count == 1 {
            let reserved = self.reserve(env, 1).await?;
            let at = reserved.offset();
            reserved.commit();
            return Ok(at);
        }
        if count >= reach {
            // No block has so many to itself.
            let _one = self.refcounts.growing.lock().await;
            return self.append_area(env, count).await;
        }
        let mut index = self.refcounts.state.lock().cursor / reach;
        loop {
            let block = self.block_or_new(env, index).await?;
            let _state = self.refcounts.state.lock();
            let mut from = (index * reach).max(1);
            let end = (index + 1) * reach;
            while let Some(run) = self.refcounts.find(&block, from..end, count) {
                if run.end - run.start == count {
                    self.check_free(run.clone())?;
                    let taken = self.refcounts.take(&block, run);
                    let at = taken.offset();
                    taken.commit();
                    return Ok(at);
                }
                from = run.end;
            }
            index += 1;
        }
    }

    /// A free cluster that is known to be in use means that the refcounts are wrong.
    fn check_free(&self, run: Range<u64>) -> Result<()> {
        let at = self.geometry.host_of(run.start);
        if self.in_fixed_metadata(at) {
            let what = "the header, the L1 table, the refcount table or the snapshot table";
            return Err(self.error(ImageError::AllocatedInUse { offset: at.0, what }));
        }
        self.refuse_overlap(at, (run.end - run.start) << self.geometry.cluster_bits)
    }

    /// A refcount block, made if there is none.
    async fn block_or_new<E: Surroundings>(&self, env: &E, index: u64) -> Result<Pinned<'_>> {
        if let Some(block) = self.block(env, index).await? {
            return Ok(block);
        }
        let growing = self.refcounts.growing.lock().await;
        if let Some(block) = self.block(env, index).await? {
            return Ok(block);
        }
        if (index + 1) * self.geometry.block_reach()
            > self.geometry.cluster_of(HostOffset(HOST_LIMIT))
        {
            return Err(self.no_space(Errno::FBIG));
        }
        let capacity = self.refcounts.table.lock().entries.len() as u64;
        env.file().event(BlkdebugEvent::RefblockAlloc);
        if index >= capacity {
            env.file().event(BlkdebugEvent::ReftableGrow);
            self.grow_table(env).await?;
        }
        let first = index * self.geometry.block_reach();
        if self.refcounts.table.lock().entries.get(index_of(index)) == Some(&0) {
            // A block describes itself: the first cluster of its own range, all of which is free.
            let at = if first == 0 { 1 } else { first };
            self.check_free(at..at + 1)?;
            let slots = self.new_slots(env, index..index + 1).await?;
            let mut table = self.refcounts.table.lock();
            self.fill_blocks(&mut table, slots, index, &(at..at + 1));
        }
        drop(growing);
        match self.block(env, index).await? {
            Some(block) => Ok(block),
            None => Err(self.no_space(Errno::NOSPC)),
        }
    }

    /// The refcount table in memory.
    pub(super) fn refcount_table(&self) -> Vec<u64> {
        self.refcounts.table.lock().entries.clone()
    }

    /// How many blocks there are, and the bytes of the table that names them.
    pub(super) fn refcount_sizes(&self) -> (u64, u64) {
        let table = self.refcounts.table.lock();
        let blocks = table.entries.iter().filter(|&&entry| entry != 0).count();
        (blocks as u64, table.entries.len() as u64 * 8)
    }

    /// Where a refcount block is that must be there.
    ///
    /// # Errors
    /// `Corrupt` when it is not, or the refcount table is wrong.
    pub(super) fn block_at(&self, index: u64) -> Result<HostOffset> {
        let at = self.block_place(index).map_err(|e| self.error(e))?;
        let first = self.geometry.host_of(index * self.geometry.block_reach());
        at.ok_or_else(|| self.error(ImageError::RefcountZero { offset: first.0 }))
    }

    /// Takes over the refcounts that the disk has now; nobody else uses the image, and nothing of
    /// the old ones is dirty.
    pub(super) fn adopt_refcounts(&self, entries: Vec<u64>) {
        self.refcounts.blocks.forget();
        self.refcounts.table.lock().entries = entries;
        let mut state = self.refcounts.state.lock();
        state.cursor = 1;
        state.open = None;
    }

    /// The first of some blocks that the refcount table names.
    pub(super) fn next_block(&self, indices: Range<u64>) -> Option<u64> {
        let table = self.refcounts.table.lock();
        let end = indices.end.min(table.entries.len() as u64);
        (indices.start..end).find(|&index| {
            let entry = table.entries.get(index_of(index)).copied();
            entry.is_some_and(|entry| RefcountTableEntry(entry).block().is_some())
        })
    }

    /// Sets a refcount to what a check counted; false when there is no block to hold it and none
    /// can be made without knowing which clusters are free. The image is drained.
    ///
    /// # Errors
    /// `Corrupt` when the refcount table is wrong; errors of the file.
    pub(super) async fn repair_count<E: Surroundings>(
        &self,
        env: &E,
        cluster: u64,
        count: u64,
    ) -> Result<bool> {
        if count > self.geometry.max_refcount() {
            return Ok(false);
        }
        let Some(block) = self
            .block(env, cluster / self.geometry.block_reach())
            .await?
        else {
            return Ok(false);
        };
        self.refcounts.assign(&block, cluster, |_| count);
        drop(block);
        self.limit_dirty(env).await?;
        Ok(true)
    }

    /// Says that an allocation is impossible.
    pub(super) fn no_space(&self, errno: Errno) -> Error {
        Error::Io {
            node: self.node.clone(),
            op: "allocate",
            offset: self.host_end(),
            len: self.geometry.cluster_size(),
            source: errno.into(),
        }
    }

    /// Writes changed refcount blocks, then the table entries of new ones. Not durable on return.
    /// The caller is the one flush.
    pub(super) async fn write_refcounts<E: Surroundings>(&self, env: &E) -> Result<()> {
        // The entries first: every block they name is in the copies then, or on disk.
        let (unwritten, moved, entries) = {
            let mut table = self.refcounts.table.lock();
            let moved = table.moved.take();
            // A copy of the whole table only when something of it is written.
            let changed = moved.is_some() || !table.unwritten.is_empty();
            let entries = if changed {
                table.entries.clone()
            } else {
                Vec::new()
            };
            (std::mem::take(&mut table.unwritten), moved, entries)
        };
        let blocks = self.refcounts.blocks.take_dirty();
        let result = self
            .write_refcount_copies(env, &blocks, &unwritten, moved, &entries)
            .await;
        for copy in &blocks {
            match &result {
                Ok(()) => self.refcounts.blocks.written(copy),
                Err(_) => self.refcounts.blocks.failed(copy),
            }
        }
        if result.is_err() {
            let mut table = self.refcounts.table.lock();
            table.unwritten.extend(unwritten);
            // A table that grew again meanwhile has a later place.
            if let (None, Some(place)) = (&table.moved, moved) {
                table.moved = Some(place);
            }
        }
        result
    }

    async fn write_refcount_copies<E: Surroundings>(
        &self,
        env: &E,
        blocks: &[crate::kit::table_cache::Writeback],
        unwritten: &BTreeSet<u64>,
        moved: Option<Place>,
        entries: &[u64],
    ) -> Result<()> {
        let file = env.file();
        for copy in blocks {
            let at = self.block_place(copy.key).map_err(|e| self.error(e))?;
            let at = at.ok_or_else(|| self.no_space(Errno::NOSPC))?;
            file.event(match (moved, unwritten.contains(&copy.key)) {
                (Some(_), true) => BlkdebugEvent::RefblockAllocWriteBlocks,
                (None, true) => BlkdebugEvent::RefblockAllocWrite,
                (_, false) => BlkdebugEvent::RefblockUpdatePart,
            });
            write_copy(file, at, copy).await?;
        }
        if let Some(place) = moved {
            let len = index_of(u64::from(place.clusters) * self.geometry.entries());
            file.event(BlkdebugEvent::RefblockAllocWriteTable);
            file.write_bytes(
                place.offset.0,
                &bytes_be(&entries[..len.min(entries.len())]),
            )
            .await?;
            // Blocks and table before the header that names them.
            file.flush().await?;
            let (old, old_len) = {
                let header = self.header.lock();
                (header.refcount_table, header.refcount_table_bytes())
            };
            file.event(BlkdebugEvent::RefblockAllocSwitchTable);
            self.update_header(env, |header| {
                header.refcount_table = place.offset;
                header.refcount_table_clusters = place.clusters;
            })
            .await?;
            self.refcounts.free_later(old, old_len, FreeReason::Other);
        } else if !unwritten.is_empty() {
            // Blocks before the table entries that name them.
            file.flush().await?;
            let table = self.header.lock().refcount_table;
            for &index in unwritten {
                let bytes = entries[index_of(index)].to_be_bytes();
                file.event(BlkdebugEvent::RefblockAllocHookup);
                file.write_bytes(table.0 + index * 8, &bytes).await?;
            }
        }
        Ok(())
    }

    /// Lowers the counts of clusters whose last pointer is durably gone, and gives them back to the
    /// file where asked to. What cannot be done now waits for the next flush.
    pub(super) async fn apply_freed<E: Surroundings>(&self, env: &E, freed: Vec<Freed>) {
        let reach = self.geometry.block_reach();
        if !freed.is_empty() {
            env.file().event(BlkdebugEvent::ClusterFree);
        }
        let mut later = Vec::new();
        let mut sorted = freed;
        sorted.sort_by_key(|f| f.cluster);
        for one_block in sorted.chunk_by(|a, b| a.cluster / reach == b.cluster / reach) {
            if let Err(error) = self.apply_in_block(env, one_block).await {
                tracing::warn!(node = self.node, error = %error.chain(), "freeing clusters waits");
                later.extend_from_slice(one_block);
            }
        }
        self.refcounts.put_back(later);
    }

    /// Lowers counts in one refcount block; `freed` is sorted, not empty, and all in that block.
    async fn apply_in_block<E: Surroundings>(&self, env: &E, freed: &[Freed]) -> Result<()> {
        let Some(first) = freed.first() else {
            return Ok(());
        };
        let index = first.cluster / self.geometry.block_reach();
        let Some(at) = self.block_place(index).map_err(|e| self.error(e))? else {
            tracing::warn!(
                node = self.node,
                index,
                "freed clusters have no refcount block"
            );
            return Ok(());
        };
        let block = match self.refcounts.blocks.acquire(index) {
            Acquire::Ready(block) => block,
            Acquire::Load(slot) => self.load_block(env, at, slot).await?,
            // This runs inside a flush, which must not wait for one.
            Acquire::Wait | Acquire::Full => return Err(self.no_space(Errno::AGAIN)),
        };
        for run in self.unused_runs(&block, freed) {
            let (start, end) = (
                self.geometry.host_of(run.start),
                self.geometry.host_of(run.end),
            );
            // Before the counts fall: afterwards the clusters may be somebody else's. The file may
            // decline; they are free all the same.
            let _ = env.file().discard(start.0..end.0).await;
        }
        for same in freed.chunk_by(|a, b| a.cluster == b.cluster) {
            let given_up = same.len() as u64;
            let cluster = same.first().map_or(0, |f| f.cluster);
            self.refcounts
                .assign(&block, cluster, |count| count.saturating_sub(given_up));
        }
        Ok(())
    }

    /// Runs of clusters that nobody will refer to and that options say to give back to the file.
    fn unused_runs(&self, block: &Pinned<'_>, freed: &[Freed]) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut state = self.refcounts.state.lock();
        for same in freed.chunk_by(|a, b| a.cluster == b.cluster) {
            let Some(Freed { cluster, reason }) = same.first().copied() else {
                continue;
            };
            let pass = match reason {
                FreeReason::Request => self.options.pass_discard_request,
                FreeReason::Other => self.options.pass_discard_other,
            };
            if !pass || self.refcounts.count(block, cluster) != same.len() as u64 {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == cluster => run.end += 1,
                Some(_) | None => runs.push(cluster..cluster + 1),
            }
        }
        // Nobody may pack into a cluster of which a hole is made.
        let open = state.open.map(|at| self.geometry.cluster_of(at));
        if open.is_some_and(|open| runs.iter().any(|run| run.contains(&open))) {
            state.open = None;
        }
        runs
    }
}

/// A place in a table that was checked against the table's length, or is about to be.
pub(super) fn index_of(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
