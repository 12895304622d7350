//! Queues: one a thread, each with its own engine, its own executor and its own table of
//! announcements. A guest's virtio queue, an NBD connection, a job and the control plane all
//! reach the graph through one.
//!
//! A device thread submits, kicks, polls the notifier and reaps; async code on the queue's thread
//! awaits [`LocalQueue::request`]; other threads use a [`QueueHandle`]; simple programs call
//! [`LocalQueue::block_on`]. A cached request takes the short way in [`start`](LocalQueue::start):
//! announce, map, submit; it allocates nothing and takes no lock. Everything else is a task that
//! this queue owns and runs to its end, whoever stopped waiting for it.
//!
//! Invariant: whatever an operation needs (memory, announcement, snapshot) stays in this queue's
//! slabs until its completion was reaped.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use slab::Slab;

use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::engine::{Bell, Completion, Engine, LeafId, Operation, Slot, Token};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeIndex};
use crate::layer::{Layer, Obstacle};
use crate::request::announce::{ANNOUNCEMENTS, InFlight, Reach};
use crate::request::cx::Cx;
use crate::request::map::{Access, Extent, Lookup, Mapping, Piece};
use crate::request::{Op, Request, generic};
use crate::stats::{Counters, Kind};

mod future;
mod handle;

pub(crate) use future::OpFuture;
pub use future::RequestFuture;
pub use handle::{QueueHandle, block_on_thread};

/// A backend's place in one queue, from [`LocalQueue::attach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendSlot(u32);

/// A request that has ended, for those who submitted it with a token.
#[derive(Debug)]
pub struct Done {
    /// The token given at submission.
    pub token: u64,
    /// How it ended.
    pub result: Result<()>,
    /// The request's memory.
    pub buf: IoBuf,
}

/// What other threads may reach of a queue.
pub(crate) struct QueueShared {
    pub(crate) in_flight: InFlight,
    bell: Arc<dyn Bell>,
    ready: Mutex<Vec<u32>>,
    mail: Mutex<Vec<Mail>>,
    /// Whether there may be something in `ready` or `mail`, so that a turn without news takes no
    /// lock. Set after something came, cleared before all of it is taken.
    news: AtomicBool,
    /// The version of the newest snapshot this queue holds; `u64::MAX` when it holds none.
    holds: std::sync::atomic::AtomicU64,
    closed: AtomicBool,
}

type Mail = Box<dyn FnOnce(&LocalQueue) + Send>;

impl QueueShared {
    fn post(&self, mail: Mail) {
        // A closed queue drops its mail, which tells the sender.
        if !self.closed.load(Ordering::Acquire) {
            self.mail.lock().push(mail);
            self.news.store(true, Ordering::Release);
            self.ring();
        }
    }

    fn push_ready(&self, task: u32) {
        self.ready.lock().push(task);
        self.news.store(true, Ordering::Release);
    }

    fn ring(&self) {
        if CURRENT.get() != std::ptr::from_ref(self).addr() {
            self.bell.ring();
        }
    }

    /// Asks the queue to let go of snapshots that are not the current one.
    pub(crate) fn ask_refresh(&self) {
        self.post(Box::new(|queue| queue.refresh()));
    }

    /// Whether the queue may still hold a snapshot older than `version`.
    pub(crate) fn holds_older_than(&self, version: u64) -> bool {
        self.holds.load(Ordering::Acquire) < version
    }
}

thread_local! {
    /// The queue that is running on this thread: waking it needs no bell.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// A snapshot as one queue holds it: counted without atomics.
pub(crate) struct Snapshot {
    pub(crate) graph: Arc<Graph>,
    holders: Rc<Holders>,
}

/// Which versions a queue still holds, to tell the layer.
struct Holders {
    versions: RefCell<Vec<u64>>,
    shared: Arc<QueueShared>,
    layer: Layer,
}

impl Holders {
    fn publish(&self) {
        let oldest = self
            .versions
            .borrow()
            .iter()
            .copied()
            .min()
            .unwrap_or(u64::MAX);
        self.shared.holds.store(oldest, Ordering::Release);
        self.layer.left().wake_all();
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let version = self.graph.version();
        let mut versions = self.holders.versions.borrow_mut();
        if let Some(at) = versions.iter().position(|&v| v == version) {
            versions.swap_remove(at);
        }
        drop(versions);
        // Let go of the graph before the layer hears that we did.
        self.graph = Arc::default();
        self.holders.publish();
    }
}

enum OpState {
    /// A piece of a request.
    Request(usize),
    /// Somebody on this queue waits, or will.
    Future {
        waker: Option<Waker>,
        done: Option<Completion>,
    },
    /// Nobody waits any more; the operation still runs.
    Detached,
}

enum Target {
    Token(u64),
    Future {
        waker: Option<Waker>,
        done: Option<(Result<()>, IoBuf)>,
    },
    Detached,
}

struct RequestState {
    target: Target,
    outstanding: u32,
    error: Option<Error>,
    announcement: Option<u16>,
    snapshot: Option<Rc<Snapshot>>,
    backend: BackendSlot,
    op: Op,
    offset: u64,
    len: u64,
    started: Instant,
    buf: IoBuf,
}

struct AttachedBackend {
    backend: Arc<Backend>,
    counters: Arc<Counters>,
    /// Where its root stands in the snapshot of this version.
    root: Cell<(u64, NodeIndex)>,
}

#[derive(Clone, Copy, Default)]
struct AttachedLeaf {
    slot: Option<Slot>,
    request_mask: u64,
    memory_alignment: u32,
}

struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
    kind: TaskKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TaskKind {
    /// Part of a request: parking waits for it.
    Request,
    /// A connection, a job: goes on for as long as it likes.
    Service,
}

struct TaskWaker {
    shared: Arc<QueueShared>,
    index: u32,
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.push_ready(self.index);
            self.shared.ring();
        }
    }
}

