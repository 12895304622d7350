use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::driver::{ClaimKind, Driver, Pending};
use crate::engine::count_allocations::allocations;
use crate::engine::{Aio, HostEngine, HostEngineOptions, Leaf, LeafFacts, LeafFile, Pool, Ring};
use crate::error::Error;
use crate::graph::perm::Role;
use crate::graph::{Node, NodeFacts, NodeId};
use crate::request::align;
use crate::request::cx::Cx;
use crate::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};

/// A memory file as a node.
struct File(Arc<Leaf>);

impl File {
    fn new(len: u64) -> File {
        let fd: OwnedFd = memfd_create("disk", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        let facts = LeafFacts {
            aio: Aio::IoUring,
            request_alignment: 1,
            memory_alignment: 1,
            len,
        };
        File(Leaf::new(LeafFile::Host(fd), facts))
    }
}

impl Driver for File {
    fn format_name(&self) -> &'static str {
        "file"
    }
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn leaf(&self) -> Option<&Arc<Leaf>> {
        Some(&self.0)
    }
    fn try_map(&self, _: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let extent = Extent::Leaf {
            leaf: self.0.id(),
            offset: range.start,
        };
        out.push(range.end - range.start, extent)
    }
    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(align::write_leaf(cx, &self.0, offset, buf))
    }
    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move { cx.leaf(&self.0).sync().await })
    }
}

/// A format whose first write to each 4 KiB block "allocates" it under a claim.
struct Lazy {
    len: u64,
    allocated: Vec<AtomicBool>,
    /// Writers inside an allocation at the moment, by block: never two.
    inside: Vec<AtomicU64>,
}

const BLOCK: u64 = 4096;

impl Lazy {
    fn new(len: u64) -> Lazy {
        let blocks = len / BLOCK;
        Lazy {
            len,
            allocated: (0..blocks).map(|_| AtomicBool::new(false)).collect(),
            inside: (0..blocks).map(|_| AtomicU64::new(0)).collect(),
        }
    }
    fn blocks(range: &Range<u64>) -> Range<usize> {
        let index = |at: u64| usize::try_from(at / BLOCK).unwrap();
        index(range.start)..index(range.end.next_multiple_of(BLOCK))
    }
}

impl Driver for Lazy {
    fn format_name(&self) -> &'static str {
        "raw"
    }
    fn len(&self) -> u64 {
        self.len
    }
    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let blocks = Lazy::blocks(&range);
        let all = self.allocated[blocks]
            .iter()
            .all(|a| a.load(Ordering::Acquire));
        match (all, access) {
            (true, _) => {
                let extent = Extent::Child {
                    edge: EdgeIndex(0),
                    offset: range.start,
                };
                out.push(range.end - range.start, extent)
            }
            (false, Access::Read) => out.push(range.end - range.start, Extent::Zero),
            (false, Access::Write) => Lookup::Miss,
        }
    }
    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            let range = offset..offset + buf.len() as u64;
            let blocks = Lazy::blocks(&range);
            let claimed = blocks.start as u64 * BLOCK..blocks.end as u64 * BLOCK;
            let _claim = cx.claim(claimed, ClaimKind::Write).await;
            for block in blocks.clone() {
                assert_eq!(self.inside[block].fetch_add(1, Ordering::SeqCst), 0);
            }
            cx.child(EdgeIndex(0)).write(offset, buf).await?;
            for block in blocks {
                self.inside[block].fetch_sub(1, Ordering::SeqCst);
                self.allocated[block].store(true, Ordering::Release);
            }
            Ok(())
        })
    }
}

/// An engine for a queue of a test.
pub(crate) fn engine(ring: Ring) -> Box<dyn Engine> {
    let pool = Pool::new(std::num::NonZeroUsize::new(2).unwrap()).unwrap();
    Box::new(
        HostEngine::new(&HostEngineOptions {
            ring_entries: 64,
            ring,
            pool,
        })
        .unwrap(),
    )
}

fn facts(name: &str) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        ..NodeFacts::default()
    }
}

