//! Changing an existing image's format: its backing file's name, its version, the width of its
//! refcounts; and forgetting all that it holds.
//! Called by the driver, drained. Invariant: the header on disk names only tables of its own format;
//! each change is durable with one write of the header.
//! Spec: qcow2 "Header", "Header extensions", "Refcount table". Not here: the disk's length (`resize.rs`).

use block_core::driver::{AmendOptions, BackingName};
use block_core::{Error, IoBuf, Result};

use super::error::ImageError;
use super::geometry::Geometry;
use super::header::{Compression, Extension, MAX_BACKING_NAME, MAX_REFCOUNT_TABLE_BYTES, Version};
use super::header_write::feature_names;
use super::image::Image;
use super::layout::{L1Entry, autoclear, compatible, extension, incompatible};
use super::map::Cluster;
use super::read::usize_of;
use super::switch::Next;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::bytes_be;

/// The refcount width that version 2 has, as a power of two.
const V2_REFCOUNT_ORDER: u32 = 4;
/// Zero bytes written at once.
const ZERO_CHUNK: u64 = 1 << 20;
/// The smallest cluster whose header gets names of features.
const NAMED_FEATURES_FROM: u64 = 4096;

impl Image {
    /// Names another backing file, or none.
    ///
    /// # Errors
    /// `InvalidOption` for a name that is too long; `NOSPC` when the header has no room.
    pub(super) async fn name_backing<E: Surroundings>(
        &self,
        env: &E,
        backing: Option<BackingName>,
    ) -> Result<()> {
        if backing.is_some() && self.is_data_file_raw() {
            let reason = "a backing file and data-file-raw cannot be used at the same time";
            return Err(Error::invalid("backing-file", reason));
        }
        self.first_write(env).await?;
        let name = backing.as_ref().map(|backing| &backing.filename);
        if name.is_some_and(|name| name.is_empty() || name.len() > MAX_BACKING_NAME as usize) {
            let reason = "backing file name is empty or too long";
            return Err(Error::invalid("backing-file", reason));
        }
        self.rewrite_header(env, |header| {
            header
                .extensions
                .retain(|e| e.kind != extension::BACKING_FORMAT);
            if let Some(format) = backing.as_ref().and_then(|backing| backing.format.as_ref()) {
                let data = format.clone().into_bytes();
                let kind = extension::BACKING_FORMAT;
                header.extensions.insert(0, Extension { kind, data });
            }
            header.backing_file = backing.map(|backing| backing.filename);
        })
        .await
    }

    /// Forgets all that the disk holds, in one step; snapshots stay.
    ///
    /// # Errors
    /// As [`switch`](Image::switch).
    pub(super) async fn make_empty<E: Surroundings>(&self, env: &E) -> Result<()> {
        if self.has_data_file() {
            return self.empty_data(env).await;
        }
        let active = self.active_l1();
        let needed = usize_of(self.geometry.l1_entries(self.size()));
        let next = Next {
            size: self.size(),
            l1: vec![L1Entry(0); needed],
            snapshots: self.snapshots.lock().entries.clone(),
            taken: false,
            gained: Vec::new(),
            lost: vec![active],
            given_up: None,
        };
        self.switch(env, next).await
    }

    fn check_data_file(&self, options: &AmendOptions) -> Result<()> {
        if options.data_file.is_some() && !self.has_data_file() {
            let reason = "data-file can only be set for images that use an external data file";
            return Err(Error::invalid("data_file", reason));
        }
        if options.data_file_raw == Some(true) && !self.is_data_file_raw() {
            let reason = "data-file-raw cannot be set on existing images";
            return Err(Error::invalid("data_file_raw", reason));
        }
        Ok(())
    }

    /// Names another data file in the image, or none, and forgets that it is raw where told to.
    async fn name_data_file<E: Surroundings>(&self, env: &E, options: &AmendOptions) -> Result<()> {
        if options.data_file_raw == Some(false) {
            self.update_header(env, |h| h.autoclear &= !autoclear::DATA_FILE_RAW)
                .await?;
        }
        let Some(name) = &options.data_file else {
            return Ok(());
        };
        self.rewrite_header(env, |header| {
            header.extensions.retain(|e| e.kind != extension::DATA_FILE);
            if !name.is_empty() {
                let data = name.clone().into_bytes();
                let kind = extension::DATA_FILE;
                header.extensions.insert(0, Extension { kind, data });
            }
        })
        .await
    }

