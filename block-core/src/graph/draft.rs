//! The next graph, while it is being built: nodes come and go, edges lead elsewhere, and all that
//! use a node have to agree.
//!
//! Made by verbs from the current snapshot, published by [`Layer`](crate::layer::Layer). Invariant:
//! what walks need to know of each node is computed anew after each change. Not here: that
//! computation (`mod.rs`), what a user needs and shares (`perm`).

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::graph::perm::{self, Perm, Use};
use crate::graph::{Edge, Entry, Graph, Length, NamedChild, Node, NodeId, NodeIndex};
use crate::request::map::EdgeIndex;

/// The next graph, while it is being built.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub(super) graph: Graph,
}

impl Draft {
    /// Starts from a snapshot.
    pub fn from(graph: &Graph) -> Draft {
        let mut graph = graph.clone();
        // Edges are about to move.
        graph.fixed.clear();
        Draft { graph }
    }

    /// The state so far, for I/O on nodes that are not published yet.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The version that the finished graph will have.
    pub(crate) fn version(&self) -> u64 {
        self.graph.version + 1
    }

    /// Adds a node over children that are in the draft already.
    ///
    /// # Errors
    /// `InvalidOption` when the name is taken.
    pub fn add(&mut self, node: Arc<Node>, edges: Vec<Edge>) -> Result<NodeIndex> {
        if self.graph.find(node.name()).is_some() {
            return Err(Error::invalid(
                "node-name",
                format!("Duplicate nodes with node-name='{}'", node.name()),
            ));
        }
        let index = NodeIndex(u32::try_from(self.graph.entries.len()).unwrap_or(u32::MAX));
        let entry = Entry {
            node,
            edges,
            reach: Arc::default(),
            below: Arc::default(),
            writable_below: Arc::default(),
            backing: None,
            plain_writes: false,
            target: (index, 0),
            passed: Vec::new(),
            length: Length {
                node: index,
                start: 0,
                most: u64::MAX,
            },
        };
        self.graph.entries.push(entry);
        self.graph.resolve(index);
        Ok(index)
    }

    /// Puts a node that was opened again, with the children that it has now, in the place of what
    /// has its id. Places may change.
    pub(crate) fn put_again(&mut self, node: Arc<Node>, children: Vec<NamedChild>) -> Result<()> {
        let edges = self.edges(children)?;
        let Some(index) = self.graph.index_of(node.id) else {
            return Err(Error::NodeNotFound {
                node: node.name().to_owned(),
            });
        };
        let own = node.id;
        for edge in &edges {
            let child = &self.graph.entry(edge.child).node;
            if self.graph.reaches(child.id, own) {
                let reason = format!(
                    "Making '{}' a {} child of '{}' would create a cycle",
                    child.name(),
                    edge.name,
                    node.name()
                );
                return Err(Error::invalid(&edge.name, reason));
            }
        }
        let entry = &mut self.graph.entries[index.usize()];
        entry.node = node;
        entry.edges = edges;
        self.graph.sort();
        self.graph.resolve_all();
        Ok(())
    }

    /// Edges to nodes of the draft, as they stand there now.
    pub(crate) fn edges(&self, children: Vec<NamedChild>) -> Result<Vec<Edge>> {
        let edge = |NamedChild { name, role, child }: NamedChild| {
            let child = self.graph.locate(child)?;
            Ok(Edge { name, role, child })
        };
        children.into_iter().map(edge).collect()
    }

    /// The edges that lead to a node, by their parents.
    pub(super) fn edges_to(&self, id: NodeId) -> Vec<(NodeId, EdgeIndex)> {
        let mut found = Vec::new();
        for (_, entry) in self.graph.entries() {
            for (edge, place) in entry.edges.iter().zip(0..) {
                if self.graph.entry(edge.child).node.id() == id {
                    found.push((entry.node.id(), EdgeIndex(place)));
                }
            }
        }
        found
    }

    /// Whether another node uses one.
    pub(super) fn has_parent(&self, id: NodeId) -> bool {
        !self.edges_to(id).is_empty()
    }

    /// Takes a node out that no other node uses.
    pub fn remove(&mut self, id: NodeId) {
        let Some(gone) = self.graph.index_of(id) else {
            return;
        };
        self.graph.entries.remove(gone.usize());
        for entry in &mut self.graph.entries {
            for edge in &mut entry.edges {
                if edge.child > gone {
                    edge.child.0 -= 1;
                }
            }
        }
        self.graph.resolve_all();
    }

    /// Lets the edge `edge` of node `parent` lead to `child`.
    ///
    /// # Errors
    /// `InvalidOption` when that would make a cycle, `NodeNotFound`.
    pub fn set_child(&mut self, parent: NodeId, edge: EdgeIndex, child: NodeId) -> Result<()> {
        let (parent_index, child_index) = (self.graph.locate(parent)?, self.graph.locate(child)?);
        if self.graph.reaches(child, parent) {
            return Err(Error::invalid(
                "node",
                "Making a node its own descendant is not possible",
            ));
        }
        let entry = &mut self.graph.entries[parent_index.usize()];
        if let Some(edge) = entry.edges.get_mut(usize::from(edge.0)) {
            edge.child = child_index;
        }
        self.graph.sort();
        self.graph.resolve_all();
        Ok(())
    }

