//! Writing guest data: in place where the image owns the cluster, else into new clusters with the
//! bytes around the write copied along.
//! Called by the driver with a claim on all clusters that the range touches, so that nobody else
//! changes their entries or writes them; other clusters are written at the same time.
//! Invariant: an entry in memory names a cluster only when all its bytes have been written, and
//! whoever fails before that gives the cluster back.
//! Spec: qcow2 "Host cluster management", "Cluster mapping". Not here: when entries reach the disk.

use std::ops::Range;

use block_core::{IoBuf, Result};
use block_schema::types::BlkdebugEvent;

use super::counts::{FreeReason, Reservation};
use super::image::Image;
use super::layout::{FullEntry, L1Entry, L2Entry};
use super::map::{Cluster, Host, Run};
use super::read::{slice, usize_of};
use super::subclusters::Target;
use crate::kit::addr::{GuestOffset, HostOffset};
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::table_cache::{Needs, Pinned};

/// Where new data goes.
enum Place<'a> {
    /// Clusters reserved for it.
    New(Reservation<'a>),
    /// Clusters that were kept for it behind a zero flag, for some of their subclusters, or in a data
    /// file.
    Kept(HostOffset),
}

impl Place<'_> {
    fn offset(&self) -> HostOffset {
        match self {
            Place::New(reserved) => reserved.offset(),
            Place::Kept(at) => *at,
        }
    }

    fn is_fresh(&self) -> bool {
        match self {
            Place::New(reserved) => reserved.is_fresh(),
            Place::Kept(_) => false,
        }
    }

    fn target(&self) -> Target {
        match self {
            Place::New(_) => Target::Moved,
            Place::Kept(_) => Target::InPlace,
        }
    }
}

