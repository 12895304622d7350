//! The right to change the graph, and what goes with it: users come and go, a draft is permitted
//! and published.
//!
//! Taken by every verb, one at a time. Invariant: while nobody holds it, the locks that drivers hold
//! are those that the graph in force needs: what was permitted is published, or given back. A verb
//! that can be dropped by its caller permits behind its last await.
//! Not here: the draft (`graph/draft.rs`), several changes at once (`graph/transaction.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Layer;
use crate::backend::{Backend, User};
use crate::error::{Error, Result};
use crate::graph::perm::Use;
use crate::graph::{Draft, NodeId, NodeIndex};
use crate::sync::AsyncMutexGuard;

/// The right to change the graph.
pub(crate) struct Change<'a> {
    pub(super) layer: &'a Layer,
    _lock: AsyncMutexGuard<'a>,
}

impl Layer {
    /// Takes the lock that every verb holds while it changes the graph.
    pub(crate) async fn change(&self) -> Change<'_> {
        let _lock = self.0.change.lock().await;
        Change { layer: self, _lock }
    }

    /// The backends as users of a draft's nodes, each of the node that `root_of` says.
    pub(crate) fn roots_led(
        &self,
        draft: &Draft,
        root_of: &dyn Fn(&Arc<Backend>) -> NodeId,
    ) -> Vec<(NodeIndex, String, Use)> {
        let backends = self.0.backends.lock();
        let root = |backend: &Arc<Backend>| {
            let index = draft.graph().index_of(root_of(backend))?;
            Some((index, backend.title().to_owned(), backend.access()))
        };
        backends.iter().filter_map(root).collect()
    }
}

impl Change<'_> {
    /// The backends as users of a draft's nodes.
    pub(crate) fn roots(&self, draft: &Draft) -> Vec<(NodeIndex, String, Use)> {
        self.roots_led(draft, &|backend| backend.root())
    }

    /// As [`roots`](Change::roots), with backends that are to use other nodes.
    pub(crate) fn roots_led(
        &self,
        draft: &Draft,
        root_of: &dyn Fn(&Arc<Backend>) -> NodeId,
    ) -> Vec<(NodeIndex, String, Use)> {
        self.layer.roots_led(draft, root_of)
    }

    /// Checks a draft's permissions and takes its locks; on an error the locks are again those
    /// of the current graph.
    ///
    /// # Errors
    /// As [`check_permissions`](Draft::check_permissions).
    pub(crate) fn permit(&self, draft: &Draft, roots: &[(NodeIndex, String, Use)]) -> Result<()> {
        let permitted = draft.check_permissions(roots);
        permitted.inspect_err(|_| self.restore_locks())
    }

    /// Makes the locks those of the current graph, after a change that came to nothing.
    pub(crate) fn restore_locks(&self) {
        let current = Draft::from(&self.layer.graph());
        if let Err(error) = current.check_permissions(&self.roots(&current)) {
            // Another process was faster with a lock that this one had just let go.
            tracing::error!("locks are not as before: {}", error.chain());
        }
    }

    /// Makes a draft the current graph; returns its version.
    pub(crate) fn publish(&self, draft: Draft) -> u64 {
        let graph = draft.finish();
        let version = graph.version();
        self.layer.0.graph.store(Arc::new(graph));
        self.layer.0.version.store(version, Ordering::Release);
        version
    }

    /// Publishes the current graph once more, since a read-only node has changed: what is known of
    /// fixed images is found out anew. The node is drained.
    pub(super) fn publish_again(&self) {
        self.publish(Draft::from(&self.layer.graph()));
    }

    /// Adds a guest as a user of a node of the current graph.
    ///
    /// # Errors
    /// `InvalidOption` when the name is taken, `NodeNotFound`, `PermissionConflict`, `ReadOnly`
    /// when it wants to write a read-only node.
    pub(crate) fn add_backend(
        &self,
        name: &str,
        root: NodeId,
        access: Use,
    ) -> Result<Arc<Backend>> {
        self.add(name, root, access, User::Guest)
    }

    /// Adds a job as a user of a node of the current graph.
    ///
    /// # Errors
    /// As [`add_backend`](Change::add_backend).
    pub(crate) fn add_job(&self, root: NodeId, access: Use) -> Result<Arc<Backend>> {
        self.add("", root, access, User::Job)
    }

    fn add(&self, name: &str, root: NodeId, access: Use, user: User) -> Result<Arc<Backend>> {
        let draft = Draft::from(&self.layer.graph());
        let index = draft.graph().locate(root)?;
        let node = &draft.graph().entry(index).node;
        let backend = Backend::new(name.to_owned(), root, access, user);
        if !backend.is_read_only() && node.is_read_only() {
            return Err(Error::ReadOnly {
                node: node.name().to_owned(),
            });
        }
        if self.layer.backend(name).is_some() {
            return Err(Error::invalid(
                "id",
                format!("Duplicate ID '{name}' for block device"),
            ));
        }
        let mut roots = self.roots(&draft);
        roots.push((index, backend.title().to_owned(), access));
        self.permit(&draft, &roots)?;
        self.layer.0.backends.lock().push(Arc::clone(&backend));
        Ok(backend)
    }

    /// Takes back a user that has made no request.
    pub(crate) fn withdraw(&self, backend: &Arc<Backend>) {
        let backends = &self.layer.0.backends;
        backends.lock().retain(|b| !Arc::ptr_eq(b, backend));
        let draft = Draft::from(&self.layer.graph());
        draft.check_permissions(&self.roots(&draft)).ok();
    }

    /// Removes users whose node is drained, from the graph of a version on that is to be published
    /// next and that the caller has permitted without them.
    pub(crate) fn forget_backends(&self, gone: &[Arc<Backend>], since: u64) {
        let is_gone = |backend: &Arc<Backend>| gone.iter().any(|g| Arc::ptr_eq(g, backend));
        let backends = &self.layer.0.backends;
        backends.lock().retain(|backend| !is_gone(backend));
        for backend in gone {
            backend.retire(since);
        }
    }
}
