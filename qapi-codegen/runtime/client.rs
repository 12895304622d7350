//! A client that waits: on any stream that reads and writes.
//! Invariant: nothing is read past what a call waits for, except events, which are kept; after a read
//! that timed out, everything goes on where it was. Not here: the protocol (`connection.rs`).

use std::io::{self, Read, Write};
use std::marker::PhantomData;

use super::call::{CallError, Command, OutOfBand, Reply, decode_answer};
use super::connection::{CallId, Connection, ConnectionError, Greeting};
use super::event::RawEvent;
use super::value::{Object, Value};

/// Bytes read at once.
const READ_LEN: usize = 32 << 10;

/// A client on stream `S`.
///
/// ```ignore
/// let mut client = Client::connect_unix("qmp.sock")?;
/// let version = client.call(commands::QueryVersion {})?;
/// while let Received::Known { event, .. } = client.next_event()?.decode::<Event>()? {
///     println!("{event:?}");
/// }
/// ```
/// # Timeouts
/// A time limit set on the stream ends a wait with [`ConnectionError::Io`] of kind `WouldBlock` or
/// `TimedOut`; the client can be used on. The call that waited is abandoned: it runs, and its reply
/// is dropped. [`submit`](Self::submit) and [`wait`](Self::wait) keep it.
#[derive(Debug)]
pub struct Client<S> {
    pub(super) stream: S,
    pub(super) connection: Connection,
    buffer: Box<[u8]>,
}

/// A call that was made, to be waited for.
#[derive(Debug)]
pub struct Call<C> {
    id: CallId,
    command: PhantomData<fn() -> C>,
}

#[cfg(unix)]
impl Client<std::os::unix::net::UnixStream> {
    /// Connects to the QMP server that listens at `path`.
    ///
    /// # Errors
    /// What the kernel says; otherwise as [`connect`](Self::connect).
    pub fn connect_unix(path: impl AsRef<std::path::Path>) -> Result<Self, ConnectionError> {
        let stream = std::os::unix::net::UnixStream::connect(path);
        Self::connect(stream.map_err(|error| Connection::new().failed(error))?)
    }
}

impl<S: Read + Write> Client<S> {
    /// Waits for a QMP server's greeting, and negotiates; commands can be run out of band if the
    /// server offers that.
    ///
    /// # Errors
    /// When the stream fails, or what is at its other end is no QMP server.
    pub fn connect(stream: S) -> Result<Self, ConnectionError> {
        Self::on(stream, Connection::new())
    }

