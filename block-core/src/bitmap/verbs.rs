//! What is done to bitmaps by name: added, removed, cleared, enabled, disabled, merged, shown.
//!
//! Called by tools and by QMP. Each verb drains the node whose bitmaps it changes, so that it
//! happens between two requests. The texts are those that clients of QEMU know.

use std::sync::Arc;

use block_schema::types::BlockDirtyInfo;

use super::{DirtyBitmap, Purpose, State, Taken, check_granularity};
use crate::error::{Error, Result};
use crate::graph::info::{default_granularity, signed};
use crate::graph::{Graph, Node, NodeId};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};

/// A bitmap of a node, both by name; the node may be named by its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapName<'a> {
    /// The node or device.
    pub node: &'a str,
    /// The bitmap.
    pub name: &'a str,
}

/// What a bitmap is when it is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewBitmap {
    /// Bytes a bit stands for; the node's cluster size between 4 and 64 KiB if not given.
    pub granularity: Option<u32>,
    /// Whether it is stored in the image.
    pub persistent: bool,
    /// Whether it starts without tracking.
    pub disabled: bool,
}

impl Layer {
    /// Adds a bitmap to a node.
    ///
    /// # Errors
    /// `InvalidOption` when the name is taken or no name, for a granularity that cannot be, or when
    /// the image cannot store it.
    pub async fn block_dirty_bitmap_add(
        &self,
        bitmap: BitmapName<'_>,
        new: NewBitmap,
    ) -> Result<()> {
        let _change = self.change().await;
        let graph = self.graph();
        let place = find_node(self, &graph, bitmap.node);
        let (node, bitmap) = new.make(&graph, place, bitmap)?;
        let _drained = self.drain(&[node.id()]).await;
        node.bitmaps().add(Arc::new(bitmap));
        Ok(())
    }

    /// Removes a bitmap, from the image too if it is stored there.
    ///
    /// # Errors
    /// `InvalidOption` when there is none, or it is busy or read-only; what the driver answers.
    pub async fn block_dirty_bitmap_remove(
        &self,
        queue: &LocalQueue,
        bitmap: BitmapName<'_>,
    ) -> Result<()> {
        let (node, name) = (bitmap.node.to_owned(), bitmap.name.to_owned());
        shield(queue, async move |layer, queue| {
            let _change = layer.change().await;
            let (node, name) = (node.as_str(), name.as_str());
            let (node, found) = layer.dirty_bitmap(BitmapName { node, name })?;
            found.check(Purpose::Remove)?;
            let _drained = layer.drain(&[node.id()]).await;
            if found.is_persistent() {
                let child = layer.node(&queue, node.id())?;
                let driver = child.node().driver();
                driver.remove_bitmap(&child.cx(), found.name()).await?;
            }
            node.bitmaps().remove(found.name());
            Ok(())
        })
        .await
    }

    /// Forgets what is dirty.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such bitmap, or it cannot be changed.
    pub async fn block_dirty_bitmap_clear(&self, bitmap: BitmapName<'_>) -> Result<()> {
        let _change = self.change().await;
        let (node, found) = self.dirty_bitmap(bitmap)?;
        found.check(Purpose::Change)?;
        let _drained = self.drain(&[node.id()]).await;
        found.clear();
        Ok(())
    }

    /// Lets a bitmap track writes from now on.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such bitmap, or it cannot be used.
    pub async fn block_dirty_bitmap_enable(&self, bitmap: BitmapName<'_>) -> Result<()> {
        self.set_tracking(bitmap, true).await
    }

    /// Lets a bitmap track writes no longer.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such bitmap, or it cannot be used.
    pub async fn block_dirty_bitmap_disable(&self, bitmap: BitmapName<'_>) -> Result<()> {
        self.set_tracking(bitmap, false).await
    }

    async fn set_tracking(&self, bitmap: BitmapName<'_>, enabled: bool) -> Result<()> {
        let _change = self.change().await;
        let (node, found) = self.dirty_bitmap(bitmap)?;
        found.check(Purpose::Use)?;
        let _drained = self.drain(&[node.id()]).await;
        found.set_enabled(enabled);
        Ok(())
    }

