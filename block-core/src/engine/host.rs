//! The engine for the host's files and sockets: a ring where the kernel offers one, threads for
//! what a ring can't do or the user gave to threads, and the page cache before both.
//!
//! One [`HostEngine`] a queue. Invariant: an operation is in exactly one of four places: the ring,
//! the epoll set, the pool, or `ended`; each owns its memory and the leaf's count knows of it.
//! Not here: how each of them works (`uring`, `readiness`, `pool`, `nowait`).
//!
//! A leaf that was detached may stay open in the kernel for a moment after its descriptor was
//! closed, because the ring's table held it too: who locked the file unlocks it by name.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Once};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use slab::Slab;

use super::mailbox::{Mailbox, Posted};
use super::nowait::{Cached, Guess, read_cached};
use super::pool::{Job, Pool, Task};
use super::readiness::Readiness;
use super::transfer::{EventEnded, EventWork, LeafWork, Step, after_read, answer_now};
use super::uring::{Carried, Left, Outcome, Reaped, Target, Uring};
use super::vectors::Vectors;
use super::{Aio, Bell, Completion, Engine, Leaf, LeafFile, Operation, Slot, Token};

/// Whether an engine uses io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Where the kernel lets us.
    Auto,
    /// Never: threads and epoll.
    Off,
}

/// What a [`HostEngine`] is made of.
#[derive(Clone)]
pub struct HostEngineOptions {
    /// Operations that one system call can start; more are queued. Rounded up to a power of two.
    pub ring_entries: u32,
    /// Whether to use a ring.
    pub ring: Ring,
    /// The threads, shared by all engines of the process.
    pub pool: Arc<Pool>,
}

/// A ring carries a whole batch in one system call, an inline read is one: measured, the second
/// is cheaper for the first reads of a batch only.
const CACHED_READS_BESIDE_RING: u32 = 2;

/// The engine for the host's kernel; see the module.
pub struct HostEngine {
    reactor: Reactor,
    ledger: Ledger,
    pool: Arc<Pool>,
    /// Completed, and not reaped yet.
    ended: Vec<Completion>,
    posted: Vec<Posted>,
    vectors: Vectors,
    /// Reads tried inline since the last kick.
    cached_reads: u32,
    /// Somebody polls our notifier, and sleeps where we don't see it.
    listening: bool,
    /// The notifier has been raised for `ended` since the last reap.
    raised: bool,
    /// An error of the ring itself, for the next caller who can be told.
    broken: Option<io::Error>,
}

enum Reactor {
    Ring(Box<Uring>),
    Epoll(Box<Readiness>),
}

/// Who has what under way; everything that a completion is booked to.
struct Ledger {
    leaves: Slab<Attached>,
    jobs: Slab<InPool>,
    batch: Vec<Job>,
    /// Places in the ring's table that nothing uses any more.
    released: Vec<Target>,
    mailbox: Arc<Mailbox>,
}

struct Attached {
    leaf: Arc<Leaf>,
    target: Option<Target>,
    guess: Guess,
    in_flight: usize,
    detached: bool,
}

struct InPool {
    token: Token,
    slot: Option<Slot>,
}

