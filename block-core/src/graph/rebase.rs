//! Another backing file for a node of the running graph: the end of a stream or a commit.
//!
//! The image names its new backing file, durably, before the graph changes; both give the same
//! content, so a power cut between them leaves a chain that is whole. Not here: copying what makes
//! the content the same (`job/`).

use std::rc::Rc;
use std::sync::Arc;

use crate::driver::BackingName;
use crate::error::{Error, Result};
use crate::graph::perm::Role;
use crate::graph::{Draft, Edge, Graph, NodeId, NodeIndex};
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::request::cx::Child;
use crate::request::map::EdgeIndex;

/// What shows through a node from now on.
#[derive(Clone, Debug)]
pub(crate) struct NewBacking {
    /// The node; `None` where nothing does.
    pub(crate) node: Option<NodeId>,
    /// What the image says about it.
    pub(crate) name: Option<BackingName>,
}

impl Draft {
    /// Leads a node to another backing file, or to none.
    ///
    /// # Errors
    /// As [`set_child`](Draft::set_child).
    pub(crate) fn set_backing(&mut self, parent: NodeId, backing: Option<NodeId>) -> Result<()> {
        let missing = || Error::NodeNotFound {
            node: String::new(),
        };
        let index = self.graph.index_of(parent).ok_or_else(missing)?;
        let edges = &self.graph.entry(index).edges;
        let place = edges.iter().position(|e| e.role == Role::Cow);
        match (place, backing) {
            (None, None) => Ok(()),
            (Some(place), Some(backing)) => {
                let edge = EdgeIndex(u8::try_from(place).unwrap_or(u8::MAX));
                self.set_child(parent, edge, backing)
            }
            (Some(place), None) => {
                // Drivers know their edges by number.
                if place + 1 != edges.len() {
                    let reason = "the backing file is not the last child of its node";
                    return Err(Error::invalid("backing", reason));
                }
                self.graph.entries[index.usize()].edges.pop();
                self.graph.resolve_all();
                Ok(())
            }
            (None, Some(backing)) => {
                let child = self.graph.index_of(backing).ok_or_else(missing)?;
                if self.graph.reaches(backing, parent) {
                    let reason = "Making a node its own descendant is not possible";
                    return Err(Error::invalid("backing", reason));
                }
                let name = "backing".to_owned();
                let role = Role::Cow;
                let edges = &mut self.graph.entries[index.usize()].edges;
                edges.push(Edge { name, role, child });
                self.graph.sort();
                self.graph.resolve_all();
                Ok(())
            }
        }
    }

    /// Whether nothing in the draft uses a node, nor a backend.
    fn is_unused(&self, index: NodeIndex, roots: &[NodeId]) -> bool {
        let id = self.graph.entry(index).node.id();
        let has_parent = |(_, entry): (NodeIndex, &super::Entry)| {
            entry.edges.iter().any(|edge| edge.child == index)
        };
        !roots.contains(&id) && !self.graph.entries().any(has_parent)
    }

    /// Takes out of the draft what nobody needs without `old`'s former users: the node and those
    /// below, as far as they have no name that somebody gave them to find them again. Parents first.
    pub(super) fn prune(&mut self, graph: &Graph, old: NodeIndex, roots: &[NodeId]) -> Vec<NodeId> {
        let below = graph.below(old).iter().rev().copied();
        let mut gone = Vec::new();
        for index in std::iter::once(old).chain(below) {
            let node = &graph.entry(index).node;
            let Some(now) = self.graph().index_of(node.id()) else {
                continue;
            };
            let is_nobodys =
                node.facts().anonymous || node.facts().of_device || node.name().starts_with('#');
            if is_nobodys && self.is_unused(now, roots) {
                self.remove(node.id());
                gone.push(node.id());
            }
        }
        gone
    }
}

impl Layer {
    /// Gives a node another backing file, with the same content for whoever reads the node.
    /// Nodes below that were opened for it alone go.
    ///
    /// # Errors
    /// What the driver answers to the new name, `PermissionConflict`: the graph is unchanged then.
    pub(crate) async fn change_backing(
        &self,
        queue: &LocalQueue,
        id: NodeId,
        new: NewBacking,
    ) -> Result<()> {
        let change = self.change().await;
        let graph = self.graph();
        let missing = || Error::NodeNotFound {
            node: String::new(),
        };
        let index = graph.index_of(id).ok_or_else(missing)?;
        let old = graph.backing(index);
        let mut draft = Draft::from(&graph);
        draft.set_backing(id, new.node)?;
        let gone = match old {
            Some(old) => self.prune(&graph, &mut draft, old),
            None => Vec::new(),
        };
        let drained = self.drain(&[id]).await;
        let node = self.node(queue, id)?;
        node.node()
            .driver()
            .name_backing(&node.cx(), new.name)
            .await?;
        change.permit(&draft, &change.roots(&draft))?;
        let version = change.publish(draft);
        drop(drained);
        let closed = self.close_gone(queue, &graph, &gone).await;
        drop((node, graph));
        self.wait_released(version).await;
        closed
    }

    /// As [`Draft::prune`], with the users that there are.
    pub(super) fn prune(&self, graph: &Graph, draft: &mut Draft, old: NodeIndex) -> Vec<NodeId> {
        let roots: Vec<NodeId> = self.backends().iter().map(|b| b.root()).collect();
        draft.prune(graph, old, &roots)
    }

    pub(super) async fn close_gone(
        &self,
        queue: &LocalQueue,
        graph: &Arc<Graph>,
        gone: &[NodeId],
    ) -> Result<()> {
        let snapshot = queue.hold(Arc::clone(graph));
        let mut result = Ok(());
        for index in gone.iter().filter_map(|&id| graph.index_of(id)) {
            let child = Child::new(queue.clone(), Rc::clone(&snapshot), index);
            if !child.is_read_only() {
                let closed = child.node().driver().close(&child.cx()).await;
                result = result.and(closed);
            }
        }
        result
    }
}
