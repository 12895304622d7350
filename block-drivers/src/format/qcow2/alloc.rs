//! Refcounts: finding host clusters that are not in use, and what of it the file sees.
//! Called by `write` and `resize` (reserve), `discard` and `write` (free), `cache` (write back).
//! Invariants: a cluster is reserved in memory before anything is written to it; a free cluster is
//! free on disk too and nobody reads it; a new refcount block is durable before the table entry that
//! names it.
//! Spec: qcow2 "Host cluster management". Not here: counts in memory (`counts.rs`), room for more of
//! them (`growth.rs`), when things are written (`cache.rs`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

use block_core::{Error, Result};
use block_schema::types::BlkdebugEvent;
use rustix::io::Errno;

use super::cache::write_copy;
use super::counts::{FreeReason, Freed, Place, Refcounts, Reservation, index_of};
use super::error::ImageError;
use super::image::Image;
use super::layout::{CompressedCluster, HOST_LIMIT, RefcountTableEntry};
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};
use crate::kit::table_cache::{Acquire, Loading, Pinned};

impl Refcounts {
    /// As [`free_later`](Self::free_later), for a compressed cluster.
    pub(super) fn free_compressed_later(&self, c: CompressedCluster, reason: FreeReason) {
        self.free_later(c.host, c.len, reason);
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

    /// Whether a refcount block or an L2 table can be at an offset; the words say why not.
    pub(super) fn check_table_place(
        &self,
        at: HostOffset,
    ) -> std::result::Result<(), &'static str> {
        if self.geometry.within(at.0) != 0 {
            return Err("an offset off a cluster boundary");
        }
        if at.0 >= self.host_end() {
            return Err("an offset behind the end of the file");
        }
        if self.in_fixed_metadata(at) {
            return Err("an offset inside the header, the L1 table or the refcount table");
        }
        Ok(())
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
        self.check_table_place(at).map_err(wrong)?;
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
            let check = |run| self.check_free(run);
            if let Some(taken) = self.refcounts.take_in(&block, index, want, check)? {
                return Ok(taken);
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
        let pass = |reason| match reason {
            FreeReason::Request => self.options.pass_discard_request,
            FreeReason::Shrink => true,
            FreeReason::Other => self.options.pass_discard_other,
        };
        for run in self.refcounts.unused_runs(&block, freed, pass) {
            let (start, end) = (
                self.geometry.host_of(run.start),
                self.geometry.host_of(run.end),
            );
            // Before the counts fall: afterwards the clusters may be somebody else's. The file may
            // decline; they are free all the same.
            let _ = env.file().discard(start.0..end.0).await;
        }
        self.refcounts.lower(&block, freed);
        Ok(())
    }
}
