//! What is the same for every driver: the steps of a request on one node, and the defaults of the
//! [`Driver`](crate::driver::Driver) methods.
//!
//! Called with a context that is announced. Checks and cuts what the driver's limits ask for;
//! turns writes of zeroes into `write_zeroes` where the node says so.

use std::ops::Range;

use crate::buffer::IoBuf;
use crate::driver::{Status, StatusKind, ZeroFlags};
use crate::error::Result;
use crate::graph::DetectZeroes;
use crate::request::cx::{ClaimKind, Cx};
use crate::request::map::{Access, Extent, Mapping};
use crate::request::{Op, Request, align, through};

/// Zero bytes written at a time where nothing better is there.
const ZERO_CHUNK: u64 = 1 << 20;

/// When a write has to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    /// When it completes.
    Now,
    /// After the next flush.
    Later,
}

/// The verb of an operation, for errors.
pub(crate) fn verb(op: Op) -> &'static str {
    match op {
        Op::Read => "read",
        Op::Write | Op::WriteCompressed => "write",
        Op::WriteZeroes(_) => "write zeroes",
        Op::Populate => "populate",
        Op::Discard => "discard",
        Op::Flush => "flush",
    }
}

/// Does a request on the context's node.
pub(crate) async fn perform(cx: &Cx, request: Request) -> Result<()> {
    let through = !cx.node().facts().cache.writeback;
    let durable = if request.fua || through {
        Durable::Now
    } else {
        Durable::Later
    };
    let range = request.range();
    match request.op {
        Op::Flush => flush(cx).await,
        _ if range.is_empty() => Ok(()),
        Op::Read => read(cx, request.offset, request.buf).await,
        Op::Write => write(cx, request.offset, request.buf, durable).await,
        Op::WriteCompressed => {
            write_compressed(cx, request.offset, request.buf).await?;
            if durable == Durable::Now {
                flush(cx).await
            } else {
                Ok(())
            }
        }
        Op::WriteZeroes(flags) => {
            write_zeroes(cx, range, flags).await?;
            if durable == Durable::Now {
                flush(cx).await
            } else {
                Ok(())
            }
        }
        Op::Populate => populate(cx, request.offset, request.buf).await,
        Op::Discard => discard(cx, range).await,
    }
}

/// Reads from the node's driver, padded and cut to its limits.
pub(crate) async fn read(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    if cx.has_fixed() {
        return Box::pin(through::read(cx, offset, buf)).await;
    }
    read_here(cx, offset, buf).await
}

/// Reads from the node's driver, padded and cut to its limits, whatever is known of images below.
pub(crate) async fn read_here(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    let driver = cx.node().driver();
    let limits = driver.limits();
    if driver.leaf().is_none() && !align::is_aligned(limits, offset, buf.len()) {
        return align::read_padded(cx, limits, offset, buf).await;
    }
    for part in cut(offset, buf.len() as u64, limits.max_transfer) {
        let within = within(&part, offset);
        driver.read(cx, part.start, buf.slice(within)).await?;
    }
    Ok(())
}

/// Writes to the node's driver, padded and cut to its limits.
pub(crate) async fn write(cx: &Cx, offset: u64, buf: IoBuf, durable: Durable) -> Result<()> {
    let node = cx.node();
    let driver = node.driver();
    let range = offset..offset + buf.len() as u64;
    node.wrote(&range);
    let detect = node.facts().detect_zeroes;
    if detect != DetectZeroes::Off && buf.is_zero(0..buf.len()) {
        let may_unmap = detect == DetectZeroes::Unmap;
        write_zeroes(
            cx,
            range,
            ZeroFlags {
                may_unmap,
                no_fallback: false,
            },
        )
        .await?;
    } else {
        let limits = driver.limits();
        if driver.leaf().is_none() && !align::is_aligned(limits, offset, buf.len()) {
            align::write_padded(cx, limits, offset, buf).await?;
        } else {
            for part in cut(offset, buf.len() as u64, limits.max_transfer) {
                let within = within(&part, offset);
                driver.write(cx, part.start, buf.slice(within)).await?;
            }
        }
    }
    if durable == Durable::Now {
        flush(cx).await
    } else {
        Ok(())
    }
}

