//! What waits to be sent to one client.
//!
//! Filled by the session (replies) and from any thread (events); emptied by the session's writer.
//! Invariant: memory is bounded. The session sends no second reply before the client has taken
//! most of the first; a client that takes no events is cut when [`MAX_BYTES`] wait for it.

use block_schema::{Event, Timestamp, Value};
use parking_lot::Mutex;

use crate::events::Listener;
use crate::sync::WaitList;

/// Waiting bytes with which the next command may run.
const LOW_WATER: usize = 64 << 10;
/// Waiting bytes that an event must not exceed.
const MAX_BYTES: usize = 4 << 20;
/// The most bytes handed to the kernel at once.
const CHUNK: usize = 256 << 10;

/// Messages on their way to a client.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// Woken by every change.
    changed: WaitList,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Bytes that the writer has taken and the kernel has not.
    sending: usize,
    hears_events: bool,
    /// No more messages come: the writer ends when it has sent the rest.
    finished: bool,
    /// The client is gone or was cut.
    broken: bool,
    writer_ended: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.bytes.len() + self.sending
    }

    fn append(&mut self, message: &Value) {
        if !self.broken && !self.finished {
            self.bytes
                .extend_from_slice(message.to_ascii_json().as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        }
    }

    fn break_off(&mut self) {
        self.broken = true;
        self.bytes = Vec::new();
    }
}

/// What the writer is to do.
pub(super) enum Next {
    Send(Vec<u8>),
    /// All is sent and no more comes.
    Finished,
    /// The client takes nothing any more.
    Broken,
}

impl Outbox {
    pub(super) fn push(&self, message: &Value) {
        self.state.lock().append(message);
        self.changed.wake_all();
    }

    /// The reply that ends negotiation; events follow it, none is before it.
    pub(super) fn push_and_hear(&self, message: &Value) {
        {
            let mut state = self.state.lock();
            state.append(message);
            state.hears_events = true;
        }
        self.changed.wake_all();
    }

    /// Waits until the client has taken enough for another reply; false when it is gone.
    pub(super) async fn has_room(&self) -> bool {
        self.wait_for_at_most(LOW_WATER).await
    }

    /// Waits until the client has taken everything; false when it is gone.
    pub(super) async fn is_empty(&self) -> bool {
        self.wait_for_at_most(0).await
    }

    async fn wait_for_at_most(&self, most: usize) -> bool {
        let mut broken = false;
        let settled = || {
            let state = self.state.lock();
            broken = state.broken;
            broken || state.waiting() <= most
        };
        self.changed.wait_until(settled).await;
        !broken
    }

    pub(super) fn is_broken(&self) -> bool {
        self.state.lock().broken
    }

    /// Says that no message comes any more, and waits for the writer.
    pub(super) async fn finish(&self) {
        self.state.lock().finished = true;
        self.changed.wake_all();
        self.changed
            .wait_until(|| self.state.lock().writer_ended)
            .await;
    }

    /// What the writer does next; what it took before has been sent.
    pub(super) async fn next(&self) -> Next {
        self.state.lock().sending = 0;
        self.changed.wake_all();
        let mut next = Next::Broken;
        let ready = || {
            let mut state = self.state.lock();
            if state.broken {
                next = Next::Broken;
            } else if !state.bytes.is_empty() {
                let len = state.bytes.len().min(CHUNK);
                let rest = state.bytes.split_off(len);
                let chunk = std::mem::replace(&mut state.bytes, rest);
                state.sending = chunk.len();
                next = Next::Send(chunk);
            } else if state.finished {
                next = Next::Finished;
            } else {
                return false;
            }
            true
        };
        self.changed.wait_until(ready).await;
        next
    }

    /// The client takes nothing any more.
    pub(super) fn break_off(&self) {
        self.state.lock().break_off();
        self.changed.wake_all();
    }

    pub(super) fn writer_ended(&self) {
        self.state.lock().writer_ended = true;
        self.changed.wake_all();
    }
}

impl Listener for Outbox {
    fn heard(&self, at: Timestamp, event: &Event) {
        {
            let mut state = self.state.lock();
            if !state.hears_events {
                return;
            }
            if state.waiting() > MAX_BYTES {
                tracing::warn!("a QMP client takes no events and is cut");
                state.break_off();
            } else {
                state.append(&event.to_value(at));
            }
        }
        self.changed.wake_all();
    }
}
