//! Nodes opened again: for writing, for reading only, with everything that others know them by; and
//! as they were when that cannot be.

use std::path::Path;
use std::sync::Arc;

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::graph::NodeId;
use block_core::job::Ending;
use block_core::{Backend, Error, IoBuf, Layer, LocalQueue, Queue, Request};
use block_schema::commands::{BlockStream, BlockdevReopen, BlockdevSnapshotSync};
use block_schema::types::BlockdevSnapshot;

use crate::support::{self, Scratch, load};

const SIZE: u64 = 1 << 20;

/// A disk `top` over `base`, both qcow2.
struct Chain {
    queue: Queue,
    layer: Layer,
    disk: Arc<Backend>,
    dir: Scratch,
}

impl Chain {
    fn open() -> Chain {
        let dir = Scratch::new("reopen");
        let layer = support::layer();
        let queue = load::queue(&layer);
        let (base, top) = (dir.path("base.qcow2"), dir.path("top.qcow2"));
        support::create_qcow2(&queue, &base, SIZE, None);
        support::create_qcow2(&queue, &top, SIZE, Some((&base, "qcow2")));
        let disk = support::open(&queue, &options(&top, "top", false), "top");
        Chain {
            queue,
            layer,
            disk,
            dir,
        }
    }

    fn base(&self) -> NodeId {
        let graph = self.layer.graph();
        let top = graph.index_of(self.disk.root()).expect("it is there");
        let base = graph.backing(top).expect("it has a backing file");
        graph.entry(base).node.id()
    }

    fn is_read_only(&self, id: NodeId) -> bool {
        let graph = self.layer.graph();
        let index = graph.index_of(id).expect("it is there");
        let entry = graph.entry(index);
        let file = &graph.entry(entry.edges[0].child).node;
        assert_eq!(entry.node.is_read_only(), file.is_read_only());
        entry.node.is_read_only()
    }

    fn set_read_only(&self, id: NodeId, read_only: bool) -> Result<(), String> {
        let changed = self.layer.set_read_only(&self.queue, id, read_only);
        self.queue.block_on(changed).map_err(|error| error.chain())
    }

    fn name(&self, id: NodeId) -> String {
        let graph = self.layer.graph();
        let index = graph.index_of(id).expect("it is there");
        graph.entry(index).node.name().to_owned()
    }
}

fn options(path: &Path, id: &str, read_only: bool) -> String {
    format!(
        r#"{{"driver": "qcow2", "id": "{id}", "node-name": "{id}-node", "read-only": {read_only},
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        path.display()
    )
}

fn write(queue: &LocalQueue, backend: &Arc<Backend>, byte: u8) -> Result<(), Error> {
    let slot = queue.attach(backend);
    let buf = IoBuf::copy_of(&[byte; 4096]);
    let write = queue.request(slot, Request::write(0, buf));
    queue.block_on(write).map(drop)
}

fn read(queue: &LocalQueue, backend: &Arc<Backend>) -> u8 {
    let slot = queue.attach(backend);
    let buf = IoBuf::zeroed(4096);
    let read = queue.request(slot, Request::read(0, buf));
    queue.block_on(read).expect("a read").to_vec()[0]
}

#[test]
fn what_was_opened_for_a_device_goes_when_nobody_needs_it() {
    let chain = Chain::open();
    let (queue, layer) = (&chain.queue, &chain.layer);
    let path = chain.dir.path("top.qcow2");
    let again = r#"{"driver": "qcow2", "node-name": "top-node", "read-only": false,
        "backing": "BASE", "file": {"driver": "file", "filename": "TOP"}}"#
        .replace("BASE", &chain.name(chain.base()))
        .replace("TOP", &path.display().to_string());
    let reopen = BlockdevReopen {
        options: vec![support::options(&again)],
    };
    let reopened = queue.block_on(layer.blockdev_reopen(queue, reopen));
    reopened.unwrap_or_else(|error| panic!("{}", error.chain()));
    let overlay = chain.dir.path("overlay.qcow2").display().to_string();
    let mut snapshot = BlockdevSnapshot::new(overlay);
    snapshot.device = Some("top".to_owned());
    let taken = layer.blockdev_snapshot_sync(queue, BlockdevSnapshotSync(snapshot));
    queue.block_on(taken).expect("a snapshot");
    let streaming = layer.block_stream(queue, BlockStream::new("top"));
    let job = queue.block_on(streaming).expect("a job");
    assert_eq!(queue.block_on(job.ended()), Ending::Completed);
    assert!(layer.graph().find("top-node").is_none());
}

