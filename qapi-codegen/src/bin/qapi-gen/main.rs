//! `qapi-gen`: the schema compiler from the command line, a file for each subcommand.
//! Invariant: what was asked for goes to standard output or into files, everything else to standard
//! error; the exit status is 0 when it is done, 1 when it cannot be, 2 when it was asked for wrongly.

mod check;
mod fmt;
mod introspect;
mod load;
mod migrate;
mod rust;

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Reads, checks and compiles QAPI schemas.
#[derive(Parser)]
#[command(name = "qapi-gen", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  qapi-gen check qapi/qapi-schema.json
  qapi-gen rust --out src/qapi qapi/qapi-schema.json
  qapi-gen introspect --config CONFIG_LINUX qapi/qapi-schema.json

Exit status: 0 done, 1 the schema is wrong or a file cannot be read or written, 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
    Rust(Box<rust::Arguments>),
    Introspect(introspect::Arguments),
    Fmt(fmt::Arguments),
    Migrate(migrate::Arguments),
}

/// Why it is not done: text for standard error.
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Rust(arguments) => rust::run(&arguments),
        Command::Introspect(arguments) => introspect::run(&arguments),
        Command::Fmt(arguments) => fmt::run(&arguments),
        Command::Migrate(arguments) => migrate::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("{}", text.trim_end());
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. A reader who has seen enough is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Reads a file that is text.
fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure(format!("cannot read {}: {error}", path.display())))
}

/// Writes a file and the folders that lead to it; leaves one alone that is so already.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if std::fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| Failure(format!("cannot write {}: {error}", path.display())))
}
