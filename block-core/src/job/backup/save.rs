//! The point in time of a backup: what guests are about to overwrite is copied first.
//!
//! A [`Saver`] watches the source from one moment on. Each granule is copied once, by whoever comes
//! first: a guest's queue whose write would change it, or the job. The others wait for that copy.
//! Who copies granules holds them as a [`Part`]; nobody waits for granules while it is announced, or
//! while it holds some. Invariant: a granule that is not done reads on the source as it did at the
//! moment; one that is done needs nothing more.
//!
//! Not here: the order in which the job copies, and what it does about errors.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::copy::{Granules, Kind, Run};
use crate::bitmap::bits::Bits;
use crate::driver::Pending;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::job::copy::Failed;
use crate::queue::LocalQueue;
use crate::request::watch::Watcher;
use crate::sync::WaitList;

/// What keeps the source's state of one moment.
pub(super) struct Saver {
    pub(super) source: Granules,
    job: Arc<Job>,
    /// Bytes of the disk.
    len: u64,
    /// Granules that are in the target, or not wanted. Set before they are let go.
    done: Bits,
    state: Mutex<State>,
    changed: WaitList,
}

#[derive(Default)]
struct State {
    /// Granules that are being copied.
    held: Vec<Range<u64>>,
    /// Writes of guests that are in here.
    writes: usize,
    /// The job has ended: nothing is to be saved any more.
    over: bool,
}

/// Granules that are there for one to copy; others may when it is dropped.
pub(super) struct Part<'a> {
    saver: &'a Saver,
    granules: Range<u64>,
}

/// A write of a guest that makes a copy first.
struct Writing<'a>(&'a Saver);

impl Saver {
    /// Nothing is done yet.
    ///
    /// # Errors
    /// `InvalidOption` when there is no memory to keep track.
    pub(super) fn new(source: Granules, job: Arc<Job>, len: u64) -> Result<Saver> {
        let no_memory = || Error::invalid("target", "there is no memory to keep track of the copy");
        let done = Bits::new(len.div_ceil(source.granule)).ok_or_else(no_memory)?;
        Ok(Saver {
            source,
            job,
            len,
            done,
            state: Mutex::default(),
            changed: WaitList::new(),
        })
    }

    /// Leaves out all but some ranges, which come in order. Nobody copies yet.
    pub(super) fn keep_only(&self, wanted: impl Iterator<Item = Range<u64>>) {
        let mut at = 0;
        for range in wanted {
            let granules = self.granules(&range);
            if at < granules.start {
                self.done.set(at..granules.start);
            }
            at = at.max(granules.end);
        }
        self.done.set(at..self.done.len());
    }

    /// Bytes that are not done.
    pub(super) fn left(&self) -> u64 {
        self.gaps().map(|gap| gap.end - gap.start).sum()
    }

