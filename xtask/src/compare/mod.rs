//! `compare`: we and QEMU's tools do the same work on the same files, in turns.
//!
//! Each row of `rows` is one kind of work; `work` does it once, as one side; `measure` knows what
//! a process cost. Rounds alternate, so that what else the machine does falls on both, and who
//! starts alternates too; medians are shown, for ratios the median of the rounds' ratios.
//! Invariant: both sides read the same file; image tools get the same arguments, servers those that
//! mean the same.
//! Not here: what single functions cost (`benches/`).

mod files;
mod guest;
mod jobs;
mod measure;
mod rows;
mod schema;
mod table;
mod tools;
mod work;
mod writes;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use files::Files;
use measure::Cost;
use rows::{Row, Work, rows};
use table::Table;
use work::{Programs, run_once};

const USAGE: &str = "usage: cargo xtask compare [ROW…] [--quick] [--json] [--dir DIR] [--list]
       cargo xtask compare --schema [--source DIR] [--program PATH] [--quick]

  ROW      only rows whose name contains this
  --quick  less work and fewer rounds: for a first look, not for a claim
  --json   every round's numbers as JSON
  --dir    where the files go (a folder of its own below DIR, removed at the end); 10 GiB
  --program PATH  instead of building qblk, compares this one
  --list   only names the rows
  --schema  compares the schema compiler and QMP instead, with QEMU's and qapi-rs";

/// What was asked for.
#[derive(Default)]
struct Options {
    wanted: Vec<String>,
    size: Size,
    output: Output,
    folder: Option<PathBuf>,
    program: Option<PathBuf>,
}

/// How much work is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Size {
    #[default]
    Full,
    Quick,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Output {
    #[default]
    Table,
    Json,
    Names,
}

impl Size {
    fn rounds(self, work: &Work) -> usize {
        match (self, work) {
            // There are many jobs, and each takes seconds.
            (Size::Quick, _) | (Size::Full, Work::Job(_)) => 3,
            (Size::Full, _) => 5,
        }
    }
}

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Peer,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody pays for being the first: caches are warm, and wrong results are found, before.
    WarmUp,
    Counted,
}

/// What became of a row.
enum Outcome {
    /// What each round cost us and the peer.
    Measured(Vec<(Cost, Cost)>),
    /// There is nothing to compare with.
    NoPeer(String),
    /// One of the two did not do the work.
    Failed(String),
}

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    if let [first, rest @ ..] = arguments
        && first == "--schema"
    {
        return schema::compare(rest);
    }
    let options = parse(arguments)?;
    let rows: Vec<Row> = rows(options.size)
        .into_iter()
        .filter(|row| options.wants(&row.name))
        .collect();
    if options.output == Output::Names {
        rows.iter().for_each(|row| println!("{}", row.name));
        return Ok(());
    }
    let program = options.program.clone().map_or_else(build, Ok)?;
    let folder = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let files = Files::new(&folder, options.size, &program)?;
    let (ours, peer) = (files.ours(), Programs::Peer);
    let mut results = Vec::new();
    let table = Table::of(&rows);
    if options.output == Output::Table {
        print!("{}", table.head());
    }
    for row in &rows {
        eprintln!("{} …", row.name);
        let rounds = options.size.rounds(&row.work);
        let outcome = compare(row, &ours, &peer, &files, rounds);
        if options.output == Output::Table {
            print!("{}", table.line(row, &outcome));
        }
        results.push((row, outcome));
    }
    if options.output == Output::Json {
        println!("{}", table::json(&results));
    }
    let failed = results
        .iter()
        .filter(|(_, o)| matches!(o, Outcome::Failed(_)));
    match failed.count() {
        0 => Ok(()),
        count => Err(format!(
            "{count} of {} rows could not be run",
            results.len()
        )),
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.size = Size::Quick,
            "--json" => options.output = Output::Json,
            "--list" => options.output = Output::Names,
            "--dir" => options.folder = Some(arguments.next().ok_or(USAGE)?.into()),
            "--program" => options.program = Some(arguments.next().ok_or(USAGE)?.into()),
            flag if flag.starts_with('-') => return Err(USAGE.to_owned()),
            row => options.wanted.push(row.to_owned()),
        }
    }
    Ok(options)
}

impl Options {
    fn wants(&self, row: &str) -> bool {
        self.wanted.is_empty()
            || self
                .wanted
                .iter()
                .any(|wanted| row.contains(wanted.as_str()))
    }
}

/// Builds the program as users get it; where it is.
fn build() -> Result<PathBuf, String> {
    let status = crate::metadata::cargo()
        .args([
            "build",
            "--release",
            "--quiet",
            "--package=qblk",
            "--bin=qblk",
        ])
        .status()
        .map_err(|error| format!("cannot run cargo build: {error}"))?;
    if !status.success() {
        return Err("qblk does not build".to_owned());
    }
    let metadata = crate::metadata::read()?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    Ok(Path::new(target).join("release/qblk"))
}

fn compare(row: &Row, ours: &Programs, peer: &Programs, files: &Files, rounds: usize) -> Outcome {
    for program in row.work.peer_programs() {
        if !is_installed(program) {
            return Outcome::NoPeer(format!("{program} is not installed"));
        }
    }
    match measure_rounds(row, ours, peer, files, rounds) {
        Ok(rounds) => Outcome::Measured(rounds),
        Err(message) => Outcome::Failed(message),
    }
}

fn measure_rounds(
    row: &Row,
    ours: &Programs,
    peer: &Programs,
    files: &Files,
    rounds: usize,
) -> Result<Vec<(Cost, Cost)>, String> {
    let run = |side, turn| {
        let programs = match side {
            Side::Ours => ours,
            Side::Peer => peer,
        };
        let cost = run_once(&row.work, programs, files, turn);
        cost.map_err(|message| format!("{side:?}: {message}"))
    };
    files.prepare(&row.work)?;
    run(Side::Peer, Turn::WarmUp)?;
    run(Side::Ours, Turn::WarmUp)?;
    let run = |side| run(side, Turn::Counted);
    let mut costs = Vec::new();
    for round in 0..rounds {
        costs.push(if round % 2 == 0 {
            let ours = run(Side::Ours)?;
            (ours, run(Side::Peer)?)
        } else {
            let peer = run(Side::Peer)?;
            (run(Side::Ours)?, peer)
        });
    }
    Ok(costs)
}

fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests;
