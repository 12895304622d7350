//! `block-commit`: writes what images of a chain hold into an image below them, and takes them out
//! of the chain. Here for images below the active one; the active one's commit is a mirror.
//!
//! The images from `top` down do not change meanwhile. What is written to `base` is what everything
//! above it reads as already, so guests may read on, and a commit that ends half-way, by an error, a
//! cancel or a power cut, leaves the chain as it was: `base` alone has then another content, which
//! nothing shows. At the end `base` is flushed, the image above `top` names it durably, and only
//! then the graph changes.

use std::ops::Range;
use std::sync::Arc;

use block_schema::commands::BlockCommit;
use block_schema::types::BlockJobType;

use super::chain::{Chain, check_only_chain, mask_protocol, name_of};
use super::copy::{
    AtOnce, Buffers, CHUNK, Copier, Crew, Failed, Kept, Kind, Policies, Runs, Store, Users, parts,
    persist,
};
use super::worker::{Stop, Worker};
use super::{Job, Manual, NewJob, Progress, or_report, refuse_filter, speed_of};
use crate::backend::Backend;
use crate::driver::{BackingName, Preallocation};
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::graph::perm::Use;
use crate::graph::rebase::NewBacking;
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};
use crate::request::Request;

/// Copies at once.
const AT_ONCE: usize = 8;

/// Places in a chain, the active image being 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) top: usize,
    pub(super) base: usize,
}

impl Layer {
    /// Starts writing what a device's images from `top` down hold into `base`. The job runs on
    /// `queue`. One of the active image becomes ready, and waits to be completed.
    ///
    /// # Errors
    /// `DeviceNotFound`; `InvalidOption` when `top` or `base` is not in the chain, they are the same,
    /// for a negative speed, a name in use; `PermissionConflict` when another job is there, or
    /// another image needs one of them as it is.
    pub async fn block_commit(
        &self,
        queue: &LocalQueue,
        arguments: BlockCommit,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            refuse_filter(arguments.filter_node_name.as_deref())?;
            let chain = Chain::of(&layer, &arguments.device)?;
            let speed = speed_of(arguments.speed)?;
            let span = span(&layer, &chain, &arguments)?;
            for image in chain.images() {
                image.check_unblocked()?;
            }
            // The top image itself may have other users: its content is not touched.
            check_only_chain(
                &layer,
                &layer.graph(),
                &chain.images()[span.top + 1..=span.base],
            )?;
            let new = NewJob {
                id: chain.job_id(&layer, arguments.job_id),
                kind: BlockJobType::Commit,
                speed,
                manual: Manual::of(arguments.auto_finalize, arguments.auto_dismiss),
                group: None,
            };
            let policy = or_report(arguments.on_error);
            let base = &chain.images()[span.base];
            let mut name = name_of(base, arguments.backing_file.clone());
            if arguments.backing_mask_protocol == Some(true) {
                mask_protocol(&layer.graph(), base, &mut name);
            }
            let ends = Ends {
                name,
                policies: Policies::both(policy),
            };
            if span.top == 0 {
                if arguments.backing_file.is_some() {
                    let reason = "'backing-file' specified, but 'top' is the active layer";
                    return Err(Error::invalid("backing-file", reason));
                }
                return layer
                    .start_active_commit(&queue, &chain, span.base, new, policy)
                    .await;
            }
            layer.commit_below(&queue, &chain, span, new, ends).await
        })
        .await
    }

    async fn commit_below(
        &self,
        queue: &LocalQueue,
        chain: &Chain,
        span: Span,
        new: NewJob,
        ends: Ends,
    ) -> Result<Arc<Job>> {
        let id = |depth: usize| chain.images()[depth].id();
        let job = self.new_job(new)?;
        let mut commit = Commit {
            layer: self.clone(),
            above: id(span.top - 1),
            top: id(span.top),
            base: id(span.base),
            depth: span.base - span.top,
            ends,
            source: None,
            target: None,
            made_writable: Vec::new(),
        };
        if let Err(error) = commit.prepare(queue).await {
            commit.give_back(queue).await;
            job.forget();
            return Err(error);
        }
        let reason: Arc<str> = "block device is in use by block job: commit".into();
        let graph = self.graph();
        let nodes = chain.images().iter().filter_map(|n| graph.index_of(n.id()));
        let nodes = nodes.map(|index| Arc::clone(&graph.entry(index).node));
        let blocks: Vec<_> = nodes.map(|node| node.block(&reason)).collect();
        job.start(queue, move |worker| async move {
            let work = commit.run(&worker).await;
            let mut result = worker.settle(work).await;
            commit.release().await;
            if result.is_ok() {
                result = commit.finish(&worker).await;
            }
            commit.give_back(worker.queue()).await;
            drop(blocks);
            result
        });
        Ok(job)
    }
}

