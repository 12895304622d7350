//! The two nodes of a copy, as a piece of work reaches them.
//!
//! Called by the engine alone. [`Users`] ask as users of both nodes do: every request is announced by
//! itself, and nothing is held between two of them. [`Nodes`] are held by who passed their gates, or has
//! drained them: no drain comes between two requests.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::driver::ZeroFlags;
use crate::error::Result;
use crate::queue::{BackendSlot, LocalQueue};
use crate::request::Request;
use crate::request::cx::Child;
use crate::request::status::ChainStatus;

/// Source and target.
pub(in crate::job) trait Ends {
    /// The status of the first run of a range of the source, through its chain.
    async fn source_status(&self, range: Range<u64>) -> Result<ChainStatus>;
    /// The same of the target.
    async fn target_status(&self, range: Range<u64>) -> Result<ChainStatus>;
    /// Reads the source.
    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()>;
    /// Writes the target.
    async fn write(&self, offset: u64, buf: IoBuf) -> Result<()>;
    /// Writes the target, compressed.
    async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()>;
    /// Makes a range of the target read as zeroes.
    async fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()>;
}

/// Both as their users reach them, on one queue.
pub(in crate::job) struct Users {
    queue: LocalQueue,
    source: BackendSlot,
    target: BackendSlot,
}

impl Users {
    /// What a job has as users of its nodes.
    pub(in crate::job) fn new(
        queue: &LocalQueue,
        source: &Arc<Backend>,
        target: &Arc<Backend>,
    ) -> Users {
        Users {
            queue: queue.clone(),
            source: queue.attach(source),
            target: queue.attach(target),
        }
    }

    async fn change(&self, request: Request) -> Result<()> {
        self.queue.request(self.target, request).await.map(drop)
    }
}

impl Ends for Users {
    async fn source_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        self.queue.chain_status(self.source, range).await
    }

    async fn target_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        self.queue.chain_status(self.target, range).await
    }

    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let read = Request::read(offset, buf);
        self.queue.request(self.source, read).await.map(drop)
    }

    async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.change(Request::write(offset, buf)).await
    }

    async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.change(Request::write_compressed(offset, buf)).await
    }

    async fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let len = range.end - range.start;
        self.change(Request::write_zeroes(range.start, len, flags))
            .await
    }
}

/// Both as they are in one graph.
pub(in crate::job) struct Nodes {
    pub(in crate::job) source: Child,
    pub(in crate::job) target: Child,
}

impl Ends for Nodes {
    async fn source_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        self.source.chain_status(range).await
    }

    async fn target_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        self.target.chain_status(range).await
    }

    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.source.read(offset, buf).await
    }

    async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.target.write(offset, buf).await
    }

    async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.target.write_compressed(offset, buf).await
    }

    async fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        self.target.write_zeroes(range, flags).await
    }
}
