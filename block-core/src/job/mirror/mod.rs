//! Mirrors: `drive-mirror`, `blockdev-mirror`, and the commit of a chain's active image, whose target is
//! an image below. One engine for the three.
//!
//! A bitmap of the job's own has a bit set before each write of the source is issued. A pass
//! drains the source for a moment, takes the bits, and copies what they stand for while guests go
//! on. When a pass leaves little the target is flushed and the job is ready; it goes on with
//! passes until a user asks it to end. Then, with source and target drained, the rest is copied,
//! the target flushed, and users are led to it (`graph/pivot.rs`), or not: then the target is a
//! consistent copy of that moment. Where passes do not get ahead of the guest, the job follows each
//! write (`follow`), so it ends under any load.
//!
//! A power cut before the pivot finds the source as the disk; behind it, the target, which holds
//! what the source held, flushed, before the first request reaches it; a source that stays as its
//! backing file is flushed, too. Nothing on disk names which
//! of the two is the disk: who starts the machine again asks whether the job was completed. A
//! commit is the same with an image of the chain: until the pivot, what is written to it is what
//! the active image hides or equals, so the chain reads the same at every moment.
//!
//! Invariant: a job that is over has given back its users, its bitmap, and its place among the
//! source's watchers. Not here: what the verbs check (`start`), one range's copy (`copy`, and `job/copy` below it).

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use block_schema::types::MirrorCopyMode;

use self::follow::Follow;
use super::copy::{
    AtOnce, Crew, Failed, Kind, Nodes, Policies, STATUS_CHUNK, Tried, parts, persist,
};
use super::worker::{Asked, Next, Stop, Worker};
use crate::backend::Backend;
use crate::driver::StatusKind;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::graph::blocker::Blocked;
use crate::graph::pivot::Pivot;
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::request::watch::Watcher;

mod copy;
mod drive;
mod follow;
mod start;

/// What may be left for the moment in which guests wait.
const LITTLE: u64 = 4 << 20;
/// How often a job that is ready looks for new writes.
const SLICE: Duration = Duration::from_millis(100);

/// What is copied first, besides what is written meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// All that the source shows.
    Full,
    /// What so many images from the source down hold.
    Images(u32),
    /// Nothing.
    None,
}

/// What becomes of the target.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// It goes with the job unless users were led to it.
    opened: bool,
    /// It becomes read-only again unless users were led to it.
    made_writable: bool,
    /// What shows through it from the end on, where that changes.
    backing: Option<NodeId>,
}

/// A mirror at work.
struct Mirror {
    layer: Layer,
    follow: Arc<Follow>,
    first: First,
    mode: MirrorCopyMode,
    policies: Policies,
    /// Bytes of one piece of work, and pieces at once.
    chunk: u64,
    at_once: usize,
    ends: Ends,
    users: Vec<Arc<Backend>>,
    blocks: Vec<Blocked>,
    /// Whether writes are followed.
    following: bool,
    /// Whether the bitmap is there.
    tracking: bool,
    /// Whether users were led to the target.
    pivoted: bool,
}

/// What a piece of work does with its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Copy,
    /// Makes it zeroes; not counted as work.
    Zero,
}

/// Why a job could not end.
enum NotYet {
    Failed(Failed),
    Stop(Stop),
}

impl From<Failed> for NotYet {
    fn from(failed: Failed) -> NotYet {
        NotYet::Failed(failed)
    }
}

impl From<Error> for NotYet {
    fn from(error: Error) -> NotYet {
        NotYet::Stop(Stop::Failed(error))
    }
}

impl Mirror {
    async fn run(&mut self, worker: &Worker) -> Result<(), Stop> {
        let nodes = self.follow.nodes(&self.layer, worker.queue())?;
        let (source, target) = (nodes.source.len(), nodes.target.len());
        drop(nodes);
        // An image of the chain was made as long as it must be.
        if source != target && self.follow.mirrored.images.is_none() {
            let reason = "Source and target image have different sizes";
            return Err(Error::invalid("target", reason).into());
        }
        let crew = Crew::new(
            worker.queue(),
            self.follow.target,
            AtOnce::pressed(self.at_once),
        );
        let result = self.copy_until_asked(worker, &crew, source).await;
        crew.settle().await;
        result
    }

