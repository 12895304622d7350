//! Documentation comments: `##` blocks to texts of the whole, of members, features and sections.
//! Called by the scanner (`Gap`), `check.rs`, `resolve.rs` and `overlay.rs`.
//! Invariant: text is kept as written, without marks and common indentation; its markup is the
//! emitter's business. Rules: "Documentation comments" of QEMU's "How to use the QAPI code
//! generator".

mod check;
mod fault;
mod gap;
mod lenient;
mod lines;
mod parse;

#[cfg(test)]
mod tests;

use crate::error::{Diagnostic, Diagnostics};
use crate::schema::{
    Arguments, Base, Branch, Command, Entity, EnumValue, Event, Feature, FlatUnion, Kind, Member,
    Schema,
};
use crate::source::Span;

pub(crate) use check::{Subject, expression, resolved, unknown};
pub(crate) use fault::{Fault, Problem, Stage};
pub(crate) use gap::{Gap, Next};
pub(crate) use lenient::lenient;
pub(crate) use parse::Block;

/// Reports every definition, member and value that has no documentation.
pub(crate) fn require(schema: &Schema, diagnostics: &mut Diagnostics) {
    for entity in schema.entities.values() {
        let inline = entity.name.contains('-') && matches!(entity.kind, Kind::Struct(_));
        if entity.doc.body.is_empty() && !inline {
            diagnostics.push(Diagnostic::undocumented(entity.span, &entity.name, None));
        }
        for name in member_names(entity) {
            if entity.doc.members.get(&name).is_none_or(String::is_empty) && !inline {
                let error = Diagnostic::undocumented(entity.span, &entity.name, Some(&name));
                diagnostics.push(error);
            }
        }
    }
}

/// Names that can be documented.
pub(crate) fn member_names(entity: &Entity) -> Vec<String> {
    let names = documentable(entity).into_iter();
    names.map(|own| own.name.to_owned()).collect()
}

/// A member, value or branch that its definition's documentation speaks of.
struct Documentable<'a> {
    role: &'static str,
    name: &'a str,
    span: Span,
    features: &'a [Feature],
}

impl<'a> From<&'a Member> for Documentable<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            role: "member",
            name: &member.name,
            span: member.span,
            features: &member.features,
        }
    }
}

impl<'a> From<&'a Branch> for Documentable<'a> {
    fn from(branch: &'a Branch) -> Self {
        Self {
            role: "branch",
            name: &branch.name,
            span: branch.span,
            features: &[],
        }
    }
}

impl<'a> From<&'a EnumValue> for Documentable<'a> {
    fn from(value: &'a EnumValue) -> Self {
        Self {
            role: "value",
            name: &value.name,
            span: value.span,
            features: &value.features,
        }
    }
}

/// Own members or values. Branches of unions that have a tag are documented where the tag's values
/// or the branches' types are.
fn documentable(entity: &Entity) -> Vec<Documentable<'_>> {
    fn all<'a, T>(own: &'a [T]) -> Vec<Documentable<'a>>
    where
        Documentable<'a>: From<&'a T>,
    {
        own.iter().map(Documentable::from).collect()
    }
    match &entity.kind {
        Kind::Enum(own) => all(&own.values),
        Kind::Struct(own) => all(&own.members),
        Kind::FlatUnion(FlatUnion { base, .. }) => match base {
            Base::Named(_) => Vec::new(),
            Base::Inline(own) => all(own),
        },
        Kind::SimpleUnion(union) => all(&union.branches),
        Kind::Alternate(alternate) => all(&alternate.branches),
        Kind::Command(Command { arguments, .. })
        | Kind::Event(Event {
            data: arguments, ..
        }) => match arguments {
            Arguments::Members(own) => all(own),
            Arguments::Type(_) => Vec::new(),
        },
    }
}