/// A layer with a `Lazy` format over a memory file, and a backend `disk` on it.
fn layer(len: u64) -> (Layer, Arc<Backend>, NodeId) {
    let layer = Layer::new();
    let work = async {
        let file = Node::new(facts("file"), Box::new(File::new(len)));
        let file = layer.add_node(file, &[]).await.unwrap();
        let top = Node::new(facts("top"), Box::new(Lazy::new(len)));
        let top = layer
            .add_node(top, &[("file", Role::Image, file)])
            .await
            .unwrap();
        (layer.add_backend("disk", top, false).await.unwrap(), top)
    };
    let (backend, top) = block_on_thread(work);
    (layer.clone(), backend, top)
}

#[test]
fn requests_come_back_with_their_token() {
    for ring in [Ring::Auto, Ring::Off] {
        let (layer, backend, _) = layer(1 << 20);
        let queue = layer.new_queue(engine(ring)).start();
        let slot = queue.attach(&backend);
        for token in 0..300 {
            let buf = IoBuf::copy_of(&[u8::try_from(token % 251).unwrap(); 512]);
            queue.submit(slot, Request::write(token * 512, buf), token);
        }
        let mut seen = [false; 300];
        while !seen.iter().all(|&s| s) {
            queue.wait(None);
            queue.reap(|done| {
                done.result.unwrap();
                seen[usize::try_from(done.token).unwrap()] = true;
            });
        }
        for token in 0..300 {
            let read = queue.request(slot, Request::read(token * 512, IoBuf::zeroed(512)));
            let buf = queue.block_on(read).unwrap();
            assert_eq!(buf.to_vec(), [u8::try_from(token % 251).unwrap(); 512]);
        }
        queue.submit(slot, Request::read((1 << 20) - 1, IoBuf::zeroed(2)), 7);
        queue.reap(|done| assert!(matches!(done.result, Err(Error::OutOfRange { .. }))));
        queue
            .block_on(queue.request(slot, Request::flush()))
            .unwrap();
    }
}

