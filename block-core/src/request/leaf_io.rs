//! Operations on the descriptor that a protocol driver's node is: [`LeafIo`].
//!
//! Each is one operation of the queue's engine, and its error says which of which node. Not here:
//! requests that are off the leaf's alignment (`align.rs`), requests of the short way (`queue/path.rs`).

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use rustix::io::Errno;

use crate::buffer::IoBuf;
use crate::engine::{Completion, Fallocate, Leaf, Operation, Seek};
use crate::error::{Error, Result};
use crate::queue::OpFuture;
use crate::request::cx::Cx;

/// Operations on a protocol driver's own descriptor. Offsets, lengths and memory have the leaf's
/// alignment; `request/align.rs` sees to that for requests that do not.
pub struct LeafIo {
    cx: Cx,
    leaf: Arc<Leaf>,
}

impl LeafIo {
    pub(super) fn new(cx: Cx, leaf: &Arc<Leaf>) -> LeafIo {
        let leaf = Arc::clone(leaf);
        LeafIo { cx, leaf }
    }

    fn start(&self, op: impl FnOnce(crate::engine::Slot) -> Operation) -> Result<OpFuture> {
        let slot = self
            .cx
            .queue
            .leaf_slot(&self.cx.snapshot.graph, self.leaf.id())?;
        Ok(self.cx.queue.op(op(slot)))
    }

    async fn run(
        &self,
        verb: &'static str,
        range: Range<u64>,
        op: impl FnOnce(crate::engine::Slot) -> Operation,
    ) -> Result<u64> {
        let done: Completion = pin!(self.start(op)?).await;
        done.result.map_err(|errno| self.error(verb, range, errno))
    }

    fn error(&self, op: &'static str, range: Range<u64>, errno: Errno) -> Error {
        Error::Io {
            node: self.cx.node_name().to_owned(),
            op,
            offset: range.start,
            len: range.end.saturating_sub(range.start),
            source: io::Error::from(errno),
        }
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.run("read", range, |slot| Operation::Read { slot, offset, buf })
            .await?;
        Ok(())
    }

    /// Writes `buf` at `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.run("write", range, |slot| Operation::Write {
            slot,
            offset,
            buf,
            fua: false,
        })
        .await?;
        Ok(())
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// What the kernel says; after one failure every later call fails.
    pub async fn sync(&self) -> Result<()> {
        self.run("flush", 0..0, |slot| Operation::Sync { slot })
            .await?;
        Ok(())
    }

    /// Changes how a range is stored.
    ///
    /// # Errors
    /// What the kernel says; `OPNOTSUPP` where the file system cannot.
    pub async fn fallocate(&self, mode: Fallocate, range: Range<u64>) -> Result<()> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        let verb = match mode {
            Fallocate::PunchHole => "discard",
            Fallocate::ZeroRange => "write zeroes",
            Fallocate::Allocate => "allocate",
        };
        self.run(verb, range, |slot| Operation::Fallocate {
            slot,
            mode,
            offset,
            len,
        })
        .await?;
        Ok(())
    }

    /// Sets the length.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn truncate(&self, len: u64) -> Result<()> {
        self.run("resize", 0..len, |slot| Operation::Truncate { slot, len })
            .await?;
        Ok(())
    }

    /// Finds data or a hole at or after `offset`; `None` when there is no more data.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn seek(&self, offset: u64, what: Seek) -> Result<Option<u64>> {
        let op = self.start(|slot| Operation::Seek { slot, offset, what })?;
        match op.await.result {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.error("status", offset..offset, errno)),
        }
    }
}
