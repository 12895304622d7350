//! Power cuts while clusters are filled part by part: their subclusters become data, zeroes, and
//! data again, in place and, where a snapshot shares them, elsewhere.

use super::{Act, History};
use crate::support::machine::{self, Content, Machine, SECTOR, SIZE, Step, Verb};
use crate::support::{self, Random};

const CONTENT: Content = Content::Subclusters;
const FLUSH: Act = Act::Step(Step::Flush);

fn history(seed: u64, queues: usize) -> History {
    let sim = machine::fresh_with(seed, CONTENT);
    History::of(Machine::new(sim, queues).with_content(CONTENT), seed)
}

/// Does acts one after the other, and cuts them everywhere; each cut with so many outcomes of whole
/// writes, and so many of torn ones.
#[track_caller]
fn check(seed: u64, (whole, torn): (usize, usize), acts: &[Act]) {
    let mut history = history(seed, 1);
    for act in acts {
        history.does(&[*act]);
    }
    history.cut_everywhere(whole, torn);
}

const fn write(at: u64, len: u64, byte: u8) -> Act {
    Act::Step(Step::Write { at, len, byte })
}

const fn zero(at: u64, len: u64) -> Act {
    Act::Step(Step::Zero { at, len })
}

#[test]
fn subclusters_are_exposed_when_their_bytes_are_there() {
    let cluster = CONTENT.cluster();
    let discard = Act::Step(Step::Discard {
        at: 0,
        len: cluster,
    });
    check(
        21,
        (usize::MAX, 24),
        &[
            write(1024 + 100, 300, 0xaa),
            FLUSH,
            write(2048, 512, 0xbb),
            zero(1024, 512),
            write(1024 + 200, 100, 0xcc),
            FLUSH,
            write(cluster - 512, 1024, 0xdd),
            discard,
            write(512, 100, 0xee),
            FLUSH,
        ],
    );
}

#[test]
fn shared_subclusters_move_together() {
    check(
        22,
        (12, 8),
        &[
            write(0, 2048, 0x11),
            zero(4096, 512),
            Act::Verb(Verb::Take("one")),
            write(1024, 600, 0x22),
            zero(0, 512),
            FLUSH,
            write(4096 + 10, 100, 0x33),
            Act::Verb(Verb::Apply("one")),
            write(512, 512, 0x44),
            Act::Verb(Verb::Delete("one")),
            write(8192, 512, 0x55),
            FLUSH,
        ],
    );
}

#[test]
fn random_work_from_several_queues() {
    let seed = support::seed("random_work_in_subclusters");
    for round in 0..support::rounds(4) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let mut history = history(seed, 3);
        for _ in 0..4 {
            // Each of three queues has a third of the disk, whose clusters it shares at the edges.
            let third = SIZE / SECTOR / 3;
            let step =
                |part| Step::random_in(&mut random, CONTENT, part * third, (part + 1) * third);
            let steps: Vec<Act> = (0..3).map(step).map(Act::Step).collect();
            history.does(&steps);
            if random.below(2) == 0 {
                history.does(&[FLUSH]);
            }
        }
        history.cut_everywhere(12, 6);
    }
}
