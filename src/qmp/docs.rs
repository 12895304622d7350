//! What our own schema says of commands and members, for help about any server.
//!
//! Texts are found by the names of a command and the path of a member, as types have no names that
//! two servers share. Called by `help`. Not here: what the server at hand takes.

use std::collections::HashMap;
use std::sync::OnceLock;

use block_schema::{Value, introspect};

use super::schema::Schema;

struct Docs {
    schema: Schema,
    /// By entry and member.
    texts: HashMap<(&'static str, &'static str), &'static str>,
}

fn docs() -> &'static Docs {
    static DOCS: OnceLock<Docs> = OnceLock::new();
    DOCS.get_or_init(|| {
        let texts = introspect::DOCS.iter();
        Docs {
            schema: Schema::from_answer(&introspect::value().unwrap_or(Value::Null)),
            texts: texts
                .map(|(entry, member, text)| ((*entry, *member), *text))
                .collect(),
        }
    })
}

/// The text about a command or event.
pub(super) fn entity(name: &str) -> Option<&'static str> {
    docs().texts.get(&(name, "")).copied()
}

/// The text about a member of its arguments; `value_of` tells the values of tags by their path.
pub(super) fn member(
    entity: &str,
    path: &str,
    value_of: impl Fn(&str) -> Option<String>,
) -> Option<&'static str> {
    let Docs { schema, texts } = docs();
    let entity = schema.command(entity).or_else(|| schema.event(entity))?;
    let (prefix, name) = match path.rfind('.') {
        Some(dot) => path.split_at(dot + 1),
        None => ("", path),
    };
    let parent = schema.descend(entity.arguments, prefix, &value_of)?;
    let members = schema.declared(parent, |tag| value_of(&format!("{prefix}{tag}")));
    let (of, member) = members
        .into_iter()
        .find(|(_, member)| member.name == name)?;
    texts
        .get(&(schema.type_name(of), member.name.as_str()))
        .copied()
}
