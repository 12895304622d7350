//! Zeroes and holes: the cheapest way that the file system knows.
//!
//! Called for `write_zeroes` and `discard`. What it cannot do is remembered, so that it is asked
//! once. Invariant: never sets the file's length, which other requests may be growing.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use block_core::driver::{Cx, ZeroFlags};
use block_core::engine::Fallocate;
use block_core::request::align::write_leaf;
use block_core::{Error, IoBuf, Result};
use rustix::io::Errno;

use super::FileDriver;

/// Zero bytes written at a time where nothing better is there.
pub(super) const ZERO_CHUNK: usize = 1 << 20;

/// What the file system has refused so far.
#[derive(Debug, Default)]
pub(super) struct ZeroWays {
    no_punch_hole: AtomicBool,
    no_zero_range: AtomicBool,
    no_allocate: AtomicBool,
}

impl ZeroWays {
    fn refused(&self, mode: Fallocate) -> &AtomicBool {
        match mode {
            Fallocate::PunchHole => &self.no_punch_hole,
            Fallocate::ZeroRange => &self.no_zero_range,
            Fallocate::Allocate => &self.no_allocate,
        }
    }
}

/// Whether a way was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    NoSuchWay,
}

impl FileDriver {
    pub(super) async fn zero(&self, cx: &Cx, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        if flags.may_unmap && self.zero_by_hole(cx, &range).await? == Done::Yes {
            return Ok(());
        }
        if self.change(cx, Fallocate::ZeroRange, range.clone()).await? == Done::Yes {
            return Ok(());
        }
        let holes = self.change(cx, Fallocate::PunchHole, range.clone()).await?;
        if holes == Done::Yes
            && self.change(cx, Fallocate::Allocate, range.clone()).await? == Done::Yes
        {
            return Ok(());
        }
        if flags.no_fallback {
            return Err(Error::Unsupported {
                node: cx.node_name().to_owned(),
                what: "writing zeroes fast".to_owned(),
            });
        }
        self.write_zero_bytes(cx, range).await
    }

    /// Takes space for a range; nothing happens where the file system knows no such way.
    pub(super) async fn store(&self, cx: &Cx, range: Range<u64>) -> Result<()> {
        if !range.is_empty() {
            self.change(cx, Fallocate::Allocate, range).await?;
        }
        Ok(())
    }

    pub(super) async fn punch(&self, cx: &Cx, range: Range<u64>) -> Result<()> {
        let range = range.start..range.end.min(self.leaf.len());
        if range.is_empty() {
            return Ok(());
        }
        // Who discards does not mind when nothing happens.
        self.change(cx, Fallocate::PunchHole, range).await?;
        Ok(())
    }

    /// Punches what is there, and lengthens the file where the range goes further.
    async fn zero_by_hole(&self, cx: &Cx, range: &Range<u64>) -> Result<Done> {
        // Writes that completed are before this length; those under way may end in any order.
        let len = self.leaf.len();
        let there = range.start..range.end.min(len);
        if !there.is_empty()
            && self.change(cx, Fallocate::PunchHole, there).await? == Done::NoSuchWay
        {
            return Ok(Done::NoSuchWay);
        }
        if range.end > len {
            write_leaf(cx, &self.leaf, range.end - 1, IoBuf::zeroed(1)).await?;
        }
        Ok(Done::Yes)
    }

    async fn change(&self, cx: &Cx, mode: Fallocate, range: Range<u64>) -> Result<Done> {
        let refused = self.zero_ways.refused(mode);
        if refused.load(Ordering::Relaxed) {
            return Ok(Done::NoSuchWay);
        }
        let Err(error) = cx.leaf(&self.leaf).fallocate(mode, range).await else {
            return Ok(Done::Yes);
        };
        match error.errno() {
            Errno::OPNOTSUPP => {
                refused.store(true, Ordering::Relaxed);
                Ok(Done::NoSuchWay)
            }
            // Devices want their blocks; another range may have them.
            Errno::INVAL => Ok(Done::NoSuchWay),
            _ => Err(error),
        }
    }

    async fn write_zero_bytes(&self, cx: &Cx, range: Range<u64>) -> Result<()> {
        let longest = usize::try_from(range.end - range.start).unwrap_or(ZERO_CHUNK);
        let zeroes = IoBuf::zeroed(longest.min(ZERO_CHUNK));
        let mut at = range.start;
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(zeroes.len());
            let count = count.min(zeroes.len());
            write_leaf(cx, &self.leaf, at, zeroes.slice(0..count)).await?;
            at += count as u64;
        }
        Ok(())
    }
}
