//! One client: greeting, negotiation, commands in and replies out.
//!
//! Three tasks of the control plane's queue share a [`Session`]: the reader turns bytes into
//! values, the executor runs them in order, the writer sends what is in the outbox. Invariant: a
//! command that has begun runs to its end, also when the client leaves; at most
//! [`MAX_QUEUED`] commands wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use block_schema::types::QMPCapability;
use block_schema::{Error, JsonStream, Object, Value, Wire, already_negotiated, commands};
use rustix::net::Shutdown;

use super::commands::Commands;
use super::log;
use super::outbox::{Next, Outbox};
use super::query;
use super::server::Daemon;
use crate::buffer::IoBuf;
use crate::queue::LocalQueue;
use crate::sync::{WaitList, first};

/// Commands in band that wait for their turn; the client is not read while there are more.
const MAX_QUEUED: usize = 8;
/// Bytes read at once. Each may be a value of its own, which is what bounds the replies to them.
const READ_LEN: usize = 4096;
/// How long `quit` waits for its reply to be taken.
const LAST_REPLY: Duration = Duration::from_secs(1);

/// A value that came, or what was wrong with it.
type Input = Result<Value, Error>;

/// The state of one client.
pub(crate) struct Session {
    socket: Arc<OwnedFd>,
    outbox: Arc<Outbox>,
    negotiated: Cell<block_schema::Session>,
    /// Commands in band, in order.
    inbox: RefCell<VecDeque<Input>>,
    /// Nothing more comes in.
    closed: Cell<bool>,
    /// The client said `quit`.
    quits: Cell<bool>,
    /// Woken when the inbox changes.
    changed: WaitList,
}

/// Serves a client until it leaves or the daemon ends.
pub(super) async fn serve(daemon: &Rc<Daemon>, socket: OwnedFd) {
    let queue = daemon.queue();
    let session = Rc::new(Session {
        socket: Arc::new(socket),
        outbox: Arc::new(Outbox::default()),
        negotiated: Cell::default(),
        inbox: RefCell::default(),
        closed: Cell::new(false),
        quits: Cell::new(false),
        changed: WaitList::new(),
    });
    daemon.welcome(&session);
    queue.layer().events().subscribe(&session.outbox);
    session.outbox.push(&greeting());
    let server = Rc::new(Commands {
        daemon: Rc::clone(daemon),
        session: Rc::clone(&session),
    });
    queue.spawn(write(queue.clone(), Rc::clone(&session)));
    queue.spawn(read(Rc::clone(&server)));
    execute(&server).await;
    session.outbox.finish().await;
    session.hang_up();
}

fn greeting() -> Value {
    let oob = Value::from(QMPCapability::Oob.as_str());
    let body: Object = [
        ("version", query::version().encode()),
        ("capabilities", Value::from(vec![oob])),
    ]
    .into_iter()
    .collect();
    let greeting: Object = [("QMP", Value::from(body))].into_iter().collect();
    Value::from(greeting)
}

/// Reads until the client leaves or the daemon ends.
async fn read(server: Rc<Commands>) {
    read_all(&server).await;
    server.session.closed.set(true);
    server.session.changed.wake_all();
}

async fn read_all(server: &Commands) {
    let session = &server.session;
    let queue = server.daemon.queue();
    let mut stream = JsonStream::new();
    let mut buf = IoBuf::zeroed(READ_LEN);
    loop {
        let (count, filled) = match queue.recv(&session.socket, buf).await {
            Ok((0, _)) | Err(_) => return,
            Ok(received) => received,
        };
        if session.closed.get() {
            return;
        }
        let bytes = filled.slice(0..count).to_vec();
        buf = filled;
        for input in stream.feed(&bytes) {
            match input {
                Ok(value) if is_out_of_band(&value) => {
                    if let Some(message) = server.answer(Ok(value)).await {
                        session.outbox.push(&message);
                    }
                    if !session.outbox.has_room().await {
                        return;
                    }
                }
                input => session.enqueue(input).await,
            }
        }
    }
}

/// Whether a value asks to be run before those that came earlier.
fn is_out_of_band(value: &Value) -> bool {
    value.get("exec-oob").is_some() && value.get("execute").is_none()
}

/// Runs commands in order until no more come.
async fn execute(server: &Commands) {
    let session = &server.session;
    while let Some(input) = session.next_input().await {
        let hears = session.negotiated.get().negotiated;
        if let Some(message) = server.answer(input).await {
            if session.negotiated.get().negotiated && !hears {
                session.outbox.push_and_hear(&message);
            } else {
                session.outbox.push(&message);
            }
        }
        if session.quits.get() {
            // The reply leaves before the process does, if the client takes it.
            let patience = server.daemon.queue().sleep(LAST_REPLY);
            first(session.outbox.is_empty(), patience).await;
            server.daemon.end();
            return;
        }
        if !session.outbox.has_room().await {
            return;
        }
    }
}

/// Sends what is in the outbox until there is no more, or the client is gone.
async fn write(queue: LocalQueue, session: Rc<Session>) {
    loop {
        match session.outbox.next().await {
            Next::Send(chunk) => {
                if let Err(error) = queue.send(&session.socket, IoBuf::copy_of(&chunk)).await {
                    tracing::debug!("QMP client: {error}");
                    session.outbox.break_off();
                }
            }
            Next::Finished => break,
            Next::Broken => {
                // The reader hears of it by this.
                session.hang_up();
                break;
            }
        }
    }
    session.outbox.writer_ended();
}

impl Session {
    /// Turns on what the client asks for, once; the arguments have been checked.
    pub(super) fn negotiate(&self, arguments: commands::QmpCapabilities) -> Result<(), Error> {
        if self.negotiated.get().negotiated {
            return Err(already_negotiated());
        }
        let enable = arguments.enable.unwrap_or_default();
        self.negotiated.set(block_schema::Session {
            negotiated: true,
            oob: enable.contains(&QMPCapability::Oob),
        });
        Ok(())
    }

    pub(super) fn ask_to_quit(&self) {
        self.quits.set(true);
    }

    /// Waits for room, then queues a value.
    async fn enqueue(&self, input: Input) {
        let has_room = || self.inbox.borrow().len() < MAX_QUEUED || self.closed.get();
        self.changed.wait_until(has_room).await;
        self.inbox.borrow_mut().push_back(input);
        self.changed.wake_all();
    }

    /// The next value; `None` when no more come.
    async fn next_input(&self) -> Option<Input> {
        let mut next = None;
        let ready = || {
            next = self.inbox.borrow_mut().pop_front();
            next.is_some() || self.closed.get()
        };
        self.changed.wait_until(ready).await;
        self.changed.wake_all();
        next.filter(|_| !self.outbox.is_broken())
    }

    /// Takes no command any more; the one that runs goes on.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.inbox.borrow_mut().clear();
        self.shut(Shutdown::Read);
        self.changed.wake_all();
    }

    fn hang_up(&self) {
        self.shut(Shutdown::Both);
    }

    fn shut(&self, how: Shutdown) {
        if let Err(error) = rustix::net::shutdown(&self.socket, how) {
            // The peer was faster.
            tracing::trace!("shutdown of a QMP connection: {error}");
        }
    }
}

impl Commands {
    /// Runs what came, and gives the reply.
    async fn answer(&self, input: Input) -> Option<Value> {
        let asked = log::asked(&input);
        // The command's future is large, and this one waits in others.
        let reply = Box::pin(block_schema::answer(
            self,
            self.session.negotiated.get(),
            input,
        ))
        .await;
        if let Some(asked) = asked {
            log::answered(asked, reply.as_ref());
        }
        reply
    }
}
