//! Overlap checks: no write may land in a structure of the image that is something else.
//! Called by `alloc` for clusters that refcounts call free, by `cache` for entries of a table that
//! comes into memory, and by `write` and `map` where such an entry was found.
//! Invariant: while no loaded entry names a checked structure, and every cluster given out was looked
//! at, overwrites in place need no look: requests pay nothing. Once one does, every write looks.
//! Spec: none; the option `overlap-check`. Not here: what follows from a hit (`corrupt.rs`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::atomic::Ordering;

use block_core::Result;
use block_schema::types::{Qcow2OverlapCheckMode, Qcow2OverlapChecks};

use super::error::ImageError;
use super::image::Image;
use super::layout::{FullEntry, L1Entry, RefcountTableEntry};
use super::map::Cluster;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};

/// A kind of structure; the order is that of the bits of [`Checked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    Header,
    ActiveL1,
    ActiveL2,
    RefcountTable,
    RefcountBlock,
    SnapshotTable,
    InactiveL1,
    InactiveL2,
    BitmapDirectory,
}

impl Structure {
    /// As messages have always named it.
    fn name(self) -> &'static str {
        match self {
            Structure::Header => "qcow2_header",
            Structure::ActiveL1 => "active L1 table",
            Structure::ActiveL2 => "active L2 table",
            Structure::RefcountTable => "refcount table",
            Structure::RefcountBlock => "refcount block",
            Structure::SnapshotTable => "snapshot table",
            Structure::InactiveL1 => "inactive L1 table",
            Structure::InactiveL2 => "inactive L2 table",
            Structure::BitmapDirectory => "bitmap directory",
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// Which structures are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checked(u16);

impl Checked {
    const NONE: Checked = Checked(0);

    /// Those whose place the header says.
    fn constant() -> Checked {
        Checked::NONE
            .with(Structure::Header, true)
            .with(Structure::ActiveL1, true)
            .with(Structure::RefcountTable, true)
            .with(Structure::SnapshotTable, true)
            .with(Structure::BitmapDirectory, true)
    }

    /// Those whose place is in memory.
    pub(super) fn cached() -> Checked {
        Checked::constant()
            .with(Structure::ActiveL2, true)
            .with(Structure::RefcountBlock, true)
            .with(Structure::InactiveL1, true)
    }

    fn has(self, structure: Structure) -> bool {
        self.0 & structure.bit() != 0
    }

    fn with(self, structure: Structure, on: bool) -> Checked {
        match on {
            true => Checked(self.0 | structure.bit()),
            false => Checked(self.0 & !structure.bit()),
        }
    }

    fn of_mode(mode: Qcow2OverlapCheckMode) -> Checked {
        match mode {
            Qcow2OverlapCheckMode::None => Checked::NONE,
            Qcow2OverlapCheckMode::Constant => Checked::constant(),
            Qcow2OverlapCheckMode::Cached => Checked::cached(),
            Qcow2OverlapCheckMode::All => Checked::cached().with(Structure::InactiveL2, true),
        }
    }

    /// What the option says.
    pub(super) fn of(option: Option<&Qcow2OverlapChecks>) -> Checked {
        let flags = match option {
            None => return Checked::cached(),
            Some(Qcow2OverlapChecks::Mode(mode)) => return Checked::of_mode(*mode),
            Some(Qcow2OverlapChecks::Flags(flags)) => flags,
        };
        let given = [
            (Structure::Header, flags.main_header),
            (Structure::ActiveL1, flags.active_l1),
            (Structure::ActiveL2, flags.active_l2),
            (Structure::RefcountTable, flags.refcount_table),
            (Structure::RefcountBlock, flags.refcount_block),
            (Structure::SnapshotTable, flags.snapshot_table),
            (Structure::InactiveL1, flags.inactive_l1),
            (Structure::InactiveL2, flags.inactive_l2),
            (Structure::BitmapDirectory, flags.bitmap_directory),
        ];
        let template = flags.template.unwrap_or(Qcow2OverlapCheckMode::Cached);
        let set = |set: Checked, (structure, on): (Structure, Option<bool>)| match on {
            Some(on) => set.with(structure, on),
            None => set,
        };
        given.into_iter().fold(Checked::of_mode(template), set)
    }
}

/// Clusters of structures that are many: a bit each, 64 clusters in a row to a word.
#[derive(Default)]
pub(super) struct Places {
    words: HashMap<u64, u64>,
    /// Active L2 tables that several L1 entries name, and how many others.
    shared: HashMap<u64, u32>,
}

impl Places {
    /// Returns whether the cluster is new.
    fn insert(&mut self, cluster: u64) -> bool {
        let word = self.words.entry(cluster / 64).or_default();
        let old = std::mem::replace(word, *word | 1 << (cluster % 64));
        old >> (cluster % 64) & 1 == 0
    }

    fn word(&self, cluster: u64) -> u64 {
        self.words.get(&(cluster / 64)).copied().unwrap_or(0)
    }

    fn first_of(&self, mut clusters: Range<u64>) -> Option<u64> {
        while clusters.start < clusters.end {
            if self.word(clusters.start) >> (clusters.start % 64) == 0 {
                clusters.start = (clusters.start / 64 + 1) * 64;
            } else if self.word(clusters.start) >> (clusters.start % 64) & 1 != 0 {
                return Some(clusters.start);
            } else {
                clusters.start += 1;
            }
        }
        None
    }
}

impl Image {
    /// Whether some loaded entry names a structure, so that writes in place must look.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// Refuses to write into a structure.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn refuse_overlap(&self, at: HostOffset, len: u64) -> Result<()> {
        match self.overlap(at, len) {
            None => Ok(()),
            Some(structure) => Err(self.error(ImageError::InvalidWrite {
                offset: at.0,
                len,
                structure: structure.name(),
            })),
        }
    }

    /// The first structure in the way of host clusters.
    fn overlap(&self, at: HostOffset, len: u64) -> Option<Structure> {
        let clusters = self.geometry.cluster_of(at)..self.geometry.clusters(at.0 + len);
        let meets = |place: &Range<u64>| place.start < clusters.end && clusters.start < place.end;
        let constant = self.constants();
        if let Some((structure, _)) = constant.iter().find(|(_, place)| meets(place)) {
            return Some(*structure);
        }
        let cluster = self.places.lock().first_of(clusters)?;
        Some(self.kind_of(cluster))
    }

    /// The checked structures whose place the header says, with their clusters.
    fn constants(&self) -> Vec<(Structure, Range<u64>)> {
        let snapshots = self.snapshots.lock().table_len;
        let header = self.header.lock();
        let (directory, directory_len) = header.bitmap_directory().unwrap_or_default();
        let all = [
            (Structure::Header, 0, self.geometry.cluster_size()),
            (Structure::ActiveL1, header.l1_table.0, header.l1_bytes()),
            (
                Structure::RefcountTable,
                header.refcount_table.0,
                header.refcount_table_bytes(),
            ),
            (Structure::SnapshotTable, header.snapshots.0, snapshots),
            (Structure::BitmapDirectory, directory, directory_len),
        ];
        let clusters = |at: u64, len: u64| {
            at >> self.geometry.cluster_bits..self.geometry.clusters(at.saturating_add(len))
        };
        all.into_iter()
            .filter(|(structure, _, len)| self.options.overlap.has(*structure) && *len > 0)
            .map(|(structure, at, len)| (structure, clusters(at, len)))
            .collect()
    }

    /// Whether the place of an L2 table is off a cluster boundary, or that of another structure, too.
    pub(super) fn is_no_table(&self, at: HostOffset) -> bool {
        let cluster = self.geometry.cluster_of(at);
        let holds = |start: HostOffset, len: u64| {
            let end = self.geometry.clusters(start.0.saturating_add(len));
            (self.geometry.cluster_of(start)..end).contains(&cluster)
        };
        let blocks = self.refcount_table().into_iter();
        let mut blocks = blocks.filter_map(|entry| RefcountTableEntry(entry).block());
        let snapshots = self.snapshots.lock();
        let mut l1_tables = snapshots.entries.iter();
        let table = self.header.lock().snapshots;
        let directory = self.header.lock().bitmap_directory().unwrap_or_default();
        self.geometry.within(at.0) != 0
            || self.in_fixed_metadata(at)
            || holds(table, snapshots.table_len)
            || holds(HostOffset(directory.0), directory.1)
            || blocks.any(|block| self.geometry.cluster_of(block) == cluster)
            || l1_tables.any(|s| holds(s.l1_table, s.l1_bytes()))
    }

    /// What a cluster among the places is.
    fn kind_of(&self, cluster: u64) -> Structure {
        let is_it = |at: HostOffset| self.geometry.cluster_of(at) == cluster;
        let l1 = self.active_l1();
        if l1.into_iter().filter_map(L1Entry::table).any(is_it) {
            return Structure::ActiveL2;
        }
        let blocks = self.refcount_table().into_iter();
        let mut blocks = blocks.filter_map(|entry| RefcountTableEntry(entry).block());
        if blocks.any(is_it) {
            return Structure::RefcountBlock;
        }
        let snapshots = self.snapshots.lock();
        let l1_tables = snapshots.entries.iter();
        let within = |at: HostOffset, len: u64| {
            (self.geometry.cluster_of(at)..self.geometry.clusters(at.0.saturating_add(len)))
                .contains(&cluster)
        };
        match l1_tables.clone().any(|s| within(s.l1_table, s.l1_bytes())) {
            true => Structure::InactiveL1,
            false => Structure::InactiveL2,
        }
    }

    /// Refuses to change an L2 table in place that several L1 entries name: in memory each has a
    /// table of its own, and the last one written would win.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn refuse_shared(&self, key: u64, entry: L1Entry) -> Result<()> {
        let Some(at) = entry.table().filter(|_| self.is_suspect()) else {
            return Ok(());
        };
        let cluster = self.geometry.cluster_of(at);
        match self.places.lock().shared.contains_key(&cluster) {
            false => Ok(()),
            true => Err(self.error(ImageError::SharedTable {
                offset: at.0,
                guest: key.saturating_mul(self.geometry.l2_reach()),
            })),
        }
    }

