//! Limits on what a device does a second: leaky buckets that its requests pass before anything else.
//!
//! Called at step 2 of a request (`queue/path.rs`). Without limits that is one load. With them, a
//! request that finds its buckets too full waits in a line: one for reads, one for writes, and in
//! each the queues take turns, so that a queue with many requests does not keep out one with few.
//! Whose turn it is waits for the time, the others for their turn. Invariant: a request that waits
//! holds no snapshot and no announcement, and a queue that is parked has no turn. Not here: the
//! arithmetic (`rates.rs`), which requests are limited (`queue/path.rs`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use crate::queue::LocalQueue;
use crate::sync::{WaitList, first};

mod rates;
#[cfg(test)]
mod tests;

use rates::Buckets;
pub use rates::{Direction, Rate, Rates};

/// The limits of one device, and who waits for them.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Whether there is any limit.
    limits: AtomicBool,
    state: Mutex<State>,
    /// Woken when somebody passes or gives up.
    moved: WaitList,
}

#[derive(Debug, Default)]
struct State {
    rates: Rates,
    buckets: Buckets,
    reads: Line,
    writes: Line,
    last_ticket: u64,
    last_turn: u64,
}

/// Those who wait for one direction.
#[derive(Debug, Default)]
struct Line {
    /// The queues that have somebody here; turns go from the front to the back.
    parties: VecDeque<Party>,
    /// Whose turn it is, and the turn's number, counted over both lines.
    turn: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Party {
    queue: QueueKey,
    /// In the order in which they came; never empty.
    waiting: VecDeque<Waiting>,
    parked: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    /// Told to look again.
    told: bool,
    waker: Option<Waker>,
}

/// Tells one queue from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueKey(pub(crate) usize);

/// A request that is to pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) direction: Direction,
    /// Bytes.
    pub(crate) len: u64,
}

/// What somebody who waits finds when he looks.
enum Turn {
    /// He has passed.
    Passed,
    /// It is his turn, in a while.
    In(Duration),
    /// It is another one's turn.
    Later,
}

impl Throttle {
    /// Whether requests have to pass at all.
    pub(crate) fn limits(&self) -> bool {
        self.limits.load(Ordering::Relaxed)
    }

    /// The limits in force.
    pub(crate) fn rates(&self) -> Rates {
        self.state.lock().rates
    }

    /// Sets other limits, of which nothing is used up yet; those who wait look again.
    pub(crate) fn set(&self, rates: Rates) {
        let mut state = self.state.lock();
        state.rates = rates;
        state.buckets = Buckets::new(&rates);
        let limits = !rates.is_unlimited();
        self.limits.store(limits, Ordering::Relaxed);
        if limits {
            state.tell_next();
        } else {
            state.reads.tell_all();
            state.writes.tell_all();
        }
    }

    /// Lets a request pass that does not have to wait.
    pub(crate) fn try_pass(&self, now: Duration, load: Load) -> bool {
        let mut state = self.state.lock();
        if state.line(load.direction).has_waiting() {
            return false;
        }
        state.try_fill(now, load)
    }

    /// Waits until a request may pass.
    ///
    /// # Cancel safety
    /// Dropping the future gives its place up.
    pub(crate) async fn pass(&self, queue: &LocalQueue, load: Load) {
        if self.try_pass(queue.clock(), load) {
            return;
        }
        let place = self.wait_in_line(queue.key(), load);
        loop {
            match place.look(queue.clock()) {
                Turn::Passed => return,
                Turn::In(wait) => drop(first(place.told(), queue.sleep(wait)).await),
                Turn::Later => place.told().await,
            }
        }
    }

    fn wait_in_line(&self, queue: QueueKey, load: Load) -> Place<'_> {
        let mut state = self.state.lock();
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.line(load.direction).join(queue, ticket);
        state.tell_next();
        Place {
            throttle: self,
            load,
            queue,
            ticket,
        }
    }

    /// Passes over a queue whose thread is about to stop polling.
    pub(crate) fn park(&self, queue: QueueKey) {
        self.set_parked(queue, true);
    }

    /// Gives it its turns again.
    pub(crate) fn unpark(&self, queue: QueueKey) {
        self.set_parked(queue, false);
    }

    fn set_parked(&self, queue: QueueKey, parked: bool) {
        {
            let mut state = self.state.lock();
            let State { reads, writes, .. } = &mut *state;
            for line in [reads, writes] {
                for party in line.parties.iter_mut().filter(|p| p.queue == queue) {
                    party.parked = parked;
                }
            }
            state.tell_next();
        }
        self.moved.wake_all();
    }

    /// Waits until nobody waits on a queue whose thread polls it.
    pub(crate) async fn passed_by_all(&self) {
        let has_waiting = || {
            let state = self.state.lock();
            state.reads.next().is_some() || state.writes.next().is_some()
        };
        self.moved.wait_until(|| !has_waiting()).await;
    }
}

impl State {
    fn line(&mut self, direction: Direction) -> &mut Line {
        match direction {
            Direction::Read => &mut self.reads,
            Direction::Write => &mut self.writes,
        }
    }

