//! What the verbs check and prepare before a mirror is at work.
//!
//! Called by QMP and by programs that link the layer. The order of checks and the texts are those
//! that clients of QEMU know. Invariant: a verb that fails leaves nothing behind.

use std::sync::Arc;

use block_schema::commands::BlockdevMirror;
use block_schema::types::{BlockJobType, BlockdevOnError, MirrorCopyMode, MirrorSyncMode};

use super::copy::{Mirrored, Turns};
use super::follow::Follow;
use super::{Ends, First, Mirror, give_back};
use crate::bitmap::{DirtyBitmap, State};
use crate::error::{Error, Result};
use crate::graph::info::default_granularity;
use crate::graph::perm::{Perm, Use};
use crate::graph::{Graph, NodeId, NodeIndex};
use crate::job::chain::Chain;
use crate::job::copy::{Buffers, CHUNK, Copier, Kept, Policies, Store};
use crate::job::{Job, Manual, NewJob, on_device_error, or_report, refuse_filter, speed_of};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

/// Bytes in flight, where nobody says otherwise.
const BUF_SIZE: u64 = 16 << 20;
/// Pieces at once, whatever is in flight.
const AT_ONCE: u64 = 16;
/// The largest granularity.
const MAX_GRANULARITY: u32 = 64 << 20;

/// What a mirror does with its target: nobody else writes it, and nobody sees it half copied.
const TARGET: Use = Use {
    need: Perm::WRITE,
    share: Perm::WRITE_UNCHANGED,
    unseen: Perm::NONE,
};

/// What a mirror is started with, whatever the verb.
pub(super) struct Start {
    pub(super) job: NewJob,
    pub(super) source: NodeId,
    pub(super) target: NodeId,
    pub(super) sync: MirrorSyncMode,
    pub(super) mode: MirrorCopyMode,
    pub(super) policies: Policies,
    pub(super) sizes: Sizes,
    pub(super) may_unmap: bool,
    pub(super) ends: Ends,
}

/// Numbers that a user may give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    granularity: Option<u32>,
    buf_size: u64,
}

impl Sizes {
    /// # Errors
    /// `InvalidOption` for what cannot be.
    pub(super) fn checked(granularity: Option<u32>, buf_size: Option<i64>) -> Result<Sizes> {
        let granularity = granularity.filter(|&granularity| granularity != 0);
        let expects = |what: &str| {
            let reason = format!("Parameter 'granularity' expects {what}");
            Err(Error::invalid("granularity", reason))
        };
        if granularity.is_some_and(|bytes| !(512..=MAX_GRANULARITY).contains(&bytes)) {
            return expects("a value in range [512B, 64MB]");
        }
        if granularity.is_some_and(|bytes| !bytes.is_power_of_two()) {
            return expects("a power of 2");
        }
        let buf_size = match u64::try_from(buf_size.unwrap_or(0)) {
            Ok(0) => BUF_SIZE,
            Ok(bytes) => bytes,
            Err(_) => {
                let reason = "Invalid parameter 'buf-size'";
                return Err(Error::invalid("buf-size", reason));
            }
        };
        Ok(Sizes {
            granularity,
            buf_size,
        })
    }

    /// Bytes of a piece, and pieces at once, of a target that takes multiples of `unit`.
    fn pieces(self, granularity: u32, unit: u64) -> (u64, usize) {
        let in_flight = self.buf_size.max(u64::from(granularity));
        let chunk = CHUNK.min(in_flight.next_multiple_of(512)).max(unit);
        let at_once = (in_flight / chunk).clamp(1, AT_ONCE);
        (chunk, usize::try_from(at_once).unwrap_or(1))
    }
}

impl Policies {
    /// # Errors
    /// `InvalidOption` for a source that cannot stop.
    pub(super) fn checked(
        layer: &Layer,
        device: &str,
        source: Option<BlockdevOnError>,
        target: Option<BlockdevOnError>,
    ) -> Result<Policies> {
        Ok(Policies {
            source: on_device_error(layer, device, "on-source-error", source)?,
            target: or_report(target),
        })
    }
}

