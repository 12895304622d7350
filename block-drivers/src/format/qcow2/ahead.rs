//! Storage ahead of what is written, where a file grows slowly.
//! Called by `write` (before data goes to new clusters) and by `cache` (when the image is closed).
//! Invariant: what lies ahead is behind all reservations and reads as zeroes; the file never gets
//! shorter than what was reserved. Not here: which clusters are taken (`alloc.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

use block_core::Result;
use block_core::driver::Preallocation;
use block_core::sync::AsyncMutex;

use super::image::Image;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};

/// The least and the most that is taken at once.
const STEP: (u64, u64) = (1 << 20, 64 << 20);

/// How far the file was lengthened beyond what it holds.
#[derive(Default)]
pub(super) struct Ahead {
    /// No reservation that ends before this has to ask; 0 as long as none did.
    end: AtomicU64,
    /// Held by the one who asks.
    asking: AsyncMutex,
}

impl Image {
    /// Sees to storage for a reservation that ends at `end`, and for some more behind it: writes
    /// that lengthen the file would wait for one another.
    pub(super) async fn store_ahead<E: Surroundings>(&self, env: &E, end: HostOffset) {
        let (file, end) = (env.file(), end.0);
        let enough = || end <= self.ahead.end.load(Ordering::Acquire) || end <= file.len();
        if enough() || !file.grows_slowly() {
            return;
        }
        let _one = self.ahead.asking.lock().await;
        if enough() {
            return;
        }
        // In proportion, so that a power cut leaves a small image small.
        let to = self.geometry.ceil(end + (end / 4).clamp(STEP.0, STEP.1));
        // The file may decline: then it grows by what is written, and the next step asks again.
        if let Err(error) = file.allocate(file.len()..to).await {
            tracing::debug!(node = self.node, error = %error.chain(), "no storage ahead");
        }
        self.ahead.end.store(to, Ordering::Release);
    }

    /// Gives back what nobody came to use. Nobody uses the image.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn give_ahead_back<E: Surroundings>(&self, env: &E) -> Result<()> {
        let (file, end) = (env.file(), self.host_end());
        // Where it ends elsewhere, somebody else made it so.
        if self.ahead.end.swap(0, Ordering::AcqRel) == file.len() && end < file.len() {
            file.resize(end, Preallocation::Off).await?;
        }
        Ok(())
    }
}