    /// As [`make_empty`](Image::make_empty) where clusters are in a data file: cluster by cluster.
    async fn empty_data<E: Surroundings>(&self, env: &E) -> Result<()> {
        self.need_data_file()?;
        let whole = 0..self.geometry.ceil(self.size());
        self.first_write(env).await?;
        if self.is_data_file_raw() {
            // Nothing shows through a file that must read as the disk.
            self.discard(env, 0..self.size()).await?;
        } else {
            self.clear(env, whole.clone()).await?;
            self.flush(env).await?;
            if self.options.pass_discard_snapshot {
                self.release_data(env, &whole).await;
            }
        }
        self.flush_all(env).await
    }

    /// Changes version, refcount width and lateness of refcounts.
    ///
    /// # Errors
    /// `InvalidOption` for what the version cannot have, or what the image holds and the next format
    /// cannot; errors of the file. What was changed before an error stays.
    pub(super) async fn amend<E: Surroundings>(
        &self,
        env: &E,
        options: &AmendOptions,
    ) -> Result<()> {
        let version = match options.compat.as_deref() {
            None => self.version,
            Some("0.10" | "v2") => Version::V2,
            Some("1.1" | "v3") => Version::V3,
            Some(other) => {
                let reason = format!("Unknown compatibility level {other}");
                return Err(Error::invalid("compat", reason));
            }
        };
        let now = self.header.lock().clone();
        let order = self.checked_order(options, version)?;
        let lazy = now.compatible & compatible::LAZY_REFCOUNTS != 0;
        let lazy = options
            .lazy_refcounts
            .unwrap_or(lazy && version == Version::V3);
        if lazy && version == Version::V2 {
            let reason = "Lazy refcounts only supported with compatibility level 1.1 and above \
                          (use compat=1.1 or greater)";
            return Err(Error::invalid("lazy_refcounts", reason));
        }
        self.check_data_file(options)?;
        if version == Version::V2 && self.bitmaps.all().iter().any(|b| b.is_persistent()) {
            let reason = "Bitmaps prevent downgrade of image: version 2 cannot store them";
            return Err(Error::invalid("compat", reason));
        }
        if version < self.version {
            self.check_downgrade(order)?;
        }
        self.first_write(env).await?;
        if version < self.version {
            // With the counts that memory knows, so before they change.
            self.expand_zeroes(env).await?;
        }
        let changes_format = version != self.version || order != self.geometry.refcount_order;
        if changes_format {
            // Nothing is written after that, so that what is stored now stays right.
            self.store_bitmaps(env).await?;
            self.pause();
        }
        self.flush_all(env).await?;
        if version > self.version {
            self.upgrade(env).await?;
        }
        if order != self.geometry.refcount_order {
            self.change_refcounts(env, order).await?;
        }
        self.name_data_file(env, options).await?;
        if version >= self.version && version == Version::V3 {
            self.update_header(env, |header| {
                header.compatible &= !compatible::LAZY_REFCOUNTS;
                header.compatible |= if lazy { compatible::LAZY_REFCOUNTS } else { 0 };
            })
            .await?;
            self.lazy.allow(lazy);
        }
        if version < self.version {
            self.downgrade(env).await?;
        }
        if changes_format {
            self.unmark_bitmaps(env).await?;
            self.set_amended();
        }
        Ok(())
    }

    /// The refcount width that is wanted, as a power of two.
    fn checked_order(&self, options: &AmendOptions, version: Version) -> Result<u32> {
        let Some(bits) = options.refcount_bits else {
            return Ok(self.geometry.refcount_order);
        };
        if !bits.is_power_of_two() || bits > 64 {
            let reason = "Refcount width must be a power of two and may not exceed 64 bits";
            return Err(Error::invalid("refcount_bits", reason));
        }
        if version == Version::V2 && bits != 16 {
            let reason = "Refcount widths other than 16 bits require compatibility level 1.1 or \
                          above (use compat=1.1 or greater)";
            return Err(Error::invalid("refcount_bits", reason));
        }
        Ok(bits.trailing_zeros())
    }

