//! Room for more refcounts: new blocks, and a larger table that names them.
//! Called by `alloc`, when no block describes the cluster that it looks at.
//! Invariant: a new block describes itself and whatever came with it from its first moment, and a
//! table that moved lies behind everything that the old one describes; the disk follows with the next
//! flush, blocks first. Spec: qcow2 "Host cluster management". Not here: writing them (`alloc.rs`).

use std::ops::Range;
use std::sync::atomic::Ordering;

use block_core::Result;
use rustix::io::Errno;

use super::counts::{FreeReason, Place, Table, index_of};
use super::geometry::Geometry;
use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::image::Image;
use super::overlap::Structure;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::Surroundings;
use crate::kit::table_cache::{Loading, Needs};

impl Image {
    /// Slots for blocks that do not exist yet. The cache is large enough for all of them at once.
    pub(super) async fn new_slots<E: Surroundings>(
        &self,
        env: &E,
        indices: Range<u64>,
    ) -> Result<Vec<Loading<'_>>> {
        let mut slots = Vec::new();
        for index in indices {
            match self.acquire(env, &self.refcounts.blocks, index).await? {
                Err(slot) => slots.push(slot),
                Ok(_) => return Err(self.no_space(Errno::NOSPC)),
            }
        }
        Ok(slots)
    }

    /// Fills new blocks, from block `first` on and placed from cluster `used.start` on, that count
    /// `used` as used. One step for a flush, which looks at the table before it copies blocks.
    pub(super) fn fill_blocks(
        &self,
        table: &mut Table,
        slots: Vec<Loading<'_>>,
        first: u64,
        used: &Range<u64>,
    ) {
        let reach = self.geometry.block_reach();
        self.refcounts
            .host_end
            .fetch_max(self.geometry.host_of(used.end).0, Ordering::AcqRel);
        for (index, (at, slot)) in (first..).zip((used.start..).zip(slots)) {
            let mut words = vec![0; self.geometry.entries_len()];
            let here = index * reach..(index + 1) * reach;
            for cluster in used.start.max(here.start)..used.end.min(here.end) {
                let (word, shift) = self.geometry.refcount_place(cluster % reach);
                words[word] |= 1 << shift;
            }
            table.entries[index_of(index)] = self.geometry.host_of(at).0;
            self.note_place(Structure::RefcountBlock, self.geometry.host_of(at));
            table.unwritten.insert(index);
            slot.fill(&words).mark_all(Needs::Nothing);
        }
    }

    /// Makes a refcount table of twice the size, in memory; the next flush moves it. The new place
    /// is behind everything that the old table describes, with the blocks that describe it.
    /// The caller holds `growing`.
    pub(super) async fn grow_table<E: Surroundings>(&self, env: &E) -> Result<()> {
        let old = self.refcounts.table.lock().entries.len() as u64;
        let plan = plan_growth(self.geometry, old).ok_or_else(|| self.no_space(Errno::FBIG))?;
        let slots = self.new_slots(env, old..old + plan.blocks).await?;
        let used = plan.first..plan.first + plan.blocks + plan.clusters;
        let place = Place {
            offset: self.geometry.host_of(plan.first + plan.blocks),
            clusters: u32::try_from(plan.clusters).unwrap_or(u32::MAX),
        };
        let mut table = self.refcounts.table.lock();
        table.entries.resize(index_of(plan.entries), 0);
        self.fill_blocks(&mut table, slots, old, &used);
        if let Some(never_written) = table.moved.replace(place) {
            let len = u64::from(never_written.clusters) << self.geometry.cluster_bits;
            self.refcounts
                .free_later(never_written.offset, len, FreeReason::Other);
        }
        Ok(())
    }

    /// Takes `count` clusters behind the end of everything, with the blocks that describe them.
    /// The caller holds `growing`.
    pub(super) async fn append_area<E: Surroundings>(
        &self,
        env: &E,
        count: u64,
    ) -> Result<HostOffset> {
        let reach = self.geometry.block_reach();
        let blocks = blocks_for(reach, count);
        loop {
            let end = self.geometry.clusters(self.host_end());
            let capacity = {
                let table = self.refcounts.table.lock();
                let used = table
                    .entries
                    .iter()
                    .rposition(|&e| e != 0)
                    .map_or(0, |i| i as u64 + 1);
                (table.entries.len() as u64, used)
            };
            let index = end.div_ceil(reach).max(capacity.1);
            if index + blocks <= capacity.0 {
                let first = index * reach;
                let used = first..first + blocks + count;
                let slots = self.new_slots(env, index..index + blocks).await?;
                self.fill_blocks(&mut self.refcounts.table.lock(), slots, index, &used);
                return Ok(self.geometry.host_of(first + blocks));
            }
            self.grow_table(env).await?;
        }
    }
}

/// Blocks that describe themselves and `count` clusters behind them.
fn blocks_for(reach: u64, count: u64) -> u64 {
    // Each block describes `reach` clusters, one of which it needs itself.
    count.div_ceil(reach - 1)
}

/// How a refcount table grows.
#[derive(Debug, PartialEq, Eq)]
struct Growth {
    /// Entries of the new table.
    entries: u64,
    /// Its clusters.
    clusters: u64,
    /// New refcount blocks, in front of it.
    blocks: u64,
    /// The first cluster of blocks and table.
    first: u64,
}

/// Plans a table of at least twice `old` entries, placed where the old one's reach ends; `None`
/// when no table may be that large.
fn plan_growth(geometry: Geometry, old: u64) -> Option<Growth> {
    let limit = MAX_REFCOUNT_TABLE_BYTES >> geometry.cluster_bits;
    let mut clusters = (old * 2).div_ceil(geometry.entries()).min(limit);
    loop {
        let blocks = blocks_for(geometry.block_reach(), clusters);
        let entries = clusters * geometry.entries();
        // One more for whoever made the table grow.
        if entries > old + blocks {
            let first = old * geometry.block_reach();
            return Some(Growth {
                entries,
                clusters,
                blocks,
                first,
            });
        }
        clusters += 1;
        if clusters > limit {
            return None;
        }
    }
}
