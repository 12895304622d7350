//! Opening a node again, while the guest runs: another access mode or other options, over the same
//! image.
//!
//! The node keeps its id, its name, its claims, its users and the bitmaps that live in memory; its
//! driver is another instance. All nodes concerned are drained. From the top down each old
//! instance is closed, so that the image is as another program would find it, and gives up its
//! locks; then the new one is opened. Children that were opened inside the node's options go along;
//! those that have a life of their own stay. The new graph is published once. When anything fails
//! everything is opened once more as it was: an instance that was closed is not used again, nor is
//! one under which another one has changed the image.
//!
//! Not here: the commands, and which options they allow.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use block_schema::types::{BlockdevOptions, BlockdevRef};
use block_schema::{Value, Wire};

use crate::bitmap::Purpose;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::graph::facts::Inherited;
use crate::graph::open::{Origin, open_node};
use crate::graph::perm::{Role, Use};
use crate::graph::{Draft, Graph, NamedChild, Node, NodeFacts, NodeId, NodeIndex};
use crate::layer::{Change, Layer};
use crate::queue::{LocalQueue, shield};
use crate::request::cx::Child;

/// Which children a node has when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Children {
    /// Those that it has now, whatever its options said once.
    Kept,
    /// Those that its new options give.
    Given,
}

/// One node that is to be opened again.
pub(crate) struct Reopening {
    pub(crate) id: NodeId,
    pub(crate) options: BlockdevOptions,
    pub(super) inherited: Inherited,
    pub(crate) children: Children,
}

/// What opens a node anew knows of what it was until now.
pub(super) struct Again {
    child: Child,
    edges: Vec<NamedChild>,
    children: Children,
    progress: Rc<Progress>,
}

/// How far a verb has come with all its nodes.
#[derive(Default)]
struct Progress {
    /// Opened, or being opened, by this attempt.
    done: RefCell<Vec<NodeId>>,
    /// Instances of before that are closed. Another one may have changed the image since: closing
    /// one of them again would write over that.
    closed: RefCell<Vec<NodeId>>,
}

/// A child that stays, and how it is opened when it goes along.
type Found = (NodeId, Option<(BlockdevOptions, Again)>);

impl Again {
    fn of(
        queue: &LocalQueue,
        graph: &Arc<Graph>,
        id: NodeId,
        children: Children,
        progress: &Rc<Progress>,
    ) -> Result<Again> {
        let index = graph.locate(id)?;
        let snapshot = queue.hold(Arc::clone(graph));
        Ok(Again {
            child: Child::new(queue.clone(), snapshot, index),
            edges: named_children(graph, index),
            children,
            progress: Rc::clone(progress),
        })
    }

    fn node(&self) -> &Arc<Node> {
        self.child.node()
    }

    /// What the node is told apart by until now.
    pub(super) fn facts(&self) -> &NodeFacts {
        self.node().facts()
    }

    /// The id, which stays.
    pub(super) fn id(&self) -> NodeId {
        self.node().id()
    }

    /// The name, which stays.
    pub(super) fn name(&self) -> &str {
        self.child.node_name()
    }

    /// Whether the backing file stays what it is, or that there is none, whatever the options say.
    pub(super) fn keeps_backing(&self, given: bool, named: bool) -> Result<bool> {
        match self.children {
            Children::Kept => Ok(true),
            Children::Given if given => Ok(false),
            Children::Given => {
                let has_one = self.edges.iter().any(|edge| edge.role == Role::Cow);
                if has_one || named {
                    let reason = format!("backing is missing for '{}'", self.name());
                    return Err(Error::invalid("backing", reason));
                }
                Ok(false)
            }
        }
    }

