//! The ring: operations through io_uring.
//!
//! Called by `host` alone, on one thread. A [`Uring`] owns every operation from `submit` until its
//! completion came out of [`reap`](Uring::reap); a ring that is full queues. It is made disabled,
//! and enabled by the thread that first enters it, which the kernel then holds it to.
//! Invariant: what an entry in the ring points at (a buffer, a [`Vectors`]) is in `ops` under the
//! entry's key, and stays there until that key comes back. Not here: syncs, truncation, seeking
//! (`pool`), and what a completion means to a leaf (`host`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use slab::Slab;

use super::transfer::{
    EventWork, LeafWork, Step, after_fallocate, after_read, after_recv, after_send, after_write,
    fallocate_flags,
};
use super::vectors::{MAX_BYTES, Vectors, file_offset};
use super::{Slot, Token};
use crate::buffer::IoBuf;

/// Names the poll on the bell among completions.
const BELL: u64 = u64::MAX;
/// Names requests to cancel, whose own results mean nothing.
const CANCEL: u64 = u64::MAX - 1;
/// Leaves that the kernel looks up once, at attach; later ones are looked up at each operation.
const FIXED_FILES: u32 = 256;
/// Longest timer; longer ones are for ever, and fit the kernel's clock.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// Where a leaf's operations go.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// A place in the ring's table of files.
    Fixed(u32),
    /// A descriptor.
    Plain(RawFd),
}

/// Builds an entry for either kind of target, which have types of their own.
macro_rules! entry {
    ($target:expr, |$fd:ident| $build:expr) => {
        match $target {
            Target::Fixed(index) => {
                let $fd = Fixed(index);
                $build.build()
            }
            Target::Plain(raw) => {
                let $fd = Fd(raw);
                $build.build()
            }
        }
    };
}

/// What the ring carries.
pub(super) enum Carried {
    /// Reads, writes and fallocates of a leaf.
    Leaf {
        slot: Slot,
        target: Target,
        alignment: usize,
        work: LeafWork,
    },
    /// Sockets, polls and timers.
    Event(EventWork),
}

/// What an operation became.
pub(super) enum Outcome {
    /// It ended.
    Ended(Result<u64, Errno>),
    /// The ring can't finish it; a thread goes on behind so many bytes.
    ForPool { done: usize },
}

/// An operation that leaves the ring.
pub(super) struct Left {
    pub(super) token: Token,
    pub(super) carried: Carried,
    pub(super) outcome: Outcome,
}

/// Vectors that no operation uses now; the next one that needs some allocates nothing.
#[expect(
    clippy::vec_box,
    reason = "the kernel has their addresses while they are in use"
)]
struct Spare(Vec<Box<Vectors>>);

/// What a reap found besides completions.
pub(super) struct Reaped {
    /// The bell's poll has ended.
    pub(super) bell: bool,
    /// More came meanwhile, and nobody has been told.
    pub(super) more: bool,
}

struct Op {
    token: Token,
    carried: Carried,
    done: usize,
    canceled: bool,
    /// In the ring is not the operation, but a poll for the readiness it waits for.
    polling: bool,
    vectors: Option<Box<Vectors>>,
}

/// See the module.
pub(super) struct Uring {
    ring: IoUring,
    ops: Slab<Op>,
    backlog: VecDeque<squeue::Entry>,
    fixed_files: u32,
    enabled: bool,
    listening: bool,
    bell_armed: bool,
    arrived: Vec<(u64, i32)>,
    spare_vectors: Spare,
}

impl Uring {
    /// A disabled ring with the best of the set-ups that this kernel knows.
    pub(super) fn new(entries: u32) -> io::Result<Uring> {
        let mut outcome = Err(Errno::NOSYS.into());
        for set_up in SetUp::ALL {
            outcome = Uring::with(set_up, entries);
            // Anything but "unknown flag" has nothing to do with the set-up.
            let unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
            if !outcome.as_ref().is_err_and(unknown) {
                break;
            }
        }
        outcome
    }

    /// A disabled ring with this set-up.
    pub(super) fn with(set_up: SetUp, entries: u32) -> io::Result<Uring> {
        let ring = set_up.build(entries)?;
        let params = ring.params();
        // Older kernels lose completions, or can't sleep with a time limit.
        if !params.is_feature_nodrop() || !params.is_feature_ext_arg() {
            return Err(Errno::NOSYS.into());
        }
        // Without the table, descriptors are looked up at each operation.
        let fixed_files = match ring.submitter().register_files_sparse(FIXED_FILES) {
            Ok(()) => FIXED_FILES,
            Err(_) => 0,
        };
        let (entries, completions) = (params.sq_entries(), params.cq_entries());
        Ok(Uring {
            // Room for what the ring holds, so that no request pays for it later.
            ops: Slab::with_capacity(entries as usize),
            backlog: VecDeque::with_capacity(entries as usize),
            arrived: Vec::with_capacity(completions as usize),
            ring,
            fixed_files,
            enabled: false,
            listening: false,
            bell_armed: false,
            spare_vectors: Spare(Vec::new()),
        })
    }

