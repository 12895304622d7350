//! Nodes that leave the graph: removed by name, or because the last that used them has gone; and
//! images that are closed.
//!
//! Called by verbs of the graph, and at the end of the process. Invariant: parents are closed before
//! their children, so that they flush into what is still open; what only reads has nothing to
//! close. Not here: users (`layer/change.rs`).

use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::{Draft, Graph, Node, NodeId, NodeIndex};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};
use crate::request::cx::Child;

impl Draft {
    /// Takes out of the draft what nobody needs without `old`'s former users: the node and those
    /// below, as far as they have no name that somebody gave them to find them again. Parents first.
    pub(super) fn prune(&mut self, graph: &Graph, old: NodeIndex, roots: &[NodeId]) -> Vec<NodeId> {
        let is_nobodys = |node: &Node| {
            let facts = node.facts();
            facts.anonymous || facts.of_device || node.name().starts_with('#')
        };
        let nodes = std::iter::once(old).chain(below(graph, old));
        self.remove_unused(graph, nodes, roots, is_nobodys)
    }

    /// Takes those out of some nodes of `graph`, parents first, that `may_go` and that no node uses,
    /// nor a backend.
    fn remove_unused(
        &mut self,
        graph: &Graph,
        nodes: impl Iterator<Item = NodeIndex>,
        roots: &[NodeId],
        may_go: impl Fn(&Node) -> bool,
    ) -> Vec<NodeId> {
        let mut gone = Vec::new();
        for node in nodes.map(|index| &graph.entry(index).node) {
            let id = node.id();
            let is_there = self.graph().index_of(id).is_some();
            if is_there && may_go(node) && !roots.contains(&id) && !self.has_parent(id) {
                self.remove(id);
                gone.push(id);
            }
        }
        gone
    }
}

/// The nodes below one, parents first.
fn below(graph: &Graph, top: NodeIndex) -> impl Iterator<Item = NodeIndex> {
    graph.below(top).iter().rev().copied()
}

impl Layer {
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
            let index = graph.locate(id)?;
            let node = &graph.entry(index).node;
            node.check_unblocked()?;
            let mut draft = Draft::from(&graph);
            let roots = layer.root_nodes();
            if draft.has_parent(id) || roots.contains(&id) {
                let name = node.name();
                return Err(Error::PermissionConflict {
                    node: name.to_owned(),
                    reason: format!(
                        "Node '{name}' is busy: node is used as a child or by a device"
                    ),
                });
            }
            let drained = layer.drain(&[id]).await;
            draft.remove(id);
            let mut gone = vec![id];
            let is_anonymous = |node: &Node| node.facts().anonymous;
            gone.extend(draft.remove_unused(&graph, below(&graph, index), &roots, is_anonymous));
            let closed = layer.close_nodes(&queue, &graph, &gone).await;
            drop(graph);
            draft.check_permissions(&change.roots(&draft)).ok();
            let version = change.publish(draft);
            drop(drained);
            layer.wait_released(version).await;
            closed
        })
        .await
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
            let mut nodes: Vec<NodeId> = graph.entries().map(|(_, e)| e.node.id()).collect();
            nodes.reverse();
            let _drained = layer.drain(&nodes).await;
            layer.close_nodes(&queue, &graph, &nodes).await
        })
        .await
    }

    /// Closes nodes of a graph, in the order in which they are given: parents first.
    ///
    /// # Errors
    /// The first error of a node; the others are closed all the same.
    pub(super) async fn close_nodes(
        &self,
        queue: &LocalQueue,
        graph: &Arc<Graph>,
        nodes: &[NodeId],
    ) -> Result<()> {
        let snapshot = queue.hold(Arc::clone(graph));
        let mut result = Ok(());
        for index in nodes.iter().filter_map(|&id| graph.index_of(id)) {
            let node = Child::new(queue.clone(), Rc::clone(&snapshot), index);
            if !node.is_read_only() {
                let closed = node.node().driver().close(&node.cx()).await;
                result = result.and(closed);
            }
        }
        result
    }

    /// As [`Draft::prune`], with the users that there are.
    pub(super) fn prune(&self, graph: &Graph, draft: &mut Draft, old: NodeIndex) -> Vec<NodeId> {
        draft.prune(graph, old, &self.root_nodes())
    }

    /// The nodes that backends use.
    fn root_nodes(&self) -> Vec<NodeId> {
        self.backends().iter().map(|b| b.root()).collect()
    }
}
