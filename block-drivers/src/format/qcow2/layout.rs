//! On-disk structures of qcow2, in the order of the specification, with its names.
//! Used by `header` and by all that reads or writes table entries. Not here: what is legal.
//! Spec: QEMU docs/interop/qcow2.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::kit::addr::HostOffset;
use crate::kit::layout::assert_layout;

/// The first four bytes of every image.
pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of a version 2 header.
pub(super) const HEADER_V2_LEN: usize = 72;
/// Bytes that a version 3 header has at least.
pub(super) const HEADER_V3_LEN: usize = 104;
/// Bytes of the header that we write for version 3: with `compression_type` and its padding.
pub(super) const HEADER_FULL_LEN: usize = 112;

/// "Header", the part of version 2.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: U32,
    pub(super) backing_file_offset: U64,
    pub(super) backing_file_size: U32,
    pub(super) cluster_bits: U32,
    pub(super) size: U64,
    pub(super) crypt_method: U32,
    pub(super) l1_size: U32,
    pub(super) l1_table_offset: U64,
    pub(super) refcount_table_offset: U64,
    pub(super) refcount_table_clusters: U32,
    pub(super) nb_snapshots: U32,
    pub(super) snapshots_offset: U64,
}
assert_layout!(RawHeader, size = HEADER_V2_LEN, {
    magic: 0, version: 4, backing_file_offset: 8, backing_file_size: 16, cluster_bits: 20, size: 24,
    crypt_method: 32, l1_size: 36, l1_table_offset: 40, refcount_table_offset: 48,
    refcount_table_clusters: 56, nb_snapshots: 60, snapshots_offset: 64,
});

/// "Header", what version 3 adds behind [`RawHeader`].
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeaderV3 {
    pub(super) incompatible_features: U64,
    pub(super) compatible_features: U64,
    pub(super) autoclear_features: U64,
    pub(super) refcount_order: U32,
    pub(super) header_length: U32,
}
assert_layout!(RawHeaderV3, size = 32, {
    incompatible_features: 0, compatible_features: 8, autoclear_features: 16,
    refcount_order: 24, header_length: 28,
});

/// Bits of `incompatible_features`.
pub(super) mod incompatible {
    /// Refcounts may be wrong.
    pub(in super::super) const DIRTY: u64 = 1;
    /// Anything may be wrong.
    pub(in super::super) const CORRUPT: u64 = 1 << 1;
    /// Guest clusters are in another file.
    pub(in super::super) const DATA_FILE: u64 = 1 << 2;
    /// `compression_type` is not deflate.
    pub(in super::super) const COMPRESSION: u64 = 1 << 3;
    /// L2 entries are 128 bits.
    pub(in super::super) const EXTENDED_L2: u64 = 1 << 4;
}

/// Bits of `compatible_features`.
pub(super) mod compatible {
    /// Refcounts may be updated late.
    pub(in super::super) const LAZY_REFCOUNTS: u64 = 1;
}

/// Bits of `autoclear_features`.
pub(super) mod autoclear {
    /// The bitmaps extension is consistent.
    pub(in super::super) const BITMAPS: u64 = 1;
    /// The external data file is a raw image.
    pub(in super::super) const DATA_FILE_RAW: u64 = 1 << 1;
}

/// "Header extensions", types.
pub(super) mod extension {
    /// End of the header extension area.
    pub(in super::super) const END: u32 = 0;
    /// Backing file format name string.
    pub(in super::super) const BACKING_FORMAT: u32 = 0xe279_2aca;
    /// Full disk encryption header pointer.
    pub(in super::super) const ENCRYPTION: u32 = 0x0537_be77;
    /// External data file name string.
    pub(in super::super) const DATA_FILE: u32 = 0x4441_5441;
    /// Feature name table.
    pub(in super::super) const FEATURE_NAMES: u32 = 0x6803_f857;
    /// Bitmaps extension.
    pub(in super::super) const BITMAPS: u32 = 0x2385_2875;
}

/// The head of a header extension.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawExtension {
    pub(super) kind: U32,
    pub(super) len: U32,
}
assert_layout!(RawExtension, size = 8, { kind: 0, len: 4 });

/// "Full disk encryption header pointer".
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawEncryption {
    pub(super) offset: U64,
    pub(super) len: U64,
}
assert_layout!(RawEncryption, size = 16, { offset: 0, len: 8 });

/// An entry of the feature name table.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawFeatureName {
    pub(super) kind: u8,
    pub(super) bit: u8,
    pub(super) name: [u8; 46],
}
assert_layout!(RawFeatureName, size = 48, { kind: 0, bit: 1, name: 2 });

