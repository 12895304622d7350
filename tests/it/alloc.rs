//! Cached requests allocate nothing, whatever the graph (DESIGN: depth is free).

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::{BackendSlot, IoBuf, Queue, Request};

use crate::support::disks::{Disk, LEN, TOP, engine};

/// Requests of one round.
const ROUND: u64 = 256;

fn round(
    queue: &Queue,
    slot: BackendSlot,
    idle: &mut Vec<IoBuf>,
    request: fn(u64, IoBuf) -> Request,
    places: u64,
) {
    let (mut submitted, mut done) = (0, 0);
    while done < ROUND {
        while submitted < ROUND
            && let Some(buf) = idle.pop()
        {
            // All over the range, in an order that is not the file's.
            let offset = LEN - (submitted * 37 % places + 1) * 4096;
            queue.submit(slot, request(offset, buf), submitted);
            submitted += 1;
        }
        queue.wait(None);
        queue.reap(|end| {
            assert!(end.result.is_ok(), "{:?}", end.result);
            idle.push(end.buf);
            done += 1;
        });
    }
}

/// `places` blocks of 4 KiB, from the end of the disk.
#[track_caller]
fn check(disk: &Disk, request: fn(u64, IoBuf) -> Request, places: u64) {
    let queue = disk.layer().new_queue(Box::new(engine())).start();
    let slot = queue.attach(&disk.backend);
    let mut idle: Vec<IoBuf> = (0..64).map(|_| IoBuf::zeroed(4096)).collect();
    for _ in 0..8 {
        round(&queue, slot, &mut idle, request, places);
    }
    let counted = allocation_counter::measure(|| {
        for _ in 0..16 {
            round(&queue, slot, &mut idle, request, places);
        }
    });
    assert_eq!(counted.count_total, 0, "in {} requests", 16 * ROUND);
}

#[test]
fn reads_of_raw_over_a_file_allocate_nothing() {
    check(&Disk::raw(), Request::read, LEN / 4096);
}

#[test]
fn reads_of_chains_allocate_nothing() {
    for depth in [1, 3, 6] {
        check(&Disk::qcow2(depth), Request::read, LEN / 4096);
    }
}

#[test]
fn overwrites_allocate_nothing() {
    check(&Disk::raw(), Request::write, LEN / 4096);
    for depth in [1, 3] {
        check(&Disk::qcow2(depth), Request::write, TOP / 4096);
    }
}

#[test]
fn overwrites_with_a_bitmap_allocate_nothing() {
    for disk in [Disk::raw(), Disk::qcow2(1)] {
        let node = {
            let graph = disk.layer().graph();
            let root = graph.index_of(disk.backend.root()).unwrap();
            graph.entry(root).node.name().to_owned()
        };
        let name = BitmapName {
            node: &node,
            name: "b",
        };
        let added = disk
            .layer()
            .block_dirty_bitmap_add(name, NewBitmap::default());
        disk.queue.block_on(added).unwrap();
        check(&disk, Request::write, TOP / 4096);
        let (_, bitmap) = disk.layer().dirty_bitmap(name).unwrap();
        assert_eq!(bitmap.next_dirty(0..LEN), Some(LEN - TOP..LEN));
    }
}

/// The counter counts: a request that loads a table or allocates a cluster is not free.
#[test]
fn allocating_writes_are_counted() {
    let disk = Disk::qcow2(2);
    let slot = disk.queue.attach(&disk.backend);
    let counted = allocation_counter::measure(|| {
        let request = Request::write(0, IoBuf::zeroed(4096));
        disk.queue
            .block_on(disk.queue.request(slot, request))
            .unwrap();
    });
    assert!(counted.count_total > 1, "{counted:?}");
}
