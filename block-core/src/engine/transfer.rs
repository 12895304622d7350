//! What operations are made of below the trait, and what a result of the kernel means for them.
//!
//! Every backend carries [`LeafWork`] and [`EventWork`] and asks here what follows a system call:
//! short transfers go on, the end of the file reads as zeroes, interrupted calls are repeated.
//! Pure but for the bytes it clears and the owners of guest memory it tells. Not here: the calls.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Fallocate, Leaf, Seek, Token};
use crate::buffer::IoBuf;

/// An operation on a leaf, without the leaf.
pub(super) enum LeafWork {
    Read {
        offset: u64,
        buf: IoBuf,
    },
    Write {
        offset: u64,
        buf: IoBuf,
        fua: bool,
    },
    Sync,
    Fallocate {
        mode: Fallocate,
        offset: u64,
        len: u64,
    },
    Truncate {
        len: u64,
    },
    Seek {
        offset: u64,
        what: Seek,
    },
}

impl LeafWork {
    /// The memory, once the work is done.
    pub(super) fn into_buf(self) -> Option<IoBuf> {
        match self {
            LeafWork::Read { buf, .. } | LeafWork::Write { buf, .. } => Some(buf),
            LeafWork::Sync
            | LeafWork::Fallocate { .. }
            | LeafWork::Truncate { .. }
            | LeafWork::Seek { .. } => None,
        }
    }

    /// Records in the leaf what a result says of it. Comes before anyone hears of the result.
    pub(super) fn record(&self, leaf: &Leaf, result: Result<u64, Errno>) {
        match (self, result) {
            (LeafWork::Write { offset, buf, .. }, Ok(_)) => {
                leaf.wrote_to(offset.saturating_add(buf.len() as u64));
            }
            // The kernel reports a lost write once: when this write's own sync took the report,
            // no later sync hears of it.
            (LeafWork::Write { fua: true, .. }, Err(Errno::IO)) | (LeafWork::Sync, Err(_)) => {
                leaf.note_failed_sync();
            }
            (LeafWork::Fallocate { mode, offset, len }, Ok(_)) => match mode {
                Fallocate::PunchHole => {}
                Fallocate::ZeroRange | Fallocate::Allocate => {
                    leaf.wrote_to(offset.saturating_add(*len));
                }
            },
            (LeafWork::Truncate { len }, Ok(_)) => leaf.set_len(*len),
            (
                LeafWork::Read { .. }
                | LeafWork::Write { .. }
                | LeafWork::Sync
                | LeafWork::Fallocate { .. }
                | LeafWork::Truncate { .. }
                | LeafWork::Seek { .. },
                _,
            ) => {}
        }
    }
}

/// An operation that waits for a socket, a descriptor or the clock.
pub(super) enum EventWork {
    Recv { socket: Arc<OwnedFd>, buf: IoBuf },
    Send { socket: Arc<OwnedFd>, buf: IoBuf },
    Readable { fd: Arc<OwnedFd> },
    Writable { fd: Arc<OwnedFd> },
    Timer { after: Duration },
}

impl EventWork {
    /// The memory, once the work is done.
    pub(super) fn into_buf(self) -> Option<IoBuf> {
        match self {
            EventWork::Recv { buf, .. } | EventWork::Send { buf, .. } => Some(buf),
            EventWork::Readable { .. } | EventWork::Writable { .. } | EventWork::Timer { .. } => {
                None
            }
        }
    }

    /// Whether a caller may end it early; half a message sent is of no use to anyone.
    pub(super) fn can_cancel(&self) -> bool {
        match self {
            EventWork::Recv { .. }
            | EventWork::Readable { .. }
            | EventWork::Writable { .. }
            | EventWork::Timer { .. } => true,
            EventWork::Send { .. } => false,
        }
    }
}

/// The result of work that needs no kernel.
pub(super) fn answer_now(leaf: &Leaf, work: &LeafWork) -> Option<Result<u64, Errno>> {
    let (offset, len) = match work {
        LeafWork::Read { offset, buf } | LeafWork::Write { offset, buf, .. } => {
            (*offset, buf.len() as u64)
        }
        LeafWork::Fallocate { offset, len, .. } => (*offset, *len),
        LeafWork::Sync => return leaf.sync_failed().then_some(Err(Errno::IO)),
        LeafWork::Truncate { .. } | LeafWork::Seek { .. } => return None,
    };
    // The kernel's offsets are signed.
    let fits = offset
        .checked_add(len)
        .is_some_and(|end| i64::try_from(end).is_ok());
    match (fits, len) {
        (false, _) => Some(Err(Errno::INVAL)),
        (true, 0) => Some(Ok(0)),
        (true, _) => None,
    }
}

/// An [`EventWork`] that has ended.
pub(super) struct EventEnded {
    pub(super) token: Token,
    pub(super) work: EventWork,
    pub(super) result: Result<u64, Errno>,
}

/// What follows a system call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The same again, from where it is now.
    Again,
    /// The same again, once the descriptor is ready.
    WhenReady,
    /// It has ended.
    End(Result<u64, Errno>),
}

