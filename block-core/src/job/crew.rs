//! Several pieces of a job's work at once, on its queue.
//!
//! A piece is a task; what it fails with is kept for who started it. Invariant: a piece that was
//! started runs to its end, whatever becomes of the others.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use super::worker::Stop;
use crate::queue::LocalQueue;
use crate::sync::WaitList;

/// Pieces of work under way.
#[derive(Clone)]
pub(crate) struct Crew {
    queue: LocalQueue,
    shared: Rc<Shared>,
    most: usize,
}

#[derive(Default)]
struct Shared {
    running: Cell<usize>,
    failure: RefCell<Option<Stop>>,
    ended: WaitList,
}

impl Crew {
    /// None yet; at most `most` at once.
    pub(crate) fn new(queue: &LocalQueue, most: usize) -> Crew {
        Crew {
            queue: queue.clone(),
            shared: Rc::default(),
            most,
        }
    }

    /// Starts a piece, when there is a place for it.
    ///
    /// # Errors
    /// The failure of an earlier piece, once.
    pub(crate) async fn start(
        &self,
        piece: impl Future<Output = Result<(), Stop>> + 'static,
    ) -> Result<(), Stop> {
        let shared = Rc::clone(&self.shared);
        shared
            .ended
            .wait_until(|| shared.running.get() < self.most)
            .await;
        if let Some(stop) = shared.failure.borrow_mut().take() {
            return Err(stop);
        }
        shared.running.set(shared.running.get() + 1);
        let place = Place(Rc::clone(&shared));
        self.queue.spawn(async move {
            let result = piece.await;
            if let Err(stop) = result {
                place.0.failure.borrow_mut().get_or_insert(stop);
            }
            drop(place);
        });
        Ok(())
    }

    /// Waits until none is under way.
    pub(crate) async fn settle(&self) {
        let shared = &self.shared;
        shared.ended.wait_until(|| shared.running.get() == 0).await;
    }

    /// Waits until none is under way.
    ///
    /// # Errors
    /// The failure of an earlier piece, once.
    pub(crate) async fn finish(&self) -> Result<(), Stop> {
        self.settle().await;
        match self.shared.failure.borrow_mut().take() {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }
}

/// A piece's place; given back however the piece ends.
struct Place(Rc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.wake_all();
    }
}
