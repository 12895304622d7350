//! Power cuts while verbs run: snapshots come, go and are applied, the disk's length changes, leaks
//! are repaired; alone, and while several queues write.

use block_core::driver::Repair;

use super::{Act, History};
use crate::support::machine::{self, CLUSTER, Content, Machine, SECTOR, SIZE, Step, Verb};
use crate::support::{self, Random};

const fn write(at: u64, len: u64, byte: u8) -> Act {
    Act::Step(Step::Write { at, len, byte })
}

const FLUSH: Act = Act::Step(Step::Flush);

/// Does acts one after the other, and cuts them everywhere.
#[track_caller]
fn check(seed: u64, acts: &[Act]) {
    let mut history = History::new(machine::fresh(seed), 1, seed);
    for act in acts {
        history.does(&[*act]);
    }
    history.cut_everywhere(24, 8);
}

#[test]
fn a_snapshot_is_taken_or_is_not() {
    check(
        11,
        &[
            write(0, 3 * CLUSTER, 0x11),
            Act::Verb(Verb::Take("one")),
            write(CLUSTER, 600, 0x22),
            Act::Verb(Verb::Take("two")),
            write(CLUSTER + 512, 512, 0x33),
            FLUSH,
        ],
    );
}

#[test]
fn an_applied_snapshot_is_the_disk_or_is_not() {
    check(
        12,
        &[
            write(0, 2 * CLUSTER, 0x11),
            Act::Verb(Verb::Take("one")),
            write(0, 5 * CLUSTER, 0x22),
            FLUSH,
            Act::Verb(Verb::Apply("one")),
            write(CLUSTER, 512, 0x33),
            FLUSH,
        ],
    );
}

#[test]
fn a_deleted_snapshot_is_gone_or_is_whole() {
    check(
        13,
        &[
            write(0, 2 * CLUSTER, 0x11),
            Act::Verb(Verb::Take("one")),
            write(0, CLUSTER, 0x22),
            Act::Verb(Verb::Take("two")),
            Act::Verb(Verb::Delete("one")),
            write(CLUSTER, CLUSTER, 0x33),
            Act::Verb(Verb::Delete("two")),
            write(2 * CLUSTER, CLUSTER, 0x44),
            FLUSH,
        ],
    );
}

#[test]
fn a_longer_disk_has_zeroes_behind_the_old_end() {
    check(
        14,
        &[
            write(SIZE - CLUSTER, CLUSTER, 0x11),
            // The L1 table has to move: one of its entries maps 512 clusters here.
            Act::Verb(Verb::Resize(520 * CLUSTER)),
            write(515 * CLUSTER, 700, 0x22),
            FLUSH,
        ],
    );
}

#[test]
fn a_shorter_disk_shows_nothing_old_when_it_grows_again() {
    check(
        15,
        &[
            write(SIZE - 4 * CLUSTER, 4 * CLUSTER, 0x11),
            FLUSH,
            Act::Verb(Verb::Resize(SIZE - 3 * CLUSTER - 512)),
            Act::Verb(Verb::Resize(SIZE)),
            write(SIZE - CLUSTER, 512, 0x22),
            FLUSH,
        ],
    );
}

#[test]
fn other_lengths_beside_a_data_file_and_with_late_counts() {
    for content in [Content::DataFile, Content::Lazy] {
        let seed = 17;
        let sim = machine::fresh_with(seed, content);
        let mut history = History::of(Machine::new(sim, 1).with_content(content), seed);
        for act in [
            write(SIZE - 4 * CLUSTER, 4 * CLUSTER, 0x11),
            FLUSH,
            Act::Verb(Verb::Resize(SIZE - 3 * CLUSTER - 512)),
            write(SIZE - 4 * CLUSTER, 512, 0x22),
            Act::Verb(Verb::Resize(520 * CLUSTER)),
            write(515 * CLUSTER, 700, 0x33),
            FLUSH,
        ] {
            history.does(&[act]);
        }
        history.cut_everywhere(24, 8);
    }
}

/// What a cut left is repaired, and the power is cut again meanwhile.
#[test]
fn a_repair_may_be_cut_anywhere() {
    let seed = 16;
    let mut history = History::new(machine::fresh(seed), 1, seed);
    for act in [
        write(0, 3 * CLUSTER, 0x11),
        Act::Verb(Verb::Take("one")),
        write(0, 2 * CLUSTER, 0x22),
        FLUSH,
        Act::Verb(Verb::Delete("one")),
    ] {
        history.does(&[act]);
    }
    let leaking = history.cut_everywhere(24, 8);
    assert!(!leaking.is_empty(), "no cut left anything to repair");
    // Some from all of the history.
    for (state, held) in leaking.iter().step_by(leaking.len().div_ceil(4)) {
        for repair in [Repair::Leaks, Repair::All] {
            let machine = Machine::new(state.boot(seed), 1);
            let mut again = History::from(machine, held.clone(), seed);
            again.does(&[Act::Verb(Verb::Check(repair))]);
            again.does(&[write(7 * CLUSTER, CLUSTER, 0x55)]);
            again.does(&[FLUSH]);
            again.cut_everywhere(24, 8);
        }
    }
}

/// Verbs while three queues write: a snapshot holds what was before it, and of what ran with it each
/// sector whole or not.
#[test]
fn verbs_while_several_queues_write() {
    let seed = support::seed("verbs_while_several_queues_write");
    for round in 0..support::rounds(2) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let mut history = History::new(machine::fresh(seed), 3, seed);
        let verbs = [
            Verb::Take("one"),
            Verb::Take("two"),
            Verb::Delete("one"),
            Verb::Check(Repair::Leaks),
            Verb::Take("three"),
            Verb::Delete("two"),
        ];
        for verb in verbs {
            let third = SIZE / SECTOR / 3;
            let step = |part| Step::random(&mut random, part * third, (part + 1) * third);
            let mut acts: Vec<Act> = (0..3).map(step).map(Act::Step).collect();
            acts.push(Act::Verb(verb));
            history.does(&acts);
            if random.below(3) == 0 {
                history.does(&[FLUSH]);
            }
        }
        history.does(&[Act::Verb(Verb::Apply("three"))]);
        history.cut_everywhere(4, 2);
    }
}
