//! The engine under all jobs that copy: what of a range is data, zeroes or nothing, and how it gets to
//! the other side.
//!
//! `runs` asks for status, once a run; `crew` works on several pieces at once, as many as the storage
//! is worth, in memory that `buffers` gives again and again; `ends` are the two nodes, as a piece
//! reaches them; `patience` does what policies say about errors; `early` flushes on the way. A
//! [`Copier`] holds the rules of one job: which zeroes the target has already, how others are made, how
//! data is stored. Commits, mirrors and backups use all of that; a stream's pieces are populate requests,
//! which copy inside the image that they fill. Invariant: what reads as zeroes by its status is never
//! read, and nothing is written where the target reads as zeroes already and may stay so.
//!
//! Bytes go through memory of ours, not by `copy_file_range`: where files share no extents (ext4) that
//! costs the same CPU time (50 to 60 ms for 128 MiB out of the page cache either way), and a target's
//! new clusters have no owner between their reservation and the end of such a copy. Not here: the
//! order of the disk and of guests' writes, which is each job's own.

use std::ops::Range;

use crate::driver::{StatusKind, ZeroFlags};
use crate::request::status::ChainStatus;

mod buffers;
mod crew;
mod early;
mod ends;
mod patience;
mod runs;
#[cfg(test)]
mod tests;

pub(super) use self::buffers::Buffers;
pub(super) use self::crew::{AtOnce, Crew};
pub(super) use self::ends::{Ends, Nodes, Users};
pub(super) use self::patience::{Failed, Policies, Tried, persist};
pub(super) use self::runs::{Runs, parts};

/// Bytes of a piece, where nothing asks for more.
pub(super) const CHUNK: u64 = 1 << 20;
/// Bytes whose status is asked for at a time: a pause waits for no more.
pub(super) const STATUS_CHUNK: u64 = 1 << 30;

/// What a range is for a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes to copy.
    Data,
    /// Reads as zeroes.
    Zero,
}

impl Kind {
    /// What a status says.
    pub(super) fn of(status: &ChainStatus) -> Kind {
        match status.kind {
            StatusKind::Data => Kind::Data,
            StatusKind::Zero | StatusKind::Unallocated => Kind::Zero,
        }
    }
}

/// How data is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// As it is.
    Plain,
    /// What turns out to be zeroes is made as such.
    Sparse,
    /// In whole clusters.
    Compressed,
}

/// Which zeroes of the target need not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// None.
    None,
    /// Those that it has itself: what it does not have may show something else one day.
    Own,
    /// All that read so, through whatever is below it.
    Shown,
}

impl Kept {
    fn keeps(self, status: &ChainStatus) -> bool {
        match (self, status.kind) {
            (Kept::None, _) | (_, StatusKind::Data) => false,
            (Kept::Own, kind) => kind == StatusKind::Zero && status.depth == 0,
            (Kept::Shown, StatusKind::Zero | StatusKind::Unallocated) => true,
        }
    }
}

/// The rules of one job's copy.
pub(super) struct Copier {
    pub(super) store: Store,
    pub(super) kept: Kept,
    /// Whether zeroes may free what the target had there.
    pub(super) may_unmap: bool,
    /// Memory; its length is what one request copies.
    pub(super) buffers: Buffers,
}

impl Copier {
    /// Copies a range that is of one kind.
    ///
    /// # Errors
    /// What either side answers.
    pub(super) async fn copy(
        &self,
        ends: &impl Ends,
        kind: Kind,
        range: Range<u64>,
    ) -> Result<(), Failed> {
        match kind {
            Kind::Data => self.copy_data(ends, range).await,
            Kind::Zero => self.make_zero(ends, range).await,
        }
    }

    async fn copy_data(&self, ends: &impl Ends, range: Range<u64>) -> Result<(), Failed> {
        for part in parts(range, self.buffers.len()) {
            let buffer = self.buffers.take();
            let buf = buffer.first(part.end - part.start);
            let read = ends.read(part.start, buf.clone()).await;
            read.map_err(Failed::source)?;
            let written = match self.store {
                Store::Sparse if buf.is_zero(0..buf.len()) => {
                    self.make_zero(ends, part).await?;
                    continue;
                }
                Store::Plain | Store::Sparse => ends.write(part.start, buf).await,
                Store::Compressed => ends.write_compressed(part.start, buf).await,
            };
            written.map_err(Failed::target)?;
        }
        Ok(())
    }

    /// Makes a range of the target read as zeroes, where it does not do so already.
    async fn make_zero(&self, ends: &impl Ends, range: Range<u64>) -> Result<(), Failed> {
        let flags = ZeroFlags {
            may_unmap: self.may_unmap,
            no_fallback: false,
        };
        let mut at = range.start;
        while at < range.end {
            let mut run = at..range.end;
            if self.kept != Kept::None {
                let status = ends.target_status(run.clone()).await;
                let status = status.map_err(Failed::target)?;
                run.end = at + status.len;
                if self.kept.keeps(&status) {
                    at = run.end;
                    continue;
                }
            }
            at = run.end;
            let zeroed = ends.write_zeroes(run, flags).await;
            zeroed.map_err(Failed::target)?;
        }
        Ok(())
    }
}
