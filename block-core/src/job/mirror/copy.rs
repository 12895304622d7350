//! One range, copied from source to target as it reads now.
//!
//! Called by the passes of a mirror, and by the writes that it follows, on whatever queue they run.
//! What is not data is not read: runs of zeroes are made on the target, where they are not there.
//! Invariant: of two copies of one byte, the one that began later reads later and writes later.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block_schema::types::IoOperationType;
use parking_lot::Mutex;

use crate::buffer::IoBuf;
use crate::driver::{StatusKind, ZeroFlags};
use crate::error::Error;
use crate::job::buffers::Buffers;
use crate::request::cx::Child;
use crate::sync::WaitList;

/// Bytes read and written by one request at most.
pub(super) const CHUNK: u64 = 1 << 20;

/// Which side failed, and why.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) side: IoOperationType,
    pub(super) error: Error,
}

impl Failed {
    pub(super) fn source(error: Error) -> Failed {
        let side = IoOperationType::Read;
        Failed { side, error }
    }

    pub(super) fn target(error: Error) -> Failed {
        let side = IoOperationType::Write;
        Failed { side, error }
    }
}

/// Both nodes, as one piece of work holds them.
pub(super) struct Sides {
    pub(super) source: Child,
    pub(super) target: Child,
    /// Memory of [`CHUNK`] bytes each, for who copies again and again.
    pub(super) buffers: Option<Buffers>,
}

/// How ranges are copied.
pub(super) struct Copier {
    /// Images from the source down whose content is wanted; `None` for all that shows.
    pub(super) images: Option<u32>,
    /// Whether the target keeps its zeroes where it has some: nothing can show through them.
    pub(super) keeps_zeroes: bool,
    /// Whether zeroes may free what the target had there.
    pub(super) may_unmap: bool,
    /// The target takes whole multiples of this.
    pub(super) unit: u64,
    pub(super) turns: Turns,
}

impl Copier {
    /// Copies a range, which is widened to whole units.
    pub(super) async fn copy(&self, sides: &Sides, range: Range<u64>) -> Result<(), Failed> {
        let range = self.widened(&range, sides.source.len());
        let _turn = self.turns.take(range.clone()).await;
        let mut at = range.start;
        while at < range.end {
            let status = sides.source.chain_status(at..range.end).await;
            let status = status.map_err(Failed::source)?;
            let run = at..at + status.len;
            at = run.end;
            if self.images.is_some_and(|images| status.depth >= images) {
                continue;
            }
            match status.kind {
                StatusKind::Data => copy_data(sides, run).await?,
                StatusKind::Zero | StatusKind::Unallocated => self.zero(sides, run).await?,
            }
        }
        Ok(())
    }

    /// Makes a range of the target read as zeroes.
    pub(super) async fn zero(&self, sides: &Sides, range: Range<u64>) -> Result<(), Failed> {
        let target = &sides.target;
        let flags = ZeroFlags {
            may_unmap: self.may_unmap,
            no_fallback: false,
        };
        let mut at = range.start;
        while at < range.end {
            let mut run = at..range.end;
            if self.keeps_zeroes {
                let status = target.chain_status(run.clone()).await;
                let status = status.map_err(Failed::target)?;
                run.end = at + status.len;
                if status.kind != StatusKind::Data {
                    at = run.end;
                    continue;
                }
            }
            at = run.end;
            let zeroed = target.write_zeroes(run, flags).await;
            zeroed.map_err(Failed::target)?;
        }
        Ok(())
    }

    fn widened(&self, range: &Range<u64>, len: u64) -> Range<u64> {
        let start = range.start / self.unit * self.unit;
        let end = range.end.div_ceil(self.unit).saturating_mul(self.unit);
        start..end.min(len)
    }
}

async fn copy_data(sides: &Sides, run: Range<u64>) -> Result<(), Failed> {
    let mut at = run.start;
    while at < run.end {
        let len = CHUNK.min(run.end - at);
        let lent = sides.buffers.as_ref().map(Buffers::take);
        let buf = match &lent {
            Some(lent) => lent.first(len),
            None => IoBuf::zeroed(usize::try_from(len).unwrap_or(usize::MAX)),
        };
        let copied = buf.len() as u64;
        let read = sides.source.read(at, buf.clone()).await;
        read.map_err(Failed::source)?;
        let written = sides.target.write(at, buf).await;
        written.map_err(Failed::target)?;
        at += copied;
    }
    Ok(())
}

/// Ranges in the order in which they were asked for: of those that overlap one has its turn.
#[derive(Default)]
pub(super) struct Turns(Arc<TurnList>);

#[derive(Default)]
struct TurnList {
    next: AtomicU64,
    asked: Mutex<Vec<(u64, Range<u64>)>>,
    given_back: WaitList,
}

impl Turns {
    /// Waits until those before that overlap have given their turns back.
    async fn take(&self, range: Range<u64>) -> Turn {
        let list = &self.0;
        let number = {
            let mut asked = list.asked.lock();
            let number = list.next.fetch_add(1, Ordering::Relaxed);
            asked.push((number, range.clone()));
            number
        };
        let turn = Turn {
            list: Arc::clone(list),
            number,
        };
        let is_first = || {
            let asked = list.asked.lock();
            !asked.iter().any(|(other, taken)| {
                *other < number && taken.start < range.end && range.start < taken.end
            })
        };
        list.given_back.wait_until(is_first).await;
        turn
    }
}

struct Turn {
    list: Arc<TurnList>,
    number: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let number = self.number;
        self.list.asked.lock().retain(|(other, _)| *other != number);
        self.list.given_back.wake_all();
    }
}
