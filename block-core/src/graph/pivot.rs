//! Users led from one node to another: the end of a mirror, or a caller's wish.
//!
//! Both nodes are drained, so no request is lost or comes out of order: those before have ended on
//! the old node, those behind start on the new one, which the next graph has in its place. The graph
//! is one store: a power cut finds either node as the disk. A mirror has made both equal and flushed
//! the new one within the drain, so that either has all that was ever flushed.
//! Not here: what makes the nodes equal (`job/mirror`).

use std::sync::Arc;

use crate::backend::{Backend, NOWHERE};
use crate::error::Result;
use crate::graph::{Draft, Graph, NodeId};
use crate::layer::{Change, Layer};
use crate::queue::LocalQueue;

/// From where users are led to where.
pub(crate) struct Pivot<'a> {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// Users that are not led along, but end: those of the job.
    pub(crate) ending: &'a [Arc<Backend>],
    /// What `to` gets as its backing file, if that changes.
    pub(crate) backing: Option<NodeId>,
}

/// What is left to do when the drain is over.
#[must_use]
pub(crate) struct Pivoted {
    before: Arc<Graph>,
    gone: Vec<NodeId>,
    version: u64,
}

impl Layer {
    /// Lets every user of `from` use `to` instead: parents by their edges, and backends. Both stay in
    /// the graph. Requests in flight end on the old graph, later ones start on the new one.
    ///
    /// # Errors
    /// `NodeNotFound`, `PermissionConflict`, `InvalidOption` when that would make a cycle; the
    /// graph is unchanged then.
    /// # Cancel safety
    /// Nothing is done before the last await, a drain.
    pub async fn replace_node(&self, from: NodeId, to: NodeId) -> Result<()> {
        let change = self.change().await;
        let graph = self.graph();
        graph.locate(from)?;
        graph.locate(to)?;
        let mut draft = Draft::from(&graph);
        for (parent, edge) in draft.edges_to(from) {
            if parent != to {
                draft.set_child(parent, edge, to)?;
            }
        }
        let root = |backend: &Arc<Backend>| match backend.root() {
            root if root == from => to,
            root => root,
        };
        let _drained = self.drain(&[from, to]).await;
        // Behind the drain: a caller that leaves before has changed no permission.
        change.permit(&draft, &change.roots_led(&draft, &root))?;
        self.lead_backends(from, to, draft.version());
        change.publish(draft);
        Ok(())
    }

    /// Leads backends from one node to another, from the graph of a version on.
    fn lead_backends(&self, from: NodeId, to: NodeId, since: u64) {
        for backend in self.backends().iter().filter(|b| b.root() == from) {
            backend.set_root(to, since);
        }
    }

    /// Leads every user of a node to another one: parents by their edges, and backends; not those
    /// that the other node itself reads through. What was opened for `from` alone goes. Both nodes
    /// are drained.
    ///
    /// # Errors
    /// `NodeNotFound`, `PermissionConflict`, `InvalidOption` when that would make a cycle; the
    /// graph is unchanged then.
    pub(crate) fn pivot(&self, change: &Change<'_>, pivot: &Pivot<'_>) -> Result<Pivoted> {
        let Pivot {
            from,
            to,
            ending,
            backing,
        } = *pivot;
        let before = self.graph();
        let from_index = before.locate(from)?;
        before.locate(to)?;
        let mut draft = Draft::from(&before);
        for (parent, edge) in draft.edges_to(from) {
            if !before.reaches(to, parent) {
                draft.set_child(parent, edge, to)?;
            }
        }
        if let Some(backing) = backing {
            draft.set_backing(to, Some(backing))?;
        }
        let root = |backend: &Arc<Backend>| match backend.root() {
            _ if ending.iter().any(|ends| Arc::ptr_eq(ends, backend)) => NOWHERE,
            root if root == from => to,
            root => root,
        };
        let users = self.backends();
        let roots: Vec<NodeId> = users.iter().map(root).collect();
        let gone = draft.prune(&before, from_index, &roots);
        change.permit(&draft, &change.roots_led(&draft, &root))?;
        self.lead_backends(from, to, draft.version());
        change.forget_backends(ending, draft.version());
        let version = change.publish(draft);
        Ok(Pivoted {
            before,
            gone,
            version,
        })
    }

    /// Closes what a pivot has taken out of the graph, when no queue holds it any more.
    ///
    /// # Errors
    /// What closing an image answers.
    pub(crate) async fn finish_pivot(&self, queue: &LocalQueue, pivoted: Pivoted) -> Result<()> {
        let Pivoted {
            before,
            gone,
            version,
        } = pivoted;
        let closed = self.close_nodes(queue, &before, &gone).await;
        drop(before);
        self.wait_released(version).await;
        closed
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use parking_lot::Mutex;

    use super::*;
    use crate::driver::Driver;
    use crate::engine::Ring;
    use crate::graph::perm::{Perm, Use};
    use crate::graph::{Node, NodeFacts};
    use crate::queue::tests::engine;
    use crate::request::map::{Access, Lookup, Mapping};

    /// Notes what it is used for.
    struct Noting(Arc<Mutex<Perm>>);

    impl Driver for Noting {
        fn format_name(&self) -> &'static str {
            "null-co"
        }

        fn len(&self) -> u64 {
            4096
        }

        fn try_map(&self, _: Access, _: Range<u64>, _: &mut Mapping) -> Lookup {
            Lookup::Miss
        }

        fn set_permissions(&self, wanted: Use) -> Result<()> {
            *self.0.lock() = wanted.need;
            Ok(())
        }
    }

    /// What becomes of the caller of a verb that waits for a request.
    #[derive(PartialEq, Eq)]
    enum Caller {
        Stays,
        Leaves,
    }

    /// The node that a writer uses after the verb, and whether either node is used for writes.
    #[track_caller]
    fn check(caller: Caller, want: (&str, Perm, Perm)) {
        let layer = Layer::new();
        let queue = layer.new_queue(engine(Ring::Off)).start();
        queue.block_on(async {
            let uses = [Arc::default(), Arc::default()];
            let mut nodes = Vec::new();
            for (name, used) in ["from", "to"].into_iter().zip(&uses) {
                let facts = NodeFacts {
                    name: name.to_owned(),
                    ..NodeFacts::default()
                };
                let node = Node::new(facts, Box::new(Noting(Arc::clone(used))));
                nodes.push(layer.add_node(node, &[]).await.unwrap());
            }
            let (from, to) = (nodes[0], nodes[1]);
            let backend = layer.add_backend("disk", from, false).await.unwrap();
            let under_way = queue.pass_gates(&[from]).await.unwrap();
            {
                let mut verb = pin!(layer.replace_node(from, to));
                let mut context = Context::from_waker(Waker::noop());
                assert!(matches!(verb.as_mut().poll(&mut context), Poll::Pending));
                if caller == Caller::Stays {
                    drop(under_way);
                    verb.await.unwrap();
                }
            }
            let root = layer.node(&queue, backend.root()).unwrap();
            let uses = uses.map(|used| *used.lock() & Perm::WRITE);
            assert_eq!((root.node_name(), uses[0], uses[1]), want);
        });
    }

    #[test]
    fn a_replaced_node_gives_its_users_away() {
        check(Caller::Stays, ("to", Perm::NONE, Perm::WRITE));
    }

    #[test]
    fn a_caller_that_leaves_changes_no_permission() {
        check(Caller::Leaves, ("from", Perm::WRITE, Perm::NONE));
    }
}
