//! What becomes of errors: reported, ignored, or held until the machine goes on.

use std::sync::Arc;

use block_core::engine::sim::{Fault, SimKind};
use block_core::events::Listener;
use block_core::on_error::OnError;
use block_core::stats::Kind;
use block_core::{Error, IoBuf, Request};
use block_schema::types::{BlockDeviceIoStatus, BlockdevOnError};
use block_schema::{Event, Timestamp, Value};
use parking_lot::Mutex;
use rustix::io::Errno;

use super::rig::{BLOCK, LEN, Rig, read, write};

/// Writes down what happens.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Listener for Heard {
    fn heard(&self, _: Timestamp, event: &Event) {
        let data = Value::from(event.data());
        self.0.lock().push(format!("{} {data}", event.name()));
    }
}

struct Case {
    rig: Rig,
    heard: Arc<Heard>,
}

fn rules(read: BlockdevOnError, write: BlockdevOnError) -> OnError {
    OnError { read, write }
}

impl Case {
    fn new(rules: OnError) -> Case {
        let rig = Rig::new(2);
        rig.backend.set_on_error(rules);
        let heard = Arc::new(Heard::default());
        rig.layer().events().subscribe(&heard);
        Case { rig, heard }
    }

    /// Fails the next operation of a kind.
    fn fail(&self, kind: SimKind, errno: Errno) {
        let fault = Fault::Errno(errno);
        self.rig
            .sim()
            .fail_when(0, 1, fault, move |op| op.kind == kind);
    }

    /// What was heard since the last time.
    fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.0.lock())
    }

    fn end(&self) -> Option<Result<(), Error>> {
        let mut ended = self.rig.settle();
        assert!(ended.len() <= 1);
        ended.pop().map(|(_, result)| result)
    }
}

fn io_error(operation: &str, action: &str, nospace: &str, reason: &str) -> String {
    format!(
        r#"BLOCK_IO_ERROR {{"qom-path": "", "device": "d0", "node-name": "file", "operation": "{operation}", "action": "{action}"{nospace}, "reason": "{reason}"}}"#
    )
}

const STOP: &str = "STOP {}";
const RESUME: &str = "RESUME {}";

/// How an error of a request ends that is not held, and what is told.
#[track_caller]
fn check_ended(rules: OnError, request: Request, fails: (SimKind, Errno), want: (bool, String)) {
    let case = Case::new(rules);
    case.fail(fails.0, fails.1);
    case.rig.submit(0, request, 1);
    let result = case.end().expect("an end");
    assert_eq!(result.is_ok(), want.0, "{result:?}");
    if let Err(error) = result {
        assert_eq!(error.errno(), fails.1);
    }
    assert_eq!(case.events(), [want.1]);
    assert!(!case.rig.layer().is_stopped());
}

#[test]
fn reported_errors_reach_the_guest() {
    use BlockdevOnError::{Enospc, Report};
    let (reports, space) = (rules(Report, Report), rules(Report, Enospc));
    check_ended(
        reports,
        read(0),
        (SimKind::Read, Errno::IO),
        (false, io_error("read", "report", "", "Input/output error")),
    );
    check_ended(
        reports,
        Request::flush(),
        (SimKind::Sync, Errno::NOSPC),
        (
            false,
            io_error("write", "report", "", "No space left on device"),
        ),
    );
    // Only a lack of space stops the machine.
    check_ended(
        space,
        write(0),
        (SimKind::Write, Errno::IO),
        (
            false,
            io_error(
                "write",
                "report",
                r#", "nospace": false"#,
                "Input/output error",
            ),
        ),
    );
}

#[test]
fn ignored_errors_are_success_for_the_guest() {
    use BlockdevOnError::{Ignore, Report};
    check_ended(
        rules(Report, Ignore),
        write(0),
        (SimKind::Write, Errno::NOSPC),
        (
            true,
            io_error("write", "ignore", "", "No space left on device"),
        ),
    );
    check_ended(
        rules(Ignore, Report),
        read(0),
        (SimKind::Read, Errno::IO),
        (true, io_error("read", "ignore", "", "Input/output error")),
    );
}

