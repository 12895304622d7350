//! What there is to tell about the image of a node: the schema's `ImageInfo`.
//!
//! Called by queries of QMP and by `info`. Puts together what the driver says of its image, what
//! the graph knows of names and backing files, and what the file system knows of sizes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use block_schema::types::{BlockChildInfo, ImageInfo};

use crate::driver::{Description, Pending};
use crate::engine::{Leaf, LeafFile};
use crate::error::{Error, Result};
use crate::graph::perm::Role;
use crate::graph::policy::protocol_of;
use crate::graph::{Graph, NodeIndex};
use crate::queue::LocalQueue;

/// Which images below a node are told of, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// None.
    Nothing,
    /// The backing chain, as `backing-image`.
    Backing,
    /// Every child, as `children`.
    Children,
}

/// The image of a node.
///
/// # Errors
/// What the file system says about a file's size.
pub fn image_info<'a>(
    queue: &'a LocalQueue,
    graph: &'a Graph,
    index: NodeIndex,
    below: Below,
) -> Pending<'a, ImageInfo> {
    Box::pin(async move {
        let entry = graph.entry(index);
        let mut info = own_info(queue, graph, index).await?;
        match below {
            Below::Nothing => {}
            Below::Backing => {
                if let Some(backing) = graph.backing(index) {
                    let backing = image_info(queue, graph, backing, below).await?;
                    info.backing_image = Some(Box::new(backing));
                }
            }
            Below::Children => {
                let mut children = Vec::new();
                for edge in &entry.edges {
                    children.push(BlockChildInfo {
                        name: edge.name.clone(),
                        info: image_info(queue, graph, edge.child, below).await?,
                    });
                }
                info.children = Some(children);
            }
        }
        Ok(info)
    })
}

/// What a node tells of itself.
async fn own_info(queue: &LocalQueue, graph: &Graph, index: NodeIndex) -> Result<ImageInfo> {
    let node = &graph.entry(index).node;
    let driver = node.driver();
    let described = driver.describe();
    let through = seen_through(graph, index);
    let filename = node.facts().filename.clone();
    let mut info = ImageInfo::new(
        filename,
        driver.format_name().to_owned(),
        signed(graph.len(index)),
    );
    info.dirty_flag = described.dirty.or(through.dirty);
    info.actual_size = allocated_size(queue, graph, index).await?.map(signed);
    let cluster_size = described.cluster_size.or(through.cluster_size);
    info.cluster_size = cluster_size.map(signed);
    info.encrypted = described.encrypted.then_some(true);
    info.compressed = described.compressed.then_some(true);
    if let Some(backing) = described.backing {
        info.full_backing_filename = Some(name_from(&node.facts().filename, &backing.filename));
        info.backing_filename = Some(backing.filename);
        info.backing_filename_format = backing.format;
    }
    if !described.snapshots.is_empty() {
        info.snapshots = Some(described.snapshots);
    }
    info.format_specific = described.format_specific;
    Ok(info)
}

/// Bytes that a bit of a bitmap stands for, unless somebody says otherwise: the image's clusters,
/// as far as they are of a useful size.
pub(crate) fn default_granularity(graph: &Graph, index: NodeIndex) -> u32 {
    const DEFAULT: u64 = 64 << 10;
    let own = graph.entry(index).node.driver().describe();
    let cluster_size = own.cluster_size;
    let cluster_size = cluster_size.or_else(|| seen_through(graph, index).cluster_size);
    let granularity = cluster_size.unwrap_or(DEFAULT).clamp(4096, DEFAULT);
    u32::try_from(granularity)
        .unwrap_or(4096)
        .next_power_of_two()
}

/// What a node that only filters or shifts says of its child's image.
fn seen_through(graph: &Graph, index: NodeIndex) -> Description {
    let entry = graph.entry(index);
    let edges = &entry.edges;
    let shifted = entry.node.driver().shifted_child();
    let shifted = shifted.and_then(|(edge, _)| edges.get(usize::from(edge.0)));
    match shifted.or_else(|| edges.iter().find(|edge| edge.role == Role::Filtered)) {
        None => Description::default(),
        Some(edge) => {
            let own = graph.entry(edge.child).node.driver().describe();
            let below = seen_through(graph, edge.child);
            Description {
                dirty: own.dirty.or(below.dirty),
                cluster_size: own.cluster_size.or(below.cluster_size),
                ..Description::default()
            }
        }
    }
}

/// Bytes that an image takes on the host, without its backing files; `None` where nobody can tell.
///
/// # Errors
/// What the file system says.
pub fn allocated_size<'a>(
    queue: &'a LocalQueue,
    graph: &'a Graph,
    index: NodeIndex,
) -> Pending<'a, Option<u64>> {
    Box::pin(async move {
        let entry = graph.entry(index);
        if let Some(leaf) = entry.node.driver().leaf() {
            return leaf_size(queue, leaf, entry.node.name()).await;
        }
        let mut total = None;
        for edge in entry.edges.iter().filter(|edge| edge.role != Role::Cow) {
            match allocated_size(queue, graph, edge.child).await? {
                Some(size) => total = Some(total.unwrap_or(0_u64).saturating_add(size)),
                None => return Ok(None),
            }
        }
        Ok(total)
    })
}

async fn leaf_size(queue: &LocalQueue, leaf: &Arc<Leaf>, node: &str) -> Result<Option<u64>> {
    let LeafFile::Host(_) = leaf.file() else {
        return Ok(None);
    };
    let leaf = Arc::clone(leaf);
    // A file system over the network may take its time.
    let blocks = queue.blocking(move || match leaf.file() {
        LeafFile::Host(file) => allocated_blocks(file),
        LeafFile::Sim(_) => Ok(0),
    });
    let blocks = blocks.await.map_err(|source| Error::Io {
        node: node.to_owned(),
        op: "stat",
        offset: 0,
        len: 0,
        source,
    })?;
    Ok(Some(blocks.saturating_mul(512)))
}

fn allocated_blocks(file: &OwnedFd) -> std::io::Result<u64> {
    let stat = rustix::fs::fstat(file)?;
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0))
}

/// The name that an image gives to another one, as seen from where the image is.
pub fn name_from(referrer: &str, name: &str) -> String {
    if name.starts_with('/') || protocol_of(name).is_some() {
        return name.to_owned();
    }
    match referrer.rfind('/') {
        Some(end) => format!("{}{name}", &referrer[..=end]),
        None => name.to_owned(),
    }
}

/// The schema counts bytes in `int`.
pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::name_from;

    #[test]
    fn names_are_relative_to_the_image_that_holds_them() {
        assert_eq!(name_from("/a/b.img", "c.img"), "/a/c.img");
        assert_eq!(name_from("b.img", "c.img"), "c.img");
        assert_eq!(name_from("x/b.img", "../c.img"), "x/../c.img");
        assert_eq!(name_from("/a/b.img", "/c.img"), "/c.img");
        assert_eq!(name_from("/a/b.img", "nbd://h/x"), "nbd://h/x");
    }
}
