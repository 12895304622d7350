//! A layer on the simulator with a qcow2 over a backing file, and steps to do to it.
//! Called by the proofs that cut the power, fail operations and drop callers. Invariant: one thread
//! drives all queues, so one seed is one history.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use block_core::driver::{
    CheckReport, Child, Driver, Preallocation, Repair, SnapshotChange, SnapshotKey,
};
use block_core::engine::SimFile;
use block_core::engine::sim::{Sim, SimEngine};
use block_core::graph::{Node, NodeFacts, NodeId};
use block_core::job::Ending;
use block_core::secret::Secret;
use block_core::{BackendSlot, IoBuf, Layer, LocalQueue, Queue, Request, Result};
use block_drivers::format::qcow2;
use block_drivers::protocol::file::FileDriver;
use block_schema::commands::{BlockCommit, BlockStream};
use block_schema::types::SnapshotInfo;

use super::{Random, named};

pub(crate) const CLUSTER: u64 = 4096;
pub(crate) const SECTOR: u64 = 512;
pub(crate) const SIZE: u64 = 64 * CLUSTER;
/// What the backing file holds.
pub(crate) const BACKING: u8 = 0xb5;

/// The file of the image, and the one of its backing file.
pub(crate) const IMAGE: SimFile = SimFile(0);
pub(crate) const BASE: SimFile = SimFile(1);
/// The one of its data, where that is beside it.
const DATA: SimFile = SimFile(2);

/// A layer on a simulator, with the image's file as node `file` and the backing file as `base`.
pub(crate) struct Machine {
    pub(crate) sim: Sim,
    pub(crate) layer: Layer,
    pub(crate) queues: Vec<Queue>,
    content: Content,
    moves: RefCell<Moves>,
}

/// When the disk's root became another node, as far as whoever looks between two turns can tell.
#[derive(Clone, Debug, Default)]
struct Moves {
    seen: Option<(NodeId, usize)>,
    last: Option<Range<usize>>,
}

/// How the image stores the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// As it is.
    Plain,
    /// Encrypted.
    Encrypted,
    /// As it is, in clusters that have subclusters.
    Subclusters,
    /// In a file of its own.
    DataFile,
    /// As it is, with refcounts that are written late.
    Lazy,
    /// As it is, and the image itself says whether it has a backing file.
    Named,
    /// As it is, over another image in the middle, which hides what the base holds in its first
    /// clusters; the image itself says which of them is its backing file.
    Chain,
    /// As it is, in a file as `O_DIRECT` opens it: it wants whole sectors, and storage ahead.
    Direct,
}

impl Content {
    /// Bytes of a cluster.
    pub(crate) fn cluster(self) -> u64 {
        match self {
            Content::Plain
            | Content::Encrypted
            | Content::DataFile
            | Content::Lazy
            | Content::Named
            | Content::Chain
            | Content::Direct => CLUSTER,
            Content::Subclusters => 4 * CLUSTER,
        }
    }
}

impl Machine {
    /// A layer with `queues` queues on what `sim` holds.
    pub(crate) fn new(sim: Sim, queues: usize) -> Machine {
        Machine::on(super::layer(), sim, queues)
    }

    /// As [`new`](Machine::new), where every file is one of the simulator by its name, as images name
    /// one another; nothing is open yet.
    pub(crate) fn with_named_files(sim: Sim, queues: usize) -> Machine {
        Machine::on(named::layer(&sim), sim, queues)
    }

    fn on(layer: Layer, sim: Sim, queues: usize) -> Machine {
        let queue = || layer.new_queue(Box::new(SimEngine::new(&sim))).start();
        let queues = (0..queues).map(|_| queue()).collect();
        Machine {
            sim,
            layer,
            queues,
            content: Content::Plain,
            moves: RefCell::default(),
        }
    }

    /// For an image whose disk is stored so.
    #[must_use]
    pub(crate) fn with_content(self, content: Content) -> Machine {
        if content == Content::Encrypted {
            let added = self.layer.secrets().add("key", key());
            added.expect("the first secret");
        }
        Machine { content, ..self }
    }

