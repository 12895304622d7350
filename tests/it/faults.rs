//! Every operation of the files below a qcow2 fails once: the error reaches the caller, what comes
//! later works, and the image stays consistent. After a failed sync nothing counts as durable until
//! the image is opened again.

use std::sync::Arc;
use std::sync::Mutex;

use block_core::driver::Repair;
use block_core::engine::sim::{Fault, Order, SimKind, SimOp};
use block_core::{Error, IoBuf, Request};
use rustix::io::Errno;

use crate::support::machine::{self, BACKING, CLUSTER, Content, Machine, SECTOR, SIZE, Step};
use crate::support::{self, Random};

/// The disk as its user knows it: each sector has one content, or, where a step failed or was not
/// made durable, one of several.
#[derive(Clone)]
pub(crate) struct Model(Vec<Vec<u8>>);

impl Model {
    pub(crate) fn new() -> Model {
        Model(vec![vec![BACKING]; support::usize(SIZE / SECTOR)])
    }

    fn sectors(&mut self, step: Step) -> (&mut [Vec<u8>], u8) {
        let (at, len, byte) = step.effect();
        let first = support::usize(at / SECTOR);
        let count = support::usize(len / SECTOR);
        (&mut self.0[first..first + count], byte)
    }

    pub(crate) fn done(&mut self, step: Step) {
        let (sectors, byte) = self.sectors(step);
        sectors.fill(vec![byte]);
    }

    /// A failed step may have changed any of its sectors.
    pub(crate) fn failed(&mut self, step: Step) {
        let (sectors, byte) = self.sectors(step);
        for sector in sectors {
            sector.push(byte);
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, disk: &[u8], context: &str) {
        let sectors = disk.chunks(support::usize(SECTOR));
        for (number, (bytes, allowed)) in sectors.zip(&self.0).enumerate() {
            let uniform = bytes.iter().all(|byte| *byte == bytes[0]);
            assert!(
                uniform && allowed.contains(&bytes[0]),
                "{context}: sector {number} reads {:02x?}…, allowed {allowed:02x?}",
                &bytes[..8]
            );
        }
    }
}

fn script(seed: u64, content: Content) -> Vec<Step> {
    let mut random = Random::new(seed);
    let mut steps = Vec::new();
    for _ in 0..5 {
        for sectors in [SIZE / SECTOR, 3 * CLUSTER / SECTOR] {
            steps.push(Step::random_in(&mut random, content, 0, sectors));
        }
        steps.push(Step::Flush);
    }
    steps
}

/// Runs a script with operation number `nth` failing; the operation that failed, if there are so
/// many.
fn run(seed: u64, content: Content, nth: usize, fault: Fault) -> Option<SimOp> {
    let sim = machine::fresh_with(seed, content);
    sim.set_order(Order::Submitted);
    let failed: Arc<Mutex<Option<SimOp>>> = Arc::default();
    let seen = Arc::new(Mutex::new(0));
    let note = Arc::clone(&failed);
    sim.fail_when(0, 1, fault, move |op| {
        if op.file.is_none() {
            return false;
        }
        let mut count = seen.lock().expect("no test panics in here");
        *count += 1;
        let hit = *count == nth + 1;
        if hit {
            *note.lock().expect("no test panics in here") = Some(op.clone());
        }
        hit
    });
    let machine = Machine::new(sim.clone(), 1);
    let mut errors = 0;
    let slots = match machine.try_open() {
        Ok(slots) => slots,
        // Nothing was written; opening works as soon as the disk does.
        Err(_) => {
            errors += 1;
            machine.open()
        }
    };
    let mut model = Model::new();
    let mut lost = false;
    for step in script(seed, content) {
        match machine.request(&slots, step.request()) {
            Ok(_) => {
                assert!(
                    !(lost && matches!(step, Step::Flush)),
                    "{nth}: a flush after a failed sync"
                );
                model.done(step);
            }
            Err(error) => {
                assert!(
                    !matches!(error, Error::Corrupt { .. }),
                    "{nth}: {}",
                    error.chain()
                );
                errors += 1;
                model.failed(step);
            }
        }
        lost = failed
            .lock()
            .expect("no test panics in here")
            .as_ref()
            .is_some_and(|op| op.kind == SimKind::Sync);
    }
    sim.heal();
    let context = format!("{nth} of seed {seed}: {:?}", failed.lock());
    model.check(&machine.read_all(&slots), &context);
    let failed = failed.lock().expect("no test panics in here").clone()?;
    // Searches and changes of how zeroes are stored have other ways to the same end.
    if matches!(
        failed.kind,
        SimKind::Read | SimKind::Write | SimKind::Sync | SimKind::Truncate
    ) {
        assert!(errors > 0, "{context}: nobody heard");
    }
    // What comes later works.
    let step = Step::Write {
        at: 5 * CLUSTER,
        len: CLUSTER,
        byte: 0x77,
    };
    machine
        .request(&slots, step.request())
        .unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
    model.done(step);
    let flush = machine.request(&slots, Request::flush());
    assert_eq!(flush.is_err(), lost, "{context}: {flush:?}");
    let closed = machine.close();
    drop(machine);
    // As after a crash, should closing not have been able to write.
    let machine = Machine::new(sim, 1);
    let slots = machine.open();
    let report = machine
        .check(Repair::None)
        .unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
    assert_eq!(report.corruptions, 0, "{context}: {:?}", report.messages);
    if closed.is_ok() && !lost {
        model.check(&machine.read_all(&slots), &context);
    }
    let again = machine.request(&slots, Request::write(0, IoBuf::copy_of(&[1; 512])));
    again.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
    Some(failed)
}

fn every_operation_fails(fault: Fault, content: Content) {
    let seed = support::seed("faults");
    for round in 0..support::rounds(2) {
        let seed = seed.wrapping_add(round);
        let mut count = 0;
        while run(seed, content, count, fault).is_some() {
            count += 1;
        }
        println!("{count} operations");
        assert!(count > 20, "the script works on the files");
    }
}

#[test]
fn every_operation_fails_with_eio() {
    every_operation_fails(Fault::Errno(Errno::IO), Content::Plain);
}

#[test]
fn every_operation_fails_for_want_of_space() {
    every_operation_fails(Fault::Errno(Errno::NOSPC), Content::Plain);
}

#[test]
fn every_operation_on_a_direct_file_fails() {
    every_operation_fails(Fault::Errno(Errno::NOSPC), Content::Direct);
}

#[test]
fn every_write_ends_early() {
    every_operation_fails(Fault::Partial(1024, Errno::IO), Content::Plain);
}

#[test]
fn every_operation_in_subclusters_fails() {
    every_operation_fails(Fault::Errno(Errno::IO), Content::Subclusters);
}
