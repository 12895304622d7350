//! Check: does every cluster have as many references as its refcount says, and do flags agree?
//! Called by the driver, drained, and at open when the image is marked dirty.
//! Where nothing is to be repaired, each table is read once, for its references and its flags.
//! Memory is bounded: references are counted for one window of host clusters at a time, and the
//! tables are walked again for each window that holds anything. What is found is worded as
//! `qemu-img check` words it, since its readers match on that.
//! Not repaired: entries that point where nothing can be.
//! Spec: qcow2 "Host cluster management", "Cluster mapping", "Snapshots", "Bitmaps".

use std::ops::Range;

use block_core::driver::{CheckReport, ClusterCounts, Repair};
use block_core::{AlignedBuf, Result};

use super::check_meter::Work;
use super::error::ImageError;
use super::header::{Encryption, MAX_L1_BYTES};
use super::image::Image;
use super::layout::{FullEntry, L1Entry, L2Entry, RefcountTableEntry, SubclusterBitmap};
use super::map::Cluster;
use super::repair::{Compared, Pass};
use super::stored_counts::StoredCounts;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};

/// Lines that a report holds at most.
const MAX_MESSAGES: usize = 10_000;

/// What a walk counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Everything that the image refers to.
    All,
    /// All but refcount table and blocks, which are to be written anew.
    WithoutRefcounts,
}

/// What a walk finds out of the active tables besides their references.
pub(super) struct Active<'a> {
    pub(super) clusters: &'a mut ClusterCounts,
    pub(super) flags: Flags,
}

/// When flags are checked.
pub(super) enum Flags {
    /// In a walk of their own, since counts may be made right before.
    Later,
    /// With references.
    Now,
    /// They were, and this was found; it is told behind what is wrong with counts.
    Checked(CheckReport),
}

/// References to the clusters of one window, and what a walk finds besides.
pub(super) struct Census {
    pub(super) window: Range<u64>,
    pub(super) counts: Vec<u32>,
    /// Behind the last cluster that anything refers to.
    pub(super) end: u64,
    /// The first cluster behind the window that anything refers to.
    pub(super) next: u64,
    counted: Counted,
    /// Whether entries are made right that can be by themselves.
    pub(super) repairs: bool,
    /// What is wrong with the references to this window's clusters.
    pub(super) faults: Vec<String>,
    /// Whether the refcount table is wrong.
    pub(super) table_damaged: bool,
    /// Whether a refcount block is behind the end of the file.
    pub(super) block_outside: bool,
    cluster_bits: u32,
    max_refcount: u64,
    file_len: u64,
    /// The first walk reports; later ones would report the same again.
    pub(super) report: Option<CheckReport>,
}

impl Census {
    /// Counts a reference to every cluster of a host range.
    pub(super) fn refer(&mut self, at: HostOffset, len: u64) {
        if len == 0 {
            return;
        }
        let size = 1u64 << self.cluster_bits;
        // The last cluster may be cut off by the end of the file, but by less than a cluster.
        let beyond =
            at.0.checked_add(len)
                .is_none_or(|end| end >= self.file_len.saturating_add(size));
        if beyond {
            self.corrupt(format!(
                "ERROR: counting reference for region exceeding the end of the file by one \
                 cluster or more: offset 0x{at:x} size 0x{len:x}"
            ));
            return;
        }
        let (first, last) = (
            at.0 >> self.cluster_bits,
            (at.0 + len - 1) >> self.cluster_bits,
        );
        self.end = self.end.max(last + 1);
        if last >= self.window.end {
            self.next = self.next.min(first.max(self.window.end));
        }
        for cluster in first.max(self.window.start)..(last + 1).min(self.window.end) {
            let place = usize::try_from(cluster - self.window.start).unwrap_or(usize::MAX);
            let Some(count) = self.counts.get_mut(place) else {
                continue;
            };
            if u64::from(*count) < self.max_refcount {
                *count = count.saturating_add(1);
            } else if self.faults.len() < MAX_MESSAGES {
                let offset = cluster << self.cluster_bits;
                self.faults
                    .push(format!("ERROR: overflow cluster offset=0x{offset:x}"));
            }
        }
    }

