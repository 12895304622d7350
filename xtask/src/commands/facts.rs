//! Facts: what of the schema the recorded requests, replies and events touched.
//!
//! Called by `mod.rs` with the lines that the tests' run left. Invariant: only what a command took is
//! a fact about its arguments; what it refused is a fact about its errors. Not here: what could have
//! been touched (`page.rs`).

use std::collections::BTreeSet;

use qapi_parser::{Alternate, Arguments, Command, JsonType, Kind, Member, Schema, Type};
use serde_json::{Map, Value};

/// What was seen of a row of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Seen {
    /// In the arguments of a command that succeeded.
    Given,
    /// Not in those arguments, where it could have been.
    LeftOut,
    /// In an answer or event.
    Returned,
    /// Not in one, where it could have been.
    Absent,
}

/// Which way a value went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    In,
    Out,
}

impl Way {
    pub(super) fn present(self) -> Seen {
        match self {
            Way::In => Seen::Given,
            Way::Out => Seen::Returned,
        }
    }

    fn missing(self) -> Seen {
        match self {
            Way::In => Seen::LeftOut,
            Way::Out => Seen::Absent,
        }
    }
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Commands that succeeded and events that came.
    pub(super) done: BTreeSet<String>,
    /// Members of commands, events and structs; values of enums; branches. By name of the whole
    /// and of the part.
    pub(super) parts: BTreeSet<(String, String, Seen)>,
    /// Types that a value had.
    pub(super) types: BTreeSet<(String, Way)>,
    /// Class and text by command; no command is what a session says before it knows one.
    pub(super) errors: BTreeSet<(String, String)>,
}

impl Facts {
    /// Adds what a line of the record tells.
    ///
    /// # Errors
    /// When it is no such line.
    pub(super) fn add(&mut self, schema: &Schema, line: &str) -> Result<(), String> {
        let entry: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let object = |name: &str| {
            let object = entry.get(name).and_then(Value::as_object);
            object.ok_or_else(|| format!("no object '{name}'"))
        };
        if let Some(name) = text("event") {
            self.add_event(schema, name, object("data")?);
            return Ok(());
        }
        let name = text("command").ok_or("neither a command nor an event")?;
        let reply = entry.get("reply").ok_or("no reply")?;
        self.add_request(schema, name, object("arguments")?, reply);
        Ok(())
    }

    fn add_event(&mut self, schema: &Schema, name: &str, data: &Map<String, Value>) {
        if let Some(Kind::Event(event)) = schema.get(name).map(|entity| &entity.kind) {
            self.done.insert(name.to_owned());
            Walk::new(self, schema, Way::Out).arguments(name, &event.data, data);
        }
    }

    fn add_request(
        &mut self,
        schema: &Schema,
        name: &str,
        arguments: &Map<String, Value>,
        reply: &Value,
    ) {
        let command = match schema.get(name).map(|entity| &entity.kind) {
            Some(Kind::Command(command)) => Some(command),
            _ => None,
        };
        if let Some(error) = reply.get("error") {
            let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            let desc = match command {
                Some(_) => general(text("desc")),
                // It may quote anything that came in.
                None => general_input(text("desc")),
            };
            let text = format!("{}: {desc}", text("class"));
            let command = command.map_or("", |_| name);
            self.errors.insert((command.to_owned(), text));
            return;
        }
        let Some(command) = command else {
            return;
        };
        self.done.insert(name.to_owned());
        let mut walk = Walk::new(self, schema, Way::In);
        match flat(command, arguments) {
            Some(ty) => {
                walk.part(
                    name,
                    command.flat.as_deref().unwrap_or_default(),
                    Seen::Given,
                );
                walk.value(ty, &Value::Object(arguments.clone()));
            }
            None => walk.arguments(name, &command.arguments, arguments),
        }
        if let (Some(ty), Some(value)) = (&command.returns, reply.get("return")) {
            Walk::new(self, schema, Way::Out).value(ty, value);
        }
    }
}

/// The type of the argument whose members were given in its place.
fn flat<'a>(command: &'a Command, arguments: &Map<String, Value>) -> Option<&'a Type> {
    let flat = command.flat.as_deref()?;
    let Arguments::Members(members) = &command.arguments else {
        return None;
    };
    let member = members.iter().find(|member| member.name == flat)?;
    (!arguments.contains_key(flat)).then_some(&member.ty)
}

/// A walk through a value beside its type.
struct Walk<'a> {
    facts: &'a mut Facts,
    schema: &'a Schema,
    way: Way,
}