impl Image {
    /// Writes `buf` at `offset`. The caller holds a claim on the clusters.
    ///
    /// # Errors
    /// `Corrupt` when an entry is wrong, `NOSPC`, errors of the files; then clusters up to the error
    /// hold the new data, and the others the old.
    pub(super) async fn write<E: Surroundings>(
        &self,
        env: &E,
        offset: u64,
        buf: IoBuf,
    ) -> Result<()> {
        self.first_write(env).await?;
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let (key, part) = self.one_table(&(at..end));
            let table = self.owned_table(env, key).await?;
            let run = self
                .first_run(&table, part.clone())
                .map_err(|e| self.error(e))?;
            let written = match run.cluster {
                Cluster::Data(host) if host.owned => {
                    let place = host.offset.plus(run.skip);
                    let data = slice(&buf, at - offset, run.len);
                    env.file().event(BlkdebugEvent::WriteAio);
                    self.write_data(env, GuestOffset(at), place, data).await?;
                    run.len
                }
                Cluster::Zero(Some(host)) | Cluster::Unallocated(Some(host)) if host.owned => {
                    let len = self.kept_len(&table, run, host, part);
                    let data = slice(&buf, at - offset, len);
                    self.write_clusters(env, &table, at, data, Place::Kept(host.offset))
                        .await?;
                    len
                }
                Cluster::Unallocated(_)
                | Cluster::Zero(_)
                | Cluster::Data(_)
                | Cluster::Compressed(_)
                    if self.has_data_file() =>
                {
                    // The one place that the data file has for it.
                    let len = self.unowned_len(&table, run, part);
                    let data = slice(&buf, at - offset, len);
                    let place = HostOffset(self.geometry.floor(at));
                    self.write_clusters(env, &table, at, data, Place::Kept(place))
                        .await?;
                    len
                }
                Cluster::Unallocated(_)
                | Cluster::Zero(_)
                | Cluster::Data(_)
                | Cluster::Compressed(_) => {
                    let len = self.unowned_len(&table, run, part);
                    let clusters = self.geometry.clusters(run.skip + len);
                    let reserved = self.reserve(env, clusters).await?;
                    self.store_ahead(env, reserved.end()).await;
                    let fits = (reserved.count() << self.geometry.cluster_bits) - run.skip;
                    let len = len.min(fits);
                    let data = slice(&buf, at - offset, len);
                    self.write_clusters(env, &table, at, data, Place::New(reserved))
                        .await?;
                    len
                }
            };
            at += written;
            drop(table);
            self.limit_dirty(env).await?;
        }
        Ok(())
    }

    /// How far the range goes on needing new clusters, whatever the kind of each.
    fn unowned_len(&self, table: &Pinned<'_>, first: Run, part: Range<u64>) -> u64 {
        let mut end = part.start + first.len;
        while end < part.end {
            match self.first_run(table, end..part.end) {
                Ok(Run {
                    cluster:
                        Cluster::Data(h) | Cluster::Zero(Some(h)) | Cluster::Unallocated(Some(h)),
                    ..
                }) if h.owned => break,
                Ok(run) => end += run.len,
                // The error is for the one who gets there.
                Err(_) => break,
            }
        }
        end - part.start
    }

    /// How far a run in clusters of our own goes on, whatever the kind of each subcluster.
    fn kept_len(&self, table: &Pinned<'_>, first: Run, host: Host, part: Range<u64>) -> u64 {
        let mut end = part.start + first.len;
        while self.geometry.is_extended() && end < part.end {
            let next = host.offset.plus(first.skip + (end - part.start));
            match self.first_run(table, end..part.end) {
                Ok(Run {
                    cluster:
                        Cluster::Data(h) | Cluster::Zero(Some(h)) | Cluster::Unallocated(Some(h)),
                    len,
                    skip,
                }) if h.owned && h.offset.plus(skip) == next => end += len,
                Ok(_) | Err(_) => break,
            }
        }
        end - part.start
    }

    /// Fills the clusters that `data` touches, with what was around it, then points entries there.
    async fn write_clusters<E: Surroundings>(
        &self,
        env: &E,
        table: &Pinned<'_>,
        at: u64,
        data: IoBuf,
        place: Place<'_>,
    ) -> Result<()> {
        let written = at..at + data.len() as u64;
        let mut start = at;
        let mut whole = IoBuf::empty();
        let (mut tail, mut apart) = (IoBuf::empty(), Vec::new());
        for part in self.copied_parts(table, &written, &place) {
            let Some(bytes) = self.around(env, table, part.clone(), &place).await? else {
                continue;
            };
            // What lies next to the data is written with it.
            if part.end == written.start {
                start = part.start;
                whole = bytes;
            } else if part.start == written.end {
                tail = bytes;
            } else {
                apart.push((part.start, bytes));
            }
        }
        whole.append(data);
        whole.append(tail);
        let first = self.geometry.floor(at);
        let host = |guest: u64| place.offset().plus(guest - first);
        env.file().event(BlkdebugEvent::WriteAio);
        self.write_data(env, GuestOffset(start), host(start), whole)
            .await?;
        for (guest, bytes) in apart {
            env.file().event(BlkdebugEvent::CowWrite);
            self.write_data(env, GuestOffset(guest), host(guest), bytes)
                .await?;
        }
        self.expose(table, &written, place);
        Ok(())
    }

    /// What must be copied for a write of `written`: of its first and its last cluster what is not
    /// written, or of that what lies in subclusters that come to be stored.
    fn copied_parts(
        &self,
        table: &Pinned<'_>,
        written: &Range<u64>,
        place: &Place<'_>,
    ) -> Vec<Range<u64>> {
        let geometry = self.geometry;
        let before = geometry.floor(written.start)..written.start;
        let behind = written.end..self.data_end(geometry.ceil(written.end));
        let parts = [before, behind].into_iter().filter(|part| !part.is_empty());
        if !geometry.is_extended() {
            return parts.collect();
        }
        let filled = |part: Range<u64>| {
            let cluster = geometry.floor(part.start);
            let old = self.entry_at(table, geometry.l2_index(GuestOffset(cluster)));
            let filling = self.filling(old, cluster, written, place.target());
            self.filled_parts(filling, cluster, part)
        };
        parts.flat_map(filled).collect()
    }

    /// The old bytes of a part of one cluster; `None` where the new cluster reads as those already.
    async fn around<E: Surroundings>(
        &self,
        env: &E,
        table: &Pinned<'_>,
        part: Range<u64>,
        place: &Place<'_>,
    ) -> Result<Option<IoBuf>> {
        let len = usize_of(part.end - part.start);
        let run = self
            .first_run(table, part.clone())
            .map_err(|e| self.error(e))?;
        let zero = match run.cluster {
            Cluster::Zero(_) => true,
            Cluster::Unallocated(_) => env.backing().is_none_or(|b| b.len() <= part.start),
            Cluster::Data(_) | Cluster::Compressed(_) => false,
        };
        if zero && run.len == part.end - part.start {
            // Zero bytes of a file are no zeroes once they are decrypted.
            let needed = !place.is_fresh() || self.is_encrypted();
            return Ok(needed.then(|| IoBuf::zeroed(len)));
        }
        let buf = IoBuf::zeroed(len);
        env.file().event(BlkdebugEvent::CowRead);
        self.read(env, part.start, buf.clone()).await?;
        Ok(Some(buf))
    }

    /// Points entries at clusters whose bytes are written, and gives up what they pointed at.
    fn expose(&self, table: &Pinned<'_>, written: &Range<u64>, place: Place<'_>) {
        let geometry = self.geometry;
        let start = geometry.floor(written.start);
        let index = geometry.l2_index(GuestOffset(start));
        let (target, at) = (place.target(), place.offset());
        let clusters = geometry.clusters(written.end - start);
        let old: Vec<FullEntry> = (0..usize_of(clusters))
            .map(|n| self.entry_at(table, index + n))
            .collect();
        let new = old.iter().zip(0..).map(|(old, n)| {
            let skip = n << geometry.cluster_bits;
            let entry = L2Entry::owned(at.plus(skip));
            if !geometry.is_extended() {
                return self.full_entry(entry);
            }
            let bitmap = self.filling(*old, start + skip, written, target).bitmap;
            FullEntry { entry, bitmap }
        });
        self.set_entries(table, index, new, Needs::Data);
        match place {
            Place::New(reserved) => {
                // More may have been reserved than the run of old clusters took.
                reserved.commit();
                for old in old {
                    self.give_up(old.entry, FreeReason::Other);
                }
            }
            Place::Kept(_) => {}
        }
    }

    /// Gives up what an entry pointed at, after it was replaced in memory.
    pub(super) fn give_up(&self, old: L2Entry, reason: FreeReason) {
        if self.has_data_file() {
            // Nobody counts its clusters.
            return;
        }
        match self.classify(old) {
            Ok(Cluster::Data(host) | Cluster::Zero(Some(host))) => {
                self.refcounts
                    .free_later(host.offset, self.geometry.cluster_size(), reason);
            }
            Ok(Cluster::Compressed(c)) => self.refcounts.free_compressed_later(c, reason),
            // A wrong entry is replaced, and what it pointed at left alone.
            Ok(Cluster::Unallocated(_) | Cluster::Zero(None)) | Err(_) => {}
        }
    }

    /// The L2 table of an L1 entry, for changing it: made if there is none, copied if it is shared.
    ///
    /// # Errors
    /// `Corrupt` when the L1 entry is wrong; `NOSPC`; errors of the file.
    pub(super) async fn owned_table<E: Surroundings>(
        &self,
        env: &E,
        key: u64,
    ) -> Result<Pinned<'_>> {
        loop {
            let entry = self.l1.entry(key);
            if entry.0 == 0 {
                if let Some(table) = self.new_table(env, key).await? {
                    return Ok(table);
                }
                continue;
            }
            let Some(table) = self.table(env, key).await? else {
                continue;
            };
            if self.owns_table(env, key, entry).await? {
                self.refuse_shared(key, entry)?;
                return Ok(table);
            }
            let _one = self.copying.lock().await;
            if self.l1.entry(key) == entry {
                return self.copy_table(env, key, entry, table).await;
            }
        }
    }

    /// Whether this image alone refers to an L2 table.
    async fn owns_table<E: Surroundings>(&self, env: &E, key: u64, entry: L1Entry) -> Result<bool> {
        if self.trusts_copied() {
            return Ok(entry.is_copied());
        }
        let at = self.l2_place(key).map_err(|e| self.error(e))?;
        Ok(self.refcount(env, self.geometry.cluster_of(at)).await? == 1)
    }

    /// Makes an L2 table of unallocated clusters; `None` when somebody else was faster.
    async fn new_table<E: Surroundings>(&self, env: &E, key: u64) -> Result<Option<Pinned<'_>>> {
        let slot = match self.acquire_l2(env, key).await? {
            Err(slot) => slot,
            // Somebody made it, and its L1 entry is about to be set or just was.
            Ok(_) => return Ok(None),
        };
        if self.l1.entry(key).0 != 0 {
            // Made, written and evicted meanwhile: dropping the slot lets the next look load it.
            return Ok(None);
        }
        let at = self.reserve_table(env, 1).await?;
        Ok(Some(self.set_l1(key, at, || {
            let table = slot.fill(&[]);
            table.mark_all(Needs::Nothing);
            table
        })))
    }

    /// Moves a shared L2 table's entries into a table of our own.
    async fn copy_table<'a, E: Surroundings>(
        &'a self,
        env: &E,
        key: u64,
        shared: L1Entry,
        table: Pinned<'a>,
    ) -> Result<Pinned<'a>> {
        let at = self.reserve_table(env, 1).await?;
        self.set_l1(key, at, || table.mark_all(Needs::Nothing));
        if let Some(old) = shared.table() {
            self.leave_shared(old);
            self.refcounts
                .free_later(old, self.geometry.cluster_size(), FreeReason::Other);
        }
        Ok(table)
    }
}
