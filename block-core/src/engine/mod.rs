//! The one seam to the kernel: operations go in, completions come out, a descriptor tells when.
//!
//! A [`Queue`](crate::queue::Queue) owns one engine and is its only caller. An operation owns its
//! memory until its completion has been reaped, whatever became of the one who asked for it.
//! Backends: a ring (`uring`), threads and epoll (`pool`), and a simulator for tests (`sim`).
//! Not here: which leaf a request reaches (`request/`), and who waits for it (`queue`).
//!
//! System calls, for a seccomp filter. When engines and the pool are built: `io_uring_setup`,
//! `io_uring_register`, `eventfd2`, `epoll_create1`, `epoll_ctl`, `timerfd_create`, `mmap`, and
//! `clone3` for the pool's threads. On a thread that owns an engine: `io_uring_enter`,
//! `io_uring_register` (at the first use, at attach and at detach), `preadv2`, `read`, `write`,
//! `ppoll`, `close`, `futex`; without a ring also `epoll_ctl`, `epoll_pwait`, `epoll_pwait2`,
//! `timerfd_settime`, `recvmsg`, `sendmsg`. On the pool's threads: `preadv2`, `pwritev2`,
//! `fdatasync`, `fallocate`, `ftruncate`, `lseek`, `write`, `futex`. Besides those, what the
//! allocator and a `Blocking` closure need, and `fcntl` on the thread that changes who uses a file.
#![expect(unsafe_code, reason = "gives memory and descriptors to the kernel")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use crate::buffer::IoBuf;

mod byte_lock;
#[cfg(test)]
pub(crate) mod count_allocations;
mod host;
mod leaf;
mod line;
mod mailbox;
mod nowait;
mod pool;
mod readiness;
pub mod sim;
mod sync_line;
mod transfer;
mod uring;
mod vectors;
mod write_line;

pub use byte_lock::{is_byte_locked_by_others, lock_byte_shared, unlock_byte};
pub use host::{HostEngine, HostEngineOptions, Ring};
pub use leaf::{Aio, Leaf, LeafFacts, LeafFile, LeafId, SimFile};
pub use pool::Pool;

/// The caller's name for an operation; comes back in its [`Completion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A leaf's place in one engine, from [`Engine::attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// What [`Operation::Fallocate`] does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Gives the range back to the file system; it reads as zeroes. Never changes the length.
    PunchHole,
    /// Makes the range read as zeroes and keeps space reserved for it. May lengthen the file.
    ZeroRange,
    /// Reserves space; bytes that were there stay. May lengthen the file.
    Allocate,
}

/// Where [`Operation::Seek`] stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// At the first byte of data at or after the offset; `NXIO` when there is none.
    Data,
    /// At the first byte of a hole at or after the offset; the end of the file is a hole.
    Hole,
}

