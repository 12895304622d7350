//! `blockdev-backup` and `drive-backup`: the content of a disk at one moment, copied to another node
//! while guests go on writing the disk.
//!
//! A backup is *prepared* (what can fail), *begins* while its source is drained (its moment), and
//! is *started*; so several can begin at one moment. From the moment on a [`Saver`] sees to it that
//! nothing is overwritten before it is copied; the job copies the rest in the order of the disk.
//! At the end the source is watched no longer, the target is flushed, and the bitmap becomes what
//! its mode says. Only then anybody hears of the end.

use std::ops::Range;
use std::sync::Arc;

use block_schema::commands;
use block_schema::types::{self, BitmapSyncMode, BlockJobType, MirrorSyncMode};

use self::copy::{Granules, Kind, Run, Scope};
use self::save::Saver;
use super::chain::device_of;
use super::copy::{
    AtOnce, Buffers, CHUNK, Copier, Crew, Kept, Policies, STATUS_CHUNK, Store, parts, persist,
};
use super::worker::{Stop, Worker};
use super::{
    Group, Job, Manual, NewJob, Progress, on_device_error, or_report, refuse_filter, speed_of,
};
use crate::backend::Backend;
use crate::bitmap::{Busy, DirtyBitmap, Purpose, Taken};
use crate::error::{Error, Result};
use crate::graph::blocker::Blocked;
use crate::graph::perm::{Role, Use};
use crate::graph::{Graph, Node, NodeIndex};
use crate::layer::{Change, Layer};
use crate::queue::{LocalQueue, shield};
use crate::request::Request;
use crate::request::watch::Watcher;

mod copy;
mod drive;
mod save;
mod together;

pub(crate) use together::Backups;

/// Bytes of a granule at least.
const GRANULE: u64 = 64 << 10;
/// Copies of the job at once.
const AT_ONCE: usize = 8;

/// What both commands say about a backup.
struct Wanted {
    job_id: Option<String>,
    sync: MirrorSyncMode,
    speed: Option<i64>,
    bitmap: Option<String>,
    bitmap_mode: Option<BitmapSyncMode>,
    compress: bool,
    policies: Policies,
    manual: Manual,
    group: Option<Arc<Group>>,
}

/// Which part of a disk a backup is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// What the scope says.
    Scope,
    /// What a bitmap says is dirty.
    Bitmap,
    /// What is about to be overwritten, and nothing else.
    Overwritten,
}

impl Layer {
    /// Starts copying a device's content, as it is now, to a node. The job runs on `queue`.
    ///
    /// # Errors
    /// `InvalidOption` for a device, node or bitmap that is not there, members that do not go
    /// together, other lengths, a name that is none or in use; `ReadOnly`; `PermissionConflict` when
    /// another job is there, or the target is in use.
    pub async fn blockdev_backup(
        &self,
        queue: &LocalQueue,
        arguments: commands::BlockdevBackup,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let backup = Backup::to_node(&change, &layer, arguments.0, None)?;
            backup.run_from_now(change, &queue).await
        })
        .await
    }
}

/// A device's root node, or a node by its name.
fn find(layer: &Layer, graph: &Graph, member: &str, name: &str) -> Result<Arc<Node>> {
    let index = match layer.backend(name) {
        Some(backend) => graph.index_of(backend.root()),
        None => graph.find(name),
    };
    let missing = || {
        let reason = format!("Cannot find device='{name}' nor node-name='{name}'");
        Error::invalid(member, reason)
    };
    let index = index.ok_or_else(missing)?;
    Ok(Arc::clone(&graph.entry(index).node))
}

/// A bitmap that a backup uses, before and after its moment.
enum Tracked {
    /// Nothing yet.
    Idle(Arc<DirtyBitmap>, BitmapSyncMode),
    /// It stays what it is.
    Kept(Busy),
    /// It begins anew.
    Anew(Arc<DirtyBitmap>, Taken, BitmapSyncMode),
}

