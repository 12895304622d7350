//! Leaves: the descriptors at the bottom of a graph, with the facts the request path asks for.
//!
//! Made by protocol drivers when they open, attached to engines by queues. The facts do not change
//! while the leaf is open, but for its length and its highest written byte. Not here: locks and
//! options (the `file` driver).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::sync_line::SyncLine;
use super::write_line::WriteLine;

/// Names a leaf within the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafId(u32);

impl LeafId {
    /// A small dense number, for tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The leaf of a table's index.
    pub(crate) fn from_index(index: usize) -> Option<LeafId> {
        u32::try_from(index).ok().map(LeafId)
    }
}

/// Which backend carries a leaf's I/O; the schema's `aio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aio {
    /// The thread pool.
    Threads,
    /// Kernel I/O that needs O_DIRECT; carried by the ring.
    Native,
    /// The ring.
    IoUring,
}

/// A file of the simulator, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SimFile(pub u32);

/// What a leaf's bytes are in.
#[derive(Debug)]
pub enum LeafFile {
    /// A file or device of the host.
    Host(OwnedFd),
    /// A file of the simulator.
    Sim(SimFile),
}

/// A descriptor that requests end at.
#[derive(Debug)]
pub struct Leaf {
    id: LeafId,
    file: LeafFile,
    aio: Aio,
    request_alignment: u32,
    memory_alignment: u32,
    len: AtomicU64,
    highest_written: AtomicU64,
    sync_failed: AtomicBool,
    sync_line: SyncLine,
    write_line: WriteLine,
}

/// What opening found out about a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct LeafFacts {
    /// The backend that carries its I/O.
    pub aio: Aio,
    /// Offsets and lengths must be multiples of this power of two; 1 without O_DIRECT.
    pub request_alignment: u32,
    /// Memory must be aligned to this power of two; 1 without O_DIRECT.
    pub memory_alignment: u32,
    /// Bytes in the file or device now.
    pub len: u64,
}

impl Leaf {
    /// A leaf of the facts its opener found out.
    pub fn new(file: LeafFile, facts: LeafFacts) -> Arc<Leaf> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Arc::new(Leaf {
            id: LeafId(NEXT.fetch_add(1, Ordering::Relaxed)),
            file,
            aio: facts.aio,
            request_alignment: facts.request_alignment,
            memory_alignment: facts.memory_alignment,
            len: AtomicU64::new(facts.len),
            highest_written: AtomicU64::new(0),
            sync_failed: AtomicBool::new(false),
            sync_line: SyncLine::default(),
            write_line: WriteLine::default(),
        })
    }

    /// The leaf's name within the process.
    pub fn id(&self) -> LeafId {
        self.id
    }

    /// What holds the bytes.
    pub fn file(&self) -> &LeafFile {
        &self.file
    }

    /// The backend that carries its I/O.
    pub fn aio(&self) -> Aio {
        self.aio
    }

    /// Offsets and lengths are multiples of this power of two.
    pub fn request_alignment(&self) -> u32 {
        self.request_alignment
    }

    /// Memory is aligned to this power of two.
    pub fn memory_alignment(&self) -> u32 {
        self.memory_alignment
    }

    /// Whether I/O bypasses the page cache (O_DIRECT).
    pub fn is_direct(&self) -> bool {
        self.request_alignment > 1 || self.memory_alignment > 1
    }

    /// Where a transfer that stopped short may go on.
    pub(super) fn transfer_alignment(&self) -> usize {
        self.request_alignment.max(1) as usize
    }

    /// Bytes in the file, as far as requests of this process made it.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether the file holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The end of the highest byte written through this process, for `wr_highest_offset`.
    pub fn highest_written(&self) -> u64 {
        self.highest_written.load(Ordering::Relaxed)
    }

    /// Records that a write ending at `end` has completed; lengthens the leaf where needed.
    pub fn wrote_to(&self, end: u64) {
        if end > self.highest_written.load(Ordering::Relaxed) {
            self.highest_written.fetch_max(end, Ordering::Relaxed);
        }
        self.grew_to(end);
    }

    /// Records that the file has at least `end` bytes now.
    pub fn grew_to(&self, end: u64) {
        if end > self.len.load(Ordering::Relaxed) {
            self.len.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Records the length that a truncation set.
    pub fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    /// Whether a sync failed: the kernel may have dropped what it could not write, so no later
    /// sync can promise anything until the file is opened anew.
    pub fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Records that a sync failed.
    pub fn mark_sync_failed(&self) {
        self.sync_failed.store(true, Ordering::Release);
    }

    /// Records that a sync failed, unless the leaf is one where a later sync can make up for it:
    /// with O_DIRECT no written byte is in a cache that the kernel may have dropped.
    pub(super) fn note_failed_sync(&self) {
        if !self.is_direct() {
            self.mark_sync_failed();
        }
    }

    /// Who waits for a sync of this leaf.
    pub(super) fn sync_line(&self) -> &SyncLine {
        &self.sync_line
    }

    /// Who wants to write into the page cache of this leaf.
    pub(super) fn write_line(&self) -> &WriteLine {
        &self.write_line
    }
}
