//! What broke others' images, as tests of their own: the shapes of reports against hypervisors that
//! carry a qcow2 driver.

use std::process::Command;

use block_core::IoBuf;
use block_core::Request;
use block_core::driver::Repair;
use block_core::engine::Fallocate;
use block_core::engine::sim::{Fault, SimKind};
use block_drivers::format::qcow2::CreateOptions;
use rustix::io::Errno;

use crate::faults::Model;
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

/// The same for a host cluster that compressed clusters share: while its hole waits, the next one
/// that is compressed is not put beside those that are gone.
#[test]
fn a_late_hole_never_hits_a_compressed_neighbour() {
    let seed = support::seed("a_late_hole_never_hits_a_compressed_neighbour");
    let machine = Machine::new(machine::fresh(seed), 2);
    let slots = machine.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    let packed = |at: u64, byte: u8| {
        let bytes = vec![byte; support::usize(CLUSTER)];
        Request::write_compressed(at, IoBuf::copy_of(&bytes))
    };
    let gone = Step::Discard {
        at: 0,
        len: CLUSTER,
    };
    // What lies behind it: the file does not end in the host cluster.
    let behind = Step::Write {
        at: 20 * CLUSTER,
        len: CLUSTER,
        byte: 0x33,
    };
    let first = [packed(0, 0x11), behind.request(), Request::flush()];
    for request in first.into_iter().chain([gone.request()]) {
        machine.request(&slots, request).expect("no request fails");
    }
    behind.apply(&mut disk);
    gone.apply(&mut disk);
    let late = machine
        .sim
        .hold(|op| matches!(op.kind, SimKind::Fallocate(Fallocate::PunchHole)));
    machine.queues[0].submit(slots[0], Request::flush(), 0);
    let mut left = 2;
    let mut written = false;
    while left > 0 {
        if !written && !machine.sim.held().is_empty() {
            machine.queues[1].submit(slots[1], packed(8 * CLUSTER, 0x22), 1);
            written = true;
        }
        for queue in &machine.queues {
            queue.kick();
            queue.wait(Some(std::time::Duration::ZERO));
            queue.reap(|done| {
                done.result.expect("no request fails");
                left -= 1;
            });
        }
        if written && left == 1 && !machine.sim.held().is_empty() {
            // The write is over, and the hole comes.
            machine.sim.release(late);
        }
    }
    let at = support::usize(8 * CLUSTER);
    disk[at..at + support::usize(CLUSTER)].fill(0x22);
    assert!(machine.read_all(&slots) == disk, "a byte was lost");
    machine.together(&slots, &[Step::Flush]);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
}

/// A guest fills its disk: from some byte on, the image's file takes no more. Whatever fails in the
/// middle of an allocation, no table is named that is not counted: opened again, with room, the image
/// gives none of them out a second time.
#[test]
fn a_table_that_is_named_is_counted_however_full_the_file() {
    fill_the_file(
        "a_table_that_is_named_is_counted_however_full_the_file",
        None,
    );
}

/// The same over compressed clusters: a write that finds no room for what it would take their place
/// leaves them as they were, and nothing behind.
#[test]
fn a_write_that_finds_no_room_leaves_nothing_behind() {
    fill_the_file(
        "a_write_that_finds_no_room_leaves_nothing_behind",
        Some(0x66),
    );
}

/// Fills files of every length; `packed` is what a disk of compressed clusters holds first.
fn fill_the_file(test: &str, packed: Option<u8>) {
    let seed = support::seed(test);
    for round in 0..support::rounds(1) {
        // From hardly a table to more than the script needs.
        for room in (0..96).map(|clusters| clusters * 512) {
            let context = format!("{room} bytes of room, seed {}", seed.wrapping_add(round));
            fill_with_room(seed.wrapping_add(round), room, packed, &context);
        }
    }
}

