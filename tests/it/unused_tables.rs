//! Tables that nobody uses leave memory, by the simulator's clock: never those with changes, and no
//! timer stays when there is nothing to drop.

use std::time::Duration;

use block_core::BackendSlot;
use block_core::driver::Preallocation;
use block_core::engine::sim::{Sim, SimKind};
use block_core::request::map::{Access, Lookup, Mapping};
use block_core::{IoBuf, Request};

use crate::support::machine::{self, CLUSTER, Machine, Step};

/// What passes until an image looks for unused tables, unless its options say otherwise.
const INTERVAL: Duration = Duration::from_secs(600);
/// What one L2 table maps.
const TABLE: u64 = CLUSTER / 8 * CLUSTER;

/// An image with clusters in two tables, all of it on disk, and the machine's first queue as its user.
struct Rig {
    sim: Sim,
    machine: Machine,
    slots: Vec<BackendSlot>,
}

impl Rig {
    fn new() -> Rig {
        let sim = machine::fresh(31);
        let machine = Machine::new(sim.clone(), 1);
        let slots = machine.open();
        let rig = Rig {
            sim,
            machine,
            slots,
        };
        let queue = rig.machine.queue();
        let layer = &rig.machine.layer;
        let longer = layer.resize(queue, rig.machine.top(), 2 * TABLE, Preallocation::Off);
        queue.block_on(longer).expect("a longer disk");
        rig.write(0, 0x11);
        rig.write(TABLE, 0x22);
        rig.machine.together(&rig.slots, &[Step::Flush]);
        rig
    }

    fn write(&self, at: u64, byte: u8) {
        let len = CLUSTER;
        self.machine
            .together(&self.slots, &[Step::Write { at, len, byte }]);
    }

    #[track_caller]
    fn reads(&self, at: u64, byte: u8) {
        let request = Request::read(at, IoBuf::zeroed(512));
        let read = self.machine.request(&self.slots, request);
        let read = read.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(read, [byte; 512]);
    }

    /// Lets an interval pass, and whatever it brings happen.
    fn pass(&self) {
        self.sim.advance(INTERVAL);
        self.machine.turn();
    }

    /// Whether a table is in memory; a look that uses it.
    fn has(&self, at: u64) -> bool {
        let disk = self.machine.disk();
        let mut out = Mapping::new();
        let looked = disk
            .node()
            .driver()
            .try_map(Access::Read, at..at + 512, &mut out);
        looked == Lookup::Mapped
    }

    fn timers(&self) -> usize {
        let pending = self.sim.pending();
        pending
            .iter()
            .filter(|op| op.kind == SimKind::Timer)
            .count()
    }
}

#[test]
fn a_table_that_nobody_uses_leaves_memory() {
    let rig = Rig::new();
    rig.pass();
    assert_eq!(rig.timers(), 1, "they were used since");
    for _ in 0..3 {
        assert!(rig.has(0), "used in each interval");
        rig.pass();
    }
    assert!(!rig.has(TABLE), "never used again");
    assert!(rig.has(0));
    rig.reads(TABLE, 0x22);
    assert!(rig.has(TABLE), "it came again");
    rig.reads(0, 0x11);
}

#[test]
fn a_table_with_changes_stays_until_they_are_on_disk() {
    let rig = Rig::new();
    rig.write(CLUSTER, 0x33);
    for _ in 0..4 {
        rig.pass();
    }
    let tables = [0, TABLE].map(|at| rig.has(at));
    assert_eq!(tables, [true, false]);
    rig.reads(CLUSTER, 0x33);
    rig.machine.together(&rig.slots, &[Step::Flush]);
    for _ in 0..4 {
        rig.pass();
    }
    assert!(!rig.has(0));
    rig.reads(CLUSTER, 0x33);
    rig.reads(0, 0x11);
}

#[test]
fn an_idle_image_has_no_timer() {
    let rig = Rig::new();
    assert_eq!(rig.timers(), 1);
    for _ in 0..4 {
        rig.pass();
    }
    assert_eq!(rig.timers(), 0, "nothing is left to drop");
    rig.reads(0, 0x11);
    assert_eq!(rig.timers(), 1);
    // A queue that ends takes its timer along; the next use of a table makes another.
    rig.machine.close().expect("it closes");
    rig.machine.turn();
    assert_eq!(rig.timers(), 0, "a closed image has none");
}
