//! `qapi-gen`: a QAPI schema to Rust, from the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use qapi_codegen::{Options, Serde, generate, generate_text};
use qapi_parser::Loader;

const USAGE: &str = "usage: qapi-gen [options] SCHEMA.json

Writes the generated code to standard output, as the content of one module.

  --overlay FILE      merges an overlay into the schema; may be given more than once
  --no-comments NAME  takes no documentation from the comments of files of this name
  --out FOLDER        writes a folder of files instead, its root mod.rs
  --serde             implements serde's traits for every type
  --check             only says what is wrong with the schema";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let mut loader = Loader::new();
    let mut options = Options::default();
    let (mut schema, mut out, mut check) = (None, None, false);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--overlay" => loader = loader.overlay(value()?),
            "--no-comments" => loader = loader.without_comments(value()?),
            "--out" => out = Some(PathBuf::from(value()?)),
            "--serde" => options.serde = Serde::On,
            "--check" => check = true,
            _ if argument.starts_with('-') || schema.is_some() => return Err(USAGE.to_owned()),
            _ => schema = Some(PathBuf::from(argument)),
        }
    }
    let schema = schema.ok_or(USAGE)?;
    let schema = loader.load(schema).map_err(|errors| errors.to_string())?;
    if check {
        return Ok(());
    }
    let Some(folder) = out else {
        print!(
            "{}",
            generate_text(&schema, &options).map_err(|error| error.to_string())?
        );
        return Ok(());
    };
    for file in generate(&schema, &options, "qapi-gen").map_err(|error| error.to_string())? {
        write(&folder.join(file.path), &file.text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}
