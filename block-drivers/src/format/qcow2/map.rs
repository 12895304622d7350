//! Guest range → what is there: entries of L1 and L2, understood.
//! Called by the request path (`try_map`, `map`, `status`), by `read` and by `write`.
//! Invariant: nothing leaves here that points outside the file, at the header, or off a cluster.
//! Spec: qcow2 "Cluster mapping". Not here: loading tables (`cache.rs`).

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use block_core::Result;
use block_core::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};

use super::error::ImageError;
use super::header::Version;
use super::image::Image;
use super::layout::{CompressedCluster, FullEntry, HOST_LIMIT, L1Entry, L2Entry, SubclusterBitmap};
use crate::kit::addr::{GuestOffset, HostOffset};
use crate::kit::image_file::Surroundings;
use crate::kit::table_cache::{Needs, Pinned, View};

/// L1 entries in one piece of memory.
const L1_CHUNK: u64 = 4096;
/// As [`L1_CHUNK`], for memory.
const L1_CHUNK_LEN: usize = 4096;
/// Pieces that the largest L1 table takes.
const L1_CHUNKS: usize = 1024;

/// The L1 table in memory: read without a lock, and growing in place.
pub(super) struct L1Table {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl L1Table {
    pub(super) fn new(entries: &[u64]) -> L1Table {
        let table = L1Table {
            chunks: (0..L1_CHUNKS).map(|_| OnceLock::new()).collect(),
        };
        for (index, &entry) in entries.iter().enumerate().filter(|(_, entry)| **entry != 0) {
            table.set(index as u64, L1Entry(entry));
        }
        table
    }

    /// An entry; none is like 0.
    pub(super) fn entry(&self, index: u64) -> L1Entry {
        let place = usize::try_from(index / L1_CHUNK).unwrap_or(usize::MAX);
        let chunk = self.chunks.get(place).and_then(OnceLock::get);
        let within = usize::try_from(index % L1_CHUNK).unwrap_or(usize::MAX);
        L1Entry(
            chunk
                .and_then(|c| c.get(within))
                .map_or(0, |e| e.load(Ordering::Acquire)),
        )
    }

    /// Sets all entries; there are none behind them. Requests are drained.
    pub(super) fn replace(&self, entries: &[L1Entry]) {
        for (chunk, first) in self.chunks.iter().zip((0..).step_by(L1_CHUNK_LEN)) {
            let end = entries.len().min(first + L1_CHUNK_LEN);
            let here = entries.get(first..end).unwrap_or_default();
            if chunk.get().is_none() && here.is_empty() {
                continue;
            }
            let chunk = chunk.get_or_init(|| (0..L1_CHUNK).map(|_| AtomicU64::new(0)).collect());
            for (n, old) in chunk.iter().enumerate() {
                old.store(here.get(n).map_or(0, |entry| entry.0), Ordering::Release);
            }
        }
    }

    /// Sets an entry below the largest table's end.
    pub(super) fn set(&self, index: u64, entry: L1Entry) {
        let place = usize::try_from(index / L1_CHUNK).unwrap_or(usize::MAX);
        let within = usize::try_from(index % L1_CHUNK).unwrap_or(usize::MAX);
        let chunk =
            self.chunks[place].get_or_init(|| (0..L1_CHUNK).map(|_| AtomicU64::new(0)).collect());
        chunk[within].store(entry.0, Ordering::Release);
    }
}

/// What an L2 entry says about its cluster, or about a subcluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// In the backing file, or zeroes without one; only subclusters have a host cluster all the same.
    Unallocated(Option<Host>),
    /// Zeroes, whatever the backing file holds; maybe with a host cluster kept for them.
    Zero(Option<Host>),
    /// Data.
    Data(Host),
    /// Compressed data.
    Compressed(CompressedCluster),
}

/// A host cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) offset: HostOffset,
    /// Whether this is the only reference to it.
    pub(super) owned: bool,
}

