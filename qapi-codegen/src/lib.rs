//! Generates typed Rust from QAPI schemas.
//!
//! # From a build script
//! ```no_run
//! // build.rs
//! qapi_codegen::Builder::new("qapi/schema.json").build();
//! ```
//! ```ignore
//! // src/lib.rs
//! /// The schema's types, commands and events.
//! pub mod qapi {
//!     include!(concat!(env!("OUT_DIR"), "/qapi.rs"));
//! }
//! ```
//! [`Builder`] has a method an option. [`generate`] gives the same as files, to be committed;
//! the macro `qapi_macros::schema!` expands to it; `qapi-gen rust` prints it.
//!
//! # What comes out
//! `types`, `commands` and `events` have one type a definition; `Server` and `dispatch` are for
//! servers, `runtime::Client` for clients, `Event` for both, `introspect` is the schema as data.
//! Optional members are `Option`, with a method that sets them; `new` takes the required ones. A
//! flat union is a struct whose field named like the discriminator holds an enum of branches.
//! Whatever a schema is called has a name in Rust: keywords are raw (`r#type`), names of the
//! prelude end in `_` (`String_`), of two names that meet the later one has a number (`Foo2`).
//! Documentation becomes rustdoc, with links; `deprecated` becomes `#[deprecated]`; recursion is
//! boxed where fewest boxes do.
//!
//! Generated code depends on no crate (serde, where asked), is safe under
//! `#![forbid(unsafe_code)]`, compiles under the editions 2018 to 2024 without warnings, and is the
//! same to the byte from run to run.
//!
//! # Versions
//! A client outlives its server's version. By default ([`Unknown::Open`]) enums have a variant
//! `Other` that keeps a name the schema does not have, unions with a tag one that keeps tag and
//! members, and both are `#[non_exhaustive]`. A server still refuses what it does not know: that
//! is decided where data is decoded, not here.
//!
//! Passes: select → names → plan → emit → files. Everything that may differ from one schema to the
//! next is an [`Options`]; no emitter knows a type by its name.

mod builder;
mod emit;
mod file;
mod hooks;
pub mod introspect;
mod markdown;
mod names;
mod options;
mod paths;
mod plan;
mod print;
mod select;
mod tokens;

#[path = "../runtime/mod.rs"]
pub mod runtime;

#[cfg(test)]
mod runtime_tests;

use std::fmt;
use std::path::PathBuf;

pub use builder::Builder;
pub use file::GeneratedFile;
use hooks::Hooks;
use names::{Names, Unnamed};
pub use options::{
    Change, Client, Conditions, Futures, Growth, Hook, Missing, Only, Options, Part, Runtime,
    Serde, Server, Unknown, feature_name,
};
pub use paths::paths;
use plan::Plan;
pub use qapi_parser::Dialect;
use qapi_parser::{Diagnostics, Schema};
pub use select::features;

/// Why there is no generated code.
#[derive(Debug)]
pub enum Error {
    /// The schema is wrong.
    Schema(Box<Diagnostics>),
    /// What the schema or the options ask for has no form in Rust; one message each, with its
    /// place.
    Refused(Vec<String>),
    /// The result cannot be written.
    Write(PathBuf, std::io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(diagnostics) => diagnostics.fmt(f),
            Self::Refused(messages) => {
                for message in messages {
                    writeln!(f, "error: {message}")?;
                }
                Ok(())
            }
            Self::Write(path, error) => write!(f, "cannot write {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

/// Generates a folder of files: `mod.rs`, a file for each schema file, the runtime. `by` is what
/// to run to make them again; it stands in their first line.
///
/// # Errors
/// [`Error::Refused`].
pub fn generate(schema: &Schema, options: &Options, by: &str) -> Result<Vec<GeneratedFile>, Error> {
    Ok(modules(schema, options)?.into_files(by))
}

/// Generates the same as the content of one module.
///
/// # Errors
/// [`Error::Refused`].
pub fn generate_text(schema: &Schema, options: &Options) -> Result<String, Error> {
    Ok(modules(schema, options)?.into_text())
}

fn modules(schema: &Schema, options: &Options) -> Result<file::Module, Error> {
    let schema = &select::select(schema, options).map_err(Error::Refused)?;
    let names = Names::new(schema).map_err(|unnamed| {
        let message = |unnamed: Unnamed| {
            let Unnamed { name, span } = unnamed;
            let place = schema.locate(span);
            format!("`{name}` has no letter or digit for a name in Rust\n --> {place}")
        };
        Error::Refused(unnamed.into_iter().map(message).collect())
    })?;
    let context = emit::Context {
        schema,
        options,
        names,
        plan: Plan::new(schema),
        hooks: Hooks::new(schema, &options.hooks).map_err(Error::Refused)?,
    };
    Ok(emit::emit(&context))
}