impl HostEngine {
    /// An engine with all it will ever need from the system but memory.
    ///
    /// Where the kernel refuses a ring, the engine works with threads and epoll, and says so once
    /// in the log.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub fn new(options: &HostEngineOptions) -> io::Result<HostEngine> {
        let ring = match options.ring {
            Ring::Auto => try_ring(options.ring_entries),
            Ring::Off => None,
        };
        HostEngine::over(ring, Arc::clone(&options.pool))
    }

    /// An engine over a ring of the caller's choice.
    pub(super) fn over(ring: Option<Uring>, pool: Arc<Pool>) -> io::Result<HostEngine> {
        let mailbox = Arc::new(Mailbox::new()?);
        let reactor = match ring {
            Some(ring) => Reactor::Ring(Box::new(ring)),
            None => Reactor::Epoll(Box::new(Readiness::new(mailbox.event())?)),
        };
        Ok(HostEngine {
            reactor,
            ledger: Ledger {
                leaves: Slab::new(),
                jobs: Slab::new(),
                batch: Vec::new(),
                released: Vec::new(),
                mailbox,
            },
            pool,
            ended: Vec::with_capacity(64),
            posted: Vec::new(),
            vectors: Vectors::new(),
            cached_reads: 0,
            listening: false,
            raised: false,
            broken: None,
        })
    }

    /// Whether this engine has a ring.
    pub fn has_ring(&self) -> bool {
        matches!(self.reactor, Reactor::Ring(_))
    }

    fn submit_leaf(&mut self, token: Token, slot: Slot, work: LeafWork) {
        let attached = &mut self.ledger.leaves[slot.index()];
        attached.in_flight += 1;
        if let Some(result) = answer_now(&attached.leaf, &work) {
            return self.end_leaf(token, slot, work, result);
        }
        let mut done = 0;
        let enough = attached.target.is_some() && self.cached_reads >= CACHED_READS_BESIDE_RING;
        if let LeafWork::Read { offset, buf } = &work
            && !enough
            && attached.guess.worth_a_try(buf.len())
        {
            self.cached_reads += 1;
            let Attached { guess, leaf, .. } = attached;
            let cached = read_cached(guess, leaf, &mut self.vectors, *offset, buf);
            if let Cached::Bytes(count) = cached
                // No bytes are the end of the file, or a hole in the cache before it.
                && count > 0
                && let Step::End(result) = after_read(buf, &mut done, 1, Ok(count))
            {
                return self.end_leaf(token, slot, work, result);
            }
        }
        match (&mut self.reactor, attached.target) {
            (Reactor::Ring(ring), Some(target)) if ring_carries(&work) => {
                let alignment = attached.leaf.transfer_alignment();
                ring.submit(
                    token,
                    Carried::Leaf {
                        slot,
                        target,
                        alignment,
                        work,
                    },
                    done,
                );
            }
            _ => self.ledger.send_to_pool(token, slot, work, done),
        }
    }

    fn end_leaf(&mut self, token: Token, slot: Slot, work: LeafWork, result: Result<u64, Errno>) {
        self.ledger.leave(slot);
        self.ended.push(Completion {
            token,
            result,
            buf: work.into_buf(),
        });
        self.release();
    }

    fn submit_event(&mut self, token: Token, work: EventWork) {
        match &mut self.reactor {
            Reactor::Ring(ring) => ring.submit(token, Carried::Event(work), 0),
            Reactor::Epoll(readiness) => {
                let ended = &mut self.ended;
                readiness.submit(token, work, &mut |end| ended.push(end.into()));
            }
        }
    }

    /// Gives to the pool what was gathered for it; a batch ends here.
    fn hand_over(&mut self) {
        self.cached_reads = 0;
        if !self.ledger.batch.is_empty() {
            self.pool.hand_over(&mut self.ledger.batch);
        }
    }

    /// Lets the ring forget leaves that are gone.
    fn release(&mut self) {
        for target in self.ledger.released.drain(..) {
            if let Reactor::Ring(ring) = &mut self.reactor {
                ring.detach(target);
            }
        }
    }

    /// Takes everything out of the reactor.
    fn reap_reactor(&mut self, done: &mut dyn FnMut(Completion)) -> io::Result<Reaped> {
        let ledger = &mut self.ledger;
        match &mut self.reactor {
            Reactor::Ring(ring) => ring.reap(&mut |left| ledger.settle(left, done)),
            Reactor::Epoll(readiness) => Ok(Reaped {
                bell: readiness.reap(&mut |end| done(end.into()))?,
                more: false,
            }),
        }
    }
}

/// A ring, or a word in the log, once, on why there is none.
fn try_ring(entries: u32) -> Option<Uring> {
    static WARNED: Once = Once::new();
    let ring = Uring::new(entries);
    if let Err(error) = &ring {
        WARNED.call_once(|| {
            tracing::warn!(%error, "no io_uring here, threads and epoll are used instead");
        });
    }
    ring.ok()
}

fn ring_carries(work: &LeafWork) -> bool {
    match work {
        LeafWork::Read { .. } | LeafWork::Write { .. } | LeafWork::Fallocate { .. } => true,
        LeafWork::Sync | LeafWork::Truncate { .. } | LeafWork::Seek { .. } => false,
    }
}

impl Slot {
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<EventEnded> for Completion {
    fn from(end: EventEnded) -> Completion {
        Completion {
            token: end.token,
            result: end.result,
            buf: end.work.into_buf(),
        }
    }
}

impl Ledger {
    fn send_to_pool(&mut self, token: Token, slot: Slot, work: LeafWork, done: usize) {
        let leaf = Arc::clone(&self.leaves[slot.index()].leaf);
        let key = self.jobs.insert(InPool {
            token,
            slot: Some(slot),
        });
        let task = Task::Leaf { leaf, work, done };
        self.batch.push(Job {
            task,
            key,
            mailbox: Arc::clone(&self.mailbox),
        });
    }

