//! An open image: its tables in memory, and how they come there.
//! Called by the driver (`mod.rs`); the other modules are further methods of [`Image`].
//! Invariant: nothing here writes unless the image was opened writable, and the first write comes
//! after the autoclear bits of features that it does not keep up are durably 0. Not here: claims (`mod.rs` takes them before it calls).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use block_core::bitmap::Bitmaps;
use block_core::sync::AsyncMutex;
use block_core::{Error, Result};
use block_schema::types::BlkdebugEvent;
use parking_lot::Mutex;
use rustix::io::Errno;

use super::ahead::Ahead;
use super::bitmaps::{Directory, load_bitmaps};
use super::cache::Dirty;
use super::check_meter::CheckMeter;
use super::compressed::Compressing;
use super::counts::Refcounts;
use super::crypt::Crypt;
use super::data_file::External;
use super::error::ImageError;
use super::geometry::Geometry;
use super::header::{Compression, Header, Version, extension_place, header_cluster_size};
use super::header_write::{Rewrite, UPDATE_OFFSET};
use super::layout::{autoclear, incompatible};
use super::lazy::Lazy;
use super::map::L1Table;
use super::overlap::{Checked, Places};
use super::snapshot_table::{Snapshots, read_snapshots};
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::words_be;
use crate::kit::rounds::Rounds;
use crate::kit::table_cache::TableCache;

/// Bytes of tables in memory, unless options say otherwise.
pub(super) const DEFAULT_CACHE: u64 = 32 << 20;
/// Tables that a cache holds at least, whatever its bytes.
const MIN_TABLES: usize = 4;

/// How an image is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenOptions {
    /// Whether anything may be written.
    pub(super) writable: bool,
    /// Bytes of L2 tables in memory.
    pub(super) l2_cache: u64,
    /// Bytes of refcount blocks in memory.
    pub(super) refcount_cache: u64,
    /// Whether clusters that a guest's discard freed are given back to the file.
    pub(super) pass_discard_request: bool,
    /// Whether clusters that deleting or applying a snapshot freed are.
    pub(super) pass_discard_snapshot: bool,
    /// Whether other freed clusters are.
    pub(super) pass_discard_other: bool,
    /// Whether a discarded cluster stays reserved for its place on the disk.
    pub(super) discard_no_unref: bool,
    /// Whether refcounts may be written late; as the image says, if it is `None`.
    pub(super) lazy_refcounts: Option<bool>,
    /// Bytes of what the cache of L2 tables loads at once; a cluster, if it is `None`.
    pub(super) l2_entry: Option<u64>,
    /// Time after which a table that nobody used leaves memory; never, if it is `None`.
    pub(super) clean_interval: Option<Duration>,
    /// What no write may land in.
    pub(super) overlap: Checked,
    /// Whether damage that a check reports is no reason to refuse the image.
    pub(super) for_check: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            writable: true,
            l2_cache: DEFAULT_CACHE / 8 * 7,
            refcount_cache: DEFAULT_CACHE / 8,
            pass_discard_request: true,
            pass_discard_snapshot: true,
            pass_discard_other: false,
            discard_no_unref: false,
            lazy_refcounts: None,
            l2_entry: None,
            clean_interval: None,
            overlap: Checked::cached(),
            for_check: false,
        }
    }
}

impl OpenOptions {
    /// Whether caches of these sizes can be counted in 31 bits of tables.
    fn check_caches(&self, cluster_size: u64) -> Result<()> {
        let l2_entry = self.l2_entry.filter(|&bytes| bytes > 0);
        let caches = [
            ("l2-cache-size", "L2", self.l2_cache, l2_entry),
            ("refcount-cache-size", "Refcount", self.refcount_cache, None),
        ];
        for (option, what, bytes, entry) in caches {
            let tables = bytes / entry.unwrap_or(cluster_size);
            if i32::try_from(tables).is_err() {
                return Err(Error::invalid(option, format!("{what} cache size too big")));
            }
        }
        Ok(())
    }
}

