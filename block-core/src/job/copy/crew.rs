//! Several pieces of a job's work at once, on its queue.
//!
//! A piece is a task; what it fails with is kept for who started it. How many are under way follows from
//! how long they take: what waits for a device is worth company, and what comes out of memory only
//! pushes others out of the processor's cache. Invariant: a piece that was started runs to its end,
//! whatever becomes of the others.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use super::early::Early;
use crate::graph::NodeId;
use crate::job::worker::Stop;
use crate::queue::LocalQueue;
use crate::sync::WaitList;

/// Pieces at once, to begin with and at least: one is read, one written, one waits for either.
const FEW: usize = 3;
/// A piece that takes longer waits for a device.
const SLOW: Duration = Duration::from_millis(4);
/// One that takes less does not.
const FAST: Duration = Duration::from_millis(2);

/// Pieces of work under way.
#[derive(Clone)]
pub(in crate::job) struct Crew {
    queue: LocalQueue,
    shared: Rc<Shared>,
}

struct Shared {
    running: Cell<usize>,
    pace: Cell<Pace>,
    failure: RefCell<Option<Stop>>,
    early: Early,
    ended: WaitList,
}

impl Crew {
    /// None yet, of pieces that write `target`; at most `most` at once.
    pub(in crate::job) fn new(queue: &LocalQueue, target: NodeId, most: usize) -> Crew {
        let shared = Shared {
            running: Cell::new(0),
            pace: Cell::new(Pace::new(most)),
            failure: RefCell::default(),
            early: Early::new(queue, target),
            ended: WaitList::new(),
        };
        Crew {
            queue: queue.clone(),
            shared: Rc::new(shared),
        }
    }

    /// Starts a piece that writes so many bytes, when there is a place for it.
    ///
    /// # Errors
    /// The failure of an earlier piece, once.
    pub(in crate::job) async fn start(
        &self,
        bytes: u64,
        piece: impl Future<Output = Result<(), Stop>> + 'static,
    ) -> Result<(), Stop> {
        let shared = Rc::clone(&self.shared);
        shared
            .ended
            .wait_until(|| shared.running.get() < shared.pace.get().now)
            .await;
        if let Some(stop) = shared.failure.borrow_mut().take() {
            return Err(stop);
        }
        shared.running.set(shared.running.get() + 1);
        let place = Place(Rc::clone(&shared));
        let queue = self.queue.clone();
        self.queue.spawn(async move {
            let began = queue.clock();
            let result = piece.await;
            let took = queue.clock().saturating_sub(began);
            let pace = &place.0.pace;
            pace.set(pace.get().after(took));
            if let Err(stop) = result {
                place.0.failure.borrow_mut().get_or_insert(stop);
            }
            drop(place);
        });
        self.flush_early(bytes);
        Ok(())
    }

    fn flush_early(&self, bytes: u64) {
        if self.shared.early.wrote(bytes) {
            let flushing = Flushing(Rc::clone(&self.shared));
            let queue = self.queue.clone();
            self.queue.spawn(async move {
                flushing.0.early.flush(&queue).await;
                drop(flushing);
            });
        }
    }

    /// Waits until none is under way.
    pub(in crate::job) async fn settle(&self) {
        let shared = &self.shared;
        let is_still = || shared.running.get() == 0 && !shared.early.is_busy();
        shared.ended.wait_until(is_still).await;
    }

    /// Waits until none is under way.
    ///
    /// # Errors
    /// The failure of an earlier piece, once.
    pub(in crate::job) async fn finish(&self) -> Result<(), Stop> {
        self.settle().await;
        match self.shared.failure.borrow_mut().take() {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }
}

/// How many pieces there are at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    now: usize,
    most: usize,
}

impl Pace {
    fn new(most: usize) -> Pace {
        let now = FEW.min(most);
        Pace { now, most }
    }

    /// What one piece teaches.
    fn after(self, took: Duration) -> Pace {
        let now = match took {
            slow if slow > SLOW => self.most.min(self.now + 1),
            fast if fast < FAST => self.now.min(FEW.max(self.now - 1)),
            _ => self.now,
        };
        Pace { now, ..self }
    }
}

/// A piece's place; given back however the piece ends.
struct Place(Rc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.wake_all();
    }
}

/// An early flush that is under way.
struct Flushing(Rc<Shared>);

impl Drop for Flushing {
    fn drop(&mut self) {
        self.0.early.ended();
        self.0.ended.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many there are at once after pieces of so many milliseconds.
    #[track_caller]
    fn check(most: usize, pieces: &[u64], want: usize) {
        let took = pieces.iter().map(|&ms| Duration::from_millis(ms));
        assert_eq!(took.fold(Pace::new(most), Pace::after).now, want);
    }

    #[test]
    fn pieces_that_wait_get_company() {
        check(8, &[], 3);
        check(8, &[5, 5], 5);
        check(8, &[9; 20], 8);
        check(16, &[9; 20], 16);
    }

    #[test]
    fn pieces_from_memory_have_little() {
        check(8, &[9, 9, 9, 1, 0], 4);
        check(8, &[0; 9], 3);
        check(8, &[9, 3, 3], 4);
    }

    #[test]
    fn no_pace_is_above_what_was_asked_for() {
        check(1, &[9, 0, 9, 0], 1);
        check(2, &[0, 9, 9], 2);
    }
}
