//! Atomics and the lock, as code that is shared between queues uses them.
//! Called by what decides by memory order alone: announcements, claims, wait lists, table caches,
//! the line of syncs, dirty bitmaps. Not here: types of our own, but for words in memory. The tests of interleavings
//! compile those files a second time over a model checker's types of the same names.

use zerocopy::FromZeros;

pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

pub use parking_lot::Mutex;

pub use crate::buffer::SharedWords;

/// `count` words of 0; `None` when there is no memory. What nobody touches takes none.
pub fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    <[AtomicU64]>::new_box_zeroed_with_elems(count).ok()
}
