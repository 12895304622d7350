//! Backups whose requests fail, on the simulator: what the job does about it, what a guest hears,
//! and what becomes of the bitmap.

use std::ops::Range;
use std::sync::Arc;

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::engine::SimFile;
use block_core::engine::sim::{Fault, SimKind};
use block_core::job::{Ending, Job};
use block_core::{BackendSlot, Error, IoBuf, Request};
use block_schema::commands::BlockdevBackup;
use block_schema::types::{
    self, BitmapSyncMode, BlockDeviceIoStatus, BlockdevOnError, MirrorSyncMode,
};
use rustix::io::Errno;

use crate::support;
use crate::support::machine::{self, BASE, Machine, SIZE};

/// The file that is backed up to.
const TARGET: SimFile = SimFile(3);
const GRANULE: u64 = 64 << 10;

/// A disk with some data, and a target that holds something else.
struct Rig {
    machine: Machine,
    slots: Vec<BackendSlot>,
    disk: Vec<u8>,
}

impl Rig {
    fn new(name: &str) -> Rig {
        let sim = machine::fresh(support::seed(name));
        sim.create_file(&vec![0x77; support::usize(SIZE)]);
        let machine = Machine::new(sim, 2);
        let slots = machine.open();
        machine.add_file("target", TARGET);
        let mut rig = Rig {
            machine,
            slots,
            disk: Vec::new(),
        };
        rig.write(GRANULE / 2, 0x11).expect("a write");
        rig.disk = rig.machine.read_all(&rig.slots);
        rig
    }

    fn write(&self, at: u64, byte: u8) -> Result<(), Error> {
        let buf = IoBuf::copy_of(&[byte; 4096]);
        self.machine.request(&self.slots, Request::write(at, buf))?;
        Ok(())
    }

    fn start(&self, arguments: types::BlockdevBackup) -> Arc<Job> {
        let queue = self.machine.queue();
        let arguments = BlockdevBackup(arguments);
        let starting = self.machine.layer.blockdev_backup(queue, arguments);
        let started = queue.block_on(starting);
        started.unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    fn end(&self, job: &Job) -> Ending {
        self.machine.queue().block_on(job.ended())
    }

    /// Lets requests of one kind to a part of a file fail so many times.
    fn fail(&self, (file, kind): (SimFile, SimKind), part: Range<u64>, times: usize, errno: Errno) {
        let fault = Fault::Errno(errno);
        self.machine.sim.fail_when(0, times, fault, move |op| {
            let overlaps = op.range.start < part.end && part.start < op.range.end;
            op.file == Some(file) && op.kind == kind && overlaps
        });
    }

    /// The target has the disk of the moment before the backup; the source has what it should.
    #[track_caller]
    fn check_copied(&self) {
        assert!(self.machine.sim.contents(TARGET) == self.disk, "the copy");
    }

    fn bitmap(&self) -> Vec<Range<u64>> {
        let found = self.machine.layer.dirty_bitmap(BITMAP).expect("a bitmap");
        assert!(!found.1.is_busy());
        found.1.runs().collect()
    }
}

const BITMAP: BitmapName<'_> = BitmapName {
    node: "disk",
    name: "b",
};

const WRITES: (SimFile, SimKind) = (TARGET, SimKind::Write);
const READS: (SimFile, SimKind) = (BASE, SimKind::Read);
const ALWAYS: usize = usize::MAX;

fn wanted(sync: MirrorSyncMode) -> types::BlockdevBackup {
    types::BlockdevBackup::new("disk", "target", sync)
}

#[test]
fn an_error_that_is_reported_ends_the_job() {
    for (what, verb) in [(WRITES, "write"), (READS, "read")] {
        let rig = Rig::new("backup-report");
        rig.fail(what, 0..SIZE, 1, Errno::IO);
        let job = rig.start(wanted(MirrorSyncMode::Full));
        let Ending::Failed(error) = rig.end(&job) else {
            panic!("{verb}: it failed");
        };
        assert!(error.starts_with(verb), "{error}");
        assert!(rig.machine.layer.jobs().is_empty());
        // Nothing is left of it: the disk is written without a copy, and may be backed up anew.
        rig.write(0, 0x22).expect("nobody watches");
        rig.write(0, 0xb5).expect("as before");
        let job = rig.start(wanted(MirrorSyncMode::Full));
        assert_eq!(rig.end(&job), Ending::Completed);
        rig.check_copied();
    }
}

/// Lets a job stop at an error, and go on when what was wrong is made right. What a guest does
/// meanwhile is told whether all is well.
#[track_caller]
fn check_stop(
    policy: BlockdevOnError,
    errno: Errno,
    shown: BlockDeviceIoStatus,
    guest: fn(&Rig, bool),
) {
    let rig = Rig::new("backup-stop");
    rig.fail(WRITES, 0..SIZE, ALWAYS, errno);
    let job = rig.start(wanted(MirrorSyncMode::Full).on_target_error(policy));
    let mut info = job.info();
    while info.io_status != shown {
        rig.machine.queue().block_on(job.changed_since(&info));
        info = job.info();
    }
    assert!(info.paused);
    guest(&rig, false);
    rig.machine.sim.heal();
    guest(&rig, true);
    job.resume().expect("it waits");
    assert_eq!(rig.end(&job), Ending::Completed);
    rig.check_copied();
}

