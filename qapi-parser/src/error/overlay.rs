//! Findings about overlays, and about documentation that a caller asks for.

use super::{Diagnostic, Pass};
use crate::source::Span;

impl Diagnostic {
    pub(crate) fn overlay_unknown(span: Span, name: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("the schema defines no `{name}` to add to"),
        )
    }

    pub(crate) fn overlay_wrong_kind(span: Span, what: &str, name: &str, kind: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("`{what}` cannot be added to `{name}`, which is {kind}"),
        )
    }

    pub(crate) fn overlay_required(span: Span, name: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("an overlay adds optional members only: write `*{name}`"),
        )
    }

    pub(crate) fn overlay_optional_unknown(span: Span, name: &str, of: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("`{of}` has no member `{name}` to make optional"),
        )
    }

    pub(crate) fn overlay_doc_unknown(span: Span, name: &str, of: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("`{of}` has no member or value `{name}` to document"),
        )
    }

    pub(crate) fn overlay_flat(span: Span, name: &str) -> Self {
        Self::at(
            Pass::Check,
            span,
            format!("`{name}` must be the command's only argument and an object"),
        )
    }

    pub(crate) fn undocumented(span: Span, name: &str, member: Option<&str>) -> Self {
        let what = member.map_or_else(|| format!("`{name}`"), |m| format!("`{m}` of `{name}`"));
        Self::at(Pass::Check, span, format!("{what} has no documentation"))
    }
}
