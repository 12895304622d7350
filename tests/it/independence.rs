//! While the simulator holds one queue's load of a table, other queues' hits complete; and a table
//! that several wait for is loaded once.

use block_core::engine::SimFile;
use block_core::engine::sim::{Sim, SimEngine, SimKind, SimOp};
use block_core::graph::{Node, NodeFacts};
use block_core::{BackendSlot, IoBuf, Layer, Queue, Request};
use block_drivers::format::qcow2;
use block_drivers::protocol::file::FileDriver;

use crate::support;

const CLUSTER: u64 = 4096;
/// What one L2 table maps.
const TABLE: u64 = CLUSTER / 8 * CLUSTER;
const SIZE: u64 = 4 * TABLE;

fn queue(layer: &Layer, sim: &Sim) -> Queue {
    layer.new_queue(Box::new(SimEngine::new(sim))).start()
}

fn add_file(queue: &Queue, sim: &Sim) -> block_core::graph::NodeId {
    let driver = FileDriver::from_leaf(sim.open(SimFile(0)));
    let facts = NodeFacts {
        name: "file".to_owned(),
        ..NodeFacts::default()
    };
    let node = Node::new(facts, Box::new(driver));
    queue
        .block_on(queue.layer().add_node(node, &[]))
        .expect("a new node")
}

/// An image with a block of data under each of its tables.
fn image(sim: &Sim) {
    sim.create_file(&[]);
    let layer = support::layer();
    let queue = queue(&layer, sim);
    let node = add_file(&queue, sim);
    let options = qcow2::CreateOptions {
        size: SIZE,
        cluster_size: CLUSTER,
        ..qcow2::CreateOptions::default()
    };
    let file = layer.node(&queue, node).expect("the file");
    queue
        .block_on(qcow2::create(&queue, file, &options))
        .expect("a new image");
    let slot = open(&queue);
    for table in 0..SIZE / TABLE {
        let byte = u8::try_from(table + 1).expect("few tables");
        let buf = IoBuf::copy_of(&vec![byte; support::usize(CLUSTER)]);
        queue
            .block_on(queue.request(slot, Request::write(table * TABLE, buf)))
            .expect("a write");
    }
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
}

fn open(queue: &Queue) -> BackendSlot {
    let json = r#"{"driver": "qcow2", "id": "disk", "file": "file"}"#;
    queue.attach(&support::open(queue, json, "disk"))
}

fn read(at: u64) -> Request {
    Request::read(at, IoBuf::zeroed(support::usize(CLUSTER)))
}

/// Runs a queue until it has nothing to do, and collects what ended, by token and first byte.
fn turn(queue: &Queue) -> Vec<(u64, u8)> {
    let mut ended = Vec::new();
    for _ in 0..8 {
        queue.kick();
        queue.wait(Some(std::time::Duration::ZERO));
        queue.reap(|done| {
            done.result.expect("no request fails");
            ended.push((done.token, done.buf.to_vec()[0]));
        });
    }
    ended
}

#[test]
fn a_held_load_keeps_nobody_else_waiting() {
    let sim = Sim::new(7);
    image(&sim);
    let layer = support::layer();
    let slow = queue(&layer, &sim);
    add_file(&slow, &sim);
    let slow_slot = open(&slow);
    let other = queue(&layer, &sim);
    let backend = layer.backend("disk").expect("it was opened");
    let other_slot = other.attach(&backend);
    // Both queues know the first table.
    other
        .block_on(other.request(other_slot, read(0)))
        .expect("a read");

    // The slow queue asks for the second one; its read of the table is held.
    let reads = |op: &SimOp| op.kind == SimKind::Read;
    let before = sim.held().len();
    let hold = sim.hold(reads);
    slow.submit(slow_slot, read(TABLE), 1);
    assert_eq!(turn(&slow), []);
    let held = sim.held();
    assert_eq!(held.len(), before + 1, "the load of the table: {held:?}");
    let load = held[before].clone();
    sim.release(hold);
    let same = load.clone();
    let hold = sim.hold(move |op| op.id == same.id);

    // The other queue's hits and overwrites under the first table go on.
    for token in 10..20 {
        other.submit(other_slot, read(0), token);
        assert_eq!(turn(&other), [(token, 1)]);
    }
    let buf = IoBuf::copy_of(&vec![9; support::usize(CLUSTER)]);
    other.submit(other_slot, Request::write(0, buf), 20);
    assert_eq!(turn(&other).len(), 1);
    // So do misses under a third one.
    other.submit(other_slot, read(2 * TABLE), 21);
    assert_eq!(turn(&other), [(21, 3)]);
    // What needs the same table waits for the same load.
    other.submit(other_slot, read(TABLE), 22);
    assert_eq!(turn(&other), []);
    let again = sim
        .held()
        .iter()
        .chain(&sim.pending())
        .filter(|op| op.range == load.range)
        .count();
    assert_eq!(again, 1, "one load, whoever waits for it");

    sim.release(hold);
    assert_eq!(turn(&slow), [(1, 2)]);
    assert_eq!(turn(&other), [(22, 2)]);
}
