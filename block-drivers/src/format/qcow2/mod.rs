#![doc = include_str!("README.md")]
// Called by the registry (open, probe), by tools (create) and by the request path (the `Driver`
// impl). Invariant: whoever changes entries holds a claim on their clusters. What the driver does
// is in `image` and the modules that add to it; here it meets the graph.

use std::ops::Range;
use std::sync::Arc;

use block_core::bitmap::Bitmaps;
use block_core::driver::{
    AmendOptions, BackingName, CheckProgress, CheckReport, Child, ClaimKind, Cx, Description,
    Driver, KeySlotChange, Pending, Preallocation, Repair, SnapshotChange, Status, StatusKind,
    ZeroFlags,
};
use block_core::graph::Node;
use block_core::graph::open::{ImplicitRef, Opener};
use block_core::graph::perm::Role;
use block_core::limits::Limits;
use block_core::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};
use block_core::secret::Secret;
use block_core::{Error, IoBuf, LocalQueue, Result};
use block_schema::types::{
    BlockdevOptionsQcow2, BlockdevQcow2Encryption, BlockdevQcow2EncryptionBranch,
    BlockdevQcow2EncryptionFormat, BlockdevRef, ImageInfoSpecific, ImageInfoSpecificQCow2,
    Qcow2CompressionType, SnapshotInfo,
};

mod ahead;
mod alloc;
mod amend;
mod bitmap_check;
mod bitmap_directory;
mod bitmaps;
mod cache;
mod check;
mod check_flags;
mod check_meter;
mod compressed;
mod corrupt;
mod counts;
mod create;
mod crypt;
mod data_file;
mod discard;
mod error;
pub(crate) mod fuzz;
mod geometry;
mod growth;
mod header;
mod header_write;
mod image;
mod key_slots;
mod layout;
mod lazy;
mod map;
mod measure;
mod options;
mod overlap;
mod pack;
mod read;
mod repair;
mod resize;
mod snapshot;
mod snapshot_repair;
mod snapshot_table;
mod stored_counts;
mod subclusters;
mod switch;
#[cfg(test)]
mod tests;
mod write;

pub use crate::kit::crypto::luks::{LuksError, LuksOptions};
pub use crate::kit::crypto::{
    CipherAlgorithm, CipherMode, CryptoError, HashAlgorithm, IvAlgorithm,
};
pub use create::{CreateEncryption, CreateOptions};
pub use error::{DecompressErrorSource, ImageError};
pub use header::{Compression, Version};
pub use measure::fully_allocated;

use crate::kit::image_file::OnQueue;
use header::{Encryption, Header};
use image::{Image, read_header};
use layout::{autoclear, compatible, incompatible};
use map::Cluster;

/// Whether the first bytes of a file are a qcow2 header's.
pub(crate) fn probe(head: &[u8]) -> bool {
    head.starts_with(&layout::MAGIC) && matches!(head.get(4..8), Some([0, 0, 0, 2 | 3]))
}

/// Opens an image by its options.
pub(crate) async fn open(
    opener: &mut Opener,
    options: BlockdevOptionsQcow2,
) -> Result<Box<dyn Driver>> {
    let writable = !opener.is_read_only();
    let discard = opener.facts().discard_unmap;
    let mut parsed = options::parse(&options, writable, discard)?;
    parsed.for_check = opener.is_for_check();
    let file = opener.child("file", Role::Image, options.file).await?;
    let header = read_header(&opener.opened(file), opener.node_name(), parsed.for_check).await?;
    let key = key_of(opener, options.encrypt.as_ref(), header.encryption)?;
    let data = open_data_file(opener, options.data_file, &header).await?;
    open_backing(opener, options.backing, &header).await?;
    let around = OnQueue::file(opener.queue(), opener.opened(file))
        .with_data(data.map(|edge| opener.opened(edge)));
    let image = Image::open(&around, opener.node_name(), parsed).await?;
    if let Some(key) = key {
        image.unlock(&around, &key).await?;
    }
    Ok(Box::new(Qcow2 { image, file, data }))
}

