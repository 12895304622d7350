//! Several pieces of a job's work at once, on its queue.
//!
//! A piece is a task; what it fails with is kept for who started it. How many are under way follows from
//! how long they take: what waits for a device is worth company, and what comes out of memory only
//! pushes others out of the processor's cache. Beside guests at work there are few: each of theirs, a
//! hundred times smaller, would wait behind all of ours in the device's line. Invariant: a piece that
//! was started runs to its end, whatever becomes of the others.

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

/// Guests are at work for so long after a request of theirs: a device takes less for one.
const AT_WORK: Duration = Duration::from_millis(100);

/// How many pieces a job has at once.
#[derive(Clone, Copy, Debug)]
pub(in crate::job) struct AtOnce {
    /// At most.
    pub(in crate::job) most: usize,
    /// At most beside guests at work.
    pub(in crate::job) beside_guests: usize,
}

impl AtOnce {
    /// Of a job that can take as long as it takes.
    pub(in crate::job) fn patient(most: usize) -> AtOnce {
        AtOnce {
            most,
            beside_guests: 1,
        }
    }

    /// Of a job that a guest's writes make longer: the sooner it ends, the less they cost.
    pub(in crate::job) fn pressed(most: usize) -> AtOnce {
        AtOnce {
            most,
            beside_guests: FEW,
        }
    }
}

/// Pieces of work under way.
#[derive(Clone)]
pub(in crate::job) struct Crew {
    queue: LocalQueue,
    shared: Rc<Shared>,
}

struct Shared {
    running: Cell<usize>,
    pace: Cell<Pace>,
    beside_guests: usize,
    failure: RefCell<Option<Stop>>,
    early: Early,
    ended: WaitList,
}

impl Crew {
    /// None yet, of pieces that write `target`.
    pub(in crate::job) fn new(queue: &LocalQueue, target: NodeId, at_once: AtOnce) -> Crew {
        let shared = Shared {
            running: Cell::new(0),
            pace: Cell::new(Pace::new(at_once.most)),
            beside_guests: at_once.beside_guests,
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
            .wait_until(|| shared.running.get() < self.most_now())
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

    /// How many pieces may be under way as things are.
    fn most_now(&self) -> usize {
        let since = self.queue.clock().saturating_sub(AT_WORK);
        let backends = self.queue.layer().backends();
        match backends.iter().any(|b| b.is_guest_at_work(since)) {
            true => self.shared.pace.get().now.min(self.shared.beside_guests),
            false => self.shared.pace.get().now,
        }
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
    use std::ops::Range;

    use super::*;
    use crate::driver::Driver;
    use crate::engine::Ring;
    use crate::graph::{Node, NodeFacts};
    use crate::layer::Layer;
    use crate::queue::tests::engine;
    use crate::request::map::{Access, Lookup, Mapping};
    use crate::stats;

    struct Empty;

    impl Driver for Empty {
        fn format_name(&self) -> &'static str {
            "null-co"
        }

        fn len(&self) -> u64 {
            4096
        }

        fn try_map(&self, _: Access, _: Range<u64>, _: &mut Mapping) -> Lookup {
            Lookup::Miss
        }
    }

    /// How many there may be, beside a guest whose last request ended so long after the job began.
    #[track_caller]
    fn check_beside(last: Option<Duration>, at_once: AtOnce, want: usize) {
        let layer = Layer::new();
        let queue = layer.new_queue(engine(Ring::Off)).start();
        let node = Node::new(NodeFacts::default(), Box::new(Empty));
        let node = queue.block_on(layer.add_node(node, &[])).unwrap();
        let guest = layer.add_backend("disk", node, false);
        let guest = queue.block_on(guest).unwrap();
        if let Some(after) = last {
            let end = queue.clock() + after;
            let counters = guest.new_counters();
            counters.done(stats::Kind::Read, 512, end..end);
        }
        let crew = Crew::new(&queue, node, at_once);
        assert_eq!(crew.most_now(), want);
    }

    #[test]
    fn beside_a_guest_at_work_there_are_fewer() {
        // Far behind all that this test takes.
        let now = Some(Duration::from_secs(3600));
        check_beside(now, AtOnce::patient(8), 1);
        check_beside(now, AtOnce::pressed(8), 3);
        check_beside(now, AtOnce::pressed(2), 2);
        check_beside(None, AtOnce::patient(8), 3);
    }

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
