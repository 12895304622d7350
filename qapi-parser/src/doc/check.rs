//! Documentation against what it documents.
//! Called by `check.rs` for one expression, by `resolve.rs` for a resolved definition.
//! Invariant: faults come in the order in which the reference compiler would meet them.

use std::collections::HashSet;

use super::documentable;
use super::fault::{Fault, Part, Problem};
use super::parse::{Block, Entry};
use crate::schema::{Entity, Feature, SectionKind};
use crate::source::Span;
use crate::syntax::Text;

/// What kind of definition is documented, as far as documentation cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A command that has `returns`.
    Returning,
    /// A command that has not.
    Silent,
    /// No command.
    Type,
}

/// Checks what one expression tells: that `block` is about `name`, that its sections fit.
///
/// `place` is the expression; `required` whether there must be documentation.
pub(crate) fn expression(
    block: Option<&Block>,
    subject: Subject,
    name: &Text,
    place: Span,
    required: bool,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut report = |problem, span, reference| {
        faults.push(Fault {
            problem,
            span,
            reference,
            notes: Vec::new(),
        });
    };
    let Some(block) = block else {
        if required {
            report(Problem::Required, name.span, place);
        }
        return faults;
    };
    if let Some(symbol) = &block.symbol
        && symbol.text != name.text
    {
        report(Problem::OtherName(symbol.text.clone()), symbol.span, place);
    }
    let returns = block.section(SectionKind::Returns);
    let errors = block.section(SectionKind::Errors);
    let only = |kind| Problem::CommandsOnly(Part::Section(kind));
    let wrong = match subject {
        Subject::Returning => [None, None],
        Subject::Silent => [returns.map(|entry| (Problem::ReturnsNothing, entry)), None],
        Subject::Type => [
            returns.map(|entry| (only(SectionKind::Returns), entry)),
            errors.map(|entry| (only(SectionKind::Errors), entry)),
        ],
    };
    for (problem, entry) in wrong.into_iter().flatten() {
        report(problem, entry.span, entry.span);
    }
    faults
}

/// Checks that all of `entity`, defined at `place`, is documented in `block`, unless its name is
/// among `exceptions`.
pub(crate) fn resolved(
    entity: &Entity,
    block: &Block,
    place: Span,
    exceptions: &HashSet<String>,
) -> Vec<Fault> {
    let excused = exceptions.contains(&entity.name);
    let mut faults = Vec::new();
    let mut report = |problem, span| {
        faults.push(Fault {
            problem,
            span,
            reference: place,
            notes: Vec::new(),
        });
    };
    let missing = |features: &[Feature]| -> Vec<Problem> {
        let names = features.iter().map(|feature| &feature.name);
        let missing = names.filter(|name| !block.features.contains_key(*name));
        missing.cloned().map(Problem::FeatureUndocumented).collect()
    };
    for problem in missing(&entity.features) {
        report(problem, entity.span);
    }
    for own in documentable(entity) {
        if !excused && !block.members.contains_key(own.name) {
            let (role, name) = (own.role, own.name.to_owned());
            report(Problem::Undocumented { role, name }, own.span);
        }
        for problem in missing(own.features) {
            report(problem, own.span);
        }
    }
    faults
}

/// Checks that all that `block` documents is in `entity`.
pub(crate) fn unknown(entity: &Entity, block: &Block) -> Vec<Fault> {
    let own = documentable(entity);
    let is_member = |name: &str| own.iter().any(|own| own.name == name);
    let features = || {
        own.iter()
            .flat_map(|own| own.features)
            .chain(&entity.features)
    };
    let is_feature = |name: &str| features().any(|feature| feature.name == name);
    let members = block.members.iter().filter(|(name, _)| !is_member(name));
    let features = block.features.iter().filter(|(name, _)| !is_feature(name));
    let members = bogus("member", members);
    members
        .into_iter()
        .chain(bogus("feature", features))
        .collect()
}

fn bogus<'b>(
    what: &'static str,
    entries: impl Iterator<Item = (&'b String, &'b Entry)>,
) -> Option<Fault> {
    let mut names = Vec::new();
    let mut spans = Vec::new();
    for (name, entry) in entries {
        names.push(name.clone());
        spans.push(entry.span);
    }
    let (&first, others) = spans.split_first()?;
    Some(Fault {
        problem: Problem::Unknown { what, names },
        span: first,
        reference: first,
        notes: others.iter().map(|&span| (span, "nor this")).collect(),
    })
}
