//! Drains: nodes on which no request is under way, for verbs that change what they are.
//!
//! A drain closes the gates of its nodes, where requests from outside wait, and then waits for the
//! announcements of those that were faster, on all queues. Who waits for more than a second says for
//! whom. Not here: the gates themselves (`request/announce.rs`).

use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::graph::{Graph, Node, NodeId};
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::request::announce::Announcement;
use crate::request::map::Access;
use crate::sync::first;

/// How long a wait is before it is worth a word.
const PATIENCE: Duration = Duration::from_secs(1);
/// Announcements that are named; the others are counted.
const NAMED: usize = 4;

/// Holds nodes drained until it is dropped.
#[must_use]
pub struct Drained {
    layer: Layer,
    nodes: Vec<Arc<Node>>,
}

impl Drop for Drained {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.claims.resume();
            self.layer.drain_removed();
        }
        // Requests wait at the node they entered, which may be any node above.
        for (_, entry) in self.layer.graph().entries() {
            entry.node.claims.released.wake_all();
        }
    }
}

impl Layer {
    /// Stops new requests on the nodes and everything above them, and waits for those in flight.
    pub async fn drain(&self, nodes: &[NodeId]) -> Drained {
        let graph = self.graph();
        let held: Vec<Arc<Node>> = nodes
            .iter()
            .filter_map(|&id| graph.index_of(id))
            .map(|index| Arc::clone(&graph.entry(index).node))
            .collect();
        for node in &held {
            self.drain_added();
            node.claims.quiesce();
        }
        let drained = Drained {
            layer: self.clone(),
            nodes: held,
        };
        fence(Ordering::SeqCst);
        let concerns = |a: &Announcement| nodes.iter().any(|&node| graph.reaches(a.node, node));
        self.wait_patiently(
            || {
                fence(Ordering::SeqCst);
                let queues = self.queues();
                !queues
                    .iter()
                    .any(|queue| queue.in_flight.any(|a| concerns(&a)))
            },
            || {
                let mut under_way = Vec::new();
                for queue in self.queues().iter() {
                    queue.in_flight.any(|a| {
                        under_way.extend(concerns(&a).then_some(a));
                        false
                    });
                }
                format!("a drain waits for {}", named(&graph, &under_way))
            },
        )
        .await;
        drained
    }

    /// Waits until no queue holds a graph older than `version`.
    pub(crate) async fn wait_released(&self, version: u64) {
        for queue in self.queues().iter() {
            queue.ask_refresh();
        }
        let holding = || {
            let queues = self.queues();
            queues
                .iter()
                .filter(|q| q.holds_older_than(version))
                .count()
        };
        self.wait_patiently(
            || holding() == 0,
            || {
                format!(
                    "an old graph is held by {} queues: they are not polled",
                    holding()
                )
            },
        )
        .await;
    }

    /// Waits until something holds that depends on announcements and snapshots, and says every second
    /// what it waits for.
    async fn wait_patiently(&self, mut holds: impl FnMut() -> bool, what: impl Fn() -> String) {
        if holds() {
            return;
        }
        let mut waiting = pin!(self.left().wait_until(holds));
        let Some(queue) = LocalQueue::current() else {
            // Nobody here has a clock.
            return waiting.await;
        };
        let mut seconds = 0;
        while first(waiting.as_mut(), queue.sleep(PATIENCE))
            .await
            .is_none()
        {
            seconds += PATIENCE.as_secs();
            tracing::warn!("{seconds} s: {}", what());
        }
    }
}

/// Announcements, for people.
fn named(graph: &Graph, under_way: &[Announcement]) -> String {
    let mut text = String::new();
    for announcement in under_way.iter().take(NAMED) {
        let index = graph.index_of(announcement.node);
        let name = index.map_or("?", |index| graph.entry(index).node.name());
        let verb = match announcement.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        let (start, end) = (announcement.start, announcement.end);
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{separator}a {verb} of node '{name}' at {start:#x}..{end:#x}"
        );
    }
    match under_way.len().saturating_sub(NAMED) {
        0 => text,
        more => format!("{text}, and {more} more"),
    }
}
