//! Commands that only look.

use std::sync::Arc;

use block_schema::types::{
    BlockDeviceInfo, BlockDeviceStats, BlockInfo, BlockStats, BlockdevCacheInfo, BlockdevChild,
    BlockdevDetectZeroesOptions, CommandInfo, SchemaInfo, VersionInfo, VersionInfoQemu,
};
use block_schema::{COMMANDS, Unknown, Wire, commands, introspect};

use crate::backend::Backend;
use crate::bitmap;
use crate::error::Result;
use crate::graph::info::{Below, image_info, signed};
use crate::graph::{DetectZeroes, Edge, Graph, NodeIndex};
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::stats::Kind;

/// The version of QEMU whose commands these are, and our own as its package.
pub(super) fn version() -> VersionInfo {
    VersionInfo {
        qemu: VersionInfoQemu {
            major: 10,
            minor: 0,
            micro: 2,
        },
        package: concat!("qblk ", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

pub(super) fn known_commands() -> Vec<CommandInfo> {
    let info = |spec: block_schema::CommandSpec| CommandInfo {
        name: spec.name.to_owned(),
    };
    COMMANDS.iter().map(info).collect()
}

pub(super) fn schema() -> Result<Vec<SchemaInfo>, block_schema::Error> {
    let entries = introspect::value()?;
    Vec::<SchemaInfo>::decode(entries, Unknown::Refuse).map_err(Into::into)
}

impl Layer {
    /// The devices, and what they hold.
    ///
    /// # Errors
    /// What the file system says about a file's size.
    pub async fn query_block(&self, queue: &LocalQueue) -> Result<Vec<BlockInfo>> {
        devices(queue).await
    }

    /// Every node, the newest first.
    ///
    /// # Errors
    /// As [`query_block`](Layer::query_block).
    pub async fn query_named_block_nodes(
        &self,
        queue: &LocalQueue,
        arguments: &commands::QueryNamedBlockNodes,
    ) -> Result<Vec<BlockDeviceInfo>> {
        nodes(queue, arguments).await
    }

    /// What devices, or nodes, have done so far. Idle time is by the queue's clock.
    pub fn query_blockstats(
        &self,
        queue: &LocalQueue,
        arguments: &commands::QueryBlockstats,
    ) -> Vec<BlockStats> {
        stats(queue, arguments)
    }
}

/// `query-block`: the devices, that is, the backends with a name.
pub(super) async fn devices(queue: &LocalQueue) -> Result<Vec<BlockInfo>> {
    let graph = queue.layer().graph();
    let mut devices = Vec::new();
    for backend in queue.layer().backends() {
        if backend.name().is_empty() {
            continue;
        }
        // No guest's drive is attached: the medium could be taken out.
        let mut info = BlockInfo::new(backend.name().to_owned(), "unknown".to_owned(), true, false);
        info.io_status = backend.io_status();
        if let Some(root) = graph.index_of(backend.root()) {
            info.dirty_bitmaps = bitmap::shown(&graph.entry(root).node);
            let mut inserted = node_info(queue, &graph, root, Below::Backing).await?;
            let limits = backend.limits();
            limits.show(&mut inserted);
            // QEMU's devices share limits in groups; one that nobody named is called so.
            inserted.group = (!limits.is_unlimited()).then(|| backend.name().to_owned());
            info.inserted = Some(inserted);
        }
        devices.push(info);
    }
    Ok(devices)
}

/// `query-named-block-nodes`: every node, the newest first.
pub(super) async fn nodes(
    queue: &LocalQueue,
    arguments: &commands::QueryNamedBlockNodes,
) -> Result<Vec<BlockDeviceInfo>> {
    let below = match arguments.flat {
        Some(true) => Below::Nothing,
        Some(false) | None => Below::Backing,
    };
    let graph = queue.layer().graph();
    let mut indices: Vec<NodeIndex> = graph.entries().map(|(index, _)| index).collect();
    indices.sort_by_key(|&index| std::cmp::Reverse(graph.entry(index).node.id()));
    let mut nodes = Vec::new();
    for index in indices {
        nodes.push(node_info(queue, &graph, index, below).await?);
    }
    Ok(nodes)
}

async fn node_info(
    queue: &LocalQueue,
    graph: &Graph,
    index: NodeIndex,
    below: Below,
) -> Result<BlockDeviceInfo> {
    let node = &graph.entry(index).node;
    let facts = node.facts();
    let described = node.driver().describe();
    let image = image_info(queue, graph, index, below).await?;
    let backing = graph.backing(index).map(|index| &graph.entry(index).node);
    let images = std::iter::successors(image.backing_image.as_ref(), |image| {
        image.backing_image.as_ref()
    });
    let depth = images.count();
    Ok(BlockDeviceInfo {
        file: facts.filename.clone(),
        node_name: Some(facts.name.clone()),
        ro: facts.read_only,
        drv: node.driver().format_name().to_owned(),
        backing_file: backing.map(|node| node.facts().filename.clone()),
        backing_file_depth: i64::try_from(depth).unwrap_or(i64::MAX),
        encrypted: described.encrypted,
        encryption_key_missing: described.encryption_key_missing,
        detect_zeroes: match facts.detect_zeroes {
            DetectZeroes::Off => BlockdevDetectZeroesOptions::Off,
            DetectZeroes::On => BlockdevDetectZeroesOptions::On,
            DetectZeroes::Unmap => BlockdevDetectZeroesOptions::Unmap,
        },
        bps: 0,
        bps_rd: 0,
        bps_wr: 0,
        iops: 0,
        iops_rd: 0,
        iops_wr: 0,
        image,
        bps_max: None,
        bps_rd_max: None,
        bps_wr_max: None,
        iops_max: None,
        iops_rd_max: None,
        iops_wr_max: None,
        iops_size: None,
        active: Some(true),
        children: Some(children(graph, index)),
        bps_max_length: None,
        bps_rd_max_length: None,
        bps_wr_max_length: None,
        iops_max_length: None,
        iops_rd_max_length: None,
        iops_wr_max_length: None,
        group: None,
        cache: Some(BlockdevCacheInfo {
            writeback: facts.cache.writeback,
            direct: facts.cache.direct,
            no_flush: facts.cache.no_flush,
        }),
        write_threshold: Some(0),
        dirty_bitmaps: bitmap::shown(node),
    })
}

fn children(graph: &Graph, index: NodeIndex) -> Vec<BlockdevChild> {
    let child = |edge: &Edge| BlockdevChild {
        child: edge.name.clone(),
        node_name: Some(graph.entry(edge.child).node.name().to_owned()),
    };
    graph.entry(index).edges.iter().map(child).collect()
}

/// `query-blockstats`: each device with the nodes below it, or each node, the oldest first.
pub(super) fn stats(queue: &LocalQueue, arguments: &commands::QueryBlockstats) -> Vec<BlockStats> {
    let layer = queue.layer();
    let graph = layer.graph();
    if arguments.query_nodes == Some(true) {
        let mut indices: Vec<NodeIndex> = graph.entries().map(|(index, _)| index).collect();
        indices.sort_by_key(|&index| graph.entry(index).node.id());
        let stats = |index: NodeIndex| node_stats(&graph, index, Chain::File);
        return indices.into_iter().map(stats).collect();
    }
    let device = |backend: &Arc<Backend>| {
        let mut stats = match graph.index_of(backend.root()) {
            Some(root) => node_stats(&graph, root, Chain::FileAndBacking),
            None => BlockStats::new(no_requests()),
        };
        stats.device = Some(backend.name().to_owned());
        count_requests(&mut stats.stats, backend);
        let idle = backend
            .last_access()
            .map(|last| queue.clock().saturating_sub(last));
        stats.stats.idle_time_ns =
            idle.map(|time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        stats
    };
    let backends = layer.backends();
    let devices = backends.iter().filter(|backend| !backend.name().is_empty());
    devices.map(device).collect()
}

/// Which nodes below one are counted with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// Where its bytes live, as `parent`.
    File,
    /// And its backing file, as `backing`.
    FileAndBacking,
}

/// A node's own figures, with those of the nodes below.
fn node_stats(graph: &Graph, index: NodeIndex, chain: Chain) -> BlockStats {
    let mut stats = BlockStats::new(no_requests());
    let node = &graph.entry(index).node;
    stats.node_name = Some(node.name().to_owned());
    // What a format writes to its file by itself is known where it ends.
    let leaf = node.driver().leaf().map(|leaf| leaf.highest_written());
    let highest = node.highest_written().max(leaf.unwrap_or(0));
    stats.stats.wr_highest_offset = signed(highest);
    let below = |index| Box::new(node_stats(graph, index, chain));
    stats.parent = graph.primary(index).map(below);
    stats.backing = match chain {
        Chain::File => None,
        Chain::FileAndBacking => graph.backing(index).map(below),
    };
    stats
}

fn count_requests(stats: &mut BlockDeviceStats, backend: &Backend) {
    let reads = backend.totals(Kind::Read);
    stats.rd_bytes = signed(reads.bytes);
    stats.rd_operations = signed(reads.operations);
    stats.rd_total_time_ns = signed(reads.time_ns);
    stats.failed_rd_operations = Some(signed(reads.failed));
    let writes = backend.totals(Kind::Write);
    stats.wr_bytes = signed(writes.bytes);
    stats.wr_operations = signed(writes.operations);
    stats.wr_total_time_ns = signed(writes.time_ns);
    stats.failed_wr_operations = Some(signed(writes.failed));
    let flushes = backend.totals(Kind::Flush);
    stats.flush_operations = signed(flushes.operations);
    stats.flush_total_time_ns = signed(flushes.time_ns);
    stats.failed_flush_operations = Some(signed(flushes.failed));
    stats.invalid_rd_operations = Some(signed(reads.refused));
    stats.invalid_wr_operations = Some(signed(writes.refused));
    stats.invalid_flush_operations = Some(signed(flushes.refused));
    let discards = backend.totals(Kind::Discard);
    stats.invalid_unmap_operations = Some(signed(discards.refused));
    stats.unmap_bytes = Some(signed(discards.bytes));
    stats.unmap_operations = Some(signed(discards.operations));
    stats.unmap_total_time_ns = Some(signed(discards.time_ns));
    stats.failed_unmap_operations = Some(signed(discards.failed));
}

fn no_requests() -> BlockDeviceStats {
    BlockDeviceStats {
        rd_bytes: 0,
        wr_bytes: 0,
        rd_operations: 0,
        wr_operations: 0,
        flush_operations: 0,
        flush_total_time_ns: 0,
        wr_total_time_ns: 0,
        rd_total_time_ns: 0,
        wr_highest_offset: 0,
        unmap_bytes: Some(0),
        unmap_operations: Some(0),
        unmap_total_time_ns: Some(0),
        rd_merged: Some(0),
        wr_merged: Some(0),
        unmap_merged: Some(0),
        idle_time_ns: None,
        failed_rd_operations: Some(0),
        failed_wr_operations: Some(0),
        failed_flush_operations: Some(0),
        failed_unmap_operations: Some(0),
        invalid_rd_operations: Some(0),
        invalid_wr_operations: Some(0),
        invalid_flush_operations: Some(0),
        invalid_unmap_operations: Some(0),
        account_invalid: Some(true),
        account_failed: Some(true),
        rd_latency_histogram: None,
        wr_latency_histogram: None,
        flush_latency_histogram: None,
    }
}
