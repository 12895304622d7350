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
//! slabs until its completion was reaped. Not here: the short way and the tasks behind it
//! (`path`), which task runs when (`executor`), which graph a queue holds (`snapshot`).

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use slab::Slab;

use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::engine::{Bell, Completion, Engine, Operation, Token};
use crate::error::Result;
use crate::graph::NodeIndex;
use crate::layer::Layer;
use crate::request::Request;
use crate::request::announce::{ANNOUNCEMENTS, InFlight};
use crate::sync::WaitList;
use crate::throttle::QueueKey;

mod aside;
mod gates;
mod path;
mod settle;
mod snapshot;

mod executor;
mod future;
mod handle;

pub(crate) use future::OpFuture;
pub use future::RequestFuture;
pub(crate) use handle::shield;
pub use handle::{QueueHandle, block_on_thread};
pub(crate) use path::{Announced, Entry};
pub(crate) use snapshot::Snapshot;

use executor::{CURRENT, Task, TaskKind};
use path::{OpState, RequestState, Target};
use snapshot::{AttachedBackend, AttachedLeaf, Holders};

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
    holds: AtomicU64,
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

/// What a queue is on its own thread.
pub(crate) struct Inner {
    pub(crate) layer: Layer,
    pub(crate) shared: Arc<QueueShared>,
    engine: RefCell<Box<dyn Engine>>,
    ops: RefCell<Slab<OpState>>,
    requests: RefCell<Slab<RequestState>>,
    tasks: RefCell<Slab<Task>>,
    /// Tasks of requests that park waits for: those that do not wait aside.
    request_tasks: Cell<usize>,
    /// The queue is being dropped: whoever waits aside goes on.
    ending: Cell<bool>,
    aside: WaitList,
    parked: Cell<bool>,
    done: RefCell<VecDeque<Done>>,
    completions: RefCell<Vec<Completion>>,
    ready: RefCell<Vec<u32>>,
    free_announcements: RefCell<Vec<u16>>,
    announcement_freed: WaitList,
    backends: RefCell<Vec<AttachedBackend>>,
    leaves: RefCell<Vec<AttachedLeaf>>,
    snapshot: RefCell<Option<Rc<Snapshot>>>,
    holders: Rc<Holders>,
    /// Some announcement left since the layer's waiters were last told.
    left: Cell<bool>,
    main_ready: Cell<bool>,
    now: Cell<Option<Duration>>,
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
        let queue = LocalQueue(Rc::new(Inner {
            layer: self.layer,
            shared: self.shared,
            engine: RefCell::new(self.engine),
            ops: RefCell::new(Slab::with_capacity(256)),
            requests: RefCell::new(Slab::with_capacity(256)),
            tasks: RefCell::default(),
            request_tasks: Cell::new(0),
            ending: Cell::new(false),
            aside: WaitList::new(),
            parked: Cell::new(false),
            done: RefCell::new(VecDeque::with_capacity(256)),
            completions: RefCell::new(Vec::with_capacity(256)),
            ready: RefCell::default(),
            free_announcements: RefCell::new((0..places).rev().collect()),
            announcement_freed: WaitList::new(),
            backends: RefCell::default(),
            leaves: RefCell::default(),
            snapshot: RefCell::default(),
            holders,
            left: Cell::new(false),
            main_ready: Cell::new(false),
            now: Cell::new(None),
            notifier: OnceCell::new(),
        }));
        queue.set_started();
        Queue(queue)
    }
}

/// A running queue. Dropping it finishes every request and verb first, then ends its other tasks.
/// Requests that wait for a limit go on at once, those that wait for the machine to go on end with an
/// error.
///
/// Verbs that change the graph wait for requests of every queue. A thread that owns several turns all
/// of them while one has such a verb to finish, or to be dropped with.
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
        inner.ending.set(true);
        inner.aside.wake_all();
        if !std::thread::panicking() {
            self.0.park();
        }
        inner.shared.closed.store(true, Ordering::Release);
        inner.layer.remove_queue(&inner.shared);
        // Dropped without the lock, or the borrow: what mail and tasks hold may look at the queue.
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
        if self.0.done.borrow().is_empty() {
            self.sleep_for_news(timeout);
        }
    }

    fn sleep_for_news(&self, timeout: Option<Duration>) {
        let idle = !self.0.main_ready.get() && !self.0.shared.news.load(Ordering::Acquire);
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

    /// The time by the engine's clock, read anew.
    pub(crate) fn clock(&self) -> Duration {
        self.0.engine.borrow().now()
    }

    /// Tells this queue from others.
    pub(crate) fn key(&self) -> QueueKey {
        QueueKey(Arc::as_ptr(&self.0.shared).addr())
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
}

#[cfg(test)]
pub(crate) mod tests;
