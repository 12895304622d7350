//! Events: what happens by itself and clients want to hear of.
//!
//! Emitted by jobs, exports and drivers on any thread; heard by QMP sessions and by programs that
//! embed the layer. Not here: how an event looks on the wire (the schema's [`Event`]).

use std::sync::{Arc, Weak};

use block_schema::{Event, Timestamp};
use parking_lot::Mutex;

use crate::qmp::log;

/// Someone who wants to hear events.
pub trait Listener: Send + Sync {
    /// Hears an event, on the thread that emitted it; must not wait.
    fn heard(&self, at: Timestamp, event: &Event);
}

/// The listeners of a layer.
#[derive(Default)]
pub struct Events {
    listeners: Mutex<Vec<Weak<dyn Listener>>>,
}

impl Events {
    /// Adds a listener, until its last handle goes.
    pub fn subscribe<L: Listener + 'static>(&self, listener: &Arc<L>) {
        let weak: Weak<L> = Arc::downgrade(listener);
        let mut listeners = self.listeners.lock();
        // Sessions come and go, also where nothing ever happens.
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(weak);
    }

    /// Tells every listener, with the time of the call.
    pub fn emit(&self, event: impl Into<Event>) {
        let event = event.into();
        let at = Timestamp::now();
        log::happened(&event);
        // A listener may subscribe another one: tell them outside of the lock.
        let listeners: Vec<Arc<dyn Listener>> = {
            let mut listeners = self.listeners.lock();
            listeners.retain(|listener| listener.strong_count() > 0);
            listeners.iter().filter_map(Weak::upgrade).collect()
        };
        for listener in listeners {
            listener.heard(at, &event);
        }
    }
}