/// The future given to `block_on` has no place in the slab.
const MAIN_TASK: u32 = u32::MAX;

pub(crate) struct Inner {
    pub(crate) layer: Layer,
    pub(crate) shared: Arc<QueueShared>,
    engine: RefCell<Box<dyn Engine>>,
    ops: RefCell<Slab<OpState>>,
    requests: RefCell<Slab<RequestState>>,
    tasks: RefCell<Slab<Task>>,
    request_tasks: Cell<usize>,
    done: RefCell<VecDeque<Done>>,
    completions: RefCell<Vec<Completion>>,
    ready: RefCell<Vec<u32>>,
    free_announcements: RefCell<Vec<u16>>,
    announcement_freed: crate::sync::WaitList,
    backends: RefCell<Vec<AttachedBackend>>,
    leaves: RefCell<Vec<AttachedLeaf>>,
    snapshot: RefCell<Option<Rc<Snapshot>>>,
    holders: Rc<Holders>,
    /// Some announcement left since the layer's waiters were last told.
    left: Cell<bool>,
    main_ready: Cell<bool>,
    now: Cell<Option<Instant>>,
    notifier: OnceCell<OwnedFd>,
}

/// A queue before it has a thread; send it there and [`start`](QueueBuilder::start) it.
pub struct QueueBuilder {
    layer: Layer,
    engine: Box<dyn Engine>,
    shared: Arc<QueueShared>,
}

impl QueueBuilder {
    pub(crate) fn new(layer: Layer, engine: Box<dyn Engine>) -> QueueBuilder {
        let shared = Arc::new(QueueShared {
            in_flight: InFlight::new(),
            bell: engine.bell(),
            ready: Mutex::default(),
            mail: Mutex::default(),
            news: AtomicBool::new(false),
            holds: u64::MAX.into(),
            closed: AtomicBool::new(false),
        });
        layer.add_queue(Arc::clone(&shared));
        QueueBuilder {
            layer,
            engine,
            shared,
        }
    }

    /// A handle for other threads; what they send waits until the queue starts.
    pub fn handle(&self) -> QueueHandle {
        QueueHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Makes the calling thread the queue's.
    pub fn start(self) -> Queue {
        let holders = Rc::new(Holders {
            versions: RefCell::default(),
            shared: Arc::clone(&self.shared),
            layer: self.layer.clone(),
        });
        let places = u16::try_from(ANNOUNCEMENTS).unwrap_or(u16::MAX);
        Queue(LocalQueue(Rc::new(Inner {
            layer: self.layer,
            shared: self.shared,
            engine: RefCell::new(self.engine),
            ops: RefCell::new(Slab::with_capacity(256)),
            requests: RefCell::new(Slab::with_capacity(256)),
            tasks: RefCell::default(),
            request_tasks: Cell::new(0),
            done: RefCell::new(VecDeque::with_capacity(256)),
            completions: RefCell::new(Vec::with_capacity(256)),
            ready: RefCell::default(),
            free_announcements: RefCell::new((0..places).rev().collect()),
            announcement_freed: crate::sync::WaitList::new(),
            backends: RefCell::default(),
            leaves: RefCell::default(),
            snapshot: RefCell::default(),
            holders,
            left: Cell::new(false),
            main_ready: Cell::new(false),
            now: Cell::new(None),
            notifier: OnceCell::new(),
        })))
    }
}

/// A running queue. Dropping it finishes every request first, then ends its other tasks.
pub struct Queue(LocalQueue);

impl std::ops::Deref for Queue {
    type Target = LocalQueue;
    fn deref(&self) -> &LocalQueue {
        &self.0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let inner = &self.0.0;
        if !std::thread::panicking() {
            self.0.park();
        }
        inner.shared.closed.store(true, Ordering::Release);
        inner.layer.remove_queue(&inner.shared);
        let mail = std::mem::take(&mut *inner.shared.mail.lock());
        drop(mail);
        let tasks = inner.tasks.take();
        drop(tasks);
        inner.snapshot.take();
        inner.layer.left().wake_all();
    }
}

/// A queue as code on its own thread holds it.
#[derive(Clone)]
pub struct LocalQueue(pub(crate) Rc<Inner>);

impl LocalQueue {
    /// The layer whose graph this queue serves.
    pub fn layer(&self) -> &Layer {
        &self.0.layer
    }

