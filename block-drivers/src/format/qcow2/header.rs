//! The header: what the first cluster says, checked.
//! Called by open, and by everything that shows or changes a header field.
//! Invariant: a `Header` is within the format's limits, and its tables are on clusters inside the
//! file. Spec: qcow2 "Header", "Header extensions", "Feature name table". Not here: back to bytes
//! (`header_write.rs`), I/O.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U64;

use super::error::ImageError;
use super::geometry::Geometry;
use super::layout::{
    HEADER_V2_LEN, HEADER_V3_LEN, HOST_LIMIT, MAGIC, RawEncryption, RawExtension, RawFeatureName,
    RawHeader, RawHeaderV3, autoclear, extension, incompatible,
};
use crate::kit::addr::HostOffset;
use crate::kit::crypto::luks::HEADER_LEN;
use crate::kit::layout::{read_slice, read_struct};

/// Bytes of an L1 table at most: a limit of every implementation.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// Bytes of a refcount table at most: a limit of every implementation.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Internal snapshots at most.
pub(super) const MAX_SNAPSHOTS: u32 = 65536;
/// Bytes of a backing file's name at most.
pub(super) const MAX_BACKING_NAME: u32 = 1023;
/// Log2 of the smallest clusters whose subclusters are sectors at least.
pub(super) const MIN_EXTENDED_BITS: u32 = 14;
/// The specification's word for it.
const BACKING_NAME: &str = "backing file name";
/// Header extensions that we read at most; more are an endless list.
const MAX_EXTENSIONS: usize = 4096;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate; QEMU calls it "zlib".
    Deflate,
    /// zstd frames.
    Zstd,
}

impl Compression {
    /// The name in the schema's `Qcow2CompressionType`.
    pub fn as_str(self) -> &'static str {
        match self {
            Compression::Deflate => "zlib",
            Compression::Zstd => "zstd",
        }
    }

    /// `compression_type`.
    pub(super) fn raw(self) -> u8 {
        match self {
            Compression::Deflate => 0,
            Compression::Zstd => 1,
        }
    }
}

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// "compat=0.10".
    V2,
    /// "compat=1.1".
    V3,
}

/// How guest data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// It is not.
    None,
    /// Method 1, "AES".
    Aes,
    /// Method 2, with the LUKS header at a place of its own.
    Luks {
        /// Where that header is.
        place: HostOffset,
        /// Bytes of it, with its key material.
        len: u64,
    },
}

impl Encryption {
    /// `crypt_method`.
    pub(super) fn method(self) -> u32 {
        match self {
            Encryption::None => 0,
            Encryption::Aes => 1,
            Encryption::Luks { .. } => 2,
        }
    }

    /// The extension that says where the method's own header is.
    pub(super) fn extension(self) -> Option<Extension> {
        let Encryption::Luks { place, len } = self else {
            return None;
        };
        let raw = RawEncryption {
            offset: U64::new(place.0),
            len: U64::new(len),
        };
        Some(Extension {
            kind: extension::ENCRYPTION,
            data: raw.as_bytes().to_vec(),
        })
    }

    fn parse(method: u32, extensions: &[Extension]) -> Result<Encryption, ImageError> {
        let pointer = extensions.iter().find(|e| e.kind == extension::ENCRYPTION);
        match (method, pointer) {
            (0, None) => Ok(Encryption::None),
            (1, None) => Ok(Encryption::Aes),
            (2, Some(pointer)) => {
                let len = pointer.data.len();
                let raw: RawEncryption = read_struct(&pointer.data, 0)
                    .filter(|_| len == size_of::<RawEncryption>())
                    .ok_or(ImageError::EncryptionPointer { len })?;
                Ok(Encryption::Luks {
                    place: HostOffset(raw.offset.get()),
                    len: raw.len.get(),
                })
            }
            (2, None) | (0 | 1, Some(_)) => Err(ImageError::EncryptionMismatch { method }),
            _ => Err(ImageError::Field {
                field: "crypt_method",
                value: u64::from(method),
                range: "0, 1 or 2",
            }),
        }
    }
}

