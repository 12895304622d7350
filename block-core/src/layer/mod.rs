//! The block layer of a process: the current graph, the backends, the queues, and the verbs that
//! change the graph.
//!
//! A verb builds the next graph, checks permissions on it, drains what it touches, publishes, and
//! waits until no queue holds what it replaced. Verbs run one at a time, on any queue, and never
//! block a queue's thread; one that touches images runs to its end, whether or not its caller waits. Not here: QMP (`qmp/`), options (`graph/open.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use block_schema::events::BlockImageCorrupted;
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::graph::info::signed;
use crate::graph::perm::{Role, Use};
use crate::graph::policy::{DenyAll, OpenPolicy};
use crate::graph::registry::{NoDrivers, Registry};
use crate::graph::{Draft, Edge, Graph, Node, NodeId, NodeIndex};
use crate::job::Job;
use crate::on_error::RunState;
use crate::queue::{LocalQueue, QueueBuilder, QueueShared, shield};
use crate::request::cx::Child;
use crate::request::map::EdgeIndex;
use crate::secret::Secrets;
use crate::sync::{AsyncMutex, WaitList};
use crate::throttle::Rates;

mod change;
mod maintain;
mod obstacles;

pub(crate) use change::Change;
pub(crate) use obstacles::Obstacle;
pub use obstacles::Readers;

/// A handle to the process's block layer; clones are the same layer.
///
/// # Cancel safety
/// A verb that takes a queue runs there as a task: dropping its future detaches it, and it runs to
/// its end. The others do nothing before their last await.
#[derive(Clone)]
pub struct Layer(Arc<Shared>);

struct Shared {
    graph: ArcSwap<Graph>,
    version: AtomicU64,
    /// Claims and drains there are at all, as `obstacles.rs` counts them; 0 lets every request pass
    /// with one load.
    obstacles: AtomicU64,
    /// Woken when announcements or snapshots go.
    left: WaitList,
    queues: ArcSwap<Vec<Arc<QueueShared>>>,
    /// Held by a verb from reading the graph to publishing the next one.
    change: AsyncMutex,
    backends: Mutex<Vec<Arc<Backend>>>,
    registry: Arc<dyn Registry>,
    policy: Arc<dyn OpenPolicy>,
    secrets: Secrets,
    events: Events,
    run_state: RunState,
    jobs: Mutex<Vec<Arc<Job>>>,
}

impl Default for Layer {
    fn default() -> Layer {
        Layer::new()
    }
}

impl Layer {
    /// A layer without drivers, for nodes made by hand.
    pub fn new() -> Layer {
        Layer::with_drivers(Arc::new(NoDrivers), Arc::new(DenyAll))
    }

    /// A layer whose options open the drivers of `registry`, and whose images may name what
    /// `policy` lets them.
    pub fn with_drivers(registry: Arc<dyn Registry>, policy: Arc<dyn OpenPolicy>) -> Layer {
        Layer(Arc::new(Shared {
            graph: ArcSwap::default(),
            version: AtomicU64::new(0),
            obstacles: AtomicU64::new(0),
            left: WaitList::new(),
            queues: ArcSwap::default(),
            change: AsyncMutex::new(),
            backends: Mutex::default(),
            registry,
            policy,
            secrets: Secrets::default(),
            events: Events::default(),
            run_state: RunState::default(),
            jobs: Mutex::default(),
        }))
    }