    async fn upgrade<E: Surroundings>(&self, env: &E) -> Result<()> {
        let unsaid = |snapshots: &super::snapshot_table::Snapshots| {
            snapshots.entries.iter().any(|s| s.disk_size.is_none())
        };
        if unsaid(&self.snapshots.lock()) {
            let what = "upgrading an image with snapshots that do not say how long the disk was";
            return Err(self.error(ImageError::NotBuiltIn { what }));
        }
        let named = self.geometry.cluster_size() >= NAMED_FEATURES_FROM;
        self.rewrite_header(env, |header| {
            header.version = Version::V3;
            if named
                && !header
                    .extensions
                    .iter()
                    .any(|e| e.kind == extension::FEATURE_NAMES)
            {
                header.extensions.push(feature_names());
            }
        })
        .await
    }

    /// Whether version 2 can have what the image holds, with counts of another width.
    fn check_downgrade(&self, order: u32) -> Result<()> {
        let now = self.header.lock().clone();
        let refuse = |reason: &str| Err(Error::invalid("compat", reason));
        if now.has_data_file() {
            return refuse("Cannot downgrade an image with a data file");
        }
        if order != V2_REFCOUNT_ORDER {
            return refuse("compat=0.10 requires refcount_bits=16");
        }
        let odd = |s: &super::snapshot_table::Snapshot| {
            s.disk_size.is_some_and(|size| size != self.size())
                || s.info.vm_state_size > i64::from(u32::MAX)
        };
        if self.snapshots.lock().entries.iter().any(odd) {
            return refuse("Internal snapshots prevent downgrade of image");
        }
        if self.compression != Compression::Deflate {
            let what = "downgrading an image whose clusters may be compressed by zstd";
            return Err(self.error(ImageError::NotBuiltIn { what }));
        }
        if self.geometry.is_extended() {
            return refuse("Cannot downgrade an image with incompatible features 0x10 set");
        }
        Ok(())
    }

    /// Lets the header say version 2; nothing that only version 3 has is left.
    async fn downgrade<E: Surroundings>(&self, env: &E) -> Result<()> {
        // Should this fail, nobody knows which version the disk has.
        self.set_amended();
        self.rewrite_header(env, |header| {
            header.version = Version::V2;
            header.incompatible &= !incompatible::DIRTY;
            header.compatible = 0;
            header.autoclear = 0;
            header.unknown_fields = Vec::new();
            header
                .extensions
                .retain(|e| e.kind != extension::FEATURE_NAMES);
        })
        .await
    }

    /// Gives clusters of zeroes what version 2 can say: bytes, or nothing where no backing file is.
    async fn expand_zeroes<E: Surroundings>(&self, env: &E) -> Result<()> {
        // A copy, so that no lock is held over the reads.
        let snapshots = self.snapshots.lock().entries.clone();
        for snapshot in snapshots {
            let l1 = self
                .read_l1(env, snapshot.l1_table, snapshot.l1_size)
                .await?;
            for (key, entry) in (0..).zip(l1) {
                let Some(at) = self.table_of(entry, key)? else {
                    continue;
                };
                if self.table_has_zeroes(env, at).await? {
                    let what = "downgrading an image with zero clusters in snapshots";
                    return Err(self.error(ImageError::NotBuiltIn { what }));
                }
            }
        }
        // The state of a machine lies behind the disk.
        let end = self.active_l1().len() as u64 * self.geometry.l2_reach();
        let disk_end = self.geometry.ceil(self.size());
        let mut at = 0;
        while at < end {
            let part = if at < disk_end { at..disk_end } else { at..end };
            let run = self.first_status(env, part).await?;
            let mut len = run.len;
            match (run.cluster, env.backing()) {
                (Cluster::Zero(_), Some(_)) if at < disk_end => {
                    len = len.min(ZERO_CHUNK.max(self.geometry.cluster_size()));
                    self.write(env, at, IoBuf::zeroed(usize_of(len))).await?;
                }
                (Cluster::Zero(_), _) => self.clear(env, at..at + len).await?,
                (Cluster::Unallocated(_) | Cluster::Data(_) | Cluster::Compressed(_), _) => {}
            }
            at += len;
        }
        Ok(())
    }