/// Writes to the node's driver, compressed: neither padded nor cut, since only the driver knows its
/// unit.
pub(crate) async fn write_compressed(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    let node = cx.node();
    node.wrote(&(offset..offset + buf.len() as u64));
    node.driver().write_compressed(cx, offset, buf).await
}

/// Makes a range of the node read as zeroes, cut to its limits; zero bytes are written to edges
/// that break its alignment.
pub(crate) async fn write_zeroes(cx: &Cx, range: Range<u64>, mut flags: ZeroFlags) -> Result<()> {
    let node = cx.node();
    node.wrote(&range);
    flags.may_unmap &= node.facts().discard_unmap;
    let limits = node.driver().limits();
    let alignment = match node.driver().leaf() {
        // Descriptors take zeroes anywhere.
        Some(_) => 1,
        None => limits.request_alignment,
    };
    let [head, whole, tail] = align::split(&range, alignment);
    for edge in [head, tail] {
        if edge.is_empty() {
            continue;
        }
        if flags.no_fallback {
            return Err(cx.unsupported("writing zeroes without data"));
        }
        let len = usize::try_from(edge.end - edge.start).unwrap_or(usize::MAX);
        align::write_padded(cx, limits, edge.start, IoBuf::zeroed(len)).await?;
    }
    for part in cut(
        whole.start,
        whole.end - whole.start,
        limits.max_write_zeroes,
    ) {
        node.driver().write_zeroes(cx, part, flags).await?;
    }
    Ok(())
}

/// Stores what shows through from the backing file, where the node has nothing yet. What is below
/// the node stays as it is meanwhile: the caller sees to that.
///
/// A guest's write that comes first wins, since the node is looked at under a claim. No bitmap
/// hears of it: the node reads as before.
async fn populate(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    let range = offset..offset + buf.len() as u64;
    let unit = u64::from(cx.node().driver().limits().optimal_transfer);
    // Claims of the driver's own writes are to lie within this one.
    let around = range.start / unit * unit..range.end.div_ceil(unit).saturating_mul(unit);
    let zeroes = {
        let _claim = cx.claim(around.clone(), ClaimKind::Write).await;
        let mut zeroes = Vec::new();
        for gap in gaps(cx, &range).await? {
            let buf = buf.slice(within(&gap, offset));
            read_backing(cx, gap.start, buf.clone()).await?;
            // Behind the end of the backing file a driver need not store zeroes, but a longer one may
            // come in its place: bytes are stored always.
            let shown = cx.backing().map_or(0, |backing| backing.len());
            match gap.end <= shown && buf.is_zero(0..buf.len()) {
                true => zeroes.push(gap),
                false => cx.node().driver().write(cx, gap.start, buf).await?,
            }
        }
        zeroes
    };
    if zeroes.is_empty() {
        return Ok(());
    }
    // Making zeroes keeps readers out too, whom a copy of data does not disturb.
    let _claim = cx.claim(around, ClaimKind::Exclusive).await;
    for zero in zeroes {
        for gap in gaps(cx, &zero).await? {
            let flags = ZeroFlags::default();
            cx.node().driver().write_zeroes(cx, gap, flags).await?;
        }
    }
    Ok(())
}

/// The parts of a range that the node itself does not have.
async fn gaps(cx: &Cx, range: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut gaps = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let status = cx.node().driver().status(cx, at..range.end).await?;
        if status.kind == StatusKind::Unallocated {
            gaps.push(at..at + status.len);
        }
        at += status.len;
    }
    Ok(gaps)
}

/// Gives a range of the node back, if the node passes discards on.
pub(crate) async fn discard(cx: &Cx, range: Range<u64>) -> Result<()> {
    let node = cx.node();
    if !node.facts().discard_unmap {
        return Ok(());
    }
    node.bitmaps().mark(&range);
    let max = node.driver().limits().max_discard;
    for part in cut(range.start, range.end - range.start, max) {
        node.driver().discard(cx, part).await?;
    }
    Ok(())
}

/// Flushes the node, unless it was told to ignore flushes.
pub(crate) async fn flush(cx: &Cx) -> Result<()> {
    let node = cx.node();
    if node.is_read_only() {
        return Ok(());
    }
    node.driver().flush(cx).await
}

