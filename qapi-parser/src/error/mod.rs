//! Diagnostics: what is wrong with a schema, and where.
//! Every pass pushes into one [`Diagnostics`] and goes on; the caller shows them all.
//! Invariant: the text of every message is made here and nowhere else.

mod definition;
mod expression;
mod files;
mod subject;

use std::fmt::{self, Write as _};

use crate::check::draft::Scope;
use crate::source::{Sources, Span};

pub(crate) use definition::Described;
pub(crate) use subject::Subject;

/// One finding: a message, its place, and other places that explain it.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// What is wrong: one phrase.
    pub message: String,
    /// Where; `None` when no file could be read.
    pub span: Option<Span>,
    /// Other places and what they have to do with it.
    pub notes: Vec<(Span, String)>,
    pass: Pass,
    reference: Option<Box<Reference>>,
}

/// The reference compiler's passes over a whole schema: it stops at the first finding of the
/// earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// Files, tokens, grammar, documentation blocks, includes, pragmas.
    Parse,
    /// One expression.
    Expression,
    /// Names that are taken.
    Define,
    /// What names stand for.
    Check,
    /// Documentation of what is not there.
    Documentation,
    /// How many features there are.
    Features,
}

/// What the reference compiler says.
#[derive(Debug, Clone)]
struct Reference {
    scope: Scope,
    words: String,
    /// Another place, with what is said there.
    also: Option<(Scope, &'static str)>,
}

/// What is wrong with a schema, with the sources it is shown from.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    pub(crate) sources: Sources,
    list: Vec<Diagnostic>,
}

impl std::error::Error for Diagnostics {}

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// True when nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The findings, in the order of the passes.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    fn show(&self, out: &mut impl fmt::Write, diagnostic: &Diagnostic) -> fmt::Result {
        writeln!(out, "error: {}", diagnostic.message)?;
        let Some(span) = diagnostic.span else {
            return Ok(());
        };
        self.show_place(out, "-->", span, "")?;
        for (note, text) in &diagnostic.notes {
            self.show_place(out, ":::", *note, text)?;
        }
        let mut included_at = self.sources.file(span.file).included_at;
        while let Some(at) = included_at {
            let place = self.sources.place(at.file, at.start);
            let source = self.sources.file(at.file);
            writeln!(
                out,
                "  = included from {}:{}",
                source.path.display(),
                place.line
            )?;
            included_at = source.included_at;
        }
        Ok(())
    }

    fn show_place(
        &self,
        out: &mut impl fmt::Write,
        arrow: &str,
        span: Span,
        text: &str,
    ) -> fmt::Result {
        let place = self.sources.place(span.file, span.start);
        let path = self.sources.file(span.file).path.display();
        let line = self.sources.line(span.file, span.start);
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(out, "{margin}{arrow} {path}:{number}:{}", place.column)?;
        // Tabs stay tabs in the padding, so that the carets stand under what they mean.
        let mut padding = String::new();
        let mut left = String::new();
        for character in line.chars().take(place.column - 1) {
            padding.push(if character == '\t' { '\t' } else { ' ' });
            left.push(character);
        }
        let rest = line.len() - left.len();
        let in_line = (span.end - span.start).min(rest);
        let mut end = left.len() + in_line;
        while !line.is_char_boundary(end) {
            end += 1;
        }
        let width = line[left.len()..end].chars().count().max(1);
        writeln!(out, "{margin} |\n{number} | {line}")?;
        let mut carets = format!("{margin} | {padding}{}", "^".repeat(width));
        if !text.is_empty() {
            write!(carets, " {text}")?;
        }
        writeln!(out, "{carets}")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for diagnostic in &self.list {
            if !first {
                writeln!(f)?;
            }
            first = false;
            self.show(f, diagnostic)?;
        }
        Ok(())
    }
}

impl Diagnostic {
    fn at(span: Span, message: impl Into<String>) -> Self {
        Self::nowhere(Some(span), message)
    }

