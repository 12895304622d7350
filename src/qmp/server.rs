//! The connection to a server: one thread reads, the others wait for what it read.
//!
//! The protocol is `block_schema::runtime::Connection`; here are the socket and the waiting.
//! Invariant: the lock is never held over a system call, so a server that writes before it reads
//! is not waited for by a reader that waits for the writer. Not here: what is asked (`session`).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_core::error::kernel_text;
use block_schema::Object;
use block_schema::runtime::{CallId, Connection, ConnectionError, MAX_EVENTS, RawEvent, Reply};
use parking_lot::{Condvar, Mutex};

use super::line::{Call, Wait};
use crate::report::{Failure, warning};

/// After so long without a greeting the user is told what may be going on.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server that has greeted and agreed.
pub(crate) struct Server {
    socket: UnixStream,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    connection: Connection,
    /// For `wait`, oldest first; bounded by [`MAX_EVENTS`].
    events: VecDeque<RawEvent>,
    /// For whoever watches; `None` when nobody does.
    fresh: Option<VecDeque<RawEvent>>,
    /// Calls whose answers are shown when they come.
    late: Vec<Late>,
    interrupted: bool,
}

struct Late {
    id: CallId,
    command: String,
}

/// How waiting ended.
#[derive(Debug)]
pub(super) enum Waited<T> {
    Came(T),
    Interrupted,
    TimedOut,
    Lost(ConnectionError),
}

/// What happens without being waited for.
pub(super) enum News {
    Event(RawEvent),
    Answer { command: String, reply: Reply },
}

impl Server {
    /// Connects, waits for the greeting and negotiates.
    ///
    /// # Errors
    /// When nobody listens, or whoever does speaks no QMP.
    pub(crate) fn connect(path: &str, oob: bool) -> Result<Server, Failure> {
        let refused = |error: std::io::Error| {
            let why = kernel_text(&error);
            Failure::new(format!("Could not connect to '{path}': {why}"))
        };
        let mut socket = UnixStream::connect(path).map_err(refused)?;
        let mut connection = match oob {
            true => Connection::new(),
            false => Connection::without_oob(),
        };
        socket.set_read_timeout(Some(PATIENCE)).map_err(refused)?;
        while !connection.is_ready() {
            send(&mut socket, &mut connection).map_err(|error| Failure::new(sentence(&error)))?;
            if !receive(&mut socket, &mut connection).map_err(|e| Failure::new(sentence(&e)))? {
                warning("No greeting yet; a server may be talking to another client");
                socket.set_read_timeout(None).map_err(refused)?;
            }
        }
        socket.set_read_timeout(None).map_err(refused)?;
        if oob && !connection.has_oob() {
            return Err(Failure::new("The server does not offer OOB"));
        }
        let mut reading = socket.try_clone().map_err(refused)?;
        let shared = Arc::new(Shared::default());
        shared.state.lock().connection = connection;
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || for_thread.read(&mut reading));
        Ok(Server { socket, shared })
    }

    /// QEMU's version, as the server says.
    pub(super) fn version(&self) -> String {
        let state = self.shared.state.lock();
        let version = state.connection.greeting().map(|greeting| greeting.version);
        let (major, minor, micro) = version.unwrap_or_default();
        format!("{major}.{minor}.{micro}")
    }

    /// Sends a command. Its answer is to be waited for.
    pub(super) fn submit(&self, call: &Call) -> CallId {
        let (id, bytes) = {
            let mut state = self.shared.state.lock();
            let State {
                connection,
                events,
                fresh,
                ..
            } = &mut *state;
            if fresh.is_some() {
                // Who sees events come waits for those that are still to come.
                events.clear();
            }
            let (name, arguments) = (call.name.as_str(), call.arguments.clone());
            let id = match call.oob {
                true => connection.execute_oob(name, arguments),
                false => connection.execute(name, arguments),
            };
            let bytes = connection.output().to_vec();
            connection.sent(bytes.len());
            (id, bytes)
        };
        if let Err(error) = (&self.socket).write_all(&bytes) {
            let mut state = self.shared.state.lock();
            match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => state.connection.closed(),
                _ => state.connection.failed(error),
            };
        }
        id
    }

    /// Waits for an answer.
    pub(super) fn wait(&self, id: CallId) -> Waited<Reply> {
        self.shared.wait(None, |state| state.connection.reply(id))
    }

    /// Runs a command to its end; the reply holds the server's own refusal.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn execute(&self, name: &str, arguments: Object) -> Result<Reply, Failure> {
        let call = Call {
            name: name.to_owned(),
            arguments,
            oob: false,
        };
        match self.wait(self.submit(&call)) {
            Waited::Came(reply) => Ok(reply),
            Waited::Lost(error) => Err(Failure::new(sentence(&error))),
            Waited::Interrupted | Waited::TimedOut => Err(Failure::new("Interrupted")),
        }
    }

    /// Waits for any event, the oldest that came first; `None` when none comes in time.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn next_event(&self, timeout: Duration) -> Result<Option<RawEvent>, Failure> {
        let limit = Instant::now().checked_add(timeout);
        match self.shared.wait(limit, |state| state.events.pop_front()) {
            Waited::Came(event) => Ok(Some(event)),
            Waited::TimedOut | Waited::Interrupted => Ok(None),
            Waited::Lost(error) => Err(Failure::new(sentence(&error))),
        }
    }

    /// Lets an answer be [`News`] when it comes.
    pub(super) fn expect_later(&self, id: CallId, command: &str) {
        let command = command.to_owned();
        self.shared.state.lock().late.push(Late { id, command });
        self.shared.changed.notify_all();
    }

    /// Waits for an event; one that came earlier and that no other wait took will do.
    pub(super) fn wait_event(&self, wait: &Wait) -> Waited<RawEvent> {
        // A time limit that the clock cannot express is none.
        let limit = wait
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        self.shared.wait(limit, |state| {
            let mut events = state.events.iter();
            let index = events.position(|event| wait.takes(&event.name, &event.data))?;
            state.events.remove(index)
        })
    }

    /// Says that somebody will ask for [`Watch::next`].
    pub(super) fn watch(&self) -> Watch {
        self.shared.state.lock().fresh = Some(VecDeque::new());
        Watch(Arc::clone(&self.shared))
    }

    /// Why nothing more comes, if so.
    pub(super) fn lost(&self) -> Option<ConnectionError> {
        self.shared.state.lock().connection.error().cloned()
    }
}