#[test]
fn a_backing_file_is_written_and_no_longer() {
    let chain = Chain::open();
    let base = chain.base();
    let name = chain.name(base);
    chain.set_read_only(base, false).expect("it can be written");
    assert!(!chain.is_read_only(base) && chain.base() == base && chain.name(base) == name);
    assert_eq!(chain.set_read_only(base, true), Ok(()));
    assert!(chain.is_read_only(base));
    write(&chain.queue, &chain.disk, 7).expect("the disk is as before");
    assert_eq!(read(&chain.queue, &chain.disk), 7);
}

#[test]
fn locks_go_with_the_mode() {
    let chain = Chain::open();
    let other = support::layer();
    let queue = load::queue(&other);
    let open = |read_only| {
        let json = options(&chain.dir.path("base.qcow2"), "other", read_only);
        support::try_open(&queue, &json, "other").map_err(|error| error.chain())
    };
    chain.set_read_only(chain.base(), false).expect("a writer");
    assert!(open(true).is_err(), "a reader beside a writer");
    chain.set_read_only(chain.base(), true).expect("a reader");
    open(true).expect("a reader beside a reader");
    let refused = chain
        .set_read_only(chain.base(), false)
        .expect_err("it is read");
    assert!(refused.contains("lock"), "{refused}");
    assert!(chain.is_read_only(chain.base()));
    write(&chain.queue, &chain.disk, 9).expect("the disk is as before");
}

#[test]
fn a_node_with_a_writer_stays_writable() {
    let chain = Chain::open();
    write(&chain.queue, &chain.disk, 3).expect("it is writable");
    let refused = chain.set_read_only(chain.disk.root(), true);
    assert_eq!(
        refused,
        Err("Read-only block node 'top-node' cannot support read-write users".to_owned())
    );
    write(&chain.queue, &chain.disk, 4).expect("it is writable");
}

#[test]
fn bitmaps_in_memory_move_along_and_stored_ones_are_stored() {
    let chain = Chain::open();
    let base = chain.base();
    let name = chain.name(base);
    chain.set_read_only(base, false).expect("it can be written");
    let bitmap = |bitmap| BitmapName {
        node: &name,
        name: bitmap,
    };
    let add = |name, persistent| {
        let new = NewBitmap {
            persistent,
            ..NewBitmap::default()
        };
        let added = chain.layer.block_dirty_bitmap_add(bitmap(name), new);
        chain.queue.block_on(added).expect("a new bitmap");
    };
    add("memory", false);
    add("stored", true);
    let writer = chain.layer.add_backend("writer", base, false);
    // The overlay shares only unchanged writes of its backing file.
    assert!(chain.queue.block_on(writer).is_err());
    let node = chain.layer.node(&chain.queue, base).expect("it is there");
    let writing = node.write_bytes(0, &[5; 4096]);
    chain.queue.block_on(writing).expect("a write");
    drop(node);
    for read_only in [true, false, true] {
        chain.set_read_only(base, read_only).expect("another mode");
        for name in ["memory", "stored"] {
            let (_, found) = chain.layer.dirty_bitmap(bitmap(name)).expect("it is there");
            assert_eq!(found.count(), 65536, "{name}");
        }
    }
    assert_eq!(read(&chain.queue, &chain.disk), 5);
}

#[test]
fn a_node_made_by_hand_cannot_be_opened_again() {
    let layer = support::layer();
    let queue = load::queue(&layer);
    let dir = Scratch::new("reopen-hand");
    let path = dir.path("disk.img");
    std::fs::write(&path, [0; 4096]).expect("a file");
    let options = block_drivers::protocol::file::FileOptions::path(&path);
    let driver = block_drivers::protocol::file::FileDriver::open(options).expect("it opens");
    let facts = block_core::graph::NodeFacts {
        name: "hand".to_owned(),
        ..block_core::graph::NodeFacts::default()
    };
    let node = block_core::graph::Node::new(facts, Box::new(driver));
    let id = queue.block_on(layer.add_node(node, &[])).expect("a node");
    let refused = queue.block_on(layer.set_read_only(&queue, id, true));
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}
