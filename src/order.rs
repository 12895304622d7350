//! The order in which QEMU's tools print the members of an object.
//!
//! They keep members in a table of 512 buckets by a hash of the name, and print them as they lie
//! there. Scripts compare whole outputs, so ours come in that order, too.
//! Called by what prints JSON, and by `human.rs`.

use std::cmp::Reverse;

use block_schema::{Object, Value};

/// Buckets of the table.
const BUCKETS: u32 = 512;

/// JSON over several lines, members in QEMU's order at every level; what is empty, too, ends on a
/// line of its own.
pub(crate) fn pretty_json(value: &Value) -> String {
    let text = ordered(value).to_pretty_json();
    let lines: Vec<String> = text.lines().map(with_end_below).collect();
    lines.join("\n")
}

/// A line, and its closing bracket below, if it opens and closes one. Texts end in quotes.
fn with_end_below(line: &str) -> String {
    let (body, comma) = match line.strip_suffix(',') {
        Some(body) => (body, ","),
        None => (line, ""),
    };
    let bracket = match body {
        _ if body.ends_with("[]") => ']',
        _ if body.ends_with("{}") => '}',
        _ => return line.to_owned(),
    };
    let indent = " ".repeat(line.len() - line.trim_start().len());
    let opened = &body[..body.len() - 1];
    format!("{opened}\n{indent}{bracket}{comma}")
}

/// An object's members in QEMU's order.
pub(crate) fn members(object: &Object) -> Vec<(&str, &Value)> {
    let mut members: Vec<_> = object.iter().enumerate().collect();
    // What comes later is put at the front of its bucket.
    members.sort_by_key(|&(index, (name, _))| (bucket(name), Reverse(index)));
    members.into_iter().map(|(_, member)| member).collect()
}

fn ordered(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let members = members(object).into_iter();
            let members = members.map(|(name, value)| (name.to_owned(), ordered(value)));
            Value::Object(members.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(ordered).collect()),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Float(_)
        | Value::String(_) => value.clone(),
    }
}

/// The bucket of a name, by the hash that gdbm once had.
fn bucket(name: &str) -> u32 {
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let seed = 0x238f_13af_u32.wrapping_mul(len);
    // Five bits further a byte, and around at 24.
    let shifts = (0..24_u32).map(|index| index * 5 % 24).cycle();
    let sum = name.bytes().zip(shifts).fold(seed, |sum, (byte, shift)| {
        sum.wrapping_add(u32::from(byte) << shift)
    });
    sum.wrapping_mul(1_103_515_243).wrapping_add(12_345) % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_ends_below() {
        let value = Value::from_json(r#"{"a": [], "b": {"c": {}}}"#).unwrap();
        let want = concat!(
            "{\n    \"a\": [\n    ],\n    \"b\": {\n",
            "        \"c\": {\n        }\n    }\n}"
        );
        assert_eq!(pretty_json(&value), want);
    }

    #[test]
    fn members_come_as_qemu_prints_them() {
        let schema = r#"{"filename": "f", "format": "qcow2", "dirty-flag": false,
            "actual-size": 1, "virtual-size": 2, "cluster-size": 3, "backing-filename": "b",
            "full-backing-filename": "b", "backing-filename-format": "raw", "snapshots": [],
            "format-specific": {"type": "qcow2", "data": {"compat": "1.1",
            "extended-l2": false, "lazy-refcounts": false, "corrupt": false,
            "refcount-bits": 16, "compression-type": "zlib"}}, "children": []}"#;
        let value = ordered(&Value::from_json(schema).unwrap()).to_ascii_json();
        let want = concat!(
            r#"{"children": [], "backing-filename-format": "raw", "snapshots": [], "#,
            r#""virtual-size": 2, "filename": "f", "cluster-size": 3, "format": "qcow2", "#,
            r#""actual-size": 1, "format-specific": {"type": "qcow2", "data": "#,
            r#"{"compat": "1.1", "compression-type": "zlib", "lazy-refcounts": false, "#,
            r#""refcount-bits": 16, "corrupt": false, "extended-l2": false}}, "#,
            r#""full-backing-filename": "b", "backing-filename": "b", "dirty-flag": false}"#
        );
        assert_eq!(value, want);
    }
}
