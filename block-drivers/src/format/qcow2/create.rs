//! Making an image: an empty one, in a file that is empty or may be overwritten.
//! Called by the block layer's create verb and by tools. Invariant: the header is written last, so
//! that a half-made image is not an image. Spec: qcow2 "Header".

use block_core::driver::Preallocation;
use block_core::secret::Secret;
use block_core::{Error, Result};

use super::geometry::Geometry;
use super::header::{
    Compression, Encryption, Extension, Header, MAX_BACKING_NAME, MAX_L1_BYTES, MIN_EXTENDED_BITS,
    Version,
};
use super::header_write::feature_names;
use super::image::{Image, OpenOptions};
use super::layout::{autoclear, compatible, extension, incompatible};
use crate::kit::addr::HostOffset;
use crate::kit::crypto::luks::{LuksOptions, NewHeader};
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::bytes_be;

/// How an image is made; the defaults are QEMU's.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the guest's disk, a multiple of 512.
    pub size: u64,
    /// Version of the format.
    pub version: Version,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two from 1 to 64; 16 in version 2.
    pub refcount_bits: u64,
    /// Whether refcounts may be updated late; version 3.
    pub lazy_refcounts: bool,
    /// How compressed clusters will be compressed; version 3 for all but deflate.
    pub compression: Compression,
    /// The name of the image behind this one.
    pub backing_file: Option<String>,
    /// That image's format.
    pub backing_format: Option<String>,
    /// What is allocated ahead; with a backing file only where clusters have subclusters.
    pub preallocation: Preallocation,
    /// Whether clusters have 32 subclusters each; version 3.
    pub extended_l2: bool,
    /// The name of the file that holds guest data alone, to be stored as it is; version 3.
    pub data_file: Option<String>,
    /// Whether that file is kept readable as a raw image; not with a backing file.
    pub data_file_raw: bool,
    /// How guest data will be encrypted.
    pub encryption: Option<CreateEncryption>,
}

/// How a new image's data is encrypted, and the passphrase that opens it.
#[derive(Clone, Debug)]
pub enum CreateEncryption {
    /// The old method, which is weak: for programs that know no other.
    Aes(Secret),
    /// With a LUKS header.
    Luks(LuksOptions, Secret),
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions {
            size: 0,
            version: Version::V3,
            cluster_size: 65536,
            refcount_bits: 16,
            lazy_refcounts: false,
            compression: Compression::Deflate,
            backing_file: None,
            backing_format: None,
            preallocation: Preallocation::Off,
            extended_l2: false,
            data_file: None,
            data_file_raw: false,
            encryption: None,
        }
    }
}

impl CreateOptions {
    /// Whether there can be such an image.
    ///
    /// # Errors
    /// `InvalidOption` with what is wrong.
    pub fn validate(&self) -> Result<()> {
        self.check().map(drop)
    }

