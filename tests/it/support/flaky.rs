//! A file whose writes fail while a test says so: space that runs out, a cable that is pulled.
//!
//! Invariant: what fails has changed nothing; all else is the file's as it is.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use block_core::driver::{Cx, Driver, Pending, Preallocation, Status, ZeroFlags};
use block_core::engine::Leaf;
use block_core::graph::{Node, NodeFacts};
use block_core::limits::Limits;
use block_core::request::map::{Access, Lookup, Mapping};
use block_core::{Error, IoBuf, LocalQueue};
use block_drivers::protocol::file::{FileDriver, FileOptions};

/// What is wrong with a file: an error's number, or 0.
#[derive(Clone, Default)]
pub(crate) struct Trouble(Arc<AtomicI32>);

impl Trouble {
    /// From now on nothing can be written.
    pub(crate) fn begin(&self, errno: rustix::io::Errno) {
        self.0.store(errno.raw_os_error(), Ordering::SeqCst);
    }

    /// From now on all is well.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    fn check(&self, cx: &Cx, range: Range<u64>) -> Result<(), Error> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            errno => Err(Error::Io {
                node: cx.node_name().to_owned(),
                op: "write",
                offset: range.start,
                len: range.end - range.start,
                source: std::io::Error::from_raw_os_error(errno),
            }),
        }
    }
}

/// A file as a node of this name, for who adds it to a graph.
pub(crate) fn node(name: &str, path: &Path) -> (Arc<Node>, Trouble) {
    let trouble = Trouble::default();
    let file = FileDriver::open(FileOptions::path(path)).expect("a file");
    let facts = NodeFacts {
        name: name.to_owned(),
        filename: path.display().to_string(),
        discard_unmap: true,
        ..NodeFacts::default()
    };
    let driver = Flaky(file, trouble.clone());
    (Node::new(facts, Box::new(driver)), trouble)
}

/// Adds a file as a node of this name.
pub(crate) fn add(queue: &LocalQueue, name: &str, path: &Path) -> Trouble {
    let (node, trouble) = node(name, path);
    let added = queue.block_on(queue.layer().add_node(node, &[]));
    added.unwrap_or_else(|error| panic!("{}", error.chain()));
    trouble
}

struct Flaky(FileDriver, Trouble);

impl Driver for Flaky {
    fn format_name(&self) -> &'static str {
        self.0.format_name()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn leaf(&self) -> Option<&Arc<Leaf>> {
        self.0.leaf()
    }

    fn try_map(&self, access: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        match access {
            Access::Read => self.0.try_map(access, range, out),
            _ => Lookup::Miss,
        }
    }

    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        self.0.read(cx, offset, buf)
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            self.1.check(cx, offset..offset + buf.len() as u64)?;
            self.0.write(cx, offset, buf).await
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(async move {
            self.1.check(cx, range.clone())?;
            self.0.write_zeroes(cx, range, flags).await
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        self.0.discard(cx, range)
    }

    fn allocate<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            self.1.check(cx, range.clone())?;
            self.0.allocate(cx, range).await
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        self.0.flush(cx)
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        self.0.status(cx, range)
    }

    fn resize<'a>(&'a self, cx: &'a Cx, len: u64, preallocation: Preallocation) -> Pending<'a> {
        Box::pin(async move {
            self.1.check(cx, len..len)?;
            self.0.resize(cx, len, preallocation).await
        })
    }
}
