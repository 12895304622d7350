//! Findings about tokens and grammar.

use super::{Diagnostic, Pass};
use crate::source::Span;

const NO_EXPRESSION: &str = "expected '{', '[', string, or boolean";

impl Diagnostic {
    /// `words`: what the reference compiler says at `token`.
    fn token(
        span: Span,
        token: Span,
        message: impl Into<String>,
        words: impl Into<String>,
    ) -> Self {
        Self::at(Pass::Parse, span, message).refers_to_token(token, words.into())
    }

    /// As [`Self::token`], where the token as such is good.
    fn misplaced(
        span: Span,
        token: Span,
        message: impl Into<String>,
        words: impl Into<String>,
    ) -> Self {
        Self::token(span, token, message, words).found_at(token.start)
    }

    /// `next`: where the token after it stands, which the reference has read by then.
    pub(crate) fn not_an_object(span: Span, next: usize) -> Self {
        let message = "expected `{`: a schema is a sequence of objects";
        let words = "top-level expression must be an object".to_owned();
        Self::at(Pass::Parse, span, message)
            .refers_to_line(span, words)
            .found_at(next)
    }

    pub(crate) fn no_expression(span: Span) -> Self {
        let message = "expected `{`: a schema is a sequence of objects";
        Self::misplaced(span, span, message, NO_EXPRESSION)
    }

    pub(crate) fn stray(span: Span, text: &str) -> Self {
        let message = match text.chars().next() {
            Some('"') => "strings stand in single quotes".to_owned(),
            Some(first) if first.is_ascii_digit() || first == '-' => {
                "a schema has no numbers".to_owned()
            }
            _ => format!("`{text}` means nothing here"),
        };
        Self::token(span, span, message, format!("stray '{text}'"))
    }

    pub(crate) fn unterminated_string(span: Span) -> Self {
        let message = "missing closing quote: a string ends on its line";
        Self::token(span, span, message, "missing terminating \"'\"")
    }

    pub(crate) fn bad_character(span: Span, token: Span) -> Self {
        let message = "a string has printable ASCII characters only";
        Self::token(span, token, message, "funny character in string")
    }

    pub(crate) fn bad_escape(span: Span, token: Span, text: &str) -> Self {
        let message = "a backslash in a string stands only before another";
        let words = format!("unknown escape {text}");
        Self::token(span, token, message, words)
    }

    pub(crate) fn inner_documentation(span: Span, words: &str) -> Self {
        let message =
            "documentation cannot stand within an expression: a comment starts with one `#`";
        Self::misplaced(span, span, message, words)
    }

    pub(crate) fn too_deep(span: Span, limit: usize) -> Self {
        Self::at(
            Pass::Parse,
            span,
            format!("nested deeper than {limit} levels"),
        )
    }

    /// `unclosed`: the bracket that is still open where the text ends.
    pub(crate) fn grammar(span: Span, expected: &str, words: &str, unclosed: Option<Span>) -> Self {
        let Some(bracket) = unclosed else {
            return Self::misplaced(span, span, format!("expected {expected}"), words);
        };
        let message = format!("expected {expected} before the end of the file");
        Self::misplaced(span, span, message, words).with(bracket, "this expression never ends")
    }

    /// `value`: what follows the key, where the reference compiler sees it.
    pub(crate) fn duplicate_key(span: Span, key: &str, first: Span, value: Span) -> Self {
        let message = format!("key `{key}` is given twice");
        let words = format!("duplicate key '{key}'");
        Self::misplaced(span, value, message, words).with(first, "first given here")
    }
}
