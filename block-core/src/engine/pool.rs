//! The thread pool: leaf I/O without a ring, and what blocks or computes for long.
//!
//! One [`Pool`] serves all engines of a process; its threads exist from the start, so that a
//! caller may install a seccomp filter after. A job owns its leaf and memory and reports to the
//! mailbox of the engine that sent it. Invariant: a job that was handed over runs, whatever became
//! of its engine. Not here: sockets and timers, which hold no thread (`readiness`).

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::mailbox::{Mailbox, Posted};
use super::sync_line::{self, Waiter};
use super::transfer::{LeafWork, Step, after_fallocate, after_read, after_write, fallocate_flags};
use super::vectors::Vectors;
use super::write_line::{self, Waiting};
use super::{Leaf, LeafFile, Seek};

/// Threads that do what would block a queue's own; shared by all engines.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    closing: bool,
}

/// One thing to do, and who hears of it.
pub(super) struct Job {
    pub(super) task: Task,
    pub(super) key: usize,
    pub(super) mailbox: Arc<Mailbox>,
}

/// What a thread does.
pub(super) enum Task {
    /// Work on a leaf, whose first `done` bytes are done.
    Leaf {
        leaf: Arc<Leaf>,
        work: LeafWork,
        done: usize,
    },
    /// A closure.
    Blocking(Box<dyn FnOnce() -> io::Result<u64> + Send>),
}

impl Pool {
    /// Starts all threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: NonZeroUsize) -> io::Result<Arc<Pool>> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                idle: 0,
                closing: false,
            }),
            work: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            threads: Vec::with_capacity(threads.get()),
        };
        for number in 0..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let name = format!("block-pool-{number}");
            // On an error `pool` is dropped, which ends the threads there are.
            pool.threads.push(
                thread::Builder::new()
                    .name(name)
                    .spawn(move || shared.run())?,
            );
        }
        Ok(Arc::new(pool))
    }

    /// Hands over a batch; `jobs` is empty after.
    pub(super) fn hand_over(&self, jobs: &mut Vec<Job>) {
        let count = jobs.len();
        let mut state = self.shared.state.lock();
        state.jobs.extend(jobs.drain(..));
        let sleepers = state.idle.min(count);
        drop(state);
        for _ in 0..sleepers {
            self.shared.work.notify_one();
        }
    }
}

impl Drop for Pool {
    /// Lets the threads finish what was handed over.
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A closure may have held the last handle: its own thread can't wait for itself.
            if thread.thread().id() != thread::current().id() {
                // An error would be a panic outside of a job, which has been printed.
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut vectors = Vectors::new();
        while let Some(job) = self.next() {
            job.run(&mut vectors);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closing {
                return None;
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
        }
    }
}

impl Job {
    fn run(self, vectors: &mut Vectors) {
        let Job { task, key, mailbox } = self;
        match task {
            Task::Leaf {
                leaf,
                work: LeafWork::Sync,
                ..
            } => {
                sync_line::sync(leaf, Waiter { mailbox, key });
            }
            Task::Leaf { leaf, work, done }
                if !leaf.is_direct() && matches!(work, LeafWork::Write { fua: false, .. }) =>
            {
                let waiting = Waiting {
                    work,
                    done,
                    key,
                    mailbox,
                };
                write_line::write(leaf, waiting, vectors);
            }
            Task::Leaf { leaf, work, done } => {
                let result = run_leaf(&leaf, &work, done, vectors);
                work.record(&leaf, result);
                // The leaf goes first: who hears of the completion may expect it closed.
                drop(leaf);
                mailbox.post(Posted {
                    key,
                    result,
                    buf: work.into_buf(),
                });
            }
            Task::Blocking(closure) => {
                mailbox.post(Posted {
                    key,
                    result: run_closure(closure),
                    buf: None,
                });
            }
        }
    }
}

fn run_closure(closure: Box<dyn FnOnce() -> io::Result<u64> + Send>) -> Result<u64, Errno> {
    match catch_unwind(AssertUnwindSafe(closure)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        Err(_) => {
            tracing::error!("a closure on the block layer's thread pool panicked");
            Err(Errno::IO)
        }
    }
}

/// Does all of `work` but its first `done` bytes.
pub(super) fn run_leaf(
    leaf: &Leaf,
    work: &LeafWork,
    mut done: usize,
    vectors: &mut Vectors,
) -> Result<u64, Errno> {
    use std::os::fd::AsFd;
    let LeafFile::Host(fd) = leaf.file() else {
        return Err(Errno::BADF);
    };
    let fd = fd.as_fd();
    let alignment = leaf.transfer_alignment();
    loop {
        let step = match work {
            LeafWork::Read { offset, buf } => {
                let result = vectors.read_at(fd, buf, done, *offset, 0);
                after_read(buf, &mut done, alignment, result)
            }
            LeafWork::Write {
                offset,
                buf,
                fua: false,
            } => {
                let result = vectors.write_at(fd, buf, done, *offset, 0);
                after_write(buf, &mut done, alignment, result)
            }
            LeafWork::Write {
                offset,
                buf,
                fua: true,
            } => {
                let result = vectors.write_at(fd, buf, done, *offset, libc::RWF_DSYNC);
                if result == Err(Errno::OPNOTSUPP) {
                    return write_then_sync(leaf, *offset, buf, done, vectors);
                }
                after_write(buf, &mut done, alignment, result)
            }
            LeafWork::Sync => return Err(Errno::INVAL),
            LeafWork::Fallocate { mode, offset, len } => {
                let result = rustix::fs::fallocate(fd, fallocate_flags(*mode), *offset, *len);
                after_fallocate(result.map(|()| 0))
            }
            LeafWork::Truncate { len } => match rustix::fs::ftruncate(fd, *len) {
                Err(Errno::INTR) => Step::Again,
                result => Step::End(result.map(|()| 0)),
            },
            LeafWork::Seek { offset, what } => Step::End(rustix::fs::seek(
                fd,
                match what {
                    Seek::Data => rustix::fs::SeekFrom::Data(*offset),
                    Seek::Hole => rustix::fs::SeekFrom::Hole(*offset),
                },
            )),
        };
        if let Step::End(result) = step {
            return result;
        }
    }
}

/// A durable write where the file system knows no such thing.
fn write_then_sync(
    leaf: &Leaf,
    offset: u64,
    buf: &crate::buffer::IoBuf,
    done: usize,
    vectors: &mut Vectors,
) -> Result<u64, Errno> {
    let plain = LeafWork::Write {
        offset,
        buf: buf.clone(),
        fua: false,
    };
    let written = run_leaf(leaf, &plain, done, vectors)?;
    sync_line::sync_once(leaf).map(|_| written)
}
