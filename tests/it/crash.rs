//! Power cuts through a qcow2 on the simulator, driven through the whole layer: whatever subset of
//! the writes since the last flush reached the disk, torn or whole, the image opens, has no
//! corruption, and holds what was flushed.

use block_core::driver::Repair;
use block_core::engine::SimFile;
use block_core::engine::sim::{CrashOptions, CrashState, Sim, SimEngine};
use block_core::graph::{Node, NodeFacts, NodeId};
use block_core::{BackendSlot, IoBuf, Layer, Queue, Request};
use block_drivers::format::qcow2;
use block_drivers::protocol::file::FileDriver;

use crate::support;

const CLUSTER: u64 = 4096;
const SIZE: u64 = 64 * CLUSTER;
const BACKING: u8 = 0xb5;

/// The file of the image, and the one of its backing file.
const IMAGE: SimFile = SimFile(0);
const BASE: SimFile = SimFile(1);

/// A layer on a simulator, with the image's file as node `file` and the backing file as `base`.
struct Rig {
    sim: Sim,
    layer: Layer,
    queue: Queue,
}

impl Rig {
    fn new(sim: Sim) -> Rig {
        let layer = support::layer();
        let queue = layer.new_queue(Box::new(SimEngine::new(&sim))).start();
        Rig { sim, layer, queue }
    }

    fn add_file(&self, name: &str, file: SimFile) -> NodeId {
        let driver = FileDriver::from_leaf(self.sim.open(file));
        let facts = NodeFacts {
            name: name.to_owned(),
            ..NodeFacts::default()
        };
        let node = Node::new(facts, Box::new(driver));
        self.queue
            .block_on(self.layer.add_node(node, &[]))
            .expect("a new node")
    }

    /// Opens the image as backend `disk`.
    fn open(&self) -> BackendSlot {
        self.add_file("file", IMAGE);
        self.add_file("base", BASE);
        let json = r#"{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
                       "file": "file", "backing": "base"}"#;
        let backend = support::open(&self.queue, json, "disk");
        self.queue.attach(&backend)
    }

    fn run(&self, slot: BackendSlot, request: Request) -> Vec<u8> {
        let done = self.queue.block_on(self.queue.request(slot, request));
        done.unwrap_or_else(|error| panic!("{}", error.chain()))
            .to_vec()
    }
}

/// A simulator with a fresh image over a backing file.
fn fresh(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    sim.create_file(&[]);
    sim.create_file(&vec![BACKING; support::usize(SIZE)]);
    let rig = Rig::new(sim.clone());
    let node = rig.add_file("file", IMAGE);
    let options = qcow2::CreateOptions {
        size: SIZE,
        cluster_size: CLUSTER,
        ..qcow2::CreateOptions::default()
    };
    let work = async {
        let file = rig.layer.node(&rig.queue, node)?;
        qcow2::create(&rig.queue, file.clone(), &options).await?;
        file.flush().await
    };
    rig.queue.block_on(work).expect("a new image");
    drop(rig);
    sim
}

/// One step of a script, and what it does to the disk.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { at: u64, len: u64, byte: u8 },
    Discard { at: u64, len: u64 },
    Zero { at: u64, len: u64 },
    Flush,
}

impl Step {
    fn request(self) -> Request {
        match self {
            Step::Write { at, len, byte } => {
                Request::write(at, IoBuf::copy_of(&vec![byte; support::usize(len)]))
            }
            Step::Discard { at, len } => Request::discard(at, len),
            Step::Zero { at, len } => Request::write_zeroes(at, len, Default::default()),
            Step::Flush => Request::flush(),
        }
    }

    fn apply(self, disk: &mut [u8]) {
        let (at, len, byte) = match self {
            Step::Write { at, len, byte } => (at, len, byte),
            Step::Discard { at, len } | Step::Zero { at, len } => (at, len, 0),
            Step::Flush => return,
        };
        disk[support::usize(at)..support::usize(at + len)].fill(byte);
    }
}

/// The disk after each step, and where in the journal the step ended.
struct Moment {
    ended: usize,
    flushed: bool,
    disk: Vec<u8>,
}

