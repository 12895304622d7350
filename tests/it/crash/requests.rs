//! Power cuts while requests run: allocating writes, zeroes, discards, flushes.

use super::{Act, History};
use crate::support::machine::{self, CLUSTER, Content, Machine, SECTOR, SIZE, Step};
use crate::support::{self, Random};

/// Does a script, a step at a time, and cuts it everywhere with every subset of whole writes, and
/// a sample of torn ones.
fn check(seed: u64, script: &[Step]) {
    let mut history = History::new(machine::fresh(seed), 1, seed);
    for step in script {
        history.does(&[Act::Step(*step)]);
    }
    history.cut_everywhere(usize::MAX, 24);
}

#[test]
fn encrypted_writes_keep_the_order_of_plain_ones() {
    check_content(4, Content::Encrypted);
}

#[test]
fn a_data_file_is_durable_before_the_entries_that_name_it() {
    check_content(5, Content::DataFile);
}

#[test]
fn late_counts_are_rebuilt() {
    check_content(6, Content::Lazy);
}

#[test]
fn storage_ahead_of_data_changes_no_order() {
    check_content(7, Content::Direct);
}

/// As [`random_work_from_several_queues`], for what stores the disk in another way.
#[test]
fn random_work_on_other_files_and_late_counts() {
    let seed = support::seed("random_work_on_other_files_and_late_counts");
    let contents = [Content::DataFile, Content::Lazy, Content::Direct];
    for (round, content) in contents.into_iter().enumerate() {
        let seed = seed.wrapping_add(round as u64);
        let mut random = Random::new(seed);
        let sim = machine::fresh_with(seed, content);
        let mut history = History::of(Machine::new(sim, 2).with_content(content), seed);
        for _ in 0..6 {
            let half = SIZE / SECTOR / 2;
            let steps: Vec<Act> = (0..2)
                .map(|part| Step::random(&mut random, part * half, (part + 1) * half))
                .map(Act::Step)
                .collect();
            history.does(&steps);
            if random.below(2) == 0 {
                history.does(&[Act::Step(Step::Flush)]);
            }
        }
        history.cut_everywhere(12, 6);
    }
}

/// Does a script to a disk that is stored so, and cuts it everywhere.
fn check_content(seed: u64, content: Content) {
    let sim = machine::fresh_with(seed, content);
    let machine = Machine::new(sim, 1).with_content(content);
    let mut history = History::of(machine, seed);
    for step in [
        Step::Write {
            at: 1024,
            len: 512,
            byte: 0xaa,
        },
        Step::Flush,
        Step::Write {
            at: 1536,
            len: 512,
            byte: 0xbb,
        },
        Step::Discard {
            at: 0,
            len: CLUSTER,
        },
        Step::Write {
            at: 8 * CLUSTER + 100,
            len: 300,
            byte: 0xcc,
        },
        Step::Flush,
    ] {
        history.does(&[Act::Step(step)]);
    }
    history.cut_everywhere(usize::MAX, 24);
}

#[test]
fn an_allocating_write_with_copy_on_write() {
    check(
        1,
        &[
            Step::Write {
                at: 1024,
                len: 512,
                byte: 0xaa,
            },
            Step::Flush,
        ],
    );
}

#[test]
fn a_write_a_discard_and_a_reused_cluster() {
    check(
        2,
        &[
            Step::Write {
                at: 0,
                len: 2 * CLUSTER,
                byte: 0xaa,
            },
            Step::Flush,
            Step::Discard {
                at: 0,
                len: CLUSTER,
            },
            Step::Flush,
            Step::Write {
                at: 8 * CLUSTER + 100,
                len: 300,
                byte: 0xcc,
            },
            Step::Flush,
        ],
    );
}

#[test]
fn unflushed_steps_may_be_lost_and_nothing_else() {
    check(
        3,
        &[
            Step::Write {
                at: 3 * CLUSTER,
                len: CLUSTER,
                byte: 0x11,
            },
            Step::Flush,
            Step::Write {
                at: 3 * CLUSTER + 512,
                len: 512,
                byte: 0x22,
            },
            Step::Zero {
                at: 3 * CLUSTER,
                len: CLUSTER,
            },
            Step::Write {
                at: 5 * CLUSTER - 512,
                len: 1024,
                byte: 0x33,
            },
            Step::Discard {
                at: 4 * CLUSTER,
                len: CLUSTER,
            },
        ],
    );
}

/// Random steps, several at once from three queues, now and then a flush; a sample of what each
/// cut may leave.
#[test]
fn random_work_from_several_queues() {
    let seed = support::seed("random_work_from_several_queues");
    for round in 0..support::rounds(4) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let mut history = History::new(machine::fresh(seed), 3, seed);
        for _ in 0..4 {
            // Each of three queues has a third of the disk, whose clusters it shares at the edges.
            let third = SIZE / SECTOR / 3;
            let steps: Vec<Act> = (0..3)
                .map(|part| Step::random(&mut random, part * third, (part + 1) * third))
                .map(Act::Step)
                .collect();
            history.does(&steps);
            if random.below(2) == 0 {
                history.does(&[Act::Step(Step::Flush)]);
            }
        }
        history.cut_everywhere(12, 6);
    }
}