/// A header extension as it stands in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extension {
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: Version,
    pub(super) geometry: Geometry,
    /// Bytes of the guest's disk.
    pub(super) size: u64,
    pub(super) l1_table: HostOffset,
    pub(super) l1_size: u32,
    pub(super) refcount_table: HostOffset,
    pub(super) refcount_table_clusters: u32,
    pub(super) snapshots: HostOffset,
    pub(super) snapshot_count: u32,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) encryption: Encryption,
    /// Fields behind `compression_type`, which we keep as they are.
    pub(super) unknown_fields: Vec<u8>,
    /// In the image's order, without the end marker.
    pub(super) extensions: Vec<Extension>,
    pub(super) backing_file: Option<String>,
}

/// Bytes of the cluster that the header says it fills, from the first bytes of the file.
///
/// # Errors
/// When it is not a header of a known version, or the cluster size is out of range.
pub(super) fn header_cluster_size(start: &[u8]) -> Result<u64, ImageError> {
    let raw: RawHeader = read_struct(start, 0).ok_or(ImageError::Magic)?;
    Ok(1 << checked_cluster_bits(&raw)?)
}

fn checked_cluster_bits(raw: &RawHeader) -> Result<u32, ImageError> {
    if raw.magic != MAGIC {
        return Err(ImageError::Magic);
    }
    let version = raw.version.get();
    if !(2..=3).contains(&version) {
        return Err(ImageError::Version { version });
    }
    field("cluster_bits", raw.cluster_bits.get(), 9..=21, "9 to 21")
}

fn field<T: Copy + PartialOrd + Into<u64>>(
    field: &'static str,
    value: T,
    legal: std::ops::RangeInclusive<T>,
    range: &'static str,
) -> Result<T, ImageError> {
    if legal.contains(&value) {
        Ok(value)
    } else {
        Err(ImageError::Field {
            field,
            value: value.into(),
            range,
        })
    }
}

impl Header {
    /// Checks `cluster`, the first cluster of a file of `file_len` bytes, or all of a shorter file.
    ///
    /// # Errors
    /// Everything that the specification calls an error, and incompatible features that are not
    /// built in, by name.
    pub(super) fn parse(cluster: &[u8], file_len: u64) -> Result<Header, ImageError> {
        let header = Header::parse_fields(cluster, file_len)?;
        header.check_tables(file_len)?;
        Ok(header)
    }

    /// As [`parse`](Header::parse), but lets tables be where a check finds that they cannot be:
    /// behind the end of the file, or over each other; and there may be no refcount table.
    ///
    /// # Errors
    /// As [`parse`](Header::parse), without those.
    pub(super) fn parse_for_check(cluster: &[u8], file_len: u64) -> Result<Header, ImageError> {
        let header = Header::parse_fields(cluster, file_len)?;
        header.check_sizes()?;
        for (what, at) in [
            ("refcount table", header.refcount_table),
            ("L1 table", header.l1_table),
            ("snapshot table", header.snapshots),
        ] {
            header.aligned(what, at)?;
            field(what, at.0, 0..=HOST_LIMIT, "an offset below 2^56")?;
        }
        header.check_encryption(file_len)?;
        Ok(header)
    }

