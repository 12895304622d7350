//! Power cuts while the disk goes over to another image: to an overlay, to a mirror's target, down to
//! the image below. Until it has gone over, the old chain by itself reads as the disk; from then on
//! the new one does; and whatever was flushed is there.
//!
//! Each chain is opened by the names that its images hold.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use block_core::driver::{BackingName, Repair};
use block_core::engine::SimFile;
use block_core::engine::sim::{CrashOptions, CrashState, Sim};
use block_core::graph::create::NewImage;
use block_core::job::{Ending, Job};
use block_core::{BackendSlot, Error, IoBuf, LocalQueue, Request};
use block_schema::commands::{
    BlockCommit, BlockdevMirror, BlockdevSnapshot, BlockdevSnapshotSync, DriveMirror,
};
use block_schema::types::{self, BlockdevDriver, JobStatus, MirrorCopyMode, MirrorSyncMode};

use super::{Act, History, Moment, holds};
use crate::support::machine::{BACKING, CLUSTER, Machine, SECTOR, Step};
use crate::support::{self, Random, named};

const TOP: SimFile = SimFile(0);
const MIDDLE: SimFile = SimFile(1);
const BASE: SimFile = SimFile(2);
/// Empty until a verb makes an image in it.
const NEW: SimFile = SimFile(3);
/// Bytes of the disk.
const SIZE: u64 = 20 * CLUSTER;
/// What the image in the middle hides of the base.
const HIDDEN: u64 = 8 * CLUSTER;
/// Acts beside a verb at most: each makes more cuts.
const BESIDE: u32 = 8;

/// How the disk goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To an overlay that the verb makes.
    SnapshotSync,
    /// To an overlay that is open.
    Snapshot,
    /// To a file that the verb makes.
    DriveMirror(MirrorSyncMode),
    /// To a file that is open, whose copies guests wait for.
    Mirror,
    /// Down one image, or two.
    CommitTo(SimFile),
}

impl Way {
    /// The image that is the disk afterwards.
    fn end(self) -> SimFile {
        match self {
            Way::SnapshotSync | Way::Snapshot | Way::DriveMirror(_) | Way::Mirror => NEW,
            Way::CommitTo(file) => file,
        }
    }

    /// What is there before the verb, if it does not make it.
    fn prepare(self, machine: &Machine) {
        let backing = match self {
            Way::SnapshotSync | Way::DriveMirror(_) | Way::CommitTo(_) => return,
            Way::Snapshot => Some(TOP),
            Way::Mirror => None,
        };
        create(machine, NEW, backing);
        let json = format!(
            r#"{{"driver": "qcow2", "node-name": "new", "backing": null, "discard": "unmap",
                "file": {}}}"#,
            file(NEW)
        );
        let added = support::add_node(machine.queue(), &json);
        added.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    async fn go(self, queue: &LocalQueue) -> Result<(), Error> {
        let layer = queue.layer();
        let job = match self {
            Way::SnapshotSync => {
                let mut wanted = types::BlockdevSnapshot::new(named::name(NEW));
                wanted.device = Some("disk".to_owned());
                return layer
                    .blockdev_snapshot_sync(queue, BlockdevSnapshotSync(wanted))
                    .await;
            }
            Way::Snapshot => {
                let wanted = types::BlockdevOverlay::new("top".to_owned(), "new".to_owned());
                return layer
                    .blockdev_snapshot(queue, BlockdevSnapshot(wanted))
                    .await;
            }
            Way::DriveMirror(sync) => {
                let mut mirror = DriveMirror::new("disk", named::name(NEW), sync);
                mirror.format = Some("qcow2".to_owned());
                layer.drive_mirror(queue, mirror).await?
            }
            Way::Mirror => {
                let mut mirror = BlockdevMirror::new("disk", "new", MirrorSyncMode::Full);
                mirror.copy_mode = Some(MirrorCopyMode::WriteBlocking);
                mirror.granularity = Some(4096);
                mirror.buf_size = Some(16384);
                layer.blockdev_mirror(queue, mirror).await?
            }
            Way::CommitTo(base) => {
                let mut commit = BlockCommit::new("disk");
                commit.top = Some(named::name(TOP));
                commit.base = Some(named::name(base));
                layer.block_commit(queue, commit).await?
            }
        };
        assert_eq!(completed(&job).await, Ending::Completed);
        Ok(())
    }

    /// Any step between sectors. Images below ignore discards.
    fn step(self, random: &mut Random, from: u64, to: u64) -> Step {
        match (self, Step::random(random, from, to)) {
            (Way::CommitTo(_), Step::Discard { at, len }) => Step::Zero { at, len },
            (_, step) => step,
        }
    }
}

