//! Dirty bitmaps: which ranges of a node were written since some moment.
//!
//! A node has any number of them. Every write, write of zeroes and discard that passes the node sets
//! their bits: on the short way while the walk goes down (`graph`), level by level before the driver
//! is called (`request/generic.rs`). A node without bitmaps costs one load there.
//!
//! A bit is set *before* its write is issued, while the request is announced. So a bit may be set
//! for a write that is still on its way, or that fails: that is one range too many for who copies
//! what is dirty, never one too few. Whoever clears or takes bits does it while the node is
//! drained: then no announced write is between its bit and its bytes, what was taken covers exactly
//! the writes before, and every later one sets its bit anew. `tests/interleavings` has both models.
//! Writes of drivers to their own children are those children's.
//!
//! Invariant: a bitmap that is not inconsistent and was enabled misses no write since it was last
//! cleared. Not here: the commands (`verbs.rs`), how an image stores bitmaps (the drivers).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::error::{Error, Result};

pub(crate) mod bits;
mod verbs;

use bits::Bits;
pub(crate) use verbs::shown;
pub use verbs::{BitmapName, NewBitmap};

/// Bytes of a bitmap's name at most.
pub const MAX_NAME: usize = 1023;
/// Bytes that a bit stands for at least.
pub const MIN_GRANULARITY: u32 = 512;
/// Bytes that all bits of a bitmap may take.
pub const MAX_BYTES: u64 = 512 << 20;

/// One bitmap of a node.
#[derive(Debug)]
pub struct DirtyBitmap {
    name: String,
    granularity_bits: u32,
    /// Replaced as a whole when the node is resized, drained.
    map: ArcSwap<Map>,
    /// Behind the highest byte written past the node's end of then: files grow by being written.
    tail: AtomicU64,
    enabled: AtomicBool,
    busy: AtomicBool,
    /// Changed by a verb since it was loaded or stored.
    altered: AtomicBool,
    /// Some of what is dirty is with a [`Taken`].
    divided: AtomicBool,
    persistent: bool,
    inconsistent: bool,
    read_only: bool,
}

/// What was dirty at one moment, for [`DirtyBitmap::put_back`].
#[derive(Debug)]
pub(crate) struct SavedBits {
    map: Map,
    tail: u64,
}

#[derive(Debug)]
struct Map {
    bits: Bits,
    /// Bytes of the node.
    len: u64,
}

/// What a bitmap is, besides its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether writes set bits.
    pub enabled: bool,
    /// Whether it is stored in the image when that is closed.
    pub persistent: bool,
    /// Whether it missed writes: it has no bits, and can only be removed.
    pub inconsistent: bool,
    /// Whether it belongs to an image that is not written.
    pub read_only: bool,
}

/// What keeps a bitmap from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Its bits are read, or it is enabled or disabled.
    Use,
    /// Its bits are changed.
    Change,
    /// It is removed.
    Remove,
}

impl DirtyBitmap {
    /// A bitmap of a node of `len` bytes, all clear.
    ///
    /// # Errors
    /// `InvalidOption` for a name or a granularity that no bitmap can have, or one so small that
    /// the bits take more than [`MAX_BYTES`].
    pub fn new(name: &str, granularity: u32, len: u64, state: State) -> Result<DirtyBitmap> {
        check_granularity(granularity)?;
        if name.len() > MAX_NAME {
            let reason = format!("Bitmap name too long: {name}");
            return Err(Error::invalid("name", reason));
        }
        let granularity_bits = granularity.trailing_zeros();
        let tracked = if state.inconsistent { 0 } else { len };
        let map = new_map(tracked, granularity_bits)?;
        Ok(DirtyBitmap {
            name: name.to_owned(),
            granularity_bits,
            map: ArcSwap::from_pointee(map),
            tail: AtomicU64::new(0),
            enabled: AtomicBool::new(state.enabled && !state.inconsistent),
            busy: AtomicBool::new(false),
            altered: AtomicBool::new(false),
            divided: AtomicBool::new(false),
            persistent: state.persistent,
            inconsistent: state.inconsistent,
            read_only: state.read_only,
        })
    }

    /// Its name; no other bitmap of the node has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that a bit stands for.
    pub fn granularity(&self) -> u32 {
        1 << self.granularity_bits
    }

    /// Bytes of the disk that it tracks.
    pub fn len(&self) -> u64 {
        self.map.load().len.max(self.tail.load(Ordering::Relaxed))
    }

    /// Whether it tracks nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether writes set bits.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Whether it is stored in the image when that is closed.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Whether it missed writes.
    pub fn is_inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Whether a job or an export uses it.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Whether anything but writes changed it since it was loaded or stored.
    pub fn is_altered(&self) -> bool {
        self.altered.load(Ordering::Relaxed)
    }

