//! Members, values, branches and features as findings speak of them.

use crate::check::draft::Scope;
use crate::source::Span;

/// What part of a definition something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Member,
    /// A member of a command's or event's arguments that are listed in place.
    Parameter,
    /// A member of a union's base that is listed in place.
    BaseMember,
    Branch,
    Value,
    Feature,
}

/// A part of a definition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) role: Role,
    pub(crate) name: &'a str,
    /// The definition that it is a part of.
    pub(crate) owner: &'a str,
    /// Where its name was written.
    pub(crate) span: Span,
}

impl Part<'_> {
    /// As we say it.
    pub(crate) fn ours(&self) -> String {
        let role = match self.role {
            Role::Member | Role::BaseMember => "member",
            Role::Parameter => "argument",
            Role::Branch => "branch",
            Role::Value => "value",
            Role::Feature => "feature",
        };
        format!("{role} `{}`", self.name)
    }

    /// As the reference says it in a finding about `scope`.
    pub(crate) fn words(&self, scope: &Scope) -> String {
        let (role, meta) = match self.role {
            Role::Member => ("member", "type"),
            Role::Parameter => ("parameter", "command"),
            Role::BaseMember => ("base member", "type"),
            Role::Branch => ("branch", "type"),
            Role::Value => ("value", "type"),
            Role::Feature => ("feature", "type"),
        };
        let (name, owner) = (self.name, self.owner);
        match &scope.definition {
            Some((_, defined)) if defined == owner => format!("{role} '{name}'"),
            _ => format!("{role} '{name}' of {meta} '{owner}'"),
        }
    }
}
