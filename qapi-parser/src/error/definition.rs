//! Findings about definitions and the names they mention.

use super::{Diagnostic, Pass};
use crate::check::draft::Scope;
use crate::resolve::Part;
use crate::source::Span;

/// `a struct type` and the like: what a name stands for, in both ways of saying it.
pub(crate) struct Described {
    pub(crate) ours: String,
    pub(crate) words: String,
}

impl Diagnostic {
    fn checked(scope: &Scope, span: Span, message: String, words: String) -> Self {
        Self::at(Pass::Check, span, message).refers(scope, words)
    }

    pub(crate) fn redefined(scope: &Scope, span: Span, name: &str, first: (&Scope, Span)) -> Self {
        let message = format!("`{name}` is already defined");
        let words = format!("'{name}' is already defined");
        let mut finding = Self::at(Pass::Define, span, message).refers(scope, words);
        if let Some(reference) = &mut finding.reference {
            reference.also(first.0, "previous definition");
        }
        finding.with(first.1, "first defined here")
    }

    pub(crate) fn redefines_builtin(scope: &Scope, span: Span, name: &str, words: &str) -> Self {
        let message = format!("`{name}` is a built-in type");
        let words = format!("{words} is already defined");
        Self::at(Pass::Define, span, message).refers(scope, words)
    }

    /// `user`: what mentions it, in the reference's words; `other`: where something that is no
    /// type has that name.
    pub(crate) fn unknown_type(
        scope: &Scope,
        span: Span,
        user: &str,
        name: &str,
        other: Option<Span>,
    ) -> Self {
        let words = format!("{user} uses unknown type '{name}'");
        match other {
            None => Self::checked(scope, span, format!("there is no type `{name}`"), words),
            Some(other) => Self::checked(scope, span, format!("`{name}` is not a type"), words)
                .with(other, "defined here"),
        }
    }

    pub(crate) fn special_feature(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("a type cannot have feature `{name}`, its members can");
        let words = format!("feature '{name}' is not supported for types");
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn clash(scope: &Scope, span: Span, part: &Part<'_>, other: &Part<'_>) -> Self {
        let message = if part.name == other.name {
            format!("{} is there twice", part.ours())
        } else {
            format!("{} is too much like {}", part.ours(), other.ours())
        };
        let words = format!("{} collides with {}", part.words(scope), other.words(scope));
        let finding = Self::checked(scope, span, message, words);
        // A clash of what a type's parts bring along is shown at what brings it.
        let finding = if span == part.span {
            finding
        } else {
            finding.with(part.span, "it is written here")
        };
        if other.span == span {
            finding
        } else {
            finding.with(other.span, "the other one")
        }
    }

    pub(crate) fn contains_itself(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("`{name}` contains itself");
        let words = format!("object {name} contains itself");
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn types_too_deep(span: Span, limit: usize) -> Self {
        let message = format!("types contain one another more than {limit} levels deep");
        Self::at(Pass::Check, span, message)
    }

    pub(crate) fn base_not_struct(scope: &Scope, span: Span, base: &Described) -> Self {
        let message = format!("a base is a struct, {} is not", base.ours);
        let words = format!("'base' requires a struct type, {} isn't", base.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn discriminator_unknown(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("discriminator `{name}` is not a member of the base");
        let words = format!("discriminator '{name}' is not a member of 'base'");
        Self::checked(scope, span, message, words)
    }

    /// `base`: where the discriminator is a member, in the reference's words; `fault`: what it
    /// must be, in both ways of saying it.
    pub(crate) fn discriminator(
        scope: &Scope,
        (span, member): (Span, Span),
        name: &str,
        base: &str,
        (ours, words): (&str, &str),
    ) -> Self {
        let message = format!("discriminator `{name}` must {ours}");
        let words = format!("discriminator member '{name}' of {base} must {words}");
        Self::checked(scope, span, message, words).with(member, "the member")
    }

    pub(crate) fn no_branches(scope: &Scope, span: Span) -> Self {
        let message = "the discriminator has no values, so the union has no branches".to_owned();
        Self::checked(scope, span, message, "union has no branches".to_owned())
    }

    pub(crate) fn branch_not_in_enum(
        scope: &Scope,
        span: Span,
        name: &str,
        tag: &Described,
    ) -> Self {
        let message = format!("branch `{name}` is not a value of {}", tag.ours);
        let words = format!("branch '{name}' is not a value of {}", tag.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn branch_not_object(
        scope: &Scope,
        span: Span,
        part: &Part<'_>,
        ty: &Described,
    ) -> Self {
        let message = format!("{} must be an object, not {}", part.ours(), ty.ours);
        let words = format!("{} cannot use {}", part.words(scope), ty.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn branch_no_json_type(
        scope: &Scope,
        span: Span,
        part: &Part<'_>,
        ty: &Described,
    ) -> Self {
        let message = format!(
            "{} cannot be told by its JSON type, being {}",
            part.ours(),
            ty.ours
        );
        let words = format!("{} cannot use {}", part.words(scope), ty.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn json_clash(scope: &Scope, part: &Part<'_>, other: &Part<'_>) -> Self {
        let message = format!("{} cannot be told from {}", part.ours(), other.ours());
        let words = format!(
            "{} can't be distinguished from '{}'",
            part.words(scope),
            other.name
        );
        Self::checked(scope, part.span, message, words).with(other.span, "the other one")
    }

    pub(crate) fn arguments_not_object(
        scope: &Scope,
        span: Span,
        meta: &str,
        ty: &Described,
    ) -> Self {
        let message = format!("arguments are an object, {} is not", ty.ours);
        let words = format!("{meta}'s 'data' cannot take {}", ty.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn arguments_need_boxed(
        scope: &Scope,
        span: Span,
        meta: &str,
        ty: &Described,
    ) -> Self {
        let message = format!("{} can be arguments only with 'boxed': true", ty.ours);
        let words = format!(
            "{meta}'s 'data' can take {} only with 'boxed': true",
            ty.words
        );
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn condition_needs_boxed(scope: &Scope, span: Span, meta: &str) -> Self {
        let message = "arguments under a condition need 'boxed': true".to_owned();
        let words = format!("conditional {meta} arguments require 'boxed': true");
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn returns_no_object(scope: &Scope, span: Span, ty: &Described) -> Self {
        let message = format!(
            "a command returns objects, not {}, unless pragma 'command-returns-exceptions' names \
             it",
            ty.ours
        );
        let words = format!("command's 'returns' cannot take {}", ty.words);
        Self::checked(scope, span, message, words)
    }

    pub(crate) fn too_many_features(scope: &Scope, span: Span, limit: usize) -> Self {
        let message = format!("a schema has at most {limit} features, this is one more");
        let words = format!("Maximum of {limit} schema features is permitted");
        Self::at(Pass::Features, span, message).refers(scope, words)
    }

    pub(crate) fn escape_type(scope: &Scope, span: Span, name: &str) -> Self {
        let message = format!("type `{name}` needs 'gen': 'no' on the command");
        let words = format!("there is no type '{name}'");
        Self::checked(scope, span, message, words)
    }
}