    pub(crate) fn content(&self) -> Content {
        self.content
    }

    /// The queue that verbs run on.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queues[0]
    }

    pub(crate) fn add_file(&self, name: &str, file: SimFile) -> NodeId {
        let leaf = match self.content {
            Content::Direct => self.sim.open_aligned(file, 512),
            Content::Plain
            | Content::Encrypted
            | Content::Subclusters
            | Content::DataFile
            | Content::Lazy
            | Content::Named
            | Content::Chain => self.sim.open(file),
        };
        self.add_driver(name, Box::new(FileDriver::from_leaf(leaf)))
    }

    /// Adds a node of any kind.
    pub(crate) fn add_driver(&self, name: &str, driver: Box<dyn Driver>) -> NodeId {
        let facts = NodeFacts {
            name: name.to_owned(),
            discard_unmap: true,
            ..NodeFacts::default()
        };
        let node = Node::new(facts, driver);
        self.queue()
            .block_on(self.layer.add_node(node, &[]))
            .expect("a new node")
    }

    /// Opens the image as backend `disk`, on every queue.
    pub(crate) fn try_open(&self) -> Result<Vec<BackendSlot>> {
        if self.layer.graph().find("file").is_none() {
            self.add_file("file", IMAGE);
            self.add_file("base", BASE);
            if matches!(self.content, Content::DataFile | Content::Chain) {
                self.add_file("data", DATA);
            }
            if self.content == Content::Chain {
                let middle = r#"{"driver": "qcow2", "node-name": "middle", "file": "data",
                    "backing": "base"}"#;
                super::add_node(self.queue(), middle)?;
            }
        }
        let special = match self.content {
            Content::Plain
            | Content::Subclusters
            | Content::Named
            | Content::Chain
            | Content::Direct => "",
            Content::DataFile => r#""data-file": "data","#,
            Content::Lazy => r#""lazy-refcounts": true,"#,
            Content::Encrypted => r#""encrypt": {"format": "aes", "key-secret": "key"},"#,
        };
        let json = format!(
            r#"{{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
                 "werror": "report",
                 {special} "file": "file", "backing": "base"}}"#
        );
        let mut backend = super::try_open(self.queue(), &json, "disk")?;
        let named = self.disk().node().driver().describe().backing;
        let backing = match (self.content, named) {
            (Content::Named, None) => Some("null"),
            (Content::Chain, Some(named)) if named.filename == "middle" => Some(r#""middle""#),
            _ => None,
        };
        if let Some(backing) = backing {
            let work = async {
                let root = backend.root();
                self.layer.remove_backend(&backend).await;
                self.layer.remove_node(self.queue(), root).await
            };
            self.queue().block_on(work)?;
            let backing = format!(r#""backing": {backing}"#);
            let json = json.replace(r#""backing": "base""#, &backing);
            backend = super::try_open(self.queue(), &json, "disk")?;
        }
        Ok(self.queues.iter().map(|q| q.attach(&backend)).collect())
    }

    /// As [`try_open`](Machine::try_open), where it cannot fail.
    #[track_caller]
    pub(crate) fn open(&self) -> Vec<BackendSlot> {
        self.try_open()
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// Does a request on the first queue.
    pub(crate) fn request(&self, slots: &[BackendSlot], request: Request) -> Result<Vec<u8>> {
        let queue = self.queue();
        let done = queue.block_on(queue.request(slots[0], request));
        done.map(|buf| buf.to_vec())
    }

    /// All bytes of the disk.
    #[track_caller]
    pub(crate) fn read_all(&self, slots: &[BackendSlot]) -> Vec<u8> {
        let whole = IoBuf::zeroed(super::usize(self.disk().len()));
        self.request(slots, Request::read(0, whole))
            .unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// Does requests at once, each on the next queue, until all have ended.
    #[track_caller]
    pub(crate) fn together(&self, slots: &[BackendSlot], steps: &[Step]) {
        self.with(slots, steps, None);
    }

    /// As [`together`](Machine::together), and a verb with them.
    #[track_caller]
    pub(crate) fn with(&self, slots: &[BackendSlot], steps: &[Step], verb: Option<Verb>) {
        for (number, step) in steps.iter().enumerate() {
            let at = number % self.queues.len();
            self.queues[at].submit(slots[at], step.request(), number as u64);
        }
        let left = Rc::new(Cell::new(steps.len()));
        if let Some(verb) = verb {
            left.set(left.get() + 1);
            let (left, queue) = (Rc::clone(&left), LocalQueue::clone(self.queue()));
            let top = self.top();
            self.queue().spawn(async move {
                let done = verb.run(&queue, top).await;
                done.unwrap_or_else(|error| panic!("{}", error.chain()));
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            for queue in &self.queues {
                queue.kick();
                queue.wait(Some(Duration::ZERO));
                queue.reap(|done| {
                    done.result
                        .unwrap_or_else(|error| panic!("{}", error.chain()));
                    left.set(left.get() - 1);
                });
                self.look();
            }
        }
    }

    /// Lets every queue work once.
    pub(crate) fn turn(&self) {
        for queue in &self.queues {
            queue.kick();
            queue.wait(Some(Duration::ZERO));
            self.look();
        }
    }

    /// Notes whether the disk has another root now.
    fn look(&self) {
        let Some(disk) = self.layer.backend("disk") else {
            return;
        };
        let now = (disk.root(), self.sim.journal_len());
        let mut moves = self.moves.borrow_mut();
        if let Some((root, before)) = moves.seen
            && root != now.0
        {
            moves.last = Some(before..now.1);
        }
        moves.seen = Some(now);
    }

    /// Where in the journal the disk got another root last: not before the start, and not after the
    /// end.
    pub(crate) fn last_move(&self) -> Option<Range<usize>> {
        self.moves.borrow().last.clone()
    }

    /// Does a verb alone.
    pub(crate) fn verb(&self, verb: Verb) -> Result<()> {
        let queue = self.queue();
        queue.block_on(verb.run(queue, self.top()))
    }

    pub(crate) fn top(&self) -> NodeId {
        self.layer.backend("disk").expect("it is open").root()
    }

    pub(crate) fn disk(&self) -> Child {
        let disk = self.layer.node(self.queue(), self.top());
        disk.expect("it is open")
    }

    /// The names of the image's snapshots.
    pub(crate) fn snapshots(&self) -> BTreeSet<String> {
        let described = self.disk().node().driver().describe();
        described.snapshots.into_iter().map(|s| s.name).collect()
    }

    /// Checks the open image.
    pub(crate) fn check(&self, repair: Repair) -> Result<CheckReport> {
        self.queue()
            .block_on(self.layer.check(self.queue(), self.top(), repair))
    }

    /// Closes everything; what is in memory goes to the disk.
    pub(crate) fn close(&self) -> Result<()> {
        self.queue().block_on(self.layer.close_all(self.queue()))
    }
}

fn key() -> Secret {
    Secret::new(b"key".to_vec())
}

/// A simulator with a fresh image over a backing file.
pub(crate) fn fresh(seed: u64) -> Sim {
    fresh_with(seed, Content::Plain)
}

/// As [`fresh`], with the disk stored so. The old method of encryption needs no large header.
pub(crate) fn fresh_with(seed: u64, content: Content) -> Sim {
    let sim = Sim::new(seed);
    sim.create_file(&[]);
    sim.create_file(&base_of(content));
    let machine = Machine::new(sim.clone(), 1);
    let node = machine.add_file("file", IMAGE);
    sim.create_file(&[]);
    let data = machine.add_file("data", DATA);
    let options = qcow2::CreateOptions {
        size: SIZE,
        cluster_size: content.cluster(),
        extended_l2: content == Content::Subclusters,
        data_file: (content == Content::DataFile).then(|| "data".to_owned()),
        backing_file: match content {
            Content::Named => Some("base".to_owned()),
            Content::Chain => Some("middle".to_owned()),
            _ => None,
        },
        backing_format: match content {
            Content::Named => Some("raw".to_owned()),
            Content::Chain => Some("qcow2".to_owned()),
            _ => None,
        },
        encryption: match content {
            Content::Plain
            | Content::Subclusters
            | Content::DataFile
            | Content::Lazy
            | Content::Named
            | Content::Chain
            | Content::Direct => None,
            Content::Encrypted => Some(qcow2::CreateEncryption::Aes(key())),
        },
        ..qcow2::CreateOptions::default()
    };
    let work = async {
        let file = machine.layer.node(machine.queue(), node)?;
        let data = machine.layer.node(machine.queue(), data)?;
        match content {
            Content::DataFile => {
                let files = (file.clone(), data.clone());
                qcow2::create_with_data_file(machine.queue(), files.0, files.1, &options).await?;
            }
            Content::Plain
            | Content::Encrypted
            | Content::Subclusters
            | Content::Lazy
            | Content::Named
            | Content::Chain
            | Content::Direct => {
                qcow2::create(machine.queue(), file.clone(), &options).await?;
            }
        }
        if content == Content::Chain {
            let middle = qcow2::CreateOptions {
                backing_file: Some("base".to_owned()),
                backing_format: Some("raw".to_owned()),
                ..options.clone()
            };
            qcow2::create(machine.queue(), data.clone(), &middle).await?;
        }
        data.flush().await?;
        file.flush().await
    };
    machine.queue().block_on(work).expect("a new image");
    drop(machine);
    if content == Content::Chain {
        hide(&sim);
    }
    sim
}

/// Bytes of the base that the image in the middle hides.
const HIDDEN: u64 = 24 * CLUSTER;

/// Writes to the image in the middle what hides the base's.
fn hide(sim: &Sim) {
    let machine = Machine::new(sim.clone(), 1);
    machine.add_file("data", DATA);
    let json = r#"{"driver": "qcow2", "id": "middle", "file": "data", "backing": null}"#;
    let opened = super::try_open(machine.queue(), json, "middle");
    let backend = opened.unwrap_or_else(|error| panic!("{}", error.chain()));
    let slots = [machine.queue().attach(&backend)];
    let bytes = vec![BACKING; super::usize(HIDDEN)];
    let written = machine.request(&slots, Request::write(0, IoBuf::copy_of(&bytes)));
    written.and_then(|_| machine.close()).expect("a full image");
}

/// What the base holds.
fn base_of(content: Content) -> Vec<u8> {
    let mut base = vec![BACKING; super::usize(SIZE)];
    if content == Content::Chain {
        base[..super::usize(HIDDEN)].fill(0x11);
    }
    base
}

/// A simulator with a fresh image made so, over a backing file.
pub(crate) fn fresh_of(seed: u64, options: &qcow2::CreateOptions) -> Sim {
    let sim = Sim::new(seed);
    sim.create_file(&[]);
    sim.create_file(&vec![BACKING; super::usize(SIZE)]);
    let machine = Machine::new(sim.clone(), 1);
    let node = machine.add_file("file", IMAGE);
    let work = async {
        let file = machine.layer.node(machine.queue(), node)?;
        qcow2::create(machine.queue(), file.clone(), options).await?;
        file.flush().await
    };
    machine.queue().block_on(work).expect("a new image");
    drop(machine);
    sim
}

/// One step of a script, and what it does to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Write {
        at: u64,
        len: u64,
        byte: u8,
    },
    /// A compressed write of whole clusters.
    Pack {
        at: u64,
        len: u64,
        byte: u8,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Zero {
        at: u64,
        len: u64,
    },
    Flush,
}

impl Step {
    pub(crate) fn request(self) -> Request {
        match self {
            Step::Write { at, len, byte } => {
                Request::write(at, IoBuf::copy_of(&vec![byte; super::usize(len)]))
            }
            Step::Pack { at, len, byte } => {
                Request::write_compressed(at, IoBuf::copy_of(&vec![byte; super::usize(len)]))
            }
            Step::Discard { at, len } => Request::discard(at, len),
            Step::Zero { at, len } => Request::write_zeroes(at, len, Default::default()),
            Step::Flush => Request::flush(),
        }
    }

    /// Which bytes it changes, and to what; none for a flush.
    pub(crate) fn effect(self) -> (u64, u64, u8) {
        match self {
            Step::Write { at, len, byte } | Step::Pack { at, len, byte } => (at, len, byte),
            // With the backing file below, what is discarded reads as zeroes.
            Step::Discard { at, len } | Step::Zero { at, len } => (at, len, 0),
            Step::Flush => (0, 0, 0),
        }
    }

    pub(crate) fn apply(self, disk: &mut [u8]) {
        let (at, len, byte) = self.effect();
        disk[super::usize(at)..super::usize(at + len)].fill(byte);
    }

    /// Any step of whole sectors, but a flush, within sectors `from..to`.
    pub(crate) fn random(random: &mut Random, from: u64, to: u64) -> Step {
        Step::random_in(random, Content::Plain, from, to)
    }

    /// As [`random`](Step::random), with discards of whole clusters of an image of this content.
    pub(crate) fn random_in(random: &mut Random, content: Content, from: u64, to: u64) -> Step {
        let cluster = content.cluster();
        let first = from + random.below(to - from);
        // Mostly short; now and then over several clusters.
        let limit = if random.below(4) == 0 { 40 } else { 9 };
        let count = 1 + random.below((to - first).min(limit));
        let (at, len) = (first * SECTOR, count * SECTOR);
        match random.below(8) {
            0 => Step::Zero { at, len },
            1 => Step::Discard {
                at: at.next_multiple_of(cluster).min(at + len),
                len: (at + len).saturating_sub(at.next_multiple_of(cluster)) / cluster * cluster,
            },
            n => Step::Write {
                at,
                len,
                byte: u8::try_from(1 + random.below(200) + n).expect("a byte"),
            },
        }
    }
}

/// What is done to the image as a whole.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Verb {
    /// Takes a snapshot of this name.
    Take(&'static str),
    /// Makes the disk what it was in one.
    Apply(&'static str),
    /// Deletes one.
    Delete(&'static str),
    /// Sets the disk's length.
    Resize(u64),
    /// Checks and repairs.
    Check(Repair),
    /// Copies the backing file into the image, which needs it no longer.
    Stream,
    /// Writes what the image in the middle holds into the base, and takes it out of the chain.
    Commit,
}

impl Verb {
    pub(crate) async fn run(self, queue: &LocalQueue, top: NodeId) -> Result<()> {
        let layer = queue.layer();
        let key = |name: &str| SnapshotKey {
            id: None,
            name: Some(name.to_owned()),
        };
        let change = match self {
            Verb::Take(name) => {
                let name = name.to_owned();
                SnapshotChange::Create(SnapshotInfo::new(String::new(), name, 0, 0, 0, 0, 0))
            }
            Verb::Apply(name) => SnapshotChange::Apply(key(name)),
            Verb::Delete(name) => SnapshotChange::Delete(key(name)),
            Verb::Resize(len) => return layer.resize(queue, top, len, Preallocation::Off).await,
            Verb::Check(repair) => return layer.check(queue, top, repair).await.map(drop),
            Verb::Stream => {
                let job = layer.block_stream(queue, BlockStream::new("disk")).await?;
                assert_eq!(job.ended().await, Ending::Completed);
                return Ok(());
            }
            Verb::Commit => {
                let mut arguments = BlockCommit::new("disk");
                arguments.top = Some("middle".to_owned());
                arguments.backing_file = Some("base".to_owned());
                let job = layer.block_commit(queue, arguments).await?;
                assert_eq!(job.ended().await, Ending::Completed);
                return Ok(());
            }
        };
        layer.snapshot(queue, top, change).await.map(drop)
    }
}
