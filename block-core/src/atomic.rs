//! Atomics and the lock, as code that is shared between queues uses them.
//! Called by what decides by memory order alone: announcements, claims, wait lists, table caches,
//! the line of syncs. Not here: any type of our own. The tests of interleavings compile those
//! files a second time over a model checker's types of the same names.

pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

pub use parking_lot::Mutex;