    /// The child of a name, unless the options give another one.
    pub(super) fn child(
        &self,
        draft: &Draft,
        name: &str,
        role: Role,
        given: Option<&BlockdevRef>,
    ) -> Result<Option<Found>> {
        let Some(edge) = self.edges.iter().find(|edge| edge.name == name) else {
            return Ok(None);
        };
        let Some(index) = draft.graph().index_of(edge.child) else {
            return Ok(None);
        };
        let entry = draft.graph().entry(index);
        let node = &entry.node;
        let options = match (self.children, given) {
            (Children::Kept, _) | (Children::Given, None) => None,
            (Children::Given, Some(BlockdevRef::Definition(options))) if node.facts().anonymous => {
                Some(options)
            }
            (Children::Given, Some(_)) => return Ok(None),
        };
        let opened = match (options, node.origin()) {
            _ if self.progress.done.borrow().contains(&edge.child) => None,
            (Some(options), origin) => {
                if let Some(origin) = origin {
                    check_same_image(&origin.options, options, entry.edges.is_empty())?;
                }
                Some((BlockdevOptions::clone(options), Children::Given))
            }
            (None, Some(origin)) if node.facts().anonymous && role != Role::Cow => {
                Some((origin.options.clone(), Children::Kept))
            }
            (None, _) => None,
        };
        let Some((options, children)) = opened else {
            return Ok(Some((edge.child, None)));
        };
        self.progress.done.borrow_mut().push(edge.child);
        let again = Again {
            child: self.child.neighbour(edge.child)?,
            edges: named_children(draft.graph(), index),
            children,
            progress: Rc::clone(&self.progress),
        };
        Ok(Some((edge.child, Some((options, again)))))
    }

    /// Closes what is open until now, and gives up its locks.
    pub(super) async fn close(&self) -> Result<()> {
        let node = self.node();
        let closed = self.progress.closed.borrow().contains(&node.id());
        if !closed && !node.is_read_only() {
            node.driver().close(&self.child.cx()).await?;
            self.progress.closed.borrow_mut().push(node.id());
        }
        node.driver().set_permissions(Use::NOTHING)
    }

    /// The node with its new driver.
    pub(super) fn finish(
        &self,
        facts: NodeFacts,
        driver: Box<dyn Driver>,
        origin: Origin,
    ) -> Arc<Node> {
        self.node().opened_again(facts, driver, origin)
    }
}

fn named_children(graph: &Graph, index: NodeIndex) -> Vec<NamedChild> {
    let edges = graph.entry(index).edges.iter();
    let named = edges.map(|edge| NamedChild {
        name: edge.name.clone(),
        role: edge.role,
        child: graph.entry(edge.child).node.id(),
    });
    named.collect()
}

/// Checks that no image gets another backing file where a job works on both.
///
/// # Errors
/// `PermissionConflict`, naming them.
fn check_frozen(before: &Graph, after: &Graph) -> Result<()> {
    let is_blocked = |index| before.entry(index).node.check_unblocked().is_err();
    for (index, entry) in before.entries() {
        let image = &entry.node;
        let Some(below) = before.backing(index) else {
            continue;
        };
        if !is_blocked(index) || !is_blocked(below) {
            continue;
        }
        let below = &before.entry(below).node;
        let found = after
            .index_of(image.id())
            .and_then(|now| after.backing(now));
        if found.is_none_or(|now| after.entry(now).node.id() != below.id()) {
            return Err(Error::PermissionConflict {
                node: image.name().to_owned(),
                reason: format!(
                    "Cannot change frozen 'backing' link from '{}' to '{}'",
                    image.name(),
                    below.name()
                ),
            });
        }
    }
    Ok(())
}

/// Checks that options are for what the node is: its driver, and where it has no children, the
/// place of its bytes. Everything else can change.
fn check_same_image(old: &BlockdevOptions, new: &BlockdevOptions, is_leaf: bool) -> Result<()> {
    let change = |option: &str| {
        let reason = format!("Cannot change the option '{option}'");
        Err(Error::invalid(option, reason))
    };
    if old.driver.kind() != new.driver.kind() {
        return change("driver");
    }
    if !is_leaf || old.driver == new.driver {
        return Ok(());
    }
    // The members of the driver's own stand beside those of every node.
    let bare = |options: &BlockdevOptions| BlockdevOptions::new(options.driver.clone()).encode();
    let (old, new) = (bare(old), bare(new));
    let (Value::Object(old), Value::Object(new)) = (&old, &new) else {
        return change("driver");
    };
    let other = new
        .iter()
        .find(|(name, value)| old.get(name) != Some(*value));
    match other {
        Some((name, _)) => change(name),
        // What is left out stays as it was.
        None => Ok(()),
    }
}

