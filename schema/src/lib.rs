//! QEMU's block layer schema as Rust types: options, commands, events, introspection, and the QMP
//! envelope around them.
//!
//! All of it is generated from `schema.json` and what it includes, with the files of `overlay/`
//! merged in, by `cargo xtask regen`; hand-written impls on generated types are in `ext.rs`.
//!
//! # Types
//! [`types`] has one type a definition of the schema. Optional members are `Option`. An enum has
//! `VARIANTS`, `as_str`, `FromStr` and `Display`. A flat union is a struct of its base's members
//! whose field named like the discriminator holds an enum of the branches:
//! ```
//! use block_schema::types::{BlockdevOptions, BlockdevOptionsBranch, BlockdevRef};
//! use block_schema::{Unknown, Value, Wire};
//!
//! let json = r#"{"driver": "qcow2", "node-name": "disk", "file": "file0"}"#;
//! let options = BlockdevOptions::decode(Value::from_json(json)?, Unknown::Refuse)?;
//! assert_eq!(options.kind().as_str(), "qcow2");
//! match &options.driver {
//!     BlockdevOptionsBranch::Qcow2(qcow2) => {
//!         assert_eq!(qcow2.file, BlockdevRef::Reference("file0".to_owned()));
//!     }
//!     other => panic!("not {other:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! [`Wire::decode`] checks as QEMU does and names the wrong member by its full path;
//! [`Wire::encode`] is the way back. With the feature `serde`, every type also implements
//! `Serialize` and `Deserialize`.
//!
//! # Server
//! Implement the traits of [`server`], one a schema file: a method a command, each with a default
//! that answers "not built in yet". [`Server`] stands for all of them. Arguments come as the
//! command's type in [`commands`]; where the schema's command names a type for its data, the command
//! is a tuple struct around it (`DriveBackup(types::DriveBackup)`). Futures need not be `Send`.
//! Then, for each value that [`JsonStream::feed`] gives:
//! ```
//! use block_schema::{Error, JsonStream, Session, answer, commands, server, types};
//!
//! struct Daemon;
//!
//! impl server::Common for Daemon {
//!     async fn query_version(
//!         &self,
//!         _: commands::QueryVersion,
//!     ) -> Result<types::VersionInfo, Error> {
//!         let qemu = types::VersionInfoQemu { major: 10, minor: 0, micro: 2 };
//!         Ok(types::VersionInfo { qemu, package: "example".to_owned() })
//!     }
//! }
//!
//! impl server::BlockCore for Daemon {}
//! impl server::Control for Daemon {}
//! impl server::Graph for Daemon {}
//! impl server::Jobs for Daemon {}
//! impl server::Objects for Daemon {}
//!
//! async fn replies(daemon: &Daemon, stream: &mut JsonStream, bytes: &[u8]) -> Vec<String> {
//!     let session = Session { negotiated: true, oob: false };
//!     let mut replies = Vec::new();
//!     for message in stream.feed(bytes) {
//!         let reply = answer(daemon, session, message).await;
//!         replies.extend(reply.map(|reply| reply.to_ascii_json()));
//!     }
//!     replies
//! }
//! ```
//! `answer` makes the checks that come before the arguments, in QEMU's order, for what
//! [`Session`] says was negotiated; the session itself sets that after `qmp_capabilities`.
//! [`Request::parse`] and [`dispatch`] are its two halves.
//!
//! # Events
//! [`Event`] has a variant an event; `Event::from(events::BlockJobReady { … })` makes one and
//! [`Event::to_value`] the message, for a [`Timestamp`].
//!
//! # Introspection
//! [`introspect::value`] is the answer to `query-qmp-schema`; [`COMMANDS`] that to
//! `query-commands`.
//!
//! # JSON and the envelope
//! [`runtime`] holds them; its names are re-exported here.
//!
//! # Client
//! [`Client`] speaks QMP over anything that reads and writes:
//! ```no_run
//! use block_schema::{Client, Event, Received, commands};
//!
//! let mut client = Client::connect_unix("qmp.sock")?;
//! let jobs = client.call(commands::QueryBlockJobs {})?;
//! println!("{jobs:?}");
//! // By name, for what the schema does not have.
//! client.execute("x-debug", [("level", 1)].into_iter().collect())?;
//! // Several at once.
//! let nodes = client.submit(&commands::QueryNamedBlockNodes::default());
//! let exports = client.submit(&commands::QueryBlockExports {});
//! println!("{:?} {:?}", client.wait(&nodes)?, client.wait(&exports)?);
//! match client.next_event()?.decode::<Event>()? {
//!     Received::Known { event, timestamp } => println!("{timestamp:?}: {event:?}"),
//!     Received::Unknown { name, data, .. } => println!("{name}: {data:?}"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! [`AsyncClient`] is the same for any executor: over tokio's streams with the feature `tokio`, those
//! of `futures-io` with `futures`, or whatever implements [`Transport`]. With the feature
//! `descriptors`, a client on a Unix socket sends file descriptors along (`Client::call_with`).
//! [`Connection`] is the same without I/O, for callers that have their own. Each command's type
//! implements [`Command`]: [`Command::request`] is the message to send, [`decode_reply`] reads the
//! answer. Members and events that this schema does not know are skipped or kept as they came.
#![forbid(unsafe_code)]

mod ext;
#[rustfmt::skip]
mod generated;

#[cfg(feature = "futures")]
pub use generated::runtime::Futures;
#[cfg(feature = "tokio")]
pub use generated::runtime::Tokio;
pub use generated::runtime::{
    AsyncClient, Call, CallError, Client, Command, CommandSpec, Connection, ConnectionError,
    Context, Error, ErrorClass, Events, Fields, Greeting, Invalid, JsonStream, Members, Null,
    Object, OutOfBand, RawEvent, Received, Refusal, Reply, Request, Session, Timestamp, Transport,
    Unknown, UnknownName, Value, Wire, already_negotiated, decode_reply, not_built_in, reply,
};
pub use generated::{
    COMMANDS, Event, Server, answer, commands, dispatch, events, introspect, runtime, server, types,
};
