//! A device's chain of images, as the commands of jobs name its parts.

use std::path::Path;
use std::sync::Arc;

use crate::driver::BackingName;
use crate::error::{Error, Result};
use crate::graph::perm::Role;
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

    /// The name of a job: the one given, or the device's. A node without a device has none to lend.
    pub(super) fn job_id(&self, layer: &Layer, given: Option<String>) -> String {
        given
            .or_else(|| device_of(layer, self.active()))
            .unwrap_or_default()
    }

    /// Whether the image is another one's backing file.
    pub(super) fn has_overlay(&self, layer: &Layer) -> bool {
        let graph = layer.graph();
        let active = graph.index_of(self.active().id());
        let mut edges = graph.entries().flat_map(|(_, entry)| &entry.edges);
        edges.any(|edge| Some(edge.child) == active && edge.role == Role::Cow)
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
        // What an image names counts where that is what was opened, and nothing in its place.
        let as_named = |pair: &[Arc<Node>]| {
            let above = &pair[0];
            let backing = above.driver().describe().backing;
            let beside = Path::new(&above.facts().filename).with_file_name(name);
            backing.is_some_and(|backing| backing.filename == name)
                && beside.canonicalize().ok() == path(&pair[1].facts().filename)
        };
        let above = self.0.windows(2).position(as_named)?;
        Some(above + 1)
    }
}

/// What a stream leaves below the image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lower<'a> {
    Nothing,
    /// An image by its file's name.
    Base(&'a str),
    /// An image by its node's name.
    BaseNode(&'a str),
    /// What is below a node.
    BelowNode(&'a str),
}

impl<'a> Lower<'a> {
    /// # Errors
    /// `InvalidOption` when it is said twice.
    pub(super) fn of(
        base: Option<&'a str>,
        base_node: Option<&'a str>,
        bottom: Option<&'a str>,
    ) -> Result<Lower<'a>> {
        let twice = |one: &str, other: &str| {
            let reason = format!("'{one}' and '{other}' cannot be specified at the same time");
            Err(Error::invalid(one, reason))
        };
        match (base, base_node, bottom) {
            (Some(_), Some(_), _) => twice("base", "base-node"),
            (Some(_), None, Some(_)) => twice("base", "bottom"),
            (None, Some(_), Some(_)) => twice("bottom", "base-node"),
            (Some(base), None, None) => Ok(Lower::Base(base)),
            (None, Some(base), None) => Ok(Lower::BaseNode(base)),
            (None, None, Some(bottom)) => Ok(Lower::BelowNode(bottom)),
            (None, None, None) => Ok(Lower::Nothing),
        }
    }

    /// Where it is in the chain of a device; nothing where nothing is left below.
    ///
    /// # Errors
    /// `InvalidOption` when it is not in the chain; `NodeNotFound`.
    pub(super) fn find(self, layer: &Layer, chain: &Chain, device: &str) -> Result<Option<usize>> {
        match self {
            Lower::Nothing => Ok(None),
            Lower::Base(file) => chain.backing_file(file, 0).map(Some),
            Lower::BaseNode(name) => match chain.node_named(layer, name)? {
                Some(depth) if depth > 0 => Ok(Some(depth)),
                Some(_) | None => {
                    let reason = format!("Node '{name}' is not a backing image of '{device}'");
                    Err(Error::invalid("base-node", reason))
                }
            },
            Lower::BelowNode(name) => match chain.node_named(layer, name)? {
                Some(depth) => Ok(Some(depth + 1).filter(|&base| base < chain.0.len())),
                None => {
                    let reason =
                        format!("Node '{name}' is not in a chain starting from '{device}'");
                    Err(Error::invalid("bottom", reason))
                }
            },
        }
    }
}

impl Chain {
    /// Where an image below `above` is, by its file's name.
    ///
    /// # Errors
    /// `InvalidOption` when it is not there.
    pub(super) fn backing_file(&self, file: &str, above: usize) -> Result<usize> {
        let depth = self.depth_of(file).filter(|&depth| depth > above);
        depth.ok_or_else(|| {
            let reason = format!("Can't find '{file}' in the backing chain");
            Error::invalid("base", reason)
        })
    }

    /// Where a node is, if it is in the chain.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub(super) fn node_named(&self, layer: &Layer, name: &str) -> Result<Option<usize>> {
        if layer.graph().find(name).is_none() {
            let node = name.to_owned();
            return Err(Error::NodeNotFound { node });
        }
        Ok(self.0.iter().position(|node| node.name() == name))
    }
}

/// Lets a name say `raw` as the format of a node that is no format: its bytes are the disk's.
pub(super) fn mask_protocol(graph: &Graph, node: &Node, name: &mut BackingName) {
    let index = graph.index_of(node.id());
    if index.is_some_and(|index| graph.primary(index).is_none()) {
        name.format = Some("raw".to_owned());
    }
}

/// The device whose root a node is.
pub(super) fn device_of(layer: &Layer, node: &Node) -> Option<String> {
    let backends = layer.backends();
    let mut devices = backends.iter().filter(|b| !b.name().is_empty());
    let device = devices.find(|b| b.root() == node.id())?;
    Some(device.name().to_owned())
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
