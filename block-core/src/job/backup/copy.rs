//! How a backup moves bytes: what its source holds, granule by granule, and the copy of a run.
//!
//! Called by `save`, for guests on their queues and for the job on its own. Every request is one like
//! others: announced, held up by drains, and nothing is announced while one waits. Runs are whole
//! granules, so that a target never has to copy on write; the last of the disk may be shorter.
//! Not here: which granules are still to be copied.

use std::ops::Range;
use std::sync::Arc;

use block_schema::types::IoOperationType;

use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::driver::{StatusKind, ZeroFlags};
use crate::error::{Error, Result};
use crate::queue::LocalQueue;
use crate::request::Request;
use crate::request::status::ChainStatus;

/// Bytes that one request copies.
pub(super) const CHUNK: u64 = 1 << 20;
/// Pieces of status that are looked at together.
const PIECES: usize = 64;

/// What of the source is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All that a guest sees.
    Full,
    /// What the topmost image has.
    Top,
}

/// What a run of granules is for the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes to copy.
    Data,
    /// Reads as zeroes.
    Zero,
    /// Not wanted.
    Absent,
}

/// A run of granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) kind: Kind,
    pub(super) len: u64,
}

/// Why a run was not copied.
#[derive(Debug)]
pub(super) struct Failure {
    /// Where: a read is of the source.
    pub(super) operation: IoOperationType,
    pub(super) error: Error,
}

impl Failure {
    pub(super) fn read(error: Error) -> Failure {
        let operation = IoOperationType::Read;
        Failure { operation, error }
    }

    fn write(error: Error) -> Failure {
        let operation = IoOperationType::Write;
        Failure { operation, error }
    }
}

/// How the copy is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Plain,
    Compressed,
}

/// Where bytes come from and go to.
pub(super) struct Copier {
    pub(super) source: Arc<Backend>,
    pub(super) target: Arc<Backend>,
    pub(super) scope: Scope,
    pub(super) store: Store,
    /// Bytes of a granule.
    pub(super) granule: u64,
    /// Whether what the target does not have reads as zeroes for everybody who ever opens it.
    pub(super) stands_alone: bool,
}

impl Copier {
    /// What the first granules of a range are. The range begins with a granule, and ends with one
    /// or with the disk.
    pub(super) async fn first_run(&self, queue: &LocalQueue, range: Range<u64>) -> Result<Run> {
        let slot = queue.attach(&self.source);
        let mut at = range.start;
        let mut first = None;
        for _ in 0..PIECES {
            let status = queue.chain_status(slot, at..range.end).await?;
            let kind = self.kind_of(&status);
            if *first.get_or_insert(kind) != kind {
                break;
            }
            at = range.end.min(at.saturating_add(status.len));
            if at == range.end || kind == Kind::Data && at - range.start >= CHUNK {
                break;
            }
        }
        let len = range.end - range.start;
        let kind = first.unwrap_or(Kind::Data);
        Ok(round(
            Run {
                kind,
                len: at - range.start,
            },
            len,
            self.granule,
        ))
    }

    fn kind_of(&self, status: &ChainStatus) -> Kind {
        let is_in_top = status.depth == 0 && status.kind != StatusKind::Unallocated;
        match (self.scope, status.kind) {
            (Scope::Top, _) if !is_in_top => Kind::Absent,
            (_, StatusKind::Data) => Kind::Data,
            (_, StatusKind::Zero | StatusKind::Unallocated) => Kind::Zero,
        }
    }

    /// Copies a run, which is not `Absent`.
    pub(super) async fn copy(
        &self,
        queue: &LocalQueue,
        kind: Kind,
        range: Range<u64>,
    ) -> Result<(), Failure> {
        match kind {
            Kind::Absent => Ok(()),
            Kind::Zero => self.make_zero(queue, range).await.map_err(Failure::write),
            Kind::Data => {
                let step = CHUNK.max(self.granule);
                for start in (range.start..range.end).step_by(usize::try_from(step).unwrap_or(1)) {
                    let part = start..range.end.min(start.saturating_add(step));
                    self.copy_data(queue, part).await?;
                }
                Ok(())
            }
        }
    }

    async fn copy_data(&self, queue: &LocalQueue, part: Range<u64>) -> Result<(), Failure> {
        let (source, target) = (queue.attach(&self.source), queue.attach(&self.target));
        let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        let read = Request::read(part.start, IoBuf::zeroed(len));
        let buf = queue.request(source, read).await.map_err(Failure::read)?;
        let write = match self.store {
            Store::Plain => Request::write(part.start, buf),
            Store::Compressed => Request::write_compressed(part.start, buf),
        };
        let written = queue.request(target, write).await;
        written.map_err(Failure::write)?;
        Ok(())
    }

    /// Lets a range of the target read as zeroes, where it does not do so already.
    async fn make_zero(&self, queue: &LocalQueue, range: Range<u64>) -> Result<()> {
        let target = queue.attach(&self.target);
        let flags = ZeroFlags {
            // Space that is not allocated shows what somebody puts behind it.
            may_unmap: self.stands_alone,
            no_fallback: false,
        };
        let mut at = range.start;
        while at < range.end {
            let status = queue.chain_status(target, at..range.end).await?;
            let is_zero = match status.kind {
                StatusKind::Zero => status.depth == 0,
                StatusKind::Unallocated => self.stands_alone,
                StatusKind::Data => false,
            };
            if !is_zero {
                let zeroes = Request::write_zeroes(at, status.len, flags);
                queue.request(target, zeroes).await?;
            }
            at += status.len;
        }
        Ok(())
    }
}

/// Cuts a run of bytes to whole granules of a range of `len` bytes. What is less than a granule of
/// its kind is copied with what comes behind it.
fn round(run: Run, len: u64, granule: u64) -> Run {
    if run.len >= len {
        return Run { len, ..run };
    }
    let whole = run.len / granule * granule;
    match run.kind {
        Kind::Zero | Kind::Absent if whole > 0 => Run { len: whole, ..run },
        Kind::Data | Kind::Zero | Kind::Absent => Run {
            kind: Kind::Data,
            len: run.len.div_ceil(granule).saturating_mul(granule).min(len),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, run: u64, want: (Kind, u64)) {
        let rounded = round(Run { kind, len: run }, 1000, 64);
        assert_eq!((rounded.kind, rounded.len), want);
    }

    #[test]
    fn holes_are_cut_to_whole_granules() {
        check(Kind::Zero, 200, (Kind::Zero, 192));
        check(Kind::Absent, 64, (Kind::Absent, 64));
    }

    #[test]
    fn a_granule_with_anything_in_it_is_copied_whole() {
        check(Kind::Zero, 63, (Kind::Data, 64));
        check(Kind::Absent, 1, (Kind::Data, 64));
        check(Kind::Data, 65, (Kind::Data, 128));
    }

    #[test]
    fn the_last_granule_ends_with_the_disk() {
        check(Kind::Zero, 1000, (Kind::Zero, 1000));
        check(Kind::Data, 990, (Kind::Data, 1000));
        check(Kind::Zero, 1200, (Kind::Zero, 1000));
    }
}