    /// Whether all that is dirty is in it: not while somebody has [taken](DirtyBitmap::take) some.
    pub fn is_whole(&self) -> bool {
        !self.divided.load(Ordering::Acquire)
    }

    /// Says that it has just been stored as it is.
    pub fn set_unaltered(&self) {
        self.altered.store(false, Ordering::Relaxed);
    }

    fn set_altered(&self) {
        self.altered.store(true, Ordering::Relaxed);
    }

    /// Bytes that are dirty, by whole granules.
    pub fn count(&self) -> u64 {
        let map = self.map.load();
        let behind = self.tail.load(Ordering::Relaxed).saturating_sub(map.len);
        let granules = map.bits.ones() + behind.div_ceil(u64::from(self.granularity()));
        granules << self.granularity_bits
    }

    /// The first dirty run within `range`, in bytes; cut at the ends of `range` and of the disk.
    pub fn next_dirty(&self, range: Range<u64>) -> Option<Range<u64>> {
        let end = range.end.min(self.len());
        let map = self.map.load();
        if range.start >= end {
            return None;
        }
        let found = match map.bits.next_run(range.start >> self.granularity_bits) {
            Some(run) if run.end < map.bits.len() => {
                run.start << self.granularity_bits..run.end << self.granularity_bits
            }
            // The last granule goes to the end of the disk, and what was written behind it joins.
            Some(run) => run.start << self.granularity_bits..self.len(),
            None if self.len() > map.len => map.len..self.len(),
            None => return None,
        };
        let found = found.start.max(range.start)..found.end.min(end);
        (found.start < found.end).then_some(found)
    }