fn check(seed: u64, script: &[Step]) {
    let sim = fresh(seed).clone();
    let rig = Rig::new(sim.clone());
    let slot = rig.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    let start = Moment {
        ended: sim.journal_len(),
        flushed: true,
        disk: disk.clone(),
    };
    let mut moments = vec![start];
    for step in script {
        rig.run(slot, step.request());
        step.apply(&mut disk);
        let flushed = matches!(step, Step::Flush);
        moments.push(Moment {
            ended: sim.journal_len(),
            flushed,
            disk: disk.clone(),
        });
    }
    let begin = moments[0].ended;
    // Every subset of whole writes; of torn ones a sample.
    let whole = CrashOptions {
        outcomes_per_cut: usize::MAX,
        torn: false,
        seed,
    };
    let torn = CrashOptions {
        outcomes_per_cut: 24,
        torn: true,
        seed,
    };
    let mut states = 0;
    for state in sim.crash_states(whole).chain(sim.crash_states(torn)) {
        if state.cut() >= begin {
            survives(&state, seed, &moments);
            states += 1;
        }
    }
    println!("{states} states");
    assert!(states > script.len(), "cuts were made");
}

/// Opens what a cut left: no corruption, and each sector as the last flush left it or as some later
/// step made it.
fn survives(state: &CrashState, seed: u64, moments: &[Moment]) {
    let rig = Rig::new(state.boot(seed));
    let slot = rig.open();
    let found = rig.run(slot, Request::read(0, IoBuf::zeroed(support::usize(SIZE))));
    let last_flush = moments
        .iter()
        .rposition(|moment| moment.flushed && moment.ended <= state.cut())
        .expect("the image was flushed before the script");
    for (sector, bytes) in found.chunks(512).enumerate() {
        let range = sector * 512..(sector + 1) * 512;
        let allowed = moments[last_flush..]
            .iter()
            .any(|m| m.disk[range.clone()] == *bytes);
        assert!(
            allowed,
            "{state:?}: sector {sector} reads {:02x?}…",
            &bytes[..8]
        );
    }
    let top = rig.layer.backend("disk").expect("it was opened").root();
    let report = rig
        .queue
        .block_on(rig.layer.check(&rig.queue, top, Repair::None));
    let report = report.unwrap_or_else(|error| panic!("{state:?}: {}", error.chain()));
    assert_eq!(report.corruptions, 0, "{state:?}: {:?}", report.messages);
    if report.leaks > 0 {
        let fixed = rig
            .queue
            .block_on(rig.layer.check(&rig.queue, top, Repair::Leaks));
        let fixed = fixed.unwrap_or_else(|error| panic!("{state:?}: {}", error.chain()));
        assert_eq!(
            (fixed.corruptions, fixed.leaks),
            (0, 0),
            "{state:?}: {:?}",
            fixed.messages
        );
    }
}

#[test]
fn an_allocating_write_with_copy_on_write() {
    check(
        1,
        &[
            Step::Write {
                at: 1024,
                len: 512,
                byte: 0xaa,
            },
            Step::Flush,
        ],
    );
}

#[test]
fn a_write_a_discard_and_a_reused_cluster() {
    check(
        2,
        &[
            Step::Write {
                at: 0,
                len: 2 * CLUSTER,
                byte: 0xaa,
            },
            Step::Flush,
            Step::Discard {
                at: 0,
                len: CLUSTER,
            },
            Step::Flush,
            Step::Write {
                at: 8 * CLUSTER + 100,
                len: 300,
                byte: 0xcc,
            },
            Step::Flush,
        ],
    );
}

#[test]
fn unflushed_steps_may_be_lost_and_nothing_else() {
    check(
        3,
        &[
            Step::Write {
                at: 3 * CLUSTER,
                len: CLUSTER,
                byte: 0x11,
            },
            Step::Flush,
            Step::Write {
                at: 3 * CLUSTER + 512,
                len: 512,
                byte: 0x22,
            },
            Step::Zero {
                at: 3 * CLUSTER,
                len: CLUSTER,
            },
            Step::Write {
                at: 5 * CLUSTER - 512,
                len: 1024,
                byte: 0x33,
            },
            Step::Discard {
                at: 4 * CLUSTER,
                len: CLUSTER,
            },
        ],
    );
}
