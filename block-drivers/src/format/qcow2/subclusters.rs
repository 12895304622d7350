//! Subclusters: what the bitmap of an extended L2 entry adds to its cluster.
//! Called by `map` (what is at a byte), by `write` (which bytes must be copied, and the bitmap that
//! exposes them) and by `discard` (zeroes of parts of a cluster). Pure but for the last.
//! Invariant: a subcluster's allocated bit is set only when all its bytes are in the host cluster.
//! Spec: qcow2 "Extended L2 Entries". Not here: how readers see entry and bitmap together
//! (`kit/table_cache.rs`).

use std::ops::Range;

use block_core::Result;

use super::image::Image;
use super::layout::{FullEntry, SubclusterBitmap};
use super::map::{Cluster, wrong_entry};
use crate::kit::addr::GuestOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::table_cache::Needs;

/// What happens to the subclusters of a cluster when a part of it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filling {
    /// Those that come to lie in the host cluster anew, every byte of them.
    filled: u32,
    /// The bitmap afterwards.
    pub(super) bitmap: SubclusterBitmap,
}

/// Whether data goes to another host cluster than that of the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Yes, and what the old one holds goes with it.
    Moved,
    /// No.
    InPlace,
}

impl Image {
    /// What is `skip` bytes behind the start of an entry's cluster, and up to where in the cluster.
    ///
    /// # Errors
    /// What is wrong with the entry, as a noun.
    pub(super) fn part_at(
        &self,
        full: FullEntry,
        skip: u64,
    ) -> std::result::Result<(Cluster, u64), &'static str> {
        let whole = self.classify(full.entry)?;
        if !self.geometry.is_extended() {
            return Ok((whole, self.geometry.cluster_size()));
        }
        let host = match whole {
            Cluster::Compressed(_) if full.bitmap != SubclusterBitmap::NONE => {
                return Err("a subcluster bitmap, which compressed clusters have not");
            }
            Cluster::Compressed(_) => return Ok((whole, self.geometry.cluster_size())),
            Cluster::Unallocated(host) | Cluster::Zero(host) => host,
            Cluster::Data(host) => Some(host),
        };
        let (allocated, zero) = (full.bitmap.allocated(), full.bitmap.zero());
        if allocated & zero != 0 {
            return Err("a subcluster that is both allocated and zero");
        }
        let bits = self.geometry.subcluster_bits();
        let index = skip >> bits;
        let (cluster, same) = match host {
            _ if zero >> index & 1 != 0 => (Cluster::Zero(host), zero),
            None if allocated != 0 => return Err("allocated subclusters, and no offset"),
            Some(host) if allocated >> index & 1 != 0 => (Cluster::Data(host), allocated),
            Some(_) | None => (Cluster::Unallocated(host), !(allocated | zero)),
        };
        let run = u64::from((same >> index).trailing_ones());
        Ok((cluster, (index + run) << bits))
    }

    /// What an entry says about all of its cluster: `Zero` when all of it is, `Unallocated` when
    /// none of it is stored, `Data` when anything is.
    ///
    /// # Errors
    /// What is wrong with the entry, as a noun.
    pub(super) fn summary(&self, full: FullEntry) -> std::result::Result<Cluster, &'static str> {
        let (first, end) = self.part_at(full, 0)?;
        if end == self.geometry.cluster_size() {
            return Ok(first);
        }
        Ok(match first {
            Cluster::Data(host) => Cluster::Data(host),
            Cluster::Zero(Some(host)) | Cluster::Unallocated(Some(host))
                if full.bitmap.allocated() != 0 =>
            {
                Cluster::Data(host)
            }
            Cluster::Zero(host) | Cluster::Unallocated(host) => Cluster::Unallocated(host),
            Cluster::Compressed(_) => first,
        })
    }

    /// The subclusters that a guest range touches of the cluster that starts at `cluster`.
    fn touched(&self, cluster: u64, range: &Range<u64>) -> u32 {
        let end = cluster + self.geometry.cluster_size();
        let (start, end) = (range.start.max(cluster), range.end.min(end));
        if start >= end {
            return 0;
        }
        let bits = self.geometry.subcluster_bits();
        let (first, last) = ((start - cluster) >> bits, (end - 1 - cluster) >> bits);
        u32::MAX << first & u32::MAX >> (31 - last)
    }

    /// How a write of `range` fills the cluster that starts at `cluster`.
    pub(super) fn filling(
        &self,
        old: FullEntry,
        cluster: u64,
        range: &Range<u64>,
        target: Target,
    ) -> Filling {
        let touched = self.touched(cluster, range);
        let stored = match self.classify(old.entry) {
            Ok(Cluster::Compressed(_)) => u32::MAX,
            Ok(_) | Err(_) => old.bitmap.allocated(),
        };
        let (filled, allocated) = match target {
            Target::Moved => (touched | stored, touched | stored),
            Target::InPlace => (touched & !stored, touched),
        };
        Filling {
            filled,
            bitmap: old.bitmap.with_allocated(allocated),
        }
    }

    /// The parts of `range`, which lies in the cluster that starts at `cluster`, in subclusters that
    /// are filled: runs in order, none next to another.
    pub(super) fn filled_parts(
        &self,
        filling: Filling,
        cluster: u64,
        range: Range<u64>,
    ) -> Vec<Range<u64>> {
        let bits = self.geometry.subcluster_bits();
        let mut parts = Vec::new();
        let mut left = filling.filled & self.touched(cluster, &range);
        while left != 0 {
            let first = left.trailing_zeros();
            let count = (left >> first).trailing_ones();
            let start = cluster + (u64::from(first) << bits);
            let end = start + (u64::from(count) << bits);
            parts.push(start.max(range.start)..end.min(range.end));
            left &= !(u32::MAX >> (32 - count) << first);
        }
        parts
    }

    /// Makes whole subclusters of one cluster zero; `false` when its entry has no way to say so.
    ///
    /// # Errors
    /// `Corrupt` when the entry is wrong; errors of the file.
    pub(super) async fn zero_subclusters<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
    ) -> Result<bool> {
        let cluster = self.geometry.floor(range.start);
        let zero = self.touched(cluster, &range);
        let hides = env.backing().is_some_and(|b| b.len() > range.start);
        let key = self.geometry.l1_index(GuestOffset(cluster));
        if self.l1.entry(key).0 == 0 && !hides {
            return Ok(true);
        }
        let table = self.owned_table(env, key).await?;
        let index = self.geometry.l2_index(GuestOffset(cluster));
        let old = self.entry_at(&table, index);
        let found = self.part_at(old, 0);
        let (found, _) = found.map_err(|what| self.error(wrong_entry(old.entry, cluster, what)))?;
        if matches!(found, Cluster::Compressed(_)) {
            return Ok(false);
        }
        let new = old.bitmap.with_zero(zero);
        if new == old.bitmap || !hides && old.bitmap.allocated() & zero == 0 {
            return Ok(true);
        }
        let entry = FullEntry { bitmap: new, ..old };
        self.set_entries(&table, index, std::iter::once(entry), Needs::Nothing);
        Ok(true)
    }
}
