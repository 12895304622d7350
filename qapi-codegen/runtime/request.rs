//! The QMP envelope: requests in, replies out.
//! A session parses each value it reads into a [`Request`], has it dispatched, and sends
//! [`reply`]. Invariant: checks run in QEMU's order — object, each top member, `execute` there,
//! negotiated, known, allowed out of band; arguments are checked by `dispatch`.
//! Not here: negotiation itself, queues, out-of-band execution, events (`event.rs`).

use super::error::Error;
use super::value::{Object, Value};

/// What a schema says about a command before its arguments are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandSpec {
    /// Its name.
    pub name: &'static str,
    /// Whether it may be run out of band.
    pub allow_oob: bool,
    /// Whether success has a reply.
    pub answers: bool,
}

/// What a session has negotiated so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Session {
    /// `qmp_capabilities` succeeded.
    pub negotiated: bool,
    /// The client enabled `oob`.
    pub oob: bool,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// To be echoed; any JSON value.
    pub id: Option<Value>,
    /// The command's name, known to the schema.
    pub command: String,
    /// Its arguments, not checked yet; empty when there were none.
    pub arguments: Object,
    /// Came as `exec-oob`.
    pub oob: bool,
}

/// A value that is not a request, or not now.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// To be echoed, when the input was an object that had one.
    pub id: Option<Value>,
    /// Why.
    pub error: Error,
}

const NEGOTIATION: &str = "qmp_capabilities";

impl Request {
    /// Checks the envelope of `value` for a session that has negotiated `session`; `commands` are
    /// those that the schema has.
    ///
    /// # Errors
    /// The first check that fails, with the `id` to echo.
    pub fn parse(
        value: Value,
        session: Session,
        commands: &[CommandSpec],
    ) -> Result<Self, Refusal> {
        let Value::Object(mut object) = value else {
            let error = Error::generic("QMP input must be a JSON object");
            return Err(Refusal { id: None, error });
        };
        // Taken by position, so that `id` does not disturb the order of the others.
        let id = object.remove("id");
        match Self::check(object, session, commands) {
            Ok((command, arguments, oob)) => Ok(Self {
                id,
                command,
                arguments,
                oob,
            }),
            Err(error) => Err(Refusal { id, error }),
        }
    }

    fn check(
        object: Object,
        session: Session,
        commands: &[CommandSpec],
    ) -> Result<(String, Object, bool), Error> {
        let mut execute: Option<(String, bool)> = None;
        let mut arguments = Object::new();
        for (name, value) in object {
            match (name.as_str(), value) {
                ("execute", value) => set_command(&mut execute, &name, false, value)?,
                ("exec-oob", value) if session.oob => {
                    set_command(&mut execute, &name, true, value)?;
                }
                ("arguments", Value::Object(object)) => arguments = object,
                ("arguments", _) => {
                    let desc = "QMP input member 'arguments' must be an object";
                    return Err(Error::generic(desc));
                }
                _ => {
                    return Err(Error::generic(format!(
                        "QMP input member '{name}' is unexpected"
                    )));
                }
            }
        }
        let (command, oob) =
            execute.ok_or_else(|| Error::generic("QMP input lacks member 'execute'"))?;
        let negotiates = command == NEGOTIATION;
        if !session.negotiated && !negotiates {
            let desc = format!("Expecting capabilities negotiation with '{NEGOTIATION}'");
            return Err(Error::command_not_found(desc));
        }
        let Some(spec) = commands.iter().find(|spec| spec.name == command) else {
            let desc = format!("The command {command} has not been found");
            return Err(Error::command_not_found(desc));
        };
        if oob && !spec.allow_oob {
            return Err(Error::generic(format!(
                "The command {command} does not support OOB"
            )));
        }
        if session.negotiated && negotiates {
            let desc = "Capabilities negotiation is already complete, command ignored";
            return Err(Error::command_not_found(desc));
        }
        Ok((command, arguments, oob))
    }
}

fn set_command(
    execute: &mut Option<(String, bool)>,
    name: &str,
    oob: bool,
    value: Value,
) -> Result<(), Error> {
    let Value::String(command) = value else {
        return Err(Error::generic(format!(
            "QMP input member '{name}' must be a string"
        )));
    };
    if let Some((_, first_oob)) = execute {
        let first = if *first_oob { "exec-oob" } else { "execute" };
        let desc = format!("QMP input member '{name}' clashes with '{first}'");
        return Err(Error::generic(desc));
    }
    *execute = Some((command, oob));
    Ok(())
}

impl Refusal {
    /// The reply that says so.
    pub fn into_reply(self) -> Value {
        reply(self.id, Err(self.error))
    }
}

/// The reply to a request: `return` or `error`, and its `id`.
pub fn reply(id: Option<Value>, result: Result<Value, Error>) -> Value {
    let mut object = Object::new();
    match result {
        Ok(value) => object.insert("return", value),
        Err(error) => object.insert("error", error.to_value()),
    }
    if let Some(id) = id {
        object.insert("id", id);
    }
    Value::Object(object)
}

/// What a command answers that this program has no code for.
pub fn not_built_in(command: &str) -> Error {
    Error::generic(format!("The command {command} is not built in yet"))
}
