//! A command's words as JSON arguments, by the types that the server's schema says.
//!
//! Called by `line`. What the schema can tell is told here, before anything is sent: members that
//! there are not, values that an enum has not, texts that are no number or switch. Missing members
//! are the server's to name. Invariant: recursion is bounded by [`MAX_DEPTH`].
//! Not here: quotes and brackets (`words`).

use block_schema::{Object, Value};

use super::schema::{Schema, Type, TypeId};
use super::suggest::nearest;
use super::words::{Text, Word, elements};
use crate::opts::size::parse_size;

/// Levels of dots or brackets in one argument.
const MAX_DEPTH: usize = 64;
/// So many values of an enum are all shown.
const FEW: usize = 8;

/// What is wrong with a line, for its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint(pub(super) String);

impl Complaint {
    pub(super) fn new(text: impl Into<String>) -> Complaint {
        Complaint(text.into())
    }
}

/// The arguments of a command or an event's conditions, from its words.
///
/// # Errors
/// What the schema does not know or take.
pub(super) fn arguments(
    schema: &Schema,
    of: TypeId,
    words: &[Word<'_>],
) -> Result<Object, Complaint> {
    let mut given = Given::default();
    for word in words {
        match word.pair() {
            Some((key, value)) => given.insert(key, value)?,
            None if words.len() == 1 && word.raw.starts_with('{') => return object(word.text()),
            None => {
                let word = word.text().unquoted();
                return Err(Complaint(format!("Expected '=' after '{word}'")));
            }
        }
    }
    typed_object(schema, of, &given, "")
}

/// Words as a tree, not typed yet.
#[derive(Debug, Default)]
struct Given<'a>(Vec<(&'a str, Item<'a>)>);

#[derive(Debug)]
enum Item<'a> {
    Text(Text<'a>),
    Nested(Given<'a>),
}

impl<'a> Given<'a> {
    fn insert(&mut self, key: &'a str, value: Text<'a>) -> Result<(), Complaint> {
        let mut path: Vec<&str> = key.split('.').collect();
        if path.len() > MAX_DEPTH {
            return Err(Complaint::new("Too many dots in a key"));
        }
        let clash = || Complaint(format!("Parameter '{key}' is given twice"));
        let last = path.pop().unwrap_or_default();
        let mut level = self;
        for name in path {
            let index = match level.0.iter().position(|(known, _)| *known == name) {
                Some(index) => index,
                None => {
                    level.0.push((name, Item::Nested(Given::default())));
                    level.0.len() - 1
                }
            };
            match level.0.get_mut(index) {
                Some((_, Item::Nested(inner))) => level = inner,
                _ => return Err(clash()),
            }
        }
        if level.0.iter().any(|(known, _)| *known == last) {
            return Err(clash());
        }
        level.0.push((last, Item::Text(value)));
        Ok(())
    }

    fn text_of(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|(known, item)| match item {
            Item::Text(text) if *known == name => Some(text.unquoted()),
            _ => None,
        })
    }

    /// The items in order, if the keys are 0, 1, ….
    fn as_list(&self) -> Option<Vec<&Item<'a>>> {
        let item = |index: usize| {
            let wanted = index.to_string();
            let mut items = self.0.iter();
            items.find_map(|(name, item)| (*name == wanted).then_some(item))
        };
        (0..self.0.len()).map(item).collect()
    }
}

fn typed_object(
    schema: &Schema,
    of: TypeId,
    given: &Given<'_>,
    path: &str,
) -> Result<Object, Complaint> {
    if schema.fields(of).is_none() {
        // Of a type that the server kept to itself.
        return untyped_object(given);
    }
    let members = schema.members(of, |tag| given.text_of(tag));
    let mut object = Object::new();
    for (name, item) in &given.0 {
        let path = format!("{path}{name}");
        let Some(member) = members.iter().find(|member| member.name == *name) else {
            let known = members.iter().map(|member| member.name.as_str());
            return Err(match schema.tag_for(of, name) {
                Some(tag) if given.text_of(tag).is_none() => Complaint(format!(
                    "Parameter '{path}' depends on '{}', which is missing",
                    sibling(&path, tag)
                )),
                _ => unexpected(&path, name, known),
            });
        };
        object.insert(*name, typed(schema, member.of, item, &path)?);
    }
    Ok(object)
}

fn sibling(path: &str, name: &str) -> String {
    match path.rsplit_once('.') {
        Some((parent, _)) => format!("{parent}.{name}"),
        None => name.to_owned(),
    }
}

fn unexpected<'a>(path: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Complaint {
    let text = format!("Parameter '{path}' is unexpected");
    Complaint(match nearest(name, known) {
        Some(near) => format!("{text}; did you mean '{near}'?"),
        None => text,
    })
}

