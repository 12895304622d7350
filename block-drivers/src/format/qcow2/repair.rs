//! Counts compared with references, and made right: one by one, or, where the structures that hold
//! them are damaged, written anew.
//! Called by `check`, drained. What is found is worded as `qemu-img check` words it.
//! Invariant: new refcount blocks and their table are written behind everything that the file holds
//! and anything refers to; then one sector of the header names them. A power cut leaves the old
//! structures or the new ones. Memory: one window of counts.
//! Spec: qcow2 "Host cluster management". Not here: who refers to what (`check.rs`).

use std::ops::Range;
use std::sync::atomic::Ordering;

use block_core::Result;
use block_core::driver::{CheckReport, Repair};
use rustix::io::Errno;

use super::check::{Active, Census, Counted, say};
use super::geometry::Geometry;
use super::header::MAX_REFCOUNT_TABLE_BYTES;
use super::image::Image;
use super::stored_counts::Stored;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::bytes_be;

/// Host clusters whose references are counted in one walk, unless a refcount block describes more.
const WINDOW: u64 = 4 << 20;

/// What comparing counts with references found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compared {
    /// The last cluster with a count or a reference.
    pub(super) highest: u64,
    /// Whether refcount structures must be written anew before counts can be made right.
    pub(super) rebuild: bool,
    /// Whether a refcount block is behind the end of the file.
    pub(super) outside: bool,
    pub(super) corruptions: u64,
    pub(super) leaks: u64,
    /// Counts that nobody can know.
    pub(super) errors: u64,
}

/// Whether the walk tells what it finds besides references.
pub(super) enum Pass<'a, 'b> {
    /// It does, and makes entries right as far as this repair goes.
    First(&'a mut Active<'b>, Repair),
    Again,
}

impl Image {
    /// Clusters of a window: whole refcount blocks.
    fn window_len(&self) -> u64 {
        WINDOW.max(self.geometry.block_reach())
    }

    /// Windows of a file that is full.
    pub(super) fn windows(&self, file_len: u64) -> u64 {
        let clusters = self.geometry.clusters(file_len);
        clusters.div_ceil(self.window_len()).max(1)
    }

    /// Compares all counts with references; `repair` says which counts are made right.
    pub(super) async fn compare<E: Surroundings>(
        &self,
        env: &E,
        mut pass: Pass<'_, '_>,
        repair: Repair,
        report: &mut CheckReport,
    ) -> Result<Compared> {
        let mut compared = Compared::default();
        let mut window = 0..self.window_len();
        loop {
            let mut census = self.census(env, window.clone(), Counted::All);
            let tells = matches!(pass, Pass::First(..));
            let active = match &mut pass {
                Pass::First(active, repair) if window.start == 0 => {
                    census.repairs = *repair == Repair::All;
                    census.report = Some(std::mem::take(report));
                    Some(&mut **active)
                }
                Pass::First(..) | Pass::Again => None,
            };
            let walked = self.walk(env, &mut census, active).await;
            if let Some(told) = census.report.take() {
                *report = told;
            }
            walked?;
            compared.rebuild |= census.table_damaged;
            compared.outside |= census.block_outside;
            for fault in census.faults.drain(..).filter(|_| tells) {
                report.corruptions += 1;
                say(report, fault);
            }
            self.compare_window(env, &census, repair, report, &mut compared)
                .await?;
            let Some(next) = self.next_window(env, &census) else {
                return Ok(compared);
            };
            window = next;
        }
    }

    /// The next window that holds a reference or a refcount block.
    fn next_window<E: Surroundings>(&self, env: &E, census: &Census) -> Option<Range<u64>> {
        let file_end = self.geometry.clusters(env.file().len());
        let (from, last) = (census.window.end, census.end.max(file_end));
        if from >= last {
            return None;
        }
        let reach = self.geometry.block_reach();
        // What nothing counts and nothing refers to is not looked at, however long the file.
        let block = self.next_block(from / reach..last.div_ceil(reach));
        let counted = block.map_or(u64::MAX, |block| from.max(block * reach));
        // Windows begin where a block does.
        let named = census.next / reach * reach;
        let start = counted.min(named.max(from));
        if counted == u64::MAX && census.next == u64::MAX {
            return None;
        }
        Some(start..start.saturating_add(self.window_len()))
    }

