//! The client that does not block, polled by hand: who is woken, and what a dropped call leaves.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use block_schema::commands::{QueryBlockExports, QueryVersion};
use block_schema::{AsyncClient, CallError, Object, Transport};

const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;
const VERSION: &str = r#"{"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": ""}"#;

/// A stream whose other end is the test.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    incoming: VecDeque<u8>,
    outgoing: Vec<u8>,
    /// How many bytes the stream takes at the moment.
    room: usize,
    waker: Option<Waker>,
    closed: bool,
}

impl Pipe {
    fn send(&self, text: &str) {
        let mut ends = self.0.lock().expect("no test panics in here");
        ends.incoming.extend(text.as_bytes());
        wake(ends.waker.take());
    }

    fn close(&self) {
        let mut ends = self.0.lock().expect("no test panics in here");
        ends.closed = true;
        wake(ends.waker.take());
    }

    fn make_room(&self, room: usize) {
        let mut ends = self.0.lock().expect("no test panics in here");
        ends.room = room;
        wake(ends.waker.take());
    }

    fn sent(&self) -> String {
        let outgoing = std::mem::take(&mut self.0.lock().expect("no test panics in here").outgoing);
        String::from_utf8(outgoing).expect("JSON is UTF-8")
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Transport for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock().expect("no test panics in here");
        if ends.incoming.is_empty() && !ends.closed {
            ends.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = ends.incoming.len().min(buffer.len());
        for slot in &mut buffer[..count] {
            *slot = ends.incoming.pop_front().expect("there are so many");
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock().expect("no test panics in here");
        let count = bytes.len().min(ends.room);
        if count == 0 {
            ends.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        ends.room -= count;
        ends.outgoing.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A future with a waker of its own, which counts.
struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<'a, T> Task<'a, T> {
    fn new(future: impl Future<Output = T> + 'a) -> Self {
        Self {
            future: Box::pin(future),
            woken: Arc::default(),
        }
    }

    fn poll(&mut self) -> Option<T> {
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Polls as an executor does: while it was woken.
    fn run(&mut self) -> Option<T> {
        while self.woken.0.swap(0, Ordering::Relaxed) > 0 {
            if let Some(value) = self.poll() {
                return Some(value);
            }
        }
        None
    }
}

fn connected() -> (Pipe, AsyncClient<Pipe>) {
    let pipe = Pipe::default();
    pipe.make_room(usize::MAX);
    let mut connecting = Task::new(AsyncClient::connect(pipe.clone()));
    assert!(connecting.poll().is_none());
    pipe.send(GREETING);
    assert!(connecting.run().is_none());
    assert!(pipe.sent().contains("qmp_capabilities"));
    pipe.send(r#"{"return": {}, "id": 1}"#);
    let client = connecting.run().expect("it was woken").expect("a greeting");
    drop(connecting);
    assert!(client.has_oob());
    (pipe, client)
}

#[test]
fn replies_in_any_order_wake_who_waits_for_them() {
    let (pipe, client) = connected();
    let other = client.clone();
    let mut version = Task::new(client.call(QueryVersion {}));
    let mut exports = Task::new(other.call(QueryBlockExports {}));
    let mut event = Task::new(client.next_event());
    assert!(version.poll().is_none() && exports.poll().is_none() && event.poll().is_none());
    pipe.send(r#"{"return": [], "id": 3}{"event": "E"}"#);
    assert_eq!(exports.run().expect("woken").unwrap(), []);
    assert_eq!(event.run().expect("woken").unwrap().name, "E");
    assert!(version.run().is_none());
    pipe.send(&format!(r#"{{"return": {VERSION}, "id": 2}}"#));
    assert_eq!(version.run().expect("woken").unwrap().qemu.micro, 3);
}

#[test]
fn a_reply_that_another_call_reads_wakes_its_owner() {
    let (pipe, client) = connected();
    let mut version = Task::new(client.call(QueryVersion {}));
    assert!(version.poll().is_none());
    // The stream has it already when the second call reads for the first time.
    pipe.0.lock().expect("no test panics in here").waker = None;
    pipe.send(&format!(r#"{{"return": {VERSION}, "id": 2}}"#));
    let mut exports = Task::new(client.call(QueryBlockExports {}));
    assert!(exports.poll().is_none());
    assert!(version.run().expect("woken").is_ok());
}

#[test]
fn a_dropped_call_takes_nothing_from_the_others() {
    let (pipe, client) = connected();
    let mut dropped = Task::new(client.call(QueryVersion {}));
    let mut exports = Task::new(client.call(QueryBlockExports {}));
    // The one that is dropped was the last to look at the stream.
    assert!(exports.poll().is_none() && dropped.poll().is_none());
    drop(dropped);
    pipe.send(&format!(
        r#"{{"return": {VERSION}, "id": 3}}{{"return": [], "id": 2}}"#
    ));
    assert_eq!(exports.run().expect("woken").unwrap(), []);
    // Its reply is not taken for another's.
    let mut next = Task::new(client.call(QueryBlockExports {}));
    assert!(next.poll().is_none());
    pipe.send(r#"{"return": [], "id": 4}"#);
    assert!(next.run().expect("woken").is_ok());
}

#[test]
fn a_call_dropped_halfway_out_leaves_whole() {
    let (pipe, client) = connected();
    pipe.make_room(5);
    let mut dropped = Task::new(client.call(QueryVersion {}));
    assert!(dropped.poll().is_none());
    drop(dropped);
    pipe.make_room(usize::MAX);
    let mut exports = Task::new(client.call(QueryBlockExports {}));
    assert!(exports.poll().is_none());
    assert_eq!(
        pipe.sent(),
        "{\"execute\": \"query-version\", \"id\": 2}\r\n\
         {\"execute\": \"query-block-exports\", \"id\": 3}\r\n"
    );
}

#[test]
fn an_event_is_not_lost_with_who_waited() {
    let (pipe, client) = connected();
    let mut dropped = Task::new(client.next_event());
    assert!(dropped.poll().is_none());
    pipe.send(r#"{"event": "A"}{"event": "B"}"#);
    drop(dropped);
    let mut next = Task::new(client.next_event());
    assert_eq!(next.poll().expect("it is there").unwrap().name, "A");
    assert_eq!(client.queued_event().expect("it is there").name, "B");
}

#[test]
fn the_end_is_told_to_all() {
    let (pipe, client) = connected();
    let mut version = Task::new(client.call(QueryVersion {}));
    let mut event = Task::new(client.next_event());
    assert!(version.poll().is_none() && event.poll().is_none());
    pipe.close();
    let error = version.run().expect("woken").unwrap_err();
    assert!(matches!(error, CallError::Connection(_)));
    assert_eq!(
        event.run().expect("woken").unwrap_err().to_string(),
        "the server closed the connection"
    );
    let mut later = Task::new(client.execute("x", Object::new()));
    assert!(later.poll().expect("at once").is_err());
}

#[test]
fn futures_can_go_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let (_, client) = connected();
    is_send(&client);
    let call = pin!(client.call(QueryVersion {}));
    is_send(&call);
    is_send(&client.next_event());
}