    /// The drivers that are built in.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.0.registry
    }

    /// Who decides about names found inside images.
    pub fn policy(&self) -> &Arc<dyn OpenPolicy> {
        &self.0.policy
    }

    /// Passphrases and keys by id.
    pub fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }

    /// Who hears what happens by itself, and where to say so.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// Whether guests' requests go on.
    pub(crate) fn run_state(&self) -> &RunState {
        &self.0.run_state
    }

    /// The jobs that are not over, or not dismissed, the oldest first.
    pub(crate) fn job_list(&self) -> &Mutex<Vec<Arc<Job>>> {
        &self.0.jobs
    }

    /// Emits what a request found out about an image, the first time for each node.
    pub(crate) fn tell_corruption(&self, error: &Error) {
        let Error::Corrupt {
            node: name,
            source,
            place,
        } = error
        else {
            return;
        };
        let graph = self.graph();
        let Some(index) = graph.find(name) else {
            return;
        };
        let node = &graph.entry(index).node;
        if !node.tells_corruption() {
            return;
        }
        let backends = self.backends();
        let device = backends.iter().find(|b| b.root() == node.id());
        self.events().emit(BlockImageCorrupted {
            device: device.map_or_else(String::new, |b| b.name().to_owned()),
            node_name: Some(name.clone()),
            msg: source.to_string(),
            offset: place.as_ref().map(|place| signed(place.start)),
            size: place.as_ref().map(|place| signed(place.end - place.start)),
            // Requests elsewhere in the image go on.
            fatal: false,
        });
    }

    /// A queue over an engine; start it on the thread that will run it.
    pub fn new_queue(&self, engine: Box<dyn Engine>) -> QueueBuilder {
        QueueBuilder::new(self.clone(), engine)
    }

    /// The current graph.
    pub fn graph(&self) -> Arc<Graph> {
        self.0.graph.load_full()
    }

    pub(crate) fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    pub(crate) fn left(&self) -> &WaitList {
        &self.0.left
    }

    /// The queues there are.
    pub(crate) fn queues(&self) -> Arc<Vec<Arc<QueueShared>>> {
        self.0.queues.load_full()
    }

    pub(crate) fn add_queue(&self, queue: Arc<QueueShared>) {
        self.0.queues.rcu(|queues| {
            let mut queues = Vec::clone(queues);
            queues.push(Arc::clone(&queue));
            queues
        });
    }

    pub(crate) fn remove_queue(&self, queue: &Arc<QueueShared>) {
        self.0.queues.rcu(|queues| {
            let mut queues = Vec::clone(queues);
            queues.retain(|q| !Arc::ptr_eq(q, queue));
            queues
        });
    }

    /// The backends, in the order in which they were added.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.0.backends.lock().clone()
    }

    /// The backend of an `id`.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        self.0
            .backends
            .lock()
            .iter()
            .find(|b| !name.is_empty() && b.name() == name)
            .cloned()
    }

    /// Adds a node that was opened outside the graph, over children that are in it.
    ///
    /// # Errors
    /// `InvalidOption` when the name is taken, `NodeNotFound` for a child, `PermissionConflict`.
    pub async fn add_node(
        &self,
        node: Arc<Node>,
        children: &[(&str, Role, NodeId)],
    ) -> Result<NodeId> {
        let change = self.change().await;
        let mut draft = Draft::from(&self.graph());
        let edge = |&(name, role, id): &(&str, Role, NodeId)| {
            let child = draft.graph().index_of(id).ok_or(Error::NodeNotFound {
                node: String::new(),
            })?;
            let name = name.to_owned();
            Ok(Edge { name, role, child })
        };
        let edges = children.iter().map(edge).collect::<Result<Vec<Edge>>>()?;
        let id = node.id();
        draft.add(node, edges)?;
        change.permit(&draft, &change.roots(&draft))?;
        change.publish(draft);
        Ok(id)
    }

    /// Adds a user to a node: a guest device by its `id`, or an export or job without one.
    ///
    /// # Errors
    /// `InvalidOption` when the name is taken, `NodeNotFound`, `PermissionConflict`, `ReadOnly`
    /// when it wants to write a read-only node.
    pub async fn add_backend(
        &self,
        name: &str,
        root: NodeId,
        read_only: bool,
    ) -> Result<Arc<Backend>> {
        let change = self.change().await;
        change.add_backend(name, root, Use::backend(read_only))
    }

    /// Adds a job as a user of a node.
    ///
    /// # Errors
    /// As [`add_backend`](Layer::add_backend).
    pub(crate) async fn add_user(&self, root: NodeId, access: Use) -> Result<Arc<Backend>> {
        let change = self.change().await;
        change.add_backend("", root, access)
    }

    /// Removes a user; its requests are finished first, those that come later end with
    /// `DeviceNotFound`.
    pub async fn remove_backend(&self, backend: &Arc<Backend>) {
        let change = self.change().await;
        backend.throttle().set(Rates::default());
        backend.throttle().passed_by_all().await;
        let drained = self.drain(&[backend.root()]).await;
        // Queues know where the root was in the graph as it was.
        let draft = Draft::from(&self.graph());
        change.forget_backends(std::slice::from_ref(backend), draft.version());
        // The users that are left always agree: they did with one more.
        draft.check_permissions(&change.roots(&draft)).ok();
        change.publish(draft);
        self.run_state().look_again();
        drop(drained);
    }

    /// Removes a node that nothing uses, and the nodes below that were opened for it alone;
    /// returns when their files are closed and unlocked: that is, when every queue that held the
    /// graph has been polled or parked.
    ///
    /// # Errors
    /// `PermissionConflict` when something uses the node; what closing the image answers.
    pub async fn remove_node(&self, queue: &LocalQueue, id: NodeId) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let graph = layer.graph();
            let Some(index) = graph.index_of(id) else {
                return Err(Error::NodeNotFound {
                    node: String::new(),
                });
            };
            graph.entry(index).node.check_unblocked()?;
            let name = graph.entry(index).node.name().to_owned();
            let has_parent = graph
                .entries()
                .any(|(_, e)| e.edges.iter().any(|edge| edge.child == index));
            let has_user = layer.backends().iter().any(|b| b.root() == id);
            if has_parent || has_user {
                return Err(Error::PermissionConflict {
                    node: name.clone(),
                    reason: format!(
                        "Node '{name}' is busy: node is used as a child or by a device"
                    ),
                });
            }
            let drained = layer.drain(&[id]).await;
            let closed = layer.close_nodes(&queue, &graph, index).await;
            let mut draft = Draft::from(&graph);
            for gone in unused_below(&graph, index, &layer.backends()) {
                draft.remove(gone);
            }
            drop(graph);
            draft.check_permissions(&change.roots(&draft)).ok();
            let version = change.publish(draft);
            drop(drained);
            layer.wait_released(version).await;
            closed
        })
        .await
    }

    /// Lets every user of `from` use `to` instead: parents by their edges, and backends.
    /// Requests in flight end on the old graph, later ones start on the new one.
    ///
    /// # Errors
    /// `NodeNotFound`, `PermissionConflict`, `InvalidOption` when that would make a cycle; the
    /// graph is unchanged then.
    pub async fn replace_node(&self, from: NodeId, to: NodeId) -> Result<()> {
        let change = self.change().await;
        let graph = self.graph();
        let found = graph.index_of(from).zip(graph.index_of(to));
        let Some((from_index, to_index)) = found else {
            return Err(Error::NodeNotFound {
                node: String::new(),
            });
        };
        let mut draft = Draft::from(&graph);
        for (_, entry) in graph.entries().filter(|(index, _)| *index != to_index) {
            for (edge, place) in entry.edges.iter().zip(0..) {
                if edge.child == from_index {
                    draft.set_child(entry.node.id(), EdgeIndex(place), to)?;
                }
            }
        }
        let mut roots = change.roots(&draft);
        let from_now = draft.graph().index_of(from);
        if let Some(to_now) = draft.graph().index_of(to) {
            for root in roots.iter_mut().filter(|root| Some(root.0) == from_now) {
                root.0 = to_now;
            }
        }
        change.permit(&draft, &roots)?;
        let _drained = self.drain(&[from, to]).await;
        for backend in self.backends().iter().filter(|b| b.root() == from) {
            backend.set_root(to, draft.version());
        }
        change.publish(draft);
        Ok(())
    }

    async fn close_nodes(
        &self,
        queue: &LocalQueue,
        graph: &Arc<Graph>,
        top: NodeIndex,
    ) -> Result<()> {
        let snapshot = queue.hold(Arc::clone(graph));
        let mut result = Ok(());
        for gone in unused_below(graph, top, &self.backends()) {
            let Some(index) = graph.index_of(gone) else {
                continue;
            };
            let child = Child::new(queue.clone(), std::rc::Rc::clone(&snapshot), index);
            if !child.is_read_only() {
                let closed = child.node().driver().close(&child.cx()).await;
                result = result.and(closed);
            }
        }
        result
    }

    /// Flushes and closes every node, parents first; for the end of the process.
    ///
    /// # Errors
    /// The first error of a node; the others are closed all the same.
    pub async fn close_all(&self, queue: &LocalQueue) -> Result<()> {
        shield(queue, async move |layer, queue| {
            layer.end_jobs().await;
            let _change = layer.change().await;
            let graph = layer.graph();
            let ids: Vec<NodeId> = graph.entries().map(|(_, e)| e.node.id()).collect();
            let _drained = layer.drain(&ids).await;
            let snapshot = queue.hold(Arc::clone(&graph));
            let mut result = Ok(());
            for id in ids.into_iter().rev() {
                let Some(index) = graph.index_of(id) else {
                    continue;
                };
                let child = Child::new(queue.clone(), std::rc::Rc::clone(&snapshot), index);
                if !child.is_read_only() {
                    let closed = child.node().driver().close(&child.cx()).await;
                    result = result.and(closed);
                }
            }
            result
        })
        .await
    }

    /// A node of the current graph, for requests level by level: status, maintenance.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub fn node(&self, queue: &LocalQueue, id: NodeId) -> Result<Child> {
        let snapshot = queue.snapshot();
        match snapshot.graph.index_of(id) {
            Some(index) => Ok(Child::new(queue.clone(), snapshot, index)),
            None => Err(Error::NodeNotFound {
                node: String::new(),
            }),
        }
    }
}

/// The nodes that go when `top` goes, parents first: those that nothing else uses.
fn unused_below(graph: &Graph, top: NodeIndex, backends: &[Arc<Backend>]) -> Vec<NodeId> {
    let mut gone = vec![top];
    // Children stand before parents: going down from the top meets every parent of a node first.
    let below: Vec<NodeIndex> = graph.below(top).iter().rev().copied().collect();
    for index in below {
        let entry = graph.entry(index);
        let by_others = graph
            .entries()
            .any(|(i, e)| !gone.contains(&i) && e.edges.iter().any(|edge| edge.child == index));
        let by_backend = backends.iter().any(|b| b.root() == entry.node.id());
        if !by_others && !by_backend && entry.node.facts().anonymous {
            gone.push(index);
        }
    }
    gone.into_iter()
        .map(|index| graph.entry(index).node.id())
        .collect()
}