    async fn compare_window<E: Surroundings>(
        &self,
        env: &E,
        census: &Census,
        repair: Repair,
        report: &mut CheckReport,
        compared: &mut Compared,
    ) -> Result<()> {
        let reach = self.geometry.block_reach();
        let file_end = self.geometry.clusters(env.file().len());
        let mut first = census.window.start;
        for counts in census
            .counts
            .chunks(usize::try_from(reach).unwrap_or(usize::MAX))
        {
            let stored = self.stored_block(env, first / reach).await?;
            for (cluster, &references) in (first..).zip(counts) {
                let references = u64::from(references);
                if cluster >= file_end && references == 0 {
                    // No cluster of the file, whatever is counted there.
                    continue;
                }
                let refcount = match &stored {
                    Stored::None => 0,
                    Stored::Words(words) => self.geometry.count_in(words, cluster % reach),
                    Stored::Unreadable => {
                        report.check_errors += 1;
                        compared.errors += 1;
                        let text = "Input/output error";
                        say(
                            report,
                            format!("Can't get refcount for cluster {cluster}: {text}"),
                        );
                        continue;
                    }
                };
                if refcount > 0 || references > 0 {
                    compared.highest = compared.highest.max(cluster);
                }
                if refcount != references {
                    compared.rebuild |= refcount == 0;
                    self.differs(
                        env,
                        [cluster, refcount, references],
                        repair,
                        report,
                        compared,
                    )
                    .await?;
                }
            }
            first += reach;
        }
        Ok(())
    }

    /// A cluster's count is not that of its references.
    async fn differs<E: Surroundings>(
        &self,
        env: &E,
        [cluster, refcount, references]: [u64; 3],
        repair: Repair,
        report: &mut CheckReport,
        compared: &mut Compared,
    ) -> Result<()> {
        let too_low = refcount < references;
        let allowed = match repair {
            Repair::None => false,
            Repair::Leaks => !too_low,
            Repair::All => true,
        };
        let fixed = allowed && self.repair_count(env, cluster, references).await?;
        let verb = match (fixed, too_low) {
            (true, _) => "Repairing",
            (false, true) => "ERROR",
            (false, false) => "Leaked",
        };
        say(
            report,
            format!("{verb} cluster {cluster} refcount={refcount} reference={references}"),
        );
        match (fixed, too_low) {
            (true, true) => report.corruptions_fixed += 1,
            (true, false) => report.leaks_fixed += 1,
            (false, true) => {
                report.corruptions += 1;
                compared.corruptions += 1;
            }
            (false, false) => {
                report.leaks += 1;
                compared.leaks += 1;
            }
        }
        Ok(())
    }

    /// Writes refcount structures anew, from references alone.
    ///
    /// # Errors
    /// `FBIG` when a table would be too long; errors of the file. Memory has the old structures
    /// then, whatever the disk has.
    pub(super) async fn rebuild_refcounts<E: Surroundings>(&self, env: &E) -> Result<()> {
        let geometry = self.geometry;
        let file_end = geometry.clusters(env.file().len()) + 1;
        // A cluster that the end of the file cuts may be named as well.
        let base = file_end.max(geometry.clusters(self.host_end()));
        if base / geometry.block_reach() >= MAX_REFCOUNT_TABLE_BYTES / 8 {
            return Err(self.no_space(Errno::FBIG));
        }
        let mut area = Area {
            first: base,
            boundary: base / geometry.block_reach(),
            words: vec![0; geometry.entries_len()],
            entries: Vec::new(),
            written: 0,
        };
        let mut window = 0..self.window_len();
        loop {
            let mut census = self.census(env, window.clone(), Counted::WithoutRefcounts);
            self.walk(env, &mut census, None).await?;
            self.write_counts(env, &census, &mut area).await?;
            if census.next == u64::MAX {
                break;
            }
            let reach = geometry.block_reach();
            let start = window.end.max(census.next / reach * reach);
            window = start..start.saturating_add(self.window_len());
        }
        self.finish_rebuild(env, area).await
    }