/// "Refcount table entry".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefcountTableEntry(pub(super) u64);

impl RefcountTableEntry {
    const OFFSET: u64 = !0x1ff;

    /// Where the refcount block is; `None` when there is none.
    pub(super) fn block(self) -> Option<HostOffset> {
        let offset = self.0 & Self::OFFSET;
        (offset != 0).then_some(HostOffset(offset))
    }

    /// Bits that must be 0.
    pub(super) fn reserved(self) -> u64 {
        self.0 & !Self::OFFSET
    }
}

/// Set in an L1 or L2 entry whose cluster has a refcount of exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// Bits 9 to 55: the host offset in L1 entries and in standard L2 entries.
const HOST_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The first host offset that no table entry can hold.
pub(super) const HOST_LIMIT: u64 = 1 << 56;

/// "L1 table entry".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct L1Entry(pub(super) u64);

impl L1Entry {
    /// The entry of an L2 table that this image owns alone.
    pub(super) fn owned(table: HostOffset) -> L1Entry {
        L1Entry(table.0 | COPIED)
    }

    /// Where the L2 table is; `None` when there is none.
    pub(super) fn table(self) -> Option<HostOffset> {
        let offset = self.0 & HOST_OFFSET;
        (offset != 0).then_some(HostOffset(offset))
    }

    /// The same entry with the flag as `copied` says.
    pub(super) fn with_copied(self, copied: bool) -> L1Entry {
        L1Entry(if copied {
            self.0 | COPIED
        } else {
            self.0 & !COPIED
        })
    }

    /// Whether the table's refcount is exactly one.
    pub(super) fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// Bits that must be 0.
    pub(super) fn reserved(self) -> u64 {
        self.0 & !(HOST_OFFSET | COPIED)
    }
}

/// "L2 table entry".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct L2Entry(pub(super) u64);

impl L2Entry {
    /// A cluster that is not in this image.
    pub(super) const UNALLOCATED: L2Entry = L2Entry(0);
    /// A cluster of zeroes without a host cluster.
    pub(super) const ZERO: L2Entry = L2Entry(Self::ZERO_FLAG);
    const COMPRESSED: u64 = 1 << 62;
    const ZERO_FLAG: u64 = 1;

    /// A cluster of data that this image owns alone.
    pub(super) fn owned(host: HostOffset) -> L2Entry {
        L2Entry(host.0 | COPIED)
    }

    /// A cluster of zeroes with a host cluster kept for it.
    pub(super) fn owned_zero(host: HostOffset) -> L2Entry {
        L2Entry(host.0 | COPIED | Self::ZERO_FLAG)
    }

    /// Whether the cluster is compressed.
    pub(super) fn is_compressed(self) -> bool {
        self.0 & Self::COMPRESSED != 0
    }

    /// Whether the refcount of the cluster is exactly one.
    pub(super) fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// The same entry with the flag as `copied` says.
    pub(super) fn with_copied(self, copied: bool) -> L2Entry {
        L2Entry(if copied {
            self.0 | COPIED
        } else {
            self.0 & !COPIED
        })
    }

    /// Whether a standard cluster reads as zeroes.
    pub(super) fn is_zero(self) -> bool {
        self.0 & Self::ZERO_FLAG != 0
    }

    /// Where a standard cluster is; 0 when it is not allocated.
    pub(super) fn host(self) -> HostOffset {
        HostOffset(self.0 & HOST_OFFSET)
    }

    /// Bits of a standard entry that must be 0.
    pub(super) fn reserved(self) -> u64 {
        self.0 & !(HOST_OFFSET | COPIED | Self::COMPRESSED | Self::ZERO_FLAG)
    }

    /// A compressed cluster of `len` bytes, not 0; `None` when its place has no room in an entry.
    pub(super) fn packed(at: HostOffset, len: u64, cluster_bits: u32) -> Option<L2Entry> {
        let offset_bits = Self::packed_offset_bits(cluster_bits);
        let last = at.0.checked_add(len)?.checked_sub(1)?;
        let sectors = (last / 512).checked_sub(at.0 / 512)?;
        let fits = at.0 < HOST_LIMIT && at.0.checked_shr(offset_bits) == Some(0);
        let fits = fits && sectors.checked_shr(62_u32.checked_sub(offset_bits)?) == Some(0);
        fits.then(|| L2Entry(Self::COMPRESSED | sectors.wrapping_shl(offset_bits) | at.0))
    }

    fn packed_offset_bits(cluster_bits: u32) -> u32 {
        62u32.saturating_sub(cluster_bits.saturating_sub(8))
    }

