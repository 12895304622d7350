//! Rates and the buckets that keep them; pure arithmetic on a time that the caller gives.
//!
//! Called by `mod.rs`, under its lock. Each rate is a leaky bucket: a request fills it by its bytes
//! or by one, it leaks by the rate, and who finds it fuller than it may be waits until it is not.
//! All sums are whole numbers of billionths of a unit, so that nothing is lost between requests.
//! Invariant: a wait that was asked for is never too short by more than a nanosecond.

use std::time::Duration;

use block_schema::commands::BlockSetIoThrottle;
use block_schema::types::BlockDeviceInfo;

use crate::error::{Error, Result};
use crate::graph::info::signed;

/// The highest rate that can be asked for.
const HIGHEST: u64 = 1_000_000_000_000_000;

/// What a bucket counts in: billionths of a byte or request, which leak by the rate a nanosecond.
const UNIT: u128 = 1_000_000_000;

/// Without a burst of its own, a rate lets pass at once what it lets pass in this part of a second.
const SLACK: u128 = 10;

/// Which way a request's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the guest.
    Read,
    /// To the image.
    Write,
}

/// A limit; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Units a second; 0 is no limit.
    pub average: u64,
    /// Units that may pass at once; 0 is a tenth of a second's.
    pub burst: u64,
}

/// The limits of a device, as `block_set_io_throttle` sets them; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes both ways.
    pub bps: Rate,
    /// Bytes read.
    pub bps_rd: Rate,
    /// Bytes written.
    pub bps_wr: Rate,
    /// Requests both ways.
    pub iops: Rate,
    /// Reads.
    pub iops_rd: Rate,
    /// Writes.
    pub iops_wr: Rate,
    /// Bytes that count as one request; 0 if every request is one.
    pub iops_size: u64,
}

impl Rates {
    /// Whether there is no limit.
    pub fn is_unlimited(&self) -> bool {
        self.all().iter().all(|rate| rate.average == 0)
    }

    /// Shows the limits as queries do: what is 0 and may be left out is left out.
    pub fn show(&self, info: &mut BlockDeviceInfo) {
        let burst = |rate: Rate| (rate.burst > 0).then(|| signed(rate.burst));
        // Bursts of more than a second are not in the schema's command.
        let length = |rate: Rate| (rate.burst > 0).then_some(1);
        info.bps = signed(self.bps.average);
        info.bps_rd = signed(self.bps_rd.average);
        info.bps_wr = signed(self.bps_wr.average);
        info.iops = signed(self.iops.average);
        info.iops_rd = signed(self.iops_rd.average);
        info.iops_wr = signed(self.iops_wr.average);
        info.bps_max = burst(self.bps);
        info.bps_rd_max = burst(self.bps_rd);
        info.bps_wr_max = burst(self.bps_wr);
        info.iops_max = burst(self.iops);
        info.iops_rd_max = burst(self.iops_rd);
        info.iops_wr_max = burst(self.iops_wr);
        info.bps_max_length = length(self.bps);
        info.bps_rd_max_length = length(self.bps_rd);
        info.bps_wr_max_length = length(self.bps_wr);
        info.iops_max_length = length(self.iops);
        info.iops_rd_max_length = length(self.iops_rd);
        info.iops_wr_max_length = length(self.iops_wr);
        info.iops_size = (self.iops_size > 0).then(|| signed(self.iops_size));
    }

    fn all(&self) -> [Rate; 6] {
        let bytes = [self.bps, self.bps_rd, self.bps_wr];
        let requests = [self.iops, self.iops_rd, self.iops_wr];
        [
            bytes[0],
            bytes[1],
            bytes[2],
            requests[0],
            requests[1],
            requests[2],
        ]
    }

    /// Checks what the command promises, in the order in which clients know the answers.
    fn check(&self) -> Result<()> {
        let refuse = |option: &str, reason: &str| Err(Error::invalid(option, reason));
        let both = |total: u64, apart: [u64; 2]| total != 0 && apart != [0, 0];
        let averages = [
            both(self.bps.average, [self.bps_rd.average, self.bps_wr.average]),
            both(
                self.iops.average,
                [self.iops_rd.average, self.iops_wr.average],
            ),
            both(self.bps.burst, [self.bps_rd.burst, self.bps_wr.burst]),
            both(self.iops.burst, [self.iops_rd.burst, self.iops_wr.burst]),
        ];
        if averages.contains(&true) {
            return refuse(
                "bps",
                "bps/iops/max total values and read/write values cannot be used at the same time",
            );
        }
        let [.., iops, iops_rd, iops_wr] = self.all();
        let counts_requests = [iops, iops_rd, iops_wr].iter().any(|rate| rate.average > 0);
        if self.iops_size > 0 && !counts_requests {
            return refuse("iops_size", "iops size requires an iops value to be set");
        }
        for rate in self.all() {
            if rate.average > HIGHEST || rate.burst > HIGHEST {
                return refuse(
                    "bps",
                    &format!("bps/iops/max values must be within [0, {HIGHEST}]"),
                );
            }
            if rate.burst > 0 && rate.average == 0 {
                return refuse(
                    "bps_max",
                    "bps_max/iops_max require corresponding bps/iops values",
                );
            }
            if rate.burst > 0 && rate.burst < rate.average {
                return refuse("bps_max", "bps_max/iops_max cannot be lower than bps/iops");
            }
        }
        Ok(())
    }
}

