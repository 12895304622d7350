//! Commands about exports; the work is done by [`Exports`].

use std::rc::Rc;

use block_schema::commands;
use block_schema::types::{
    BlockDirtyBitmapOrStr, BlockExportOptions, BlockExportOptionsBranch, BlockExportOptionsNbd,
    BlockExportRemoveMode, BlockExportType,
};

use super::Daemon;
use super::blockdev::node_named;
use crate::error::{Error, Result};
use crate::export::Exports;

/// The older way to add an export: its name is its id, and a device may be named too.
pub(super) async fn nbd_add(daemon: &Daemon, arguments: commands::NbdServerAdd) -> Result<()> {
    let layer = daemon.queue().layer();
    let device = arguments.device;
    let by_backend = layer.backend(&device).map(|backend| backend.root());
    let graph = layer.graph();
    let found = by_backend
        .or_else(|| node_named(layer, &device))
        .and_then(|id| graph.index_of(id));
    let Some(index) = found else {
        let reason = format!("Cannot find device='{device}' nor node-name='{device}'");
        return Err(Error::invalid("device", reason));
    };
    let node = &graph.entry(index).node;
    let name = arguments.name.unwrap_or(device);
    let nbd = BlockExportOptionsNbd {
        name: Some(name.clone()),
        description: arguments.description,
        bitmaps: arguments
            .bitmap
            .map(|bitmap| vec![BlockDirtyBitmapOrStr::Local(bitmap)]),
    };
    let mut options = BlockExportOptions::new(
        BlockExportOptionsBranch::Nbd(nbd),
        name,
        node.name().to_owned(),
    );
    // Unlike `block-export-add`, this serves a read-only node read-only whatever was asked for.
    options.writable = Some(arguments.writable.unwrap_or(false) && !node.is_read_only());
    drop(graph);
    daemon.exports().add(&options).await
}

pub(super) fn nbd_remove(
    exports: &Rc<Exports>,
    arguments: &commands::NbdServerRemove,
) -> Result<()> {
    match exports.kind(&arguments.name) {
        None | Some(BlockExportType::Nbd) => {}
    }
    let mode = arguments.mode.unwrap_or(BlockExportRemoveMode::Safe);
    exports.remove(&arguments.name, mode)
}

pub(super) fn del(exports: &Rc<Exports>, arguments: &commands::BlockExportDel) -> Result<()> {
    let mode = arguments.mode.unwrap_or(BlockExportRemoveMode::Safe);
    exports.remove(&arguments.id, mode)
}
