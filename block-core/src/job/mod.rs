//! Jobs: work on nodes that goes on while guests use them: streams, commits, mirrors, backups.
//!
//! A [`Job`] is what users hold: its state, its verbs, its progress. The work itself is a task of
//! the queue that started it; it holds a [`Worker`](worker::Worker), asks it between two pieces of
//! work whether to go on, and tells it what failed. Which verbs a state takes is in `table`.
//!
//! A job's requests are requests like others: announced, drained, counted. So no verb has to
//! stop a job before it drains a node; a job that waits for a gate just waits. Verbs that would
//! change what a job works on are kept away by `graph/blocker.rs`. When its work is done a job waits
//! for those that are to end with it, and for a user where it was told so (`group`). Invariant: a
//! job that is over has taken its backends, watchers and blocks away before anybody hears of its
//! end.

use std::sync::Arc;

use block_schema::events::JobStatusChange;
use block_schema::types::{
    BlockDeviceIoStatus, BlockJobInfo, BlockJobType, BlockdevOnError, JobInfo, JobStatus,
    MirrorCopyMode,
};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::graph::info::signed;
use crate::layer::Layer;
use crate::sync::WaitList;

mod backup;
mod chain;
mod commit;
mod copy;
mod group;
mod mirror;
mod stream;
mod table;
mod target;
mod worker;

pub(crate) use backup::Backups;
pub(crate) use group::Group;
pub use table::Verb;

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was done.
    Completed,
    /// A user gave it up.
    Cancelled,
    /// The error's whole text.
    Failed(String),
}

/// How far a job is, in bytes of work; `total` can grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// To do altogether, as far as is known.
    pub total: u64,
}

/// A user gave a job up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cancel {
    /// A job whose sides are equal keeps the target as it is.
    Soft,
    /// At once.
    Force,
}

/// What happens at a job's end only when a user says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manual {
    /// The last step.
    pub(crate) finalize: bool,
    /// That it is forgotten.
    pub(crate) dismiss: bool,
}

impl Manual {
    /// As the schema has it.
    pub(crate) fn of(auto_finalize: Option<bool>, auto_dismiss: Option<bool>) -> Manual {
        Manual {
            finalize: auto_finalize == Some(false),
            dismiss: auto_dismiss == Some(false),
        }
    }
}

#[derive(Debug)]
struct State {
    status: JobStatus,
    /// A user or an error wants it to stand still.
    paused: bool,
    /// Its worker does, or has nothing to do.
    still: bool,
    cancel: Option<Cancel>,
    complete: bool,
    /// The last step may be taken; nothing takes that back.
    finalize: bool,
    /// Of a mirror: when written data is copied.
    copy_mode: Option<MirrorCopyMode>,
    /// Of a mirror: nothing is left to copy, and each write is copied before the guest hears of it.
    synced: bool,
    /// Bytes a second; 0 is no limit.
    speed: u64,
    progress: Progress,
    io_status: BlockDeviceIoStatus,
    /// What stops it.
    error: Option<String>,
    ending: Option<Ending>,
}

/// A job, as its users hold it; clones of the `Arc` are the same job.
pub struct Job {
    id: String,
    kind: BlockJobType,
    manual: Manual,
    group: Arc<Group>,
    layer: Layer,
    state: Mutex<State>,
    /// Woken when anything of the state changes.
    changed: WaitList,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Job({} {:?})", self.kind, self.id)
    }
}

impl Job {
    /// Its name: the device's, unless it was given one.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it does.
    pub fn kind(&self) -> BlockJobType {
        self.kind
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.state.lock().progress
    }

    /// Where it is in its life.
    pub fn status(&self) -> JobStatus {
        self.state.lock().status
    }

