//! Block status through a chain: what a run of bytes is for whoever reads the top node.
//!
//! Called by exports and by tools that show or copy only what is there. Follows nodes that shift
//! their child's bytes, and backing files where a node has nothing itself. Not here: one node's own
//! view ([`Driver::status`](crate::driver::Driver::status)).

use std::ops::Range;

use crate::driver::{Status, StatusKind};
use crate::error::Result;
use crate::request::cx::Child;
use crate::request::map::Access;
use crate::request::through;

/// What a run of bytes reads as, and which node of the chain says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainStatus {
    /// Bytes with this status; not 0, at most the range asked for.
    pub len: u64,
    /// `Unallocated` when no node of the chain has the run; it reads as zeroes then.
    pub kind: StatusKind,
    /// How many backing files down the node is that decides; 0 is the top.
    pub depth: u32,
    /// Whether the run is compressed there.
    pub compressed: bool,
}

impl Child {
    /// The image below that says what the first byte of `range` is, how many images above do not, and
    /// where the first part of the range is there; nothing for a node without fixed images.
    async fn pass_fixed(&self, range: Range<u64>) -> Result<Option<(Child, u32, Range<u64>)>> {
        let Some(mut descent) = self.descend(range.clone()) else {
            return Ok(None);
        };
        let cx = self.enter_node(Access::Read, &range).await;
        through::arrive(&cx, &mut descent).await?;
        let image = self.elsewhere(descent.image());
        Ok(Some((image, descent.passed(), descent.rest())))
    }

    /// The status of the first run of `range`, through the chain below this node. `range` is not
    /// empty and ends within the node.
    ///
    /// # Errors
    /// What a node of the chain answers.
    pub async fn chain_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        let mut node = self.clone();
        let Range {
            start: mut at,
            mut end,
        } = range;
        let mut depth = 0;
        loop {
            let there = end.min(node.len());
            if at >= there {
                let kind = StatusKind::Unallocated;
                return Ok(ChainStatus {
                    len: end - at,
                    kind,
                    depth,
                    compressed: false,
                });
            }
            if let Some((edge, shift)) = node.node().driver().shifted_child() {
                node = node.child(edge);
                at += shift;
                end = there + shift;
                continue;
            }
            let mut wanted = at..there;
            // Fixed images that do not have it need not be asked one by one.
            if let Some((image, passed, there)) = node.pass_fixed(wanted.clone()).await? {
                (node, wanted, depth) = (image, there, depth + passed);
                at = wanted.start;
            }
            let Status {
                len,
                kind,
                compressed,
                ..
            } = node.status(wanted).await?;
            match (kind, node.backing()) {
                (StatusKind::Unallocated, Some(backing)) => {
                    node = backing;
                    end = at + len;
                    depth += 1;
                }
                (StatusKind::Unallocated, None) | (StatusKind::Data | StatusKind::Zero, _) => {
                    return Ok(ChainStatus {
                        len,
                        kind,
                        depth,
                        compressed,
                    });
                }
            }
        }
    }
}
