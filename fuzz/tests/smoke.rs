//! Every target on its corpus, and on mutations of it: none panics, none takes more memory than it
//! may. The seed is printed; `QBLK_ROUNDS` makes it long.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fuzz::mutate::{self, Random};
use fuzz::{TARGETS, Target, damage};

/// Runs a target on one input.
fn run(target: &Target, input: &[u8]) -> u64 {
    let memory = allocation_counter::measure(|| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
            let path = std::env::temp_dir().join(format!("fuzz-{}", target.name));
            std::fs::write(&path, input).expect("room for an input");
            println!("{}: the input is in {}", target.name, path.display());
            resume_unwind(panic);
        }
    });
    memory.bytes_max
}

#[track_caller]
fn check(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target of that name");
    let corpus = fuzz::corpus(name).expect("a corpus");
    let seed = mutate::seed(name);
    // What random bytes rarely leave open.
    let whole_images = name.starts_with("qcow2_image") || name == "qcow2_beside";
    let mut most = 0;
    let mut measured = |input: &[u8]| {
        most = run(target, input).max(most);
        assert!(most <= target.memory, "{name} took {most} bytes of memory");
    };
    // The first run also makes what later ones keep: tables, and contexts of threads.
    for input in corpus.iter().chain(&corpus) {
        measured(input);
    }
    for round in 0..mutate::rounds() {
        let mut random = Random::new(seed.wrapping_add(round));
        for _ in 0..target.tries {
            measured(&mutate::mutated(&mut random, &corpus));
            if whole_images {
                let original = random.pick(&corpus).clone();
                measured(&damage::damaged_anywhere(&mut random, &original));
            }
        }
    }
    println!("{name}: {most} bytes of memory at most");
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                check(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_tried() {
            let tried = [$(stringify!($name)),*];
            let targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(targets, tried);
        }
    };
}

smoke! {
    qcow2_header
    qcow2_snapshot_table
    qcow2_image
    qcow2_image_written
    qcow2_beside
    compressed_cluster
    luks_header
    nbd_server
    nbd_client
    json
    schema
    options
}
