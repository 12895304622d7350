//! Findings about files, includes and pragmas.

use std::path::Path;

use super::{Diagnostic, Pass};
use crate::check::draft::Scope;
use crate::source::Span;

impl Diagnostic {
    fn directive(scope: &Scope, span: Span, message: String, words: String) -> Self {
        Self::at(span, message).refers(Pass::Parse, scope, words)
    }

    pub(crate) fn unreadable(span: Option<Span>, path: &Path, error: &std::io::Error) -> Self {
        Self::nowhere(span, format!("cannot read {}: {error}", path.display()))
    }

    pub(crate) fn not_utf8(span: Option<Span>, path: &Path, offset: usize) -> Self {
        Self::nowhere(
            span,
            format!("{} is not UTF-8 (byte {offset})", path.display()),
        )
    }

    pub(crate) fn include_cycle(span: Span, files: &str) -> Self {
        Self::at(span, format!("include cycle: {files}"))
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
