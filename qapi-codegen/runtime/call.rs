//! The client's side of a command: request out, typed answer in.
//! Invariant: what a server says beyond the schema is skipped; what contradicts it is an error that
//! names the member by its path. Not here: transport, and which reply belongs to which request
//! (`connection.rs`).

use std::fmt;

use super::connection::ConnectionError;
use super::convert::{Fields, Invalid, Unknown, Wire};
use super::error::{Error, ErrorClass};
use super::value::{Object, Value};

/// A command with its arguments. One type a command implements it.
pub trait Command: Fields {
    /// Name on the wire.
    const NAME: &'static str;
    /// Whether it may be run out of band.
    const ALLOW_OOB: bool;
    /// Whether success has a reply.
    const ANSWERS: bool = true;
    /// What it answers.
    type Ok: Wire;

    /// Its arguments, as they go over the wire.
    fn arguments(&self) -> Object {
        let mut arguments = Object::new();
        self.put(&mut arguments);
        arguments
    }

    /// The message that asks for it.
    fn request(&self, id: Option<Value>) -> Value {
        request("execute", Self::NAME, self.arguments(), id)
    }
}

/// A command that may be run out of band.
pub trait OutOfBand: Command {}

/// The message that asks for command `name` by member `execute`.
pub(super) fn request(execute: &str, name: &str, arguments: Object, id: Option<Value>) -> Value {
    let mut object = Object::new();
    object.insert(execute, name);
    if !arguments.is_empty() {
        object.insert("arguments", arguments);
    }
    if let Some(id) = id {
        object.insert("id", id);
    }
    Value::Object(object)
}

/// What a server says to a request: a value, or its error.
pub type Reply = Result<Value, Error>;

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub enum CallError {
    /// The server says so.
    Refused(Error),
    /// The server's answer does not fit the schema.
    Answer(Invalid),
    /// The message is not a reply.
    NotAReply,
    /// There is no connection, or not any more.
    Connection(ConnectionError),
}

/// Reads the reply to command `C`.
///
/// # Errors
/// The server's error, or what is wrong with the reply.
pub fn decode_reply<C: Command>(reply: Value) -> Result<C::Ok, CallError> {
    let Value::Object(object) = reply else {
        return Err(CallError::NotAReply);
    };
    decode_answer::<C>(take_reply(object).ok_or(CallError::NotAReply)?)
}

/// Reads what command `C` answered.
///
/// # Errors
/// The server's error, or what is wrong with the answer.
pub fn decode_answer<C: Command>(reply: Reply) -> Result<C::Ok, CallError> {
    let value = reply.map_err(CallError::Refused)?;
    C::Ok::decode(value, Unknown::Ignore).map_err(CallError::Answer)
}

/// What a message answers; `None` if it is no reply.
pub(super) fn take_reply(mut object: Object) -> Option<Reply> {
    if let Some(value) = object.remove("return") {
        return Some(Ok(value));
    }
    let error = object.remove("error")?;
    let text = |name| error.get(name).and_then(Value::as_str);
    let (class, desc) = (text("class")?, text("desc")?);
    Some(Err(Error::new(ErrorClass::from_name(class), desc)))
}

impl CallError {
    /// What the server said, if it did.
    pub fn refusal(&self) -> Option<&Error> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Answer(_) | Self::NotAReply | Self::Connection(_) => None,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Answer(invalid) => write!(f, "answer does not fit the schema: {invalid}"),
            Self::NotAReply => f.write_str("message is not a reply"),
            Self::Connection(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {}

impl From<ConnectionError> for CallError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}