#[test]
fn queues_share_a_node_and_never_a_block() {
    const LEN: u64 = 256 * BLOCK;
    for ring in [Ring::Auto, Ring::Off] {
        let (layer, backend, _) = layer(LEN);
        let threads: Vec<_> = (0..4u8)
            .map(|id| {
                let builder = layer.new_queue(engine(ring));
                let backend = Arc::clone(&backend);
                std::thread::spawn(move || {
                    let queue = builder.start();
                    let slot = queue.attach(&backend);
                    let mut in_flight = 0;
                    // Every queue writes its quarter of every block.
                    for block in 0..256 {
                        let buf = IoBuf::copy_of(&[id + 1; 1024]);
                        let at = block * BLOCK + u64::from(id) * 1024;
                        queue.submit(slot, Request::write(at, buf), block);
                        in_flight += 1;
                        if in_flight == 16 {
                            queue.wait(None);
                            queue.reap(|done| {
                                done.result.unwrap();
                                in_flight -= 1;
                            });
                        }
                    }
                    while in_flight > 0 {
                        queue.wait(None);
                        queue.reap(|done| {
                            done.result.unwrap();
                            in_flight -= 1;
                        });
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let queue = layer.new_queue(engine(ring)).start();
        let slot = queue.attach(&backend);
        let buf = IoBuf::zeroed(usize::try_from(LEN).unwrap());
        let buf = queue
            .block_on(queue.request(slot, Request::read(0, buf)))
            .unwrap()
            .to_vec();
        for (at, byte) in buf.iter().enumerate() {
            assert_eq!(usize::from(*byte), at / 1024 % 4 + 1, "byte {at}");
        }
    }
}

#[test]
fn other_threads_ask_by_a_handle() {
    let (layer, backend, _) = layer(1 << 20);
    let builder = layer.new_queue(engine(Ring::Auto));
    let handle = builder.handle();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let queue = builder.start();
        while !stopped.load(Ordering::Acquire) {
            queue.wait(None);
        }
    });
    block_on_thread(handle.request(&backend, Request::write(8192, IoBuf::copy_of(b"there"))))
        .unwrap();
    let buf = block_on_thread(handle.request(&backend, Request::read(8192, IoBuf::zeroed(5))));
    assert_eq!(buf.unwrap().to_vec(), b"there");
    handle.run(move |_| stop.store(true, Ordering::Release));
    thread.join().unwrap();
    let late = block_on_thread(handle.request(&backend, Request::flush()));
    assert!(matches!(late, Err(Error::ShutDown)));
}

#[test]
fn a_drain_lets_requests_in_flight_end_and_holds_new_ones() {
    let (layer, backend, top) = layer(1 << 20);
    let queue = layer.new_queue(engine(Ring::Auto)).start();
    let slot = queue.attach(&backend);
    // Allocate first, so that the write in flight is announced when it is submitted.
    let fill = queue.request(slot, Request::write(0, IoBuf::copy_of(&[7; 8192])));
    queue.block_on(fill).unwrap();
    let early = queue.request(slot, Request::write(0, IoBuf::copy_of(&[1; 8192])));
    queue.block_on(async {
        let drained = layer.drain(&[top]).await;
        let mut late = Box::pin(queue.request(slot, Request::read(0, IoBuf::zeroed(1))));
        let once = std::future::poll_fn(|cx| Poll::Ready(late.as_mut().poll(cx).is_pending()));
        assert!(once.await);
        for _ in 0..10 {
            queue.sleep(Duration::from_millis(1)).await;
            let once = std::future::poll_fn(|cx| Poll::Ready(late.as_mut().poll(cx).is_pending()));
            assert!(once.await, "held while drained");
        }
        drop(drained);
        assert_eq!(late.await.unwrap().to_vec(), [1]);
        early.await.unwrap();
    });
}

#[test]
fn a_node_goes_when_its_users_have_gone() {
    let (layer, backend, top) = layer(1 << 20);
    let queue = layer.new_queue(engine(Ring::Auto)).start();
    let slot = queue.attach(&backend);
    queue.block_on(async {
        queue
            .request(slot, Request::write(0, IoBuf::copy_of(b"x")))
            .await
            .unwrap();
        let busy = layer.remove_node(&queue, top).await;
        assert!(matches!(busy, Err(Error::PermissionConflict { .. })));
        layer.remove_backend(&backend).await;
        layer.remove_node(&queue, top).await.unwrap();
        assert!(layer.graph().index_of(top).is_none());
        let gone = queue.request(slot, Request::flush()).await;
        assert!(matches!(gone, Err(Error::DeviceNotFound { .. })));
    });
}

#[test]
fn a_dropped_future_does_not_stop_its_request() {
    let (layer, backend, _) = layer(1 << 20);
    let queue = layer.new_queue(engine(Ring::Auto)).start();
    let slot = queue.attach(&backend);
    for block in 0..8 {
        drop(queue.request(
            slot,
            Request::write(block * BLOCK, IoBuf::copy_of(&[9; 4096])),
        ));
    }
    queue.park();
    let read = queue.request(slot, Request::read(0, IoBuf::zeroed(8 * 4096)));
    assert_eq!(queue.block_on(read).unwrap().to_vec(), vec![9; 8 * 4096]);
}

/// Writes and reads again what is allocated already, as a device thread does.
fn cached_round(queue: &Queue, slot: BackendSlot, idle: &mut Vec<IoBuf>) {
    let mut token = 0;
    let count = idle.len();
    for write in [true, false] {
        while let Some(buf) = idle.pop() {
            let offset = token % 64 * 4096;
            let request = if write {
                Request::write(offset, buf)
            } else {
                Request::read(offset, buf)
            };
            queue.submit(slot, request, token);
            token += 1;
        }
        while idle.len() < count {
            queue.wait(None);
            queue.reap(|done| {
                assert!(done.result.is_ok());
                idle.push(done.buf);
            });
        }
    }
}

#[test]
fn cached_requests_allocate_nothing() {
    let (layer, backend, _) = layer(1 << 20);
    let queue = layer.new_queue(engine(Ring::Auto)).start();
    let slot = queue.attach(&backend);
    let mut idle: Vec<IoBuf> = (0..64).map(|_| IoBuf::zeroed(4096)).collect();
    for _ in 0..20 {
        cached_round(&queue, slot, &mut idle);
    }
    let before = allocations();
    for _ in 0..100 {
        cached_round(&queue, slot, &mut idle);
    }
    assert_eq!(allocations() - before, 0, "in 12800 requests");
}
