//! What both parts of a mirror share: its passes, and the writes that it follows.
//!
//! Passes alone end when the guest writes slower than they copy. Else the mirror follows: it watches
//! the source, and each write is copied before its caller hears of it. From then on writes leave
//! nothing to passes but what could not be copied. Invariant: at any moment a byte that differs
//! has its bit set, or is taken by a pass, or belongs to a write whose caller still waits.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::copy::Mirrored;
use crate::bitmap::DirtyBitmap;
use crate::driver::Pending;
use crate::error::Result;
use crate::graph::NodeId;
use crate::job::Job;
use crate::job::copy::{Failed, Nodes};
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::request::watch::Watcher;

/// Source and target, and how far they differ.
pub(super) struct Follow {
    pub(super) job: Arc<Job>,
    pub(super) source: NodeId,
    pub(super) target: NodeId,
    pub(super) mirrored: Mirrored,
    /// What was written and is not copied.
    pub(super) tracker: Arc<DirtyBitmap>,
    /// The first failure of a write's copy that nobody has dealt with.
    failure: Mutex<Option<Failed>>,
    /// Something was left out since this was last asked.
    incomplete: AtomicBool,
}

impl Follow {
    pub(super) fn new(
        job: &Arc<Job>,
        (source, target): (NodeId, NodeId),
        mirrored: Mirrored,
        tracker: Arc<DirtyBitmap>,
    ) -> Follow {
        Follow {
            job: Arc::clone(job),
            source,
            target,
            mirrored,
            tracker,
            failure: Mutex::default(),
            incomplete: AtomicBool::new(false),
        }
    }

    /// Both nodes as they are in the current graph. The caller keeps drains waiting, or has drained.
    pub(super) fn nodes(&self, layer: &Layer, queue: &LocalQueue) -> Result<Nodes> {
        Ok(Nodes {
            source: layer.node(queue, self.source)?,
            target: layer.node(queue, self.target)?,
        })
    }

    /// Leaves a range to a later pass.
    pub(super) fn leave_out(&self, range: &Range<u64>) {
        self.tracker.set(range);
        self.incomplete.store(true, Ordering::Relaxed);
    }

    /// Whether something was left out since the last call.
    pub(super) fn was_incomplete(&self) -> bool {
        self.incomplete.swap(false, Ordering::Relaxed)
    }

    /// What went wrong with a write's copy since the last call.
    pub(super) fn failure(&self) -> Option<Failed> {
        self.failure.lock().take()
    }

    /// What went wrong until a user let the job go on is tried again: it has its bits.
    pub(super) fn forget_failure(&self) {
        self.failure.lock().take();
    }

    async fn copy_written(&self, queue: &LocalQueue, range: Range<u64>) {
        let bytes = range.end - range.start;
        self.job.count_both(bytes, 0);
        let copied = match self.nodes(queue.layer(), queue) {
            Ok(nodes) => self.mirrored.copy(&nodes, range.clone()).await,
            Err(error) => Err(Failed::target(error)),
        };
        match copied {
            Ok(()) => self.job.count_both(0, bytes),
            Err(failed) => {
                self.leave_out(&range);
                self.failure.lock().get_or_insert(failed);
            }
        }
    }
}

impl Watcher for Follow {
    fn before<'a>(&'a self, _queue: &'a LocalQueue, _range: Range<u64>) -> Pending<'a> {
        Box::pin(async { Ok(()) })
    }

    /// The write itself is done, whatever becomes of its copy: what fails is the job's to deal with.
    fn after<'a>(&'a self, queue: &'a LocalQueue, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            if !range.is_empty() {
                self.copy_written(queue, range).await;
            }
            Ok(())
        })
    }
}