    async fn copy_until_asked(
        &mut self,
        worker: &Worker,
        crew: &Crew,
        len: u64,
    ) -> Result<(), Stop> {
        self.mark_first(worker, crew, len).await?;
        if self.mode == MirrorCopyMode::WriteBlocking {
            self.follow_writes(worker.queue()).await?;
        }
        let little = LITTLE.max(u64::from(self.follow.tracker.granularity()));
        let mut trend = Trend::default();
        let mut ready = false;
        loop {
            worker.checkpoint_idle(async || crew.settle().await).await?;
            let before = self.follow.tracker.count();
            if before > 0 {
                self.pass(worker, crew).await?;
            }
            if let Some(failed) = self.follow.failure() {
                self.failed(worker, failed).await?;
            }
            let left = self.follow.tracker.count();
            trend.note(before, left);
            let asked = worker.asked();
            if self.follow.was_incomplete() {
                // Nothing can be done about it at once.
                worker.queue().sleep(SLICE).await;
                continue;
            }
            if left > little && (!ready || asked != Asked::Nothing) {
                if trend.is_hopeless() && !self.following {
                    self.follow_writes(worker.queue()).await?;
                }
                continue;
            }
            if !ready {
                ready = self.flush(worker).await?;
                if ready {
                    worker.set_ready();
                }
                continue;
            }
            if worker.copies_at_once() && !self.following {
                self.follow_writes(worker.queue()).await?;
                continue;
            }
            worker.set_synced(self.following && left == 0);
            if asked == Asked::Nothing {
                worker.idle(worker.queue().sleep(SLICE)).await;
                continue;
            }
            if worker.waits_for_user() {
                // Guests go on while it waits, and leave next to nothing to be copied then.
                if !self.following {
                    self.follow_writes(worker.queue()).await?;
                }
                worker.settle(Ok(())).await?;
            }
            match self.finish(worker, asked).await {
                Ok(()) => return Ok(()),
                Err(NotYet::Stop(stop)) => return Err(stop),
                // Nobody can let a job go on that takes its last step.
                Err(NotYet::Failed(failed)) if worker.waits_for_user() => {
                    return Err(Stop::Failed(failed.error));
                }
                Err(NotYet::Failed(failed)) => {
                    self.failed(worker, failed).await?;
                    worker.queue().sleep(SLICE).await;
                }
            }
        }
    }

    /// Sets the bits of what is copied first. Where nothing is, the target is to read as zeroes.
    async fn mark_first(&self, worker: &Worker, crew: &Crew, len: u64) -> Result<(), Stop> {
        let follow = &self.follow;
        let mut at = 0;
        while at < len && self.first != First::None {
            worker.checkpoint_idle(async || crew.settle().await).await?;
            let range = at..len.min(at + STATUS_CHUNK);
            let status = {
                let passed = worker.queue().pass_gates(&[follow.source]).await?;
                let source = passed.node(follow.source)?;
                source.chain_status(range.clone()).await
            };
            let status = match status {
                Ok(status) => status,
                Err(error) => {
                    if self.failed(worker, Failed::source(error)).await? == Next::Skip {
                        // A pass will find out more.
                        follow.tracker.set(&range);
                        at = range.end;
                    }
                    continue;
                }
            };
            let run = at..at + status.len;
            at = run.end;
            match self.first {
                First::Full if status.kind == StatusKind::Unallocated => {
                    crew.start(0, self.piece(worker, run, Piece::Zero)).await?;
                }
                First::Images(images) if status.depth >= images => {}
                First::Full | First::Images(_) => follow.tracker.set(&run),
                First::None => {}
            }
        }
        crew.finish().await
    }

