//! The snapshot table: as much of it as others need to keep snapshots safe.
//! Called by open; used by `check` and shown by `info`. Invariant: every length meets a bound before it is read.
//! Spec: qcow2 "Snapshots". Not here: taking, applying and deleting snapshots.

use block_core::Result;
use block_schema::types::SnapshotInfo;

use super::error::ImageError;
use super::header::Header;
use super::image::Image;
use super::layout::RawSnapshot;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::ImageFile;
use crate::kit::layout::{read_slice, read_struct};

/// Bytes of an entry's fixed part.
const FIXED: usize = size_of::<RawSnapshot>();
/// Nanoseconds of a second.
const NANOS: u64 = 1_000_000_000;

/// Bytes of a snapshot table at most: a limit of every implementation.
const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Where the instruction count stands in the extra data.
const ICOUNT_AT: usize = 16;
/// Bytes of an entry's extra data at most.
const MAX_EXTRA_DATA: u32 = 1024;

/// The snapshot table, read when the image is opened.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) entries: Vec<Snapshot>,
    /// Bytes of the table.
    pub(super) table_len: u64,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Snapshot {
    pub(super) l1_table: HostOffset,
    pub(super) l1_size: u32,
    info: SnapshotInfo,
}

impl Image {
    /// The snapshots as tools show them.
    pub(super) fn snapshot_infos(&self) -> Vec<SnapshotInfo> {
        self.snapshots
            .entries
            .iter()
            .map(|s| s.info.clone())
            .collect()
    }
}

/// Reads the snapshot table.
///
/// # Errors
/// `Corrupt` when the table leaves the file or breaks a limit; errors of the file.
pub(super) async fn read_snapshots<F: ImageFile>(
    file: &F,
    header: &Header,
    node: &str,
) -> Result<Snapshots> {
    let (start, file_len) = (header.snapshots.0, file.len());
    let mut snapshots = Snapshots::default();
    for index in 0..header.snapshot_count {
        let offset = start + snapshots.table_len;
        let wrong = |what| {
            ImageError::Snapshot {
                index,
                offset,
                what,
            }
            .at(node)
        };
        if snapshots.table_len > MAX_TABLE_BYTES {
            return Err(wrong("a place beyond 64 MiB of table"));
        }
        let left = file_len.saturating_sub(offset);
        let fixed = file
            .read_bytes(offset, FIXED.min(usize::try_from(left).unwrap_or(FIXED)))
            .await?;
        let raw: RawSnapshot =
            read_struct(&fixed, 0).ok_or_else(|| wrong("no room in the file"))?;
        if raw.extra_data_len.get() > MAX_EXTRA_DATA {
            return Err(wrong("more than 1024 bytes of extra data"));
        }
        let (id_len, name_len) = (
            usize::from(raw.id_len.get()),
            usize::from(raw.name_len.get()),
        );
        let extra_len = usize::try_from(raw.extra_data_len.get()).unwrap_or(usize::MAX);
        // At most 129 KiB, by the widths of the fields.
        let rest_len = extra_len + id_len + name_len;
        if left < (FIXED + rest_len) as u64 {
            return Err(wrong("an end behind the end of the file"));
        }
        let rest = file.read_bytes(offset + FIXED as u64, rest_len).await?;
        let text = |at: usize, len: usize| {
            let bytes = read_slice(&rest, at, len).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let wide_state = read_slice(&rest, 0, 8).filter(|_| extra_len >= 8);
        let vm_state = match wide_state.and_then(|b| b.first_chunk()) {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => u64::from(raw.vm_state_size.get()),
        };
        let Ok(vm_state_size) = i64::try_from(vm_state) else {
            return Err(wrong("a VM state beyond 2^63 bytes"));
        };
        let icount = read_slice(&rest, ICOUNT_AT, 8).filter(|_| extra_len >= ICOUNT_AT + 8);
        let icount = icount.and_then(|b| b.first_chunk()).copied();
        let clock = raw.vm_clock_nanoseconds.get();
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let info = SnapshotInfo {
            id: text(extra_len, id_len),
            name: text(extra_len + id_len, name_len),
            vm_state_size,
            date_sec: i64::from(raw.date_seconds.get()),
            date_nsec: i64::from(raw.date_nanoseconds.get()),
            vm_clock_sec: signed(clock / NANOS),
            vm_clock_nsec: signed(clock % NANOS),
            // All ones stand for none, as does any count that nobody can have reached.
            icount: icount.and_then(|bytes| i64::try_from(u64::from_be_bytes(bytes)).ok()),
        };
        snapshots.entries.push(Snapshot {
            l1_table: HostOffset(raw.l1_table_offset.get()),
            l1_size: raw.l1_size.get(),
            info,
        });
        snapshots.table_len += ((FIXED + rest_len) as u64).next_multiple_of(8);
    }
    Ok(snapshots)
}
