//! Several changes of the graph at one point in time: all of them, or none.
//!
//! A transaction holds the layer's lock of changes. Its actions work on one draft, each on what
//! those before it have made, while the nodes that they touch are drained; what they do outside the
//! draft they can undo. The commit checks permissions, takes locks, and publishes once; nothing
//! fails after that. Whoever asks for one change gets a transaction of one action.
//!
//! Not here: the actions.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::types::BlockdevOptions;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::actions::Undo;
use crate::graph::drain::Drained;
use crate::graph::facts::Inherited;
use crate::graph::open::open_node;
use crate::graph::perm::Use;
use crate::graph::{Draft, Graph, Node, NodeId, NodeIndex};
use crate::layer::{Change, Layer};
use crate::queue::LocalQueue;
use crate::request::cx::Child;

/// Changes that are being made.
pub(crate) struct Transaction<'a> {
    layer: &'a Layer,
    queue: LocalQueue,
    change: Change<'a>,
    /// The graph that is in force.
    graph: Arc<Graph>,
    draft: Rc<RefCell<Draft>>,
    /// Backends that get another root.
    leads: Vec<(Arc<Backend>, NodeId)>,
    drained: Vec<Drained>,
    /// What was done outside the draft.
    undo: Vec<Undo>,
    /// Nodes that nobody writes any more when all is done.
    covered: Vec<NodeId>,
}

impl<'a> Transaction<'a> {
    pub(crate) async fn begin(layer: &'a Layer, queue: &LocalQueue) -> Transaction<'a> {
        let change = layer.change().await;
        let graph = layer.graph();
        Transaction {
            layer,
            queue: queue.clone(),
            change,
            draft: Rc::new(RefCell::new(Draft::from(&graph))),
            graph,
            leads: Vec::new(),
            drained: Vec::new(),
            undo: Vec::new(),
            covered: Vec::new(),
        }
    }

    pub(crate) fn layer(&self) -> &'a Layer {
        self.layer
    }

