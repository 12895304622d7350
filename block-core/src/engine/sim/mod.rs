//! The simulator: files in memory, completions in an order that a seed picks, faults on demand,
//! and every state that a power cut can leave.
//!
//! Tests make one [`Sim`], files in it, and a [`SimEngine`] for each queue; one thread drives all
//! queues. An operation takes effect when it completes: at a [`step`](Sim::step), which picks one
//! of those under way, when a test picks one itself, or in an engine's `wait`, which does one
//! step. Time is virtual: it passes when nothing else can happen. One seed, one history.
//! Not here: sockets and descriptors, which fail with `OPNOTSUPP`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

mod crash;
mod disk;
mod engine;
#[cfg(test)]
mod tests;

use crash::{Change, Entry, Journal};
pub use crash::{CrashOptions, CrashState, CrashStates};
use disk::Disk;
use engine::SimBell;
pub use engine::SimEngine;

use super::transfer::LeafWork;
use super::{Aio, Completion, Fallocate, Leaf, LeafFacts, LeafFile, SimFile, Token};

/// A simulated machine; clones are the same one.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<State>>);

/// What an operation under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimKind {
    /// A read.
    Read,
    /// A write, durable or not.
    Write,
    /// A sync.
    Sync,
    /// A change of how a range is stored.
    Fallocate(Fallocate),
    /// A change of the length.
    Truncate,
    /// A search for data or a hole.
    Seek,
    /// A timer.
    Timer,
    /// A closure.
    Blocking,
}

/// An operation under way, as tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimOp {
    /// Its number, in the order of submission.
    pub id: u64,
    /// Which engine it was given to, in the order in which they were made.
    pub engine: usize,
    /// What it is.
    pub kind: SimKind,
    /// Its file.
    pub file: Option<SimFile>,
    /// Its bytes; empty at its offset where it has no length.
    pub range: Range<u64>,
}

/// Which operations a rule is for.
pub type Predicate = Box<dyn Fn(&SimOp) -> bool + Send>;

/// How operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens but the error.
    Errno(Errno),
    /// So many bytes of a write arrive, then the error; other operations just fail.
    Partial(usize, Errno),
}

/// In which order operations complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any, as the seed says.
    Random,
    /// As they were submitted.
    Submitted,
}

/// Names a hold, to release it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldId(u64);

struct State {
    random: Random,
    order: Order,
    disks: Vec<Disk>,
    journal: Journal,
    pending: Vec<Pending>,
    engines: Vec<EngineState>,
    holds: Vec<(HoldId, Predicate)>,
    faults: Vec<FaultRule>,
    now: Duration,
    next_id: u64,
}

struct FaultRule {
    predicate: Predicate,
    /// Matches to let pass first.
    skip: usize,
    /// Matches to fail after those.
    times: usize,
    fault: Fault,
}

struct EngineState {
    done: VecDeque<Completion>,
    bell: Arc<SimBell>,
}

struct Pending {
    op: SimOp,
    token: Token,
    work: Work,
    submitted: usize,
    fault: Option<Fault>,
}

enum Work {
    Leaf(Arc<Leaf>, LeafWork),
    Timer { due: Duration },
    Blocking(Box<dyn FnOnce() -> std::io::Result<u64> + Send>),
}

impl Sim {
    /// A machine without files.
    pub fn new(seed: u64) -> Sim {
        Sim::with_disks(seed, Vec::new())
    }

