//! One buffered write at a time for each file, whoever wrote it.
//!
//! The kernel lets one writer into the page cache of a file; the others would spin for its lock on a
//! thread each. So they stand in line, and the thread that is at it does the writes of all: the
//! pool's other threads read meanwhile. Writes past the page cache go side by side, as before.
//! Called by the pool's threads. Not here: rings, where the kernel does the same (it hashes buffered
//! writes by file).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Leaf;
use super::line::Line;
use super::mailbox::{Mailbox, Posted};
use super::pool::run_leaf;
use super::transfer::LeafWork;
use super::vectors::Vectors;

/// A write that is to be done, and who hears of it.
pub(super) struct Waiting {
    pub(super) work: LeafWork,
    /// Bytes of it that are done already.
    pub(super) done: usize,
    pub(super) key: usize,
    pub(super) mailbox: Arc<Mailbox>,
}

/// The line of one leaf.
#[derive(Default)]
pub(super) struct WriteLine(Line<Waiting>);

impl std::fmt::Debug for WriteLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteLine")
    }
}

/// Does a write, on this thread or on the one that is at it.
pub(super) fn write(leaf: Arc<Leaf>, waiting: Waiting, vectors: &mut Vectors) {
    let Some(batch) = leaf.write_line().0.join(waiting) else {
        return;
    };
    let mut batch = VecDeque::from(batch);
    while let Some(waiting) = batch.pop_front() {
        let Waiting {
            work,
            done,
            key,
            mailbox,
        } = waiting;
        let result = run_leaf(&leaf, &work, done, vectors);
        work.record(&leaf, result);
        let posted = Posted {
            key,
            result,
            buf: work.into_buf(),
        };
        if batch.is_empty() {
            match leaf.write_line().0.next() {
                Some(next) => batch = VecDeque::from(next),
                None => {
                    // The leaf goes first: who hears of the completion may expect it closed.
                    drop(leaf);
                    return mailbox.post(posted);
                }
            }
        }
        mailbox.post(posted);
    }
}
