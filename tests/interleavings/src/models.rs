//! What must be true of the shared parts, whatever the threads' order.
//! Each function is one model: loom runs it again and again, with another order each time.

use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;

use crate::announce::{ClaimKind, Claims, InFlight, Reach};
use crate::atomic::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, fence};
use crate::bits::Bits;
use crate::graph::NodeId;
use crate::line::Line;
use crate::request::map::Access;
use crate::slots::Slots;
use crate::sync::{AsyncMutex, WaitList};
use crate::table_cache::{Acquire, Loading, Needs, TableCache};

const NODE: NodeId = NodeId(1);

/// Runs `model` under all interleavings with at most three preemptions: more find nothing new in
/// models of two or three threads, and take hours.
pub(crate) fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A request that found no claim and a claim that found no request are never both there.
pub fn a_claim_or_the_request_gives_way() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        let claims = Arc::new(Claims::default());
        let (other, their_claims) = (Arc::clone(&queue), Arc::clone(&claims));
        let request = thread::spawn(move || {
            other.announce(0, NODE, Access::Write, Reach::Direct, &(0..4));
            !their_claims.keeps_out(Access::Write, Some(&(0..4)))
        });
        claims.publish(2..6, ClaimKind::Write);
        fence(Ordering::SeqCst);
        let alone = !queue.any(|a| a.node == NODE && a.overlaps(&(2..6)));
        let went_on = request.join().expect("the request's thread");
        assert!(!(alone && went_on), "both went on");
    });
}

/// A request that saw the gate open is seen by the drain that closed it.
pub fn a_drain_or_the_request_gives_way() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        let claims = Arc::new(Claims::default());
        let (other, gate) = (Arc::clone(&queue), Arc::clone(&claims));
        let request = thread::spawn(move || {
            other.announce(0, NODE, Access::Read, Reach::Direct, &(0..4));
            let passed = !gate.is_quiesced();
            if !passed {
                other.leave(0);
            }
            passed
        });
        claims.quiesce();
        fence(Ordering::SeqCst);
        let quiet = !queue.any(|a| a.node == NODE);
        let went_on = request.join().expect("the request's thread");
        assert!(!(quiet && went_on), "a request runs in a drained node");
    });
}

/// A request that took a graph before a verb drained, and finds the gate open after it, sees that
/// the graph is no longer the current one.
pub fn an_open_gate_shows_the_graph_behind_it() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        let claims = Arc::new(Claims::default());
        let version = Arc::new(AtomicU64::new(1));
        let (other, gate, current) = (
            Arc::clone(&queue),
            Arc::clone(&claims),
            Arc::clone(&version),
        );
        let request = thread::spawn(move || {
            let taken = current.load(Ordering::Acquire);
            other.announce(0, NODE, Access::Write, Reach::Direct, &(0..4));
            let passed = !gate.is_quiesced() && current.load(Ordering::Acquire) == taken;
            if !passed {
                other.leave(0);
            }
            (passed, taken)
        });
        claims.quiesce();
        fence(Ordering::SeqCst);
        let quiet = !queue.any(|a| a.node == NODE);
        if quiet {
            version.store(2, Ordering::Release);
        }
        claims.resume();
        let (went_on, taken) = request.join().expect("the request's thread");
        assert!(
            !(quiet && went_on && taken == 1),
            "a request runs on a graph that was replaced"
        );
    });
}

/// Watchers are added within a drain: a write that the drain did not wait for sees them, though it asks
/// for no more than a flag, and no earlier than it is announced.
pub fn a_write_that_a_drain_did_not_wait_for_sees_who_watches() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        let claims = Arc::new(Claims::default());
        let watched = Arc::new(AtomicBool::new(false));
        let (other, gate, flag) = (
            Arc::clone(&queue),
            Arc::clone(&claims),
            Arc::clone(&watched),
        );
        let write = thread::spawn(move || {
            other.announce(0, NODE, Access::Write, Reach::Direct, &(0..4));
            let passed = !gate.is_quiesced();
            // As `Watchers::are_there` does.
            let sees = flag.load(Ordering::Relaxed);
            if !passed {
                other.leave(0);
            }
            passed && !sees
        });
        claims.quiesce();
        fence(Ordering::SeqCst);
        let quiet = !queue.any(|a| a.node == NODE);
        if quiet {
            watched.store(true, Ordering::Release);
        }
        claims.resume();
        let unseen = write.join().expect("the write's thread");
        assert!(!(quiet && unseen), "a write that nobody watches");
    });
}