    /// Books an operation out of its leaf.
    fn leave(&mut self, slot: Slot) {
        self.leaves[slot.index()].in_flight -= 1;
        self.drop_if_unused(slot);
    }

    fn drop_if_unused(&mut self, slot: Slot) {
        let attached = &self.leaves[slot.index()];
        if attached.detached && attached.in_flight == 0 {
            self.released.extend(attached.target);
            self.leaves.remove(slot.index());
        }
    }

    /// Books what left the ring.
    fn settle(&mut self, left: Left, done: &mut dyn FnMut(Completion)) {
        let Left {
            token,
            carried,
            outcome,
        } = left;
        match (carried, outcome) {
            (Carried::Leaf { slot, work, .. }, Outcome::ForPool { done }) => {
                self.send_to_pool(token, slot, work, done);
            }
            (Carried::Leaf { slot, work, .. }, Outcome::Ended(result)) => {
                work.record(&self.leaves[slot.index()].leaf, result);
                self.leave(slot);
                done(Completion {
                    token,
                    result,
                    buf: work.into_buf(),
                });
            }
            (Carried::Event(work), outcome) => {
                let result = match outcome {
                    Outcome::Ended(result) => result,
                    Outcome::ForPool { .. } => Err(Errno::AGAIN),
                };
                done(Completion {
                    token,
                    result,
                    buf: work.into_buf(),
                });
            }
        }
    }

    /// Books what a thread of the pool finished.
    fn settle_posted(&mut self, posted: Posted, done: &mut dyn FnMut(Completion)) {
        let Posted { key, result, buf } = posted;
        let InPool { token, slot } = self.jobs.remove(key);
        if let Some(slot) = slot {
            self.leave(slot);
        }
        done(Completion { token, result, buf });
    }
}

impl Engine for HostEngine {
    fn attach(&mut self, leaf: Arc<Leaf>) -> Slot {
        let entry = self.ledger.leaves.vacant_entry();
        let index = u32::try_from(entry.key()).expect("fewer leaves than descriptors");
        let target = match (leaf.file(), leaf.aio(), &mut self.reactor) {
            (LeafFile::Host(fd), Aio::Native | Aio::IoUring, Reactor::Ring(ring)) => {
                Some(ring.attach(index, fd.as_fd()))
            }
            _ => None,
        };
        let guess = Guess::new(&leaf);
        entry.insert(Attached {
            leaf,
            target,
            guess,
            in_flight: 0,
            detached: false,
        });
        Slot(index)
    }

    fn detach(&mut self, slot: Slot) {
        self.ledger.leaves[slot.index()].detached = true;
        self.ledger.drop_if_unused(slot);
        self.release();
    }

    fn submit(&mut self, token: Token, operation: Operation) {
        match operation {
            Operation::Read { slot, offset, buf } => {
                self.submit_leaf(token, slot, LeafWork::Read { offset, buf });
            }
            Operation::Write {
                slot,
                offset,
                buf,
                fua,
            } => {
                self.submit_leaf(token, slot, LeafWork::Write { offset, buf, fua });
            }
            Operation::Sync { slot } => self.submit_leaf(token, slot, LeafWork::Sync),
            Operation::Fallocate {
                slot,
                mode,
                offset,
                len,
            } => {
                self.submit_leaf(token, slot, LeafWork::Fallocate { mode, offset, len });
            }
            Operation::Truncate { slot, len } => {
                self.submit_leaf(token, slot, LeafWork::Truncate { len });
            }
            Operation::Seek { slot, offset, what } => {
                self.submit_leaf(token, slot, LeafWork::Seek { offset, what });
            }
            Operation::Recv { socket, buf } => {
                self.submit_event(token, EventWork::Recv { socket, buf });
            }
            Operation::Send { socket, buf } => {
                self.submit_event(token, EventWork::Send { socket, buf });
            }
            Operation::Readable { fd } => self.submit_event(token, EventWork::Readable { fd }),
            Operation::Writable { fd } => self.submit_event(token, EventWork::Writable { fd }),
            Operation::Timer { after } => self.submit_event(token, EventWork::Timer { after }),
            Operation::Blocking(closure) => {
                let key = self.ledger.jobs.insert(InPool { token, slot: None });
                let mailbox = Arc::clone(&self.ledger.mailbox);
                self.ledger.batch.push(Job {
                    task: Task::Blocking(closure),
                    key,
                    mailbox,
                });
            }
        }
    }

