//! A queue as other threads use it: closures sent to its thread, and waiting for what they give.
//!
//! Works on any executor or none. Invariant: whoever waits hears of a queue that ends first.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

use super::executor::TaskKind;
use super::{LocalQueue, QueueShared};
use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::request::Request;
use crate::sync::WaitList;

/// A queue as other threads hold it.
#[derive(Clone)]
pub struct QueueHandle {
    pub(super) shared: Arc<QueueShared>,
}

impl QueueHandle {
    /// Runs a closure on the queue's thread.
    pub fn run(&self, f: impl FnOnce(&LocalQueue) + Send + 'static) {
        self.shared.post(Box::new(f));
    }

    /// Runs a task on the queue's thread; the closure makes it there.
    pub fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        f: impl FnOnce(LocalQueue) -> F + Send + 'static,
    ) {
        self.run(move |queue| queue.spawn(f(queue.clone())));
    }

    /// Runs a task on the queue's thread and waits for its value; works on any executor.
    ///
    /// # Errors
    /// `ShutDown` when the queue ends first.
    /// # Cancel safety
    /// Dropping the future does not stop the task.
    pub async fn call<T, F>(&self, f: impl FnOnce(LocalQueue) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let slot = OneShot::new();
        let sender = Sender(Arc::clone(&slot));
        self.spawn(move |queue| {
            let work = f(queue);
            async move { sender.send(work.await) }
        });
        slot.value().await.ok_or(Error::ShutDown)
    }

    /// Does a request on this queue and waits for its end; works on any executor.
    ///
    /// # Errors
    /// What the graph answers; `ShutDown` when the queue ends first.
    /// # Cancel safety
    /// Dropping the future detaches the request, which runs to its end.
    pub async fn request(&self, backend: &Arc<Backend>, request: Request) -> Result<IoBuf> {
        let backend = Arc::clone(backend);
        self.call(move |queue| async move {
            let slot = queue.attach(&backend);
            queue.request(slot, request).await
        })
        .await?
    }
}

/// Runs a verb as a task of a queue, and waits for its end.
///
/// # Errors
/// What the verb answers; `ShutDown` when the queue ends first.
/// # Cancel safety
/// Dropping the future does not stop a verb that was polled once: it runs to its end, and the end of
/// its queue waits for it.
pub(crate) async fn shield<T: 'static>(
    queue: &LocalQueue,
    verb: impl AsyncFnOnce(Layer, LocalQueue) -> Result<T> + 'static,
) -> Result<T> {
    let slot = OneShot::new();
    let sender = Sender(Arc::clone(&slot));
    let (layer, on) = (queue.layer().clone(), queue.clone());
    let task = async move { sender.send(verb(layer, on).await) };
    queue.spawn_task(Box::pin(task), TaskKind::Request);
    slot.value().await.unwrap_or(Err(Error::ShutDown))
}

struct OneShot<T> {
    /// The value, and whether nobody can fill it any more.
    state: Mutex<(Option<T>, bool)>,
    filled: WaitList,
}

impl<T> OneShot<T> {
    fn new() -> Arc<OneShot<T>> {
        Arc::new(OneShot {
            state: Mutex::new((None, false)),
            filled: WaitList::new(),
        })
    }

    /// Waits for the value; `None` when nobody will send one.
    async fn value(&self) -> Option<T> {
        let mut value = None;
        let filled = self.filled.wait_until(|| {
            let mut state = self.state.lock();
            value = state.0.take();
            value.is_some() || state.1
        });
        filled.await;
        value
    }
}

struct Sender<T>(Arc<OneShot<T>>);

impl<T> Sender<T> {
    fn send(self, value: T) {
        self.0.state.lock().0 = Some(value);
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().1 = true;
        self.0.filled.wake_all();
    }
}

/// Waits for a future on a thread that has no queue, such as a test's or a control thread's.
pub fn block_on_thread<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}