    /// Checks that the users of every node can be there together, `roots` being the backends, and
    /// tells the drivers what they are used for.
    ///
    /// # Errors
    /// `PermissionConflict`, naming the node and who is in the way: then no driver has heard of
    /// anything. Or what a driver answers: then some have, and the caller tells them again what
    /// the graph in force uses them for.
    pub fn check_permissions(&self, roots: &[(NodeIndex, String, Use)]) -> Result<()> {
        let uses = self.uses(roots, &Node::is_read_only)?;
        for (entry, total) in self.graph.entries.iter().zip(uses).rev() {
            entry.node.driver.set_permissions(total.outside())?;
        }
        Ok(())
    }

    /// Checks that a child can have one more user, and tells it and those below. `but` is a node
    /// whose own use of its children does not count: it is about to be another instance.
    ///
    /// # Errors
    /// As [`check_permissions`](Draft::check_permissions).
    pub(super) fn admit(
        &self,
        child: NodeId,
        user: (String, Use),
        mut roots: Vec<(NodeIndex, String, Use)>,
        but: Option<NodeId>,
    ) -> Result<()> {
        let index = self.graph.locate(child)?;
        roots.push((index, user.0, user.1));
        let uses = self.uses_but(&roots, &Node::is_read_only, but)?;
        for &below in std::iter::once(&index).chain(self.graph.below(index)) {
            let driver = &self.graph.entry(below).node.driver;
            driver.set_permissions(uses[below.usize()].outside())?;
        }
        Ok(())
    }

    /// What each node is used for, all its users together, in the order of the entries, where
    /// `read_only` says which of them refuse writes.
    ///
    /// # Errors
    /// `PermissionConflict`, naming the node and who is in the way.
    pub(crate) fn uses(
        &self,
        roots: &[(NodeIndex, String, Use)],
        read_only: &dyn Fn(&Node) -> bool,
    ) -> Result<Vec<Use>> {
        self.uses_but(roots, read_only, None)
    }

    fn uses_but(
        &self,
        roots: &[(NodeIndex, String, Use)],
        read_only: &dyn Fn(&Node) -> bool,
        but: Option<NodeId>,
    ) -> Result<Vec<Use>> {
        let entries = &self.graph.entries;
        let mut users: Vec<Vec<(String, Use)>> = vec![Vec::new(); entries.len()];
        for (index, name, wanted) in roots {
            users[index.usize()].push((name.clone(), *wanted));
        }
        let mut totals = vec![Use::NOTHING; entries.len()];
        // Parents stand behind their children: from the last to the first, every user of a node
        // is known when the node is looked at.
        for (index, entry) in entries.iter().enumerate().rev() {
            let total = combine(entry.node.name(), &users[index])?;
            let parent_read_only = read_only(&entry.node);
            if parent_read_only {
                check_writers(&entry.node, total)?;
            }
            let counts = but != Some(entry.node.id());
            for edge in entry.edges.iter().filter(|_| counts) {
                let child = &entries[edge.child.usize()].node;
                let mut wanted = edge.role.child_use(total, parent_read_only);
                if entry.node.facts.force_share {
                    wanted.share = Perm::ALL;
                }
                if wanted.need.contains(Perm::WRITE) && child.watchers.are_there() {
                    return Err(watched(child));
                }
                let who = format!("node '{}' as '{}'", entry.node.name(), edge.name);
                users[edge.child.usize()].push((who, wanted));
            }
            totals[index] = total;
        }
        Ok(totals)
    }

    /// The finished graph.
    pub fn finish(mut self) -> Graph {
        self.graph.version = self.version();
        self.graph.find_fixed();
        self.graph
    }
}

/// A write of a parent is announced while it waits for a watcher of its child, and the watcher for
/// what a drain holds up, which waits for that announcement: only users may write what is watched.
fn watched(node: &Node) -> Error {
    let name = node.name();
    Error::PermissionConflict {
        node: name.to_owned(),
        reason: format!("Node '{name}' is busy: a job watches its writes; no node may write it"),
    }
}

/// Checks that nobody writes a node that is read-only, or is about to be.
fn check_writers(node: &Node, total: Use) -> Result<()> {
    if (total.need & (Perm::WRITE | Perm::WRITE_UNCHANGED)).is_empty() {
        return Ok(());
    }
    let name = node.name();
    let reason = if node.is_read_only() {
        "Block node is read-only".to_owned()
    } else {
        format!("Read-only block node '{name}' cannot support read-write users")
    };
    Err(Error::PermissionConflict {
        node: name.to_owned(),
        reason,
    })
}

/// All users of a node as one, if they can be there together.
fn combine(node: &str, users: &[(String, Use)]) -> Result<Use> {
    let mut total = Use::NOTHING;
    for (i, (who, wanted)) in users.iter().enumerate() {
        for (other, other_use) in &users[..i] {
            if let Some(perm) = perm::conflict(*wanted, *other_use) {
                return Err(Error::PermissionConflict {
                    node: node.to_owned(),
                    reason: format!(
                        "Conflicts with use by {other}, which does not allow '{perm}' on {node} \
                         for {who}"
                    ),
                });
            }
        }
        total = Use {
            need: total.need | wanted.need,
            share: total.share & wanted.share,
            unseen: total.unseen | wanted.unseen,
        };
    }
    Ok(total)
}