    /// References to a cluster so far; `None` outside the window.
    fn count_of(&self, at: HostOffset) -> Option<u32> {
        let place = (at.0 >> self.cluster_bits).checked_sub(self.window.start)?;
        self.counts.get(usize::try_from(place).ok()?).copied()
    }

    fn repaired(&mut self, message: String) {
        if let Some(report) = &mut self.report {
            report.corruptions_fixed += 1;
            say(report, message);
        }
    }

    pub(super) fn corrupt(&mut self, message: String) {
        if let Some(report) = &mut self.report {
            report.corruptions += 1;
            say(report, message);
        }
    }
}

/// Adds a line to a report that is not too long.
pub(super) fn say(report: &mut CheckReport, message: String) {
    if report.messages.len() < MAX_MESSAGES {
        report.messages.push(message);
    }
}

impl Image {
    /// Checks the image, and repairs what `repair` allows.
    ///
    /// # Errors
    /// Errors of the file; what is wrong with the image is in the report.
    pub(super) async fn check<E: Surroundings>(
        &self,
        env: &E,
        repair: Repair,
    ) -> Result<CheckReport> {
        if repair != Repair::None {
            self.first_write(env).await?;
        }
        if self.options.writable {
            // Afterwards the disk is what memory is.
            self.flush_all(env).await?;
        }
        let mut report = CheckReport::default();
        let mut clusters = ClusterCounts {
            total: self.geometry.clusters(self.size()),
            ..ClusterCounts::default()
        };
        let wrong_snapshots = self.check_snapshots(env, repair, &mut report).await?;
        let tables = self.active_l1().into_iter().filter(|e| e.table().is_some());
        let tables = tables.count() as u64;
        let work = Work {
            tables,
            snapshots: self.snapshots.lock().entries.len() as u64,
            windows: self.windows(env.file().len()),
        };
        self.check_meter.begin(work, repair);
        let mut active = Active {
            clusters: &mut clusters,
            flags: match repair {
                Repair::None => Flags::Now,
                Repair::Leaks | Repair::All => Flags::Later,
            },
        };
        let first = Pass::First(&mut active, repair);
        let found = self.compare(env, first, Repair::None, &mut report).await?;
        let checked = active.flags;
        let rebuild = found.rebuild || repair == Repair::All && found.outside;
        let compared = match repair {
            Repair::All if rebuild => self.rebuild(env, wrong_snapshots, &mut report).await?,
            Repair::Leaks if rebuild => {
                say(
                    &mut report,
                    "ERROR need to rebuild refcount structures".to_owned(),
                );
                report.check_errors += 1;
                found
            }
            Repair::Leaks | Repair::All if report.corruptions + report.leaks > 0 => {
                report.corruptions -= found.corruptions;
                report.leaks -= found.leaks;
                report.check_errors -= found.errors;
                self.compare(env, Pass::Again, repair, &mut report).await?
            }
            Repair::None | Repair::Leaks | Repair::All => found,
        };
        if repair != Repair::None {
            // What is read below is what the repair made.
            self.flush_all(env).await?;
        }
        self.check_meter.flags_are_left(tables);
        let flags = match repair {
            Repair::None => Repair::None,
            Repair::All => Repair::All,
            // Counts are right then.
            Repair::Leaks if report.is_clean() => Repair::All,
            Repair::Leaks => Repair::None,
        };
        match checked {
            Flags::Checked(found) => {
                report.corruptions += found.corruptions;
                for message in found.messages {
                    say(&mut report, message);
                }
            }
            Flags::Now | Flags::Later => self.check_flags(env, flags, &mut report).await?,
        }
        if wrong_snapshots > 0 && repair == Repair::All {
            self.flush_all(env).await?;
            self.rewrite_snapshots(env, wrong_snapshots, &mut report)
                .await?;
        }
        self.check_meter.end();
        report.image_end_offset = Some((compared.highest + 1) << self.geometry.cluster_bits);
        report.clusters = Some(clusters);
        if repair != Repair::None {
            self.flush_all(env).await?;
            let clean = report.corruptions == 0 && report.check_errors == 0;
            if clean {
                self.mark_repaired(env).await?;
            }
        }
        Ok(report)
    }

