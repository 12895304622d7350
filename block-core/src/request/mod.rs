//! Requests as they enter, and their way down to the leaves.
//!
//! In order: announced (`announce`), mapped (`map`), and where that is not enough, taken level by
//! level (`cx`, `child`, `generic`, `align`, `leaf_io`). Not here: the thread that does it (`queue`).

use std::ops::Range;

use crate::buffer::IoBuf;
use crate::driver::ZeroFlags;
use crate::request::map::Access;

pub mod map;
pub mod status;

pub mod align;
pub(crate) mod announce;
mod child;
pub(crate) mod cx;
pub(crate) mod generic;
mod leaf_io;
pub(crate) mod through;
pub(crate) mod watch;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fills the buffer.
    Read,
    /// Writes the buffer.
    Write,
    /// Writes the buffer, compressed: whole units of the format that can do so.
    WriteCompressed,
    /// Makes a range read as zeroes.
    WriteZeroes(ZeroFlags),
    /// Stores what shows through from the backing file, where the node itself has nothing yet. What
    /// the node reads as does not change.
    Populate,
    /// Says that a range is not needed.
    Discard,
    /// Makes every completed write durable.
    Flush,
}

/// One request of a guest, client or job.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// First byte.
    pub offset: u64,
    /// Bytes from there; the buffer's for reads and writes.
    pub len: u64,
    /// Whether completion means durable (writes and write zeroes).
    pub fua: bool,
    /// The memory; empty unless the request reads or writes.
    pub buf: IoBuf,
}

impl Request {
    /// Fills all of `buf` from `offset`.
    pub fn read(offset: u64, buf: IoBuf) -> Request {
        Request {
            op: Op::Read,
            offset,
            len: buf.len() as u64,
            fua: false,
            buf,
        }
    }

    /// Writes all of `buf` at `offset`.
    pub fn write(offset: u64, buf: IoBuf) -> Request {
        Request {
            op: Op::Write,
            offset,
            len: buf.len() as u64,
            fua: false,
            buf,
        }
    }

    /// Writes all of `buf` at `offset`, compressed: whole clusters, but for the end of the node.
    pub fn write_compressed(offset: u64, buf: IoBuf) -> Request {
        Request {
            op: Op::WriteCompressed,
            ..Request::write(offset, buf)
        }
    }

    /// Makes `len` bytes at `offset` read as zeroes.
    pub fn write_zeroes(offset: u64, len: u64, flags: ZeroFlags) -> Request {
        Request {
            op: Op::WriteZeroes(flags),
            offset,
            len,
            fua: false,
            buf: IoBuf::empty(),
        }
    }

    /// Stores what shows through from the backing file, as many bytes at `offset` as `buf` has,
    /// which is what they pass through.
    pub fn populate(offset: u64, buf: IoBuf) -> Request {
        Request {
            op: Op::Populate,
            ..Request::write(offset, buf)
        }
    }

    /// Gives `len` bytes at `offset` back.
    pub fn discard(offset: u64, len: u64) -> Request {
        Request {
            op: Op::Discard,
            offset,
            len,
            fua: false,
            buf: IoBuf::empty(),
        }
    }

    /// Makes everything durable that has completed.
    pub fn flush() -> Request {
        Request {
            op: Op::Flush,
            offset: 0,
            len: 0,
            fua: false,
            buf: IoBuf::empty(),
        }
    }

    /// Makes completion mean durable.
    #[must_use]
    pub fn with_fua(mut self) -> Request {
        self.fua = true;
        self
    }

    /// What it does to its range, as announcements see it. A flush only keeps drains waiting.
    pub(crate) fn access(&self) -> Access {
        match self.op {
            Op::Read | Op::Flush => Access::Read,
            Op::Write | Op::WriteCompressed | Op::WriteZeroes(_) | Op::Populate | Op::Discard => {
                Access::Write
            }
        }
    }

    /// Its bytes; the caller has checked that they do not wrap.
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}
