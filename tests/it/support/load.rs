//! A random load from several queues on one disk, with a model of every block.
//!
//! The disk is cut into blocks; each block belongs to one thread, and the blocks of a cluster to
//! all of them, so that every cluster is allocated by threads that race for it. Every fourth
//! cluster belongs to one thread alone, which also discards it. Every read is verified.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block_core::driver::ZeroFlags;
use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::{Backend, BackendSlot, Done, IoBuf, Layer, Queue, Request};

use crate::support::{self, Random};

pub(crate) const BLOCK: u64 = 4096;
pub(crate) const CLUSTER: u64 = 65536;
pub(crate) const DISK: u64 = 64 << 20;
const DEPTH: usize = 16;

/// Byte that fills version 0 of every block: what the backing file holds.
pub(crate) const BACKING: u8 = 0xb5;

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

#[derive(Clone)]
enum Expected {
    Read(u64, Content),
    Write,
    Flush,
}

/// One thread: its model of its blocks, and what it has in flight. A copy made while nothing is in
/// flight keeps the model of that moment.
#[derive(Clone)]
pub(crate) struct Worker {
    random: Random,
    mine: Vec<u64>,
    content: Vec<Content>,
    busy: Vec<bool>,
    version: u64,
    discards: bool,
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
            discards: true,
            in_flight: (0..DEPTH).map(|_| None).collect(),
        }
    }

    fn run(&mut self, queue: &Queue, slot: BackendSlot, requests: u64, stop: &AtomicBool) {
        let mut submitted = 0;
        let more = |submitted| submitted < requests && !stop.load(Ordering::Relaxed);
        while more(submitted) || self.in_flight.iter().any(Option::is_some) {
            while more(submitted)
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
            dice if dice < 7 && self.discards && discards(cluster) => {
                match self.whole_cluster(cluster) {
                    Some(blocks) => {
                        for &block in &blocks {
                            self.content[support::usize(block)] = Content::Zero;
                        }
                        let request = Request::discard(cluster * CLUSTER, CLUSTER);
                        (request, Expected::Write, blocks)
                    }
                    None => (Request::flush(), Expected::Flush, vec![]),
                }
            }
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

pub(crate) fn engine(ring: Ring) -> Box<HostEngine> {
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

/// A queue without a ring.
pub(crate) fn queue(layer: &Layer) -> Queue {
    layer.new_queue(engine(Ring::Off)).start()
}

/// How much is done, and by whom.
pub(crate) struct Load {
    /// What the queues' engines have.
    pub(crate) ring: Ring,
    /// Queues, each on its thread.
    pub(crate) threads: u64,
    /// Requests of all threads together.
    pub(crate) requests: u64,
    /// Where the random numbers begin.
    pub(crate) seed: u64,
    /// Whether whole clusters are discarded: not where a disk may ignore that.
    pub(crate) discards: bool,
}

impl Load {
    /// Runs the workers; meanwhile the control plane's queue does `meanwhile` again and again, until
    /// they have done their requests, or it says that it is enough.
    pub(crate) fn run(
        &self,
        layer: &Layer,
        backend: &Arc<Backend>,
        meanwhile: impl FnMut() -> Enough,
    ) -> Vec<Worker> {
        let worker = |id| Worker::new(id, self.threads, self.seed);
        let workers = (0..self.threads).map(worker).collect();
        self.go_on(layer, backend, workers, meanwhile)
    }

    /// As [`run`](Load::run), on a disk that these workers have written before.
    pub(crate) fn go_on(
        &self,
        layer: &Layer,
        backend: &Arc<Backend>,
        workers: Vec<Worker>,
        mut meanwhile: impl FnMut() -> Enough,
    ) -> Vec<Worker> {
        let (ring, requests) = (self.ring, self.requests / self.threads);
        let discards = self.discards;
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                let builder = layer.new_queue(engine(ring));
                let (backend, stop) = (Arc::clone(backend), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let queue = builder.start();
                    let slot = queue.attach(&backend);
                    worker.discards = discards;
                    worker.run(&queue, slot, requests, &stop);
                    worker
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            if meanwhile() == Enough::Yes {
                stop.store(true, Ordering::Relaxed);
            }
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no wrong byte"))
            .collect()
    }
}

/// Whether a load has run for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enough {
    Yes,
    No,
}

/// Compares every block with the model of its owner.
pub(crate) fn verify(queue: &Queue, backend: &Arc<Backend>, workers: &[Worker]) {
    verify_with(workers, |cluster| read_cluster(queue, backend, cluster));
}

/// The bytes of one cluster.
pub(crate) fn read_cluster(queue: &Queue, backend: &Arc<Backend>, cluster: u64) -> Vec<u8> {
    let slot = queue.attach(backend);
    let buf = IoBuf::zeroed(support::usize(CLUSTER));
    let read = queue.request(slot, Request::read(cluster * CLUSTER, buf));
    queue.block_on(read).expect("a read").to_vec()
}

/// As [`verify`], with bytes from anywhere.
pub(crate) fn verify_with(workers: &[Worker], mut read: impl FnMut(u64) -> Vec<u8>) {
    for cluster in 0..DISK / CLUSTER {
        let bytes = read(cluster);
        for (at, found) in bytes.chunks(support::usize(BLOCK)).enumerate() {
            let block = cluster * CLUSTER / BLOCK + at as u64;
            let worker = &workers[support::usize(owner(block, workers.len() as u64))];
            let want = worker.content[support::usize(block)].bytes(block);
            assert!(found == want, "block {block} reads {:02x?}…", &found[..16]);
        }
    }
}
