//! Which dialect an expression is written in.
//! Asked when all files are read, since an expression that could be either follows
//! those around it: first of its file, then of the schema.

use std::collections::HashMap;

use crate::check::draft::Language;
use crate::include::Item;
use crate::schema::Dialect;
use crate::source::FileId;
use crate::syntax::{Node, Object, Value};

/// Which dialect what is written in.
pub(super) struct Languages {
    /// What the caller says, against all that is written.
    fixed: Option<Language>,
    files: HashMap<FileId, Language>,
    schema: Language,
}

/// Looks at all of `items`.
pub(super) fn decide(items: &[Item], dialect: Dialect) -> Languages {
    let fixed = match dialect {
        Dialect::Legacy => Some(Language::Legacy),
        Dialect::Modern => Some(Language::Modern),
        Dialect::Auto => None,
    };
    let mut files = HashMap::new();
    let mut schema = Language::Modern;
    for item in items {
        let object = &item.expression.object;
        let Some(language) = told(object) else {
            continue;
        };
        let file = files.entry(object.span.file).or_insert(language);
        // Today's rules are no reason to refuse what stands beside the old dialect.
        if language == Language::Legacy {
            *file = language;
            schema = language;
        }
    }
    Languages {
        fixed,
        files,
        schema,
    }
}

impl Languages {
    /// That of the expression `object`.
    pub(super) fn of(&self, object: &Object) -> Language {
        self.fixed
            .or_else(|| told(object))
            .unwrap_or_else(|| self.of_file(object.span.file))
    }

    /// That of what could be either in `file`.
    pub(super) fn of_file(&self, file: FileId) -> Language {
        self.fixed
            .or_else(|| self.files.get(&file).copied())
            .unwrap_or(self.schema)
    }
}

/// The only language that `object` can be of, if that can be told by its keys and shapes.
fn told(object: &Object) -> Option<Language> {
    let has = |key: &str| object.find(key).is_some();
    if has("struct") || has("alternate") {
        return Some(Language::Modern);
    }
    if has("type") {
        return Some(Language::Legacy);
    }
    let modern_keys = [
        "if",
        "features",
        "prefix",
        "boxed",
        "allow-oob",
        "allow-preconfig",
        "coroutine",
    ];
    if modern_keys.into_iter().any(has) {
        return Some(Language::Modern);
    }
    if has("union") {
        return union(object);
    }
    let mut flags = ["gen", "success-response"].into_iter();
    if let Some(flag) = flags.find_map(|key| object.find(key)) {
        return Some(match flag.node {
            Node::Bool(_) => Language::Modern,
            Node::String(_) | Node::List(_) | Node::Object(_) => Language::Legacy,
        });
    }
    match &object.find("data")?.node {
        Node::List(values) => values.iter().find_map(|value| match value.node {
            Node::Object(_) => Some(Language::Modern),
            Node::String(_) | Node::Bool(_) | Node::List(_) => None,
        }),
        Node::Object(members) => members.pairs.iter().find_map(|(_, value)| member(value)),
        Node::String(_) | Node::Bool(_) => None,
    }
}

/// A flat union with a named base is of both.
fn union(object: &Object) -> Option<Language> {
    let inline_base = object
        .find("base")
        .is_some_and(|base| matches!(base.node, Node::Object(_)));
    let wrapped = match object.find("data").map(|data| &data.node) {
        Some(Node::Object(branches)) => branches
            .pairs
            .iter()
            .any(|(_, branch)| matches!(branch.node, Node::Object(_))),
        _ => false,
    };
    if inline_base || wrapped {
        return Some(Language::Modern);
    }
    match object.find("discriminator").map(|value| &value.node) {
        None => Some(Language::Legacy),
        Some(Node::Object(empty)) if empty.pairs.is_empty() => Some(Language::Legacy),
        Some(_) => None,
    }
}

/// An object for a member's type: a nested struct of old, or today's long form.
fn member(value: &Value) -> Option<Language> {
    let Node::Object(object) = &value.node else {
        return None;
    };
    let long = |key: &str| matches!(key, "type" | "if" | "features");
    let is_long = object.pairs.iter().all(|(key, _)| long(&key.text));
    match object.pairs.len() {
        // A struct with one member called `type`, or a type in its long form.
        1 if is_long && object.find("type").is_some() => None,
        _ if is_long && object.find("type").is_some() => Some(Language::Modern),
        _ => Some(Language::Legacy),
    }
}