    fn try_fill(&mut self, now: Duration, load: Load) -> bool {
        let passes = self.buckets.wait(now, load.direction).is_zero();
        if passes {
            self.buckets.fill(load.direction, load.len);
        }
        passes
    }

    /// Notes whose turn it is in each line, and tells them to look.
    fn tell_next(&mut self) {
        for line in [&mut self.reads, &mut self.writes] {
            let next = line.next();
            if next != line.turn.map(|(ticket, _)| ticket) {
                self.last_turn += 1;
                line.turn = next.map(|ticket| (ticket, self.last_turn));
            }
            line.tell_next();
        }
    }

    /// Whether the other direction's turn is older, and could be taken now: where a limit is for
    /// both ways, whoever looks first must not be first every time.
    fn other_goes_first(&mut self, now: Duration, direction: Direction) -> bool {
        let (own, other, opposite) = match direction {
            Direction::Read => (&self.reads, &self.writes, Direction::Write),
            Direction::Write => (&self.writes, &self.reads, Direction::Read),
        };
        let since = |line: &Line| line.turn.map(|(_, turn)| turn);
        let is_older = matches!((since(other), since(own)), (Some(a), Some(b)) if a < b);
        is_older && self.buckets.wait(now, opposite).is_zero()
    }
}

impl Line {
    /// Whether anybody is in the line whose turn may come.
    fn has_waiting(&self) -> bool {
        self.next().is_some()
    }

    fn join(&mut self, queue: QueueKey, ticket: u64) {
        let waiting = Waiting {
            ticket,
            told: false,
            waker: None,
        };
        match self.parties.iter_mut().find(|p| p.queue == queue) {
            Some(party) => party.waiting.push_back(waiting),
            None => self.parties.push_back(Party {
                queue,
                waiting: VecDeque::from([waiting]),
                parked: false,
            }),
        }
    }

    /// Whose turn it is.
    fn next(&self) -> Option<u64> {
        let party = self.parties.iter().find(|p| !p.parked)?;
        party.waiting.front().map(|w| w.ticket)
    }

    /// Takes somebody out; where he has passed, his queue's next one comes after the other queues.
    fn take(&mut self, queue: QueueKey, ticket: u64, turn: Left) {
        let Some(at) = self.parties.iter().position(|p| p.queue == queue) else {
            return;
        };
        let party = &mut self.parties[at];
        party.waiting.retain(|w| w.ticket != ticket);
        let is_empty = party.waiting.is_empty();
        if (is_empty || turn == Left::Passed)
            && let Some(party) = self.parties.remove(at)
            && !is_empty
        {
            self.parties.push_back(party);
        }
    }

    fn find(&mut self, queue: QueueKey, ticket: u64) -> Option<&mut Waiting> {
        let party = self.parties.iter_mut().find(|p| p.queue == queue)?;
        party.waiting.iter_mut().find(|w| w.ticket == ticket)
    }

    fn tell_next(&mut self) {
        if let Some(party) = self.parties.iter_mut().find(|p| !p.parked)
            && let Some(waiting) = party.waiting.front_mut()
        {
            waiting.tell();
        }
    }

    fn tell_all(&mut self) {
        for party in &mut self.parties {
            party.waiting.iter_mut().for_each(Waiting::tell);
        }
    }
}

impl Waiting {
    fn tell(&mut self) {
        self.told = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Why somebody leaves the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Passed,
    GaveUp,
}

/// Somebody's place in a line; dropping it gives it up.
struct Place<'a> {
    throttle: &'a Throttle,
    load: Load,
    queue: QueueKey,
    ticket: u64,
}

impl Place<'_> {
    fn look(&self, now: Duration) -> Turn {
        let mut state = self.throttle.state.lock();
        let unlimited = state.rates.is_unlimited();
        let wait = state.buckets.wait(now, self.load.direction);
        let line = state.line(self.load.direction);
        if !unlimited && line.next() != Some(self.ticket) {
            return Turn::Later;
        }
        if !wait.is_zero() {
            return Turn::In(wait);
        }
        if !unlimited && state.other_goes_first(now, self.load.direction) {
            // We are told when it has passed.
            match self.load.direction {
                Direction::Read => state.writes.tell_next(),
                Direction::Write => state.reads.tell_next(),
            }
            return Turn::Later;
        }
        let line = state.line(self.load.direction);
        line.take(self.queue, self.ticket, Left::Passed);
        state.tell_next();
        state.buckets.fill(self.load.direction, self.load.len);
        drop(state);
        self.throttle.moved.wake_all();
        Turn::Passed
    }

    /// Waits until it is worth looking again.
    async fn told(&self) {
        poll_fn(|cx| {
            let mut state = self.throttle.state.lock();
            let line = state.line(self.load.direction);
            match line.find(self.queue, self.ticket) {
                Some(waiting) if !waiting.told => {
                    waiting.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Some(waiting) => {
                    waiting.told = false;
                    Poll::Ready(())
                }
                None => Poll::Ready(()),
            }
        })
        .await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.throttle.state.lock();
            let line = state.line(self.load.direction);
            if line.find(self.queue, self.ticket).is_none() {
                return;
            }
            line.take(self.queue, self.ticket, Left::GaveUp);
            state.tell_next();
        }
        self.throttle.moved.wake_all();
    }
}
