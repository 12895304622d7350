//! Opening: from options to a descriptor and its facts.
//!
//! Called by the registry, on a thread that may block. Not here: locks, which are taken when the
//! node gets its first user (`lock.rs`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use block_core::driver::Driver;
use block_core::engine::{Aio, Leaf, LeafFacts, LeafFile};
use block_core::graph::CacheMode;
use block_core::graph::open::Opener;
use block_core::{AlignedBuf, Error, LocalQueue, Result};
use block_schema::types::{BlockdevOptionsFile, OnOffAuto};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat, open, seek};
use rustix::io::Errno;

use super::FileDriver;
use super::lock::{ImageLock, can_lock};
use super::zero::ZeroWays;

/// What every alignment that we know of divides, and what is safe where nobody knows.
const SAFE_ALIGNMENT: u32 = 4096;

/// Where the descriptor comes from.
#[derive(Debug)]
pub enum Source {
    /// Opened by name.
    Path(PathBuf),
    /// Given; its own flags count for O_DIRECT and for writing.
    Fd(OwnedFd),
}

/// What the descriptor must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file: the driver `file`.
    RegularFile,
    /// A block or character device: the driver `host_device`.
    HostDevice,
}

impl Kind {
    pub(super) fn driver_name(self) -> &'static str {
        match self {
            Kind::RegularFile => "file",
            Kind::HostDevice => "host_device",
        }
    }
}

/// The schema's `locking`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Where the file system can.
    #[default]
    Auto,
    /// Or the open fails.
    On,
    /// Never.
    Off,
}

/// What to open, and how.
#[derive(Debug)]
pub struct FileOptions {
    /// The file or device.
    pub source: Source,
    /// What it must be.
    pub kind: Kind,
    /// Open for reading only.
    pub read_only: bool,
    /// Open for reading only where writing is not allowed.
    pub auto_read_only: bool,
    /// `direct` and `no_flush` count here; `writeback` is the request path's.
    pub cache: CacheMode,
    /// The backend for its I/O.
    pub aio: Aio,
    /// Whether other programs hear what we do.
    pub locking: Locking,
    /// Lets other programs do what they like.
    pub force_share: bool,
}

impl FileOptions {
    /// A regular file by its name, opened for writing, everything else as it is by default.
    pub fn path(path: impl Into<PathBuf>) -> FileOptions {
        FileOptions::new(Source::Path(path.into()))
    }

    /// A regular file that is open already.
    pub fn fd(fd: OwnedFd) -> FileOptions {
        FileOptions::new(Source::Fd(fd))
    }

    fn new(source: Source) -> FileOptions {
        FileOptions {
            source,
            kind: Kind::RegularFile,
            read_only: false,
            auto_read_only: false,
            cache: CacheMode::default(),
            aio: Aio::Threads,
            locking: Locking::default(),
            force_share: false,
        }
    }
}

impl FileDriver {
    /// Opens a file or device. Blocks: see [`open_on`](FileDriver::open_on).
    ///
    /// # Errors
    /// `Open` when the system refuses, `InvalidOption` when the file is of the wrong kind or an
    /// option does not suit it.
    pub fn open(options: FileOptions) -> Result<FileDriver> {
        if options.aio == Aio::Native && !options.cache.direct {
            return Err(Error::invalid(
                "aio",
                "aio=native was specified, but it requires cache.direct=on, which was not \
                 specified.",
            ));
        }
        let (fd, path, read_only) = match options.source {
            Source::Path(path) => {
                let name = path.display().to_string();
                let want = Wanted {
                    read_only: options.read_only,
                    auto_read_only: options.auto_read_only,
                    direct: options.cache.direct,
                };
                let opened = open_path(&path, want);
                let (fd, read_only) = opened.map_err(|errno| cannot_open(&name, errno))?;
                (fd, name, read_only)
            }
            Source::Fd(fd) => {
                let read_only = adopt(&fd, options.read_only, options.cache.direct)?;
                (fd, "a given descriptor".to_owned(), read_only)
            }
        };
        let facts = facts_of(fd.as_fd(), &path, options.kind, options.aio)?;
        let lock = match options.locking {
            Locking::Off => None,
            Locking::Auto if !can_lock(fd.as_fd()) => None,
            Locking::Auto | Locking::On => Some(ImageLock::new(path, options.force_share)),
        };
        Ok(FileDriver {
            leaf: Leaf::new(LeafFile::Host(fd), facts),
            kind: options.kind,
            read_only,
            no_flush: options.cache.no_flush,
            lock,
            zero_ways: ZeroWays::default(),
        })
    }

