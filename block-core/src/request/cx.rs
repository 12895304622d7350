//! What a driver has in its hands while it works: [`Cx`], its children, and claims.
//!
//! Everything here runs on one queue's thread. Requests to children go through the path of the
//! child's node: announced there, mapped to the leaf where possible, else handed to the child's
//! driver. Invariant: a task holds at most one claim a node, and waits for a claim only while
//! nobody waits for what it holds besides.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Poll;

use block_schema::types::BlkdebugEvent;
use rustix::io::Errno;

use crate::buffer::{AlignedBuf, IoBuf};
use crate::driver::{Pending, Preallocation, Status, ZeroFlags};
use crate::engine::{Completion, Fallocate, Leaf, Operation, Seek};
use crate::error::{Error, Result};
use crate::graph::fixed::Descent;
use crate::graph::{Graph, Node, NodeId, NodeIndex};
use crate::layer::{Obstacle, Readers};
use crate::limits::Limits;
use crate::queue::{Announced, Entry, LocalQueue, OpFuture, Snapshot};
use crate::request::announce::Reach;
use crate::request::generic;
use crate::request::map::{Access, EdgeIndex, Lookup, Mapping};
use crate::request::watch::Watch;

pub use crate::request::announce::ClaimKind;

/// A claim that is held.
type Held = RefCell<Option<(Range<u64>, ClaimKind)>>;

/// One call's surroundings: the queue it runs on, the graph it sees, and its node.
#[derive(Clone)]
pub struct Cx {
    queue: LocalQueue,
    snapshot: Rc<Snapshot>,
    index: NodeIndex,
    announced: Option<Rc<Announced>>,
    /// The claim this call holds, so that a nested one inside it is no second one.
    held: Rc<Held>,
}

impl Cx {
    pub(crate) fn new(
        queue: LocalQueue,
        snapshot: Rc<Snapshot>,
        index: NodeIndex,
        announced: Option<Rc<Announced>>,
    ) -> Cx {
        Cx {
            queue,
            snapshot,
            index,
            announced,
            held: Rc::default(),
        }
    }