    /// Makes a descriptor known to the kernel under `index`, where there is room.
    pub(super) fn attach(&mut self, index: u32, fd: BorrowedFd<'_>) -> Target {
        let raw = fd.as_raw_fd();
        let known = index < self.fixed_files
            && self
                .ring
                .submitter()
                .register_files_update(index, &[raw])
                .is_ok();
        if known {
            Target::Fixed(index)
        } else {
            Target::Plain(raw)
        }
    }

    /// Takes back what `attach` did.
    pub(super) fn detach(&mut self, target: Target) {
        if let Target::Fixed(index) = target
            && let Err(error) = self.ring.submitter().register_files_update(index, &[-1])
        {
            tracing::warn!(%error, "the ring keeps a file open that is no longer used");
        }
    }

    /// Takes an operation; the next `kick` or `wait` starts it.
    pub(super) fn submit(&mut self, token: Token, carried: Carried, done: usize) {
        let op = Op {
            token,
            carried,
            done,
            canceled: false,
            polling: false,
            vectors: None,
        };
        let key = self.ops.insert(op);
        self.push_op(key);
    }

    /// Asks for an early end; `false` when no such operation is here.
    pub(super) fn cancel(&mut self, token: Token) -> bool {
        let found = self.ops.iter_mut().find(|(_, op)| op.token == token);
        let Some((key, op)) = found else { return false };
        if let Carried::Event(work) = &op.carried
            && work.can_cancel()
            && !op.canceled
        {
            op.canceled = true;
            self.push_cancel(key);
        }
        true
    }

    /// Starts everything; what completes meanwhile stays in the ring, or goes to `left`.
    pub(super) fn kick(&mut self, left: &mut dyn FnMut(Left)) -> io::Result<()> {
        self.enable()?;
        while self.refill() > 0 {
            self.enter_now(left)?;
        }
        Ok(())
    }

