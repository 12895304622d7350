//! For tests of drivers: a layer with one queue, and a little language that does requests to a
//! disk and holds them against an array of bytes.
//!
//! A script is a list of commands, separated by semicolons:
//! `write 4k+512 aa`, `read 0+8k`, `zero 0+4k`, `zero 0+4k unmap`, `zero 0+4k fast`,
//! `discard 0+4k`, `flush`, `status 0+1m`. Numbers take `k` and `m`. What `read` and `status`
//! find comes out as runs: `00*4k aa*512`; a failed request as its errno: `write: PERM`.

use std::fmt::Write as _;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use block_core::driver::{Driver, StatusKind, ZeroFlags};
use block_core::engine::sim::{Sim, SimEngine};
use block_core::engine::{Engine, HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::perm::Role;
use block_core::graph::{Node, NodeFacts, NodeId};
use block_core::{Backend, BackendSlot, IoBuf, Layer, Queue, Request, Result};

/// A file that goes with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A sparse file of `len` bytes.
    pub(crate) fn new(len: u64) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qblk-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        File::create(&path).unwrap().set_len(len).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// A layer with a queue on the test's own thread.
pub(crate) struct Rig {
    pub(crate) layer: Layer,
    pub(crate) queue: Queue,
}

impl Rig {
    /// On the host's kernel.
    pub(crate) fn host() -> Rig {
        Rig::of(Layer::new())
    }

    /// On the host's kernel, for a layer that the caller made.
    pub(crate) fn of(layer: Layer) -> Rig {
        static POOL: LazyLock<Arc<Pool>> =
            LazyLock::new(|| Pool::new(NonZeroUsize::new(2).unwrap()).unwrap());
        let options = HostEngineOptions {
            ring_entries: 16,
            ring: Ring::Auto,
            pool: Arc::clone(&POOL),
        };
        Rig::over(layer, HostEngine::new(&options).unwrap())
    }

    /// On a simulated machine.
    pub(crate) fn sim(sim: &Sim) -> Rig {
        Rig::over(Layer::new(), SimEngine::new(sim))
    }

    fn over(layer: Layer, engine: impl Engine + 'static) -> Rig {
        let queue = layer.new_queue(Box::new(engine)).start();
        Rig { layer, queue }
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.queue.block_on(future)
    }

    /// Adds a node of this name over its children; discards reach its driver.
    pub(crate) fn add(
        &self,
        name: &str,
        driver: impl Driver,
        children: &[(&str, Role, NodeId)],
    ) -> Result<NodeId> {
        let facts = NodeFacts {
            name: name.to_owned(),
            discard_unmap: true,
            ..NodeFacts::default()
        };
        self.add_with(facts, driver, children)
    }

    /// Adds a node of these facts over its children.
    pub(crate) fn add_with(
        &self,
        facts: NodeFacts,
        driver: impl Driver,
        children: &[(&str, Role, NodeId)],
    ) -> Result<NodeId> {
        let node = Node::new(facts, Box::new(driver));
        self.block_on(self.layer.add_node(node, children))
    }

    /// A writer of a node, without a name.
    pub(crate) fn writer(&self, node: NodeId) -> Result<Arc<Backend>> {
        self.block_on(self.layer.add_backend("", node, false))
    }

    /// Bytes of a node now.
    pub(crate) fn len(&self, node: NodeId) -> u64 {
        let graph = self.layer.graph();
        graph.len(graph.index_of(node).unwrap())
    }

    /// A node as a disk for scripts, with a writer of its own.
    pub(crate) fn disk(&self, node: NodeId) -> Disk<'_> {
        let backend = self.writer(node).unwrap();
        Disk {
            rig: self,
            node,
            slot: self.queue.attach(&backend),
            model: Vec::new(),
        }
    }
}

/// A disk and what it must hold.
pub(crate) struct Disk<'a> {
    rig: &'a Rig,
    node: NodeId,
    slot: BackendSlot,
    /// `None` is a byte of which nobody knows: discarded, or never looked at.
    model: Vec<Option<u8>>,
}

