//! A job's own side: whether to go on, how fast, what to do about an error, and how it ends.
//!
//! Held by the task that does the work, and by the pieces of work that it starts. Invariant: between
//! two calls of [`Worker::checkpoint`] a job starts a bounded amount of work.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use block_schema::events::{BlockJobCancelled, BlockJobCompleted, BlockJobError, BlockJobReady};
use block_schema::types::{
    BlockDeviceIoStatus, BlockErrorAction, BlockdevOnError, IoOperationType, JobStatus,
    MirrorCopyMode,
};
use rustix::io::Errno;

use super::{Cancel, Ending, Job, Progress, State};
use crate::error::{Error, kernel_text};
use crate::graph::info::signed;
use crate::queue::LocalQueue;
use crate::sync::first;

/// Time that a limited job may be ahead before it waits: waits shorter than this are not worth it.
const SLACK: Duration = Duration::from_millis(5);

/// Why a job stops before all is done.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A user gave it up.
    Cancelled,
    /// Something failed, and its policy was to report it.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// What a failed piece of work does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The same again: what was wrong may have been made right.
    Again,
    /// Something else; what failed is left out.
    Skip,
}

/// A job, as its work holds it; clones are for pieces of work.
#[derive(Clone)]
pub(crate) struct Worker {
    job: Arc<Job>,
    queue: LocalQueue,
    /// When the next piece of work may start, if there is a speed to keep.
    due: Rc<Cell<Option<Instant>>>,
    /// The first error that was ignored: something was left out.
    left_out: Rc<RefCell<Option<Error>>>,
}

impl Worker {
    /// The queue that the job runs on.
    pub(crate) fn queue(&self) -> &LocalQueue {
        &self.queue
    }