impl Cluster {
    /// Whether a run of this, `len` bytes long, goes on with `next`.
    fn continues(self, len: u64, next: Cluster) -> bool {
        let host = |a: Host, b: Host| a.offset.plus(len) == b.offset && a.owned == b.owned;
        match (self, next) {
            (Cluster::Unallocated(None), Cluster::Unallocated(None))
            | (Cluster::Zero(None), Cluster::Zero(None)) => true,
            (Cluster::Data(a), Cluster::Data(b))
            | (Cluster::Zero(Some(a)), Cluster::Zero(Some(b)))
            | (Cluster::Unallocated(Some(a)), Cluster::Unallocated(Some(b))) => host(a, b),
            _ => false,
        }
    }
}

/// The first run of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes, not 0. Compressed runs end with their cluster.
    pub(super) len: u64,
    /// What the run's first cluster is, or its first subcluster; later ones go on with it.
    pub(super) cluster: Cluster,
    /// Bytes between the start of the first cluster and the run.
    pub(super) skip: u64,
}

/// A table's entries, from memory that may change or that is pinned.
pub(super) trait Entries {
    /// An entry of one word.
    fn word(&self, index: usize) -> u64;
    /// An entry of two words, both of the same state.
    fn pair(&self, index: usize) -> [u64; 2];
}

impl Entries for View<'_> {
    fn word(&self, index: usize) -> u64 {
        self.entry(index)
    }

    fn pair(&self, index: usize) -> [u64; 2] {
        View::pair(self, index)
    }
}

impl Entries for Pinned<'_> {
    fn word(&self, index: usize) -> u64 {
        self.entry(index)
    }

    fn pair(&self, index: usize) -> [u64; 2] {
        Pinned::pair(self, index)
    }
}

/// What is wrong with the entry of the cluster at a guest offset.
pub(super) fn wrong_entry(entry: L2Entry, guest: u64, what: &'static str) -> ImageError {
    ImageError::Entry {
        table: "L2",
        entry: entry.0,
        guest,
        what,
    }
}

impl Image {
    /// An entry of a table.
    pub(super) fn entry_at(&self, table: &impl Entries, index: usize) -> FullEntry {
        if self.geometry.is_extended() {
            let [entry, bitmap] = table.pair(index);
            return FullEntry {
                entry: L2Entry(entry),
                bitmap: SubclusterBitmap(bitmap),
            };
        }
        FullEntry {
            entry: L2Entry(table.word(index)),
            bitmap: SubclusterBitmap::NONE,
        }
    }

    /// Sets entries from the `first` one on; no copy for the disk holds only some of them, and
    /// nobody sees half of one.
    pub(super) fn set_entries(
        &self,
        table: &Pinned<'_>,
        first: usize,
        entries: impl Iterator<Item = FullEntry>,
        needs: Needs,
    ) {
        if self.geometry.is_extended() {
            let pairs: Vec<[u64; 2]> = entries.map(|e| [e.entry.0, e.bitmap.0]).collect();
            table.set_pairs(first, &pairs, needs);
        } else {
            table.set_run(first, entries.map(|e| e.entry.0), needs);
        }
    }

    /// The entry of this image whose whole cluster is what a plain entry says.
    pub(super) fn full_entry(&self, plain: L2Entry) -> FullEntry {
        if self.geometry.is_extended() {
            return FullEntry::extended(plain);
        }
        FullEntry {
            entry: plain,
            bitmap: SubclusterBitmap::NONE,
        }
    }

    /// As [`classify`](Self::classify), for entries of tables whose place on the disk does not
    /// matter.
    ///
    /// # Errors
    /// `Corrupt` when the entry is wrong.
    pub(super) fn understand(&self, entry: L2Entry) -> Result<Cluster> {
        self.classify(entry)
            .map_err(|what| self.error(wrong_entry(entry, 0, what)))
    }

