//! Reads that the page cache answers at once, without a ring or a thread.
//!
//! An engine asks [`Guess::worth_a_try`] for each read of a buffered leaf and then tries
//! [`read_cached`]. A miss costs a system call, so misses make the next tries rarer, up to one
//! in [`RAREST`] reads; a hit undoes that. Invariant: never waits for a disk. Not here: O_DIRECT,
//! which has no page cache.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::vectors::Vectors;
use super::{Leaf, LeafFile};
use crate::buffer::IoBuf;

/// Longer reads are copied elsewhere: by the ring in its batch, or beside us by a thread.
const LONGEST: usize = 64 * 1024;

/// After this many reads at the latest, the cache is asked again.
const RAREST: u32 = 1024;

/// What became of a try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cached {
    /// So many bytes are in the buffer; all, or those before the first that is not cached.
    Bytes(usize),
    /// Nothing was there.
    Nothing,
}

/// One leaf's history of tries in one engine.
pub(super) struct Guess {
    possible: bool,
    /// Reads to let pass before the next try.
    pause: u32,
    /// The pause that the next miss brings.
    next_pause: u32,
}

impl Guess {
    pub(super) fn new(leaf: &Leaf) -> Guess {
        Guess {
            possible: !leaf.is_direct(),
            pause: 0,
            next_pause: 4,
        }
    }

    /// Whether to try a read of `len` bytes; counts the reads that pass.
    pub(super) fn worth_a_try(&mut self, len: usize) -> bool {
        if !self.possible || len > LONGEST {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        true
    }

    fn hit(&mut self) {
        self.next_pause = (self.next_pause / 2).max(4);
    }

    fn missed(&mut self) {
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(RAREST);
    }
}

/// Reads what the page cache has of `buf` at `offset`, and learns from the outcome.
pub(super) fn read_cached(
    guess: &mut Guess,
    leaf: &Leaf,
    vectors: &mut Vectors,
    offset: u64,
    buf: &IoBuf,
) -> Cached {
    let LeafFile::Host(fd) = leaf.file() else {
        return Cached::Nothing;
    };
    match vectors.read_at(fd.as_fd(), buf, 0, offset, libc::RWF_NOWAIT) {
        Ok(count) if count == buf.len() => {
            guess.hit();
            Cached::Bytes(count)
        }
        // The end of the file, or of what is cached: the usual way finds out which.
        Ok(count) => {
            guess.missed();
            Cached::Bytes(count)
        }
        Err(Errno::AGAIN | Errno::INTR) => {
            guess.missed();
            Cached::Nothing
        }
        // The file system can't do it, or the read is wrong and fails the usual way.
        Err(_) => {
            guess.possible = false;
            Cached::Nothing
        }
    }
}