#[test]
fn a_job_that_stops_at_an_error_waits_until_it_is_resumed() {
    let status = BlockDeviceIoStatus::Nospace;
    check_stop(BlockdevOnError::Enospc, Errno::NOSPC, status, |_, _| {});
    // A guest writes where nothing was copied yet: it hears of the error, and nothing is lost.
    let write = |rig: &Rig, is_well: bool| {
        let written = rig.write(GRANULE, 0x33);
        assert_eq!(written.is_ok(), is_well);
    };
    let status = BlockDeviceIoStatus::Failed;
    check_stop(BlockdevOnError::Stop, Errno::IO, status, write);
}

#[test]
fn what_is_ignored_is_tried_again_as_long_as_that_helps() {
    for (times, completes) in [(1, true), (ALWAYS, false)] {
        let rig = Rig::new("backup-ignore");
        let layer = &rig.machine.layer;
        let added = layer.block_dirty_bitmap_add(BITMAP, NewBitmap::default());
        rig.machine.queue().block_on(added).expect("a new bitmap");
        rig.write(0, 0x55).expect("a write");
        rig.write(2 * GRANULE, 0x55).expect("a write");
        rig.fail(WRITES, 0..GRANULE, times, Errno::IO);
        let arguments = wanted(MirrorSyncMode::Incremental).bitmap("b");
        let job = rig.start(arguments.on_target_error(BlockdevOnError::Ignore));
        let ending = rig.end(&job);
        assert_eq!(ending == Ending::Completed, completes, "{ending:?}");
        let copied = rig.machine.sim.contents(TARGET);
        assert_eq!(copied[0], if completes { 0x55 } else { 0x77 });
        assert_eq!(copied[support::usize(2 * GRANULE)], 0x55);
    }
}

#[test]
fn a_write_is_refused_whose_place_cannot_be_saved() {
    let rig = Rig::new("backup-before");
    let job = rig.start(wanted(MirrorSyncMode::None));
    rig.fail(WRITES, 0..SIZE, 1, Errno::IO);
    assert_eq!(rig.write(0, 0x44).expect_err("no copy").errno(), Errno::IO);
    assert_eq!(rig.machine.read_all(&rig.slots), rig.disk);
    rig.write(0, 0x44).expect("now there is one");
    let saved = rig.machine.sim.contents(TARGET);
    let granule = support::usize(GRANULE);
    assert_eq!(saved[..granule], rig.disk[..granule]);
    assert!(saved[granule..].iter().all(|&byte| byte == 0x77));
    job.cancel(false).expect("it runs");
    assert_eq!(rig.end(&job), Ending::Cancelled);
}

/// Backs up what a bitmap says, two granules, of which the second fails; what is dirty then.
#[track_caller]
fn check_bitmap(sync: MirrorSyncMode, mode: BitmapSyncMode, fails: bool, want: &[Range<u64>]) {
    let rig = Rig::new("backup-bitmap");
    let layer = &rig.machine.layer;
    let added = layer.block_dirty_bitmap_add(BITMAP, NewBitmap::default());
    rig.machine.queue().block_on(added).expect("a new bitmap");
    rig.write(0, 0x55).expect("a write");
    rig.write(2 * GRANULE, 0x55).expect("a write");
    assert_eq!(rig.bitmap(), DIRTY);
    if fails {
        rig.fail(WRITES, 2 * GRANULE..3 * GRANULE, 1, Errno::IO);
    }
    let arguments = wanted(sync).bitmap("b").bitmap_mode(mode);
    let job = rig.start(arguments);
    assert_eq!(matches!(rig.end(&job), Ending::Failed(_)), fails);
    assert_eq!(rig.bitmap(), want, "{sync}, {mode}, {fails}");
    if sync != MirrorSyncMode::Full && !fails {
        let copy = rig.machine.sim.contents(TARGET);
        let now = rig.machine.read_all(&rig.slots);
        for (index, (copy, now)) in copy.chunks(65536).zip(now.chunks(65536)).enumerate() {
            let want = if index % 2 == 0 { now } else { &[0x77; 65536] };
            assert!(copy == want, "granule {index}");
        }
    }
    // Tracking goes on.
    rig.write(3 * GRANULE, 0x66).expect("a write");
    let last = rig.bitmap().pop();
    assert_eq!(last.map(|run| run.end), Some(3 * GRANULE + 4096));
}

const DIRTY: [Range<u64>; 2] = [0..4096, 2 * GRANULE..2 * GRANULE + 4096];

#[test]
fn a_bitmap_begins_anew_when_all_was_copied() {
    use BitmapSyncMode as Mode;
    use MirrorSyncMode as Sync;
    check_bitmap(Sync::Incremental, Mode::OnSuccess, false, &[]);
    check_bitmap(Sync::Incremental, Mode::OnSuccess, true, &DIRTY);
    check_bitmap(Sync::Bitmap, Mode::OnSuccess, false, &[]);
    check_bitmap(Sync::Full, Mode::OnSuccess, false, &[]);
    check_bitmap(Sync::Full, Mode::OnSuccess, true, &DIRTY);
}

#[test]
fn a_bitmap_can_be_kept_or_begin_anew_in_any_case() {
    use BitmapSyncMode as Mode;
    check_bitmap(MirrorSyncMode::Bitmap, Mode::Never, false, &DIRTY);
    check_bitmap(MirrorSyncMode::Bitmap, Mode::Never, true, &DIRTY);
    check_bitmap(MirrorSyncMode::Bitmap, Mode::Always, false, &[]);
    let left = 2 * GRANULE..3 * GRANULE;
    check_bitmap(MirrorSyncMode::Bitmap, Mode::Always, true, &[left]);
}
