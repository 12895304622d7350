//! External snapshots: an overlay over a node that guests go on writing.
//!
//! `blockdev-snapshot-sync` makes the overlay, or opens one that is there; `blockdev-snapshot` takes a
//! node. The overlay is whole and durable, its folder too, before any request is held up. Then the
//! node is drained and flushed, and the next graph has the overlay in its place: a request has either
//! ended below, or begins at the overlay. So at every power cut the chain of before is whole as it
//! was when it was drained, and what was written since is in the overlay, whose backing file is that
//! chain. What is below becomes read-only at the end, if it can be opened again.

use std::path::{Path, absolute};

use block_schema::commands::{BlockdevSnapshot, BlockdevSnapshotSync};
use block_schema::types::{
    self, BlockdevAioOptions, BlockdevCacheOptions, BlockdevDiscardOptions, BlockdevDriver,
    BlockdevOptions, NewImageMode,
};

use crate::driver::BackingName;
use crate::engine::Aio;
use crate::error::{Error, Result, kernel_text};
use crate::graph::change_options::format_of;
use crate::graph::create::NewImage;
use crate::graph::facts::Inherited;
use crate::graph::perm::{Perm, Role};
use crate::graph::policy::protocol_of;
use crate::graph::transaction::Transaction;
use crate::graph::{Graph, Node, NodeId, NodeIndex};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

/// The format of an overlay of which nothing is said.
const DEFAULT_FORMAT: BlockdevDriver = BlockdevDriver::Qcow2;

impl Layer {
    /// Makes an overlay over a device's image or a node, and lets all who use that use the overlay.
    /// Returns when the files that it replaced are closed, as
    /// [`set_read_only`](Layer::set_read_only) does.
    ///
    /// # Errors
    /// What is wrong with the arguments, by the member's name; what making or opening the overlay
    /// answers. The graph is unchanged then.
    pub async fn blockdev_snapshot_sync(
        &self,
        queue: &LocalQueue,
        arguments: BlockdevSnapshotSync,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let mut transaction = Transaction::begin(&layer, &queue).await;
            let covered = transaction.snapshot_sync(&arguments.0).await;
            transaction.finish(covered).await
        })
        .await
    }

    /// Lets all who use a node use an overlay that is open already, with nothing behind it yet.
    ///
    /// # Errors
    /// As [`blockdev_snapshot_sync`](Layer::blockdev_snapshot_sync).
    pub async fn blockdev_snapshot(
        &self,
        queue: &LocalQueue,
        arguments: BlockdevSnapshot,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let mut transaction = Transaction::begin(&layer, &queue).await;
            let covered = transaction.snapshot(&arguments.0).await;
            transaction.finish(covered).await
        })
        .await
    }
}

