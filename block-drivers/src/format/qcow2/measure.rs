//! How large an image's file becomes, before it is made.
//! Called by tools. Pure. The figure is the one that every tool gives: metadata for a disk of which
//! every cluster is allocated. Spec: qcow2 "Host cluster management".

use block_core::{Error, Result};

use super::create::CreateOptions;
use super::header::MAX_L1_BYTES;

/// Bytes of the file of such an image when all its disk is written.
///
/// # Errors
/// `InvalidOption` for options that no image can have.
pub fn fully_allocated(options: &CreateOptions) -> Result<u64> {
    let too_large = || {
        let reason = "The image size is too large (try using a larger cluster size)";
        Error::invalid("size", reason)
    };
    // With no disk, only what does not depend on it can be wrong.
    let geometry = CreateOptions {
        size: 0,
        ..options.clone()
    }
    .check()?;
    let cluster = geometry.cluster_size();
    let size = options
        .size
        .checked_next_multiple_of(cluster)
        .ok_or_else(too_large)?;
    if geometry.l1_entries(size).saturating_mul(8) > MAX_L1_BYTES {
        return Err(too_large());
    }
    // From here on all is bounded by the reach of the largest L1 table, below 2^63.
    let l2_clusters = geometry.clusters(size).div_ceil(geometry.l2_entries());
    let l1_clusters = l2_clusters.div_ceil(geometry.entries());
    let counted = 1 + l2_clusters + l1_clusters + geometry.clusters(size);
    let (mut blocks, mut table) = (0u64, 0u64);
    loop {
        let all = counted + blocks + table;
        let (need_blocks, need_table) = {
            let blocks = all.div_ceil(geometry.block_reach());
            (blocks, blocks.div_ceil(geometry.entries()))
        };
        if (need_blocks, need_table) == (blocks, table) {
            return Ok(all * cluster);
        }
        (blocks, table) = (need_blocks, need_table);
    }
}
