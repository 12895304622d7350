//! What `query-qmp-schema` answers: commands and events in schema order, then the types that they
//! use, names masked by numbers.
//! Invariant: follows QEMU's order of discovery, so numbers do not depend on what is unused.

use std::collections::HashMap;

use proc_macro2::Literal;
use qapi_parser::{
    Arguments, Branch, Builtin, Command, Entity, Event, JsonType, Kind, Member, Schema, Type,
};
use quote::quote;

use super::Context;
use crate::file::Module;
use crate::runtime::{Object, Value};

pub(super) fn emit(context: &Context<'_>) -> Module {
    let Walk { out, docs, .. } = Walk::of(context.schema);
    let mut text = String::from("[");
    for (index, entry) in out.into_iter().enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&Value::Object(entry).to_ascii_json());
    }
    text.push_str("\n]");
    let literal: Literal = match format!("r####\"{text}\"####").parse() {
        Ok(literal) => literal,
        Err(_) => Literal::string(&text),
    };
    let docs = docs.iter().map(|doc| {
        let Documented {
            entry,
            member,
            text,
        } = doc;
        quote!((#entry, #member, #text))
    });
    Module::new("introspect", "The schema as `query-qmp-schema` tells it.")
        .public()
        .with(quote! {
            use super::runtime::{Error, Value};

            /// The schema, as JSON text.
            pub const JSON: &str = #literal;

            /// The schema, as a value: an array of `SchemaInfo`.
            ///
            /// # Errors
            /// None: the text is JSON.
            pub fn value() -> Result<Value, Error> {
                Value::from_json(JSON)
            }

            /// What the schema's documentation says: the name of an entry of [`value`], the name
            /// of its member or value, or nothing for the entry itself, and the text.
            pub const DOCS: &[(&str, &str, &str)] = &[#(#docs),*];
        })
}

/// A type as introspection sees it: some have no definition in the schema.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Used {
    Builtin(Builtin),
    Named(String),
    List(Box<Used>),
    Empty,
    /// Arguments of a command or data of an event, listed in place.
    Arguments(String),
    /// The implicit enum of a simple union.
    Kind(String),
    /// `{"data": …}` around a branch of a simple union.
    Wrapper(String, String),
}

struct Walk<'a> {
    schema: &'a Schema,
    queue: Vec<Used>,
    masks: HashMap<Used, usize>,
    out: Vec<Object>,
    docs: Vec<Documented>,
}