impl Tracked {
    /// The moment: the node is drained. Returns what is dirty.
    fn begin(self, copied: &Saver, part: Part) -> Result<Tracked> {
        let begun = match self {
            Tracked::Idle(bitmap, BitmapSyncMode::Never) => Tracked::Kept(bitmap.hold()?),
            Tracked::Idle(bitmap, mode) => {
                let taken = bitmap.take()?;
                Tracked::Anew(bitmap, taken, mode)
            }
            begun @ (Tracked::Kept(_) | Tracked::Anew(..)) => begun,
        };
        match (&begun, part) {
            (Tracked::Kept(busy), Part::Bitmap) => copied.keep_only(busy.bitmap().runs()),
            (Tracked::Anew(_, taken, _), Part::Bitmap) => copied.keep_only(taken.bitmap().runs()),
            (_, Part::Scope | Part::Overwritten) | (Tracked::Idle(..), Part::Bitmap) => {}
        }
        Ok(begun)
    }

    /// Whether the bitmap can become what it is to be afterwards.
    fn check(&self) -> Result<()> {
        match self {
            Tracked::Idle(_, BitmapSyncMode::Never) | Tracked::Kept(_) | Tracked::Anew(..) => {
                Ok(())
            }
            Tracked::Idle(bitmap, BitmapSyncMode::OnSuccess | BitmapSyncMode::Always) => {
                bitmap.check(Purpose::Change)
            }
        }
    }

    /// The end.
    fn end(self, copied: &Saver, result: &Result<(), Stop>) {
        let Tracked::Anew(bitmap, taken, mode) = self else {
            return;
        };
        match (mode, result) {
            (BitmapSyncMode::Never, _) | (BitmapSyncMode::OnSuccess, Err(_)) => drop(taken),
            (BitmapSyncMode::OnSuccess | BitmapSyncMode::Always, Ok(())) => taken.commit(),
            (BitmapSyncMode::Always, Err(_)) => {
                // What was not copied is dirty still.
                for gap in copied.gaps() {
                    bitmap.set(&gap);
                }
                taken.commit();
            }
        }
    }
}

/// A backup that is prepared, or begun.
pub(crate) struct Backup {
    layer: Layer,
    job: Arc<Job>,
    saver: Arc<Saver>,
    source: Arc<Node>,
    part: Part,
    bitmap: Option<Tracked>,
    policies: Policies,
    blocks: Vec<Blocked>,
    /// Whether the target's node goes with the job.
    owns_target: bool,
}

impl Backup {
    /// One to a node that is there.
    fn to_node(
        change: &Change<'_>,
        layer: &Layer,
        arguments: types::BlockdevBackup,
        group: Option<Arc<Group>>,
    ) -> Result<Backup> {
        let types::BlockdevBackup {
            job_id,
            device,
            target,
            sync,
            speed,
            bitmap,
            bitmap_mode,
            compress,
            on_source_error,
            on_target_error,
            filter_node_name,
            auto_finalize,
            auto_dismiss,
        } = arguments;
        refuse_filter(filter_node_name.as_deref())?;
        let graph = layer.graph();
        let source = find(layer, &graph, "device", &device)?;
        let target = find(layer, &graph, "target", &target)?;
        let wanted = Wanted {
            job_id,
            sync,
            speed,
            bitmap,
            bitmap_mode,
            compress: compress.unwrap_or(false),
            policies: Policies {
                source: on_device_error(layer, &device, "on-source-error", on_source_error)?,
                target: or_report(on_target_error),
            },
            manual: Manual::of(auto_finalize, auto_dismiss),
            group,
        };
        Backup::prepare(change, layer, (source, target), wanted)
    }

