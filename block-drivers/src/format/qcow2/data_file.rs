//! External data files: guest clusters in a file of their own, each at its own guest offset.
//! Called by `map` (entries), `write`, `discard`, `resize`, `create` and `check`, wherever such an
//! image differs from others.
//! Invariants: nothing of the image itself is in the data file, and no refcount counts its clusters;
//! while the raw bit is set, the data file alone reads as the disk, so its bytes change before, and
//! are durable before, the entries that agree with them.
//! Spec: qcow2 "Header", `incompatible_features` bit 2 and `autoclear_features` bit 1; "Standard
//! Cluster Descriptor". Not here: opening the file (`mod.rs`), flush order (`cache.rs`).

use std::ops::Range;

use block_core::driver::{Preallocation, ZeroFlags};
use block_core::{Error, Result};

use super::error::ImageError;
use super::header::Header;
use super::image::Image;
use super::layout::L2Entry;
use super::map::{Cluster, Host};
use crate::kit::addr::GuestOffset;
use crate::kit::image_file::{ImageFile, Surroundings};

/// Where an image keeps guest data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum External {
    /// In its own file.
    No,
    /// In a file beside it.
    Attached,
    /// In a file beside it that nobody opened: the image is only described.
    Detached,
}

impl External {
    pub(super) fn of<E: Surroundings>(env: &E, header: &Header) -> External {
        match (header.has_data_file(), env.data()) {
            (false, _) => External::No,
            (true, Some(_)) => External::Attached,
            (true, None) => External::Detached,
        }
    }
}

/// Says that the data file which an image needs is not open.
pub(super) fn required() -> Error {
    Error::invalid("data-file", "'data-file' is required for this image")
}

impl Image {
    /// Whether guest data is in a file of its own.
    pub(super) fn has_data_file(&self) -> bool {
        self.external != External::No
    }

    /// Whether it is, and nobody opened that file.
    pub(super) fn is_detached(&self) -> bool {
        self.external == External::Detached
    }

    /// Whether the data file alone must read as the disk.
    pub(super) fn is_data_file_raw(&self) -> bool {
        self.has_data_file() && self.header.lock().is_data_file_raw()
    }

    /// Refuses guest data without the file that holds it.
    ///
    /// # Errors
    /// `InvalidOption`.
    pub(super) fn need_data_file(&self) -> Result<()> {
        match self.external {
            External::No | External::Attached => Ok(()),
            External::Detached => Err(required()),
        }
    }

