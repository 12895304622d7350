//! Commands that look at jobs and tell them what to do.
//! Called by [`Commands`](super::Commands). Not here: what a job does (`job/`).

use block_schema::commands;

use crate::error::Result;
use crate::job::speed_of;
use crate::layer::Layer;

pub(super) fn set_speed(layer: &Layer, arguments: &commands::BlockJobSetSpeed) -> Result<()> {
    let job = layer.job(&arguments.device)?;
    job.set_speed(speed_of(Some(arguments.speed))?)
}

pub(super) fn cancel(layer: &Layer, arguments: &commands::BlockJobCancel) -> Result<()> {
    let force = arguments.force.unwrap_or(false);
    layer.job(&arguments.device)?.cancel(force)
}
