//! `qapi-gen rust`: typed Rust from a schema.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use qapi_codegen::{
    Change, Client, Conditions, Futures, Growth, Hook, Missing, Only, Options, Part, Runtime,
    Serde, Server, Unknown, generate, generate_text,
};

use super::load::Input;
use super::{Failure, print, write};

/// Generate Rust
#[derive(Args)]
#[command(after_help = "\
Examples:
  qapi-gen rust schema.json > src/qapi.rs
  qapi-gen rust --serde=serde --out src/qapi schema.json
  qapi-gen rust --only query-block --only BLOCK_JOB_READY schema.json
  qapi-gen rust --derive BlockdevOptions=Eq --conditions features schema.json

The same schema and options give the same bytes. Without --out, the result is the content of one
module; with it, a folder of files whose root is mod.rs. Files that are right already are not
touched.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    input: Input,

    /// Write a folder of files instead of standard output
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Implement serde's traits for every type; with FEATURE, when the crate's cargo feature is on
    #[arg(long, value_name = "FEATURE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    serde: Option<String>,

    /// Use the support code of the module at this path instead of writing it too
    #[arg(long, value_name = "PATH")]
    runtime: Option<String>,

    /// What becomes of `if`
    #[arg(long, value_name = "HOW", default_value = "all-on")]
    conditions: If,

    /// A symbol of `if` that is configured, others are not; may be given more than once
    #[arg(
        long,
        value_name = "SYMBOL",
        value_delimiter = ',',
        conflicts_with = "conditions"
    )]
    config: Vec<String>,

    /// Whether types keep enum values and branches that the schema does not have
    #[arg(long, value_name = "HOW", default_value = "open")]
    unknown: Strangers,

    /// Whether structs and enums are `#[non_exhaustive]`; as `--unknown` says, unless given
    #[arg(long, value_name = "HOW")]
    growth: Option<Listing>,

    /// Generate only this command or event and what it uses; may be given more than once
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// What a server answers to a command that it has no code for
    #[arg(long, value_name = "HOW", default_value = "not-found")]
    missing: Absent,

    /// Let the futures of a server's methods run on any thread
    #[arg(long)]
    send: bool,

    /// Also emit a client that does not block, for any executor
    #[arg(long)]
    asynchronous: bool,

    /// The same with tokio's streams; with FEATURE, when the crate's cargo feature is on
    #[arg(long, value_name = "FEATURE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    tokio: Option<String>,

    /// The same with streams of futures-io
    #[arg(long, value_name = "FEATURE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    futures: Option<String>,

    /// Let clients send descriptors, by rustix
    #[arg(long, value_name = "FEATURE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    descriptors: Option<String>,

    /// Derive a trait for a definition too: NAME=TRAIT
    #[arg(long, value_name = "NAME=TRAIT", value_parser = split)]
    derive: Vec<(String, String)>,

    /// Put an attribute on a definition, member, value or branch: NAME[.MEMBER]=#[…]
    #[arg(long, value_name = "PATH=ATTRIBUTE", value_parser = split)]
    attribute: Vec<(String, String)>,

    /// Use a Rust type for a definition or member: NAME[.MEMBER]=TYPE
    #[arg(long, value_name = "PATH=TYPE", value_parser = split)]
    replace: Vec<(String, String)>,
}

/// [`Conditions`] as a word.
#[derive(Clone, Copy, ValueEnum)]
enum If {
    /// Everything is there
    AllOn,
    /// Kept, as cargo features: CONFIG_LINUX is config-linux
    Features,
    /// Decided: no symbol but those of --config is configured
    Resolved,
}

/// [`Unknown`] as a word.
#[derive(Clone, Copy, ValueEnum)]
enum Strangers {
    /// In one more variant, for clients
    Open,
    /// They are errors
    Closed,
}

/// [`Growth`] as a word.
#[derive(Clone, Copy, ValueEnum)]
enum Listing {
    /// They are
    NonExhaustive,
    /// They are not
    Exhaustive,
}

/// [`Missing`] as a word.
#[derive(Clone, Copy, ValueEnum)]
enum Absent {
    /// That there is no such command
    NotFound,
    /// That it is not built in
    NotBuiltIn,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let schema = arguments.input.load()?;
    let options = arguments.options();
    let Some(folder) = &arguments.out else {
        return print(&generate_text(&schema, &options)?);
    };
    for file in generate(&schema, &options, "qapi-gen rust")? {
        write(&folder.join(file.path), &file.text)?;
    }
    Ok(())
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            serde: match self.serde.as_deref() {
                None => Serde::Off,
                Some("") => Serde::On,
                Some(feature) => Serde::Feature(feature.to_owned()),
            },
            runtime: match &self.runtime {
                None => Runtime::Inline,
                Some(path) => Runtime::Path(path.clone()),
            },
            conditions: match self.conditions {
                _ if !self.config.is_empty() => self.resolved(),
                If::AllOn => Conditions::AllOn,
                If::Features => Conditions::Features,
                If::Resolved => self.resolved(),
            },
            unknown: match self.unknown {
                Strangers::Open => Unknown::Open,
                Strangers::Closed => Unknown::Closed,
            },
            growth: match self.growth {
                None => Growth::AsUnknown,
                Some(Listing::NonExhaustive) => Growth::NonExhaustive,
                Some(Listing::Exhaustive) => Growth::Exhaustive,
            },
            only: match self.only.as_slice() {
                [] => Only::Everything,
                names => Only::Named(names.iter().cloned().collect()),
            },
            hooks: self.hooks(),
            client: Client {
                asynchronous: if self.asynchronous {
                    Part::On
                } else {
                    Part::Off
                },
                tokio: part(self.tokio.as_deref()),
                futures: part(self.futures.as_deref()),
                descriptors: part(self.descriptors.as_deref()),
            },
            server: Server {
                missing: match self.missing {
                    Absent::NotFound => Missing::NotFound,
                    Absent::NotBuiltIn => Missing::NotBuiltIn,
                },
                futures: if self.send {
                    Futures::Send
                } else {
                    Futures::Local
                },
            },
        }
    }

    fn resolved(&self) -> Conditions {
        Conditions::Resolved(self.config.iter().cloned().collect())
    }

    fn hooks(&self) -> Vec<Hook> {
        let hooks = |pairs: &[(String, String)], change: fn(String) -> Change| {
            let hook = |(path, text): &(String, String)| Hook {
                path: path.clone(),
                change: change(text.clone()),
            };
            pairs.iter().map(hook).collect::<Vec<_>>()
        };
        let mut all = hooks(&self.derive, Change::Derive);
        all.extend(hooks(&self.attribute, Change::Attribute));
        all.extend(hooks(&self.replace, Change::Replace));
        all
    }
}

/// A part that may have the name of a cargo feature.
fn part(argument: Option<&str>) -> Part {
    match argument {
        None => Part::Off,
        Some("") => Part::On,
        Some(feature) => Part::Feature(feature.to_owned()),
    }
}

/// `PATH=TEXT`; the text may hold more `=`.
fn split(argument: &str) -> Result<(String, String), String> {
    let (path, text) = argument.split_once('=').ok_or("there is no `=` in it")?;
    Ok((path.to_owned(), text.to_owned()))
}
