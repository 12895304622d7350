//! What does the way from a queue to the engine and back cost? Nanoseconds of one core for each
//! 4 KiB request over an engine that does nothing: by graph, by depth and by caller. Chains are of
//! qcow2 images, where the lowest one holds the data and the others have tables that say so; those below
//! the topmost are read-only, as they are when they are opened by name.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use block_core::engine::{Bell, Completion, Engine, Leaf, Operation, Slot, Token};
use block_core::{BackendSlot, IoBuf, Queue, Request};
use block_schema::commands::BlockSetIoThrottle;
use rustix::time::{ClockId, clock_gettime};

#[path = "../tests/it/support/disks.rs"]
mod disks;

use disks::{Disk, LEN, TOP};

const BLOCK: usize = 4096;
const REQUESTS: usize = 2_000_000;

/// An engine whose operations end when they are submitted.
struct Nothing {
    ended: Vec<Completion>,
    notifier: File,
}

struct NoBell;

impl Bell for NoBell {
    fn ring(&self) {}
}

impl Engine for Nothing {
    fn attach(&mut self, _leaf: Arc<Leaf>) -> Slot {
        Slot(0)
    }

    fn detach(&mut self, _slot: Slot) {}

    fn submit(&mut self, token: Token, operation: Operation) {
        let buf = match operation {
            Operation::Read { buf, .. } | Operation::Write { buf, .. } => Some(buf),
            _ => None,
        };
        let result = Ok(BLOCK as u64);
        self.ended.push(Completion { token, result, buf });
    }

    fn cancel(&mut self, _token: Token) {}

    fn kick(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, done: &mut dyn FnMut(Completion)) {
        for completion in self.ended.drain(..) {
            done(completion);
        }
    }

    fn wait(&mut self, _timeout: Option<Duration>) -> std::io::Result<()> {
        Ok(())
    }

    fn notifier(&mut self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }

    fn bell(&self) -> Arc<dyn Bell> {
        Arc::new(NoBell)
    }

    fn now(&self) -> Duration {
        let time = clock_gettime(ClockId::Monotonic);
        time.try_into().expect("time since the start")
    }
}

fn main() {
    // Cargo passes `--bench`; a number is how many requests there are of a kind, other words choose graphs.
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    wanted.retain(|word| !word.starts_with('-'));
    let counts: Vec<usize> = wanted.iter().filter_map(|word| word.parse().ok()).collect();
    wanted.retain(|word| word.parse::<usize>().is_err());
    let requests = counts.last().copied().unwrap_or(REQUESTS);
    let wants = |graph: &str| wanted.is_empty() || wanted.iter().any(|word| word == graph);
    if wants("raw") {
        measure("raw", &Disk::raw(), LEN, requests);
    }
    // Limits that nothing reaches; and once they are off, a request costs what it did.
    if wants("raw-limited") {
        let disk = Disk::raw();
        limit(&disk, 1_000_000_000);
        measure("raw-limited", &disk, LEN, requests);
    }
    if wants("raw-unlimited") {
        let disk = Disk::raw();
        limit(&disk, 1_000_000_000);
        limit(&disk, 0);
        measure("raw-unlimited", &disk, LEN, requests);
    }
    for depth in [1, 3, 6, 10, 200] {
        let graph = format!("qcow2x{depth}");
        if wants(&graph) {
            // Overwrites stay where the topmost image holds the data.
            measure(&graph, &Disk::qcow2(depth), TOP, requests);
        }
    }
}

/// Sets how many requests a second the disk takes; 0 is no limit.
fn limit(disk: &Disk, iops: i64) {
    let mut limits = BlockSetIoThrottle::new("disk", 0, 0, 0, 0, 0, 0);
    limits.iops = iops;
    let set = disk.layer().block_set_io_throttle(&limits);
    set.expect("limits that exclude nothing");
}

/// Reads all over the disk, and overwrites of its last `owned` bytes.
fn measure(graph: &str, disk: &Disk, owned: u64, requests: usize) {
    let notifier = File::open("/dev/null").expect("a descriptor");
    let ended = Vec::new();
    let engine = Nothing { ended, notifier };
    let queue = disk.layer().new_queue(Box::new(engine)).start();
    let slot = queue.attach(&disk.backend);
    for depth in [1, 64] {
        let report = |verb, ns| report(graph, verb, "device", depth, ns);
        let reads = Load {
            depth,
            len: LEN,
            requests,
        };
        report("read", by_token(&queue, slot, reads, Request::read));
        let writes = Load {
            len: owned,
            ..reads
        };
        report("write", by_token(&queue, slot, writes, Request::write));
    }
    let ns = by_future(&queue, slot, requests);
    report(graph, "read", "future", 1, ns);
}

fn report(graph: &str, verb: &str, caller: &str, depth: usize, ns: f64) {
    println!("request_path_ns {graph} {verb} caller={caller} qd={depth}: {ns:.0}");
}

/// What a caller does.
#[derive(Clone, Copy)]
struct Load {
    depth: usize,
    /// Bytes at the disk's end that it uses.
    len: u64,
    requests: usize,
}

/// Of this process: other programs on the machine do not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().expect("time since the start")
}

/// Offsets all over the last `len` bytes of the disk.
fn places(len: u64) -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        LEN - len + (state >> 33) * BLOCK as u64 % len
    }
}

/// As a device thread: submit, kick, reap.
fn by_token(
    queue: &Queue,
    slot: BackendSlot,
    load: Load,
    request: impl Fn(u64, IoBuf) -> Request,
) -> f64 {
    let mut place = places(load.len);
    let mut idle: Vec<IoBuf> = (0..load.depth).map(|_| IoBuf::zeroed(BLOCK)).collect();
    let mut left = load.requests;
    let start = cpu_time();
    while left > 0 {
        while let Some(buf) = idle.pop() {
            queue.submit(slot, request(place(), buf), 0);
        }
        queue.kick();
        queue.reap(|done| {
            assert!(done.result.is_ok());
            idle.push(done.buf);
            left = left.saturating_sub(1);
        });
    }
    each(cpu_time() - start, load.requests)
}

fn each(time: Duration, requests: usize) -> f64 {
    time.as_secs_f64() * 1e9 / requests as f64
}

/// As async code on the queue's thread, one at a time.
fn by_future(queue: &Queue, slot: BackendSlot, requests: usize) -> f64 {
    let mut place = places(LEN);
    let start = cpu_time();
    queue.block_on(async {
        let mut buf = IoBuf::zeroed(BLOCK);
        for _ in 0..requests {
            let done = queue.request(slot, Request::read(place(), buf)).await;
            buf = done.expect("nothing fails");
        }
    });
    each(cpu_time() - start, requests)
}