impl Disk<'_> {
    /// Says that every byte is zero so far.
    pub(crate) fn zeroed(mut self) -> Self {
        let len = self.rig.len(self.node);
        self.model = vec![Some(0); usize::try_from(len).unwrap()];
        self
    }

    /// Does a script; answers what its commands found, joined by `; `.
    ///
    /// # Panics
    /// When a read differs from what was written.
    #[track_caller]
    pub(crate) fn run(&mut self, script: &str) -> String {
        let mut found = Vec::new();
        for command in script.split(';').map(str::trim).filter(|c| !c.is_empty()) {
            found.extend(self.command(command));
        }
        found.join("; ")
    }

    #[track_caller]
    fn command(&mut self, command: &str) -> Option<String> {
        let mut words = command.split_whitespace();
        let verb = words.next()?;
        let range = words.next().map(range_of).unwrap_or_default();
        let len = usize::try_from(range.end - range.start).unwrap();
        let argument = words.next();
        let request = match verb {
            "status" => return Some(self.status(range)),
            "read" => Request::read(range.start, IoBuf::zeroed(len)),
            "write" => {
                let byte = u8::from_str_radix(argument.unwrap(), 16).unwrap();
                let buf = IoBuf::zeroed(len);
                buf.fill(0..len, byte);
                Request::write(range.start, buf)
            }
            "zero" => {
                let flags = ZeroFlags {
                    may_unmap: argument == Some("unmap"),
                    no_fallback: argument == Some("fast"),
                };
                Request::write_zeroes(range.start, len as u64, flags)
            }
            "discard" => Request::discard(range.start, len as u64),
            "flush" => Request::flush(),
            other => panic!("no such command: {other}"),
        };
        let done = self
            .rig
            .block_on(self.rig.queue.request(self.slot, request));
        let buf = match done {
            Ok(buf) => buf,
            Err(error) => return Some(format!("{verb}: {}", errno_name(error.errno()))),
        };
        match verb {
            "read" => {
                let bytes = buf.to_vec();
                self.compare(range.start, &bytes);
                return Some(runs(bytes.iter().map(|b| (format!("{b:02x}"), 1))));
            }
            "write" => {
                let byte = buf.to_vec().first().copied();
                self.expect(&range, byte);
            }
            "zero" => self.expect(&range, Some(0)),
            "discard" => self.expect(&range, None),
            _ => {}
        }
        None
    }

    fn expect(&mut self, range: &Range<u64>, byte: Option<u8>) {
        let (start, end) = (to_index(range.start), to_index(range.end));
        if self.model.len() < end {
            self.model.resize(end, None);
        }
        self.model[start..end].fill(byte);
    }

    #[track_caller]
    fn compare(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (to_index(offset)..).zip(bytes) {
            if let Some(Some(expected)) = self.model.get(at) {
                assert_eq!(byte, expected, "at {at:#x}");
            }
        }
    }

    fn status(&self, range: Range<u64>) -> String {
        let found = self.rig.block_on(async {
            let node = self.rig.layer.node(&self.rig.queue, self.node).unwrap();
            let mut found = Vec::new();
            let mut at = range.start;
            while at < range.end {
                let status = node.status(at..range.end).await.unwrap();
                assert!(status.len > 0 && status.len <= range.end - at, "{status:?}");
                let kind = match status.kind {
                    StatusKind::Data => "data",
                    StatusKind::Zero => "zero",
                    StatusKind::Unallocated => "unallocated",
                };
                found.push((kind.to_owned(), status.len));
                at += status.len;
            }
            found
        });
        runs(found)
    }
}

fn errno_name(errno: rustix::io::Errno) -> String {
    use rustix::io::Errno;
    for (known, name) in [
        (Errno::IO, "IO"),
        (Errno::INVAL, "INVAL"),
        (Errno::NOSPC, "NOSPC"),
        (Errno::NOTSUP, "NOTSUP"),
        (Errno::PERM, "PERM"),
    ] {
        if errno == known {
            return name.to_owned();
        }
    }
    errno.to_string()
}

fn range_of(word: &str) -> Range<u64> {
    let (offset, len) = word.split_once('+').expect("offset+len");
    let offset = number(offset);
    offset..offset + number(len)
}

fn number(word: &str) -> u64 {
    let (digits, unit) = match word.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => match word.strip_suffix('m') {
            Some(digits) => (digits, 1 << 20),
            None => (word, 1),
        },
    };
    digits.parse::<u64>().expect("a number") * unit
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// Adjacent equals as one: `00*4k aa*512`.
fn runs(parts: impl IntoIterator<Item = (String, u64)>) -> String {
    let mut joined: Vec<(String, u64)> = Vec::new();
    for (what, len) in parts {
        match joined.last_mut() {
            Some(last) if last.0 == what => last.1 += len,
            Some(_) | None => joined.push((what, len)),
        }
    }
    let mut text = String::new();
    for (what, len) in joined {
        let separator = if text.is_empty() { "" } else { " " };
        let (count, unit) = match len {
            0 => (0, ""),
            len if len % (1 << 20) == 0 => (len >> 20, "m"),
            len if len % (1 << 10) == 0 => (len >> 10, "k"),
            len => (len, ""),
        };
        write!(text, "{separator}{what}*{count}{unit}").unwrap();
    }
    text
}
