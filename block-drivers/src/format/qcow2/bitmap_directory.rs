//! The bitmap directory: its entries, from bytes and back, and the header extension that names it.
//! Called by `bitmaps` (load, store, remove) and by `check`. Pure.
//! Invariant: every length meets a bound before it is used, and an entry is written back with all
//! that it had, its extra data included. Spec: qcow2 "Bitmaps extension", "Bitmap directory".
//! Not here: what is in a bitmap.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32, U64};

use super::error::ImageError;
use super::geometry::Geometry;
use super::header::Header;
use super::layout::{DIRTY_TRACKING, RawBitmap, RawBitmaps, bitmap_flags, extension};
use crate::kit::addr::HostOffset;
use crate::kit::layout::{read_slice, read_struct};

/// Bitmaps of an image at most: a limit of every implementation.
pub(super) const MAX_BITMAPS: u32 = 65535;
/// Bytes of a bitmap directory at most: a limit of every implementation.
pub(super) const MAX_DIRECTORY_BYTES: u64 = 64 << 20;
/// Bytes that the clusters of a bitmap take at most: a limit of every implementation.
pub(super) const MAX_BITMAP_BYTES: u64 = 512 << 20;
/// Bits of a granularity that programs can use.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// Bytes of a name at most.
const MAX_NAME: usize = 1023;
/// Bytes of an entry's fixed part.
const FIXED: usize = size_of::<RawBitmap>();
/// Where an entry's flags are.
const FLAGS_AT: usize = 12;

/// Where the directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) count: u32,
    pub(super) offset: HostOffset,
    /// Bytes.
    pub(super) len: u64,
}

impl Place {
    /// For the length of an extension, which is always the same.
    pub(super) const NOWHERE: Place = Place {
        count: 0,
        offset: HostOffset(0),
        len: 0,
    };

    /// The place that a header's extension names; `None` when it has no such extension.
    ///
    /// # Errors
    /// When it is not what the specification describes, or does not lie in the file.
    pub(super) fn of(header: &Header, file_len: u64) -> Result<Option<Place>, ImageError> {
        let mut extensions = header.extensions.iter();
        let Some(found) = extensions.find(|e| e.kind == extension::BITMAPS) else {
            return Ok(None);
        };
        let wrong = |offset, what| ImageError::BitmapDirectory { offset, what };
        let whole = found.data.len() == size_of::<RawBitmaps>();
        let Some(raw) = read_struct::<RawBitmaps>(&found.data, 0).filter(|_| whole) else {
            return Err(wrong(0, "an extension whose length is not 24"));
        };
        let offset = raw.bitmap_directory_offset.get();
        let place = Place {
            count: raw.nb_bitmaps.get(),
            offset: HostOffset(offset),
            len: raw.bitmap_directory_size.get(),
        };
        if raw.reserved.get() != 0 {
            return Err(wrong(offset, "an extension with reserved bits set"));
        }
        if place.count == 0 || place.count > MAX_BITMAPS {
            return Err(wrong(offset, "no bitmaps, or more than 65535"));
        }
        if place.len > MAX_DIRECTORY_BYTES {
            return Err(wrong(offset, "more than 64 MiB"));
        }
        if offset == 0 || header.geometry.within(offset) != 0 {
            return Err(wrong(offset, "an offset off a cluster boundary"));
        }
        if offset
            .checked_add(place.len)
            .is_none_or(|end| end > file_len)
        {
            return Err(wrong(offset, "an end behind the end of the file"));
        }
        Ok(Some(place))
    }

    /// The extension that names this place.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let raw = RawBitmaps {
            nb_bitmaps: U32::new(self.count),
            reserved: U32::new(0),
            bitmap_directory_size: U64::new(self.len),
            bitmap_directory_offset: U64::new(self.offset.0),
        };
        raw.as_bytes().to_vec()
    }
}

/// A bitmap as the directory describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) table: HostOffset,
    /// Entries of the table.
    pub(super) table_size: u32,
    pub(super) flags: u32,
    pub(super) kind: u8,
    pub(super) granularity_bits: u8,
    pub(super) extra_data: Vec<u8>,
    /// As it stands, in whatever encoding.
    pub(super) name: Vec<u8>,
}

impl Stored {
    /// Its name for people and commands.
    pub(super) fn shown_name(&self) -> String {
        let name = String::from_utf8_lossy(&self.name);
        // What stands for bytes that are no text may be longer than they are.
        let end = name.floor_char_boundary(MAX_NAME);
        name.get(..end).unwrap_or_default().to_owned()
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of the table.
    pub(super) fn table_bytes(&self) -> u64 {
        u64::from(self.table_size).saturating_mul(8)
    }

    /// Why this bitmap cannot be used although nothing is damaged; it stays as it is.
    pub(super) fn unknown_part(&self) -> Option<&'static str> {
        let known = bitmap_flags::IN_USE | bitmap_flags::AUTO | bitmap_flags::EXTRA_DATA_COMPATIBLE;
        match () {
            () if self.kind != DIRTY_TRACKING => Some("a type that is not known"),
            () if std::str::from_utf8(&self.name).is_err() => Some("a name that is no text"),
            () if self.flags & !known != 0 => Some("flags that are not known"),
            () if !GRANULARITY_BITS.contains(&self.granularity_bits) => {
                Some("a granularity that is not from 512 bytes to 2 GiB")
            }
            () if !self.extra_data.is_empty() && !self.has(bitmap_flags::EXTRA_DATA_COMPATIBLE) => {
                Some("extra data that must be known")
            }
            () => None,
        }
    }