    /// Copies what was dirty at one moment.
    async fn pass(&self, worker: &Worker, crew: &Crew) -> Result<(), Stop> {
        let taken = {
            let _drained = self.layer.drain(&[self.follow.source]).await;
            self.follow.tracker.take()?
        };
        let dirty = taken.bitmap().runs().map(|run| run.end - run.start).sum();
        worker.set_left(dirty);
        for run in taken.bitmap().runs() {
            for part in parts(run, self.chunk) {
                worker.checkpoint_idle(async || crew.settle().await).await?;
                let bytes = part.end - part.start;
                worker.pace(bytes).await?;
                let copied = self.piece(worker, part, Piece::Copy);
                crew.start(bytes, copied).await?;
            }
        }
        crew.finish().await?;
        taken.commit();
        Ok(())
    }

    /// Works on one range, for as long as the policies say so.
    fn piece(
        &self,
        worker: &Worker,
        range: Range<u64>,
        piece: Piece,
    ) -> impl Future<Output = Result<(), Stop>> + 'static {
        let (worker, follow) = (worker.clone(), Arc::clone(&self.follow));
        let policies = self.policies;
        async move {
            let again = Cell::new(false);
            let attempt = async || {
                if again.replace(true) {
                    follow.forget_failure();
                }
                work(worker.queue(), &follow, &range, piece).await
            };
            if persist(&worker, policies, attempt).await? == Tried::LeftOut {
                follow.leave_out(&range);
                return Ok(());
            }
            if piece == Piece::Copy {
                worker.advance(range.end - range.start);
            }
            Ok(())
        }
    }

    async fn failed(&self, worker: &Worker, failed: Failed) -> Result<Next, Stop> {
        let next = self.policies.judge(worker, failed).await?;
        if next == Next::Again {
            self.follow.forget_failure();
        }
        Ok(next)
    }

    /// Makes the target durable; `false` when that is to be tried again.
    async fn flush(&self, worker: &Worker) -> Result<bool, Stop> {
        let flushed = {
            let passed = worker.queue().pass_gates(&[self.follow.target]).await?;
            passed.node(self.follow.target)?.flush().await
        };
        let Err(error) = flushed else {
            return Ok(true);
        };
        self.failed(worker, Failed::target(error)).await?;
        worker.queue().sleep(SLICE).await;
        Ok(false)
    }

    /// Lets each write be copied before its caller hears of it.
    async fn follow_writes(&mut self, queue: &LocalQueue) -> Result<()> {
        let _change = self.layer.change().await;
        let _drained = self.layer.drain(&[self.follow.source]).await;
        let source = self.layer.node(queue, self.follow.source)?;
        source.node().watchers.add(self.watcher());
        // Writes until now have their bits; those from now on need none.
        self.follow.tracker.set_enabled(false);
        self.following = true;
        Ok(())
    }

    fn watcher(&self) -> Arc<dyn Watcher> {
        Arc::<Follow>::clone(&self.follow)
    }

    /// Hears of no write any more. The source is drained.
    fn stop_following(&mut self, queue: &LocalQueue) -> Result<()> {
        let source = self.layer.node(queue, self.follow.source)?;
        if std::mem::take(&mut self.following) {
            source.node().watchers.remove(&self.watcher());
        }
        if std::mem::take(&mut self.tracking) {
            let bitmaps = source.node().bitmaps();
            bitmaps.remove_tracker(&self.follow.tracker);
        }
        Ok(())
    }

    /// Makes both sides equal and durable while nobody writes, and ends there.
    async fn finish(&mut self, worker: &Worker, asked: Asked) -> Result<(), NotYet> {
        let queue = worker.queue();
        let layer = self.layer.clone();
        let follow = Arc::clone(&self.follow);
        let change = layer.change().await;
        let drained = layer.drain(&[follow.source, follow.target]).await;
        {
            let nodes = follow.nodes(&layer, queue)?;
            let taken = follow.tracker.take()?;
            for run in taken.bitmap().runs() {
                let bytes = run.end - run.start;
                worker.job().count_both(bytes, 0);
                follow.mirrored.copy(&nodes, run).await?;
                worker.advance(bytes);
            }
            nodes.target.flush().await.map_err(Failed::target)?;
            if asked == Asked::Complete && self.ends.backing == Some(follow.source) {
                // Later flushes end at the target, and what is below it is still needed.
                nodes.source.flush().await.map_err(Failed::source)?;
            }
            taken.commit();
        }
        worker.settle(Ok(())).await.map_err(NotYet::Stop)?;
        self.stop_following(queue)?;
        if asked == Asked::Complete {
            let pivot = Pivot {
                from: follow.source,
                to: follow.target,
                ending: &self.users,
                backing: self.ends.backing,
            };
            let pivoted = layer.pivot(&change, &pivot)?;
            self.pivoted = true;
            self.users.clear();
            self.blocks.clear();
            drop(drained);
            layer.finish_pivot(queue, pivoted).await?;
        }
        Ok(())
    }

    /// Gives back what the job has.
    async fn end(&mut self, queue: &LocalQueue) {
        let layer = self.layer.clone();
        if self.tracking {
            let _change = layer.change().await;
            let _drained = layer.drain(&[self.follow.source]).await;
            // A source that is not in the graph has no writes to tell of.
            self.stop_following(queue).ok();
        }
        for user in self.users.drain(..) {
            layer.remove_backend(&user).await;
        }
        self.blocks.clear();
        let ends = match (self.pivoted, self.ends.opened) {
            (false, _) => self.ends,
            // There may have been no users to lead to it.
            (true, true) if is_unused(&layer, self.follow.target) => self.ends,
            (true, _) => return,
        };
        give_back(&layer, queue, self.follow.target, ends).await;
    }
}

