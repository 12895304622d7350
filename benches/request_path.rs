//! What does the way from a queue to the engine and back cost? Nanoseconds of one core for each
//! 4 KiB request on raw over file, over an engine that does nothing, by depth and by caller.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use block_core::engine::{
    Aio, Bell, Completion, Engine, Leaf, LeafFacts, LeafFile, Operation, Slot, Token,
};
use block_core::graph::perm::Role;
use block_core::graph::{Node, NodeFacts};
use block_core::{BackendSlot, IoBuf, Layer, Queue, Request, Result};
use block_drivers::format::raw::RawDriver;
use block_drivers::protocol::file::FileDriver;
use rustix::time::{ClockId, clock_gettime};

const LEN: u64 = 1 << 30;
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
}

fn main() -> Result<()> {
    let layer = Layer::new();
    let notifier = File::open("/dev/null").expect("a descriptor");
    let ended = Vec::new();
    let queue = layer
        .new_queue(Box::new(Nothing { ended, notifier }))
        .start();
    let slot = queue.block_on(raw_on_file(&layer, &queue))?;
    for depth in [1, 64] {
        let read = |offset, buf| Request::read(offset, buf);
        report("read", "device", depth, by_token(&queue, slot, depth, read));
        let write = |offset, buf| Request::write(offset, buf);
        report(
            "write",
            "device",
            depth,
            by_token(&queue, slot, depth, write),
        );
    }
    report("read", "future", 1, by_future(&queue, slot));
    Ok(())
}

fn report(verb: &str, caller: &str, depth: usize, time: Duration) {
    let each = time.as_secs_f64() * 1e9 / REQUESTS as f64;
    println!("request_path_ns {verb} caller={caller} qd={depth}: {each:.0}");
}

async fn raw_on_file(layer: &Layer, queue: &Queue) -> Result<BackendSlot> {
    let facts = LeafFacts {
        aio: Aio::IoUring,
        request_alignment: 1,
        memory_alignment: 1,
        len: LEN,
    };
    let null = File::open("/dev/null").expect("a descriptor");
    let file = FileDriver::from_leaf(Leaf::new(LeafFile::Host(null.into()), facts));
    let named = |name: &str| NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    };
    let file = Node::new(named("file"), Box::new(file));
    let file = layer.add_node(file, &[]).await?;
    let raw = Node::new(named("raw"), Box::new(RawDriver::whole()));
    let raw = layer
        .add_node(raw, &[("file", Role::Filtered, file)])
        .await?;
    let backend = layer.add_backend("disk", raw, false).await?;
    Ok(queue.attach(&backend))
}

/// Of this process: other programs on the machine do not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.try_into().expect("time since the start")
}

/// Offsets all over the disk.
fn places() -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) * BLOCK as u64 % LEN
    }
}

/// As a device thread: submit, kick, reap.
fn by_token(
    queue: &Queue,
    slot: BackendSlot,
    depth: usize,
    request: impl Fn(u64, IoBuf) -> Request,
) -> Duration {
    let mut place = places();
    let mut idle: Vec<IoBuf> = (0..depth).map(|_| IoBuf::zeroed(BLOCK)).collect();
    let mut left = REQUESTS;
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
    cpu_time() - start
}

/// As async code on the queue's thread, one at a time.
fn by_future(queue: &Queue, slot: BackendSlot) -> Duration {
    let mut place = places();
    let start = cpu_time();
    queue.block_on(async {
        let mut buf = IoBuf::zeroed(BLOCK);
        for _ in 0..REQUESTS {
            let done = queue.request(slot, Request::read(place(), buf)).await;
            buf = done.expect("nothing fails");
        }
    });
    cpu_time() - start
}