    /// All dirty runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u64>> {
        let first = self.next_dirty(0..u64::MAX);
        std::iter::successors(first, |run| self.next_dirty(run.end..u64::MAX))
    }

    /// 64 bits by their number, the first one lowest; for storing. 0 behind the end.
    pub fn word(&self, index: u64) -> u64 {
        self.map.load().bits.word(index)
    }

    /// Sets those of 64 bits that exist; for loading.
    pub fn set_word(&self, index: u64, bits: u64) {
        self.map.load().bits.or_word(index, bits);
    }

    /// The number of the first word at or behind `index` that has a bit.
    pub fn next_word(&self, index: u64) -> Option<u64> {
        let run = self.map.load().bits.next_run(index.checked_mul(64)?)?;
        Some(run.start / 64)
    }

    /// How many bits there are.
    pub fn bit_count(&self) -> u64 {
        self.map.load().bits.len()
    }

    /// Sets the bits of a range, enabled or not.
    pub fn set(&self, range: &Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let map = self.map.load();
        if range.end > map.len {
            self.tail.fetch_max(range.end, Ordering::Relaxed);
        }
        let granule = u64::from(self.granularity());
        let first = range.start >> self.granularity_bits;
        map.bits.set(first..range.end.div_ceil(granule));
    }

    /// Whether this can be done to it now.
    ///
    /// # Errors
    /// `InvalidOption` when it is busy, read-only or inconsistent, as far as that matters.
    pub fn check(&self, purpose: Purpose) -> Result<()> {
        let name = &self.name;
        let refuse = |reason: String| Err(Error::invalid("name", reason));
        if self.is_busy() {
            return refuse(format!(
                "Bitmap '{name}' is currently in use by another operation and cannot be used"
            ));
        }
        if self.read_only && purpose != Purpose::Use {
            return refuse(format!(
                "Bitmap '{name}' is readonly and cannot be modified"
            ));
        }
        if self.inconsistent && purpose != Purpose::Remove {
            return refuse(format!(
                "Bitmap '{name}' is inconsistent and cannot be used"
            ));
        }
        Ok(())
    }

    /// Takes all bits: what was dirty is in the answer, and the bitmap tracks on from nothing. The
    /// node is drained. Until the answer is committed or dropped the bitmap is busy.
    ///
    /// # Errors
    /// As [`check`](DirtyBitmap::check) for a change; `InvalidOption` without memory.
    pub fn take(self: &Arc<Self>) -> Result<Taken> {
        self.check(Purpose::Change)?;
        self.set_altered();
        let map = self.map.load();
        let bits = map.bits.take().ok_or_else(no_memory)?;
        let tail = self.tail.swap(0, Ordering::Relaxed);
        let copy = DirtyBitmap {
            name: self.name.clone(),
            granularity_bits: self.granularity_bits,
            map: ArcSwap::from_pointee(Map { bits, len: map.len }),
            tail: AtomicU64::new(tail),
            enabled: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            altered: AtomicBool::new(false),
            divided: AtomicBool::new(false),
            persistent: false,
            inconsistent: false,
            read_only: false,
        };
        self.busy.store(true, Ordering::Release);
        self.divided.store(true, Ordering::Release);
        Ok(Taken {
            from: Arc::clone(self),
            copy,
            keep: true,
        })
    }

    /// Keeps others from changing it until the guard is dropped; for exports.
    ///
    /// # Errors
    /// As [`check`](DirtyBitmap::check) for a use.
    pub fn hold(self: &Arc<Self>) -> Result<Busy> {
        self.check(Purpose::Use)?;
        self.busy.store(true, Ordering::Release);
        Ok(Busy(Arc::clone(self)))
    }

    /// Lets writes set bits, or not. The node is drained.
    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.set_altered();
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.set_altered();
        self.map.load().bits.clear();
        self.tail.store(0, Ordering::Relaxed);
    }

    /// What is dirty, to be put back if need be. The node is drained until then.
    ///
    /// # Errors
    /// `InvalidOption` without memory.
    pub(crate) fn copy_bits(&self) -> Result<SavedBits> {
        let map = self.map.load();
        let copy = new_map(map.len, self.granularity_bits)?;
        copy.bits.merge(&map.bits);
        Ok(SavedBits {
            map: copy,
            tail: self.tail.load(Ordering::Relaxed),
        })
    }

    /// Makes dirty what was, and nothing else.
    pub(crate) fn put_back(&self, saved: &SavedBits) {
        self.clear();
        self.map.load().bits.merge(&saved.map.bits);
        self.tail.store(saved.tail, Ordering::Relaxed);
    }

    /// Whether what is dirty in another bitmap can be added.
    ///
    /// # Errors
    /// `InvalidOption` when one of them cannot be used so, or lengths differ.
    pub(crate) fn check_merge(&self, source: &DirtyBitmap) -> Result<()> {
        self.check(Purpose::Change)?;
        source.check(Purpose::Use)?;
        let (own, other) = (self.len(), source.len());
        if own != other {
            let reason = format!(
                "Bitmaps are of different sizes (destination size is {own}, source size is \
                 {other}) and can't be merged"
            );
            return Err(Error::invalid("bitmaps", reason));
        }
        Ok(())
    }

    /// Sets what is dirty in another bitmap of a disk of the same length.
    pub(crate) fn merge(&self, other: &DirtyBitmap) {
        self.set_altered();
        if self.granularity_bits == other.granularity_bits {
            self.map.load().bits.merge(&other.map.load().bits);
            let tail = other.tail.load(Ordering::Relaxed);
            self.tail.fetch_max(tail, Ordering::Relaxed);
            return;
        }
        for run in other.runs() {
            self.set(&run);
        }
    }

    /// Whether it can follow the node to another length.
    ///
    /// # Errors
    /// `InvalidOption` when it is busy, or would take too much memory.
    pub(crate) fn check_resize(&self, len: u64) -> Result<()> {
        if self.inconsistent {
            return Ok(());
        }
        self.check(Purpose::Change)?;
        checked_count(len, self.granularity_bits).map(drop)
    }

    /// Follows the node to another length. New bytes are dirty: they may have been other ones
    /// before the disk was shorter. The node is drained.
    fn resize(&self, len: u64) -> Result<()> {
        if self.inconsistent {
            return Ok(());
        }
        let old = self.map.load_full();
        let new = new_map(len, self.granularity_bits)?;
        new.bits.merge(&old.bits);
        self.map.store(Arc::new(new));
        self.tail.store(0, Ordering::Relaxed);
        if self.is_enabled() && len > old.len {
            self.set(&(old.len..len));
        }
        Ok(())
    }
}

fn check_granularity(granularity: u32) -> Result<()> {
    if granularity < MIN_GRANULARITY || !granularity.is_power_of_two() {
        let reason = "Granularity must be power of 2 and at least 512";
        return Err(Error::invalid("granularity", reason));
    }
    Ok(())
}

fn new_map(len: u64, granularity_bits: u32) -> Result<Map> {
    let count = checked_count(len, granularity_bits)?;
    let bits = Bits::new(count).ok_or_else(no_memory)?;
    Ok(Map { bits, len })
}

/// Bits for a node of `len` bytes, which are not too many.
fn checked_count(len: u64, granularity_bits: u32) -> Result<u64> {
    let count = len.div_ceil(1 << granularity_bits);
    if count.div_ceil(8) > MAX_BYTES {
        let reason = "Too much space will be occupied by the bitmap. Use larger granularity";
        return Err(Error::invalid("granularity", reason));
    }
    Ok(count)
}

fn no_memory() -> Error {
    Error::invalid("granularity", "there is no memory for the bitmap")
}

/// What was dirty at one moment. Dropped, it is put back: what it stood for was not copied.
#[derive(Debug)]
#[must_use]
pub struct Taken {
    from: Arc<DirtyBitmap>,
    copy: DirtyBitmap,
    keep: bool,
}

