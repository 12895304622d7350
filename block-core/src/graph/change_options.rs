//! `blockdev-reopen` and `change-backing-file`: other options for open nodes, another name in an
//! open image.
//!
//! Called with the commands' generated types. How a node is opened again is in `reopen.rs`; here is
//! who may be, and what QEMU's clients hear when not.

use block_schema::commands::{BlockdevReopen, ChangeBackingFile};
use block_schema::types::BlockdevOptions;

use crate::driver::BackingName;
use crate::error::{Error, Result, kernel_text};
use crate::graph::perm::Role;
use crate::graph::reopen::Reopening;
use crate::graph::{Graph, Node, NodeId, NodeIndex};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

impl Layer {
    /// Opens nodes again with other options: all of them, or none. Returns when the files that were
    /// replaced are closed, as [`set_read_only`](Layer::set_read_only) does.
    ///
    /// # Errors
    /// `InvalidOption` when a node is not there, was made by hand, or cannot get such options; what
    /// opening answers.
    pub async fn blockdev_reopen(
        &self,
        queue: &LocalQueue,
        arguments: BlockdevReopen,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let graph = layer.graph();
            let mut wanted: Vec<Reopening> = Vec::new();
            for options in arguments.options {
                let id = reopened(&graph, &options)?;
                if wanted.iter().any(|other| other.id == id) {
                    let reason = "A node can be opened again only once";
                    return Err(Error::invalid("options", reason));
                }
                wanted.push(Reopening::with(&graph, id, options)?);
            }
            drop(graph);
            let version = layer.open_again(&change, &queue, wanted).await?;
            layer.wait_released(version).await;
            Ok(())
        })
        .await
    }

    /// Names another backing file in an image of a device's chain; the one that is open stays open.
    /// An image that is read-only is opened for writing meanwhile.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such image in the chain, or it has no backing file;
    /// `PermissionConflict` while a job uses the chain; what the driver answers.
    pub async fn change_backing_file(
        &self,
        queue: &LocalQueue,
        arguments: ChangeBackingFile,
    ) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let change = layer.change().await;
            let image = layer.image_of_chain(&arguments)?;
            let read_only = layer.node(&queue, image)?.is_read_only();
            let mut version = layer.version();
            if read_only {
                version = layer.change_mode(&change, &queue, image, false).await?;
            }
            let named = layer
                .write_name(&queue, image, &arguments.backing_file)
                .await;
            if read_only {
                version = layer.change_mode(&change, &queue, image, true).await?;
            }
            layer.wait_released(version).await;
            named
        })
        .await
    }

    fn image_of_chain(&self, arguments: &ChangeBackingFile) -> Result<NodeId> {
        let refuse = |reason: String| Err(Error::invalid("image-node-name", reason));
        let graph = self.graph();
        let device = &arguments.device;
        let top = match self.backend(device) {
            Some(backend) => graph.index_of(backend.root()),
            None => graph.find(device),
        };
        let Some(top) = top else {
            let reason = format!("Cannot find device='{device}' nor node-name='{device}'");
            return Err(Error::invalid("device", reason));
        };
        let mut edges = graph.entries().flat_map(|(_, entry)| &entry.edges);
        if edges.any(|edge| edge.child == top) {
            return Err(Error::invalid("device", "Need a root block node"));
        }
        let name = &arguments.image_node_name;
        let image = graph
            .find(name)
            .ok_or_else(|| Error::NodeNotFound { node: name.clone() })?;
        if below(&graph, image).is_none() {
            return refuse(
                "not allowing backing file change on an image without a backing file".to_owned(),
            );
        }
        graph.entry(top).node.check_unblocked()?;
        let mut chain = std::iter::successors(Some(top), |&index| below(&graph, index));
        if !chain.any(|index| index == image) {
            return refuse(format!(
                "'{device}' and image file are not in the same chain"
            ));
        }
        let image = &graph.entry(image).node;
        image.check_unblocked()?;
        Ok(image.id())
    }

    async fn write_name(&self, queue: &LocalQueue, id: NodeId, filename: &str) -> Result<()> {
        let child = self.node(queue, id)?;
        let format = child.backing().map(|backing| format_of(backing.node()));
        let _drained = self.drain(&[id]).await;
        let backing = BackingName {
            filename: filename.to_owned(),
            format,
        };
        let driver = child.node().driver();
        let named = driver.name_backing(&child.cx(), Some(backing)).await;
        named.map_err(|error| {
            let why = match error {
                Error::Io { source, .. } => kernel_text(&source),
                error => error.chain(),
            };
            let reason = format!("Could not change backing file to '{filename}': {why}");
            Error::invalid("backing-file", reason)
        })
    }
}

/// The node that options are for.
fn reopened(graph: &Graph, options: &BlockdevOptions) -> Result<NodeId> {
    let refuse = |option: &str, reason: String| Err(Error::invalid(option, reason));
    if options.id.is_some() {
        return refuse("id", "Parameter 'id' is unexpected".to_owned());
    }
    let Some(name) = &options.node_name else {
        return refuse("node-name", "node-name not specified".to_owned());
    };
    let Some(index) = graph.find(name) else {
        return refuse(
            "node-name",
            format!("Failed to find node with node-name='{name}'"),
        );
    };
    Ok(graph.entry(index).node.id())
}

/// The backing file of an image, or of the image that a filter shows.
fn below(graph: &Graph, index: NodeIndex) -> Option<NodeIndex> {
    let filtered = |&index: &NodeIndex| {
        let mut edges = graph.entry(index).edges.iter();
        let edge = edges.find(|edge| edge.role == Role::Filtered)?;
        Some(edge.child)
    };
    let image = std::iter::successors(Some(index), filtered).last()?;
    graph.backing(image)
}

/// A format as an image names it; the bytes of a file are raw.
pub(super) fn format_of(node: &Node) -> String {
    match node.driver().leaf() {
        Some(_) => "raw".to_owned(),
        None => node.driver().format_name().to_owned(),
    }
}
