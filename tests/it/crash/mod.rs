//! Power cuts through a qcow2 on the simulator, driven through the whole layer: whatever subset of
//! the writes since the last flush reached the disk, torn or whole, the image opens, has no
//! corruption, and holds what was flushed; its snapshots are those of one moment, and hold what the
//! disk held then.

mod bitmaps;
mod compressed;
mod jobs;
mod moves;
mod requests;
mod subclusters;
mod verbs;

use std::collections::BTreeMap;
use std::process::Command;

use block_core::driver::Repair;
use block_core::engine::SimFile;
use block_core::engine::sim::{CrashOptions, CrashState, Sim};

use crate::support::machine::{BACKING, Content, Machine, SECTOR, SIZE, Step, Verb};
use crate::support::{self, Scratch};

/// States of a history that `qemu-img` looks at, too.
const SHOWN_TO_QEMU: usize = 6;

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
enum Act {
    Step(Step),
    Verb(Verb),
}

/// What a snapshot holds: what the disk was before, and after, the steps that ran with it. Each
/// sector is one or the other.
#[derive(Clone)]
struct Held(Vec<u8>, Vec<u8>);

/// The disk after some acts, and where in the journal they ended.
#[derive(Clone)]
struct Moment {
    ended: usize,
    flushed: bool,
    disk: Vec<u8>,
    snapshots: BTreeMap<&'static str, Held>,
}

