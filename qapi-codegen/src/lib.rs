//! Generates typed Rust from QAPI schemas.
//!
//! From a build script:
//! ```no_run
//! qapi_codegen::Builder::new("schema/block-core.json").build();
//! ```
//! and in the crate, `#[expect(missing_docs)] mod qapi { include!(concat!(env!("OUT_DIR"),
//! "/qapi.rs")); }`. [`generate`] gives the same as files, to be committed.
//!
//! Passes: names → plan → emit → files. Everything that may differ from one schema to the next is
//! an [`Options`]; no emitter knows a type by its name.

mod emit;
mod file;
pub mod introspect;
mod names;
mod options;
mod paths;
mod plan;

#[path = "../runtime/mod.rs"]
pub mod runtime;

#[cfg(test)]
mod runtime_tests;

use std::fmt;
use std::path::{Path, PathBuf};

pub use file::GeneratedFile;
use names::{Names, Unnamed};
pub use options::{
    Change, Conditions, Futures, Growth, Hook, Missing, Only, Options, Runtime, Serde, Server,
    Unknown, feature_name,
};
pub use paths::paths;
use plan::Plan;
use qapi_parser::{Diagnostics, Loader, Schema};

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
    let names = Names::new(schema).map_err(|unnamed| {
        let message = |unnamed: Unnamed| {
            let Unnamed { name, span } = unnamed;
            format!(
                "`{name}` has no letter or digit for a name in Rust\n --> {}",
                schema.locate(span)
            )
        };
        Error::Refused(unnamed.into_iter().map(message).collect())
    })?;
    let plan = Plan::new(schema);
    let context = emit::Context {
        schema,
        options,
        names,
        plan,
    };
    Ok(emit::emit(&context))
}

/// For build scripts: a schema in, a file in `OUT_DIR` out.
#[derive(Debug, Clone)]
pub struct Builder {
    schema: PathBuf,
    loader: Loader,
    options: Options,
    file: String,
}

impl Builder {
    /// Will read the schema whose root file is `schema`, relative to the package.
    pub fn new(schema: impl Into<PathBuf>) -> Self {
        Self {
            schema: schema.into(),
            loader: Loader::new(),
            options: Options::default(),
            file: "qapi.rs".to_owned(),
        }
    }

    /// Adds an overlay file.
    #[must_use]
    pub fn overlay(mut self, path: impl Into<PathBuf>) -> Self {
        self.loader = self.loader.overlay(path);
        self
    }

    /// Replaces the options.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Names the file in `OUT_DIR`; `qapi.rs` by default.
    #[must_use]
    pub fn file(mut self, name: impl Into<String>) -> Self {
        self.file = name.into();
        self
    }

    /// Generates the code as text, and the files it was made from.
    ///
    /// # Errors
    /// What is wrong with the schema, or with its names.
    pub fn text(&self) -> Result<(String, Vec<PathBuf>), Error> {
        let schema = self
            .loader
            .load(&self.schema)
            .map_err(|errors| Error::Schema(Box::new(errors)))?;
        Ok((generate_text(&schema, &self.options)?, schema.files))
    }

    /// Writes the file, and tells cargo what to watch. On an error it prints it and ends the
    /// build script.
    pub fn build(&self) {
        if let Err(error) = self.try_build() {
            // Build scripts speak to people through standard error.
            eprintln!("{error}");
            std::process::exit(1);
        }
    }

    fn try_build(&self) -> Result<(), Error> {
        println!("cargo::rerun-if-changed={}", self.schema.display());
        let (text, files) = self.text()?;
        for file in files {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        let folder = std::env::var_os("OUT_DIR")
            .map(PathBuf::from)
            .unwrap_or_default();
        write_if_changed(&folder.join(&self.file), &text)
    }
}

fn write_if_changed(path: &Path, text: &str) -> Result<(), Error> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(path, text).map_err(|error| Error::Write(path.to_owned(), error))
}