    /// Gets in step with a guest agent; whatever was in the channel is skipped. An agent that is not
    /// running does not answer: set a time limit on the stream.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn guest_agent(stream: S) -> Result<Self, ConnectionError> {
        let mut connection = Connection::guest_agent();
        connection.sync();
        Self::on(stream, connection)
    }

    /// A client whose connection was set up by the caller; waits until it is ready.
    ///
    /// # Errors
    /// When the stream fails, or the server.
    pub fn on(stream: S, connection: Connection) -> Result<Self, ConnectionError> {
        let buffer = vec![0; READ_LEN].into_boxed_slice();
        let mut client = Self {
            stream,
            connection,
            buffer,
        };
        client.wait_until_ready()?;
        Ok(client)
    }

    /// Gets in step with a guest agent again, after a time limit or garbage.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn sync(&mut self) -> Result<(), ConnectionError> {
        self.connection.sync();
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<(), ConnectionError> {
        while !self.connection.is_ready() {
            self.exchange()?;
        }
        Ok(())
    }

    /// Runs a command and waits for what it answers. One whose success has no reply is only sent.
    ///
    /// # Errors
    /// What the server says; an answer that does not fit the schema; a connection that fails.
    pub fn call<C: Command>(&mut self, command: C) -> Result<C::Ok, CallError> {
        let id = self.connection.call(&command);
        decode_answer::<C>(self.reply(id)?)
    }

    /// Runs a command without waiting for those that were submitted, and waits for what it answers.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_oob<C: OutOfBand>(&mut self, command: C) -> Result<C::Ok, CallError> {
        let id = self.connection.call_oob(&command);
        decode_answer::<C>(self.reply(id)?)
    }

    /// Runs a command by its name.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn execute(&mut self, name: &str, arguments: Object) -> Result<Value, CallError> {
        let id = self.connection.execute(name, arguments);
        self.reply(id)?.map_err(CallError::Refused)
    }

    /// Runs a command by its name, out of band.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn execute_oob(&mut self, name: &str, arguments: Object) -> Result<Value, CallError> {
        let id = self.connection.execute_oob(name, arguments);
        self.reply(id)?.map_err(CallError::Refused)
    }

    /// Asks for a command, to be waited for later. It leaves with the next call, wait or
    /// [`flush`](Self::flush); a server may stop reading when many wait.
    pub fn submit<C: Command>(&mut self, command: &C) -> Call<C> {
        Call {
            id: self.connection.call(command),
            command: PhantomData,
        }
    }

    /// Asks for a command out of band, to be waited for later.
    pub fn submit_oob<C: OutOfBand>(&mut self, command: &C) -> Call<C> {
        Call {
            id: self.connection.call_oob(command),
            command: PhantomData,
        }
    }

    /// Waits for what a submitted command answers. After an error of the stream that passes (a time
    /// limit), it can be waited for again.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn wait<C: Command>(&mut self, call: &Call<C>) -> Result<C::Ok, CallError> {
        loop {
            if let Some(reply) = self.connection.reply(call.id) {
                return decode_answer::<C>(reply);
            }
            self.exchange()?;
        }
    }

    pub(super) fn reply(&mut self, id: CallId) -> Result<Reply, ConnectionError> {
        loop {
            // A command without a reply has one at once; it has to leave nevertheless.
            if let Some(reply) = self.connection.reply(id) {
                self.flush()?;
                return Ok(reply);
            }
            if let Err(error) = self.exchange() {
                self.connection.abandon(id);
                return Err(error);
            }
        }
    }

    /// Waits for an event; those that came while replies were waited for are first.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn next_event(&mut self) -> Result<RawEvent, ConnectionError> {
        loop {
            if let Some(event) = self.connection.event() {
                return Ok(event);
            }
            self.exchange()?;
        }
    }

    /// An event that has come already.
    pub fn queued_event(&mut self) -> Option<RawEvent> {
        self.connection.event()
    }

    /// Sends what is to be sent, then reads once. For callers that poll the stream by themselves:
    /// when it is readable, this does not wait.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn exchange(&mut self) -> Result<(), ConnectionError> {
        self.flush()?;
        if let Some(error) = self.connection.error() {
            return Err(error.clone());
        }
        loop {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(self.connection.closed()),
                Ok(count) => {
                    let bytes = self.buffer.get(..count).unwrap_or_default();
                    return self.connection.receive(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.connection.failed(error)),
            }
        }
    }

    /// Sends what is to be sent.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn flush(&mut self) -> Result<(), ConnectionError> {
        if self.connection.output().is_empty() {
            return Ok(());
        }
        while !self.connection.output().is_empty() {
            match self.stream.write(self.connection.output()) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(self.connection.failed(error));
                }
                Ok(count) => self.connection.sent(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.connection.failed(error)),
            }
        }
        let flushed = self.stream.flush();
        flushed.map_err(|error| self.connection.failed(error))
    }
}

impl<S> Client<S> {
    /// What the server said of itself.
    pub fn greeting(&self) -> Option<&Greeting> {
        self.connection.greeting()
    }

    /// The protocol's state: events that were lost, whether commands run out of band.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The same, to be changed: calls made there are sent with the next call here.
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// The stream, to set a time limit or to poll it.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream; what was read ahead is lost.
    pub fn into_stream(self) -> S {
        self.stream
    }
}
