//! What a backup's source holds, granule by granule.
//!
//! Called by `save`, for guests on their queues and for the job on its own. Runs are whole granules, so that
//! a target never has to copy on write; the last of the disk may be shorter. Not here: which
//! granules are still to be copied, and how bytes and zeroes reach the target (`job/copy`).

use std::ops::Range;
use std::sync::Arc;

use crate::backend::Backend;
use crate::driver::StatusKind;
use crate::error::Result;
use crate::job::copy::{self, CHUNK, Ends, Failed, Users};
use crate::queue::LocalQueue;
use crate::request::status::ChainStatus;

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

/// Where bytes come from and go to.
pub(super) struct Granules {
    pub(super) source: Arc<Backend>,
    pub(super) target: Arc<Backend>,
    pub(super) scope: Scope,
    /// Bytes of each.
    pub(super) granule: u64,
    pub(super) copier: copy::Copier,
}

impl Granules {
    /// What the first granules of a range are. The range begins with a granule, and ends with one
    /// or with the disk.
    pub(super) async fn first_run(&self, queue: &LocalQueue, range: Range<u64>) -> Result<Run> {
        let users = self.users(queue);
        let mut at = range.start;
        let mut first = None;
        for _ in 0..PIECES {
            let status = users.source_status(at..range.end).await?;
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

    /// Copies a run.
    ///
    /// # Errors
    /// What either side answers.
    pub(super) async fn copy(
        &self,
        queue: &LocalQueue,
        kind: Kind,
        range: Range<u64>,
    ) -> Result<(), Failed> {
        let kind = match kind {
            Kind::Absent => return Ok(()),
            Kind::Zero => copy::Kind::Zero,
            Kind::Data => copy::Kind::Data,
        };
        self.copier.copy(&self.users(queue), kind, range).await
    }

    fn users(&self, queue: &LocalQueue) -> Users {
        Users::new(queue, &self.source, &self.target)
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
