//! What a server says of itself: the answer to `query-qmp-schema`, as a model.
//!
//! Made once a connection by `connection`; `typed`, `complete` and `help` read it.
//! Invariant: whatever a server sends, every [`TypeId`] is one of its schema, and a walk through
//! variants ends: what is not defined is [`Type::Any`]. Not here: what a user writes (`words`).

use std::collections::HashMap;

use block_schema::Value;

/// Variants inside of variants that are followed; QEMU's schema has two.
const MAX_VARIANTS: usize = 8;

/// A server's commands, events and types, in its order.
#[derive(Debug)]
pub(super) struct Schema {
    types: Vec<Type>,
    /// As the server calls the types; numbers, mostly.
    names: Vec<String>,
    commands: Vec<Entity>,
    events: Vec<Entity>,
}

/// A type of one schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TypeId(usize);

/// The shape of a value.
#[derive(Debug)]
pub(super) enum Type {
    Text,
    Integer,
    Number,
    Bool,
    Null,
    /// Anything, or something that the server did not define.
    Any,
    Enum(Vec<String>),
    List(TypeId),
    Object(Fields),
    /// One of these, told apart by its kind of JSON value.
    Alternate(Vec<TypeId>),
}

/// The members of an object.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) members: Vec<Member>,
    /// The member whose value picks a variant.
    pub(super) tag: Option<String>,
    pub(super) variants: Vec<Variant>,
}

/// Members that come with one value of the tag.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) case: String,
    pub(super) of: TypeId,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) of: TypeId,
    pub(super) optional: bool,
    pub(super) features: Vec<String>,
}

/// A command, or an event.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) name: String,
    pub(super) arguments: TypeId,
    /// `None` for an event.
    pub(super) returns: Option<TypeId>,
    pub(super) allow_oob: bool,
    pub(super) features: Vec<String>,
}

impl Schema {
    /// Reads the answer to `query-qmp-schema`. What is no entry of a schema is passed over.
    pub(super) fn from_answer(answer: &Value) -> Schema {
        let entries = answer.as_array().unwrap_or_default();
        let is_type = |entry: &&Value| !matches!(meta_type(entry), "command" | "event");
        let names: Vec<&str> = entries
            .iter()
            .filter(is_type)
            .map(|e| text(e, "name"))
            .collect();
        let ids = names.iter().enumerate();
        let ids: HashMap<&str, TypeId> = ids.map(|(index, name)| (*name, TypeId(index))).collect();
        let unknown = TypeId(names.len());
        let id = |name: &str| ids.get(name).copied().unwrap_or(unknown);
        let mut types: Vec<Type> = entries
            .iter()
            .filter(is_type)
            .map(|e| shape(e, &id))
            .collect();
        types.push(Type::Any);
        let of_kind = |kind: &str| {
            let of_kind = entries.iter().filter(|entry| meta_type(entry) == kind);
            of_kind.map(|entry| entity(entry, &id)).collect()
        };
        let names = names.into_iter().map(str::to_owned).collect();
        Schema {
            types,
            names,
            commands: of_kind("command"),
            events: of_kind("event"),
        }
    }

    pub(super) fn commands(&self) -> &[Entity] {
        &self.commands
    }

    pub(super) fn events(&self) -> &[Entity] {
        &self.events
    }

    pub(super) fn command(&self, name: &str) -> Option<&Entity> {
        self.commands.iter().find(|command| command.name == name)
    }

    pub(super) fn event(&self, name: &str) -> Option<&Entity> {
        self.events.iter().find(|event| event.name == name)
    }

    /// The type of what is not told.
    pub(super) fn unknown(&self) -> TypeId {
        TypeId(self.names.len())
    }

    pub(super) fn shape(&self, id: TypeId) -> &Type {
        self.types.get(id.0).unwrap_or(&Type::Any)
    }

    /// The server's own name for a type.
    pub(super) fn type_name(&self, id: TypeId) -> &str {
        self.names.get(id.0).map_or("", String::as_str)
    }

    /// An object, or the object among an alternate's types.
    fn object(&self, id: TypeId) -> Option<(TypeId, &Fields)> {
        match self.shape(id) {
            Type::Object(fields) => Some((id, fields)),
            Type::Alternate(types) => types.iter().find_map(|&id| match self.shape(id) {
                Type::Object(fields) => Some((id, fields)),
                _ => None,
            }),
            _ => None,
        }
    }

    /// The fields of an object, or of the object among an alternate's types.
    pub(super) fn fields(&self, id: TypeId) -> Option<&Fields> {
        self.object(id).map(|(_, fields)| fields)
    }

    /// The elements of a list, or of the list among an alternate's types.
    pub(super) fn element(&self, id: TypeId) -> Option<TypeId> {
        match self.shape(id) {
            Type::List(element) => Some(*element),
            Type::Alternate(types) => types.iter().find_map(|&id| match self.shape(id) {
                Type::List(element) => Some(*element),
                _ => None,
            }),
            _ => None,
        }
    }