    /// A handle for other threads.
    pub fn handle(&self) -> QueueHandle {
        QueueHandle {
            shared: Arc::clone(&self.0.shared),
        }
    }

    /// Makes a backend usable on this queue. The same backend gets the same slot again.
    pub fn attach(&self, backend: &Arc<Backend>) -> BackendSlot {
        let mut backends = self.0.backends.borrow_mut();
        let known = backends
            .iter()
            .position(|b| Arc::ptr_eq(&b.backend, backend));
        let index = known.unwrap_or_else(|| {
            let root = Cell::new((u64::MAX, NodeIndex::default()));
            let counters = backend.new_counters();
            backends.push(AttachedBackend {
                backend: Arc::clone(backend),
                counters,
                root,
            });
            backends.len() - 1
        });
        BackendSlot(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Takes a request; `token` comes back in its [`Done`]. Never fails and never waits.
    pub fn submit(&self, backend: BackendSlot, request: Request, token: u64) {
        self.start(backend, request, Target::Token(token));
    }

    /// Does a request and waits for its end.
    ///
    /// # Errors
    /// What the graph answers.
    /// # Cancel safety
    /// Dropping the future detaches the request, which runs to its end.
    pub fn request(&self, backend: BackendSlot, request: Request) -> RequestFuture {
        let target = Target::Future {
            waker: None,
            done: None,
        };
        let index = self.start(backend, request, target);
        RequestFuture {
            queue: self.clone(),
            index: Some(index),
        }
    }

    /// Starts what was submitted since the last kick.
    pub fn kick(&self) {
        self.0.now.set(None);
        if let Err(error) = self.0.engine.borrow_mut().kick() {
            tracing::error!("engine: {error}");
        }
    }

    /// Runs what is ready without waiting, and hands finished requests to `done`.
    pub fn reap(&self, mut done: impl FnMut(Done)) {
        self.turn();
        loop {
            let Some(next) = self.0.done.borrow_mut().pop_front() else {
                break;
            };
            done(next);
        }
    }

    /// Sleeps until something has happened on this queue, or `timeout` has passed. What tasks
    /// submit meanwhile starts with the next `wait`, `kick` or `reap`: a loop of waits costs one
    /// system call a round.
    pub fn wait(&self, timeout: Option<Duration>) {
        if self.run() {
            // What ran may be what the caller waits for.
            return;
        }
        let idle = self.0.done.borrow().is_empty()
            && !self.0.main_ready.get()
            && !self.0.shared.news.load(Ordering::Acquire);
        if idle {
            self.0.now.set(None);
            if let Err(error) = self.0.engine.borrow_mut().wait(timeout) {
                tracing::error!("engine: {error}");
            }
            self.run();
        }
    }

    /// Readable while there may be something to reap; for the caller's own epoll.
    ///
    /// # Panics
    /// When the process is out of descriptors.
    pub fn notifier(&self) -> BorrowedFd<'_> {
        let fd = self.0.notifier.get_or_init(|| {
            let mut engine = self.0.engine.borrow_mut();
            let fd = engine.notifier().try_clone_to_owned();
            fd.expect("a descriptor for the queue's notifier")
        });
        fd.as_fd()
    }

    /// Runs a task of this queue, to its end or until the queue is dropped.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.spawn_task(Box::pin(future), TaskKind::Service);
    }