    /// All that can fail: afterwards the job has its name and its users.
    fn prepare(
        change: &Change<'_>,
        layer: &Layer,
        (source, target): (Arc<Node>, Arc<Node>),
        wanted: Wanted,
    ) -> Result<Backup> {
        let (part, scope) = match wanted.sync {
            MirrorSyncMode::Full => (Part::Scope, Scope::Full),
            MirrorSyncMode::Top => (Part::Scope, Scope::Top),
            MirrorSyncMode::None => (Part::Overwritten, Scope::Full),
            MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => (Part::Bitmap, Scope::Full),
        };
        let bitmap = wanted.check_bitmap(&source)?;
        if source.id() == target.id() {
            let reason = "Source and target cannot be the same";
            return Err(Error::invalid("target", reason));
        }
        let store = wanted.store(layer, &target)?;
        source.check_unblocked()?;
        target.check_unblocked()?;
        if let Some(bitmap) = &bitmap {
            bitmap.check()?;
        }
        let graph = layer.graph();
        let (len, target_at) = check_places(&graph, &source, &target)?;
        let named = device_of(layer, &source).unwrap_or_default();
        let job = layer.new_job(NewJob {
            id: wanted.job_id.clone().unwrap_or(named),
            kind: BlockJobType::Backup,
            speed: speed_of(wanted.speed)?,
            manual: wanted.manual,
            group: wanted.group.clone(),
        })?;
        let described = target.driver().describe();
        let granule = GRANULE.max(described.cluster_size.unwrap_or(0));
        // A part of a disk may be put over another image later, which must not show through.
        let stands_alone = wanted.sync == MirrorSyncMode::Full
            && described.backing.is_none()
            && graph.backing(target_at).is_none();
        let users = match Users::enter(change, &source, &target) {
            Ok(users) => users,
            Err(error) => {
                job.forget();
                return Err(error);
            }
        };
        let granules = Granules {
            source: Arc::clone(&users.source),
            target: Arc::clone(&users.target),
            scope,
            granule,
            copier: Copier {
                store,
                kept: match stands_alone {
                    true => Kept::Shown,
                    false => Kept::Own,
                },
                // Space that is not allocated shows what somebody puts behind it.
                may_unmap: stands_alone,
                buffers: Buffers::new(CHUNK.max(granule)),
            },
        };
        let saver = match Saver::new(granules, Arc::clone(&job), len) {
            Ok(saver) => Arc::new(saver),
            Err(error) => {
                change.withdraw(&users.target);
                change.withdraw(&users.source);
                job.forget();
                return Err(error);
            }
        };
        let reason: Arc<str> = "block device is in use by block job: backup".into();
        let blocks = vec![source.block(&reason), target.block(&reason)];
        Ok(Backup {
            layer: layer.clone(),
            job,
            saver,
            source,
            part,
            bitmap,
            policies: wanted.policies,
            blocks,
            owns_target: false,
        })
    }

    /// The moment. The source is drained.
    ///
    /// # Errors
    /// `InvalidOption` when the bitmap cannot be used any more.
    fn begin(&mut self) -> Result<()> {
        if let Some(bitmap) = self.bitmap.take() {
            self.bitmap = Some(bitmap.begin(&self.saver, self.part)?);
        }
        let total = self.saver.left();
        self.job
            .count(|progress| *progress = Progress { done: 0, total });
        self.source.watchers.add(self.watcher());
        Ok(())
    }

    fn watcher(&self) -> Arc<dyn Watcher> {
        Arc::clone(&self.saver) as Arc<dyn Watcher>
    }

    /// Lets the job work. It has begun.
    fn start(self, queue: &LocalQueue) -> Arc<Job> {
        let job = Arc::clone(&self.job);
        job.start(queue, move |worker| async move {
            let work = match self.work(&worker).await {
                Ok(()) => self.flush(&worker).await,
                stopped => stopped,
            };
            let result = worker.settle(work).await;
            self.end(worker.queue(), result).await
        });
        job
    }

    async fn run_from_now(mut self, change: Change<'_>, queue: &LocalQueue) -> Result<Arc<Job>> {
        let begun = {
            let _drained = self.layer.clone().drain(&[self.source.id()]).await;
            self.begin()
        };
        drop(change);
        match begun {
            Ok(()) => Ok(self.start(queue)),
            Err(error) => {
                self.abort(queue).await;
                Err(error)
            }
        }
    }

    /// Leaves everything as it was before it was prepared.
    async fn abort(self, queue: &LocalQueue) {
        let job = Arc::clone(&self.job);
        self.end(queue, Err(Stop::Cancelled)).await.ok();
        job.abandon();
    }

    /// Makes what was copied durable.
    async fn flush(&self, worker: &Worker) -> Result<(), Stop> {
        let queue = worker.queue();
        let target = queue.attach(&self.saver.source.target);
        queue.request(target, Request::flush()).await?;
        Ok(())
    }

