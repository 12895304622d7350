//! `conformance`: the schema compiler beside QEMU's own, where its source is at hand.
//!
//! Each step says what it compared, or why it did not.

mod introspect;
mod round_trip;

use std::path::PathBuf;

/// Where QEMU's source is, when the command line does not say.
const VARIABLE: &str = "QEMU_SOURCE";

/// Runs the chore.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let source = match arguments {
        [] => std::env::var_os(VARIABLE).map(PathBuf::from),
        [folder] => Some(PathBuf::from(folder)),
        _ => return Err("usage: cargo xtask conformance [FOLDER OF QEMU'S SOURCE]".to_owned()),
    };
    let Some(source) = source else {
        println!("{VARIABLE} does not say where QEMU's source is: nothing was compared");
        return Ok(());
    };
    for step in [introspect::run, round_trip::run] {
        for line in step(&source)? {
            println!("{line}");
        }
    }
    Ok(())
}
