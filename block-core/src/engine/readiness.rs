//! Sockets, polls and timers without a ring: epoll and a timerfd.
//!
//! Called by `host` alone, on one thread, where the kernel offers no io_uring. One epoll instance
//! stands for everything: the bell, the earliest timer, and each descriptor somebody waits for; so
//! its own descriptor serves as notifier. Invariant: a descriptor is in the epoll set, and kept
//! open, exactly while an operation waits for it. Not here: leaf I/O (`pool`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use slab::Slab;

use super::Token;
use super::transfer::{EventEnded, EventWork, Step, after_recv, after_send};
use super::vectors::Vectors;

/// Names the bell among events; descriptors are never that large.
const BELL: u64 = u64::MAX;
/// Names the timerfd.
const TIMER: u64 = u64::MAX - 1;
/// Events taken in one call.
const EVENTS: usize = 64;
/// Longest timer; longer ones are for ever, and fit every clock.
const LONGEST: Duration = Duration::from_secs(1 << 32);

/// See the module.
pub(super) struct Readiness {
    epoll: OwnedFd,
    timer: OwnedFd,
    ops: Slab<Op>,
    watches: BTreeMap<RawFd, Watch>,
    deadlines: BTreeSet<(Instant, usize)>,
    armed: Option<Instant>,
    /// What the last wait found, by name.
    events: Vec<(u64, epoll::EventFlags)>,
    vectors: Vectors,
}

struct Op {
    token: Token,
    work: EventWork,
    done: usize,
    deadline: Option<Instant>,
}

/// Who waits for a descriptor, in the order they came.
struct Watch {
    fd: Arc<OwnedFd>,
    reading: VecDeque<usize>,
    writing: VecDeque<usize>,
    /// What the epoll set wants of it; nothing when it is not in the set.
    mask: epoll::EventFlags,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Reading,
    Writing,
}

impl EventWork {
    fn descriptor(&self) -> Option<(&Arc<OwnedFd>, Direction)> {
        match self {
            EventWork::Recv { socket: fd, .. } | EventWork::Readable { fd } => {
                Some((fd, Direction::Reading))
            }
            EventWork::Send { socket: fd, .. } | EventWork::Writable { fd } => {
                Some((fd, Direction::Writing))
            }
            EventWork::Timer { .. } => None,
        }
    }
}

impl Watch {
    fn line(&mut self, direction: Direction) -> &mut VecDeque<usize> {
        match direction {
            Direction::Reading => &mut self.reading,
            Direction::Writing => &mut self.writing,
        }
    }

    fn wanted(&self) -> epoll::EventFlags {
        let mut mask = epoll::EventFlags::empty();
        if !self.reading.is_empty() {
            mask |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        }
        if !self.writing.is_empty() {
            mask |= epoll::EventFlags::OUT;
        }
        mask
    }
}