    /// Is over: no write waits for a copy any more, and what was copied is durable.
    async fn end(mut self, queue: &LocalQueue, result: Result<(), Stop>) -> Result<(), Stop> {
        self.saver.set_over();
        {
            let _change = self.layer.change().await;
            let _drained = self.layer.drain(&[self.source.id()]).await;
            self.source.watchers.remove(&self.watcher());
        }
        self.saver.writes_gone().await;
        let granules = &self.saver.source;
        let flushed = queue.request(queue.attach(&granules.target), Request::flush());
        let flushed = flushed.await.map(drop).map_err(Stop::from);
        let result = result.and(flushed);
        if let Some(bitmap) = self.bitmap.take() {
            bitmap.end(&self.saver, &result);
        }
        let users = Users {
            source: Arc::clone(&granules.source),
            target: Arc::clone(&granules.target),
        };
        let target = users.target.root();
        users.leave(&self.layer).await;
        self.blocks.clear();
        if self.owns_target {
            let closed = self.layer.remove_node(queue, target).await;
            return result.and(closed.map_err(Stop::from));
        }
        result
    }

    async fn work(&self, worker: &Worker) -> Result<(), Stop> {
        if self.part == Part::Overwritten {
            loop {
                worker.checkpoint().await?;
                worker.idle(std::future::pending()).await;
            }
        }
        loop {
            let before = self.saver.left();
            let target = self.saver.source.target.root();
            let crew = Crew::new(worker.queue(), target, AtOnce::pressed(AT_ONCE));
            let copied = self.copy_all(worker, &crew).await;
            crew.settle().await;
            copied?;
            crew.finish().await?;
            match self.saver.left() {
                0 => return Ok(()),
                // What was left out is tried again, as long as that leads anywhere.
                left if left < before => {}
                _ => worker.check_whole()?,
            }
        }
    }

    /// Copies once, in the order of the disk, what is not done.
    async fn copy_all(&self, worker: &Worker, crew: &Crew) -> Result<(), Stop> {
        let granules = &self.saver.source;
        let chunk = granules.copier.buffers.len() / granules.granule * granules.granule;
        let mut at = 0;
        while let Some(gap) = self.saver.next_gap(at) {
            let range = gap.start..gap.end.min(gap.start.saturating_add(STATUS_CHUNK));
            let (kind, run) = match granules.first_run(worker.queue(), range).await {
                Ok(Run { kind, len }) => (Some(kind), gap.start..gap.start + len),
                // Whoever copies it meets the error again.
                Err(_) => (
                    None,
                    gap.start..gap.end.min(gap.start.saturating_add(granules.granule)),
                ),
            };
            at = run.end;
            let step = match kind {
                Some(Kind::Zero | Kind::Absent) | None => run.end,
                Some(Kind::Data) => chunk,
            };
            for part in parts(run, step) {
                worker.checkpoint_idle(async || crew.settle().await).await?;
                let bytes = match kind {
                    Some(Kind::Data) => part.end - part.start,
                    Some(Kind::Zero | Kind::Absent) | None => 0,
                };
                worker.pace(bytes).await?;
                let saver = Arc::clone(&self.saver);
                let copied = copy_part(saver, worker.clone(), part, kind, self.policies);
                crew.start(bytes, copied).await?;
            }
        }
        Ok(())
    }
}

/// Copies one part, for as long as the policies say so.
async fn copy_part(
    saver: Arc<Saver>,
    worker: Worker,
    range: Range<u64>,
    kind: Option<Kind>,
    policies: Policies,
) -> Result<(), Stop> {
    let attempt = async || {
        while let Some(part) = saver.take(&range).await {
            saver.save(worker.queue(), part, kind).await?;
        }
        Ok(())
    };
    persist(&worker, policies, attempt).await.map(|_| ())
}

/// The job as a user of both nodes.
struct Users {
    source: Arc<Backend>,
    target: Arc<Backend>,
}

