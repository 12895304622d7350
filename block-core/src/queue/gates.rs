//! Work on several nodes at once that no drain may cut in two: a job's copy from one to another.
//! Called by jobs. Such work passes the gates of all its nodes together, as requests from outside
//! pass one, and is announced there until it ends; its own requests then pass no gate, so it never
//! waits at one while others wait for what it holds. Its announcements are inert: no claim waits
//! for them. Invariant: who waits at a gate is announced nowhere.

use std::rc::Rc;
use std::sync::Arc;

use super::path::Entry;
use super::{Announced, LocalQueue, Snapshot};
use crate::buffer::IoBuf;
use crate::error::Result;
use crate::graph::NodeId;
use crate::layer::Obstacle;
use crate::request::Request;
use crate::request::announce::Reach;
use crate::request::cx::Child;

/// What has passed the gates of its nodes; dropping it lets drains go on.
pub(crate) struct Passed {
    queue: LocalQueue,
    snapshot: Rc<Snapshot>,
    _announced: Vec<Announced>,
}

impl Passed {
    /// A node as it is for as long as the work goes on.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub(crate) fn node(&self, id: NodeId) -> Result<Child> {
        let index = self.snapshot.graph.locate(id)?;
        let snapshot = Rc::clone(&self.snapshot);
        Ok(Child::new(self.queue.clone(), snapshot, index))
    }
}

impl LocalQueue {
    /// Waits until none of the nodes is drained, and keeps drains waiting from then on.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub(crate) async fn pass_gates(&self, nodes: &[NodeId]) -> Result<Passed> {
        // Only drains look at it; a read of nothing is no reader.
        let request = Request::read(0, IoBuf::empty());
        let (access, range) = (request.access(), request.range());
        let entry = Entry::Client;
        loop {
            let snapshot = self.snapshot();
            let mut announced = Vec::with_capacity(nodes.len());
            for &id in nodes {
                announced.push(self.announce(id, access, Reach::Inert, &range).await);
            }
            let graph = &snapshot.graph;
            let mut closed = None;
            for &id in nodes {
                let index = graph.locate(id)?;
                let layer = self.layer();
                let obstacle = layer.obstacle(graph, index, access, &range, Reach::Indirect, entry);
                if obstacle == Obstacle::InTheWay {
                    closed = Some(index);
                    break;
                }
            }
            // Behind the gates: who finds them open sees the graph that was published behind them.
            if closed.is_none() && self.layer().version() == graph.version() {
                return Ok(Passed {
                    queue: self.clone(),
                    snapshot,
                    _announced: announced,
                });
            }
            drop(announced);
            self.notify_left();
            if let Some(index) = closed {
                let node = Arc::clone(&graph.entry(index).node);
                drop(snapshot);
                self.wait_for_obstacle(&node, &request, entry).await;
            }
        }
    }
}
