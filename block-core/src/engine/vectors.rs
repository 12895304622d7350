//! Memory that the kernel reads while it works on an operation, and the calls that take it.
//!
//! [`Vectors`] turns an [`IoBuf`] into what the kernel wants: an iovec, and a message header
//! around it. The pool and the inline path call from here; the ring keeps one of these with each
//! operation that needs it. Invariant: the pointers in a `Vectors` are those of the buffer of the
//! last `fill`, so whoever gives them to the kernel holds that buffer until the kernel is done.
//! Not here: what a result means (`transfer`).

use std::os::fd::{AsRawFd, BorrowedFd};
use std::{io, mem, ptr};

use io_uring::types::Timespec;
use rustix::io::Errno;

use crate::buffer::IoBuf;

/// Most segments the kernel takes at once.
const MAX_SEGMENTS: usize = 1024;

/// Most bytes of one call: the kernel stops short of 2 GiB, and this keeps what remains aligned.
pub(super) const MAX_BYTES: usize = 1 << 30;

/// An iovec, a message header and a time, at addresses that do not change while it is boxed.
pub(super) struct Vectors {
    segments: Vec<libc::iovec>,
    header: libc::msghdr,
    /// For timers.
    pub(super) time: Timespec,
}

// SAFETY: the pointers are only ever given to the kernel, by the thread that fills them in from a
// buffer it holds; `IoBuf`, which owns the memory, is `Send` itself.
unsafe impl Send for Vectors {}

impl Vectors {
    pub(super) fn new() -> Vectors {
        // SAFETY: all zeroes is a valid `msghdr`: null pointers and lengths of nothing.
        let header = unsafe { mem::zeroed() };
        Vectors {
            segments: Vec::new(),
            header,
            time: Timespec::new(),
        }
    }

    /// Points at the bytes of `buf` behind the first `skip`, or as many as one call may take.
    pub(super) fn fill(&mut self, buf: &IoBuf, skip: usize) {
        self.segments.clear();
        let mut skip = skip;
        let mut room = MAX_BYTES;
        for segment in buf.raw_segments() {
            if skip >= segment.len {
                skip -= segment.len;
                continue;
            }
            if room == 0 || self.segments.len() == MAX_SEGMENTS {
                break;
            }
            let len = (segment.len - skip).min(room);
            let base = segment.ptr.wrapping_add(skip);
            self.segments.push(libc::iovec {
                iov_base: base.cast(),
                iov_len: len,
            });
            room -= len;
            skip = 0;
        }
        self.header.msg_iov = self.segments.as_mut_ptr();
        self.header.msg_iovlen = self.segments.len() as _;
    }

    /// The iovec.
    pub(super) fn segments(&self) -> &[libc::iovec] {
        &self.segments
    }

    /// The message header around the iovec.
    pub(super) fn header(&mut self) -> &mut libc::msghdr {
        &mut self.header
    }

    fn count(&self) -> libc::c_int {
        libc::c_int::try_from(self.segments.len()).unwrap_or(libc::c_int::MAX)
    }

    /// Reads once into `buf` behind `skip`. `flags` are those of `preadv2`.
    pub(super) fn read_at(
        &mut self,
        fd: BorrowedFd<'_>,
        buf: &IoBuf,
        skip: usize,
        offset: u64,
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        self.fill(buf, skip);
        let offset = file_offset(offset, skip)?;
        let (fd, iov, count) = (fd.as_raw_fd(), self.segments.as_ptr(), self.count());
        // SAFETY: `iov` has `count` entries, each a piece of `buf`, which outlives the call.
        result(unsafe { libc::preadv2(fd, iov, count, offset, flags) })
    }

    /// Writes once from `buf` behind `skip`. `flags` are those of `pwritev2`.
    pub(super) fn write_at(
        &mut self,
        fd: BorrowedFd<'_>,
        buf: &IoBuf,
        skip: usize,
        offset: u64,
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        self.fill(buf, skip);
        let offset = file_offset(offset, skip)?;
        let (fd, iov, count) = (fd.as_raw_fd(), self.segments.as_ptr(), self.count());
        // SAFETY: `iov` has `count` entries, each a piece of `buf`, which outlives the call.
        result(unsafe { libc::pwritev2(fd, iov, count, offset, flags) })
    }

    /// Receives once into `buf`; `AGAIN` when there is nothing.
    pub(super) fn recv(&mut self, fd: BorrowedFd<'_>, buf: &IoBuf) -> Result<usize, Errno> {
        self.fill(buf, 0);
        let header: *mut libc::msghdr = &raw mut self.header;
        // SAFETY: the header points at an iovec of pieces of `buf`, which outlives the call, and
        // has no name or control buffer.
        result(unsafe { libc::recvmsg(fd.as_raw_fd(), header, libc::MSG_DONTWAIT) })
    }

    /// Sends once from `buf` behind `skip`; `AGAIN` when there is no room.
    pub(super) fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        buf: &IoBuf,
        skip: usize,
    ) -> Result<usize, Errno> {
        self.fill(buf, skip);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let header = ptr::from_ref(&self.header);
        // SAFETY: as in `recv`; the kernel only reads.
        result(unsafe { libc::sendmsg(fd.as_raw_fd(), header, flags) })
    }
}

/// The file offset of the byte at `skip` in a buffer that goes to `offset`.
pub(super) fn file_offset(offset: u64, skip: usize) -> Result<i64, Errno> {
    let at = offset.checked_add(skip as u64).ok_or(Errno::INVAL)?;
    i64::try_from(at).map_err(|_| Errno::INVAL)
}

fn result(count: isize) -> Result<usize, Errno> {
    usize::try_from(count)
        .map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}