/// An open image.
pub(super) struct Image {
    pub(super) node: String,
    pub(super) geometry: Geometry,
    pub(super) version: Version,
    pub(super) compression: Compression,
    pub(super) crypt: Option<Crypt>,
    pub(super) external: External,
    pub(super) options: OpenOptions,
    /// As on disk, but for what a header update in flight changes.
    pub(super) header: Mutex<Header>,
    size: AtomicU64,
    pub(super) l1: L1Table,
    pub(super) l2: TableCache,
    pub(super) refcounts: Refcounts,
    pub(super) rounds: Rounds,
    pub(super) ahead: Ahead,
    pub(super) dirty: Dirty,
    pub(super) lazy: Lazy,
    /// Whether damage was noticed: nothing changes any more.
    pub(super) corrupt: AtomicBool,
    /// Where checked structures are that the header does not place.
    pub(super) places: Mutex<Places>,
    /// Whether some entry names a structure, so that writes in place must look.
    pub(super) suspect: AtomicBool,
    pub(super) compressing: Compressing,
    /// How far a check is.
    pub(super) check_meter: CheckMeter,
    pub(super) snapshots: Mutex<Snapshots>,
    /// The disk's dirty bitmaps, shared with the node.
    pub(super) bitmaps: Arc<Bitmaps>,
    pub(super) directory: Mutex<Directory>,
    /// Whether the copied flags on disk are right: not when snapshots share clusters, until a
    /// change of snapshots has gone through them all.
    trust_copied: AtomicBool,
    started: AtomicBool,
    /// Whether the disk has another format than memory knows.
    amended: AtomicBool,
    starting: AsyncMutex,
    /// Whether the disk may have another header than memory, since a write of it failed.
    doubtful: AtomicBool,
    /// Held while a shared L2 table is replaced by a copy.
    pub(super) copying: AsyncMutex,
    /// Held by whoever changes the header.
    updating: AsyncMutex,
}

/// Reads and checks the header.
///
/// # Errors
/// `Corrupt` and `Unsupported` as [`Header::parse`] says, or for a check as
/// [`Header::parse_for_check`] does; errors of the file.
pub(super) async fn read_header<F: ImageFile>(
    file: &F,
    node: &str,
    for_check: bool,
) -> Result<Header> {
    let file_len = file.len();
    let start = usize::try_from(file_len.min(512)).unwrap_or(512);
    let start = file.read_bytes(0, start).await?;
    let cluster_size = header_cluster_size(&start).map_err(|e| e.at(node))?;
    let len = usize::try_from(file_len.min(cluster_size)).unwrap_or(usize::MAX);
    let cluster = file.read_bytes(0, len).await?;
    let parsed = match for_check {
        true => Header::parse_for_check(&cluster, file_len),
        false => Header::parse(&cluster, file_len),
    };
    parsed.map_err(|e| e.at(node))
}

impl Image {
    /// Reads header, L1 table and refcount table; repairs refcounts when they are marked dirty and
    /// the image is opened writable.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported` with what is wrong; errors of the file.
    pub(super) async fn open<E: Surroundings>(
        env: &E,
        node: &str,
        options: OpenOptions,
    ) -> Result<Image> {
        let file = env.file();
        let header = read_header(file, node, options.for_check).await?;
        if options.writable && !options.for_check && header.has(incompatible::CORRUPT) {
            return Err(ImageError::MarkedCorrupt.at(node));
        }
        // Both lengths are checked against constants. What a check finds behind the end of the file
        // reads as zeroes.
        let len = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let l1 = file
            .read_bytes(header.l1_table.0, len(header.l1_bytes()))
            .await?;
        file.event(BlkdebugEvent::ReftableLoad);
        let refcount_table = file
            .read_bytes(header.refcount_table.0, len(header.refcount_table_bytes()))
            .await?;
        let geometry = header.geometry;
        options.check_caches(geometry.cluster_size())?;
        let dirty = header.has(incompatible::DIRTY);
        let snapshots = match read_snapshots(file, &header, node).await {
            // The check reads it again, and says what is wrong.
            Err(Error::Corrupt { .. }) if options.for_check => Snapshots::default(),
            read => read?,
        };
        let crypt = Crypt::read(file, node, &header).await?;
        let (directory, bitmaps) = load_bitmaps(file, &header, node, options.writable).await?;
        let image = Image {
            node: node.to_owned(),
            geometry,
            version: header.version,
            compression: header.compression,
            crypt,
            external: External::of(env, &header),
            options,
            size: AtomicU64::new(header.size),
            l1: L1Table::new(&words_be(&l1)),
            l2: TableCache::new(
                geometry.entries_len(),
                options.l2_cache,
                MIN_TABLES,
                super::header::MAX_L1_BYTES / 8,
            ),
            refcounts: Refcounts::new(
                geometry,
                words_be(&refcount_table),
                TableCache::new(
                    geometry.entries_len(),
                    options.refcount_cache,
                    // A table that grows fills all the blocks that describe its new place at once.
                    MIN_TABLES.max((1 << 20) / geometry.cluster_len()),
                    super::header::MAX_REFCOUNT_TABLE_BYTES / 8,
                ),
                file.len(),
            ),
            rounds: Rounds::new(options.clean_interval),
            ahead: Ahead::default(),
            dirty: Dirty::default(),
            lazy: Lazy::new(options.lazy_refcounts, &header)?,
            corrupt: AtomicBool::new(false),
            places: Mutex::new(Places::default()),
            suspect: AtomicBool::new(false),
            compressing: Compressing::default(),
            check_meter: CheckMeter::default(),
            snapshots: Mutex::new(snapshots),
            bitmaps,
            directory: Mutex::new(directory),
            trust_copied: AtomicBool::new(header.snapshot_count == 0),
            header: Mutex::new(header),
            started: AtomicBool::new(false),
            amended: AtomicBool::new(false),
            starting: AsyncMutex::new(),
            doubtful: AtomicBool::new(false),
            copying: AsyncMutex::new(),
            updating: AsyncMutex::new(),
        };
        if options.discard_no_unref && image.version == Version::V2 {
            let reason = "discard-no-unref is only supported since qcow2 version 3";
            return Err(Error::invalid("discard-no-unref", reason));
        }
        image.check_l2_entry()?;
        if options.writable && dirty && !options.for_check {
            image.rebuild_after_dirty(env).await?;
        }
        image.note_places(env).await?;
        Ok(image)
    }

