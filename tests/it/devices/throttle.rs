//! Limits on the simulator's clock: exact, fair, and nobody else's business.

use std::time::Duration;

use block_core::{Error, Request};
use block_schema::commands::BlockSetIoThrottle;

use super::rig::{BLOCK, Load, Rig, finish, read, read_of, run, write};

const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Within 2 %.
#[track_caller]
fn check_close(have: u64, want: u64) {
    let off = have.abs_diff(want);
    assert!(off * 50 <= want, "{have} is not {want}");
}

/// Limits a device that is kept busy, and counts what passes in ten seconds after the first, in
/// which the slack is used up.
#[track_caller]
fn check(set: impl FnOnce(&mut BlockSetIoThrottle), loads: &[Load], want: &[u64]) {
    let rig = Rig::new(2);
    rig.limit(set);
    let slots = loads.len();
    run(&rig, loads, Duration::from_secs(1));
    // The first loads are still there: only the rate counts from now on.
    let counted = run(&rig, loads, TEN_SECONDS);
    assert_eq!(want.len(), slots);
    for (have, want) in counted.into_iter().zip(want) {
        check_close(have, *want);
    }
    finish(&rig);
}

fn load(queue: usize, depth: u64, request: fn(u64) -> Request) -> Load {
    Load {
        queue,
        depth,
        request,
    }
}

#[test]
fn requests_a_second_are_as_many_as_were_asked_for() {
    check(|l| l.iops = 500, &[load(0, 8, read)], &[5000]);
    check(|l| l.iops_wr = 300, &[load(0, 8, write)], &[3000]);
    check(|l| l.iops_rd = 100, &[load(0, 1, read)], &[1000]);
}

#[test]
fn bytes_a_second_are_as_many_as_were_asked_for() {
    check(|l| l.bps = 1 << 20, &[load(0, 8, read)], &[2560]);
    check(|l| l.bps_wr = 4 << 20, &[load(0, 32, write)], &[10240]);
    let large = |at| read_of(at, 1 << 20);
    check(|l| l.bps_rd = 10 << 20, &[load(0, 4, large)], &[100]);
}

#[test]
fn limits_of_one_direction_leave_the_other_alone() {
    let rig = Rig::new(1);
    rig.limit(|l| l.iops_rd = 10);
    for token in 0..100 {
        rig.submit(0, read(token * BLOCK), token);
        rig.submit(0, write(token * BLOCK), 1000 + token);
    }
    let ended = rig.settle();
    let writes = ended.iter().filter(|(token, _)| *token >= 1000).count();
    // Reads: a tenth of a second's, and the one that fills the bucket.
    assert_eq!((writes, ended.len() - writes), (100, 2));
    finish(&rig);
}

#[test]
fn limits_for_both_ways_are_shared() {
    let rig = Rig::new(2);
    rig.limit(|l| l.iops = 400);
    let loads = [load(0, 4, read), load(1, 4, write)];
    run(&rig, &loads, Duration::from_secs(1));
    let counted = run(&rig, &loads, TEN_SECONDS);
    check_close(counted.iter().sum(), 4000);
    assert!(counted.iter().all(|&count| count > 400), "{counted:?}");
    finish(&rig);
}

#[test]
fn queues_get_the_same_whoever_asks_for_more() {
    check(
        |l| l.iops = 600,
        &[load(0, 64, read), load(1, 2, read)],
        &[3000, 3000],
    );
}

#[test]
fn large_requests_count_as_several() {
    let large = |at| read_of(at, 4 * 4096);
    check(
        |l| (l.iops, l.iops_size) = (400, Some(4096)),
        &[load(0, 4, large)],
        &[1000],
    );
}

#[test]
fn a_burst_passes_at_once_and_once() {
    let rig = Rig::new(1);
    rig.limit(|l| (l.iops, l.iops_max) = (100, Some(1000)));
    let first = run(&rig, &[load(0, 16, read)], Duration::from_secs(1));
    check_close(first[0], 1100);
    let later = run(&rig, &[load(0, 16, read)], TEN_SECONDS);
    check_close(later[0], 1000);
    finish(&rig);
}

#[test]
fn flushes_and_discards_are_not_limited() {
    let rig = Rig::new(1);
    rig.limit(|l| (l.iops, l.bps) = (1, 1));
    for token in 0..50 {
        rig.submit(0, Request::flush(), token);
        rig.submit(0, Request::discard(0, BLOCK), token);
    }
    assert_eq!(rig.settle().len(), 100);
}