    fn with_disks(seed: u64, disks: Vec<Disk>) -> Sim {
        Sim(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            order: Order::Random,
            journal: Journal {
                initial: disks.clone(),
                entries: Vec::new(),
            },
            disks,
            pending: Vec::new(),
            engines: Vec::new(),
            holds: Vec::new(),
            faults: Vec::new(),
            now: Duration::ZERO,
            next_id: 0,
        })))
    }

    /// Makes a file that holds `bytes`, durable, and opens it.
    pub fn create_file(&self, bytes: &[u8]) -> Arc<Leaf> {
        let file = {
            let mut state = self.0.lock();
            let disk = Disk::of(bytes);
            state.disks.push(disk.clone());
            state.journal.initial.push(disk);
            let number = u32::try_from(state.disks.len() - 1);
            SimFile(number.expect("a test makes few files"))
        };
        self.open(file)
    }

    /// Opens a file without O_DIRECT.
    pub fn open(&self, file: SimFile) -> Arc<Leaf> {
        self.open_aligned(file, 1)
    }

    /// Opens a file whose requests and memory must have an alignment, as with O_DIRECT.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn open_aligned(&self, file: SimFile, alignment: u32) -> Arc<Leaf> {
        let len = self.0.lock().disks[file.0 as usize].len();
        let facts = LeafFacts {
            aio: Aio::Threads,
            request_alignment: alignment,
            memory_alignment: alignment,
            len,
        };
        Leaf::new(LeafFile::Sim(file), facts)
    }

    /// All bytes of a file now, as a reader would see them.
    ///
    /// # Panics
    /// When there is no such file, or it is larger than memory.
    pub fn contents(&self, file: SimFile) -> Vec<u8> {
        self.0.lock().disks[file.0 as usize].contents()
    }

    /// Changes bytes behind everyone's back, as a faulty medium would. Not in the journal: crash
    /// states have the change from the start.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn overwrite(&self, file: SimFile, offset: u64, bytes: &[u8]) {
        let mut state = self.0.lock();
        state.disks[file.0 as usize].write(offset, bytes);
        state.journal.initial[file.0 as usize].write(offset, bytes);
    }

    /// Sets the order of completions; random at first.
    pub fn set_order(&self, order: Order) {
        self.0.lock().order = order;
    }

    /// What is under way and not held, in the order of submission.
    pub fn pending(&self) -> Vec<SimOp> {
        let state = self.0.lock();
        state
            .pending
            .iter()
            .map(|p| p.op.clone())
            .filter(|op| !state.is_held(op))
            .collect()
    }

    /// What is under way and held.
    pub fn held(&self) -> Vec<SimOp> {
        let state = self.0.lock();
        state
            .pending
            .iter()
            .map(|p| p.op.clone())
            .filter(|op| state.is_held(op))
            .collect()
    }

    /// Completes one operation that is not held; lets time pass up to the first timer when there
    /// is nothing else. `false` when nothing can happen.
    pub fn step(&self) -> bool {
        self.step_within(Duration::MAX)
    }

    /// As `step`, but lets no more time pass than `limit`.
    fn step_within(&self, limit: Duration) -> bool {
        let picked = self.0.lock().pick(limit);
        picked.map(|pending| self.finish(pending)).is_some()
    }

    /// Steps until nothing can happen.
    pub fn run(&self) {
        while self.step() {}
    }

    /// Completes an operation, held or not; `false` when it is not under way.
    pub fn complete(&self, id: u64) -> bool {
        let taken = self.0.lock().take(id);
        taken.map(|pending| self.finish(pending)).is_some()
    }

    /// Fails an operation, held or not; `false` when it is not under way.
    pub fn fail(&self, id: u64, fault: Fault) -> bool {
        let taken = self.0.lock().take(id);
        let failed = taken.map(|pending| Pending {
            fault: Some(fault),
            ..pending
        });
        failed.map(|pending| self.finish(pending)).is_some()
    }

    /// Holds all operations that match, those under way and those to come.
    pub fn hold(&self, predicate: impl Fn(&SimOp) -> bool + Send + 'static) -> HoldId {
        let mut state = self.0.lock();
        let id = HoldId(state.next_id);
        state.next_id += 1;
        state.holds.push((id, Box::new(predicate)));
        id
    }

    /// Ends a hold.
    pub fn release(&self, hold: HoldId) {
        self.0.lock().holds.retain(|(id, _)| *id != hold);
    }

    /// Lets `skip` matching submissions pass, fails the `times` after those, then is spent.
    pub fn fail_when(
        &self,
        skip: usize,
        times: usize,
        fault: Fault,
        predicate: impl Fn(&SimOp) -> bool + Send + 'static,
    ) {
        let predicate: Predicate = Box::new(predicate);
        self.0.lock().faults.push(FaultRule {
            predicate,
            skip,
            times,
            fault,
        });
    }

    /// Drops all rules of [`fail_when`](Sim::fail_when).
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// Time since the machine started.
    pub fn now(&self) -> Duration {
        self.0.lock().now
    }

    /// Lets time pass, and timers end whose time has come.
    pub fn advance(&self, time: Duration) {
        let due = {
            let mut state = self.0.lock();
            state.now = state.now.saturating_add(time);
            state.take_due()
        };
        for pending in due {
            self.finish(pending);
        }
    }

    /// Changes completed so far: a place in time for [`CrashState::cut`].
    pub fn journal_len(&self) -> usize {
        self.0.lock().journal.entries.len()
    }

    /// Every state that a power cut up to now can leave; see [`CrashOptions`] for how many.
    pub fn crash_states(&self, options: CrashOptions) -> CrashStates {
        let state = self.0.lock();
        let under_way = state.pending.iter().filter_map(Pending::entry).collect();
        CrashStates::new(state.journal.clone(), under_way, options)
    }

    /// Carries out an operation that was taken out.
    fn finish(&self, pending: Pending) {
        let Pending {
            op,
            token,
            work,
            submitted,
            fault,
        } = pending;
        let (result, buf) = match work {
            Work::Leaf(leaf, work) => {
                let result = self.0.lock().carry_out(&op, &leaf, &work, submitted, fault);
                work.record(&leaf, result);
                (result, work.into_buf())
            }
            Work::Timer { .. } => (Ok(0), None),
            // Outside of the lock: a closure may use the simulator.
            Work::Blocking(closure) => {
                let result = match fault {
                    Some(fault) => Err(fault.errno()),
                    None => {
                        closure().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
                    }
                };
                (result, None)
            }
        };
        self.0
            .lock()
            .post(op.engine, Completion { token, result, buf });
    }
}

