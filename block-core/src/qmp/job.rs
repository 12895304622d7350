//! Commands that look at jobs and tell them what to do.
//! Called by [`Commands`](super::Commands). Not here: what a job does (`job/`).

use std::sync::Arc;

use block_schema::commands;
use block_schema::types::{BlockJobChangeOptionsBranch, JobStatus};

use crate::error::{Error, Result};
use crate::job::{Job, Verb, speed_of};
use crate::layer::Layer;

/// The job of an `id`: these commands have a text of their own for one that is not there.
pub(super) fn named(layer: &Layer, id: &str) -> Result<Arc<Job>> {
    layer
        .job(id)
        .map_err(|_| Error::invalid("id", "Job not found"))
}

/// Pauses a job that is not paused.
pub(super) fn pause(layer: &Layer, id: &str) -> Result<()> {
    let job = named(layer, id)?;
    let was_paused = job.info().paused;
    job.pause()?;
    match was_paused {
        true => Err(Error::invalid("id", "Job is already paused")),
        false => Ok(()),
    }
}

/// Lets a job that is paused go on.
pub(super) fn resume(layer: &Layer, id: &str) -> Result<()> {
    let job = named(layer, id)?;
    if !job.info().paused {
        let reason = "Can't resume a job that was not paused";
        return Err(Error::invalid("id", reason));
    }
    job.resume()
}

pub(super) fn change(layer: &Layer, arguments: &commands::BlockJobChange) -> Result<()> {
    let options = &arguments.0;
    let job = layer.job(&options.id)?;
    match &options.r#type {
        BlockJobChangeOptionsBranch::Mirror(mirror) => job.set_copy_mode(mirror.copy_mode),
        BlockJobChangeOptionsBranch::Commit
        | BlockJobChangeOptionsBranch::Stream
        | BlockJobChangeOptionsBranch::Backup => {
            let reason = "Job type does not support change";
            Err(Error::invalid("type", reason))
        }
    }
}

pub(super) fn set_speed(layer: &Layer, arguments: &commands::BlockJobSetSpeed) -> Result<()> {
    let job = layer.job(&arguments.device)?;
    job.check(Verb::SetSpeed)?;
    job.set_speed(speed_of(Some(arguments.speed))?)
}

/// Gives a job up. One whose work is done is over when this is: nothing is left to wait for.
pub(super) async fn cancel(job: &Job, force: bool) -> Result<()> {
    let was_done = matches!(job.status(), JobStatus::Waiting | JobStatus::Pending);
    job.cancel(force)?;
    if was_done {
        job.ended().await;
    }
    Ok(())
}

/// Lets a job and those with it take the last step, and waits for that.
pub(super) async fn finalize(job: &Job) -> Result<()> {
    job.finalize()?;
    job.all_ended().await;
    Ok(())
}
