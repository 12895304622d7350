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

    /// Adds what [`to_ascii_json`](Self::to_ascii_json) gives to `out`.
    pub fn write_ascii_json(&self, out: &mut String) {
        write_value(out, self, None);
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
        Value::Int(number) => {
            if *number < 0 {
                out.push('-');
            }
            write_integer(out, number.unsigned_abs());
        }
        Value::Uint(number) => write_integer(out, *number),
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

/// Digits without the machinery of formatting, which is most of a small reply's cost.
fn write_integer(out: &mut String, mut number: u64) {
    let mut digits = ['0'; 20];
    let mut first = digits.len();
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        // Edition 2018 has no `TryFrom` in scope.
        let value = <u32 as std::convert::TryFrom<u64>>::try_from(number % 10).unwrap_or(0);
        *digit = char::from_digit(value, 10).unwrap_or('0');
        number /= 10;
        first = index;
        if number == 0 {
            break;
        }
    }
    out.extend(digits.iter().skip(first));
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
    let mut rest = text;
    loop {
        let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        let plain = rest.bytes().position(|byte| !is_plain(byte));
        let (plain, special) = rest.split_at(plain.unwrap_or(rest.len()));
        out.push_str(plain);
        let mut characters = special.chars();
        let Some(character) = characters.next() else {
            break;
        };
        rest = characters.as_str();
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
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
