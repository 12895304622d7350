//! Findings about one expression of QEMU 2.1's dialect, whose compiler had no words for them.

use super::{Diagnostic, Pass};
use crate::source::Span;

impl Diagnostic {
    pub(crate) fn no_kind(span: Span, kinds: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("the expression has no key that tells its kind ({kinds})"),
        )
    }

    pub(crate) fn unknown_key(span: Span, key: &str, kind: &str, known: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("{kind} has no key `{key}` (it may have {known})"),
        )
    }

    pub(crate) fn missing_key(span: Span, key: &str, kind: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("{kind} lacks the key `{key}`"),
        )
    }

    pub(crate) fn expected(span: Span, what: &str, expected: &str, found: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("{what} must be {expected}, not {found}"),
        )
    }

    pub(crate) fn empty_name(span: Span, what: &str) -> Self {
        Self::at(Pass::Expression, span, format!("{what} is empty"))
    }

    pub(crate) fn duplicate(span: Span, what: &str, name: &str, first: Span) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("{what} `{name}` is given twice"),
        )
        .with(first, "first given here")
    }

    pub(crate) fn list_length(span: Span) -> Self {
        Self::at(
            Pass::Expression,
            span,
            "a list type names exactly one type, as in ['str']",
        )
    }

    pub(crate) fn flag(span: Span, key: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("`{key}` takes no value but 'no'"),
        )
    }

    pub(crate) fn branch_shape(span: Span, what: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("a branch of {what} names one type"),
        )
    }

    pub(crate) fn optional_branch(span: Span, name: &str) -> Self {
        Self::at(
            Pass::Expression,
            span,
            format!("branch `{name}` cannot be optional"),
        )
    }

    pub(crate) fn needs_base(span: Span) -> Self {
        Self::at(
            Pass::Expression,
            span,
            "a union with a discriminator needs a base that holds it",
        )
    }
}