    /// Cluster size and refcount width, checked with everything else that a header must keep.
    pub(super) fn check(&self) -> Result<Geometry> {
        let (cluster_size, bits) = (self.cluster_size, self.refcount_bits);
        if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
            let reason = "Cluster size must be a power of two between 512 and 2048k";
            return Err(Error::invalid("cluster-size", reason));
        }
        if !bits.is_power_of_two() || bits > 64 {
            let reason = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid("refcount-bits", reason));
        }
        if self.extended_l2 && self.version == Version::V2 {
            let reason = "Extended L2 entries are only supported with compatibility level 1.1 and \
                          above (use version=v3 or greater)";
            return Err(Error::invalid("extended-l2", reason));
        }
        if self.extended_l2 && cluster_size < 1 << MIN_EXTENDED_BITS {
            let reason = "Extended L2 entries are only supported with cluster sizes of at least \
                          16384 bytes";
            return Err(Error::invalid("cluster-size", reason));
        }
        if self.version == Version::V2 {
            let v2 = "is only supported with compatibility level 1.1 and above (use version=v3 or greater)";
            if bits != 16 {
                return Err(Error::invalid(
                    "refcount-bits",
                    format!("a refcount width other than 16 {v2}"),
                ));
            }
            if self.lazy_refcounts {
                return Err(Error::invalid(
                    "lazy-refcounts",
                    format!("lazy refcounts {v2}"),
                ));
            }
            if self.compression != Compression::Deflate {
                return Err(Error::invalid(
                    "compression-type",
                    format!("compression type zstd {v2}"),
                ));
            }
        }
        self.check_data_file()?;
        if !self.size.is_multiple_of(512) {
            return Err(Error::invalid(
                "size",
                "Image size must be a multiple of 512 bytes",
            ));
        }
        match &self.backing_file {
            Some(_) if self.preallocation != Preallocation::Off && !self.extended_l2 => {
                let reason = "Backing file and preallocation can only be used at the same time if \
                              extended_l2 is on";
                return Err(Error::invalid("preallocation", reason));
            }
            Some(name) if name.is_empty() || name.len() > MAX_BACKING_NAME as usize => {
                return Err(Error::invalid(
                    "backing-file",
                    "backing file name is empty or too long",
                ));
            }
            None if self.backing_format.is_some() => {
                let reason = "Backing format cannot be used without backing file";
                return Err(Error::invalid("backing-fmt", reason));
            }
            Some(_) | None => {}
        }
        if let Some(CreateEncryption::Luks(luks, _)) = &self.encryption {
            let refuse = |e: crate::kit::crypto::CryptoError| {
                Error::invalid("encrypt.cipher-alg", e.to_string())
            };
            luks.check().map_err(refuse)?;
        }
        if self.encryption.is_some()
            && self.version == Version::V2
            && self.preallocation != Preallocation::Off
        {
            let reason = "version 2 images cannot be both encrypted and preallocated";
            return Err(Error::invalid("preallocation", reason));
        }
        let geometry = Geometry {
            cluster_bits: cluster_size.trailing_zeros(),
            refcount_order: bits.trailing_zeros(),
            l2_entry_order: u32::from(self.extended_l2),
        };
        if geometry.l1_entries(self.size).saturating_mul(8) > MAX_L1_BYTES {
            return Err(Error::invalid(
                "size",
                "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
            ));
        }
        Ok(geometry)
    }

    fn check_data_file(&self) -> Result<()> {
        if self.data_file_raw && self.data_file.is_none() {
            let reason = "data-file-raw requires data-file";
            return Err(Error::invalid("data-file-raw", reason));
        }
        if self.data_file_raw && self.backing_file.is_some() {
            let reason = "Backing file and data-file-raw cannot be used at the same time";
            return Err(Error::invalid("data-file-raw", reason));
        }
        if self.data_file.is_some() && self.version == Version::V2 {
            let reason = "External data files are only supported with compatibility level 1.1 and \
                          above (use version=v3 or greater)";
            return Err(Error::invalid("data-file", reason));
        }
        Ok(())
    }

    /// What is allocated: a data file that is read alone takes tables that name all of it.
    fn preallocation(&self) -> Preallocation {
        match self.preallocation {
            Preallocation::Off if self.data_file_raw => Preallocation::Metadata,
            mode => mode,
        }
    }

    /// Bytes of the encryption header.
    fn encryption_len(&self) -> u64 {
        match &self.encryption {
            Some(CreateEncryption::Luks(luks, _)) => luks.area_len(),
            Some(CreateEncryption::Aes(_)) | None => 0,
        }
    }

    fn header(&self, geometry: Geometry, plan: &Plan) -> Header {
        let mut extensions = Vec::new();
        if let Some(format) = &self.backing_format {
            let data = format.clone().into_bytes();
            extensions.push(Extension {
                kind: extension::BACKING_FORMAT,
                data,
            });
        }
        if let Some(name) = &self.data_file {
            let data = name.clone().into_bytes();
            let kind = extension::DATA_FILE;
            extensions.push(Extension { kind, data });
        }
        let encryption = match &self.encryption {
            None => Encryption::None,
            Some(CreateEncryption::Aes(_)) => Encryption::Aes,
            Some(CreateEncryption::Luks(luks, _)) => Encryption::Luks {
                place: plan.encryption,
                len: luks.area_len(),
            },
        };
        extensions.extend(encryption.extension());
        // In the smallest clusters the names would leave no room for a backing file.
        if self.version == Version::V3 && self.cluster_size >= 4096 {
            extensions.push(feature_names());
        }
        let mut incompatible = 0;
        if self.compression != Compression::Deflate {
            incompatible |= incompatible::COMPRESSION;
        }
        if self.extended_l2 {
            incompatible |= incompatible::EXTENDED_L2;
        }
        if self.data_file.is_some() {
            incompatible |= incompatible::DATA_FILE;
        }
        Header {
            version: self.version,
            geometry,
            size: self.size,
            l1_table: plan.l1_table,
            l1_size: plan.l1_size,
            refcount_table: geometry.host_of(1),
            refcount_table_clusters: plan.table_clusters,
            snapshots: HostOffset(0),
            snapshot_count: 0,
            incompatible,
            compatible: if self.lazy_refcounts {
                compatible::LAZY_REFCOUNTS
            } else {
                0
            },
            autoclear: if self.data_file_raw {
                autoclear::DATA_FILE_RAW
            } else {
                0
            },
            compression: self.compression,
            encryption,
            unknown_fields: Vec::new(),
            extensions,
            backing_file: self.backing_file.clone(),
        }
    }
}

