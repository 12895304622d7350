//! Four queues on four threads work on one warm qcow2 overlay over a backing file at once: reads,
//! overwrites, allocating writes, discards and flushes, on both engines, every byte verified.
//!
//! The disk is cut into blocks; each block belongs to one thread, and the blocks of a cluster to
//! all four, so that every cluster is allocated by threads that race for it. Every fourth cluster
//! belongs to one thread alone, which also discards it. The seed is printed.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::{Backend, BackendSlot, Done, IoBuf, Layer, Queue, Request};

use crate::support::{self, Random, Scratch};

const THREADS: u64 = 4;
const BLOCK: u64 = 4096;
const CLUSTER: u64 = 65536;
const DISK: u64 = 64 << 20;
const REQUESTS: u64 = 25_000;
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

/// The thread that a block belongs to.
fn owner(block: u64) -> u64 {
    let cluster = block * BLOCK / CLUSTER;
    if discards(cluster) {
        cluster / 4 % THREADS
    } else {
        block % THREADS
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
    fn new(id: u64, seed: u64) -> Worker {
        let blocks = DISK / BLOCK;
        Worker {
            random: Random::new(seed.wrapping_add(id)),
            mine: (0..blocks).filter(|&block| owner(block) == id).collect(),
            content: vec![Content::Backing; support::usize(blocks)],
            busy: vec![false; support::usize(blocks)],
            version: 0,
            in_flight: (0..DEPTH).map(|_| None).collect(),
        }
    }

    fn run(&mut self, queue: &Queue, slot: BackendSlot) {
        let mut submitted = 0;
        while submitted < REQUESTS || self.in_flight.iter().any(Option::is_some) {
            while submitted < REQUESTS
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
            dice if dice < 56 => {
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

fn work(layer: &Layer, backend: &Arc<Backend>, ring: Ring, seed: u64) -> Vec<Worker> {
    let threads: Vec<_> = (0..THREADS)
        .map(|id| {
            let builder = layer.new_queue(engine(ring));
            let backend = Arc::clone(backend);
            std::thread::spawn(move || {
                let queue = builder.start();
                let slot = queue.attach(&backend);
                let mut worker = Worker::new(id, seed);
                worker.run(&queue, slot);
                worker
            })
        })
        .collect();
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
            let worker = &workers[support::usize(owner(block))];
            let want = worker.content[support::usize(block)].bytes(block);
            assert!(found == want, "block {block} reads {:02x?}…", &found[..16]);
        }
    }
}

fn check(ring: Ring, aio: &str) {
    let seed = support::seed("queues");
    let dir = Scratch::new("queues");
    let (base, top) = (dir.path("base.img"), dir.path("top.qcow2"));
    std::fs::write(&base, vec![BACKING; support::usize(DISK)]).expect("a backing file");
    let layer = support::layer();
    let queue = layer.new_queue(engine(ring)).start();
    support::create_qcow2(&queue, &top, DISK, Some((&base, "raw")));
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{}", "aio": "{aio}"}}}}"#,
        top.display()
    );
    let backend = support::open(&queue, &json, "disk");
    warm(&queue, &backend);
    let workers = work(&layer, &backend, ring, seed);
    verify(&queue, &backend, &workers);
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
    drop(queue);
    drop(layer);
    clean(&top);
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

#[test]
fn four_queues_on_rings_see_every_byte() {
    check(Ring::Auto, "io_uring");
}

#[test]
fn four_queues_on_threads_see_every_byte() {
    check(Ring::Off, "threads");
}
