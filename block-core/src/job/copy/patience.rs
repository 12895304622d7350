//! What becomes of a piece of work that fails, by its job's policies.

use block_schema::types::{BlockdevOnError, IoOperationType};

use crate::error::Error;
use crate::job::worker::{Next, Stop, Worker};

/// Which side failed, and why.
#[derive(Debug)]
pub(in crate::job) struct Failed {
    pub(in crate::job) side: IoOperationType,
    pub(in crate::job) error: Error,
}

impl Failed {
    pub(in crate::job) fn source(error: Error) -> Failed {
        let side = IoOperationType::Read;
        Failed { side, error }
    }

    pub(in crate::job) fn target(error: Error) -> Failed {
        let side = IoOperationType::Write;
        Failed { side, error }
    }
}

/// What to do about errors of either side.
#[derive(Clone, Copy, Debug)]
pub(in crate::job) struct Policies {
    pub(in crate::job) source: BlockdevOnError,
    pub(in crate::job) target: BlockdevOnError,
}

impl Policies {
    /// The same for both.
    pub(in crate::job) fn both(policy: BlockdevOnError) -> Policies {
        Policies {
            source: policy,
            target: policy,
        }
    }

    /// Does about a failure what its side's policy says.
    ///
    /// # Errors
    /// `Failed` when the error is to be reported; `Cancelled`.
    pub(in crate::job) async fn judge(self, worker: &Worker, failed: Failed) -> Result<Next, Stop> {
        let policy = match failed.side {
            IoOperationType::Read => self.source,
            IoOperationType::Write => self.target,
        };
        worker.failed(failed.side, policy, failed.error).await
    }
}

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::job) enum Tried {
    Done,
    /// It failed, and its policy was to ignore that.
    LeftOut,
}

/// Tries a piece of work for as long as the policies say so.
///
/// # Errors
/// `Failed` when an error is to be reported; `Cancelled`.
pub(in crate::job) async fn persist(
    worker: &Worker,
    policies: Policies,
    attempt: impl AsyncFn() -> Result<(), Failed>,
) -> Result<Tried, Stop> {
    loop {
        let Err(failed) = attempt().await else {
            return Ok(Tried::Done);
        };
        match policies.judge(worker, failed).await? {
            Next::Again => {}
            Next::Skip => return Ok(Tried::LeftOut),
        }
    }
}