/// What happens at a server, for a thread that shows it.
#[derive(Clone)]
pub(super) struct Watch(Arc<Shared>);

impl Watch {
    /// Waits for what happens next; `None` once the connection is lost.
    pub(super) fn next(&self) -> Option<News> {
        match self.0.wait_until(None, State::news, |_| false) {
            Waited::Came(news) => Some(news),
            Waited::Lost(_) | Waited::Interrupted | Waited::TimedOut => None,
        }
    }

    /// Ends what is being waited for.
    pub(super) fn interrupt(&self) {
        self.0.state.lock().interrupted = true;
        self.0.changed.notify_all();
    }
}

impl State {
    fn news(&mut self) -> Option<News> {
        if let Some(event) = self.fresh.as_mut().and_then(VecDeque::pop_front) {
            return Some(News::Event(event));
        }
        let State {
            late, connection, ..
        } = self;
        let answered = late.iter().enumerate();
        let mut answered = answered.filter_map(|(i, late)| Some((i, connection.reply(late.id)?)));
        let (index, reply) = answered.next()?;
        let Late { command, .. } = late.remove(index);
        Some(News::Answer { command, reply })
    }

    /// Takes over the events that came.
    fn sort(&mut self) {
        while let Some(event) = self.connection.event() {
            if let Some(fresh) = &mut self.fresh {
                push(fresh, event.clone());
            }
            push(&mut self.events, event);
        }
    }
}

fn push(events: &mut VecDeque<RawEvent>, event: RawEvent) {
    if events.len() >= MAX_EVENTS {
        events.pop_front();
    }
    events.push_back(event);
}

impl Shared {
    /// The reading thread.
    fn read(&self, socket: &mut UnixStream) {
        let mut bytes = vec![0; 32 << 10];
        loop {
            let read = socket.read(&mut bytes);
            let mut state = self.state.lock();
            let result = match read {
                Ok(0) => Err(state.connection.closed()),
                Ok(count) => state.connection.receive(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    Err(state.connection.closed())
                }
                Err(error) => Err(state.connection.failed(error)),
            };
            state.sort();
            drop(state);
            self.changed.notify_all();
            if result.is_err() {
                return;
            }
        }
    }

    /// Waits until there is what `take` takes; SIGINT ends it.
    fn wait<T>(
        &self,
        limit: Option<Instant>,
        take: impl FnMut(&mut State) -> Option<T>,
    ) -> Waited<T> {
        self.state.lock().interrupted = false;
        self.wait_until(limit, take, |state| state.interrupted)
    }

    fn wait_until<T>(
        &self,
        limit: Option<Instant>,
        mut take: impl FnMut(&mut State) -> Option<T>,
        ends: impl Fn(&State) -> bool,
    ) -> Waited<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(came) = take(&mut state) {
                return Waited::Came(came);
            }
            if ends(&state) {
                return Waited::Interrupted;
            }
            if let Some(error) = state.connection.error() {
                return Waited::Lost(error.clone());
            }
            match limit {
                None => self.changed.wait(&mut state),
                Some(limit) if self.changed.wait_until(&mut state, limit).timed_out() => {
                    return take(&mut state).map_or(Waited::TimedOut, Waited::Came);
                }
                Some(_) => {}
            }
        }
    }
}

fn send(socket: &mut UnixStream, connection: &mut Connection) -> Result<(), ConnectionError> {
    let sent = socket.write_all(connection.output());
    sent.map_err(|error| connection.failed(error))?;
    connection.sent(connection.output().len());
    Ok(())
}

/// Reads once; false when nothing came in time.
fn receive(socket: &mut UnixStream, connection: &mut Connection) -> Result<bool, ConnectionError> {
    let mut bytes = [0; 4096];
    match socket.read(&mut bytes) {
        Ok(0) => Err(connection.closed()),
        Ok(count) => connection.receive(&bytes[..count]).map(|()| true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(connection.failed(error)),
    }
}

/// Why a connection ended, as a sentence begins.
pub(super) fn sentence(error: &ConnectionError) -> String {
    let text = match error {
        ConnectionError::Io(error) => format!("lost the connection: {}", kernel_text(error)),
        other => other.to_string(),
    };
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).collect()
}
