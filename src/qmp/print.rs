//! Answers and events as text: indented for people, on one line for programs.
//!
//! Invariant: what a server sends cannot steer the terminal: control characters are escaped.
//! Not here: where the text goes.

use std::fmt::Write as _;

use block_schema::runtime::{RawEvent, Timestamp};
use block_schema::{Object, Value};

/// How answers and events look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// One line each, in ASCII.
    pub(super) compact: bool,
    pub(super) colour: bool,
}

#[derive(Clone, Copy)]
enum Colour {
    Key,
    Text,
    Plain,
    Event,
    Faint,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Colour::Key => "\x1b[34m",
            Colour::Text => "\x1b[32m",
            Colour::Plain => "\x1b[36m",
            Colour::Event => "\x1b[1;35m",
            Colour::Faint => "\x1b[2m",
        }
    }
}

impl Style {
    /// An answer, without a new line behind.
    pub(crate) fn value(self, value: &Value) -> String {
        if self.compact {
            return value.to_ascii_json();
        }
        let mut out = String::new();
        self.write(&mut out, value, 0);
        out
    }

    /// An event in one line, or as it came.
    pub(super) fn event(self, event: &RawEvent) -> String {
        let RawEvent {
            name,
            data,
            timestamp,
        } = event;
        if self.compact {
            return timestamp.event(name, data.clone()).to_ascii_json();
        }
        let mut out = self.painted(Colour::Faint, &clock(*timestamp));
        out.push(' ');
        out += &self.painted(Colour::Event, &plain(name));
        self.write_members(&mut out, "", data);
        out
    }

    /// Something about an answer, beside it.
    pub(super) fn aside(self, text: &str) -> String {
        self.painted(Colour::Faint, text)
    }

    fn painted(self, colour: Colour, text: &str) -> String {
        match self.colour {
            true => format!("{}{text}\x1b[0m", colour.code()),
            false => text.to_owned(),
        }
    }

    /// Members as `path=value`.
    fn write_members(self, out: &mut String, prefix: &str, data: &Object) {
        for (name, value) in data.iter() {
            match value {
                Value::Object(inner) if !inner.is_empty() => {
                    self.write_members(out, &format!("{prefix}{name}."), inner);
                }
                Value::String(text) if is_word(text) => {
                    let key = self.painted(Colour::Key, &plain(&format!("{prefix}{name}")));
                    *out += &format!(" {key}={}", self.painted(Colour::Text, text));
                }
                value => {
                    let key = self.painted(Colour::Key, &plain(&format!("{prefix}{name}")));
                    *out += &format!(" {key}={}", self.scalar(value));
                }
            }
        }
    }

    fn write(self, out: &mut String, value: &Value, level: usize) {
        match value {
            Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    new_line(out, index > 0, level + 1);
                    self.write(out, item, level + 1);
                }
                new_line(out, false, level);
                out.push(']');
            }
            Value::Object(object) if !object.is_empty() => {
                out.push('{');
                for (index, (name, member)) in object.iter().enumerate() {
                    new_line(out, index > 0, level + 1);
                    *out += &self.painted(Colour::Key, &quoted(name));
                    out.push_str(": ");
                    self.write(out, member, level + 1);
                }
                new_line(out, false, level);
                out.push('}');
            }
            value => *out += &self.scalar(value),
        }
    }

    fn scalar(self, value: &Value) -> String {
        match value {
            Value::String(text) => self.painted(Colour::Text, &quoted(text)),
            Value::Array(_) | Value::Object(_) => value.to_ascii_json(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => {
                self.painted(Colour::Plain, &value.to_ascii_json())
            }
        }
    }
}

fn new_line(out: &mut String, comma: bool, level: usize) {
    if comma {
        out.push(',');
    }
    out.push('\n');
    for _ in 0..level {
        out.push_str("    ");
    }
}

/// A JSON string whose letters are shown as they are.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", plain(&escaped))
}

/// Control characters, and those that change the direction of writing, as JSON escapes.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
            {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a text can stand without quotes.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:#+%@".contains(c);
    !text.is_empty() && text.chars().all(is_plain)
}

/// The time of day, in UTC.
fn clock(time: Timestamp) -> String {
    match u64::try_from(time.seconds) {
        Ok(seconds) => {
            let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
            let millis = time.microseconds.max(0) / 1000;
            format!("{hours:02}:{minutes:02}:{:02}.{millis:03}Z", seconds % 60)
        }
        Err(_) => "--:--:--".to_owned(),
    }
}
