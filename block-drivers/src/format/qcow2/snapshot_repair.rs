//! Repair of the snapshot table: entries that have too much or too little, and a table that has too
//! many or ends behind the file.
//! Called by `check`, drained: reading before counts are looked at, since what the table names is
//! counted, and writing anew after they were made right. Worded as `qemu-img check` words it.
//! Invariant: the header's sector decides, for the number of entries and for a new table alike.
//! Spec: qcow2 "Snapshots". Not here: entries themselves (`snapshot_table.rs`).

use block_core::Result;
use block_core::driver::{CheckReport, Repair};

use super::check::say;
use super::header::{MAX_SNAPSHOTS, Version};
use super::image::Image;
use super::snapshot_table::{EntryFault, MAX_EXTRA_DATA, MAX_TABLE_BYTES, Snapshots, read_entry};
use super::switch::Next;
use crate::kit::image_file::Surroundings;

/// Bytes of extra data that entries of version 3 have at least.
const LEAST_EXTRA_DATA: u32 = 16;

impl Image {
    /// Reads the snapshot table, and cuts it where `repair` allows; returns how many entries must be
    /// written anew.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn check_snapshots<E: Surroundings>(
        &self,
        env: &E,
        repair: Repair,
        report: &mut CheckReport,
    ) -> Result<u64> {
        let all = repair == Repair::All;
        let count = self.header.lock().snapshot_count;
        let mut kept = count.min(MAX_SNAPSHOTS);
        if count > kept {
            let beyond = count - kept;
            if !all {
                say(report, "ERROR snapshot table too large".to_owned());
                say(
                    report,
                    format!(
                        "You can force-remove all {beyond} overhanging snapshots with qemu-img \
                         check -r all"
                    ),
                );
                report.check_errors += 1;
                return Ok(0);
            }
            say(report, format!("Discarding {beyond} overhanging snapshots"));
        }
        let start = self.header.lock().snapshots;
        let (mut table, mut dropped) = (Snapshots::default(), 0);
        for index in 0..kept {
            let at = start.plus(table.table_len);
            let read = read_entry(env.file(), at).await?;
            let (snapshot, len) = match read {
                Ok(entry) => entry,
                Err(EntryFault::ExtraData { len, cut }) if all => {
                    say(
                        report,
                        format!(
                            "Discarding too much extra metadata in snapshot table entry {index} \
                             ({len} > {MAX_EXTRA_DATA})"
                        ),
                    );
                    dropped += 1;
                    *cut
                }
                Err(fault) if all => {
                    let (beyond, what) = (kept - index, fault.what());
                    let text = format!("Discarding {beyond} overhanging snapshots ({what})");
                    say(report, text);
                    kept = index;
                    break;
                }
                Err(fault) => {
                    let what = match &fault {
                        EntryFault::ExtraData { .. } => "Too much extra metadata",
                        EntryFault::Broken(what) => what,
                    };
                    let text = "ERROR failed to read the snapshot table";
                    say(
                        report,
                        format!("{text}: {what} in snapshot table entry {index}"),
                    );
                    report.check_errors += 1;
                    return Ok(0);
                }
            };
            if table.table_len + len > MAX_TABLE_BYTES {
                let overhanging = kept - index;
                if !all {
                    let text = "ERROR failed to read the snapshot table: Snapshot table is too big";
                    say(report, text.to_owned());
                    report.check_errors += 1;
                    return Ok(0);
                }
                say(
                    report,
                    format!(
                        "Discarding {overhanging} overhanging snapshots (snapshot table is too big)"
                    ),
                );
                kept = index;
                break;
            }
            table.entries.push(snapshot);
            table.table_len += len;
        }
        if kept < count {
            // Whatever they led to leaks, and is found to.
            self.update_header(env, |header| header.snapshot_count = kept)
                .await?;
            report.corruptions_fixed += u64::from(count - kept);
        }
        let incomplete = self.find_incomplete(&table, all, report);
        report.corruptions += dropped + incomplete;
        *self.snapshots.lock() = table;
        Ok(dropped + incomplete)
    }

    /// Counts entries that have less than their version wants.
    fn find_incomplete(&self, table: &Snapshots, repaired: bool, report: &mut CheckReport) -> u64 {
        if self.version == Version::V2 {
            return 0;
        }
        let verb = if repaired { "Repairing" } else { "ERROR" };
        let entries = (0..).zip(&table.entries);
        let mut count = 0;
        for (index, _) in entries.filter(|(_, s)| s.extra_data_len() < LEAST_EXTRA_DATA) {
            say(
                report,
                format!("{verb} snapshot table entry {index} is incomplete"),
            );
            count += 1;
        }
        count
    }

    /// Writes the snapshot table anew, with `wrong` entries made right.
    ///
    /// # Errors
    /// Errors of the file; the table stays as it is then.
    pub(super) async fn rewrite_snapshots<E: Surroundings>(
        &self,
        env: &E,
        wrong: u64,
        report: &mut CheckReport,
    ) -> Result<()> {
        let size = self.size();
        let snapshots = self.snapshots.lock().entries.clone();
        let next = Next {
            size,
            l1: self.active_l1(),
            snapshots: snapshots.into_iter().map(|s| s.completed(size)).collect(),
            taken: false,
            gained: Vec::new(),
            lost: Vec::new(),
            given_up: None,
        };
        match self.switch(env, next).await {
            Ok(()) => {
                report.corruptions = report.corruptions.saturating_sub(wrong);
                report.corruptions_fixed += wrong;
                Ok(())
            }
            Err(error @ block_core::Error::Corrupt { .. }) => {
                let text = format!("ERROR failed to update snapshot table: {}", error.chain());
                say(report, text);
                report.check_errors += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