/// The end of a job, which is completed when it is ready.
async fn completed(job: &Job) -> Ending {
    loop {
        let seen = job.info();
        match seen.status {
            Some(JobStatus::Ready) => drop(job.complete()),
            Some(JobStatus::Concluded | JobStatus::Null) => return job.ended().await,
            _ => {}
        }
        job.changed_since(&seen).await;
    }
}

fn file(file: SimFile) -> String {
    format!(
        r#"{{"driver": "file", "filename": "{}"}}"#,
        named::name(file)
    )
}

fn create(machine: &Machine, image: SimFile, backing: Option<SimFile>) {
    let image = NewImage {
        filename: named::name(image),
        format: BlockdevDriver::Qcow2,
        size: SIZE,
        backing: backing.map(|file| BackingName {
            filename: named::name(file),
            format: Some(format_of(file).to_owned()),
        }),
    };
    let queue = machine.queue();
    let created = queue.block_on(machine.layer.create_image(queue, image));
    created.unwrap_or_else(|error| panic!("{}", error.chain()));
}

fn format_of(file: SimFile) -> &'static str {
    match file {
        BASE => "raw",
        _ => "qcow2",
    }
}

/// Opens an image as the disk, and what it names below it.
fn open(machine: &Machine, image: SimFile) -> Result<Vec<BackendSlot>, Error> {
    let json = format!(
        r#"{{"driver": "{}", "id": "disk", "node-name": "top", "discard": "unmap",
            "werror": "report", "file": {}}}"#,
        format_of(image),
        file(image)
    );
    let disk = support::try_open(machine.queue(), &json, "disk")?;
    let attach = |queue: &block_core::Queue| queue.attach(&disk);
    Ok(machine.queues.iter().map(attach).collect())
}

/// A chain of three images.
fn fresh(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    let mut base = vec![BACKING; support::usize(SIZE)];
    base[..support::usize(HIDDEN)].fill(0x11);
    for bytes in [&[][..], &[], &base, &[]] {
        sim.create_file(bytes);
    }
    let machine = Machine::with_named_files(sim.clone(), 1);
    create(&machine, MIDDLE, Some(BASE));
    create(&machine, TOP, Some(MIDDLE));
    let slots = open(&machine, MIDDLE).expect("a new image");
    let bytes = vec![BACKING; support::usize(HIDDEN)];
    let written = machine.request(&slots, Request::write(0, IoBuf::copy_of(&bytes)));
    written.and_then(|_| machine.close()).expect("a full image");
    sim
}

/// A history in which the disk went over, and where in the journal it did.
struct Moved {
    history: History,
    way: Way,
    went: Range<usize>,
}

impl Moved {
    fn new(seed: u64, way: Way, queues: usize) -> Moved {
        let machine = Machine::with_named_files(fresh(seed), queues);
        way.prepare(&machine);
        let slots = open(&machine, TOP).unwrap_or_else(|error| panic!("{}", error.chain()));
        let start = Moment {
            ended: machine.sim.journal_len(),
            flushed: true,
            disk: vec![BACKING; support::usize(SIZE)],
            snapshots: Default::default(),
        };
        let mut history = History {
            machine,
            slots,
            moments: vec![start],
            seed,
        };
        let mut random = Random::new(seed);
        let (queues, sectors) = (queues as u64, SIZE / SECTOR);
        let mut write = |history: &mut History| {
            let part = |n| n * sectors / queues;
            let step = |n| way.step(&mut random, part(n), part(n + 1));
            let acts: Vec<Act> = (0..queues).map(step).map(Act::Step).collect();
            history.does(&acts);
        };
        let flush = |history: &mut History| history.does(&[Act::Step(Step::Flush)]);
        write(&mut history);
        flush(&mut history);
        write(&mut history);
        let done = start_going(&history.machine, way);
        for beside in 0..BESIDE {
            match beside % 3 {
                _ if done.get() => {}
                2 => flush(&mut history),
                _ => write(&mut history),
            }
        }
        while !done.get() {
            history.machine.turn();
        }
        flush(&mut history);
        write(&mut history);
        flush(&mut history);
        let went = history.machine.last_move();
        let went = went.expect("the disk has another root");
        Moved { history, way, went }
    }

