//! The places of a qcow2 that fault injection knows by name: each is told when it is reached, and the
//! image bears it when what comes next fails.
//!
//! A driver below the image listens, as one that injects faults does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use block_core::driver::{Cx, Driver, Pending, Preallocation, Repair, Status, ZeroFlags};
use block_core::engine::Leaf;
use block_core::engine::sim::{Fault, Order, Sim};
use block_core::limits::Limits;
use block_core::request::map::{Access, Lookup, Mapping};
use block_core::{BackendSlot, IoBuf, Request, Result};
use block_drivers::format::qcow2::CreateOptions;
use block_drivers::protocol::file::FileDriver;
use block_schema::types::BlkdebugEvent;
use rustix::io::Errno;

use crate::support;
use crate::support::machine::{self, BACKING, BASE, IMAGE, Machine, SIZE, Step, Verb};

/// Bytes of a cluster: small ones, so that tables of all kinds have to grow.
const CLUSTER: u64 = 512;
/// Bytes of the disk in the end.
const LONG: u64 = 4 << 20;

/// The places that the work below comes by, in the order of their names.
const PLACES: [&str; 22] = [
    "cluster_alloc",
    "cluster_free",
    "cow_read",
    "flush_to_disk",
    "flush_to_os",
    "l1_grow.activate_table",
    "l1_grow.alloc_table",
    "l1_grow.write_table",
    "l1_update",
    "l2_alloc.write",
    "l2_load",
    "l2_update",
    "read_backing_aio",
    "refblock_alloc",
    "refblock_alloc.switch_table",
    "refblock_alloc.write_blocks",
    "refblock_alloc.write_table",
    "refblock_load",
    "refblock_update_part",
    "reftable_grow",
    "reftable_load",
    "write_aio",
];

/// What the listener was told, and what it waits for.
#[derive(Default)]
struct Heard {
    counts: BTreeMap<&'static str, usize>,
    armed: Option<BlkdebugEvent>,
}

/// A file that listens: behind the event it waits for, one request fails.
struct Listening {
    file: FileDriver,
    sim: Sim,
    heard: Arc<Mutex<Heard>>,
}

impl Driver for Listening {
    fn event(&self, event: BlkdebugEvent) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard.counts.entry(event.as_str()).or_default() += 1;
        if heard.armed == Some(event) {
            heard.armed = None;
            let fault = Fault::Errno(Errno::IO);
            self.sim.fail_when(0, 1, fault, |op| op.file == Some(IMAGE));
        }
    }

    fn format_name(&self) -> &'static str {
        self.file.format_name()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn leaf(&self) -> Option<&Arc<Leaf>> {
        self.file.leaf()
    }

    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        self.file.try_map(access, range, out)
    }

    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        self.file.read(cx, offset, buf)
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        self.file.write(cx, offset, buf)
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        self.file.write_zeroes(cx, range, flags)
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        self.file.discard(cx, range)
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        self.file.flush(cx)
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        self.file.status(cx, range)
    }

    fn resize<'a>(&'a self, cx: &'a Cx, len: u64, preallocation: Preallocation) -> Pending<'a> {
        self.file.resize(cx, len, preallocation)
    }
}

/// An image that holds something, and a machine whose file listens.
fn listening(armed: Option<BlkdebugEvent>) -> (Machine, Arc<Mutex<Heard>>) {
    let options = CreateOptions {
        size: SIZE,
        cluster_size: CLUSTER,
        refcount_bits: 64,
        ..CreateOptions::default()
    };
    let sim = machine::fresh_of(1, &options);
    sim.set_order(Order::Submitted);
    let machine = Machine::new(sim.clone(), 1);
    let slots = machine.open();
    let write = Step::Write {
        at: 0,
        len: 8 * CLUSTER,
        byte: 0x11,
    };
    machine.together(&slots, &[write]);
    machine.close().expect("a clean close");
    let machine = Machine::new(sim.clone(), 1);
    let heard = Arc::new(Mutex::new(Heard {
        armed,
        ..Heard::default()
    }));
    let listening = Listening {
        file: FileDriver::from_leaf(sim.open(IMAGE)),
        sim,
        heard: Arc::clone(&heard),
    };
    machine.add_driver("file", Box::new(listening));
    machine.add_file("base", BASE);
    (machine, heard)
}

/// Work that comes by all places; how many requests failed.
fn work(machine: &Machine, slots: &[BackendSlot]) -> usize {
    let mut failed = 0;
    let mut count = |result: Result<()>| failed += usize::from(result.is_err());
    let request = |request| machine.request(slots, request).map(drop);
    // Of a table that has to be loaded; of the backing file, for want of one.
    count(request(Request::read(0, IoBuf::zeroed(512))));
    count(request(Request::read(SIZE - 512, IoBuf::zeroed(512))));
    let write = |at, len| Request::write(at, IoBuf::copy_of(&vec![0x22; support::usize(len)]));
    // In a table that is there; in a new one.
    count(request(write(20 * CLUSTER + 100, 50)));
    count(request(write(SIZE / 2 + 100, 50)));
    count(request(Request::flush()));
    count(request(write(0, 100)));
    count(request(Request::discard(0, 2 * CLUSTER)));
    count(request(Request::flush()));
    count(machine.verb(Verb::Resize(LONG)));
    // Until the table of refcounts has no room.
    for at in (0..LONG - SIZE).step_by(128 << 10) {
        count(request(write(SIZE + at, 128 << 10)));
    }
    count(request(Request::flush()));
    failed
}

fn counts(heard: &Mutex<Heard>) -> BTreeMap<&'static str, usize> {
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.counts.clone()
}

#[test]
fn every_place_is_told_when_it_is_reached() {
    let (machine, heard) = listening(None);
    let slots = machine.open();
    assert_eq!(work(&machine, &slots), 0);
    let heard: Vec<&str> = counts(&heard).into_keys().collect();
    assert_eq!(heard, PLACES);
}

#[test]
fn an_error_at_any_named_place_is_told_and_borne() {
    let (machine, heard) = listening(None);
    work(&machine, &machine.open());
    for name in counts(&heard).into_keys() {
        fails_at(name.parse().expect("a name of the schema"));
    }
}

/// Fails what comes behind an event: somebody hears, what comes later works, and the image is as it
/// should be.
fn fails_at(event: BlkdebugEvent) {
    let (machine, heard) = listening(Some(event));
    let opened = machine.try_open();
    let mut failed = usize::from(opened.is_err());
    let slots = opened.unwrap_or_else(|_| machine.open());
    failed += work(&machine, &slots);
    let armed = heard.lock().unwrap_or_else(PoisonError::into_inner).armed;
    assert_eq!(armed, None, "{event} was not reached");
    // What cannot be freed now is freed with a later flush.
    let heard_of = failed > 0 || event == BlkdebugEvent::ClusterFree;
    assert!(heard_of, "{event}: nobody heard of the error");
    machine.sim.heal();
    // What failed is done again, but for what a failed sync lost.
    let sim = machine.sim.clone();
    let closed = machine.close();
    drop(machine);
    let machine = Machine::new(sim, 1);
    let slots = machine.open();
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!(report.corruptions, 0, "{event}: {:?}", report.messages);
    let disk = machine.read_all(&slots);
    let known = |byte: &u8| matches!(byte, 0 | 0x11 | 0x22) || *byte == BACKING;
    assert!(disk.iter().all(known), "{event}: a byte from nowhere");
    if closed.is_ok() {
        assert_eq!(work(&machine, &slots), 0, "{event}: what comes later works");
    }
}