impl TryFrom<&BlockSetIoThrottle> for Rates {
    type Error = Error;

    fn try_from(command: &BlockSetIoThrottle) -> Result<Rates> {
        // A negative number is out of range like one that is too high.
        let value = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
        let rate = |average: i64, burst: Option<i64>| Rate {
            average: value(average),
            burst: value(burst.unwrap_or(0)),
        };
        let rates = Rates {
            bps: rate(command.bps, command.bps_max),
            bps_rd: rate(command.bps_rd, command.bps_rd_max),
            bps_wr: rate(command.bps_wr, command.bps_wr_max),
            iops: rate(command.iops, command.iops_max),
            iops_rd: rate(command.iops_rd, command.iops_rd_max),
            iops_wr: rate(command.iops_wr, command.iops_wr_max),
            iops_size: value(command.iops_size.unwrap_or(0)),
        };
        rates.check()?;
        if rates.iops_size > HIGHEST {
            let reason = format!("bps/iops/max values must be within [0, {HIGHEST}]");
            return Err(Error::invalid("iops_size", reason));
        }
        Ok(rates)
    }
}

/// A rate and how much of it is used up.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    rate: Rate,
    level: u128,
}

impl Bucket {
    fn leak(&mut self, elapsed: Duration) {
        let leak = u128::from(self.rate.average).saturating_mul(elapsed.as_nanos());
        self.level = self.level.saturating_sub(leak);
    }

    fn fill(&mut self, amount: u128) {
        if self.rate.average > 0 {
            self.level = self.level.saturating_add(amount);
        }
    }

    /// How long until a request may pass.
    fn wait(&self) -> Duration {
        if self.rate.average == 0 {
            return Duration::ZERO;
        }
        let average = u128::from(self.rate.average);
        let holds = match self.rate.burst {
            0 => average * UNIT / SLACK,
            burst => u128::from(burst) * UNIT,
        };
        let nanoseconds = self.level.saturating_sub(holds).div_ceil(average);
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// The buckets of a device.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    bytes: [Bucket; 3],
    requests: [Bucket; 3],
    iops_size: u64,
    /// When they leaked last.
    leaked: Option<Duration>,
}

impl Buckets {
    /// Empty ones.
    pub(super) fn new(rates: &Rates) -> Buckets {
        let bucket = |rate| Bucket { rate, level: 0 };
        Buckets {
            bytes: [rates.bps, rates.bps_rd, rates.bps_wr].map(bucket),
            requests: [rates.iops, rates.iops_rd, rates.iops_wr].map(bucket),
            iops_size: rates.iops_size,
            leaked: None,
        }
    }

    /// How long from `now` until a request may pass.
    pub(super) fn wait(&mut self, now: Duration, direction: Direction) -> Duration {
        // Another thread may have read its clock before us and come after us.
        let elapsed = self.leaked.map(|before| now.saturating_sub(before));
        self.leaked = self.leaked.max(Some(now));
        let concerned = concerned(direction);
        let mut longest = Duration::ZERO;
        for buckets in [&mut self.bytes, &mut self.requests] {
            for (place, bucket) in buckets.iter_mut().enumerate() {
                bucket.leak(elapsed.unwrap_or_default());
                if concerned.contains(&place) {
                    longest = longest.max(bucket.wait());
                }
            }
        }
        longest
    }

    /// Counts a request of `len` bytes that passes.
    pub(super) fn fill(&mut self, direction: Direction, len: u64) {
        let requests = match self.iops_size {
            size if size > 0 && len > size => u128::from(len) * UNIT / u128::from(size),
            _ => UNIT,
        };
        for place in concerned(direction) {
            self.bytes[place].fill(u128::from(len) * UNIT);
            self.requests[place].fill(requests);
        }
    }
}

/// Which of the three buckets of a kind count a request: the one for both ways, and its own.
fn concerned(direction: Direction) -> [usize; 2] {
    match direction {
        Direction::Read => [0, 1],
        Direction::Write => [0, 2],
    }
}
