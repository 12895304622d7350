//! Power cuts while bitmaps are there: whatever is left, one that claims to be good covers every
//! sector that changed since it was added, whichever queue changed it, on whichever way.

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::driver::Repair;
use block_core::engine::sim::{CrashOptions, CrashState};

use crate::support::machine::{self, BACKING, Machine, SECTOR, SIZE, Step};
use crate::support::{self, Random};

/// What the disk was when each bitmap was added.
type Bases = Vec<(String, Vec<u8>)>;

fn named(name: &str) -> BitmapName<'_> {
    BitmapName { node: "top", name }
}

/// Names of the bitmaps that claim to be good, after each was held against what changed.
#[track_caller]
fn covered(machine: &Machine, disk: &[u8], bases: &Bases, context: &str) -> Vec<String> {
    let graph = machine.layer.graph();
    let top = graph.find("top").expect("it is open");
    let all = graph.entry(top).node.bitmaps().all();
    let mut good = Vec::new();
    for bitmap in all.iter().filter(|bitmap| !bitmap.is_inconsistent()) {
        let mut known = bases.iter().filter(|(name, _)| name == bitmap.name());
        let (name, base) = known.next().expect("a bitmap that was added");
        for (index, (now, then)) in (0..).zip(disk.chunks(512).zip(base.chunks(512))) {
            let sector = index * SECTOR..(index + 1) * SECTOR;
            let dirty = bitmap.next_dirty(sector).is_some();
            assert!(dirty || now == then, "{context}: '{name}' misses {index}");
        }
        good.push(name.clone());
    }
    good
}

#[track_caller]
fn survives(state: &CrashState, seed: u64, bases: &Bases) -> usize {
    let machine = Machine::new(state.boot(seed), 1);
    let slots = machine.open();
    let context = format!("{state:?}");
    let good = covered(&machine, &machine.read_all(&slots), bases, &context);
    let check = |repair| {
        let report = machine.check(repair);
        report.unwrap_or_else(|error| panic!("{context}: {}", error.chain()))
    };
    let report = check(Repair::Leaks);
    let found = (report.corruptions, report.leaks);
    assert_eq!(found, (0, 0), "{context}: {:?}", report.messages);
    good.len()
}

#[test]
fn no_bitmap_misses_a_write() {
    let seed = support::seed("no_bitmap_misses_a_write");
    for round in 0..support::rounds(2) {
        let seed = seed.wrapping_add(round);
        let mut random = Random::new(seed);
        let sim = machine::fresh(seed);
        let begin = sim.journal_len();
        let mut disk = vec![BACKING; support::usize(SIZE)];
        let mut bases = Bases::new();
        for session in 0..4_u32 {
            let machine = Machine::new(sim.clone(), 3);
            let slots = machine.open();
            covered(&machine, &disk, &bases, "reopened");
            let (layer, queue) = (&machine.layer, machine.queue());
            for part in 0..4 {
                if part == 1 {
                    let name = format!("b{session}");
                    let new = NewBitmap {
                        granularity: Some(512 << (session % 3)),
                        persistent: true,
                        disabled: false,
                    };
                    let added = layer.block_dirty_bitmap_add(named(&name), new);
                    queue.block_on(added).expect("a new bitmap");
                    bases.push((name, disk.clone()));
                }
                let third = SIZE / SECTOR / 3;
                let step = |n| Step::random(&mut random, n * third, (n + 1) * third);
                let steps: Vec<Step> = (0..3).map(step).collect();
                machine.together(&slots, &steps);
                steps.iter().for_each(|step| step.apply(&mut disk));
                if random.below(3) == 0 {
                    machine.together(&slots, &[Step::Flush]);
                }
            }
            if session == 2 {
                let removed = layer.block_dirty_bitmap_remove(queue, named("b0"));
                queue.block_on(removed).expect("the bitmap was there");
            }
            machine.close().expect("it closes");
        }
        let options = |outcomes_per_cut, torn| CrashOptions {
            outcomes_per_cut,
            torn,
            seed,
        };
        let (mut states, mut with_bitmaps) = (0, 0);
        let cuts = sim.crash_states(options(8, false));
        for state in cuts.chain(sim.crash_states(options(4, true))) {
            if state.cut() >= begin {
                states += 1;
                with_bitmaps += usize::from(survives(&state, seed, &bases) > 0);
            }
        }
        println!("{states} states, {with_bitmaps} with bitmaps that claim to be good");
        assert!(with_bitmaps > 0 && states > with_bitmaps, "cuts were made");
        // Without a cut all are good.
        let machine = Machine::new(sim, 1);
        machine.open();
        let good = covered(&machine, &disk, &bases, "the end");
        assert_eq!(good, ["b1", "b2", "b3"]);
    }
}