    /// What `query-block-jobs` shows.
    pub fn info(&self) -> BlockJobInfo {
        let state = self.state.lock();
        BlockJobInfo {
            r#type: self.kind.as_str().to_owned(),
            device: self.id.clone(),
            len: signed(state.progress.total),
            offset: signed(state.progress.done),
            busy: !state.still && table::works(state.status),
            paused: state.paused,
            speed: signed(state.speed),
            io_status: state.io_status,
            ready: Some(matches!(
                state.status,
                JobStatus::Ready | JobStatus::Standby
            )),
            status: Some(state.status),
            auto_finalize: Some(!self.manual.finalize),
            auto_dismiss: Some(!self.manual.dismiss),
            error: state.error.clone(),
            actively_synced: state.copy_mode.map(|_| state.synced),
        }
    }

    /// What `query-jobs` shows.
    pub fn summary(&self) -> JobInfo {
        let state = self.state.lock();
        JobInfo {
            id: self.id.clone(),
            r#type: self.kind,
            status: state.status,
            current_progress: signed(state.progress.done),
            total_progress: signed(state.progress.total),
            error: state.error.clone(),
        }
    }

    /// Lets the job stand still, as soon as its requests have ended. Pausing twice is pausing once.
    ///
    /// # Errors
    /// `InvalidOption` in a state that has nothing to pause.
    pub fn pause(&self) -> Result<()> {
        self.change(Verb::Pause, |state| {
            state.paused = true;
            Ok(())
        })
    }

    /// Lets the job go on, and forgets its error. One that is running already does.
    ///
    /// # Errors
    /// `InvalidOption` in a state that has nothing to resume.
    pub fn resume(&self) -> Result<()> {
        self.change(Verb::Resume, |state| {
            state.paused = false;
            state.io_status = BlockDeviceIoStatus::Ok;
            Ok(())
        })
    }

    /// Gives the job up; it ends soon. A job that is ready leaves a consistent copy, unless forced.
    /// One that takes its last step ends by that.
    ///
    /// # Errors
    /// `InvalidOption` when the job is paused and `force` is not given, or is over.
    pub fn cancel(&self, force: bool) -> Result<()> {
        self.change(Verb::Cancel, |state| {
            if state.paused && !force {
                return Err(Error::invalid(
                    "device",
                    format!("The block job for device '{}' is currently paused", self.id),
                ));
            }
            let done = matches!(state.status, JobStatus::Waiting | JobStatus::Pending);
            let how = match force || done {
                true => Cancel::Force,
                false => Cancel::Soft,
            };
            state.cancel = state.cancel.max(Some(how));
            state.paused = false;
            Ok(())
        })
    }

    /// Lets a job whose sides are equal finish: a mirror leads its device to the target. One that is
    /// paused does so when it goes on.
    ///
    /// # Errors
    /// `InvalidOption` when the job is not ready, or was cancelled.
    pub fn complete(&self) -> Result<()> {
        self.change(Verb::Complete, |state| {
            if state.cancel.is_some() {
                return Err(Error::invalid(
                    "device",
                    format!("The active block job '{}' cannot be completed", self.id),
                ));
            }
            state.complete = true;
            Ok(())
        })
    }

    /// Limits the job to so many bytes a second; 0 is no limit.
    ///
    /// # Errors
    /// `InvalidOption` when the job is over.
    pub fn set_speed(&self, speed: u64) -> Result<()> {
        self.change(Verb::SetSpeed, |state| {
            state.speed = speed;
            Ok(())
        })
    }

    /// Lets a job whose work is done, and those that are to end with it, take the last step.
    ///
    /// # Errors
    /// `InvalidOption` when the job is not pending.
    pub fn finalize(&self) -> Result<()> {
        self.change(Verb::Finalize, |_| Ok(()))?;
        self.group.finalize();
        Ok(())
    }

    /// Forgets a job that is over: its name is free again.
    ///
    /// # Errors
    /// `InvalidOption` when the job is not concluded.
    pub fn dismiss(&self) -> Result<()> {
        self.change(Verb::Dismiss, |_| Ok(()))?;
        self.take_off();
        self.go_on_to(JobStatus::Null);
        Ok(())
    }