    /// Opens a file or device without blocking the queue's thread.
    ///
    /// # Errors
    /// As [`open`](FileDriver::open); `Open` too when the queue has no threads for it.
    pub async fn open_on(queue: &LocalQueue, options: FileOptions) -> Result<FileDriver> {
        let opened = queue.blocking(move || Ok(FileDriver::open(options))).await;
        opened.map_err(|source| Error::Open {
            path: "file".to_owned(),
            source,
        })?
    }
}

/// Opens the driver `file` by its options.
///
/// # Errors
/// As [`FileDriver::open`].
pub(crate) async fn open_file(
    opener: &mut Opener,
    options: BlockdevOptionsFile,
) -> Result<Box<dyn Driver>> {
    open_kind(opener, options, Kind::RegularFile).await
}

/// Opens the driver `host_device` by its options.
///
/// # Errors
/// As [`FileDriver::open`].
pub(crate) async fn open_host_device(
    opener: &mut Opener,
    options: BlockdevOptionsFile,
) -> Result<Box<dyn Driver>> {
    open_kind(opener, options, Kind::HostDevice).await
}

async fn open_kind(
    opener: &mut Opener,
    options: BlockdevOptionsFile,
    kind: Kind,
) -> Result<Box<dyn Driver>> {
    let facts = opener.facts();
    let wanted = FileOptions {
        kind,
        read_only: facts.read_only,
        auto_read_only: opener.auto_read_only(),
        cache: facts.cache,
        aio: opener.aio(),
        locking: match options.locking {
            None | Some(OnOffAuto::Auto) => Locking::Auto,
            Some(OnOffAuto::On) => Locking::On,
            Some(OnOffAuto::Off) => Locking::Off,
        },
        force_share: facts.force_share,
        ..FileOptions::path(&options.filename)
    };
    opener.set_filename(options.filename);
    let driver = FileDriver::open_on(opener.queue(), wanted).await?;
    if driver.is_read_only() {
        opener.set_read_only();
    }
    Ok(Box::new(driver))
}

#[derive(Clone, Copy)]
struct Wanted {
    read_only: bool,
    auto_read_only: bool,
    direct: bool,
}

fn cannot_open(path: &str, errno: Errno) -> Error {
    Error::Open {
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// Opens by name; the second value says whether only for reading.
fn open_path(path: &std::path::Path, want: Wanted) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
    flags.set(OFlags::DIRECT, want.direct);
    if want.read_only {
        return Ok((open_blocking(path, flags | OFlags::RDONLY)?, true));
    }
    match open_blocking(path, flags | OFlags::RDWR) {
        Ok(fd) => Ok((fd, false)),
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY) if want.auto_read_only => {
            Ok((open_blocking(path, flags | OFlags::RDONLY)?, true))
        }
        Err(errno) => Err(errno),
    }
}

/// Opens without waiting for the other end of a FIFO; what is returned blocks as usual, which a
/// ring needs to carry it.
fn open_blocking(path: &std::path::Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let fd = open(path, flags | OFlags::NONBLOCK, Mode::empty())?;
    let flags = fcntl_getfl(&fd)?;
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK)?;
    Ok(fd)
}

