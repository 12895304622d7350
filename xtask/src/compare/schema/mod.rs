//! `compare --schema`: our schema compiler and QMP server beside QEMU's and qapi-rs.
//!
//! What is compared: reading and checking QEMU's whole schema, all that the compiler does, what
//! rustc spends on what was generated (`crates`), and commands a second through the generated
//! dispatcher alone and through a server's socket (`socket`). Sides take turns; medians are shown.
//! Invariant: each side works in a process of its own, with its files in the page cache; a side
//! that fails is told in its row and ends nothing. Not here: other work of the tools (`rows`).

mod crates;
mod row;
mod socket;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::measure::{Cost, run};
use row::{Row, Unit};

const USAGE: &str = "usage: cargo xtask compare --schema [--source DIR] [--program PATH] [--quick]

  --source DIR    QEMU's source (without: what QEMU_SOURCE says, or Debian's source package)
  --program PATH  instead of building qblk, this one answers QMP
  --quick         3 rounds instead of 5; fewer, either way, of what takes minutes";

const SCHEMA: &str = "qapi/qapi-schema.json";

/// Loads a schema with QEMU's compiler, and does nothing with it.
const LOAD: &str = "import sys; sys.path.insert(0, sys.argv[1]); \
                    from qapi.schema import QAPISchema; QAPISchema(sys.argv[2])";

/// Dispatches a second of one core that we want.
const DISPATCHES: f64 = 1e6;
/// How many times QEMU's commands a second over a socket we want.
const SOCKET_FACTOR: f64 = 10.0;

/// One side of a row: does the work once.
type Side<'a> = Box<dyn FnMut() -> Result<Cost, String> + 'a>;

struct Options {
    source: Option<PathBuf>,
    program: Option<PathBuf>,
    rounds: usize,
}

/// Runs the rows; prints a table.
pub(super) fn compare(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    let source = options
        .source
        .clone()
        .map_or_else(crate::conformance::tree, Ok)?;
    let metadata = crate::metadata::read()?;
    let target = Path::new(metadata["target_directory"].as_str().unwrap_or("target")).to_owned();
    let work = target.join("compare-schema");
    let schema = source.join(SCHEMA);
    let seed = crate::root().join("schema/block-core.json");
    let compiler = build_compiler(&target)?;
    let rounds = options.rounds;

    let mut rows = Vec::new();
    let mut add = |row: Row| {
        eprintln!("{}", row.line());
        rows.push(row);
    };
    let (ours, theirs) = (work.join("ours"), work.join("c"));
    add(Row::of("front end", Unit::Milliseconds, rounds).compare(
        once(command(&compiler, &["check"], &[&schema])),
        once(command(
            "python3",
            &["-c", LOAD],
            &[&source.join("scripts"), &schema],
        )),
    ));
    make_folder(&theirs)?;
    let script = source.join("scripts/qapi-gen.py");
    add(Row::of("all of it", Unit::Milliseconds, rounds).compare(
        once(command(&compiler, &["rust", "--out"], &[&ours, &schema])),
        once(command(
            "python3",
            &[],
            &[&script, Path::new("--output-dir"), &theirs, &schema],
        )),
    ));
    for (name, costs) in dispatches(rounds)? {
        let row = Row::of(&name, Unit::PerSecond, rounds);
        add(row
            .measured(costs, "only as a part of its server")
            .aim_per_cpu_second(DISPATCHES));
    }
    let qblk = options.program.map_or_else(super::build, Ok)?;
    let mut serve = Command::new(qblk);
    serve.arg("serve");
    add(Row::of("query-version, socket", Unit::PerSecond, rounds)
        .compare(
            socket::side(serve, work.join("ours.sock")),
            socket::side(Command::new("qemu-storage-daemon"), work.join("peer.sock")),
        )
        .aim_factor(SOCKET_FACTOR));
    // The longest work comes last.
    let small = work.join("seed");
    run(&mut command(
        &compiler,
        &["rust", "--out"],
        &[&small, &seed],
    ))?;
    add(Row::of("rustc, block-core 2.1", Unit::Milliseconds, rounds)
        .alone(crates::generated(&small), "qapi-rs does not read it"));
    add(
        Row::of("rustc, full schema", Unit::Milliseconds, rounds).compare(
            crates::generated(&ours),
            crates::qapi_rs(&work.join("peer")),
        ),
    );

    println!("{}", row::HEADER);
    rows.iter().for_each(|row| println!("{}", row.line()));
    match rows.iter().filter(|row| row.failed()).count() {
        0 => Ok(()),
        count => Err(format!("{count} of {} rows could not be run", rows.len())),
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        source: None,
        program: None,
        rounds: 5,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--source" => options.source = Some(arguments.next().ok_or(USAGE)?.into()),
            "--program" => options.program = Some(arguments.next().ok_or(USAGE)?.into()),
            "--quick" => options.rounds = 3,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

/// Builds the compiler as users get it.
fn build_compiler(target: &Path) -> Result<PathBuf, String> {
    let mut command = crate::metadata::cargo();
    command.args(["build", "--release", "--quiet", "--package=qapi-codegen"]);
    command.args(["--bin=qapi-gen", "--features=qapi-codegen/cli"]);
    run(&mut command)?;
    Ok(target.join("release/qapi-gen"))
}

/// Rounds of each line of the benchmark of the generated dispatcher, which counts the time that its
/// thread had a core.
fn dispatches(rounds: usize) -> Result<Vec<(String, Vec<Cost>)>, String> {
    let mut rows: Vec<(String, Vec<Cost>)> = Vec::new();
    for _ in 0..rounds {
        let mut command = crate::metadata::cargo();
        command.args([
            "bench",
            "--quiet",
            "--package=block-schema",
            "--bench=dispatch",
        ]);
        for (name, nanoseconds) in row::bench_lines(&run(&mut command)?.stdout) {
            let name = format!("dispatch {name}");
            let cost = Cost {
                amount: 1.0,
                seconds: f64::NAN,
                cpu_seconds: nanoseconds / 1e9,
                max_rss_mib: f64::NAN,
                file_mib: 0.0,
                guest_share: 0.0,
            };
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, costs)) => costs.push(cost),
                None => rows.push((name, vec![cost])),
            }
        }
    }
    Ok(rows)
}

fn command(program: impl AsRef<std::ffi::OsStr>, words: &[&str], paths: &[&Path]) -> Command {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    command
}

/// A program that does the work by running to its end.
fn once(mut command: Command) -> Side<'static> {
    Box::new(move || Ok(run(&mut command)?.cost(1.0)))
}

fn make_folder(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    make_folder(path.parent().unwrap_or(path))?;
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
