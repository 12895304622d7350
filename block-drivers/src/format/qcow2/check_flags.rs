//! Check of copied flags: each stands exactly where a refcount is one.
//! Called by `check`, drained: with its walk where nothing is repaired, after it where counts were made
//! right before. What is found is worded as `qemu-img check` words it.
//! Spec: qcow2 "Cluster mapping". Not here: references (`check.rs`).

use std::collections::HashSet;

use block_core::driver::{CheckReport, Repair};
use block_core::{AlignedBuf, Result};

use super::check::say;
use super::image::Image;
use super::layout::{FullEntry, L1Entry};
use super::map::Cluster;
use super::stored_counts::StoredCounts;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::table_cache::Needs;

impl Image {
    /// Checks that copied flags stand exactly where a refcount is one.
    pub(super) async fn check_flags<E: Surroundings>(
        &self,
        env: &E,
        repair: Repair,
        report: &mut CheckReport,
    ) -> Result<()> {
        let entries = u64::from(self.header.lock().l1_size);
        let mut counts = StoredCounts::new(self, env);
        let mut repaired = HashSet::new();
        let mut memory = AlignedBuf::zeroed(self.geometry.cluster_len());
        for key in 0..entries {
            let entry = self.l1.entry(key);
            if entry.table().is_none() {
                continue;
            }
            self.check_meter.step();
            let told = self.check_table_flag((key, entry), &mut counts, repair, report);
            let Some(at) = told.await? else { continue };
            // In a table that is something else as well, or nothing, nothing is made right.
            let repair = match self.l2_place(key) {
                Ok(_) => repair,
                Err(_) => Repair::None,
            };
            // A table that two entries name is made right once.
            if !repaired.contains(&at) && at.0 < env.file().len() {
                memory = env.file().read_into(at.0, memory).await?;
                self.overlay_l1(at, &mut memory);
                let made_right = self
                    .check_entry_flags((key, &memory), &mut counts, repair, report)
                    .await?;
                if made_right {
                    repaired.insert(at);
                }
            }
        }
        Ok(())
    }

    /// Makes bytes of the file at `at` what they will be where they are the L1 table, whose flags may have
    /// been made right: an entry may name it for its own table.
    fn overlay_l1(&self, at: HostOffset, bytes: &mut [u8]) {
        let header = self.header.lock();
        let (l1, end) = (header.l1_table.0, at.0.saturating_add(bytes.len() as u64));
        let keys = u64::from(header.l1_size).min(end.saturating_sub(l1).div_ceil(8));
        for key in at.0.saturating_sub(l1).div_ceil(8)..keys {
            let place = l1.saturating_add(key * 8);
            let start = usize::try_from(place - at.0).unwrap_or(usize::MAX);
            let entry = self.l1.entry(key).0.to_be_bytes();
            if let Some(bytes) = bytes.get_mut(start..start.saturating_add(entry.len())) {
                bytes.copy_from_slice(&entry);
            }
        }
    }

    /// Checks the flag of an L1 entry; returns where its table is, unless nobody knows the table's count.
    pub(super) async fn check_table_flag<E: Surroundings>(
        &self,
        (key, entry): (u64, L1Entry),
        counts: &mut StoredCounts<'_, E>,
        repair: Repair,
        report: &mut CheckReport,
    ) -> Result<Option<HostOffset>> {
        let Some(at) = entry.table() else {
            return Ok(None);
        };
        let cluster = self.geometry.cluster_of(at);
        match counts.is_one(cluster).await? {
            None => return Ok(None),
            Some(is_one) if is_one == entry.is_copied() => return Ok(Some(at)),
            Some(_) => {}
        }
        let Some(count) = counts.of(cluster).await? else {
            return Ok(None);
        };
        let fixed = repair == Repair::All;
        let verb = if fixed { "Repairing" } else { "ERROR" };
        say(
            report,
            format!(
                "{verb} OFLAG_COPIED L2 cluster: l1_index={key} l1_entry={:x} refcount={count}",
                entry.0
            ),
        );
        if fixed {
            self.set_l1_entry(key, entry.with_copied(count == 1));
            report.corruptions_fixed += 1;
        } else {
            report.corruptions += 1;
        }
        Ok(Some(at))
    }

    /// Checks the flags of a table's entries; returns whether any was made right.
    pub(super) async fn check_entry_flags<E: Surroundings>(
        &self,
        (key, table): (u64, &[u8]),
        counts: &mut StoredCounts<'_, E>,
        repair: Repair,
        report: &mut CheckReport,
    ) -> Result<bool> {
        let (env, mut made_right) = (counts.env(), false);
        for (index, full) in FullEntry::of_bytes(table, self.geometry.l2_entry_words()) {
            let entry = full.entry;
            let host = entry.host();
            if self.has_data_file() {
                // Each cluster of the data file has one user; the others have no cluster.
                if !matches!(
                    self.classify(entry),
                    Ok(Cluster::Data(_) | Cluster::Zero(Some(_)))
                ) {
                    continue;
                }
            } else if entry.is_compressed() || host.0 == 0 {
                continue;
            }
            let cluster = self.geometry.cluster_of(host);
            let is_one = match self.has_data_file() {
                true => Some(true),
                false => counts.is_one(cluster).await?,
            };
            if is_one.is_none_or(|is_one| is_one == entry.is_copied()) {
                continue;
            }
            let count = match self.has_data_file() {
                true => Some(1),
                false => counts.of(cluster).await?,
            };
            let Some(count) = count else { continue };
            let fixed = repair == Repair::All;
            let verb = if fixed { "Repairing" } else { "ERROR" };
            say(
                report,
                format!(
                    "{verb} OFLAG_COPIED data cluster: l2_entry={:x} refcount={count}",
                    entry.0
                ),
            );
            if !fixed {
                report.corruptions += 1;
                continue;
            }
            if let Some(table) = self.table(env, key).await? {
                let entry = entry.with_copied(count == 1);
                let fixed = FullEntry { entry, ..full };
                self.set_entries(&table, index, std::iter::once(fixed), Needs::Nothing);
                report.corruptions_fixed += 1;
                made_right = true;
            }
            self.limit_dirty(env).await?;
        }
        Ok(made_right)
    }
}
