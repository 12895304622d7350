//! A drain that waits for long says for whom.

use std::cell::Cell;
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block_core::engine::sim::SimKind;
use block_core::{IoBuf, LocalQueue, Request};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::machine::{self, CLUSTER, Machine};

/// Keeps what is said on this thread.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Said {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut Words(&self.0));
    }
}

struct Words<'a>(&'a Mutex<Vec<String>>);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0
                .lock()
                .expect("one thread")
                .push(format!("{value:?}"));
        }
    }
}

#[test]
fn a_drain_says_whom_it_waits_for() {
    let said = Said::default();
    let subscriber = tracing_subscriber::registry().with(said.clone());
    tracing::subscriber::with_default(subscriber, || {
        let machine = Machine::new(machine::fresh(1), 1);
        let slots = machine.open();
        let top = machine.layer.backend("disk").expect("it is open").root();
        let queue = machine.queue();
        let hold = machine.sim.hold(|op| op.kind == SimKind::Read);
        let buf = IoBuf::zeroed(512);
        queue.submit(slots[0], Request::read(CLUSTER, buf), 7);
        let drained = Rc::new(Cell::new(false));
        let (layer, done) = (machine.layer.clone(), Rc::clone(&drained));
        LocalQueue::clone(queue).spawn(async move {
            drop(layer.drain(&[top]).await);
            done.set(true);
        });
        let mut turns = 0;
        while said.0.lock().expect("one thread").is_empty() {
            queue.wait(None);
            turns += 1;
            assert!(turns < 10_000, "nothing was said");
        }
        assert!(!drained.get());
        machine.sim.release(hold);
        while !drained.get() {
            queue.wait(Some(Duration::ZERO));
            queue.reap(|done| done.result.expect("a read"));
        }
    });
    let said = said.0.lock().expect("one thread");
    assert_eq!(
        said[0],
        "1 s: a drain waits for a read of node 'top' at 0x1000..0x1200"
    );
}