/// A reader that looked an entry up before it was changed is found, until it has left, by who
/// changed the entry: what the entry said is not used for anything else before.
pub fn what_is_given_up_waits_for_its_readers() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        // The entry names a cluster; a cluster's number changes when it is used again.
        let entry = Arc::new(AtomicU64::new(1));
        let contents = Arc::new(AtomicU64::new(7));
        let (other, looked_up, read) = (
            Arc::clone(&queue),
            Arc::clone(&entry),
            Arc::clone(&contents),
        );
        let reader = thread::spawn(move || {
            other.announce(0, NODE, Access::Read, Reach::Direct, &(0..4));
            let found = looked_up.load(Ordering::Acquire);
            if found == 1 {
                assert_eq!(read.load(Ordering::Relaxed), 7, "another's bytes");
            }
            other.leave(0);
        });
        entry.store(2, Ordering::Release);
        fence(Ordering::SeqCst);
        let readers = queue.readers(|node| node == NODE);
        if readers.iter().all(|reader| !queue.is_there(reader)) {
            contents.store(8, Ordering::Relaxed);
        }
        reader.join().expect("the reader's thread");
    });
}

/// Bits set on two queues while a third takes them are in what was taken, or still there.
pub fn a_mark_is_taken_or_stays() {
    explore(|| {
        let bits = Arc::new(Bits::new(64).expect("64 bits"));
        let other = Arc::clone(&bits);
        let queue = thread::spawn(move || other.set(0..2));
        let other = Arc::clone(&bits);
        let taker = thread::spawn(move || other.take().expect("64 bits"));
        bits.set(1..3);
        queue.join().expect("the queue's thread");
        let taken = taker.join().expect("the taker's thread");
        assert_eq!(taken.word(0) | bits.word(0), 0b111, "a mark is lost");
    });
}

/// Bits are taken from a drained node: bytes that changed after they were taken have their bit in
/// the bitmap that tracks on, and bytes that changed before are there to be copied.
pub fn a_write_after_the_cut_is_in_the_next_bitmap() {
    explore(|| {
        let queue = Arc::new(InFlight::with_places(1));
        let claims = Arc::new(Claims::default());
        let bits = Arc::new(Bits::new(1).expect("a bit"));
        let bytes = Arc::new(AtomicU64::new(0));
        // An earlier write: its bit is set, so the next one's mark has nothing to store.
        bits.set(0..1);
        let shared = (
            Arc::clone(&queue),
            Arc::clone(&claims),
            Arc::clone(&bits),
            Arc::clone(&bytes),
        );
        let request = thread::spawn(move || {
            let (queue, gate, bits, bytes) = shared;
            queue.announce(0, NODE, Access::Write, Reach::Direct, &(0..1));
            if !gate.is_quiesced() {
                bits.set(0..1);
                bytes.store(1, Ordering::Relaxed);
            }
            queue.leave(0);
        });
        claims.quiesce();
        fence(Ordering::SeqCst);
        let taken = (!queue.any(|a| a.node == NODE)).then(|| {
            bits.take().expect("a bit");
            bytes.load(Ordering::Relaxed)
        });
        claims.resume();
        request.join().expect("the request's thread");
        if let Some(copied) = taken {
            let changed = bytes.load(Ordering::Relaxed) != copied;
            assert!(
                !changed || bits.word(0) == 1,
                "the next copy misses a write"
            );
        }
    });
}

/// Nobody sleeps through the change it waits for.
pub fn no_wake_up_is_lost() {
    explore(|| {
        let shared = Arc::new((WaitList::new(), AtomicBool::new(false)));
        let other = Arc::clone(&shared);
        let changer = thread::spawn(move || {
            other.1.store(true, Ordering::Relaxed);
            other.0.wake_all();
        });
        block_on(shared.0.wait_until(|| shared.1.load(Ordering::Relaxed)));
        changer.join().expect("the changer's thread");
    });
}

/// One holder at a time, and the lock goes on to who waits.
pub fn the_lock_has_one_holder() {
    explore(|| {
        let shared = Arc::new((AsyncMutex::new(), AtomicUsize::new(0)));
        let other = Arc::clone(&shared);
        let enter = |shared: &(AsyncMutex, AtomicUsize)| {
            let guard = block_on(shared.0.lock());
            assert_eq!(shared.1.fetch_add(1, Ordering::Relaxed), 0, "two holders");
            shared.1.fetch_sub(1, Ordering::Relaxed);
            drop(guard);
        };
        let thread = thread::spawn(move || enter(&other));
        enter(&shared);
        thread.join().expect("the other holder's thread");
    });
}