/// The passphrase that the options name, which must be for the image's own kind of encryption.
fn key_of(
    opener: &Opener,
    option: Option<&BlockdevQcow2Encryption>,
    encryption: Encryption,
) -> Result<Option<Secret>> {
    let Some(option) = option else {
        return Ok(None);
    };
    let format = option.format.kind();
    let refuse = |reason| Err(Error::invalid("encrypt.format", reason));
    let stored = match encryption {
        Encryption::None => {
            return refuse(format!(
                "No encryption in image header, but options specified format '{format}'"
            ));
        }
        Encryption::Aes => BlockdevQcow2EncryptionFormat::Aes,
        Encryption::Luks { .. } => BlockdevQcow2EncryptionFormat::Luks,
    };
    if stored != format {
        return refuse(format!(
            "Header reported '{stored}' encryption format but options specify '{format}'"
        ));
    }
    let id = match &option.format {
        BlockdevQcow2EncryptionBranch::Aes(key) => &key.key_secret,
        BlockdevQcow2EncryptionBranch::Luks(key) => &key.key_secret,
    };
    id.as_ref().map(|id| opener.secret(id)).transpose()
}

/// Opens the data file: the one in the options, else the one that the image names. `null` opens
/// none: the image is only described then.
async fn open_data_file(
    opener: &mut Opener,
    option: Option<BlockdevRef>,
    header: &Header,
) -> Result<Option<EdgeIndex>> {
    let refuse = |reason: &str| Err(Error::invalid("data-file", reason));
    match (option, header.has_data_file()) {
        (Some(BlockdevRef::Null(_)), _) => Ok(None),
        (Some(_), false) => {
            refuse("'data-file' can only be set for images with an external data file")
        }
        (None, false) if header.autoclear & autoclear::DATA_FILE_RAW != 0 => {
            refuse("data-file-raw requires a data file")
        }
        (None, false) => Ok(None),
        (Some(option), true) => {
            let edge = opener.child("data-file", Role::Data, option).await?;
            Ok(Some(edge))
        }
        (None, true) => {
            let Some(name) = header.data_file() else {
                return Err(data_file::required());
            };
            let wanted = ImplicitRef {
                name: &name,
                format: None,
            };
            let edge = opener
                .implicit_child("data-file", Role::Data, wanted)
                .await?;
            Ok(Some(edge))
        }
    }
}

/// Opens the backing file that the options or the image name.
async fn open_backing(
    opener: &mut Opener,
    option: Option<BlockdevRef>,
    header: &Header,
) -> Result<()> {
    let format = header.backing_format();
    let named = header.backing_file.as_ref().map(|name| ImplicitRef {
        name,
        format: format.as_deref(),
    });
    opener.backing(option, named).await?;
    Ok(())
}

/// Makes an empty image in `file`; what was there is lost. Nobody else uses the file.
///
/// # Errors
/// `InvalidOption` for options that no image can have; errors of the file.
pub async fn create(queue: &LocalQueue, file: Child, options: &CreateOptions) -> Result<()> {
    create::create(&OnQueue::file(queue, file), options).await
}

/// As [`create`], with guest data in a file of its own, whose bytes are lost too.
///
/// # Errors
/// As [`create`]; errors of the data file.
pub async fn create_with_data_file(
    queue: &LocalQueue,
    file: Child,
    data: Child,
    options: &CreateOptions,
) -> Result<()> {
    create::create(&OnQueue::file(queue, file).with_data(Some(data)), options).await
}

/// An open image as a node.
pub struct Qcow2 {
    image: Image,
    file: EdgeIndex,
    /// The file with guest data, where that is another one.
    data: Option<EdgeIndex>,
}

impl Qcow2 {
    fn around(&self, cx: &Cx) -> OnQueue {
        OnQueue::of(cx, self.file).with_data(self.data.map(|edge| cx.child(edge)))
    }

    /// Where guest clusters are.
    fn clusters_in(&self) -> EdgeIndex {
        self.data.unwrap_or(self.file)
    }

    /// The clusters that a range touches.
    fn clusters(&self, range: &Range<u64>) -> Range<u64> {
        let geometry = self.image.geometry;
        geometry.floor(range.start)..geometry.ceil(range.end)
    }

