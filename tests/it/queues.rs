//! Many queues, each on its thread, work on one warm qcow2 overlay over a backing chain at once:
//! reads, overwrites, allocating writes, write zeroes, discards and flushes, on both engines, every
//! byte verified; and again while internal snapshots are taken and deleted.
//!
//! The disk is cut into blocks; each block belongs to one thread, and the blocks of a cluster to
//! all of them, so that every cluster is allocated by threads that race for it. Every fourth
//! cluster belongs to one thread alone, which also discards it. The seed is printed.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block_core::driver::{SnapshotChange, SnapshotKey, ZeroFlags};
use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::NodeId;
use block_core::{Backend, BackendSlot, Done, IoBuf, Layer, Queue, Request};

use block_schema::types::SnapshotInfo;

use crate::support::{self, Random, Scratch};

const BLOCK: u64 = 4096;
const CLUSTER: u64 = 65536;
const DISK: u64 = 64 << 20;
/// Requests of one round, over all threads.
const REQUESTS: u64 = 100_000;
const DEPTH: usize = 16;

/// Byte that fills version 0 of every block: what the backing file holds.
const BACKING: u8 = 0xb5;

/// What one block must read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Backing,
    Zero,
    Written(u64),
}

impl Content {
    fn bytes(self, block: u64) -> Vec<u8> {
        match self {
            Content::Backing => vec![BACKING; support::usize(BLOCK)],
            Content::Zero => vec![0; support::usize(BLOCK)],
            Content::Written(version) => {
                let word = (block << 32 | version).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                word.to_le_bytes().repeat(support::usize(BLOCK / 8))
            }
        }
    }
}

fn discards(cluster: u64) -> bool {
    cluster % 4 == 3
}

/// The thread that a block belongs to, of so many.
fn owner(block: u64, threads: u64) -> u64 {
    let cluster = block * BLOCK / CLUSTER;
    if discards(cluster) {
        cluster / 4 % threads
    } else {
        block % threads
    }
}

enum Expected {
    Read(u64, Content),
    Write,
    Flush,
}

/// One thread: its model of its blocks, and what it has in flight.
struct Worker {
    random: Random,
    mine: Vec<u64>,
    content: Vec<Content>,
    busy: Vec<bool>,
    version: u64,
    in_flight: Vec<Option<(Expected, Vec<u64>)>>,
}

impl Worker {
    fn new(id: u64, threads: u64, seed: u64) -> Worker {
        let blocks = DISK / BLOCK;
        Worker {
            random: Random::new(seed.wrapping_add(id)),
            mine: (0..blocks)
                .filter(|&block| owner(block, threads) == id)
                .collect(),
            content: vec![Content::Backing; support::usize(blocks)],
            busy: vec![false; support::usize(blocks)],
            version: 0,
            in_flight: (0..DEPTH).map(|_| None).collect(),
        }
    }

    fn run(&mut self, queue: &Queue, slot: BackendSlot, requests: u64) {
        let mut submitted = 0;
        while submitted < requests || self.in_flight.iter().any(Option::is_some) {
            while submitted < requests
                && let Some(place) = self.in_flight.iter().position(Option::is_none)
            {
                self.submit(queue, slot, place);
                submitted += 1;
            }
            queue.kick();
            queue.wait(None);
            queue.reap(|done| self.complete(done));
        }
    }