/// Which images are meant.
fn span(layer: &Layer, chain: &Chain, arguments: &BlockCommit) -> Result<Span> {
    let named = |member: &str, name: &str| {
        let place = chain.node_named(layer, name)?;
        place.ok_or_else(|| {
            let reason = format!("'{name}' is not in this backing file chain");
            Error::invalid(member, reason)
        })
    };
    let twice = |one: &str, other: &str| {
        let reason = format!("'{one}' and '{other}' are mutually exclusive");
        Err(Error::invalid(one, reason))
    };
    let top = match (&arguments.top_node, &arguments.top) {
        (Some(_), Some(_)) => return twice("top-node", "top"),
        (Some(name), None) => named("top-node", name)?,
        (None, Some(file)) => chain.depth_of(file).ok_or_else(|| {
            let reason = format!("Top image file {file} not found");
            Error::invalid("top", reason)
        })?,
        (None, None) => 0,
    };
    let base = match (&arguments.base_node, &arguments.base) {
        (Some(_), Some(_)) => return twice("base-node", "base"),
        (Some(name), None) => {
            let base = named("base-node", name)?;
            if base < top {
                let reason = format!("'{name}' is not in this backing file chain");
                return Err(Error::invalid("base-node", reason));
            }
            base
        }
        (None, Some(file)) => chain.backing_file(file, top)?,
        (None, None) => chain.images().len() - 1,
    };
    if top == base {
        return Err(Error::invalid("base", "cannot commit an image into itself"));
    }
    Ok(Span { top, base })
}

/// What becomes of the image above, and of errors.
struct Ends {
    /// What that image will say about its backing file.
    name: BackingName,
    policies: Policies,
}

struct Commit {
    layer: Layer,
    /// The image whose backing file `top` is.
    above: NodeId,
    top: NodeId,
    base: NodeId,
    /// Images from `top` on whose content is wanted.
    depth: usize,
    ends: Ends,
    source: Option<Arc<Backend>>,
    target: Option<Arc<Backend>>,
    /// What has to become read-only again.
    made_writable: Vec<NodeId>,
}

impl Commit {
    /// Makes the base writable and as long as the top, and becomes a user of both.
    async fn prepare(&mut self, queue: &LocalQueue) -> Result<()> {
        self.make_writable(queue, self.base).await?;
        self.make_writable(queue, self.above).await?;
        let top = self.layer.node(queue, self.top)?.len();
        if self.layer.node(queue, self.base)?.len() < top {
            let off = Preallocation::Off;
            self.layer.resize(queue, self.base, top, off).await?;
        }
        let source = self
            .layer
            .add_job_user(self.top, Use::backend(true))
            .await?;
        self.source = Some(source);
        let target = self.layer.add_job_user(self.base, Use::COMMIT_BASE).await?;
        self.target = Some(target);
        Ok(())
    }

    async fn make_writable(&mut self, queue: &LocalQueue, id: NodeId) -> Result<()> {
        if self.layer.node(queue, id)?.is_read_only() {
            self.layer.set_read_only(queue, id, false).await?;
            self.made_writable.push(id);
        }
        Ok(())
    }

    /// Is no user of the images any more.
    async fn release(&mut self) {
        for backend in [self.source.take(), self.target.take()]
            .into_iter()
            .flatten()
        {
            self.layer.remove_backend(&backend).await;
        }
    }

    /// Leaves the images that are still there as they were found.
    async fn give_back(&mut self, queue: &LocalQueue) {
        self.release().await;
        for id in self.made_writable.drain(..) {
            if let Err(error) = self.layer.set_read_only(queue, id, true).await {
                tracing::warn!("a base stays writable: {}", error.chain());
            }
        }
    }

