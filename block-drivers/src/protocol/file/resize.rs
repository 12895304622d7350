//! Setting a file's length, with what is behind the new bytes.
//!
//! Called drained, so nobody grows the file meanwhile. A step that fails leaves the old length.

use block_core::driver::{Cx, Preallocation};
use block_core::engine::Fallocate;
use block_core::request::align::write_leaf;
use block_core::{Error, IoBuf, Result};

use super::zero::ZERO_CHUNK;
use super::{FileDriver, Kind};

/// Says that a file cannot be preallocated this way.
pub(super) fn unsupported_mode(mode: Preallocation) -> Error {
    Error::invalid(
        "preallocation",
        format!("Unsupported preallocation mode: {}", name(mode)),
    )
}

fn name(mode: Preallocation) -> &'static str {
    match mode {
        Preallocation::Off => "off",
        Preallocation::Metadata => "metadata",
        Preallocation::Falloc => "falloc",
        Preallocation::Full => "full",
    }
}

impl FileDriver {
    pub(super) async fn set_len(&self, cx: &Cx, len: u64, mode: Preallocation) -> Result<()> {
        match self.kind {
            Kind::RegularFile => self.set_file_len(cx, len, mode).await,
            Kind::HostDevice => self.check_device_len(len, mode),
        }
    }

    async fn set_file_len(&self, cx: &Cx, len: u64, mode: Preallocation) -> Result<()> {
        let old = self.leaf.len();
        let file = cx.leaf(&self.leaf);
        if len < old && mode != Preallocation::Off {
            return Err(Error::invalid(
                "preallocation",
                "Cannot use preallocation for shrinking files",
            ));
        }
        let grown = match mode {
            Preallocation::Off => return file.truncate(len).await,
            Preallocation::Metadata => return Err(unsupported_mode(mode)),
            Preallocation::Falloc | Preallocation::Full if len == old => return Ok(()),
            Preallocation::Falloc => file.fallocate(Fallocate::Allocate, old..len).await,
            Preallocation::Full => self.write_growth(cx, old, len).await,
        };
        if grown.is_err() {
            // The first error is the one to tell.
            file.truncate(old).await.ok();
        }
        grown
    }

    async fn write_growth(&self, cx: &Cx, old: u64, len: u64) -> Result<()> {
        let file = cx.leaf(&self.leaf);
        file.truncate(len).await?;
        let zeroes = IoBuf::zeroed(ZERO_CHUNK);
        let mut at = old;
        while at < len {
            let count = usize::try_from(len - at).unwrap_or(ZERO_CHUNK);
            let count = count.min(ZERO_CHUNK);
            write_leaf(cx, &self.leaf, at, zeroes.slice(0..count)).await?;
            at += count as u64;
        }
        // Padding to an alignment may have gone further.
        if self.leaf.len() != len {
            file.truncate(len).await?;
        }
        file.sync().await
    }

    fn check_device_len(&self, len: u64, mode: Preallocation) -> Result<()> {
        if mode != Preallocation::Off {
            return Err(Error::invalid(
                "preallocation",
                format!(
                    "Preallocation mode '{}' unsupported for this non-regular file",
                    name(mode)
                ),
            ));
        }
        if len > self.leaf.len() {
            return Err(Error::invalid("size", "Cannot grow device files"));
        }
        Ok(())
    }
}
