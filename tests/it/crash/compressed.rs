//! Power cuts while clusters are written compressed, which share sectors and host clusters: through the
//! page cache, and padded to sectors beside it.

use super::{Act, History};
use crate::support::machine::{self, CLUSTER, Content, Machine, SECTOR, SIZE, Step};
use crate::support::{self, Random};

const FLUSH: Act = Act::Step(Step::Flush);

const fn pack(at: u64, len: u64, byte: u8) -> Act {
    Act::Step(Step::Pack { at, len, byte })
}

fn history(seed: u64, content: Content, queues: usize) -> History {
    let sim = machine::fresh_with(seed, content);
    History::of(Machine::new(sim, queues).with_content(content), seed)
}

#[test]
fn packed_clusters_come_and_go_beside_each_other() {
    for content in [Content::Plain, Content::Direct, Content::Lazy] {
        let mut history = history(41, content, 1);
        let discard = Act::Step(Step::Discard {
            at: CLUSTER,
            len: CLUSTER,
        });
        for act in [
            pack(0, 3 * CLUSTER, 0x11),
            FLUSH,
            // Into the sector that the last ones end in.
            pack(4 * CLUSTER, CLUSTER, 0x22),
            pack(CLUSTER, CLUSTER, 0x33),
            FLUSH,
            discard,
            Act::Step(Step::Write {
                at: 2 * CLUSTER + 100,
                len: 300,
                byte: 0x44,
            }),
            FLUSH,
            pack(5 * CLUSTER, 2 * CLUSTER, 0x55),
        ] {
            history.does(&[act]);
        }
        history.cut_everywhere(24, 12);
    }
}

#[test]
fn random_work_from_several_queues() {
    let seed = support::seed("random_packed_work");
    for (round, content) in [Content::Plain, Content::Direct].into_iter().enumerate() {
        let seed = seed.wrapping_add(round as u64);
        let mut random = Random::new(seed);
        let mut history = history(seed, content, 2);
        for _ in 0..6 {
            let half = SIZE / SECTOR / 2;
            let acts: Vec<Act> = (0..2)
                .map(|part| {
                    let step = Step::random(&mut random, part * half, (part + 1) * half);
                    if random.below(2) == 0 {
                        return Act::Step(step);
                    }
                    let clusters = half * SECTOR / CLUSTER;
                    let at = part * clusters + random.below(clusters - 2);
                    let byte = u8::try_from(1 + random.below(200)).expect("a byte");
                    pack(at * CLUSTER, (1 + random.below(2)) * CLUSTER, byte)
                })
                .collect();
            history.does(&acts);
            if random.below(2) == 0 {
                history.does(&[FLUSH]);
            }
        }
        history.cut_everywhere(12, 6);
    }
}
