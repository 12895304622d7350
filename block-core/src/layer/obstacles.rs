//! What requests have to know of each other across queues: whether something is in the way of one,
//! and whom a claim or a given-up cluster waits for.
//!
//! Called by the request path, on any queue. Invariant: who asks has published itself before and
//! fenced, so that of two that concern each other one sees the other. Not here: the tables that are
//! looked through (`request/announce.rs`), waiting (`queue/path.rs`, `request/cx.rs`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::Layer;
use crate::graph::{Graph, Node, NodeId, NodeIndex};
use crate::queue::{Entry, QueueShared};
use crate::request::announce::{ClaimKind, Reach, Reader};
use crate::request::map::Access;

/// Whether a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    None,
    InTheWay,
}

/// What a drain counts for among obstacles: more than all claims.
const DRAIN: u64 = 1 << 32;

impl Layer {
    pub(crate) fn obstacle_added(&self) {
        self.0.obstacles.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn obstacle_removed(&self) {
        self.0.obstacles.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn drain_added(&self) {
        self.0.obstacles.fetch_add(DRAIN, Ordering::SeqCst);
    }

    pub(crate) fn drain_removed(&self) {
        self.0.obstacles.fetch_sub(DRAIN, Ordering::SeqCst);
    }

    /// Whether a claim or, for a request from outside, a drain keeps a request out, or for a guest's
    /// one that the machine stands still. The caller has announced it.
    pub(crate) fn obstacle(
        &self,
        graph: &Graph,
        index: NodeIndex,
        access: Access,
        range: &Range<u64>,
        reach: Reach,
        entry: Entry,
    ) -> Obstacle {
        let obstacles = self.0.obstacles.load(Ordering::Acquire);
        if obstacles == 0 {
            return Obstacle::None;
        }
        let gated = entry != Entry::Inside;
        if entry == Entry::Device && self.is_stopped() {
            return Obstacle::InTheWay;
        }
        let node = &graph.entry(index).node;
        let mut in_the_way =
            node.claims.keeps_out(access, Some(range)) || gated && node.claims.is_quiesced();
        let below = match obstacles >= DRAIN && gated {
            true => graph.below(index),
            // Who makes a claim is about to write.
            false => graph.writable_below(index),
        };
        for &below in below {
            let claims = &graph.entry(below).node.claims;
            in_the_way |= reach == Reach::Direct && claims.keeps_out(access, None)
                || gated && claims.is_quiesced();
        }
        if in_the_way {
            Obstacle::InTheWay
        } else {
            Obstacle::None
        }
    }

    /// Whether any queue has announced what a claim must wait for. The caller has published the
    /// claim and fenced.
    pub(crate) fn is_announced_against(
        &self,
        node: &Node,
        range: &Range<u64>,
        kind: ClaimKind,
    ) -> bool {
        fence(Ordering::SeqCst);
        let graph = self.0.graph.load();
        self.0.queues.load().iter().any(|queue| {
            queue.in_flight.any(|a| {
                let concerns = kind == ClaimKind::Exclusive || a.access == Access::Write;
                let same = a.node == node.id();
                concerns
                    && match a.reach {
                        Reach::Inert => false,
                        Reach::Indirect => same && a.overlaps(range),
                        Reach::Direct if same => a.overlaps(range),
                        Reach::Direct => graph.reaches(a.node, node.id()),
                    }
            })
        })
    }

    /// The readers of a node that are announced now, on any queue.
    pub(crate) fn readers(&self, node: NodeId) -> Readers {
        fence(Ordering::SeqCst);
        let graph = self.0.graph.load();
        let of = |queue: &Arc<QueueShared>| {
            let readers = queue
                .in_flight
                .readers(|n| n == node || graph.reaches(n, node));
            (!readers.is_empty()).then(|| (Arc::clone(queue), readers))
        };
        Readers(self.0.queues.load().iter().filter_map(of).collect())
    }
}

/// Readers that were announced at one moment. What they may have looked up then (a cluster that was
/// given up since) must not be used for anything else before they have left.
#[derive(Default)]
pub struct Readers(Vec<(Arc<QueueShared>, Vec<Reader>)>);

impl Readers {
    /// Whether none of them is left; later readers do not count.
    pub fn have_left(&mut self) -> bool {
        self.0.retain_mut(|(queue, readers)| {
            readers.retain(|reader| queue.in_flight.is_there(reader));
            !readers.is_empty()
        });
        self.0.is_empty()
    }
}