    /// Lets a mirror copy each write before the guest hears of it, from now on.
    ///
    /// # Errors
    /// `InvalidOption` when the job is over, or cannot be changed so.
    pub fn set_copy_mode(&self, mode: MirrorCopyMode) -> Result<()> {
        self.change(Verb::Change, |state| match state.copy_mode {
            None => Err(Error::invalid("id", "Job type does not support change")),
            Some(now) if now == mode => Ok(()),
            Some(_) if mode != MirrorCopyMode::WriteBlocking => {
                let reason = format!("Change to copy mode '{mode}' is not implemented");
                Err(Error::invalid("copy-mode", reason))
            }
            Some(_) => {
                state.copy_mode = Some(mode);
                Ok(())
            }
        })
    }

    /// Says that it is a mirror.
    fn set_mirror(&self, mode: MirrorCopyMode) {
        self.state.lock().copy_mode = Some(mode);
    }

    /// Waits for the job's end. It may still be there to be dismissed.
    ///
    /// # Cancel safety
    /// Dropping the future does not touch the job.
    pub async fn ended(&self) -> Ending {
        let mut ending = None;
        let has_ended = || {
            ending.clone_from(&self.state.lock().ending);
            ending.is_some()
        };
        self.changed.wait_until(has_ended).await;
        ending.unwrap_or(Ending::Cancelled)
    }

    /// Waits for its end, and that of the jobs that end with it.
    pub(crate) async fn all_ended(&self) {
        self.ended().await;
        for job in self.group.members() {
            job.ended().await;
        }
    }

    /// Waits until what [`info`](Job::info) shows differs from what was seen, or the job is over;
    /// for who follows a job.
    ///
    /// # Cancel safety
    /// Dropping the future does not touch the job.
    pub async fn changed_since(&self, seen: &BlockJobInfo) {
        let has_changed = || self.state.lock().ending.is_some() || self.info() != *seen;
        self.changed.wait_until(has_changed).await;
    }

    /// Checks that the job takes a verb in its state.
    ///
    /// # Errors
    /// `InvalidOption`, naming both.
    pub(crate) fn check(&self, verb: Verb) -> Result<()> {
        self.check_in(self.status(), verb)
    }

    fn check_in(&self, status: JobStatus, verb: Verb) -> Result<()> {
        match table::takes(status, verb) {
            true => Ok(()),
            false => Err(Error::invalid(
                "device",
                format!(
                    "Job '{}' in state '{status}' cannot accept command verb '{}'",
                    self.id,
                    verb.as_str()
                ),
            )),
        }
    }

    fn change(&self, verb: Verb, change: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        {
            let mut state = self.state.lock();
            self.check_in(state.status, verb)?;
            change(&mut state)?;
        }
        self.changed.wake_all();
        Ok(())
    }

    /// Changes what is known of the job's progress.
    fn count(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.state.lock().progress);
        self.changed.wake_all();
    }

    /// Goes on in its life, and says so.
    fn go_on_to(&self, next: JobStatus) {
        {
            let mut state = self.state.lock();
            debug_assert!(
                table::follows(next, state.status),
                "{self:?}: {} after {}",
                next,
                state.status
            );
            if std::mem::replace(&mut state.status, next) == next {
                return;
            }
        }
        // Who hears of it may ask the job.
        self.layer.events().emit(JobStatusChange {
            id: self.id.clone(),
            status: next,
        });
        self.changed.wake_all();
    }

    /// Is not in the list of jobs any more.
    fn take_off(&self) {
        let mut jobs = self.layer.job_list().lock();
        jobs.retain(|job| !std::ptr::eq(&**job, self));
    }

    /// Takes a job back that could not start.
    pub(crate) fn forget(&self) {
        self.take_off();
        self.go_on_to(JobStatus::Null);
    }
}

/// What every job is started with.
#[derive(Clone, Debug)]
pub(crate) struct NewJob {
    pub(crate) id: String,
    pub(crate) kind: BlockJobType,
    pub(crate) speed: u64,
    pub(crate) manual: Manual,
    /// What it ends with, if that is not it alone.
    pub(crate) group: Option<Arc<Group>>,
}

