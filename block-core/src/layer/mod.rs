//! The block layer of a process: the current graph, its users, its queues, and what they share.
//!
//! Held by everything that works on the graph. Here are the layer itself, and the verbs that add
//! nodes made by hand, add and remove users, and find nodes; in files of their own the right to
//! change the graph (`change`), maintenance of an image (`maintain`) and what requests of different
//! queues know of each other (`obstacles`). Invariant: verbs run one at a time, on any queue, and
//! never block a queue's thread; each publishes a whole graph that all users agree to, while what it
//! touches is drained; one that touches images runs to its end, whether or not its caller waits.
//! Not here: opening nodes by options, moving edges, removing nodes (`graph/`), jobs (`job/`), QMP
//! (`qmp/`).

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
use crate::graph::{Draft, Edge, Graph, Node, NodeId};
use crate::job::Job;
use crate::on_error::RunState;
use crate::queue::{LocalQueue, QueueBuilder, QueueShared};
use crate::request::cx::Child;
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
            let child = draft.graph().locate(id)?;
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

    /// Adds a user to a node: a guest device by its `id`, or an export or program without one.
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
    pub(crate) async fn add_job_user(&self, root: NodeId, access: Use) -> Result<Arc<Backend>> {
        let change = self.change().await;
        change.add_job(root, access)
    }

    /// Removes a user; its requests are finished first, those that come later end with
    /// `DeviceNotFound`.
    ///
    /// # Cancel safety
    /// Dropped before it ends, the user stays, without its limits.
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

    /// A node of the current graph, for requests level by level: status, maintenance.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub fn node(&self, queue: &LocalQueue, id: NodeId) -> Result<Child> {
        let snapshot = queue.snapshot();
        let index = snapshot.graph.locate(id)?;
        Ok(Child::new(queue.clone(), snapshot, index))
    }
}
