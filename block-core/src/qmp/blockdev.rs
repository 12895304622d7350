//! Commands that add and remove nodes.

use std::sync::Arc;

use block_schema::commands;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::layer::Layer;
use crate::queue::LocalQueue;

pub(super) async fn add(queue: &LocalQueue, arguments: commands::BlockdevAdd) -> Result<()> {
    queue.layer().blockdev_add(queue, arguments.options).await?;
    Ok(())
}

pub(super) async fn del(queue: &LocalQueue, arguments: commands::BlockdevDel) -> Result<()> {
    let layer = queue.layer();
    match (arguments.node_name, arguments.id) {
        (Some(name), None) => {
            let id = removable_node(layer, &name)?;
            layer.remove_node(queue, id).await
        }
        (None, Some(id)) => {
            let Some(backend) = layer.backend(&id) else {
                return Err(Error::DeviceNotFound { device: id });
            };
            let root = backend.root();
            check_only_user(layer, &backend)?;
            layer.remove_backend(&backend).await;
            layer.remove_node(queue, root).await
        }
        (Some(_), Some(_)) => Err(exactly_one("id")),
        (None, None) => Err(Error::invalid(
            "node-name",
            "Parameter 'node-name' is missing",
        )),
    }
}

/// The node of a name, when `blockdev-add` made it and nothing uses it.
fn removable_node(layer: &Layer, name: &str) -> Result<NodeId> {
    let refuse = |reason: String| Err(Error::invalid("node-name", reason));
    let graph = layer.graph();
    let Some(index) = graph.find(name) else {
        return refuse(format!("Failed to find node with node-name='{name}'"));
    };
    let node = &graph.entry(index).node;
    if layer.backends().iter().any(|b| b.root() == node.id()) {
        return refuse(format!("Node {name} is in use"));
    }
    graph.check_no_overlay(node.id())?;
    if node.facts().anonymous {
        return refuse(format!("Node {name} is not owned by the monitor"));
    }
    let mut edges = graph.entries().flat_map(|(_, entry)| &entry.edges);
    if edges.any(|edge| edge.child == index) {
        return refuse(format!("Block device {name} is in use"));
    }
    Ok(node.id())
}

/// Checks that a device's node would be free without the device.
fn check_only_user(layer: &Layer, backend: &Arc<Backend>) -> Result<()> {
    let graph = layer.graph();
    let root = graph.index_of(backend.root());
    let shares =
        |other: &Arc<Backend>| other.root() == backend.root() && !Arc::ptr_eq(other, backend);
    let mut edges = graph.entries().flat_map(|(_, entry)| &entry.edges);
    if layer.backends().iter().any(shares) || edges.any(|edge| Some(edge.child) == root) {
        let reason = format!("Block device {} is in use", backend.name());
        return Err(Error::invalid("id", reason));
    }
    Ok(())
}

/// The node of a `node-name`.
pub(super) fn node_named(layer: &Layer, name: &str) -> Option<NodeId> {
    let graph = layer.graph();
    let index = graph.find(name)?;
    Some(graph.entry(index).node.id())
}

fn exactly_one(other: &str) -> Error {
    let reason = format!("Need exactly one of '{other}' and 'node-name'");
    Error::invalid(other, reason)
}