/// The default of `Driver::read`: maps, and reads what the mapping names.
pub(crate) async fn read_mapped(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    let driver = cx.node().driver();
    let end = offset + buf.len() as u64;
    let mut at = offset;
    while at < end {
        let mut mapping = Mapping::new();
        driver.map(cx, Access::Read, at..end, &mut mapping).await?;
        if mapping.is_empty() {
            return Err(cx.unsupported("mapping a range to read"));
        }
        let mut work: Vec<crate::driver::Pending<'_>> = Vec::new();
        for piece in mapping.pieces() {
            let part = buf.slice(within(&(at..at + piece.len), offset));
            work.push(Box::pin(read_extent(cx, piece.extent, at, part)));
            at += piece.len;
        }
        cx.join(work).await?;
    }
    Ok(())
}

async fn read_extent(cx: &Cx, extent: Extent, at: u64, buf: IoBuf) -> Result<()> {
    match extent {
        Extent::Child { edge, offset } => cx.child(edge).read(offset, buf).await,
        Extent::Leaf { offset, .. } => match cx.node().driver().leaf() {
            Some(leaf) => align::read_leaf(cx, leaf, offset, buf).await,
            None => Err(cx.unsupported("reading a descriptor it does not have")),
        },
        Extent::Zero => {
            buf.fill(0..buf.len(), 0);
            Ok(())
        }
        Extent::Unallocated => read_backing(cx, at, buf).await,
        Extent::Transform => cx.node().driver().read_transformed(cx, at, buf).await,
    }
}

/// Reads what shows through at `at`: the backing file, and zeroes behind its end.
pub(crate) async fn read_backing(cx: &Cx, at: u64, buf: IoBuf) -> Result<()> {
    let Some(backing) = cx.backing() else {
        buf.fill(0..buf.len(), 0);
        return Ok(());
    };
    let there = backing.len().saturating_sub(at).min(buf.len() as u64);
    let there = usize::try_from(there).unwrap_or(buf.len());
    buf.fill(there..buf.len(), 0);
    if there > 0 {
        backing.read(at, buf.slice(0..there)).await
    } else {
        Ok(())
    }
}

/// The default of `Driver::write_zeroes`.
pub(crate) async fn write_zero_bytes(cx: &Cx, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
    if flags.no_fallback {
        return Err(cx.unsupported("writing zeroes fast"));
    }
    let longest = usize::try_from(ZERO_CHUNK.min(range.end - range.start)).unwrap_or(usize::MAX);
    let zeroes = IoBuf::zeroed(longest);
    for part in cut(range.start, range.end - range.start, ZERO_CHUNK) {
        let len = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        cx.node()
            .driver()
            .write(cx, part.start, zeroes.slice(0..len))
            .await?;
    }
    Ok(())
}

/// The default of `Driver::flush`.
pub(crate) async fn flush_children(cx: &Cx) -> Result<()> {
    for child in cx.own_children() {
        child.flush().await?;
    }
    Ok(())
}

/// The default of `Driver::status`.
pub(crate) async fn mapped_status(cx: &Cx, range: Range<u64>) -> Result<Status> {
    let mut mapping = Mapping::new();
    cx.node()
        .driver()
        .map(cx, Access::Read, range, &mut mapping)
        .await?;
    let Some(piece) = mapping.pieces().first() else {
        return Err(cx.unsupported("the status of a range"));
    };
    let (kind, child) = match piece.extent {
        Extent::Child { edge, offset } => (StatusKind::Data, Some((edge, offset))),
        Extent::Leaf { .. } | Extent::Transform => (StatusKind::Data, None),
        Extent::Zero => (StatusKind::Zero, None),
        Extent::Unallocated => (StatusKind::Unallocated, None),
    };
    Ok(Status {
        len: piece.len,
        kind,
        child,
        compressed: false,
    })
}

/// Cuts `len` bytes at `offset` into parts of at most `max`.
fn cut(offset: u64, len: u64, max: u64) -> impl Iterator<Item = Range<u64>> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at;
        at = end.min(at.saturating_add(max.max(1)));
        (start < end).then_some(start..at)
    })
}

/// A part of a request as a range of its buffer.
fn within(part: &Range<u64>, offset: u64) -> Range<usize> {
    let index = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
    index(part.start)..index(part.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_at_the_limit() {
        let parts: Vec<_> = cut(3, 10, 4).collect();
        assert_eq!(parts, [3..7, 7..11, 11..13]);
        assert_eq!(cut(3, 0, 4).count(), 0);
    }
}
