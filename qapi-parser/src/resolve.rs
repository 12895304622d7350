//! Names: every type, base and discriminator that a draft mentions is found and fits.
//! Called by `lib.rs`: `define` for each draft, `check` when overlays are in.
//! Invariant: a schema that was checked without diagnostics keeps the promises of `schema.rs`.

use indexmap::IndexMap;

use crate::check::{Choice, DraftData, DraftKind, DraftMember, DraftType};
use crate::cond::Cond;
use crate::error::{Diagnostic, Diagnostics};
use crate::include::Placed;
use crate::schema::{
    Alternate, Arguments, Base, Branch, Builtin, Command, Entity, Enum, EnumValue, Event,
    FlatUnion, JsonType, Kind, Member, Schema, SimpleUnion, Struct, Type,
};
use crate::source::Span;
use crate::syntax::Text;

/// Types that stand for "any JSON", allowed with `'gen': 'no'` only.
const ESCAPES: [&str; 3] = ["visitor", "dict", "**"];

/// Enters one draft, unless its name is taken.
pub(crate) fn define(schema: &mut Schema, placed: Placed, diagnostics: &mut Diagnostics) {
    let Placed { draft, module } = placed;
    let name = draft.name.text;
    let span = draft.name.span;
    if Builtin::from_name(&name).is_some() {
        diagnostics.push(Diagnostic::redefines_builtin(span, &name));
        return;
    }
    if let Some(first) = schema.get(&name) {
        diagnostics.push(Diagnostic::redefined(span, &name, first.span));
        return;
    }
    let kind = kind(draft.kind, span, diagnostics);
    let entity = Entity {
        name: name.clone(),
        module,
        span,
        cond: Cond::Always,
        features: Vec::new(),
        doc: draft.doc,
        kind,
    };
    schema.entities.insert(name, entity);
}

fn kind(draft: DraftKind, span: Span, diagnostics: &mut Diagnostics) -> Kind {
    match draft {
        DraftKind::Enum { values } => Kind::Enum(Enum {
            values: self::values(values),
            prefix: None,
        }),
        DraftKind::Struct { base, members } => {
            let base = base.map(|base| base.text);
            Kind::Struct(Struct {
                base,
                members: self::members(members),
            })
        }
        DraftKind::Union {
            base,
            choice,
            branches,
        } => {
            let base = base.map(|base| base.text);
            let branches = self::branches(branches);
            match choice {
                Choice::Wrapper => Kind::SimpleUnion(SimpleUnion { base, branches }),
                Choice::Json => Kind::Alternate(Alternate { branches }),
                Choice::Member(discriminator) => {
                    if base.is_none() {
                        diagnostics.push(Diagnostic::needs_base(span));
                    }
                    Kind::FlatUnion(FlatUnion {
                        base: Base::Named(base.unwrap_or_default()),
                        discriminator: discriminator.text,
                        // Filled in by `fill_tags` once every base is known.
                        tag: String::new(),
                        branches,
                    })
                }
            }
        }
        DraftKind::Command {
            data,
            returns,
            typed,
            answers,
        } => Kind::Command(Command {
            arguments: arguments(data),
            returns: returns.map(ty),
            typed,
            answers,
            allow_oob: false,
            allow_preconfig: false,
            coroutine: false,
            boxed: false,
            flat: None,
        }),
        DraftKind::Event { data } => Kind::Event(Event {
            data: arguments(data),
            boxed: false,
        }),
    }
}

pub(crate) fn values(drafts: Vec<Text>) -> Vec<EnumValue> {
    let value = |draft: Text| EnumValue {
        name: draft.text,
        cond: Cond::Always,
        features: Vec::new(),
        span: draft.span,
    };
    drafts.into_iter().map(value).collect()
}

pub(crate) fn members(drafts: Vec<DraftMember>) -> Vec<Member> {
    let member = |draft: DraftMember| Member {
        name: draft.name.text,
        optional: draft.optional,
        span: draft.name.span,
        ty_span: draft.ty.span(),
        ty: ty(draft.ty),
        cond: Cond::Always,
        features: Vec::new(),
    };
    drafts.into_iter().map(member).collect()
}

pub(crate) fn branches(drafts: Vec<DraftMember>) -> Vec<Branch> {
    let branch = |draft: DraftMember| Branch {
        name: draft.name.text,
        span: draft.name.span,
        ty_span: draft.ty.span(),
        ty: ty(draft.ty),
        cond: Cond::Always,
    };
    drafts.into_iter().map(branch).collect()
}

fn arguments(data: DraftData) -> Arguments {
    match data {
        DraftData::Members(drafts) => Arguments::Members(members(drafts)),
        DraftData::Type(name) => Arguments::Type(name.text),
    }
}

