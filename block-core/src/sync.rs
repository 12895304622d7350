//! Waiting across queues: a list of wakers with a condition, and a lock for async code.
//!
//! Used wherever a task waits for what another queue does: claims, drains, table loads, barriers.
//! Invariant: a waiter registers before it looks, a waker changes before it looks, both with a
//! full fence between; so no wake-up is lost and an idle list costs its waker one load.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};

use crate::atomic::{AtomicBool, AtomicUsize, Mutex, Ordering, fence};

/// Tasks that wait until something holds.
#[derive(Debug, Default)]
pub struct WaitList {
    waiting: AtomicUsize,
    wakers: Mutex<Vec<Waker>>,
}

impl WaitList {
    /// An empty list.
    pub fn new() -> WaitList {
        WaitList::default()
    }

    /// Waits until `holds` returns true; it is asked at once and after each [`wake_all`](WaitList::wake_all).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn wait_until(&self, mut holds: impl FnMut() -> bool) {
        poll_fn(|cx| {
            if holds() {
                return Poll::Ready(());
            }
            {
                let mut wakers = self.wakers.lock();
                if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
                self.waiting.store(wakers.len(), Ordering::Relaxed);
            }
            fence(Ordering::SeqCst);
            // What changed before the fence was seen by us; what changes after it sees our waker.
            if holds() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Makes every waiter look again. The caller has made its change before.
    pub fn wake_all(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let wakers = {
            let mut wakers = self.wakers.lock();
            self.waiting.store(0, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

/// A lock that tasks of several queues may hold across an await.
#[derive(Debug, Default)]
pub struct AsyncMutex {
    held: AtomicBool,
    waiters: WaitList,
}

impl AsyncMutex {
    /// A free lock.
    pub fn new() -> AsyncMutex {
        AsyncMutex::default()
    }

    /// Waits for the lock.
    pub async fn lock(&self) -> AsyncMutexGuard<'_> {
        self.waiters.wait_until(|| self.take()).await;
        AsyncMutexGuard { mutex: self }
    }

    /// The lock, if nobody holds it.
    pub fn try_lock(&self) -> Option<AsyncMutexGuard<'_>> {
        self.take().then(|| AsyncMutexGuard { mutex: self })
    }

    fn take(&self) -> bool {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

/// Holds an [`AsyncMutex`] until it is dropped.
#[derive(Debug)]
pub struct AsyncMutexGuard<'a> {
    mutex: &'a AsyncMutex,
}

impl Drop for AsyncMutexGuard<'_> {
    fn drop(&mut self) {
        self.mutex.held.store(false, Ordering::Release);
        self.mutex.waiters.wake_all();
    }
}

/// The value of `work`, or nothing when `limit` ends first.
pub async fn first<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}