    /// Makes refcounts right that an unclean end of lazy refcounts left wrong.
    ///
    /// # Errors
    /// `Corrupt` when they cannot be made right; errors of the file.
    pub(super) async fn rebuild_after_dirty<E: Surroundings>(&self, env: &E) -> Result<()> {
        let report = self.check(env, Repair::All).await?;
        if report.corruptions > 0 || report.check_errors > 0 {
            return Err(self.error(ImageError::MarkedDirty {
                corruptions: report.corruptions,
                errors: report.check_errors,
            }));
        }
        Ok(())
    }

    /// Writes the refcount structures anew, and checks what came of it. The corruptions of snapshot
    /// table entries, `wrong_snapshots`, are still to be repaired.
    async fn rebuild<E: Surroundings>(
        &self,
        env: &E,
        wrong_snapshots: u64,
        report: &mut CheckReport,
    ) -> Result<Compared> {
        say(report, "Rebuilding refcount structure".to_owned());
        self.rebuild_refcounts(env).await?;
        let mut after = CheckReport::default();
        let mut active = Active {
            clusters: &mut ClusterCounts::default(),
            flags: Flags::Later,
        };
        let first = Pass::First(&mut active, Repair::None);
        let compared = self.compare(env, first, Repair::None, &mut after).await?;
        let left = after.corruptions + wrong_snapshots;
        report.corruptions_fixed += report.corruptions.saturating_sub(left);
        report.leaks_fixed += report.leaks.saturating_sub(after.leaks);
        report.corruptions = left;
        report.leaks = after.leaks;
        report.check_errors = after.check_errors;
        for message in after.messages {
            say(report, message);
        }
        Ok(compared)
    }

    pub(super) fn census<E: Surroundings>(
        &self,
        env: &E,
        window: Range<u64>,
        counted: Counted,
    ) -> Census {
        let file_clusters = self.geometry.clusters(env.file().len()) + 1;
        let len = (window.end - window.start).min(file_clusters.saturating_sub(window.start));
        Census {
            counts: vec![0; usize::try_from(len).unwrap_or(usize::MAX)],
            window,
            end: 0,
            next: u64::MAX,
            counted,
            repairs: false,
            faults: Vec::new(),
            table_damaged: false,
            block_outside: false,
            cluster_bits: self.geometry.cluster_bits,
            max_refcount: self.geometry.max_refcount(),
            file_len: env.file().len(),
            report: None,
        }
    }

    /// Counts every reference in the image.
    pub(super) async fn walk<E: Surroundings>(
        &self,
        env: &E,
        census: &mut Census,
        active: Option<&mut Active<'_>>,
    ) -> Result<()> {
        let header = self.header.lock().clone();
        census.refer(HostOffset(0), self.geometry.cluster_size());
        self.walk_l1(env, census, header.l1_table, header.l1_size, active)
            .await?;
        let (tables, table_len) = {
            let snapshots = self.snapshots.lock();
            let tables = snapshots.entries.iter().map(|s| (s.l1_table, s.l1_size));
            (tables.collect::<Vec<_>>(), snapshots.table_len)
        };
        if self.has_data_file() && !tables.is_empty() {
            let count = tables.len();
            census.corrupt(format!("ERROR {count} snapshots in image with data file"));
        }
        for (index, (at, l1_size)) in tables.into_iter().enumerate() {
            if self.geometry.within(at.0) != 0 || u64::from(l1_size) * 8 > MAX_L1_BYTES {
                census.corrupt(format!(
                    "ERROR snapshot {index} l1_offset={at:#x}: L1 table is not cluster aligned or \
                     too large; snapshot table entry corrupted"
                ));
                continue;
            }
            self.walk_l1(env, census, at, l1_size, None).await?;
        }
        census.refer(header.snapshots, table_len);
        if census.counted == Counted::All {
            census.refer(header.refcount_table, header.refcount_table_bytes());
        }
        if let Encryption::Luks { place, len } = header.encryption {
            census.refer(place, len);
        }
        self.walk_bitmaps(env, census).await?;
        if census.counted == Counted::All {
            self.walk_blocks(census);
        }
        Ok(())
    }

