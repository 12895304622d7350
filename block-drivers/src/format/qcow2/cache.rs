//! What is in memory, and what must be durable before what.
//! Called by everything that needs a table, and by flush. The order is argued in README.md,
//! "Write order and crashes"; this is its only implementation.
//! Invariant: one flush at a time; it takes its copies in the order freed clusters, L1 entries, L2
//! tables, refcounts, so that each copy's dependencies are in a copy taken later.
//! Not here: choosing clusters (`alloc.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use block_core::Result;
use block_core::sync::AsyncMutex;
use block_schema::types::BlkdebugEvent;
use parking_lot::Mutex;

use super::error::ImageError;
use super::image::Image;
use super::layout::{L1Entry, L2Entry};
use super::lazy::Counts;
use super::map::Cluster;
use super::overlap::Structure;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};
use crate::kit::table_cache::{Acquire, Loading, Needs, Pinned, TableCache, Writeback};

/// Flushes that closing an image takes at most; what is left then is a leak.
const CLOSING_FLUSHES: usize = 4;

/// What a flush has to do beyond the dirty tables in the caches.
#[derive(Default)]
pub(super) struct Dirty {
    /// L1 entries that differ from the disk.
    l1: Mutex<BTreeMap<u64, L1Entry>>,
    /// Held by the one flush, and by what must not meet one.
    pub(super) exclusive: AsyncMutex,
    started: AtomicU64,
    succeeded: AtomicU64,
    /// The last one that wrote counts, too.
    succeeded_with_counts: AtomicU64,
}

