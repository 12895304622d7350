//! What is seen of a check while it goes on.

use std::sync::{Arc, Mutex};

use block_core::driver::{CheckProgress, Repair};
use block_core::{IoBuf, Request};
use block_drivers::format::qcow2::CreateOptions;

use crate::support;
use crate::support::machine::{self, Machine, SIZE};

/// How far a check says that it is, each time that it asks the file for something.
fn seen(repair: Repair) -> Vec<CheckProgress> {
    let seed = support::seed("checks");
    // A table describes 32 KiB: the disk has eight.
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 512,
        ..CreateOptions::default()
    };
    let machine = Machine::new(machine::fresh_of(seed, &options), 1);
    let slots = machine.open();
    let whole = IoBuf::copy_of(&vec![7; support::usize(SIZE)]);
    let written = machine.request(&slots, Request::write(0, whole));
    written.expect("the first write");
    let graph = machine.layer.graph();
    let top = machine.layer.backend("disk").expect("it is open").root();
    let index = graph.index_of(top).expect("it is in the graph");
    let node = Arc::clone(&graph.entry(index).node);
    let seen: Arc<Mutex<Vec<CheckProgress>>> = Arc::default();
    let note = Arc::clone(&seen);
    machine.sim.hold(move |_| {
        let mut seen = note.lock().expect("no test panics in here");
        seen.extend(node.driver().check_progress());
        false
    });
    let report = machine.check(repair).expect("a check");
    assert!(report.is_clean(), "{report:?}");
    let mut seen = seen.lock().expect("no test panics in here").clone();
    let driver = graph.entry(index).node.driver();
    seen.extend(driver.check_progress());
    seen
}

#[test]
fn a_check_tells_how_far_it_is() {
    for repair in [Repair::None, Repair::All] {
        let seen = seen(repair);
        // Before it has read the snapshot table it knows of no work.
        let known: Vec<_> = seen.into_iter().filter(|seen| seen.total > 0).collect();
        assert!(known.is_sorted_by_key(|seen| seen.done), "{known:?}");
        let parts = known.iter().filter(|seen| seen.done < seen.total);
        let mut parts: Vec<u64> = parts.map(|seen| seen.done).collect();
        parts.dedup();
        assert!(parts.len() >= 8, "a step for each table: {known:?}");
        let last = known.last().expect("some were seen");
        assert_eq!(last.done, last.total);
    }
}