    /// The job.
    pub(crate) fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Waits while the job is paused.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) async fn checkpoint(&self) -> Result<(), Stop> {
        self.checkpoint_idle(async || {}).await
    }

    /// As [`checkpoint`](Worker::checkpoint), but ends what is under way before it stands still.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) async fn checkpoint_idle(&self, settle: impl AsyncFnOnce()) -> Result<(), Stop> {
        let wants_pause = {
            let state = self.job.state.lock();
            state.paused && !self.is_cancelled(&state)
        };
        if wants_pause {
            settle().await;
            return self.stand_still().await;
        }
        self.check_wanted()
    }

    /// Waits until a user lets the job go on.
    ///
    /// # Errors
    /// `Cancelled`.
    async fn stand_still(&self) -> Result<(), Stop> {
        self.set_still(true);
        self.job
            .changed
            .wait_until(|| {
                let state = self.job.state.lock();
                !state.paused || self.is_cancelled(&state)
            })
            .await;
        self.set_still(false);
        self.check_wanted()
    }

    /// Whether the work is to go on at all.
    ///
    /// # Errors
    /// `Cancelled`.
    fn check_wanted(&self) -> Result<(), Stop> {
        match self.is_cancelled(&self.job.state.lock()) {
            true => Err(Stop::Cancelled),
            false => Ok(()),
        }
    }

    /// Says how the work went, and waits until the last step may be taken: until the jobs that are
    /// to end with this one have done their work, and a user has said so where one of them waits
    /// for that. Asked again, answers at once.
    ///
    /// # Errors
    /// What the work ended by; `Cancelled` when it was given up while it waited.
    pub(crate) async fn settle(&self, work: Result<(), Stop>) -> Result<(), Stop> {
        if let Err(stop) = work {
            self.job.fail(&stop);
            return Err(stop);
        }
        let job = &self.job;
        let decided = |finalized: &mut bool| {
            let state = job.state.lock();
            *finalized = state.finalize;
            state.finalize || state.cancel == Some(Cancel::Force)
        };
        let mut finalized = false;
        if !decided(&mut finalized) {
            job.go_on_to(JobStatus::Waiting);
            job.group.one_waits();
            job.changed.wait_until(|| decided(&mut finalized)).await;
        }
        if finalized {
            return Ok(());
        }
        job.fail(&Stop::Cancelled);
        Err(Stop::Cancelled)
    }

    /// Whether a user is to say when the last step may be taken.
    pub(crate) fn waits_for_user(&self) -> bool {
        self.job.manual.finalize
    }

    /// Whether each write is to be copied before the guest hears of it.
    pub(crate) fn copies_at_once(&self) -> bool {
        self.job.state.lock().copy_mode == Some(MirrorCopyMode::WriteBlocking)
    }

    /// Says whether nothing is left, and each write is copied before the guest hears of it.
    pub(crate) fn set_synced(&self, synced: bool) {
        self.job.state.lock().synced = synced;
    }

    /// Whether to give up at once. A job that is ready hears of a soft cancel by [`asked`](Worker::asked).
    fn is_cancelled(&self, state: &State) -> bool {
        match state.cancel {
            Some(Cancel::Force) => true,
            Some(Cancel::Soft) => !is_ready(state.status),
            None => false,
        }
    }

    fn set_still(&self, still: bool) {
        let (before, next) = {
            let mut state = self.job.state.lock();
            state.still = still;
            let next = match (state.status, still) {
                (JobStatus::Running, true) => JobStatus::Paused,
                (JobStatus::Paused, false) => JobStatus::Running,
                (JobStatus::Ready, true) => JobStatus::Standby,
                (JobStatus::Standby, false) => JobStatus::Ready,
                (status, _) => status,
            };
            (state.status, next)
        };
        if next != before {
            self.job.go_on_to(next);
        }
        self.job.changed.wake_all();
    }

    /// Waits until the next `bytes` of work keep to the job's speed.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(crate) async fn pace(&self, bytes: u64) -> Result<(), Stop> {
        loop {
            let speed = self.job.state.lock().speed;
            if speed == 0 {
                self.due.set(None);
                return Ok(());
            }
            let now = Instant::now();
            let due = self.due.get().map_or(now, |due| due.max(now));
            let ahead = due.duration_since(now);
            if ahead <= SLACK {
                let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(speed);
                let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.due.set(due.checked_add(cost));
                return Ok(());
            }
            let changed = self.job.changed.wait_until(|| {
                let state = self.job.state.lock();
                state.speed != speed || state.paused || self.is_cancelled(&state)
            });
            let slept = first(self.queue.sleep(ahead), changed).await;
            if slept.is_none() {
                // Another speed counts from now on.
                self.due.set(None);
                self.checkpoint().await?;
            }
        }
    }

    /// Counts work as done.
    pub(crate) fn advance(&self, bytes: u64) {
        self.job.state.lock().progress.done += bytes;
        self.job.changed.wake_all();
    }

    /// Says how much there is to do altogether.
    pub(crate) fn set_progress(&self, progress: Progress) {
        self.job.state.lock().progress = progress;
        self.job.changed.wake_all();
    }

    /// Says how much there is to do besides what is done.
    pub(crate) fn set_left(&self, bytes: u64) {
        {
            let progress = &mut self.job.state.lock().progress;
            progress.total = progress.done + bytes;
        }
        self.job.changed.wake_all();
    }

    /// Says that a piece of work failed, and does about it what the policy says: for a stop, waits
    /// until the job is resumed.
    ///
    /// # Errors
    /// `Failed` when the error is to be reported; `Cancelled`.
    pub(crate) async fn failed(
        &self,
        operation: IoOperationType,
        policy: BlockdevOnError,
        error: Error,
    ) -> Result<Next, Stop> {
        let no_space = error.errno() == Errno::NOSPC;
        let action = match policy {
            BlockdevOnError::Report => BlockErrorAction::Report,
            BlockdevOnError::Ignore => BlockErrorAction::Ignore,
            BlockdevOnError::Stop => BlockErrorAction::Stop,
            BlockdevOnError::Enospc if no_space => BlockErrorAction::Stop,
            BlockdevOnError::Enospc => BlockErrorAction::Report,
        };
        if action == BlockErrorAction::Stop {
            let mut state = self.job.state.lock();
            state.paused = true;
            // The first of several errors is the one to show.
            if state.io_status == BlockDeviceIoStatus::Ok {
                state.io_status = match no_space {
                    true => BlockDeviceIoStatus::Nospace,
                    false => BlockDeviceIoStatus::Failed,
                };
            }
        }
        let device = self.job.id.clone();
        self.job.layer.events().emit(BlockJobError {
            device,
            operation,
            action,
        });
        self.job.changed.wake_all();
        match action {
            BlockErrorAction::Report => Err(Stop::Failed(error)),
            BlockErrorAction::Ignore => {
                self.left_out.borrow_mut().get_or_insert(error);
                Ok(Next::Skip)
            }
            BlockErrorAction::Stop => {
                self.stand_still().await?;
                Ok(Next::Again)
            }
        }
    }

    /// Whether nothing was left out, for those whose end needs all of it.
    ///
    /// # Errors
    /// The first error that was ignored.
    pub(crate) fn check_whole(&self) -> Result<(), Stop> {
        match self.left_out.borrow_mut().take() {
            Some(error) => Err(Stop::Failed(error)),
            None => Ok(()),
        }
    }

    /// Says that both sides are equal: the job can be completed.
    pub(crate) fn set_ready(&self) {
        if is_ready(self.job.status()) {
            return;
        }
        self.job.go_on_to(JobStatus::Ready);
        let (len, offset, speed) = self.job.figures();
        self.job.layer.events().emit(BlockJobReady {
            r#type: self.job.kind,
            device: self.job.id.clone(),
            len,
            offset,
            speed,
        });
    }

    /// What a job that is ready was asked to do.
    pub(crate) fn asked(&self) -> Asked {
        let state = self.job.state.lock();
        match (state.complete, state.cancel) {
            (_, Some(Cancel::Force)) => Asked::Nothing,
            (_, Some(Cancel::Soft)) => Asked::Leave,
            (true, None) => Asked::Complete,
            (false, None) => Asked::Nothing,
        }
    }

    /// Waits until `wake` ends, or a user asks something of the job.
    pub(crate) async fn idle(&self, wake: impl Future<Output = ()>) {
        let asked = self.job.changed.wait_until(|| {
            let state = self.job.state.lock();
            state.complete || state.cancel.is_some() || state.paused
        });
        // Its users see that it does nothing.
        self.job.state.lock().still = true;
        first(wake, asked).await;
        self.job.state.lock().still = false;
    }
}

