//! Follows includes: root file to a list of expressions, in schema order; obeys pragmas.
//! Called by `lib.rs`. A file included twice is read once, as in QEMU.
//! Invariant: a cycle of includes is a diagnostic that names its files.

use std::path::{Path, PathBuf};

use crate::check::Comments;
use crate::check::draft::Scope;
use crate::error::{Diagnostic, Diagnostics};
use crate::parse;
use crate::pragma::Pragmas;
use crate::source::Span;
use crate::syntax::{Expression, Object};

/// An expression, and the file it stands in.
pub(crate) struct Item {
    pub(crate) expression: Expression,
    /// The file's stem.
    pub(crate) module: String,
    pub(crate) comments: Comments,
}

/// Reads a schema's files.
pub(crate) struct Reader<'a> {
    /// Names of files whose comments are not documentation.
    pub(crate) silent: &'a [String],
    pub(crate) diagnostics: &'a mut Diagnostics,
    pub(crate) items: Vec<Item>,
    /// Stems of the files, in the order of their first lines.
    pub(crate) modules: Vec<String>,
    pub(crate) pragmas: Pragmas,
    /// Files being read, outermost first.
    pub(crate) stack: Vec<PathBuf>,
    /// Files read to their end.
    pub(crate) done: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Reads `path`, which the `include` at `asked` names, and what it includes.
    pub(crate) fn read(&mut self, path: &Path, asked: Option<Span>) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.done.contains(&identity) {
            return;
        }
        if let Some(first) = self.stack.iter().position(|open| *open == identity) {
            if let Some(span) = asked {
                self.diagnostics
                    .push(Diagnostic::include_cycle(span, &self.cycle(first)));
            }
            return;
        }
        let Some(text) = read_text(path, asked, self.diagnostics) else {
            return;
        };
        let file = self.diagnostics.sources.add(path, text.clone(), asked);
        self.stack.push(identity.clone());
        let module = path
            .file_stem()
            .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        self.modules.push(module.clone());
        let silent = path
            .file_name()
            .is_some_and(|n| self.silent.iter().any(|s| n == s.as_str()));
        let comments = if silent {
            Comments::Skip
        } else {
            Comments::Read
        };
        for expression in parse::schema(file, &text, self.diagnostics) {
            let object = &expression.object;
            if object.find("include").is_some() {
                self.include(path, object);
            } else if object.find("pragma").is_some() {
                self.pragmas.obey(object, self.diagnostics);
            } else {
                self.items.push(Item {
                    expression,
                    module: module.clone(),
                    comments,
                });
            }
        }
        self.stack.pop();
        self.done.push(identity);
    }

    /// Obeys the include `object` in the file `path`.
    fn include(&mut self, path: &Path, object: &Object) {
        let scope = Scope::anonymous(object.span);
        if let Some((other, _)) = object.pairs.iter().find(|(key, _)| key.text != "include") {
            let error = Diagnostic::directive_keys(&scope, other.span, "include");
            self.diagnostics.push(error);
        }
        let Some(value) = object.find("include") else {
            return;
        };
        match value.as_text() {
            Some(name) => {
                let folder = path.parent().unwrap_or_else(|| Path::new(""));
                self.read(&folder.join(&name.text), Some(name.span));
            }
            None => {
                let error = Diagnostic::include_shape(&scope, value.span, value.kind());
                self.diagnostics.push(error);
            }
        }
    }

    fn cycle(&self, first: usize) -> String {
        let name = |path: &PathBuf| {
            path.file_name()
                .map_or_else(String::new, |n| n.to_string_lossy().into_owned())
        };
        let mut names: Vec<String> = self.stack[first..].iter().map(name).collect();
        names.push(name(&self.stack[first]));
        names.join(" → ")
    }
}

/// The text of `path`; a diagnostic if it cannot be read or is not UTF-8.
pub(crate) fn read_text(
    path: &Path,
    asked: Option<Span>,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            diagnostics.push(Diagnostic::unreadable(asked, path, &error));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            diagnostics.push(Diagnostic::not_utf8(asked, path, offset));
            None
        }
    }
}
