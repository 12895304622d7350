//! Counters of one backend on one queue; queries add the queues up.
//!
//! One thread writes, others read: a plain load and store, no shared read-modify-write.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::request::Op;

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes and write zeroes.
    Write,
    /// Flushes.
    Flush,
    /// Discards.
    Discard,
}

impl Kind {
    /// All kinds, in the order of the counters.
    pub const ALL: [Kind; 4] = [Kind::Read, Kind::Write, Kind::Flush, Kind::Discard];

    pub(crate) fn of(op: Op) -> Kind {
        match op {
            Op::Read => Kind::Read,
            Op::Write | Op::WriteCompressed | Op::WriteZeroes(_) | Op::Populate => Kind::Write,
            Op::Flush => Kind::Flush,
            Op::Discard => Kind::Discard,
        }
    }

    fn index(self) -> usize {
        match self {
            Kind::Read => 0,
            Kind::Write => 1,
            Kind::Flush => 2,
            Kind::Discard => 3,
        }
    }
}

/// Totals of one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests that succeeded.
    pub operations: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Time from submission to completion, all requests together.
    pub time_ns: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were refused before they began.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counter {
    operations: AtomicU64,
    bytes: AtomicU64,
    time_ns: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

/// The counters of one backend on one queue.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    kinds: [Counter; 4],
    /// Nanoseconds of the queue's clock; 0 before the first request.
    last_access: AtomicU64,
}

impl Counters {
    /// Counts a request that succeeded.
    pub(crate) fn done(&self, kind: Kind, bytes: u64, span: Range<Duration>) {
        let counter = &self.kinds[kind.index()];
        bump(&counter.operations, 1);
        bump(&counter.bytes, bytes);
        self.ended(counter, span);
    }

    /// Counts a request that failed.
    pub(crate) fn failed(&self, kind: Kind, span: Range<Duration>) {
        let counter = &self.kinds[kind.index()];
        bump(&counter.failed, 1);
        self.ended(counter, span);
    }

    /// Counts a request that was refused; it took no time.
    pub(crate) fn refused(&self, kind: Kind, now: Duration) {
        let counter = &self.kinds[kind.index()];
        bump(&counter.refused, 1);
        self.ended(counter, now..now);
    }

    fn ended(&self, counter: &Counter, span: Range<Duration>) {
        bump(
            &counter.time_ns,
            nanoseconds(span.end.saturating_sub(span.start)),
        );
        self.last_access
            .store(nanoseconds(span.end).max(1), Ordering::Relaxed);
    }

    pub(crate) fn last_access(&self) -> Option<Duration> {
        match self.last_access.load(Ordering::Relaxed) {
            0 => None,
            time => Some(Duration::from_nanos(time)),
        }
    }

    pub(crate) fn totals(&self, kind: Kind) -> Totals {
        let counter = &self.kinds[kind.index()];
        Totals {
            operations: counter.operations.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
            time_ns: counter.time_ns.load(Ordering::Relaxed),
            failed: counter.failed.load(Ordering::Relaxed),
            refused: counter.refused.load(Ordering::Relaxed),
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}
