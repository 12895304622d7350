//! Another backing file for a node of the running graph: the end of a stream or a commit.
//!
//! The image names its new backing file, durably, before the graph changes; both give the same
//! content, so a power cut between them leaves a chain that is whole. Not here: copying what makes
//! the content the same (`job/`).

use crate::driver::BackingName;
use crate::error::{Error, Result};
use crate::graph::perm::Role;
use crate::graph::{Draft, Edge, NodeId};
use crate::layer::Layer;
use crate::queue::LocalQueue;
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
        let index = self.graph.locate(parent)?;
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
                let child = self.graph.locate(backing)?;
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
        let index = graph.locate(id)?;
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
        let closed = self.close_nodes(queue, &graph, &gone).await;
        drop((node, graph));
        self.wait_released(version).await;
        closed
    }
}
