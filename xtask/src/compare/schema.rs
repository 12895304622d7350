//! `compare --schema`: our schema compiler beside QEMU's and qapi-rs, on QEMU's whole schema.
//!
//! What is timed: reading and checking; all that the compiler does; and what `cargo check` of a crate
//! costs that compiles the schema from its build script. Best of the rounds, sides in turns.
//! Invariant: each side starts a process of its own, with its files in the page cache. Not here: how
//! fast generated code is.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::measure::{Ended, run};

/// Rounds; what a process costs varies upwards only.
const ROUNDS: usize = 5;
const SCHEMA: &str = "qapi/qapi-schema.json";
/// What the peer of the third row is: its types for a QEMU of that time.
const PEER: &str = "qapi-qmp = \"=0.15.0\"";

/// Loads a schema with QEMU's compiler, and does nothing with it.
const LOAD: &str = "import sys; sys.path.insert(0, sys.argv[1]); \
                    from qapi.schema import QAPISchema; QAPISchema(sys.argv[2])";

/// The best of several runs.
#[derive(Clone, Copy)]
struct Best {
    cpu_seconds: f64,
    max_rss_mib: f64,
}

impl Best {
    fn of(best: Option<Self>, ended: &Ended) -> Self {
        let now = Self {
            cpu_seconds: ended.cpu_seconds,
            max_rss_mib: ended.max_rss_mib,
        };
        best.map_or(now, |best| Self {
            cpu_seconds: best.cpu_seconds.min(now.cpu_seconds),
            max_rss_mib: best.max_rss_mib.min(now.max_rss_mib),
        })
    }
}

/// Runs the rows; prints a table.
pub(super) fn compare() -> Result<(), String> {
    let source = crate::conformance::tree()?;
    let metadata = crate::metadata::read()?;
    let target = Path::new(metadata["target_directory"].as_str().unwrap_or("target")).to_owned();
    let program = build(&target)?;
    let work = target.join("compare-schema");
    let schema = source.join(SCHEMA);
    let seed = crate::root().join("schema/block-core.json");

    println!(
        "{:32} {:>9} {:>9} {:>7}",
        "best of 5", "ours", "peer", "ratio"
    );
    let commands = [
        (
            "front end",
            check(&program, &schema),
            load(&source, &schema),
        ),
        (
            "all of it",
            generate(&program, &schema, &work.join("rust")),
            generate_c(&source, &schema, &work.join("c"))?,
        ),
    ];
    for (row, ours, peer) in commands {
        let [ours, peer] = in_turns([ours, peer], |command| run(command))?;
        let ms = |best: Best| best.cpu_seconds * 1000.0;
        show(&format!("{row}, CPU ms (QEMU's)"), ms(ours), Some(ms(peer)));
        show(
            &format!("{row}, MiB"),
            ours.max_rss_mib,
            Some(peer.max_rss_mib),
        );
    }
    let ours = Consumer::new(&work.join("ours"), "compare-ours", &build_script(&schema))?;
    let small = Consumer::new(&work.join("seed"), "compare-seed", &build_script(&seed))?;
    let peer = Consumer::depending(&work.join("peer"), "qapi-qmp", PEER)?;
    let [ours] = in_turns([ours], |consumer| consumer.check())?;
    let peer = match in_turns([peer], |consumer| consumer.check()) {
        Ok([peer]) => Some(peer),
        Err(message) => {
            eprintln!("qapi-rs does not build here: {message}");
            None
        }
    };
    let peer = |of: fn(Best) -> f64| peer.map(of);
    show(
        "check, CPU s (qapi-rs)",
        ours.cpu_seconds,
        peer(|best| best.cpu_seconds),
    );
    show(
        "check, MiB",
        ours.max_rss_mib,
        peer(|best| best.max_rss_mib),
    );
    let [seed] = in_turns([small], |consumer| consumer.check())?;
    // qapi-rs cannot read it.
    show("check of block-core 2.1, CPU s", seed.cpu_seconds, None);
    Ok(())
}

fn show(row: &str, ours: f64, peer: Option<f64>) {
    match peer {
        Some(peer) => println!("{row:32} {ours:9.2} {peer:9.2} {:6.1}x", peer / ours),
        None => println!("{row:32} {ours:9.2} {:>9} {:>7}", "–", "–"),
    }
}

