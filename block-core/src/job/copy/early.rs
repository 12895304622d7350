//! Flushes while a job still copies, so that its last one finds little to do.
//!
//! What comes out of the page cache and goes into it again leaves the device idle until the last flush,
//! which has to wait for all of it. Called by crews. Invariant: an early flush promises nothing to anybody.
//! That one fails is no news either: the file's last flush fails too. Not for targets past the page
//! cache, which keep their device busy anyway.

use std::cell::Cell;

use crate::error::Result;
use crate::graph::perm::Role;
use crate::graph::{Graph, NodeId};
use crate::queue::LocalQueue;

/// Bytes between two flushes.
const STEP: u64 = 16 << 20;

/// When a target's next flush is due.
pub(super) struct Early {
    target: NodeId,
    due: Due,
}

impl Early {
    pub(super) fn new(queue: &LocalQueue, target: NodeId) -> Early {
        let step = is_cached(&queue.layer().graph(), target).then_some(STEP);
        Early {
            target,
            due: Due::each(step),
        }
    }

    /// Counts what is written; whether to flush now. Who is told so flushes, and calls `ended`.
    pub(super) fn wrote(&self, bytes: u64) -> bool {
        self.due.wrote(bytes)
    }

    /// Whether a flush is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.due.busy.get()
    }

    /// No flush is under way any more.
    pub(super) fn ended(&self) {
        self.due.busy.set(false);
    }

    /// Flushes the target.
    pub(super) async fn flush(&self, queue: &LocalQueue) {
        if let Err(error) = self.try_flush(queue).await {
            tracing::debug!(error = %error.chain(), "an early flush failed");
        }
    }

    async fn try_flush(&self, queue: &LocalQueue) -> Result<()> {
        let passed = queue.pass_gates(&[self.target]).await?;
        passed.node(self.target)?.flush().await
    }
}

/// One flush at a time, each so many bytes.
struct Due {
    step: Option<u64>,
    written: Cell<u64>,
    busy: Cell<bool>,
}

impl Due {
    fn each(step: Option<u64>) -> Due {
        Due {
            step,
            written: Cell::new(0),
            busy: Cell::new(false),
        }
    }

    fn wrote(&self, bytes: u64) -> bool {
        let written = self.written.get().saturating_add(bytes);
        let is_due = self.step.is_some_and(|step| written >= step) && !self.busy.get();
        self.written.set(if is_due { 0 } else { written });
        self.busy.set(self.busy.get() || is_due);
        is_due
    }
}

/// Whether what is written to a node waits in the page cache of this host.
fn is_cached(graph: &Graph, target: NodeId) -> bool {
    let mut below: Vec<_> = graph.index_of(target).into_iter().collect();
    while let Some(index) = below.pop() {
        let entry = graph.entry(index);
        let leaf = entry.node.driver().leaf();
        if leaf.is_some_and(|leaf| !leaf.is_direct()) {
            return true;
        }
        let own = entry.edges.iter().filter(|edge| edge.role != Role::Cow);
        below.extend(own.map(|edge| edge.child));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flush_at_a_time_each_so_many_bytes() {
        let due = Due::each(Some(10));
        assert!(!due.wrote(9));
        assert!(due.wrote(1));
        assert!(!due.wrote(30), "one is under way");
        due.busy.set(false);
        assert!(due.wrote(0));
        due.busy.set(false);
        assert!(!due.wrote(9));
    }

    #[test]
    fn past_the_page_cache_none_is_due() {
        assert!(!Due::each(None).wrote(1 << 40));
    }
}
