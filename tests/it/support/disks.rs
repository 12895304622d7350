//! Disks over files of the host, as graphs that hold all their tables in memory: for what is said
//! about cached requests.
//!
//! Invariant: once made, a disk answers any read without loading a table.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block_core::backend::Backend;
use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::policy::DenyAll;
use block_core::{IoBuf, Layer, Queue, Request};
use block_drivers::format::qcow2;
use block_schema::types::{
    BlockdevOptions, BlockdevOptionsBranch, BlockdevOptionsFile, BlockdevOptionsQcow2,
    BlockdevOptionsRaw, BlockdevRef,
};

/// Bytes of each disk.
pub(crate) const LEN: u64 = 16 << 20;
/// Bytes at a disk's end that every image of a chain holds itself, so that it has tables to look
/// at; what is before them is in the lowest image alone.
pub(crate) const TOP: u64 = 64 << 10;

/// A disk, its layer, and the queue that opened it.
pub(crate) struct Disk {
    pub(crate) backend: Arc<Backend>,
    pub(crate) queue: Queue,
    folder: PathBuf,
}

impl Disk {
    /// The driver `raw` over a file.
    pub(crate) fn raw() -> Disk {
        let disk = Start::new();
        let path = disk.folder.join("disk.raw");
        std::fs::write(&path, vec![0x5a; 16 << 20]).expect("room for a disk");
        let raw = BlockdevOptionsRaw::new(file(&path, "file"));
        disk.open(named(BlockdevOptionsBranch::Raw(raw), "top"))
    }

    /// A qcow2 image over `depth - 1` others, where the lowest holds the data.
    pub(crate) fn qcow2(depth: usize) -> Disk {
        let disk = Start::new();
        let mut top: Option<BlockdevOptions> = None;
        for level in 0..depth {
            let path = disk.folder.join(format!("{level}.qcow2"));
            disk.create(&path);
            let own = match level {
                0 => 0..LEN,
                _ => LEN - TOP..LEN,
            };
            let mut image = BlockdevOptionsQcow2::new(file(&path, &format!("file{level}")));
            image.backing = Some(BlockdevRef::Reference(String::new()));
            let name = format!("image{level}");
            // Whole clusters need nothing of what is below.
            let alone = named(BlockdevOptionsBranch::Qcow2(image.clone()), &name);
            disk.write(&alone, own);
            if let Some(below) = top.take() {
                image.backing = Some(BlockdevRef::Definition(Box::new(below)));
            }
            top = Some(named(BlockdevOptionsBranch::Qcow2(image), &name));
        }
        disk.open(top.expect("at least one image"))
    }

    pub(crate) fn layer(&self) -> &Layer {
        self.queue.layer()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let closed = self.queue.block_on(self.layer().close_all(&self.queue));
        std::fs::remove_dir_all(&self.folder).ok();
        assert!(closed.is_ok(), "{closed:?}");
    }
}

/// A layer without nodes, and a folder.
struct Start {
    queue: Queue,
    folder: PathBuf,
}

impl Start {
    fn new() -> Start {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qblk-disks-{}-{count}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let layer = Layer::with_drivers(Arc::new(block_drivers::Drivers), Arc::new(DenyAll));
        let queue = layer.new_queue(Box::new(engine())).start();
        Start { queue, folder }
    }

    /// An empty image.
    fn create(&self, path: &Path) {
        std::fs::write(path, []).expect("a file");
        let BlockdevRef::Definition(options) = file(path, "new") else {
            unreachable!("made as a definition")
        };
        let layer = self.queue.layer();
        let created = self.queue.block_on(async {
            let node = layer.blockdev_add(&self.queue, *options).await?;
            let options = qcow2::CreateOptions {
                size: LEN,
                ..Default::default()
            };
            let child = layer.node(&self.queue, node)?;
            qcow2::create(&self.queue, child, &options).await?;
            layer.remove_node(&self.queue, node).await
        });
        created.expect("an image");
    }

    /// Fills a range of an image.
    fn write(&self, image: &BlockdevOptions, range: std::ops::Range<u64>) {
        let layer = self.queue.layer();
        let written = self.queue.block_on(async {
            let node = layer.blockdev_add(&self.queue, image.clone()).await?;
            let backend = layer.add_backend("writer", node, false).await?;
            let slot = self.queue.attach(&backend);
            let len = usize::try_from(range.end - range.start).expect("a small disk");
            let request = Request::write(range.start, IoBuf::copy_of(&vec![0x5a; len]));
            self.queue.request(slot, request).await?;
            layer.remove_backend(&backend).await;
            layer.remove_node(&self.queue, node).await
        });
        written.expect("data");
    }

    /// Opens the whole and reads all of it.
    fn open(self, top: BlockdevOptions) -> Disk {
        let layer = self.queue.layer();
        let opened = self.queue.block_on(async {
            let node = layer.blockdev_add(&self.queue, top).await?;
            let backend = layer.add_backend("disk", node, false).await?;
            let slot = self.queue.attach(&backend);
            for offset in (0..LEN).step_by(4096) {
                let request = Request::read(offset, IoBuf::zeroed(4096));
                let read = self.queue.request(slot, request).await?;
                assert!(
                    read.to_vec().iter().all(|&byte| byte == 0x5a),
                    "at {offset}"
                );
            }
            Ok::<_, block_core::Error>(backend)
        });
        let Start { queue, folder } = self;
        Disk {
            backend: opened.expect("a disk"),
            queue,
            folder,
        }
    }
}

/// An engine for the host, for one more queue.
pub(crate) fn engine() -> HostEngine {
    let pool = Pool::new(NonZeroUsize::MIN).expect("a thread");
    let options = HostEngineOptions {
        ring_entries: 64,
        ring: Ring::Auto,
        pool,
    };
    HostEngine::new(&options).expect("an engine")
}

fn file(path: &Path, name: &str) -> BlockdevRef {
    let file = BlockdevOptionsFile::new(path.display().to_string());
    let options = named(BlockdevOptionsBranch::File(file), name);
    BlockdevRef::Definition(Box::new(options))
}

fn named(branch: BlockdevOptionsBranch, name: &str) -> BlockdevOptions {
    let mut options = BlockdevOptions::new(branch);
    options.node_name = Some(name.to_owned());
    options
}