/// Holds a request on an error, and lets it succeed later.
#[track_caller]
fn check_held(
    rules: OnError,
    request: Request,
    fails: (SimKind, Errno),
    status: BlockDeviceIoStatus,
) {
    let case = Case::new(rules);
    let (rig, backend) = (&case.rig, &case.rig.backend);
    assert_eq!(backend.io_status(), Some(BlockDeviceIoStatus::Ok));
    case.fail(fails.0, fails.1);
    rig.submit(0, request, 1);
    assert!(case.end().is_none());
    assert!(rig.layer().is_stopped());
    assert_eq!(backend.io_status(), Some(status));
    let events = case.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].contains(r#""action": "stop""#), "{events:?}");
    assert_eq!(events[1], STOP);
    // Nobody waits for it.
    let queue = rig.machine.queue();
    drop(queue.block_on(rig.layer().drain(&[backend.root()])));
    queue.park();
    assert!(case.end().is_none());
    rig.layer().cont();
    assert_eq!(case.end().expect("an end").err().map(|e| e.chain()), None);
    assert_eq!(case.events(), [RESUME]);
    assert_eq!(backend.io_status(), Some(BlockDeviceIoStatus::Ok));
    let totals = Kind::ALL.map(|kind| backend.totals(kind));
    let sum = |count: fn(&block_core::stats::Totals) -> u64| totals.iter().map(count).sum::<u64>();
    assert_eq!((sum(|t| t.operations), sum(|t| t.failed)), (1, 0));
}

#[test]
fn held_requests_start_again_when_the_machine_goes_on() {
    use BlockDeviceIoStatus::{Failed, Nospace};
    use BlockdevOnError::{Enospc, Report, Stop};
    let (no_space, io) = (Errno::NOSPC, Errno::IO);
    let space = rules(Report, Enospc);
    check_held(space, write(0), (SimKind::Write, no_space), Nospace);
    check_held(rules(Report, Stop), write(0), (SimKind::Write, io), Failed);
    check_held(rules(Stop, Report), read(0), (SimKind::Read, io), Failed);
    // The long way.
    let durable = write(BLOCK).with_fua();
    check_held(space, durable, (SimKind::Write, no_space), Nospace);
}

/// What the kernel has dropped stays lost, however often it is asked.
#[test]
fn a_flush_that_failed_fails_again() {
    let case = Case::new(rules(BlockdevOnError::Report, BlockdevOnError::Stop));
    case.fail(SimKind::Sync, Errno::IO);
    case.rig.submit(0, Request::flush(), 1);
    assert!(case.end().is_none());
    case.rig.layer().cont();
    assert!(case.end().is_none());
    case.rig.backend.set_on_error(OnError::default());
    case.rig.layer().cont();
    assert!(case.end().expect("an end").is_err());
}

#[test]
fn a_held_write_arrives_with_its_bytes() {
    let case = Case::new(rules(BlockdevOnError::Report, BlockdevOnError::Enospc));
    case.fail(SimKind::Write, Errno::NOSPC);
    let bytes = IoBuf::copy_of(&[7; 4096]);
    case.rig.submit(0, Request::write(BLOCK, bytes), 1);
    assert!(case.end().is_none());
    case.rig.layer().cont();
    assert!(case.end().expect("an end").is_ok());
    let file = case.rig.sim().contents(block_core::engine::SimFile(0));
    assert!(file[4096..8192].iter().all(|&byte| byte == 7));
}