    fn submit(&mut self, queue: &Queue, slot: BackendSlot, place: usize) {
        let block = self.mine[support::usize(self.random.below(self.mine.len() as u64))];
        let index = support::usize(block);
        let cluster = block * BLOCK / CLUSTER;
        let (request, expected, touched) = match self.random.below(100) {
            // A block with something in flight would make the answer depend on the order.
            _ if self.busy[index] => (Request::flush(), Expected::Flush, vec![]),
            dice if dice < 2 => (Request::flush(), Expected::Flush, vec![]),
            dice if dice < 7 && discards(cluster) => match self.whole_cluster(cluster) {
                Some(blocks) => {
                    for &block in &blocks {
                        self.content[support::usize(block)] = Content::Zero;
                    }
                    let request = Request::discard(cluster * CLUSTER, CLUSTER);
                    (request, Expected::Write, blocks)
                }
                None => (Request::flush(), Expected::Flush, vec![]),
            },
            dice if dice < 12 => {
                self.content[index] = Content::Zero;
                let request = Request::write_zeroes(block * BLOCK, BLOCK, ZeroFlags::default());
                (request, Expected::Write, vec![block])
            }
            dice if dice < 58 => {
                let buf = IoBuf::zeroed(support::usize(BLOCK));
                let expected = Expected::Read(block, self.content[index]);
                (Request::read(block * BLOCK, buf), expected, vec![block])
            }
            _ => {
                self.version += 1;
                self.content[index] = Content::Written(self.version);
                let buf = IoBuf::copy_of(&self.content[index].bytes(block));
                (
                    Request::write(block * BLOCK, buf),
                    Expected::Write,
                    vec![block],
                )
            }
        };
        for &block in &touched {
            self.busy[support::usize(block)] = true;
        }
        self.in_flight[place] = Some((expected, touched));
        queue.submit(slot, request, place as u64);
    }

    /// The blocks of a cluster, if nothing is in flight on any of them.
    fn whole_cluster(&self, cluster: u64) -> Option<Vec<u64>> {
        let first = cluster * CLUSTER / BLOCK;
        let blocks: Vec<u64> = (first..first + CLUSTER / BLOCK).collect();
        let idle = blocks
            .iter()
            .all(|&block| !self.busy[support::usize(block)]);
        idle.then_some(blocks)
    }

    fn complete(&mut self, done: Done) {
        done.result.expect("every request succeeds");
        let place = support::usize(done.token);
        let (expected, touched) = self.in_flight[place].take().expect("it was in flight");
        for block in touched {
            self.busy[support::usize(block)] = false;
        }
        if let Expected::Read(block, content) = expected {
            let found = done.buf.to_vec();
            assert!(
                found == content.bytes(block),
                "block {block} reads {:02x?}…",
                &found[..16]
            );
        }
    }
}

fn engine(ring: Ring) -> Box<HostEngine> {
    let pool = Pool::new(NonZeroUsize::MIN.saturating_add(1)).expect("threads");
    Box::new(
        HostEngine::new(&HostEngineOptions {
            ring_entries: 64,
            ring,
            pool,
        })
        .expect("engine"),
    )
}

