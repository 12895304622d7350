//! The command that deletes internal snapshots.
//! Called by [`Commands`](super::Commands). Not here: what an image does then (the drivers).

use block_schema::commands;
use block_schema::types::SnapshotInfo;

use crate::driver::{SnapshotChange, SnapshotKey};
use crate::error::{Error, Result};
use crate::graph::{Node, NodeId};
use crate::layer::Layer;
use crate::queue::LocalQueue;

pub(super) async fn delete(
    queue: &LocalQueue,
    arguments: commands::BlockdevSnapshotDeleteInternalSync,
) -> Result<SnapshotInfo> {
    let commands::BlockdevSnapshotDeleteInternalSync { device, id, name } = arguments;
    let key = SnapshotKey { id, name };
    let (node, ()) = image(queue.layer(), &device, |_| Ok(()))?;
    if key == SnapshotKey::default() {
        return Err(Error::invalid("name", "Name or id must be provided"));
    }
    let shown = |word: &Option<String>| word.clone().unwrap_or_else(|| "null".to_owned());
    let (id, name) = (shown(&key.id), shown(&key.name));
    let change = SnapshotChange::Delete(key);
    match queue.layer().snapshot(queue, node, change).await {
        Err(Error::InvalidOption { .. }) => Err(refused(format!(
            "Snapshot with id '{id}' and name '{name}' does not exist on device '{device}'"
        ))),
        Err(Error::Unsupported { .. }) => Err(refused(
            "Failed to get a snapshot list: Operation not supported".to_owned(),
        )),
        answer => answer,
    }
}

/// The node of a device, or of a node's name, and what `look` sees there.
fn image<T>(
    layer: &Layer,
    device: &str,
    look: impl FnOnce(&Node) -> Result<T>,
) -> Result<(NodeId, T)> {
    let graph = layer.graph();
    let index = match layer.backend(device) {
        Some(backend) => graph.index_of(backend.root()),
        None => graph.find(device),
    };
    let Some(index) = index else {
        return Err(refused(format!(
            "Cannot find device='{device}' nor node-name='{device}'"
        )));
    };
    let node = &graph.entry(index).node;
    Ok((node.id(), look(node)?))
}

fn refused(reason: String) -> Error {
    Error::invalid("device", reason)
}