    /// "Compressed Clusters Descriptor": first byte, and bytes up to the end of its last sector.
    pub(super) fn compressed(self, cluster_bits: u32) -> CompressedCluster {
        let offset_bits = Self::packed_offset_bits(cluster_bits);
        let offset_mask = 1u64.wrapping_shl(offset_bits).wrapping_sub(1);
        let descriptor = self.0 & !(COPIED | Self::COMPRESSED);
        let host = descriptor & offset_mask;
        let sectors = descriptor.wrapping_shr(offset_bits).saturating_add(1);
        let len = sectors.saturating_mul(512).saturating_sub(host & 511);
        CompressedCluster {
            host: HostOffset(host),
            len,
        }
    }
}

/// Where a compressed cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressedCluster {
    /// First byte, on no boundary.
    pub(super) host: HostOffset,
    /// Bytes to the end of the last sector; at most two clusters.
    pub(super) len: u64,
}

/// "Subcluster Allocation Bitmap (for standard clusters)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubclusterBitmap(pub(super) u64);

impl SubclusterBitmap {
    /// Neither data nor zeroes: all shows through from behind.
    pub(super) const NONE: SubclusterBitmap = SubclusterBitmap(0);
    /// All of the cluster is data.
    pub(super) const ALL_ALLOCATED: SubclusterBitmap = SubclusterBitmap(0xffff_ffff);
    /// All of the cluster is zeroes.
    pub(super) const ALL_ZERO: SubclusterBitmap = SubclusterBitmap(0xffff_ffff << 32);

    /// The subclusters with data in the host cluster; subcluster `n` is bit `n`.
    pub(super) fn allocated(self) -> u32 {
        let [_, _, _, _, bits @ ..] = self.0.to_be_bytes();
        u32::from_be_bytes(bits)
    }

    /// The subclusters that read as zeroes.
    pub(super) fn zero(self) -> u32 {
        let [bits @ .., _, _, _, _] = self.0.to_be_bytes();
        u32::from_be_bytes(bits)
    }

    /// The same bitmap with these subclusters allocated.
    pub(super) fn with_allocated(self, subclusters: u32) -> SubclusterBitmap {
        let both = Self::both(subclusters);
        SubclusterBitmap(self.0 & !both | both & Self::ALL_ALLOCATED.0)
    }

    /// The same bitmap with these subclusters zero.
    pub(super) fn with_zero(self, subclusters: u32) -> SubclusterBitmap {
        let both = Self::both(subclusters);
        SubclusterBitmap(self.0 & !both | both & Self::ALL_ZERO.0)
    }

    /// Both bits of each subcluster.
    fn both(subclusters: u32) -> u64 {
        u64::from(subclusters) << 32 | u64::from(subclusters)
    }
}

/// An L2 entry of either width: "Extended L2 Entries" have a bitmap, in others it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FullEntry {
    pub(super) entry: L2Entry,
    pub(super) bitmap: SubclusterBitmap,
}

/// Bytes of a table that are looked at together: whole entries.
const STRETCH: usize = 64;

impl FullEntry {
    /// The entries of a table that is read with `words` words an entry.
    pub(super) fn of_words(table: &[u64], words: usize) -> impl Iterator<Item = FullEntry> {
        table.chunks_exact(words).map(|entry| FullEntry {
            entry: L2Entry(entry.first().copied().unwrap_or(0)),
            bitmap: SubclusterBitmap(entry.get(1).copied().unwrap_or(0)),
        })
    }

