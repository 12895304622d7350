//! Commands that take and delete internal snapshots.
//! Called by [`Commands`](super::Commands). Not here: what an image does then (the drivers).

use std::time::SystemTime;

use block_schema::commands;
use block_schema::types::SnapshotInfo;

use crate::driver::{SnapshotChange, SnapshotKey};
use crate::error::{Error, Result};
use crate::graph::{Node, NodeId};
use crate::layer::Layer;
use crate::queue::LocalQueue;

/// Bytes of a name at most; longer ones are cut.
const MAX_NAME: usize = 255;

pub(super) async fn take(
    queue: &LocalQueue,
    arguments: commands::BlockdevSnapshotInternalSync,
) -> Result<()> {
    let commands::BlockdevSnapshotInternalSync { device, name } = arguments;
    let (node, snapshots) = image(queue.layer(), &device, |node| {
        let format = node.driver().format_name();
        if node.is_read_only() {
            return Err(refused(format!("Device '{device}' is read only")));
        }
        Ok((format, node.driver().describe().snapshots))
    })?;
    let (format, snapshots) = snapshots;
    if name.is_empty() {
        return Err(Error::invalid("name", "Name is empty"));
    }
    if snapshots.iter().any(|snapshot| snapshot.name == name) {
        return Err(refused(format!(
            "Snapshot with name '{name}' already exists on device '{device}'"
        )));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let info = SnapshotInfo {
        id: String::new(),
        name: name[..name.floor_char_boundary(MAX_NAME)].to_owned(),
        vm_state_size: 0,
        date_sec: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        date_nsec: i64::from(now.subsec_micros()) * 1000,
        vm_clock_sec: 0,
        vm_clock_nsec: 0,
        icount: None,
    };
    let change = SnapshotChange::Create(info);
    match queue.layer().snapshot(queue, node, change).await {
        Ok(_) => Ok(()),
        Err(Error::Unsupported { .. }) => Err(refused(format!(
            "Block format '{format}' used by device '{device}' does not support internal snapshots"
        ))),
        Err(error) => Err(error),
    }
}

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
