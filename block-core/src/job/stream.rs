//! `block-stream`: copies what shows through from backing files into the active image, so that it
//! needs them no longer.
//!
//! What is copied is decided by the chain's status, range by range; the copy itself is a *populate*
//! request, which looks again under a claim and leaves alone what a guest has written meanwhile.
//! Invariant: the backing files do not change while the job runs; blocks on their nodes see to it.

use std::ops::Range;
use std::sync::Arc;

use block_schema::commands::BlockStream;
use block_schema::types::BlockJobType;

use super::chain::{Chain, Lower, mask_protocol, name_of};
use super::copy::{AtOnce, Buffers, CHUNK, Crew, Failed, Policies, Runs, parts, persist};
use super::worker::{Stop, Worker};
use super::{Job, Manual, NewJob, Progress, on_device_error, refuse_filter, speed_of};
use crate::backend::Backend;
use crate::driver::{BackingName, StatusKind};
use crate::error::{Error, Result};
use crate::graph::blocker::Blocked;
use crate::graph::perm::Use;
use crate::graph::rebase::NewBacking;
use crate::graph::{Node, NodeId};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};
use crate::request::Request;
use crate::request::status::ChainStatus;

/// Populate requests at once.
const AT_ONCE: usize = 8;

impl Layer {
    /// Starts copying what shows through a device's image from its backing files, down to `base` or
    /// all of it; then the image needs only `base`. The job runs on `queue`.
    ///
    /// # Errors
    /// `DeviceNotFound`; `InvalidOption` for a base that is not in the chain, a negative speed, a name
    /// in use; `ReadOnly`; `PermissionConflict` when another job is there.
    pub async fn block_stream(
        &self,
        queue: &LocalQueue,
        arguments: BlockStream,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            let BlockStream {
                job_id,
                device,
                base,
                base_node,
                backing_file,
                backing_mask_protocol,
                bottom,
                speed,
                on_error,
                filter_node_name,
                auto_finalize,
                auto_dismiss,
            } = arguments;
            refuse_filter(filter_node_name.as_deref())?;
            let lower = Lower::of(base.as_deref(), base_node.as_deref(), bottom.as_deref())?;
            let chain = Chain::of(&layer, &device)?;
            let base = lower.find(&layer, &chain, &device)?;
            if backing_file.is_some() && (base.is_none() || bottom.is_some()) {
                let reason = "backing file specified, but streaming the entire chain";
                return Err(Error::invalid("backing-file", reason));
            }
            let speed = speed_of(speed)?;
            let policy = on_device_error(&layer, &device, "on-error", on_error)?;
            let depth = base.unwrap_or(chain.images().len());
            for image in chain.images() {
                image.check_unblocked()?;
            }
            let job = layer.new_job(NewJob {
                id: chain.job_id(&layer, job_id),
                kind: BlockJobType::Stream,
                speed,
                manual: Manual::of(auto_finalize, auto_dismiss),
                group: None,
            })?;
            let access = layer.access(&queue, &chain).await;
            let (backend, made_writable) = match access {
                Ok(access) => access,
                Err(error) => {
                    job.forget();
                    return Err(error);
                }
            };
            // The image may have been opened anew.
            let chain = Chain::of(&layer, &device)?;
            let reason: Arc<str> = "block device is in use by block job: stream".into();
            let blocks: Vec<_> = chain.images().iter().map(|n| n.block(&reason)).collect();
            let stream = Stream {
                layer: layer.clone(),
                backend,
                active: Arc::clone(chain.active()),
                base: base.map(|depth| chain.images()[depth].id()),
                name: base.map(|depth| {
                    let node = &chain.images()[depth];
                    let mut name = name_of(node, backing_file);
                    if backing_mask_protocol == Some(true) {
                        mask_protocol(&layer.graph(), node, &mut name);
                    }
                    name
                }),
                depth,
                policies: Policies::both(policy),
                made_writable,
                blocks,
            };
            job.start(&queue, move |worker| stream.run(worker));
            Ok(job)
        })
        .await
    }

    /// Becomes a user that fills the image up, which is made writable for that if it is another
    /// one's backing file.
    async fn access(&self, queue: &LocalQueue, chain: &Chain) -> Result<(Arc<Backend>, bool)> {
        let id = chain.active().id();
        if !chain.has_overlay(self) {
            let read_only = |error| match error {
                Error::ReadOnly { .. } => Error::invalid("device", "Block node is read-only"),
                error => error,
            };
            let writing = self.add_job_user(id, Use::backend(false)).await;
            let backend = writing.map_err(read_only)?;
            return Ok((backend, false));
        }
        let made_writable = chain.active().is_read_only();
        if made_writable {
            self.set_read_only(queue, id, false).await?;
        }
        match self.add_job_user(id, Use::COMMIT_BASE).await {
            Ok(backend) => Ok((backend, made_writable)),
            Err(error) => {
                if made_writable {
                    give_back(self, queue, id).await;
                }
                Err(error)
            }
        }
    }
}

