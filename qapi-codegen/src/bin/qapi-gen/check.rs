//! `qapi-gen check`: everything that is wrong with a schema.

use clap::Args;

use super::Failure;
use super::load::Input;

/// Say everything that is wrong with a schema
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen check qapi/qapi-schema.json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.input.load()?;
    Ok(())
}