    fn nowhere(span: Option<Span>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span,
            notes: Vec::new(),
            pass: Pass::Parse,
            reference: None,
        }
    }

    fn refers(mut self, pass: Pass, scope: &Scope, words: String) -> Self {
        self.pass = pass;
        self.reference = Some(Box::new(Reference {
            scope: scope.clone(),
            words,
            also: None,
        }));
        self
    }

    fn refers_also(mut self, scope: &Scope, words: &'static str) -> Self {
        if let Some(reference) = &mut self.reference {
            reference.also = Some((scope.clone(), words));
        }
        self
    }

    fn with(mut self, span: Span, note: impl Into<String>) -> Self {
        self.notes.push((span, note.into()));
        self
    }

    // Tokens and grammar.

    pub(crate) fn expected_object(span: Span) -> Self {
        Self::at(span, "expected `{`: a schema is a sequence of objects")
    }

    pub(crate) fn unterminated_string(span: Span) -> Self {
        Self::at(span, "missing closing quote: a string ends on its line")
    }

    pub(crate) fn unclosed(span: Span) -> Self {
        Self::at(span, "this bracket is never closed")
    }

    pub(crate) fn too_deep(span: Span, limit: usize) -> Self {
        Self::at(span, format!("nested deeper than {limit} levels"))
    }

    pub(crate) fn grammar(span: Span, expected: &str) -> Self {
        Self::at(span, format!("expected {expected}"))
    }

    pub(crate) fn duplicate_key(span: Span, key: &str, first: Span) -> Self {
        Self::at(span, format!("key `{key}` is given twice")).with(first, "first given here")
    }

    // One expression.

    pub(crate) fn no_kind(span: Span, kinds: &str) -> Self {
        Self::at(
            span,
            format!("the expression has no key that tells its kind ({kinds})"),
        )
    }

    pub(crate) fn unknown_key(span: Span, key: &str, kind: &str, known: &str) -> Self {
        Self::at(
            span,
            format!("{kind} has no key `{key}` (it may have {known})"),
        )
    }

    pub(crate) fn missing_key(span: Span, key: &str, kind: &str) -> Self {
        Self::at(span, format!("{kind} lacks the key `{key}`"))
    }

    pub(crate) fn expected(span: Span, what: &str, expected: &str, found: &str) -> Self {
        Self::at(span, format!("{what} must be {expected}, not {found}"))
    }

    pub(crate) fn empty_name(span: Span, what: &str) -> Self {
        Self::at(span, format!("{what} is empty"))
    }

    pub(crate) fn duplicate(span: Span, what: &str, name: &str, first: Span) -> Self {
        Self::at(span, format!("{what} `{name}` is given twice")).with(first, "first given here")
    }

    pub(crate) fn list_length(span: Span) -> Self {
        Self::at(span, "a list type names exactly one type, as in ['str']")
    }

    pub(crate) fn flag(span: Span, key: &str) -> Self {
        Self::at(span, format!("`{key}` takes no value but 'no'"))
    }

    pub(crate) fn branch_shape(span: Span, what: &str) -> Self {
        Self::at(span, format!("a branch of {what} names one type"))
    }

    pub(crate) fn optional_branch(span: Span, name: &str) -> Self {
        Self::at(span, format!("branch `{name}` cannot be optional"))
    }

    pub(crate) fn needs_base(span: Span) -> Self {
        Self::at(
            span,
            "a union with a discriminator needs a base that holds it",
        )
    }

    // Overlays.

    pub(crate) fn overlay_unknown(span: Span, name: &str) -> Self {
        Self::at(span, format!("the schema defines no `{name}` to add to"))
    }

    pub(crate) fn overlay_wrong_kind(span: Span, what: &str, name: &str, kind: &str) -> Self {
        Self::at(
            span,
            format!("`{what}` cannot be added to `{name}`, which is {kind}"),
        )
    }

    pub(crate) fn overlay_required(span: Span, name: &str) -> Self {
        Self::at(
            span,
            format!("an overlay adds optional members only: write `*{name}`"),
        )
    }

    pub(crate) fn overlay_doc_unknown(span: Span, name: &str, of: &str) -> Self {
        Self::at(
            span,
            format!("`{of}` has no member or value `{name}` to document"),
        )
    }

    pub(crate) fn overlay_flat(span: Span, name: &str) -> Self {
        Self::at(
            span,
            format!("`{name}` must be the command's only argument and an object"),
        )
    }

    pub(crate) fn undocumented(span: Span, name: &str, member: Option<&str>) -> Self {
        let what = member.map_or_else(|| format!("`{name}`"), |m| format!("`{m}` of `{name}`"));
        Self::at(span, format!("{what} has no documentation"))
    }
}
