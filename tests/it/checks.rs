//! What is seen of a check while it goes on.

use block_core::driver::{CheckProgress, Repair};
use block_core::{IoBuf, Request};
use block_drivers::format::qcow2::CreateOptions;

use crate::support;
use crate::support::machine::{self, Machine, SIZE};

/// How far a check says that it is, each time that a read of the file has ended.
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
    let queue = machine.queue();
    let top = machine.layer.backend("disk").expect("it is open").root();
    let disk = machine.layer.node(queue, top).expect("it is open");
    let check = machine.layer.check(queue, top, repair);
    let mut seen = Vec::new();
    let report = queue.block_on(async {
        let mut check = std::pin::pin!(check);
        std::future::poll_fn(|cx| {
            let polled = check.as_mut().poll(cx);
            seen.extend(disk.node().driver().check_progress());
            polled
        })
        .await
    });
    assert!(report.expect("a check").is_clean());
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
