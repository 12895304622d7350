//! Findings about files, includes and pragmas.

use std::io;
use std::path::Path;

use super::reference::{Place, Reference};
use super::{Diagnostic, Pass};
use crate::check::draft::Scope;
use crate::source::Span;

impl Diagnostic {
    /// The reference looks at a directive when it has read it to its end.
    fn directive(scope: &Scope, span: Span, message: String, words: String) -> Self {
        Self::at(Pass::Parse, span, message)
            .refers(scope, words)
            .found_at(scope.at.end)
    }

    /// `asked`: the include's expression, and the name in it.
    pub(crate) fn unreadable(
        asked: Option<(&Scope, Span)>,
        path: &Path,
        error: &io::Error,
    ) -> Self {
        let span = asked.map(|(_, span)| span);
        let mut finding = Self::of_file(span, format!("cannot read {}: {error}", path.display()));
        // The reference leaves out the number.
        let reason = error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or(&reason);
        let (what, place) = match asked {
            Some((scope, _)) => ("include", Some(Place::of(scope))),
            None => ("schema", None),
        };
        let words = format!("can't read {what} file '{}': {reason}", path.display());
        finding.reference = Some(Box::new(Reference::new(place, words)));
        finding
    }

    pub(crate) fn not_utf8(span: Option<Span>, path: &Path, offset: usize) -> Self {
        let message = format!("{} is not UTF-8 (byte {offset})", path.display());
        Self::of_file(span, message)
    }

    /// `name`: the file as the include names it; `files`: the cycle.
    pub(crate) fn include_cycle(scope: &Scope, span: Span, name: &str, files: &str) -> Self {
        let message = format!("include cycle: {files}");
        Self::directive(scope, span, message, format!("inclusion loop for {name}"))
    }

    pub(crate) fn includes_too_deep(span: Span, limit: usize) -> Self {
        let message = format!("files include one another more than {limit} levels deep");
        Self::at(Pass::Parse, span, message)
    }

    /// An include or pragma with another key at `span`.
    pub(crate) fn directive_keys(scope: &Scope, span: Span, kind: &str) -> Self {
        let message = format!("'{kind}' stands alone in its expression");
        Self::directive(scope, span, message, format!("invalid '{kind}' directive"))
    }

    pub(crate) fn include_shape(scope: &Scope, span: Span, found: &str) -> Self {
        let message = format!("`include` must be a string, not {found}");
        let words = "value of 'include' must be a string".to_owned();
        Self::directive(scope, span, message, words)
    }

    pub(crate) fn pragma_shape(scope: &Scope, span: Span, found: &str) -> Self {
        let message = format!("`pragma` must be an object, not {found}");
        let words = "value of 'pragma' must be an object".to_owned();
        Self::directive(scope, span, message, words)
    }

    pub(crate) fn pragma_not_boolean(scope: &Scope, span: Span) -> Self {
        let message = "`doc-required` must be true or false".to_owned();
        let words = "pragma 'doc-required' must be boolean".to_owned();
        Self::directive(scope, span, message, words)
    }

    pub(crate) fn pragma_unknown(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("there is no pragma `{name}`");
        Self::directive(scope, span, message, format!("unknown pragma '{name}'"))
    }

    pub(crate) fn pragma_list(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("`{name}` must be a list of strings");
        let words = format!("pragma {name} must be a list of strings");
        Self::directive(scope, span, message, words)
    }
}