    /// Sets in `target` what is dirty in each of `sources`: all of them, or on an error none.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such bitmap, one cannot be used, or lengths differ.
    pub async fn block_dirty_bitmap_merge(
        &self,
        target: BitmapName<'_>,
        sources: &[BitmapName<'_>],
    ) -> Result<()> {
        let _change = self.change().await;
        let (node, into) = self.dirty_bitmap(target)?;
        let mut nodes = vec![node.id()];
        let mut from = Vec::new();
        for &source in sources {
            let (node, bitmap) = self.dirty_bitmap(source)?;
            into.check_merge(&bitmap)?;
            nodes.push(node.id());
            from.push(bitmap);
        }
        let _drained = self.drain(&nodes).await;
        for source in from {
            into.merge(&source);
        }
        Ok(())
    }

    /// Takes what is dirty, for a copy of it: writes from now on are in the bitmap, all before in
    /// the answer, which puts it back unless it is committed.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such bitmap, or it cannot be changed.
    pub async fn take_dirty_bitmap(&self, bitmap: BitmapName<'_>) -> Result<Taken> {
        let _change = self.change().await;
        let (node, found) = self.dirty_bitmap(bitmap)?;
        let _drained = self.drain(&[node.id()]).await;
        found.take()
    }

    /// A bitmap and its node, by their names.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such node or bitmap.
    pub fn dirty_bitmap(&self, bitmap: BitmapName<'_>) -> Result<(Arc<Node>, Arc<DirtyBitmap>)> {
        let graph = self.graph();
        bitmap.find(&graph, find_node(self, &graph, bitmap.node))
    }

    /// Checks that bitmaps of a node, and of those above it, allow its length to change.
    ///
    /// # Errors
    /// `InvalidOption` when one is busy, or would take too much memory.
    pub(crate) fn check_bitmaps_resize(&self, id: NodeId, len: u64) -> Result<()> {
        for (node, _) in self.above(id) {
            for bitmap in node.bitmaps().all().iter() {
                bitmap.check_resize(len)?;
            }
        }
        Ok(())
    }

    /// Lets the bitmaps of a node, and of those above it, follow a change of its length, drained.
    ///
    /// # Errors
    /// `InvalidOption` without memory for a longer bitmap.
    pub(crate) fn bitmaps_follow_resize(&self, id: NodeId) -> Result<()> {
        for (node, len) in self.above(id) {
            node.bitmaps().follow(len)?;
        }
        Ok(())
    }

    /// Lets them follow a change of anything in the node, drained.
    ///
    /// # Errors
    /// `InvalidOption` without memory for a longer bitmap.
    pub(crate) fn bitmaps_follow_change(&self, id: NodeId) -> Result<()> {
        for (node, len) in self.above(id) {
            node.bitmaps().follow_all(len)?;
        }
        Ok(())
    }

    /// A node and all above it, with their lengths now.
    fn above(&self, id: NodeId) -> Vec<(Arc<Node>, u64)> {
        let graph = self.graph();
        let entries = graph.entries();
        let above = entries.filter(|(_, entry)| graph.reaches(entry.node.id(), id));
        above
            .map(|(index, entry)| (Arc::clone(&entry.node), graph.len(index)))
            .collect()
    }
}

fn find_node(layer: &Layer, graph: &Graph, name: &str) -> Option<NodeId> {
    match layer.backend(name) {
        Some(backend) => Some(backend.root()),
        None => graph.find(name).map(|index| graph.entry(index).node.id()),
    }
}

impl NewBitmap {
    /// Makes it for a node of a graph, if that is there.
    ///
    /// # Errors
    /// As [`Layer::block_dirty_bitmap_add`].
    pub(crate) fn make(
        self,
        graph: &Graph,
        place: Option<NodeId>,
        bitmap: BitmapName<'_>,
    ) -> Result<(Arc<Node>, DirtyBitmap)> {
        let BitmapName { node, name } = bitmap;
        if name.is_empty() {
            return Err(Error::invalid("name", "Bitmap name cannot be empty"));
        }
        let Some(index) = place.and_then(|id| graph.index_of(id)) else {
            let reason = format!("Cannot find device='{node}' nor node-name='{node}'");
            return Err(Error::invalid("node", reason));
        };
        let node = &graph.entry(index).node;
        let granularity = match self.granularity {
            Some(granularity) => granularity,
            None => default_granularity(graph, index),
        };
        let state = State {
            enabled: !self.disabled,
            persistent: self.persistent,
            ..State::default()
        };
        check_granularity(granularity)?;
        if node.bitmaps().find(name).is_some() {
            let reason = format!("Bitmap already exists: {name}");
            return Err(Error::invalid("name", reason));
        }
        if self.persistent {
            node.driver().check_new_bitmap(node, name, granularity)?;
        }
        let bitmap = DirtyBitmap::new(name, granularity, graph.len(index), state)?;
        Ok((Arc::clone(node), bitmap))
    }
}

impl BitmapName<'_> {
    /// Finds it at a node of a graph, if that is there.
    ///
    /// # Errors
    /// `InvalidOption` when there is no such node or bitmap.
    pub(crate) fn find(
        self,
        graph: &Graph,
        place: Option<NodeId>,
    ) -> Result<(Arc<Node>, Arc<DirtyBitmap>)> {
        let Some(index) = place.and_then(|id| graph.index_of(id)) else {
            let reason = format!("Node '{}' not found", self.node);
            return Err(Error::invalid("node", reason));
        };
        let node = Arc::clone(&graph.entry(index).node);
        let Some(found) = node.bitmaps().find(self.name) else {
            let reason = format!("Dirty bitmap '{}' not found", self.name);
            return Err(Error::invalid("name", reason));
        };
        Ok((node, found))
    }
}

/// The bitmaps of a node as queries show them; `None` when it has none.
pub(crate) fn shown(node: &Node) -> Option<Vec<BlockDirtyInfo>> {
    let info = |bitmap: &Arc<DirtyBitmap>| BlockDirtyInfo {
        count: signed(bitmap.count()),
        granularity: i64::from(bitmap.granularity()),
        name: Some(bitmap.name().to_owned()),
        recording: Some(bitmap.is_enabled()),
        busy: Some(bitmap.is_busy()),
        persistent: Some(bitmap.is_persistent()),
        inconsistent: bitmap.is_inconsistent().then_some(true),
    };
    let all = node.bitmaps().all();
    (!all.is_empty()).then(|| all.iter().rev().map(info).collect())
}