fn fill_with_room(seed: u64, room: u64, packed: Option<u8>, context: &str) {
    // A table describes 32 KiB: the disk has eight.
    let options = CreateOptions {
        size: SIZE,
        cluster_size: 512,
        ..CreateOptions::default()
    };
    let sim = machine::fresh_of(seed, &options);
    let machine = Machine::new(sim.clone(), 1);
    let slots = machine.open();
    let mut model = Model::new();
    if let Some(byte) = packed {
        let whole = Step::Write {
            at: 0,
            len: SIZE,
            byte,
        };
        let bytes = IoBuf::copy_of(&vec![byte; support::usize(SIZE)]);
        for request in [Request::write_compressed(0, bytes), Request::flush()] {
            machine.request(&slots, request).expect("there is room");
        }
        model.done(whole);
    }
    let full = sim.contents(machine::IMAGE).len() as u64 + room;
    sim.fail_when(0, usize::MAX, Fault::Errno(Errno::NOSPC), move |op| {
        let longer = matches!(op.kind, SimKind::Write | SimKind::Truncate);
        op.file == Some(machine::IMAGE) && longer && op.range.end > full
    });
    let mut random = Random::new(seed);
    let mut durable = model.clone();
    for number in 0..40 {
        let step = match number % 8 {
            7 => Step::Flush,
            _ => Step::random(&mut random, 0, SIZE / machine::SECTOR),
        };
        let done = machine.request(&slots, step.request());
        durable.failed(step);
        match (step, done) {
            (Step::Flush, Ok(_)) => durable = model.clone(),
            (_, Ok(_)) => model.done(step),
            (_, Err(_)) => model.failed(step),
        }
    }
    model.check(&machine.read_all(&slots), context);
    let closed = machine.close().is_ok();
    drop(machine);
    sim.heal();
    let machine = Machine::new(sim.clone(), 1);
    let slots = machine.open();
    let mut left = if closed { model } else { durable };
    left.check(&machine.read_all(&slots), context);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!(report.corruptions, 0, "{context}: {:?}", report.messages);
    assert!(!closed || report.leaks == 0, "{context}: {report:?}");
    // What is free is given out again: to every second cluster.
    for at in (0..SIZE).step_by(1024) {
        let step = Step::Write {
            at,
            len: 512,
            byte: 0x99,
        };
        let done = machine.request(&slots, step.request());
        done.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
        left.done(step);
    }
    machine.close().expect("a clean close");
    drop(machine);
    let machine = Machine::new(sim, 1);
    let slots = machine.open();
    left.check(&machine.read_all(&slots), context);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!(report.corruptions, 0, "{context}: {:?}", report.messages);
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

/// Several queues write small pieces of mixed lengths to an overlay whose tables are in memory, over
/// a backing file: clusters that they share are copied, filled and overwritten at once.
#[test]
fn queues_that_share_clusters_of_a_warm_overlay_lose_no_byte() {
    let seed = support::seed("queues_that_share_clusters_of_a_warm_overlay_lose_no_byte");
    for round in 0..support::rounds(12) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let machine = Machine::new(machine::fresh(seed), 4);
        let slots = machine.open();
        let mut disk = vec![BACKING; support::usize(SIZE)];
        // Every second cluster is there, in part, and every table is in memory.
        for cluster in (0..SIZE / CLUSTER).step_by(2) {
            let warm = Step::Write {
                at: cluster * CLUSTER,
                len: 1024,
                byte: 0x77,
            };
            machine.together(&slots, &[warm]);
            warm.apply(&mut disk);
        }
        for _ in 0..8 {
            let steps = apart(&mut random);
            machine.together(&slots, &steps);
            steps.iter().for_each(|step| step.apply(&mut disk));
            assert!(machine.read_all(&slots) == disk, "{seed}: a byte was lost");
        }
        machine.together(&slots, &[Step::Flush]);
        let report = machine.check(Repair::None).expect("a check");
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{report:?}");
    }
}