impl Layer {
    /// The jobs that are not over, or not dismissed, the newest first.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.job_list().lock().iter().rev().cloned().collect()
    }

    /// The job of a name.
    ///
    /// # Errors
    /// `JobNotFound`.
    pub fn job(&self, id: &str) -> Result<Arc<Job>> {
        let jobs = self.job_list().lock();
        let found = jobs.iter().find(|job| job.id == id);
        found
            .cloned()
            .ok_or_else(|| Error::JobNotFound { job: id.to_owned() })
    }

    /// Enters a job, which does not work yet.
    ///
    /// # Errors
    /// `InvalidOption` when its name is taken, or is no name.
    fn new_job(&self, new: NewJob) -> Result<Arc<Job>> {
        let NewJob {
            id,
            kind,
            speed,
            manual,
            group,
        } = new;
        if !is_name(&id) {
            let reason = format!("Invalid job ID '{id}'");
            return Err(Error::invalid("job-id", reason));
        }
        let mut jobs = self.job_list().lock();
        if jobs.iter().any(|job| job.id == id) {
            let reason = format!("Job ID '{id}' already in use");
            return Err(Error::invalid("job-id", reason));
        }
        let state = State {
            status: JobStatus::Undefined,
            paused: false,
            still: false,
            cancel: None,
            complete: false,
            finalize: false,
            copy_mode: None,
            synced: false,
            speed,
            progress: Progress::default(),
            io_status: BlockDeviceIoStatus::Ok,
            error: None,
            ending: None,
        };
        let job = Arc::new(Job {
            id,
            kind,
            manual,
            group: group.unwrap_or_default(),
            layer: self.clone(),
            state: Mutex::new(state),
            changed: WaitList::new(),
        });
        jobs.push(Arc::clone(&job));
        drop(jobs);
        job.group.add(&job);
        job.go_on_to(JobStatus::Created);
        Ok(job)
    }

    /// Gives up all jobs, and waits for their ends.
    pub(crate) async fn end_jobs(&self) {
        for job in self.jobs() {
            // One that is over cannot be cancelled, and is not waited for by anybody.
            job.cancel(true).ok();
            job.ended().await;
            job.dismiss().ok();
        }
    }
}

/// Whether a job can be called so.
fn is_name(id: &str) -> bool {
    let mut letters = id.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// Refuses a name for a filter: no job puts a node into the graph to watch another.
///
/// # Errors
/// `InvalidOption` for any name.
pub(crate) fn refuse_filter(name: Option<&str>) -> Result<()> {
    match name {
        None => Ok(()),
        Some(_) => Err(Error::invalid(
            "filter-node-name",
            "Parameter 'filter-node-name' is not built in: jobs have no filter node",
        )),
    }
}

/// A job's `speed` as the schema has it.
///
/// # Errors
/// `InvalidOption` for a negative one.
pub(crate) fn speed_of(speed: Option<i64>) -> Result<u64> {
    u64::try_from(speed.unwrap_or(0))
        .map_err(|_| Error::invalid("speed", "Parameter 'speed' expects a non-negative value"))
}

/// What to do about errors on a device's own image. To stop there, the device has to show that it
/// has stopped, as one whose own errors may stop it does. A node without a device has no such rule.
///
/// # Errors
/// `InvalidOption` for `stop` and `enospc` on another device.
pub(crate) fn on_device_error(
    layer: &Layer,
    device: &str,
    member: &str,
    policy: Option<BlockdevOnError>,
) -> Result<BlockdevOnError> {
    let policy = or_report(policy);
    let stops = matches!(policy, BlockdevOnError::Stop | BlockdevOnError::Enospc);
    let backend = layer.backend(device);
    if stops && backend.is_some_and(|backend| backend.io_status().is_none()) {
        let reason = format!("Invalid parameter '{member}'");
        return Err(Error::invalid(member, reason));
    }
    Ok(policy)
}

/// What to do about errors, where nothing was said.
pub(crate) fn or_report(policy: Option<BlockdevOnError>) -> BlockdevOnError {
    policy.unwrap_or(BlockdevOnError::Report)
}
