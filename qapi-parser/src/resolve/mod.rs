//! Names: every type, base and discriminator that a definition mentions is found and fits.
//! Called by `lib.rs`: `define` for each draft, `check` when overlays are in.
//! Invariant: a schema that was checked without diagnostics keeps the promises of `schema.rs`.
//! Findings come in the order in which the reference compiler looks for them: definitions as
//! written, but what a type contains before the type.

mod alternate;
mod command;
mod object;
mod role;
mod shape;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::check::draft::{Draft, Language, Origin, Scope};
use crate::check::name::Key;
use crate::doc;
use crate::error::{Described, Diagnostic, Diagnostics};
use crate::pragma::Pragmas;
use crate::resolve::shape::Shape;
use crate::schema::{Arguments, Base, Builtin, Entity, Feature, Kind, Member, Schema, Type};
use crate::source::Span;

pub(crate) use role::{Part, Role};

/// Types that stand for "any JSON" in the old dialect, allowed with `'gen': 'no'` only.
const ESCAPES: [&str; 3] = ["visitor", "dict", "**"];

/// Features that mean something to every generator.
const SPECIAL: [&str; 2] = ["deprecated", "unstable"];

/// How many features a schema may have, the special ones among them.
const MAX_FEATURES: usize = 64;

/// Where the parts of each definition were written, by its name.
pub(crate) type Origins = HashMap<String, Origin>;

/// Enters one draft, unless its name is taken.
pub(crate) fn define(
    schema: &mut Schema,
    origins: &mut Origins,
    draft: Draft,
    diagnostics: &mut Diagnostics,
) {
    let Draft { entity, origin } = draft;
    let (name, span) = (&entity.name, entity.span);
    if let Some(builtin) = Builtin::from_name(name) {
        let words = describe_builtin(name, builtin);
        let error = Diagnostic::redefines_builtin(&origin.scope, span, name, &words);
        diagnostics.push(error);
        return;
    }
    if let (Some(first), Some(other)) = (schema.get(name), origins.get(name)) {
        let first = (&other.scope, first.span);
        diagnostics.push(Diagnostic::redefined(&origin.scope, span, name, first));
        return;
    }
    origins.insert(name.clone(), origin);
    schema.entities.insert(name.clone(), entity);
}

/// Every rule that needs more than one expression; fills in what follows from other definitions.
pub(crate) fn check(
    schema: &mut Schema,
    origins: &Origins,
    pragmas: &Pragmas,
    diagnostics: &mut Diagnostics,
) {
    let mut resolver = Resolver {
        schema,
        origins,
        pragmas,
        diagnostics,
        objects: HashMap::new(),
        depth: 0,
        tags: Vec::new(),
    };
    for entity in schema.entities.values() {
        resolver.entity(entity);
        resolver.documented(entity);
    }
    resolver.documented_in_vain();
    resolver.count_features();
    for (name, tag) in resolver.tags {
        if let Some(Kind::FlatUnion(union)) = schema.entities.get_mut(&name).map(|e| &mut e.kind) {
            union.tag = tag;
        }
    }
}

/// How far the check of an object type is.
#[derive(Debug, Clone)]
enum Progress<'a> {
    Begun,
    Done(Rc<Shape<'a>>),
}

struct Resolver<'a> {
    schema: &'a Schema,
    origins: &'a Origins,
    pragmas: &'a Pragmas,
    diagnostics: &'a mut Diagnostics,
    objects: HashMap<&'a str, Progress<'a>>,
    /// How many object types are being checked, each contained in the one before.
    depth: usize,
    /// Unions and the enums of their discriminators.
    tags: Vec<(String, String)>,
}

/// What a type's name stands for.
#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    Builtin(Builtin),
    Entity(&'a Entity),
}