fn is_unused(layer: &Layer, node: NodeId) -> bool {
    let graph = layer.graph();
    let index = graph.index_of(node);
    let is_child = |index| {
        let mut edges = graph.entries().flat_map(|(_, entry)| entry.edges.iter());
        edges.any(|edge| edge.child == index)
    };
    let is_root = || {
        layer
            .backends()
            .iter()
            .any(|backend| backend.root() == node)
    };
    index.is_some_and(|index| !is_child(index)) && !is_root()
}

/// Leaves a target that did not become the disk as it was found.
async fn give_back(layer: &Layer, queue: &LocalQueue, target: NodeId, ends: Ends) {
    let given_back = match ends {
        Ends { opened: true, .. } => layer.remove_node(queue, target).await,
        Ends {
            made_writable: true,
            ..
        } => layer.set_read_only(queue, target, true).await,
        Ends { .. } => Ok(()),
    };
    if let Err(error) = given_back {
        tracing::warn!("a target stays as it is: {}", error.chain());
    }
}

async fn work(
    queue: &LocalQueue,
    follow: &Follow,
    range: &Range<u64>,
    piece: Piece,
) -> Result<(), Failed> {
    let nodes = [follow.source, follow.target];
    let passed = queue.pass_gates(&nodes).await.map_err(Failed::source)?;
    let nodes = Nodes {
        source: passed.node(follow.source).map_err(Failed::source)?,
        target: passed.node(follow.target).map_err(Failed::target)?,
    };
    let mirrored = &follow.mirrored;
    match piece {
        Piece::Copy => mirrored.copy(&nodes, range.clone()).await,
        Piece::Zero => {
            mirrored
                .copier
                .copy(&nodes, Kind::Zero, range.clone())
                .await
        }
    }
}

/// Whether passes get ahead of the guest.
#[derive(Default)]
struct Trend {
    in_vain: u32,
}

impl Trend {
    fn note(&mut self, before: u64, left: u64) {
        match left > before / 4 * 3 {
            true => self.in_vain += 1,
            false => self.in_vain = 0,
        }
    }

    fn is_hopeless(&self) -> bool {
        self.in_vain >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_passes_in_vain_are_hopeless() {
        let mut trend = Trend::default();
        trend.note(100, 80);
        trend.note(80, 10);
        trend.note(10, 10);
        assert!(!trend.is_hopeless());
        trend.note(10, 9);
        assert!(trend.is_hopeless());
    }
}
