//! A client that does not block: on any executor, over any stream that can be polled.
//! Whoever waits moves the bytes for all: there is no task to spawn. Invariant: the stream's waker wakes
//! everybody who waits, so that a call that is dropped takes nothing away from the others; a lock is
//! never held across a wait. Not here: the protocol (`connection.rs`), streams (`tokio.rs`,
//! `futures.rs`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::{fmt, io};

use super::call::{CallError, Command, OutOfBand, Reply, decode_answer};
use super::connection::{CallId, Connection, ConnectionError, Greeting};
use super::event::RawEvent;
use super::value::{Object, Value};

/// Bytes read at once.
const READ_LEN: usize = 32 << 10;
/// Reads in a row before others get their turn.
const READS: usize = 16;

/// A stream of bytes that can be polled.
pub trait Transport {
    /// Reads into `buffer`; 0 is the end.
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>>;

    /// Writes some of `bytes`.
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>>;

    /// Sees to it that what was written leaves.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A client over `T`. Clones share the connection, and call at the same time.
///
/// ```ignore
/// let client = AsyncClient::connect(Tokio(UnixStream::connect("qmp.sock").await?)).await?;
/// let (version, nodes) = tokio::join!(
///     client.call(commands::QueryVersion {}),
///     client.call(commands::QueryNamedBlockNodes::default()),
/// );
/// let event = client.next_event().await?;
/// ```
/// # Cancel safety
/// A call that is dropped after its first poll still runs at the server; its reply is dropped. An
/// event is never lost by dropping [`next_event`](Self::next_event).
/// # Progress
/// Bytes move while somebody waits for something. A program that waits for nothing takes no events,
/// and a server may then cut it.
pub struct AsyncClient<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    waiters: Arc<Waiters>,
    next_key: AtomicU64,
}

struct State<T> {
    transport: Pin<Box<T>>,
    connection: Connection,
    buffer: Box<[u8]>,
    /// Something was written and not flushed.
    unflushed: bool,
}

/// Those who wait; as a waker, it wakes them all.
#[derive(Default)]
struct Waiters {
    wakers: Mutex<BTreeMap<u64, Waker>>,
}

impl Waiters {
    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *lock(&self.wakers));
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

/// What is locked is never left half-way, also by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Transport> State<T> {
    /// Writes and reads what is possible now; true when anything moved.
    fn exchange(&mut self, context: &mut Context<'_>) -> Result<bool, ConnectionError> {
        if let Some(error) = self.connection.error() {
            return Err(error.clone());
        }
        let mut moved = self.write(context)?;
        for _ in 0..READS {
            match self.transport.as_mut().poll_read(context, &mut self.buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(self.connection.closed()),
                Poll::Ready(Ok(count)) => {
                    let bytes = self.buffer.get(..count).unwrap_or_default();
                    self.connection.receive(bytes)?;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.connection.failed(error)),
            }
            // A greeting asks for an answer.
            self.write(context)?;
        }
        Ok(moved)
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut moved = false;
        while !self.connection.output().is_empty() {
            let output = self.connection.output();
            match self.transport.as_mut().poll_write(context, output) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0)) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Err(self.connection.failed(error));
                }
                Poll::Ready(Ok(count)) => {
                    self.connection.sent(count);
                    self.unflushed = true;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Err(self.connection.failed(error)),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = self.transport.as_mut().poll_flush(context)
        {
            self.unflushed = false;
            moved = true;
            flushed.map_err(|error| self.connection.failed(error))?;
        }
        Ok(moved)
    }

    fn is_sent(&self) -> bool {
        self.connection.output().is_empty() && !self.unflushed
    }
}

/// Waits until `take` finds what it looks for.
struct Wait<'a, T, F> {
    shared: &'a Shared<T>,
    key: u64,
    take: F,
}

impl<T, F, R> Future for Wait<'_, T, F>
where
    T: Transport,
    F: FnMut(&mut State<T>) -> Option<R> + Unpin,
{
    type Output = Result<R, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.shared;
        let mut state = lock(&shared.state);
        if let Some(found) = (self.take)(&mut state) {
            return Poll::Ready(Ok(found));
        }
        // Before the stream is polled: it may be ready right after.
        lock(&shared.waiters.wakers).insert(self.key, context.waker().clone());
        let waker = Waker::from(Arc::clone(&shared.waiters));
        let moved = state.exchange(&mut Context::from_waker(&waker));
        let found = (self.take)(&mut state);
        drop(state);
        // What moved may be for others, and an error is for all; who has to wait looks again.
        if !matches!(moved, Ok(false)) {
            shared.waiters.wake_all();
        }
        match (found, moved) {
            (Some(found), _) => Poll::Ready(Ok(found)),
            (None, Err(error)) => Poll::Ready(Err(error)),
            (None, Ok(_)) => Poll::Pending,
        }
    }
}

impl<T, F> Drop for Wait<'_, T, F> {
    fn drop(&mut self) {
        lock(&self.shared.waiters.wakers).remove(&self.key);
    }
}