    async fn table_has_zeroes<E: Surroundings>(&self, env: &E, at: HostOffset) -> Result<bool> {
        let len = self.geometry.cluster_len();
        let bytes = env.file().read_bytes(at.0, len).await?;
        let entries = crate::kit::layout::words_be(&bytes).into_iter();
        let mut entries = entries.map(super::layout::L2Entry);
        Ok(entries.any(|entry| !entry.is_compressed() && entry.is_zero()))
    }

    /// Writes all refcounts anew, in another width, beside the old ones.
    async fn change_refcounts<E: Surroundings>(&self, env: &E, order: u32) -> Result<()> {
        let old = self.geometry;
        let new = Geometry {
            refcount_order: order,
            ..old
        };
        let (mut places, mut table, mut table_len) = (Vec::new(), HostOffset(0), 0);
        // Clusters that the next counts do not count: the old blocks and their table, and places that
        // turned out too small.
        let mut gone = Vec::new();
        loop {
            // Reserving moves the end.
            let blocks = old.clusters(self.host_end()).div_ceil(new.block_reach());
            let len = old.clusters(blocks * 8);
            if places.len() as u64 >= blocks && table_len >= len {
                break;
            }
            if table_len < len {
                let first = old.cluster_of(table);
                gone.extend(first..first + table_len);
                // Room to spare, so that one more block does not move it again.
                table = self.reserve_table(env, len + 1).await?;
                table_len = len + 1;
            }
            for _ in places.len() as u64..blocks {
                places.push(self.reserve_table(env, 1).await?);
            }
        }
        if table_len << old.cluster_bits > MAX_REFCOUNT_TABLE_BYTES {
            return Err(self.no_space(rustix::io::Errno::FBIG));
        }
        // The old counts change no more.
        self.flush_all(env).await?;
        gone.extend(self.old_refcount_clusters());
        gone.sort_unstable();
        for (index, place) in (0..).zip(&places) {
            let first = index * new.block_reach();
            let mut words = vec![0u64; new.entries_len()];
            for cluster in first..first + new.block_reach() {
                let mut count = self.refcount(env, cluster).await?;
                if gone.binary_search(&cluster).is_ok() {
                    count = count.saturating_sub(1);
                }
                if count > new.max_refcount() {
                    let (bits, offset) = (1u32 << order, old.host_of(cluster).0);
                    let reason = format!(
                        "Cannot decrease refcount entry width to {bits} bits: Cluster at offset \
                         {offset:#x} has a refcount of {count}"
                    );
                    return Err(Error::invalid("refcount_bits", reason));
                }
                let (word, shift) = new.refcount_place(cluster - first);
                words[word] |= count << shift;
            }
            env.file().write_bytes(place.0, &bytes_be(&words)).await?;
        }
        let mut entries: Vec<u64> = places.iter().map(|place| place.0).collect();
        entries.resize(usize_of(table_len * old.entries()), 0);
        env.file().write_bytes(table.0, &bytes_be(&entries)).await?;
        env.file().flush().await?;
        // Should this fail, nobody knows which counts the disk has.
        self.set_amended();
        self.update_header(env, |header| {
            header.geometry = new;
            header.refcount_table = table;
            header.refcount_table_clusters = u32::try_from(table_len).unwrap_or(u32::MAX);
        })
        .await
    }

    /// The clusters of the refcount blocks and of their table.
    fn old_refcount_clusters(&self) -> Vec<u64> {
        let (table, len) = {
            let header = self.header.lock();
            (header.refcount_table, header.refcount_table_bytes())
        };
        let first = self.geometry.cluster_of(table);
        let of_table = first..first + self.geometry.clusters(len);
        let blocks = self.refcount_table().into_iter();
        let blocks = blocks.filter_map(|entry| super::layout::RefcountTableEntry(entry).block());
        let blocks = blocks.map(|at| self.geometry.cluster_of(at));
        of_table.chain(blocks).collect()
    }
}