    fn parse_fields(cluster: &[u8], file_len: u64) -> Result<Header, ImageError> {
        let raw: RawHeader = read_struct(cluster, 0).ok_or(ImageError::Magic)?;
        let cluster_bits = checked_cluster_bits(&raw)?;
        let version = if raw.version.get() == 2 {
            Version::V2
        } else {
            Version::V3
        };
        let fields = V3Fields::parse(version, cluster, 1 << cluster_bits, file_len)?;
        if raw.backing_file_offset.get() > 1 << cluster_bits {
            return Err(ImageError::Truncated {
                what: BACKING_NAME,
                offset: raw.backing_file_offset.get(),
                len: u64::from(raw.backing_file_size.get()),
                file_len,
            });
        }
        let (extensions, end) = parse_extensions(cluster, fields.header_length)?;
        check_features(fields.incompatible, &extensions)?;
        let encryption = Encryption::parse(raw.crypt_method.get(), &extensions)?;
        let compression = fields.compression()?;
        let geometry = Geometry {
            cluster_bits,
            refcount_order: fields.refcount_order,
            l2_entry_order: u32::from(fields.incompatible & incompatible::EXTENDED_L2 != 0),
        };
        if geometry.is_extended() {
            let range = "14 to 21, as extended L2 entries need";
            field("cluster_bits", cluster_bits, MIN_EXTENDED_BITS..=21, range)?;
        }
        let header = Header {
            version,
            geometry,
            size: raw.size.get(),
            l1_table: HostOffset(raw.l1_table_offset.get()),
            l1_size: raw.l1_size.get(),
            refcount_table: HostOffset(raw.refcount_table_offset.get()),
            refcount_table_clusters: raw.refcount_table_clusters.get(),
            snapshots: HostOffset(raw.snapshots_offset.get()),
            snapshot_count: raw.nb_snapshots.get(),
            incompatible: fields.incompatible,
            compatible: fields.compatible,
            autoclear: fields.autoclear,
            compression,
            encryption,
            unknown_fields: fields.unknown,
            extensions,
            backing_file: parse_backing_file(&raw, cluster, end)?,
        };
        Ok(header)
    }

    /// Whether a feature bit of `incompatible_features` is set.
    pub(super) fn has(&self, incompatible: u64) -> bool {
        self.incompatible & incompatible != 0
    }

    /// The format of the backing file, when the image names it.
    pub(super) fn backing_format(&self) -> Option<String> {
        let data = &self
            .extensions
            .iter()
            .find(|e| e.kind == extension::BACKING_FORMAT)?
            .data;
        Some(String::from_utf8_lossy(data).into_owned())
    }

    /// Whether guest data is in a file of its own.
    pub(super) fn has_data_file(&self) -> bool {
        self.has(incompatible::DATA_FILE)
    }

    /// Whether that file alone reads as the disk.
    pub(super) fn is_data_file_raw(&self) -> bool {
        self.has_data_file() && self.autoclear & autoclear::DATA_FILE_RAW != 0
    }

    /// The name of that file, when the image gives it.
    pub(super) fn data_file(&self) -> Option<String> {
        let mut extensions = self.extensions.iter();
        let name = extensions.find(|e| e.kind == extension::DATA_FILE)?;
        Some(String::from_utf8_lossy(&name.data).into_owned())
    }

    /// Where the bitmap directory is, when it can be trusted.
    pub(super) fn bitmap_directory(&self) -> Option<(u64, u64)> {
        if self.autoclear & autoclear::BITMAPS == 0 {
            return None;
        }
        let mut extensions = self.extensions.iter();
        let bitmaps = extensions.find(|e| e.kind == extension::BITMAPS)?;
        let word = |at: usize| {
            let bytes = read_slice(&bitmaps.data, at, 8)?;
            bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
        };
        Some((word(16)?, word(8)?))
    }

