//! The client's end of a connection, without I/O: bytes in, bytes out.
//! Whoever owns the socket gives what it read to [`Connection::receive`] and sends what
//! [`Connection::output`] holds; `client.rs` does so for a blocking stream.
//! Invariant: a reply goes to the call whose `id` it has, whatever the order; what came before an
//! error is still to be had after it. Memory is bounded: a message by the limits of
//! [`JsonStream`], replies by the calls made, events by [`MAX_EVENTS`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::{fmt, io};

use super::call::{Command, OutOfBand, Reply, request, take_reply};
use super::error::Error;
use super::event::RawEvent;
use super::json::JsonStream;
use super::value::{Object, Value};

/// Events kept for whoever asks for them; of more, the oldest go.
pub const MAX_EVENTS: usize = 4096;

/// What a guest agent is asked to send, and sends, before it answers `guest-sync-delimited`: no
/// JSON text has it.
const SENTINEL: u8 = 0xff;

/// Why there is no connection any more.
#[derive(Debug, Clone)]
pub enum ConnectionError {
    /// The server has closed it.
    Closed,
    /// Reading or writing failed. After `WouldBlock` and `TimedOut` the connection is as it was.
    Io(Arc<io::Error>),
    /// What the server sends is not JSON.
    Json(Error),
    /// What the server sends is JSON, but no message of the protocol.
    Message(&'static str),
    /// The server refuses to negotiate.
    Negotiation(Error),
}

/// What a server says about itself when a client comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeting {
    /// Major, minor and micro version of the server.
    pub version: (i64, i64, i64),
    /// What else it says of its version.
    pub package: String,
    /// What can be negotiated.
    pub capabilities: Vec<String>,
}

/// Names a call that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(i64);

/// The client's end of a connection.
///
/// ```ignore
/// let mut connection = Connection::new();
/// loop {
///     socket.write_all(connection.output())?;
///     connection.sent(connection.output().len());
///     if connection.is_ready() {
///         break;
///     }
///     let count = socket.read(&mut buffer)?;
///     connection.receive(&buffer[..count])?;
/// }
/// let id = connection.call(&commands::QueryVersion {});
/// ```
#[derive(Debug)]
pub struct Connection {
    stream: JsonStream,
    out: Vec<u8>,
    /// How much of `out` is sent.
    sent: usize,
    /// Calls without a reply that was taken, in the order in which they were made.
    calls: BTreeMap<CallId, Call>,
    /// How many of them are silent.
    silent: usize,
    next_id: i64,
    events: VecDeque<RawEvent>,
    lost_events: u64,
    phase: Phase,
    greeting: Option<Greeting>,
    peer: Peer,
    oob: bool,
    broken: Option<ConnectionError>,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A QMP server, asked for commands out of band if it offers them.
    Server,
    /// A QMP server.
    ServerWithoutOob,
    /// A guest agent.
    Agent,
}

#[derive(Debug)]
struct Call {
    oob: bool,
    state: CallState,
}

#[derive(Debug)]
enum CallState {
    /// Somebody waits for the reply.
    Waiting,
    /// Nobody waits any more.
    Abandoned,
    /// Only an error would be answered, and nobody waits for it.
    Silent,
    Answered(Reply),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the server's greeting.
    Greeting,
    /// Capabilities were asked for.
    Negotiating(CallId),
    Ready,
    /// With a guest agent: what comes is skipped up to a sentinel.
    Skipping(i64),
    /// With a guest agent: after a sentinel, before the answer of this number.
    Syncing(i64),
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// A connection to a QMP server. It waits for the greeting, then negotiates by itself, with
    /// commands out of band if the server offers them.
    pub fn new() -> Self {
        Self::with(Peer::Server, Phase::Greeting)
    }

    /// A connection to a QMP server that is not asked for commands out of band.
    pub fn without_oob() -> Self {
        Self::with(Peer::ServerWithoutOob, Phase::Greeting)
    }

    /// A connection to a guest agent, which neither greets nor negotiates. It is ready at once;
    /// where an earlier client may have left something in the channel, [`sync`](Self::sync).
    pub fn guest_agent() -> Self {
        Self::with(Peer::Agent, Phase::Ready)
    }

    fn with(peer: Peer, phase: Phase) -> Self {
        Self {
            stream: JsonStream::new(),
            out: Vec::new(),
            sent: 0,
            calls: BTreeMap::new(),
            next_id: 1,
            events: VecDeque::new(),
            lost_events: 0,
            silent: 0,
            phase,
            greeting: None,
            peer,
            oob: false,
            broken: None,
        }
    }

    /// Asks a guest agent to begin anew; what comes before its answer is skipped, also garbage.
    /// Calls that were made before are never answered. The connection is ready again when the answer
    /// is there.
    pub fn sync(&mut self) {
        self.calls.clear();
        self.out.drain(..self.sent);
        self.sent = 0;
        self.broken = None;
        self.stream = JsonStream::new();
        // The channel may hold answers to an earlier client's questions.
        let now = super::event::Timestamp::now();
        let number = (now.seconds ^ (now.microseconds << 12) ^ self.next_id) & 0x7fff_ffff;
        self.next_id += 1;
        self.phase = Phase::Skipping(number);
        self.out.push(SENTINEL);
        let arguments = std::iter::once(("id", number)).collect();
        self.push(&request("execute", "guest-sync-delimited", arguments, None));
    }

