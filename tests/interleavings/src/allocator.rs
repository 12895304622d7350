//! What must be true of the refcounts in memory (`counts.rs` of qcow2), whatever the threads' order.
//! A refcount block of four clusters stands for all: the first is the header.

use std::ops::Range;

use loom::sync::Arc;
use loom::thread;

use crate::addr::HostOffset;
use crate::announce::{InFlight, Reach};
use crate::atomic::{AtomicU64, Ordering, fence};
use crate::counts::{FreeReason, Refcounts, Reservation};
use crate::geometry::Geometry;
use crate::graph::NodeId;
use crate::layer::Readers;
use crate::models::{explore, loading};
use crate::request::map::Access;
use crate::table_cache::{Acquire, Pinned, TableCache};

const NODE: NodeId = NodeId(1);
/// Clusters of 32 bytes and counts of 64 bits: four to a block.
const GEOMETRY: Geometry = Geometry {
    cluster_bits: 5,
    refcount_order: 6,
    l2_entry_order: 0,
};

fn refcounts(counts: [u64; 4]) -> Arc<Refcounts> {
    let blocks = TableCache::new(4, 32, 1, 1);
    drop(loading(&blocks, 0).fill(&counts));
    Arc::new(Refcounts::new(GEOMETRY, vec![32], blocks, 128))
}

fn block(refcounts: &Refcounts) -> Pinned<'_> {
    match refcounts.blocks.acquire(0) {
        Acquire::Ready(block) => block,
        Acquire::Load(_) | Acquire::Wait | Acquire::Full => panic!("the block is there"),
    }
}

fn take(refcounts: &Refcounts, want: u64) -> Option<Reservation<'_>> {
    let taken = refcounts.take_in(&block(refcounts), 0, want, |_| Ok::<(), ()>(()));
    taken.expect("nothing is refused")
}

/// Takes clusters and keeps them.
fn take_for_good(refcounts: &Refcounts, want: u64) -> Range<u64> {
    take(refcounts, want).map_or(0..0, |taken| {
        let run = taken.offset().0 / 32..taken.end().0 / 32;
        taken.commit();
        run
    })
}

/// What two take at once is not the same.
pub fn a_cluster_has_one_owner() {
    explore(|| {
        let refcounts = refcounts([1, 0, 0, 0]);
        let other = Arc::clone(&refcounts);
        let thread = thread::spawn(move || take_for_good(&other, 2));
        let ours = take_for_good(&refcounts, 2);
        let theirs = thread.join().expect("the other's thread");
        assert_eq!(ours.end - ours.start + theirs.end - theirs.start, 3);
        assert!(ours.end <= theirs.start || theirs.end <= ours.start);
    });
}

/// What is taken and not kept is found by those who come later.
pub fn what_is_given_back_is_found_again() {
    explore(|| {
        let refcounts = refcounts([1, 0, 0, 0]);
        let other = Arc::clone(&refcounts);
        let thread = thread::spawn(move || drop(take(&other, 1)));
        let ours = take_for_good(&refcounts, 1);
        thread.join().expect("the other's thread");
        let mut all = vec![ours.start];
        all.extend((0..2).map(|_| take_for_good(&refcounts, 1).start));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3], "a cluster is lost");
    });
}

/// A cluster that was given up goes to nobody while somebody reads it who looked it up before.
pub fn what_is_freed_is_read_no_more() {
    explore(|| {
        let refcounts = refcounts([1, 1, 1, 1]);
        let queue = Arc::new(InFlight::with_places(1));
        let entry = Arc::new(AtomicU64::new(1));
        let contents = Arc::new(AtomicU64::new(7));
        let theirs = (
            Arc::clone(&queue),
            Arc::clone(&entry),
            Arc::clone(&contents),
        );
        let reader = thread::spawn(move || {
            let (queue, entry, contents) = theirs;
            queue.announce(0, NODE, Access::Read, Reach::Direct, &(0..4));
            if entry.load(Ordering::Acquire) == 1 {
                assert_eq!(contents.load(Ordering::Relaxed), 7, "another's bytes");
            }
            queue.leave(0);
        });
        // A discard, the flush behind it, and whoever comes next.
        entry.store(0, Ordering::Release);
        refcounts.free_later(HostOffset(32), 32, FreeReason::Request);
        flush(&refcounts, &queue, || {});
        if let Some(taken) = take(&refcounts, 1) {
            contents.store(8, Ordering::Relaxed);
            taken.commit();
        }
        reader.join().expect("the reader's thread");
    });
}

/// Nor before its removal is durable.
pub fn what_is_freed_is_gone_from_the_disk() {
    explore(|| {
        let refcounts = refcounts([1, 1, 1, 1]);
        let queue = Arc::new(InFlight::with_places(1));
        let entry_on_disk = Arc::new(AtomicU64::new(1));
        let (other, entry) = (Arc::clone(&refcounts), Arc::clone(&entry_on_disk));
        let writer = thread::spawn(move || {
            if let Some(taken) = take(&other, 1) {
                assert_eq!(entry.load(Ordering::Relaxed), 0, "still named");
                taken.commit();
            }
        });
        refcounts.free_later(HostOffset(32), 32, FreeReason::Request);
        flush(&refcounts, &queue, || {
            entry_on_disk.store(0, Ordering::Relaxed);
        });
        writer.join().expect("the writer's thread");
    });
}

/// What a flush does with clusters that were given up; `write` makes their removal durable.
fn flush(refcounts: &Refcounts, queue: &Arc<InFlight>, write: impl FnOnce()) {
    let freed = refcounts.take_freed();
    fence(Ordering::SeqCst);
    let readers = Readers::of(queue, NODE);
    write();
    refcounts.settle(readers, freed);
    let settled = refcounts.take_settled();
    refcounts.lower(&block(refcounts), &settled);
}

/// Of a host cluster that becomes a hole nobody gets a part: who packs a compressed cluster there was
/// first, or goes elsewhere.
pub fn a_hole_is_made_of_nothing_that_is_packed() {
    explore(|| {
        let refcounts = refcounts([1, 1, 1, 1]);
        let open = HostOffset(40);
        refcounts.state.lock().open = Some(open);
        let contents = Arc::new(AtomicU64::new(7));
        let (other, bytes) = (Arc::clone(&refcounts), Arc::clone(&contents));
        let packer = thread::spawn(move || {
            let packed = other.raise_open(&block(&other), open, None);
            if packed {
                bytes.store(9, Ordering::Relaxed);
            }
            packed
        });
        refcounts.free_later(HostOffset(32), 8, FreeReason::Request);
        let freed = refcounts.take_freed();
        let held = block(&refcounts);
        if !refcounts.unused_runs(&held, &freed, |_| true).is_empty() {
            contents.store(0, Ordering::Relaxed);
        }
        refcounts.lower(&held, &freed);
        let packed = packer.join().expect("the packer's thread");
        let (left, count) = (contents.load(Ordering::Relaxed), refcounts.count(&held, 1));
        assert_eq!(count, u64::from(packed));
        assert!(!packed || left == 9, "a hole in what was packed");
    });
}