#[test]
fn exports_of_the_same_node_are_not_limited() {
    let rig = Rig::new(1);
    rig.limit(|l| (l.iops, l.bps) = (1, 1));
    let queue = rig.machine.queue();
    let export = queue.block_on(rig.layer().add_backend("", rig.backend.root(), true));
    let slot = queue.attach(&export.expect("an export"));
    for token in 0..50 {
        queue.submit(slot, read(token * BLOCK), token);
    }
    assert_eq!(rig.settle().len(), 50);
}

#[test]
fn other_limits_concern_those_who_wait() {
    let rig = Rig::new(1);
    rig.limit(|l| l.iops = 1);
    for token in 0..50 {
        rig.submit(0, read(token * BLOCK), token);
    }
    assert_eq!(rig.settle().len(), 1);
    rig.limit(|l| (l.iops, l.iops_max) = (1, Some(10)));
    assert_eq!(rig.settle().len(), 11);
    rig.limit(|_| {});
    assert_eq!(rig.settle().len(), 38);
    assert!(rig.backend.limits().is_unlimited());
}

#[test]
fn limits_that_make_no_sense_leave_those_in_force() {
    let rig = Rig::new(1);
    rig.limit(|l| l.iops = 10);
    let mut wrong = BlockSetIoThrottle::new("d0", 0, 0, 0, 5, 5, 0);
    assert!(rig.layer().block_set_io_throttle(&wrong).is_err());
    assert_eq!(rig.backend.limits().iops.average, 10);
    wrong.device = "d1".to_owned();
    let error = rig.layer().block_set_io_throttle(&wrong);
    assert!(matches!(error, Err(Error::DeviceNotFound { .. })));
}

/// A device with more requests than its limit lets pass.
fn crowded(queues: usize) -> Rig {
    let rig = Rig::new(queues);
    rig.limit(|l| l.iops = 10);
    for token in 0..200 {
        for queue in 0..queues {
            rig.submit(queue, write(token * BLOCK), 1000 + token);
        }
    }
    assert_eq!(rig.settle().len(), 2);
    rig
}

#[test]
fn drains_do_not_wait_for_those_who_wait() {
    let rig = crowded(1);
    let (queue, before) = (rig.machine.queue(), rig.sim().now());
    let drained = queue.block_on(rig.layer().drain(&[rig.backend.root()]));
    assert_eq!(rig.sim().now(), before);
    drop(drained);
    finish(&rig);
}

#[test]
fn parking_does_not_wait_for_them_either_and_gives_their_turn_up() {
    let rig = crowded(2);
    let before = rig.sim().now();
    rig.machine.queues[0].park();
    assert_eq!(rig.sim().now(), before);
    let end = before + TEN_SECONDS;
    let mut passed = 0;
    while rig.sim().now() < end {
        assert!(rig.sim().step());
        rig.machine.queues[1].reap(|_| passed += 1);
    }
    check_close(passed, 100);
    // Back again, it has its turns again.
    assert!(run(&rig, &[load(0, 1, read)], TEN_SECONDS)[0] > 10);
    finish(&rig);
}

#[test]
fn without_its_device_they_go_on() {
    let rig = crowded(1);
    let queue = rig.machine.queue();
    queue.block_on(rig.layer().remove_backend(&rig.backend));
    let ended = rig.settle();
    assert_eq!(ended.len(), 198);
    assert!(ended.iter().all(|(_, result)| result.is_ok()));
    rig.submit(0, read(0), 0);
    let late = rig.settle().remove(0).1;
    assert!(matches!(late, Err(Error::DeviceNotFound { .. })));
}

#[test]
fn a_queue_that_is_dropped_finishes_them() {
    let mut rig = crowded(2);
    let before = rig.sim().now();
    drop(rig.machine.queues.remove(0));
    assert_eq!(rig.sim().now(), before);
    rig.slots.remove(0);
    rig.limit(|_| {});
    let other = rig.settle();
    let writes = rig.backend.totals(block_core::stats::Kind::Write);
    assert_eq!((writes.operations, writes.failed), (400, 0));
    assert!(other.iter().all(|(_, result)| result.is_ok()));
}