impl Fault {
    fn errno(self) -> Errno {
        match self {
            Fault::Errno(errno) | Fault::Partial(_, errno) => errno,
        }
    }
}

impl Pending {
    fn due(&self) -> Option<Duration> {
        match self.work {
            Work::Timer { due } => Some(due),
            Work::Leaf(..) | Work::Blocking(_) => None,
        }
    }

    /// What it would change, for a power cut while it is under way.
    fn entry(&self) -> Option<Entry> {
        match &self.work {
            Work::Leaf(_, work) => entry_of(&self.op, work, self.submitted),
            Work::Timer { .. } | Work::Blocking(_) => None,
        }
    }
}

impl State {
    fn is_held(&self, op: &SimOp) -> bool {
        self.holds.iter().any(|(_, predicate)| predicate(op))
    }

    fn take(&mut self, id: u64) -> Option<Pending> {
        let at = self
            .pending
            .iter()
            .position(|pending| pending.op.id == id)?;
        Some(self.pending.remove(at))
    }

    fn pick(&mut self, limit: Duration) -> Option<Pending> {
        let ready: Vec<usize> = (0..self.pending.len())
            .filter(|&at| self.pending[at].due().is_none_or(|due| due <= self.now))
            .filter(|&at| !self.is_held(&self.pending[at].op))
            .collect();
        if !ready.is_empty() {
            let at = match self.order {
                Order::Random => ready[self.random.index(ready.len())],
                Order::Submitted => ready[0],
            };
            return Some(self.pending.remove(at));
        }
        let free = self
            .pending
            .iter()
            .enumerate()
            .filter(|(_, p)| !self.is_held(&p.op));
        let (due, at) = free
            .filter_map(|(at, p)| p.due().map(|due| (due, at)))
            .min()?;
        if due > self.now.saturating_add(limit) {
            return None;
        }
        self.now = due;
        Some(self.pending.remove(at))
    }

    fn take_due(&mut self) -> Vec<Pending> {
        let mut due = Vec::new();
        let mut at = 0;
        while at < self.pending.len() {
            let pending = &self.pending[at];
            let ready = pending.due().is_some_and(|due| due <= self.now);
            if ready && !self.is_held(&pending.op) {
                due.push(self.pending.remove(at));
            } else {
                at += 1;
            }
        }
        due.sort_by_key(Pending::due);
        due
    }

    fn submit(&mut self, engine: usize, token: Token, work: Work) {
        let op = describe(self.next_id, engine, &work);
        self.next_id += 1;
        let fault = self.fault_for(&op);
        let submitted = self.journal.entries.len();
        self.pending.push(Pending {
            op,
            token,
            work,
            submitted,
            fault,
        });
    }

    fn fault_for(&mut self, op: &SimOp) -> Option<Fault> {
        for rule in &mut self.faults {
            if rule.times > 0 && (rule.predicate)(op) {
                if rule.skip > 0 {
                    rule.skip -= 1;
                } else {
                    rule.times -= 1;
                    return Some(rule.fault);
                }
            }
        }
        None
    }

