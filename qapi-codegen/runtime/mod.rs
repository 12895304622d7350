//! What generated code needs at run time: JSON values, checked conversions, the QMP envelope.
//! Emitted next to the generated code, so that it depends on no crate of the generator.
//! Invariant: nothing here panics or allocates by a length that came from outside.
//! Not here: a server's sockets, queues and sessions.

mod call;
mod client;
mod connection;
mod convert;
mod error;
mod event;
mod json;
mod request;
mod value;
mod write;

pub use call::{CallError, Command, OutOfBand, Reply, decode_answer, decode_reply};
pub use client::{Call, Client};
pub use connection::{CallId, Connection, ConnectionError, Greeting, MAX_EVENTS};
pub use convert::{
    Context, Fields, Invalid, Member, Members, Null, Several, Unknown, UnknownName, Wire, debug,
    debug_object, find_name, find_open_name, read_name, read_open_name,
};
pub use error::{Error, ErrorClass};
pub use event::{Events, RawEvent, Received, Timestamp};
pub use json::JsonStream;
pub use request::{
    CommandSpec, Commands, Refusal, Request, Session, already_negotiated, no_oob, not_built_in,
    not_found, reply, run,
};
pub use value::{Object, Value};