/// Makes a given descriptor suit the options; answers whether it can only be read.
fn adopt(fd: &OwnedFd, read_only: bool, direct: bool) -> Result<bool> {
    let adapted = || -> Result<OFlags, Errno> {
        let flags = fcntl_getfl(fd)?;
        if direct && !flags.contains(OFlags::DIRECT) {
            fcntl_setfl(fd, flags | OFlags::DIRECT)?;
        }
        Ok(flags & OFlags::RWMODE)
    };
    let mode = adapted().map_err(|errno| cannot_open("a given descriptor", errno))?;
    match (mode, read_only) {
        (OFlags::RDWR, read_only) => Ok(read_only),
        (OFlags::RDONLY, true) => Ok(true),
        (_, _) => Err(Error::invalid(
            "fd",
            "the descriptor is not open for what the node is to do",
        )),
    }
}

fn facts_of(fd: BorrowedFd<'_>, path: &str, kind: Kind, aio: Aio) -> Result<LeafFacts> {
    let refused = |errno| cannot_open(path, errno);
    let status = fstat(fd).map_err(refused)?;
    let name = kind.driver_name();
    let found = FileType::from_raw_mode(status.st_mode);
    match (kind, found) {
        (Kind::RegularFile, FileType::RegularFile)
        | (Kind::HostDevice, FileType::BlockDevice | FileType::CharacterDevice) => {}
        (Kind::RegularFile, _) => {
            return Err(Error::invalid(
                "filename",
                format!("'{name}' driver requires '{path}' to be a regular file"),
            ));
        }
        (Kind::HostDevice, _) => {
            return Err(Error::invalid(
                "filename",
                format!(
                    "'{name}' driver requires '{path}' to be either a character or block device"
                ),
            ));
        }
    }
    let len = seek(fd, SeekFrom::End(0)).map_err(refused)?;
    let direct = fcntl_getfl(fd).map_err(refused)?.contains(OFlags::DIRECT);
    let (request_alignment, memory_alignment) = match (direct, found) {
        (false, _) => (1, 1),
        (true, FileType::BlockDevice) => stated(fd).unwrap_or_else(|| device_alignment(fd)),
        (true, _) => stated(fd).unwrap_or_else(|| tried(fd)),
    };
    Ok(LeafFacts {
        aio,
        request_alignment,
        memory_alignment,
        len,
    })
}

/// The alignments of requests and memory by the kernel's own account.
fn stated(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let facts = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let known = StatxFlags::from_bits_retain(facts.stx_mask).contains(StatxFlags::DIOALIGN);
    let (request, memory) = (facts.stx_dio_offset_align, facts.stx_dio_mem_align);
    let usable = |alignment: u32| alignment.is_power_of_two() && alignment <= 1 << 16;
    (known && usable(request) && usable(memory)).then_some((request, memory))
}

fn device_alignment(fd: BorrowedFd<'_>) -> (u32, u32) {
    match rustix::fs::ioctl_blksszget(fd) {
        Ok(size) if size.is_power_of_two() => (size, size),
        Ok(_) | Err(_) => tried(fd),
    }
}

/// Finds the alignments by reading.
fn tried(fd: BorrowedFd<'_>) -> (u32, u32) {
    // A file system that reads one byte does not check (a hole, or no O_DIRECT below it).
    let works = |start: usize, len: u32| reads(fd, start, len as usize);
    if works(0, 1) {
        return (SAFE_ALIGNMENT, SAFE_ALIGNMENT);
    }
    let steps = [512, 1024, 2048, SAFE_ALIGNMENT];
    let request = steps.into_iter().find(|&step| works(0, step));
    let request = request.unwrap_or(SAFE_ALIGNMENT);
    let memory = steps
        .into_iter()
        .find(|&step| works(step as usize, request));
    (request, memory.unwrap_or(SAFE_ALIGNMENT))
}

/// Whether a read of `len` bytes into memory `start` bytes behind a page's start is accepted.
fn reads(fd: BorrowedFd<'_>, start: usize, len: usize) -> bool {
    let mut memory = AlignedBuf::zeroed(2 * SAFE_ALIGNMENT as usize);
    let Some(part) = memory.get_mut(start..start + len) else {
        return false;
    };
    match rustix::io::pread(fd, part, 0) {
        Ok(_) => true,
        // A bad disk, not a bad request.
        Err(Errno::IO) => true,
        Err(_) => false,
    }
}
