//! The corrupt bit: damage that a change of the image comes upon ends all changes of it.
//! Called by the driver with the outcome of each request that changes the image.
//! Invariant: once damage was noticed nothing allocates, frees or overwrites any more, here or, by
//! the bit, in the next program, until a repair finds nothing wrong. Flushes go on: what was
//! answered before must become durable.
//! Spec: qcow2 "Header", `incompatible_features` bit 1. Not here: telling management of it (the
//! request path does, of any `Corrupt` error).

use std::sync::atomic::Ordering;

use block_core::{Error, Result};

use super::error::ImageError;
use super::header::Version;
use super::image::Image;
use super::layout::incompatible;
use crate::kit::image_file::Surroundings;

impl Image {
    /// Passes an outcome on, and marks the image corrupt when it tells of damaged metadata.
    ///
    /// # Errors
    /// The outcome's own.
    pub(super) async fn noticed<E: Surroundings, T>(
        &self,
        env: &E,
        outcome: Result<T>,
    ) -> Result<T> {
        if let Err(Error::Corrupt { source, .. }) = &outcome
            && source
                .downcast_ref::<ImageError>()
                .is_some_and(ImageError::is_damage)
        {
            self.mark_corrupt(env).await;
        }
        outcome
    }

    /// Whether damage was noticed since the image was opened.
    pub(super) fn is_corrupt(&self) -> bool {
        self.corrupt.load(Ordering::Acquire)
    }

    async fn mark_corrupt<E: Surroundings>(&self, env: &E) {
        if !self.options.writable || self.corrupt.swap(true, Ordering::AcqRel) {
            return;
        }
        self.stop_overwriting();
        if self.version == Version::V2 {
            // It has no such bit.
            return;
        }
        let marked = self.update_header(env, |h| h.incompatible |= incompatible::CORRUPT);
        if let Err(error) = marked.await {
            tracing::warn!(node = self.node, error = %error.chain(), "the corrupt bit is not set");
        }
    }

    /// Says that a check found nothing wrong any more.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn mark_repaired<E: Surroundings>(&self, env: &E) -> Result<()> {
        let marks = incompatible::DIRTY | incompatible::CORRUPT;
        if self.header.lock().has(marks) {
            self.update_header(env, |h| h.incompatible &= !marks)
                .await?;
        }
        self.corrupt.store(false, Ordering::Release);
        Ok(())
    }
}
