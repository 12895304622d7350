//! One range, copied from source to target as it reads now.
//!
//! Called by the passes of a mirror, and by the writes that it follows, on whatever queue they run.
//! Invariant: of two copies of one byte, the one that began later reads later and writes later.
//! Not here: how bytes and zeroes reach the target (`job/copy`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::job::copy::{Copier, Ends, Failed, Kind, Nodes};
use crate::sync::WaitList;

/// How ranges are copied.
pub(super) struct Mirrored {
    pub(super) copier: Copier,
    /// Images from the source down whose content is wanted; `None` for all that shows.
    pub(super) images: Option<u32>,
    /// The target takes whole multiples of this.
    pub(super) unit: u64,
    pub(super) turns: Turns,
}

impl Mirrored {
    /// Copies a range, which is widened to whole units.
    pub(super) async fn copy(&self, nodes: &Nodes, range: Range<u64>) -> Result<(), Failed> {
        let range = self.widened(&range, nodes.source.len());
        let _turn = self.turns.take(range.clone()).await;
        let mut at = range.start;
        while at < range.end {
            let status = nodes.source_status(at..range.end).await;
            let status = status.map_err(Failed::source)?;
            let run = at..at + status.len;
            at = run.end;
            if self.images.is_none_or(|images| status.depth < images) {
                self.copier.copy(nodes, Kind::of(&status), run).await?;
            }
        }
        Ok(())
    }

    fn widened(&self, range: &Range<u64>, len: u64) -> Range<u64> {
        let start = range.start / self.unit * self.unit;
        let end = range.end.div_ceil(self.unit).saturating_mul(self.unit);
        start..end.min(len)
    }
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
