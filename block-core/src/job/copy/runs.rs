//! A disk in runs of one status, each asked for once, and in pieces of bounded length.

use std::ops::Range;

use super::STATUS_CHUNK;
use crate::error::Result;
use crate::request::status::ChainStatus;

/// What is known of a disk at one place.
#[derive(Default)]
pub(in crate::job) struct Runs(Option<(Range<u64>, ChainStatus)>);

impl Runs {
    /// The status of the first run of a range, asked for unless the run is known already. What is known
    /// may be older than this call; who needs it as it is now looks again.
    ///
    /// # Errors
    /// What `ask` answers.
    pub(in crate::job) async fn first(
        &mut self,
        range: Range<u64>,
        ask: impl AsyncFnOnce(Range<u64>) -> Result<ChainStatus>,
    ) -> Result<ChainStatus> {
        let (run, status) = match self.0.take() {
            Some((run, status)) if run.contains(&range.start) => (run, status),
            Some(_) | None => {
                let end = range.end.min(range.start.saturating_add(STATUS_CHUNK));
                let status = ask(range.start..end).await?;
                (range.start..range.start + status.len, status)
            }
        };
        let len = run.end.min(range.end) - range.start;
        self.0 = Some((run, status));
        Ok(ChainStatus { len, ..status })
    }
}

/// A run in parts that end at multiples of `chunk`.
pub(in crate::job) fn parts(run: Range<u64>, chunk: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = run.start;
    std::iter::from_fn(move || {
        let start = at;
        at = run.end.min((at / chunk + 1).saturating_mul(chunk));
        (start < at).then_some(start..at)
    })
}