/// A text, and what it is about.
struct Documented {
    entry: String,
    /// A member or value; empty for the whole.
    member: String,
    text: String,
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Object {
    members.into_iter().collect()
}

impl<'a> Walk<'a> {
    /// Goes through a whole schema.
    fn of(schema: &'a Schema) -> Walk<'a> {
        let mut walk = Walk {
            schema,
            queue: Vec::new(),
            masks: HashMap::new(),
            out: Vec::new(),
            docs: Vec::new(),
        };
        for entity in schema.entities.values() {
            match &entity.kind {
                Kind::Command(command) => walk.command(entity, command),
                Kind::Event(event) => walk.event(entity, event),
                _ => continue,
            }
            walk.document(&entity.name, "", &entity.doc.body);
        }
        // Types are added while they are looked at.
        let mut next = 0;
        while let Some(used) = walk.queue.get(next).cloned() {
            walk.definition(&used);
            next += 1;
        }
        walk
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

    fn event(&mut self, entity: &Entity, event: &Event) {
        let data = self.arguments(entity, &event.data);
        self.out.push(object([
            ("name", entity.name.as_str().into()),
            ("meta-type", "event".into()),
            ("arg-type", data.into()),
        ]));
    }

    /// Enters a type and gives the name it goes by.
    fn used(&mut self, used: Used) -> String {
        let used = match used {
            Used::Builtin(builtin) if builtin.json_type() == JsonType::Int => {
                Used::Builtin(Builtin::Int)
            }
            Used::List(element) => match *element {
                Used::Builtin(builtin) if builtin.json_type() == JsonType::Int => {
                    Used::List(Box::new(Used::Builtin(Builtin::Int)))
                }
                other => Used::List(Box::new(other)),
            },
            other => other,
        };
        if !self.queue.contains(&used) {
            self.queue.push(used.clone());
        }
        match used {
            Used::Builtin(builtin) => builtin_name(builtin).to_owned(),
            Used::List(element) => format!("[{}]", self.used(*element)),
            other => self.mask(other),
        }
    }

    fn mask(&mut self, used: Used) -> String {
        let next = self.masks.len();
        self.masks.entry(used).or_insert(next).to_string()
    }

    fn ty(&mut self, ty: &Type) -> String {
        let used = self.used_of(ty);
        self.used(used)
    }

    fn used_of(&self, ty: &Type) -> Used {
        match ty {
            Type::Builtin(builtin) => Used::Builtin(*builtin),
            Type::List(element) => Used::List(Box::new(self.used_of(element))),
            Type::Named(name) if self.schema.get(name).is_some() => Used::Named(name.clone()),
            Type::Named(_) => Used::Builtin(Builtin::Any),
        }
    }

    fn arguments(&mut self, entity: &Entity, arguments: &Arguments) -> String {
        match arguments {
            Arguments::Members(members) if members.is_empty() => self.used(Used::Empty),
            Arguments::Members(_) => self.used(Used::Arguments(entity.name.clone())),
            Arguments::Type(name) => self.ty(&Type::Named(name.clone())),
        }
    }

    fn command(&mut self, entity: &Entity, command: &Command) {
        // The direct spelling is the one that clients of today look for.
        let arguments = match (&command.flat, &command.arguments) {
            (Some(_), Arguments::Members(members)) => members
                .first()
                .map(|member| self.ty(&member.ty))
                .unwrap_or_default(),
            (_, arguments) => self.arguments(entity, arguments),
        };
        let returns = match &command.returns {
            Some(ty) => self.ty(ty),
            None => self.used(Used::Empty),
        };
        let mut entry = object([
            ("name", entity.name.as_str().into()),
            ("meta-type", "command".into()),
            ("arg-type", arguments.into()),
            ("ret-type", returns.into()),
        ]);
        if command.allow_oob {
            entry.insert("allow-oob", true);
        }
        self.out.push(entry);
    }

    fn definition(&mut self, used: &Used) {
        let entry = match used {
            Used::Builtin(builtin) => object([
                ("name", builtin_name(*builtin).into()),
                ("meta-type", "builtin".into()),
                ("json-type", builtin.json_type().as_str().into()),
            ]),
            Used::List(element) => {
                let element = self.used((**element).clone());
                object([
                    ("name", format!("[{element}]").into()),
                    ("meta-type", "array".into()),
                    ("element-type", element.into()),
                ])
            }
            Used::Empty => self.object(used, Vec::new()),
            Used::Arguments(name) => {
                let entity = self.schema.get(name);
                let arguments = entity.and_then(|entity| match &entity.kind {
                    Kind::Command(command) => Some((&command.arguments, entity)),
                    Kind::Event(event) => Some((&event.data, entity)),
                    _ => None,
                });
                let members = match arguments {
                    Some((Arguments::Members(members), entity)) => {
                        let members = members.iter().map(|member| (member, entity));
                        self.members(used, members.collect())
                    }
                    _ => Vec::new(),
                };
                self.object(used, members)
            }
            Used::Kind(name) => {
                let values = self
                    .branches(name)
                    .into_iter()
                    .map(|branch| branch.name)
                    .collect();
                self.enumeration(used, values)
            }
            Used::Wrapper(name, branch) => {
                let branches = self.branches(name);
                let ty = branches.into_iter().find(|other| other.name == *branch);
                let data = ty.map(|branch| self.ty(&branch.ty)).unwrap_or_default();
                let member = object([("name", "data".into()), ("type", data.into())]);
                self.object(used, vec![member.into()])
            }
            Used::Named(name) => self.named(used, name),
        };
        self.out.push(entry);
    }

    fn branches(&self, name: &str) -> Vec<Branch> {
        match self.schema.get(name).map(|entity| &entity.kind) {
            Some(Kind::SimpleUnion(union)) => union.branches.clone(),
            Some(Kind::FlatUnion(union)) => union.branches.clone(),
            _ => Vec::new(),
        }
    }

    fn named(&mut self, used: &Used, name: &str) -> Object {
        let schema = self.schema;
        let Some(entity) = schema.get(name) else {
            return Object::new();
        };
        match &entity.kind {
            Kind::Enum(values) => {
                let values: Vec<String> = values.names().map(str::to_owned).collect();
                let mask = self.mask(used.clone());
                for value in &values {
                    self.document_member(&mask, entity, value);
                }
                self.enumeration(used, values)
            }
            Kind::Struct(_) => {
                let members = self.members(used, schema.members(name));
                self.object(used, members)
            }
            Kind::FlatUnion(union) => {
                let members = self.members(used, schema.base_members(entity, union));
                let mut entry = self.object(used, members);
                entry.insert("tag", union.discriminator.as_str());
                let Some(Kind::Enum(values)) = schema.get(&union.tag).map(|tag| &tag.kind) else {
                    return entry;
                };
                let mut variants = Vec::new();
                for value in &values.values {
                    let branch = union
                        .branches
                        .iter()
                        .find(|branch| branch.name == value.name);
                    let ty = match branch {
                        Some(branch) => self.ty(&branch.ty),
                        None => self.used(Used::Empty),
                    };
                    variants.push(variant(&value.name, ty));
                }
                entry.insert("variants", variants);
                entry
            }
            Kind::SimpleUnion(union) => {
                let base = union
                    .base
                    .as_deref()
                    .map_or_else(Vec::new, |b| schema.members(b));
                let mut members = self.members(used, base);
                let kind = self.used(Used::Kind(name.to_owned()));
                members.push(object([("name", "type".into()), ("type", kind.into())]).into());
                let mut entry = self.object(used, members);
                entry.insert("tag", "type");
                let mut variants = Vec::new();
                for branch in &union.branches {
                    let wrapper = Used::Wrapper(name.to_owned(), branch.name.clone());
                    let ty = self.used(wrapper);
                    variants.push(variant(&branch.name, ty));
                }
                entry.insert("variants", variants);
                entry
            }
            Kind::Alternate(alternate) => {
                let mut members: Vec<Value> = Vec::new();
                for branch in &alternate.branches {
                    let ty = self.ty(&branch.ty);
                    members.push(object([("type", ty.into())]).into());
                }
                object([
                    ("name", self.mask(used.clone()).into()),
                    ("meta-type", "alternate".into()),
                    ("members", members.into()),
                ])
            }
            Kind::Command(_) | Kind::Event(_) => Object::new(),
        }
    }

    /// The members of `used`, each with where it is documented.
    fn members(&mut self, used: &Used, members: Vec<(&Member, &Entity)>) -> Vec<Value> {
        let mut out = Vec::new();
        let mask = self.mask(used.clone());
        for (member, entity) in members {
            self.document_member(&mask, entity, &member.name);
            let ty = self.ty(&member.ty);
            let mut entry = object([("name", member.name.as_str().into()), ("type", ty.into())]);
            if member.optional {
                entry.insert("default", Value::Null);
            }
            out.push(entry.into());
        }
        out
    }

    fn document_member(&mut self, entry: &str, entity: &Entity, member: &str) {
        let text = entity.doc.members.get(member).cloned();
        self.document(entry, member, &text.unwrap_or_default());
    }

    fn object(&mut self, used: &Used, members: Vec<Value>) -> Object {
        object([
            ("name", self.mask(used.clone()).into()),
            ("meta-type", "object".into()),
            ("members", members.into()),
        ])
    }

    fn enumeration(&mut self, used: &Used, values: Vec<String>) -> Object {
        let members: Vec<Value> = values
            .iter()
            .map(|value| object([("name", value.as_str().into())]).into())
            .collect();
        let values: Vec<Value> = values.into_iter().map(Value::from).collect();
        object([
            ("name", self.mask(used.clone()).into()),
            ("meta-type", "enum".into()),
            ("members", members.into()),
            ("values", values.into()),
        ])
    }
}

fn variant(case: &str, ty: String) -> Value {
    object([("case", case.into()), ("type", ty.into())]).into()
}

fn builtin_name(builtin: Builtin) -> &'static str {
    match builtin {
        Builtin::Str => "str",
        Builtin::QType => "QType",
        Builtin::Number => "number",
        Builtin::Bool => "bool",
        Builtin::Null => "null",
        Builtin::Any => "any",
        Builtin::Int
        | Builtin::Int8
        | Builtin::Int16
        | Builtin::Int32
        | Builtin::Int64
        | Builtin::Uint8
        | Builtin::Uint16
        | Builtin::Uint32
        | Builtin::Uint64
        | Builtin::Size => "int",
    }
}
