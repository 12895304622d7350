//! The walk over a schema that finds what is used, and describes each of it.
//! Called by `introspect`. Invariant: a type is named when it is first mentioned, and described
//! after everything that was mentioned before it.

use std::collections::HashMap;

use indexmap::IndexSet;
use qapi_parser::{
    Alternate, Arguments, Branch, Builtin, Command, Cond, Entity, Enum, EnumValue, Feature,
    FlatUnion, JsonType, Kind, Member, Schema, SimpleUnion, Type,
};

use super::{Documented, Item, Tree, TypeNames};
use crate::runtime::Value;

/// The values of `QType`, an enum that every schema has.
const Q_TYPES: [&str; 7] = [
    "none", "qnull", "qnum", "qstring", "qdict", "qlist", "qbool",
];

/// The entries, and what documentation says of them.
pub(super) fn entries(schema: &Schema, names: TypeNames) -> (Vec<Item>, Vec<Documented>) {
    let mut walk = Walk {
        schema,
        names,
        used: IndexSet::new(),
        masks: HashMap::new(),
        docs: Vec::new(),
    };
    let mut out: Vec<Item> = by_module(schema)
        .filter_map(|entity| walk.entry(entity))
        .collect();
    // Types are added while they are looked at.
    let mut next = 0;
    while let Some(used) = walk.used.get_index(next).cloned() {
        out.push(walk.definition(&used));
        next += 1;
    }
    (out, walk.docs)
}

/// Entities file by file: files in the order of their first line, not of their definitions.
fn by_module(schema: &Schema) -> impl Iterator<Item = &Entity> {
    let place = |entity: &Entity| schema.modules.get_index_of(&entity.module);
    let mut entities: Vec<&Entity> = schema.entities.values().collect();
    entities.sort_by_key(|entity| place(entity).unwrap_or(usize::MAX));
    entities.into_iter()
}