/// Runs the workers; meanwhile the control plane's queue does `meanwhile` again and again.
fn work(
    layer: &Layer,
    backend: &Arc<Backend>,
    shape: &Shape,
    seed: u64,
    mut meanwhile: impl FnMut(),
) -> Vec<Worker> {
    let ring = shape.ring;
    let (count, requests) = (shape.threads, shape.requests / shape.threads);
    let threads: Vec<_> = (0..count)
        .map(|id| {
            let builder = layer.new_queue(engine(ring));
            let backend = Arc::clone(backend);
            std::thread::spawn(move || {
                let queue = builder.start();
                let slot = queue.attach(&backend);
                let mut worker = Worker::new(id, count, seed);
                worker.run(&queue, slot, requests);
                worker
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        meanwhile();
    }
    threads
        .into_iter()
        .map(|thread| thread.join().expect("no wrong byte"))
        .collect()
}

/// Compares every block with the model of its owner.
fn verify(queue: &Queue, backend: &Arc<Backend>, workers: &[Worker]) {
    let slot = queue.attach(backend);
    for cluster in 0..DISK / CLUSTER {
        let buf = IoBuf::zeroed(support::usize(CLUSTER));
        let read = queue.request(slot, Request::read(cluster * CLUSTER, buf));
        let bytes = queue.block_on(read).expect("a read").to_vec();
        for (at, found) in bytes.chunks(support::usize(BLOCK)).enumerate() {
            let block = cluster * CLUSTER / BLOCK + at as u64;
            let worker = &workers[support::usize(owner(block, workers.len() as u64))];
            let want = worker.content[support::usize(block)].bytes(block);
            assert!(found == want, "block {block} reads {:02x?}…", &found[..16]);
        }
    }
}

/// How a run is made.
struct Shape {
    ring: Ring,
    aio: &'static str,
    threads: u64,
    requests: u64,
    /// Whether internal snapshots come and go all the while.
    snapshots: bool,
}

fn check(shape: &Shape) {
    let seed = support::seed("queues");
    for round in 0..support::rounds(1) {
        check_once(shape, seed.wrapping_add(round));
    }
}

fn check_once(shape: &Shape, seed: u64) {
    let dir = Scratch::new("queues");
    let (base, middle) = (dir.path("base.img"), dir.path("middle.qcow2"));
    let top = dir.path("top.qcow2");
    std::fs::write(&base, vec![BACKING; support::usize(DISK)]).expect("a backing file");
    let layer = support::layer();
    let queue = layer.new_queue(engine(shape.ring)).start();
    support::create_qcow2(&queue, &middle, DISK, Some((&base, "raw")));
    support::create_qcow2(&queue, &top, DISK, Some((&middle, "qcow2")));
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{}", "aio": "{}"}}}}"#,
        top.display(),
        shape.aio
    );
    let backend = support::open(&queue, &json, "disk");
    warm(&queue, &backend);
    let mut taken = 0;
    let workers = work(&layer, &backend, shape, seed, || {
        if shape.snapshots {
            snapshot(&layer, &queue, backend.root(), taken);
            taken += 1;
        }
        // A snapshot stops all others: between two of them they must get something done.
        queue.wait(Some(Duration::from_millis(20)));
    });
    println!("{taken} snapshots");
    verify(&queue, &backend, &workers);
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
    drop(queue);
    drop(layer);
    clean(&top);
}

/// Takes snapshot `number`, and deletes the one before the last.
fn snapshot(layer: &Layer, queue: &Queue, node: NodeId, number: u64) {
    let name = |number: u64| format!("s{number}");
    let create = SnapshotInfo::new(String::new(), name(number), 0, 0, 0, 0, 0);
    queue.block_on(async {
        layer
            .snapshot(queue, node, SnapshotChange::Create(create))
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
        if let Some(old) = number.checked_sub(2) {
            let key = SnapshotKey {
                id: None,
                name: Some(name(old)),
            };
            layer
                .snapshot(queue, node, SnapshotChange::Delete(key))
                .await
                .unwrap_or_else(|error| panic!("{}", error.chain()));
        }
    });
}

/// Loads the tables, so that the threads meet hits as well as allocations.
fn warm(queue: &Queue, backend: &Arc<Backend>) {
    let slot = queue.attach(backend);
    let buf = IoBuf::zeroed(support::usize(CLUSTER));
    queue
        .block_on(queue.request(slot, Request::read(0, buf)))
        .expect("a read");
}

fn clean(image: &Path) {
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    qemu.run(&["check", "-q", &image.display().to_string()]);
}

const RINGS: (Ring, &str) = (Ring::Auto, "io_uring");
const POOL: (Ring, &str) = (Ring::Off, "threads");

fn queues(threads: u64, (ring, aio): (Ring, &'static str), snapshots: bool) {
    check(&Shape {
        ring,
        aio,
        threads,
        // Each snapshot makes every cluster shared again, and the next write to it a copy.
        requests: if snapshots { REQUESTS / 5 } else { REQUESTS },
        snapshots,
    });
}

#[test]
fn four_queues_on_rings_see_every_byte() {
    queues(4, RINGS, false);
}

#[test]
fn four_queues_on_threads_see_every_byte() {
    queues(4, POOL, false);
}

#[test]
fn eight_queues_on_rings_see_every_byte_while_snapshots_come_and_go() {
    queues(8, RINGS, true);
}

#[test]
fn eight_queues_on_threads_see_every_byte_while_snapshots_come_and_go() {
    queues(8, POOL, true);
}
