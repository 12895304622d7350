//! What broke others' images, as tests of their own: the shapes of reports against hypervisors that
//! carry a qcow2 driver.

use block_core::IoBuf;
use block_core::Request;
use block_core::driver::Repair;
use block_core::engine::Fallocate;
use block_core::engine::sim::SimKind;

use crate::support::machine::{self, BACKING, CLUSTER, Machine, SIZE, Step};
use crate::support::{self, Random, Scratch};

/// A cluster is discarded; before the hole is punched in the file, others flush and allocate. What
/// the late punch erases must not be in use again.
#[test]
fn a_late_hole_never_hits_a_reused_cluster() {
    let seed = support::seed("a_late_hole_never_hits_a_reused_cluster");
    let machine = Machine::new(machine::fresh(seed), 3);
    let slots = machine.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    let first = Step::Write {
        at: 0,
        len: 4 * CLUSTER,
        byte: 0x11,
    };
    machine.together(&slots, &[first]);
    first.apply(&mut disk);
    machine.together(&slots, &[Step::Flush]);
    let late = machine
        .sim
        .hold(|op| matches!(op.kind, SimKind::Fallocate(Fallocate::PunchHole)));
    let discard = Step::Discard {
        at: 0,
        len: 2 * CLUSTER,
    };
    machine.queues[0].submit(slots[0], discard.request(), 0);
    discard.apply(&mut disk);
    // The other queues flush and allocate, again and again, while the hole waits.
    for round in 0..8 {
        let write = Step::Write {
            at: (8 + 3 * round) * CLUSTER,
            len: 2 * CLUSTER,
            byte: 0x40,
        };
        write.apply(&mut disk);
        for (queue, request) in [(1, write.request()), (2, Request::flush())] {
            machine.queues[queue].submit(slots[queue], request, 0);
        }
        for _ in 0..200 {
            for queue in &machine.queues {
                queue.kick();
                queue.wait(Some(std::time::Duration::ZERO));
                queue.reap(|done| done.result.expect("no request fails"));
            }
        }
    }
    assert!(!machine.sim.held().is_empty(), "no hole was waiting");
    machine.sim.release(late);
    for queue in &machine.queues {
        queue.park();
        queue.reap(|done| done.result.expect("no request fails"));
    }
    assert!(machine.read_all(&slots) == disk, "a byte was lost");
    machine.together(&slots, &[Step::Flush]);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
}

/// An image of compressed clusters, grown, then written all over: tables that are in use are never
/// handed out again.
#[test]
fn live_tables_are_not_handed_out_again() {
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let seed = support::seed("live_tables_are_not_handed_out_again");
    let dir = Scratch::new("reports");
    let (raw, image) = (dir.path("disk.raw"), dir.path("disk.qcow2"));
    let (old, len) = (4 << 20, 64 << 20);
    let mut random = Random::new(seed);
    let mut disk: Vec<u8> = Vec::with_capacity(len);
    while disk.len() < old {
        let byte = u8::try_from(random.below(250)).expect("a byte");
        disk.extend(std::iter::repeat_n(byte, 1024));
    }
    std::fs::write(&raw, &disk).expect("a raw disk");
    let (raw, name) = (raw.display().to_string(), image.display().to_string());
    // Small clusters: many tables.
    let options = ["-c", "-O", "qcow2", "-o", "cluster_size=4096", &raw, &name];
    qemu.run(&[&["convert"][..], &options[..]].concat());
    qemu.run(&["resize", "-q", &name, &len.to_string()]);
    disk.resize(len, 0);
    let layer = support::layer();
    let queue = layer.new_queue(Box::new(support::disks::engine())).start();
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{name}"}}}}"#
    );
    let slot = queue.attach(&support::open(&queue, &json, "disk"));
    for step in 0..3000 {
        let at = random.below(len as u64 / 512) * 512;
        let count = (1 + random.below(24) * 512).min(len as u64 - at) / 512 * 512;
        let range = support::usize(at)..support::usize(at + count);
        let request = match random.below(10) {
            0 => Request::flush(),
            1 => {
                disk[range].fill(0);
                Request::write_zeroes(at, count, Default::default())
            }
            _ => {
                let byte = u8::try_from(step % 250).expect("a byte") + 1;
                disk[range.clone()].fill(byte);
                Request::write(at, IoBuf::copy_of(&disk[range]))
            }
        };
        let done = queue.block_on(queue.request(slot, request));
        done.unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
    drop(queue);
    drop(layer);
    qemu.run(&["check", "-q", &name]);
    std::fs::write(&raw, &disk).expect("the model");
    qemu.run(&["compare", "-q", "-f", "raw", "-F", "qcow2", &raw, &name]);
}
