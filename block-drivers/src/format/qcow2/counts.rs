//! Refcounts in memory: who has which host cluster.
//! Called by `alloc` and `growth`, which bring blocks here, and by `pack`.
//! Invariants: a cluster has one owner from the moment it is found free; a count falls, and its cluster
//! can be found again, only after the removal of what pointed there is durable and those who may have
//! looked there before have left; of a cluster that will be a hole nobody gets a part any more. Each is
//! one step under `state`: the tests of interleavings run this file over a model checker's types.
//! Spec: qcow2 "Host cluster management". Not here: the file (`alloc.rs`).

use std::collections::BTreeSet;
use std::ops::Range;

use block_core::atomic::{AtomicU64, Mutex, Ordering};
use block_core::layer::Readers;
use block_core::sync::AsyncMutex;

use super::geometry::Geometry;
use crate::kit::addr::HostOffset;
use crate::kit::table_cache::{Needs, Pinned, TableCache};

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
    pub(super) cursor: u64,
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
    pub(super) cluster: u64,
    reason: FreeReason,
}

/// Why a cluster is freed: what the schema's `pass-discard-*` options distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreeReason {
    /// A guest discarded it.
    Request,
    /// The disk no longer reaches so far.
    Shrink,
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
    pub(super) fn assign(&self, block: &Pinned<'_>, cluster: u64, new: impl FnOnce(u64) -> u64) {
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
    pub(super) fn find(
        &self,
        block: &Pinned<'_>,
        range: Range<u64>,
        want: u64,
    ) -> Option<Range<u64>> {
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
    pub(super) fn take<'a>(&'a self, block: &Pinned<'a>, run: Range<u64>) -> Reservation<'a> {
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

    /// Takes the first free clusters of a block from `cursor` on, at most `want`; `None` when it has none.
    ///
    /// # Errors
    /// What `check` says of them; they stay free.
    pub(super) fn take_in<'a, E>(
        &'a self,
        block: &Pinned<'a>,
        index: u64,
        want: u64,
        check: impl FnOnce(Range<u64>) -> Result<(), E>,
    ) -> Result<Option<Reservation<'a>>, E> {
        let reach = self.geometry.block_reach();
        let mut state = self.state.lock();
        let here = index * reach..(index + 1) * reach;
        let from = state.cursor.max(here.start);
        if let Some(run) = self.find(block, from..here.end, want) {
            // Nothing before the run is free if the cursor was in this block or before it.
            if state.cursor >= here.start {
                state.cursor = run.end;
            }
            check(run.clone())?;
            return Ok(Some(self.take(block, run)));
        }
        if here.contains(&state.cursor) {
            state.cursor = here.end;
        }
        Ok(None)
    }

    /// Counts one more reference to the open host cluster, in which compressed clusters lie, and moves
    /// the open place to `next`; false when it is not open at `at` any more, or its count is as high as
    /// it can be.
    pub(super) fn raise_open(
        &self,
        block: &Pinned<'_>,
        at: HostOffset,
        next: Option<HostOffset>,
    ) -> bool {
        let cluster = self.geometry.cluster_of(at);
        let mut state = self.state.lock();
        let count = self.count(block, cluster);
        if state.open != Some(at) || count >= self.geometry.max_refcount() {
            return false;
        }
        self.set_count(block, cluster, count + 1);
        state.open = next;
        true
    }

    /// Runs of clusters that nobody will refer to, of those that may be holes for their reason. `freed`
    /// is sorted, and all in `block`.
    pub(super) fn unused_runs(
        &self,
        block: &Pinned<'_>,
        freed: &[Freed],
        pass: impl Fn(FreeReason) -> bool,
    ) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut state = self.state.lock();
        for same in freed.chunk_by(|a, b| a.cluster == b.cluster) {
            let Some(Freed { cluster, reason }) = same.first().copied() else {
                continue;
            };
            if !pass(reason) || self.count(block, cluster) != same.len() as u64 {
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

    /// Lowers counts, for each time that a cluster was given up. `freed` is sorted, and all in `block`.
    pub(super) fn lower(&self, block: &Pinned<'_>, freed: &[Freed]) {
        for same in freed.chunk_by(|a, b| a.cluster == b.cluster) {
            let given_up = same.len() as u64;
            let cluster = same.first().map_or(0, |f| f.cluster);
            self.assign(block, cluster, |count| count.saturating_sub(given_up));
        }
    }
}

/// A place in a table that was checked against the table's length, or is about to be.
pub(super) fn index_of(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
