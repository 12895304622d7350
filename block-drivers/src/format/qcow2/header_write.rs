//! The header back to bytes, and in the place of an older one.
//! Called by everything that changes a header field, and by create. Pure.
//! Invariant: with a barrier behind each step of a [`Rewrite`], a power cut leaves the old header or
//! the new one. Spec: qcow2 "Header", "Header extensions", "Feature name table". Not here: checks of
//! what an image says (`header.rs`), I/O.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U32, U64};

use super::error::ImageError;
use super::header::{Extension, Header, Version};
use super::layout::{
    HEADER_FULL_LEN, HEADER_V2_LEN, HEADER_V3_LEN, MAGIC, RawExtension, RawFeatureName, RawHeader,
    RawHeaderV3, autoclear, extension,
};
use crate::kit::layout::read_struct;

/// Where [`Header::update_bytes`] go: at `size`.
pub(super) const UPDATE_OFFSET: usize = 24;

impl Header {
    /// Bytes from [`UPDATE_OFFSET`] that hold everything an open image changes; within one sector.
    ///
    /// Neither the header's length nor the backing file's name is among them, so extensions and
    /// name stay on disk as they are.
    pub(super) fn update_bytes(&self) -> Vec<u8> {
        let end = match self.version {
            Version::V2 => HEADER_V2_LEN,
            Version::V3 => HEADER_V3_LEN.saturating_sub(4),
        };
        self.fixed_bytes(0)
            .get(UPDATE_OFFSET..end)
            .unwrap_or_default()
            .to_vec()
    }