impl Layer {
    /// Opens a node's image for reading only, or for writing, under its users; the protocol nodes
    /// that were opened in its options go along. Returns when the old descriptors are closed, that
    /// is, when every queue has been polled or parked: the caller holds no snapshot of the graph.
    ///
    /// # Errors
    /// `Unsupported` when the node was not opened by options; `PermissionConflict` when somebody
    /// writes a node that is to be read-only; `InvalidOption` when a stored bitmap is in use; what
    /// opening answers. The node is as before then.
    pub async fn set_read_only(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        read_only: bool,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let version = layer.change_mode(&change, &queue, id, read_only).await?;
            layer.wait_released(version).await;
            Ok(())
        })
        .await
    }

    /// As [`set_read_only`](Layer::set_read_only), within a verb; the answer is the version of the
    /// new graph, which queues may not have taken yet.
    pub(crate) async fn change_mode(
        &self,
        change: &Change<'_>,
        queue: &LocalQueue,
        id: NodeId,
        read_only: bool,
    ) -> Result<u64> {
        let mut reopening = Reopening::unchanged(&self.graph(), id)?;
        if self.node(queue, id)?.is_read_only() == read_only {
            return Ok(self.version());
        }
        reopening.options.read_only = Some(read_only);
        if !read_only {
            reopening.options.auto_read_only = Some(false);
        }
        self.open_again(change, queue, vec![reopening]).await
    }

    /// Opens nodes again and publishes them; see the module.
    pub(crate) async fn open_again(
        &self,
        change: &Change<'_>,
        queue: &LocalQueue,
        wanted: Vec<Reopening>,
    ) -> Result<u64> {
        let graph = self.graph();
        let mut along = Vec::new();
        for one in &wanted {
            goes_along(&graph, one, &mut along)?;
        }
        check_modes(change, &graph, &wanted, &along)?;
        let before: Result<Vec<Reopening>> = wanted
            .iter()
            .map(|one| Reopening::unchanged(&graph, one.id))
            .collect();
        let before = before?;
        let _drained = self.drain(&along).await;
        let progress = Rc::new(Progress::default());
        let attempt = self.try_open_again(change, queue, &graph, wanted, &progress);
        let attempt = attempt.await.and_then(|draft| {
            check_frozen(&graph, draft.graph())?;
            Ok(draft)
        });
        let error = match attempt {
            Ok(mut draft) => {
                let gone = self.prune_replaced(&graph, &mut draft, &along);
                let version = change.publish(draft);
                self.close_nodes(queue, &graph, &gone).await?;
                return Ok(version);
            }
            Err(error) => error,
        };
        progress.done.take();
        let back = self.try_open_again(change, queue, &graph, before, &progress);
        match back.await {
            Ok(draft) => {
                change.publish(draft);
            }
            Err(worse) => {
                tracing::error!("a node is not as before: {}", worse.chain());
                let current = Draft::from(&graph);
                change.permit(&current, &change.roots(&current)).ok();
            }
        }
        Err(error)
    }

    async fn try_open_again(
        &self,
        change: &Change<'_>,
        queue: &LocalQueue,
        graph: &Arc<Graph>,
        mut wanted: Vec<Reopening>,
        progress: &Rc<Progress>,
    ) -> Result<Draft> {
        let draft = Rc::new(RefCell::new(Draft::from(graph)));
        let opened = async {
            wanted.sort_by_key(|one| graph.index_of(one.id));
            // Parents first, so that they flush into what is still open.
            let mut closed = Vec::new();
            for one in wanted.into_iter().rev() {
                let again = Again::of(queue, graph, one.id, one.children, progress)?;
                again.close().await?;
                closed.push((one, again));
            }
            for (one, again) in closed.into_iter().rev() {
                progress.done.borrow_mut().push(one.id);
                open_node(
                    self.clone(),
                    queue.clone(),
                    Rc::clone(&draft),
                    one.options,
                    one.inherited,
                    Some(again),
                )
                .await?;
            }
            let next = draft.borrow().clone();
            change.permit(&next, &change.roots(&next))
        };
        let opened = opened.await;
        let draft = draft.take();
        if let Err(error) = opened {
            self.close_new(queue, graph, draft).await;
            return Err(error);
        }
        Ok(draft)
    }

    /// Takes out of a draft the children that nodes have no longer, and that were theirs alone.
    fn prune_replaced(&self, graph: &Graph, draft: &mut Draft, again: &[NodeId]) -> Vec<NodeId> {
        let mut gone = Vec::new();
        for index in again.iter().filter_map(|&id| graph.index_of(id)) {
            for edge in &graph.entry(index).edges {
                gone.extend(self.prune(graph, draft, edge.child));
            }
        }
        gone
    }

    /// Closes what a draft has opened for nothing.
    pub(super) async fn close_new(&self, queue: &LocalQueue, graph: &Graph, draft: Draft) {
        let next = Arc::new(draft.finish());
        let is_new = |node: &Arc<Node>| match graph.index_of(node.id()) {
            Some(index) => !Arc::ptr_eq(&graph.entry(index).node, node),
            None => true,
        };
        let nodes = next.entries().map(|(_, entry)| &entry.node);
        let new: Vec<&Arc<Node>> = nodes.filter(|node| is_new(node)).collect();
        for node in new.into_iter().rev() {
            if let Err(error) = self.close_nodes(queue, &next, &[node.id()]).await {
                tracing::error!("closing '{}': {}", node.name(), error.chain());
            }
        }
    }
}