    /// Tables come into memory whole: an entry of the cache is a cluster.
    fn check_l2_entry(&self) -> Result<()> {
        let cluster = self.geometry.cluster_size();
        match self.options.l2_entry {
            None => Ok(()),
            Some(bytes) if bytes == cluster => Ok(()),
            Some(bytes) if bytes.is_power_of_two() && (512..cluster).contains(&bytes) => {
                let what = "an l2-cache-entry-size below the cluster size";
                Err(self.error(ImageError::NotBuiltIn { what }))
            }
            Some(_) => {
                let reason = format!(
                    "L2 cache entry size must be a power of two between 512 and the cluster size \
                     ({cluster})"
                );
                Err(Error::invalid("l2-cache-entry-size", reason))
            }
        }
    }

    /// Bytes of the guest's disk.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Whether copied flags say what refcounts say.
    pub(super) fn trusts_copied(&self) -> bool {
        self.trust_copied.load(Ordering::Acquire)
    }

    /// Says that every copied flag of the active tables has been made right.
    pub(super) fn trust_copied(&self) {
        self.trust_copied.store(true, Ordering::Release);
    }

    /// Autoclear bits that stay true whatever this driver writes.
    fn kept_autoclear(&self) -> u64 {
        let raw = match self.has_data_file() {
            true => autoclear::DATA_FILE_RAW,
            false => 0,
        };
        let bitmaps = match self.directory.lock().is_vouched_for() {
            true => autoclear::BITMAPS,
            false => 0,
        };
        raw | bitmaps
    }

    /// An error of this image.
    pub(super) fn error(&self, error: ImageError) -> Error {
        error.at(&self.node)
    }

    /// Whether clusters may be overwritten in place: from the first write on.
    pub(super) fn may_overwrite(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Says that the disk has another format than memory knows: nothing is written any more.
    pub(super) fn set_amended(&self) {
        self.amended.store(true, Ordering::Release);
        self.stop_overwriting();
    }

    /// Says that the next write, in place too, must ask first whether it may.
    pub(super) fn stop_overwriting(&self) {
        self.started.store(false, Ordering::Release);
    }

    /// Lets the next change of the image begin with [`first_write`](Self::first_write) again.
    pub(super) fn pause(&self) {
        self.started.store(false, Ordering::Release);
    }

    /// Makes the image ready to be changed: makes sure of the header, clears the autoclear bits, but
    /// for those whose meaning is kept, and marks loaded bitmaps, durably, once.
    ///
    /// # Errors
    /// `ReadOnly` when it was not opened for writing; errors of the file.
    pub(super) async fn first_write<E: Surroundings>(&self, env: &E) -> Result<()> {
        if self.may_overwrite() {
            return Ok(());
        }
        if !self.options.writable || self.amended.load(Ordering::Acquire) {
            return Err(Error::ReadOnly {
                node: self.node.clone(),
            });
        }
        if self.is_corrupt() {
            return Err(self.error(ImageError::MarkedCorrupt));
        }
        self.need_data_file()?;
        let _one = self.starting.lock().await;
        if self.may_overwrite() {
            return Ok(());
        }
        if self.doubtful.load(Ordering::Acquire) {
            self.restore_header(env).await?;
        }
        let (now, kept) = {
            let header = self.header.lock();
            (header.autoclear, header.autoclear & self.kept_autoclear())
        };
        if now != kept || self.directory.lock().is_in_doubt() {
            self.update_header(env, |header| header.autoclear = kept)
                .await?;
            self.directory.lock().settle_doubt();
        }
        self.mark_bitmaps(env).await?;
        self.started.store(true, Ordering::Release);
        if self.doubtful.load(Ordering::Acquire) {
            // Somebody's write of the header failed meanwhile.
            self.pause();
        }
        Ok(())
    }

    /// Passes on how a write of the header ended. After an error nobody knows which one the disk has:
    /// the next change of the image begins with making sure.
    fn wrote_header(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.doubtful.store(true, Ordering::Release);
            self.pause();
        }
        result
    }