    /// The fixed part with the backing file's name at `backing_file_offset`.
    fn fixed_bytes(&self, backing_file_offset: u64) -> Vec<u8> {
        let name_len = self.backing_file.as_ref().map_or(0, String::len);
        let raw = RawHeader {
            magic: MAGIC,
            version: U32::new(match self.version {
                Version::V2 => 2,
                Version::V3 => 3,
            }),
            backing_file_offset: U64::new(if name_len == 0 {
                0
            } else {
                backing_file_offset
            }),
            backing_file_size: U32::new(u32::try_from(name_len).unwrap_or(0)),
            cluster_bits: U32::new(self.geometry.cluster_bits),
            size: U64::new(self.size),
            crypt_method: U32::new(self.encryption.method()),
            l1_size: U32::new(self.l1_size),
            l1_table_offset: U64::new(self.l1_table.0),
            refcount_table_offset: U64::new(self.refcount_table.0),
            refcount_table_clusters: U32::new(self.refcount_table_clusters),
            nb_snapshots: U32::new(self.snapshot_count),
            snapshots_offset: U64::new(self.snapshots.0),
        };
        let mut bytes = raw.as_bytes().to_vec();
        if self.version == Version::V3 {
            let len = HEADER_FULL_LEN.saturating_add(self.unknown_fields.len());
            let v3 = RawHeaderV3 {
                incompatible_features: U64::new(self.incompatible),
                compatible_features: U64::new(self.compatible),
                autoclear_features: U64::new(self.autoclear),
                refcount_order: U32::new(self.geometry.refcount_order),
                header_length: U32::new(u32::try_from(len).unwrap_or(0)),
            };
            bytes.extend_from_slice(v3.as_bytes());
            bytes.extend_from_slice(&[self.compression.raw(), 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend_from_slice(&self.unknown_fields);
        }
        bytes
    }

    /// The whole header cluster's used part: fixed part, extensions, backing file's name.
    ///
    /// # Errors
    /// When it does not fit into one cluster.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, ImageError> {
        let end = self.extensions_end();
        let mut bytes = self.head_bytes(end as u64);
        bytes.extend_from_slice(self.name_bytes());
        self.check_fit(bytes.len())?;
        Ok(bytes)
    }

    fn check_fit(&self, len: usize) -> Result<(), ImageError> {
        if len as u64 > self.geometry.cluster_size() {
            return Err(ImageError::Field {
                field: "header_length",
                value: len as u64,
                range: "within one cluster, with extensions and backing file name",
            });
        }
        Ok(())
    }

    /// The same, but for what nobody needs.
    pub(super) fn without_feature_names(&self) -> Header {
        let mut header = self.clone();
        let extensions = &mut header.extensions;
        extensions.retain(|e| e.kind != extension::FEATURE_NAMES);
        header
    }

    fn name_bytes(&self) -> &[u8] {
        self.backing_file.as_deref().unwrap_or_default().as_bytes()
    }

    /// Behind the extensions and their end marker.
    fn extensions_end(&self) -> usize {
        self.head_bytes(0).len()
    }

    /// Fixed part and extensions, with the backing file's name at `name_offset`.
    fn head_bytes(&self, name_offset: u64) -> Vec<u8> {
        let mut bytes = self.fixed_bytes(name_offset);
        for e in &self.extensions {
            let len = u32::try_from(e.data.len()).unwrap_or(u32::MAX);
            let raw = RawExtension {
                kind: U32::new(e.kind),
                len: U32::new(len),
            };
            bytes.extend_from_slice(raw.as_bytes());
            bytes.extend_from_slice(&e.data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }
}

/// Bytes that a disk writes whole, or not at all.
const SECTOR: usize = 512;

/// Bytes left before a name, where the extension with the backing file's format may come.
const FORMAT_ROOM: usize = 32;

/// How a header takes the place of another one so that a power cut leaves one of them.
pub(super) struct Rewrite {
    /// What is written where.
    steps: Vec<(usize, Vec<u8>)>,
}

impl Rewrite {
    /// Plans to write `new` over `old`, whose cluster is `cluster`.
    ///
    /// The new name goes where the old header has nothing, if there is room; then the first sector
    /// decides. Where extensions behind it move, a header without names of features stands meanwhile,
    /// if it is no longer than that sector; else all is one write.
    ///
    /// # Errors
    /// When it does not fit into one cluster.
    pub(super) fn plan(cluster: &[u8], old: &Header, new: &Header) -> Result<Rewrite, ImageError> {
        let ends = (old.extensions_end(), new.extensions_end());
        let name = new.name_bytes();
        let old_name = old_name(cluster);
        let behind_all = ends.0.max(ends.1).max(old_name.end);
        let tight = ends.1.max(ends.0);
        let free = |at: usize| {
            let end = at.saturating_add(name.len());
            end <= cluster.len() && (end <= old_name.start || old_name.end <= at)
        };
        let roomy = |at: usize| at.saturating_add(FORMAT_ROOM);
        let places = [roomy(tight), roomy(behind_all), tight, behind_all];
        let place = places.into_iter().find(|&at| free(at));
        let at = place.unwrap_or(ends.1);
        let head = new.head_bytes(at as u64);
        let end = at.saturating_add(name.len());
        new.check_fit(end)?;
        let mut bytes = cluster.to_vec();
        let uses = |n: usize| n < ends.0 || old_name.contains(&n);
        let changed = |n: usize| head.get(n) != cluster.get(n);
        let moves = (SECTOR..head.len()).any(|n| uses(n) && changed(n));
        put(&mut bytes, 0, &head);
        put(&mut bytes, at, name);
        bytes.truncate(end);
        let bare = new.without_feature_names().head_bytes(at as u64);
        let steps = match bytes.split_at_checked(SECTOR) {
            Some((first, rest)) if place.is_some() && !rest.is_empty() => {
                let (first, rest) = ((0, first.to_vec()), (SECTOR, rest.to_vec()));
                match (moves, bare.len() <= SECTOR) {
                    (false, _) => vec![rest, first],
                    (true, true) => vec![(at, name.to_vec()), (0, bare), rest, first],
                    (true, false) => vec![(0, bytes)],
                }
            }
            Some(_) | None => vec![(0, bytes)],
        };
        Ok(Rewrite { steps })
    }

    /// What is written where, with a barrier behind each.
    pub(super) fn steps(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let steps = self.steps.iter().filter(|(_, bytes)| !bytes.is_empty());
        steps.map(|(at, bytes)| (*at as u64, bytes.as_slice()))
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    for (old, new) in bytes.iter_mut().skip(at).zip(new) {
        *old = *new;
    }
}

/// Where the backing file's name is that a cluster's header names; empty when it names none.
fn old_name(cluster: &[u8]) -> std::ops::Range<usize> {
    let Some(raw) = read_struct::<RawHeader>(cluster, 0) else {
        return 0..0;
    };
    let at = usize::try_from(raw.backing_file_offset.get()).unwrap_or(usize::MAX);
    let len = usize::try_from(raw.backing_file_size.get()).unwrap_or(usize::MAX);
    match at {
        0 => 0..0,
        at => at..at.saturating_add(len),
    }
}
/// The feature name table that we write: the bits the specification defines.
pub(super) fn feature_names() -> Extension {
    let known: [(u8, u8, &str); 8] = [
        (0, 0, "dirty bit"),
        (0, 1, "corrupt bit"),
        (0, 2, "external data file"),
        (0, 3, "compression type"),
        (0, 4, "extended L2 entries"),
        (1, 0, "lazy refcounts"),
        (2, bit_number(autoclear::BITMAPS), "bitmaps"),
        (2, bit_number(autoclear::DATA_FILE_RAW), "raw external data"),
    ];
    let mut data = Vec::new();
    for (kind, bit, text) in known {
        let mut name = [0; 46];
        for (to, from) in name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        data.extend_from_slice(RawFeatureName { kind, bit, name }.as_bytes());
    }
    Extension {
        kind: extension::FEATURE_NAMES,
        data,
    }
}

fn bit_number(bit: u64) -> u8 {
    u8::try_from(bit.trailing_zeros()).unwrap_or(63)
}