    async fn walk_l1<E: Surroundings>(
        &self,
        env: &E,
        census: &mut Census,
        at: HostOffset,
        entries: u32,
        mut active: Option<&mut Active<'_>>,
    ) -> Result<()> {
        let len = u64::from(entries) * 8;
        census.refer(at, len);
        if at.0.saturating_add(len) > env.file().len() {
            return Ok(());
        }
        // Bounded by MAX_L1_BYTES and by the file.
        let bytes = env
            .file()
            .read_bytes(at.0, usize::try_from(len).unwrap_or(0))
            .await?;
        let mut flags = active
            .as_ref()
            .filter(|active| matches!(active.flags, Flags::Now))
            .map(|_| (StoredCounts::new(self, env), CheckReport::default()));
        let mut memory = AlignedBuf::zeroed(self.geometry.cluster_len());
        for (key, entry) in (0..).zip(words_be(&bytes)) {
            let entry = L1Entry(entry);
            if entry.reserved() != 0 {
                census.corrupt(format!(
                    "ERROR found L1 entry with reserved bits set: {:x}",
                    entry.0
                ));
            }
            let Some(table) = entry.table() else {
                if entry.0 != 0 && entry.reserved() == 0 {
                    census.corrupt(format!(
                        "ERROR l1_entry={:x}: Flag without a table; L1 entry corrupted",
                        entry.0
                    ));
                }
                continue;
            };
            self.check_meter.step();
            census.refer(table, self.geometry.cluster_size());
            if self.geometry.within(table.0) != 0 {
                census.corrupt(format!(
                    "ERROR l2_offset={table:x}: Table is not cluster aligned; L1 entry corrupted"
                ));
            }
            if table.0 < census.file_len {
                memory = env.file().read_into(table.0, memory).await?;
                let clusters = active.as_mut().map(|active| &mut *active.clusters);
                self.walk_l2(env, census, (table, &memory), clusters)
                    .await?;
            }
            if let Some((counts, report)) = &mut flags {
                self.check_meter.step();
                let told = self.check_table_flag((key, entry), counts, Repair::None, report);
                if told.await?.is_some_and(|at| at.0 < census.file_len) {
                    self.check_entry_flags((key, &memory), counts, Repair::None, report)
                        .await?;
                }
            }
        }
        if let (Some(active), Some((_, report))) = (active, flags) {
            active.flags = Flags::Checked(report);
        }
        Ok(())
    }

    async fn walk_l2<E: Surroundings>(
        &self,
        env: &E,
        census: &mut Census,
        (at, table): (HostOffset, &[u8]),
        mut clusters: Option<&mut ClusterCounts>,
    ) -> Result<()> {
        let mut is_other = None;
        let mut next = None;
        for (index, full) in FullEntry::of_bytes(table, self.geometry.l2_entry_words()) {
            let FullEntry { entry, bitmap } = full;
            if self.has_data_file() {
                self.walk_external(census, full, &mut clusters, &mut next);
                continue;
            }
            if entry.is_compressed() {
                if entry.is_copied() {
                    census.corrupt(format!(
                        "ERROR: coffset=0x{:x}: copied flag must never be set for compressed clusters",
                        entry.host()
                    ));
                }
                if bitmap != SubclusterBitmap::NONE {
                    census.corrupt(format!(
                        "ERROR compressed cluster {index} with non-zero subcluster allocation \
                         bitmap, entry=0x{:x}",
                        entry.0
                    ));
                    continue;
                }
                let c = entry.compressed(self.geometry.cluster_bits);
                census.refer(c.host, c.len);
                if let Some(counts) = clusters.as_deref_mut() {
                    counts.allocated += 1;
                    counts.compressed += 1;
                    counts.fragmented += 1;
                }
                continue;
            }
            let zero_flag = self.geometry.is_extended() && entry.is_zero();
            if entry.reserved() != 0 || zero_flag {
                census.corrupt(format!(
                    "ERROR found l2 entry with reserved bits set: {:x}",
                    entry.0
                ));
            }
            let host = entry.host();
            if host.0 == 0 {
                if bitmap.allocated() != 0 {
                    census.corrupt(
                        "ERROR: Unallocated cluster has non-zero subcluster allocation map"
                            .to_owned(),
                    );
                }
                continue;
            }
            if bitmap.allocated() & bitmap.zero() != 0 {
                census.corrupt(format!(
                    "ERROR offset={host:x}: Allocated cluster has corrupted subcluster allocation \
                     bitmap"
                ));
            }
            if self.geometry.within(host.0) != 0 {
                let stored = match self.geometry.is_extended() {
                    true => bitmap.allocated() != 0,
                    false => !entry.is_zero(),
                };
                // A table that is something else as well stays as it is.
                let repairs = !stored
                    && census.repairs
                    && !*is_other.get_or_insert_with(|| self.is_no_table(at));
                if repairs {
                    self.zero_entry(env, at, index, bitmap).await?;
                    census.repaired(format!(
                        "Repairing offset={host:x}: Preallocated cluster is not properly aligned; \
                         L2 entry corrupted."
                    ));
                    continue;
                }
                let kind = if !stored { "Preallocated" } else { "Data" };
                census.corrupt(format!(
                    "ERROR offset={host:x}: {kind} cluster is not properly aligned; L2 entry corrupted."
                ));
            }
            if let Some(counts) = clusters.as_deref_mut() {
                counts.allocated += 1;
                counts.fragmented += u64::from(next.is_some_and(|n| n != host.0));
                next = Some(host.0.saturating_add(self.geometry.cluster_size()));
            }
            census.refer(host, self.geometry.cluster_size());
        }
        Ok(())
    }

