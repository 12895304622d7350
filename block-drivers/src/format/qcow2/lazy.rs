//! Lazy refcounts: counts that reach the disk late, behind the dirty bit.
//! Called by `cache` (each flush of a guest) and at close.
//! Invariant: on disk, a count is too low only while the dirty bit is set there, and every block that
//! has to hold a count is on disk all the same, so that a rebuild has only numbers to set.
//! Spec: qcow2 "Header", `incompatible_features` bit 0 and `compatible_features` bit 0. Not here: the
//! rebuild (`check.rs`).

use std::sync::atomic::{AtomicBool, Ordering};

use block_core::{Error, Result};

use super::header::{Header, Version};
use super::image::Image;
use super::layout::{compatible, incompatible};
use crate::kit::image_file::Surroundings;

/// When counts are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// With the flush.
    Now,
    /// When the image is closed, if it is lazy.
    Late,
}

/// Whether counts may be late, and whether some are.
pub(super) struct Lazy {
    allowed: AtomicBool,
    /// Whether we set the dirty bit, and not another program that never came to clear it.
    marked: AtomicBool,
}

impl Lazy {
    /// As the option says, or else the image.
    ///
    /// # Errors
    /// `InvalidOption` for a version without the dirty bit.
    pub(super) fn new(option: Option<bool>, header: &Header) -> Result<Lazy> {
        let allowed = option.unwrap_or(header.compatible & compatible::LAZY_REFCOUNTS != 0);
        if allowed && header.version == Version::V2 {
            let reason = "Lazy refcounts require a qcow2 image with at least qemu 1.1 \
                          compatibility level";
            return Err(Error::invalid("lazy-refcounts", reason));
        }
        Ok(Lazy {
            allowed: AtomicBool::new(allowed),
            marked: AtomicBool::new(false),
        })
    }

    /// Follows what the image says now.
    pub(super) fn allow(&self, allowed: bool) {
        self.allowed.store(allowed, Ordering::Release);
    }
}

impl Image {
    /// Whether a flush leaves counts for later; if it does, the dirty bit is durable.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn leaves_counts<E: Surroundings>(
        &self,
        env: &E,
        counts: Counts,
    ) -> Result<bool> {
        match counts {
            Counts::Now => return Ok(false),
            Counts::Late => {}
        }
        // A rebuild needs all blocks on disk, and a table that names them.
        if !self.lazy.allowed.load(Ordering::Acquire) || self.refcounts.has_new_blocks() {
            return Ok(false);
        }
        if self.refcounts.blocks.dirty().0 > 0 && !self.lazy.marked.load(Ordering::Acquire) {
            self.update_header(env, |h| h.incompatible |= incompatible::DIRTY)
                .await?;
            self.lazy.marked.store(true, Ordering::Release);
        }
        Ok(true)
    }

    /// Clears the dirty bit, once all counts are on disk. The image is drained and was flushed.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn mark_clean<E: Surroundings>(&self, env: &E) -> Result<()> {
        if !self.lazy.marked.load(Ordering::Acquire) || self.refcounts.blocks.dirty().0 > 0 {
            return Ok(());
        }
        self.update_header(env, |h| h.incompatible &= !incompatible::DIRTY)
            .await?;
        self.lazy.marked.store(false, Ordering::Release);
        Ok(())
    }
}
