//! A device's chain of images, as the commands of jobs name its parts.

use std::path::Path;
use std::sync::Arc;

use crate::driver::BackingName;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, NodeId};
use crate::layer::Layer;

/// The images of a chain, the active one first.
pub(super) struct Chain(Vec<Arc<Node>>);

impl Chain {
    /// The chain of a device, or of a node.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub(super) fn of(layer: &Layer, device: &str) -> Result<Chain> {
        let graph = layer.graph();
        let top = match layer.backend(device) {
            Some(backend) => graph.index_of(backend.root()),
            None => graph.find(device),
        };
        let Some(top) = top else {
            return Err(Error::DeviceNotFound {
                device: device.to_owned(),
            });
        };
        let images = std::iter::successors(Some(top), |&index| graph.backing(index));
        let node = |index| Arc::clone(&graph.entry(index).node);
        Ok(Chain(images.map(node).collect()))
    }

    /// All images, the active one first.
    pub(super) fn images(&self) -> &[Arc<Node>] {
        &self.0
    }

    /// The image that guests write.
    pub(super) fn active(&self) -> &Arc<Node> {
        &self.0[0]
    }

    /// How many backing files below the active image one is, by its file's name: as it was opened,
    /// as the image above names it, or by another spelling of the same path.
    pub(super) fn depth_of(&self, name: &str) -> Option<usize> {
        let path = |name: &str| Path::new(name).canonicalize().ok();
        let wanted = path(name);
        let as_opened = |node: &Arc<Node>| {
            let filename = &node.facts().filename;
            filename == name || wanted.is_some() && path(filename) == wanted
        };
        if let Some(depth) = self.0.iter().position(as_opened) {
            return Some(depth);
        }
        let as_named = |node: &Arc<Node>| {
            let backing = node.driver().describe().backing;
            backing.is_some_and(|backing| backing.filename == name)
        };
        let above = self.0.iter().position(as_named)?;
        (above + 1 < self.0.len()).then_some(above + 1)
    }
}

/// How a command names the image at the lower end.
pub(super) struct BaseName<'a> {
    pub(super) file: Option<&'a str>,
    pub(super) node: Option<&'a str>,
}

impl Chain {
    /// Where the image at the lower end is, at or below `from`; nothing when it is not named.
    ///
    /// # Errors
    /// `InvalidOption` when it is named twice, or is not in the chain; `NodeNotFound`.
    pub(super) fn base(
        &self,
        layer: &Layer,
        base: &BaseName<'_>,
        from: usize,
    ) -> Result<Option<usize>> {
        match (base.file, base.node) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Error::invalid(
                "base",
                "'base' and 'base-node' cannot be specified at the same time",
            )),
            (Some(file), None) => match self.depth_of(file).filter(|&depth| depth >= from) {
                Some(depth) => Ok(Some(depth)),
                None => {
                    let reason = format!("Can't find '{file}' in the backing chain");
                    Err(Error::invalid("base", reason))
                }
            },
            (None, Some(name)) => {
                let depth = self.0.iter().position(|node| node.name() == name);
                if let Some(depth) = depth.filter(|&depth| depth >= from) {
                    return Ok(Some(depth));
                }
                if layer.graph().find(name).is_none() {
                    let node = name.to_owned();
                    return Err(Error::NodeNotFound { node });
                }
                let active = self.active().name();
                let reason = format!("Node '{name}' is not a backing image of '{active}'");
                Err(Error::invalid("base-node", reason))
            }
        }
    }
}

/// What an image says about a node that becomes its backing file.
pub(super) fn name_of(node: &Node, given: Option<String>) -> BackingName {
    BackingName {
        filename: given.unwrap_or_else(|| node.facts().filename.clone()),
        format: Some(node.driver().format_name().to_owned()),
    }
}

/// Checks that images are used by the chain above them alone: their content is about to change for
/// everybody else. An image that nobody uses does not count.
///
/// # Errors
/// `PermissionConflict`, naming the image.
pub(super) fn check_only_chain(layer: &Layer, graph: &Graph, images: &[Arc<Node>]) -> Result<()> {
    let users = layer.backends();
    let is_used = |parent: NodeId| {
        let mut roots = users.iter().map(|user| user.root());
        roots.any(|root| graph.index_of(root).is_some() && graph.reaches(root, parent))
    };
    for node in images {
        let Some(index) = graph.index_of(node.id()) else {
            continue;
        };
        let parents = graph.entries().map(|(_, entry)| entry);
        let parents = parents.filter(|entry| entry.edges.iter().any(|edge| edge.child == index));
        if parents.filter(|entry| is_used(entry.node.id())).count() > 1 {
            let name = node.name();
            return Err(Error::PermissionConflict {
                node: name.to_owned(),
                reason: format!("Node '{name}' is busy: another image needs it as it is"),
            });
        }
    }
    Ok(())
}