/// Does acts and remembers what the disk may be after a cut.
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
        let fresh = Moment {
            ended: 0,
            flushed: true,
            disk: vec![BACKING; support::usize(SIZE)],
            snapshots: BTreeMap::new(),
        };
        History::from(machine, fresh, seed)
    }

    /// For an image that is known to hold this, durably.
    fn from(machine: Machine, mut start: Moment, seed: u64) -> History {
        let slots = machine.open();
        start.ended = machine.sim.journal_len();
        start.flushed = true;
        History {
            machine,
            slots,
            moments: vec![start],
            seed,
        }
    }

    /// Does acts at once: steps that change different sectors, and one verb at most.
    fn does(&mut self, acts: &[Act]) {
        let steps: Vec<Step> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Step(step) => Some(*step),
                Act::Verb(_) => None,
            })
            .collect();
        let verb = acts.iter().find_map(|act| match act {
            Act::Verb(verb) => Some(*verb),
            Act::Step(_) => None,
        });
        self.machine.with(&self.slots, &steps, verb);
        let before = self.moments[self.moments.len() - 1].clone();
        let mut moment = before.clone();
        moment.ended = self.machine.sim.journal_len();
        moment.flushed = matches!(steps[..], [Step::Flush]) || (steps.is_empty() && verb.is_some());
        for step in &steps {
            step.apply(&mut moment.disk);
        }
        match verb {
            None | Some(Verb::Check(_) | Verb::Stream | Verb::Commit) => {}
            Some(Verb::Take(name)) => {
                let held = Held(before.disk, moment.disk.clone());
                moment.snapshots.insert(name, held);
            }
            Some(Verb::Delete(name)) => drop(moment.snapshots.remove(name)),
            Some(Verb::Apply(name)) => {
                assert!(steps.is_empty(), "the disk after it hangs on no order");
                let Held(before, after) = &moment.snapshots[name];
                moment.disk = self.machine.read_all(&self.slots);
                holds(&moment.disk, &[before, after], name);
                let found = moment.disk.clone();
                moment.snapshots.insert(name, Held(found.clone(), found));
            }
            Some(Verb::Resize(len)) => {
                let len = support::usize(len);
                if len < moment.disk.len() {
                    // What goes is given up before the disk is shorter: it shows the backing file.
                    let mut given_up = moment.clone();
                    given_up.flushed = false;
                    given_up.disk[len..].fill(BACKING);
                    self.moments.push(given_up);
                }
                moment.disk.resize(len, 0);
            }
        }
        self.moments.push(moment);
    }

    /// Cuts the power everywhere since the start, with `outcomes` at each cut. Every state has to
    /// survive; those where clusters leak are given back, with what they hold.
    fn cut_everywhere(&self, outcomes: usize, torn: usize) -> Vec<(CrashState, Moment)> {
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
        let (mut states, mut leaking) = (0, Vec::new());
        for state in sim.crash_states(whole).chain(sim.crash_states(torn)) {
            if state.cut() >= begin {
                // Powers of two: from all of the history, and few. It wants a key to look at others.
                let readable = matches!(
                    self.machine.content(),
                    Content::Plain
                        | Content::Subclusters
                        | Content::Named
                        | Content::Chain
                        | Content::Direct
                );
                if readable && usize::is_power_of_two(states + 1) && states < 1 << SHOWN_TO_QEMU {
                    clean_to_qemu(&state);
                }
                if let Some(leaks) = self.survives(&state) {
                    leaking.push((state, leaks));
                }
                states += 1;
            }
        }
        println!("{states} states, {} with leaks", leaking.len());
        assert!(states > self.moments.len(), "cuts were made");
        leaking
    }

    /// What the disk may be after a cut: as the last flush left it, or as a later act made it.
    fn since_flush(&self, cut: usize) -> &[Moment] {
        let last_flush = self
            .moments
            .iter()
            .rposition(|moment| moment.flushed && moment.ended <= cut)
            .expect("the image was flushed before the script");
        &self.moments[last_flush..]
    }

    /// Opens what a cut left: no corruption, and each sector as the last flush left it or as some
    /// later act made it; the snapshots of one moment. What it holds, if clusters leak.
    fn survives(&self, state: &CrashState) -> Option<Moment> {
        let machine = Machine::new(state.boot(self.seed), 1).with_content(self.machine.content());
        let slots = machine.open();
        let since = self.since_flush(state.cut());
        let found = machine.read_all(&slots);
        assert!(
            since.iter().any(|moment| moment.disk.len() == found.len()),
            "{state:?}: a disk of {} bytes",
            found.len()
        );
        let disks: Vec<&[u8]> = since.iter().map(|moment| &moment.disk[..]).collect();
        holds(&found, &disks, &format!("{state:?}"));
        let names = machine.snapshots();
        let has_those = |moment: &&Moment| moment.snapshots.keys().eq(names.iter());
        let moment = since.iter().find(has_those);
        let moment = moment.unwrap_or_else(|| panic!("{state:?}: snapshots {names:?}"));
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
        for (name, held) in &moment.snapshots {
            machine.with(&slots, &[], Some(Verb::Apply(name)));
            let context = format!("{state:?}, snapshot {name}");
            holds(&machine.read_all(&slots), &[&held.0, &held.1], &context);
        }
        let held = Moment {
            disk: found,
            ..moment.clone()
        };
        (report.leaks > 0).then_some(held)
    }
}

/// Each sector is as in one of some disks.
#[track_caller]
fn holds(found: &[u8], disks: &[&[u8]], context: &str) {
    for (sector, bytes) in found.chunks(support::usize(SECTOR)).enumerate() {
        let range = sector * 512..(sector + 1) * 512;
        assert!(
            disks
                .iter()
                .any(|disk| disk.get(range.clone()) == Some(bytes)),
            "{context}: sector {sector} reads {:02x?}…",
            &bytes[..8]
        );
    }
}

/// What a cut left has leaks at worst, says `qemu-img`.
fn clean_to_qemu(state: &CrashState) {
    if support::qemu_img().is_none() {
        return;
    }
    let folder = Scratch::new("crash");
    let path = folder.path("image");
    std::fs::write(&path, state.contents(SimFile(0))).expect("room for an image");
    let base = state.contents(SimFile(1));
    std::fs::write(folder.path("base"), base).expect("room for what an image may name");
    let middle = state.contents(SimFile(2));
    std::fs::write(folder.path("middle"), middle).expect("room for what an image may name");
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2"])
        .arg(&path)
        .output();
    let output = output.expect("it is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 3)), "{state:?}: {code:?}: {said}");
}
