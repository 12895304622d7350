//! What was asked, answered and told, for who keeps a log: `tracing` events of [`TARGET`].
//!
//! One event a request, by `session.rs`, with the fields `command`, `arguments` and `reply`; one a
//! QMP event, by `events.rs`, with `event` and `data`. All are of level trace, and nothing is made
//! of them where nobody listens. Invariant: no passphrase is among the fields. Not here: files.

use std::fmt;

use block_schema::{Error, Event, Object, Timestamp, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;

/// The target of the events.
pub const TARGET: &str = "block_core::qmp";

/// What stands for a passphrase.
const HIDDEN: &str = "(hidden)";

/// What a request asks for.
pub(super) struct Asked {
    command: String,
    arguments: Object,
}

/// Keeps what a message asks for, if somebody listens. One that is no request has no command.
pub(super) fn asked(message: &Result<Value, Error>) -> Option<Asked> {
    if LevelFilter::current() < LevelFilter::TRACE {
        return None;
    }
    let member = |name| message.as_ref().ok().and_then(|message| message.get(name));
    let command = member("execute").or_else(|| member("exec-oob"));
    let command = command
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let arguments = member("arguments").and_then(Value::as_object);
    let arguments = without_secrets(&command, arguments.cloned().unwrap_or_default());
    Some(Asked { command, arguments })
}

/// Tells of a request and its reply, if it had one.
pub(super) fn answered(asked: Asked, reply: Option<&Value>) {
    let Asked { command, arguments } = asked;
    let arguments = Value::Object(arguments);
    let nothing = Value::Null;
    let reply = reply.unwrap_or(&nothing);
    tracing::trace!(target: TARGET, command, %arguments, %reply);
}

/// Tells of an event.
pub(crate) fn happened(event: &Event) {
    if LevelFilter::current() < LevelFilter::TRACE {
        return;
    }
    let mut message = match event.to_value(Timestamp::UNKNOWN) {
        Value::Object(message) => message,
        _ => Object::new(),
    };
    let name = message.remove("event").unwrap_or(Value::Null);
    let event = name.as_str().unwrap_or_default();
    let data = message.remove("data");
    let data = data.unwrap_or_else(|| Value::Object(Object::new()));
    tracing::trace!(target: TARGET, event, %data);
}

fn without_secrets(command: &str, mut arguments: Object) -> Object {
    match command {
        "object-add" => {
            hide(&mut arguments, "data");
            if let Some(Value::Object(mut properties)) = arguments.remove("props") {
                hide(&mut properties, "data");
                arguments.insert("props", properties);
            }
        }
        "block_passwd" => hide(&mut arguments, "password"),
        _ => {}
    }
    arguments
}

fn hide(object: &mut Object, name: &str) {
    if object.contains(name) {
        object.insert(name, HIDDEN);
    }
}

/// The fields of an event of [`TARGET`], as JSON; `None` for an event of another.
///
/// A program that keeps a log calls this in its subscriber.
pub fn fields(event: &tracing::Event<'_>) -> Option<Object> {
    if event.metadata().target() != TARGET {
        return None;
    }
    let mut fields = Fields(Object::new());
    event.record(&mut fields);
    Some(fields.0)
}

struct Fields(Object);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Shown values are JSON.
        let text = format!("{value:?}");
        let value = Value::from_json(&text).unwrap_or(Value::String(text));
        self.0.insert(field.name(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_are_hidden_wherever_a_command_takes_them() {
        let check = |command: &str, arguments: &str, hidden: &str| {
            let parse = |text| match Value::from_json(text) {
                Ok(Value::Object(object)) => object,
                other => panic!("{text}: {other:?}"),
            };
            let shown = without_secrets(command, parse(arguments));
            assert_eq!(shown, parse(hidden), "{command}");
        };
        check(
            "object-add",
            r#"{"qom-type": "secret", "id": "s", "data": "geheim"}"#,
            r#"{"qom-type": "secret", "id": "s", "data": "(hidden)"}"#,
        );
        check(
            "object-add",
            r#"{"id": "s", "props": {"data": "geheim", "format": "raw"}}"#,
            r#"{"id": "s", "props": {"data": "(hidden)", "format": "raw"}}"#,
        );
        check(
            "block_passwd",
            r#"{"device": "disk", "password": "geheim"}"#,
            r#"{"device": "disk", "password": "(hidden)"}"#,
        );
        check("block_resize", r#"{"size": 1}"#, r#"{"size": 1}"#);
    }
}