impl Transaction<'_> {
    /// The action `blockdev-snapshot-sync`.
    pub(crate) async fn snapshot_sync(&mut self, wanted: &types::BlockdevSnapshot) -> Result<()> {
        let old = self.find(wanted.device.as_deref(), wanted.node_name.as_deref())?;
        old.check_unblocked()?;
        self.draft().graph().check_no_overlay(old.id())?;
        let name = wanted.snapshot_node_name.as_deref();
        if wanted.node_name.is_some() && name.is_none() {
            let reason = "New overlay node-name missing";
            return Err(Error::invalid("snapshot-node-name", reason));
        }
        if let Some(name) = name
            && (self.named(name).is_some() || self.layer().backend(name).is_some())
        {
            let reason = "New overlay node-name already in use";
            return Err(Error::invalid("snapshot-node-name", reason));
        }
        let format = match wanted.format.as_deref() {
            None => DEFAULT_FORMAT,
            Some(format) => format
                .parse()
                .map_err(|_| Error::invalid("format", format!("Unknown file format '{format}'")))?,
        };
        let filename = &wanted.snapshot_file;
        match wanted.mode.unwrap_or(NewImageMode::AbsolutePaths) {
            NewImageMode::Existing => {}
            NewImageMode::AbsolutePaths => self.create_overlay(&old, filename, format).await?,
        }
        let mut options = self.layer().image_options(filename, format)?;
        self.as_open_as(&old, &mut options);
        options.node_name = name.map(str::to_owned);
        let overlay = self.open(options, Inherited::without_backing()).await?;
        self.put_over(&old, overlay).await
    }

    /// The action `blockdev-snapshot`.
    pub(crate) async fn snapshot(&mut self, wanted: &types::BlockdevOverlay) -> Result<()> {
        let lookup = |name: &str| {
            let found = self.place(name).and_then(|id| self.node(id).ok());
            found.ok_or_else(|| {
                let reason = format!("Cannot find device='{name}' nor node-name='{name}'");
                Error::invalid("node", reason)
            })
        };
        let old = lookup(&wanted.node)?;
        old.check_unblocked()?;
        self.draft().graph().check_no_overlay(old.id())?;
        let overlay = lookup(&wanted.overlay)?;
        overlay.check_unblocked()?;
        self.put_over(&old, overlay.id()).await
    }

    async fn create_overlay(
        &self,
        old: &Node,
        filename: &str,
        format: BlockdevDriver,
    ) -> Result<()> {
        let (size, backing) = {
            let draft = self.draft();
            let graph = draft.graph();
            let Some(index) = graph.index_of(old.id()) else {
                return Err(Error::ShutDown);
            };
            (graph.len(index), backing_name(graph, index)?)
        };
        if is_same_file(&backing.filename, filename) {
            let reason = "Error: Trying to create an image with the same filename as the backing \
                          file";
            return Err(Error::invalid("snapshot-file", reason));
        }
        let image = NewImage {
            filename: filename.to_owned(),
            format,
            size,
            backing: Some(backing),
        };
        self.layer().create_image(self.queue(), image).await
    }

    /// Lets an overlay reach its file as the image below does.
    fn as_open_as(&self, old: &Node, options: &mut BlockdevOptions) {
        let facts = old.facts();
        options.read_only = Some(facts.read_only);
        options.cache = Some(BlockdevCacheOptions {
            writeback: Some(facts.cache.writeback),
            direct: Some(facts.cache.direct),
            no_flush: Some(facts.cache.no_flush),
        });
        if facts.discard_unmap {
            options.discard = Some(BlockdevDiscardOptions::Unmap);
        }
        let draft = self.draft();
        let graph = draft.graph();
        let top = graph.index_of(old.id());
        let mut chain = std::iter::successors(top, |&index| graph.primary(index));
        let aio = chain.find_map(|index| Some(graph.entry(index).node.driver().leaf()?.aio()));
        options.aio = match aio {
            Some(Aio::IoUring) => Some(BlockdevAioOptions::IoUring),
            // The kernel's own queue works past the page cache alone.
            Some(Aio::Native) if facts.cache.direct => Some(BlockdevAioOptions::Native),
            Some(Aio::Native | Aio::Threads) | None => None,
        };
    }

    /// Swaps a node and its overlay, at one point in time.
    async fn put_over(&mut self, old: &Node, overlay: NodeId) -> Result<()> {
        let refuse = |reason: &str| Err(Error::invalid("overlay", reason));
        let node = self.node(overlay)?;
        if self.use_of(overlay)?.need.contains(Perm::CONSISTENT_READ) {
            return refuse("The overlay is already in use");
        }
        {
            let draft = self.draft();
            let graph = draft.graph();
            let entry = graph.index_of(overlay).map(|index| graph.entry(index));
            let edges = entry.map_or(&[][..], |entry| &entry.edges);
            let filters = edges.iter().any(|edge| edge.role == Role::Filtered);
            if filters && node.driver().format_name() != "raw" {
                return refuse("Filters cannot be used as overlays");
            }
            if edges.iter().any(|edge| edge.role == Role::Cow) {
                return refuse("The overlay already has a backing image");
            }
        }
        if !node.driver().supports_backing() {
            return refuse("The overlay does not support backing images");
        }
        self.drain(old.id()).await;
        if !old.is_read_only() {
            let below = self.child(old.id())?;
            let flushed = old.driver().flush(&below.cx()).await;
            flushed.map_err(|error| write_failed(old, error))?;
        }
        self.cover(old.id(), overlay)
    }
}

fn write_failed(node: &Node, error: Error) -> Error {
    let why = match error {
        Error::Io { source, .. } => kernel_text(&source),
        error => error.chain(),
    };
    let reason = format!("Write to node '{}' failed: {why}", node.name());
    Error::invalid("node-name", reason)
}

/// What an overlay in any folder says about the image below.
///
/// # Errors
/// `InvalidOption` when no name stands for it.
fn backing_name(graph: &Graph, index: NodeIndex) -> Result<BackingName> {
    let node = &graph.entry(index).node;
    let mut named = index;
    // A filter's bytes are its child's.
    while let Some(edge) = graph
        .entry(named)
        .edges
        .iter()
        .find(|e| e.role == Role::Filtered)
        && graph.entry(named).node.driver().shifted_child().is_some()
    {
        named = edge.child;
    }
    let image = &graph.entry(named).node;
    let is_window = image.driver().format_name() == "raw";
    let filename = &image.facts().filename;
    if filename.is_empty() || is_window {
        let reason = format!(
            "Node '{}' has no file name that an overlay could hold",
            node.name()
        );
        return Err(Error::invalid("mode", reason));
    }
    let path = filename.strip_prefix("file:").unwrap_or(filename);
    let filename = match protocol_of(filename) {
        None | Some("file") => match absolute(Path::new(path)) {
            Ok(path) => path.to_string_lossy().into_owned(),
            Err(source) => {
                let path = path.to_owned();
                return Err(Error::Open { path, source });
            }
        },
        Some(_) => filename.clone(),
    };
    Ok(BackingName {
        filename,
        format: Some(format_of(image)),
    })
}

fn is_same_file(one: &str, other: &str) -> bool {
    let path = |name: &str| {
        let name = name.strip_prefix("file:").unwrap_or(name);
        Path::new(name).canonicalize().ok()
    };
    one == other || path(one).is_some_and(|one| path(other) == Some(one))
}