impl Taken {
    /// What was dirty.
    pub fn bitmap(&self) -> &DirtyBitmap {
        &self.copy
    }

    /// Forgets it: all that was dirty has been copied.
    pub fn commit(mut self) {
        self.keep = false;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.keep {
            self.from.merge(&self.copy);
        }
        self.from.divided.store(false, Ordering::Release);
        self.from.busy.store(false, Ordering::Release);
    }
}

/// Keeps a bitmap busy until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Busy(Arc<DirtyBitmap>);

impl Busy {
    /// The bitmap.
    pub fn bitmap(&self) -> &DirtyBitmap {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

/// The bitmaps of a node, shared by the node and the driver that stores them.
#[derive(Debug, Default)]
pub struct Bitmaps {
    /// Whether there are any: all that a request looks at if there are none.
    any: AtomicBool,
    list: ArcSwap<Vec<Arc<DirtyBitmap>>>,
    /// Those of jobs, which nobody else sees. The node keeps its length while one is there.
    trackers: ArcSwap<Vec<Arc<DirtyBitmap>>>,
}

impl Bitmaps {
    /// Those that an image has stored.
    pub fn loaded(list: Vec<Arc<DirtyBitmap>>) -> Arc<Bitmaps> {
        Arc::new(Bitmaps {
            any: AtomicBool::new(!list.is_empty()),
            list: ArcSwap::from_pointee(list),
            trackers: ArcSwap::default(),
        })
    }

    /// All, in the order in which they were added.
    pub fn all(&self) -> Arc<Vec<Arc<DirtyBitmap>>> {
        self.list.load_full()
    }

    /// The bitmap of a name.
    pub fn find(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        let list = self.list.load();
        list.iter().find(|bitmap| bitmap.name == name).cloned()
    }

    /// Sets the bits of a range in every bitmap that is enabled. The request is announced.
    pub(crate) fn mark(&self, range: &Range<u64>) {
        // A bitmap is added while the node is drained: whoever was announced since sees it.
        if self.any.load(Ordering::Relaxed) {
            let (list, trackers) = (self.list.load(), self.trackers.load());
            let all = list.iter().chain(trackers.iter());
            for bitmap in all.filter(|bitmap| bitmap.is_enabled()) {
                bitmap.set(range);
            }
        }
    }

    /// Adds a bitmap, whose name no other one has. The node is drained.
    pub fn add(&self, bitmap: Arc<DirtyBitmap>) {
        self.change(|list| list.push(bitmap));
    }

    /// Removes the bitmap of a name. The node is drained.
    pub fn remove(&self, name: &str) {
        self.change(|list| list.retain(|bitmap| bitmap.name != name));
    }

    /// Takes over those of another instance of the node that only memory holds. Nobody uses this
    /// instance yet.
    pub(crate) fn adopt(&self, other: &Bitmaps) {
        let all = other.all();
        let kept = all.iter().filter(|bitmap| !bitmap.is_persistent());
        for bitmap in kept.filter(|bitmap| self.find(bitmap.name()).is_none()) {
            self.add(Arc::clone(bitmap));
        }
        for tracker in other.trackers.load().iter() {
            self.add_tracker(Arc::clone(tracker));
        }
    }

    /// Adds a bitmap that a job alone knows. The node is drained.
    pub(crate) fn add_tracker(&self, tracker: Arc<DirtyBitmap>) {
        self.change_list(&self.trackers, |list| list.push(tracker));
    }

    /// Removes a job's bitmap. The node is drained.
    pub(crate) fn remove_tracker(&self, tracker: &Arc<DirtyBitmap>) {
        self.change_list(&self.trackers, |list| {
            list.retain(|other| !Arc::ptr_eq(other, tracker));
        });
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<DirtyBitmap>>)) {
        self.change_list(&self.list, change);
    }

    fn change_list(
        &self,
        list: &ArcSwap<Vec<Arc<DirtyBitmap>>>,
        change: impl FnOnce(&mut Vec<Arc<DirtyBitmap>>),
    ) {
        let mut next = Vec::clone(&list.load());
        change(&mut next);
        list.store(Arc::new(next));
        let any = !self.list.load().is_empty() || !self.trackers.load().is_empty();
        self.any.store(any, Ordering::Release);
    }

    /// Says that anything may have changed: enabled bitmaps become dirty as a whole, and all get
    /// the node's length. The node is drained.
    fn follow_all(&self, len: u64) -> Result<()> {
        self.follow(len)?;
        self.mark(&(0..len));
        Ok(())
    }

    /// Gives all bitmaps the node's length. The node is drained.
    fn follow(&self, len: u64) -> Result<()> {
        for bitmap in self.list.load().iter().filter(|bitmap| bitmap.len() != len) {
            bitmap.resize(len)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