    /// Cuts the power everywhere; how many states there were before the disk went over, and after.
    fn cut_everywhere(&self) -> (u32, u32) {
        let begin = self.history.moments[0].ended;
        let (mut before, mut between, mut after) = (0, 0, 0);
        for (torn, outcomes_per_cut) in [(false, 2), (true, 1)] {
            let options = CrashOptions {
                outcomes_per_cut,
                torn,
                seed: self.history.seed,
            };
            let states = self.history.machine.sim.crash_states(options);
            for state in states.filter(|state| state.cut() >= begin) {
                if state.cut() <= self.went.start {
                    self.reads_as_the_disk(&state, TOP);
                    before += 1;
                } else if state.cut() >= self.went.end {
                    self.reads_as_the_disk(&state, self.way.end());
                    after += 1;
                } else {
                    // Nobody has heard yet which it is.
                    self.reads_as_the_disk(&state, TOP);
                    self.reads_as_the_disk(&state, self.way.end());
                    between += 1;
                }
            }
        }
        println!("{before} states before, {between} between, {after} after");
        (before, after)
    }

    #[track_caller]
    fn reads_as_the_disk(&self, state: &CrashState, image: SimFile) {
        let seed = self.history.seed;
        let context = format!("{:?}, {}, {state:?}", self.way, named::name(image));
        let machine = Machine::with_named_files(state.boot(seed), 1);
        let slots = open(&machine, image);
        let slots = slots.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
        let since = self.history.since_flush(state.cut());
        let disks: Vec<&[u8]> = since.iter().map(|moment| &moment.disk[..]).collect();
        holds(&machine.read_all(&slots), &disks, &context);
        let graph = machine.layer.graph();
        let images = graph.entries().map(|(_, entry)| &entry.node);
        for node in images.filter(|node| node.driver().format_name() == "qcow2") {
            let check = machine
                .layer
                .check(machine.queue(), node.id(), Repair::None);
            let report = machine.queue().block_on(check);
            let report = report.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
            let corruptions = report.corruptions;
            assert_eq!(corruptions, 0, "{context}: {:?}", report.messages);
        }
    }
}

/// Starts a verb; whether it has ended.
fn start_going(machine: &Machine, way: Way) -> Rc<Cell<bool>> {
    let done = Rc::new(Cell::new(false));
    let (queue, ended) = (LocalQueue::clone(machine.queue()), Rc::clone(&done));
    machine.queue().spawn(async move {
        let gone = way.go(&queue).await;
        gone.unwrap_or_else(|error| panic!("{}", error.chain()));
        ended.set(true);
    });
    done
}

#[track_caller]
fn check(name: &str, way: Way) {
    let seed = support::seed(name);
    for round in 0..support::rounds(1) {
        let cut = |queues| Moved::new(seed.wrapping_add(round), way, queues).cut_everywhere();
        let (alone, crowded) = (cut(1), cut(3));
        assert!(alone.0 + crowded.0 > 0 && alone.1 + crowded.1 > 0);
    }
}

#[test]
fn the_disk_goes_over_to_a_new_overlay() {
    check("crash-snapshot-sync", Way::SnapshotSync);
}

#[test]
fn the_disk_goes_over_to_an_overlay_that_is_open() {
    check("crash-snapshot", Way::Snapshot);
}

#[test]
fn the_disk_goes_over_to_a_mirror_of_everything() {
    check("crash-mirror-full", Way::DriveMirror(MirrorSyncMode::Full));
}

#[test]
fn the_disk_goes_over_to_a_mirror_that_guests_waited_for() {
    check("crash-mirror", Way::Mirror);
}

#[test]
fn the_disk_goes_over_to_a_mirror_of_its_top_image() {
    check("crash-mirror-top", Way::DriveMirror(MirrorSyncMode::Top));
}

#[test]
fn the_disk_goes_over_to_a_mirror_that_needs_the_source_below_it() {
    check("crash-mirror-none", Way::DriveMirror(MirrorSyncMode::None));
}

#[test]
fn the_disk_goes_down_to_the_image_below() {
    check("crash-commit-middle", Way::CommitTo(MIDDLE));
}

#[test]
fn the_disk_goes_down_to_the_lowest_image() {
    check("crash-commit-base", Way::CommitTo(BASE));
}