/// After a read of `buf` behind `done` from a leaf of `alignment` (1 without O_DIRECT).
pub(super) fn after_read(
    buf: &IoBuf,
    done: &mut usize,
    alignment: usize,
    result: Result<usize, Errno>,
) -> Step {
    let count = match result {
        Ok(count) => count,
        Err(Errno::INTR) => return Step::Again,
        Err(errno) => {
            // Part of the memory may have changed, and its owner has to know.
            buf.mark_written(0..buf.len());
            return Step::End(Err(errno));
        }
    };
    let reached = (*done + count).min(buf.len());
    *done = reached;
    // O_DIRECT ends between two blocks only where the file does, and can't go on from there.
    let at_end = count == 0 || !reached.is_multiple_of(alignment);
    if reached < buf.len() && !at_end {
        return Step::Again;
    }
    buf.mark_written(0..reached);
    buf.fill(reached..buf.len(), 0);
    Step::End(Ok(buf.len() as u64))
}

/// After a write of `buf` behind `done` to a leaf of `alignment` (1 without O_DIRECT).
pub(super) fn after_write(
    buf: &IoBuf,
    done: &mut usize,
    alignment: usize,
    result: Result<usize, Errno>,
) -> Step {
    let count = match result {
        Ok(count) => count,
        Err(Errno::INTR) => return Step::Again,
        Err(errno) => return Step::End(Err(errno)),
    };
    let reached = (*done + count).min(buf.len());
    if reached == buf.len() {
        *done = reached;
        return Step::End(Ok(buf.len() as u64));
    }
    // O_DIRECT goes on from a block's start; the bytes written twice are the same.
    let next = reached - reached % alignment;
    if next <= *done {
        return Step::End(Err(Errno::NOSPC));
    }
    *done = next;
    Step::Again
}

/// After a receive into `buf`.
pub(super) fn after_recv(buf: &IoBuf, result: Result<usize, Errno>) -> Step {
    match result {
        Ok(count) => {
            let count = count.min(buf.len());
            buf.mark_written(0..count);
            Step::End(Ok(count as u64))
        }
        Err(Errno::INTR) => Step::Again,
        Err(Errno::AGAIN) => Step::WhenReady,
        Err(errno) => Step::End(Err(errno)),
    }
}

/// After a send of `buf` behind `done`.
pub(super) fn after_send(buf: &IoBuf, done: &mut usize, result: Result<usize, Errno>) -> Step {
    match result {
        Ok(count) => {
            *done = (*done + count).min(buf.len());
            if *done == buf.len() {
                Step::End(Ok(buf.len() as u64))
            } else {
                Step::Again
            }
        }
        Err(Errno::INTR) => Step::Again,
        Err(Errno::AGAIN) => Step::WhenReady,
        Err(errno) => Step::End(Err(errno)),
    }
}

/// After a call that is done at once or not at all.
pub(super) fn after_fallocate(result: Result<usize, Errno>) -> Step {
    match result {
        Ok(_) => Step::End(Ok(0)),
        Err(Errno::INTR | Errno::AGAIN) => Step::Again,
        // Three ways to say the same: by the file system, by the file's type, by the kernel.
        Err(Errno::NODEV | Errno::NOSYS) => Step::End(Err(Errno::OPNOTSUPP)),
        Err(errno) => Step::End(Err(errno)),
    }
}

/// The kernel's word for a change of storage.
pub(super) fn fallocate_flags(mode: Fallocate) -> FallocateFlags {
    match mode {
        Fallocate::PunchHole => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Fallocate::ZeroRange => FallocateFlags::ZERO_RANGE,
        Fallocate::Allocate => FallocateFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_transfers_go_on_and_the_end_is_zeroes() {
        let buf = IoBuf::copy_of(&[9; 12]);
        let mut done = 0;
        assert_eq!(
            after_read(&buf, &mut done, 1, Err(Errno::INTR)),
            Step::Again
        );
        assert_eq!(after_read(&buf, &mut done, 1, Ok(5)), Step::Again);
        assert_eq!(after_read(&buf, &mut done, 1, Ok(0)), Step::End(Ok(12)));
        assert_eq!(buf.to_vec(), [[9; 5].as_slice(), &[0; 7]].concat());
        // With O_DIRECT, stopping between blocks is the end, and stopping on one is not.
        let mut done = 0;
        assert_eq!(after_read(&buf, &mut done, 4, Ok(4)), Step::Again);
        assert_eq!(after_read(&buf, &mut done, 4, Ok(3)), Step::End(Ok(12)));
    }

    #[test]
    fn short_writes_go_on_from_a_block_or_fail() {
        let buf = IoBuf::zeroed(12);
        let mut done = 0;
        assert_eq!(after_write(&buf, &mut done, 4, Ok(7)), Step::Again);
        assert_eq!(done, 4);
        assert_eq!(
            after_write(&buf, &mut done, 4, Ok(3)),
            Step::End(Err(Errno::NOSPC))
        );
        assert_eq!(after_write(&buf, &mut done, 4, Ok(8)), Step::End(Ok(12)));
        let mut done = 0;
        assert_eq!(
            after_write(&buf, &mut done, 1, Ok(0)),
            Step::End(Err(Errno::NOSPC))
        );
        assert_eq!(
            after_write(&buf, &mut done, 1, Err(Errno::IO)),
            Step::End(Err(Errno::IO))
        );
    }
}
