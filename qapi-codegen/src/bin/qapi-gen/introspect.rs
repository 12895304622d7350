//! `qapi-gen introspect`: what a program built from a schema answers to `query-qmp-schema`.

use clap::Args;
use qapi_codegen::introspect::{Config, TypeNames, introspect};

use super::load::Input;
use super::{Failure, print};

/// Print what `query-qmp-schema` answers, as JSON
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen introspect --config-all schema.json
  qapi-gen introspect --config CONFIG_LINUX --config CONFIG_FUSE --unmask schema.json

Without --config, no symbol is configured: what has an `if` is left out, unless it says `not`.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,

    /// A symbol of `if` that is configured; may be given more than once
    #[arg(long, value_name = "SYMBOL", value_delimiter = ',')]
    config: Vec<String>,

    /// Keep everything that has an `if`, whatever it says
    #[arg(long, conflicts_with = "config")]
    config_all: bool,

    /// Call types by their names instead of by numbers
    #[arg(long)]
    unmask: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let schema = arguments.input.load()?;
    let config = if arguments.config_all {
        Config::Everything
    } else {
        arguments.config.iter().collect()
    };
    let names = if arguments.unmask {
        TypeNames::Plain
    } else {
        TypeNames::Masked
    };
    let answer = introspect(&schema, names, &config);
    print(&format!("{}\n", answer.to_pretty_json()))
}