impl Layer {
    /// Starts copying a node's content to another node of the graph, and keeps it up to date until
    /// the job is completed: then users of the source use the target. The job runs on `queue`.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown node, a node in use by other nodes, numbers that cannot be, a
    /// name in use, and options that are not built in; `PermissionConflict` when somebody else uses
    /// the target, or a job one of them.
    pub async fn blockdev_mirror(
        &self,
        queue: &LocalQueue,
        arguments: BlockdevMirror,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            refuse_filter(arguments.filter_node_name.as_deref())?;
            let graph = layer.graph();
            let (source, device) = layer.root_of(&graph, &arguments.device)?;
            let target = layer.node_of(&graph, &arguments.target)?;
            let sizes = Sizes::checked(arguments.granularity, arguments.buf_size)?;
            for index in [source, target] {
                graph.entry(index).node.check_unblocked()?;
            }
            check_replaced(&graph, source, arguments.replaces.as_deref())?;
            let id = |index| graph.entry(index).node.id();
            let manual = Manual::of(arguments.auto_finalize, arguments.auto_dismiss);
            let policies = Policies::checked(
                &layer,
                &arguments.device,
                arguments.on_source_error,
                arguments.on_target_error,
            )?;
            let start = Start {
                job: new_job(arguments.job_id, device, arguments.speed, manual)?,
                source: id(source),
                target: id(target),
                sync: arguments.sync,
                mode: or_background(arguments.copy_mode),
                policies,
                sizes,
                may_unmap: true,
                ends: Ends::default(),
            };
            drop(graph);
            layer.start_mirror(&queue, start).await
        })
        .await
    }

    /// Starts writing what the images of a chain hold above `base` into it, the active one too. When
    /// the job is completed, the device's users use `base`. The caller has checked that the images
    /// are there for the chain alone.
    ///
    /// # Errors
    /// `InvalidOption` for a name in use; what making the base writable or longer answers.
    pub(in crate::job) async fn start_active_commit(
        &self,
        queue: &LocalQueue,
        chain: &Chain,
        base: usize,
        job: NewJob,
        policy: BlockdevOnError,
    ) -> Result<Arc<Job>> {
        let (source, target) = (chain.active().id(), chain.images()[base].id());
        let job = self.new_job(job)?;
        let made_writable = self.node(queue, target)?.is_read_only();
        let ends = Ends {
            made_writable,
            ..Ends::default()
        };
        let prepared = async {
            if made_writable {
                self.set_read_only(queue, target, false).await?;
            }
            let len = self.node(queue, source)?.len();
            if self.node(queue, target)?.len() < len {
                self.resize(queue, target, len, crate::driver::Preallocation::Off)
                    .await?;
            }
            Ok(())
        };
        if let Err(error) = prepared.await {
            give_back(self, queue, target, ends).await;
            job.forget();
            return Err(error);
        }
        let depth = u32::try_from(base).unwrap_or(u32::MAX);
        let working = Working {
            first: First::Images(depth),
            copied: Some(depth),
            mode: MirrorCopyMode::Background,
            policies: Policies::both(policy),
            sizes: Sizes::checked(None, None)?,
            may_unmap: true,
            ends,
            target_use: Use::COMMIT_BASE,
            blocked: chain.images()[..=base].iter().map(|n| n.id()).collect(),
            reason: "block device is in use by block job: commit",
        };
        self.put_to_work(queue, job, (source, target), working)
            .await
    }

    /// Starts a mirror between two nodes.
    pub(super) async fn start_mirror(&self, queue: &LocalQueue, start: Start) -> Result<Arc<Job>> {
        let (source, target) = (start.source, start.target);
        let checked = self.first(start.sync, source).and_then(|first| {
            if source == target {
                let reason = "Can't mirror node into itself";
                return Err(Error::invalid("target", reason));
            }
            Ok((first, self.new_job(start.job)?))
        });
        let (first, job) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                give_back(self, queue, target, start.ends).await;
                return Err(error);
            }
        };
        job.set_mirror(start.mode);
        let working = Working {
            first,
            copied: None,
            mode: start.mode,
            policies: start.policies,
            sizes: start.sizes,
            may_unmap: start.may_unmap,
            ends: start.ends,
            target_use: TARGET,
            blocked: vec![source, target],
            reason: "block device is in use by block job: mirror",
        };
        self.put_to_work(queue, job, (source, target), working)
            .await
    }

    fn first(&self, sync: MirrorSyncMode, source: NodeId) -> Result<First> {
        let graph = self.graph();
        let backing = graph.index_of(source).and_then(|i| graph.backing(i));
        match sync {
            MirrorSyncMode::Top if backing.is_some() => Ok(First::Images(1)),
            MirrorSyncMode::Top | MirrorSyncMode::Full => Ok(First::Full),
            MirrorSyncMode::None => Ok(First::None),
            MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => {
                let reason = format!("Sync mode '{sync}' not supported");
                Err(Error::invalid("sync", reason))
            }
        }
    }

    async fn put_to_work(
        &self,
        queue: &LocalQueue,
        job: Arc<Job>,
        sides: (NodeId, NodeId),
        working: Working,
    ) -> Result<Arc<Job>> {
        let mut mirror = match self.new_mirror(&job, sides, &working) {
            Ok(mirror) => mirror,
            Err(error) => {
                give_back(self, queue, sides.1, working.ends).await;
                job.forget();
                return Err(error);
            }
        };
        if let Err(error) = mirror.begin(queue, &working).await {
            mirror.end(queue).await;
            job.forget();
            return Err(error);
        }
        job.start(queue, move |worker| async move {
            let work = mirror.run(&worker).await;
            let result = worker.settle(work).await;
            mirror.end(worker.queue()).await;
            result
        });
        Ok(job)
    }

    fn new_mirror(
        &self,
        job: &Arc<Job>,
        sides: (NodeId, NodeId),
        working: &Working,
    ) -> Result<Mirror> {
        let graph = self.graph();
        let (source, target) = (graph.locate(sides.0)?, graph.locate(sides.1)?);
        let granularity = match working.sizes.granularity {
            Some(granularity) => granularity,
            None => default_granularity(&graph, target),
        };
        let state = State {
            enabled: true,
            ..State::default()
        };
        let tracker = DirtyBitmap::new("", granularity, graph.len(source), state)?;
        let described = graph.entry(target).node.driver().describe();
        // What it reads through is not there yet: parts of its clusters cannot be written.
        let is_headless = described.backing.is_some() && graph.backing(target).is_none();
        let unit = match is_headless {
            true => described.cluster_size.unwrap_or(1).max(1),
            false => 1,
        };
        let (chunk, at_once) = working.sizes.pieces(granularity, unit);
        // Nothing can show through zeroes that the target has when all of it is copied.
        let kept = match working.first == First::Full && !is_headless {
            true => Kept::Shown,
            false => Kept::None,
        };
        let mirrored = Mirrored {
            copier: Copier {
                store: Store::Plain,
                kept,
                may_unmap: working.may_unmap,
                buffers: Buffers::new(chunk),
            },
            images: working.copied,
            unit,
            turns: Turns::default(),
        };
        Ok(Mirror {
            layer: self.clone(),
            follow: Arc::new(Follow::new(job, sides, mirrored, Arc::new(tracker))),
            first: working.first,
            mode: working.mode,
            policies: working.policies,
            chunk,
            at_once,
            ends: working.ends,
            users: Vec::new(),
            blocks: Vec::new(),
            following: false,
            tracking: false,
            pivoted: false,
        })
    }

    /// The node of a device, or a node that no other node uses; and the device's name.
    pub(super) fn root_of(
        &self,
        graph: &Graph,
        device: &str,
    ) -> Result<(NodeIndex, Option<String>)> {
        let index = self.node_of(graph, device)?;
        let mut edges = graph.entries().flat_map(|(_, entry)| &entry.edges);
        if edges.any(|edge| edge.child == index) {
            return Err(Error::invalid("device", "Need a root block node"));
        }
        let id = graph.entry(index).node.id();
        let backends = self.backends();
        let named = backends
            .iter()
            .find(|b| b.root() == id && !b.name().is_empty());
        Ok((index, named.map(|backend| backend.name().to_owned())))
    }

    fn node_of(&self, graph: &Graph, name: &str) -> Result<NodeIndex> {
        let by_device = self.backend(name).and_then(|b| graph.index_of(b.root()));
        by_device.or_else(|| graph.find(name)).ok_or_else(|| {
            let reason = format!("Cannot find device='{name}' nor node-name='{name}'");
            Error::invalid("device", reason)
        })
    }
}

