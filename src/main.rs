//! Disk image tool and storage daemon.
//!
//! `qblk SUBCOMMAND …`; called by a link named `qemu-img`, `qemu-io`, `qemu-nbd` or
//! `qemu-storage-daemon` it is that tool. Each subcommand is a file; the shapes of their options are in `opts/`.

mod amend;
mod bench;
mod bitmap;
mod chain;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod graph;
mod human;
mod image;
mod info;
mod io;
mod jobs;
mod map;
mod measure;
mod opts;
mod order;
mod progress;
mod qmp;
mod rebase;
mod report;
mod resize;
mod serve;
mod session;
mod snapshot;

use crate::report::out;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use report::{Failure, Outcome};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (as QEMU 10.0.2)");

/// Disk image tool and storage daemon, compatible with QEMU's
#[derive(Parser)]
#[command(name = "qblk", version = VERSION, disable_help_subcommand = true)]
// As with `getopt`: of an option that is given twice the last one counts.
#[command(args_override_self = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Amend(amend::Args),
    Bench(bench::Args),
    Bitmap(bitmap::Args),
    Check(check::Args),
    Commit(commit::Args),
    Compare(compare::Args),
    Convert(Box<convert::Args>),
    Create(create::Args),
    Dd(dd::Args),
    Graph(graph::Args),
    Info(info::Args),
    Io(io::Args),
    Jobs(jobs::Args),
    Map(map::Args),
    Measure(measure::Args),
    Nbd(Box<serve::nbd::Args>),
    Qmp(qmp::Args),
    Rebase(rebase::Args),
    Resize(resize::Args),
    Serve(serve::Args),
    Snapshot(snapshot::Args),
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    report::set_program(&words.next().unwrap_or_default().to_string_lossy());
    let code = match dispatch(words.collect()) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    };
    ExitCode::from(code)
}

/// Requests to an image by hand
#[derive(Parser)]
#[command(version = VERSION, args_override_self = true)]
struct IoProgram {
    #[command(flatten)]
    args: io::Args,
}

/// Serve one image over NBD
#[derive(Parser)]
#[command(version = VERSION, args_override_self = true)]
struct NbdProgram {
    #[command(flatten)]
    args: serve::nbd::Args,
}

/// Serve images over NBD and QMP
#[derive(Parser)]
#[command(version = VERSION, args_override_self = true)]
struct ServeProgram {
    #[command(flatten)]
    args: serve::Args,
}

fn dispatch(words: Vec<OsString>) -> Outcome {
    match report::program() {
        "qemu-io" => match parse::<IoProgram>(words)? {
            Some(program) => io::run(program.args),
            None => Ok(0),
        },
        "qemu-nbd" => match parse::<NbdProgram>(words)? {
            Some(program) => serve::nbd::run(program.args),
            None => Ok(0),
        },
        "qemu-storage-daemon" => match parse::<ServeProgram>(words)? {
            Some(program) => serve::run(program.args),
            None => Ok(0),
        },
        _ => match parse::<Program>(words)? {
            Some(program) => run(program.command),
            None => Ok(0),
        },
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Amend(args) => amend::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Bitmap(args) => bitmap::run(args),
        Command::Check(args) => check::run(args),
        Command::Commit(args) => commit::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Convert(args) => convert::run(*args),
        Command::Create(args) => create::run(args),
        Command::Dd(args) => dd::run(args),
        Command::Graph(args) => graph::run(args),
        Command::Info(args) => info::run(args),
        Command::Io(args) => io::run(args),
        Command::Jobs(args) => jobs::run(args),
        Command::Map(args) => map::run(args),
        Command::Measure(args) => measure::run(args),
        Command::Nbd(args) => serve::nbd::run(*args),
        Command::Qmp(args) => qmp::run(args),
        Command::Rebase(args) => rebase::run(args),
        Command::Resize(args) => resize::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Snapshot(args) => snapshot::run(args),
    }
}

/// Parses a command line; `None` when it asked for help or the version, which was printed.
fn parse<P: Parser>(words: Vec<OsString>) -> Result<Option<P>, Failure> {
    let program = OsString::from(report::program());
    let command = P::command()
        .name(report::program())
        .bin_name(report::program());
    let matches = command.try_get_matches_from(std::iter::once(program).chain(words));
    match matches.and_then(|mut matches| P::from_arg_matches_mut(&mut matches)) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                out!("{error}");
                Ok(None)
            }
            ErrorKind::InvalidSubcommand => Err(Failure::usage_of_program(&complaint(&error))),
            ErrorKind::UnknownArgument => Err(unknown(&error)),
            _ => Err(Failure::usage(&complaint(&error))),
        },
    }
}

fn unknown(error: &clap::Error) -> Failure {
    match invalid_argument(error) {
        option if option.starts_with('-') => Failure::unknown_option(option),
        word => Failure::usage(&format!("Unexpected argument: {word}")),
    }
}

fn invalid_argument(error: &clap::Error) -> &str {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

/// What is wrong with a command line, in one line that names the word.
fn complaint(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let argument = invalid_argument(error);
    // clap shows `--output <human|json>`.
    let option = argument.split(' ').next().unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!(
                "Command not found: {}",
                context(ContextKind::InvalidSubcommand)
            )
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "Not enough arguments".to_owned()
        }
        ErrorKind::InvalidValue => {
            let value = context(ContextKind::InvalidValue);
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => valid.as_slice(),
                _ => &[],
            };
            match (value, valid) {
                ("", _) => format!("missing argument for option '{option}'"),
                (value, []) => format!("Invalid value '{value}' for '{option}'"),
                (value, valid) => {
                    let valid: Vec<String> = valid.iter().map(|v| format!("'{v}'")).collect();
                    // QEMU's tools show both names of an option.
                    let option = match option {
                        "--repair" => "--repair (-r)",
                        option => option,
                    };
                    format!("{option} expects {} not '{value}'", valid.join(" or "))
                }
            }
        }
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            first.trim_start_matches("error: ").to_owned()
        }
    }
}
