//! Power cuts while jobs run, alone and while several queues write: at every moment the image needs
//! the backing file that it names, or none, and reads as before.

use super::{Act, History};
use crate::support::machine::{self, CLUSTER, Content, Machine, SECTOR, SIZE, Step, Verb};
use crate::support::{self, Random};

const fn write(at: u64, len: u64, byte: u8) -> Act {
    Act::Step(Step::Write { at, len, byte })
}

const FLUSH: Act = Act::Step(Step::Flush);

fn history(seed: u64, queues: usize, content: Content) -> History {
    let sim = machine::fresh_with(seed, content);
    History::of(Machine::new(sim, queues).with_content(content), seed)
}

/// A job between writes, alone.
#[track_caller]
fn check_alone(seed: u64, content: Content, job: Verb) {
    let mut history = history(seed, 1, content);
    for act in [
        write(CLUSTER, 3 * CLUSTER, 0x11),
        write(9 * CLUSTER + 512, 512, 0x22),
        FLUSH,
        Act::Verb(job),
        write(5 * CLUSTER, 600, 0x33),
        FLUSH,
    ] {
        history.does(&[act]);
    }
    history.cut_everywhere(24, 8);
}

#[test]
fn a_streamed_image_needs_its_backing_file_or_has_everything() {
    check_alone(31, Content::Named, Verb::Stream);
}

#[test]
fn a_committed_image_is_in_the_chain_or_below_it() {
    check_alone(32, Content::Chain, Verb::Commit);
}

/// A job while each of three queues writes a part of the disk of its own.
#[track_caller]
fn check_with_load(name: &str, content: Content, job: Verb) {
    let seed = support::seed(name);
    for round in 0..support::rounds(2) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let mut history = history(seed, 3, content);
        let sectors = SIZE / SECTOR;
        for verb in [None, Some(job), None] {
            let mut step = |part| {
                let (from, to) = (part * sectors / 3, (part + 1) * sectors / 3);
                Act::Step(Step::random(&mut random, from, to))
            };
            let mut acts: Vec<Act> = (0..3).map(&mut step).collect();
            acts.extend(verb.map(Act::Verb));
            history.does(&acts);
            history.does(&[FLUSH]);
        }
        history.cut_everywhere(12, 4);
    }
}

#[test]
fn a_stream_while_several_queues_write() {
    check_with_load("crash-stream", Content::Named, Verb::Stream);
}

#[test]
fn a_commit_while_several_queues_write() {
    check_with_load("crash-commit", Content::Chain, Verb::Commit);
}