    /// The queue that runs this call.
    pub fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.snapshot.graph.entry(self.index).node
    }

    /// The `node-name`.
    pub fn node_name(&self) -> &str {
        self.node().name()
    }

    /// Whether the node may not be written.
    pub fn is_read_only(&self) -> bool {
        self.node().is_read_only()
    }

    /// A child of the node.
    ///
    /// # Panics
    /// When the driver never opened such a child.
    pub fn child(&self, edge: EdgeIndex) -> Child {
        let index = self.snapshot.graph.entry(self.index).edges[usize::from(edge.0)].child;
        Child {
            queue: self.queue.clone(),
            snapshot: Rc::clone(&self.snapshot),
            index,
        }
    }

    /// All children, in the order in which they were opened.
    pub fn children(&self) -> Vec<Child> {
        let edges = &self.snapshot.graph.entry(self.index).edges;
        let child = |index| Child {
            queue: self.queue.clone(),
            snapshot: Rc::clone(&self.snapshot),
            index,
        };
        edges.iter().map(|e| child(e.child)).collect()
    }

    /// The children whose content is this node's, without the backing file.
    pub(crate) fn own_children(&self) -> Vec<Child> {
        let entry = self.snapshot.graph.entry(self.index);
        let backing = self.snapshot.graph.backing(self.index);
        let own = entry
            .edges
            .iter()
            .map(|e| e.child)
            .filter(|&c| Some(c) != backing);
        own.map(|index| Child {
            queue: self.queue.clone(),
            snapshot: Rc::clone(&self.snapshot),
            index,
        })
        .collect()
    }

    /// The backing file, if there is one in this snapshot.
    pub fn backing(&self) -> Option<Child> {
        let index = self.snapshot.graph.backing(self.index)?;
        Some(Child {
            queue: self.queue.clone(),
            snapshot: Rc::clone(&self.snapshot),
            index,
        })
    }

    /// Whether images from the node down are fixed and looked up together.
    pub(crate) fn has_fixed(&self) -> bool {
        self.snapshot.graph.has_fixed(self.index)
    }

    /// The graph of this call.
    pub(crate) fn graph(&self) -> &Graph {
        &self.snapshot.graph
    }

    /// Where the node stands in it.
    pub(crate) fn index(&self) -> NodeIndex {
        self.index
    }

    /// Surroundings of a fixed image below. The announcement of this call stands for it: nobody can
    /// have a claim there, and drains see what is above.
    pub(crate) fn at_fixed(&self, index: NodeIndex) -> Cx {
        Cx::new(
            self.queue.clone(),
            Rc::clone(&self.snapshot),
            index,
            self.announced.clone(),
        )
    }

    /// Says that the image is corrupt.
    pub fn corrupt(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Corrupt {
            node: self.node_name().to_owned(),
            source: Box::new(source),
            place: None,
        }
    }

    /// Says that the image or the call wants something that is not built in.
    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported {
            node: self.node_name().to_owned(),
            what: what.into(),
        }
    }

    /// Takes a range of the node for this call, and waits until those who were there have left.
    ///
    /// The call's own announcement gives way. State may have changed while waiting: look tables up
    /// again. A claim inside one that this call holds already is the same claim.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the claim.
    pub async fn claim(&self, range: Range<u64>, kind: ClaimKind) -> Claim {
        if let Some((held, held_kind)) = &*self.held.borrow()
            && held.start <= range.start
            && range.end <= held.end
            && (*held_kind == ClaimKind::Exclusive || kind == ClaimKind::Write)
        {
            return Claim { published: None };
        }
        let node = Arc::clone(self.node());
        self.queue.layer().obstacle_added();
        let id = node.claims.publish(range.clone(), kind);
        let claim = Claim {
            published: Some(Published {
                cx: self.clone(),
                node: Arc::clone(&node),
                id,
            }),
        };
        fence(Ordering::SeqCst);
        self.wait_for_others();
        node.claims
            .released
            .wait_until(|| node.claims.is_first(id))
            .await;
        let layer = self.queue.layer().clone();
        layer
            .left()
            .wait_until(|| !layer.is_announced_against(&node, &range, kind))
            .await;
        *self.held.borrow_mut() = Some((range, kind));
        claim
    }

    /// Lets claims pass the call's announcement, since it is about to wait; drains still see it.
    pub(crate) fn wait_for_others(&self) {
        if let Some(announced) = &self.announced {
            announced.set_reach(Reach::Inert);
            // Whoever claimed before us may be waiting for this very announcement.
            self.queue.notify_left();
        }
    }

    /// The readers of this node that are announced now: what they may have looked up before this
    /// call must not be used for anything else while they are there. See [`Readers::have_left`].
    pub fn readers(&self) -> Readers {
        self.queue.layer().readers(self.node().id())
    }

    /// Runs a computation that takes long (decompression, hashing) on the thread pool.
    ///
    /// # Errors
    /// `Io` when there is no thread to run it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.queue
            .blocking(move || Ok(f()))
            .await
            .map_err(|source| Error::Io {
                node: self.node_name().to_owned(),
                op: "compute",
                offset: 0,
                len: 0,
                source,
            })
    }

    /// Polls several pieces of work together, all of them to their end; the first error wins.
    ///
    /// # Errors
    /// The error of the first piece, in order, that failed.
    pub async fn join<'a, T>(
        &self,
        work: impl IntoIterator<Item = Pending<'a, T>>,
    ) -> Result<Vec<T>> {
        let mut pending: Vec<Pending<'a, T>> = work.into_iter().collect();
        let mut ended: Vec<Option<Result<T>>> = pending.iter().map(|_| None).collect();
        std::future::poll_fn(|context| {
            let mut waiting = false;
            for (future, end) in pending.iter_mut().zip(&mut ended) {
                if end.is_none() {
                    match future.as_mut().poll(context) {
                        Poll::Ready(result) => *end = Some(result),
                        Poll::Pending => waiting = true,
                    }
                }
            }
            if waiting {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        ended.into_iter().flatten().collect()
    }

    /// I/O on a descriptor that this node is; for protocol drivers.
    pub fn leaf(&self, leaf: &Arc<Leaf>) -> LeafIo {
        LeafIo {
            cx: self.clone(),
            leaf: Arc::clone(leaf),
        }
    }
}

struct Published {
    cx: Cx,
    node: Arc<Node>,
    id: u64,
}

/// A claimed range; dropping it lets others in.
#[must_use]
pub struct Claim {
    published: Option<Published>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(published) = &self.published {
            published.cx.held.borrow_mut().take();
            published.node.claims.withdraw(published.id);
            published.cx.queue.layer().obstacle_removed();
        }
    }
}

/// A node as its parent uses it, in one snapshot.
#[derive(Clone)]
pub struct Child {
    queue: LocalQueue,
    snapshot: Rc<Snapshot>,
    index: NodeIndex,
}

impl Child {
    pub(crate) fn new(queue: LocalQueue, snapshot: Rc<Snapshot>, index: NodeIndex) -> Child {
        Child {
            queue,
            snapshot,
            index,
        }
    }

    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.snapshot.graph.entry(self.index).node
    }

    /// The `node-name`.
    pub fn node_name(&self) -> &str {
        self.node().name()
    }

    /// Bytes of the node.
    pub fn len(&self) -> u64 {
        self.snapshot.graph.len(self.index)
    }

    /// Whether the node has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the node what its next request is for; see [`Driver::event`](crate::driver::Driver::event).
    pub fn event(&self, event: BlkdebugEvent) {
        self.node().driver().event(event);
    }

    /// What the node asks of requests.
    pub fn limits(&self) -> Limits {
        self.node().driver().limits()
    }

    /// Whether the node may not be written.
    pub fn is_read_only(&self) -> bool {
        self.node().is_read_only()
    }

    /// A child of the node.
    ///
    /// # Panics
    /// When the node has no such child.
    pub fn child(&self, edge: EdgeIndex) -> Child {
        let index = self.snapshot.graph.entry(self.index).edges[usize::from(edge.0)].child;
        Child::new(self.queue.clone(), Rc::clone(&self.snapshot), index)
    }

    /// Another node of the same snapshot.
    pub(crate) fn neighbour(&self, id: NodeId) -> Result<Child> {
        let index = self.snapshot.graph.locate(id)?;
        let snapshot = Rc::clone(&self.snapshot);
        Ok(Child::new(self.queue.clone(), snapshot, index))
    }

    /// The backing file, if the node has one.
    pub fn backing(&self) -> Option<Child> {
        let index = self.snapshot.graph.backing(self.index)?;
        Some(Child::new(
            self.queue.clone(),
            Rc::clone(&self.snapshot),
            index,
        ))
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `OutOfRange` behind the end of anything but a file; what the node answers.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = self.range(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        match self.enter(Access::Read, &range, &buf).await {
            Some((mapping, _announced)) => self.leaves(Access::Read, offset, &mapping, &buf).await,
            None => {
                let cx = self.enter_node(Access::Read, &range).await;
                generic::read(&cx, offset, buf).await
            }
        }
    }

    /// Writes `buf` at `offset`.
    ///
    /// # Errors
    /// As [`read`](Child::read); `ReadOnly`.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = self.writable_range(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        if self.snapshot.graph.plain_writes(self.index)
            && let Some((mapping, _announced)) = self.enter(Access::Write, &range, &buf).await
        {
            return self.leaves(Access::Write, offset, &mapping, &buf).await;
        }
        let write = async |cx: Cx| generic::write(&cx, offset, buf, generic::Durable::Later).await;
        self.change(&range, write).await
    }

    /// Writes `buf` at `offset`, compressed; see
    /// [`Driver::write_compressed`](crate::driver::Driver::write_compressed).
    ///
    /// # Errors
    /// As [`write`](Child::write).
    pub async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = self.writable_range(offset, buf.len() as u64)?;
        if range.is_empty() {
            return Ok(());
        }
        let write = async |cx: Cx| generic::write_compressed(&cx, offset, buf).await;
        self.change(&range, write).await
    }

    /// Makes `range` read as zeroes.
    ///
    /// # Errors
    /// As [`write`](Child::write).
    pub async fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let range = self.writable_range(range.start, range.end.saturating_sub(range.start))?;
        let write = async |cx: Cx| generic::write_zeroes(&cx, range.clone(), flags).await;
        self.change(&range, write).await
    }

    /// Sees to storage behind `range`; see [`Driver::allocate`](crate::driver::Driver::allocate).
    ///
    /// # Errors
    /// As [`write`](Child::write).
    pub async fn allocate(&self, range: Range<u64>) -> Result<()> {
        let range = self.writable_range(range.start, range.end.saturating_sub(range.start))?;
        // No byte changes: no claim has to wait for this, as for a flush.
        let cx = self.enter_node(Access::Read, &(0..0)).await;
        self.node().driver().allocate(&cx, range).await
    }

    /// Gives `range` back.
    ///
    /// # Errors
    /// As [`write`](Child::write).
    pub async fn discard(&self, range: Range<u64>) -> Result<()> {
        let range = self.writable_range(range.start, range.end.saturating_sub(range.start))?;
        let discard = async |cx: Cx| generic::discard(&cx, range.clone()).await;
        self.change(&range, discard).await
    }

    /// Makes everything durable that has completed.
    ///
    /// # Errors
    /// What the node answers.
    pub async fn flush(&self) -> Result<()> {
        let cx = self.enter_node(Access::Read, &(0..0)).await;
        generic::flush(&cx).await
    }

    /// Sets the length.
    ///
    /// # Errors
    /// What the node answers.
    pub async fn resize(&self, len: u64, preallocation: Preallocation) -> Result<()> {
        let cx = self.enter_node(Access::Read, &(0..0)).await;
        self.node().driver().resize(&cx, len, preallocation).await
    }

    /// The status of the first run of `range`.
    ///
    /// # Errors
    /// What the node answers.
    pub async fn status(&self, range: Range<u64>) -> Result<Status> {
        let cx = self.enter_node(Access::Read, &range).await;
        self.node().driver().status(&cx, range).await
    }

    /// `len` bytes from `offset`, in memory of our own. The caller has bounded `len`.
    ///
    /// # Errors
    /// As [`read`](Child::read).
    pub async fn read_bytes(&self, offset: u64, len: usize) -> Result<AlignedBuf> {
        let buf = IoBuf::zeroed(len);
        self.read(offset, buf.clone()).await?;
        Ok(buf
            .try_into_aligned()
            .unwrap_or_else(|shared| AlignedBuf::copy_of(&shared.to_vec())))
    }

    /// Writes a copy of `bytes` at `offset`.
    ///
    /// # Errors
    /// As [`write`](Child::write).
    pub async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(offset, IoBuf::copy_of(bytes)).await
    }

    /// A context to call this node's driver with, unannounced: for verbs that run drained.
    pub(crate) fn cx(&self) -> Cx {
        Cx::new(
            self.queue.clone(),
            Rc::clone(&self.snapshot),
            self.index,
            None,
        )
    }

    fn range(&self, offset: u64, len: u64) -> Result<Range<u64>> {
        let end = self.snapshot.graph.end_for_parents(self.index);
        match offset.checked_add(len) {
            Some(e) if e <= end => Ok(offset..e),
            Some(_) | None => {
                let node = self.node_name().to_owned();
                Err(Error::OutOfRange {
                    node,
                    offset,
                    len,
                    end,
                })
            }
        }
    }

    fn writable_range(&self, offset: u64, len: u64) -> Result<Range<u64>> {
        if self.is_read_only() {
            return Err(Error::ReadOnly {
                node: self.node_name().to_owned(),
            });
        }
        self.range(offset, len)
    }

    /// Announces the whole way down and maps it; nothing where that cannot be.
    async fn enter(
        &self,
        access: Access,
        range: &Range<u64>,
        buf: &IoBuf,
    ) -> Option<(Mapping, Announced)> {
        let announced = self
            .queue
            .announce(self.node().id(), access, Reach::Direct, range)
            .await;
        let graph = &self.snapshot.graph;
        let mut mapping = Mapping::new();
        let clear = self.queue.layer().obstacle(
            graph,
            self.index,
            access,
            range,
            Reach::Direct,
            Entry::Inside,
        ) == Obstacle::None
            && graph.walk(self.index, access, range.clone(), &mut mapping) == Lookup::Mapped
            && self.queue.fits_leaves(&self.snapshot, &mapping, buf);
        clear.then_some((mapping, announced))
    }

    /// Announces a change of this node alone, and makes it, between what its watchers do.
    async fn change(
        &self,
        range: &Range<u64>,
        change: impl AsyncFnOnce(Cx) -> Result<()>,
    ) -> Result<()> {
        let node = self.node();
        let (cx, watch) = loop {
            let watch = Watch::begin(node, &self.queue, range).await?;
            let cx = self.enter_node(Access::Write, range).await;
            if watch.is_current(node) {
                break (cx, watch);
            }
        };
        let result = change(cx.clone()).await;
        result.and(watch.end(cx).await)
    }

    /// The way down its fixed images, if it has any.
    pub(crate) fn descend(&self, wanted: Range<u64>) -> Option<Descent> {
        self.snapshot.graph.descend(self.index, wanted)
    }

    /// A node below, by its place.
    pub(crate) fn elsewhere(&self, index: NodeIndex) -> Child {
        Child::new(self.queue.clone(), Rc::clone(&self.snapshot), index)
    }

    /// Announces this node alone.
    pub(crate) async fn enter_node(&self, access: Access, range: &Range<u64>) -> Cx {
        let node = Arc::clone(self.node());
        let announced = loop {
            let announced = self
                .queue
                .announce(node.id(), access, Reach::Indirect, range)
                .await;
            if !node.claims.keeps_out(access, Some(range)) {
                break announced;
            }
            drop(announced);
            self.queue.notify_left();
            node.claims
                .released
                .wait_until(|| !node.claims.keeps_out(access, Some(range)))
                .await;
        };
        let snapshot = Rc::clone(&self.snapshot);
        Cx::new(
            self.queue.clone(),
            snapshot,
            self.index,
            Some(Rc::new(announced)),
        )
    }

    async fn leaves(
        &self,
        access: Access,
        offset: u64,
        mapping: &Mapping,
        buf: &IoBuf,
    ) -> Result<()> {
        let ops = self.queue.leaf_ops(access, mapping, buf);
        let mut failed = None;
        for op in ops {
            if let Err(errno) = op.await.result {
                failed.get_or_insert(errno);
            }
        }
        let op = match access {
            Access::Read => "read",
            Access::Write => "write",
        };
        match failed {
            None => Ok(()),
            Some(errno) => Err(Error::Io {
                node: self.node_name().to_owned(),
                op,
                offset,
                len: buf.len() as u64,
                source: errno.into(),
            }),
        }
    }
}

