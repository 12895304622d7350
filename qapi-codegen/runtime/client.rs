//! The client's side of a command: request out, typed answer in.
//! Not here: transport, and which reply belongs to which request.

use std::fmt;

use super::convert::{Fields, Invalid, Unknown, Wire};
use super::error::{Error, ErrorClass};
use super::value::{Object, Value};

/// A command with its arguments. One type a command implements it.
pub trait Command: Fields {
    /// Name on the wire.
    const NAME: &'static str;
    /// Whether it may be run out of band.
    const ALLOW_OOB: bool;
    /// What it answers.
    type Ok: Wire;

    /// The message that asks for it.
    fn request(&self, id: Option<Value>) -> Value {
        let mut arguments = Object::new();
        self.put(&mut arguments);
        let mut object = Object::new();
        object.insert("execute", Self::NAME);
        if !arguments.is_empty() {
            object.insert("arguments", arguments);
        }
        if let Some(id) = id {
            object.insert("id", id);
        }
        Value::Object(object)
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server says so.
    Refused(Error),
    /// The server's answer does not fit the schema.
    Answer(Invalid),
    /// The message is not a reply.
    NotAReply,
}

/// Reads the reply to command `C`.
///
/// # Errors
/// The server's error, or what is wrong with the reply.
pub fn decode_reply<C: Command>(reply: Value) -> Result<C::Ok, CallError> {
    let Value::Object(mut object) = reply else {
        return Err(CallError::NotAReply);
    };
    if let Some(value) = object.remove("return") {
        return C::Ok::decode(value, Unknown::Ignore).map_err(CallError::Answer);
    }
    let error = object.remove("error").ok_or(CallError::NotAReply)?;
    let text = |name| error.get(name).and_then(Value::as_str);
    match (text("class"), text("desc")) {
        (Some(class), Some(desc)) => Err(CallError::Refused(Error::new(
            ErrorClass::from_name(class),
            desc,
        ))),
        _ => Err(CallError::NotAReply),
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Answer(invalid) => write!(f, "answer does not fit the schema: {invalid}"),
            Self::NotAReply => f.write_str("message is not a reply"),
        }
    }
}

impl std::error::Error for CallError {}