fn ty(draft: DraftType) -> Type {
    let named = |name: String| Builtin::from_name(&name).map_or(Type::Named(name), Type::Builtin);
    match draft {
        DraftType::Name(name) => named(name.text),
        DraftType::List(name) => Type::List(Box::new(named(name.text))),
    }
}

/// Fills in the discriminators' enums; a union whose enum is not found keeps none.
fn fill_tags(schema: &mut Schema) {
    let tag = |schema: &Schema, entity: &Entity, union: &FlatUnion| {
        let members = schema.base_members(entity, union);
        let member = members
            .iter()
            .find(|(member, _)| member.name == union.discriminator)?;
        match &member.0.ty {
            Type::Named(name) => Some(name.clone()),
            Type::Builtin(_) | Type::List(_) => None,
        }
    };
    let tags: IndexMap<String, String> = schema
        .entities
        .values()
        .filter_map(|entity| match &entity.kind {
            Kind::FlatUnion(union) => Some((entity.name.clone(), tag(schema, entity, union)?)),
            _ => None,
        })
        .collect();
    for (name, tag) in tags {
        if let Some(Kind::FlatUnion(union)) = schema.entities.get_mut(&name).map(|e| &mut e.kind) {
            union.tag = tag;
        }
    }
}

/// Every rule that needs more than one expression; fills in what follows from other definitions.
pub(crate) fn check(schema: &mut Schema, diagnostics: &mut Diagnostics) {
    if !(Resolver {
        schema,
        diagnostics,
    })
    .bases()
    {
        // What follows walks bases; a cycle was reported.
        return;
    }
    fill_tags(schema);
    let mut resolver = Resolver {
        schema,
        diagnostics,
    };
    for entity in schema.entities.values() {
        resolver.entity(entity);
    }
}

struct Resolver<'a> {
    schema: &'a Schema,
    diagnostics: &'a mut Diagnostics,
}