#[test]
fn an_error_that_comes_again_stops_again() {
    let case = Case::new(rules(BlockdevOnError::Report, BlockdevOnError::Enospc));
    let fault = Fault::Errno(Errno::NOSPC);
    let writes = |op: &block_core::engine::sim::SimOp| op.kind == SimKind::Write;
    case.rig.sim().fail_when(0, 3, fault, writes);
    case.rig.submit(0, write(0), 1);
    for _ in 0..3 {
        assert!(case.end().is_none());
        assert!(case.rig.layer().is_stopped());
        case.rig.layer().cont();
    }
    assert!(case.end().expect("an end").is_ok());
    assert_eq!(case.events().len(), 9);
}

#[test]
fn a_machine_that_stands_still_starts_nothing() {
    let case = Case::new(OnError::default());
    let (rig, layer) = (&case.rig, case.rig.layer());
    let queue = rig.machine.queue();
    rig.submit(0, write(0), 0);
    queue.block_on(layer.stop(queue));
    queue.block_on(layer.stop(queue));
    assert_eq!(case.events(), [STOP]);
    // What was under way has ended and is durable.
    assert_eq!(rig.settle().len(), 1);
    assert!(rig.sim().journal_len() >= 2);
    for token in 1..5 {
        rig.submit(0, write(token * BLOCK), token);
        rig.submit(1, Request::flush(), token);
    }
    assert!(rig.settle().is_empty());
    rig.machine.queues[1].park();
    // Whoever is no guest goes on.
    let export = queue.block_on(layer.add_backend("", rig.backend.root(), true));
    let slot = queue.attach(&export.expect("an export"));
    let read = queue.request(slot, read(0));
    assert!(queue.block_on(read).is_ok());
    layer.cont();
    layer.cont();
    assert_eq!(case.events(), [RESUME]);
    assert_eq!(rig.settle().len(), 8);
}

#[test]
fn errors_of_exports_are_the_clients() {
    let case = Case::new(rules(BlockdevOnError::Stop, BlockdevOnError::Stop));
    let queue = case.rig.machine.queue();
    let root = case.rig.backend.root();
    let export = queue.block_on(case.rig.layer().add_backend("", root, true));
    let slot = queue.attach(&export.expect("an export"));
    case.fail(SimKind::Read, Errno::IO);
    let result = queue.block_on(queue.request(slot, read(0)));
    assert_eq!(result.expect_err("an error").errno(), Errno::IO);
    assert!(case.events().is_empty());
    assert!(!case.rig.layer().is_stopped());
}

#[test]
fn held_requests_end_with_their_device_or_queue() {
    let stops = rules(BlockdevOnError::Stop, BlockdevOnError::Stop);
    let mut case = Case::new(stops);
    for queue in 0..2 {
        case.fail(SimKind::Write, Errno::IO);
        case.rig.submit(queue, write(0), 1);
        assert!(case.end().is_none());
    }
    // The first is held with its error, the second never began.
    drop(case.rig.machine.queues.pop());
    let writes = case.rig.backend.totals(Kind::Write);
    assert_eq!((writes.refused, writes.failed), (1, 0));
    case.rig.submit(0, write(0), 2);
    assert!(case.end().is_none());
    let queue = case.rig.machine.queue();
    queue.block_on(case.rig.layer().remove_backend(&case.rig.backend));
    let mut ended = case.rig.settle();
    ended.sort_by_key(|(token, _)| *token);
    let errors: Vec<Error> = ended.into_iter().filter_map(|(_, r)| r.err()).collect();
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0].errno(), Errno::IO);
    assert!(matches!(errors[1], Error::DeviceNotFound { .. }));
}

#[test]
fn refused_requests_are_no_errors_of_the_device() {
    let case = Case::new(rules(BlockdevOnError::Stop, BlockdevOnError::Stop));
    case.rig
        .submit(0, Request::read(LEN, IoBuf::zeroed(512)), 1);
    assert!(case.end().expect("an end").is_err());
    assert!(case.events().is_empty());
    let totals = case.rig.backend.totals(Kind::Read);
    assert_eq!((totals.refused, totals.failed), (1, 0));
}