    /// Starts everything, and sleeps until there is a completion or `bell` is readable.
    pub(super) fn wait(
        &mut self,
        bell: BorrowedFd<'_>,
        timeout: Option<Duration>,
        left: &mut dyn FnMut(Left),
    ) -> io::Result<()> {
        self.enable()?;
        if !self.bell_armed {
            self.bell_armed = true;
            let poll = opcode::PollAdd::new(Fd(bell.as_raw_fd()), poll_mask(libc::POLLIN));
            self.push(poll.build().user_data(BELL));
        }
        let mut any = false;
        while self.refill() > 0 && !self.backlog.is_empty() {
            self.enter_now(&mut |one| {
                any = true;
                left(one);
            })?;
        }
        let time = timeout.map(timespec);
        let mut args = SubmitArgs::new();
        if let Some(time) = &time {
            args = args.timespec(time);
        }
        match self
            .ring
            .submitter()
            .submit_with_args(usize::from(!any), &args)
        {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Gives out what has completed. Starts what has to go on (short transfers).
    pub(super) fn reap(&mut self, left: &mut dyn FnMut(Left)) -> io::Result<Reaped> {
        if self.listening {
            // What the kernel posts at our call is taken at once: no event for that.
            self.ring.completion().disable_eventfd();
        }
        if self.holds_back() {
            self.run_held_back()?;
        }
        let (bell, goes_on) = self.collect(left);
        let mut more = false;
        if self.listening {
            self.ring.completion().enable_eventfd();
            // The kernel first adds work and then looks whether to raise; we do it crosswise.
            fence(Ordering::SeqCst);
            more = self.holds_back() || !self.ring.completion().is_empty();
        }
        if goes_on {
            self.kick(left)?;
        }
        Ok(Reaped { bell, more })
    }

    /// From now on the kernel raises `event` at each completion outside of `reap`.
    pub(super) fn listen(&mut self, event: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.submitter().register_eventfd(event.as_raw_fd())?;
        self.listening = true;
        Ok(())
    }

    /// Whether the kernel posts completions only when asked.
    fn holds_back(&mut self) -> bool {
        let submission = self.ring.submission();
        self.enabled && (submission.taskrun() || submission.cq_overflow())
    }

    /// Ends what can be ended, waits for the rest, and hands all of it back.
    pub(super) fn close(&mut self, left: &mut dyn FnMut(Left)) -> io::Result<()> {
        if !self.enabled {
            // Nothing has reached the kernel: there is nothing it could still write to.
            self.ops.clear();
            return Ok(());
        }
        let events: Vec<usize> = self
            .ops
            .iter()
            .filter(|(_, op)| matches!(op.carried, Carried::Event(_)))
            .map(|(key, _)| key)
            .collect();
        for key in events {
            self.ops[key].canceled = true;
            self.push_cancel(key);
        }
        while !self.ops.is_empty() {
            while self.refill() > 0 {
                self.enter_now(left)?;
            }
            if self.ops.is_empty() {
                break;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            self.collect(left);
        }
        Ok(())
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Moves the backlog into the ring as far as there is room; the entries in the ring.
    fn refill(&mut self) -> usize {
        let mut submission = self.ring.submission();
        while !submission.is_full()
            && let Some(entry) = self.backlog.pop_front()
        {
            // SAFETY: by the module's invariant `ops` holds what the entry points at until its
            // completion; a bell's and a cancel's entry point at nothing.
            let pushed = unsafe { submission.push(&entry) };
            assert!(pushed.is_ok(), "there was room");
        }
        submission.len()
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
    }

    fn push_cancel(&mut self, key: usize) {
        self.push(
            opcode::AsyncCancel::new(key as u64)
                .build()
                .user_data(CANCEL),
        );
    }

    /// Enters the kernel once without waiting. Where it has no room for more completions, those
    /// that are there are taken out.
    fn enter_now(&mut self, left: &mut dyn FnMut(Left)) -> io::Result<()> {
        match self.ring.submit() {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) if is_passing(&error) => {
                self.run_held_back()?;
                self.collect(left);
                // Out of memory, perhaps: somebody else has to give some back.
                std::thread::yield_now();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the kernel post completions that it holds back, and starts nothing.
    fn run_held_back(&mut self) -> io::Result<()> {
        const GETEVENTS: u32 = 1;
        let submitter = self.ring.submitter();
        // SAFETY: no argument is passed, and nothing is submitted.
        match unsafe { submitter.enter::<libc::sigset_t>(0, 0, GETEVENTS, None) } {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes completions out of the ring: whether the bell was among them, and whether some
    /// operation has to be started again.
    fn collect(&mut self, left: &mut dyn FnMut(Left)) -> (bool, bool) {
        let mut arrived = std::mem::take(&mut self.arrived);
        arrived.extend(
            self.ring
                .completion()
                .map(|entry: cqueue::Entry| (entry.user_data(), entry.result())),
        );
        let (mut bell, mut goes_on) = (false, false);
        for (name, result) in arrived.drain(..) {
            match name {
                BELL => {
                    self.bell_armed = false;
                    bell = true;
                }
                CANCEL => {}
                key => match usize::try_from(key) {
                    Ok(key) => goes_on |= self.arrive(key, result, left),
                    Err(_) => unreachable!("keys are places in a slab"),
                },
            }
        }
        self.arrived = arrived;
        (bell, goes_on)
    }

    /// Takes one completion: the operation leaves, or (`true`) starts again.
    fn arrive(&mut self, key: usize, result: i32, left: &mut dyn FnMut(Left)) -> bool {
        let op = &mut self.ops[key];
        let result = match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(Errno::from_raw_os_error(result.wrapping_neg())),
        };
        let outcome = match op.after(result) {
            Step::End(result) => Outcome::Ended(result),
            Step::Again | Step::WhenReady if op.canceled => Outcome::Ended(Err(Errno::CANCELED)),
            Step::WhenReady if matches!(op.carried, Carried::Leaf { .. }) => {
                Outcome::ForPool { done: op.done }
            }
            step => {
                op.polling = step == Step::WhenReady;
                self.push_op(key);
                return true;
            }
        };
        let op = self.ops.remove(key);
        self.spare_vectors.0.extend(op.vectors);
        left(Left {
            token: op.token,
            carried: op.carried,
            outcome,
        });
        false
    }

    fn push_op(&mut self, key: usize) {
        let op = &mut self.ops[key];
        let spare = &mut self.spare_vectors;
        let entry = match &op.carried {
            Carried::Leaf { target, work, .. } => {
                leaf_entry(*target, work, op.done, &mut op.vectors, spare)
            }
            Carried::Event(work) if op.polling => Some(readiness_entry(work)),
            Carried::Event(work) => Some(event_entry(work, op.done, &mut op.vectors, spare)),
        };
        // What can't be told to the kernel completes as if the kernel had refused it.
        let entry = entry.unwrap_or_else(|| opcode::PollAdd::new(Fd(-1), 0).build());
        self.push(entry.user_data(key as u64));
    }
}

impl Drop for Uring {
    /// Whoever did not `close` gives up the memory that the kernel may still write to.
    fn drop(&mut self) {
        if self.enabled {
            std::mem::forget(std::mem::take(&mut self.ops));
        }
    }
}

impl Op {
    fn after(&mut self, result: Result<usize, Errno>) -> Step {
        if std::mem::take(&mut self.polling) {
            return match result {
                Ok(_) | Err(Errno::INTR) => Step::Again,
                Err(errno) => Step::End(Err(errno)),
            };
        }
        match &self.carried {
            Carried::Leaf {
                alignment, work, ..
            } => after_leaf(work, &mut self.done, *alignment, result),
            Carried::Event(work) => after_event(work, &mut self.done, result),
        }
    }
}

fn after_leaf(
    work: &LeafWork,
    done: &mut usize,
    alignment: usize,
    result: Result<usize, Errno>,
) -> Step {
    // Out of resources, or cut off with its thread; and durable writes may be unknown. A thread
    // can wait, and knows another way.
    match (work, &result) {
        (_, Err(Errno::AGAIN | Errno::CANCELED)) => return Step::WhenReady,
        (LeafWork::Write { fua: true, .. }, Err(Errno::OPNOTSUPP)) => return Step::WhenReady,
        _ => {}
    }
    match work {
        LeafWork::Read { buf, .. } => after_read(buf, done, alignment, result),
        LeafWork::Write { buf, .. } => after_write(buf, done, alignment, result),
        LeafWork::Fallocate { .. } => after_fallocate(result),
        LeafWork::Sync | LeafWork::Truncate { .. } | LeafWork::Seek { .. } => Step::WhenReady,
    }
}

fn after_event(work: &EventWork, done: &mut usize, result: Result<usize, Errno>) -> Step {
    match work {
        EventWork::Recv { buf, .. } => after_recv(buf, result),
        EventWork::Send { buf, .. } => after_send(buf, done, result),
        EventWork::Readable { .. } | EventWork::Writable { .. } => match result {
            Ok(_) => Step::End(Ok(0)),
            Err(Errno::INTR) => Step::Again,
            Err(errno) => Step::End(Err(errno)),
        },
        EventWork::Timer { .. } => match result {
            // The kernel calls a timer that ran out an error.
            Ok(_) | Err(Errno::TIME) => Step::End(Ok(0)),
            Err(Errno::INTR) => Step::Again,
            Err(errno) => Step::End(Err(errno)),
        },
    }
}

/// The part of a buffer behind `done`: one piece as it is, or several in `vectors`.
fn point_at<'a>(
    buf: &IoBuf,
    done: usize,
    vectors: &'a mut Option<Box<Vectors>>,
    spare: &mut Spare,
) -> Pieces<'a> {
    let mut pieces = buf.raw_segments();
    if let (Some(only), None) = (pieces.next(), pieces.next()) {
        let len = (only.len - done).min(MAX_BYTES);
        // Below 2 GiB by the line above.
        #[expect(clippy::cast_possible_truncation, reason = "bounded by MAX_BYTES")]
        return Pieces::One(only.ptr.wrapping_add(done), len as u32);
    }
    let vectors = take_vectors(vectors, spare);
    vectors.fill(buf, done);
    Pieces::Many(vectors)
}

enum Pieces<'a> {
    One(*mut u8, u32),
    Many(&'a mut Vectors),
}

fn take_vectors<'a>(vectors: &'a mut Option<Box<Vectors>>, spare: &mut Spare) -> &'a mut Vectors {
    vectors.get_or_insert_with(|| spare.0.pop().unwrap_or_else(|| Box::new(Vectors::new())))
}

/// `None` for what the ring doesn't carry, or an offset outside of any file.
fn leaf_entry(
    target: Target,
    work: &LeafWork,
    done: usize,
    vectors: &mut Option<Box<Vectors>>,
    spare: &mut Spare,
) -> Option<squeue::Entry> {
    let at = |offset: u64, done: usize| file_offset(offset, done).ok().map(i64::cast_unsigned);
    Some(match work {
        LeafWork::Read { offset, buf } => {
            let offset = at(*offset, done)?;
            match point_at(buf, done, vectors, spare) {
                Pieces::One(ptr, len) => {
                    entry!(target, |fd| opcode::Read::new(fd, ptr, len).offset(offset))
                }
                Pieces::Many(vectors) => {
                    let (iov, count) = iovec(vectors);
                    entry!(target, |fd| opcode::Readv::new(fd, iov, count)
                        .offset(offset))
                }
            }
        }
        LeafWork::Write { offset, buf, fua } => {
            let offset = at(*offset, done)?;
            let flags = if *fua { libc::RWF_DSYNC } else { 0 };
            match point_at(buf, done, vectors, spare) {
                Pieces::One(ptr, len) => entry!(target, |fd| opcode::Write::new(fd, ptr, len)
                    .offset(offset)
                    .rw_flags(flags)),
                Pieces::Many(vectors) => {
                    let (iov, count) = iovec(vectors);
                    entry!(target, |fd| opcode::Writev::new(fd, iov, count)
                        .offset(offset)
                        .rw_flags(flags))
                }
            }
        }
        LeafWork::Fallocate { mode, offset, len } => {
            let mode = fallocate_flags(*mode).bits().cast_signed();
            let (offset, len) = (at(*offset, 0)?, *len);
            entry!(target, |fd| opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode))
        }
        LeafWork::Sync | LeafWork::Truncate { .. } | LeafWork::Seek { .. } => return None,
    })
}

fn event_entry(
    work: &EventWork,
    done: usize,
    vectors: &mut Option<Box<Vectors>>,
    spare: &mut Spare,
) -> squeue::Entry {
    match work {
        EventWork::Recv { socket, buf } => {
            let fd = Fd(socket.as_raw_fd());
            match point_at(buf, done, vectors, spare) {
                Pieces::One(ptr, len) => opcode::Recv::new(fd, ptr, len).build(),
                Pieces::Many(vectors) => opcode::RecvMsg::new(fd, vectors.header()).build(),
            }
        }
        EventWork::Send { socket, buf } => {
            let fd = Fd(socket.as_raw_fd());
            let flags = libc::MSG_NOSIGNAL;
            match point_at(buf, done, vectors, spare) {
                Pieces::One(ptr, len) => opcode::Send::new(fd, ptr, len).flags(flags).build(),
                Pieces::Many(vectors) => {
                    let flags = flags.cast_unsigned();
                    opcode::SendMsg::new(fd, vectors.header())
                        .flags(flags)
                        .build()
                }
            }
        }
        EventWork::Readable { .. } | EventWork::Writable { .. } => readiness_entry(work),
        EventWork::Timer { after } => {
            let vectors = take_vectors(vectors, spare);
            vectors.time = timespec(*after);
            opcode::Timeout::new(&raw const vectors.time).build()
        }
    }
}

/// A poll for what `work` needs.
fn readiness_entry(work: &EventWork) -> squeue::Entry {
    let (fd, mask) = match work {
        EventWork::Recv { socket, .. } => (socket.as_raw_fd(), libc::POLLIN),
        EventWork::Readable { fd } => (fd.as_raw_fd(), libc::POLLIN | libc::POLLRDHUP),
        EventWork::Send { socket, .. } => (socket.as_raw_fd(), libc::POLLOUT),
        EventWork::Writable { fd } => (fd.as_raw_fd(), libc::POLLOUT),
        EventWork::Timer { .. } => (-1, 0),
    };
    opcode::PollAdd::new(Fd(fd), poll_mask(mask)).build()
}

fn poll_mask(mask: libc::c_short) -> u32 {
    u32::from(mask.cast_unsigned())
}

fn iovec(vectors: &Vectors) -> (*const libc::iovec, u32) {
    let segments = vectors.segments();
    (
        segments.as_ptr(),
        u32::try_from(segments.len()).unwrap_or(u32::MAX),
    )
}

fn timespec(time: Duration) -> Timespec {
    let time = time.min(LONGEST);
    Timespec::new()
        .sec(time.as_secs())
        .nsec(time.subsec_nanos())
}

/// Whether the kernel asks to take completions out and come again.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)
    )
}

/// How much of the newer kernels' ways a ring uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetUp {
    /// Completions are prepared by the owner, when it asks: from Linux 6.1.
    Deferred,
    /// Completions never interrupt the owner: from Linux 5.19.
    Cooperative,
    /// Neither.
    Plain,
}

impl SetUp {
    /// The best first.
    pub(super) const ALL: [SetUp; 3] = [SetUp::Deferred, SetUp::Cooperative, SetUp::Plain];

    fn build(self, entries: u32) -> io::Result<IoUring> {
        let entries = entries.clamp(8, 4096);
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_r_disabled()
            .setup_cqsize(entries * 4);
        match self {
            SetUp::Deferred => {
                builder
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_taskrun_flag();
            }
            SetUp::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            SetUp::Plain => {}
        }
        builder.build(entries)
    }
}
