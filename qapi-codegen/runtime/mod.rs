//! What generated code needs at run time: JSON values, checked conversions, the QMP envelope.
//! Emitted next to the generated code, so that it depends on no crate of the generator.
//! Invariant: nothing here panics or allocates by a length that came from outside.
//! Not here: sockets, queues and the state of a session.

mod client;
mod convert;
mod error;
mod json;
mod request;
mod value;
mod write;

pub use client::{CallError, Command, decode_reply};
pub use convert::{
    Context, Fields, Invalid, Members, Null, Unknown, UnknownName, Wire, encode_fields, find_name,
    read_fields, read_name,
};
pub use error::{Error, ErrorClass};
pub use json::JsonStream;
pub use request::{CommandSpec, Refusal, Request, Session, Timestamp, not_built_in, reply};
pub use value::{Object, Value};