/// Operations on a protocol driver's own descriptor. Offsets, lengths and memory have the leaf's
/// alignment; `request/align.rs` sees to that for requests that do not.
pub struct LeafIo {
    cx: Cx,
    leaf: Arc<Leaf>,
}

impl LeafIo {
    fn start(&self, op: impl FnOnce(crate::engine::Slot) -> Operation) -> Result<OpFuture> {
        let slot = self
            .cx
            .queue
            .leaf_slot(&self.cx.snapshot.graph, self.leaf.id())?;
        Ok(self.cx.queue.op(op(slot)))
    }

    async fn run(
        &self,
        verb: &'static str,
        range: Range<u64>,
        op: impl FnOnce(crate::engine::Slot) -> Operation,
    ) -> Result<u64> {
        let done: Completion = pin!(self.start(op)?).await;
        done.result.map_err(|errno| self.error(verb, range, errno))
    }

    fn error(&self, op: &'static str, range: Range<u64>, errno: Errno) -> Error {
        Error::Io {
            node: self.cx.node_name().to_owned(),
            op,
            offset: range.start,
            len: range.end.saturating_sub(range.start),
            source: io::Error::from(errno),
        }
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.run("read", range, |slot| Operation::Read { slot, offset, buf })
            .await?;
        Ok(())
    }