impl Resolver<'_> {
    /// Checks that bases are structs and that no struct is its own base; true if none is.
    fn bases(&mut self) -> bool {
        let mut sound = true;
        for entity in self.schema.entities.values() {
            let mut seen = vec![entity.name.as_str()];
            let mut at = base_of(&entity.kind);
            while let Some(base) = at {
                if base == entity.name {
                    self.diagnostics
                        .push(Diagnostic::base_cycle(entity.span, base));
                    sound = false;
                }
                if seen.contains(&base) {
                    break;
                }
                seen.push(base);
                at = self
                    .schema
                    .structure(base)
                    .and_then(|base| base.base.as_deref());
            }
        }
        sound
    }

    fn entity(&mut self, entity: &Entity) {
        match &entity.kind {
            Kind::Enum(_) => {}
            Kind::Struct(structure) => {
                self.base(entity, structure.base.as_deref());
                self.members(&structure.members, true);
                let inherited = structure
                    .base
                    .as_deref()
                    .map_or_else(Vec::new, |b| self.schema.members(b));
                for member in &structure.members {
                    self.clash(member, &inherited, "its base's");
                }
            }
            Kind::FlatUnion(union) => self.flat_union(entity, union),
            Kind::SimpleUnion(union) => {
                self.base(entity, union.base.as_deref());
                for branch in &union.branches {
                    self.ty(&branch.ty, branch.ty_span, true);
                }
            }
            Kind::Alternate(alternate) => self.alternate(alternate),
            Kind::Command(command) => {
                self.arguments(entity, &command.arguments, command.typed);
                if let Some(returns) = &command.returns {
                    self.ty(returns, entity.span, command.typed);
                }
            }
            Kind::Event(event) => self.arguments(entity, &event.data, true),
        }
    }

    fn base(&mut self, entity: &Entity, base: Option<&str>) {
        let Some(base) = base else { return };
        match self.schema.get(base).map(|entity| &entity.kind) {
            Some(Kind::Struct(_)) => {}
            Some(_) => self
                .diagnostics
                .push(Diagnostic::base_not_struct(entity.span, base)),
            None if Builtin::from_name(base).is_some() => {
                self.diagnostics
                    .push(Diagnostic::base_not_struct(entity.span, base));
            }
            None => self
                .diagnostics
                .push(Diagnostic::unknown_type(entity.span, base)),
        }
    }

    fn members(&mut self, members: &[Member], typed: bool) {
        for member in members {
            self.ty(&member.ty, member.ty_span, typed);
        }
    }

    fn clash(&mut self, member: &Member, others: &[(&Member, &Entity)], whose: &str) {
        if let Some((other, _)) = others.iter().find(|(other, _)| other.name == member.name) {
            let error = Diagnostic::member_clash(member.span, &member.name, whose, other.span);
            self.diagnostics.push(error);
        }
    }

    fn ty(&mut self, ty: &Type, span: Span, typed: bool) {
        let name = match ty {
            Type::Builtin(_) => return,
            Type::List(element) => return self.ty(element, span, typed),
            Type::Named(name) => name,
        };
        if ESCAPES.contains(&name.as_str()) {
            if typed {
                self.diagnostics.push(Diagnostic::escape_type(span, name));
            }
            return;
        }
        match self.schema.get(name) {
            None => self.diagnostics.push(Diagnostic::unknown_type(span, name)),
            Some(entity) if !entity.kind.is_type() => {
                self.diagnostics
                    .push(Diagnostic::not_a_type(span, name, entity.span));
            }
            Some(_) => {}
        }
    }

    fn arguments(&mut self, entity: &Entity, arguments: &Arguments, typed: bool) {
        match arguments {
            Arguments::Members(members) => self.members(members, typed),
            Arguments::Type(name) => match self.schema.get(name).map(|entity| &entity.kind) {
                Some(Kind::Struct(_) | Kind::FlatUnion(_)) => {}
                None if !typed && ESCAPES.contains(&name.as_str()) => {}
                None if Builtin::from_name(name).is_none() => {
                    self.diagnostics
                        .push(Diagnostic::unknown_type(entity.span, name));
                }
                _ => self
                    .diagnostics
                    .push(Diagnostic::arguments_not_struct(entity.span, name)),
            },
        }
    }

    fn flat_union(&mut self, entity: &Entity, union: &FlatUnion) {
        let base_name = match &union.base {
            Base::Named(name) if name.is_empty() => return,
            Base::Named(name) => {
                self.base(entity, Some(name));
                name.as_str()
            }
            Base::Inline(members) => {
                self.members(members, true);
                ""
            }
        };
        let base = self.schema.base_members(entity, union);
        if base.is_empty() {
            return;
        }
        let tag = base
            .iter()
            .find(|(member, _)| member.name == union.discriminator);
        let Some((tag, _)) = tag else {
            let name = &union.discriminator;
            self.diagnostics.push(Diagnostic::discriminator_unknown(
                entity.span,
                name,
                base_name,
            ));
            return;
        };
        let values = match &tag.ty {
            Type::Named(name) if !tag.optional => match self.schema.get(name).map(|e| &e.kind) {
                Some(Kind::Enum(values)) => Some((name, &values.values)),
                _ => None,
            },
            _ => None,
        };
        let Some((tag_name, values)) = values else {
            let error = Diagnostic::discriminator_not_enum(entity.span, &union.discriminator);
            self.diagnostics.push(error);
            return;
        };
        for branch in &union.branches {
            if !values.iter().any(|value| value.name == branch.name) {
                let error = Diagnostic::branch_not_in_enum(branch.span, &branch.name, tag_name);
                self.diagnostics.push(error);
            }
            self.ty(&branch.ty, branch.ty_span, true);
            let Type::Named(name) = &branch.ty else {
                self.diagnostics
                    .push(Diagnostic::branch_not_object(branch.ty_span, &branch.name));
                continue;
            };
            if let Some(other) = self.schema.get(name)
                && !matches!(other.kind, Kind::Struct(_))
            {
                self.diagnostics
                    .push(Diagnostic::branch_not_object(branch.ty_span, &branch.name));
            }
            for (member, _) in self.schema.members(name) {
                self.clash(
                    member,
                    &base,
                    &format!("the base of union `{}`", entity.name),
                );
            }
        }
    }

    fn alternate(&mut self, alternate: &Alternate) {
        let mut seen: IndexMap<JsonType, &Branch> = IndexMap::new();
        for branch in &alternate.branches {
            self.ty(&branch.ty, branch.ty_span, true);
            let json = match self.schema.json_type(&branch.ty) {
                JsonType::Int => JsonType::Number,
                JsonType::Value => {
                    if !matches!(&branch.ty, Type::Named(name) if self.schema.get(name).is_none()) {
                        let error = Diagnostic::branch_no_json_type(branch.ty_span, &branch.name);
                        self.diagnostics.push(error);
                    }
                    continue;
                }
                other => other,
            };
            if let Some(first) = seen.get(&json) {
                let kind = json.as_str();
                let error = Diagnostic::json_clash(branch.span, &branch.name, kind, first.span);
                self.diagnostics.push(error);
            }
            seen.insert(json, branch);
        }
    }
}

fn base_of(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::Struct(structure) => structure.base.as_deref(),
        _ => None,
    }
}
