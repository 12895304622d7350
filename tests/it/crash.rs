//! Power cuts through a qcow2 on the simulator, driven through the whole layer: whatever subset of
//! the writes since the last flush reached the disk, torn or whole, the image opens, has no
//! corruption, and holds what was flushed.

use block_core::driver::Repair;
use block_core::engine::sim::{CrashOptions, CrashState, Sim};

use crate::support::machine::{self, BACKING, CLUSTER, Content, Machine, SECTOR, SIZE, Step};
use crate::support::{self, Random};

/// The disk after some steps, and where in the journal they ended.
struct Moment {
    ended: usize,
    flushed: bool,
    disk: Vec<u8>,
}

/// Does steps and remembers what the disk may be after a cut.
struct History {
    machine: Machine,
    slots: Vec<block_core::BackendSlot>,
    moments: Vec<Moment>,
    seed: u64,
}

impl History {
    fn new(sim: Sim, queues: usize, seed: u64) -> History {
        History::of(Machine::new(sim, queues), seed)
    }

    fn of(machine: Machine, seed: u64) -> History {
        let slots = machine.open();
        let start = Moment {
            ended: machine.sim.journal_len(),
            flushed: true,
            disk: vec![BACKING; support::usize(SIZE)],
        };
        History {
            machine,
            slots,
            moments: vec![start],
            seed,
        }
    }

    /// Does steps at once; those that change bytes change different sectors.
    fn together(&mut self, steps: &[Step]) {
        self.machine.together(&self.slots, steps);
        let mut disk = self.moments[self.moments.len() - 1].disk.clone();
        for step in steps {
            step.apply(&mut disk);
        }
        self.moments.push(Moment {
            ended: self.machine.sim.journal_len(),
            flushed: matches!(steps, [Step::Flush]),
            disk,
        });
    }

    /// Cuts the power everywhere since the start, with `outcomes` at each cut.
    fn cut_everywhere(&self, outcomes: usize, torn: usize) {
        let begin = self.moments[0].ended;
        let seed = self.seed;
        let whole = CrashOptions {
            outcomes_per_cut: outcomes,
            torn: false,
            seed,
        };
        let torn = CrashOptions {
            outcomes_per_cut: torn,
            torn: true,
            seed,
        };
        let sim = &self.machine.sim;
        let mut states = 0;
        for state in sim.crash_states(whole).chain(sim.crash_states(torn)) {
            if state.cut() >= begin {
                self.survives(&state);
                states += 1;
            }
        }
        println!("{states} states");
        assert!(states > self.moments.len(), "cuts were made");
    }

    /// Opens what a cut left: no corruption, and each sector as the last flush left it or as some
    /// later step made it.
    fn survives(&self, state: &CrashState) {
        let machine = Machine::new(state.boot(self.seed), 1).with_content(self.machine.content());
        let slots = machine.open();
        let found = machine.read_all(&slots);
        let last_flush = self
            .moments
            .iter()
            .rposition(|moment| moment.flushed && moment.ended <= state.cut())
            .expect("the image was flushed before the script");
        let since = &self.moments[last_flush..];
        for (sector, bytes) in found.chunks(support::usize(SECTOR)).enumerate() {
            let range = sector * 512..(sector + 1) * 512;
            assert!(
                since.iter().any(|m| m.disk[range.clone()] == *bytes),
                "{state:?}: sector {sector} reads {:02x?}…",
                &bytes[..8]
            );
        }
        let check = |repair| {
            let report = machine.check(repair);
            report.unwrap_or_else(|error| panic!("{state:?}: {}", error.chain()))
        };
        let report = check(Repair::None);
        assert_eq!(report.corruptions, 0, "{state:?}: {:?}", report.messages);
        if report.leaks > 0 {
            let fixed = check(Repair::Leaks);
            let found = (fixed.corruptions, fixed.leaks);
            assert_eq!(found, (0, 0), "{state:?}: {:?}", fixed.messages);
        }
    }
}

/// Does a script, a step at a time, and cuts it everywhere with every subset of whole writes, and
/// a sample of torn ones.
fn check(seed: u64, script: &[Step]) {
    let mut history = History::new(machine::fresh(seed), 1, seed);
    for step in script {
        history.together(&[*step]);
    }
    history.cut_everywhere(usize::MAX, 24);
}

#[test]
fn encrypted_writes_keep_the_order_of_plain_ones() {
    let seed = 4;
    let sim = machine::fresh_with(seed, Content::Encrypted);
    let machine = Machine::new(sim, 1).with_content(Content::Encrypted);
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
        history.together(&[step]);
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
            let steps: Vec<Step> = (0..3)
                .map(|part| Step::random(&mut random, part * third, (part + 1) * third))
                .collect();
            history.together(&steps);
            if random.below(2) == 0 {
                history.together(&[Step::Flush]);
            }
        }
        history.cut_everywhere(12, 6);
    }
}
