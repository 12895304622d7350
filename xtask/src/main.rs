//! The project's chores, one file each. `cargo xtask <chore> --help` tells more.

mod commands;
mod compare;
mod conformance;
mod metadata;
mod prove;
mod regen;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <chore> [arguments]

  commands [--check | --forget]
                   writes docs/commands.md: what of the schema the tests' run exercised
  compare [ROW…]   does the same work as QEMU's tools, in turns, and prints what it cost both
  conformance      holds the schema compiler against QEMU's own, and runs its suite of schemas
  prove [PROOF…]   runs the long forms of the tests: power cuts, faults, many queues, interleavings
  regen [--check]  writes schema/src/generated from schema/*.json; --check only compares
  tidy             checks rules of the tree that no lint knows";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let chore = arguments.next();
    let rest: Vec<String> = arguments.collect();
    let result = match chore.as_deref() {
        Some("commands") => commands::run(&rest),
        Some("compare") => compare::run(&rest),
        Some("conformance") => conformance::run(&rest),
        Some("prove") => prove::run(&rest),
        Some("regen") => regen::run(&rest),
        Some("tidy") => tidy::run(&rest),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace.
fn root() -> std::path::PathBuf {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