fn typed(schema: &Schema, of: TypeId, item: &Item<'_>, path: &str) -> Result<Value, Complaint> {
    let given = match item {
        Item::Text(text) => return typed_text(schema, of, *text, path, 0),
        Item::Nested(given) => given,
    };
    match (schema.element(of), given.as_list()) {
        (Some(element), Some(items)) => {
            let items = items.into_iter().enumerate();
            let typed = items.map(|(i, item)| typed(schema, element, item, &format!("{path}.{i}")));
            typed.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        _ if schema.fields(of).is_some() => {
            typed_object(schema, of, given, &format!("{path}.")).map(Value::Object)
        }
        _ if matches!(schema.shape(of), Type::Any) => untyped_object(given).map(Value::Object),
        _ => Err(Complaint(format!("Parameter '{path}' has no members"))),
    }
}

fn typed_text(
    schema: &Schema,
    of: TypeId,
    text: Text<'_>,
    path: &str,
    depth: usize,
) -> Result<Value, Complaint> {
    if depth > MAX_DEPTH {
        return Err(Complaint(format!(
            "Parameter '{path}' has too many brackets"
        )));
    }
    let expects = |what: &str| {
        let given = text.unquoted();
        Complaint(format!("Parameter '{path}' expects {what}, not '{given}'"))
    };
    let plain = text.unquoted();
    match schema.shape(of) {
        Type::Text => Ok(Value::String(plain)),
        Type::Integer => integer(&plain).ok_or_else(|| expects("an integer")),
        Type::Number => {
            let float = || plain.parse().ok().filter(|n: &f64| n.is_finite());
            let number = integer(&plain).or_else(|| float().map(Value::Float));
            number.ok_or_else(|| expects("a number"))
        }
        Type::Bool => match plain.as_str() {
            "true" | "on" | "yes" => Ok(Value::Bool(true)),
            "false" | "off" | "no" => Ok(Value::Bool(false)),
            _ => Err(expects("true or false")),
        },
        Type::Null if plain == "null" => Ok(Value::Null),
        Type::Null => Err(expects("null")),
        Type::Any => any(text),
        Type::Enum(values) if values.contains(&plain) => Ok(Value::String(plain)),
        Type::Enum(values) => Err(not_of_enum(&plain, values, path)),
        Type::List(element) => {
            let items = elements(text.0).ok_or_else(|| expects("a list such as [a, b]"))?;
            let items = items.into_iter();
            let typed = items.map(|item| typed_text(schema, *element, item, path, depth + 1));
            typed.collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        Type::Object(_) if text.0.starts_with('{') => object(text).map(Value::Object),
        Type::Object(_) => {
            let hint = format!("members, as in {path}.name=value or {path}={{…}}");
            Err(expects(&hint))
        }
        Type::Alternate(types) => {
            // In the order in which a text says most: only `str` takes every text.
            let mut sorted: Vec<TypeId> = types.clone();
            sorted.sort_by_key(|&id| match schema.shape(id) {
                Type::Text => 1,
                // An alternate of alternates does not exist; a chain of them would not end.
                Type::Alternate(_) => 2,
                _ => 0,
            });
            let fits = |id: &TypeId| match schema.shape(*id) {
                Type::Alternate(_) => None,
                Type::Text => Some(Ok(Value::String(plain.clone()))),
                _ if text.is_quoted() => None,
                Type::Object(_) if text.0.starts_with('{') => Some(object(text).map(Value::Object)),
                _ => typed_text(schema, *id, text, path, depth + 1).ok().map(Ok),
            };
            let value = sorted.iter().find_map(fits);
            value.unwrap_or_else(|| match sorted.first() {
                Some(&first) if !matches!(schema.shape(first), Type::Alternate(_)) => {
                    typed_text(schema, first, text, path, depth + 1)
                }
                _ => any(text),
            })
        }
    }
}

fn integer(text: &str) -> Option<Value> {
    let signed = || text.parse::<i64>().ok().map(Value::Int);
    let unsigned = || text.parse::<u64>().ok().map(Value::from);
    let size = || parse_size(text).ok().map(Value::from);
    signed().or_else(unsigned).or_else(size)
}

fn not_of_enum(given: &str, values: &[String], path: &str) -> Complaint {
    let text = format!("Parameter '{path}' does not accept value '{given}'");
    let near = nearest(given, values.iter().map(String::as_str));
    Complaint(match near {
        Some(near) => format!("{text}; did you mean '{near}'?"),
        None if values.len() <= FEW => format!("{text}, but {}", values.join(", ")),
        None => text,
    })
}

/// A value where the schema takes any: JSON if it is, else a text.
fn any(text: Text<'_>) -> Result<Value, Complaint> {
    if text.is_quoted() {
        return Ok(Value::String(text.unquoted()));
    }
    match Value::from_json(text.0) {
        Ok(value) => Ok(value),
        Err(error) if text.is_bracketed() => Err(Complaint(error.to_string())),
        Err(_) => Ok(Value::String(text.unquoted())),
    }
}

fn untyped_object(given: &Given<'_>) -> Result<Object, Complaint> {
    let members = given.0.iter().map(|(name, item)| {
        let value = match item {
            Item::Text(text) => any(*text)?,
            Item::Nested(given) => Value::Object(untyped_object(given)?),
        };
        Ok((*name, value))
    });
    members.collect()
}

/// A JSON object.
pub(super) fn object(text: Text<'_>) -> Result<Object, Complaint> {
    match Value::from_json(text.0) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Complaint::new("Expected a JSON object")),
        Err(error) => Err(Complaint(error.to_string())),
    }
}