    /// Writes the header that memory knows over the one that the disk has, durably.
    async fn restore_header<E: Surroundings>(&self, env: &E) -> Result<()> {
        let _one = self.updating.lock().await;
        let header = self.header.lock().clone();
        let file = env.file();
        let cluster = file.read_bytes(0, self.geometry.cluster_len()).await?;
        let found = Header::parse(&cluster, file.len());
        let rewrite = Rewrite::plan(&cluster, found.as_ref().unwrap_or(&header), &header);
        let rewrite = rewrite.map_err(|_| self.no_space(Errno::NOSPC))?;
        write_steps(env, &rewrite).await?;
        self.doubtful.store(false, Ordering::Release);
        Ok(())
    }

    /// Changes header fields, durably: what the fields refer to is durable before, the fields are
    /// when this returns. One sector is written, so that a power cut leaves old or new fields.
    ///
    /// # Errors
    /// Errors of the file; the header in memory is unchanged then.
    pub(super) async fn update_header<E: Surroundings>(
        &self,
        env: &E,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let _one = self.updating.lock().await;
        let mut header = self.header.lock().clone();
        change(&mut header);
        let bytes = header.update_bytes();
        let written = write_durably(env, UPDATE_OFFSET as u64, &bytes).await;
        self.wrote_header(written)?;
        *self.header.lock() = header;
        Ok(())
    }

    /// Where the data of a header extension of `len` bytes is on disk; `None` when there is none.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn extension_at<E: Surroundings>(
        &self,
        env: &E,
        kind: u32,
        len: usize,
    ) -> Result<Option<u64>> {
        let cluster = env
            .file()
            .read_bytes(0, self.geometry.cluster_len())
            .await?;
        Ok(extension_place(&cluster, kind)
            .filter(|place| place.len() == len)
            .map(|place| place.start as u64))
    }

    /// Changes the data of a header extension where it is, at `at`, durably; as long as it was.
    ///
    /// # Errors
    /// Errors of the file; the header in memory is unchanged then.
    pub(super) async fn update_extension<E: Surroundings>(
        &self,
        env: &E,
        at: u64,
        kind: u32,
        data: Vec<u8>,
    ) -> Result<()> {
        let _one = self.updating.lock().await;
        env.file().write_bytes(at, &data).await?;
        env.file().flush().await?;
        let mut header = self.header.lock();
        if let Some(found) = header.extensions.iter_mut().find(|e| e.kind == kind) {
            found.data = data;
        }
        Ok(())
    }

    /// Changes anything in the header, durably; what the fields refer to is durable before.
    ///
    /// What the new header needs behind its first sector is written first, to bytes that the old one
    /// does not use, and then that sector; see [`Rewrite`].
    ///
    /// # Errors
    /// `InvalidOption` when it does not fit into the cluster; errors of the file.
    pub(super) async fn rewrite_header<E: Surroundings>(
        &self,
        env: &E,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let _one = self.updating.lock().await;
        let old = self.header.lock().clone();
        let mut header = old.clone();
        change(&mut header);
        let cluster = env
            .file()
            .read_bytes(0, self.geometry.cluster_len())
            .await?;
        let rewrite = Rewrite::plan(&cluster, &old, &header);
        let rewrite = rewrite.map_err(|_| self.no_space(Errno::NOSPC))?;
        let written = write_steps(env, &rewrite).await;
        self.wrote_header(written)?;
        *self.header.lock() = header;
        Ok(())
    }
}

async fn write_durably<E: Surroundings>(env: &E, offset: u64, bytes: &[u8]) -> Result<()> {
    env.file().write_bytes(offset, bytes).await?;
    env.file().flush().await
}

async fn write_steps<E: Surroundings>(env: &E, rewrite: &Rewrite) -> Result<()> {
    for (offset, bytes) in rewrite.steps() {
        write_durably(env, offset, bytes).await?;
    }
    Ok(())
}