    /// Writes in place if that is all there is to do; false when clusters must be allocated.
    async fn overwrite(&self, cx: &Cx, offset: u64, buf: &IoBuf) -> Result<bool> {
        if self.image.is_encrypted() {
            let around = self.around(cx);
            return self.image.overwrite_encrypted(&around, offset, buf).await;
        }
        let end = offset + buf.len() as u64;
        let mut mapping = Mapping::new();
        let around = self.around(cx);
        self.image
            .map(
                &around,
                self.clusters_in(),
                Access::Write,
                offset..end,
                &mut mapping,
            )
            .await?;
        if mapping.len() < end - offset {
            return Ok(false);
        }
        let mut at = 0;
        let mut work: Vec<Pending<'_>> = Vec::new();
        for piece in mapping.pieces() {
            let Extent::Child { edge, offset } = piece.extent else {
                return Ok(false);
            };
            let part = read::slice(buf, at, piece.len);
            work.push(Box::pin(
                async move { cx.child(edge).write(offset, part).await },
            ));
            at += piece.len;
        }
        cx.join(work).await?;
        Ok(true)
    }

    async fn first_status(&self, cx: &Cx, range: Range<u64>) -> Result<Status> {
        let run = self.image.first_status(&self.around(cx), range).await?;
        let (kind, host) = match run.cluster {
            Cluster::Unallocated(host) => (StatusKind::Unallocated, host),
            Cluster::Zero(host) => (StatusKind::Zero, host),
            Cluster::Data(host) => (StatusKind::Data, Some(host)),
            Cluster::Compressed(_) => (StatusKind::Data, None),
        };
        Ok(Status {
            len: run.len,
            kind,
            // Encrypted runs are nowhere as they are.
            child: host
                .filter(|_| !self.image.is_encrypted())
                .map(|h| (self.clusters_in(), h.offset.0 + run.skip)),
            compressed: matches!(run.cluster, Cluster::Compressed(_)),
        })
    }
}

