//! Mirrors in trouble, on the simulator: requests of either side fail, users pause, cancel and
//! complete at odd moments. A guest's writes succeed whatever becomes of their copies, and the disk goes
//! over to a copy that is equal, or stays where it is.

use std::sync::Arc;
use std::time::Duration;

use block_core::engine::SimFile;
use block_core::engine::sim::{Fault, SimKind};
use block_core::events::Listener;
use block_core::job::{Ending, Job};
use block_core::on_error::OnError;
use block_core::{BackendSlot, Error, IoBuf, Request};
use block_schema::commands::BlockdevMirror;
use block_schema::types::{
    BlockDeviceIoStatus, BlockJobInfo, BlockdevOnError, JobStatus, MirrorCopyMode, MirrorSyncMode,
};
use block_schema::{Event, Timestamp, Value};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::support;
use crate::support::machine::{self, BASE, IMAGE, Machine, SIZE};

/// The file that is mirrored to.
const TARGET: SimFile = SimFile(3);
const WRITES: (SimFile, SimKind) = (TARGET, SimKind::Write);
const READS: (SimFile, SimKind) = (BASE, SimKind::Read);
const ALWAYS: usize = usize::MAX;

/// Keeps what jobs say of errors.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Heard {
    fn heard(&self, _: Timestamp, event: &Event) {
        if event.name() == "BLOCK_JOB_ERROR" {
            self.0.lock().push(Value::from(event.data()).to_string());
        }
    }
}

/// A disk with some data, and a target that holds something else.
struct Rig {
    machine: Machine,
    slots: Vec<BackendSlot>,
    heard: Arc<Heard>,
}

impl Rig {
    fn new(name: &str) -> Rig {
        let sim = machine::fresh(support::seed(name));
        sim.create_file(&vec![0x77; support::usize(SIZE)]);
        let machine = Machine::new(sim, 1);
        let slots = machine.open();
        machine.add_file("target", TARGET);
        let heard = Arc::new(Heard::default());
        machine.layer.events().subscribe(&heard);
        let rig = Rig {
            machine,
            slots,
            heard,
        };
        rig.write(32 << 10, 0x11);
        rig
    }

