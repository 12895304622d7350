//! Commands about objects that are no nodes.

use block_schema::commands;

use crate::error::{Error, Result};
use crate::queue::LocalQueue;

pub(super) async fn add(queue: &LocalQueue, arguments: commands::ObjectAdd) -> Result<()> {
    let layer = queue.layer().clone();
    let id = arguments.0.id.clone();
    // A secret may be in a file.
    let added = queue.blocking(move || Ok(layer.secrets().add_object(arguments.0)));
    match added.await {
        Ok(added) => added,
        Err(source) => Err(Error::Open { path: id, source }),
    }
}

pub(super) fn del(queue: &LocalQueue, arguments: &commands::ObjectDel) -> Result<()> {
    queue.layer().secrets().remove(&arguments.id)
}