    /// The entries of a stored table of `words` words an entry, without those that are all zeroes, each
    /// with its index.
    pub(super) fn of_bytes(
        table: &[u8],
        words: usize,
    ) -> impl Iterator<Item = (usize, FullEntry)> + '_ {
        // Most of a sparse disk's table is zeroes: a stretch of them costs one look.
        let (stretches, _) = table.as_chunks::<STRETCH>();
        let stretches = stretches.iter().enumerate();
        let in_use = stretches.filter(|(_, stretch)| {
            let (stretch, _) = stretch.as_chunks::<8>();
            let any = stretch
                .iter()
                .fold(0, |any, w| any | u64::from_le_bytes(*w));
            any != 0
        });
        in_use.flat_map(move |(place, stretch)| {
            let (stretch, _) = stretch.as_chunks::<8>();
            let entries = stretch.chunks_exact(words).map(|entry| {
                let word = |at: usize| entry.get(at).map_or(0, |w| u64::from_be_bytes(*w));
                FullEntry {
                    entry: L2Entry(word(0)),
                    bitmap: SubclusterBitmap(word(1)),
                }
            });
            let first = place.saturating_mul(entries.len());
            let entries = (first..).zip(entries);
            entries.filter(|(_, full)| full.entry.0 != 0 || full.bitmap != SubclusterBitmap::NONE)
        })
    }

    /// A plain entry as an extended one: all subclusters are what the cluster was.
    pub(super) fn extended(plain: L2Entry) -> FullEntry {
        let (entry, bitmap) = match (plain.is_compressed(), plain.is_zero()) {
            (true, _) => (plain, SubclusterBitmap::NONE),
            (false, true) => {
                let entry = L2Entry(plain.0 & !L2Entry::ZERO_FLAG);
                (entry, SubclusterBitmap::ALL_ZERO)
            }
            // In a data file offset 0 is a place, with the flag.
            (false, false) if plain.host().0 == 0 && !plain.is_copied() => {
                (plain, SubclusterBitmap::NONE)
            }
            (false, false) => (plain, SubclusterBitmap::ALL_ALLOCATED),
        };
        FullEntry { entry, bitmap }
    }
}

/// "Snapshot table entry", the fixed part.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSnapshot {
    pub(super) l1_table_offset: U64,
    pub(super) l1_size: U32,
    pub(super) id_len: U16,
    pub(super) name_len: U16,
    pub(super) date_seconds: U32,
    pub(super) date_nanoseconds: U32,
    pub(super) vm_clock_nanoseconds: U64,
    pub(super) vm_state_size: U32,
    pub(super) extra_data_len: U32,
}
assert_layout!(RawSnapshot, size = 40, {
    l1_table_offset: 0, l1_size: 8, id_len: 12, name_len: 14, date_seconds: 16,
    date_nanoseconds: 20, vm_clock_nanoseconds: 24, vm_state_size: 32, extra_data_len: 36,
});

/// "Snapshot table entry", the extra data that we write.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSnapshotExtra {
    pub(super) vm_state_size: U64,
    pub(super) disk_size: U64,
    pub(super) icount: U64,
}
assert_layout!(RawSnapshotExtra, size = 24, { vm_state_size: 0, disk_size: 8, icount: 16 });

/// "Bitmaps extension".
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBitmaps {
    pub(super) nb_bitmaps: U32,
    pub(super) reserved: U32,
    pub(super) bitmap_directory_size: U64,
    pub(super) bitmap_directory_offset: U64,
}
assert_layout!(RawBitmaps, size = 24, {
    nb_bitmaps: 0, reserved: 4, bitmap_directory_size: 8, bitmap_directory_offset: 16,
});

/// "Bitmap directory entry", the fixed part.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawBitmap {
    pub(super) bitmap_table_offset: U64,
    pub(super) bitmap_table_size: U32,
    pub(super) flags: U32,
    pub(super) kind: u8,
    pub(super) granularity_bits: u8,
    pub(super) name_size: U16,
    pub(super) extra_data_size: U32,
}
assert_layout!(RawBitmap, size = 24, {
    bitmap_table_offset: 0, bitmap_table_size: 8, flags: 12, kind: 16, granularity_bits: 17,
    name_size: 18, extra_data_size: 20,
});

/// Bits of a bitmap's `flags`.
pub(super) mod bitmap_flags {
    /// Was not saved since the image was last written.
    pub(in super::super) const IN_USE: u32 = 1;
    /// Tracks every change of the disk.
    pub(in super::super) const AUTO: u32 = 1 << 1;
    /// Whoever does not know the extra data may use the bitmap all the same.
    pub(in super::super) const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
}

/// The `type` of a dirty tracking bitmap.
pub(super) const DIRTY_TRACKING: u8 = 1;

/// "Bitmap table entry".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitmapTableEntry(pub(super) u64);

impl BitmapTableEntry {
    /// A cluster of clear bits without a host cluster.
    pub(super) const ZEROES: BitmapTableEntry = BitmapTableEntry(0);
    /// A cluster of set bits without a host cluster.
    pub(super) const ONES: BitmapTableEntry = BitmapTableEntry(1);

    /// Where the bits are; `None` when they are all the same.
    pub(super) fn data(self) -> Option<HostOffset> {
        let offset = self.0 & HOST_OFFSET;
        (offset != 0).then_some(HostOffset(offset))
    }

    /// Bits that must be 0.
    pub(super) fn reserved(self) -> u64 {
        match self.data() {
            Some(_) => self.0 & !HOST_OFFSET,
            None => self.0 & !Self::ONES.0,
        }
    }
}
