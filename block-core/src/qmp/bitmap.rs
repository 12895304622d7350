//! Commands about dirty bitmaps; the work is done by the layer's verbs of the same names.

use block_schema::commands;
use block_schema::types::{BlockDirtyBitmap, BlockDirtyBitmapOrStr};

use crate::bitmap::{BitmapName, NewBitmap};
use crate::error::Result;
use crate::layer::Layer;
use crate::queue::LocalQueue;

pub(super) async fn add(layer: &Layer, arguments: commands::BlockDirtyBitmapAdd) -> Result<()> {
    let arguments = arguments.0;
    let bitmap = BitmapName {
        node: &arguments.node,
        name: &arguments.name,
    };
    let new = NewBitmap {
        granularity: arguments.granularity,
        persistent: arguments.persistent.unwrap_or(false),
        disabled: arguments.disabled.unwrap_or(false),
    };
    layer.block_dirty_bitmap_add(bitmap, new).await
}

pub(super) async fn remove(queue: &LocalQueue, bitmap: &BlockDirtyBitmap) -> Result<()> {
    let layer = queue.layer();
    layer.block_dirty_bitmap_remove(queue, named(bitmap)).await
}

pub(super) async fn clear(layer: &Layer, bitmap: &BlockDirtyBitmap) -> Result<()> {
    layer.block_dirty_bitmap_clear(named(bitmap)).await
}

pub(super) async fn enable(layer: &Layer, bitmap: &BlockDirtyBitmap) -> Result<()> {
    layer.block_dirty_bitmap_enable(named(bitmap)).await
}

pub(super) async fn disable(layer: &Layer, bitmap: &BlockDirtyBitmap) -> Result<()> {
    layer.block_dirty_bitmap_disable(named(bitmap)).await
}

pub(super) async fn merge(layer: &Layer, arguments: commands::BlockDirtyBitmapMerge) -> Result<()> {
    let arguments = arguments.0;
    let node = arguments.node.as_str();
    let source = |source: &'_ BlockDirtyBitmapOrStr| match source {
        BlockDirtyBitmapOrStr::Local(name) => (node.to_owned(), name.clone()),
        BlockDirtyBitmapOrStr::External(other) => (other.node.clone(), other.name.clone()),
    };
    let sources: Vec<(String, String)> = arguments.bitmaps.iter().map(source).collect();
    let sources: Vec<BitmapName<'_>> = sources
        .iter()
        .map(|(node, name)| BitmapName { node, name })
        .collect();
    let target = BitmapName {
        node,
        name: &arguments.target,
    };
    layer.block_dirty_bitmap_merge(target, &sources).await
}

fn named(bitmap: &BlockDirtyBitmap) -> BitmapName<'_> {
    BitmapName {
        node: &bitmap.node,
        name: &bitmap.name,
    }
}
