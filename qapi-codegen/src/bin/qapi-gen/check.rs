//! `qapi-gen check`: everything that is wrong with a schema.

use clap::{Args, ValueEnum};

use super::Failure;
use super::load::Input;

/// Say everything that is wrong with a schema
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen check qapi/qapi-schema.json
  qapi-gen check --format gcc --dialect modern qapi/qapi-schema.json
  qapi-gen check --format json schema.json 2> findings.json

Findings go to standard error; a schema that is right is checked in silence.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,

    /// How to say it
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// With the lines of the schema, and other places that matter
    Human,
    /// A line a finding, as compilers do: FILE:LINE:COLUMN: error: TEXT
    Gcc,
    /// An array of findings
    Json,
    /// The words of QEMU's compiler, which stops at the first
    Qemu,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Err(found) = arguments.input.load() else {
        return Ok(());
    };
    Err(Failure(match arguments.format {
        Format::Human => found.to_string(),
        Format::Gcc => found.gcc(),
        Format::Json => found.json(),
        Format::Qemu => found.reference(),
    }))
}
