//! Aside: where requests of a device wait for its limits, or for the machine to go on, before they
//! have anything that others could wait for.
//!
//! Called by the request path at step 2, and for requests that are held. Invariant: a request that
//! waits aside holds no snapshot, no announcement and nobody's turn on a parked queue; parking does
//! not wait for it, and a queue that is dropped lets it go on. Not here: the limits themselves
//! (`throttle`), gates of nodes that are drained (`gates.rs`, `path.rs`).

use std::future::Future;

use super::LocalQueue;
use crate::backend::Backend;
use crate::request::{Op, Request};
use crate::sync::first;
use crate::throttle::{Direction, Load};

/// Whether a request has still to pass its device's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toll {
    /// It has.
    Due,
    /// It has passed, or there are none.
    Paid,
}

impl LocalQueue {
    /// Passes the limits without waiting, where that can be.
    pub(super) fn pay_at_once(&self, backend: &Backend, request: &Request) -> Toll {
        let throttle = backend.throttle();
        if !throttle.limits() {
            return Toll::Paid;
        }
        match load_of(request) {
            Some(load) if !throttle.try_pass(self.clock(), load) => Toll::Due,
            Some(_) | None => Toll::Paid,
        }
    }

    /// Waits until the limits let a request pass, or the queue ends.
    pub(super) async fn pay(&self, index: usize, backend: &Backend, request: &Request) {
        if let Some(load) = load_of(request) {
            let pass = backend.throttle().pass(self, load);
            self.wait_aside(index, pass).await;
        }
    }

    /// Waits outside of everything; `None` says that the queue ends.
    pub(super) async fn wait_aside<T>(
        &self,
        index: usize,
        what: impl Future<Output = T>,
    ) -> Option<T> {
        let _aside = Aside::new(self, index);
        let inner = &self.0;
        let ending = inner.aside.wait_until(|| inner.ending.get());
        first(what, ending).await
    }

    /// Lets other queues pass those that wait here: nobody polls them for a while.
    pub(super) fn give_turns_up(&self) {
        self.0.parked.set(true);
        for attached in &*self.0.backends.borrow() {
            attached.backend.throttle().park(self.key());
        }
    }

    /// The opposite, when the thread is back.
    pub(super) fn take_turns_again(&self) {
        if self.0.parked.replace(false) {
            for attached in &*self.0.backends.borrow() {
                attached.backend.throttle().unpark(self.key());
            }
        }
    }
}

/// What counts against limits; `None` for requests that move no bytes of a guest.
fn load_of(request: &Request) -> Option<Load> {
    let direction = match request.op {
        Op::Read => Direction::Read,
        Op::Write | Op::WriteCompressed | Op::WriteZeroes(_) => Direction::Write,
        Op::Populate | Op::Discard | Op::Flush => return None,
    };
    let len = request.len;
    Some(Load { direction, len })
}

/// Marks a request as waiting aside until dropped.
struct Aside<'a> {
    queue: &'a LocalQueue,
    index: usize,
}

impl Aside<'_> {
    fn new(queue: &LocalQueue, index: usize) -> Aside<'_> {
        let tasks = &queue.0.request_tasks;
        tasks.set(tasks.get() - 1);
        queue.0.requests.borrow_mut()[index].outstanding = 0;
        Aside { queue, index }
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        let tasks = &self.queue.0.request_tasks;
        tasks.set(tasks.get() + 1);
        let mut requests = self.queue.0.requests.borrow_mut();
        if let Some(request) = requests.get_mut(self.index) {
            request.outstanding = 1;
        }
    }
}