    pub(crate) fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// The right to change the graph, for users of nodes that are in it already.
    pub(crate) fn change(&self) -> &Change<'a> {
        &self.change
    }

    /// The node that an action means by a device or by a node's name.
    ///
    /// # Errors
    /// `InvalidOption` when it says both, `DeviceNotFound`, `NodeNotFound`.
    pub(crate) fn find(&self, device: Option<&str>, node: Option<&str>) -> Result<Arc<Node>> {
        match (device, node) {
            (Some(_), Some(_)) => Err(Error::invalid(
                "device",
                "Need exactly one of 'device' and 'node-name'",
            )),
            (Some(device), None) => {
                let missing = || Error::DeviceNotFound {
                    device: device.to_owned(),
                };
                let backend = self.layer.backend(device).ok_or_else(missing)?;
                self.node(self.root(&backend))
            }
            (None, node) => {
                let name = node.unwrap_or_default();
                self.named(name).ok_or_else(|| Error::NodeNotFound {
                    node: name.to_owned(),
                })
            }
        }
    }

    /// The node of a name.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Node>> {
        let draft = self.draft.borrow();
        let index = draft.graph().find(name)?;
        Some(Arc::clone(&draft.graph().entry(index).node))
    }

    pub(crate) fn node(&self, id: NodeId) -> Result<Arc<Node>> {
        let draft = self.draft.borrow();
        let index = draft.graph().locate(id)?;
        Ok(Arc::clone(&draft.graph().entry(index).node))
    }

    fn root(&self, backend: &Arc<Backend>) -> NodeId {
        let led = self.leads.iter().rev();
        let mut led = led.filter(|(led, _)| Arc::ptr_eq(led, backend));
        led.next().map_or_else(|| backend.root(), |(_, root)| *root)
    }

    /// The node of a device, or of a node's name.
    pub(crate) fn place(&self, name: &str) -> Option<NodeId> {
        match self.layer.backend(name) {
            Some(backend) => Some(self.root(&backend)),
            None => self.named(name).map(|node| node.id()),
        }
    }

    /// Leaves word of how to take back what an action did outside the draft.
    pub(super) fn undo(&mut self, undo: Undo) {
        self.undo.push(undo);
    }

    /// What the actions so far have made of the graph.
    pub(crate) fn draft(&self) -> std::cell::Ref<'_, Draft> {
        self.draft.borrow()
    }

    /// A node as the actions so far have made it, for I/O of this transaction.
    pub(crate) fn child(&self, id: NodeId) -> Result<Child> {
        let graph = Arc::new(self.draft.borrow().graph().clone());
        let index = graph.locate(id)?;
        let snapshot = self.queue.hold(graph);
        Ok(Child::new(self.queue.clone(), snapshot, index))
    }

    /// Opens a node.
    pub(crate) async fn open(
        &self,
        options: BlockdevOptions,
        inherited: Inherited,
    ) -> Result<NodeId> {
        let (layer, queue) = (self.layer.clone(), self.queue.clone());
        let draft = Rc::clone(&self.draft);
        open_node(layer, queue, draft, options, inherited, None).await
    }

    /// Keeps requests off a node, and all above it, until the end.
    pub(crate) async fn drain(&mut self, id: NodeId) {
        if self.graph.index_of(id).is_some() {
            self.drained.push(self.layer.drain(&[id]).await);
        }
    }

    /// Keeps requests off every node until the end.
    pub(crate) async fn drain_all(&mut self) {
        let ids: Vec<NodeId> = self.graph.entries().map(|(_, e)| e.node.id()).collect();
        self.drained.push(self.layer.drain(&ids).await);
    }

    /// Puts an overlay over a node: all who used the node use the overlay.
    ///
    /// # Errors
    /// `InvalidOption` when the overlay is below the node.
    pub(crate) fn cover(&mut self, old: NodeId, overlay: NodeId) -> Result<()> {
        let mut draft = self.draft.borrow_mut();
        for (parent, edge) in draft.edges_to(old) {
            if parent != overlay {
                draft.set_child(parent, edge, overlay)?;
            }
        }
        draft.set_backing(overlay, Some(old))?;
        drop(draft);
        for backend in self.layer.backends() {
            if self.root(&backend) == old {
                self.leads.push((backend, overlay));
            }
        }
        self.covered.push(old);
        Ok(())
    }

    /// The backends as users of the draft's nodes.
    fn roots(&self) -> Vec<(NodeIndex, String, Use)> {
        let draft = self.draft.borrow();
        let root = |backend: &Arc<Backend>| self.root(backend);
        self.change.roots_led(&draft, &root)
    }

    /// What a node is used for by now.
    pub(crate) fn use_of(&self, id: NodeId) -> Result<Use> {
        let draft = self.draft.borrow();
        let uses = draft.uses(&self.roots(), &Node::is_read_only)?;
        let place = draft.graph().entries().position(|(_, e)| e.node.id() == id);
        let total = place.and_then(|place| uses.get(place));
        Ok(total.copied().unwrap_or(Use::NOTHING))
    }

    /// Makes it all true, or on an error nothing.
    ///
    /// # Errors
    /// `PermissionConflict`, `ImageLocked`.
    pub(crate) async fn commit(self) -> Result<()> {
        let roots = self.roots();
        let permitted = self.change.permit(&self.draft.borrow(), &roots);
        if let Err(error) = permitted {
            self.abort().await;
            return Err(error);
        }
        let Transaction {
            layer,
            queue,
            change,
            graph,
            draft,
            leads,
            drained,
            undo: _,
            covered,
        } = self;
        let draft = draft.take();
        for (backend, root) in leads {
            backend.set_root(root, draft.version());
        }
        let mut version = change.publish(draft);
        drop((drained, graph));
        for id in covered {
            // Only so that other programs see that nobody writes it: no reason to fail.
            match layer.change_mode(&change, &queue, id, true).await {
                Ok(changed) => version = changed,
                Err(error) => tracing::debug!("a backing file stays writable: {}", error.chain()),
            }
        }
        layer.wait_released(version).await;
        Ok(())
    }

    /// Commits what was done, or takes it back.
    ///
    /// # Errors
    /// Why it was not done; as [`commit`](Transaction::commit).
    pub(crate) async fn finish(self, done: Result<()>) -> Result<()> {
        match done {
            Ok(()) => self.commit().await,
            Err(error) => {
                self.abort().await;
                Err(error)
            }
        }
    }

    /// Leaves everything as it was.
    pub(crate) async fn abort(mut self) {
        while let Some(undo) = self.undo.pop() {
            if let Err(error) = self.take_back(undo).await {
                tracing::error!("taking back an action: {}", error.chain());
            }
        }
        let draft = self.draft.take();
        self.layer.close_new(&self.queue, &self.graph, draft).await;
        self.change.restore_locks();
    }
}