/// A call on its way: when it is dropped, nobody waits for its reply.
struct Calling<'a, T> {
    shared: &'a Shared<T>,
    id: CallId,
}

impl<T> Drop for Calling<'_, T> {
    fn drop(&mut self) {
        lock(&self.shared.state).connection.abandon(self.id);
    }
}

impl<T> Shared<T> {
    fn wait<F>(&self, take: F) -> Wait<'_, T, F> {
        Wait {
            shared: self,
            key: self.next_key.fetch_add(1, Ordering::Relaxed),
            take,
        }
    }
}

impl<T: Transport> Shared<T> {
    async fn call(&self, ask: impl FnOnce(&mut Connection) -> CallId) -> Result<Reply, ConnectionError> {
        let id = ask(&mut lock(&self.state).connection);
        let calling = Calling { shared: self, id };
        let mut reply = None;
        // A command whose success has no reply has one at once; it has to leave nevertheless.
        let answered = |state: &mut State<T>| {
            reply = reply.take().or_else(|| state.connection.reply(calling.id));
            if state.is_sent() { reply.take() } else { None }
        };
        self.wait(answered).await
    }
}

impl<T: Transport> AsyncClient<T> {
    /// Waits for a QMP server's greeting, and negotiates; commands can be run out of band if the
    /// server offers that.
    ///
    /// # Errors
    /// When the stream fails, or what is at its other end is no QMP server.
    pub async fn connect(transport: T) -> Result<Self, ConnectionError> {
        Self::on(transport, Connection::new()).await
    }

    /// Gets in step with a guest agent; whatever was in the channel is skipped. An agent that is not
    /// running does not answer.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn guest_agent(transport: T) -> Result<Self, ConnectionError> {
        let mut connection = Connection::guest_agent();
        connection.sync();
        Self::on(transport, connection).await
    }

    /// A client whose connection was set up by the caller; waits until it is ready.
    ///
    /// # Errors
    /// When the stream fails, or the server.
    pub async fn on(transport: T, connection: Connection) -> Result<Self, ConnectionError> {
        let state = State {
            transport: Box::pin(transport),
            connection,
            buffer: vec![0; READ_LEN].into_boxed_slice(),
            unflushed: false,
        };
        let client = Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                waiters: Arc::default(),
                next_key: AtomicU64::new(0),
            }),
        };
        client.ready().await?;
        Ok(client)
    }

    /// Gets in step with a guest agent again, after a call that was given up or garbage. Calls that
    /// wait meanwhile are never answered.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn sync(&self) -> Result<(), ConnectionError> {
        lock(&self.shared.state).connection.sync();
        self.ready().await
    }

    async fn ready(&self) -> Result<(), ConnectionError> {
        let is_ready = |state: &mut State<T>| state.connection.is_ready().then_some(());
        self.shared.wait(is_ready).await
    }

    /// Runs a command and waits for what it answers. One whose success has no reply is only sent.
    ///
    /// # Errors
    /// What the server says; an answer that does not fit the schema; a connection that fails.
    pub async fn call<C: Command>(&self, command: C) -> Result<C::Ok, CallError> {
        let reply = self.shared.call(|connection| connection.call(&command));
        decode_answer::<C>(reply.await?)
    }

    /// Runs a command without waiting for those that were asked for earlier.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_oob<C: OutOfBand>(&self, command: C) -> Result<C::Ok, CallError> {
        let reply = self.shared.call(|connection| connection.call_oob(&command));
        decode_answer::<C>(reply.await?)
    }

    /// Runs a command by its name.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn execute(&self, name: &str, arguments: Object) -> Result<Value, CallError> {
        let ask = |connection: &mut Connection| connection.execute(name, arguments);
        self.shared.call(ask).await?.map_err(CallError::Refused)
    }

    /// Runs a command by its name, out of band.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn execute_oob(&self, name: &str, arguments: Object) -> Result<Value, CallError> {
        let ask = |connection: &mut Connection| connection.execute_oob(name, arguments);
        self.shared.call(ask).await?.map_err(CallError::Refused)
    }

    /// Waits for an event. Each goes to one who waits.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn next_event(&self) -> Result<RawEvent, ConnectionError> {
        self.shared.wait(|state: &mut State<T>| state.connection.event()).await
    }
}

impl<T> AsyncClient<T> {
    /// An event that has come already.
    pub fn queued_event(&self) -> Option<RawEvent> {
        lock(&self.shared.state).connection.event()
    }

    /// What the server said of itself.
    pub fn greeting(&self) -> Option<Greeting> {
        lock(&self.shared.state).connection.greeting().cloned()
    }

    /// Whether commands may be run out of band.
    pub fn has_oob(&self) -> bool {
        lock(&self.shared.state).connection.has_oob()
    }

    /// How many events were dropped because nobody took them.
    pub fn lost_events(&self) -> u64 {
        lock(&self.shared.state).connection.lost_events()
    }
}

impl<T> Clone for AsyncClient<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> fmt::Debug for AsyncClient<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        let mut shown = f.debug_struct("AsyncClient");
        shown.field("connection", &state.connection).finish_non_exhaustive()
    }
}
