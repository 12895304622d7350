//! How far a check is: L2 tables, which are nearly all that it reads.
//! Called by `check` and `repair`, and asked by whoever shows it. Invariant: what is done never falls,
//! nor does what is known to be to do while a check goes on. Not here: anything that is checked.

use std::sync::atomic::{AtomicU64, Ordering};

use block_core::driver::{CheckProgress, Repair};

/// Tables that were looked at, of those that a check looks at.
#[derive(Default)]
pub(super) struct CheckMeter {
    done: AtomicU64,
    total: AtomicU64,
}

/// What a check reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Active L2 tables.
    pub(super) tables: u64,
    /// Snapshots, each of which has as many, or not many others.
    pub(super) snapshots: u64,
    /// Windows of host clusters; all tables are read for each.
    pub(super) windows: u64,
}

impl Work {
    /// Tables that all references are counted from, once.
    fn of_counting(self) -> u64 {
        let all = self.tables.saturating_mul(self.snapshots.saturating_add(1));
        all.saturating_mul(self.windows)
    }
}

impl CheckMeter {
    /// A check begins: references are counted, again where a repair changes counts, and then flags are
    /// looked at.
    pub(super) fn begin(&self, work: Work, repair: Repair) {
        let times = match repair {
            Repair::None => 1,
            Repair::Leaks | Repair::All => 2,
        };
        let counting = work.of_counting().saturating_mul(times);
        let total = counting.saturating_add(work.tables);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// A table was looked at.
    pub(super) fn step(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Only flags are left, whatever was not needed.
    pub(super) fn flags_are_left(&self, tables: u64) {
        let before = self.total.load(Ordering::Relaxed).saturating_sub(tables);
        self.done.fetch_max(before, Ordering::Relaxed);
    }

    /// The check is over.
    pub(super) fn end(&self) {
        let total = self.total.load(Ordering::Relaxed);
        self.done.fetch_max(total, Ordering::Relaxed);
    }

    /// How far it is.
    pub(super) fn progress(&self) -> CheckProgress {
        let total = self.total.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed).min(total);
        CheckProgress { done, total }
    }
}
