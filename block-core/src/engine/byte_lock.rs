//! Locks on single bytes of a file, which belong to the open file and not to the process: what
//! programs tell each other about an image with.
//!
//! Called by protocol drivers. A lock goes when the last descriptor of the open file is closed;
//! a ring may hold one a little longer than its owner, so whoever locked a byte unlocks it.
//! Not here: which byte means what (the `file` driver).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Takes a byte together with others who take it like this.
///
/// # Errors
/// `AGAIN` when another open file holds the byte alone; what the file system says.
pub fn lock_byte_shared(fd: BorrowedFd<'_>, byte: u32) -> Result<(), Errno> {
    control(fd, libc::F_OFD_SETLK, &mut record(libc::F_RDLCK, byte))
}

/// Gives a byte back.
///
/// # Errors
/// What the file system says.
pub fn unlock_byte(fd: BorrowedFd<'_>, byte: u32) -> Result<(), Errno> {
    control(fd, libc::F_OFD_SETLK, &mut record(libc::F_UNLCK, byte))
}

/// Whether another open file holds a byte, in any way.
///
/// # Errors
/// What the file system says; `INVAL` where the kernel has no such locks.
pub fn is_byte_locked_by_others(fd: BorrowedFd<'_>, byte: u32) -> Result<bool, Errno> {
    let mut found = record(libc::F_WRLCK, byte);
    control(fd, libc::F_OFD_GETLK, &mut found)?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

fn record(kind: i32, byte: u32) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("lock types are small numbers"),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).expect("it is 0"),
        l_start: byte.into(),
        l_len: 1,
        // The kernel wants 0 for locks of this sort.
        l_pid: 0,
    }
}

fn control(fd: BorrowedFd<'_>, command: i32, record: &mut libc::flock) -> Result<(), Errno> {
    let record = std::ptr::from_mut(record);
    // SAFETY: `fd` is open while it is borrowed, and `record` is a `flock` that nobody else sees,
    // which is what these commands read and write.
    if unsafe { libc::fcntl(fd.as_raw_fd(), command, record) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
