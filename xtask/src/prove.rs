//! `prove`: the tests' long forms, for a machine that has the time.
//! Each proof is a group of tests that also runs, shorter, with `cargo test`; here it repeats with
//! other seeds until its rounds are over: by themselves all take about an hour on two cores, and
//! `--rounds` makes one as long as there is time. Invariant: a failing round prints its seed, which
//! `QBLK_SEED` replays. Not here: what is proven (`tests/it`, `tests/interleavings`).

use std::process::Command;
use std::time::Instant;

const USAGE: &str = "usage: cargo xtask prove [PROOF…] [--rounds N] [--list]

  PROOF       only proofs whose name contains this
  --rounds N  how often each repeats, instead of its own number: more is more seeds
  --list      only names the proofs";

/// A group of tests, and how often its long form repeats them.
struct Proof {
    name: &'static str,
    what: &'static str,
    package: &'static str,
    /// Which test binary; `None` for the library's own tests.
    test: Option<&'static str>,
    filter: &'static str,
    rounds: u32,
}

const PROOFS: &[Proof] = &[
    Proof {
        name: "interleavings",
        what: "every order of the lock-free parts, whatever memory allows",
        package: "interleavings",
        test: Some("all"),
        filter: "",
        rounds: 1,
    },
    Proof {
        name: "crash",
        what: "power cuts at every write, with subsets of what was not flushed",
        package: "qblk",
        test: Some("it"),
        filter: "crash::",
        rounds: 60,
    },
    Proof {
        name: "faults",
        what: "every operation of the files fails once",
        package: "qblk",
        test: Some("it"),
        filter: "faults::",
        rounds: 4,
    },
    Proof {
        name: "detach",
        what: "callers leave at every await",
        package: "qblk",
        test: Some("it"),
        filter: "detach::",
        rounds: 1,
    },
    Proof {
        name: "queues",
        what: "four and eight queues, with and without snapshots; 240 thousand requests a round",
        package: "qblk",
        test: Some("it"),
        filter: "queues::",
        rounds: 45,
    },
    Proof {
        name: "jobs",
        what: "jobs under a verified load, meddled with, cancelled, and their daemon killed",
        package: "qblk",
        test: Some("it"),
        filter: "jobs::",
        rounds: 6,
    },
    Proof {
        name: "changes",
        what: "a million requests while overlays, jobs, modes, lengths and limits come and go",
        package: "qblk",
        test: Some("it"),
        filter: "jobs::changes",
        rounds: 3,
    },
    Proof {
        name: "layers",
        what: "chains of random images, read while verbs change them",
        package: "qblk",
        test: Some("it"),
        filter: "layers::",
        rounds: 60,
    },
    Proof {
        name: "reports",
        what: "what corrupted images of other programs, by many queues",
        package: "qblk",
        test: Some("it"),
        filter: "reports::",
        rounds: 30,
    },
    Proof {
        name: "damage",
        what: "images with damaged bytes: no panic, no memory by their own claim",
        package: "block-drivers",
        test: None,
        filter: "damaged",
        rounds: 5,
    },
    Proof {
        name: "fuzz",
        what: "mutations of the corpus through every parser of bytes from outside",
        package: "fuzz",
        test: Some("smoke"),
        filter: "",
        rounds: 60,
    },
    Proof {
        name: "differential",
        what: "damaged images, as we and as qemu-img see them",
        package: "fuzz",
        test: Some("differential"),
        filter: "",
        rounds: 60,
    },
    Proof {
        name: "repairs",
        what: "damaged metadata, checked and repaired by us and by qemu-img",
        package: "fuzz",
        test: Some("repairs"),
        filter: "",
        rounds: 50,
    },
];

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let mut wanted = Vec::new();
    let mut rounds = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--list" => {
                for proof in PROOFS {
                    println!("{:14} {} (×{})", proof.name, proof.what, proof.rounds);
                }
                return Ok(());
            }
            "--rounds" => {
                let number = words.next().and_then(|text| text.parse::<u32>().ok());
                rounds = Some(number.ok_or(USAGE)?);
            }
            name if !name.starts_with('-') => wanted.push(name.to_owned()),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let chosen =
        |proof: &&Proof| wanted.is_empty() || wanted.iter().any(|w| proof.name.contains(w));
    let chosen: Vec<&Proof> = PROOFS.iter().filter(chosen).collect();
    if chosen.is_empty() {
        return Err(format!("no such proof\n{USAGE}"));
    }
    let mut failed = Vec::new();
    for proof in chosen {
        let rounds = rounds.unwrap_or(proof.rounds);
        println!("== {}: {} (×{rounds})", proof.name, proof.what);
        let started = Instant::now();
        let holds = run_one(proof, rounds)?;
        println!(
            "== {}: {} after {} s",
            proof.name,
            if holds { "holds" } else { "FAILED" },
            started.elapsed().as_secs()
        );
        if !holds {
            failed.push(proof.name);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")))
    }
}

fn run_one(proof: &Proof, rounds: u32) -> Result<bool, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(crate::root())
        .args(["test", "--release", "--package", proof.package]);
    match proof.test {
        Some(test) => cargo.args(["--test", test]),
        None => cargo.arg("--lib"),
    };
    cargo
        .args(["--", "--nocapture", proof.filter])
        .env("QBLK_ROUNDS", rounds.to_string());
    let status = cargo.status().map_err(|error| format!("cargo: {error}"))?;
    Ok(status.success())
}
