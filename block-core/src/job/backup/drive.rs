//! `drive-backup`: a backup to a file that the verb itself makes or finds, and opens.
//!
//! The target becomes a node without a name that goes with the job. One that is made here is opened
//! with nothing behind it, whatever it says of its backing file: a backup writes whole clusters, and
//! never reads its target.

use std::sync::Arc;

use block_schema::commands::DriveBackup;
use block_schema::types::{
    self, BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevOptions, MirrorSyncMode,
    NewImageMode,
};

use super::{Backup, Wanted, on_device_error};
use crate::error::{Error, Result};
use crate::graph::create::NewImage;
use crate::graph::facts::Inherited;
use crate::graph::transaction::Transaction;
use crate::graph::{Graph, Node, NodeId, NodeIndex};
use crate::job::chain::name_of;
use crate::job::copy::Policies;
use crate::job::target::{driver_named, told_by_file};
use crate::job::{Group, Job, Manual, or_report, refuse_filter};
use crate::layer::{Change, Layer};
use crate::queue::{LocalQueue, shield};

impl Layer {
    /// Starts copying a device's content, as it is now, to a file. The job runs on `queue`.
    ///
    /// # Errors
    /// `DeviceNotFound`; as [`blockdev_backup`](Layer::blockdev_backup); what making and opening the
    /// file answers.
    pub async fn drive_backup(
        &self,
        queue: &LocalQueue,
        arguments: DriveBackup,
    ) -> Result<Arc<Job>> {
        shield(queue, async move |layer, queue| {
            let target = layer.open_copy(&queue, &arguments.0).await?;
            let change = layer.change().await;
            match Backup::to_file(&change, &layer, &arguments.0, target, None) {
                Ok(backup) => backup.run_from_now(change, &queue).await,
                Err(error) => {
                    drop(change);
                    // The first error is the one to tell.
                    layer.remove_node(&queue, target).await.ok();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Makes the file unless it is there, and opens it.
    pub(super) async fn open_copy(
        &self,
        queue: &LocalQueue,
        arguments: &types::DriveBackup,
    ) -> Result<NodeId> {
        refuse_filter(arguments.filter_node_name.as_deref())?;
        let graph = self.graph();
        let source = find_device(self, &graph, &arguments.device)?;
        // Before what is in the file is lost.
        graph.entry(source).node.check_unblocked()?;
        let wanted = wanted(self, &graph, source, arguments)?;
        wanted.check_bitmap(&graph.entry(source).node)?;
        let sync = wanted.sync;
        let filename = &arguments.target;
        let mode = arguments.mode.unwrap_or(NewImageMode::AbsolutePaths);
        let node = &graph.entry(source).node;
        let format = match (&arguments.format, mode) {
            (Some(format), _) => driver_named(format)?,
            (None, NewImageMode::AbsolutePaths) => driver_named(node.driver().format_name())?,
            (None, NewImageMode::Existing) => told_by_file(self, queue, filename).await?,
        };
        let inherited = match mode {
            NewImageMode::Existing => Inherited::default(),
            NewImageMode::AbsolutePaths => {
                let below: Option<&Arc<Node>> = match sync {
                    MirrorSyncMode::Top => graph.backing(source).map(|at| &graph.entry(at).node),
                    MirrorSyncMode::None => Some(node),
                    MirrorSyncMode::Full | MirrorSyncMode::Incremental | MirrorSyncMode::Bitmap => {
                        None
                    }
                };
                let image = NewImage {
                    filename: filename.clone(),
                    format,
                    size: graph.len(source),
                    backing: below.map(|node| name_of(node, None)),
                };
                self.create_image(queue, image).await?;
                Inherited::without_backing()
            }
        };
        let mut options = self.image_options(filename, format)?;
        options.discard = Some(BlockdevDiscardOptions::Unmap);
        options.detect_zeroes = Some(match sync {
            MirrorSyncMode::Full => BlockdevDetectZeroesOptions::Unmap,
            // Unallocated, they would let show through what is put behind a part of a disk.
            MirrorSyncMode::Top
            | MirrorSyncMode::None
            | MirrorSyncMode::Incremental
            | MirrorSyncMode::Bitmap => BlockdevDetectZeroesOptions::On,
        });
        open(self, queue, options, inherited).await
    }
}

impl Backup {
    /// One to a file, whose node is open and goes with the job.
    pub(super) fn to_file(
        change: &Change<'_>,
        layer: &Layer,
        arguments: &types::DriveBackup,
        target: NodeId,
        group: Option<Arc<Group>>,
    ) -> Result<Backup> {
        let graph = layer.graph();
        let source = find_device(layer, &graph, &arguments.device)?;
        let wanted = Wanted {
            group,
            ..wanted(layer, &graph, source, arguments)?
        };
        let target = graph.index_of(target).ok_or(Error::ShutDown)?;
        let node = |index| Arc::clone(&graph.entry(index).node);
        let ends = (node(source), node(target));
        let mut backup = Backup::prepare(change, layer, ends, wanted)?;
        backup.owns_target = true;
        Ok(backup)
    }
}

fn find_device(layer: &Layer, graph: &Graph, device: &str) -> Result<NodeIndex> {
    let found = match layer.backend(device) {
        Some(backend) => graph.index_of(backend.root()),
        None => graph.find(device),
    };
    found.ok_or_else(|| Error::DeviceNotFound {
        device: device.to_owned(),
    })
}

fn wanted(
    layer: &Layer,
    graph: &Graph,
    source: NodeIndex,
    arguments: &types::DriveBackup,
) -> Result<Wanted> {
    let device = &arguments.device;
    let policy = arguments.on_source_error;
    Ok(Wanted {
        job_id: arguments.job_id.clone(),
        sync: match arguments.sync {
            MirrorSyncMode::Top if graph.backing(source).is_none() => MirrorSyncMode::Full,
            sync => sync,
        },
        speed: arguments.speed,
        bitmap: arguments.bitmap.clone(),
        bitmap_mode: arguments.bitmap_mode,
        compress: arguments.compress.unwrap_or(false),
        policies: Policies {
            source: on_device_error(layer, device, "on-source-error", policy)?,
            target: or_report(arguments.on_target_error),
        },
        manual: Manual::of(arguments.auto_finalize, arguments.auto_dismiss),
        group: None,
    })
}

async fn open(
    layer: &Layer,
    queue: &LocalQueue,
    options: BlockdevOptions,
    inherited: Inherited,
) -> Result<NodeId> {
    let transaction = Transaction::begin(layer, queue).await;
    match transaction.open(options, inherited).await {
        Ok(id) => transaction.commit().await.map(|()| id),
        Err(error) => {
            transaction.abort().await;
            Err(error)
        }
    }
}
