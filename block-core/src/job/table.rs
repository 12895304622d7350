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
    /// Work another way.
    Change,
    /// Take the last step.
    Finalize,
    /// Be forgotten.
    Dismiss,
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
            Verb::Change => "change",
            Verb::Finalize => "finalize",
            Verb::Dismiss => "dismiss",
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
        Verb::Pause | Verb::Resume | Verb::SetSpeed | Verb::Change => matches!(
            status,
            S::Created | S::Running | S::Paused | S::Ready | S::Standby
        ),
        Verb::Complete => matches!(status, S::Ready | S::Standby),
        Verb::Finalize => status == S::Pending,
        Verb::Dismiss => status == S::Concluded,
    }
}

/// Whether a job in a state has a part of its work before it.
pub(super) fn works(status: JobStatus) -> bool {
    use JobStatus as S;
    matches!(status, S::Running | S::Paused | S::Ready | S::Standby)
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

    const VERBS: [Verb; 8] = [
        Verb::Cancel,
        Verb::Pause,
        Verb::Resume,
        Verb::SetSpeed,
        Verb::Complete,
        Verb::Change,
        Verb::Finalize,
        Verb::Dismiss,
    ];

    #[track_caller]
    fn check(verb: Verb, takers: &[JobStatus]) {
        let all = JobStatus::VARIANTS.iter().copied();
        let taking: Vec<JobStatus> = all.filter(|&status| takes(status, verb)).collect();
        assert_eq!(taking, takers, "{verb:?}");
    }

    #[test]
    fn only_a_ready_job_completes_also_while_it_is_paused() {
        check(Verb::Complete, &[JobStatus::Ready, JobStatus::Standby]);
    }

    #[test]
    fn a_job_is_finalized_while_it_pends_and_dismissed_when_it_is_concluded() {
        check(Verb::Finalize, &[JobStatus::Pending]);
        check(Verb::Dismiss, &[JobStatus::Concluded]);
    }

    #[test]
    fn a_job_at_work_can_be_changed() {
        use JobStatus as S;
        let at_work = [S::Created, S::Running, S::Paused, S::Ready, S::Standby];
        for verb in [Verb::Pause, Verb::Resume, Verb::SetSpeed, Verb::Change] {
            check(verb, &at_work);
        }
        let cancelled = [&at_work[..], &[S::Waiting, S::Pending]].concat();
        check(Verb::Cancel, &cancelled);
    }

    #[test]
    fn what_is_over_takes_no_verb_but_to_be_dismissed() {
        for status in [JobStatus::Aborting, JobStatus::Concluded, JobStatus::Null] {
            let taken = VERBS.iter().filter(|&&verb| takes(status, verb));
            assert!(taken.clone().all(|&verb| verb == Verb::Dismiss), "{status}");
            assert_eq!(taken.count() == 1, status == JobStatus::Concluded);
        }
    }

    #[test]
    fn every_verb_has_a_name_of_its_own() {
        for (place, verb) in VERBS.iter().enumerate() {
            let others = VERBS[..place].iter();
            assert!(others.clone().all(|o| o.as_str() != verb.as_str()));
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