impl Readiness {
    /// An epoll instance that watches `bell`.
    pub(super) fn new(bell: BorrowedFd<'_>) -> rustix::io::Result<Readiness> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(
            &epoll,
            bell,
            epoll::EventData::new_u64(BELL),
            epoll::EventFlags::IN,
        )?;
        epoll::add(
            &epoll,
            &timer,
            epoll::EventData::new_u64(TIMER),
            epoll::EventFlags::IN,
        )?;
        Ok(Readiness {
            epoll,
            timer,
            ops: Slab::new(),
            watches: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            armed: None,
            events: Vec::with_capacity(EVENTS),
            vectors: Vectors::new(),
        })
    }

    /// Readable while something waits to be reaped.
    pub(super) fn notifier(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes an operation and tries it; what is done at once goes to `ended`.
    pub(super) fn submit(
        &mut self,
        token: Token,
        work: EventWork,
        ended: &mut dyn FnMut(EventEnded),
    ) {
        if let EventWork::Timer { after } = &work {
            let deadline = Instant::now() + (*after).min(LONGEST);
            let op = Op {
                token,
                work,
                done: 0,
                deadline: Some(deadline),
            };
            self.deadlines.insert((deadline, self.ops.insert(op)));
            self.arm_timer();
            return;
        }
        let target = work
            .descriptor()
            .map(|(fd, direction)| (Arc::clone(fd), direction));
        let key = self.ops.insert(Op {
            token,
            work,
            done: 0,
            deadline: None,
        });
        let Some((fd, direction)) = target else {
            return;
        };
        let number = fd.as_raw_fd();
        let watch = self.watches.entry(number).or_insert_with(|| Watch {
            fd,
            reading: VecDeque::new(),
            writing: VecDeque::new(),
            mask: epoll::EventFlags::empty(),
        });
        let line = watch.line(direction);
        line.push_back(key);
        // Whoever came first goes first; who is alone may be done at once.
        if line.len() == 1 {
            self.advance(number, direction, Asked::No, ended);
        }
        self.update_interest(number, ended);
    }

    /// Ends an operation early; `false` when no such operation is here.
    pub(super) fn cancel(&mut self, token: Token, ended: &mut dyn FnMut(EventEnded)) -> bool {
        let found = self.ops.iter().find(|(_, op)| op.token == token);
        let Some((key, op)) = found else { return false };
        if !op.work.can_cancel() {
            return true;
        }
        let target = op
            .work
            .descriptor()
            .map(|(fd, direction)| (fd.as_raw_fd(), direction));
        if let Some((fd, direction)) = target {
            if let Some(watch) = self.watches.get_mut(&fd) {
                watch.line(direction).retain(|&other| other != key);
            }
            self.update_interest(fd, ended);
        }
        self.end(key, Err(Errno::CANCELED), ended);
        true
    }

    /// Sleeps until an event; `reap` handles it.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> rustix::io::Result<()> {
        if !self.events.is_empty() {
            return Ok(());
        }
        let timeout = timeout.map(|time| timespec(time.min(LONGEST)));
        let mut found = [MaybeUninit::uninit(); EVENTS];
        let found = match epoll::wait(&self.epoll, &mut found, timeout.as_ref()) {
            Ok((found, _)) => found,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        self.events
            .extend(found.iter().map(|event| (event.data.u64(), event.flags)));
        Ok(())
    }

    /// Handles what has become ready; `true` when the bell was among it.
    pub(super) fn reap(&mut self, ended: &mut dyn FnMut(EventEnded)) -> rustix::io::Result<bool> {
        // A timer that was cancelled still fires, and has to be quieted.
        let somebody_waits = !self.watches.is_empty() || self.armed.is_some();
        if self.events.is_empty() && somebody_waits {
            self.wait(Some(Duration::ZERO))?;
        }
        let mut bell = false;
        let mut events = std::mem::take(&mut self.events);
        for (name, flags) in events.drain(..) {
            match name {
                BELL => bell = true,
                TIMER => self.run_timers(ended),
                fd => {
                    let Ok(fd) = RawFd::try_from(fd) else {
                        continue;
                    };
                    let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                    let reading = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken;
                    if flags.intersects(reading) {
                        self.advance(fd, Direction::Reading, Asked::Ready, ended);
                    }
                    if flags.intersects(epoll::EventFlags::OUT | broken) {
                        self.advance(fd, Direction::Writing, Asked::Ready, ended);
                    }
                    self.update_interest(fd, ended);
                }
            }
        }
        self.events = events;
        Ok(bell)
    }

    /// Carries on the operations that wait for a direction of `fd`, until one has to wait.
    fn advance(
        &mut self,
        fd: RawFd,
        direction: Direction,
        asked: Asked,
        ended: &mut dyn FnMut(EventEnded),
    ) {
        while let Some(watch) = self.watches.get_mut(&fd)
            && let Some(&key) = watch.line(direction).front()
        {
            let Step::End(result) = self.ops[key].attempt(asked, &mut self.vectors) else {
                return;
            };
            watch.line(direction).pop_front();
            self.end(key, result, ended);
        }
    }

    /// Makes the epoll set want what the operations on `fd` wait for.
    fn update_interest(&mut self, fd: RawFd, ended: &mut dyn FnMut(EventEnded)) {
        let Some(watch) = self.watches.get_mut(&fd) else {
            return;
        };
        let (mask, old) = (watch.wanted(), watch.mask);
        let data = epoll::EventData::new_u64(u64::from(fd.cast_unsigned()));
        let changed = if mask == old {
            Ok(())
        } else if mask.is_empty() {
            epoll::delete(&self.epoll, &watch.fd)
        } else if old.is_empty() {
            epoll::add(&self.epoll, &watch.fd, data, mask)
        } else {
            epoll::modify(&self.epoll, &watch.fd, data, mask)
        };
        watch.mask = mask;
        if mask.is_empty() {
            self.watches.remove(&fd);
        } else if let Err(errno) = changed {
            self.fail_all(fd, errno, ended);
        }
    }

    /// Ends what waits for a descriptor that can't be polled.
    fn fail_all(&mut self, fd: RawFd, errno: Errno, ended: &mut dyn FnMut(EventEnded)) {
        let Some(watch) = self.watches.remove(&fd) else {
            return;
        };
        // What epoll refuses by its type, a file or directory, is always ready.
        let result = if errno == Errno::PERM {
            Ok(0)
        } else {
            Err(errno)
        };
        for key in watch.reading.into_iter().chain(watch.writing) {
            self.end(key, result, ended);
        }
    }

    fn end(&mut self, key: usize, result: Result<u64, Errno>, ended: &mut dyn FnMut(EventEnded)) {
        let Op {
            token,
            work,
            deadline,
            ..
        } = self.ops.remove(key);
        if let Some(deadline) = deadline {
            self.deadlines.remove(&(deadline, key));
        }
        ended(EventEnded {
            token,
            work,
            result,
        });
    }

    fn run_timers(&mut self, ended: &mut dyn FnMut(EventEnded)) {
        // Fails when the timer was set anew since it fired.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.armed = None;
        let now = Instant::now();
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.end(key, Ok(0), ended);
        }
        self.arm_timer();
    }

    /// Sets the timerfd to the earliest deadline. One that was cancelled fires for nothing.
    fn arm_timer(&mut self) {
        let Some(&(deadline, _)) = self.deadlines.first() else {
            return;
        };
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        self.armed = Some(deadline);
        // A time of zero would disarm it.
        let after = deadline.saturating_duration_since(Instant::now());
        let value = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(after.max(Duration::from_nanos(1))),
        };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value) {
            tracing::error!(%error, "a timer could not be set");
        }
    }
}

/// Whether the descriptor is known to be ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    Ready,
}

impl Op {
    /// Tries without waiting.
    fn attempt(&mut self, asked: Asked, vectors: &mut Vectors) -> Step {
        loop {
            let step = match &self.work {
                EventWork::Recv { socket, buf } => {
                    after_recv(buf, vectors.recv(socket.as_fd(), buf))
                }
                EventWork::Send { socket, buf } => {
                    let result = vectors.send(socket.as_fd(), buf, self.done);
                    after_send(buf, &mut self.done, result)
                }
                EventWork::Readable { .. } | EventWork::Writable { .. } => match asked {
                    Asked::No => Step::WhenReady,
                    Asked::Ready => Step::End(Ok(0)),
                },
                EventWork::Timer { .. } => Step::WhenReady,
            };
            if step != Step::Again {
                return step;
            }
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec {
        tv_sec: seconds,
        tv_nsec: time.subsec_nanos().into(),
    }
}