/// Whoever joins the line hears of work that began after it joined; one works at a time.
pub fn a_sync_serves_those_who_came_before_it() {
    explore(|| {
        struct Disk {
            line: Line<u64>,
            /// The next write's number, and how far the last sync reached.
            written: AtomicU64,
            heard: Mutex<Vec<(u64, u64)>>,
            working: AtomicBool,
        }
        let disk = Arc::new(Disk {
            line: Line::default(),
            written: AtomicU64::new(0),
            heard: Mutex::new(Vec::new()),
            working: AtomicBool::new(false),
        });
        let write_and_sync = |disk: &Disk| {
            let own = disk.written.fetch_add(1, Ordering::Relaxed) + 1;
            let Some(mut batch) = disk.line.join(own) else {
                return;
            };
            loop {
                assert!(!disk.working.swap(true, Ordering::Relaxed), "two syncs");
                let reached = disk.written.load(Ordering::Relaxed);
                disk.working.store(false, Ordering::Relaxed);
                let next = disk.line.next();
                let told = batch.into_iter().map(|own| (own, reached));
                disk.heard.lock().extend(told);
                match next {
                    Some(next) => batch = next,
                    None => break,
                }
            }
        };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let disk = Arc::clone(&disk);
                thread::spawn(move || write_and_sync(&disk))
            })
            .collect();
        write_and_sync(&disk);
        for thread in threads {
            thread.join().expect("a writer's thread");
        }
        let heard = disk.heard.lock();
        assert_eq!(heard.len(), 3, "everybody hears once");
        assert!(heard.iter().all(|(own, reached)| own <= reached));
    });
}

/// A view that is still valid after the entries were read has shown entries of its table alone.
pub fn a_valid_view_shows_its_own_table() {
    explore(|| {
        let cache = Arc::new(TableCache::new(2, 16, 1, 2));
        drop(loading(&cache, 0).fill(&[10, 10]));
        let other = Arc::clone(&cache);
        let reader = thread::spawn(move || {
            if let Some(view) = other.view(0) {
                let seen = [view.entry(0), view.entry(1)];
                assert!(!view.is_valid() || seen == [10, 10], "{seen:?}");
            }
            if let Some(view) = other.view(1) {
                let seen = [view.entry(0), view.entry(1)];
                assert!(!view.is_valid() || seen == [11, 11], "{seen:?}");
            }
        });
        // The only slot changes hands.
        let slot = match cache.acquire(1) {
            Acquire::Load(slot) => Some(slot),
            Acquire::Ready(_) | Acquire::Wait | Acquire::Full => None,
        };
        if let Some(slot) = slot {
            drop(slot.fill(&[11, 11]));
        }
        reader.join().expect("the reader's thread");
    });
}

/// A reader of a table that is dropped, with its memory, sees it as it was, or a miss.
pub fn a_valid_view_shows_no_memory_that_went_back() {
    explore(|| {
        let cache = Arc::new(TableCache::new(2, 16, 1, 2));
        drop(loading(&cache, 0).fill(&[10, 10]));
        cache.drop_unused();
        let other = Arc::clone(&cache);
        let reader = thread::spawn(move || {
            if let Some(view) = other.view(0) {
                let seen = [view.entry(0), view.entry(1)];
                assert!(!view.is_valid() || seen == [10, 10], "{seen:?}");
            }
        });
        cache.drop_unused();
        reader.join().expect("the reader's thread");
    });
}

/// The words of an entry of two are of the same state for who reads without a lock, whether both words
/// change or the second alone.
pub fn a_pair_in_a_valid_view_is_whole() {
    a_pair_changes(|cache| {
        let view = cache.view(0)?;
        let seen = view.pair(0);
        view.is_valid().then_some(seen)
    });
}

/// And for who holds the table, who always gets an answer.
pub fn a_pair_of_a_held_table_is_whole() {
    a_pair_changes(|cache| match cache.acquire(0) {
        Acquire::Ready(table) => Some(table.pair(0)),
        Acquire::Load(_) | Acquire::Wait | Acquire::Full => panic!("the table is there"),
    });
}

