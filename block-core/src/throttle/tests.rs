use block_schema::commands::BlockSetIoThrottle;

use super::rates::Buckets;
use super::*;

fn command() -> BlockSetIoThrottle {
    BlockSetIoThrottle::new("d0", 0, 0, 0, 0, 0, 0)
}

/// The text of a refusal.
#[track_caller]
fn check_refused(command: &BlockSetIoThrottle, want: &str) {
    let error = Rates::try_from(command).expect_err("limits that make no sense");
    assert_eq!(error.to_string(), want);
}

#[test]
fn limits_for_both_ways_exclude_those_for_one() {
    let want = "bps/iops/max total values and read/write values cannot be used at the same time";
    let mut both = command();
    (both.bps, both.bps_wr) = (1, 1);
    check_refused(&both, want);
    let mut both = command();
    (both.iops, both.iops_rd) = (1, 1);
    check_refused(&both, want);
    let mut bursts = command();
    (bursts.bps_max, bursts.bps_rd_max) = (Some(1), Some(1));
    check_refused(&bursts, want);
}

#[test]
fn sizes_of_requests_need_a_limit_on_requests() {
    let mut size = command();
    size.iops_size = Some(4096);
    check_refused(&size, "iops size requires an iops value to be set");
    size.iops_wr = 1;
    assert_eq!(Rates::try_from(&size).unwrap().iops_size, 4096);
}

#[test]
fn values_have_a_range() {
    let want = "bps/iops/max values must be within [0, 1000000000000000]";
    for value in [-1, i64::MIN, 1_000_000_000_000_001] {
        let mut high = command();
        high.iops = value;
        check_refused(&high, want);
        let mut high = command();
        (high.bps, high.bps_max) = (1, Some(value));
        check_refused(&high, want);
        let mut high = command();
        (high.iops, high.iops_size) = (1, Some(value));
        check_refused(&high, want);
    }
    let mut highest = command();
    highest.bps = 1_000_000_000_000_000;
    assert!(Rates::try_from(&highest).is_ok());
}

#[test]
fn bursts_are_not_below_their_limit() {
    let mut burst = command();
    burst.bps_max = Some(10);
    check_refused(
        &burst,
        "bps_max/iops_max require corresponding bps/iops values",
    );
    burst.bps = 11;
    check_refused(&burst, "bps_max/iops_max cannot be lower than bps/iops");
    burst.bps = 10;
    let rates = Rates::try_from(&burst).unwrap();
    assert_eq!(
        rates.bps,
        Rate {
            average: 10,
            burst: 10
        }
    );
}

/// How many requests of `len` bytes pass within `span`, one after the other.
fn passing(rates: &Rates, direction: Direction, len: u64, span: Duration) -> u64 {
    let mut buckets = Buckets::new(rates);
    let start = Duration::from_secs(1000);
    let (mut now, mut passed) = (start, 0);
    loop {
        now += buckets.wait(now, direction);
        if now > start + span {
            return passed;
        }
        buckets.fill(direction, len);
        passed += 1;
    }
}

fn rate(average: u64, burst: u64) -> Rate {
    Rate { average, burst }
}

#[test]
fn a_bucket_lets_its_rate_pass_and_the_slack_once() {
    let second = Duration::from_secs(1);
    let iops = |iops| Rates {
        iops,
        ..Rates::default()
    };
    // A tenth of a second's, and the one that fills the bucket.
    assert_eq!(
        passing(&iops(rate(100, 0)), Direction::Read, 512, second),
        111
    );
    assert_eq!(
        passing(&iops(rate(100, 0)), Direction::Read, 512, 100 * second),
        10_011
    );
    assert_eq!(
        passing(&iops(rate(100, 500)), Direction::Write, 512, second),
        601
    );
    // The slowest there is: one at once, then one each second.
    assert_eq!(
        passing(&iops(rate(1, 0)), Direction::Read, 0, 10 * second),
        11
    );
}

#[test]
fn bytes_count_by_their_number_and_requests_by_their_size() {
    let second = Duration::from_secs(1);
    let bps = Rates {
        bps_wr: rate(1 << 20, 1 << 20),
        ..Rates::default()
    };
    assert_eq!(passing(&bps, Direction::Write, 4096, 9 * second), 2561);
    let sized = Rates {
        iops_rd: rate(100, 100),
        iops_size: 4096,
        ..Rates::default()
    };
    assert_eq!(passing(&sized, Direction::Read, 4096, 9 * second), 1001);
    assert_eq!(passing(&sized, Direction::Read, 512, 9 * second), 1001);
    assert_eq!(passing(&sized, Direction::Read, 8192, 9 * second), 501);
}

#[test]
fn the_lowest_limit_counts() {
    let rates = Rates {
        bps: rate(1 << 20, 1 << 20),
        iops: rate(100, 100),
        ..Rates::default()
    };
    let ten = Duration::from_secs(10);
    assert_eq!(passing(&rates, Direction::Read, 512, ten), 1101);
    assert_eq!(passing(&rates, Direction::Read, 1 << 18, ten), 45);
}

#[test]
fn the_highest_rate_and_the_longest_time_are_no_overflow() {
    let rates = Rates {
        bps: rate(1_000_000_000_000_000, 0),
        ..Rates::default()
    };
    let mut buckets = Buckets::new(&rates);
    assert_eq!(
        buckets.wait(Duration::ZERO, Direction::Read),
        Duration::ZERO
    );
    for _ in 0..4 {
        buckets.fill(Direction::Read, u64::MAX);
    }
    assert!(buckets.wait(Duration::ZERO, Direction::Read) > Duration::from_secs(10_000));
    assert_eq!(buckets.wait(Duration::MAX, Direction::Read), Duration::ZERO);
    // A clock that goes back leaks nothing, and nothing twice.
    buckets.fill(Direction::Read, u64::MAX);
    let before = buckets.wait(Duration::MAX, Direction::Read);
    assert_eq!(buckets.wait(Duration::ZERO, Direction::Read), before);
    assert_eq!(buckets.wait(Duration::MAX, Direction::Read), before);
}

#[test]
fn queues_take_turns_whoever_has_more() {
    let mut line = Line::default();
    let (a, b) = (QueueKey(1), QueueKey(2));
    for ticket in 1..=3 {
        line.join(a, ticket);
    }
    line.join(b, 4);
    line.join(b, 5);
    let mut order = Vec::new();
    while let Some(ticket) = line.next() {
        order.push(ticket);
        let queue = if ticket <= 3 { a } else { b };
        line.take(queue, ticket, Left::Passed);
    }
    assert_eq!(order, [1, 4, 2, 5, 3]);
}

#[test]
fn a_parked_queue_is_passed_over_and_keeps_its_place() {
    let throttle = Throttle::default();
    let (a, b) = (QueueKey(1), QueueKey(2));
    {
        let mut state = throttle.state.lock();
        state.reads.join(a, 1);
        state.reads.join(b, 2);
        state.reads.join(b, 3);
    }
    let next = || throttle.state.lock().reads.next();
    throttle.park(a);
    assert_eq!(next(), Some(2));
    throttle.state.lock().reads.take(b, 2, Left::Passed);
    assert_eq!(next(), Some(3));
    throttle.unpark(a);
    assert_eq!(next(), Some(1));
    throttle.state.lock().reads.take(a, 1, Left::GaveUp);
    assert_eq!(next(), Some(3));
}
