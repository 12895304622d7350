//! The snapshot table: its entries, from bytes and back.
//! Called by open; by `snapshot` for the next table; by `check` and `info`.
//! Invariant: every length meets a bound before it is read, and an entry is written back as it
//! stood, with the extra data that we do not know. Spec: qcow2 "Snapshots".
//! Not here: what taking, applying and deleting do (`snapshot.rs`).

use block_core::driver::SnapshotKey;
use block_core::{Error, Result};
use block_schema::types::SnapshotInfo;
use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32, U64};

use super::error::ImageError;
use super::header::Header;
use super::image::Image;
use super::layout::{RawSnapshot, RawSnapshotExtra};
use crate::kit::addr::HostOffset;
use crate::kit::image_file::ImageFile;
use crate::kit::layout::{read_slice, read_struct};

/// Bytes of an entry's fixed part.
const FIXED: usize = size_of::<RawSnapshot>();
/// Nanoseconds of a second.
const NANOS: u64 = 1_000_000_000;

/// Bytes of a snapshot table at most: a limit of every implementation.
pub(super) const MAX_TABLE_BYTES: u64 = 64 << 20;
/// Where the disk's size stands in the extra data.
const DISK_SIZE_AT: usize = 8;
/// Where the instruction count stands in the extra data.
const ICOUNT_AT: usize = 16;
/// Bytes of an entry's extra data at most.
pub(super) const MAX_EXTRA_DATA: u32 = 1024;

/// The snapshot table, in memory as on disk.
#[derive(Clone, Debug, Default)]
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
    /// Bytes of the disk when it was taken; unsaid, they are those of the disk now.
    pub(super) disk_size: Option<u64>,
    pub(super) info: SnapshotInfo,
    /// The entry as it stands, without padding; the L1 table in it is out of date.
    entry: Vec<u8>,
}

impl Snapshot {
    /// A snapshot of a disk of `disk_size` bytes, whose L1 table is yet to be written.
    ///
    /// # Errors
    /// When the name or the ID are longer than an entry can say.
    pub(super) fn new(info: SnapshotInfo, disk_size: u64) -> Result<Snapshot> {
        let len = |text: &str| {
            u16::try_from(text.len())
                .map_err(|_| Error::invalid("name", "the snapshot's name or ID is too long"))
        };
        let clock = info.vm_clock_sec.unsigned_abs().saturating_mul(NANOS);
        let fixed = RawSnapshot {
            l1_table_offset: U64::new(0),
            l1_size: U32::new(0),
            id_len: U16::new(len(&info.id)?),
            name_len: U16::new(len(&info.name)?),
            date_seconds: U32::new(u32::try_from(info.date_sec).unwrap_or(u32::MAX)),
            date_nanoseconds: U32::new(u32::try_from(info.date_nsec).unwrap_or(0)),
            vm_clock_nanoseconds: U64::new(clock.saturating_add(info.vm_clock_nsec.unsigned_abs())),
            // Programs that know no extra data take what does not fit for no VM state.
            vm_state_size: U32::new(u32::try_from(info.vm_state_size).unwrap_or(0)),
            extra_data_len: U32::new(24),
        };
        let extra = RawSnapshotExtra {
            vm_state_size: U64::new(info.vm_state_size.unsigned_abs()),
            disk_size: U64::new(disk_size),
            icount: U64::new(info.icount.map_or(u64::MAX, i64::unsigned_abs)),
        };
        let mut entry = fixed.as_bytes().to_vec();
        entry.extend_from_slice(extra.as_bytes());
        entry.extend_from_slice(info.id.as_bytes());
        entry.extend_from_slice(info.name.as_bytes());
        Ok(Snapshot {
            l1_table: HostOffset(0),
            l1_size: 0,
            disk_size: Some(disk_size),
            info,
            entry,
        })
    }

    /// Bytes of the L1 table.
    pub(super) fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_size) * 8
    }

    /// Bytes of extra data.
    pub(super) fn extra_data_len(&self) -> u32 {
        let raw: Option<RawSnapshot> = read_struct(&self.entry, 0);
        raw.map_or(0, |raw| raw.extra_data_len.get())
    }

    /// The snapshot with all the extra data that version 3 knows; what it does not say of the disk's
    /// size is `disk_size`.
    pub(super) fn completed(mut self, disk_size: u64) -> Snapshot {
        let known = u32::try_from(size_of::<RawSnapshotExtra>()).unwrap_or(0);
        let old_len = self.extra_data_len();
        let Some(mut raw) = read_struct::<RawSnapshot>(&self.entry, 0) else {
            return self;
        };
        if old_len >= known {
            return self;
        }
        raw.extra_data_len = U32::new(known);
        let disk_size = self.disk_size.unwrap_or(disk_size);
        let extra = RawSnapshotExtra {
            vm_state_size: U64::new(self.info.vm_state_size.unsigned_abs()),
            disk_size: U64::new(disk_size),
            icount: U64::new(self.info.icount.map_or(u64::MAX, i64::unsigned_abs)),
        };
        let names_at = FIXED.saturating_add(usize::try_from(old_len).unwrap_or(0));
        let names = self.entry.get(names_at..).unwrap_or_default();
        self.entry = [raw.as_bytes(), extra.as_bytes(), names].concat();
        self.disk_size = Some(disk_size);
        self
    }

    /// The entry as it goes to disk, padded.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.entry.clone();
        let l1 = self.l1_table.0.to_be_bytes().into_iter();
        let new = l1.chain(self.l1_size.to_be_bytes());
        for (old, new) in bytes.iter_mut().zip(new) {
            *old = new;
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }
}