    /// Makes an entry zeroes without a cluster: of what it kept one for, nothing was stored.
    async fn zero_entry<E: Surroundings>(
        &self,
        env: &E,
        table: HostOffset,
        index: usize,
        bitmap: SubclusterBitmap,
    ) -> Result<()> {
        let zero = match self.geometry.is_extended() {
            true => vec![0, bitmap.with_zero(bitmap.allocated() | bitmap.zero()).0],
            false => vec![L2Entry::ZERO.0],
        };
        let skip = index as u64 * zero.len() as u64 * 8;
        env.file()
            .write_bytes(table.plus(skip).0, &bytes_be(&zero))
            .await?;
        // Requests are drained, and nothing is dirty.
        self.l2.forget();
        Ok(())
    }

    /// As [`walk_l2`](Image::walk_l2), for an entry whose cluster is in a data file: nothing counts it.
    fn walk_external(
        &self,
        census: &mut Census,
        full: FullEntry,
        clusters: &mut Option<&mut ClusterCounts>,
        next: &mut Option<u64>,
    ) {
        let whole = self.part_at(full, 0);
        match whole.and_then(|_| self.classify(full.entry)) {
            Ok(Cluster::Data(host) | Cluster::Zero(Some(host))) => {
                if let Some(counts) = clusters {
                    counts.allocated += 1;
                    counts.fragmented += u64::from(next.is_some_and(|n| n != host.offset.0));
                    *next = Some(host.offset.0.saturating_add(self.geometry.cluster_size()));
                }
            }
            Ok(Cluster::Unallocated(_) | Cluster::Zero(None) | Cluster::Compressed(_)) => {}
            Err(what) => {
                census.corrupt(format!("ERROR L2 entry {:x} has {what}", full.entry.0));
            }
        }
    }

    fn walk_blocks(&self, census: &mut Census) {
        for (index, entry) in self.refcount_table().into_iter().enumerate() {
            let entry = RefcountTableEntry(entry);
            if entry.reserved() != 0 {
                census.corrupt(format!(
                    "ERROR refcount table entry {index} has reserved bits set"
                ));
                census.table_damaged = true;
                continue;
            }
            let Some(at) = entry.block() else { continue };
            if self.geometry.within(at.0) != 0 {
                census.corrupt(format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
                census.table_damaged = true;
                continue;
            }
            if at.0 >= census.file_len {
                census.corrupt(format!("ERROR refcount block {index} is outside image"));
                census.block_outside = true;
                continue;
            }
            census.refer(at, self.geometry.cluster_size());
            if let Some(count) = census.count_of(at).filter(|&count| count != 1) {
                let fault = format!("ERROR refcount block {index} refcount={count}");
                census.faults.push(fault);
                census.table_damaged = true;
            }
        }
    }
}
