//! Requests from a node, or a verb, to a node: [`Child`].
//!
//! They go through the path of that node: announced there, mapped to the leaf where possible, else
//! handed to its driver between what its watchers do. Everything here runs on one queue's thread.
//! Not here: what drivers do not do themselves (`generic.rs`), claims (`cx.rs`).

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::types::BlkdebugEvent;

use crate::buffer::{AlignedBuf, IoBuf};
use crate::driver::{Preallocation, Status, ZeroFlags};
use crate::error::{Error, Result};
use crate::graph::fixed::Descent;
use crate::graph::{Node, NodeId, NodeIndex};
use crate::layer::Obstacle;
use crate::limits::Limits;
use crate::queue::{Announced, Entry, LocalQueue, Snapshot};
use crate::request::announce::Reach;
use crate::request::cx::Cx;
use crate::request::generic;
use crate::request::map::{Access, EdgeIndex, Lookup, Mapping};
use crate::request::watch::Watch;

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
        self.elsewhere(self.snapshot.graph.entry(self.index).edges[usize::from(edge.0)].child)
    }

    /// Another node of the same snapshot.
    pub(crate) fn neighbour(&self, id: NodeId) -> Result<Child> {
        Ok(self.elsewhere(self.snapshot.graph.locate(id)?))
    }

    /// The backing file, if the node has one.
    pub fn backing(&self) -> Option<Child> {
        let index = self.snapshot.graph.backing(self.index)?;
        Some(self.elsewhere(index))
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