/// A mirror whose nodes and name are known.
struct Working {
    first: First,
    /// Images from the source down whose content is copied; `None` for all that shows.
    copied: Option<u32>,
    mode: MirrorCopyMode,
    policies: Policies,
    sizes: Sizes,
    may_unmap: bool,
    ends: Ends,
    target_use: Use,
    blocked: Vec<NodeId>,
    reason: &'static str,
}

impl Mirror {
    /// Becomes a user of both nodes, keeps verbs off them, and tracks the source's writes.
    async fn begin(&mut self, queue: &LocalQueue, working: &Working) -> Result<()> {
        let layer = self.layer.clone();
        let (source, target) = (self.follow.source, self.follow.target);
        for (node, access) in [(source, Use::backend(true)), (target, working.target_use)] {
            self.users.push(layer.add_job_user(node, access).await?);
        }
        let reason: Arc<str> = working.reason.into();
        for &id in &working.blocked {
            let node = layer.node(queue, id)?;
            self.blocks.push(node.node().block(&reason));
        }
        let _change = layer.change().await;
        let _drained = layer.drain(&[source]).await;
        let node = layer.node(queue, source)?;
        let tracker = Arc::clone(&self.follow.tracker);
        node.node().bitmaps().add_tracker(tracker);
        self.tracking = true;
        Ok(())
    }
}