    /// Understands an entry, but for its bitmap: which host cluster it names.
    ///
    /// # Errors
    /// What is wrong with it, as a noun.
    pub(super) fn classify(&self, entry: L2Entry) -> std::result::Result<Cluster, &'static str> {
        let end = self.host_end();
        if self.has_data_file() {
            return self.classify_external(entry);
        }
        if entry.is_compressed() {
            let c = entry.compressed(self.geometry.cluster_bits);
            return match () {
                () if entry.is_copied() => Err("the copied flag on a compressed cluster"),
                () if c.host.0 >= HOST_LIMIT => Err("an offset beyond 2^56"),
                // The last sector may be cut off by the end of the file.
                () if c.host.0 >= end => Err("an offset behind the end of the file"),
                () if c.host.0 < self.geometry.cluster_size() => Err("an offset in the header"),
                () => Ok(Cluster::Compressed(c)),
            };
        }
        if entry.reserved() != 0 {
            return Err("reserved bits set");
        }
        if entry.is_zero() && self.version == Version::V2 {
            return Err("a zero flag, which version 2 has not");
        }
        if entry.is_zero() && self.geometry.is_extended() {
            return Err("a zero flag, which extended entries have not");
        }
        let offset = entry.host();
        if offset.0 == 0 {
            return match (entry.is_copied(), entry.is_zero()) {
                (true, _) => Err("the copied flag without an offset"),
                (false, true) => Ok(Cluster::Zero(None)),
                (false, false) => Ok(Cluster::Unallocated(None)),
            };
        }
        if self.geometry.within(offset.0) != 0 {
            return Err("an offset off a cluster boundary");
        }
        if offset.0 >= end {
            return Err("an offset behind the end of the file");
        }
        let host = Host {
            offset,
            owned: entry.is_copied(),
        };
        Ok(if entry.is_zero() {
            Cluster::Zero(Some(host))
        } else {
            Cluster::Data(host)
        })
    }

    /// The first run of `range`, which lies in one L2 table.
    ///
    /// # Errors
    /// When its first entry is wrong; a later wrong entry ends the run.
    pub(super) fn first_run(
        &self,
        table: &impl Entries,
        range: Range<u64>,
    ) -> Result<Run, ImageError> {
        let first = GuestOffset(range.start);
        let index = self.geometry.l2_index(first);
        let entry = self.entry_at(table, index);
        let skip = self.geometry.within(range.start);
        let (cluster, mut end) = self
            .part_at(entry, skip)
            .map_err(|what| wrong_entry(entry.entry, self.geometry.floor(first.0), what))?;
        self.check_place(cluster, first)?;
        let mut whole = self.geometry.cluster_size();
        for next in index + 1.. {
            // A part that ends before its cluster does ends the run.
            if end < whole || end - skip >= range.end - range.start {
                break;
            }
            match self.part_at(self.entry_at(table, next), 0) {
                Ok((c, part_end)) if cluster.continues(whole, c) => {
                    end = whole + part_end;
                    whole += self.geometry.cluster_size();
                }
                _ => break,
            }
        }
        Ok(Run {
            len: (end - skip).min(range.end - range.start),
            cluster,
            skip,
        })
    }

    /// The part of `range` that one L2 table describes, and that table's index.
    pub(super) fn one_table(&self, range: &Range<u64>) -> (u64, Range<u64>) {
        let key = self.geometry.l1_index(GuestOffset(range.start));
        let end = (key + 1)
            .saturating_mul(self.geometry.l2_reach())
            .min(range.end);
        (key, range.start..end)
    }

    /// Maps from memory alone; see `Driver::try_map`. `file` is where clusters are.
    pub(super) fn try_map(
        &self,
        file: EdgeIndex,
        access: Access,
        range: Range<u64>,
        out: &mut Mapping,
    ) -> Lookup {
        let may = access == Access::Read || self.may_overwrite();
        if !may || self.is_closed() {
            return Lookup::Miss;
        }
        let mut rest = range;
        while rest.start < rest.end {
            let (key, part) = self.one_table(&rest);
            rest.start = part.end;
            let lookup = match self.l2.view(key) {
                Some(view) => {
                    let lookup = self.push_runs(&view, file, access, part, out);
                    if !view.is_valid() {
                        // What was pushed may be another table's.
                        out.clear();
                        return Lookup::Miss;
                    }
                    lookup
                }
                None if access == Access::Read && self.l1.entry(key).0 == 0 => {
                    out.push(part.end - part.start, Extent::Unallocated)
                }
                None => Lookup::Miss,
            };
            if lookup == Lookup::Miss {
                return Lookup::Miss;
            }
        }
        Lookup::Mapped
    }

    /// Maps from the start of `range`, and loads tables for it; see `Driver::map`.
    ///
    /// # Errors
    /// `Corrupt` when the first entry is wrong; errors of reading tables.
    pub(super) async fn map<E: Surroundings>(
        &self,
        env: &E,
        file: EdgeIndex,
        access: Access,
        range: Range<u64>,
        out: &mut Mapping,
    ) -> Result<()> {
        self.need_key()?;
        if access == Access::Write {
            self.first_write(env).await?;
        }
        let mut rest = range;
        while rest.start < rest.end {
            let (key, part) = self.one_table(&rest);
            rest.start = part.end;
            let lookup = match self.table(env, key).await? {
                Some(table) => {
                    if out.is_empty() {
                        // A wrong first entry is an error here, and nowhere else.
                        self.first_run(&table, part.clone())
                            .map_err(|e| self.error(e))?;
                    }
                    self.push_runs(&table, file, access, part, out)
                }
                None if access == Access::Read => {
                    out.push(part.end - part.start, Extent::Unallocated)
                }
                None => Lookup::Miss,
            };
            if lookup == Lookup::Miss {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The first run of `range`, its tables loaded if need be.
    ///
    /// # Errors
    /// `Corrupt` when the first entry is wrong; errors of reading tables.
    pub(super) async fn first_status<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
    ) -> Result<Run> {
        let (key, part) = self.one_table(&range);
        match self.table(env, key).await? {
            Some(table) => self.first_run(&table, part).map_err(|e| self.error(e)),
            None => Ok(Run {
                len: part.end - part.start,
                cluster: Cluster::Unallocated(None),
                skip: 0,
            }),
        }
    }

    /// Appends the runs of a range in one table; stops at what cannot be mapped for `access`.
    fn push_runs(
        &self,
        table: &impl Entries,
        file: EdgeIndex,
        access: Access,
        range: Range<u64>,
        out: &mut Mapping,
    ) -> Lookup {
        // Whoever has a table knows by now whether it made the image suspect: then each write is
        // looked at on its way.
        if access == Access::Write && self.is_suspect() {
            return Lookup::Miss;
        }
        let mut at = range.start;
        while at < range.end {
            let Ok(run) = self.first_run(table, at..range.end) else {
                return Lookup::Miss;
            };
            let extent = match (access, run.cluster) {
                (Access::Read, Cluster::Unallocated(_)) => Extent::Unallocated,
                (Access::Read, Cluster::Zero(_)) => Extent::Zero,
                (Access::Read, Cluster::Compressed(_)) => Extent::Transform,
                // The file's bytes are never the guest's.
                (Access::Read, Cluster::Data(_)) if self.is_encrypted() => Extent::Transform,
                (Access::Write, Cluster::Data(_)) if self.is_encrypted() => return Lookup::Miss,
                (Access::Read, Cluster::Data(host))
                | (Access::Write, Cluster::Data(host @ Host { owned: true, .. })) => {
                    Extent::Child {
                        edge: file,
                        offset: host.offset.0 + run.skip,
                    }
                }
                (Access::Write, _) => return Lookup::Miss,
            };
            if out.push(run.len, extent) == Lookup::Miss {
                return Lookup::Miss;
            }
            at += run.len;
        }
        Lookup::Mapped
    }
}
