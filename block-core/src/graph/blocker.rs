//! What keeps verbs off a node while a job uses it, or an overlay reads through it.
//!
//! A job blocks every node that it reads, writes or moves; verbs that would change what the node
//! is (its length, its place in the graph, its content as a whole) ask first. Requests are never
//! blocked. Not here: who may read and write at all (`perm`).

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::graph::perm::Role;
use crate::graph::{Edge, Graph, Node, NodeId};

/// The reasons why a node must stay as it is, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Blockers(Mutex<Vec<Arc<str>>>);

/// Keeps verbs off a node until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Blocked {
    blockers: Arc<Blockers>,
    reason: Arc<str>,
}

impl Node {
    /// Keeps verbs off the node, for a reason that is a whole phrase.
    pub(crate) fn block(&self, reason: &Arc<str>) -> Blocked {
        self.blockers.0.lock().push(Arc::clone(reason));
        Blocked {
            blockers: Arc::clone(&self.blockers),
            reason: Arc::clone(reason),
        }
    }

    /// Whether a verb may change what the node is.
    ///
    /// # Errors
    /// `PermissionConflict` with the first reason why not.
    pub(crate) fn check_unblocked(&self) -> Result<()> {
        match self.blockers.0.lock().first() {
            None => Ok(()),
            Some(reason) => Err(Error::PermissionConflict {
                node: self.name().to_owned(),
                reason: format!("Node '{}' is busy: {reason}", self.name()),
            }),
        }
    }
}

impl Graph {
    /// Whether a verb may change what a node is for those above it: nobody reads through it.
    ///
    /// # Errors
    /// `PermissionConflict`, naming whose backing file it is.
    pub(crate) fn check_no_overlay(&self, id: NodeId) -> Result<()> {
        let Some(index) = self.index_of(id) else {
            return Ok(());
        };
        let is_below = |edge: &Edge| edge.child == index && edge.role == Role::Cow;
        let mut overlays = self.entries().filter(|(_, e)| e.edges.iter().any(is_below));
        match overlays.next() {
            None => Ok(()),
            Some((_, overlay)) => {
                let (name, overlay) = (self.entry(index).node.name(), overlay.node.name());
                Err(Error::PermissionConflict {
                    node: name.to_owned(),
                    reason: format!(
                        "Node '{name}' is busy: node is used as backing hd of '{overlay}'"
                    ),
                })
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let mut reasons = self.blockers.0.lock();
        let own = reasons.iter().position(|r| Arc::ptr_eq(r, &self.reason));
        if let Some(own) = own {
            reasons.remove(own);
        }
    }
}
