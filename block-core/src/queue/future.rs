//! The ends of operations and requests, for those who await them on the queue's own thread.
//!
//! Made by the queue (`mod.rs`), which keeps the state; dropping one detaches what it stands for:
//! the operation or request runs to its end. Not here: waiting from other threads (`handle.rs`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{LocalQueue, OpState, Target};
use crate::buffer::IoBuf;
use crate::engine::{Completion, Token};
use crate::error::Result;

/// The end of an operation.
pub(crate) struct OpFuture {
    pub(super) queue: LocalQueue,
    pub(super) index: Option<usize>,
}

impl Future for OpFuture {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Completion> {
        let index = self.index.expect("not polled again after its end");
        let taken = {
            let mut ops = self.queue.0.ops.borrow_mut();
            match ops.get_mut(index) {
                Some(OpState::Future { done, waker }) => match done.take() {
                    Some(completion) => {
                        ops.remove(index);
                        Some(completion)
                    }
                    None => {
                        *waker = Some(cx.waker().clone());
                        None
                    }
                },
                Some(OpState::Request(_) | OpState::Detached) | None => None,
            }
        };
        match taken {
            Some(completion) => {
                self.index = None;
                Poll::Ready(completion)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let token = Token(index as u64);
        let finished = {
            let mut ops = self.queue.0.ops.borrow_mut();
            match ops.get_mut(index) {
                Some(OpState::Future { done: Some(_), .. }) => Some(ops.remove(index)),
                Some(state) => {
                    *state = OpState::Detached;
                    None
                }
                None => return,
            }
        };
        if finished.is_none() {
            // Timers, receives and polls nobody waits for end early; leaf I/O goes on.
            self.queue.0.engine.borrow_mut().cancel(token);
        }
    }
}

/// The end of a request, from [`LocalQueue::request`]. Dropping it detaches the request.
pub struct RequestFuture {
    pub(super) queue: LocalQueue,
    pub(super) index: Option<usize>,
}

impl Future for RequestFuture {
    type Output = Result<IoBuf>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<IoBuf>> {
        let index = self.index.expect("not polled again after its end");
        let taken = {
            let mut requests = self.queue.0.requests.borrow_mut();
            match requests.get_mut(index).map(|r| &mut r.target) {
                Some(Target::Future { done, waker }) => match done.take() {
                    Some(end) => {
                        requests.remove(index);
                        Some(end)
                    }
                    None => {
                        *waker = Some(cx.waker().clone());
                        None
                    }
                },
                Some(Target::Token(_) | Target::Detached) | None => None,
            }
        };
        match taken {
            Some((result, buf)) => {
                self.index = None;
                Poll::Ready(result.map(|()| buf))
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for RequestFuture {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut requests = self.queue.0.requests.borrow_mut();
        let Some(request) = requests.get_mut(index) else {
            return;
        };
        let finished = matches!(request.target, Target::Future { done: Some(_), .. });
        if finished {
            let gone = requests.remove(index);
            drop(requests);
            drop(gone);
        } else {
            request.target = Target::Detached;
        }
    }
}
