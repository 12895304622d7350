//! From one state of an image to another in one step: the header's sector.
//! Called by `snapshot` and `amend`, drained. New tables are written beside the old ones: L1 tables,
//! L2 tables whose copied flags change, the snapshot table, refcount blocks and refcount table.
//! Only then does the header name them, all at once. Before, nothing of the old state has changed
//! but that some free clusters are counted; after, counts and flags are exact.
//! Invariant: a table that the header on disk reaches is never written here.
//! Memory: a byte for each host cluster near one whose count changes, and one batch of tables.
//! Spec: qcow2 "Snapshots", "Host cluster management". Not here: what the new state is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use block_core::{Error, Result};

use super::counts::FreeReason;
use super::error::ImageError;
use super::image::Image;
use super::layout::{L1Entry, L2Entry};
use super::map::{Cluster, Host};
use super::snapshot_table::{Snapshot, table_bytes};
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};
use crate::kit::table_cache::Pinned;

/// Bytes of L2 tables that are read or written together.
const BATCH_BYTES: usize = 4 << 20;
/// Runs of freed clusters that are given back to the file at most.
const MAX_FREED_RUNS: usize = 1 << 20;
/// The most that a cluster's count may change by.
const MAX_DELTA: i32 = i32::MAX / 2;

/// What an image becomes.
pub(super) struct Next {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// The active L1 table; its copied flags do not matter.
    pub(super) l1: Vec<L1Entry>,
    pub(super) snapshots: Vec<Snapshot>,
    /// Whether the last snapshot is new, with the active L1 table's entries as its own.
    pub(super) taken: bool,
    /// L1 tables whose entries refer once more to what they refer to.
    pub(super) gained: Vec<Vec<L1Entry>>,
    /// And those whose entries do so no longer.
    pub(super) lost: Vec<Vec<L1Entry>>,
    /// The place of a table that nobody needs any more, and its bytes.
    pub(super) given_up: Option<(HostOffset, u64)>,
}

/// New tables, durable, and not yet named by the header.
struct Ready {
    next: Next,
    l1_table: HostOffset,
    snapshot_table: HostOffset,
    snapshot_table_len: u64,
    refcount_table: HostOffset,
    refcount_entries: Vec<u64>,
    /// Host clusters that the new state does not use.
    freed: Vec<Range<u64>>,
    /// Clusters that were reserved and not needed.
    spare: Vec<HostOffset>,
}

impl Image {
    /// Makes the image what `next` says, durably. The image is drained.
    ///
    /// # Errors
    /// `Corrupt` when tables that would change are wrong; `InvalidOption` when a count would be
    /// larger than refcounts can be; errors of the file. The image is unchanged then.
    pub(super) async fn switch<E: Surroundings>(&self, env: &E, next: Next) -> Result<()> {
        self.first_write(env).await?;
        // The tables are read from the file.
        self.flush_all(env).await?;
        let mut switch = Switch {
            image: self,
            env,
            deltas: Deltas::new(self.geometry.block_reach()),
            made: Vec::new(),
        };
        match switch.prepare(next).await {
            Ok(ready) => switch.commit(ready).await,
            Err(error) => {
                for (at, len) in switch.made {
                    self.refcounts.free_later(at, len, FreeReason::Other);
                }
                Err(error)
            }
        }
    }

    /// The entries of an L1 table, which must lie in the file.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn read_l1<E: Surroundings>(
        &self,
        env: &E,
        at: HostOffset,
        entries: u32,
    ) -> Result<Vec<L1Entry>> {
        // Bounded by MAX_L1_BYTES and by the file.
        let len = usize::try_from(entries).unwrap_or(0) * 8;
        let bytes = env.file().read_bytes(at.0, len).await?;
        Ok(words_be(&bytes).into_iter().map(L1Entry).collect())
    }

    /// The active L1 table.
    pub(super) fn active_l1(&self) -> Vec<L1Entry> {
        let entries = u64::from(self.header.lock().l1_size);
        (0..entries).map(|index| self.l1.entry(index)).collect()
    }
}

