//! Creating files for new images.
//!
//! Called by the tool and by `blockdev-create`, on a thread that may block. Order: open, lock,
//! and only then empty what was there: another program may hold it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use block_core::driver::Preallocation;
use block_core::graph::perm::{Perm, Use};
use block_core::{Error, Result};
use rustix::fs::{
    FallocateFlags, FileType, IFlags, Mode, OFlags, fallocate, fstat, fsync, ftruncate,
    ioctl_getflags, ioctl_setflags, open,
};
use rustix::io::{Errno, pwrite};

use super::lock::{ImageLock, can_lock};
use super::resize::unsupported_mode;

/// Zero bytes written by one system call.
const CHUNK: usize = 1 << 16;

/// A FIFO must not keep us waiting until we know that it is none.
const FLAGS: OFlags = OFlags::CREATE
    .union(OFlags::RDWR)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

/// What to create.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The file; emptied when it exists.
    pub path: PathBuf,
    /// Bytes of the new file.
    pub len: u64,
    /// What is behind those bytes.
    pub preallocation: Preallocation,
    /// Whether the file system should write in place where it would else copy on write; ignored by
    /// those that cannot.
    pub nocow: bool,
}

/// Creates a file, or empties one that nobody uses, and gives it its length. Blocks.
///
/// # Errors
/// `Open` when the system refuses, `ImageLocked` when another program uses the file,
/// `InvalidOption` for a preallocation that a file cannot have or something that is no file.
pub fn create(options: &CreateOptions) -> Result<()> {
    let path = options.path.display().to_string();
    let refused = |errno: Errno| Error::Open {
        path: path.clone(),
        source: errno.into(),
    };
    if options.preallocation == Preallocation::Metadata {
        return Err(unsupported_mode(options.preallocation));
    }
    let fd = open(&options.path, FLAGS, Mode::from_raw_mode(0o644)).map_err(refused)?;
    let status = fstat(&fd).map_err(refused)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Error::invalid(
            "filename",
            format!("'file' driver requires '{path}' to be a regular file"),
        ));
    }
    if !can_lock(fd.as_fd()) {
        return fill(fd.as_fd(), options).map_err(refused);
    }
    let lock = ImageLock::new(path.clone(), false);
    // Nobody else may resize: the file has the promised length when this returns.
    let wanted = Use {
        need: Perm::WRITE | Perm::RESIZE,
        share: !Perm::RESIZE,
        unseen: Perm::NONE,
    };
    lock.change(fd.as_fd(), wanted)?;
    let filled = fill(fd.as_fd(), options).map_err(refused);
    lock.release(fd.as_fd());
    filled
}

fn fill(fd: BorrowedFd<'_>, options: &CreateOptions) -> Result<(), Errno> {
    ftruncate(fd, 0)?;
    if options.nocow {
        set_nocow(fd);
    }
    let filled = match options.preallocation {
        Preallocation::Falloc if options.len > 0 => allocate(fd, options.len),
        Preallocation::Full => write_zeroes(fd, options.len),
        Preallocation::Off | Preallocation::Metadata | Preallocation::Falloc => {
            ftruncate(fd, options.len)
        }
    };
    filled.inspect_err(|_| {
        ftruncate(fd, 0).ok();
    })
}

/// The flag counts only for files that are empty.
fn set_nocow(fd: BorrowedFd<'_>) {
    if let Ok(flags) = ioctl_getflags(fd) {
        // Most file systems do not know it.
        let _ = ioctl_setflags(fd, flags | IFlags::NOCOW);
    }
}

fn allocate(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => {}
            // What the C library does where the file system cannot.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return write_zeroes(fd, len),
            result => return result,
        }
    }
}

fn write_zeroes(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    // The file system plans better when it knows the end.
    ftruncate(fd, len)?;
    let zeroes = vec![0; CHUNK];
    let mut at = 0;
    while at < len {
        let count = usize::try_from(len - at).unwrap_or(CHUNK).min(CHUNK);
        match pwrite(fd, &zeroes[..count], at) {
            Ok(written) => at += written as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    fsync(fd)
}