impl Image {
    /// The L2 table of an L1 entry, loaded if need be; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` when the L1 entry is wrong; errors of the file.
    pub(super) async fn table<E: Surroundings>(
        &self,
        env: &E,
        key: u64,
    ) -> Result<Option<Pinned<'_>>> {
        // An entry never goes back to 0 while requests run.
        if self.l1.entry(key).0 == 0 {
            return Ok(None);
        }
        match self.acquire_l2(env, key).await? {
            Ok(table) => Ok(Some(table)),
            Err(loading) => self.load_l2(env, key, loading).await.map(Some),
        }
    }

    /// Pins an L2 table that is in memory, or takes a slot for it.
    pub(super) async fn acquire_l2<E: Surroundings>(
        &self,
        env: &E,
        key: u64,
    ) -> Result<std::result::Result<Pinned<'_>, Loading<'_>>> {
        self.acquire(env, &self.l2, key).await
    }

    /// As [`acquire_l2`](Self::acquire_l2), for either cache: writes tables back when all are dirty.
    pub(super) async fn acquire<'a, E: Surroundings>(
        &self,
        env: &E,
        cache: &'a TableCache,
        key: u64,
    ) -> Result<std::result::Result<Pinned<'a>, Loading<'a>>> {
        loop {
            let acquired = cache.acquire(key);
            env.begin_rounds(&self.rounds);
            match acquired {
                Acquire::Ready(table) => return Ok(Ok(table)),
                Acquire::Load(slot) => return Ok(Err(slot)),
                Acquire::Wait => cache.loaded(key).await,
                Acquire::Full => {
                    if cache.dirty().0 > 0 {
                        self.flush(env).await?;
                    }
                    cache.slot_free().await;
                }
            }
        }
    }

    async fn load_l2<'a, E: Surroundings>(
        &'a self,
        env: &E,
        key: u64,
        slot: Loading<'a>,
    ) -> Result<Pinned<'a>> {
        let at = self.l2_place(key).map_err(|e| self.error(e))?;
        env.file().event(BlkdebugEvent::L2Load);
        let bytes = env
            .file()
            .read_bytes(at.0, self.geometry.cluster_len())
            .await?;
        let mut words = words_be(&bytes);
        if !self.trusts_copied() && self.options.writable && !self.has_data_file() {
            self.correct_copied(env, &mut words).await?;
        }
        self.look_for_overlaps(&words);
        Ok(slot.fill(&words))
    }

    /// Where an L1 entry's table is.
    pub(super) fn l2_place(&self, key: u64) -> std::result::Result<HostOffset, ImageError> {
        self.check_l1_entry(self.l1.entry(key), key)
    }

    /// Where the table of an L1 entry is, of any L1 table; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` when the entry is wrong.
    pub(super) fn table_of(&self, entry: L1Entry, key: u64) -> Result<Option<HostOffset>> {
        if entry.0 == 0 {
            return Ok(None);
        }
        let at = self.check_l1_entry(entry, key).map_err(|e| self.error(e))?;
        Ok(Some(at))
    }

    fn check_l1_entry(
        &self,
        entry: L1Entry,
        key: u64,
    ) -> std::result::Result<HostOffset, ImageError> {
        let wrong = |what| ImageError::Entry {
            table: "L1",
            entry: entry.0,
            guest: key.saturating_mul(self.geometry.l2_reach()),
            what,
        };
        if entry.reserved() != 0 {
            return Err(wrong("reserved bits set"));
        }
        let at = entry.table().ok_or_else(|| wrong("no offset"))?;
        self.check_table_place(at).map_err(wrong)?;
        Ok(at)
    }

    /// Makes copied flags say what refcounts say: in an image with snapshots, a flag may be older
    /// than a snapshot that shares its cluster.
    async fn correct_copied<E: Surroundings>(&self, env: &E, words: &mut [u64]) -> Result<()> {
        for word in words.iter_mut().step_by(self.geometry.l2_entry_words()) {
            let entry = L2Entry(*word);
            // Wrong entries stay as they are, and are errors for those who need them.
            if let Ok(Cluster::Data(host) | Cluster::Zero(Some(host))) = self.classify(entry) {
                let count = self
                    .refcount(env, self.geometry.cluster_of(host.offset))
                    .await?;
                *word = entry.with_copied(count == 1).0;
            }
        }
        Ok(())
    }

    /// Points an L1 entry at a table that `make` puts into memory, dirty as a whole.
    ///
    /// The entry stands in memory before the table is dirty, since a flush looks there for the
    /// table's place; it counts as changed only after, so no flush takes the entry alone.
    pub(super) fn set_l1<T>(&self, key: u64, at: HostOffset, make: impl FnOnce() -> T) -> T {
        let entry = L1Entry::owned(at);
        self.note_place(Structure::ActiveL2, at);
        self.l1.set(key, entry);
        let made = make();
        self.dirty.l1.lock().insert(key, entry);
        made
    }

    /// Changes an L1 entry's flags.
    pub(super) fn set_l1_entry(&self, key: u64, entry: L1Entry) {
        self.l1.set(key, entry);
        self.dirty.l1.lock().insert(key, entry);
    }

    /// Writes tables back when so many are dirty that loads would soon wait for a flush.
    pub(super) async fn limit_dirty<E: Surroundings>(&self, env: &E) -> Result<()> {
        let crowded = |(dirty, all): (usize, usize)| dirty > all / 2;
        if crowded(self.l2.dirty()) || crowded(self.refcounts.blocks.dirty()) {
            self.flush(env).await?;
        }
        Ok(())
    }

    /// Makes everything durable that completed before the call.
    ///
    /// # Errors
    /// Errors of the file; what is dirty stays dirty.
    pub(super) async fn flush<E: Surroundings>(&self, env: &E) -> Result<()> {
        self.flush_with(env, Counts::Now).await
    }

    /// As [`flush`](Self::flush), for a guest, whom counts do not concern: where refcounts are lazy,
    /// they wait.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub(super) async fn flush_guest<E: Surroundings>(&self, env: &E) -> Result<()> {
        self.flush_with(env, Counts::Late).await
    }

    async fn flush_with<E: Surroundings>(&self, env: &E, counts: Counts) -> Result<()> {
        let arrived = self.dirty.started.load(Ordering::Acquire);
        let _one = self.dirty.exclusive.lock().await;
        let succeeded = match counts {
            Counts::Now => &self.dirty.succeeded_with_counts,
            Counts::Late => &self.dirty.succeeded,
        };
        if succeeded.load(Ordering::Acquire) > arrived {
            // A flush that began after this call was made has done its work.
            return Ok(());
        }
        let number = self.dirty.started.fetch_add(1, Ordering::AcqRel) + 1;
        self.write_back(env, counts).await?;
        self.dirty.succeeded.store(number, Ordering::Release);
        if counts == Counts::Now {
            let with_counts = &self.dirty.succeeded_with_counts;
            with_counts.store(number, Ordering::Release);
        }
        Ok(())
    }

    /// Flushes until nothing is dirty, not even counts that only fall: what a close leaves.
    pub(super) async fn flush_all<E: Surroundings>(&self, env: &E) -> Result<()> {
        // A flush frees what waited for it, and the next one writes those counts.
        for _ in 0..CLOSING_FLUSHES {
            self.flush(env).await?;
            if self.refcounts.blocks.dirty().0 == 0 && !self.refcounts.has_freed() {
                break;
            }
        }
        self.mark_clean(env).await
    }

    /// Drops tables that nobody used since the last call. Whether the next call may find more.
    pub(super) fn drop_unused(&self) -> bool {
        let blocks = self.refcounts.blocks.drop_unused();
        self.l2.drop_unused() || blocks
    }

    /// Leaves the image as others expect to find it.
    pub(super) async fn close<E: Surroundings>(&self, env: &E) -> Result<()> {
        self.fill_last_sector(env).await?;
        self.flush_all(env).await?;
        self.give_ahead_back(env).await
    }

    async fn write_back<E: Surroundings>(&self, env: &E, counts: Counts) -> Result<()> {
        let freed = self.refcounts.take_freed();
        // Whoever comes later finds what replaced these.
        let readers = env.readers();
        let l1 = std::mem::take(&mut *self.dirty.l1.lock());
        let l2 = self.l2.take_dirty();
        let result = self.write_copies(env, &l1, &l2, counts).await;
        for copy in &l2 {
            match &result {
                Ok(()) => self.l2.written(copy),
                Err(_) => self.l2.failed(copy),
            }
        }
        if result.is_err() {
            let mut dirty = self.dirty.l1.lock();
            for (key, entry) in l1 {
                // What was set meanwhile is newer.
                dirty.entry(key).or_insert(entry);
            }
            drop(dirty);
            self.refcounts.put_back(freed);
            return result;
        }
        // Tables without changes may leave memory.
        env.begin_rounds(&self.rounds);
        self.refcounts.settle(readers, freed);
        let settled = self.refcounts.take_settled();
        self.apply_freed(env, settled).await;
        Ok(())
    }

    /// The order of everything that this image writes.
    async fn write_copies<E: Surroundings>(
        &self,
        env: &E,
        l1: &BTreeMap<u64, L1Entry>,
        l2: &[Writeback],
        counts: Counts,
    ) -> Result<()> {
        let file = env.file();
        file.event(BlkdebugEvent::FlushToOs);
        if !self.leaves_counts(env, counts).await? {
            self.write_refcounts(env).await?;
        }
        if let Some(data) = env.data() {
            // Data before the entries that expose it; nothing counts its clusters.
            data.flush().await?;
        } else if l2.iter().any(|copy| copy.needs == Needs::Data) {
            // Data and refcounts before the entries that expose them.
            file.flush().await?;
        }
        for copy in l2 {
            let at = self.l2_place(copy.key).map_err(|e| self.error(e))?;
            file.event(match l1.contains_key(&copy.key) {
                true => BlkdebugEvent::L2AllocWrite,
                false => BlkdebugEvent::L2Update,
            });
            write_copy(file, at, copy).await?;
        }
        if !l1.is_empty() {
            // New tables before the L1 entries that expose them.
            file.flush().await?;
            let table = self.header.lock().l1_table;
            for (first, words) in joined(l1) {
                file.event(BlkdebugEvent::L1Update);
                file.write_bytes(table.0 + first * 8, &bytes_be(&words))
                    .await?;
            }
        }
        file.event(BlkdebugEvent::FlushToDisk);
        file.flush().await
    }
}

/// Writes a copy to its table at `at`.
pub(super) async fn write_copy<F: ImageFile>(
    file: &F,
    at: HostOffset,
    copy: &Writeback,
) -> Result<()> {
    file.write_bytes(at.0 + copy.range.start as u64 * 8, &bytes_be(&copy.words))
        .await
}

/// Entries next to each other as one write. Others of the table are not written with them: in
/// memory they may be ahead of what may be on disk.
fn joined(entries: &BTreeMap<u64, L1Entry>) -> Vec<(u64, Vec<u64>)> {
    let mut runs: Vec<(u64, Vec<u64>)> = Vec::new();
    for (&key, entry) in entries {
        match runs.last_mut() {
            Some((first, words)) if *first + words.len() as u64 == key => words.push(entry.0),
            _ => runs.push((key, vec![entry.0])),
        }
    }
    runs
}
