//! Reads and checks QAPI schemas: the language of QEMU's `qapi/*.json`.
//!
//! [`Loader`] runs the passes, one way: source → grammar → syntax → check one expression →
//! include → overlay → resolve names → [`Schema`]. Every pass collects what it finds wrong into
//! one [`Diagnostics`], so that one run shows all of it, each with file, line, column and source.
//!
//! Two dialects are read, told apart by what an expression can only be: QEMU 2.1's and today's.
//! Knows nothing of Rust code: that is `qapi-codegen`.

// The grammar's generated code names it, since pest is taken without its guard of the stack, which
// costs a system's look at every rule: depth is bounded before the grammar starts.
extern crate alloc;

mod source;

mod cut;
mod parse;
mod syntax;

mod check;
mod doc;
mod include;
mod overlay;
mod pragma;
mod resolve;

mod rewrite;

mod cond;
mod error;
mod schema;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use cond::Cond;
pub use error::{Diagnostic, Diagnostics};
pub use rewrite::{Migrated, Migration, format, migrate};
pub use schema::{
    Alternate, Arguments, Base, Branch, Builtin, Command, Dialect, Doc, Entity, Enum, EnumValue,
    Event, Feature, FlatUnion, JsonType, Kind, Member, Module, Schema, Section, SectionKind,
    SimpleUnion, Struct, Type,
};
pub use source::{FileId, Place, Source, Sources, Span};

/// Says what a schema is made of, then reads it.
#[derive(Debug, Clone, Default)]
pub struct Loader {
    overlays: Vec<PathBuf>,
    silent: Vec<String>,
    documented: bool,
    dialect: Dialect,
}

impl Loader {
    /// A loader that reads nothing but the schema's own files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an overlay file; overlays are merged in the order given.
    #[must_use]
    pub fn overlay(mut self, path: impl Into<PathBuf>) -> Self {
        self.overlays.push(path.into());
        self
    }

    /// Takes no documentation from the comments of files called `name`.
    ///
    /// For schemas whose comments have another licence than the generated code.
    #[must_use]
    pub fn without_comments(mut self, name: impl Into<String>) -> Self {
        self.silent.push(name.into());
        self
    }

    /// Makes a definition, member or value without documentation an error.
    #[must_use]
    pub fn require_docs(mut self) -> Self {
        self.documented = true;
        self
    }

    /// Reads every expression as `dialect` has it, instead of as what it can only be.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Reads the schema whose root file is `path`.
    ///
    /// # Errors
    /// Everything that is wrong with it, ready to be displayed.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Schema, Diagnostics> {
        let mut diagnostics = Diagnostics::default();
        let mut reader = include::Reader {
            silent: &self.silent,
            diagnostics: &mut diagnostics,
            out: include::Files::default(),
            stack: Vec::new(),
            done: HashSet::new(),
        };
        reader.root(path.as_ref());
        let files = reader.out;
        let pragmas = files.pragmas.clone();
        let mut schema = Schema::default();
        let mut origins = resolve::Origins::new();
        for draft in check::check(files, self.dialect, &mut schema, &mut diagnostics) {
            resolve::define(&mut schema, &mut origins, draft, &mut diagnostics);
        }
        for overlay in &self.overlays {
            let Some(text) = include::read_text(overlay, None, &mut diagnostics) else {
                continue;
            };
            let file = diagnostics.sources.add(overlay, Arc::clone(&text), None);
            overlay::merge(&mut schema, &mut origins, file, &text, &mut diagnostics);
        }
        resolve::check(&mut schema, &origins, &pragmas, &mut diagnostics);
        if self.documented {
            doc::require(&schema, &mut diagnostics);
        }
        diagnostics.sort();
        schema.files = diagnostics
            .sources
            .files()
            .map(|source| source.path.clone())
            .collect();
        if diagnostics.is_empty() {
            Ok(schema)
        } else {
            Err(diagnostics)
        }
    }
}

/// Reads the schema whose root file is `path`, without overlays.
///
/// # Errors
/// Everything that is wrong with it, ready to be displayed.
pub fn parse(path: impl AsRef<Path>) -> Result<Schema, Diagnostics> {
    Loader::new().load(path)
}

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
