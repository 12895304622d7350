//! Image tools on an image of 1 TiB that holds little: time, processor, and peak memory.

use std::path::Path;
use std::process::Command;

use super::files::Files;
use super::measure::{self, Cost, Ended};
use super::rows::{Pieces, Verb};
use super::work::Programs;

/// The snapshot that is taken and deleted.
const SNAPSHOT: &str = "compare";

/// Does one verb, and undoes it.
pub(super) fn run_verb(
    verb: Verb,
    pieces: Pieces,
    programs: &Programs,
    files: &Files,
) -> Result<Cost, String> {
    let image = files.sparse(pieces);
    let run = |arguments: &[&str]| measure::run(programs.img().args(arguments).arg(&image));
    let ended = match verb {
        Verb::Check => run(&["check", "-q", "-f", "qcow2"]),
        Verb::Map => run(&["map", "-f", "qcow2", "--output=json"]),
        Verb::Measure => run(&["measure", "-f", "qcow2", "-O", "qcow2"]),
        Verb::Compare => {
            let mut compare = programs.img();
            compare.args(["compare", "-q", "-f", "qcow2", "-F", "qcow2"]);
            measure::run(compare.arg(&image).arg(files.sparse_copy(pieces)))
        }
        Verb::Convert => convert(programs, &image, &files.path("target")),
        Verb::Take => {
            let taken = run(&["snapshot", "-q", "-c", SNAPSHOT])?;
            run(&["snapshot", "-q", "-d", SNAPSHOT])?;
            Ok(taken)
        }
        Verb::Delete => {
            run(&["snapshot", "-q", "-c", SNAPSHOT])?;
            run(&["snapshot", "-q", "-d", SNAPSHOT])
        }
    }?;
    Ok(ended.cost(1.0))
}

/// Converts to raw, where holes cost nothing.
fn convert(programs: &Programs, image: &Path, target: &Path) -> Result<Ended, String> {
    std::fs::remove_file(target).ok();
    let mut convert: Command = programs.img();
    convert.args(["convert", "-f", "qcow2", "-O", "raw"]);
    let ended = measure::run(convert.arg(image).arg(target));
    std::fs::remove_file(target).ok();
    ended
}