/// One thing for the kernel to do.
///
/// Offsets and lengths of leaf operations are bytes. For a leaf with `direct` set they, and the
/// memory, have the leaf's alignment: the request path saw to that.
pub enum Operation {
    /// Fills `buf` from `offset`. Bytes behind the end of the file read as zeroes, so that a
    /// success always means the whole buffer.
    Read {
        /// The leaf.
        slot: Slot,
        /// First byte in the file.
        offset: u64,
        /// Where the bytes go.
        buf: IoBuf,
    },
    /// Writes all of `buf` at `offset`; with `fua` it is durable when it completes.
    Write {
        /// The leaf.
        slot: Slot,
        /// First byte in the file.
        offset: u64,
        /// Where the bytes come from.
        buf: IoBuf,
        /// Whether completion means durable.
        fua: bool,
    },
    /// Makes all writes to the leaf durable that completed before this was submitted.
    Sync {
        /// The leaf.
        slot: Slot,
    },
    /// Changes how a range is stored. `OPNOTSUPP` where the file system cannot.
    Fallocate {
        /// The leaf.
        slot: Slot,
        /// What to do.
        mode: Fallocate,
        /// First byte in the file.
        offset: u64,
        /// Bytes from there.
        len: u64,
    },
    /// Sets the length of the file.
    Truncate {
        /// The leaf.
        slot: Slot,
        /// The new length.
        len: u64,
    },
    /// Finds data or a hole; the result is an offset.
    Seek {
        /// The leaf.
        slot: Slot,
        /// Where to begin.
        offset: u64,
        /// What to look for.
        what: Seek,
    },
    /// Receives at least one byte; the result is their number, 0 when the peer has closed.
    Recv {
        /// A connected stream socket, non-blocking.
        socket: Arc<OwnedFd>,
        /// Where the bytes go.
        buf: IoBuf,
    },
    /// Sends all of `buf`; a closed peer is `PIPE`, never a signal.
    Send {
        /// A connected stream socket, non-blocking.
        socket: Arc<OwnedFd>,
        /// Where the bytes come from.
        buf: IoBuf,
    },
    /// Completes when the descriptor has something to read (or accept), or was closed by the peer.
    Readable {
        /// Any descriptor that can be polled.
        fd: Arc<OwnedFd>,
    },
    /// Completes when the descriptor takes bytes (or has connected).
    Writable {
        /// Any descriptor that can be polled.
        fd: Arc<OwnedFd>,
    },
    /// Completes when `after` has passed.
    Timer {
        /// Time from submission.
        after: Duration,
    },
    /// Runs a closure that may block or compute for long on a thread of the pool.
    Blocking(Box<dyn FnOnce() -> io::Result<u64> + Send>),
}

/// An operation that has ended.
pub struct Completion {
    /// The name given at submission.
    pub token: Token,
    /// A count or an offset, as the operation says; for leaf I/O the bytes of the buffer.
    pub result: Result<u64, Errno>,
    /// The operation's memory, for reads, writes, receives and sends.
    pub buf: Option<IoBuf>,
}

/// Wakes the thread that owns an engine, from any thread.
pub trait Bell: Send + Sync {
    /// Makes the engine's notifier readable and a blocked [`Engine::wait`] return.
    fn ring(&self);
}

/// A backend: one a queue, used by the queue's thread alone.
///
/// Built on any thread, it takes up work on the thread that calls it first (a ring is created
/// disabled and enabled there), and stays on that thread.
pub trait Engine: Send {
    /// Makes a leaf usable by operations of this engine; keeps it alive until `detach`.
    fn attach(&mut self, leaf: Arc<Leaf>) -> Slot;

    /// Lets go of a leaf; takes effect when its last operation in flight has completed.
    fn detach(&mut self, slot: Slot);

    /// Takes an operation. Starts it by the next [`kick`](Engine::kick) or
    /// [`wait`](Engine::wait) at the latest. A full ring queues; nothing is refused.
    fn submit(&mut self, token: Token, operation: Operation);

    /// Asks for an early end of a timer, receive, or poll: it completes with `CANCELED` unless it
    /// was faster. Leaf I/O is never cut short.
    fn cancel(&mut self, token: Token);

    /// Starts everything submitted, with one system call a batch.
    ///
    /// # Errors
    /// Only when the ring itself fails; errors of operations come as completions.
    fn kick(&mut self) -> io::Result<()>;

    /// Hands every completion that is there to `done`, without waiting, and quiets the notifier.
    /// `done` must not call the engine.
    fn reap(&mut self, done: &mut dyn FnMut(Completion));

    /// Kicks, then sleeps until a completion is there, the bell rings, or `timeout` has passed.
    ///
    /// # Errors
    /// As [`kick`](Engine::kick).
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// A descriptor that is readable while completions may be there or the bell has rung, for
    /// the caller's own epoll.
    fn notifier(&mut self) -> BorrowedFd<'_>;

    /// A handle that wakes this engine's thread.
    fn bell(&self) -> Arc<dyn Bell>;

    /// The time that its timers go by, since a moment that is the same for all engines of its kind.
    fn now(&self) -> Duration;
}

#[cfg(test)]
mod tests;