impl<'a> Walk<'a> {
    fn new(facts: &'a mut Facts, schema: &'a Schema, way: Way) -> Walk<'a> {
        Walk { facts, schema, way }
    }

    fn part(&mut self, whole: &str, part: &str, seen: Seen) {
        let fact = (whole.to_owned(), part.to_owned(), seen);
        self.facts.parts.insert(fact);
    }

    fn arguments(&mut self, name: &str, arguments: &Arguments, object: &Map<String, Value>) {
        match arguments {
            Arguments::Members(members) => {
                self.members(members.iter().map(|member| (member, name)), object);
            }
            Arguments::Type(ty) => self.named(ty, &Value::Object(object.clone())),
        }
    }

    fn members<'m>(
        &mut self,
        members: impl Iterator<Item = (&'m Member, &'m str)>,
        object: &Map<String, Value>,
    ) {
        for (member, whole) in members {
            match object.get(&member.name) {
                Some(value) => {
                    self.part(whole, &member.name, self.way.present());
                    self.value(&member.ty, value);
                }
                None => self.part(whole, &member.name, self.way.missing()),
            }
        }
    }

    fn value(&mut self, ty: &Type, value: &Value) {
        match ty {
            Type::Builtin(_) => {}
            Type::List(element) => {
                for value in value.as_array().into_iter().flatten() {
                    self.value(element, value);
                }
            }
            Type::Named(name) => self.named(name, value),
        }
    }

    fn named(&mut self, name: &str, value: &Value) {
        let schema = self.schema;
        let Some(entity) = schema.get(name) else {
            return;
        };
        self.facts.types.insert((name.to_owned(), self.way));
        let empty = Map::new();
        let object = value.as_object().unwrap_or(&empty);
        match &entity.kind {
            Kind::Enum(_) => {
                if let Some(value) = value.as_str() {
                    self.part(name, value, self.way.present());
                }
            }
            Kind::Struct(_) => self.owned(schema.members(name), object),
            Kind::FlatUnion(union) => {
                self.owned(schema.base_members(entity, union), object);
                let tag = object.get(&union.discriminator).and_then(Value::as_str);
                let branch = union.branches.iter().find(|b| Some(b.name.as_str()) == tag);
                if let Some(branch) = branch {
                    self.value(&branch.ty, value);
                }
            }
            Kind::SimpleUnion(union) => {
                if let Some(base) = &union.base {
                    self.owned(schema.members(base), object);
                }
                let tag = object.get("type").and_then(Value::as_str);
                let branch = union.branches.iter().find(|b| Some(b.name.as_str()) == tag);
                if let (Some(branch), Some(data)) = (branch, object.get("data")) {
                    self.part(name, &branch.name, self.way.present());
                    self.value(&branch.ty, data);
                }
            }
            Kind::Alternate(alternate) => {
                if let Some(index) = branch_of(schema, alternate, value) {
                    let branch = &alternate.branches[index];
                    self.part(name, &branch.name, self.way.present());
                    self.value(&branch.ty, value);
                }
            }
            Kind::Command(_) | Kind::Event(_) => {}
        }
    }

    fn owned(
        &mut self,
        members: Vec<(&Member, &qapi_parser::Entity)>,
        object: &Map<String, Value>,
    ) {
        let members = members.into_iter();
        self.members(
            members.map(|(member, of)| (member, of.name.as_str())),
            object,
        );
    }
}

/// The branch whose JSON type a value has.
fn branch_of(schema: &Schema, alternate: &Alternate, value: &Value) -> Option<usize> {
    let fits = |json: JsonType| match value {
        Value::Null => json == JsonType::Null,
        Value::Bool(_) => json == JsonType::Boolean,
        Value::Number(_) => matches!(json, JsonType::Int | JsonType::Number),
        Value::String(_) => json == JsonType::String,
        Value::Array(_) => json == JsonType::Array,
        Value::Object(_) => json == JsonType::Object,
    };
    let mut branches = alternate.branches.iter();
    branches.position(|branch| fits(schema.json_type(&branch.ty)))
}

/// The text of an error about input that is no command: without all that is quoted, and without the
/// name of a command that nobody knows.
fn general_input(text: &str) -> String {
    if text.ends_with(" has not been found") {
        return "The command … has not been found".to_owned();
    }
    match (text.find('\''), text.rfind('\'')) {
        (Some(first), Some(last)) if last > first => {
            format!("{}'…'{}", &text[..first], &text[last + 1..])
        }
        _ => general(text),
    }
}

/// An error's text without what differs from run to run: what is quoted, and numbers.
pub(super) fn general(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        let quoted = matches!(first, '\'' | '"')
            .then(|| after.find(first))
            .flatten();
        let in_word = out.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        if let Some(end) = quoted.filter(|_| !in_word) {
            out.push_str("'…'");
            rest = &after[end + 1..];
        } else if first.is_ascii_digit() && !in_word {
            out.push('N');
            rest = after.trim_start_matches(|next: char| next.is_ascii_alphanumeric());
        } else {
            out.push(if first == '\n' { ' ' } else { first });
            rest = after;
        }
    }
    out
}
