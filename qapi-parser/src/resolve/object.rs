//! Object types: structs, unions with a tag, and what they contain.

use std::rc::Rc;

use crate::check::draft::{Language, Origin};
use crate::check::name::Key;
use crate::error::Diagnostic;
use crate::resolve::shape::Shape;
use crate::resolve::{Found, Part, Progress, Resolver, Role, branch, describe};
use crate::schema::{Base, Branch, Entity, Enum, FlatUnion, Kind, Member, Type};
use crate::source::Span;

/// How many levels of bases and branches types may have.
const MAX_DEPTH: usize = 256;

impl<'a> Resolver<'a> {
    /// Checks the struct or union `entity` and what it contains, once; what members it has.
    pub(super) fn object(&mut self, entity: &'a Entity) -> Option<Rc<Shape<'a>>> {
        let origin = self.origin(entity)?;
        match self.objects.get(entity.name.as_str()) {
            Some(Progress::Done(shape)) => return Some(Rc::clone(shape)),
            Some(Progress::Begun) => {
                let name = &entity.name;
                let error = Diagnostic::contains_itself(&origin.scope, entity.span, name);
                self.diagnostics.push(error);
                return None;
            }
            None => {}
        }
        if self.depth == MAX_DEPTH {
            let error = Diagnostic::types_too_deep(entity.span, MAX_DEPTH);
            self.diagnostics.push(error);
            return None;
        }
        self.objects.insert(&entity.name, Progress::Begun);
        self.depth += 1;
        // An implicit base is a definition before its union.
        let inline = match &entity.kind {
            Kind::FlatUnion(FlatUnion {
                base: Base::Inline(members),
                ..
            }) => Some(self.members(members, &entity.name, Role::BaseMember, origin, None)),
            _ => None,
        };
        self.own_features(entity, origin);
        self.type_features(entity, origin);
        let shape = match &entity.kind {
            Kind::Struct(structure) => {
                let base = self.base(origin, structure.base.as_deref());
                self.members(&structure.members, &entity.name, Role::Member, origin, base)
            }
            Kind::FlatUnion(union) => {
                let base = match &union.base {
                    Base::Named(name) => self.base(origin, Some(name)),
                    Base::Inline(_) => inline.map(Rc::new),
                };
                self.union(entity, origin, union, base)
            }
            _ => Shape::default(),
        };
        self.depth -= 1;
        let shape = Rc::new(shape);
        self.objects
            .insert(&entity.name, Progress::Done(Rc::clone(&shape)));
        Some(shape)
    }

    /// Checks `members`, which `owner` lists, beside those of `base`.
    pub(super) fn members(
        &mut self,
        members: &'a [Member],
        owner: &'a str,
        role: Role,
        origin: &Origin,
        base: Option<Rc<Shape<'a>>>,
    ) -> Shape<'a> {
        self.members_typed(members, owner, role, origin, base, true)
    }

