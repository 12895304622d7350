//! The simulator as an engine: one for each queue, all over one [`Sim`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use slab::Slab;

use super::{EngineState, Sim, SimKind, Work};
use crate::engine::mailbox;
use crate::engine::transfer::{LeafWork, answer_now};
use crate::engine::{Bell, Completion, Engine, Leaf, Operation, Slot, Token};

/// Sleeps without effect after which a queue is stuck: a test ends instead of hanging.
const STUCK: u32 = 100_000;

/// An engine over simulated files.
pub struct SimEngine {
    sim: Sim,
    number: usize,
    leaves: Slab<Arc<Leaf>>,
    bell: Arc<SimBell>,
    sleeps_in_vain: u32,
}

/// The notifier and bell of one engine.
pub(super) struct SimBell {
    event: OwnedFd,
    rung: AtomicBool,
}

impl SimBell {
    /// Makes the notifier readable.
    pub(super) fn raise(&self) {
        mailbox::raise(&self.event);
    }
}

impl Bell for SimBell {
    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.raise();
    }
}

impl SimEngine {
    /// An engine of the machine; they are numbered from 0 in the order in which they are made.
    ///
    /// # Panics
    /// When the process has no descriptors left.
    pub fn new(sim: &Sim) -> SimEngine {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(SimBell {
            event: event.expect("a descriptor for the notifier"),
            rung: AtomicBool::new(false),
        });
        let mut state = sim.0.lock();
        let number = state.engines.len();
        state.engines.push(EngineState {
            done: Default::default(),
            bell: Arc::clone(&bell),
        });
        drop(state);
        SimEngine {
            sim: sim.clone(),
            number,
            leaves: Slab::new(),
            bell,
            sleeps_in_vain: 0,
        }
    }

    /// Its number among the machine's engines; [`SimOp::engine`](super::SimOp).
    pub fn number(&self) -> usize {
        self.number
    }

    fn submit_leaf(&mut self, token: Token, slot: Slot, work: LeafWork) {
        let leaf = Arc::clone(&self.leaves[slot.0 as usize]);
        match answer_now(&leaf, &work) {
            Some(result) => self.post(Completion {
                token,
                result,
                buf: work.into_buf(),
            }),
            None => self.submit_work(token, Work::Leaf(leaf, work)),
        }
    }

    fn submit_work(&mut self, token: Token, work: Work) {
        self.sim.0.lock().submit(self.number, token, work);
    }

    fn post(&mut self, completion: Completion) {
        self.sim.0.lock().post(self.number, completion);
    }

    fn has_news(&self) -> bool {
        self.bell.rung.load(Ordering::Acquire)
            || !self.sim.0.lock().engines[self.number].done.is_empty()
    }
}

impl Engine for SimEngine {
    fn attach(&mut self, leaf: Arc<Leaf>) -> Slot {
        let index = self.leaves.insert(leaf);
        Slot(u32::try_from(index).expect("a test has few leaves"))
    }

    fn detach(&mut self, slot: Slot) {
        self.leaves.remove(slot.0 as usize);
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
            Operation::Timer { after } => {
                let due = self.sim.now().saturating_add(after);
                self.submit_work(token, Work::Timer { due });
            }
            Operation::Blocking(closure) => self.submit_work(token, Work::Blocking(closure)),
            Operation::Recv { buf, .. } | Operation::Send { buf, .. } => {
                let buf = Some(buf);
                self.post(Completion {
                    token,
                    result: Err(Errno::OPNOTSUPP),
                    buf,
                });
            }
            Operation::Readable { .. } | Operation::Writable { .. } => {
                self.post(Completion {
                    token,
                    result: Err(Errno::OPNOTSUPP),
                    buf: None,
                });
            }
        }
    }

    fn cancel(&mut self, token: Token) {
        let mut state = self.sim.0.lock();
        let timer = state.pending.iter().position(|pending| {
            let op = &pending.op;
            op.engine == self.number && pending.token == token && op.kind == SimKind::Timer
        });
        if let Some(at) = timer {
            state.pending.remove(at);
            let result = Err(Errno::CANCELED);
            state.post(
                self.number,
                Completion {
                    token,
                    result,
                    buf: None,
                },
            );
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut dyn FnMut(Completion)) {
        // Fails only when it is unreadable already.
        let _ = rustix::io::read(&self.bell.event, &mut [0; 8]);
        self.bell.rung.store(false, Ordering::Release);
        let completions = std::mem::take(&mut self.sim.0.lock().engines[self.number].done);
        for completion in completions {
            done(completion);
        }
    }

    /// Does one step of the machine, which may be for another engine. When nothing can happen, it
    /// lets `timeout` pass, or returns for nothing: what is awaited is held.
    ///
    /// # Panics
    /// When it was called very often for nothing.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let limit = timeout.unwrap_or(Duration::MAX);
        if self.has_news() || self.sim.step_within(limit) {
            self.sleeps_in_vain = 0;
        } else if let Some(time) = timeout {
            self.sim.advance(time);
        } else {
            self.sleeps_in_vain += 1;
            assert!(
                self.sleeps_in_vain < STUCK,
                "nothing can happen; held: {:?}",
                self.sim.held()
            );
            std::thread::yield_now();
        }
        Ok(())
    }

    fn notifier(&mut self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::clone(&self.bell) as Arc<dyn Bell>
    }

    fn now(&self) -> Duration {
        self.sim.now()
    }
}
