//! `qapi-gen migrate`: a schema of QEMU 2.1's dialect in today's words.

use std::path::{Path, PathBuf};

use clap::Args;
use qapi_parser::Migration;

use super::{Failure, print, write};

/// Say a schema of QEMU 2.1's dialect in today's
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen migrate schema.json > today.json
  qapi-gen migrate --out today old/schema.json

What could not be said as before is told on standard error.")]
pub(crate) struct Arguments {
    /// The schema's root file
    #[arg(value_name = "SCHEMA")]
    schema: PathBuf,

    /// Write all files of the schema below this folder, instead of its only one to standard output
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Migration { files, notes } = qapi_parser::migrate(&arguments.schema)?;
    for note in notes {
        eprintln!("note: {note}");
    }
    let Some(out) = &arguments.out else {
        let [only] = files.as_slice() else {
            let count = files.len();
            return Err(Failure(format!(
                "the schema has {count} files: say with --out where to write them"
            )));
        };
        return print(&only.text);
    };
    // Without `..`, which would lead out of the folder.
    let mut paths = Vec::new();
    for file in &files {
        let path = file
            .path
            .canonicalize()
            .map_err(|error| Failure(format!("cannot find {}: {error}", file.path.display())))?;
        paths.push(path);
    }
    let folder = common_folder(&paths);
    for (file, path) in files.iter().zip(&paths) {
        let below = path.strip_prefix(&folder).unwrap_or(path);
        write(&out.join(below), &file.text)?;
    }
    Ok(())
}

/// The innermost folder that holds all of `files`.
fn common_folder(files: &[PathBuf]) -> PathBuf {
    let folders = files
        .iter()
        .map(|file| file.parent().unwrap_or(Path::new("")).to_owned());
    let common = folders.reduce(|common, folder| {
        let pairs = common.components().zip(folder.components());
        let same = pairs.take_while(|(a, b)| a == b);
        same.map(|(component, _)| component).collect()
    });
    common.unwrap_or_default()
}
