//! The graph as one queue holds it, and what the queue has attached of it: backends and leaves.
//! Called by the request path, and by the layer through mail to let go of old graphs. Invariant:
//! the oldest version held is published whenever it changes, after what held it is gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{BackendSlot, LocalQueue, QueueShared};
use crate::backend::Backend;
use crate::engine::{LeafId, Slot};
use crate::error::{Error, Result};
use crate::graph::{Graph, NodeIndex};
use crate::layer::Layer;
use crate::stats::Counters;

/// A snapshot as one queue holds it: counted without atomics.
pub(crate) struct Snapshot {
    pub(crate) graph: Arc<Graph>,
    pub(super) holders: Rc<Holders>,
}

/// Which versions a queue still holds, to tell the layer.
pub(super) struct Holders {
    pub(super) versions: RefCell<Vec<u64>>,
    pub(super) shared: Arc<QueueShared>,
    pub(super) layer: Layer,
}

impl Holders {
    pub(super) fn publish(&self) {
        let oldest = self
            .versions
            .borrow()
            .iter()
            .copied()
            .min()
            .unwrap_or(u64::MAX);
        self.shared.holds.store(oldest, Ordering::Release);
        self.layer.left().wake_all();
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let version = self.graph.version();
        let mut versions = self.holders.versions.borrow_mut();
        if let Some(at) = versions.iter().position(|&v| v == version) {
            versions.swap_remove(at);
        }
        drop(versions);
        // Let go of the graph before the layer hears that we did.
        self.graph = Arc::default();
        self.holders.publish();
    }
}

pub(super) struct AttachedBackend {
    pub(super) backend: Arc<Backend>,
    pub(super) counters: Arc<Counters>,
    /// Where its root stands in the snapshot of this version.
    pub(super) root: Cell<(u64, NodeIndex)>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct AttachedLeaf {
    pub(super) slot: Option<Slot>,
    pub(super) request_mask: u64,
    pub(super) memory_alignment: u32,
}

impl LocalQueue {
    /// The current snapshot.
    pub(crate) fn snapshot(&self) -> Rc<Snapshot> {
        let version = self.0.layer.version();
        {
            let held = self.0.snapshot.borrow();
            if let Some(snapshot) = &*held
                && snapshot.graph.version() == version
            {
                return Rc::clone(snapshot);
            }
        }
        let snapshot = self.hold(self.0.layer.graph());
        let old = self.0.snapshot.replace(Some(Rc::clone(&snapshot)));
        self.detach_leaves(&snapshot.graph);
        drop(old);
        snapshot
    }

    /// Counts a graph that is not the current one, such as a draft's, as held by this queue.
    pub(crate) fn hold(&self, graph: Arc<Graph>) -> Rc<Snapshot> {
        self.0.holders.versions.borrow_mut().push(graph.version());
        let snapshot = Rc::new(Snapshot {
            graph,
            holders: Rc::clone(&self.0.holders),
        });
        self.0.holders.publish();
        snapshot
    }

    /// Lets go of an outdated snapshot.
    pub(super) fn refresh(&self) {
        let outdated = self
            .0
            .snapshot
            .borrow()
            .as_ref()
            .is_some_and(|s| s.graph.version() != self.0.layer.version());
        if outdated {
            let old = self.0.snapshot.take();
            drop(old);
        }
        self.detach_leaves(&self.0.layer.graph());
    }

    pub(super) fn detach_leaves(&self, graph: &Graph) {
        let mut engine = self.0.engine.borrow_mut();
        for (index, attached) in self.0.leaves.borrow_mut().iter_mut().enumerate() {
            if let Some(slot) = attached.slot
                && !LeafId::from_index(index).is_some_and(|id| graph.has_leaf(id))
            {
                engine.detach(slot);
                attached.slot = None;
            }
        }
    }

    pub(super) fn root_of(&self, slot: BackendSlot) -> Result<(Rc<Snapshot>, NodeIndex)> {
        let snapshot = self.snapshot();
        let backends = self.0.backends.borrow();
        let Some(attached) = backends.get(slot.0 as usize) else {
            return Err(Error::ShutDown);
        };
        let version = snapshot.graph.version();
        let (known, root) = attached.root.get();
        if known == version {
            return Ok((snapshot, root));
        }
        let Some(root) = snapshot.graph.index_of(attached.backend.root_in(version)) else {
            return Err(Error::DeviceNotFound {
                device: attached.backend.name().to_owned(),
            });
        };
        attached.root.set((version, root));
        Ok((snapshot, root))
    }

    /// The leaf's facts on this queue, attaching it on first use.
    pub(super) fn leaf(&self, graph: &Graph, id: LeafId) -> Option<AttachedLeaf> {
        let mut leaves = self.0.leaves.borrow_mut();
        if let Some(attached) = leaves.get(id.index())
            && attached.slot.is_some()
        {
            return Some(*attached);
        }
        let leaf = graph.leaf(id)?;
        if leaves.len() <= id.index() {
            leaves.resize(id.index() + 1, AttachedLeaf::default());
        }
        let attached = AttachedLeaf {
            slot: Some(self.0.engine.borrow_mut().attach(Arc::clone(leaf))),
            request_mask: u64::from(leaf.request_alignment()).saturating_sub(1),
            memory_alignment: leaf.memory_alignment(),
        };
        leaves[id.index()] = attached;
        Some(attached)
    }

    pub(super) fn attached(&self, id: LeafId) -> Slot {
        let slot = self.0.leaves.borrow()[id.index()].slot;
        slot.expect("`fits` attached every leaf of the mapping")
    }

    /// The leaf's slot in this queue's engine.
    ///
    /// # Errors
    /// `ShutDown` when the graph does not hold the leaf.
    pub(crate) fn leaf_slot(&self, graph: &Graph, id: LeafId) -> Result<Slot> {
        self.leaf(graph, id)
            .and_then(|l| l.slot)
            .ok_or(Error::ShutDown)
    }
}