impl Snapshots {
    /// The ID that the next snapshot gets: behind the highest number that one starts with.
    pub(super) fn next_id(&self) -> String {
        let number = |id: &str| {
            let digits: String = id.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(0)
        };
        let highest = self.entries.iter().map(|s| number(&s.info.id)).max();
        highest.unwrap_or(0).saturating_add(1).to_string()
    }

    /// The first snapshot that a key means.
    pub(super) fn find(&self, key: &SnapshotKey) -> Option<usize> {
        self.entries.iter().position(|s| key.means(&s.info))
    }
}

/// The table of these snapshots as it goes to disk; `None` when it would be too large.
pub(super) fn table_bytes(entries: &[Snapshot]) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = entries.iter().flat_map(Snapshot::to_bytes).collect();
    (bytes.len() as u64 <= MAX_TABLE_BYTES).then_some(bytes)
}

impl Image {
    /// The snapshots as tools show them.
    pub(super) fn snapshot_infos(&self) -> Vec<SnapshotInfo> {
        let snapshots = self.snapshots.lock();
        snapshots.entries.iter().map(|s| s.info.clone()).collect()
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
    let mut snapshots = Snapshots::default();
    for index in 0..header.snapshot_count {
        let at = header.snapshots.plus(snapshots.table_len);
        let wrong = |what| {
            let offset = at.0;
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
        let read = read_entry(file, at).await?;
        let (snapshot, len) = read.map_err(|fault| wrong(fault.what()))?;
        snapshots.entries.push(snapshot);
        snapshots.table_len += len;
    }
    Ok(snapshots)
}

/// What is wrong with an entry.
pub(super) enum EntryFault {
    /// It has so much extra data; the entry without what is too much, and the bytes that it takes.
    ExtraData { len: u32, cut: Box<(Snapshot, u64)> },
    /// It cannot be.
    Broken(&'static str),
}

impl EntryFault {
    /// As a noun.
    pub(super) fn what(&self) -> &'static str {
        match self {
            EntryFault::ExtraData { .. } => "more than 1024 bytes of extra data",
            EntryFault::Broken(what) => what,
        }
    }
}

/// Reads an entry; it, and the bytes that it takes with its padding.
///
/// # Errors
/// Errors of the file.
pub(super) async fn read_entry<F: ImageFile>(
    file: &F,
    at: HostOffset,
) -> Result<Result<(Snapshot, u64), EntryFault>> {
    let left = file.len().saturating_sub(at.0);
    let fixed_len = FIXED.min(usize::try_from(left).unwrap_or(FIXED));
    let fixed = file.read_bytes(at.0, fixed_len).await?;
    let Some(mut raw) = read_struct::<RawSnapshot>(&fixed, 0) else {
        return Ok(Err(EntryFault::Broken("no room in the file")));
    };
    let said = raw.extra_data_len.get();
    let kept = said.min(MAX_EXTRA_DATA);
    let names = u64::from(raw.id_len.get()) + u64::from(raw.name_len.get());
    let whole = FIXED as u64 + u64::from(said) + names;
    if left < whole {
        return Ok(Err(EntryFault::Broken("an end behind the end of the file")));
    }
    // At most 129 KiB, by the widths of the fields.
    let len = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
    let extra_at = at.0 + FIXED as u64;
    let extra = file.read_bytes(extra_at, len(u64::from(kept))).await?;
    let names = file.read_bytes(extra_at + u64::from(said), len(names));
    let rest = [&extra[..], &names.await?[..]].concat();
    raw.extra_data_len = U32::new(kept);
    let entry = [raw.as_bytes(), &rest].concat();
    let parsed = match parse_entry(&raw, &rest, entry) {
        Ok(snapshot) => (snapshot, whole.next_multiple_of(8)),
        Err(what) => return Ok(Err(EntryFault::Broken(what))),
    };
    if said > kept {
        let cut = Box::new(parsed);
        return Ok(Err(EntryFault::ExtraData { len: said, cut }));
    }
    Ok(Ok(parsed))
}

/// Understands an entry: its fixed part, and the bytes behind, whose lengths were checked.
fn parse_entry(raw: &RawSnapshot, rest: &[u8], entry: Vec<u8>) -> Result<Snapshot, &'static str> {
    let extra_len = usize::try_from(raw.extra_data_len.get()).unwrap_or(usize::MAX);
    let (id_len, name_len) = (
        usize::from(raw.id_len.get()),
        usize::from(raw.name_len.get()),
    );
    let text = |at: usize, len: usize| {
        let bytes = read_slice(rest, at, len).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let extra = |at: usize| {
        let bytes = read_slice(rest, at, 8).filter(|_| extra_len >= at.saturating_add(8))?;
        bytes.first_chunk().map(|word| u64::from_be_bytes(*word))
    };
    let vm_state = extra(0).unwrap_or_else(|| u64::from(raw.vm_state_size.get()));
    let Ok(vm_state_size) = i64::try_from(vm_state) else {
        return Err("a VM state beyond 2^63 bytes");
    };
    let clock = raw.vm_clock_nanoseconds.get();
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let info = SnapshotInfo {
        id: text(extra_len, id_len),
        name: text(extra_len.saturating_add(id_len), name_len),
        vm_state_size,
        date_sec: i64::from(raw.date_seconds.get()),
        date_nsec: i64::from(raw.date_nanoseconds.get()),
        vm_clock_sec: signed(clock / NANOS),
        vm_clock_nsec: signed(clock % NANOS),
        // All ones stand for none, as does any count that nobody can have reached.
        icount: extra(ICOUNT_AT).and_then(|count| i64::try_from(count).ok()),
    };
    Ok(Snapshot {
        l1_table: HostOffset(raw.l1_table_offset.get()),
        l1_size: raw.l1_size.get(),
        disk_size: extra(DISK_SIZE_AT),
        info,
        entry,
    })
}