impl<'a> Resolver<'a> {
    fn origin(&self, entity: &Entity) -> Option<&'a Origin> {
        self.origins.get(&entity.name)
    }

    fn entity(&mut self, entity: &'a Entity) {
        let Some(origin) = self.origin(entity) else {
            return;
        };
        self.arrays(entity, origin);
        match &entity.kind {
            Kind::Enum(values) => {
                self.own_features(entity, origin);
                self.type_features(entity, origin);
                let mut seen = HashMap::new();
                for value in &values.values {
                    let part = Part {
                        role: Role::Value,
                        name: &value.name,
                        owner: &entity.name,
                        span: value.span,
                    };
                    self.distinct(&mut seen, part, origin);
                }
            }
            Kind::Struct(_) | Kind::FlatUnion(_) => {
                self.object(entity);
            }
            Kind::SimpleUnion(union) => {
                self.base(origin, union.base.as_deref());
                for branch in &union.branches {
                    let part = self::branch(entity, branch);
                    self.branch_type(&branch.ty, branch.ty_span, origin, &part);
                }
            }
            Kind::Alternate(alternate) => self.alternate(entity, origin, alternate),
            Kind::Command(command) => self.command(entity, origin, command),
            Kind::Event(event) => {
                self.own_features(entity, origin);
                self.arguments(entity, origin, &event.data, event.boxed, true);
            }
        }
    }

    /// Whether all of `entity` is documented, if any of it is.
    fn documented(&mut self, entity: &Entity) {
        let Some(origin) = self.origin(entity) else {
            return;
        };
        let Some(block) = &origin.block else {
            return;
        };
        let exceptions = &self.pragmas.documentation;
        for fault in doc::resolved(entity, block, origin.scope.at, exceptions) {
            let error = Diagnostic::documentation(fault, Some(&origin.scope));
            self.diagnostics.push(error);
        }
    }

    /// Whether all that is documented is there.
    fn documented_in_vain(&mut self) {
        for entity in self.schema.entities.values() {
            let block = self.origin(entity).and_then(|origin| origin.block.as_ref());
            let Some(block) = block else { continue };
            for fault in doc::unknown(entity, block) {
                self.diagnostics
                    .push(Diagnostic::documentation(fault, None));
            }
        }
    }

    /// What the elements of arrays are, which the reference looks at before all else.
    fn arrays(&mut self, entity: &'a Entity, origin: &'a Origin) {
        let mut uses: Vec<(&'a Type, Span)> = Vec::new();
        let members = |list: &'a [Member], uses: &mut Vec<(&'a Type, Span)>| {
            uses.extend(list.iter().map(|member| (&member.ty, member.ty_span)));
        };
        let mut typed = true;
        match &entity.kind {
            Kind::Enum(_) => {}
            Kind::Struct(structure) => members(&structure.members, &mut uses),
            Kind::FlatUnion(union) => {
                if let Base::Inline(base) = &union.base {
                    members(base, &mut uses);
                }
                uses.extend(union.branches.iter().map(|b| (&b.ty, b.ty_span)));
            }
            Kind::SimpleUnion(union) => {
                uses.extend(union.branches.iter().map(|b| (&b.ty, b.ty_span)));
            }
            Kind::Alternate(alternate) => {
                uses.extend(alternate.branches.iter().map(|b| (&b.ty, b.ty_span)));
            }
            Kind::Command(command) => {
                typed = command.typed || origin.language == Language::Modern;
                if let Arguments::Members(list) = &command.arguments {
                    members(list, &mut uses);
                }
                let span = origin.returns.unwrap_or(entity.span);
                uses.extend(command.returns.iter().map(|ty| (ty, span)));
            }
            Kind::Event(event) => {
                if let Arguments::Members(list) = &event.data {
                    members(list, &mut uses);
                }
            }
        }
        let meta = origin
            .scope
            .definition
            .as_ref()
            .map_or("", |(meta, _)| meta);
        for (ty, span) in uses {
            if let Type::List(element) = ty {
                self.named_type(element, span, origin, typed, || meta.to_owned());
            }
        }
    }

    /// Finds `ty`, which stands at `span` in the definition of `origin`; `user` is what mentions
    /// it, in the reference's words. Arrays were looked at before.
    fn named_type(
        &mut self,
        ty: &'a Type,
        span: Span,
        origin: &Origin,
        typed: bool,
        user: impl FnOnce() -> String,
    ) -> Option<Found<'a>> {
        let name = match ty {
            Type::Builtin(builtin) => return Some(Found::Builtin(*builtin)),
            Type::List(_) => return None,
            Type::Named(name) => name,
        };
        if origin.language == Language::Legacy && ESCAPES.contains(&name.as_str()) {
            if typed {
                let error = Diagnostic::escape_type(&origin.scope, span, name);
                self.diagnostics.push(error);
            }
            return None;
        }
        let entity = self.schema.get(name);
        if let Some(entity) = entity.filter(|entity| entity.kind.is_type()) {
            return Some(Found::Entity(entity));
        }
        let other = entity.map(|entity| entity.span);
        let error = Diagnostic::unknown_type(&origin.scope, span, &user(), name, other);
        self.diagnostics.push(error);
        None
    }

    /// Finds the struct `base` and what it has.
    fn base(&mut self, origin: &Origin, base: Option<&'a str>) -> Option<Rc<Shape<'a>>> {
        let base = base?;
        let span = origin.base.unwrap_or(origin.scope.at);
        let described = match Builtin::from_name(base) {
            Some(builtin) => described(base, &describe_builtin(base, builtin)),
            None => {
                let entity = self.schema.get(base);
                match entity.filter(|entity| entity.kind.is_type()) {
                    Some(entity) if matches!(entity.kind, Kind::Struct(_)) => {
                        return self.object(entity);
                    }
                    Some(entity) => describe(entity),
                    None => {
                        let other = entity.map(|entity| entity.span);
                        let scope = &origin.scope;
                        let error = Diagnostic::unknown_type(scope, span, "'base'", base, other);
                        self.diagnostics.push(error);
                        return None;
                    }
                }
            }
        };
        let error = Diagnostic::base_not_struct(&origin.scope, span, &described);
        self.diagnostics.push(error);
        None
    }

    /// Features that are there twice.
    fn own_features(&mut self, entity: &'a Entity, origin: &Origin) {
        self.features(&entity.features, &entity.name, entity.span, origin);
    }

    fn features(&mut self, features: &'a [Feature], owner: &'a str, span: Span, origin: &Origin) {
        let mut seen = HashMap::new();
        for feature in features {
            let part = Part {
                role: Role::Feature,
                name: &feature.name,
                owner,
                span,
            };
            self.distinct(&mut seen, part, origin);
        }
    }

    /// Features that types cannot have.
    fn type_features(&mut self, entity: &Entity, origin: &Origin) {
        for feature in &entity.features {
            if SPECIAL.contains(&feature.name.as_str()) {
                let scope = &origin.scope;
                let error = Diagnostic::special_feature(scope, entity.span, &feature.name);
                self.diagnostics.push(error);
            }
        }
    }

    /// Reports `part` if one before it had its name.
    fn distinct(&mut self, seen: &mut HashMap<Key<'a>, Part<'a>>, part: Part<'a>, origin: &Origin) {
        let key = Key::new(part.name, origin.language);
        if let Some(other) = seen.get(&key) {
            let error = Diagnostic::clash(&origin.scope, part.span, &part, other);
            self.diagnostics.push(error);
            return;
        }
        seen.insert(key, part);
    }

    fn count_features(&mut self) {
        let mut names: HashSet<&str> = SPECIAL.into_iter().collect();
        for entity in self.schema.entities.values() {
            let lists = std::iter::once(&entity.features).chain(part_features(&entity.kind));
            for feature in lists.flatten() {
                if names.insert(&feature.name) && names.len() == MAX_FEATURES + 1 {
                    let scope = self.origin(entity).map(|origin| &origin.scope);
                    let anonymous = Scope::anonymous(entity.span);
                    let scope = scope.unwrap_or(&anonymous);
                    let error = Diagnostic::too_many_features(scope, entity.span, MAX_FEATURES);
                    self.diagnostics.push(error);
                }
            }
        }
    }
}

