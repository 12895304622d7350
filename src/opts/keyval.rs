//! Options written as `key=value,dotted.key=value`, as an object of strings.
//!
//! A comma inside a value is written twice. Keys `a.0`, `a.1` make a list. Called by `--blockdev`
//! and its like, `--image-opts`, and `-o` lists (`split`). Not here: types (`typed.rs`).

use block_schema::{Object, Value};

use crate::report::Failure;

/// Levels of a value at most, as of one written in JSON.
const MAX_LEVELS: usize = 1024;

/// Splits a list at single commas; `,,` is a comma.
pub(crate) fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != ',' {
            push(&mut parts, c);
        } else if chars.next_if_eq(&',').is_some() {
            push(&mut parts, ',');
        } else {
            parts.push(String::new());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

fn push(parts: &mut [String], c: char) {
    if let Some(last) = parts.last_mut() {
        last.push(c);
    }
}

/// Parses a list of options; `implied` is the key of a first part without `=`.
///
/// # Errors
/// A part without `=`, a key without a name, or one that is both a value and an object.
pub(crate) fn parse(text: &str, implied: Option<&str>) -> Result<Object, Failure> {
    let mut object = Object::new();
    for (index, part) in split(text).into_iter().enumerate() {
        let (key, value) = match (part.split_once('='), implied) {
            (Some((key, value)), _) => (key, value),
            (None, Some(implied)) if index == 0 => (implied, part.as_str()),
            (None, _) => {
                return Err(Failure::new(format!(
                    "Expected '=' after parameter '{part}'"
                )));
            }
        };
        let path = levels(key)?;
        if path.iter().any(|name| name.is_empty()) {
            return Err(Failure::new(format!("Invalid parameter '{key}'")));
        }
        insert(&mut object, &path, Value::from(value))
            .ok_or_else(|| Failure::new(format!("Parameters '{key}.*' used inconsistently")))?;
    }
    Ok(with_lists(object))
}

/// Takes the dots of an object's keys as levels, as `json:` names allow.
///
/// # Errors
/// A key that is both a value and an object.
pub(crate) fn nested_keys(flat: Object) -> Result<Object, Failure> {
    let mut object = Object::new();
    for (key, value) in flat {
        let path = levels(&key)?;
        insert(&mut object, &path, value)
            .ok_or_else(|| Failure::new(format!("Parameters '{key}.*' used inconsistently")))?;
    }
    Ok(with_lists(object))
}

/// The names between a key's dots.
///
/// # Errors
/// A key of more levels than JSON may have: what follows recurses by them.
fn levels(key: &str) -> Result<Vec<&str>, Failure> {
    let path: Vec<&str> = key.split('.').take(MAX_LEVELS + 1).collect();
    match path.len() {
        0..=MAX_LEVELS => Ok(path),
        _ => Err(Failure::new("Parameter name has too many levels")),
    }
}

/// Sets the value at a path; `None` when the path meets a plain value, or ends on an object.
fn insert(object: &mut Object, path: &[&str], value: Value) -> Option<()> {
    let (name, rest) = path.split_first()?;
    let old = object.remove(name);
    let new = match (old, rest) {
        (None | Some(Value::String(_)), []) => value,
        (None, rest) => nested(Object::new(), rest, value)?,
        (Some(Value::Object(inner)), rest) if !rest.is_empty() => nested(inner, rest, value)?,
        _ => return None,
    };
    object.insert(*name, new);
    Some(())
}

fn nested(mut inner: Object, rest: &[&str], value: Value) -> Option<Value> {
    insert(&mut inner, rest, value)?;
    Some(Value::Object(inner))
}

/// Objects whose keys are 0, 1, … become lists.
fn with_lists(object: Object) -> Object {
    object
        .into_iter()
        .map(|(key, value)| (key, list_or_object(value)))
        .collect()
}

fn list_or_object(value: Value) -> Value {
    let Value::Object(object) = value else {
        return value;
    };
    let object = with_lists(object);
    let items: Option<Vec<Value>> = (0..object.len())
        .map(|index| object.get(&index.to_string()).cloned())
        .collect();
    match items {
        Some(items) if !items.is_empty() => Value::Array(items),
        _ => Value::Object(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let json = match parse(text, Some("driver")) {
            Ok(object) => Value::Object(object).to_ascii_json(),
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(json, want);
    }

    #[test]
    fn dotted_keys_nest_and_numbers_list() {
        check(
            "qcow2,file.driver=file,file.filename=a,,b=c",
            r#"{"driver": "qcow2", "file": {"driver": "file", "filename": "a,b=c"}}"#,
        );
        check(
            "children.0=a,children.1.x=b",
            r#"{"children": ["a", {"x": "b"}]}"#,
        );
    }

    #[test]
    fn the_last_of_equal_keys_wins_and_clashes_are_refused() {
        check("a=1,a=2", r#"{"a": "2"}"#);
        check("a=1,a.b=2", "Parameters 'a.b.*' used inconsistently");
        check("a.b=2,a=1", "Parameters 'a.*' used inconsistently");
        check("a=1,b", "Expected '=' after parameter 'b'");
        check("a..b=1", "Invalid parameter 'a..b'");
    }

    #[test]
    fn a_key_of_very_many_levels_is_refused() {
        let deep = |levels: usize| vec!["a"; levels].join(".") + "=1";
        check(&deep(200_000), "Parameter name has too many levels");
        assert!(parse(&deep(MAX_LEVELS), None).is_ok());
    }
}