    /// Writes the blocks of a window that count anything.
    async fn write_counts<E: Surroundings>(
        &self,
        env: &E,
        census: &Census,
        area: &mut Area,
    ) -> Result<()> {
        let geometry = self.geometry;
        let reach = geometry.block_reach();
        let first = census.window.start / reach;
        let chunks = census
            .counts
            .chunks(usize::try_from(reach).unwrap_or(usize::MAX));
        for (index, counts) in (first..).zip(chunks) {
            if counts.iter().all(|&count| count == 0) {
                continue;
            }
            let mut words = vec![0; geometry.entries_len()];
            for (cluster, &count) in (0..).zip(counts) {
                let count = u64::from(count).min(geometry.max_refcount());
                geometry.put_count(&mut words, cluster, count);
            }
            if index == area.boundary {
                area.words = words;
                continue;
            }
            let at = geometry.host_of(area.first + area.written);
            env.file().write_bytes(at.0, &bytes_be(&words)).await?;
            area.set_entry(index, at);
            area.written += 1;
        }
        Ok(())
    }

    /// Writes what counts the new structures themselves, then lets the header name them.
    async fn finish_rebuild<E: Surroundings>(&self, env: &E, mut area: Area) -> Result<()> {
        let geometry = self.geometry;
        let reach = geometry.block_reach();
        let own = area.own_structures(geometry);
        if own.table_clusters << geometry.cluster_bits > MAX_REFCOUNT_TABLE_BYTES {
            return Err(self.no_space(Errno::FBIG));
        }
        let end = area.first + area.written + own.blocks + own.table_clusters;
        for n in 0..own.blocks {
            let index = area.boundary + n;
            let mut words = match n {
                0 => std::mem::take(&mut area.words),
                _ => vec![0; geometry.entries_len()],
            };
            let here = index * reach..(index + 1) * reach;
            for cluster in area.first.max(here.start)..end.min(here.end) {
                geometry.put_count(&mut words, cluster % reach, 1);
            }
            let at = geometry.host_of(area.first + area.written + n);
            env.file().write_bytes(at.0, &bytes_be(&words)).await?;
            area.set_entry(index, at);
        }
        let table = geometry.host_of(end - own.table_clusters);
        let len = usize::try_from(own.table_clusters * geometry.entries()).unwrap_or(0);
        area.entries.resize(len, 0);
        env.file()
            .write_bytes(table.0, &bytes_be(&area.entries))
            .await?;
        env.file().flush().await?;
        self.update_header(env, |header| {
            header.refcount_table = table;
            // Bounded by MAX_REFCOUNT_TABLE_BYTES.
            header.refcount_table_clusters = u32::try_from(own.table_clusters).unwrap_or(u32::MAX);
        })
        .await?;
        self.refcounts
            .host_end
            .fetch_max(geometry.host_of(end).0, Ordering::AcqRel);
        self.adopt_refcounts(area.entries);
        self.note_places(env).await
    }
}

/// Where new refcount structures go: blocks one after the other, then the table.
struct Area {
    /// The first cluster.
    first: u64,
    /// The block that describes this cluster, which is written last.
    boundary: u64,
    /// That block's words so far.
    words: Vec<u64>,
    /// The new refcount table.
    entries: Vec<u64>,
    /// Blocks written so far.
    written: u64,
}

/// What the new structures need for themselves.
struct OwnStructures {
    blocks: u64,
    table_clusters: u64,
}

impl Area {
    fn set_entry(&mut self, index: u64, at: HostOffset) {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        if self.entries.len() <= place {
            self.entries.resize(place + 1, 0);
        }
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = at.0;
        }
    }

    /// How many blocks describe the area itself, and how long the table is.
    fn own_structures(&self, geometry: Geometry) -> OwnStructures {
        let (mut blocks, mut table_clusters) = (1, 1);
        loop {
            let last = self.first + self.written + blocks + table_clusters - 1;
            let last = last / geometry.block_reach();
            let needed = (
                last - self.boundary + 1,
                geometry.clusters((last + 1).saturating_mul(8)),
            );
            if needed == (blocks, table_clusters) {
                return OwnStructures {
                    blocks,
                    table_clusters,
                };
            }
            // Neither shrinks when the other grows, so this ends.
            (blocks, table_clusters) = (needed.0.max(blocks), needed.1.max(table_clusters));
        }
    }
}