/// What a job that is ready is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Go on.
    Nothing,
    /// End as soon as both sides are equal, and let the device be where it is.
    Leave,
    /// End as soon as both sides are equal, and lead the device to the target.
    Complete,
}

fn is_ready(status: JobStatus) -> bool {
    matches!(status, JobStatus::Ready | JobStatus::Standby)
}

impl Job {
    /// Counts work that was not known of before, and work that is done.
    pub(crate) fn count_both(&self, more: u64, done: u64) {
        {
            let progress = &mut self.state.lock().progress;
            progress.total += more;
            progress.done += done;
        }
        self.changed.wake_all();
    }

    /// Length, offset and speed, as events show them.
    fn figures(&self) -> (i64, i64, i64) {
        let state = self.state.lock();
        (
            signed(state.progress.total),
            signed(state.progress.done),
            signed(state.speed),
        )
    }

    /// Starts the job's work on a queue. What the work holds is gone before the job ends.
    pub(crate) fn start<F>(self: &Arc<Self>, queue: &LocalQueue, work: impl FnOnce(Worker) -> F)
    where
        F: Future<Output = Result<(), Stop>> + 'static,
    {
        self.go_on_to(JobStatus::Running);
        let worker = Worker {
            job: Arc::clone(self),
            queue: queue.clone(),
            due: Rc::default(),
            left_out: Rc::default(),
        };
        let work = work(worker);
        let job = Arc::clone(self);
        queue.spawn(async move {
            let result = work.await;
            job.end(result);
        });
    }

    /// Takes a job back that has its name and its users, and is not to start.
    pub(crate) fn abandon(&self) {
        self.fail(&Stop::Cancelled);
        self.go_on_to(JobStatus::Concluded);
        self.forget();
    }

    /// Gives up its work, and that of those that are to end with it.
    fn fail(&self, stop: &Stop) {
        {
            let mut state = self.state.lock();
            if state.error.is_some() {
                return;
            }
            state.error = Some(match stop {
                Stop::Cancelled => kernel_text(&Errno::CANCELED.into()),
                Stop::Failed(error) => error.chain(),
            });
        }
        self.go_on_to(JobStatus::Aborting);
        self.group.give_up(self);
    }

    fn end(&self, result: Result<(), Stop>) {
        if let Err(stop) = &result {
            self.fail(stop);
        }
        let ending = match result {
            Ok(()) => Ending::Completed,
            Err(Stop::Cancelled) => Ending::Cancelled,
            Err(Stop::Failed(error)) => Ending::Failed(error.chain()),
        };
        if !self.manual.dismiss {
            self.take_off();
        }
        let (len, offset, speed) = self.figures();
        let (kind, device) = (self.kind, self.id.clone());
        let events = self.layer.events();
        let error = match &ending {
            Ending::Failed(error) => Some(error.clone()),
            Ending::Completed | Ending::Cancelled => None,
        };
        if ending == Ending::Cancelled {
            events.emit(BlockJobCancelled {
                r#type: kind,
                device,
                len,
                offset,
                speed,
            });
        } else {
            events.emit(BlockJobCompleted {
                r#type: kind,
                device,
                len,
                offset,
                speed,
                error,
            });
        }
        self.go_on_to(JobStatus::Concluded);
        self.state.lock().ending = Some(ending);
        if !self.manual.dismiss {
            self.go_on_to(JobStatus::Null);
        }
        self.changed.wake_all();
    }
}
