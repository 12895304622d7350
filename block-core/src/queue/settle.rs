//! How a request ends that the graph has answered: a device's errors go by its rules, and what is to
//! be held waits and starts again.
//!
//! Called by the request path at step 6. Invariant: a request that is held has neither snapshot nor
//! announcement, only its memory. Not here: the rules (`on_error.rs`), counting and telling the
//! caller (`path.rs`).

use std::sync::Arc;

use block_schema::types::BlockErrorAction;

use super::aside::Toll;
use super::executor::TaskKind;
use super::{BackendSlot, LocalQueue};
use crate::error::Error;
use crate::request::{Op, Request};

/// How a request ended.
#[derive(Debug)]
pub(super) enum End {
    /// Well.
    Done,
    /// Before it began.
    Refused(Error),
    /// On its way.
    Failed(Error),
}

impl LocalQueue {
    /// Ends a request, unless the rules of its device say that it has not ended.
    pub(super) fn settle(&self, index: usize, end: End) {
        match end {
            End::Done | End::Refused(_) => self.finish(index, end),
            End::Failed(error) => self.fail(index, error),
        }
    }

    #[cold]
    fn fail(&self, index: usize, error: Error) {
        self.0.layer.tell_corruption(&error);
        let Some((slot, op)) = self.whose(index) else {
            return;
        };
        let backend = Arc::clone(&self.0.backends.borrow()[slot.0 as usize].backend);
        match self.0.layer.judge(&backend, op, &error) {
            BlockErrorAction::Report => self.finish(index, End::Failed(error)),
            BlockErrorAction::Ignore => self.finish(index, End::Done),
            BlockErrorAction::Stop => match self.put_aside(index) {
                Some(request) => self.do_again(index, slot, request, error),
                None => self.finish(index, End::Failed(error)),
            },
        }
    }

    fn whose(&self, index: usize) -> Option<(BackendSlot, Op)> {
        let requests = self.0.requests.borrow();
        let request = requests.get(index)?;
        Some((request.backend, request.op))
    }

    /// Takes everything from a request that others could wait for; what is left can start again.
    fn put_aside(&self, index: usize) -> Option<Request> {
        let mut requests = self.0.requests.borrow_mut();
        let state = requests.get_mut(index)?;
        state.outstanding = 1;
        state.error = None;
        state.snapshot = None;
        if let Some(place) = state.announcement.take() {
            self.leave(place);
        }
        let has_memory = matches!(state.op, Op::Read | Op::Write | Op::WriteCompressed);
        let request = Request {
            op: state.op,
            offset: state.offset,
            len: state.len,
            fua: state.fua,
            buf: state.buf.clone(),
        };
        (!has_memory || request.buf.len() as u64 == request.len).then_some(request)
    }

    /// Waits for the machine to go on, then does the request again.
    fn do_again(&self, index: usize, slot: BackendSlot, request: Request, error: Error) {
        let queue = self.clone();
        let task = async move {
            let backend = Arc::clone(&queue.0.backends.borrow()[slot.0 as usize].backend);
            let layer = queue.layer().clone();
            let went_on = queue.wait_aside(index, layer.goes_on(&backend)).await;
            if went_on.is_none() || backend.is_retired() {
                queue.finish(index, End::Failed(error));
                return;
            }
            let now = queue.now();
            if let Some(state) = queue.0.requests.borrow_mut().get_mut(index) {
                state.started = now;
            }
            queue.carry_out(index, slot, request, Toll::Due).await;
        };
        self.spawn_task(Box::pin(task), TaskKind::Request);
    }
}
