//! One `fdatasync` at a time for each file, for everyone who waits for one.
//!
//! The kernel tells of a lost write once, to one caller. Were two syncs of a file under way, the
//! other could succeed over lost data; so they stand in line. Whoever comes while one runs is
//! served by the next one, together with all others who came by then, on whatever queue they are.
//! Called by the pool's threads; nobody waits in here but the thread that is in the kernel.

use std::sync::Arc;

use rustix::io::Errno;

use super::line::Line;
use super::mailbox::{Mailbox, Posted};
use super::transfer::LeafWork;
use super::{Leaf, LeafFile};

/// Who hears of a sync.
pub(super) struct Waiter {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) key: usize,
}

/// The line of one leaf.
#[derive(Default)]
pub(super) struct SyncLine(Line<Waiter>);

impl std::fmt::Debug for SyncLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncLine")
    }
}

/// Syncs `leaf` for `waiter`, on this thread or on the one that is at it.
pub(super) fn sync(leaf: Arc<Leaf>, waiter: Waiter) {
    let Some(mut batch) = leaf.sync_line().0.join(waiter) else {
        return;
    };
    loop {
        let result = sync_once(&leaf);
        LeafWork::Sync.record(&leaf, result);
        let Some(next) = leaf.sync_line().0.next() else {
            // The leaf goes first: who hears of the completion may expect it closed.
            drop(leaf);
            return tell(batch, result);
        };
        tell(std::mem::replace(&mut batch, next), result);
    }
}

fn tell(batch: Vec<Waiter>, result: Result<u64, Errno>) {
    for Waiter { mailbox, key } in batch {
        mailbox.post(Posted {
            key,
            result,
            buf: None,
        });
    }
}

/// Syncs outside the line, for a durable write; a failure is for the caller to record.
pub(super) fn sync_once(leaf: &Leaf) -> Result<u64, Errno> {
    let LeafFile::Host(fd) = leaf.file() else {
        return Err(Errno::BADF);
    };
    loop {
        if leaf.sync_failed() {
            return Err(Errno::IO);
        }
        match rustix::fs::fdatasync(fd) {
            Ok(()) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
