//! Names that today's dialect takes, and what becomes of others: an exception or another name.
//! Called by `definitions.rs`; the exceptions end in one pragma.
//! Rules: "Naming rules and reserved names" of QEMU's "How to use the QAPI code generator".

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::tree::{Node, Pair, Value};
use crate::check::name::{Fault, Style, check};
use crate::schema::{Builtin, Schema};

/// Types of the 2.1 dialect that stand for any JSON.
pub(super) const ESCAPES: [&str; 3] = ["visitor", "dict", "**"];

/// What is known of names while a schema is migrated.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// Types that must be called otherwise.
    types: HashMap<String, String>,
    pub(super) exceptions: Exceptions,
    /// What could not be said as before.
    pub(super) notes: Vec<String>,
}

/// Names that break the rules and may.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    pub(super) commands: BTreeSet<String>,
    pub(super) returns: BTreeSet<String>,
    pub(super) members: BTreeSet<String>,
    pub(super) documentation: BTreeSet<String>,
}

impl Names {
    pub(super) fn new(schema: &Schema) -> Self {
        let mut names = Self {
            taken: schema.entities.keys().cloned().collect(),
            ..Self::default()
        };
        for entity in schema.entities.values() {
            let name = &entity.name;
            let inline = name.contains('-');
            if entity.kind.is_type() && !inline && !is_type_name(name) {
                let new = names.new_type(name);
                names.notes.push(format!("type `{name}` is called `{new}`"));
                names.types.insert(name.clone(), new);
            }
        }
        names
    }

    /// A name for a type that nothing has yet, `wanted` if that is free and keeps the rules.
    pub(super) fn new_type(&mut self, wanted: &str) -> String {
        let wanted = type_name(wanted);
        let mut name = wanted.clone();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}{number}");
            number += 1;
        }
        name
    }

    /// What type `name` is called.
    pub(super) fn ty(&self, name: &str) -> String {
        if ESCAPES.contains(&name) {
            return "any".to_owned();
        }
        self.types.get(name).map_or(name, String::as_str).to_owned()
    }

    /// What a member or value called `name` is called: some characters have no exception.
    pub(super) fn member(&mut self, owner: &str, name: &str) -> String {
        let (prefix, stem) = stem(name);
        let is_foreign = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
        let new = format!("{prefix}{}", stem.replace(is_foreign, "_"));
        let note = if judge(&new, Style::EXCUSED).is_err() {
            format!("`{new}` of `{owner}` is no name that today's rules take")
        } else if new == name {
            return new;
        } else {
            format!("`{name}` of `{owner}` is called `{new}`: names have no such characters")
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        new
    }
}

impl Exceptions {
    /// The pragma that says them, if there are any.
    pub(super) fn pragma(&self) -> Vec<Pair> {
        let lists = [
            ("command-name-exceptions", &self.commands),
            ("command-returns-exceptions", &self.returns),
            ("documentation-exceptions", &self.documentation),
            ("member-name-exceptions", &self.members),
        ];
        let filled = lists.into_iter().filter(|(_, names)| !names.is_empty());
        let pair = |(key, names): (&str, &BTreeSet<String>)| {
            let names: Vec<Value> = names.iter().map(Value::string).collect();
            Pair::new(key, Node::List(names.into()))
        };
        filled.map(pair).collect()
    }

    /// Adds the names that a pragma of the schema lists under `key`; false if it has no such.
    pub(super) fn extend(&mut self, key: &str, names: impl Iterator<Item = String>) {
        let list = match key {
            "command-name-exceptions" => &mut self.commands,
            "command-returns-exceptions" => &mut self.returns,
            "documentation-exceptions" => &mut self.documentation,
            "member-name-exceptions" => &mut self.members,
            _ => return,
        };
        list.extend(names);
    }
}

/// A name's prefixes, which have rules of their own, and the rest.
fn stem(name: &str) -> (&str, &str) {
    let downstream = name.strip_prefix("__").and_then(|rest| rest.find('_'));
    let at = downstream.map_or(0, |length| 2 + length + 1);
    let at = if name[at..].starts_with("x-") {
        at + 2
    } else {
        at
    };
    name.split_at(at)
}

/// Whether a member, value or command called `name` needs no exception, or none helps.
pub(super) fn is_lower(name: &str) -> bool {
    judge(name, Style::LOWER) != Err(Fault::Style)
}

/// Judges `name`; values may start with a digit.
fn judge(name: &str, style: Style) -> Result<(), Fault> {
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return check(&format!("d{name}"), style);
    }
    check(name, style)
}

fn is_type_name(name: &str) -> bool {
    check(name, Style::Camel).is_ok() && !name.ends_with("List")
}

fn type_name(name: &str) -> String {
    let (prefix, stem) = stem(name);
    let mut new = format!("{prefix}{}", camel(stem));
    if !new.contains(|c: char| c.is_ascii_lowercase()) || new.ends_with("List") {
        new.push_str("Type");
    }
    new
}

/// `name` in CamelCase.
pub(super) fn camel(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    words.map(word).collect()
}

/// What a type is called as part of another's name.
pub(super) fn of_type(name: &str) -> String {
    match Builtin::from_name(name) {
        Some(_) => camel(name),
        None => name.to_owned(),
    }
}
