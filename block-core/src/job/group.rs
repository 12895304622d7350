//! Jobs that end together: when all of them have done their work, or none.
//!
//! A job that began alone is a group of one. Invariant: the last step of a job begins when every
//! job of its group has done its work and, where one of them wants a user's word, that word was
//! given; a job that is given up before takes the others with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use block_schema::events::BlockJobPending;
use block_schema::types::JobStatus;
use parking_lot::Mutex;

use super::{Cancel, Job};

/// Jobs that end together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The newest last.
    members: Mutex<Vec<Weak<Job>>>,
    /// All have done their work, and were told so.
    whole: AtomicBool,
}

impl Group {
    pub(super) fn add(&self, job: &Arc<Job>) {
        self.members.lock().push(Arc::downgrade(job));
    }

    /// The jobs, the newest first.
    pub(super) fn members(&self) -> Vec<Arc<Job>> {
        let members = self.members.lock();
        members.iter().rev().filter_map(Weak::upgrade).collect()
    }

    /// One of them has begun to wait for the others.
    pub(super) fn one_waits(&self) {
        let members = self.members();
        let all = members.iter().all(|job| job.status() == JobStatus::Waiting);
        if !all || self.whole.swap(true, Ordering::Relaxed) {
            return;
        }
        for job in &members {
            job.go_on_to(JobStatus::Pending);
            if job.manual.finalize {
                job.layer.events().emit(BlockJobPending {
                    r#type: job.kind,
                    id: job.id.clone(),
                });
            }
        }
        if !members.iter().any(|job| job.manual.finalize) {
            self.finalize();
        }
    }

    /// Lets all take the last step.
    pub(super) fn finalize(&self) {
        for job in self.members() {
            job.state.lock().finalize = true;
            job.changed.wake_all();
        }
    }

    /// Gives up all but the one that is given up already.
    pub(super) fn give_up(&self, except: &Job) {
        let members = self.members();
        for job in members.iter().filter(|job| !std::ptr::eq(&***job, except)) {
            {
                let mut state = job.state.lock();
                state.cancel = Some(Cancel::Force);
                state.paused = false;
            }
            job.changed.wake_all();
        }
    }
}
