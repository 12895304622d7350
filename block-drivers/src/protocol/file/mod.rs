#![doc = include_str!("README.md")]
// Called by the registry (open) and the request path (the `Driver` impl). Invariant: the leaf is
// the only way to the bytes, so that engines of any kind, the simulator among them, can carry it.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use block_core::driver::{Cx, Description, Driver, Pending, Preallocation, Status, ZeroFlags};
use block_core::engine::{Leaf, LeafFile};
use block_core::graph::perm::Use;
use block_core::limits::Limits;
use block_core::request::align::{read_leaf, write_leaf};
use block_core::request::map::{Access, Extent, Lookup, Mapping};
use block_core::{IoBuf, Result};
use block_schema::types::{ImageInfoSpecific, ImageInfoSpecificFile};

mod create;
mod lock;
mod open;
mod resize;
mod status;
mod zero;

#[cfg(test)]
mod tests;

pub use create::{CreateOptions, create};
pub use open::{FileOptions, Kind, Locking, Source};
pub(crate) use open::{open_file, open_host_device};

use lock::ImageLock;
use zero::ZeroWays;

/// Guests and other programs see whole sectors.
const SECTOR: u64 = 512;

/// An open file or device.
#[derive(Debug)]
pub struct FileDriver {
    leaf: Arc<Leaf>,
    kind: Kind,
    read_only: bool,
    no_flush: bool,
    lock: Option<ImageLock>,
    zero_ways: ZeroWays,
}

impl FileDriver {
    /// A node over a leaf that is open already, such as one of the simulator; nothing is locked.
    pub fn from_leaf(leaf: Arc<Leaf>) -> FileDriver {
        FileDriver {
            leaf,
            kind: Kind::RegularFile,
            read_only: false,
            no_flush: false,
            lock: None,
            zero_ways: ZeroWays::default(),
        }
    }

    /// Whether the descriptor can only be read; with `auto-read-only` this is what came out.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }
}

impl Driver for FileDriver {
    fn format_name(&self) -> &'static str {
        self.kind.driver_name()
    }

    fn len(&self) -> u64 {
        self.leaf.len().next_multiple_of(SECTOR)
    }

    fn limits(&self) -> Limits {
        Limits {
            request_alignment: self.leaf.request_alignment(),
            // File systems take such writes one by one; the page cache hides that.
            grows_slowly: self.kind == Kind::RegularFile && self.leaf.is_direct(),
            ..Limits::default()
        }
    }

    fn describe(&self) -> Description {
        let specific = match self.kind {
            Kind::RegularFile => Some(ImageInfoSpecific::File(ImageInfoSpecificFile::default())),
            Kind::HostDevice => None,
        };
        Description {
            dirty: Some(false),
            format_specific: specific,
            ..Description::default()
        }
    }

    fn leaf(&self) -> Option<&Arc<Leaf>> {
        Some(&self.leaf)
    }

    fn try_map(&self, _access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let leaf = self.leaf.id();
        let offset = range.start;
        out.push(range.end - range.start, Extent::Leaf { leaf, offset })
    }

    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(read_leaf(cx, &self.leaf, offset, buf))
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(write_leaf(cx, &self.leaf, offset, buf))
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(self.zero(cx, range, flags))
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(self.punch(cx, range))
    }

    fn allocate<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(self.store(cx, range))
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move {
            if self.no_flush {
                return Ok(());
            }
            cx.leaf(&self.leaf).sync().await
        })
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(self.first_run(cx, range))
    }

    fn resize<'a>(&'a self, cx: &'a Cx, len: u64, preallocation: Preallocation) -> Pending<'a> {
        Box::pin(self.set_len(cx, len, preallocation))
    }

    fn set_permissions(&self, wanted: Use) -> Result<()> {
        match (&self.lock, self.leaf.file()) {
            (Some(lock), LeafFile::Host(fd)) => lock.change(fd.as_fd(), wanted),
            (None, LeafFile::Host(_)) | (_, LeafFile::Sim(_)) => Ok(()),
        }
    }
}

impl Drop for FileDriver {
    /// Unlocks by name: an engine may hold the descriptor a little longer.
    fn drop(&mut self) {
        if let (Some(lock), LeafFile::Host(fd)) = (&self.lock, self.leaf.file()) {
            lock.release(fd.as_fd());
        }
    }
}