impl Driver for Qcow2 {
    fn format_name(&self) -> &'static str {
        "qcow2"
    }

    fn len(&self) -> u64 {
        self.image.size()
    }

    fn limits(&self) -> Limits {
        Limits {
            request_alignment: if self.image.is_encrypted() { 512 } else { 1 },
            optimal_transfer: 1 << self.image.geometry.cluster_bits,
            ..Limits::default()
        }
    }

    fn describe(&self) -> Description {
        let header = self.image.header.lock().clone();
        let v3 = header.version == Version::V3;
        let bit = |set| v3.then_some(set);
        let compat = if v3 { "1.1" } else { "0.10" };
        let mut specific = ImageInfoSpecificQCow2::new(compat.to_owned());
        specific.lazy_refcounts = bit(header.compatible & compatible::LAZY_REFCOUNTS != 0);
        specific.corrupt = bit(header.has(incompatible::CORRUPT));
        specific.extended_l2 = bit(header.geometry.is_extended());
        specific.refcount_bits = Some(1 << header.geometry.refcount_order);
        specific.compression_type = Some(match header.compression {
            Compression::Deflate => Qcow2CompressionType::Zlib,
            Compression::Zstd => Qcow2CompressionType::Zstd,
        });
        specific.data_file = header.data_file().filter(|_| header.has_data_file());
        specific.data_file_raw = header.has_data_file().then(|| header.is_data_file_raw());
        specific.bitmaps = self.image.bitmap_infos();
        specific.encrypt = self.image.crypt.as_ref().map(crypt::Crypt::info);
        let format = header.backing_format();
        Description {
            encrypted: self.image.is_encrypted(),
            encryption_key_missing: self.image.is_locked(),
            cluster_size: Some(header.geometry.cluster_size()),
            dirty: Some(header.has(incompatible::DIRTY)),
            backing: header
                .backing_file
                .map(|filename| BackingName { filename, format }),
            snapshots: self.image.snapshot_infos(),
            format_specific: Some(ImageInfoSpecific::Qcow2(specific)),
            ..Description::default()
        }
    }

    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        self.image.try_map(self.clusters_in(), access, range, out)
    }

    fn map<'a>(
        &'a self,
        cx: &'a Cx,
        access: Access,
        range: Range<u64>,
        out: &'a mut Mapping,
    ) -> Pending<'a> {
        Box::pin(async move {
            self.image
                .map(&self.around(cx), self.clusters_in(), access, range, out)
                .await
        })
    }

    fn read_transformed<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            self.image.need_key()?;
            self.image.read(&self.around(cx), offset, buf).await
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            let around = self.around(cx);
            let overwritten = self.overwrite(cx, offset, &buf).await;
            if self.image.noticed(&around, overwritten).await? {
                return Ok(());
            }
            let clusters = self.clusters(&(offset..offset + buf.len() as u64));
            let _claim = cx.claim(clusters, ClaimKind::Write).await;
            let written = self.image.write(&around, offset, buf).await;
            self.image.noticed(&around, written).await
        })
    }

    fn can_compress(&self) -> bool {
        true
    }

    fn write_compressed<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            let clusters = self.clusters(&(offset..offset + buf.len() as u64));
            let _claim = cx.claim(clusters, ClaimKind::Write).await;
            let around = self.around(cx);
            let written = self.image.write_compressed(&around, offset, buf).await;
            self.image.noticed(&around, written).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(async move {
            self.image.need_key()?;
            let _claim = cx.claim(self.clusters(&range), ClaimKind::Exclusive).await;
            let around = self.around(cx);
            let zeroed = self.image.write_zeroes(&around, range, flags).await;
            self.image.noticed(&around, zeroed).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            self.image.need_key()?;
            let _claim = cx.claim(self.clusters(&range), ClaimKind::Exclusive).await;
            let around = self.around(cx);
            let discarded = self.image.discard(&around, range).await;
            self.image.noticed(&around, discarded).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move { self.image.flush_guest(&self.around(cx)).await })
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(self.first_status(cx, range))
    }

    fn resize<'a>(&'a self, cx: &'a Cx, len: u64, preallocation: Preallocation) -> Pending<'a> {
        Box::pin(async move {
            self.image
                .resize(&self.around(cx), len, preallocation)
                .await
        })
    }

    fn supports_backing(&self) -> bool {
        true
    }

    fn name_backing<'a>(&'a self, cx: &'a Cx, backing: Option<BackingName>) -> Pending<'a> {
        Box::pin(async move { self.image.name_backing(&self.around(cx), backing).await })
    }

    fn make_empty<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move { self.image.make_empty(&self.around(cx)).await })
    }

    fn amend<'a>(&'a self, cx: &'a Cx, options: AmendOptions) -> Pending<'a> {
        Box::pin(async move { self.image.amend(&self.around(cx), &options).await })
    }

    fn change_key_slots<'a>(&'a self, cx: &'a Cx, change: KeySlotChange) -> Pending<'a> {
        Box::pin(async move { self.image.change_key_slots(&self.around(cx), change).await })
    }

    fn snapshot<'a>(&'a self, cx: &'a Cx, change: SnapshotChange) -> Pending<'a, SnapshotInfo> {
        Box::pin(async move { self.image.snapshot(&self.around(cx), change).await })
    }

    fn check<'a>(&'a self, cx: &'a Cx, repair: Repair) -> Pending<'a, CheckReport> {
        Box::pin(async move { self.image.check(&self.around(cx), repair).await })
    }

    fn check_progress(&self) -> Option<CheckProgress> {
        Some(self.image.check_meter.progress())
    }

    fn bitmaps(&self) -> Option<Arc<Bitmaps>> {
        Some(Arc::clone(&self.image.bitmaps))
    }

    fn check_new_bitmap(&self, _node: &Node, name: &str, granularity: u32) -> Result<()> {
        self.image.check_new_bitmap(name, granularity)
    }

    fn remove_bitmap<'a>(&'a self, cx: &'a Cx, name: &'a str) -> Pending<'a> {
        Box::pin(async move { self.image.remove_bitmap(&self.around(cx), name).await })
    }

    fn drop_unused(&self) -> bool {
        self.image.drop_unused()
    }

    fn unlock<'a>(&'a self, cx: &'a Cx, passphrase: Secret) -> Pending<'a> {
        Box::pin(async move { self.image.unlock(&self.around(cx), &passphrase).await })
    }

    fn close<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move {
            self.image.rounds.close();
            if cx.is_read_only() {
                return Ok(());
            }
            let around = self.around(cx);
            // Also when bitmaps cannot be stored, which their marks on disk say.
            let stored = self.image.store_bitmaps(&around).await;
            self.image.close(&around).await.and(stored)
        })
    }
}
