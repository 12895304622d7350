//! `qapi-gen fmt`: schema files in one layout.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, print, read, write};

/// Lay out schema files as QEMU lays out its own
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen fmt qapi/*.json
  qapi-gen fmt --check qapi/*.json
  qapi-gen fmt - < schema.json

Files are rewritten in place, those alone that change; `-` is standard input, to standard output.
Comments stay where they are. What a schema means is not judged: that is `qapi-gen check`.")]
pub(crate) struct Arguments {
    /// Schema files; `-` for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Write nothing; name the files that are laid out otherwise, and fail if there are any
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (mut wrong, mut different) = (Vec::new(), 0);
    for path in &arguments.files {
        match file(path, arguments.check) {
            Ok(Layout::Kept) => {}
            Ok(Layout::Different) => different += 1,
            Err(Failure(text)) => wrong.push(text),
        }
    }
    if different > 0 {
        wrong.push(match different {
            1 => "1 file is laid out otherwise".to_owned(),
            count => format!("{count} files are laid out otherwise"),
        });
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure(wrong.join("\n")))
    }
}

enum Layout {
    /// It was right, or is now.
    Kept,
    Different,
}

fn file(path: &Path, check: bool) -> Result<Layout, Failure> {
    let is_input = path == Path::new("-");
    let text = if is_input { read_input()? } else { read(path)? };
    let formatted = qapi_parser::format(path, &text)?;
    if check {
        if text == formatted {
            return Ok(Layout::Kept);
        }
        print(&format!("{}\n", path.display()))?;
        return Ok(Layout::Different);
    }
    if is_input {
        print(&formatted)?;
    } else {
        write(path, &formatted)?;
    }
    Ok(Layout::Kept)
}

fn read_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure(format!("cannot read standard input: {error}")))?;
    Ok(text)
}
