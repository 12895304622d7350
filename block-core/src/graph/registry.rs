//! The drivers that are built in, as this crate sees them: it names none and calls a [`Registry`].
//!
//! A registry opens options, tells formats and file names apart, and makes empty images. Not here:
//! the tree of nodes that options stand for (`open`).

use block_schema::types::{BlockdevDriver, BlockdevOptionsBranch, BlockdevRef};

use crate::driver::{Driver, Pending};
use crate::error::{Error, Result};
use crate::graph::create::NewImage;
use crate::graph::open::Opener;
use crate::graph::policy::protocol_of;
use crate::queue::LocalQueue;

/// The drivers that are built in.
pub trait Registry: Send + Sync {
    /// Opens a driver by its options, its children through `opener`.
    fn open<'a>(
        &'a self,
        opener: &'a mut Opener,
        options: BlockdevOptionsBranch,
    ) -> Pending<'a, Box<dyn Driver>>;

    /// The format of an image by its first bytes; raw when none fits.
    fn probe(&self, head: &[u8]) -> BlockdevDriver;

    /// The options of a format over `file`, for formats that have a file and may have a backing
    /// file; `None` for other drivers.
    fn format_over(
        &self,
        format: BlockdevDriver,
        file: BlockdevRef,
    ) -> Option<BlockdevOptionsBranch>;

    /// The options that a file name with a protocol stands for.
    ///
    /// # Errors
    /// `InvalidOption` when no driver understands it.
    fn parse_filename(&self, name: &str) -> Result<BlockdevOptionsBranch>;

    /// Makes an empty image, durable when this returns; what was in the file is lost.
    ///
    /// # Errors
    /// `InvalidOption` when the format or the protocol makes no such images; `Open` and
    /// `ImageLocked` for the file.
    fn create<'a>(&'a self, queue: &'a LocalQueue, image: NewImage) -> Pending<'a>;
}

/// A registry without drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDrivers;

impl Registry for NoDrivers {
    fn open<'a>(
        &'a self,
        opener: &'a mut Opener,
        options: BlockdevOptionsBranch,
    ) -> Pending<'a, Box<dyn Driver>> {
        Box::pin(async move { Err(opener.not_built_in(options.kind())) })
    }

    fn probe(&self, _head: &[u8]) -> BlockdevDriver {
        BlockdevDriver::Raw
    }

    fn format_over(&self, _: BlockdevDriver, _: BlockdevRef) -> Option<BlockdevOptionsBranch> {
        None
    }

    fn parse_filename(&self, name: &str) -> Result<BlockdevOptionsBranch> {
        let protocol = protocol_of(name).unwrap_or(name);
        Err(Error::invalid(
            "filename",
            format!("Unknown protocol '{protocol}'"),
        ))
    }

    fn create<'a>(&'a self, _queue: &'a LocalQueue, image: NewImage) -> Pending<'a> {
        Box::pin(async move { Err(cannot_create(image.format)) })
    }
}

/// Says that a format makes no images.
pub fn cannot_create(format: BlockdevDriver) -> Error {
    let reason = format!("Format driver '{format}' does not support image creation");
    Error::invalid("format", reason)
}
