//! A device `d0` over a file of the simulator, used by some queues at once.

use std::sync::Arc;
use std::time::Duration;

use block_core::engine::SimFile;
use block_core::engine::sim::{Order, Sim};
use block_core::{Backend, BackendSlot, Error, IoBuf, Layer, Request};
use block_schema::commands::BlockSetIoThrottle;

use crate::support::machine::Machine;

pub(super) const LEN: u64 = 8 << 20;
pub(super) const BLOCK: u64 = 4096;

pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) backend: Arc<Backend>,
    pub(super) slots: Vec<BackendSlot>,
}

impl Rig {
    pub(super) fn new(queues: usize) -> Rig {
        let sim = Sim::new(7);
        sim.set_order(Order::Submitted);
        sim.create_file(&vec![0; usize::try_from(LEN).expect("fits")]);
        let machine = Machine::new(sim, queues);
        let node = machine.add_file("file", SimFile(0));
        let added = machine.layer.add_backend("d0", node, false);
        let backend = machine.queue().block_on(added).expect("a new device");
        let attach = |queue: &block_core::Queue| queue.attach(&backend);
        let slots = machine.queues.iter().map(attach).collect();
        Rig {
            machine,
            backend,
            slots,
        }
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.machine.layer
    }

    pub(super) fn sim(&self) -> &Sim {
        &self.machine.sim
    }

    #[track_caller]
    pub(super) fn limit(&self, set: impl FnOnce(&mut BlockSetIoThrottle)) {
        let mut limits = BlockSetIoThrottle::new("d0", 0, 0, 0, 0, 0, 0);
        set(&mut limits);
        let done = self.layer().block_set_io_throttle(&limits);
        done.expect("limits that make sense");
    }

    pub(super) fn submit(&self, queue: usize, request: Request, token: u64) {
        self.machine.queues[queue].submit(self.slots[queue], request, token);
    }

    /// Lets the machine do what it does without time passing; gives the tokens that came back.
    pub(super) fn settle(&self) -> Vec<(u64, Result<(), Error>)> {
        let mut ended = Vec::new();
        loop {
            let before = ended.len();
            for queue in &self.machine.queues {
                queue.reap(|done| ended.push((done.token, done.result)));
            }
            let now = self.sim().now();
            let ready = |op: &block_core::engine::sim::SimOp| {
                op.kind != block_core::engine::sim::SimKind::Timer
            };
            let next = self.sim().pending().into_iter().find(ready);
            match next {
                Some(op) => assert!(self.sim().complete(op.id)),
                None if ended.len() == before => return ended,
                None => {}
            }
            assert_eq!(self.sim().now(), now);
        }
    }
}

/// Requests that a queue always has under way.
pub(super) struct Load {
    pub(super) queue: usize,
    pub(super) depth: u64,
    pub(super) request: fn(u64) -> Request,
}

pub(super) fn read(at: u64) -> Request {
    read_of(at, BLOCK)
}

pub(super) fn read_of(at: u64, len: u64) -> Request {
    let len = usize::try_from(len).expect("fits");
    Request::read(at % (LEN - (1 << 20)), IoBuf::zeroed(len))
}

pub(super) fn write(at: u64) -> Request {
    Request::write(at % (LEN - BLOCK), IoBuf::zeroed(4096))
}

/// Keeps `loads` under way for `span`; how many requests of each ended.
pub(super) fn run(rig: &Rig, loads: &[Load], span: Duration) -> Vec<u64> {
    let mut ended = vec![0u64; loads.len()];
    let mut at = 0;
    let mut submit = |place: usize| {
        at += 1 << 16;
        let load = &loads[place];
        rig.submit(load.queue, (load.request)(at), place as u64);
    };
    for (place, load) in loads.iter().enumerate() {
        (0..load.depth).for_each(|_| submit(place));
    }
    let end = rig.sim().now() + span;
    while rig.sim().now() < end {
        let mut done = Vec::new();
        for queue in &rig.machine.queues {
            queue.reap(|end| {
                end.result.expect("nothing fails");
                let place = usize::try_from(end.token).expect("fits");
                // Others may still be under way.
                if place < loads.len() {
                    done.push(place);
                }
            });
        }
        if done.is_empty() {
            assert!(rig.sim().step(), "nothing can happen");
        }
        for place in done {
            ended[place] += 1;
            submit(place);
        }
    }
    ended
}

/// Waits until all that is under way has ended.
pub(super) fn finish(rig: &Rig) {
    rig.limit(|_| {});
    rig.settle();
}