/// Leaves an image as it was found.
async fn give_back(layer: &Layer, queue: &LocalQueue, image: NodeId) {
    if let Err(error) = layer.set_read_only(queue, image, true).await {
        tracing::warn!("an image stays writable: {}", error.chain());
    }
}

struct Stream {
    layer: Layer,
    backend: Arc<Backend>,
    active: Arc<Node>,
    base: Option<NodeId>,
    /// What the image will say about it.
    name: Option<BackingName>,
    /// Images whose content is wanted, with the active one.
    depth: usize,
    policies: Policies,
    /// Whether the image only reads again afterwards.
    made_writable: bool,
    blocks: Vec<Blocked>,
}

impl Stream {
    /// The job from its first request to its end.
    async fn run(self, worker: Worker) -> Result<(), Stop> {
        let work = self.copy(&worker).await;
        let mut result = worker.settle(work).await;
        if result.is_ok() {
            result = self.finish(&worker).await;
        }
        self.layer.remove_backend(&self.backend).await;
        if self.made_writable {
            give_back(&self.layer, worker.queue(), self.active.id()).await;
        }
        drop(self.blocks);
        result
    }

    /// Fills the image up, durably.
    async fn copy(&self, worker: &Worker) -> Result<(), Stop> {
        let id = self.active.id();
        let len = self.layer.node(worker.queue(), id)?.len();
        worker.set_progress(Progress {
            done: 0,
            total: len,
        });
        let crew = Crew::new(worker.queue(), id, AtOnce::patient(AT_ONCE));
        let result = self.copy_all(worker, &crew, id, len).await;
        crew.settle().await;
        result?;
        crew.finish().await?;
        worker.check_whole()?;
        let slot = worker.queue().attach(&self.backend);
        let flushed = worker.queue().request(slot, Request::flush()).await;
        flushed?;
        Ok(())
    }

    async fn copy_all(
        &self,
        worker: &Worker,
        crew: &Crew,
        id: NodeId,
        len: u64,
    ) -> Result<(), Stop> {
        let copier = Copier {
            backend: Arc::clone(&self.backend),
            buffers: Buffers::new(CHUNK),
            policies: self.policies,
        };
        let (mut runs, mut at) = (Runs::default(), 0);
        while at < len {
            worker.checkpoint_idle(async || crew.settle().await).await?;
            let node = self.layer.node(worker.queue(), id)?;
            let status = runs.first(at..len, async |range| node.chain_status(range).await);
            let status = match status.await {
                Ok(status) => status,
                Err(error) => {
                    drop(node);
                    self.policies.judge(worker, Failed::source(error)).await?;
                    continue;
                }
            };
            drop(node);
            let run = at..at + status.len;
            let is_wanted = self.is_wanted(&status);
            let part = match is_wanted {
                true => parts(run.clone(), CHUNK).next().unwrap_or(run),
                false => run,
            };
            at = part.end;
            let bytes = part.end - part.start;
            match is_wanted {
                true => {
                    worker.pace(bytes).await?;
                    let populated = copier.clone().populate(worker.clone(), part);
                    crew.start(bytes, populated).await?;
                }
                false => worker.advance(bytes),
            }
        }
        Ok(())
    }

    /// Whether a run shows through, and would not after the stream.
    fn is_wanted(&self, status: &ChainStatus) -> bool {
        let depth = status.depth as usize;
        let within = (1..self.depth).contains(&depth);
        // Without a base, what nobody has reads as zeroes either way.
        within && (self.base.is_some() || status.kind == StatusKind::Data)
    }

    /// Names the new backing file and lets the old ones go.
    async fn finish(&self, worker: &Worker) -> Result<(), Stop> {
        let new = NewBacking {
            node: self.base,
            name: self.name.clone(),
        };
        let id = self.active.id();
        Ok(self.layer.change_backing(worker.queue(), id, new).await?)
    }
}

/// What populates parts of an image.
#[derive(Clone)]
struct Copier {
    backend: Arc<Backend>,
    buffers: Buffers,
    policies: Policies,
}

impl Copier {
    /// Populates a part, for as long as the policies say so.
    async fn populate(self, worker: Worker, part: Range<u64>) -> Result<(), Stop> {
        let (queue, len) = (worker.queue(), part.end - part.start);
        let slot = queue.attach(&self.backend);
        let attempt = async || {
            let buffer = self.buffers.take();
            let request = Request::populate(part.start, buffer.first(len));
            let populated = queue.request(slot, request).await;
            populated.map(drop).map_err(Failed::source)
        };
        persist(&worker, self.policies, attempt).await?;
        worker.advance(len);
        Ok(())
    }
}