    pub(super) fn members_typed(
        &mut self,
        members: &'a [Member],
        owner: &'a str,
        role: Role,
        origin: &Origin,
        base: Option<Rc<Shape<'a>>>,
        typed: bool,
    ) -> Shape<'a> {
        let conditional = base.as_ref().is_some_and(|base| base.conditional)
            || members.iter().any(|member| !member.cond.is_always());
        let mut shape = Shape {
            base,
            conditional,
            ..Shape::default()
        };
        for member in members {
            let part = Part {
                role,
                name: &member.name,
                owner,
                span: member.span,
            };
            self.named_type(&member.ty, member.ty_span, origin, typed, || {
                part.words(&origin.scope)
            });
            self.features(&member.features, &member.name, member.span, origin);
            let key = Key::new(&member.name, origin.language);
            if let Some((other, _)) = shape.get(key) {
                let error = Diagnostic::clash(&origin.scope, part.span, &part, other);
                self.diagnostics.push(error);
                continue;
            }
            shape.own.insert(key, (part, member));
        }
        shape
    }

    fn union(
        &mut self,
        entity: &'a Entity,
        origin: &'a Origin,
        union: &'a FlatUnion,
        base: Option<Rc<Shape<'a>>>,
    ) -> Shape<'a> {
        let mut shape = Shape {
            conditional: base.as_ref().is_some_and(|base| base.conditional),
            base,
            ..Shape::default()
        };
        // Without a base there is nothing to say about the rest: that was reported.
        if shape.base.is_none() {
            return shape;
        }
        let tag = self.tag(entity, origin, union, &shape);
        if let Some((tag, values)) = tag {
            self.tags.push((entity.name.clone(), tag.name.clone()));
            if values.values.is_empty() && union.branches.is_empty() {
                let span = origin.discriminator.unwrap_or(entity.span);
                self.diagnostics
                    .push(Diagnostic::no_branches(&origin.scope, span));
            }
        }
        let mut contents = Vec::with_capacity(union.branches.len());
        for branch in &union.branches {
            contents.push(self.branch(entity, origin, branch, tag));
        }
        for (branch, content) in union.branches.iter().zip(&contents) {
            let clash = content
                .as_ref()
                .and_then(|content| content.first_in(&shape));
            if let Some((part, other)) = clash {
                let span = branch.ty_span;
                let error = Diagnostic::clash(&origin.scope, span, &part, &other);
                self.diagnostics.push(error);
            }
        }
        shape.branches = contents.into_iter().flatten().collect();
        shape
    }

    /// The enum of the discriminator.
    fn tag(
        &mut self,
        entity: &Entity,
        origin: &Origin,
        union: &'a FlatUnion,
        shape: &Shape<'a>,
    ) -> Option<(&'a Entity, &'a Enum)> {
        let name = union.discriminator.as_str();
        let (scope, span) = (&origin.scope, origin.discriminator.unwrap_or(entity.span));
        let member = shape.get(Key::new(name, origin.language));
        let Some((part, member)) = member.filter(|(part, _)| part.name == name) else {
            let error = Diagnostic::discriminator_unknown(scope, span, name);
            self.diagnostics.push(error);
            return None;
        };
        let base = match part.role {
            Role::Member => format!("base type '{}'", part.owner),
            _ => "'base'".to_owned(),
        };
        let tag = match &member.ty {
            Type::Named(ty) => self.schema.get(ty).and_then(|entity| match &entity.kind {
                Kind::Enum(values) => Some((entity, values)),
                _ => None,
            }),
            Type::Builtin(_) | Type::List(_) => None,
        };
        let fault = if tag.is_none() {
            ("be of an enum type", "be of enum type")
        } else if member.optional {
            ("not be optional", "not be optional")
        } else if !member.cond.is_always() {
            ("not be under a condition", "not be conditional")
        } else {
            return tag;
        };
        let spans = (span, member.span);
        let error = Diagnostic::discriminator(scope, spans, name, &base, fault);
        self.diagnostics.push(error);
        None
    }

    /// Checks one branch of a union; what members it has.
    fn branch(
        &mut self,
        entity: &'a Entity,
        origin: &'a Origin,
        branch: &'a Branch,
        tag: Option<(&'a Entity, &'a Enum)>,
    ) -> Option<Rc<Shape<'a>>> {
        let part = self::branch(entity, branch);
        let found = self.branch_type(&branch.ty, branch.ty_span, origin, &part);
        let scope = &origin.scope;
        if let Some((tag, values)) = tag
            && !values.values.iter().any(|value| value.name == branch.name)
        {
            let tag = describe(tag);
            let error = Diagnostic::branch_not_in_enum(scope, branch.span, &branch.name, &tag);
            self.diagnostics.push(error);
        }
        let described = match (&branch.ty, found?) {
            (Type::Named(_), Found::Entity(found)) => match &found.kind {
                Kind::Struct(_) => return self.object(found),
                Kind::FlatUnion(_) if origin.language == Language::Modern => {
                    return self.object(found);
                }
                _ => describe(found),
            },
            (ty, found) => found.describe(ty_name(ty)),
        };
        let error = Diagnostic::branch_not_object(scope, branch.ty_span, &part, &described);
        self.diagnostics.push(error);
        None
    }

    /// Finds the type of the branch `part`; of a list, what its elements are.
    pub(super) fn branch_type(
        &mut self,
        ty: &'a Type,
        span: Span,
        origin: &Origin,
        part: &Part<'_>,
    ) -> Option<Found<'a>> {
        self.named_type(ty, span, origin, true, || part.words(&origin.scope))
    }
}

/// The name of `ty`, or of its elements.
fn ty_name(ty: &Type) -> &str {
    match ty {
        Type::Builtin(builtin) => builtin.name(),
        Type::Named(name) => name,
        Type::List(element) => ty_name(element),
    }
}
