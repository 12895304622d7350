//! The life of a job: which verbs it takes in which state, and which state follows which.
//!
//! Pure; everything else asks here. A job that copies until it is told to stop is *ready* when
//! both sides are equal; *standby* is a pause there.

use block_schema::types::JobStatus;

/// What a user asks of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Give up.
    Cancel,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Keep to another speed.
    SetSpeed,
    /// Finish, where both sides are equal.
    Complete,
}

impl Verb {
    /// The verb as clients know it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::SetSpeed => "set-speed",
            Verb::Complete => "complete",
        }
    }
}

/// Whether a job in a state takes a verb.
pub(super) fn takes(status: JobStatus, verb: Verb) -> bool {
    use JobStatus as S;
    match verb {
        Verb::Cancel => matches!(
            status,
            S::Created | S::Running | S::Paused | S::Ready | S::Standby | S::Waiting | S::Pending
        ),
        Verb::Pause | Verb::Resume | Verb::SetSpeed => matches!(
            status,
            S::Created | S::Running | S::Paused | S::Ready | S::Standby
        ),
        Verb::Complete => status == S::Ready,
    }
}

/// Whether a state may follow another one.
pub(super) fn follows(next: JobStatus, status: JobStatus) -> bool {
    use JobStatus as S;
    match status {
        S::Undefined => next == S::Created,
        S::Created => matches!(next, S::Running | S::Aborting | S::Null),
        S::Running => matches!(next, S::Paused | S::Ready | S::Waiting | S::Aborting),
        S::Paused => next == S::Running,
        S::Ready => matches!(next, S::Standby | S::Waiting | S::Aborting),
        S::Standby => next == S::Ready,
        S::Waiting => matches!(next, S::Pending | S::Aborting),
        S::Pending => matches!(next, S::Aborting | S::Concluded),
        S::Aborting => matches!(next, S::Aborting | S::Concluded),
        S::Concluded => next == S::Null,
        S::Null => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_ready_job_completes() {
        let takers: Vec<JobStatus> = JobStatus::VARIANTS
            .iter()
            .copied()
            .filter(|&status| takes(status, Verb::Complete))
            .collect();
        assert_eq!(takers, [JobStatus::Ready]);
    }

    #[test]
    fn what_is_over_takes_no_verb() {
        let verbs = [
            Verb::Cancel,
            Verb::Pause,
            Verb::Resume,
            Verb::SetSpeed,
            Verb::Complete,
        ];
        for status in [JobStatus::Aborting, JobStatus::Concluded, JobStatus::Null] {
            assert!(verbs.iter().all(|&verb| !takes(status, verb)), "{status}");
        }
    }

    #[test]
    fn every_state_but_the_last_leads_on() {
        for &status in JobStatus::VARIANTS {
            let next = JobStatus::VARIANTS.iter().filter(|&&n| follows(n, status));
            assert_eq!(next.count() == 0, status == JobStatus::Null, "{status}");
        }
    }
}