    /// All members that an object has whose tags have the values that `value_of` tells.
    pub(super) fn members(
        &self,
        id: TypeId,
        value_of: impl Fn(&str) -> Option<String>,
    ) -> Vec<&Member> {
        let declared = self.declared(id, value_of).into_iter();
        declared.map(|(_, member)| member).collect()
    }

    /// As [`Schema::members`], each with the type that declares it.
    pub(super) fn declared(
        &self,
        id: TypeId,
        value_of: impl Fn(&str) -> Option<String>,
    ) -> Vec<(TypeId, &Member)> {
        let mut members = Vec::new();
        let mut next = self.object(id);
        for _ in 0..MAX_VARIANTS {
            let Some((id, fields)) = next else { break };
            members.extend(fields.members.iter().map(|member| (id, member)));
            let value = fields.tag.as_deref().and_then(&value_of);
            let variant = value.and_then(|value| fields.variants.iter().find(|v| v.case == value));
            next = variant.and_then(|variant| self.object(variant.of));
        }
        members
    }

    /// The type that a path such as `file.` or `children.0.` leads to; `value_of` tells the values
    /// of tags by their path.
    pub(super) fn descend(
        &self,
        of: TypeId,
        path: &str,
        value_of: impl Fn(&str) -> Option<String>,
    ) -> Option<TypeId> {
        let mut at = of;
        let mut seen = 0;
        while let Some(len) = path[seen..].find('.') {
            let (before, rest) = path.split_at(seen);
            let name = &rest[..len];
            let members = self.members(at, |tag| value_of(&format!("{before}{tag}")));
            at = match members.iter().find(|member| member.name == name) {
                Some(member) => member.of,
                None if name.parse::<usize>().is_ok() => self.element(at)?,
                None => return None,
            };
            seen += len + 1;
        }
        Some(at)
    }

    /// The tag whose value decides whether an object has member `name`, when some value does.
    pub(super) fn tag_for(&self, id: TypeId, name: &str) -> Option<&str> {
        let fields = self.fields(id)?;
        let has = |variant: &Variant| {
            let fields = self.fields(variant.of);
            fields.is_some_and(|fields| fields.members.iter().any(|member| member.name == name))
        };
        let tag = fields.tag.as_deref()?;
        fields.variants.iter().any(has).then_some(tag)
    }
}

fn shape(entry: &Value, id: &impl Fn(&str) -> TypeId) -> Type {
    match meta_type(entry) {
        "builtin" => match text(entry, "json-type") {
            "string" => Type::Text,
            "int" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Bool,
            "null" => Type::Null,
            _ => Type::Any,
        },
        "enum" => Type::Enum(values(entry)),
        "array" => Type::List(id(text(entry, "element-type"))),
        "object" => Type::Object(Fields {
            members: list(entry, "members")
                .iter()
                .map(|m| member(m, id))
                .collect(),
            tag: entry.get("tag").and_then(Value::as_str).map(str::to_owned),
            variants: list(entry, "variants")
                .iter()
                .map(|variant| Variant {
                    case: text(variant, "case").to_owned(),
                    of: id(text(variant, "type")),
                })
                .collect(),
        }),
        "alternate" => {
            let members = list(entry, "members").iter();
            Type::Alternate(members.map(|member| id(text(member, "type"))).collect())
        }
        _ => Type::Any,
    }
}

/// Before 6.2 QEMU told `values` only.
fn values(entry: &Value) -> Vec<String> {
    let members = list(entry, "members")
        .iter()
        .map(|member| text(member, "name"));
    let values = list(entry, "values").iter().filter_map(Value::as_str);
    let names: Vec<String> = members.map(str::to_owned).collect();
    if names.is_empty() {
        values.map(str::to_owned).collect()
    } else {
        names
    }
}

fn member(entry: &Value, id: &impl Fn(&str) -> TypeId) -> Member {
    Member {
        name: text(entry, "name").to_owned(),
        of: id(text(entry, "type")),
        optional: entry.get("default").is_some(),
        features: features(entry),
    }
}

fn entity(entry: &Value, id: &impl Fn(&str) -> TypeId) -> Entity {
    Entity {
        name: text(entry, "name").to_owned(),
        arguments: id(text(entry, "arg-type")),
        returns: entry.get("ret-type").and_then(Value::as_str).map(id),
        allow_oob: entry.get("allow-oob").and_then(Value::as_bool) == Some(true),
        features: features(entry),
    }
}

fn features(entry: &Value) -> Vec<String> {
    let features = list(entry, "features").iter().filter_map(Value::as_str);
    features.map(str::to_owned).collect()
}

fn meta_type(entry: &Value) -> &str {
    text(entry, "meta-type")
}

fn text<'a>(entry: &'a Value, name: &str) -> &'a str {
    entry.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(entry: &'a Value, name: &str) -> &'a [Value] {
    let list = entry.get(name).and_then(Value::as_array);
    list.unwrap_or_default()
}
