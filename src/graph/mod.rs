//! `graph`: the live graph of a daemon, drawn.
//!
//! Asks a server over QMP (`model.rs`), and draws the answers as text (`tree.rs`), for Graphviz
//! (`dot.rs`), as a picture (`svg.rs`, `layout.rs`) or gives them as JSON. Invariant: nothing is changed
//! at the server. Not here: the connection (`qmp/server.rs`).

mod dot;
mod layout;
mod model;
mod svg;
#[cfg(test)]
mod tests;
mod tree;

use std::io::IsTerminal;

use crate::qmp::print::Style;
use crate::qmp::server::Server;
use crate::report::{Outcome, out, outln};

use model::{Answers, Graph};
use tree::Lines;

/// Draw the nodes of a daemon, and who uses them
///
/// A tree of text, with a line for each node: name, driver, size, rw or ro, file. Below it stand the
/// devices, exports and jobs that use it, then its children with their roles.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// human: a tree; dot: for Graphviz; svg: a picture; json: for programs
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "human")]
    output: Output,
    /// The daemon's QMP socket
    #[arg(value_name = "SOCKET")]
    socket: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Human,
    Dot,
    Svg,
    Json,
}

pub(crate) fn run(args: Args) -> Outcome {
    let server = Server::connect(&args.socket, false)?;
    let graph = Graph::from(&Answers::of(&server)?);
    match args.output {
        Output::Human => out!("{}", tree::draw(&graph, lines())),
        Output::Dot => out!("{}", dot::draw(&graph)),
        Output::Svg => out!("{}", svg::draw(&graph)),
        Output::Json => outln!("{}", Style::default().value(&graph.to_value())),
    }
    Ok(0)
}

/// Box lines where they can be seen.
fn lines() -> Lines {
    let variables = ["LC_ALL", "LC_CTYPE", "LANG"].iter();
    let mut values = variables.filter_map(|name| std::env::var(name).ok());
    let locale = values.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    let is_utf8 = locale.contains("utf-8") || locale.contains("utf8");
    match is_utf8 && std::io::stdout().is_terminal() {
        true => Lines::UNICODE,
        false => Lines::ASCII,
    }
}