impl Reopening {
    /// As the node is open now.
    ///
    /// # Errors
    /// `NodeNotFound`; `Unsupported` when the node was not opened by options.
    pub(crate) fn unchanged(graph: &Graph, id: NodeId) -> Result<Reopening> {
        let index = graph.locate(id)?;
        let node = &graph.entry(index).node;
        let Some(origin) = node.origin() else {
            return Err(Error::Unsupported {
                node: node.name().to_owned(),
                what: "being opened again".to_owned(),
            });
        };
        Ok(Reopening {
            id,
            options: origin.options.clone(),
            inherited: origin.inherited.clone(),
            children: Children::Kept,
        })
    }

    /// With other options, and the children that these give.
    ///
    /// # Errors
    /// As [`unchanged`](Reopening::unchanged); `InvalidOption` when they are for another image.
    pub(crate) fn with(graph: &Graph, id: NodeId, options: BlockdevOptions) -> Result<Reopening> {
        let now = Reopening::unchanged(graph, id)?;
        let is_leaf = graph
            .index_of(id)
            .is_none_or(|index| graph.entry(index).edges.is_empty());
        check_same_image(&now.options, &options, is_leaf)?;
        Ok(Reopening {
            options,
            children: Children::Given,
            ..now
        })
    }
}

/// Adds the nodes that may be opened again with one, itself included.
fn goes_along(graph: &Graph, one: &Reopening, along: &mut Vec<NodeId>) -> Result<()> {
    let mut next = vec![one.id];
    while let Some(id) = next.pop() {
        let Some(index) = graph.index_of(id) else {
            continue;
        };
        if along.contains(&id) {
            continue;
        }
        along.push(id);
        let entry = graph.entry(index);
        for bitmap in entry.node.bitmaps().all().iter() {
            if bitmap.is_persistent() && bitmap.is_busy() {
                bitmap.check(Purpose::Use)?;
            }
        }
        for edge in &entry.edges {
            let child = &graph.entry(edge.child).node;
            let follows = one.children == Children::Given || edge.role != Role::Cow;
            if follows && child.facts().anonymous {
                next.push(child.id());
            }
        }
    }
    Ok(())
}

/// Checks, before anything is closed, that everybody can live with the nodes' new modes.
fn check_modes(
    change: &Change<'_>,
    graph: &Graph,
    wanted: &[Reopening],
    along: &[NodeId],
) -> Result<()> {
    if wanted.iter().any(|one| one.children == Children::Given) {
        // Which children there will be is known when they are open.
        return Ok(());
    }
    let next = |node: &Node| {
        let concerned = |one: &&Reopening| {
            let id = node.id();
            one.id == id || along.contains(&id) && graph.reaches(one.id, id)
        };
        match wanted.iter().find(concerned) {
            Some(one) => one.options.read_only.unwrap_or(node.is_read_only()),
            None => node.is_read_only(),
        }
    };
    let draft = Draft::from(graph);
    let roots = change.roots(&draft);
    draft.uses(&roots, &next).map(drop)
}
