//! Commands and events: what they take and answer.

use crate::check::draft::{Language, Origin};
use crate::error::{Described, Diagnostic};
use crate::resolve::{ESCAPES, Found, Resolver, Role, describe, describe_builtin, described};
use crate::schema::{Arguments, Builtin, Command, Entity, Kind, Type};
use crate::source::Span;

impl<'a> Resolver<'a> {
    pub(super) fn command(&mut self, entity: &'a Entity, origin: &'a Origin, command: &'a Command) {
        let typed = command.typed || origin.language == Language::Modern;
        self.arguments(entity, origin, &command.arguments, command.boxed, typed);
        let Some(returns) = &command.returns else {
            return;
        };
        let span = origin.returns.unwrap_or(entity.span);
        let user = || "command's 'returns'".to_owned();
        let (found, list) = match returns {
            Type::List(element) => (self.find(element), true),
            _ => (self.named_type(returns, span, origin, typed, user), false),
        };
        let excused = origin.language == Language::Legacy
            || self.pragmas.command_returns.contains(&entity.name);
        let Some(found) = found.filter(|_| !excused) else {
            return;
        };
        let described = match found {
            Found::Entity(entity) if is_object(entity) => return,
            Found::Entity(entity) => describe(entity),
            Found::Builtin(builtin) => {
                let name = builtin.name();
                described(name, &describe_builtin(name, builtin))
            }
        };
        let described = if list { array(found) } else { described };
        let error = Diagnostic::returns_no_object(&origin.scope, span, &described);
        self.diagnostics.push(error);
    }

    /// What `ty` names, if anything.
    fn find(&self, ty: &'a Type) -> Option<Found<'a>> {
        match ty {
            Type::Builtin(builtin) => Some(Found::Builtin(*builtin)),
            Type::Named(name) => {
                let entity = self.schema.get(name)?;
                entity.kind.is_type().then_some(Found::Entity(entity))
            }
            Type::List(_) => None,
        }
    }

    /// Checks what a command takes or an event carries.
    pub(super) fn arguments(
        &mut self,
        entity: &'a Entity,
        origin: &'a Origin,
        arguments: &'a Arguments,
        boxed: bool,
        typed: bool,
    ) {
        let meta = match &entity.kind {
            Kind::Event(_) => "event",
            _ => "command",
        };
        let (scope, modern) = (&origin.scope, origin.language == Language::Modern);
        let name = match arguments {
            Arguments::Members(members) => {
                let (name, role) = (&entity.name, Role::Parameter);
                let shape = self.members_typed(members, name, role, origin, None, typed);
                self.own_features(entity, origin);
                let conditional = members.iter().find(|member| !member.cond.is_always());
                if let Some(member) = conditional.filter(|_| shape.conditional && !boxed) {
                    let error = Diagnostic::condition_needs_boxed(scope, member.span, meta);
                    self.diagnostics.push(error);
                }
                return;
            }
            Arguments::Type(name) => name,
        };
        self.own_features(entity, origin);
        let span = origin.data.unwrap_or(entity.span);
        let Some(found) = self.argument_type(name, span, origin, meta, typed) else {
            return;
        };
        let described = found.describe(name);
        let Found::Entity(found) = found else {
            let error = Diagnostic::arguments_not_object(scope, span, meta, &described);
            self.diagnostics.push(error);
            return;
        };
        if !is_object(found) || matches!(found.kind, Kind::SimpleUnion(_)) {
            let error = Diagnostic::arguments_not_object(scope, span, meta, &described);
            self.diagnostics.push(error);
            return;
        }
        if modern && !boxed && matches!(found.kind, Kind::FlatUnion(_)) {
            let error = Diagnostic::arguments_need_boxed(scope, span, meta, &described);
            self.diagnostics.push(error);
        }
        let shape = self.object(found);
        if modern && !boxed && shape.is_some_and(|shape| shape.conditional) {
            let error = Diagnostic::condition_needs_boxed(scope, span, meta);
            self.diagnostics.push(error);
        }
    }

    fn argument_type(
        &mut self,
        name: &'a str,
        span: Span,
        origin: &Origin,
        meta: &str,
        typed: bool,
    ) -> Option<Found<'a>> {
        if let Some(builtin) = Builtin::from_name(name) {
            return Some(Found::Builtin(builtin));
        }
        if origin.language == Language::Legacy && !typed && ESCAPES.contains(&name) {
            return None;
        }
        let entity = self.schema.get(name);
        if let Some(entity) = entity.filter(|entity| entity.kind.is_type()) {
            return Some(Found::Entity(entity));
        }
        let (user, other) = (format!("{meta}'s 'data'"), entity.map(|entity| entity.span));
        let error = Diagnostic::unknown_type(&origin.scope, span, &user, name, other);
        self.diagnostics.push(error);
        None
    }
}

fn is_object(entity: &Entity) -> bool {
    matches!(
        entity.kind,
        Kind::Struct(_) | Kind::FlatUnion(_) | Kind::SimpleUnion(_)
    )
}

/// An array of what was found.
fn array(found: Found<'_>) -> Described {
    let name = match found {
        Found::Builtin(builtin) => builtin.name(),
        Found::Entity(entity) => &entity.name,
    };
    Described {
        ours: format!("an array of `{name}`"),
        words: format!("array type ['{name}']"),
    }
}
