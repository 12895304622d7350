//! Findings about one expression of today's dialect.

use super::subject::Subject;
use super::{Diagnostic, Pass};
use crate::check::draft::Scope;
use crate::check::name::{Fault, Style};
use crate::source::Span;

/// `'a', 'b'` in alphabetical order.
fn quoted(names: &[&str]) -> String {
    let mut names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    names.sort();
    names.join(", ")
}

fn plural(names: &[&str]) -> &'static str {
    if names.len() > 1 { "s" } else { "" }
}

impl Diagnostic {
    fn expression(scope: &Scope, span: Span, message: String, words: String) -> Self {
        Self::at(Pass::Expression, span, message).refers(scope, words)
    }

    pub(crate) fn not_one_kind(scope: &Scope, span: Span, found: usize, kinds: &[&str]) -> Self {
        let list = kinds.iter().map(|kind| format!("'{kind}'"));
        let list = list.collect::<Vec<_>>().join(", ");
        let message = if found == 0 {
            format!("the expression has no key that tells its kind ({list})")
        } else {
            format!("the expression has {found} keys that tell its kind ({list})")
        };
        let words = format!("expression must have exactly one key {list}");
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn name_not_string(scope: &Scope, span: Span, of: Subject<'_>) -> Self {
        let message = format!("{} needs a string for a name", of.ours());
        let words = format!("{} requires a string name", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn bad_name(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        name: &str,
        (fault, style): (Fault, Style),
    ) -> Self {
        let (message, words) = match (fault, style) {
            (Fault::Invalid, _) => (
                format!(
                    "`{name}` is no name: one is letters, digits, `-` and `_`, starts with a \
                     letter and not with `q_`"
                ),
                format!("{} has an invalid name", of.words()),
            ),
            (Fault::Style, Style::Camel) => (
                format!("a type's name is CamelCase, which `{name}` is not"),
                format!("name of {} must use CamelCase", of.words()),
            ),
            (Fault::Style, Style::Upper) => (
                format!("an event's name has no lower-case letter and no `-`, `{name}` does"),
                format!("name of {} must not use lowercase or '-'", of.words()),
            ),
            (Fault::Style, Style::Lower { .. }) => (
                format!("`{name}` must not have an upper-case letter or `_`"),
                format!("name of {} must not use uppercase or '_'", of.words()),
            ),
        };
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn reserved_name(scope: &Scope, span: Span, of: Subject<'_>) -> Self {
        let message = format!("{} is a reserved name", of.ours());
        let words = format!("{} uses reserved name", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn list_suffix(scope: &Scope, span: Span, meta: &str) -> Self {
        let message = "a type's name does not end in `List`: arrays have such names".to_owned();
        let words = format!("{meta} name should not end in 'List'");
        Self::expression(scope, span, message, words)
    }

    /// `missing`: all keys that lack, in one finding.
    pub(crate) fn missing_keys(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        missing: &[&str],
    ) -> Self {
        let (s, list) = (plural(missing), quoted(missing));
        let message = format!("{} lacks key{s} {list}", of.ours());
        let words = format!("{} misses key{s} {list}", of.words());
        Self::expression(scope, span, message, words)
    }

    /// `unknown`: all such keys; `key` the one that this finding is about.
    pub(crate) fn unknown_keys(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        key: &str,
        unknown: &[&str],
        known: &[&str],
    ) -> Self {
        let known = quoted(known);
        let message = format!("{} has no key '{key}' (it may have {known})", of.ours());
        let words = format!(
            "{} has unknown key{} {}\nValid keys are {known}.",
            of.words(),
            plural(unknown),
            quoted(unknown)
        );
        Self::expression(scope, span, message, words)
    }

    /// A value of the wrong shape, where the reference says "should be" or "must be".
    pub(crate) fn shape(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        (expected, found): (&str, &str),
        words: &str,
    ) -> Self {
        let message = format!("{} must be {expected}, not {found}", of.ours());
        let words = format!("{}{words}", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn no_branches_listed(scope: &Scope, span: Span) -> Self {
        let message = "an alternate has at least one branch".to_owned();
        Self::expression(scope, span, message, "'data' must not be empty".to_owned())
    }

    pub(crate) fn boxed_needs_data(scope: &Scope, span: Span) -> Self {
        let message = "'boxed' needs a type in 'data' to pass on".to_owned();
        let words = "'boxed': true requires 'data'".to_owned();
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn flag_value(scope: &Scope, span: Span, key: &str, value: bool) -> Self {
        let message = format!("flag '{key}' takes no value but {value}");
        let words = format!("flag '{key}' may only use {value} value");
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn flags_clash(scope: &Scope, span: Span, other: Span) -> Self {
        let message = "a coroutine cannot run out of band".to_owned();
        let words = "flags 'allow-oob' and 'coroutine' are incompatible".to_owned();
        Self::expression(scope, span, message, words).with(other, "the other flag")
    }

    pub(crate) fn condition_name(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        condition: &str,
    ) -> Self {
        let message = format!(
            "condition `{condition}` of {} is not an upper-case identifier",
            of.ours()
        );
        let words = format!(
            "'if' condition '{condition}' of {} is not a valid identifier",
            of.words()
        );
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn condition_shape(scope: &Scope, span: Span, of: Subject<'_>, found: &str) -> Self {
        let message = format!(
            "a condition of {} must be a string or an object, not {found}",
            of.ours()
        );
        let words = format!(
            "'if' condition of {} must be a string or an object",
            of.words()
        );
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn condition_unknown_key(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        key: &str,
        unknown: &[&str],
    ) -> Self {
        let message = format!(
            "a condition of {} is 'all', 'any' or 'not', never '{key}'",
            of.ours()
        );
        let words = format!(
            "'if' condition of {} has unknown key{} {}\nValid keys are 'all', 'any', 'not'.",
            of.words(),
            plural(unknown),
            quoted(unknown)
        );
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn condition_keys(scope: &Scope, span: Span, of: Subject<'_>) -> Self {
        let message = format!("a condition of {} has exactly one key", of.ours());
        let words = format!("'if' condition of {} has conflicting keys", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn condition_list(
        scope: &Scope,
        span: Span,
        of: Subject<'_>,
        operator: &str,
        found: &str,
    ) -> Self {
        let message = format!("'{operator}' takes a list of conditions, not {found}");
        let words = format!("'{operator}' condition of {} must be an array", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn condition_empty(scope: &Scope, span: Span, of: Subject<'_>) -> Self {
        let message = "a list of no conditions says nothing".to_owned();
        let words = format!("'if' condition [] of {} is useless", of.words());
        Self::expression(scope, span, message, words)
    }

    pub(crate) fn array_element(scope: &Scope, span: Span, of: Subject<'_>) -> Self {
        let message = "an array names exactly one type, as in ['str']".to_owned();
        let words = format!("{}: array type must contain single type name", of.words());
        Self::expression(scope, span, message, words)
    }
}
