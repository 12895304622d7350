//! The QMP envelope: requests in, replies out.
//! A session parses each value it reads into a [`Request`], has it dispatched, and sends
//! [`reply`]. Invariant: checks run in QEMU's order — object, each top member, `execute` there,
//! negotiated, known, allowed out of band; arguments are checked by `dispatch`.
//! Not here: negotiation itself, queues, out-of-band execution, events (`event.rs`).

use super::call::Command;
use super::convert::{Unknown, Wire as _};
use super::error::Error;
use super::value::{Object, Value};

/// What a schema says about a command before its arguments are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandSpec {
    /// Its name.
    pub name: &'static str,
    /// Its place in the schema.
    pub number: usize,
    /// Whether it may be run out of band.
    pub allow_oob: bool,
    /// Whether success has a reply.
    pub answers: bool,
}

/// The commands of a schema.
#[derive(Debug, Clone, Copy)]
pub struct Commands {
    /// By name, in the order of its bytes.
    sorted: &'static [CommandSpec],
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
    /// The command.
    pub command: CommandSpec,
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

impl CommandSpec {
    /// Command `name`, which stands at place `number` in the schema.
    pub const fn new(number: usize, name: &'static str) -> Self {
        Self {
            name,
            number,
            allow_oob: false,
            answers: true,
        }
    }

    /// One that may be run out of band.
    #[must_use]
    pub const fn with_oob(self) -> Self {
        Self {
            allow_oob: true,
            ..self
        }
    }

    /// One whose success has no reply.
    #[must_use]
    pub const fn without_answer(self) -> Self {
        Self {
            answers: false,
            ..self
        }
    }

    /// The reply to a request for it, if there is one.
    pub fn reply(self, id: Option<Value>, result: Result<Value, Error>) -> Option<Value> {
        (self.answers || result.is_err()).then(|| reply(id, result))
    }
}

impl Commands {
    /// A table of commands, which are sorted by name.
    pub const fn new(sorted: &'static [CommandSpec]) -> Self {
        Self { sorted }
    }

    /// The command called `name`.
    pub fn find(&self, name: &str) -> Option<CommandSpec> {
        let index = self.sorted.binary_search_by(|spec| spec.name.cmp(name));
        index.ok().and_then(|index| self.sorted.get(index)).copied()
    }

    /// The place in the schema of the command called `name`.
    ///
    /// # Errors
    /// That there is none.
    pub fn number(&self, name: &str) -> Result<usize, Error> {
        let spec = self.find(name).ok_or_else(|| not_found(name))?;
        Ok(spec.number)
    }

    /// All of them, in schema order.
    pub fn iter(&self) -> impl Iterator<Item = CommandSpec> {
        let mut specs = self.sorted.to_vec();
        specs.sort_unstable_by_key(|spec| spec.number);
        specs.into_iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// True without commands.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl Request {
    /// Checks what came, as [`parse`](Self::parse) does; a value that was broken has no `id`.
    ///
    /// # Errors
    /// What was wrong with the message, or the first check that fails.
    pub fn read(
        message: Result<Value, Error>,
        session: Session,
        commands: &Commands,
    ) -> Result<Self, Refusal> {
        match message {
            Ok(value) => Self::parse(value, session, commands),
            Err(error) => Err(Refusal { id: None, error }),
        }
    }

    /// Checks the envelope of `value` for a session that has negotiated `session`; `commands` are
    /// those that the schema has.
    ///
    /// # Errors
    /// The first check that fails, with the `id` to echo.
    pub fn parse(value: Value, session: Session, commands: &Commands) -> Result<Self, Refusal> {
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
        commands: &Commands,
    ) -> Result<(CommandSpec, Object, bool), Error> {
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
        if !session.negotiated && command != NEGOTIATION {
            let desc = format!("Expecting capabilities negotiation with '{NEGOTIATION}'");
            return Err(Error::command_not_found(desc));
        }
        let spec = commands.find(&command).ok_or_else(|| not_found(&command))?;
        if oob && !spec.allow_oob {
            return Err(no_oob(&command));
        }
        Ok((spec, arguments, oob))
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
        Ok(value) => object.push("return", value),
        Err(error) => object.push("error", error.to_value()),
    }
    if let Some(id) = id {
        object.push("id", id);
    }
    Value::Object(object)
}

/// Checks the arguments of a command, and encodes what `method` of `server` answers.
///
/// # Errors
/// That of the arguments, or of the method.
pub async fn run<'a, S, C, F>(
    server: &'a S,
    arguments: Object,
    method: impl FnOnce(&'a S, C) -> F,
) -> Result<Value, Error>
where
    C: Command,
    F: std::future::Future<Output = Result<C::Ok, Error>>,
{
    let command = C::decode(Value::Object(arguments), Unknown::Refuse)?;
    Ok(method(server, command).await?.encode())
}

/// What a server answers to a command that nobody knows.
pub fn not_found(command: &str) -> Error {
    Error::command_not_found(format!("The command {command} has not been found"))
}

/// What a server answers to a command that may not be run out of band.
pub fn no_oob(command: &str) -> Error {
    Error::generic(format!("The command {command} does not support OOB"))
}

/// What a server answers to `qmp_capabilities` after the first one.
pub fn already_negotiated() -> Error {
    let desc = "Capabilities negotiation is already complete, command ignored";
    Error::command_not_found(desc)
}

/// What a command answers that this program has no code for.
pub fn not_built_in(command: &str) -> Error {
    Error::generic(format!("The command {command} is not built in yet"))
}
