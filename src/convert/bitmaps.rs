//! `convert --bitmaps`: the bitmaps that the source's image stores, into the target's.

use block_core::bitmap::{BitmapName, DirtyBitmap, NewBitmap};

use crate::image::Image;
use crate::measure::has_bitmaps;
use crate::report::{Failure, chain_text, warning};
use crate::session::Session;

/// What becomes of a bitmap whose content is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inconsistent {
    /// It ends the command before anything is copied.
    Refused,
    /// It is left out.
    Skipped,
}

/// Checks that a source's bitmaps can be copied.
///
/// # Errors
/// When it can have none, or one of them has lost its content.
pub(super) fn check_source(source: &Image, inconsistent: Inconsistent) -> Result<(), Failure> {
    let node = source.node()?;
    if !has_bitmaps(&node) {
        return Err(Failure::new("Source lacks bitmap support"));
    }
    let lost = |bitmap: &&DirtyBitmap| bitmap.is_persistent() && bitmap.is_inconsistent();
    let all = node.node().bitmaps().all();
    let mut newest_first = all.iter().rev().map(|bitmap| &**bitmap);
    match newest_first.find(lost) {
        Some(bitmap) if inconsistent == Inconsistent::Refused => Err(Failure::new(format!(
            "Cannot copy inconsistent bitmap '{}'\n\
             Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
            bitmap.name()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// Checks that a target can store bitmaps.
///
/// # Errors
/// When it cannot.
pub(super) fn check_target(target: &Image) -> Result<(), Failure> {
    let node = target.node()?;
    if has_bitmaps(&node) {
        return Ok(());
    }
    let format = node.node().driver().format_name();
    let text = format!("Format driver '{format}' does not support bitmaps");
    Err(Failure::new(text))
}

/// Copies the bitmaps; the target stores them when it closes.
///
/// # Errors
/// `Failed to create bitmap …`, `Failed to populate bitmap …`.
pub(super) async fn copy(session: &Session, source: &Image, target: &Image) -> Result<(), Failure> {
    let layer = session.layer();
    let (from, to) = (source.node()?, target.node()?);
    let all = from.node().bitmaps().all();
    for bitmap in all.iter().rev().filter(|bitmap| bitmap.is_persistent()) {
        let name = bitmap.name();
        if bitmap.is_inconsistent() {
            warning(&format!("Skipping inconsistent bitmap '{name}'"));
            continue;
        }
        let of = |node| BitmapName { node, name };
        let new = NewBitmap {
            granularity: Some(bitmap.granularity()),
            persistent: true,
            disabled: !bitmap.is_enabled(),
        };
        let failed = |verb: &str, error: &block_core::Error| {
            Failure::new(format!(
                "Failed to {verb} bitmap {name}: {}",
                chain_text(error)
            ))
        };
        let (target, source) = (of(to.node_name()), of(from.node_name()));
        let added = layer.block_dirty_bitmap_add(target, new).await;
        added.map_err(|error| failed("create", &error))?;
        let merged = layer.block_dirty_bitmap_merge(target, &[source]).await;
        merged.map_err(|error| failed("populate", &error))?;
    }
    Ok(())
}
