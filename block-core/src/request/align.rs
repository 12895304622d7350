//! Padding requests to an alignment: reads through a larger buffer, writes by read-modify-write
//! under a claim, so that no neighbour's write is undone.
//!
//! Called for nodes whose limits ask for it (`generic`), and by protocol drivers for their
//! descriptor. The request path has checked the range.

use std::ops::Range;
use std::sync::Arc;

use crate::buffer::IoBuf;
use crate::driver::ClaimKind;
use crate::engine::Leaf;
use crate::error::Result;
use crate::limits::Limits;
use crate::request::cx::Cx;

/// Whether a request keeps to a node's alignment.
pub(crate) fn is_aligned(limits: Limits, offset: u64, len: usize) -> bool {
    let mask = u64::from(limits.request_alignment) - 1;
    (offset | len as u64) & mask == 0
}

/// The smallest aligned range around one.
fn around(range: &Range<u64>, alignment: u64) -> Range<u64> {
    let start = range.start - range.start % alignment;
    start..range.end.next_multiple_of(alignment)
}

/// The part of a range before its first aligned byte, the aligned part, and the part behind it.
pub(crate) fn split(range: &Range<u64>, alignment: u32) -> [Range<u64>; 3] {
    let alignment = u64::from(alignment);
    let start = range.start.next_multiple_of(alignment);
    let end = range.end - range.end % alignment;
    if start >= end {
        return [range.clone(), range.end..range.end, range.end..range.end];
    }
    [range.start..start, start..end, end..range.end]
}

fn bytes(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

/// Reads a range that breaks a node's alignment.
pub(crate) async fn read_padded(cx: &Cx, limits: Limits, offset: u64, buf: IoBuf) -> Result<()> {
    let range = offset..offset + buf.len() as u64;
    let padded = around(&range, u64::from(limits.request_alignment));
    let bounce = IoBuf::zeroed(bytes(&padded));
    cx.node()
        .driver()
        .read(cx, padded.start, bounce.clone())
        .await?;
    buf.copy_from(0, &bounce, bytes(&(padded.start..range.start)), buf.len());
    Ok(())
}

/// Writes a range that breaks a node's alignment.
pub(crate) async fn write_padded(cx: &Cx, limits: Limits, offset: u64, buf: IoBuf) -> Result<()> {
    let range = offset..offset + buf.len() as u64;
    let padded = around(&range, u64::from(limits.request_alignment));
    // What the driver claims inside is of its own unit, and must be a part of this claim.
    let unit = limits.request_alignment.max(limits.optimal_transfer);
    let claimed = around(&range, u64::from(unit));
    let _claim = cx.claim(claimed, ClaimKind::Write).await;
    let bounce = IoBuf::zeroed(bytes(&padded));
    cx.node()
        .driver()
        .read(cx, padded.start, bounce.clone())
        .await?;
    bounce.copy_from(bytes(&(padded.start..range.start)), &buf, 0, buf.len());
    cx.node().driver().write(cx, padded.start, bounce).await
}

/// Reads from a descriptor whatever the request's alignment.
///
/// # Errors
/// What the kernel says.
pub async fn read_leaf(cx: &Cx, leaf: &Arc<Leaf>, offset: u64, buf: IoBuf) -> Result<()> {
    let io = cx.leaf(leaf);
    let range = offset..offset + buf.len() as u64;
    if suits(leaf, &range, &buf) {
        return io.read(offset, buf).await;
    }
    let padded = around(&range, u64::from(leaf.request_alignment()));
    let bounce = IoBuf::zeroed(bytes(&padded));
    io.read(padded.start, bounce.clone()).await?;
    buf.copy_from(0, &bounce, bytes(&(padded.start..range.start)), buf.len());
    Ok(())
}

/// Writes to a descriptor whatever the request's alignment.
///
/// # Errors
/// What the kernel says.
pub async fn write_leaf(cx: &Cx, leaf: &Arc<Leaf>, offset: u64, buf: IoBuf) -> Result<()> {
    let io = cx.leaf(leaf);
    let range = offset..offset + buf.len() as u64;
    if suits(leaf, &range, &buf) {
        return io.write(offset, buf).await;
    }
    let padded = around(&range, u64::from(leaf.request_alignment()));
    let bounce = IoBuf::zeroed(bytes(&padded));
    let skip = bytes(&(padded.start..range.start));
    if padded == range {
        // Only the memory is in the wrong place.
        bounce.copy_from(0, &buf, 0, buf.len());
        return io.write(padded.start, bounce).await;
    }
    let _claim = cx.claim(padded.clone(), ClaimKind::Write).await;
    io.read(padded.start, bounce.clone()).await?;
    bounce.copy_from(skip, &buf, 0, buf.len());
    io.write(padded.start, bounce).await
}

fn suits(leaf: &Leaf, range: &Range<u64>, buf: &IoBuf) -> bool {
    let mask = u64::from(leaf.request_alignment()) - 1;
    (range.start | range.end) & mask == 0 && buf.is_aligned(leaf.memory_alignment() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_both_sides() {
        assert_eq!(around(&(513..1025), 512), 512..1536);
        assert_eq!(around(&(512..1024), 512), 512..1024);
        assert_eq!(around(&(5..6), 1), 5..6);
    }

    #[test]
    fn splits_into_edges_and_what_is_aligned() {
        assert_eq!(split(&(512..1024), 512), [512..512, 512..1024, 1024..1024]);
        assert_eq!(split(&(511..1025), 512), [511..512, 512..1024, 1024..1025]);
        assert_eq!(
            split(&(513..1000), 512),
            [513..1000, 1000..1000, 1000..1000]
        );
        assert_eq!(
            split(&(1000..1030), 512),
            [1000..1030, 1030..1030, 1030..1030]
        );
        assert_eq!(split(&(5..9), 1), [5..5, 5..9, 9..9]);
    }
}