fn a_pair_changes(look: impl Fn(&TableCache) -> Option<[u64; 2]> + Copy + Send + Sync + 'static) {
    explore(move || {
        let cache = Arc::new(TableCache::new(2, 16, 1, 1));
        let table = loading(&cache, 0).fill(&[1, 10]);
        let other = Arc::clone(&cache);
        let reader = thread::spawn(move || {
            if let Some(seen) = look(&other) {
                assert!(whole(seen), "{seen:?}");
            }
        });
        table.set_pairs(0, &[[1, 11]], Needs::Data);
        table.set_pairs(0, &[[2, 20]], Needs::Data);
        reader.join().expect("the reader's thread");
    });
}

/// Whether the second word of a pair says that it belongs to the first.
fn whole(pair: [u64; 2]) -> bool {
    pair[0] == pair[1] / 10
}

/// Two who miss the same table: one loads it, the other gets the loaded one.
pub fn a_table_is_loaded_once() {
    explore(|| {
        let shared = Arc::new((TableCache::new(1, 16, 2, 1), AtomicUsize::new(0)));
        let find = |shared: &(TableCache, AtomicUsize)| {
            loop {
                match shared.0.acquire(0) {
                    Acquire::Ready(table) => return assert_eq!(table.entry(0), 5),
                    Acquire::Load(slot) => {
                        shared.1.fetch_add(1, Ordering::Relaxed);
                        drop(slot.fill(&[5]));
                        return;
                    }
                    Acquire::Wait => block_on(shared.0.loaded(0)),
                    Acquire::Full => block_on(shared.0.slot_free()),
                }
            }
        };
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || find(&other));
        find(&shared);
        thread.join().expect("the other's thread");
        assert_eq!(shared.1.load(Ordering::Relaxed), 1, "loads");
    });
}

/// A change is in the copy that is taken after it, or dirty for the next one: never lost.
pub fn every_change_reaches_a_copy() {
    explore(|| {
        let cache = Arc::new(TableCache::new(2, 16, 1, 1));
        let table = loading(&cache, 0).fill(&[0, 0]);
        table.set(0, 1, Needs::Data);
        let other = Arc::clone(&cache);
        let flusher = thread::spawn(move || {
            let mut disk = [0, 0];
            for copy in other.take_dirty() {
                for (at, word) in copy.range.clone().zip(&copy.words) {
                    disk[at] = *word;
                }
                other.written(&copy);
            }
            disk
        });
        table.set(1, 2, Needs::Nothing);
        let mut disk = flusher.join().expect("the flusher's thread");
        for copy in cache.take_dirty() {
            for (at, word) in copy.range.clone().zip(&copy.words) {
                disk[at] = *word;
            }
            cache.written(&copy);
        }
        assert_eq!(disk, [1, 2]);
    });
}

pub(crate) fn loading(cache: &TableCache, key: u64) -> Loading<'_> {
    match cache.acquire(key) {
        Acquire::Load(slot) => slot,
        Acquire::Ready(_) | Acquire::Wait | Acquire::Full => panic!("the cache has room"),
    }
}

/// What is seen in a slot while it changes was written together, or nobody has yet.
pub fn a_slot_is_seen_whole() {
    explore(|| {
        let slots = Arc::new(Slots::new(1).expect("memory"));
        let other = Arc::clone(&slots);
        let reader = thread::spawn(move || {
            if let Some(seen) = other.get(0) {
                assert!([[0; 3], [1; 3], [2; 3]].contains(&seen), "{seen:?}");
            }
        });
        slots.put(0, [1; 3]);
        slots.put(0, [2; 3]);
        reader.join().expect("the reader's thread");
        assert_eq!(slots.get(0), Some([2; 3]));
    });
}

/// Two who write a slot: it holds what one of them wrote, and goes on being written.
pub fn a_slot_has_one_writer() {
    explore(|| {
        let slots = Arc::new(Slots::new(1).expect("memory"));
        let other = Arc::clone(&slots);
        let writer = thread::spawn(move || other.put(0, [1; 3]));
        slots.put(0, [2; 3]);
        writer.join().expect("the writer's thread");
        let left = slots.get(0).expect("nobody writes it");
        assert!(left == [1; 3] || left == [2; 3], "{left:?}");
        slots.put(0, [3; 3]);
        assert_eq!(slots.get(0), Some([3; 3]));
    });
}