/// Where everything of an empty image is: header, refcount table, refcount blocks, L1 table,
/// encryption header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    table_clusters: u32,
    blocks: u64,
    l1_table: HostOffset,
    l1_size: u32,
    encryption: HostOffset,
    /// Clusters of all that.
    used: u64,
}

impl Plan {
    fn new(geometry: Geometry, size: u64, encryption_len: u64) -> Plan {
        // Bounded by the caller.
        let l1_size = geometry.l1_entries(size);
        let l1_clusters = geometry.clusters(l1_size * 8);
        let encryption_clusters = geometry.clusters(encryption_len);
        let (mut table_clusters, mut blocks) = (1, 1);
        loop {
            let l1 = 1 + table_clusters + blocks;
            let used = l1 + l1_clusters + encryption_clusters;
            let (need_blocks, need_table) = (
                used.div_ceil(geometry.block_reach()),
                blocks.div_ceil(geometry.entries()),
            );
            if (need_blocks, need_table) <= (blocks, table_clusters) {
                return Plan {
                    table_clusters: u32::try_from(table_clusters).unwrap_or(u32::MAX),
                    blocks,
                    l1_table: geometry.host_of(if l1_size == 0 { 0 } else { l1 }),
                    l1_size: u32::try_from(l1_size).unwrap_or(u32::MAX),
                    encryption: geometry.host_of(l1 + l1_clusters),
                    used,
                };
            }
            blocks = blocks.max(need_blocks);
            table_clusters = table_clusters.max(need_table);
        }
    }
}

