//! What can be wrong with a qcow2 image: in the words that QEMU has for it, which clients match
//! on, else in those of the specification.

use block_core::Error;

use crate::kit::compress::DecompressError;
use crate::kit::crypto::luks::LuksError;

/// What is wrong with an image, or what it needs that is not built in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The magic is missing.
    #[error("image is not in qcow2 format")]
    Magic,
    /// A version that no specification describes.
    #[error("Unsupported qcow2 version {version}")]
    Version {
        /// The header's `version`.
        version: u32,
    },
    /// The file ends inside something.
    #[error("{}", truncated_text(what, *offset, *len, *file_len))]
    Truncated {
        /// The specification's word for it.
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// How long it says it is.
        len: u64,
        /// How long the file is.
        file_len: u64,
    },
    /// A header field outside its range.
    #[error("{}", field_text(field, *value, range))]
    Field {
        /// The specification's name of the field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold, as a phrase.
        range: &'static str,
    },
    /// Feature bits without which the image cannot be understood.
    #[error("Unsupported qcow2 feature(s): {}", features_text(names, *unnamed))]
    Features {
        /// The names from the image's feature name table.
        names: Vec<String>,
        /// The bits of `incompatible_features` that have none.
        unnamed: u64,
    },
    /// Something legal that is not built in.
    #[error("{what}")]
    NotBuiltIn {
        /// What it is, as a noun.
        what: &'static str,
    },
    /// `compression_type` and its feature bit do not agree.
    #[error("compression_type is {kind}, and its incompatible feature bit is {bit}")]
    CompressionType {
        /// The header's `compression_type`.
        kind: u8,
        /// The bit, 0 or 1.
        bit: u8,
    },
    /// A header extension that does not fit.
    #[error("Header extension too large")]
    Extension {
        /// Its type.
        kind: u32,
        /// Where it starts.
        offset: u64,
        /// How long it says it is.
        len: u64,
    },
    /// A name that is not UTF-8.
    #[error("{what} at {offset:#x} is not valid UTF-8")]
    Name {
        /// The specification's word for it.
        what: &'static str,
        /// Where it starts.
        offset: u64,
    },
    /// Something that must start on a cluster does not, or is at 0, or beyond 2^56.
    #[error("{}", place_text(what, *offset, *cluster_size))]
    Unaligned {
        /// The specification's word for it.
        what: &'static str,
        /// Where it is.
        offset: u64,
        /// The image's cluster size.
        cluster_size: u64,
    },
    /// Two structures of the image share bytes.
    #[error("{what} at {offset:#x} overlaps {other}")]
    Overlap {
        /// The specification's word for the one.
        what: &'static str,
        /// Where it is.
        offset: u64,
        /// The specification's word for the other.
        other: &'static str,
    },
    /// A table that does not reach to the end of the disk.
    #[error("L1 table is too small")]
    L1TooSmall {
        /// The header's `l1_size`.
        entries: u64,
        /// The header's `size`.
        size: u64,
        /// The entries that this takes.
        needed: u64,
    },
    /// An entry with bits set that must be 0, or an offset that cannot be.
    #[error("{table} entry {entry:#018x} for guest offset {guest:#x} has {what}")]
    Entry {
        /// L1 or L2.
        table: &'static str,
        /// The entry.
        entry: u64,
        /// The first guest byte it describes.
        guest: u64,
        /// What is wrong with it, as a noun.
        what: &'static str,
    },
    /// A cluster of a data file is not where the guest has it.
    #[error(
        "external data file host cluster offset {host:#x} does not match guest cluster offset: {guest:#x}"
    )]
    DataFilePlace {
        /// The first guest byte of the cluster.
        guest: u64,
        /// Where its entry says it is.
        host: u64,
    },
    /// As [`ImageError::Entry`], for refcount tables.
    #[error("refcount table entry {index} ({entry:#018x}) has {what}")]
    RefcountEntry {
        /// Its place in the table.
        index: u64,
        /// The entry.
        entry: u64,
        /// What is wrong with it, as a noun.
        what: &'static str,
    },
    /// A cluster is used, and its refcount is 0.
    #[error("refcount of the cluster at {offset:#x} is 0, and it is in use")]
    RefcountZero {
        /// The cluster.
        offset: u64,
    },
    /// A cluster has more references than its refcount says.
    #[error("refcount of the cluster at {offset:#x} is {refcount}, and it has more references")]
    RefcountTooLow {
        /// The cluster.
        offset: u64,
        /// Its refcount.
        refcount: u64,
    },
    /// Allocation came upon a cluster that is known to be in use.
    #[error("refcount of the cluster at {offset:#x} is 0, and it holds {what}")]
    AllocatedInUse {
        /// The cluster.
        offset: u64,
        /// The specification's word for what is there.
        what: &'static str,
    },
    /// A write would land in a structure of the image.
    #[error("Preventing invalid write on metadata (overlaps with {structure})")]
    InvalidWrite {
        /// Where the write would begin.
        offset: u64,
        /// Its bytes.
        len: u64,
        /// What is there.
        structure: &'static str,
    },
    /// Two L1 entries name one L2 table, as if each had it to itself.
    #[error("L2 table at {offset:#x} for guest offset {guest:#x} is that of another L1 entry, too")]
    SharedTable {
        /// Where the table is.
        offset: u64,
        /// The first byte of the guest's that one of the entries describes.
        guest: u64,
    },
    /// The encryption header pointer has another length than its structure.
    #[error("encryption header pointer has {len} bytes and not 16")]
    EncryptionPointer {
        /// Bytes of the extension.
        len: usize,
    },
    /// The encryption header pointer is there without its method, or the method without it.
    #[error("crypt_method is {method}, and the encryption header pointer does not fit that")]
    EncryptionMismatch {
        /// The header's `crypt_method`.
        method: u32,
    },
    /// The LUKS header is damaged, or needs what is not built in.
    #[error("encryption header cannot be used")]
    Luks {
        /// What is wrong with it.
        source: LuksError,
    },
    /// A compressed cluster that does not decompress.
    #[error("compressed cluster at {offset:#x} of {len} bytes")]
    Compressed {
        /// Its first byte in the file.
        offset: u64,
        /// The bytes to the end of its last sector.
        len: u64,
        /// What the decompressor said.
        source: DecompressErrorSource,
    },
    /// A snapshot table entry that cannot be.
    #[error("snapshot table entry {index} at {offset:#x} has {what}")]
    Snapshot {
        /// Its place in the table.
        index: u32,
        /// Where it starts.
        offset: u64,
        /// What is wrong with it, as a noun.
        what: &'static str,
    },
    /// The bitmaps extension or the bitmap directory cannot be.
    #[error("bitmap directory at {offset:#x} has {what}")]
    BitmapDirectory {
        /// Where it is; 0 when the extension does not say.
        offset: u64,
        /// What is wrong with it, as a noun.
        what: &'static str,
    },
    /// A bitmap that cannot be.
    #[error("bitmap '{name}' has {what}")]
    Bitmap {
        /// Its name.
        name: String,
        /// What is wrong with it, as a noun.
        what: &'static str,
    },
    /// The dirty bit is set, and the refcounts could not be made right.
    #[error("image is marked dirty, and {corruptions} corruptions and {errors} errors remain")]
    MarkedDirty {
        /// What is wrong still.
        corruptions: u64,
        /// What could not be looked at.
        errors: u64,
    },
    /// The corrupt bit is set.
    #[error("image is corrupt; cannot be opened read/write")]
    MarkedCorrupt,
}

