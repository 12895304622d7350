//! What a driver has in its hands while it works: [`Cx`] and claims.
//!
//! Everything here runs on one queue's thread. Invariant: a task holds at most one claim a node, and
//! waits for a claim only while nobody waits for what it holds besides. Not here: requests to
//! children (`child.rs`), and to the descriptor that a node is (`leaf_io.rs`).

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Poll;

use crate::driver::Pending;
use crate::engine::Leaf;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeIndex};
use crate::layer::Readers;
use crate::queue::{Announced, LocalQueue, Snapshot};
use crate::request::announce::Reach;
use crate::request::leaf_io::LeafIo;
use crate::request::map::EdgeIndex;

pub use crate::request::announce::ClaimKind;
pub use crate::request::child::Child;

/// A claim that is held.
type Held = RefCell<Option<(Range<u64>, ClaimKind)>>;

/// One call's surroundings: the queue it runs on, the graph it sees, and its node.
#[derive(Clone)]
pub struct Cx {
    pub(super) queue: LocalQueue,
    pub(super) snapshot: Rc<Snapshot>,
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
        self.elsewhere(self.snapshot.graph.entry(self.index).edges[usize::from(edge.0)].child)
    }

    /// A node below, by its place.
    fn elsewhere(&self, index: NodeIndex) -> Child {
        Child::new(self.queue.clone(), Rc::clone(&self.snapshot), index)
    }

    /// All children, in the order in which they were opened.
    pub fn children(&self) -> Vec<Child> {
        let edges = &self.snapshot.graph.entry(self.index).edges;
        edges.iter().map(|e| self.elsewhere(e.child)).collect()
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
        own.map(|index| self.elsewhere(index)).collect()
    }

    /// The backing file, if there is one in this snapshot.
    pub fn backing(&self) -> Option<Child> {
        let index = self.snapshot.graph.backing(self.index)?;
        Some(self.elsewhere(index))
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
        LeafIo::new(self.clone(), leaf)
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
