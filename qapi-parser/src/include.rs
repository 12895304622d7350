//! Follows includes: root file to a list of expressions, in schema order; obeys pragmas.
//! Called by `lib.rs`. A file included twice is read once, as in QEMU.
//! Invariant: a cycle of includes is a diagnostic that names its files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::check::draft::Scope;
use crate::doc::{Gap, Next};
use crate::error::{Diagnostic, Diagnostics};
use crate::parse;
use crate::pragma::Pragmas;
use crate::source::{FileId, Span};
use crate::syntax::{Expression, Object};

/// How many levels files may include one another.
const MAX_DEPTH: usize = 128;

/// Whether documentation is read from comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    Read,
    Skip,
}

/// An expression, and the file it stands in.
pub(crate) struct Item {
    pub(crate) expression: Expression,
    /// The file's stem.
    pub(crate) module: Arc<str>,
    pub(crate) comments: Comments,
}

/// Comments that no definition follows, or none that could be read.
pub(crate) struct Loose {
    pub(crate) file: FileId,
    pub(crate) module: Arc<str>,
    pub(crate) gap: Gap,
    pub(crate) next: Next,
    /// Where what follows ends.
    pub(crate) end: usize,
}

/// Reads a schema's files.
pub(crate) struct Reader<'a> {
    /// Names of files whose comments are not documentation.
    pub(crate) silent: &'a [String],
    pub(crate) diagnostics: &'a mut Diagnostics,
    pub(crate) out: Files,
    /// Files being read, outermost first.
    pub(crate) stack: Vec<PathBuf>,
    /// Files read to their end.
    pub(crate) done: HashSet<PathBuf>,
}

/// What the files of a schema say.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) items: Vec<Item>,
    pub(crate) loose: Vec<Loose>,
    /// Stems of the files, in the order of their first lines.
    pub(crate) modules: Vec<Arc<str>>,
    pub(crate) pragmas: Pragmas,
}

/// The include that asks for a file: its expression, the name in it and where that stands.
#[derive(Clone, Copy)]
struct Asked<'a> {
    scope: &'a Scope,
    name: &'a str,
    span: Span,
}

impl Reader<'_> {
    /// Reads the root `path` and what it includes.
    pub(crate) fn root(&mut self, path: &Path) {
        self.read(path, None);
    }

    fn read(&mut self, path: &Path, asked: Option<Asked<'_>>) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(first) = self.stack.iter().position(|open| *open == identity) {
            if let Some(Asked { scope, name, span }) = asked {
                let error = Diagnostic::include_cycle(scope, span, name, &self.cycle(first));
                self.diagnostics.push(error);
            }
            return;
        }
        if self.done.contains(&identity) {
            return;
        }
        if let Some(asked) = asked.filter(|_| self.stack.len() == MAX_DEPTH) {
            let error = Diagnostic::includes_too_deep(asked.span, MAX_DEPTH);
            self.diagnostics.push(error);
            return;
        }
        let place = asked.map(|asked| (asked.scope, asked.span));
        let Some(text) = read_text(path, place, self.diagnostics) else {
            return;
        };
        let span = asked.map(|asked| asked.span);
        let file = self.diagnostics.sources.add(path, Arc::clone(&text), span);
        self.stack.push(identity.clone());
        self.expressions(path, file, &text);
        self.stack.pop();
        self.done.insert(identity);
    }

    fn expressions(&mut self, path: &Path, file: FileId, text: &str) {
        let module = path.file_stem().unwrap_or_default();
        let module: Arc<str> = Arc::from(module.to_string_lossy());
        self.out.modules.push(Arc::clone(&module));
        let name = path.file_name().unwrap_or_default();
        let comments = if self.silent.iter().any(|silent| name == silent.as_str()) {
            Comments::Skip
        } else {
            Comments::Read
        };
        let parsed = parse::schema(file, text, self.diagnostics);
        let mut loose = Vec::new();
        for expression in parsed.expressions {
            let object = &expression.object;
            if object.find("include").is_some() {
                loose.push((expression.gap, object.span.end));
                self.include(path, &expression.object);
            } else if object.find("pragma").is_some() {
                loose.push((expression.gap, object.span.end));
                self.out.pragmas.obey(&expression.object, self.diagnostics);
            } else {
                self.out.items.push(Item {
                    expression,
                    module: Arc::clone(&module),
                    comments,
                });
            }
        }
        loose.push((parsed.rest, text.len()));
        if comments == Comments::Read {
            let lost = parsed.lost.into_iter();
            let lost = lost.map(|gap| (gap, Next::Definition, 0));
            let loose = loose.into_iter().map(|(gap, end)| (gap, Next::Other, end));
            for (gap, next, end) in lost.chain(loose) {
                self.out.loose.push(Loose {
                    file,
                    module: Arc::clone(&module),
                    gap,
                    next,
                    end,
                });
            }
        }
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
                let asked = Asked {
                    scope: &scope,
                    name: &name.text,
                    span: name.span,
                };
                self.read(&folder.join(&name.text), Some(asked));
            }
            None => {
                let error = Diagnostic::include_shape(&scope, value.span, value.kind());
                self.diagnostics.push(error);
            }
        }
    }

    fn cycle(&self, first: usize) -> String {
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = self.stack[first..].iter().map(name).collect();
        names.push(name(&self.stack[first]));
        names.join(" → ")
    }
}

/// The text of `path`, which the include at `asked` names; a diagnostic if it cannot be read or is
/// not UTF-8.
pub(crate) fn read_text(
    path: &Path,
    asked: Option<(&Scope, Span)>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<str>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            diagnostics.push(Diagnostic::unreadable(asked, path, &error));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(Arc::from(text)),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            let span = asked.map(|(_, span)| span);
            diagnostics.push(Diagnostic::not_utf8(span, path, offset));
            None
        }
    }
}
