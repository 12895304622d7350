//! `qmp`: a client for QMP servers, at a terminal or in scripts.
//!
//! A line goes through `line` (with `words`, `typed` and the server's `schema`) to `session`, which
//! has `server` do it and `print` show it; `script` and `interactive` are where lines come from.
//! Invariant: nothing is known of commands but what the server says. Not here: the protocol
//! (`block_schema::runtime`).

mod complete;
mod docs;
mod help;
mod interactive;
mod line;
pub(crate) mod print;
mod schema;
mod script;
pub(crate) mod server;
mod session;
mod suggest;
#[cfg(test)]
mod tests;
mod typed;
mod words;

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::path::PathBuf;

use block_core::error::kernel_text;

use crate::report::{Failure, Outcome};
use print::Style;
use script::Lines;
use server::Server;
use session::Session;

/// Talk to a QMP server: at the terminal, in a script, or one command
///
/// Without COMMAND, lines come from the terminal, with editing, history and completion; from
/// standard input if that is no terminal. `help` as a line explains them.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Do this line and leave; may be repeated
    #[arg(short = 'c', value_name = "LINE", conflicts_with_all = ["file", "words"])]
    lines: Vec<String>,
    /// Do the lines of a file
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "words")]
    file: Option<PathBuf>,
    /// Go on after a line that fails; the exit code is 1 nevertheless
    #[arg(long)]
    keep_going: bool,
    /// Print answers and events as JSON on one line each
    #[arg(long)]
    json: bool,
    /// Say how long each command took
    #[arg(long)]
    timing: bool,
    /// Let commands run out of band: `oob COMMAND …`
    #[arg(long)]
    oob: bool,
    /// The server's Unix socket
    #[arg(value_name = "SOCKET")]
    socket: String,
    /// One command: query-block, blockdev-del node-name=disk …
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let stdout = std::io::stdout().is_terminal();
    let style = Style {
        compact: args.json,
        colour: stdout && !args.json && colour_is_wanted(),
    };
    let mut lines: Box<dyn Lines> = if !args.words.is_empty() {
        Box::new(script::Given(vec![words::line_of(&args.words)].into_iter()))
    } else if !args.lines.is_empty() {
        Box::new(script::Given(args.lines.into_iter()))
    } else if let Some(path) = &args.file {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| {
            Failure::new(format!("Could not open '{name}': {}", kernel_text(&error)))
        })?;
        Box::new(script::Read::new(&name, BufReader::new(file)))
    } else if std::io::stdin().is_terminal() {
        let server = Server::connect(&args.socket, args.oob)?;
        let session = Session::start(server, style, args.timing)?;
        return interactive::run(&session, stdout);
    } else {
        Box::new(script::Read::new("stdin", std::io::stdin().lock()))
    };
    let server = Server::connect(&args.socket, args.oob)?;
    let session = Session::start(server, style, args.timing)?;
    script::run(&session, lines.as_mut(), args.keep_going)
}

/// Unless the user or the terminal says otherwise (no-color.org).
fn colour_is_wanted() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