/// Checks that the node whose place the copy is to take shows what is copied: the source itself.
///
/// # Errors
/// `InvalidOption`, naming it.
pub(super) fn check_replaced(
    graph: &Graph,
    source: NodeIndex,
    replaced: Option<&str>,
) -> Result<()> {
    let Some(name) = replaced else {
        return Ok(());
    };
    let refused = |reason: String| Err(Error::invalid("replaces", reason));
    match graph.find(name) {
        None => refused(format!("Failed to find node with node-name='{name}'")),
        Some(index) if index == source => Ok(()),
        Some(_) => {
            let source = graph.entry(source).node.name();
            refused(format!(
                "Cannot replace '{name}' by a node mirrored from '{source}', because it cannot be \
                 guaranteed that doing so would not lead to an abrupt change of visible data"
            ))
        }
    }
}

/// The job of a verb: by the name given, or the device's.
pub(super) fn new_job(
    job_id: Option<String>,
    device: Option<String>,
    speed: Option<i64>,
    manual: Manual,
) -> Result<NewJob> {
    Ok(NewJob {
        // A node without a device has no name to lend.
        id: job_id.or(device).unwrap_or_default(),
        kind: BlockJobType::Mirror,
        speed: speed_of(speed)?,
        manual,
        group: None,
    })
}

pub(super) fn or_background(mode: Option<MirrorCopyMode>) -> MirrorCopyMode {
    mode.unwrap_or(MirrorCopyMode::Background)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(granularity: Option<u32>, buf_size: Option<i64>, text: &str) {
        let error = Sizes::checked(granularity, buf_size).expect_err("cannot be");
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn granularities_are_powers_of_two_within_bounds() {
        let range = "Parameter 'granularity' expects a value in range [512B, 64MB]";
        refused(Some(256), None, range);
        refused(Some(128 << 20), None, range);
        refused(
            Some(513),
            None,
            "Parameter 'granularity' expects a power of 2",
        );
        for granularity in [None, Some(0), Some(512), Some(64 << 20)] {
            assert!(Sizes::checked(granularity, None).is_ok(), "{granularity:?}");
        }
    }

    #[test]
    fn no_buffer_is_negative() {
        refused(None, Some(-1), "Invalid parameter 'buf-size'");
    }

    #[test]
    fn the_buffer_bounds_what_is_in_flight() {
        let pieces = |buf_size, granularity, unit| {
            let sizes = Sizes::checked(None, Some(buf_size)).expect("they can be");
            sizes.pieces(granularity, unit)
        };
        assert_eq!(pieces(0, 65536, 1), (1 << 20, 16));
        assert_eq!(pieces(4 << 20, 65536, 1), (1 << 20, 4));
        assert_eq!(pieces(1, 65536, 1), (65536, 1));
        assert_eq!(pieces(1, 512, 2 << 20), (2 << 20, 1));
        assert_eq!(pieces(1 << 30, 512, 1), (1 << 20, 16));
    }
}