/// Steps that change different sectors, in lengths of 1, 2, 4 and 16 sectors, a few a cluster.
fn apart(random: &mut Random) -> Vec<Step> {
    let (mut steps, mut at) = (Vec::new(), random.below(6) * machine::SECTOR);
    while steps.len() < 32 {
        let len = [1, 1, 2, 2, 4, 16][support::usize(random.below(6))] * machine::SECTOR;
        if at + len > SIZE {
            break;
        }
        let byte = u8::try_from(1 + random.below(250)).expect("a byte");
        steps.push(match random.below(8) {
            0 => Step::Flush,
            1 => Step::Zero { at, len },
            _ => Step::Write { at, len, byte },
        });
        at += len + random.below(12) * machine::SECTOR;
    }
    // Neighbours go to different queues, in no order.
    for index in (1..steps.len()).rev() {
        steps.swap(index, support::usize(random.below(index as u64 + 1)));
    }
    steps
}

/// Eight threads, each with a queue, fill a region each of a fresh image and sync as they go: tables
/// and counts are shared, and nothing that belongs to one is another's.
#[test]
fn eight_queues_that_fill_a_fresh_image_stay_apart() {
    const REGION: u64 = 2 << 20;
    let dir = Scratch::new("reports");
    let image = dir.path("disk.qcow2");
    let layer = support::layer();
    let control = layer.new_queue(Box::new(support::disks::engine())).start();
    support::create_qcow2(&control, &image, 8 * REGION, None);
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "file": {{"driver": "file", "filename": "{}"}}}}"#,
        image.display()
    );
    let backend = support::open(&control, &json, "disk");
    let fill = |number: u64| {
        let queue = layer.new_queue(Box::new(support::disks::engine()));
        let backend = std::sync::Arc::clone(&backend);
        std::thread::spawn(move || {
            let queue = queue.start();
            let slot = queue.attach(&backend);
            for at in (number * REGION..(number + 1) * REGION).step_by(12 << 10) {
                let len = (12 << 10).min((number + 1) * REGION - at);
                let write = Request::write(at, IoBuf::copy_of(&content(at, len)));
                queue.block_on(queue.request(slot, write)).expect("a write");
                if at / 4096 % 7 == number % 7 {
                    let flush = queue.request(slot, Request::flush());
                    queue.block_on(flush).expect("a flush");
                }
            }
        })
    };
    let threads: Vec<_> = (0..8).map(fill).collect();
    for thread in threads {
        thread.join().expect("no request fails");
    }
    let slot = control.attach(&backend);
    let whole = Request::read(0, IoBuf::zeroed(support::usize(8 * REGION)));
    let found = control
        .block_on(control.request(slot, whole))
        .expect("a read");
    assert!(found.to_vec() == content(0, 8 * REGION), "a byte was lost");
    control
        .block_on(layer.close_all(&control))
        .expect("a clean close");
    drop(control);
    drop(layer);
    if let Some(qemu) = support::qemu_img() {
        qemu.run(&["check", "-q", &image.display().to_string()]);
    }
}

/// Bytes that differ from their neighbours and tell where they are.
fn content(at: u64, len: u64) -> Vec<u8> {
    let words = at / 8..(at + len) / 8;
    words
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// A new length rewrites the header: the kind of compression that stands there stays.
#[test]
fn a_resized_image_keeps_its_kind_of_compression() {
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let dir = Scratch::new("reports");
    let (raw, image) = (dir.path("disk.raw"), dir.path("disk.qcow2"));
    std::fs::write(&raw, content(0, 1 << 20)).expect("a raw disk");
    let (raw, name) = (raw.display().to_string(), image.display().to_string());
    let options = [
        "-c",
        "-O",
        "qcow2",
        "-o",
        "compression_type=zstd",
        &raw,
        &name,
    ];
    qemu.run(&[&["convert"][..], &options[..]].concat());
    let resized = Command::new(env!("CARGO_BIN_EXE_qblk"))
        .args(["resize", "-q", &name, "64M"])
        .output();
    assert!(resized.expect("our own program").status.success());
    assert!(
        qemu.run(&["info", &name])
            .contains("compression type: zstd")
    );
    qemu.run(&["check", "-q", &name]);
    // What is behind the shorter one reads as zeroes.
    qemu.run(&["compare", "-q", "-f", "raw", "-F", "qcow2", &raw, &name]);
}
