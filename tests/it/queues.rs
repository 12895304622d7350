//! Many queues, each on its thread, work on one warm qcow2 overlay over a backing chain at once:
//! reads, overwrites, allocating writes, write zeroes, discards and flushes, on both engines, every
//! byte verified; and again while verbs change the image or the graph below them. The seed is
//! printed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block_core::bitmap::BitmapName;
use block_core::driver::{SnapshotChange, SnapshotKey};
use block_core::engine::Ring;
use block_core::{Backend, IoBuf, LocalQueue, Queue, Request};

use block_schema::commands::{BlockdevSnapshotSync, Transaction};
use block_schema::types::{
    Abort, BlockDirtyBitmapAdd, BlockdevSnapshot, SnapshotInfo, TransactionAction,
};

use crate::support::load::{BACKING, CLUSTER, DISK, Enough, Load, Worker, engine, verify};
use crate::support::{self, Scratch};

/// Requests of one round, over all threads.
const REQUESTS: u64 = 100_000;

/// How a run is made.
struct Shape {
    ring: Ring,
    aio: &'static str,
    threads: u64,
    requests: u64,
    /// What the control plane does all the while, again and again, with the count.
    meanwhile: Option<Verb>,
}

type Verb = fn(&LocalQueue, &Backend, &Scratch, u64);

fn check(shape: &Shape) {
    let seed = support::seed("queues");
    for round in 0..support::rounds(1) {
        check_once(shape, seed.wrapping_add(round));
    }
}

fn check_once(shape: &Shape, seed: u64) {
    let dir = Scratch::new("queues");
    let (base, middle) = (dir.path("base.img"), dir.path("middle.qcow2"));
    let top = dir.path("top.qcow2");
    std::fs::write(&base, vec![BACKING; support::usize(DISK)]).expect("a backing file");
    let layer = support::layer();
    let queue = layer.new_queue(engine(shape.ring)).start();
    support::create_qcow2(&queue, &middle, DISK, Some((&base, "raw")));
    support::create_qcow2(&queue, &top, DISK, Some((&middle, "qcow2")));
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{}", "aio": "{}"}}}}"#,
        top.display(),
        shape.aio
    );
    let backend = support::open(&queue, &json, "disk");
    warm(&queue, &backend);
    let mut count = 0;
    let load = Load {
        ring: shape.ring,
        threads: shape.threads,
        requests: shape.requests,
        seed,
        discards: true,
    };
    let workers = load.run(&layer, &backend, || {
        if let Some(verb) = shape.meanwhile {
            verb(&queue, &backend, &dir, count);
            count += 1;
        }
        // A verb stops all others: between two of them they must get something done.
        queue.wait(Some(Duration::from_millis(20)));
        Enough::No
    });
    println!("{count} verbs");
    verify(&queue, &backend, &workers);
    let active = active_file(&queue, &backend);
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
    drop(queue);
    drop(layer);
    clean(&top);
    clean(Path::new(&active));
    verify_closed(shape, &active, &workers);
}

/// The file that guests write now.
fn active_file(queue: &LocalQueue, backend: &Backend) -> String {
    let graph = queue.layer().graph();
    let root = graph.index_of(backend.root()).expect("it is there");
    graph.entry(root).node.facts().filename.clone()
}

/// Reads everything once more, by the names in the images.
fn verify_closed(shape: &Shape, active: &str, workers: &[Worker]) {
    let layer = support::layer();
    let queue = layer.new_queue(engine(shape.ring)).start();
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk", "read-only": true,
            "file": {{"driver": "file", "filename": "{active}"}}}}"#
    );
    let backend = support::open(&queue, &json, "disk");
    verify(&queue, &backend, workers);
}

/// Takes snapshot `number`, and deletes the one before the last.
fn snapshot(queue: &LocalQueue, backend: &Backend, _dir: &Scratch, number: u64) {
    let (layer, node) = (queue.layer(), backend.root());
    let name = |number: u64| format!("s{number}");
    let create = SnapshotInfo::new(String::new(), name(number), 0, 0, 0, 0, 0);
    queue.block_on(async {
        layer
            .snapshot(queue, node, SnapshotChange::Create(create))
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
        if let Some(old) = number.checked_sub(2) {
            let key = SnapshotKey {
                id: None,
                name: Some(name(old)),
            };
            layer
                .snapshot(queue, node, SnapshotChange::Delete(key))
                .await
                .unwrap_or_else(|error| panic!("{}", error.chain()));
        }
    });
}