    /// Bytes of the L1 table.
    pub(super) fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_size).saturating_mul(8)
    }

    /// Bytes of the refcount table.
    pub(super) fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters).saturating_mul(self.geometry.cluster_size())
    }

    /// Checks how long tables say they are.
    fn check_sizes(&self) -> Result<(), ImageError> {
        field("size", self.size, 0..=1 << 62, "at most 2^62")?;
        let needed = self.geometry.l1_entries(self.size);
        let range = "at most what 2^31 - 1 L1 entries reach";
        field("size", needed, 0..=i32::MAX.unsigned_abs().into(), range)?;
        let entries = u64::from(self.l1_size);
        if entries < needed {
            return Err(ImageError::L1TooSmall {
                entries,
                size: self.size,
                needed,
            });
        }
        field("l1_size", entries, 0..=MAX_L1_BYTES / 8, "at most 4194304")?;
        field(
            "refcount_table_clusters",
            self.refcount_table_bytes(),
            0..=MAX_REFCOUNT_TABLE_BYTES,
            "at most 8 MiB",
        )?;
        Ok(())
    }

    fn check_tables(&self, file_len: u64) -> Result<(), ImageError> {
        self.check_sizes()?;
        field(
            "refcount_table_clusters",
            self.refcount_table_clusters,
            1..=u32::MAX,
            "at least 1",
        )?;
        let table = self.refcount_table_bytes();
        self.region("refcount table", self.refcount_table, table, file_len)?;
        if self.l1_size > 0 {
            self.region("L1 table", self.l1_table, self.l1_bytes(), file_len)?;
            if overlaps(self.l1_table, self.l1_bytes(), self.refcount_table, table) {
                let (what, other) = ("L1 table", "the refcount table");
                return Err(ImageError::Overlap {
                    what,
                    offset: self.l1_table.0,
                    other,
                });
            }
        } else {
            self.aligned("L1 table", self.l1_table)?;
        }
        self.check_encryption(file_len)?;
        field(
            "nb_snapshots",
            self.snapshot_count,
            0..=MAX_SNAPSHOTS,
            "at most 65536",
        )?;
        if self.snapshot_count > 0 {
            // Each entry has at least its fixed part.
            let least = u64::from(self.snapshot_count).saturating_mul(40);
            self.region("snapshot table", self.snapshots, least, file_len)?;
        } else {
            self.aligned("snapshot table", self.snapshots)?;
        }
        Ok(())
    }

    /// Checks what only encrypted images keep to.
    fn check_encryption(&self, file_len: u64) -> Result<(), ImageError> {
        if self.encryption != Encryption::None && !self.size.is_multiple_of(512) {
            return Err(ImageError::Field {
                field: "size",
                value: self.size,
                range: "a multiple of 512, as encryption needs",
            });
        }
        let Encryption::Luks { place, len } = self.encryption else {
            return Ok(());
        };
        let what = "encryption header";
        field(what, len, HEADER_LEN as u64..=u64::MAX, "a LUKS header")?;
        self.region(what, place, len, file_len)?;
        let refcounts = (self.refcount_table, self.refcount_table_bytes());
        let tables = [
            ("the L1 table", (self.l1_table, self.l1_bytes())),
            ("the refcount table", refcounts),
        ];
        for (other, (at, table_len)) in tables {
            if overlaps(place, len, at, table_len) {
                let offset = place.0;
                return Err(ImageError::Overlap {
                    what,
                    offset,
                    other,
                });
            }
        }
        Ok(())
    }

    /// Checks a structure that fills whole clusters outside the header's own.
    fn region(
        &self,
        what: &'static str,
        at: HostOffset,
        len: u64,
        file_len: u64,
    ) -> Result<(), ImageError> {
        self.aligned(what, at)?;
        let (offset, cluster_size) = (at.0, self.geometry.cluster_size());
        if offset == 0 || offset >= HOST_LIMIT {
            return Err(ImageError::Unaligned {
                what,
                offset,
                cluster_size,
            });
        }
        match offset.checked_add(len) {
            Some(end) if end <= file_len => Ok(()),
            _ => Err(ImageError::Truncated {
                what,
                offset,
                len,
                file_len,
            }),
        }
    }

    /// Checks the place of a structure that may be empty, and then anywhere, as it is to others.
    fn aligned(&self, what: &'static str, at: HostOffset) -> Result<(), ImageError> {
        if self.geometry.within(at.0) == 0 {
            return Ok(());
        }
        Err(ImageError::Unaligned {
            what,
            offset: at.0,
            cluster_size: self.geometry.cluster_size(),
        })
    }
}