/// Features of members and values.
fn part_features(kind: &Kind) -> Vec<&Vec<Feature>> {
    match kind {
        Kind::Enum(values) => values.values.iter().map(|value| &value.features).collect(),
        _ => members_in_place(kind).iter().map(|m| &m.features).collect(),
    }
}

/// The members that a definition lists itself.
fn members_in_place(kind: &Kind) -> &[Member] {
    match kind {
        Kind::Struct(structure) => &structure.members,
        Kind::FlatUnion(union) => match &union.base {
            Base::Inline(members) => members,
            Base::Named(_) => &[],
        },
        Kind::Command(command) => arguments_in_place(&command.arguments),
        Kind::Event(event) => arguments_in_place(&event.data),
        Kind::Enum(_) | Kind::SimpleUnion(_) | Kind::Alternate(_) => &[],
    }
}

fn arguments_in_place(arguments: &Arguments) -> &[Member] {
    match arguments {
        Arguments::Members(members) => members,
        Arguments::Type(_) => &[],
    }
}

fn branch<'a>(entity: &'a Entity, branch: &'a crate::schema::Branch) -> Part<'a> {
    Part {
        role: Role::Branch,
        name: &branch.name,
        owner: &entity.name,
        span: branch.span,
    }
}

fn describe_builtin(name: &str, builtin: Builtin) -> String {
    match builtin {
        Builtin::QType => format!("enum type '{name}'"),
        _ => format!("built-in type '{name}'"),
    }
}

fn described(name: &str, words: &str) -> Described {
    Described {
        ours: format!("`{name}`"),
        words: words.to_owned(),
    }
}

fn describe(entity: &Entity) -> Described {
    let meta = match &entity.kind {
        Kind::Enum(_) => "enum",
        Kind::Struct(_) => "struct",
        Kind::FlatUnion(_) | Kind::SimpleUnion(_) => "union",
        Kind::Alternate(_) => "alternate",
        Kind::Command(_) => "command",
        Kind::Event(_) => "event",
    };
    Described {
        ours: format!("{meta} `{}`", entity.name),
        words: format!("{meta} type '{}'", entity.name),
    }
}

impl Found<'_> {
    fn describe(self, name: &str) -> Described {
        match self {
            Found::Builtin(builtin) => described(name, &describe_builtin(name, builtin)),
            Found::Entity(entity) => describe(entity),
        }
    }
}
