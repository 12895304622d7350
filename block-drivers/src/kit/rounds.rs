//! Rounds: while a driver has something in memory that it may come to drop, a timer of one queue asks
//! it every so often, by [`Driver::drop_unused`](block_core::driver::Driver::drop_unused).
//! Called by formats whose caches forget what nobody uses.
//! Invariants: one timer at a time, and none when nothing is left to be dropped, so that an idle image
//! costs nothing; once [`Rounds::close`] has returned, no round holds the node.
//! Not here: what is dropped, and what counts as used (`table_cache.rs`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use block_core::LocalQueue;
use block_core::driver::Cx;
use block_core::graph::Node;
use block_core::sync::{WaitList, first};
use parking_lot::Mutex;

/// The rounds of one image.
pub(crate) struct Rounds {
    /// Time from one to the next; `None`: there are none.
    interval: Option<Duration>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether there is a timer.
    running: AtomicBool,
    closed: AtomicBool,
    closing: WaitList,
    /// Held in a round.
    round: Mutex<()>,
}

impl Rounds {
    /// Rounds that have not begun.
    pub(crate) fn new(interval: Option<Duration>) -> Rounds {
        let shared = Arc::default();
        Rounds { interval, shared }
    }

    /// Sees to a timer, now that something is in memory. It is one of the caller's queue, and ends with
    /// that; then the next call makes another one.
    pub(crate) fn begin(&self, cx: &Cx) {
        let Some(interval) = self.interval else {
            return;
        };
        if self.shared.running.load(Ordering::Relaxed) || self.shared.is_closed() {
            return;
        }
        if let Some(turn) = Turn::take(&self.shared) {
            let (queue, node) = (cx.queue().clone(), Arc::downgrade(cx.node()));
            cx.queue().spawn(turn.go_round(queue, node, interval));
        }
    }

    /// Ends the rounds for ever.
    pub(crate) fn close(&self) {
        let _no_round = self.shared.round.lock();
        self.shared.close();
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        // Perhaps in a round, which held the last handle.
        self.shared.close();
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.wake_all();
    }

    /// One round; whether there may be something to do in the next.
    fn go(&self, node: &Weak<Node>) -> bool {
        let _round = self.round.lock();
        if self.is_closed() {
            return false;
        }
        node.upgrade()
            .is_some_and(|node| node.driver().drop_unused())
    }
}

/// The right to have a timer.
struct Turn(Arc<Shared>);

impl Turn {
    fn take(shared: &Arc<Shared>) -> Option<Turn> {
        let taken = shared.running.swap(true, Ordering::AcqRel);
        (!taken).then(|| Turn(Arc::clone(shared)))
    }

    async fn go_round(self, queue: LocalQueue, node: Weak<Node>, interval: Duration) {
        let shared = Arc::clone(&self.0);
        let mut turn = self;
        loop {
            let closed = shared.closing.wait_until(|| shared.is_closed());
            if first(queue.sleep(interval), closed).await.is_none() {
                return;
            }
            if shared.go(&node) {
                continue;
            }
            drop(turn);
            // Who put something into memory meanwhile may have seen the turn as taken.
            if !shared.go(&node) {
                return;
            }
            match Turn::take(&shared) {
                Some(again) => turn = again,
                None => return,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}
