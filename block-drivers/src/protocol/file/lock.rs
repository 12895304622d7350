//! Telling other programs what this one does with an image, by locks on bytes.
//!
//! Called when the users of a node change (`set_permissions`) and when a file is created.
//! Invariant: the bytes in `held` are locked by this open file, no others; a change that fails
//! leaves them as they were. Spec: the README. Not here: the system calls (`engine`).

use std::os::fd::BorrowedFd;

use block_core::engine::{is_byte_locked_by_others, lock_byte_shared, unlock_byte};
use block_core::graph::perm::{Perm, Use};
use block_core::{Error, Result};
use parking_lot::Mutex;
use rustix::io::Errno;

/// The number that each permission has in a lock.
const NUMBERS: [(Perm, u32); 4] = [
    (Perm::CONSISTENT_READ, 0),
    (Perm::WRITE, 1),
    (Perm::WRITE_UNCHANGED, 2),
    (Perm::RESIZE, 3),
];

/// Locked by those who use a permission.
const USED: u32 = 100;
/// Locked by those who do not share a permission.
const NOT_SHARED: u32 = 200;

/// The locks of one open file.
#[derive(Debug)]
pub(super) struct ImageLock {
    /// The name shown to a user whose image is in use.
    path: String,
    force_share: bool,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    used: Perm,
    not_shared: Perm,
}

impl Held {
    fn of(wanted: Use) -> Held {
        Held {
            used: wanted.need,
            not_shared: !wanted.share,
        }
    }

    fn without(self, other: Held) -> Held {
        Held {
            used: self.used & !other.used,
            not_shared: self.not_shared & !other.not_shared,
        }
    }

    fn bytes(self) -> impl Iterator<Item = u32> {
        let used = numbers(self.used).map(|(_, n)| USED + n);
        let not_shared = numbers(self.not_shared).map(|(_, n)| NOT_SHARED + n);
        used.chain(not_shared)
    }
}

fn numbers(perms: Perm) -> impl Iterator<Item = (Perm, u32)> {
    let number = move |&(perm, _): &(Perm, u32)| perms.contains(perm);
    NUMBERS.into_iter().filter(number)
}

/// Whether the file system and the kernel have locks of this sort.
pub(super) fn can_lock(fd: BorrowedFd<'_>) -> bool {
    is_byte_locked_by_others(fd, USED).is_ok()
}

impl ImageLock {
    pub(super) fn new(path: String, force_share: bool) -> ImageLock {
        ImageLock {
            path,
            force_share,
            held: Mutex::default(),
        }
    }

    /// Says that the file is used as `wanted` from now on.
    ///
    /// # Errors
    /// `ImageLocked` when another program's use excludes it; the locks are as before then.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, wanted: Use) -> Result<()> {
        let share = if self.force_share {
            Perm::ALL
        } else {
            wanted.share
        };
        let wanted = Use { share, ..wanted };
        let mut held = self.held.lock();
        let next = Held::of(wanted);
        let added = next.without(*held);
        if added != Held::default() {
            self.add(fd, added, wanted)?;
        }
        unlock(fd, held.without(next));
        *held = next;
        Ok(())
    }

    /// Gives every byte back.
    pub(super) fn release(&self, fd: BorrowedFd<'_>) {
        let mut held = self.held.lock();
        unlock(fd, *held);
        *held = Held::default();
    }

    /// Takes bytes first and looks afterwards: of two programs that do so at the same time, at
    /// least one sees the other.
    fn add(&self, fd: BorrowedFd<'_>, added: Held, wanted: Use) -> Result<()> {
        let mut taken = Held::default();
        for (perm, n) in numbers(added.used) {
            if let Err(errno) = lock_byte_shared(fd, USED + n) {
                unlock(fd, taken);
                return Err(self.no_byte(USED + n, errno));
            }
            taken.used = taken.used | perm;
        }
        for (perm, n) in numbers(added.not_shared) {
            if let Err(errno) = lock_byte_shared(fd, NOT_SHARED + n) {
                unlock(fd, taken);
                return Err(self.no_byte(NOT_SHARED + n, errno));
            }
            taken.not_shared = taken.not_shared | perm;
        }
        self.look(fd, wanted).inspect_err(|_| unlock(fd, taken))
    }

    fn look(&self, fd: BorrowedFd<'_>, wanted: Use) -> Result<()> {
        for (perm, n) in numbers(wanted.need) {
            self.look_at(fd, NOT_SHARED + n, || format!("\"{perm}\""))?;
        }
        for (perm, n) in numbers(!wanted.share) {
            self.look_at(fd, USED + n, || format!("shared \"{perm}\""))?;
        }
        Ok(())
    }

    fn look_at(&self, fd: BorrowedFd<'_>, byte: u32, lock: impl Fn() -> String) -> Result<()> {
        match is_byte_locked_by_others(fd, byte) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::ImageLocked {
                path: self.path.clone(),
                lock: lock(),
            }),
            Err(errno) => Err(self.no_byte(byte, errno)),
        }
    }

    fn no_byte(&self, byte: u32, errno: Errno) -> Error {
        if errno == Errno::AGAIN || errno == Errno::ACCESS {
            return Error::ImageLocked {
                path: self.path.clone(),
                lock: format!("byte {byte}"),
            };
        }
        Error::Open {
            path: self.path.clone(),
            source: errno.into(),
        }
    }
}

fn unlock(fd: BorrowedFd<'_>, bytes: Held) {
    for byte in bytes.bytes() {
        if let Err(errno) = unlock_byte(fd, byte) {
            // Some network file systems do this; the byte goes with the descriptor.
            tracing::warn!("unlocking byte {byte}: {errno}");
        }
    }
}
