//! What every subcommand that reads a schema takes, and the reading.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qapi_parser::{Diagnostics, Dialect, Loader, Schema};

/// The schema and how to read it.
#[derive(Args)]
pub(crate) struct Input {
    /// The schema's root file
    #[arg(value_name = "SCHEMA")]
    schema: PathBuf,

    /// Merge this overlay into the schema; may be given more than once
    #[arg(long, value_name = "FILE")]
    overlay: Vec<PathBuf>,

    /// Take no documentation from the comments of files of this name
    #[arg(long, value_name = "NAME")]
    no_comments: Vec<String>,

    /// Refuse definitions, members and values without documentation
    #[arg(long)]
    require_docs: bool,

    /// Which language the schema is written in
    #[arg(long, value_name = "DIALECT", default_value = "auto")]
    dialect: Language,
}

/// [`Dialect`] as a word.
#[derive(Clone, Copy, ValueEnum)]
enum Language {
    /// Each expression tells
    Auto,
    /// That of QEMU 2.1
    Legacy,
    /// Today's
    Modern,
}

impl Input {
    pub(crate) fn load(&self) -> Result<Schema, Diagnostics> {
        let mut loader = Loader::new().dialect(match self.dialect {
            Language::Auto => Dialect::Auto,
            Language::Legacy => Dialect::Legacy,
            Language::Modern => Dialect::Modern,
        });
        for overlay in &self.overlay {
            loader = loader.overlay(overlay);
        }
        for name in &self.no_comments {
            loader = loader.without_comments(name);
        }
        if self.require_docs {
            loader = loader.require_docs();
        }
        loader.load(&self.schema)
    }
}