impl Users {
    fn enter(change: &Change<'_>, source: &Node, target: &Node) -> Result<Users> {
        let source = change.add_job(source.id(), Use::backend(true))?;
        match change.add_job(target.id(), Use::backend(false)) {
            Ok(target) => Ok(Users { source, target }),
            Err(error) => {
                change.withdraw(&source);
                Err(error)
            }
        }
    }

    async fn leave(self, layer: &Layer) {
        layer.remove_backend(&self.target).await;
        layer.remove_backend(&self.source).await;
    }
}

impl Wanted {
    /// How data is stored in a target.
    fn store(&self, layer: &Layer, target: &Node) -> Result<Store> {
        match self.compress {
            false => Ok(Store::Plain),
            true if target.driver().can_compress() => Ok(Store::Compressed),
            true => {
                let reason = format!(
                    "Compression is not supported for this drive {}",
                    device_of(layer, target).unwrap_or_default()
                );
                Err(Error::invalid("compress", reason))
            }
        }
    }

    /// The bitmap, if there is one and it fits to the rest.
    fn check_bitmap(&self, source: &Node) -> Result<Option<Tracked>> {
        let refused = |reason: String| Err(Error::invalid("bitmap", reason));
        let sync = self.sync;
        let needs_bitmap = matches!(sync, MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap);
        if needs_bitmap && self.bitmap.is_none() {
            return refused(format!(
                "must provide a valid bitmap name for '{sync}' sync mode"
            ));
        }
        let on_success = BitmapSyncMode::OnSuccess;
        let mode = match (sync, self.bitmap_mode) {
            (MirrorSyncMode::Incremental, Some(mode)) if mode != on_success => {
                return refused(format!(
                    "Bitmap sync mode must be '{on_success}' when using sync mode '{sync}'"
                ));
            }
            (MirrorSyncMode::Incremental, _) => Some(on_success),
            (_, mode) => mode,
        };
        let Some(name) = &self.bitmap else {
            return match mode {
                None => Ok(None),
                Some(_) => refused("Cannot specify bitmap sync mode without a bitmap".to_owned()),
            };
        };
        let Some(bitmap) = source.bitmaps().find(name) else {
            return refused(format!("Bitmap '{name}' could not be found"));
        };
        let Some(mode) = mode else {
            let reason = "Bitmap sync mode must be given when providing a bitmap";
            return refused(reason.to_owned());
        };
        bitmap.check(Purpose::Use)?;
        if sync == MirrorSyncMode::None {
            return refused(format!(
                "sync mode '{sync}' does not produce meaningful bitmap outputs"
            ));
        }
        if mode == BitmapSyncMode::Never && !needs_bitmap {
            return refused(format!(
                "Bitmap sync mode '{mode}' has no meaningful effect when combined with sync mode \
                 '{sync}'"
            ));
        }
        Ok(Some(Tracked::Idle(bitmap, mode)))
    }
}

/// The length of both, and where the target stands.
///
/// # Errors
/// `InvalidOption` when their lengths differ; `PermissionConflict` when the target is below the source,
/// or other nodes write the source: a watcher is only called where no request is under way yet.
fn check_places(graph: &Graph, source: &Node, target: &Node) -> Result<(u64, NodeIndex)> {
    let found = graph.index_of(source.id()).zip(graph.index_of(target.id()));
    let Some((source_at, target_at)) = found else {
        return Err(Error::ShutDown);
    };
    let len = graph.len(source_at);
    if graph.len(target_at) != len {
        let reason = "Source and target image have different sizes";
        return Err(Error::invalid("target", reason));
    }
    let busy = |node: &Node, why: &str| {
        let name = node.name();
        Err(Error::PermissionConflict {
            node: name.to_owned(),
            reason: format!("Node '{name}' is busy: {why}"),
        })
    };
    if graph.reaches(source.id(), target.id()) {
        return busy(target, "the source of the backup reads it");
    }
    let writes_source =
        |edge: &crate::graph::Edge| edge.child == source_at && edge.role != Role::Cow;
    if graph
        .entries()
        .any(|(_, entry)| entry.edges.iter().any(writes_source))
    {
        return busy(source, "other nodes write it; back up the node above");
    }
    Ok((len, target_at))
}