    fn cancel(&mut self, token: Token) {
        match &mut self.reactor {
            Reactor::Ring(ring) => {
                ring.cancel(token);
            }
            Reactor::Epoll(readiness) => {
                let ended = &mut self.ended;
                readiness.cancel(token, &mut |end| ended.push(end.into()));
            }
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        self.hand_over();
        let (ledger, ended) = (&mut self.ledger, &mut self.ended);
        if let Reactor::Ring(ring) = &mut self.reactor {
            ring.kick(&mut |left| ledger.settle(left, &mut |done| ended.push(done)))?;
        }
        self.hand_over();
        if self.listening && !self.ended.is_empty() && !self.raised {
            self.raised = true;
            self.ledger.mailbox.raise();
        }
        self.broken.take().map_or(Ok(()), Err)
    }

    fn reap(&mut self, done: &mut dyn FnMut(Completion)) {
        // Quiet first: what completes from here on raises the notifier again.
        if self.listening {
            self.ledger.mailbox.quiet();
            self.raised = false;
        }
        for completion in self.ended.drain(..) {
            done(completion);
        }
        match self.reap_reactor(done) {
            Ok(Reaped { more: true, .. }) => self.ledger.mailbox.raise(),
            Ok(Reaped { bell: true, .. }) if !self.listening => self.ledger.mailbox.quiet(),
            Ok(_) => {}
            Err(error) => self.broken = Some(error),
        }
        let mut posted = std::mem::take(&mut self.posted);
        if self.listening {
            self.ledger.mailbox.take_and_listen(&mut posted);
        } else {
            self.ledger.mailbox.take(&mut posted);
        }
        for posted in posted.drain(..) {
            self.ledger.settle_posted(posted, done);
        }
        self.posted = posted;
        self.release();
        self.hand_over();
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.ended.is_empty() {
            return self.kick();
        }
        if self.listening {
            self.kick()?;
            let limit = timeout.and_then(|time| time.try_into().ok());
            let notifier = self.notifier();
            return match poll(&mut [PollFd::new(&notifier, PollFlags::IN)], limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => Ok(()),
                Err(errno) => Err(errno.into()),
            };
        }
        self.hand_over();
        if !self.ledger.mailbox.fall_asleep() {
            return self.kick();
        }
        let (ledger, ended) = (&mut self.ledger, &mut self.ended);
        let slept = match &mut self.reactor {
            Reactor::Ring(ring) => {
                let mailbox = Arc::clone(&ledger.mailbox);
                ring.wait(mailbox.event(), timeout, &mut |left| {
                    ledger.settle(left, &mut |done| ended.push(done));
                })
            }
            Reactor::Epoll(readiness) => readiness.wait(timeout).map_err(io::Error::from),
        };
        self.ledger.mailbox.wake();
        slept
    }

    fn notifier(&mut self) -> BorrowedFd<'_> {
        if !self.listening {
            self.listening = true;
            if let Reactor::Ring(ring) = &mut self.reactor
                && let Err(error) = ring.listen(self.ledger.mailbox.event())
            {
                self.broken = Some(error);
            }
            // What came before the switch is found by the reap that this brings.
            self.ledger.mailbox.raise();
        }
        match &self.reactor {
            Reactor::Ring(_) => self.ledger.mailbox.event(),
            Reactor::Epoll(readiness) => readiness.notifier(),
        }
    }

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::clone(&self.ledger.mailbox) as Arc<dyn Bell>
    }

    fn now(&self) -> Duration {
        // Fails only for a time before the clock's start.
        clock_gettime(ClockId::Monotonic)
            .try_into()
            .unwrap_or_default()
    }
}

impl Drop for HostEngine {
    /// Ends sockets and timers, and waits until the kernel writes to no memory of ours any more.
    /// What the pool has goes on there.
    fn drop(&mut self) {
        self.hand_over();
        if let Reactor::Ring(ring) = &mut self.reactor
            // A callback that panicked may have swallowed completions: they would be waited for.
            && !std::thread::panicking()
        {
            let ledger = &mut self.ledger;
            let closed = ring.close(&mut |left| ledger.settle(left, &mut |_| {}));
            if let Err(error) = closed {
                tracing::error!(%error, "memory of operations in flight is given up");
            }
        }
        self.hand_over();
    }
}