fn overlaps(a: HostOffset, a_len: u64, b: HostOffset, b_len: u64) -> bool {
    a.0 < b.0.saturating_add(b_len) && b.0 < a.0.saturating_add(a_len)
}

/// The fields of version 3, or what version 2 takes them to be.
struct V3Fields {
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_order: u32,
    header_length: usize,
    compression_type: u8,
    unknown: Vec<u8>,
}

impl V3Fields {
    fn parse(
        version: Version,
        cluster: &[u8],
        cluster_size: u64,
        file_len: u64,
    ) -> Result<V3Fields, ImageError> {
        if version == Version::V2 {
            return Ok(V3Fields {
                incompatible: 0,
                compatible: 0,
                autoclear: 0,
                refcount_order: 4,
                header_length: HEADER_V2_LEN,
                compression_type: 0,
                unknown: Vec::new(),
            });
        }
        let truncated = |len| ImageError::Truncated {
            what: "header",
            offset: 0,
            len,
            file_len,
        };
        let raw: RawHeaderV3 =
            read_struct(cluster, HEADER_V2_LEN).ok_or_else(|| truncated(HEADER_V3_LEN as u64))?;
        let length = u64::from(raw.header_length.get());
        field(
            "header_length",
            length,
            HEADER_V3_LEN as u64..=cluster_size,
            "104 to a cluster",
        )?;
        if !length.is_multiple_of(8) {
            let range = "a multiple of 8";
            return Err(ImageError::Field {
                field: "header_length",
                value: length,
                range,
            });
        }
        let header_length = usize::try_from(length).map_err(|_| truncated(length))?;
        let optional = read_slice(
            cluster,
            HEADER_V3_LEN,
            header_length.saturating_sub(HEADER_V3_LEN),
        )
        .ok_or_else(|| truncated(length))?;
        Ok(V3Fields {
            incompatible: raw.incompatible_features.get(),
            compatible: raw.compatible_features.get(),
            autoclear: raw.autoclear_features.get(),
            refcount_order: field("refcount_order", raw.refcount_order.get(), 0..=6, "0 to 6")?,
            header_length,
            compression_type: optional.first().copied().unwrap_or(0),
            unknown: optional.get(8..).unwrap_or_default().to_vec(),
        })
    }

    fn compression(&self) -> Result<Compression, ImageError> {
        let bit = self.incompatible & incompatible::COMPRESSION != 0;
        match (self.compression_type, bit) {
            (0, false) => Ok(Compression::Deflate),
            (1, true) if cfg!(feature = "zstd") => Ok(Compression::Zstd),
            (1, true) => Err(ImageError::NotBuiltIn {
                what: "compression type zstd",
            }),
            (kind, bit) => Err(ImageError::CompressionType {
                kind,
                bit: u8::from(bit),
            }),
        }
    }
}

/// Where in a header's cluster the data of an extension is.
pub(super) fn extension_place(cluster: &[u8], kind: u32) -> Option<std::ops::Range<usize>> {
    let version = read_struct::<RawHeader>(cluster, 0)?.version.get();
    let mut at = match version {
        2 => HEADER_V2_LEN,
        _ => {
            let raw: RawHeaderV3 = read_struct(cluster, HEADER_V2_LEN)?;
            usize::try_from(raw.header_length.get()).ok()?
        }
    };
    loop {
        let raw: RawExtension = read_struct(cluster, at)?;
        let start = at.saturating_add(8);
        let end = start.saturating_add(usize::try_from(raw.len.get()).ok()?);
        match raw.kind.get() {
            extension::END => return None,
            found if found == kind => return Some(start..end),
            _ => at = end.saturating_add(7) & !7,
        }
    }
}

