//! `conformance`: the schema compiler beside QEMU's own, whose source is no part of the tree: it
//! comes from Debian's source package (`source.rs`), or from a folder that is there.
//!
//! Each step says what it compared, or why it did not.

mod introspect;
mod round_trip;
mod source;
mod suite;

use std::path::PathBuf;

/// Where QEMU's source is, when the command line does not say.
const VARIABLE: &str = "QEMU_SOURCE";

const USAGE: &str = "usage: cargo xtask conformance [--source DIR] [--legacy DIR] [--verbose]

  --source DIR  QEMU's source (without: what QEMU_SOURCE says, or Debian's source package)
  --legacy DIR  a folder with the suite of QEMU 2.1 (schemas beside `.exit` files), judged too
  --verbose     both texts of each case that differs";

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let mut given = None;
    let mut legacy = None;
    let mut detail = suite::Detail::Names;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--source" => given = Some(PathBuf::from(rest.next().ok_or(USAGE)?)),
            "--legacy" => legacy = Some(PathBuf::from(rest.next().ok_or(USAGE)?)),
            "--verbose" => detail = suite::Detail::Texts,
            _ => return Err(USAGE.to_owned()),
        }
    }
    let tree = given.map_or_else(tree, Ok)?;
    print!("{}", suite::run(&tree, legacy.as_deref(), detail)?);
    for step in [introspect::run, round_trip::run] {
        for line in step(&tree)? {
            println!("{line}");
        }
    }
    Ok(())
}

/// Where QEMU's source is, when the command line does not say.
pub(crate) fn tree() -> Result<PathBuf, String> {
    match std::env::var_os(VARIABLE) {
        Some(tree) => Ok(tree.into()),
        None => source::bring(),
    }
}