    /// Says that one L1 entry names a table no longer.
    pub(super) fn leave_shared(&self, at: HostOffset) {
        let mut places = self.places.lock();
        if let Entry::Occupied(mut others) = places.shared.entry(self.geometry.cluster_of(at)) {
            *others.get_mut() -= 1;
            if *others.get() == 0 {
                others.remove();
            }
        }
    }

    /// Remembers a structure's cluster.
    pub(super) fn note_place(&self, structure: Structure, at: HostOffset) {
        if self.options.overlap.has(structure) {
            self.places.lock().insert(self.geometry.cluster_of(at));
        }
    }

    /// Remembers where everything is; for open, and after all of it may have moved.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn note_places<E: Surroundings>(&self, env: &E) -> Result<()> {
        let checked = self.options.overlap;
        // What a repair looks at may be nowhere that it should be.
        if !self.options.writable || self.options.for_check || checked == Checked::NONE {
            return Ok(());
        }
        *self.places.lock() = Places::default();
        if checked.has(Structure::ActiveL2) {
            self.note_tables();
        }
        let blocks = self.refcount_table().into_iter();
        for block in blocks.filter_map(|entry| RefcountTableEntry(entry).block()) {
            self.note_place(Structure::RefcountBlock, block);
        }
        let snapshots = self.snapshots.lock().entries.clone();
        for snapshot in snapshots {
            let (at, len) = (snapshot.l1_table, snapshot.l1_bytes());
            // A table outside the file is for `check` to report.
            if at.0.saturating_add(len) > env.file().len() {
                continue;
            }
            for offset in (at.0..at.0 + len).step_by(self.geometry.cluster_len()) {
                self.note_place(Structure::InactiveL1, HostOffset(offset));
            }
            if checked.has(Structure::InactiveL2) {
                let l1 = self.read_l1(env, at, snapshot.l1_size).await?;
                for table in l1.into_iter().filter_map(L1Entry::table) {
                    self.note_place(Structure::InactiveL2, table);
                }
            }
        }
        Ok(())
    }

    /// Remembers the active L2 tables, and those that several L1 entries name.
    fn note_tables(&self) {
        let mut places = self.places.lock();
        for table in self.active_l1().into_iter().filter_map(L1Entry::table) {
            let cluster = self.geometry.cluster_of(table);
            if !places.insert(cluster) {
                *places.shared.entry(cluster).or_default() += 1;
            }
        }
        if !places.shared.is_empty() {
            // Writes in place ask before they trust such a table's entries.
            self.suspect.store(true, Ordering::Release);
        }
    }

    /// Looks at the entries of a table that comes into memory: from the first that names a structure
    /// on, writes in place look where they go.
    pub(super) fn look_for_overlaps(&self, words: &[u64]) {
        if !self.options.writable
            || self.options.overlap == Checked::NONE
            || self.has_data_file()
            || self.is_suspect()
        {
            return;
        }
        let constant = self.constants();
        let places = self.places.lock();
        // Clusters next to each other share a word, most of the time.
        let mut last = (u64::MAX, 0);
        for full in FullEntry::of_words(words, self.geometry.l2_entry_words()) {
            let (Ok(Cluster::Data(host)) | Ok(Cluster::Zero(Some(host)))) =
                self.classify(full.entry)
            else {
                continue;
            };
            let cluster = self.geometry.cluster_of(host.offset);
            if last.0 != cluster / 64 {
                last = (cluster / 64, places.word(cluster));
            }
            let many = last.1 >> (cluster % 64) & 1 != 0;
            if many || constant.iter().any(|(_, place)| place.contains(&cluster)) {
                self.suspect.store(true, Ordering::Release);
                return;
            }
        }
    }
}
