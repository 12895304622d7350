//! The mailbox of an engine: what other threads have finished for it, and the bell that wakes it.
//!
//! Pool threads [`post`](Mailbox::post), anyone rings; the engine's thread sleeps, wakes and takes.
//! Invariant: a post or a ring that the owner has not taken yet either finds it awake, or has
//! written (or is about to write) the eventfd. One atomic carries both sides' moves, and every
//! move is a read-modify-write, so each sees the one before: no wake-up is lost, and none is paid
//! for while the owner is awake. Not here: what the owner sleeps in (`uring`, `readiness`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::Bell;
use crate::buffer::IoBuf;

/// The owner runs and will look at its mailbox before it sleeps.
const AWAKE: u8 = 0;
/// The owner sleeps, or may do so without another look.
const ASLEEP: u8 = 1;
/// Somebody rang since the owner last took its mail.
const RUNG: u8 = 2;

/// What a thread of the pool finished.
pub(super) struct Posted {
    /// The engine's name for the job.
    pub(super) key: usize,
    /// As in [`Completion`](super::Completion).
    pub(super) result: Result<u64, Errno>,
    /// The job's memory.
    pub(super) buf: Option<IoBuf>,
}

/// See the module.
pub(super) struct Mailbox {
    state: AtomicU8,
    event: OwnedFd,
    posted: Mutex<Vec<Posted>>,
}

impl Mailbox {
    pub(super) fn new() -> rustix::io::Result<Mailbox> {
        Ok(Mailbox {
            state: AtomicU8::new(AWAKE),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            posted: Mutex::new(Vec::new()),
        })
    }

    /// The eventfd, to poll.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Hands a finished job to the owner.
    pub(super) fn post(&self, posted: Posted) {
        self.posted.lock().push(posted);
        self.ring();
    }

    /// Makes the eventfd readable, whoever sleeps.
    pub(super) fn raise(&self) {
        raise(&self.event);
    }

    /// Makes the eventfd unreadable. Owner only, and before `take`.
    pub(super) fn quiet(&self) {
        // Fails only when it is unreadable already.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Announces that the owner is about to sleep; `false` when it has mail and must not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Announces that the owner has stopped sleeping.
    pub(super) fn wake(&self) {
        // Fails when somebody rang: that stays to be seen by `take`.
        let _ = self
            .state
            .compare_exchange(ASLEEP, AWAKE, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Takes all mail into `into` (which is empty); the owner stays awake.
    pub(super) fn take(&self, into: &mut Vec<Posted>) {
        if self.state.load(Ordering::Acquire) == RUNG {
            self.take_and_be(AWAKE, into);
        }
    }

    /// Takes all mail; from now on every first ring is to raise the eventfd, because the owner
    /// sleeps in a poll of its own that we don't see.
    pub(super) fn take_and_listen(&self, into: &mut Vec<Posted>) {
        self.take_and_be(ASLEEP, into);
    }

    fn take_and_be(&self, next: u8, into: &mut Vec<Posted>) {
        // The swap comes before the look: a post after the look rings after the swap.
        if self.state.swap(next, Ordering::AcqRel) == RUNG {
            std::mem::swap(&mut *self.posted.lock(), into);
        }
    }
}

impl Bell for Mailbox {
    fn ring(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.raise();
        }
    }
}

/// Makes an eventfd readable.
pub(super) fn raise(event: &OwnedFd) {
    #[expect(
        clippy::host_endian_bytes,
        reason = "an eventfd counts in the host's order"
    )]
    let one = 1u64.to_ne_bytes();
    // Fails only when the counter is full, and then the eventfd is readable as it is.
    let _ = rustix::io::write(event, &one);
}
