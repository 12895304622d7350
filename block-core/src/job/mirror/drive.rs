//! `drive-mirror`: a mirror to a file that the verb itself makes or finds, and opens.
//!
//! The target becomes a node of the graph. Of the chain below the source it reads through the same
//! nodes, where its image names a backing file: for `top` from the beginning, so that parts of its
//! clusters are filled up from there; for `none` from the end on, when nobody writes the source any
//! more. Invariant: unless users were led to it, the target's node goes with the job.

use std::sync::Arc;

use block_schema::commands::DriveMirror;
use block_schema::types::{
    BlockdevCacheOptions, BlockdevDiscardOptions, BlockdevOptions, MirrorSyncMode, NewImageMode,
};
use block_schema::{Unknown, Value, Wire};

use super::start::{Sizes, Start, check_replaced, new_job, or_background};
use super::{Ends, give_back};
use crate::error::{Error, Result};
use crate::graph::create::NewImage;
use crate::graph::{Draft, Graph, Node, NodeId, NodeIndex};
use crate::job::chain::name_of;
use crate::job::copy::Policies;
use crate::job::target::{driver_named, told_by_file};
use crate::job::{Job, Manual};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

impl Layer {
    /// Starts copying a device's content to a file, and keeps it up to date until the job is
    /// completed: then the device uses the copy. The job runs on `queue`.
    ///
    /// # Errors
    /// `DeviceNotFound`; `InvalidOption` for numbers that cannot be, an unknown format, a name in use;
    /// `PermissionConflict` when another job is there; what making and opening the file answers.
    pub async fn drive_mirror(
        &self,
        queue: &LocalQueue,
        arguments: DriveMirror,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            let graph = layer.graph();
            let device = &arguments.device;
            let known = layer.backend(device).is_some() || graph.find(device).is_some();
            if !known {
                let device = device.clone();
                return Err(Error::DeviceNotFound { device });
            }
            let (source, named) = layer.root_of(&graph, device)?;
            graph.entry(source).node.check_unblocked()?;
            if arguments.replaces.is_some() && arguments.node_name.is_none() {
                let reason =
                    "a node-name must be provided when replacing a named node of the graph";
                return Err(Error::invalid("replaces", reason));
            }
            let sizes = Sizes::checked(arguments.granularity, arguments.buf_size)?;
            check_replaced(&graph, source, arguments.replaces.as_deref())?;
            let policies = Policies::checked(
                &layer,
                device,
                arguments.on_source_error,
                arguments.on_target_error,
            )?;
            let manual = Manual::of(arguments.auto_finalize, arguments.auto_dismiss);
            let new = new_job(arguments.job_id.clone(), named, arguments.speed, manual)?;
            if layer.job(&new.id).is_ok() {
                let reason = format!("Job ID '{}' already in use", new.id);
                return Err(Error::invalid("job-id", reason));
            }
            let backing = graph.backing(source);
            let sync = match arguments.sync {
                MirrorSyncMode::Top if backing.is_none() => MirrorSyncMode::Full,
                sync => sync,
            };
            let below = match sync {
                MirrorSyncMode::Top => backing,
                MirrorSyncMode::None => Some(source),
                MirrorSyncMode::Full | MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => None,
            };
            let target = layer
                .open_target(&queue, &arguments, &graph, source, below)
                .await?;
            let below = below.map(|index| graph.entry(index).node.id());
            let source = graph.entry(source).node.id();
            drop(graph);
            let mut ends = Ends {
                opened: true,
                ..Ends::default()
            };
            match layer.reads_through(&queue, target, below).await {
                Ok(Some(below)) if below == source => ends.backing = Some(below),
                Ok(_) => {}
                Err(error) => {
                    give_back(&layer, &queue, target, ends).await;
                    return Err(error);
                }
            }
            let start = Start {
                job: new,
                source,
                target,
                sync,
                mode: or_background(arguments.copy_mode),
                policies,
                sizes,
                may_unmap: arguments.unmap.unwrap_or(true),
                ends,
            };
            layer.start_mirror(&queue, start).await
        })
        .await
    }

    /// Makes the file unless it is there, and opens it with nothing below.
    async fn open_target(
        &self,
        queue: &LocalQueue,
        arguments: &DriveMirror,
        graph: &Graph,
        source: NodeIndex,
        below: Option<NodeIndex>,
    ) -> Result<NodeId> {
        let node = &graph.entry(source).node;
        let filename = &arguments.target;
        let mode = arguments.mode.unwrap_or(NewImageMode::AbsolutePaths);
        let format = match (&arguments.format, mode) {
            (Some(format), _) => driver_named(format)?,
            (None, NewImageMode::AbsolutePaths) => driver_named(node.driver().format_name())?,
            (None, NewImageMode::Existing) => told_by_file(self, queue, filename).await?,
        };
        if mode == NewImageMode::AbsolutePaths {
            let image = NewImage {
                filename: filename.clone(),
                format,
                size: graph.len(source),
                backing: below.map(|index| name_of(&graph.entry(index).node, None)),
            };
            self.create_image(queue, image).await?;
        }
        let options = self.image_options(filename, format)?;
        let mut options = match (mode, below) {
            // All of it will be written, over whatever shows through.
            (NewImageMode::Existing, None) => options,
            (NewImageMode::Existing | NewImageMode::AbsolutePaths, _) => without_backing(options),
        };
        options.node_name.clone_from(&arguments.node_name);
        take_over(&mut options, node);
        self.blockdev_add_unnamed(queue, options).await
    }

    /// What a target will read through, if its image names anything: there already, or in the end,
    /// where it is what the mirror copies from.
    async fn reads_through(
        &self,
        queue: &LocalQueue,
        target: NodeId,
        below: Option<NodeId>,
    ) -> Result<Option<NodeId>> {
        let names_backing = {
            let node = self.node(queue, target)?;
            node.node().driver().describe().backing.is_some()
        };
        let Some(below) = below.filter(|_| names_backing) else {
            return Ok(None);
        };
        let change = self.change().await;
        let graph = self.graph();
        let has_writer = self.backends().iter().any(|b| b.root() == below);
        if !has_writer {
            let mut draft = Draft::from(&graph);
            draft.set_backing(target, Some(below))?;
            change.permit(&draft, &change.roots(&draft))?;
            change.publish(draft);
        }
        Ok(Some(below))
    }
}

/// How the source is accessed is how its copy will be.
fn take_over(options: &mut BlockdevOptions, source: &Node) {
    let facts = source.facts();
    if facts.discard_unmap {
        options.discard = Some(BlockdevDiscardOptions::Unmap);
    }
    let mut cache = BlockdevCacheOptions::new();
    cache.writeback = Some(facts.cache.writeback);
    cache.direct = Some(facts.cache.direct);
    cache.no_flush = Some(facts.cache.no_flush);
    options.cache = Some(cache);
}

/// The same image without its backing file, where its format has such.
fn without_backing(options: BlockdevOptions) -> BlockdevOptions {
    let mut value = options.encode();
    if let Value::Object(members) = &mut value {
        members.insert("backing".to_owned(), Value::Null);
    }
    BlockdevOptions::decode(value, Unknown::Refuse).unwrap_or(options)
}