    /// Checks that the table is where a table can be.
    ///
    /// # Errors
    /// What is wrong with its place or length.
    pub(super) fn check_table(&self, geometry: Geometry, file_len: u64) -> Result<(), ImageError> {
        let offset = self.table.0;
        let wrong = |what| ImageError::Bitmap {
            name: self.shown_name(),
            what,
        };
        if self.table_size == 0 || offset == 0 || geometry.within(offset) != 0 {
            return Err(wrong("no table, or one off a cluster boundary"));
        }
        if u64::from(self.table_size).saturating_mul(geometry.cluster_size()) > MAX_BITMAP_BYTES {
            return Err(wrong("more than 512 MiB of clusters"));
        }
        let end = offset.checked_add(self.table_bytes());
        if end.is_none_or(|end| end > file_len) {
            return Err(wrong("a table that ends behind the end of the file"));
        }
        Ok(())
    }

    /// Bytes of the entry.
    pub(super) fn entry_len(&self) -> usize {
        entry_len(self.name.len(), self.extra_data.len())
    }

    fn write_to(&self, bytes: &mut Vec<u8>) {
        let raw = RawBitmap {
            bitmap_table_offset: U64::new(self.table.0),
            bitmap_table_size: U32::new(self.table_size),
            flags: U32::new(self.flags),
            kind: self.kind,
            granularity_bits: self.granularity_bits,
            // Both came from such fields, or are bounded by far less.
            name_size: U16::new(u16::try_from(self.name.len()).unwrap_or(u16::MAX)),
            extra_data_size: U32::new(u32::try_from(self.extra_data.len()).unwrap_or(u32::MAX)),
        };
        bytes.extend_from_slice(raw.as_bytes());
        bytes.extend_from_slice(&self.extra_data);
        bytes.extend_from_slice(&self.name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
}

/// Bytes of an entry with such a name and extra data.
pub(super) fn entry_len(name_len: usize, extra_len: usize) -> usize {
    let len = FIXED.saturating_add(name_len).saturating_add(extra_len);
    len.saturating_add(7) & !7
}

/// The directory as it goes to disk.
pub(super) fn directory_bytes(entries: &[Stored]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        entry.write_to(&mut bytes);
    }
    bytes
}

/// Understands a directory.
///
/// # Errors
/// When its entries are not as many and as long as the extension says, or names are missing, too
/// long or there twice.
pub(super) fn parse_directory(place: &Place, bytes: &[u8]) -> Result<Vec<Stored>, ImageError> {
    let offset = place.offset.0;
    let wrong = |what| ImageError::BitmapDirectory { offset, what };
    let mut entries: Vec<Stored> = Vec::new();
    let mut names = std::collections::HashSet::new();
    let mut at = 0_usize;
    while at < bytes.len() {
        let raw: RawBitmap =
            read_struct(bytes, at).ok_or_else(|| wrong("an entry that leaves it"))?;
        let name_len = usize::from(raw.name_size.get());
        let extra_len = usize::try_from(raw.extra_data_size.get()).unwrap_or(usize::MAX);
        let extra_at = at.saturating_add(FIXED);
        let extra = read_slice(bytes, extra_at, extra_len);
        let name = read_slice(bytes, extra_at.saturating_add(extra_len), name_len);
        let (Some(extra), Some(name)) = (extra, name) else {
            return Err(wrong("an entry that leaves it"));
        };
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(wrong("a name that is empty or longer than 1023 bytes"));
        }
        let stored = Stored {
            table: HostOffset(raw.bitmap_table_offset.get()),
            table_size: raw.bitmap_table_size.get(),
            flags: raw.flags.get(),
            kind: raw.kind,
            granularity_bits: raw.granularity_bits,
            extra_data: extra.to_vec(),
            name: name.to_vec(),
        };
        if !names.insert(stored.shown_name()) {
            return Err(wrong("a name twice"));
        }
        at = at.saturating_add(stored.entry_len());
        entries.push(stored);
    }
    if at != bytes.len() || entries.len() as u64 != u64::from(place.count) {
        return Err(wrong("another number of entries than the extension says"));
    }
    Ok(entries)
}

/// Sets the flag that says that a bitmap may miss writes in some entries of a directory's bytes;
/// nothing else changes, so each sector of it is right whether it was written or not.
pub(super) fn with_in_use(entries: &[Stored], mark: impl Fn(&Stored) -> bool) -> Vec<u8> {
    let mut bytes = directory_bytes(entries);
    let mut at = 0_usize;
    for entry in entries {
        let flags = at.saturating_add(FLAGS_AT);
        if mark(entry)
            && let Some(place) = bytes.get_mut(flags..flags.saturating_add(4))
        {
            place.copy_from_slice(&(entry.flags | bitmap_flags::IN_USE).to_be_bytes());
        }
        at = at.saturating_add(entry.entry_len());
    }
    bytes
}