    /// The file that holds guest data.
    ///
    /// # Errors
    /// `InvalidOption` when nobody opened it.
    pub(super) fn data<'a, E: Surroundings>(&self, env: &'a E) -> Result<&'a E::File> {
        match self.external {
            External::No => Ok(env.file()),
            External::Attached | External::Detached => env.data().ok_or_else(required),
        }
    }

    /// Refuses what a data file cannot have.
    ///
    /// # Errors
    /// `Unsupported`.
    pub(super) fn need_own_clusters(&self, what: &'static str) -> Result<()> {
        match self.external {
            External::No => Ok(()),
            External::Attached | External::Detached => {
                Err(self.error(ImageError::NotBuiltIn { what }))
            }
        }
    }

    /// Understands an entry of an image whose clusters are in a data file, where offset 0 is a
    /// place as any other, and the copied flag tells it from none.
    ///
    /// # Errors
    /// What is wrong with it, as a noun.
    pub(super) fn classify_external(&self, entry: L2Entry) -> Result<Cluster, &'static str> {
        if entry.is_compressed() {
            return Err("the compressed flag, which a data file has not");
        }
        if entry.reserved() != 0 {
            return Err("reserved bits set");
        }
        if entry.is_zero() && self.geometry.is_extended() {
            return Err("a zero flag, which extended entries have not");
        }
        let offset = entry.host();
        if self.geometry.within(offset.0) != 0 {
            return Err("an offset off a cluster boundary");
        }
        // No other image refers to the clusters of a data file.
        let host = Host {
            offset,
            owned: true,
        };
        Ok(match (offset.0, entry.is_zero(), entry.is_copied()) {
            (0, true, _) => Cluster::Zero(None),
            (0, false, false) => Cluster::Unallocated(None),
            (_, true, _) => Cluster::Zero(Some(host)),
            (_, false, _) => Cluster::Data(host),
        })
    }

    /// Checks that a cluster of a data file lies where the guest has it.
    ///
    /// # Errors
    /// What is wrong with its entry.
    pub(super) fn check_place(
        &self,
        cluster: Cluster,
        guest: GuestOffset,
    ) -> Result<(), ImageError> {
        let (Cluster::Data(host) | Cluster::Zero(Some(host)) | Cluster::Unallocated(Some(host))) =
            cluster
        else {
            return Ok(());
        };
        let guest = self.geometry.floor(guest.0);
        if !self.has_data_file() || host.offset.0 == guest {
            return Ok(());
        }
        Err(ImageError::DataFilePlace {
            guest,
            host: host.offset.0,
        })
    }

    /// Where the bytes of a cluster that ends at `end` end: a data file ends with the disk.
    pub(super) fn data_end(&self, end: u64) -> u64 {
        match self.has_data_file() {
            true => end.min(self.size()),
            false => end,
        }
    }

    /// Makes the bytes of a data file zero before entries say so, where the file alone must read as
    /// the disk. The caller holds an exclusive claim.
    ///
    /// # Errors
    /// Errors of the data file.
    pub(super) async fn zero_raw_data<E: Surroundings>(
        &self,
        env: &E,
        range: &Range<u64>,
        flags: ZeroFlags,
    ) -> Result<()> {
        let range = range.start..self.data_end(range.end);
        match env.data() {
            Some(data) if self.is_data_file_raw() && range.start < range.end => {
                data.write_zeroes(range, flags).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Gives the bytes of whole clusters back to the data file's file system, where that takes them.
    ///
    /// At once, and not with a later flush: the clusters may be written again before that. What is
    /// left behind reads as zeroes, so an entry that is still on disk after a power cut names zeroes
    /// and no bytes that nobody wrote. The caller holds an exclusive claim.
    pub(super) async fn release_data<E: Surroundings>(&self, env: &E, range: &Range<u64>) {
        let range = range.start..self.data_end(range.end);
        let flags = ZeroFlags {
            may_unmap: true,
            no_fallback: true,
        };
        if let Some(data) = env.data()
            && range.start < range.end
            && !self.is_data_file_raw()
        {
            // It may decline; the clusters are not used all the same.
            let _ = data.write_zeroes(range, flags).await;
        }
    }

    /// Gives the data file the length of a longer or shorter disk; in a longer one `mode` allocates.
    ///
    /// # Errors
    /// Errors of the data file.
    pub(super) async fn resize_data<E: Surroundings>(
        &self,
        env: &E,
        len: u64,
        mode: Preallocation,
    ) -> Result<()> {
        let Some(data) = env.data() else {
            return Ok(());
        };
        let mode = match mode {
            // All that there is to allocate of a file without tables is its bytes.
            Preallocation::Off | Preallocation::Metadata => Preallocation::Off,
            Preallocation::Falloc | Preallocation::Full => mode,
        };
        let now = data.len();
        if now == len {
            return Ok(());
        }
        match data.resize(len, mode).await {
            // A device has the length it has; what is behind the disk does not matter.
            Err(_) if now > len => Ok(()),
            resized => resized,
        }
    }

    /// Makes bytes zero that a data file holds behind the end of a disk which grows over them.
    ///
    /// # Errors
    /// Errors of the data file.
    pub(super) async fn zero_data_behind<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
    ) -> Result<()> {
        let Some(data) = env.data() else {
            return Ok(());
        };
        let range = range.start..range.end.min(data.len());
        if range.start >= range.end {
            return Ok(());
        }
        let flags = ZeroFlags {
            may_unmap: true,
            no_fallback: false,
        };
        data.write_zeroes(range, flags).await
    }
}
