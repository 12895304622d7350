//! Files that jobs copy to, as `drive-mirror` and `drive-backup` name them.
//!
//! Not here: making a file (`graph/create`), how a target is opened (each job's `drive`).

use block_schema::types::BlockdevDriver;

use crate::error::{Error, Result};
use crate::graph::open::probe_bytes;
use crate::layer::Layer;
use crate::queue::LocalQueue;

/// The format of a name.
///
/// # Errors
/// `InvalidOption` for an unknown one.
pub(super) fn driver_named(format: &str) -> Result<BlockdevDriver> {
    format.parse().map_err(|_| {
        let reason = format!("Unknown driver '{format}'");
        Error::invalid("format", reason)
    })
}

/// The format that a file that is there tells of itself.
///
/// # Errors
/// `InvalidOption` for a raw one: what a guest writes there may look like an image later; what
/// opening and reading it answers.
pub(super) async fn told_by_file(
    layer: &Layer,
    queue: &LocalQueue,
    filename: &str,
) -> Result<BlockdevDriver> {
    let mut options = layer.image_options(filename, BlockdevDriver::Raw)?;
    options.read_only = Some(true);
    let id = layer.blockdev_add_unnamed(queue, options).await?;
    // Nothing of the graph is held when the node goes.
    let head = match layer.node(queue, id) {
        Ok(node) => probe_bytes(&node).await,
        Err(error) => Err(error),
    };
    layer.remove_node(queue, id).await?;
    match layer.registry().probe(&head?) {
        BlockdevDriver::Raw => {
            let reason = format!("The format of '{filename}' must be given if it is raw");
            Err(Error::invalid("format", reason))
        }
        format => Ok(format),
    }
}
