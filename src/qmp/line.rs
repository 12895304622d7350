//! What one line asks for.
//!
//! A line is a command in words, a command in JSON, or one of the client's own: `help`, `wait`,
//! `oob`, `exit`. Called by `session` for each line. Not here: how words get types (`typed`).

use std::time::Duration;

use block_schema::{Object, Value};

use super::schema::{Entity, Schema};
use super::suggest::nearest;
use super::typed::{self, Complaint};
use super::words::{self, Word};

/// Commands of the client itself, with what they do.
pub(super) const OWN: [(&str, &str); 4] = [
    (
        "help",
        "what a command takes: help block-stream, help blockdev-add driver=qcow2",
    ),
    (
        "wait",
        "until an event comes: wait BLOCK_JOB_READY device=disk timeout=10",
    ),
    ("oob", "runs a command out of band: oob migrate-pause"),
    ("exit", "leaves; the server goes on (quit ends the server)"),
];

#[derive(Debug, PartialEq)]
pub(super) enum Line {
    /// Nothing, or a comment.
    Blank,
    /// About everything, or about these words.
    Help(Vec<String>),
    Exit,
    Wait(Wait),
    Call(Call),
}

/// A command for the server.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Object,
    pub(super) oob: bool,
}

/// An event to wait for.
#[derive(Debug, PartialEq)]
pub(super) struct Wait {
    pub(super) event: String,
    /// Members that its data must have, with these values.
    pub(super) data: Object,
    pub(super) timeout: Option<Duration>,
}

/// Reads a line.
///
/// # Errors
/// What is wrong with it, before anything is sent.
pub(super) fn parse(schema: &Schema, line: &str) -> Result<Line, Complaint> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Blank);
    }
    if line.starts_with('{') {
        return typed::object(words::Text(line))
            .and_then(raw)
            .map(Line::Call);
    }
    let split = words::split(line);
    if let Some(open) = split.open {
        return Err(Complaint(format!("Nothing closes {open}")));
    }
    let Some((first, rest)) = split.words.split_first() else {
        return Ok(Line::Blank);
    };
    match first.raw {
        "help" | "?" => {
            let words = rest.iter().map(|word| word.text().unquoted());
            Ok(Line::Help(words.collect()))
        }
        "exit" if rest.is_empty() => Ok(Line::Exit),
        "wait" => wait(schema, rest).map(Line::Wait),
        "oob" => match rest.split_first() {
            Some((first, rest)) => call(schema, first, rest, true).map(Line::Call),
            None => Err(Complaint::new("Expected a command after 'oob'")),
        },
        _ => call(schema, first, rest, false).map(Line::Call),
    }
}

/// A command as it goes over the wire. Its `id` is not needed here: answers find their way.
fn raw(object: Object) -> Result<Call, Complaint> {
    let mut call = Call {
        name: String::new(),
        arguments: Object::new(),
        oob: object.contains("exec-oob"),
    };
    for (name, value) in object {
        match (name.as_str(), value) {
            ("execute" | "exec-oob", Value::String(command)) => call.name = command,
            ("arguments", Value::Object(arguments)) => call.arguments = arguments,
            ("id", _) => {}
            _ => {
                return Err(Complaint(format!(
                    "Member '{name}' is wrong in a QMP command"
                )));
            }
        }
    }
    if call.name.is_empty() {
        return Err(Complaint::new("A QMP command has a member 'execute'"));
    }
    Ok(call)
}

fn call(
    schema: &Schema,
    name: &Word<'_>,
    words: &[Word<'_>],
    oob: bool,
) -> Result<Call, Complaint> {
    let name = name.text().unquoted();
    let of = if schema.commands().is_empty() {
        // A server without introspection knows for itself.
        schema.unknown()
    } else {
        let command = command(schema, &name)?;
        if oob && !command.allow_oob {
            let text = format!("The command {name} does not support OOB");
            return Err(Complaint(text));
        }
        command.arguments
    };
    Ok(Call {
        arguments: typed::arguments(schema, of, words)?,
        name,
        oob,
    })
}

/// A command of the server.
pub(super) fn command<'a>(schema: &'a Schema, name: &str) -> Result<&'a Entity, Complaint> {
    schema.command(name).ok_or_else(|| {
        let names = schema
            .commands()
            .iter()
            .map(|command| command.name.as_str());
        let own = OWN.iter().map(|(name, _)| *name);
        let text = format!("CommandNotFound: The command {name} has not been found");
        did_you_mean(text, nearest(name, names.chain(own)))
    })
}

fn did_you_mean(text: String, near: Option<&str>) -> Complaint {
    Complaint(match near {
        Some(near) => format!("{text}; did you mean '{near}'?"),
        None => text,
    })
}

fn wait(schema: &Schema, words: &[Word<'_>]) -> Result<Wait, Complaint> {
    let Some((name, words)) = words.split_first() else {
        return Err(Complaint::new("Expected an event after 'wait'"));
    };
    let name = name.text().unquoted();
    let event = schema.event(&name).ok_or_else(|| {
        let names = schema.events().iter().map(|event| event.name.as_str());
        did_you_mean(
            format!("The server has no event {name}"),
            nearest(&name, names),
        )
    })?;
    let is_timeout = |word: &&Word<'_>| word.pair().is_some_and(|(key, _)| key == "timeout");
    let timeout = words.iter().find(is_timeout).and_then(Word::pair);
    let timeout = timeout
        .map(|(_, text)| seconds(&text.unquoted()))
        .transpose()?;
    let conditions: Vec<Word<'_>> = words.iter().filter(|w| !is_timeout(w)).copied().collect();
    Ok(Wait {
        data: typed::arguments(schema, event.arguments, &conditions)?,
        event: name,
        timeout,
    })
}

fn seconds(text: &str) -> Result<Duration, Complaint> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<f64>().ok();
    let duration = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    duration.ok_or_else(|| Complaint(format!("'{text}' is no number of seconds")))
}

impl Wait {
    /// Whether this is the event.
    pub(super) fn takes(&self, name: &str, data: &Object) -> bool {
        name == self.event && includes(data, &self.data)
    }
}

/// Whether an object has all that is wanted, at every level.
fn includes(object: &Object, wanted: &Object) -> bool {
    wanted
        .iter()
        .all(|(name, wanted)| match (object.get(name), wanted) {
            (Some(Value::Object(inner)), Value::Object(wanted)) => includes(inner, wanted),
            (value, wanted) => value == Some(wanted),
        })
}
