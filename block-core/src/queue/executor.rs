//! The queue's executor: tasks in a slab, woken from any thread, run on the queue's own.
//! Called by everything that waits on a queue. Invariant: a wake-up between two polls is never
//! lost, and one from the queue's own thread rings no bell.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::{Inner, LocalQueue, QueueShared};

thread_local! {
    /// The queue that is running on this thread: waking it needs no bell.
    pub(super) static CURRENT: Cell<usize> = const { Cell::new(0) };
    /// The queues that were started on this thread.
    static STARTED: RefCell<Vec<Weak<Inner>>> = const { RefCell::new(Vec::new()) };
}

impl LocalQueue {
    /// The queue that runs the calling code; none outside of one.
    pub(crate) fn current() -> Option<LocalQueue> {
        let current = CURRENT.get();
        STARTED.with_borrow(|started| {
            let mut queues = started.iter().filter_map(Weak::upgrade);
            let found = queues.find(|inner| Arc::as_ptr(&inner.shared).addr() == current);
            found.map(LocalQueue)
        })
    }

    /// Lets code on this thread find the queue that runs it.
    pub(super) fn set_started(&self) {
        STARTED.with_borrow_mut(|started| {
            started.retain(|queue| queue.strong_count() > 0);
            started.push(Rc::downgrade(&self.0));
        });
    }
}

pub(super) struct Task {
    pub(super) future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pub(super) waker: Arc<TaskWaker>,
    pub(super) kind: TaskKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// Part of a request: parking waits for it.
    Request,
    /// A connection, a job: goes on for as long as it likes.
    Service,
}

pub(super) struct TaskWaker {
    pub(super) shared: Arc<QueueShared>,
    pub(super) index: u32,
    pub(super) queued: AtomicBool,
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
pub(super) const MAIN_TASK: u32 = u32::MAX;

impl LocalQueue {
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
            // Requests that have ended and nobody reaps are no news here.
            if !self.run() {
                self.sleep_for_news(None);
            }
        }
    }

    /// Finishes every request of this queue and lets go of the graph, so that nobody waits for a
    /// thread that is about to stop polling. The next submission takes the queue up again.
    /// Requests that wait for a limit or for the machine to go on stay: they hold nothing.
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
        self.give_turns_up();
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

    pub(super) fn spawn_task(&self, future: Pin<Box<dyn Future<Output = ()>>>, kind: TaskKind) {
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
    pub(super) fn turn(&self) {
        self.run();
        self.kick();
    }

    /// Reaps and runs tasks until none is ready; says whether there was anything to do.
    pub(super) fn run(&self) -> bool {
        let _running = self.enter();
        self.take_turns_again();
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

    pub(super) fn enter(&self) -> Running {
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
}

/// Marks the thread as running a queue until dropped.
pub(super) struct Running(usize);

impl Drop for Running {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}