/// Lets the backing file be written, and no longer, in turn.
fn other_mode(queue: &LocalQueue, backend: &Backend, _dir: &Scratch, number: u64) {
    let (layer, graph) = (queue.layer(), queue.layer().graph());
    let top = graph.index_of(backend.root()).expect("it is there");
    let middle = graph.backing(top).expect("it has a backing file");
    let middle = graph.entry(middle).node.id();
    drop(graph);
    let read_only = number % 2 == 1;
    queue
        .block_on(layer.set_read_only(queue, middle, read_only))
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}

/// Takes one of twenty external snapshots.
fn overlay(queue: &LocalQueue, _backend: &Backend, dir: &Scratch, number: u64) {
    if number >= 20 {
        return;
    }
    let file = dir.path(&format!("overlay-{number}.qcow2"));
    let wanted = BlockdevSnapshot {
        device: Some("disk".to_owned()),
        ..BlockdevSnapshot::new(file.display().to_string())
    };
    let taken = queue
        .layer()
        .blockdev_snapshot_sync(queue, BlockdevSnapshotSync(wanted));
    queue
        .block_on(taken)
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}

/// Puts an overlay over the disk with a bitmap from the same moment; every other time that fails in
/// the end, and all of it is taken back.
fn transaction(queue: &LocalQueue, _backend: &Backend, dir: &Scratch, number: u64) {
    if number >= 20 {
        return;
    }
    let file = dir.path(&format!("overlay-{number}.qcow2"));
    let overlay = BlockdevSnapshot {
        device: Some("disk".to_owned()),
        snapshot_node_name: Some(format!("overlay-{number}")),
        ..BlockdevSnapshot::new(file.display().to_string())
    };
    let mut actions = vec![
        TransactionAction::BlockdevSnapshotSync(overlay),
        TransactionAction::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd::new("disk", "since")),
    ];
    let fails = number % 2 == 1;
    if fails {
        actions.push(TransactionAction::Abort(Abort::new()));
    }
    let before = queue.layer().graph().version();
    let done = queue.layer().transaction(queue, Transaction::new(actions));
    let done = queue.block_on(done).map_err(|error| error.chain());
    if fails {
        let refused = "Transaction aborted using Abort action".to_owned();
        assert_eq!(done, Err(refused));
        assert_eq!(queue.layer().graph().version(), before);
    } else {
        assert_eq!(done, Ok(()));
        let since = BitmapName {
            node: &format!("overlay-{number}"),
            name: "since",
        };
        queue.layer().dirty_bitmap(since).expect("a new bitmap");
    }
}

/// Loads the tables, so that the threads meet hits as well as allocations.
fn warm(queue: &Queue, backend: &Arc<Backend>) {
    let slot = queue.attach(backend);
    let buf = IoBuf::zeroed(support::usize(CLUSTER));
    queue
        .block_on(queue.request(slot, Request::read(0, buf)))
        .expect("a read");
}

fn clean(image: &Path) {
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    qemu.run(&["check", "-q", &image.display().to_string()]);
}

const RINGS: (Ring, &str) = (Ring::Auto, "io_uring");
const POOL: (Ring, &str) = (Ring::Off, "threads");

fn queues(threads: u64, (ring, aio): (Ring, &'static str), meanwhile: Option<Verb>) {
    check(&Shape {
        ring,
        aio,
        threads,
        // Each snapshot makes every cluster shared again, and the next write to it a copy.
        requests: if meanwhile.is_some() {
            REQUESTS / 5
        } else {
            REQUESTS
        },
        meanwhile,
    });
}

#[test]
fn four_queues_on_rings_see_every_byte() {
    queues(4, RINGS, None);
}

#[test]
fn four_queues_on_threads_see_every_byte() {
    queues(4, POOL, None);
}

#[test]
fn eight_queues_on_rings_see_every_byte_while_snapshots_come_and_go() {
    queues(8, RINGS, Some(snapshot));
}

#[test]
fn eight_queues_on_threads_see_every_byte_while_snapshots_come_and_go() {
    queues(8, POOL, Some(snapshot));
}

#[test]
fn four_queues_see_every_byte_while_the_backing_file_changes_its_mode() {
    queues(4, RINGS, Some(other_mode));
}

#[test]
fn four_queues_see_every_byte_while_overlays_are_put_over_the_disk() {
    queues(4, RINGS, Some(overlay));
}

#[test]
fn four_queues_on_threads_see_every_byte_while_overlays_are_put_over_the_disk() {
    queues(4, POOL, Some(overlay));
}

#[test]
fn four_queues_see_every_byte_while_transactions_come_true_or_not() {
    queues(4, RINGS, Some(transaction));
}