    /// Writes `buf` at `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.run("write", range, |slot| Operation::Write {
            slot,
            offset,
            buf,
            fua: false,
        })
        .await?;
        Ok(())
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// What the kernel says; after one failure every later call fails.
    pub async fn sync(&self) -> Result<()> {
        self.run("flush", 0..0, |slot| Operation::Sync { slot })
            .await?;
        Ok(())
    }

    /// Changes how a range is stored.
    ///
    /// # Errors
    /// What the kernel says; `OPNOTSUPP` where the file system cannot.
    pub async fn fallocate(&self, mode: Fallocate, range: Range<u64>) -> Result<()> {
        let (offset, len) = (range.start, range.end.saturating_sub(range.start));
        let verb = match mode {
            Fallocate::PunchHole => "discard",
            Fallocate::ZeroRange => "write zeroes",
            Fallocate::Allocate => "allocate",
        };
        self.run(verb, range, |slot| Operation::Fallocate {
            slot,
            mode,
            offset,
            len,
        })
        .await?;
        Ok(())
    }

    /// Sets the length.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn truncate(&self, len: u64) -> Result<()> {
        self.run("resize", 0..len, |slot| Operation::Truncate { slot, len })
            .await?;
        Ok(())
    }

    /// Finds data or a hole at or after `offset`; `None` when there is no more data.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn seek(&self, offset: u64, what: Seek) -> Result<Option<u64>> {
        let op = self.start(|slot| Operation::Seek { slot, offset, what })?;
        match op.await.result {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(self.error("status", offset..offset, errno)),
        }
    }
}