/// What the decompressor said, without its type.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct DecompressErrorSource(#[from] pub(super) DecompressError);

impl ImageError {
    /// Whether the image is legal, and this build cannot do what it asks for.
    pub fn is_unsupported(&self) -> bool {
        match self {
            ImageError::Luks { source } => source.is_unsupported(),
            other => matches!(
                other,
                ImageError::Features { .. }
                    | ImageError::NotBuiltIn { .. }
                    | ImageError::Version { .. }
            ),
        }
    }

    /// Whether it is metadata that is wrong, so that no change of the image can be trusted.
    pub(super) fn is_damage(&self) -> bool {
        matches!(
            self,
            ImageError::Entry { .. }
                | ImageError::RefcountEntry { .. }
                | ImageError::RefcountZero { .. }
                | ImageError::RefcountTooLow { .. }
                | ImageError::AllocatedInUse { .. }
                | ImageError::DataFilePlace { .. }
                | ImageError::InvalidWrite { .. }
                | ImageError::SharedTable { .. }
        )
    }

    /// The error with its node.
    pub(super) fn at(self, node: &str) -> Error {
        let node = node.to_owned();
        match self {
            ImageError::NotBuiltIn { what } => Error::Unsupported {
                node,
                what: what.to_owned(),
            },
            ImageError::Luks { source } if source.is_unsupported() => Error::Unsupported {
                node,
                what: source.to_string(),
            },
            ImageError::InvalidWrite { offset, len, .. } => Error::Corrupt {
                node,
                source: Box::new(self),
                place: Some(offset..offset.saturating_add(len)),
            },
            // Features and versions have a whole text of their own.
            other => Error::Corrupt {
                node,
                source: Box::new(other),
                place: None,
            },
        }
    }
}

fn field_text(field: &str, value: u64, range: &str) -> String {
    match (field, value) {
        ("cluster_bits", bits) if range.starts_with("9 ") => {
            format!("Unsupported cluster size: 2^{bits}")
        }
        ("header_length", ..104) => "qcow2 header too short".to_owned(),
        ("header_length", _) if range.ends_with("cluster") => {
            "qcow2 header exceeds cluster size".to_owned()
        }
        ("backing_file_size", _) => "Backing file name too long".to_owned(),
        ("refcount_order", _) => {
            "Reference count entry width too large; may not exceed 64 bits".to_owned()
        }
        ("refcount_table_clusters", 0) => {
            "Image does not contain a reference count table".to_owned()
        }
        ("refcount_table_clusters", _) => "Reference count table too large".to_owned(),
        ("l1_size", _) => "Active L1 table too large".to_owned(),
        ("nb_snapshots", _) => "Snapshot table too large".to_owned(),
        ("crypt_method", method) => format!("Unsupported encryption method {method}"),
        ("size", _) if range.starts_with("at most") => "Image is too big".to_owned(),
        _ => format!("header field {field} is {value}, which is not {range}"),
    }
}

fn truncated_text(what: &str, offset: u64, len: u64, file_len: u64) -> String {
    match what {
        "backing file name" => "Invalid backing file offset".to_owned(),
        _ => {
            format!("{what} at {offset:#x} of {len} bytes ends behind the file's {file_len} bytes")
        }
    }
}

fn place_text(what: &str, offset: u64, cluster_size: u64) -> String {
    match what {
        "refcount table" => "Reference count table offset invalid".to_owned(),
        "L1 table" => "Active L1 table offset invalid".to_owned(),
        "snapshot table" => "Snapshot table offset invalid".to_owned(),
        _ => format!("{what} offset {offset:#x} is not the start of a {cluster_size}-byte cluster"),
    }
}

fn features_text(names: &[String], unnamed: u64) -> String {
    let mut texts = names.to_vec();
    if unnamed != 0 {
        texts.push(format!("Unknown incompatible feature: {unnamed:x}"));
    }
    texts.join(", ")
}