/// Makes an image in `file`; what was there is lost.
///
/// # Errors
/// `InvalidOption` for options that no image can have; errors of the file.
pub(super) async fn create<E: Surroundings>(env: &E, options: &CreateOptions) -> Result<()> {
    let geometry = options.check()?;
    let plan = Plan::new(geometry, options.size, options.encryption_len());
    let header = options.header(geometry, &plan);
    let file = env.file();
    if options.data_file.is_some() && env.data().is_none() {
        return Err(super::data_file::required());
    }
    // Before anything is written: it can fail.
    let encryption = encryption_area(env, options).await?;
    let header_bytes = header
        .to_bytes()
        .map_err(|e| Error::invalid("backing-file", e.to_string()))?;
    if file.len() > 0 {
        // No old header may stand while its tables are overwritten.
        file.write_bytes(0, &vec![0; geometry.cluster_len()])
            .await?;
        // A file that cannot shrink (a device) is written over all the same.
        let _ = file.resize(0, Preallocation::Off).await;
        file.flush().await?;
    }
    if let Some(data) = env.data() {
        // Nothing of an old disk may show; what cannot shrink is hidden by the tables.
        let _ = data.resize(0, Preallocation::Off).await;
        data.flush().await?;
    }
    let first_block = 1 + u64::from(plan.table_clusters);
    let table: Vec<u64> = (0..u64::from(plan.table_clusters) * geometry.entries())
        .map(|index| {
            if index < plan.blocks {
                geometry.host_of(first_block + index).0
            } else {
                0
            }
        })
        .collect();
    file.write_bytes(geometry.host_of(1).0, &bytes_be(&table))
        .await?;
    for index in 0..plan.blocks {
        let words = first_counts(geometry, index, plan.used);
        file.write_bytes(geometry.host_of(first_block + index).0, &bytes_be(&words))
            .await?;
    }
    let l1 = vec![0; usize::try_from(header.l1_bytes()).unwrap_or(usize::MAX)];
    if !l1.is_empty() {
        file.write_bytes(plan.l1_table.0, &l1).await?;
    }
    if let Some(mut area) = encryption {
        area.resize(area.len().next_multiple_of(geometry.cluster_len()), 0);
        file.write_bytes(plan.encryption.0, &area).await?;
    }
    file.flush().await?;
    // All of the cluster: what follows the extensions must not be an old file's bytes.
    let mut cluster = header_bytes;
    cluster.resize(geometry.cluster_len(), 0);
    file.write_bytes(0, &cluster).await?;
    file.flush().await?;
    let preallocation = options.preallocation();
    if preallocation != Preallocation::Off || env.data().is_some() {
        let image = Image::open(env, file.name(), OpenOptions::default()).await?;
        if preallocation != Preallocation::Off {
            image.zero_data_behind(env, 0..options.size).await?;
        }
        image
            .resize_data(env, options.size, options.preallocation)
            .await?;
        image
            .preallocate(env, 0..options.size, preallocation)
            .await?;
        image.flush_all(env).await?;
    }
    Ok(())
}

/// The bytes of a new LUKS header, with its key material.
async fn encryption_area<E: Surroundings>(
    env: &E,
    options: &CreateOptions,
) -> Result<Option<Vec<u8>>> {
    let Some(CreateEncryption::Luks(luks, passphrase)) = options.encryption.clone() else {
        return Ok(None);
    };
    // A few megabytes, by the longest key.
    let mut area = vec![0; usize::try_from(luks.area_len()).unwrap_or(usize::MAX)];
    let made = env
        .blocking(move || NewHeader::make(&luks, passphrase.bytes()))
        .await?;
    let new = made.map_err(|e| Error::invalid("encrypt", e.to_string()))?;
    let material = usize::try_from(new.material_offset).unwrap_or(usize::MAX);
    for (at, bytes) in [(0, new.header.as_slice()), (material, &new.material)] {
        if let Some(place) = area
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..bytes.len()))
        {
            place.copy_from_slice(bytes);
        }
    }
    Ok(Some(area))
}

/// A refcount block of an image whose first `used` clusters are in use.
fn first_counts(geometry: Geometry, index: u64, used: u64) -> Vec<u64> {
    let mut words = vec![0; geometry.entries_len()];
    let first = index * geometry.block_reach();
    for cluster in 0..used.saturating_sub(first).min(geometry.block_reach()) {
        let (word, shift) = geometry.refcount_place(cluster);
        words[word] |= 1 << shift;
    }
    words
}
