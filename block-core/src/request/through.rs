//! Reads through fixed images where memory alone does not answer: a table has to be loaded, bytes
//! have to be unpacked, or a descriptor wants another alignment.
//!
//! Called with a context that is announced, for the node on top of the images. Goes down the chain in
//! a loop, image by image, and reads where it arrives: neither stack nor time grow with the square
//! of the chain's length. Not here: what a fixed image is, and what is known of it (`graph/fixed.rs`).

use crate::buffer::IoBuf;
use crate::driver::Pending;
use crate::error::Result;
use crate::graph::fixed::{Arrived, Descent, Place, Start, Step};
use crate::request::cx::Cx;
use crate::request::map::{Access, Lookup, Mapping};
use crate::request::{align, generic};

/// Fills `buf` from `offset` of the context's node, through its fixed images.
///
/// # Errors
/// What one of them answers, by its name.
pub(crate) async fn read(cx: &Cx, offset: u64, buf: IoBuf) -> Result<()> {
    let end = offset + buf.len() as u64;
    let mut at = offset;
    let mut work: Vec<Pending<'_>> = Vec::new();
    while at < end {
        let (len, place) = find(cx, at, end).await?;
        let part = buf.slice(index(at - offset)..index(at + len - offset));
        work.push(Box::pin(read_at(cx, place, part)));
        at += len;
    }
    cx.join(work).await?;
    Ok(())
}

fn index(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// The place of the byte at `at`, and how many bytes before `end` go on there.
async fn find(cx: &Cx, at: u64, end: u64) -> Result<(u64, Place)> {
    let mut descent = match cx.graph().start_through(cx.index(), at..end) {
        Some(Start::Known(len, place)) => return Ok((len, place)),
        Some(Start::Ask(descent)) => descent,
        None => return Ok((end - at, Place::Inside(cx.index(), at))),
    };
    let arrived = arrive(cx, &mut descent).await?;
    Ok(descent.place(arrived))
}

/// Goes down the images below the context's node to the one that says what the wanted byte is.
///
/// # Errors
/// What an image answers, by its name.
pub(crate) async fn arrive(cx: &Cx, descent: &mut Descent) -> Result<Arrived> {
    loop {
        let mut pieces = Mapping::new();
        let image = descent.image();
        let driver = cx.graph().entry(image).node.driver();
        if driver.try_map(Access::Read, descent.asked(), &mut pieces) == Lookup::Miss {
            pieces.clear();
            let cx = cx.at_fixed(image);
            let map = driver.map(&cx, Access::Read, descent.asked(), &mut pieces);
            map.await?;
        }
        match descent.step(cx.graph(), &pieces) {
            Step::Down => {}
            Step::End(arrived) => return Ok(arrived),
        }
    }
}

async fn read_at(cx: &Cx, place: Place, buf: IoBuf) -> Result<()> {
    match place {
        Place::Zero => {
            buf.fill(0..buf.len(), 0);
            Ok(())
        }
        Place::Leaf(leaf, offset) => match cx.graph().leaf(leaf) {
            Some(leaf) => align::read_leaf(cx, leaf, offset, buf).await,
            None => Err(cx.unsupported("reading a descriptor that is not there")),
        },
        Place::Behind(image, offset) => {
            generic::read_backing(&cx.at_fixed(image), offset, buf).await
        }
        Place::Inside(image, offset) => generic::read_here(&cx.at_fixed(image), offset, buf).await,
    }
}
