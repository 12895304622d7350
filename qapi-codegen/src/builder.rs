//! For build scripts: a schema in, a file in `OUT_DIR` out.
//! Called by users; the macro takes [`Builder::text`]. Invariant: every file that was read is told
//! to cargo.

use std::path::{Path, PathBuf};

use qapi_parser::{Dialect, Loader};

use crate::options::{Change, Conditions, Growth, Hook, Only, Options, Runtime, Serde, Unknown};
use crate::{Error, generate_text};

/// Generates code from a build script.
///
/// ```no_run
/// use qapi_codegen::{Builder, Conditions, Serde};
///
/// Builder::new("qapi/schema.json")
///     .conditions(Conditions::Resolved(["CONFIG_LINUX".to_owned()].into()))
///     .serde(Serde::Feature("serde".to_owned()))
///     .only(["query-block", "blockdev-add", "BLOCK_JOB_READY"])
///     .derive("BlockdevDriver", "strum::EnumIter")
///     .replace("BlockdevOptionsFile.filename", "std::path::PathBuf")
///     .build();
/// ```
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

    /// Reads the schema as this dialect; by default each expression as what it can only be.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.loader = self.loader.dialect(dialect);
        self
    }

    /// Adds an overlay file, which adds to the schema's definitions.
    #[must_use]
    pub fn overlay(mut self, path: impl Into<PathBuf>) -> Self {
        self.loader = self.loader.overlay(path);
        self
    }

    /// Takes no documentation from the comments of files called `name`.
    #[must_use]
    pub fn without_comments(mut self, name: impl Into<String>) -> Self {
        self.loader = self.loader.without_comments(name);
        self
    }

    /// What becomes of `if`; by default everything is there.
    #[must_use]
    pub fn conditions(mut self, conditions: Conditions) -> Self {
        self.options.conditions = conditions;
        self
    }

    /// What types do with values and branches that the schema does not have; by default they keep
    /// them.
    #[must_use]
    pub fn unknown(mut self, unknown: Unknown) -> Self {
        self.options.unknown = unknown;
        self
    }

    /// Whether types are `#[non_exhaustive]`; by default those of open output are.
    #[must_use]
    pub fn growth(mut self, growth: Growth) -> Self {
        self.options.growth = growth;
        self
    }

    /// Generates only these commands and events, with the types that they use.
    #[must_use]
    pub fn only<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        let names = names.into_iter().map(Into::into);
        match &mut self.options.only {
            Only::Named(all) => all.extend(names),
            Only::Everything => self.options.only = Only::Named(names.collect()),
        }
        self
    }

    /// Derives `path` for definition `name` too.
    #[must_use]
    pub fn derive(self, name: impl Into<String>, path: impl Into<String>) -> Self {
        self.hook(name, Change::Derive(path.into()))
    }

    /// Puts `attribute`, as in `#[doc(hidden)]`, on what `path` names: `Type` or `Type.member`.
    #[must_use]
    pub fn attribute(self, path: impl Into<String>, attribute: impl Into<String>) -> Self {
        self.hook(path, Change::Attribute(attribute.into()))
    }

    /// Uses Rust type `with` for what `path` names: `Type` or `Type.member`.
    #[must_use]
    pub fn replace(self, path: impl Into<String>, with: impl Into<String>) -> Self {
        self.hook(path, Change::Replace(with.into()))
    }

    fn hook(mut self, path: impl Into<String>, change: Change) -> Self {
        let path = path.into();
        self.options.hooks.push(Hook { path, change });
        self
    }

    /// Whether types implement serde's traits; by default they do not.
    #[must_use]
    pub fn serde(mut self, serde: Serde) -> Self {
        self.options.serde = serde;
        self
    }

    /// Where the runtime comes from; by default it is emitted too.
    #[must_use]
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.options.runtime = runtime;
        self
    }

    /// Replaces all that the methods above set in [`Options`].
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
    /// What is wrong with the schema or the options, or has no name in Rust.
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

    /// Writes the file, and tells cargo what to watch.
    ///
    /// # Errors
    /// Those of [`Builder::text`], or why the file cannot be written.
    pub fn try_build(&self) -> Result<(), Error> {
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