/// The extensions, and the first byte behind their end marker.
fn parse_extensions(
    cluster: &[u8],
    header_length: usize,
) -> Result<(Vec<Extension>, usize), ImageError> {
    let mut extensions: Vec<Extension> = Vec::new();
    let mut at = header_length;
    // A version 2 header without room for another extension ends the list by ending.
    while let Some(raw) = read_struct::<RawExtension>(cluster, at) {
        let kind = raw.kind.get();
        let body = at.saturating_add(8);
        if kind == extension::END {
            return Ok((extensions, body));
        }
        let offset = at as u64;
        let outside = ImageError::Extension {
            kind,
            offset,
            len: u64::from(raw.len.get()),
        };
        let len = usize::try_from(raw.len.get()).unwrap_or(usize::MAX);
        let Some(data) = read_slice(cluster, body, len) else {
            return Err(outside);
        };
        if extensions.len() >= MAX_EXTENSIONS {
            return Err(outside);
        }
        // Of two of a kind the later one counts, as for other programs.
        extensions.retain(|other| other.kind != kind);
        extensions.push(Extension {
            kind,
            data: data.to_vec(),
        });
        at = body.saturating_add(len).saturating_add(7) & !7;
    }
    Ok((extensions, at.min(cluster.len())))
}

fn check_features(bits: u64, extensions: &[Extension]) -> Result<(), ImageError> {
    let built_in = incompatible::DIRTY
        | incompatible::CORRUPT
        | incompatible::DATA_FILE
        | incompatible::COMPRESSION
        | incompatible::EXTENDED_L2;
    let unknown = bits & !built_in;
    if unknown == 0 {
        return Ok(());
    }
    let (mut names, mut unnamed) = (Vec::new(), unknown);
    for (bit, name) in feature_names(extensions) {
        let mask = 1_u64.checked_shl(bit).unwrap_or(0);
        if unnamed & mask != 0 {
            names.push(name);
            unnamed &= !mask;
        }
    }
    Err(ImageError::Features { names, unnamed })
}

/// The incompatible features that the image's own table names.
fn feature_names(extensions: &[Extension]) -> impl Iterator<Item = (u32, String)> {
    let table = extensions
        .iter()
        .find(|e| e.kind == extension::FEATURE_NAMES);
    let data = table.map_or(&[][..], |table| &table.data);
    // The last entry may end with its name.
    data.chunks(size_of::<RawFeatureName>())
        .filter_map(|bytes| {
            let mut whole = bytes.to_vec();
            whole.resize(size_of::<RawFeatureName>(), 0);
            read_struct::<RawFeatureName>(&whole, 0)
        })
        .filter(|entry| entry.kind == 0)
        .map(|entry| {
            let name = entry.name.split(|&b| b == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let name = name.chars().filter(|c| !c.is_control()).collect();
            (u32::from(entry.bit), name)
        })
}

fn parse_backing_file(
    raw: &RawHeader,
    cluster: &[u8],
    extensions_end: usize,
) -> Result<Option<String>, ImageError> {
    let (offset, len) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
    if offset == 0 {
        // The length is undefined then.
        return Ok(None);
    }
    field(
        "backing_file_size",
        len,
        0..=MAX_BACKING_NAME,
        "at most 1023",
    )?;
    if len == 0 {
        return Ok(None);
    }
    let what = BACKING_NAME;
    let len_usize = usize::try_from(len).unwrap_or(usize::MAX);
    let name = usize::try_from(offset)
        .ok()
        .filter(|&at| at >= HEADER_V2_LEN)
        .and_then(|at| read_slice(cluster, at, len_usize));
    let Some(name) = name else {
        let file_len = cluster.len() as u64;
        return Err(ImageError::Truncated {
            what,
            offset,
            len: u64::from(len),
            file_len,
        });
    };
    if offset < extensions_end as u64 && extensions_end < cluster.len() {
        let other = "the header extensions";
        return Err(ImageError::Overlap {
            what,
            offset,
            other,
        });
    }
    match std::str::from_utf8(name) {
        Ok(name) => Ok(Some(name.to_owned())),
        Err(_) => Err(ImageError::Name { what, offset }),
    }
}
