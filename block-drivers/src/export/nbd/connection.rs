//! One client's connection: a task of the queue that serves it, from the greeting to the close.
//!
//! Three parts run as one task, each polled whenever the task is: a receiver that parses and
//! starts requests, a collector that turns finished ones into replies, and a sender. They share
//! [`State`]; none waits for a waker of another, so a batch of completions costs one wake-up.
//! Invariant: a request is started only when all of its payload has come, and what a client can
//! make us hold is bounded by [`BUDGET`]. A client that stops reading fills its own budget and
//! nothing else. Spec: "Transmission". Not here: what a request does (`work.rs`).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use block_core::IoBuf;
use block_core::queue::LocalQueue;

use super::buffers::Buffers;
use super::server::{ConnectionId, Export, Shared};
use super::work::{Target, Ticket, Work, refusal};
use crate::nbd::input::Input;
use crate::nbd::layout::{MAX_PAYLOAD, transmission};
use crate::nbd::outbox::{Message, Outbox, Share};
use crate::nbd::request::{Action, Header, Terms, Verdict};
use crate::nbd::server_handshake::{Agreed, Handshake, Step};
use crate::nbd::{WireError, first};

/// What one connection may hold at once; a single request of any legal size always fits.
const BUDGET: Share = Share {
    requests: 64,
    bytes: MAX_PAYLOAD as usize,
};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The peer broke the protocol.
    #[error(transparent)]
    Protocol(#[from] WireError),
    /// The socket failed.
    #[error("socket")]
    Socket(#[from] io::Error),
    /// The handshake took too long.
    #[error("handshake took longer than {seconds} s")]
    HandshakeTimeout {
        /// The limit.
        seconds: f32,
    },
    /// The export went away during the handshake.
    #[error("export was removed")]
    ExportRemoved,
}

/// Serves one client until either side is done.
pub(super) async fn serve(
    queue: LocalQueue,
    socket: Arc<OwnedFd>,
    server: Arc<Shared>,
    id: ConnectionId,
) -> Result<(), End> {
    let mut input = Input::new();
    let limit = server.handshake_max();
    let negotiation = negotiate(&queue, &socket, &mut input, &server, id);
    let agreed = match limit {
        None => negotiation.await?,
        Some(limit) => {
            first(negotiation, queue.sleep(limit))
                .await
                .ok_or(End::HandshakeTimeout {
                    seconds: limit.as_secs_f32(),
                })??
        }
    };
    let Some(agreed) = agreed else { return Ok(()) };
    Connection::new(queue, socket, &agreed).run(input).await
}

/// Haggles; nothing when the client left without choosing an export.
async fn negotiate(
    queue: &LocalQueue,
    socket: &Arc<OwnedFd>,
    input: &mut Input,
    server: &Shared,
    id: ConnectionId,
) -> Result<Option<Agreed<Arc<Export>>>, End> {
    let mut out = Vec::new();
    let catalog = server.catalog(queue.layer());
    let mut handshake = Handshake::new(&mut out);
    queue.send(socket, IoBuf::copy_of(&out)).await?;
    loop {
        out.clear();
        let advanced = handshake.advance(&input.unread(), &mut out, &catalog);
        // The export knows of its client before the client knows of the export.
        if let Ok((_, Step::Transmission(agreed))) = &advanced
            && !server.use_export(id, &agreed.export)
        {
            return Err(End::ExportRemoved);
        }
        if !out.is_empty() {
            queue.send(socket, IoBuf::copy_of(&out)).await?;
        }
        let (taken, step) = advanced?;
        input.skip(taken);
        match step {
            Step::Answered => {}
            Step::Transmission(agreed) => return Ok(Some(agreed)),
            Step::Aborted => return Ok(None),
            Step::More => {
                // Leaving between two options is no offence: port probes do it.
                if input.fill(queue, socket).await? == 0 {
                    return if input.len() == 0 {
                        Ok(None)
                    } else {
                        Err(WireError::Closed.into())
                    };
                }
            }
        }
    }
}

/// What the receiver, the collector and the sender share.
struct State {
    working: RefCell<Vec<Work>>,
    replies: RefCell<Outbox>,
    buffers: RefCell<Buffers>,
    /// What is held of the budget.
    held: Cell<Share>,
    /// No more requests will come.
    received_all: Cell<bool>,
    /// Something changed that another part may wait for.
    progress: Cell<bool>,
}

struct Connection {
    queue: LocalQueue,
    socket: Arc<OwnedFd>,
    target: Target,
    terms: Terms,
    state: State,
}

impl Connection {
    fn new(queue: LocalQueue, socket: Arc<OwnedFd>, agreed: &Agreed<Arc<Export>>) -> Connection {
        let state = State {
            working: RefCell::default(),
            replies: RefCell::new(Outbox::new()),
            buffers: RefCell::default(),
            held: Cell::default(),
            received_all: Cell::new(false),
            progress: Cell::new(false),
        };
        let terms = Terms {
            size: agreed.info.size,
            read_only: agreed.info.flags & transmission::READ_ONLY != 0,
            structured: agreed.structured,
            status: !agreed.contexts.is_empty(),
        };
        let target = Target::new(&queue, &agreed.export, agreed.structured, &agreed.contexts);
        Connection {
            queue,
            socket,
            target,
            terms,
            state,
        }
    }

    /// Runs the three parts until the last reply is sent, or the connection breaks; then waits
    /// for requests in flight, so that whoever waits for this connection waits for them too.
    async fn run(&self, input: Input) -> Result<(), End> {
        let state = &self.state;
        let mut receiver = pin!(self.receive(input));
        let mut sender = pin!(self.send());
        let mut received = None;
        let result = poll_fn(|cx| {
            loop {
                state.progress.set(false);
                if received.is_none()
                    && let Poll::Ready(end) = receiver.as_mut().poll(cx)
                {
                    received = Some(end);
                    state.received_all.set(true);
                }
                self.collect(cx);
                if let Poll::Ready(sent) = sender.as_mut().poll(cx) {
                    return Poll::Ready(sent);
                }
                if !state.progress.get() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        poll_fn(|cx| {
            self.collect(cx);
            if state.working.borrow().is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        result?;
        received.unwrap_or(Ok(()))
    }

    /// Polls every request in flight; the finished ones become replies.
    fn collect(&self, cx: &mut std::task::Context<'_>) {
        let state = &self.state;
        let mut working = state.working.borrow_mut();
        let mut buffers = state.buffers.borrow_mut();
        let mut index = 0;
        while let Some(work) = working.get_mut(index) {
            match work.poll_reply(cx, self.terms.structured, &mut buffers) {
                Poll::Pending => index += 1,
                Poll::Ready(messages) => {
                    working.swap_remove(index);
                    let mut replies = state.replies.borrow_mut();
                    messages
                        .into_iter()
                        .for_each(|message| replies.push(message));
                    state.progress.set(true);
                }
            }
        }
    }

    /// Parses requests and starts them, until the client says goodbye or breaks the protocol.
    async fn receive(&self, mut input: Input) -> Result<(), End> {
        loop {
            let Some(bytes) = input.take() else {
                if input.fill(&self.queue, &self.socket).await? == 0 {
                    // A client that just closes has finished as well, unless inside a header.
                    return if input.len() == 0 {
                        Ok(())
                    } else {
                        Err(WireError::Closed.into())
                    };
                }
                continue;
            };
            let header = Header::parse(&bytes)?;
            match header.judge(&self.terms) {
                Verdict::Perform(action) => self.start(&mut input, header.cookie, action).await?,
                Verdict::Refuse {
                    error,
                    payload,
                    reason,
                } => {
                    self.discard_payload(&mut input, payload).await?;
                    self.refuse(header.cookie, error, reason).await;
                }
                Verdict::Cut { error, reason } => {
                    self.refuse(header.cookie, error, reason).await;
                    return Ok(());
                }
                Verdict::Disconnect => return Ok(()),
            }
        }
    }

    async fn start(&self, input: &mut Input, cookie: u64, action: Action) -> Result<(), End> {
        let share = Share {
            requests: 1,
            bytes: action.memory(),
        };
        self.take_share(share).await;
        let payload = match action {
            Action::Write { len, .. } => self.receive_payload(input, len as usize).await?,
            Action::Read { .. }
            | Action::Flush
            | Action::Trim { .. }
            | Action::Cache
            | Action::WriteZeroes { .. }
            | Action::BlockStatus { .. } => IoBuf::empty(),
        };
        let work = {
            let mut buffers = self.state.buffers.borrow_mut();
            self.target
                .start(Ticket { cookie, share }, action, payload, &mut buffers)
        };
        self.state.working.borrow_mut().push(work);
        self.state.progress.set(true);
        Ok(())
    }

    async fn refuse(&self, cookie: u64, error: u32, reason: &str) {
        let share = Share {
            requests: 1,
            bytes: 0,
        };
        self.take_share(share).await;
        let head = refusal(self.terms.structured, cookie, error, reason);
        let message = Message {
            head,
            data: IoBuf::empty(),
            share,
        };
        self.state.replies.borrow_mut().push(message);
        self.state.progress.set(true);
    }

    /// Waits until the budget has room.
    async fn take_share(&self, share: Share) {
        poll_fn(|_| {
            // Polled again whenever the sender gives something back: it is the same task.
            let mut held = self.state.held.get();
            let fits = held.requests + share.requests <= BUDGET.requests
                && held.bytes + share.bytes <= BUDGET.bytes;
            if !fits {
                return Poll::Pending;
            }
            held.add(share);
            self.state.held.set(held);
            Poll::Ready(())
        })
        .await;
    }

    async fn receive_payload(&self, input: &mut Input, len: usize) -> Result<IoBuf, End> {
        let payload = self.state.buffers.borrow_mut().take(len);
        if !input
            .receive_all(&self.queue, &self.socket, &payload)
            .await?
        {
            return Err(WireError::Closed.into());
        }
        Ok(payload)
    }

    async fn discard_payload(&self, input: &mut Input, len: u32) -> Result<(), End> {
        let mut left = len as usize;
        loop {
            left -= input.skip(left);
            if left == 0 {
                return Ok(());
            }
            if input.fill(&self.queue, &self.socket).await? == 0 {
                return Err(WireError::Closed.into());
            }
        }
    }

    /// Sends replies, many at a time, until there will be no more.
    async fn send(&self) -> Result<(), End> {
        let state = &self.state;
        loop {
            let more = poll_fn(|_| {
                if !state.replies.borrow().is_empty() {
                    return Poll::Ready(true);
                }
                let over = state.received_all.get() && state.working.borrow().is_empty();
                if over {
                    Poll::Ready(false)
                } else {
                    Poll::Pending
                }
            })
            .await;
            if !more {
                return Ok(());
            }
            let batch = state.replies.borrow_mut().next_batch();
            drop(self.queue.send(&self.socket, batch.buf).await?);
            let mut held = state.held.get();
            held.sub(batch.share);
            state.held.set(held);
            let mut buffers = state.buffers.borrow_mut();
            batch.data.into_iter().for_each(|data| buffers.give(data));
            if held.requests == 0 {
                buffers.rest();
            }
            state.progress.set(true);
        }
    }
}
