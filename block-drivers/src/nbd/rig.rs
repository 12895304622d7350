//! What the tests of server and client stand on: a layer with queues on threads of their own, and
//! a disk that is a temporary file.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;

use block_core::backend::Backend;
use block_core::driver::{Cx, Driver, Pending, Status, StatusKind, ZeroFlags};
use block_core::engine::{
    Aio, Fallocate, HostEngine, HostEngineOptions, Leaf, LeafFacts, LeafFile, Pool, Ring, Seek,
};
use block_core::graph::policy::DenyAll;
use block_core::graph::{Node, NodeFacts};
use block_core::queue::{QueueHandle, block_on_thread};
use block_core::request::map::{Access, Extent, Lookup, Mapping};
use block_core::sync::WaitList;
use block_core::{IoBuf, Layer};

static POOL: LazyLock<Arc<Pool>> =
    LazyLock::new(|| Pool::new(NonZeroUsize::new(2).unwrap()).unwrap());

/// A raw file as a protocol node.
pub(crate) struct Disk {
    leaf: Arc<Leaf>,
}

impl Driver for Disk {
    fn format_name(&self) -> &'static str {
        "file"
    }

    fn len(&self) -> u64 {
        self.leaf.len()
    }

    fn leaf(&self) -> Option<&Arc<Leaf>> {
        Some(&self.leaf)
    }

    fn try_map(&self, _: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let extent = Extent::Leaf {
            leaf: self.leaf.id(),
            offset: range.start,
        };
        out.push(range.end - range.start, extent)
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move { cx.leaf(&self.leaf).write(offset, buf).await })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        let mode = if flags.may_unmap {
            Fallocate::PunchHole
        } else {
            Fallocate::ZeroRange
        };
        Box::pin(async move { cx.leaf(&self.leaf).fallocate(mode, range).await })
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            cx.leaf(&self.leaf)
                .fallocate(Fallocate::PunchHole, range)
                .await
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move { cx.leaf(&self.leaf).sync().await })
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(async move {
            let leaf = cx.leaf(&self.leaf);
            let data = leaf
                .seek(range.start, Seek::Data)
                .await?
                .unwrap_or(range.end);
            let (kind, end) = if data > range.start {
                (StatusKind::Zero, data)
            } else {
                let hole = leaf
                    .seek(range.start, Seek::Hole)
                    .await?
                    .unwrap_or(range.end);
                (StatusKind::Data, hole)
            };
            let len = end.min(range.end) - range.start;
            Ok(Status {
                len,
                kind,
                child: None,
                compressed: false,
            })
        })
    }
}

/// A directory that goes with the test.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nbd-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A layer with running queues.
pub(crate) struct Rig {
    pub(crate) layer: Layer,
    pub(crate) queues: Vec<QueueHandle>,
    pub(crate) dir: TempDir,
    stop: Arc<(AtomicBool, WaitList)>,
    threads: Vec<JoinHandle<()>>,
}

impl Rig {
    pub(crate) fn new(queue_count: usize) -> Rig {
        let layer = Layer::with_drivers(Arc::new(crate::Drivers), Arc::new(DenyAll));
        let stop = Arc::new((AtomicBool::new(false), WaitList::new()));
        let mut rig = Rig {
            layer,
            queues: Vec::new(),
            dir: TempDir::new(),
            stop,
            threads: Vec::new(),
        };
        for _ in 0..queue_count {
            let options = HostEngineOptions {
                ring_entries: 128,
                ring: Ring::Auto,
                pool: Arc::clone(&POOL),
            };
            let builder = rig
                .layer
                .new_queue(Box::new(HostEngine::new(&options).unwrap()));
            rig.queues.push(builder.handle());
            let stop = Arc::clone(&rig.stop);
            rig.threads.push(std::thread::spawn(move || {
                let queue = builder.start();
                queue.block_on(stop.1.wait_until(|| stop.0.load(Ordering::Acquire)));
            }));
        }
        rig
    }

    /// A node over a new sparse file of `len` bytes, and the file.
    pub(crate) fn disk(&self, name: &str, len: u64) -> (Arc<Backend>, File) {
        let path = self.dir.path(name);
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(len).unwrap();
        (self.node_of(name, &path, false), file)
    }

    /// A backend of a node over an existing file.
    pub(crate) fn node_of(&self, name: &str, path: &Path, read_only: bool) -> Arc<Backend> {
        let file = File::options()
            .read(true)
            .write(!read_only)
            .open(path)
            .unwrap();
        let len = file.metadata().unwrap().len();
        let facts = LeafFacts {
            aio: Aio::IoUring,
            request_alignment: 1,
            memory_alignment: 1,
            len,
        };
        let leaf = Leaf::new(LeafFile::Host(file.into()), facts);
        let facts = NodeFacts {
            name: name.to_owned(),
            read_only,
            discard_unmap: true,
            ..NodeFacts::default()
        };
        self.backend(Node::new(facts, Box::new(Disk { leaf })), read_only)
    }

    /// A user of a node.
    pub(crate) fn backend(&self, node: Arc<Node>, read_only: bool) -> Arc<Backend> {
        block_on_thread(async {
            let id = self.layer.add_node(node, &[]).await.unwrap();
            self.layer.add_backend("", id, read_only).await.unwrap()
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        self.stop.1.wake_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("a queue's thread panicked");
            }
        }
    }
}

/// Bytes that differ everywhere.
pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// What a file holds.
pub(crate) fn bytes_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// The output of another program, or nothing, said why, when it is not installed.
pub(crate) fn run_tool(program: &str, args: &[&str]) -> Option<(bool, String)> {
    match std::process::Command::new(program).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            None
        }
    }
}