    async fn run(&self, worker: &Worker) -> Result<(), Stop> {
        let (Some(source), Some(target)) = (&self.source, &self.target) else {
            return Err(Stop::Cancelled);
        };
        let pieces = Pieces {
            source: Arc::clone(source),
            target: Arc::clone(target),
            copier: Arc::new(Copier {
                store: Store::Sparse,
                // The chain above hides what is below the base, and nobody changes that.
                kept: Kept::Shown,
                may_unmap: true,
                buffers: Buffers::new(CHUNK),
            }),
            policies: self.ends.policies,
        };
        let crew = Crew::new(worker.queue(), self.base, AtOnce::patient(AT_ONCE));
        let result = self.copy_all(worker, &crew, &pieces).await;
        crew.settle().await;
        result?;
        crew.finish().await?;
        worker.check_whole()?;
        let slot = worker.queue().attach(target);
        worker.queue().request(slot, Request::flush()).await?;
        Ok(())
    }

    async fn copy_all(&self, worker: &Worker, crew: &Crew, pieces: &Pieces) -> Result<(), Stop> {
        let queue = worker.queue();
        let len = self.layer.node(queue, self.top)?.len();
        let hidden = self.hidden(worker, len)?;
        worker.set_progress(Progress {
            done: 0,
            total: hidden.end,
        });
        let (mut runs, mut at) = (Runs::default(), 0);
        while at < len {
            worker.checkpoint_idle(async || crew.settle().await).await?;
            let node = self.layer.node(queue, self.top)?;
            let status = runs.first(at..len, async |range| node.chain_status(range).await);
            let status = match status.await {
                Ok(status) => status,
                Err(error) => {
                    drop(node);
                    let failed = Failed::source(error);
                    self.ends.policies.judge(worker, failed).await?;
                    continue;
                }
            };
            drop(node);
            let run = at..at + status.len;
            // What ends above the base hides it, also where that is nothing but the end of an image.
            if status.depth as usize >= self.depth {
                worker.advance(status.len);
                at = run.end;
                continue;
            }
            let kind = Kind::of(&status);
            let part = match kind {
                Kind::Data => parts(run.clone(), CHUNK).next().unwrap_or(run),
                Kind::Zero => run,
            };
            at = part.end;
            let bytes = match kind {
                Kind::Data => part.end - part.start,
                Kind::Zero => 0,
            };
            worker.pace(bytes).await?;
            let copied = pieces.clone().copy(worker.clone(), kind, part);
            crew.start(bytes, copied).await?;
        }
        if !hidden.is_empty() {
            let hide = pieces.clone().copy(worker.clone(), Kind::Zero, hidden);
            crew.start(0, hide).await?;
        }
        Ok(())
    }

    /// What the overlay reads as zeroes since the top image ends there, and would read from the base,
    /// which is longer, when nothing is between them any more.
    fn hidden(&self, worker: &Worker, len: u64) -> Result<Range<u64>> {
        let queue = worker.queue();
        let base = self.layer.node(queue, self.base)?.len();
        let above = self.layer.node(queue, self.above)?.len();
        Ok(len..base.min(above).max(len))
    }

    /// Takes the images out of the chain.
    async fn finish(&self, worker: &Worker) -> Result<(), Stop> {
        let new = NewBacking {
            node: Some(self.base),
            name: Some(self.ends.name.clone()),
        };
        let layer = &self.layer;
        Ok(layer
            .change_backing(worker.queue(), self.above, new)
            .await?)
    }
}

/// What copies parts of the images.
#[derive(Clone)]
struct Pieces {
    source: Arc<Backend>,
    target: Arc<Backend>,
    copier: Arc<Copier>,
    policies: Policies,
}

impl Pieces {
    /// Copies one part, for as long as the policies say so.
    async fn copy(self, worker: Worker, kind: Kind, part: Range<u64>) -> Result<(), Stop> {
        let users = Users::new(worker.queue(), &self.source, &self.target);
        let attempt = async || self.copier.copy(&users, kind, part.clone()).await;
        persist(&worker, self.policies, attempt).await?;
        worker.advance(part.end - part.start);
        Ok(())
    }
}