/// A type as introspection sees it: some have no definition in the schema.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Used<'a> {
    Builtin(Builtin),
    QType,
    Named(&'a str),
    List(Box<Used<'a>>),
    Empty,
    /// Arguments of a command or data of an event, listed in place.
    Arguments(&'a str),
    /// The implicit enum of a simple union.
    Kind(&'a str),
    /// `{"data": …}` around a type that is a branch of a simple union.
    Wrapper(&'a Type),
}

struct Walk<'a> {
    schema: &'a Schema,
    names: TypeNames,
    used: IndexSet<Used<'a>>,
    masks: HashMap<Used<'a>, usize>,
    docs: Vec<Documented>,
}

impl<'a> Walk<'a> {
    /// The entry of a command or event.
    fn entry(&mut self, entity: &'a Entity) -> Option<Item> {
        let name = entity.name.as_str();
        let mut members: Vec<(&'static str, Tree)> = vec![("name", name.into())];
        match &entity.kind {
            Kind::Command(command) => {
                members.push(("meta-type", "command".into()));
                members.push(("arg-type", self.command_data(entity, command).into()));
                let returns = match &command.returns {
                    Some(ty) => self.ty(ty),
                    None => self.mention(Used::Empty),
                };
                members.push(("ret-type", returns.into()));
                if command.allow_oob {
                    members.push(("allow-oob", Tree::Value(true.into())));
                }
            }
            Kind::Event(event) => {
                members.push(("meta-type", "event".into()));
                members.push(("arg-type", self.arguments(entity, &event.data).into()));
            }
            Kind::Enum(_)
            | Kind::Struct(_)
            | Kind::FlatUnion(_)
            | Kind::SimpleUnion(_)
            | Kind::Alternate(_) => return None,
        }
        push_features(&mut members, &entity.features);
        self.document(name, "", &entity.doc.body);
        Some(Item::new(Tree::Object(members), &entity.cond))
    }

    fn document(&mut self, entry: &str, member: &str, text: &str) {
        if !text.is_empty() {
            self.docs.push(Documented {
                entry: entry.to_owned(),
                member: member.to_owned(),
                text: text.to_owned(),
            });
        }
    }

    fn document_member(&mut self, used: &Used<'a>, entity: &Entity, member: &str) {
        if let Some(text) = entity.doc.members.get(member) {
            let entry = self.name(used);
            self.document(&entry, member, text);
        }
    }

    /// Enters a type and gives the name it goes by.
    fn mention(&mut self, used: Used<'a>) -> String {
        self.used.insert(used.clone());
        match used {
            Used::Builtin(builtin) => builtin_name(builtin).to_owned(),
            Used::List(element) => format!("[{}]", self.mention(*element)),
            other => self.name(&other),
        }
    }

    fn name(&mut self, used: &Used<'a>) -> String {
        match self.names {
            TypeNames::Plain => plain_name(used),
            TypeNames::Masked => {
                let next = self.masks.len();
                self.masks.entry(used.clone()).or_insert(next).to_string()
            }
        }
    }

    fn ty(&mut self, ty: &'a Type) -> String {
        let used = self.used_of(ty);
        self.mention(used)
    }

    fn used_of(&self, ty: &'a Type) -> Used<'a> {
        match ty {
            Type::Builtin(Builtin::QType) => Used::QType,
            Type::Builtin(builtin) if builtin.json_type() == JsonType::Int => {
                Used::Builtin(Builtin::Int)
            }
            Type::Builtin(builtin) => Used::Builtin(*builtin),
            Type::List(element) => Used::List(Box::new(self.used_of(element))),
            Type::Named(name) => self.used_of_name(name),
        }
    }

    fn used_of_name(&self, name: &'a str) -> Used<'a> {
        match self.schema.get(name) {
            Some(_) => Used::Named(name),
            // One of the escape types of the old dialect.
            None => Used::Builtin(Builtin::Any),
        }
    }

    fn command_data(&mut self, entity: &'a Entity, command: &'a Command) -> String {
        // The direct spelling is the one that clients of today look for.
        if command.flat.is_some()
            && let Arguments::Members(members) = &command.arguments
            && let [member] = members.as_slice()
        {
            return self.ty(&member.ty);
        }
        self.arguments(entity, &command.arguments)
    }

    fn arguments(&mut self, entity: &'a Entity, arguments: &'a Arguments) -> String {
        match arguments {
            Arguments::Members(members) if members.is_empty() => self.mention(Used::Empty),
            Arguments::Members(_) => self.mention(Used::Arguments(&entity.name)),
            Arguments::Type(name) => {
                let used = self.used_of_name(name);
                self.mention(used)
            }
        }
    }

    fn definition(&mut self, used: &Used<'a>) -> Item {
        let always = Cond::Always;
        match used {
            Used::Builtin(builtin) => {
                let members = vec![
                    ("name", builtin_name(*builtin).into()),
                    ("meta-type", "builtin".into()),
                    ("json-type", builtin.json_type().as_str().into()),
                ];
                Item::new(Tree::Object(members), &always)
            }
            Used::QType => {
                let values = Q_TYPES.iter().map(|value| (*value, &always, &[][..]));
                self.enumeration(used, values, &[], &always)
            }
            Used::List(element) => {
                let cond = self.cond(element);
                let element = self.mention((**element).clone());
                let members = vec![
                    ("name", format!("[{element}]").into()),
                    ("meta-type", "array".into()),
                    ("element-type", element.into()),
                ];
                Item::new(Tree::Object(members), cond)
            }
            Used::Empty => self.object(used, Vec::new(), &[], &always),
            Used::Arguments(name) => {
                let members = self.members(used, arguments(self.schema, name));
                self.object(used, members, &[], self.cond(used))
            }
            Used::Kind(name) => {
                let branches = simple_branches(self.schema, name);
                let values = branches
                    .iter()
                    .map(|branch| (branch.name.as_str(), &branch.cond, &[][..]));
                self.enumeration(used, values, &[], self.cond(used))
            }
            Used::Wrapper(ty) => {
                let data = self.ty(ty);
                let member = Tree::Object(vec![("name", "data".into()), ("type", data.into())]);
                let members = vec![Item::new(member, &always)];
                self.object(used, members, &[], self.cond(used))
            }
            Used::Named(name) => match self.schema.get(name) {
                Some(entity) => self.entity(used, entity),
                None => self.object(used, Vec::new(), &[], &always),
            },
        }
    }

    /// When a type is there.
    fn cond(&self, used: &Used<'a>) -> &'a Cond {
        let of = |name: &str| self.schema.get(name).map(|entity| &entity.cond);
        let cond = match used {
            Used::Builtin(_) | Used::QType | Used::Empty => None,
            Used::Named(name) | Used::Arguments(name) | Used::Kind(name) => of(name),
            Used::List(element) => Some(self.cond(element)),
            Used::Wrapper(ty) => Some(self.cond(&self.used_of(ty))),
        };
        cond.unwrap_or(&Cond::Always)
    }

    fn entity(&mut self, used: &Used<'a>, entity: &'a Entity) -> Item {
        let schema = self.schema;
        match &entity.kind {
            Kind::Enum(Enum { values, .. }) => {
                let value = |value: &'a EnumValue| {
                    (value.name.as_str(), &value.cond, value.features.as_slice())
                };
                for value in values {
                    self.document_member(used, entity, &value.name);
                }
                let values = values.iter().map(value);
                self.enumeration(used, values, &entity.features, &entity.cond)
            }
            Kind::Struct(_) => {
                let members = self.members(used, schema.members(&entity.name));
                self.object(used, members, &entity.features, &entity.cond)
            }
            Kind::FlatUnion(union) => self.flat_union(used, entity, union),
            Kind::SimpleUnion(union) => self.simple_union(used, entity, union),
            Kind::Alternate(alternate) => self.alternate(used, entity, alternate),
            // Neither can be the type of anything.
            Kind::Command(_) | Kind::Event(_) => self.object(used, Vec::new(), &[], &entity.cond),
        }
    }

    fn flat_union(&mut self, used: &Used<'a>, entity: &'a Entity, union: &'a FlatUnion) -> Item {
        let schema = self.schema;
        let members = self.members(used, schema.base_members(entity, union));
        let mut variants = Vec::new();
        for branch in &union.branches {
            let ty = self.ty(&branch.ty);
            variants.push(variant(&branch.name, ty, &branch.cond));
        }
        // Values without a branch come after those that have one.
        let values = match schema.get(&union.tag).map(|tag| &tag.kind) {
            Some(Kind::Enum(tag)) => tag.values.as_slice(),
            _ => &[],
        };
        for value in values {
            let listed = |branch: &Branch| branch.name == value.name;
            if !union.branches.iter().any(listed) {
                let ty = self.mention(Used::Empty);
                variants.push(variant(&value.name, ty, &value.cond));
            }
        }
        self.union(used, entity, members, &union.discriminator, variants)
    }

    fn simple_union(
        &mut self,
        used: &Used<'a>,
        entity: &'a Entity,
        union: &'a SimpleUnion,
    ) -> Item {
        let schema = self.schema;
        let base = union.base.as_deref();
        let base = base.map_or_else(Vec::new, |base| schema.members(base));
        let mut members = self.members(used, base);
        let kind = self.mention(Used::Kind(&entity.name));
        let tag = Tree::Object(vec![("name", "type".into()), ("type", kind.into())]);
        members.push(Item::new(tag, &Cond::Always));
        let mut variants = Vec::new();
        for branch in &union.branches {
            let ty = self.mention(Used::Wrapper(&branch.ty));
            variants.push(variant(&branch.name, ty, &branch.cond));
        }
        self.union(used, entity, members, "type", variants)
    }

    fn union(
        &mut self,
        used: &Used<'a>,
        entity: &Entity,
        members: Vec<Item>,
        tag: &str,
        variants: Vec<Item>,
    ) -> Item {
        let members = vec![
            ("name", self.name(used).into()),
            ("meta-type", "object".into()),
            ("members", members.into()),
            ("tag", tag.into()),
            ("variants", variants.into()),
        ];
        finish(members, &entity.features, &entity.cond)
    }

    fn alternate(&mut self, used: &Used<'a>, entity: &'a Entity, alternate: &'a Alternate) -> Item {
        let mut members = Vec::new();
        for branch in &alternate.branches {
            let ty = self.ty(&branch.ty);
            let member = Tree::Object(vec![("type", ty.into())]);
            members.push(Item::new(member, &branch.cond));
        }
        let members = vec![
            ("name", self.name(used).into()),
            ("meta-type", "alternate".into()),
            ("members", members.into()),
        ];
        finish(members, &entity.features, &entity.cond)
    }

    /// The members of `used`, each with where it is documented.
    fn members(&mut self, used: &Used<'a>, members: Vec<(&'a Member, &'a Entity)>) -> Vec<Item> {
        let mut out = Vec::new();
        for (member, entity) in members {
            self.document_member(used, entity, &member.name);
            let ty = self.ty(&member.ty);
            let mut entry = vec![("name", member.name.as_str().into()), ("type", ty.into())];
            if member.optional {
                entry.push(("default", Tree::Value(Value::Null)));
            }
            out.push(finish(entry, &member.features, &member.cond));
        }
        out
    }

    fn object(
        &mut self,
        used: &Used<'a>,
        members: Vec<Item>,
        features: &[Feature],
        cond: &Cond,
    ) -> Item {
        let members = vec![
            ("name", self.name(used).into()),
            ("meta-type", "object".into()),
            ("members", members.into()),
        ];
        finish(members, features, cond)
    }

    fn enumeration<'v>(
        &mut self,
        used: &Used<'a>,
        values: impl Iterator<Item = (&'v str, &'v Cond, &'v [Feature])>,
        features: &[Feature],
        cond: &Cond,
    ) -> Item {
        let (mut members, mut names) = (Vec::new(), Vec::new());
        for (name, cond, features) in values {
            members.push(finish(vec![("name", name.into())], features, cond));
            names.push(Item::new(name, cond));
        }
        let members = vec![
            ("name", self.name(used).into()),
            ("meta-type", "enum".into()),
            ("members", members.into()),
            ("values", names.into()),
        ];
        finish(members, features, cond)
    }
}

fn finish(mut members: Vec<(&'static str, Tree)>, features: &[Feature], cond: &Cond) -> Item {
    push_features(&mut members, features);
    Item::new(Tree::Object(members), cond)
}

/// A list that is empty because of conditions alone is shown.
fn push_features(members: &mut Vec<(&'static str, Tree)>, features: &[Feature]) {
    if !features.is_empty() {
        let feature = |feature: &Feature| Item::new(feature.name.as_str(), &feature.cond);
        let features: Vec<Item> = features.iter().map(feature).collect();
        members.push(("features", features.into()));
    }
}

fn variant(case: &str, ty: String, cond: &Cond) -> Item {
    let members = vec![("case", case.into()), ("type", ty.into())];
    Item::new(Tree::Object(members), cond)
}

/// What command or event `name` lists in place.
fn arguments<'a>(schema: &'a Schema, name: &str) -> Vec<(&'a Member, &'a Entity)> {
    let Some(entity) = schema.get(name) else {
        return Vec::new();
    };
    let arguments = match &entity.kind {
        Kind::Command(command) => Some(&command.arguments),
        Kind::Event(event) => Some(&event.data),
        _ => None,
    };
    match arguments {
        Some(Arguments::Members(members)) => members.iter().map(|m| (m, entity)).collect(),
        Some(Arguments::Type(_)) | None => Vec::new(),
    }
}

fn simple_branches<'a>(schema: &'a Schema, name: &str) -> &'a [Branch] {
    match schema.get(name).map(|entity| &entity.kind) {
        Some(Kind::SimpleUnion(union)) => &union.branches,
        _ => &[],
    }
}

fn plain_name(used: &Used<'_>) -> String {
    match used {
        Used::Builtin(builtin) => builtin_name(*builtin).to_owned(),
        Used::QType => "QType".to_owned(),
        Used::Named(name) => (*name).to_owned(),
        Used::List(element) => format!("[{}]", plain_name(element)),
        Used::Empty => "q_empty".to_owned(),
        Used::Arguments(name) => format!("q_obj_{name}-arg"),
        Used::Kind(name) => format!("{name}Kind"),
        Used::Wrapper(ty) => format!("q_obj_{}-wrapper", c_type_name(ty)),
    }
}

/// What the reference compiler calls a type, lists included.
fn c_type_name(ty: &Type) -> String {
    match ty {
        Type::Builtin(builtin) => builtin.name().to_owned(),
        Type::Named(name) => name.clone(),
        Type::List(element) => format!("{}List", c_type_name(element)),
    }
}

/// Introspection's name of a type that the language has: integers are one.
fn builtin_name(builtin: Builtin) -> &'static str {
    match builtin.json_type() {
        JsonType::Int => "int",
        _ => builtin.name(),
    }
}
