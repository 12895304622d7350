//! Values to JSON text.
//! Invariant: the text is ASCII; anything else, and DEL, is `\uXXXX`, as surrogates above U+FFFF.

use std::fmt::Write as _;

use super::value::Value;

impl Value {
    /// JSON on one line, in ASCII, with a space after `:` and `,`.
    pub fn to_ascii_json(&self) -> String {
        let mut out = String::new();
        write_value(&mut out, self, None);
        out
    }

    /// JSON over several lines, indented by four spaces a level, in ASCII.
    pub fn to_pretty_json(&self) -> String {
        let mut out = String::new();
        write_value(&mut out, self, Some(0));
        out
    }
}

/// `level` is the indentation, or `None` for one line.
fn write_value(out: &mut String, value: &Value, level: Option<usize>) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(number) => write_display(out, number),
        Value::Uint(number) => write_display(out, number),
        // JSON has no infinities.
        Value::Float(number) if !number.is_finite() => out.push_str("null"),
        Value::Float(number) => write_display(out, &format_args!("{number:?}")),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                write_separator(out, index, level);
                write_value(out, item, level.map(|level| level + 1));
            }
            write_end(out, items.is_empty(), level);
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (index, (name, member)) in object.iter().enumerate() {
                write_separator(out, index, level);
                write_string(out, name);
                out.push_str(": ");
                write_value(out, member, level.map(|level| level + 1));
            }
            write_end(out, object.is_empty(), level);
            out.push('}');
        }
    }
}

fn write_display(out: &mut String, number: &impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{number}");
}

fn write_separator(out: &mut String, index: usize, level: Option<usize>) {
    if index > 0 {
        out.push(',');
    }
    match level {
        Some(level) => write_line(out, level + 1),
        None if index > 0 => out.push(' '),
        None => {}
    }
}

fn write_end(out: &mut String, empty: bool, level: Option<usize>) {
    if let Some(level) = level.filter(|_| !empty) {
        write_line(out, level);
    }
}

fn write_line(out: &mut String, level: usize) {
    out.push('\n');
    for _ in 0..level {
        out.push_str("    ");
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}