    fn carry_out(
        &mut self,
        op: &SimOp,
        leaf: &Leaf,
        work: &LeafWork,
        submitted: usize,
        fault: Option<Fault>,
    ) -> Result<u64, Errno> {
        let file = op.file.ok_or(Errno::BADF)?;
        if let Some(fault) = fault {
            if let (Fault::Partial(bytes, _), LeafWork::Write { offset, buf, .. }) = (fault, work) {
                let mut part = buf.to_vec();
                part.truncate(bytes);
                let change = Change::Write {
                    offset: *offset,
                    bytes: part.into(),
                };
                self.log(Entry {
                    file,
                    change,
                    submitted,
                    durable: false,
                });
            }
            return Err(fault.errno());
        }
        check_alignment(leaf, work)?;
        if let Some(entry) = entry_of(op, work, submitted) {
            // A sync that was under way while another failed has no success to tell of.
            if matches!(work, LeafWork::Sync) && leaf.sync_failed() {
                return Err(Errno::IO);
            }
            self.log(entry);
        }
        let disk = &self.disks[file.0 as usize];
        match work {
            LeafWork::Read { offset, buf } => {
                let mut bytes = vec![0; buf.len()];
                disk.read(*offset, &mut bytes);
                buf.copy_in(0, &bytes);
                Ok(buf.len() as u64)
            }
            LeafWork::Write { buf, .. } => Ok(buf.len() as u64),
            LeafWork::Seek { offset, what } => disk.seek(*offset, *what),
            LeafWork::Sync | LeafWork::Fallocate { .. } | LeafWork::Truncate { .. } => Ok(0),
        }
    }

    fn log(&mut self, entry: Entry) {
        entry.change.apply(&mut self.disks[entry.file.0 as usize]);
        self.journal.entries.push(entry);
    }

    fn post(&mut self, engine: usize, completion: Completion) {
        let engine = &mut self.engines[engine];
        engine.done.push_back(completion);
        engine.bell.raise();
    }
}

/// What O_DIRECT demands.
fn check_alignment(leaf: &Leaf, work: &LeafWork) -> Result<(), Errno> {
    let (LeafWork::Read { offset, buf } | LeafWork::Write { offset, buf, .. }) = work else {
        return Ok(());
    };
    let alignment = u64::from(leaf.request_alignment());
    let fits = offset.is_multiple_of(alignment)
        && (buf.len() as u64).is_multiple_of(alignment)
        && buf.is_aligned(leaf.memory_alignment() as usize);
    if fits { Ok(()) } else { Err(Errno::INVAL) }
}

fn describe(id: u64, engine: usize, work: &Work) -> SimOp {
    let (kind, file, range) = match work {
        Work::Leaf(leaf, work) => {
            let file = match leaf.file() {
                LeafFile::Sim(file) => Some(*file),
                LeafFile::Host(_) => None,
            };
            let (kind, offset, len) = match work {
                LeafWork::Read { offset, buf } => (SimKind::Read, *offset, buf.len() as u64),
                LeafWork::Write { offset, buf, .. } => (SimKind::Write, *offset, buf.len() as u64),
                LeafWork::Sync => (SimKind::Sync, 0, 0),
                LeafWork::Fallocate { mode, offset, len } => {
                    (SimKind::Fallocate(*mode), *offset, *len)
                }
                LeafWork::Truncate { len } => (SimKind::Truncate, *len, 0),
                LeafWork::Seek { offset, .. } => (SimKind::Seek, *offset, 0),
            };
            (kind, file, offset..offset.saturating_add(len))
        }
        Work::Timer { .. } => (SimKind::Timer, None, 0..0),
        Work::Blocking(_) => (SimKind::Blocking, None, 0..0),
    };
    SimOp {
        id,
        engine,
        kind,
        file,
        range,
    }
}

/// What work changes, if anything.
fn entry_of(op: &SimOp, work: &LeafWork, submitted: usize) -> Option<Entry> {
    let range = op.range.clone();
    let (change, durable) = match work {
        LeafWork::Write { offset, buf, fua } => (
            Change::Write {
                offset: *offset,
                bytes: buf.to_vec().into(),
            },
            *fua,
        ),
        LeafWork::Sync => (Change::Sync, false),
        LeafWork::Fallocate { mode, .. } => {
            let change = match mode {
                Fallocate::PunchHole => Change::PunchHole(range),
                Fallocate::ZeroRange => Change::ZeroRange(range),
                Fallocate::Allocate => Change::Allocate { end: range.end },
            };
            (change, false)
        }
        LeafWork::Truncate { len } => (Change::SetLen(*len), false),
        LeafWork::Read { .. } | LeafWork::Seek { .. } => return None,
    };
    Some(Entry {
        file: op.file?,
        change,
        submitted,
        durable,
    })
}

/// Numbers that a seed determines (SplitMix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place in a list of `len`, which is not 0.
    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a usize")
    }
}