/// Best of the rounds of each side; the first round warms up and does not count.
fn in_turns<T, const N: usize>(
    mut sides: [T; N],
    once: impl Fn(&mut T) -> Result<Ended, String>,
) -> Result<[Best; N], String> {
    let mut best = [None; N];
    for round in 0..=ROUNDS {
        for (side, best) in sides.iter_mut().zip(&mut best) {
            let ended = once(side)?;
            if round > 0 {
                *best = Some(Best::of(*best, &ended));
            }
        }
    }
    let none = Best {
        cpu_seconds: f64::NAN,
        max_rss_mib: f64::NAN,
    };
    Ok(best.map(|best| best.unwrap_or(none)))
}

/// Builds the command as users get it.
fn build(target: &Path) -> Result<PathBuf, String> {
    let mut command = crate::metadata::cargo();
    command.args([
        "build",
        "--release",
        "--quiet",
        "--package=qapi-codegen",
        "--bin=qapi-gen",
    ]);
    command.arg("--features=qapi-codegen/cli");
    run(&mut command)?;
    Ok(target.join("release/qapi-gen"))
}

fn check(program: &Path, schema: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("check").arg(schema);
    command
}

fn load(source: &Path, schema: &Path) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", LOAD]);
    command.args([&source.join("scripts"), schema]);
    command
}

fn generate(program: &Path, schema: &Path, out: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["rust", "--out"]).args([out, schema]);
    command
}

fn generate_c(source: &Path, schema: &Path, out: &Path) -> Result<Command, String> {
    make_folder(out)?;
    let mut command = Command::new("python3");
    command.arg(source.join("scripts/qapi-gen.py"));
    command.arg("--output-dir").args([out, schema]);
    Ok(command)
}

/// A crate that is checked again and again.
struct Consumer {
    folder: PathBuf,
    /// What is checked anew each time.
    package: String,
}

impl Consumer {
    fn new(folder: &Path, name: &str, build_script: &str) -> Result<Self, String> {
        let codegen = crate::root().join("qapi-codegen");
        let dependency = format!(
            "[build-dependencies]\nqapi-codegen = {{ path = {codegen:?}, default-features = false }}\n"
        );
        let lib = "pub mod qapi { include!(concat!(env!(\"OUT_DIR\"), \"/qapi.rs\")); }\n";
        write(&folder.join("build.rs"), build_script)?;
        Self::write(folder, name, &dependency, lib)?;
        Ok(Self {
            folder: folder.to_owned(),
            package: name.to_owned(),
        })
    }

    fn depending(folder: &Path, package: &str, dependency: &str) -> Result<Self, String> {
        let dependency = format!("[dependencies]\n{dependency}\n");
        Self::write(folder, "compare-peer", &dependency, "")?;
        Ok(Self {
            folder: folder.to_owned(),
            package: package.to_owned(),
        })
    }

    fn write(folder: &Path, name: &str, dependencies: &str, lib: &str) -> Result<(), String> {
        let manifest = format!(
            "[package]\nname = {name:?}\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{dependencies}\n[workspace]\n"
        );
        write(&folder.join("Cargo.toml"), &manifest)?;
        write(&folder.join("src/lib.rs"), lib)
    }

    fn cargo(&self, arguments: &[&str]) -> Result<Ended, String> {
        let mut command = crate::metadata::cargo();
        command
            .args(arguments)
            .arg("--quiet")
            .current_dir(&self.folder);
        command.env("CARGO_TARGET_DIR", self.folder.join("target"));
        run(&mut command)
    }

    /// Checks the package, whose dependencies were checked before.
    fn check(&mut self) -> Result<Ended, String> {
        self.cargo(&["check"])?;
        self.cargo(&["clean", "--package", &self.package])?;
        self.cargo(&["check"])
    }
}

fn build_script(schema: &Path) -> String {
    format!("fn main() {{ qapi_codegen::Builder::new({schema:?}).build(); }}\n")
}

fn make_folder(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    make_folder(path.parent().unwrap_or(path))?;
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