/// A switch under way.
struct Switch<'a, E> {
    image: &'a Image,
    env: &'a E,
    deltas: Deltas,
    /// Clusters that were reserved.
    made: Vec<(HostOffset, u64)>,
}

impl<E: Surroundings> Switch<'_, E> {
    async fn prepare(&mut self, mut next: Next) -> Result<Ready> {
        let image = self.image;
        self.count_references(&next).await?;
        self.copy_tables(&mut next).await?;
        let l1_table = self.write_l1_tables(&mut next).await?;
        let snapshot_table = self.write_snapshot_table(&next).await?;
        let (refcount_table, places) = self.reserve_refcounts().await?;
        // What was reserved is counted durably now, and the old tables change no more.
        image.flush_all(self.env).await?;
        self.release_old_tables(&next).await?;
        let (refcount_entries, freed, used) = self.write_blocks(&places).await?;
        self.write(refcount_table, &bytes_be(&refcount_entries))
            .await?;
        self.env.file().flush().await?;
        let (snapshot_table, snapshot_table_len) = snapshot_table;
        Ok(Ready {
            next,
            l1_table,
            snapshot_table,
            snapshot_table_len,
            refcount_table,
            refcount_entries,
            freed,
            spare: places.get(used..).unwrap_or_default().to_vec(),
        })
    }

    /// Counts what the next state refers to more and less often than the present one.
    async fn count_references(&mut self, next: &Next) -> Result<()> {
        let mut tables: Vec<(HostOffset, i32)> = Vec::new();
        for (lists, weight) in [(&next.gained, 1), (&next.lost, -1)] {
            for (key, &entry) in lists.iter().flat_map(|list| (0..).zip(list)) {
                if let Some(at) = self.image.table_of(entry, key)? {
                    tables.push((at, weight));
                }
            }
        }
        tables.sort_unstable_by_key(|(at, _)| at.0);
        let mut changed: Vec<(HostOffset, i32)> = Vec::new();
        for same in tables.chunk_by(|a, b| a.0 == b.0) {
            let weight: i32 = same.iter().map(|(_, weight)| weight).sum();
            // What is lost and gained alike stays as it is, with all that it refers to.
            if let Some((at, _)) = same.first().filter(|_| weight != 0) {
                changed.push((*at, weight));
            }
        }
        for (at, weight) in changed {
            self.add(self.image.geometry.cluster_of(at), weight)?;
            // Sparse disks have tables of mostly nothing.
            for word in self
                .read_table(at)
                .await?
                .into_iter()
                .step_by(self.image.geometry.l2_entry_words())
                .filter(|&word| word != 0)
            {
                self.count_entry(L2Entry(word), weight)?;
            }
        }
        Ok(())
    }

    fn count_entry(&mut self, entry: L2Entry, weight: i32) -> Result<()> {
        let (at, len) = match self.image.understand(entry)? {
            Cluster::Unallocated(_) | Cluster::Zero(None) => return Ok(()),
            Cluster::Data(host) | Cluster::Zero(Some(host)) => (host.offset, 1),
            Cluster::Compressed(c) => (c.host, c.len),
        };
        let geometry = self.image.geometry;
        let (first, last) = (
            geometry.cluster_of(at),
            geometry.cluster_of(at.plus(len - 1)),
        );
        for cluster in first..=last {
            self.add(cluster, weight)?;
        }
        Ok(())
    }

    fn add(&mut self, cluster: u64, weight: i32) -> Result<()> {
        let added = self.deltas.add(cluster, weight);
        added.ok_or_else(|| self.too_many_references())
    }

    async fn read_table(&self, at: HostOffset) -> Result<Vec<u64>> {
        let len = self.image.geometry.cluster_len();
        let bytes = self.env.file().read_bytes(at.0, len).await?;
        Ok(words_be(&bytes))
    }

    async fn write(&self, at: HostOffset, bytes: &[u8]) -> Result<()> {
        self.env.file().write_bytes(at.0, bytes).await
    }

    /// Copies the active L2 tables whose flags are not those of the next state.
    async fn copy_tables(&mut self, next: &mut Next) -> Result<()> {
        let batch_len = (BATCH_BYTES >> self.image.geometry.cluster_bits).max(1);
        let mut batch: Vec<(usize, Vec<u64>)> = Vec::new();
        for index in 0..next.l1.len() {
            let Some(at) = self.image.table_of(next.l1[index], index as u64)? else {
                continue;
            };
            let mut words = self.read_table(at).await?;
            if self.correct_flags(&mut words).await? {
                batch.push((index, words));
            }
            if batch.len() >= batch_len {
                self.write_tables(next, std::mem::take(&mut batch)).await?;
            }
        }
        self.write_tables(next, batch).await
    }

    /// Makes copied flags right; returns whether any was not.
    async fn correct_flags(&self, words: &mut [u64]) -> Result<bool> {
        let mut changed = false;
        let mut counts = Counts::new(self);
        // A bitmap stays as it is, whoever else refers to the cluster.
        let entries = words
            .iter_mut()
            .step_by(self.image.geometry.l2_entry_words());
        for word in entries.filter(|word| **word != 0) {
            let entry = L2Entry(*word);
            let (Cluster::Data(host) | Cluster::Zero(Some(host))) = self.image.understand(entry)?
            else {
                continue;
            };
            let Host { offset, owned } = host;
            let alone = counts.of(self.image.geometry.cluster_of(offset)).await? == 1;
            if alone != owned {
                *word = entry.with_copied(alone).0;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Writes copies of active tables, next to each other where there is room.
    async fn write_tables(&mut self, next: &mut Next, batch: Vec<(usize, Vec<u64>)>) -> Result<()> {
        let geometry = self.image.geometry;
        // The active L1 table, and that of a snapshot which is just taken.
        let references = if next.taken { 2 } else { 1 };
        let mut rest = batch.as_slice();
        while !rest.is_empty() {
            let first = self.reserve(rest.len() as u64).await?;
            let (at, count) = first;
            let (now, later) = rest.split_at(usize::try_from(count).unwrap_or(rest.len()));
            let bytes: Vec<u8> = now.iter().flat_map(|(_, words)| bytes_be(words)).collect();
            self.write(at, &bytes).await?;
            for ((index, _), n) in now.iter().zip(0..) {
                let new = at.plus(n << geometry.cluster_bits);
                if let Some(old) = next.l1[*index].table() {
                    self.add(geometry.cluster_of(old), -references)?;
                }
                // Reserving counted it once.
                self.add(geometry.cluster_of(new), references - 1)?;
                next.l1[*index] = L1Entry::owned(new);
            }
            rest = later;
        }
        Ok(())
    }

    /// At least one and at most `want` clusters next to each other.
    async fn reserve(&mut self, want: u64) -> Result<(HostOffset, u64)> {
        let reserved = self.image.reserve(self.env, want).await?;
        let (at, count) = (reserved.offset(), reserved.count());
        reserved.commit();
        self.made
            .push((at, count << self.image.geometry.cluster_bits));
        Ok((at, count))
    }

    /// Clusters next to each other for a table of `len` bytes; offset 0 for an empty one.
    async fn reserve_table(&mut self, len: u64) -> Result<HostOffset> {
        if len == 0 {
            return Ok(HostOffset(0));
        }
        let clusters = self.image.geometry.clusters(len);
        let at = self.image.reserve_table(self.env, clusters).await?;
        self.made
            .push((at, clusters << self.image.geometry.cluster_bits));
        Ok(at)
    }

    /// Writes the active L1 table, and that of the snapshot just taken.
    async fn write_l1_tables(&mut self, next: &mut Next) -> Result<HostOffset> {
        let (mut active, mut inactive) = (Vec::new(), Vec::new());
        let mut counts = Counts::new(self);
        for &entry in &next.l1 {
            let alone = match entry.table() {
                Some(at) => counts.of(self.image.geometry.cluster_of(at)).await? == 1,
                None => false,
            };
            active.push(entry.with_copied(alone).0);
            inactive.push(entry.with_copied(false).0);
        }
        drop(counts);
        next.l1 = active.iter().copied().map(L1Entry).collect();
        let len = active.len() as u64 * 8;
        if let Some(snapshot) = next.snapshots.last_mut().filter(|_| next.taken) {
            snapshot.l1_table = self.reserve_table(len).await?;
            // Bounded by MAX_L1_BYTES.
            snapshot.l1_size = u32::try_from(active.len()).unwrap_or(u32::MAX);
            self.write(snapshot.l1_table, &bytes_be(&inactive)).await?;
        }
        let at = self.reserve_table(len).await?;
        self.write(at, &bytes_be(&active)).await?;
        Ok(at)
    }

    async fn write_snapshot_table(&mut self, next: &Next) -> Result<(HostOffset, u64)> {
        let bytes = table_bytes(&next.snapshots).ok_or_else(|| {
            Error::invalid("name", "the snapshot table would be longer than 64 MiB")
        })?;
        let at = self.reserve_table(bytes.len() as u64).await?;
        self.write(at, &bytes).await?;
        Ok((at, bytes.len() as u64))
    }

    /// Reserves a place for the refcount table and one for each block, however few will change.
    async fn reserve_refcounts(&mut self) -> Result<(HostOffset, Vec<HostOffset>)> {
        let mut places = Vec::new();
        let (mut table, mut table_len) = (HostOffset(0), 0);
        loop {
            // Reserving may make blocks, and a longer table.
            let (blocks, len) = self.image.refcount_sizes();
            if places.len() as u64 >= blocks && table_len == len {
                return Ok((table, places));
            }
            if table_len != len {
                table = self.reserve_table(len).await?;
                table_len = len;
            }
            if let Some(missing) = blocks.checked_sub(places.len() as u64).filter(|&n| n > 0) {
                let (at, count) = self.reserve(missing).await?;
                let bits = self.image.geometry.cluster_bits;
                places.extend((0..count).map(|n| at.plus(n << bits)));
            }
        }
    }

    /// Gives up the tables that the new ones take the place of.
    async fn release_old_tables(&mut self, next: &Next) -> Result<()> {
        let (l1, refcounts, snapshots) = {
            let header = self.image.header.lock();
            (
                (header.l1_table, header.l1_bytes()),
                (header.refcount_table, header.refcount_table_bytes()),
                (header.snapshots, self.image.snapshots.lock().table_len),
            )
        };
        let geometry = self.image.geometry;
        for (at, len) in [l1, refcounts, snapshots].into_iter().chain(next.given_up) {
            let first = geometry.cluster_of(at);
            for cluster in first..first + geometry.clusters(len) {
                self.add(cluster, -1)?;
            }
        }
        // A block's old place is counted in a block, which changes by that.
        let mut released = BTreeSet::new();
        loop {
            let blocks = self.deltas.blocks();
            let Some(&index) = blocks.iter().find(|index| !released.contains(*index)) else {
                return Ok(());
            };
            for index in blocks.into_iter().filter(|&b| b >= index) {
                if released.insert(index) {
                    let at = self.image.block_at(index)?;
                    self.add(geometry.cluster_of(at), -1)?;
                }
            }
        }
    }

    /// Writes the blocks that change; returns the new refcount table, the clusters that are free
    /// then, and how many places were used.
    async fn write_blocks(
        &self,
        places: &[HostOffset],
    ) -> Result<(Vec<u64>, Vec<Range<u64>>, usize)> {
        let mut entries = self.image.refcount_table();
        let mut freed = Vec::new();
        let blocks = self.deltas.blocks();
        for (&index, place) in blocks.iter().zip(places) {
            let words = self.changed_block(index, &mut freed).await?;
            self.write(*place, &bytes_be(&words)).await?;
            if let Some(entry) = entries.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
                *entry = place.0;
            }
        }
        Ok((entries, freed, blocks.len()))
    }

    /// A block's words with its changes.
    async fn changed_block(&self, index: u64, freed: &mut Vec<Range<u64>>) -> Result<Vec<u64>> {
        let geometry = self.image.geometry;
        let first = index * geometry.block_reach();
        let at = |cluster| geometry.host_of(cluster).0;
        let Some(block) = self.image.block(self.env, index).await? else {
            return Err(self
                .image
                .error(ImageError::RefcountZero { offset: at(first) }));
        };
        let mut words: Vec<u64> = (0..geometry.entries_len())
            .map(|n| block.entry(n))
            .collect();
        for (cluster, delta) in self.deltas.in_block(index) {
            let (word, shift) = geometry.refcount_place(cluster - first);
            let old = (words[word] >> shift) & geometry.max_refcount();
            if old == 0 {
                let offset = at(cluster);
                return Err(self.image.error(ImageError::RefcountZero { offset }));
            }
            let Some(new) = old.checked_add_signed(i64::from(delta)) else {
                let offset = at(cluster);
                let found = ImageError::RefcountTooLow {
                    offset,
                    refcount: old,
                };
                return Err(self.image.error(found));
            };
            if new > geometry.max_refcount() {
                return Err(self.too_many_references());
            }
            words[word] = words[word] & !(geometry.max_refcount() << shift) | new << shift;
            if new == 0 {
                note_freed(freed, cluster);
            }
        }
        Ok(words)
    }

    fn too_many_references(&self) -> Error {
        let bits = 1u32 << self.image.geometry.refcount_order;
        Error::invalid(
            "refcount_bits",
            format!("a cluster would have more references than {bits} bits can count"),
        )
    }

    /// Lets the header name the new tables, and takes them into memory.
    async fn commit(self, ready: Ready) -> Result<()> {
        let (image, next) = (self.image, ready.next);
        let clusters = image
            .geometry
            .clusters(ready.refcount_entries.len() as u64 * 8);
        let gives_back = image.options.pass_discard_snapshot && !next.lost.is_empty();
        // After an error nobody knows which header the disk has: what either names stays counted.
        image
            .update_header(self.env, |header| {
                header.size = next.size;
                header.l1_table = ready.l1_table;
                // These are bounded by limits far below.
                header.l1_size = u32::try_from(next.l1.len()).unwrap_or(u32::MAX);
                header.refcount_table = ready.refcount_table;
                header.refcount_table_clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
                header.snapshots = ready.snapshot_table;
                header.snapshot_count = u32::try_from(next.snapshots.len()).unwrap_or(u32::MAX);
            })
            .await?;
        image.l2.forget();
        image.l1.replace(&next.l1);
        image.adopt_refcounts(ready.refcount_entries);
        {
            let mut snapshots = image.snapshots.lock();
            snapshots.entries = next.snapshots;
            snapshots.table_len = ready.snapshot_table_len;
        }
        image.set_size(next.size);
        image.trust_copied();
        if let Err(error) = image.note_places(self.env).await {
            // The switch is done all the same.
            tracing::warn!(node = image.node, error = %error.chain(), "places are not known");
        }
        for run in ready.freed.into_iter().filter(|_| gives_back) {
            let (start, end) = (
                image.geometry.host_of(run.start),
                image.geometry.host_of(run.end),
            );
            // The file may decline; the clusters are free all the same.
            let _ = self.env.file().discard(start.0..end.0).await;
        }
        for at in ready.spare {
            let len = image.geometry.cluster_size();
            image.refcounts.free_later(at, len, FreeReason::Other);
        }
        Ok(())
    }
}

fn note_freed(freed: &mut Vec<Range<u64>>, cluster: u64) {
    let room = freed.len() < MAX_FREED_RUNS;
    match freed.last_mut() {
        Some(run) if run.end == cluster => run.end += 1,
        Some(_) | None if room => freed.push(cluster..cluster + 1),
        Some(_) | None => {}
    }
}

/// Counts of the next state, of clusters that mostly lie near each other.
struct Counts<'a, 'b, E> {
    switch: &'a Switch<'b, E>,
    block: Option<(u64, Option<Pinned<'a>>)>,
}

impl<'a, 'b, E: Surroundings> Counts<'a, 'b, E> {
    fn new(switch: &'a Switch<'b, E>) -> Self {
        Counts {
            switch,
            block: None,
        }
    }

    async fn of(&mut self, cluster: u64) -> Result<i64> {
        let image = self.switch.image;
        let index = cluster / image.geometry.block_reach();
        if self.block.as_ref().is_none_or(|(held, _)| *held != index) {
            // One pinned block at a time.
            self.block = None;
            self.block = Some((index, image.block(self.switch.env, index).await?));
        }
        let old = match &self.block {
            Some((_, Some(block))) => image.refcounts.count(block, cluster),
            Some((_, None)) | None => 0,
        };
        let delta = self.switch.deltas.of(cluster);
        Ok(i64::try_from(old)
            .unwrap_or(i64::MAX)
            .saturating_add(i64::from(delta)))
    }
}

/// Clusters of a page.
const PAGE: u64 = 4096;
/// As [`PAGE`], for memory.
const PAGE_LEN: usize = 4096;

/// Changes of counts, in pages of clusters.
struct Deltas {
    pages: BTreeMap<u64, Page>,
    reach: u64,
}

enum Page {
    /// Changes that fit into a byte, as nearly all do.
    Narrow(Box<[i8]>),
    Wide(Box<[i32]>),
}

impl Page {
    fn of(&self, place: usize) -> i32 {
        match self {
            Page::Narrow(deltas) => i32::from(deltas[place]),
            Page::Wide(deltas) => deltas[place],
        }
    }

    fn set(&mut self, place: usize, delta: i32) {
        if let (Page::Narrow(narrow), Err(_)) = (&*self, i8::try_from(delta)) {
            *self = Page::Wide(narrow.iter().map(|&d| i32::from(d)).collect());
        }
        match self {
            Page::Narrow(deltas) => deltas[place] = i8::try_from(delta).unwrap_or(0),
            Page::Wide(deltas) => deltas[place] = delta,
        }
    }
}

impl Deltas {
    fn new(reach: u64) -> Deltas {
        Deltas {
            pages: BTreeMap::new(),
            reach,
        }
    }

    /// Adds to a cluster's change; `None` when that leaves all bounds.
    fn add(&mut self, cluster: u64, weight: i32) -> Option<()> {
        if weight == 0 {
            return Some(());
        }
        let page = self.pages.entry(cluster / PAGE);
        let page = page.or_insert_with(|| Page::Narrow(vec![0; PAGE_LEN].into()));
        let new = page.of(place(cluster)).checked_add(weight)?;
        if new.abs() > MAX_DELTA {
            return None;
        }
        page.set(place(cluster), new);
        Some(())
    }

    fn of(&self, cluster: u64) -> i32 {
        let page = self.pages.get(&(cluster / PAGE));
        page.map_or(0, |page| page.of(place(cluster)))
    }

    /// The refcount blocks that change, in order.
    fn blocks(&self) -> Vec<u64> {
        let mut blocks = Vec::new();
        for (number, page) in &self.pages {
            for n in (0..PAGE).filter(|&n| page.of(place(n)) != 0) {
                let block = (number * PAGE + n) / self.reach;
                if blocks.last() != Some(&block) {
                    blocks.push(block);
                }
            }
        }
        blocks
    }

    /// The clusters of a block that change, in order.
    fn in_block(&self, index: u64) -> impl Iterator<Item = (u64, i32)> {
        let clusters = index * self.reach..(index + 1) * self.reach;
        let pages = clusters.start / PAGE..clusters.end.div_ceil(PAGE);
        self.pages.range(pages).flat_map(move |(number, page)| {
            let first = number * PAGE;
            let here = clusters.start.max(first)..clusters.end.min(first + PAGE);
            here.map(|cluster| (cluster, page.of(place(cluster))))
                .filter(|(_, delta)| *delta != 0)
        })
    }
}

/// A cluster's place in its page.
fn place(cluster: u64) -> usize {
    usize::try_from(cluster % PAGE).unwrap_or(0)
}