    /// What is not done, in bytes.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Range<u64>> {
        let first = self.next_gap(0);
        std::iter::successors(first, |gap| self.next_gap(gap.end))
    }

    /// What is not done first at or behind `from`, which is the start of a granule or the end of the
    /// disk, in bytes.
    pub(super) fn next_gap(&self, from: u64) -> Option<Range<u64>> {
        // The end may lie within a granule, of which nothing is behind it.
        if from >= self.len {
            return None;
        }
        let gap = self.done.next_gap(self.granules(&(from..self.len)))?;
        Some(self.bytes(&gap))
    }

    fn granules(&self, range: &Range<u64>) -> Range<u64> {
        let granule = self.source.granule;
        let end = range.end.min(self.len).div_ceil(granule);
        (range.start / granule).min(end)..end
    }

    fn bytes(&self, granules: &Range<u64>) -> Range<u64> {
        let granule = self.source.granule;
        let start = granules.start.saturating_mul(granule);
        start..granules.end.saturating_mul(granule).min(self.len)
    }

    /// Waits for the first granules of a range that are neither done nor held; nothing when all are
    /// done, or the job is over.
    pub(super) async fn take(&self, range: &Range<u64>) -> Option<Part<'_>> {
        let granules = self.granules(range);
        let mut found = None;
        let is_settled = || {
            let mut state = self.state.lock();
            if state.over {
                return true;
            }
            match self.first_free(&state.held, granules.clone()) {
                Free::None => true,
                Free::Later => false,
                Free::Now(granules) => {
                    state.held.push(granules.clone());
                    let saver = self;
                    found = Some(Part { saver, granules });
                    true
                }
            }
        };
        self.changed.wait_until(is_settled).await;
        found
    }

    fn first_free(&self, held: &[Range<u64>], granules: Range<u64>) -> Free {
        let mut at = granules.start;
        let mut waits = false;
        while let Some(gap) = self.done.next_gap(at..granules.end) {
            let within = held
                .iter()
                .filter(|h| h.start < gap.end && gap.start < h.end);
            match within.min_by_key(|h| h.start) {
                None => return Free::Now(gap),
                Some(held) if gap.start < held.start => return Free::Now(gap.start..held.start),
                Some(held) => {
                    waits = true;
                    at = held.end;
                }
            }
        }
        match waits {
            true => Free::Later,
            false => Free::None,
        }
    }

    /// Copies the granules of a part; then they are done.
    ///
    /// `known` is their kind, as far as the caller has looked: granules that are not done are what they
    /// were whenever somebody looked.
    pub(super) async fn save(
        &self,
        queue: &LocalQueue,
        part: Part<'_>,
        known: Option<Kind>,
    ) -> Result<(), Failed> {
        let Range { start, end } = self.bytes(&part.granules);
        let mut at = start;
        let mut absent = 0;
        while at < end {
            let run = match known {
                Some(kind) => Run {
                    kind,
                    len: end - at,
                },
                None => {
                    let run = self.source.first_run(queue, at..end).await;
                    run.map_err(Failed::source)?
                }
            };
            if run.kind == Kind::Absent {
                absent += run.len;
            }
            let range = at..at + run.len;
            at = range.end;
            self.source.copy(queue, run.kind, range).await?;
        }
        {
            let _state = self.state.lock();
            self.done.set(part.granules.clone());
        }
        self.job.count(|progress| {
            progress.done += end - start - absent;
            progress.total = progress.total.saturating_sub(absent);
        });
        Ok(())
    }

    /// Says that the job has ended: writes go on without a copy.
    pub(super) fn set_over(&self) {
        self.state.lock().over = true;
        self.changed.wake_all();
    }

    /// Waits until no write of a guest is in here. The job is over, and the source has no watcher.
    pub(super) async fn writes_gone(&self) {
        let are_gone = || self.state.lock().writes == 0;
        self.changed.wait_until(are_gone).await;
    }

    fn enter(&self) -> Option<Writing<'_>> {
        let mut state = self.state.lock();
        if state.over {
            return None;
        }
        state.writes += 1;
        Some(Writing(self))
    }

    async fn save_before(&self, queue: &LocalQueue, range: &Range<u64>) -> Result<()> {
        if self.done.next_gap(self.granules(range)).is_none() {
            return Ok(());
        }
        let Some(_writing) = self.enter() else {
            return Ok(());
        };
        while let Some(part) = self.take(range).await {
            if let Err(failed) = self.save(queue, part, None).await {
                // A backup that has failed meanwhile keeps no guest from writing.
                let is_over = self.state.lock().over;
                return match is_over {
                    true => Ok(()),
                    false => Err(failed.error),
                };
            }
        }
        Ok(())
    }
}

impl Watcher for Saver {
    fn before<'a>(&'a self, queue: &'a LocalQueue, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move { self.save_before(queue, &range).await })
    }

    fn after<'a>(&'a self, _queue: &'a LocalQueue, _range: Range<u64>) -> Pending<'a> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What of some granules can be copied.
enum Free {
    /// All are done.
    None,
    /// Others are copying what is not.
    Later,
    /// These.
    Now(Range<u64>),
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let mut state = self.saver.state.lock();
        state.held.retain(|held| *held != self.granules);
        drop(state);
        self.saver.changed.wake_all();
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().writes -= 1;
        self.0.changed.wake_all();
    }
}