    /// A guest's write, which succeeds.
    #[track_caller]
    fn write(&self, at: u64, byte: u8) {
        let buf = IoBuf::copy_of(&[byte; 4096]);
        let written = self.machine.request(&self.slots, Request::write(at, buf));
        written.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    fn disk(&self) -> Vec<u8> {
        self.machine.read_all(&self.slots)
    }

    fn try_start(&self, change: impl FnOnce(&mut BlockdevMirror)) -> Result<Arc<Job>, Error> {
        let mut arguments = BlockdevMirror::new("disk", "target", MirrorSyncMode::Full);
        change(&mut arguments);
        let queue = self.machine.queue();
        queue.block_on(self.machine.layer.blockdev_mirror(queue, arguments))
    }

    fn start(&self, change: impl FnOnce(&mut BlockdevMirror)) -> Arc<Job> {
        let started = self.try_start(change);
        started.unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    /// Waits for a job to be so.
    fn until(&self, job: &Job, is_so: impl Fn(&BlockJobInfo) -> bool) -> BlockJobInfo {
        self.machine.queue().block_on(async {
            loop {
                let info = job.info();
                if is_so(&info) {
                    return info;
                }
                assert_ne!(info.status, Some(JobStatus::Null), "it is over");
                job.changed_since(&info).await;
            }
        })
    }

    fn until_ready(&self, job: &Job) {
        self.until(job, |info| info.status == Some(JobStatus::Ready));
    }

    fn end(&self, job: &Job) -> Ending {
        self.machine.queue().block_on(job.ended())
    }

    /// Lets requests of one kind fail so many times.
    fn fail(&self, (file, kind): (SimFile, SimKind), times: usize, errno: Errno) {
        let fault = Fault::Errno(errno);
        let sim = &self.machine.sim;
        sim.fail_when(0, times, fault, move |op| {
            op.file == Some(file) && op.kind == kind
        });
    }

    fn root(&self) -> String {
        let graph = self.machine.layer.graph();
        let root = self.machine.layer.backend("disk").expect("a disk").root();
        let index = graph.index_of(root).expect("a root");
        graph.entry(index).node.name().to_owned()
    }

    /// Ends a job that is ready; the disk goes over to its copy.
    #[track_caller]
    fn complete(&self, job: &Job) {
        let disk = self.disk();
        job.complete().expect("it is ready");
        assert_eq!(self.end(job), Ending::Completed);
        assert_eq!(self.root(), "target");
        assert!(self.disk() == disk, "the same disk");
        assert!(self.machine.sim.contents(TARGET) == disk, "the copy");
    }

    /// Nothing is left of a job: another one does it all.
    #[track_caller]
    fn complete_anew(&self) {
        assert!(self.machine.layer.jobs().is_empty());
        assert_eq!(self.root(), "top");
        self.write(0, 0x22);
        let job = self.start(|_| {});
        self.until_ready(&job);
        self.complete(&job);
    }

    fn errors(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.0.lock())
    }
}

fn job_error(operation: &str, action: &str) -> String {
    format!(r#"{{"device": "disk", "operation": "{operation}", "action": "{action}"}}"#)
}

fn set_policies(arguments: &mut BlockdevMirror, policy: BlockdevOnError) {
    arguments.on_source_error = Some(policy);
    arguments.on_target_error = Some(policy);
}

#[test]
fn an_error_that_is_reported_ends_the_job() {
    for policy in [None, Some(BlockdevOnError::Report)] {
        for (what, verb) in [(WRITES, "write"), (READS, "read")] {
            let rig = Rig::new("mirror-report");
            rig.fail(what, 1, Errno::IO);
            let job = rig.start(|arguments| {
                arguments.on_source_error = policy;
                arguments.on_target_error = policy;
            });
            let Ending::Failed(error) = rig.end(&job) else {
                panic!("{verb}: it failed");
            };
            assert!(error.starts_with(verb), "{error}");
            let told = rig.errors();
            assert!(told.contains(&job_error(verb, "report")), "{told:?}");
            rig.machine.sim.heal();
            rig.complete_anew();
        }
    }
}

#[test]
fn a_job_that_stops_at_an_error_goes_on_when_it_is_resumed() {
    use BlockdevOnError::{Enospc, Stop};
    for (what, verb, policy, errno, shown) in [
        (
            WRITES,
            "write",
            Stop,
            Errno::IO,
            BlockDeviceIoStatus::Failed,
        ),
        (
            WRITES,
            "write",
            Stop,
            Errno::NOSPC,
            BlockDeviceIoStatus::Nospace,
        ),
        (
            WRITES,
            "write",
            Enospc,
            Errno::NOSPC,
            BlockDeviceIoStatus::Nospace,
        ),
        (READS, "read", Stop, Errno::IO, BlockDeviceIoStatus::Failed),
    ] {
        let rig = Rig::new("mirror-stop");
        let disk = rig.machine.layer.backend("disk").expect("a disk");
        disk.set_on_error(OnError {
            read: BlockdevOnError::Report,
            write: Enospc,
        });
        rig.fail(what, ALWAYS, errno);
        let job = rig.start(|arguments| set_policies(arguments, policy));
        let info = rig.until(&job, |info| info.status == Some(JobStatus::Paused));
        assert_eq!((info.io_status, info.paused), (shown, true));
        assert!(rig.errors().contains(&job_error(verb, "stop")));
        // It can be neither cancelled nor completed so; nor does a guest hear of it.
        let refused = job.cancel(false).expect_err("it is paused").to_string();
        let paused = "The block job for device 'disk' is currently paused";
        assert_eq!(refused, paused);
        let refused = job.complete().expect_err("it is paused").to_string();
        let verb = "Job 'disk' in state 'paused' cannot accept command verb 'complete'";
        assert_eq!(refused, verb);
        rig.write(64 << 10, 0x33);
        // Once more in vain.
        job.resume().expect("it waits");
        assert_eq!(job.info().io_status, BlockDeviceIoStatus::Ok);
        rig.until(&job, |info| info.io_status == shown);
        rig.machine.sim.heal();
        job.resume().expect("it waits");
        rig.until_ready(&job);
        assert_eq!(job.info().io_status, BlockDeviceIoStatus::Ok);
        rig.complete(&job);
    }
}

#[test]
fn only_a_lack_of_space_stops_a_job_that_waits_for_space() {
    let rig = Rig::new("mirror-enospc");
    rig.fail(WRITES, 1, Errno::IO);
    let job = rig.start(|arguments| arguments.on_target_error = Some(BlockdevOnError::Enospc));
    assert!(matches!(rig.end(&job), Ending::Failed(_)));
    assert!(rig.errors().contains(&job_error("write", "report")));
    rig.machine.sim.heal();
    rig.complete_anew();
}

#[test]
fn what_is_ignored_is_tried_again_and_the_job_is_not_ready_before() {
    for what in [WRITES, READS] {
        let rig = Rig::new("mirror-ignore");
        rig.fail(what, ALWAYS, Errno::IO);
        let job = rig.start(|arguments| set_policies(arguments, BlockdevOnError::Ignore));
        let queue = rig.machine.queue();
        queue.block_on(queue.sleep(Duration::from_secs(2)));
        assert_eq!(job.status(), JobStatus::Running);
        assert_eq!(job.info().io_status, BlockDeviceIoStatus::Ok);
        rig.machine.sim.heal();
        rig.until_ready(&job);
        rig.complete(&job);
    }
}

#[test]
fn a_device_that_never_stops_cannot_stop_a_job_at_its_image() {
    let rig = Rig::new("mirror-no-status");
    for policy in [BlockdevOnError::Stop, BlockdevOnError::Enospc] {
        let refused = rig.try_start(|arguments| arguments.on_source_error = Some(policy));
        let text = refused.expect_err("it has no status").to_string();
        assert_eq!(text, "Invalid parameter 'on-source-error'");
    }
    rig.complete_anew();
}

/// What fails when a job is completed, or left, leaves the disk where it was.
#[test]
fn the_last_copies_may_fail_too() {
    for (what, errno) in [(WRITES, Errno::IO), ((TARGET, SimKind::Sync), Errno::IO)] {
        for soft in [false, true] {
            let rig = Rig::new("mirror-last");
            let job = rig.start(|_| {});
            rig.until_ready(&job);
            rig.fail(what, ALWAYS, errno);
            rig.write(8192, 0x44);
            match soft {
                true => job.cancel(false),
                false => job.complete(),
            }
            .expect("it is ready");
            assert!(matches!(rig.end(&job), Ending::Failed(_)), "{what:?}");
            assert_eq!(rig.root(), "top");
            rig.write(8192, 0x45);
        }
        let rig = Rig::new("mirror-last-stop");
        let job = rig.start(|arguments| arguments.on_target_error = Some(BlockdevOnError::Stop));
        rig.until_ready(&job);
        rig.fail(WRITES, ALWAYS, Errno::NOSPC);
        rig.write(8192, 0x44);
        job.complete().expect("it is ready");
        let info = rig.until(&job, |info| info.io_status == BlockDeviceIoStatus::Nospace);
        assert!(info.paused);
        rig.write(12288, 0x46);
        rig.machine.sim.heal();
        let disk = rig.disk();
        job.resume().expect("it waits");
        // It was asked to complete already.
        assert_eq!(rig.end(&job), Ending::Completed);
        assert_eq!(rig.root(), "target");
        assert!(rig.disk() == disk);
    }
}

#[test]
fn a_copy_that_a_guest_waits_for_may_fail_but_not_its_write() {
    let blocking = |arguments: &mut BlockdevMirror, policy| {
        arguments.copy_mode = Some(MirrorCopyMode::WriteBlocking);
        arguments.on_target_error = Some(policy);
    };
    let rig = Rig::new("mirror-blocking-report");
    let job = rig.start(|arguments| blocking(arguments, BlockdevOnError::Report));
    rig.until_ready(&job);
    rig.fail(WRITES, 1, Errno::IO);
    rig.write(0, 0x55);
    assert!(matches!(rig.end(&job), Ending::Failed(_)));
    rig.complete_anew();

    let rig = Rig::new("mirror-blocking-stop");
    let job = rig.start(|arguments| blocking(arguments, BlockdevOnError::Stop));
    rig.until_ready(&job);
    // What a guest heard of is on the target.
    rig.write(0, 0x55);
    assert_eq!(rig.machine.sim.contents(TARGET)[..4096], [0x55; 4096]);
    rig.fail(WRITES, ALWAYS, Errno::NOSPC);
    rig.write(4096, 0x66);
    let info = rig.until(&job, |info| info.status == Some(JobStatus::Standby));
    assert_eq!(info.io_status, BlockDeviceIoStatus::Nospace);
    rig.write(8192, 0x67);
    rig.machine.sim.heal();
    job.resume().expect("it waits");
    rig.until_ready(&job);
    rig.complete(&job);
}

#[test]
fn a_job_that_is_ready_leaves_a_copy_of_that_moment() {
    let rig = Rig::new("mirror-leave");
    let job = rig.start(|_| {});
    rig.until_ready(&job);
    rig.write(0, 0x77);
    let moment = rig.disk();
    job.cancel(false).expect("it is ready");
    assert_eq!(rig.end(&job), Ending::Completed);
    rig.write(0, 0x78);
    assert_eq!(rig.root(), "top");
    assert!(rig.machine.sim.contents(TARGET) == moment, "the copy");
    rig.complete_anew();
}

#[test]
fn a_job_is_given_up_by_force_at_any_moment() {
    // Before it is ready, when it is, and while it stands still.
    for (ready, paused) in [(false, false), (false, true), (true, false), (true, true)] {
        let rig = Rig::new("mirror-force");
        let job = rig.start(|arguments| arguments.speed = (!ready).then_some(4096));
        if ready {
            rig.until_ready(&job);
        }
        if paused {
            job.pause().expect("it runs");
            let still = [Some(JobStatus::Paused), Some(JobStatus::Standby)];
            rig.until(&job, |info| still.contains(&info.status));
        }
        rig.write(0, 0x21);
        let disk = rig.disk();
        job.cancel(true).expect("it is not over");
        assert_eq!(rig.end(&job), Ending::Cancelled, "{ready} {paused}");
        assert!(rig.disk() == disk);
        rig.complete_anew();
    }
}

/// Completes a job that is to stand still, or does: it ends when it goes on.
#[track_caller]
fn check_held(stands_still: bool) {
    let rig = Rig::new("mirror-complete");
    let job = rig.start(|arguments| arguments.speed = Some(4096));
    let early = job.complete().expect_err("it is not ready").to_string();
    let want = "Job 'disk' in state 'running' cannot accept command verb 'complete'";
    assert_eq!(early, want);
    job.set_speed(0).expect("it runs");
    rig.until_ready(&job);
    job.pause().expect("it runs");
    if stands_still {
        rig.until(&job, |info| info.status == Some(JobStatus::Standby));
    }
    job.complete().expect("it is ready");
    rig.until(&job, |info| info.status == Some(JobStatus::Standby));
    rig.write(4096, 0x32);
    assert_eq!(rig.root(), "top");
    let disk = rig.disk();
    job.resume().expect("it waits");
    assert_eq!(rig.end(&job), Ending::Completed);
    assert_eq!(rig.root(), "target");
    assert!(rig.machine.sim.contents(TARGET) == disk, "the copy");
    for late in [job.complete(), job.pause(), job.resume(), job.cancel(true)] {
        let text = late.expect_err("it is over").to_string();
        assert!(
            text.starts_with("Job 'disk' in state 'null' cannot"),
            "{text}"
        );
    }
}

#[test]
fn a_job_completes_only_when_it_is_ready_and_goes_on() {
    check_held(false);
    check_held(true);
}

#[test]
fn one_write_makes_one_granule_to_copy() {
    for (granularity, want) in [(None, 65536), (Some(0), 65536), (Some(4096), 4096)] {
        let rig = Rig::new("mirror-granularity");
        let job = rig.start(|arguments| arguments.granularity = granularity);
        rig.until_ready(&job);
        let before = job.info().len;
        rig.write(128 << 10, 0x41);
        let info = rig.until(&job, |info| info.len > before && info.len == info.offset);
        assert_eq!(info.len - before, want, "{granularity:?}");
        rig.complete(&job);
    }
}

#[test]
fn no_more_is_in_flight_than_the_buffer_holds() {
    for buf_size in [4096, 16384, 65536] {
        let rig = Rig::new("mirror-buffer");
        let job = rig.start(|arguments| {
            arguments.granularity = Some(4096);
            arguments.buf_size = Some(buf_size);
        });
        let mut most = 0;
        while job.status() != JobStatus::Ready {
            let pending = rig.machine.sim.pending();
            let ours = |file| file != Some(IMAGE);
            let bytes = pending.iter().filter(|op| ours(op.file));
            let in_flight = bytes.map(|op| op.range.end - op.range.start).sum::<u64>();
            most = most.max(in_flight);
            rig.machine.turn();
        }
        let buf_size = u64::try_from(buf_size).expect("a size");
        assert!(most > 0 && most <= buf_size, "{most} of {buf_size}");
        rig.complete(&job);
    }
}