    /// Reads what the server sent; any part of a message will do.
    ///
    /// # Errors
    /// When it breaks the protocol, now or earlier. Replies and events before that are kept.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        if self.peer != Peer::Agent {
            return self.feed(bytes);
        }
        let mut parts = bytes.split(|&byte| byte == SENTINEL);
        // The part before the first sentinel goes on with what came earlier.
        let first = parts.next().unwrap_or_default();
        self.feed(first)?;
        for part in parts {
            self.stream = JsonStream::new();
            if let Phase::Skipping(number) = self.phase {
                self.phase = Phase::Syncing(number);
            }
            self.feed(part)?;
        }
        Ok(())
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        if matches!(self.phase, Phase::Skipping(_)) {
            return Ok(());
        }
        for outcome in self.stream.feed(bytes) {
            let result = match (outcome, self.phase) {
                (_, Phase::Skipping(_)) => return Ok(()),
                (Err(_), Phase::Syncing(number)) => {
                    self.phase = Phase::Skipping(number);
                    Ok(())
                }
                (Ok(value), Phase::Syncing(number)) => {
                    let answer = value.get("return").and_then(Value::as_i64);
                    self.phase = if answer == Some(number) {
                        Phase::Ready
                    } else {
                        Phase::Skipping(number)
                    };
                    Ok(())
                }
                (Ok(value), _) => self.message(value),
                (Err(error), _) => Err(ConnectionError::Json(error)),
            };
            if let Err(error) = result {
                return Err(self.break_off(error));
            }
        }
        Ok(())
    }

    /// Says that the server has closed its end.
    pub fn closed(&mut self) -> ConnectionError {
        self.break_off(ConnectionError::Closed)
    }

    /// Says that reading or writing failed. After a time limit the connection is as it was.
    pub fn failed(&mut self, error: io::Error) -> ConnectionError {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => self.closed(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                ConnectionError::Io(Arc::new(error))
            }
            _ => self.break_off(ConnectionError::Io(Arc::new(error))),
        }
    }

    /// The first error is the one that counts.
    fn break_off(&mut self, error: ConnectionError) -> ConnectionError {
        self.broken.get_or_insert(error).clone()
    }

    /// Why nothing more comes, if so.
    pub fn error(&self) -> Option<&ConnectionError> {
        self.broken.as_ref()
    }

    fn message(&mut self, value: Value) -> Result<(), ConnectionError> {
        let Value::Object(mut object) = value else {
            return Err(unexpected("a message is not an object"));
        };
        if object.contains("event") {
            let event = RawEvent::from_message(object);
            let event = event.ok_or_else(|| unexpected("an event has no name, or odd data"))?;
            if self.events.len() == MAX_EVENTS {
                self.events.pop_front();
                self.lost_events += 1;
            }
            self.events.push_back(event);
            return Ok(());
        }
        if self.phase == Phase::Greeting {
            let greeting = object.get("QMP").and_then(Greeting::read);
            self.negotiate(greeting.ok_or_else(|| unexpected("there is no greeting"))?);
            return Ok(());
        }
        let id = object.remove("id");
        let is_error = object.contains("error");
        let Some(reply) = take_reply(object) else {
            return Err(unexpected("a message is neither reply nor event"));
        };
        let id = match id {
            Some(id) => id.as_i64().map(CallId),
            None => self.oldest(is_error),
        };
        match id {
            Some(id) => self.answer(id, reply),
            None => Ok(()),
        }
    }

    /// The call that a reply without `id` is for: servers answer in order. They say nothing of an
    /// `id` when they could not read the request, and old guest agents never do.
    fn oldest(&self, is_error: bool) -> Option<CallId> {
        let is_meant = |call: &Call| match call.state {
            CallState::Waiting | CallState::Abandoned => !call.oob,
            CallState::Silent => is_error,
            CallState::Answered(_) => false,
        };
        let mut calls = self.calls.iter();
        calls.find(|(_, call)| is_meant(call)).map(|(id, _)| *id)
    }

    fn answer(&mut self, id: CallId, reply: Reply) -> Result<(), ConnectionError> {
        if self.phase == Phase::Negotiating(id) {
            self.calls.remove(&id);
            reply.map_err(ConnectionError::Negotiation)?;
            self.phase = Phase::Ready;
            return Ok(());
        }
        let Some(call) = self.calls.get_mut(&id) else {
            return Ok(());
        };
        let in_order = !call.oob;
        match call.state {
            CallState::Waiting => call.state = CallState::Answered(reply),
            CallState::Abandoned | CallState::Silent => drop(self.calls.remove(&id)),
            CallState::Answered(_) => {}
        }
        if in_order && self.silent > 0 {
            self.forget_silent(id);
        }
        Ok(())
    }

    /// Commands before `last` have run: those without a reply went well.
    fn forget_silent(&mut self, last: CallId) {
        let is_done = |id: CallId, call: &Call| {
            id <= last && !call.oob && matches!(call.state, CallState::Silent)
        };
        self.calls.retain(|id, call| !is_done(*id, call));
        let left = self.calls.values();
        self.silent = left
            .filter(|call| matches!(call.state, CallState::Silent))
            .count();
    }

    fn negotiate(&mut self, greeting: Greeting) {
        self.oob =
            self.peer == Peer::Server && greeting.capabilities.iter().any(|name| name == "oob");
        self.greeting = Some(greeting);
        let mut arguments = Object::new();
        if self.oob {
            arguments.insert("enable", vec![Value::from("oob")]);
        }
        let id = self.execute("qmp_capabilities", arguments);
        self.phase = Phase::Negotiating(id);
    }

    /// Whether commands can be run: the server has greeted and agreed, or the agent is in step.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// What the server said of itself; `None` before it did, and with a guest agent.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    /// Whether commands may be run out of band.
    pub fn has_oob(&self) -> bool {
        self.oob
    }

    /// Asks for a command. One whose success has no reply is not waited for: its
    /// [`reply`](Self::reply) is there at once.
    pub fn call<C: Command>(&mut self, command: &C) -> CallId {
        let id = self.execute(C::NAME, command.arguments());
        let call = self.calls.get_mut(&id);
        if let Some(call) = call.filter(|_| !C::ANSWERS) {
            call.state = CallState::Silent;
            self.silent += 1;
        }
        id
    }

    /// Asks for a command that does not wait for those that were asked for earlier.
    pub fn call_oob<C: OutOfBand>(&mut self, command: &C) -> CallId {
        self.execute_oob(C::NAME, command.arguments())
    }

    /// Asks for a command by its name.
    pub fn execute(&mut self, name: &str, arguments: Object) -> CallId {
        self.begin("execute", name, arguments)
    }

    /// Asks for a command by its name, to be run out of band.
    pub fn execute_oob(&mut self, name: &str, arguments: Object) -> CallId {
        self.begin("exec-oob", name, arguments)
    }

    fn begin(&mut self, execute: &str, name: &str, arguments: Object) -> CallId {
        let id = CallId(self.next_id);
        self.next_id += 1;
        self.push(&request(execute, name, arguments, Some(id.0.into())));
        let oob = execute == "exec-oob";
        let state = CallState::Waiting;
        self.calls.insert(id, Call { oob, state });
        id
    }

    fn push(&mut self, message: &Value) {
        self.out
            .extend_from_slice(message.to_ascii_json().as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        self.out.get(self.sent..).unwrap_or_default()
    }

    /// Says that the first `count` bytes of the output were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.out.len().min(self.sent + count);
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// Takes the reply to a call; `None` when it is not there yet, or was taken.
    pub fn reply(&mut self, id: CallId) -> Option<Reply> {
        match &self.calls.get(&id)?.state {
            CallState::Silent => Some(Ok(Value::Object(Object::new()))),
            CallState::Answered(_) => match self.calls.remove(&id)?.state {
                CallState::Answered(reply) => Some(reply),
                CallState::Waiting | CallState::Abandoned | CallState::Silent => None,
            },
            CallState::Waiting | CallState::Abandoned => None,
        }
    }

    /// Says that nobody waits for a call any more. The command runs nevertheless.
    pub fn abandon(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            match call.state {
                CallState::Waiting => call.state = CallState::Abandoned,
                CallState::Abandoned | CallState::Silent => {}
                CallState::Answered(_) => drop(self.calls.remove(&id)),
            }
        }
    }

    /// Takes the next event.
    pub fn event(&mut self) -> Option<RawEvent> {
        self.events.pop_front()
    }

    /// How many events were dropped because nobody took them.
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }
}

impl Greeting {
    fn read(value: &Value) -> Option<Self> {
        let version = value.get("version");
        let qemu = version.and_then(|version| version.get("qemu"));
        let number = |name| qemu.and_then(|qemu| qemu.get(name)).and_then(Value::as_i64);
        let package = version.and_then(|version| version.get("package"));
        let names = |list: &[Value]| {
            let names = list.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        value.as_object()?;
        Some(Self {
            version: (
                number("major").unwrap_or(0),
                number("minor").unwrap_or(0),
                number("micro").unwrap_or(0),
            ),
            package: package
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            capabilities: value
                .get("capabilities")
                .and_then(Value::as_array)
                .map_or_else(Vec::new, names),
        })
    }
}

fn unexpected(what: &'static str) -> ConnectionError {
    ConnectionError::Message(what)
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Io(error) => write!(f, "lost the connection: {error}"),
            Self::Json(error) => write!(f, "the server does not send JSON: {error}"),
            Self::Message(what) => write!(f, "the server does not speak QMP: {what}"),
            Self::Negotiation(error) => write!(f, "the server refuses to negotiate: {error}"),
        }
    }
}

impl std::error::Error for ConnectionError {}
