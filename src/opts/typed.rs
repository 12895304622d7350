//! Options as text, given the types that the schema says.
//!
//! On a command line every value is a string; commands want numbers and booleans. The schema's
//! introspection says which. Values that have a type already are left alone.
//! Called by `serve` for its options and by `image.rs`. Not here: whether members exist or are
//! missing — the command's own decoder tells that.

use std::collections::HashMap;
use std::sync::OnceLock;

use block_schema::{Object, Value, introspect};

use super::size::parse_size;
use crate::report::Failure;

/// Gives the strings in a command's arguments their types.
///
/// # Errors
/// A number or boolean that is none.
pub(crate) fn arguments_of(command: &str, arguments: Object) -> Result<Object, Failure> {
    let schema = schema();
    let Some(type_name) = schema.entry(command).and_then(|e| text_of(e, "arg-type")) else {
        return Ok(arguments);
    };
    schema.object(arguments, type_name, "")
}

struct Schema(HashMap<String, Value>);

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let entries = match Value::from_json(introspect::JSON) {
            Ok(Value::Array(entries)) => entries,
            _ => Vec::new(),
        };
        let named = |entry: Value| Some((text_of(&entry, "name")?.to_owned(), entry));
        Schema(entries.into_iter().filter_map(named).collect())
    })
}

impl Schema {
    fn entry(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn object(&self, object: Object, type_name: &str, path: &str) -> Result<Object, Failure> {
        let types = self.member_types(&object, type_name);
        let typed = object.into_iter().map(|(name, value)| {
            let path = format!("{path}{name}");
            let value = match types.get(name.as_str()) {
                Some(&type_name) => self.value(value, type_name, &path)?,
                None => value,
            };
            Ok((name, value))
        });
        typed.collect()
    }

    /// The types of all members that an object of this type may have, its variant's included.
    fn member_types<'a>(&'a self, object: &Object, type_name: &str) -> HashMap<&'a str, &'a str> {
        let mut types = HashMap::new();
        let mut next = Some(type_name);
        while let Some(entry) = next.and_then(|name| self.entry(name)) {
            for member in list_of(entry, "members") {
                if let (Some(name), Some(of)) = (text_of(member, "name"), text_of(member, "type")) {
                    types.insert(name, of);
                }
            }
            let tag = text_of(entry, "tag").and_then(|tag| object.get(tag)?.as_str());
            let variant = tag.and_then(|case| {
                let mut variants = list_of(entry, "variants").iter();
                variants.find(|variant| text_of(variant, "case") == Some(case))
            });
            next = variant.and_then(|variant| text_of(variant, "type"));
        }
        types
    }

    fn value(&self, value: Value, type_name: &str, path: &str) -> Result<Value, Failure> {
        let Some(entry) = self.entry(type_name) else {
            return Ok(value);
        };
        match (value, text_of(entry, "meta-type")) {
            (Value::String(text), Some("builtin")) => typed_text(text, entry, path),
            (Value::Object(object), Some("object")) => {
                let object = self.object(object, type_name, &format!("{path}."))?;
                Ok(Value::Object(object))
            }
            (Value::Array(items), Some("array")) => {
                let element = text_of(entry, "element-type").unwrap_or_default();
                let items = items.into_iter().enumerate();
                let typed = items.map(|(i, v)| self.value(v, element, &format!("{path}[{i}]")));
                typed.collect::<Result<Vec<_>, _>>().map(Value::Array)
            }
            (Value::Object(object), Some("alternate")) => {
                let inner = list_of(entry, "members")
                    .iter()
                    .filter_map(|member| text_of(member, "type"))
                    .find(|name| {
                        self.entry(name).and_then(|e| text_of(e, "meta-type")) == Some("object")
                    });
                match inner {
                    Some(inner) => self.value(Value::Object(object), inner, path),
                    None => Ok(Value::Object(object)),
                }
            }
            (value, _) => Ok(value),
        }
    }
}

fn typed_text(text: String, builtin: &Value, path: &str) -> Result<Value, Failure> {
    match text_of(builtin, "json-type") {
        Some("int") => {
            let negative = text.parse::<i64>().ok().map(Value::from);
            let number = parse_size(&text).ok().map(Value::from).or(negative);
            number.ok_or_else(|| Failure::new(format!("Parameter '{path}' expects a number")))
        }
        Some("boolean") => match text.as_str() {
            "on" | "yes" | "true" | "y" => Ok(Value::Bool(true)),
            "off" | "no" | "false" | "n" => Ok(Value::Bool(false)),
            _ => Err(Failure::new(format!(
                "Parameter '{path}' expects 'on' or 'off'"
            ))),
        },
        _ => Ok(Value::String(text)),
    }
}

fn text_of<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.get(name)?.as_str()
}

fn list_of<'a>(entry: &'a Value, name: &str) -> &'a [Value] {
    entry
        .get(name)
        .and_then(Value::as_array)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::keyval;
    use super::*;

    #[track_caller]
    fn check(text: &str, want: &str) {
        let object = keyval::parse(text, Some("driver")).unwrap();
        let json = match arguments_of("blockdev-add", object) {
            Ok(object) => Value::Object(object).to_ascii_json(),
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(json, want);
    }

    #[test]
    fn numbers_and_switches_get_their_types_wherever_they_are() {
        check(
            "driver=raw,size=64k,read-only=on,file.driver=file,file.filename=7,file.cache.direct=off",
            concat!(
                r#"{"driver": "raw", "size": 65536, "read-only": true, "#,
                r#""file": {"driver": "file", "filename": "7", "cache": {"direct": false}}}"#
            ),
        );
        check(
            "driver=qcow2,file=12,cache.direct=maybe",
            "Parameter 'cache.direct' expects 'on' or 'off'",
        );
        check(
            "driver=raw,file=x,size=big",
            "Parameter 'size' expects a number",
        );
    }
}