    /// Runs the queue until `future` is done.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let task = Arc::new(TaskWaker {
            shared: Arc::clone(&self.0.shared),
            index: MAIN_TASK,
            queued: AtomicBool::new(false),
        });
        let waker = Waker::from(Arc::clone(&task));
        self.0.main_ready.set(true);
        loop {
            if self.0.main_ready.replace(false) {
                // Cleared before the poll: a wake-up during it queues the future again.
                task.queued.store(false, Ordering::Release);
                let running = self.enter();
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                drop(running);
                if let Poll::Ready(value) = polled {
                    self.turn();
                    return value;
                }
            }
            self.wait(None);
        }
    }

    /// Finishes every request of this queue and lets go of the graph, so that nobody waits for a
    /// thread that is about to stop polling. The next submission takes the queue up again.
    pub fn park(&self) {
        loop {
            self.turn();
            let busy = self.0.request_tasks.get() > 0
                || self
                    .0
                    .requests
                    .borrow()
                    .iter()
                    .any(|(_, r)| r.outstanding > 0);
            if !busy {
                break;
            }
            self.wait_for_engine();
        }
        self.0.snapshot.take();
        self.notify_left();
    }

    fn wait_for_engine(&self) {
        if !self.0.shared.news.load(Ordering::Acquire)
            && let Err(error) = self.0.engine.borrow_mut().wait(None)
        {
            tracing::error!("engine: {error}");
        }
    }

    /// Waits for `after` to pass.
    pub async fn sleep(&self, after: Duration) {
        self.op(Operation::Timer { after }).await.result.ok();
    }

    /// Receives at least one byte into `buf`; 0 when the peer has closed.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn recv(&self, socket: &Arc<OwnedFd>, buf: IoBuf) -> io::Result<(usize, IoBuf)> {
        let done = self
            .op(Operation::Recv {
                socket: Arc::clone(socket),
                buf,
            })
            .await;
        let count = done.result?;
        Ok((
            usize::try_from(count).unwrap_or(usize::MAX),
            done.buf.unwrap_or_else(IoBuf::empty),
        ))
    }

    /// Sends all of `buf`.
    ///
    /// # Errors
    /// What the kernel says; `PIPE` when the peer has closed.
    pub async fn send(&self, socket: &Arc<OwnedFd>, buf: IoBuf) -> io::Result<IoBuf> {
        let done = self
            .op(Operation::Send {
                socket: Arc::clone(socket),
                buf,
            })
            .await;
        done.result?;
        Ok(done.buf.unwrap_or_else(IoBuf::empty))
    }

    /// Waits until a descriptor has something to read or accept.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn readable(&self, fd: &Arc<OwnedFd>) -> io::Result<()> {
        self.op(Operation::Readable { fd: Arc::clone(fd) })
            .await
            .result?;
        Ok(())
    }

    /// Waits until a descriptor takes bytes or has connected.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn writable(&self, fd: &Arc<OwnedFd>) -> io::Result<()> {
        self.op(Operation::Writable { fd: Arc::clone(fd) })
            .await
            .result?;
        Ok(())
    }

    /// Runs a closure that may block or compute for long on the thread pool.
    ///
    /// # Errors
    /// What the closure answers, or that there is no pool to run it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let place = Arc::new(Mutex::new(None));
        let result = Arc::clone(&place);
        let run = Box::new(move || {
            *result.lock() = Some(f()?);
            Ok(0)
        });
        self.op(Operation::Blocking(run)).await.result?;
        place
            .lock()
            .take()
            .ok_or_else(|| io::Error::from(Errno::CANCELED))
    }

    /// Gives an operation to the engine.
    pub(crate) fn op(&self, operation: Operation) -> OpFuture {
        let index = self.0.ops.borrow_mut().insert(OpState::Future {
            waker: None,
            done: None,
        });
        self.0
            .engine
            .borrow_mut()
            .submit(Token(index as u64), operation);
        OpFuture {
            queue: self.clone(),
            index: Some(index),
        }
    }

    fn spawn_task(&self, future: Pin<Box<dyn Future<Output = ()>>>, kind: TaskKind) {
        if kind == TaskKind::Request {
            self.0.request_tasks.set(self.0.request_tasks.get() + 1);
        }
        let mut tasks = self.0.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let index = u32::try_from(entry.key()).unwrap_or(MAIN_TASK);
        let waker = Arc::new(TaskWaker {
            shared: Arc::clone(&self.0.shared),
            index,
            queued: AtomicBool::new(true),
        });
        entry.insert(Task {
            future: Some(future),
            waker,
            kind,
        });
        self.0.shared.push_ready(index);
    }

    /// Runs what is ready, and kicks what it submitted.
    fn turn(&self) {
        self.run();
        self.kick();
    }

    /// Reaps and runs tasks until none is ready; says whether there was anything to do.
    fn run(&self) -> bool {
        let _running = self.enter();
        let mut any = false;
        loop {
            let mut progress = self.reap_engine();
            let shared = &self.0.shared;
            if shared.news.load(Ordering::Relaxed) && shared.news.swap(false, Ordering::AcqRel) {
                let mail = std::mem::take(&mut *shared.mail.lock());
                progress |= !mail.is_empty();
                for letter in mail {
                    letter(self);
                }
                progress |= self.run_ready();
            }
            if !progress {
                break;
            }
            any = true;
        }
        self.notify_left();
        any
    }

    fn enter(&self) -> Running {
        Running(CURRENT.replace(Arc::as_ptr(&self.0.shared).addr()))
    }

    fn reap_engine(&self) -> bool {
        let mut completions = self.0.completions.take();
        self.0
            .engine
            .borrow_mut()
            .reap(&mut |completion| completions.push(completion));
        let any = !completions.is_empty();
        if any {
            self.0.now.set(None);
        }
        for completion in completions.drain(..) {
            self.complete_op(completion);
        }
        self.0.completions.replace(completions);
        any
    }

    fn run_ready(&self) -> bool {
        let mut ready = self.0.ready.take();
        std::mem::swap(&mut ready, &mut *self.0.shared.ready.lock());
        let any = !ready.is_empty();
        for index in ready.drain(..) {
            if index == MAIN_TASK {
                self.0.main_ready.set(true);
                continue;
            }
            self.poll_task(index as usize);
        }
        self.0.ready.replace(ready);
        any
    }

    fn poll_task(&self, index: usize) {
        let taken = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(index) else {
                return;
            };
            // Cleared before the poll: a wake-up during it queues the task again.
            task.waker.queued.store(false, Ordering::Release);
            task.future
                .take()
                .map(|future| (future, Arc::clone(&task.waker)))
        };
        let Some((mut future, waker)) = taken else {
            return;
        };
        let waker = Waker::from(waker);
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        // A finished task is dropped before the slab is borrowed: destructors may call the queue.
        let unfinished = poll.is_pending().then_some(future);
        let mut tasks = self.0.tasks.borrow_mut();
        match (unfinished, tasks.get_mut(index)) {
            (Some(future), Some(task)) => task.future = Some(future),
            (None, Some(_)) => {
                if tasks.remove(index).kind == TaskKind::Request {
                    self.0.request_tasks.set(self.0.request_tasks.get() - 1);
                }
            }
            (_, None) => {}
        }
    }

    fn complete_op(&self, completion: Completion) {
        let index = usize::try_from(completion.token.0).unwrap_or(usize::MAX);
        let state = {
            let mut ops = self.0.ops.borrow_mut();
            match ops.get_mut(index) {
                Some(OpState::Future { waker, done }) => {
                    *done = Some(completion);
                    let waker = waker.take();
                    drop(ops);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    return;
                }
                Some(OpState::Request(_) | OpState::Detached) => ops.remove(index),
                None => return,
            }
        };
        if let OpState::Request(request) = state {
            self.complete_piece(request, completion);
        }
    }

    fn complete_piece(&self, index: usize, completion: Completion) {
        let finished = {
            let mut requests = self.0.requests.borrow_mut();
            let Some(request) = requests.get_mut(index) else {
                return;
            };
            if let Err(errno) = completion.result {
                let error = self.io_error(request, errno);
                request.error.get_or_insert(error);
            }
            if let Some(buf) = completion.buf
                && request.buf.is_empty()
            {
                request.buf = buf;
            }
            request.outstanding -= 1;
            request.outstanding == 0
        };
        if finished {
            let result = match self.0.requests.borrow_mut()[index].error.take() {
                Some(error) => Err(error),
                None => Ok(()),
            };
            self.finish(index, result);
        }
    }

    fn io_error(&self, request: &RequestState, errno: Errno) -> Error {
        let backends = self.0.backends.borrow();
        let node = request.snapshot.as_ref().and_then(|snapshot| {
            let root = backends.get(request.backend.0 as usize)?.backend.root();
            let index = snapshot.graph.index_of(root)?;
            Some(snapshot.graph.entry(index).node.name().to_owned())
        });
        Error::Io {
            node: node.unwrap_or_default(),
            op: generic::verb(request.op),
            offset: request.offset,
            len: request.len,
            source: errno.into(),
        }
    }

    /// Step 6: counters, the announcement goes, then the caller hears.
    fn finish(&self, index: usize, result: Result<()>) {
        if let Err(error) = &result {
            self.0.layer.tell_corruption(error);
        }
        let mut requests = self.0.requests.borrow_mut();
        let Some(request) = requests.get_mut(index) else {
            return;
        };
        request.outstanding = 0;
        if let Some(slot) = request.announcement.take() {
            self.leave(slot);
        }
        request.snapshot = None;
        let time = self.now().saturating_duration_since(request.started);
        if let Some(attached) = self.0.backends.borrow().get(request.backend.0 as usize) {
            let kind = Kind::of(request.op);
            let counters = &attached.counters;
            counters.record(kind, request.len, time, result.is_ok());
            if kind == Kind::Write {
                counters.wrote_to(request.offset.saturating_add(request.len));
            }
        }
        match &mut request.target {
            Target::Future { waker, done } => {
                let buf = std::mem::replace(&mut request.buf, IoBuf::empty());
                *done = Some((result, buf));
                let waker = waker.take();
                drop(requests);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Target::Token(token) => {
                let token = *token;
                let request = requests.remove(index);
                self.0.done.borrow_mut().push_back(Done {
                    token,
                    result,
                    buf: request.buf,
                });
            }
            Target::Detached => {
                requests.remove(index);
            }
        }
    }

    /// The time, read once a batch.
    fn now(&self) -> Instant {
        match self.0.now.get() {
            Some(now) => now,
            None => {
                let now = Instant::now();
                self.0.now.set(Some(now));
                now
            }
        }
    }

    /// Steps 2 to 5 of a request.
    fn start(&self, slot: BackendSlot, request: Request, target: Target) -> usize {
        let state = RequestState {
            target,
            outstanding: 1,
            error: None,
            announcement: None,
            snapshot: None,
            backend: slot,
            op: request.op,
            offset: request.offset,
            len: request.len,
            started: self.now(),
            buf: IoBuf::empty(),
        };
        let index = self.0.requests.borrow_mut().insert(state);
        match self.try_fast(index, slot, request) {
            Fast::Started => {}
            Fast::Ended(result, buf) => {
                self.0.requests.borrow_mut()[index].buf = buf;
                self.finish(index, result);
            }
            Fast::Slow(request) => {
                let queue = self.clone();
                let task = async move {
                    let buf = request.buf.clone();
                    let result = queue.run_slow(slot, request).await;
                    queue.0.requests.borrow_mut()[index].buf = buf;
                    queue.finish(index, result);
                };
                self.spawn_task(Box::pin(task), TaskKind::Request);
            }
        }
        index
    }

    /// The short way: everything in memory, bytes straight to the leaf.
    fn try_fast(&self, index: usize, slot: BackendSlot, request: Request) -> Fast {
        let (snapshot, root) = match self.root_of(slot) {
            Ok(found) => found,
            Err(error) => return Fast::Ended(Err(error), request.buf),
        };
        let node = &snapshot.graph.entry(root).node;
        let admitted = self.0.backends.borrow()[slot.0 as usize].backend.admit(
            &request,
            node,
            snapshot.graph.len(root),
        );
        if let Err(error) = admitted {
            return Fast::Ended(Err(error), request.buf);
        }
        let access = request.access();
        match request.op {
            Op::Read => {}
            Op::Write if !request.fua && snapshot.graph.plain_writes(root) => {}
            Op::Write | Op::WriteZeroes(_) | Op::Discard | Op::Flush => return Fast::Slow(request),
        }
        if request.len == 0 {
            return Fast::Ended(Ok(()), request.buf);
        }
        let range = request.range();
        let Some(place) = self.0.free_announcements.borrow_mut().pop() else {
            return Fast::Slow(request);
        };
        self.0
            .shared
            .in_flight
            .announce(place, node.id(), access, Reach::Direct, &range);
        let mut mapping = Mapping::new();
        let clear = self.0.layer.version() == snapshot.graph.version()
            && self
                .0
                .layer
                .obstacle(&snapshot.graph, root, access, &range, Reach::Direct, true)
                == Obstacle::None
            && snapshot.graph.walk(root, access, range, &mut mapping) == Lookup::Mapped
            && self.fits(&snapshot, &mapping, &request.buf);
        if !clear {
            self.leave(place);
            return Fast::Slow(request);
        }
        {
            let mut requests = self.0.requests.borrow_mut();
            let state = &mut requests[index];
            state.announcement = Some(place);
            state.snapshot = Some(snapshot);
            state.outstanding = 0;
        }
        self.submit_pieces(index, access, &mapping, request.buf)
    }

    /// Whether every leaf can take its piece as it is; attaches leaves on the way.
    fn fits(&self, snapshot: &Snapshot, mapping: &Mapping, buf: &IoBuf) -> bool {
        let mut memory_alignment = 1;
        for piece in mapping.pieces() {
            if let Extent::Leaf { leaf, offset } = piece.extent {
                let Some(attached) = self.leaf(&snapshot.graph, leaf) else {
                    return false;
                };
                if (offset | piece.len) & attached.request_mask != 0 {
                    return false;
                }
                memory_alignment = memory_alignment.max(attached.memory_alignment);
            }
        }
        memory_alignment == 1 || buf.is_aligned(memory_alignment as usize)
    }

    fn submit_pieces(&self, index: usize, access: Access, mapping: &Mapping, buf: IoBuf) -> Fast {
        let pieces = mapping.pieces();
        if let [
            Piece {
                extent: Extent::Leaf { leaf, offset },
                ..
            },
        ] = *pieces
        {
            // The common case: the memory travels with the operation and comes back with it.
            self.0.requests.borrow_mut()[index].outstanding = 1;
            self.submit_piece(index, access, leaf, offset, buf);
            return Fast::Started;
        }
        let mut at = 0;
        let mut submitted = 0;
        for piece in pieces {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            match piece.extent {
                Extent::Leaf { leaf, offset } => {
                    self.submit_piece(index, access, leaf, offset, buf.slice(at..at + len));
                    submitted += 1;
                }
                Extent::Zero | Extent::Unallocated | Extent::Child { .. } | Extent::Transform => {
                    buf.fill(at..at + len, 0)
                }
            }
            at += len;
        }
        if submitted == 0 {
            return Fast::Ended(Ok(()), buf);
        }
        let mut requests = self.0.requests.borrow_mut();
        let state = &mut requests[index];
        state.outstanding = submitted;
        state.buf = buf;
        Fast::Started
    }

    fn submit_piece(&self, index: usize, access: Access, leaf: LeafId, offset: u64, buf: IoBuf) {
        let slot = self.attached(leaf);
        let operation = match access {
            Access::Read => Operation::Read { slot, offset, buf },
            Access::Write => Operation::Write {
                slot,
                offset,
                buf,
                fua: false,
            },
        };
        let op = self.0.ops.borrow_mut().insert(OpState::Request(index));
        self.0
            .engine
            .borrow_mut()
            .submit(Token(op as u64), operation);
    }

    /// The long way, on a task of its own.
    async fn run_slow(&self, slot: BackendSlot, request: Request) -> Result<()> {
        let (snapshot, root, announced) = loop {
            let (snapshot, root) = self.root_of(slot)?;
            let node = Arc::clone(&snapshot.graph.entry(root).node);
            self.0.backends.borrow()[slot.0 as usize].backend.admit(
                &request,
                &node,
                snapshot.graph.len(root),
            )?;
            match self.try_announce(&snapshot, root, &request, true).await {
                Ok(announced) => break (snapshot, root, announced),
                Err(()) => {
                    drop(snapshot);
                    self.wait_for_obstacle(&node, &request).await;
                }
            }
        };
        let cx = Cx::new(self.clone(), snapshot, root, Some(Rc::new(announced)));
        generic::perform(&cx, request).await
    }

    /// Announces level by level work; an error says that something is in the way.
    async fn try_announce(
        &self,
        snapshot: &Rc<Snapshot>,
        index: NodeIndex,
        request: &Request,
        gated: bool,
    ) -> Result<Announced, ()> {
        let node = &snapshot.graph.entry(index).node;
        let announced = self
            .announce(
                node.id(),
                request.access(),
                Reach::Indirect,
                &request.range(),
            )
            .await;
        let graph = &snapshot.graph;
        let current = !gated || self.0.layer.version() == graph.version();
        let obstacle = self.0.layer.obstacle(
            graph,
            index,
            request.access(),
            &request.range(),
            Reach::Indirect,
            gated,
        );
        if current && obstacle == Obstacle::None {
            Ok(announced)
        } else {
            Err(())
        }
    }

    async fn wait_for_obstacle(&self, node: &crate::graph::Node, request: &Request) {
        let (access, range) = (request.access(), request.range());
        let layer = self.0.layer.clone();
        node.claims
            .released
            .wait_until(|| {
                let graph = layer.graph();
                let Some(index) = graph.index_of(node.id()) else {
                    return true;
                };
                layer.obstacle(&graph, index, access, &range, Reach::Indirect, true)
                    == Obstacle::None
            })
            .await;
    }

    /// Announces, waiting for a free place.
    pub(crate) async fn announce(
        &self,
        node: crate::graph::NodeId,
        access: Access,
        reach: Reach,
        range: &std::ops::Range<u64>,
    ) -> Announced {
        let inner = &self.0;
        let mut place = None;
        inner
            .announcement_freed
            .wait_until(|| {
                place = inner.free_announcements.borrow_mut().pop();
                place.is_some()
            })
            .await;
        let slot = place.unwrap_or_default();
        inner
            .shared
            .in_flight
            .announce(slot, node, access, reach, range);
        Announced {
            queue: self.clone(),
            slot,
        }
    }

    fn leave(&self, slot: u16) {
        self.0.shared.in_flight.leave(slot);
        self.0.free_announcements.borrow_mut().push(slot);
        self.0.left.set(true);
    }

    /// Tells those who wait for announcements, once a batch.
    pub(crate) fn notify_left(&self) {
        if self.0.left.replace(false) {
            self.0.announcement_freed.wake_all();
            self.0.layer.left().wake_all();
        }
    }

    /// The current snapshot.
    pub(crate) fn snapshot(&self) -> Rc<Snapshot> {
        let version = self.0.layer.version();
        {
            let held = self.0.snapshot.borrow();
            if let Some(snapshot) = &*held
                && snapshot.graph.version() == version
            {
                return Rc::clone(snapshot);
            }
        }
        let snapshot = self.hold(self.0.layer.graph());
        let old = self.0.snapshot.replace(Some(Rc::clone(&snapshot)));
        self.detach_leaves(&snapshot.graph);
        drop(old);
        snapshot
    }

    /// Counts a graph that is not the current one, such as a draft's, as held by this queue.
    pub(crate) fn hold(&self, graph: Arc<Graph>) -> Rc<Snapshot> {
        self.0.holders.versions.borrow_mut().push(graph.version());
        let snapshot = Rc::new(Snapshot {
            graph,
            holders: Rc::clone(&self.0.holders),
        });
        self.0.holders.publish();
        snapshot
    }

    /// Lets go of an outdated snapshot.
    fn refresh(&self) {
        let outdated = self
            .0
            .snapshot
            .borrow()
            .as_ref()
            .is_some_and(|s| s.graph.version() != self.0.layer.version());
        if outdated {
            let old = self.0.snapshot.take();
            drop(old);
        }
        self.detach_leaves(&self.0.layer.graph());
    }

    fn detach_leaves(&self, graph: &Graph) {
        let mut engine = self.0.engine.borrow_mut();
        for (index, attached) in self.0.leaves.borrow_mut().iter_mut().enumerate() {
            if let Some(slot) = attached.slot
                && !LeafId::from_index(index).is_some_and(|id| graph.has_leaf(id))
            {
                engine.detach(slot);
                attached.slot = None;
            }
        }
    }

    fn root_of(&self, slot: BackendSlot) -> Result<(Rc<Snapshot>, NodeIndex)> {
        let snapshot = self.snapshot();
        let backends = self.0.backends.borrow();
        let Some(attached) = backends.get(slot.0 as usize) else {
            return Err(Error::ShutDown);
        };
        let version = snapshot.graph.version();
        let (known, root) = attached.root.get();
        if known == version {
            return Ok((snapshot, root));
        }
        let Some(root) = snapshot.graph.index_of(attached.backend.root()) else {
            return Err(Error::DeviceNotFound {
                device: attached.backend.name().to_owned(),
            });
        };
        attached.root.set((version, root));
        Ok((snapshot, root))
    }

    /// The leaf's facts on this queue, attaching it on first use.
    fn leaf(&self, graph: &Graph, id: LeafId) -> Option<AttachedLeaf> {
        let mut leaves = self.0.leaves.borrow_mut();
        if let Some(attached) = leaves.get(id.index())
            && attached.slot.is_some()
        {
            return Some(*attached);
        }
        let leaf = graph.leaf(id)?;
        if leaves.len() <= id.index() {
            leaves.resize(id.index() + 1, AttachedLeaf::default());
        }
        let attached = AttachedLeaf {
            slot: Some(self.0.engine.borrow_mut().attach(Arc::clone(leaf))),
            request_mask: u64::from(leaf.request_alignment()).saturating_sub(1),
            memory_alignment: leaf.memory_alignment(),
        };
        leaves[id.index()] = attached;
        Some(attached)
    }

    fn attached(&self, id: LeafId) -> Slot {
        let slot = self.0.leaves.borrow()[id.index()].slot;
        slot.expect("`fits` attached every leaf of the mapping")
    }

    /// The leaf's slot in this queue's engine.
    ///
    /// # Errors
    /// `ShutDown` when the graph does not hold the leaf.
    pub(crate) fn leaf_slot(&self, graph: &Graph, id: LeafId) -> Result<Slot> {
        self.leaf(graph, id)
            .and_then(|l| l.slot)
            .ok_or(Error::ShutDown)
    }

    /// Whether a mapping's leaves take its pieces as they are; for requests of drivers.
    pub(crate) fn fits_leaves(&self, snapshot: &Snapshot, mapping: &Mapping, buf: &IoBuf) -> bool {
        self.fits(snapshot, mapping, buf)
    }

    /// Starts the leaf operations of a mapped range, for requests of drivers.
    pub(crate) fn leaf_ops(
        &self,
        access: Access,
        mapping: &Mapping,
        buf: &IoBuf,
    ) -> smallvec::SmallVec<[OpFuture; 2]> {
        let mut at = 0;
        let mut started = smallvec::SmallVec::new();
        for piece in mapping.pieces() {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            match piece.extent {
                Extent::Leaf { leaf, offset } => {
                    let slot = self.attached(leaf);
                    let buf = buf.slice(at..at + len);
                    started.push(self.op(match access {
                        Access::Read => Operation::Read { slot, offset, buf },
                        Access::Write => Operation::Write {
                            slot,
                            offset,
                            buf,
                            fua: false,
                        },
                    }));
                }
                Extent::Zero | Extent::Unallocated | Extent::Child { .. } | Extent::Transform => {
                    buf.fill(at..at + len, 0)
                }
            }
            at += len;
        }
        started
    }
}

enum Fast {
    /// Operations are on their way.
    Started,
    /// It is over already.
    Ended(Result<()>, IoBuf),
    /// It needs a task.
    Slow(Request),
}

/// Marks the thread as running a queue until dropped.
struct Running(usize);

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// An announcement of a task; leaves when dropped.
pub(crate) struct Announced {
    queue: LocalQueue,
    slot: u16,
}

impl Announced {
    pub(crate) fn set_reach(&self, reach: Reach) {
        self.queue.0.shared.in_flight.set_reach(self.slot, reach);
        self.queue.0.left.set(true);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.queue.leave(self.slot);
    }
}

#[cfg(test)]
mod tests;
