/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `docs.json`.
pub(crate) mod docs {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, UnknownName, Value, Wire, read_fields,
        read_name, encode_fields, find_name,
    };
    /// First paragraph
    /// goes on.
    ///
    /// Second.
    ///
    /// Since: 1.0.
    #[derive(Debug, Clone, PartialEq)]
    pub struct A {
        /// About x
        /// goes on.
        pub x: i64,
        /// About y.
        pub y: i64,
    }
    impl Wire for A {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for A {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self {
                x: members.req("x")?,
                y: members.req("y")?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put("x", &self.x);
            object.put("y", &self.y);
        }
    }
    /// `B`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum B {}
    impl B {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {}
        }
    }
    impl std::fmt::Display for B {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for B {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for B {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
    /// `C`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum C {}
    impl C {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {}
        }
    }
    impl std::fmt::Display for C {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for C {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for C {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
}
}
}
/// The schema as `query-qmp-schema` tells it.
pub mod introspect {
use super::runtime::{Error, Value};
/// The schema, as JSON text.
pub const JSON: &str = r####"[
]"####;
/// The schema, as a value: an array of `SchemaInfo`.
///
/// # Errors
/// None: the text is JSON.
pub fn value() -> Result<Value, Error> {
    Value::from_json(JSON)
}
/// What the schema's documentation says: the name of an entry of [`value`], the name
/// of its member or value, or nothing for the entry itself, and the text.
pub const DOCS: &[(&str, &str, &str)] = &[];
}
use crate::runtime as runtime;
/// Every type of the schema.
pub mod types {
    pub use super::modules::docs::types::*;
}
/// Every command of the schema: its arguments, as a type.
pub mod commands {}
/// Every event of the schema: its data, as a type.
pub mod events {}
/// Every command.
pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[]);
/// What a server does, a trait for each schema file.
pub mod server {}
/// What a server does for every command.
pub trait Server {}
impl<T> Server for T {}
/// Checks the arguments of `command`, runs it on `server`, and gives its answer.
///
/// # Errors
/// That of the command, of its arguments, or that there is none of this name.
pub async fn dispatch<S: Server>(
    server: &S,
    command: &str,
    arguments: runtime::Object,
) -> Result<runtime::Value, runtime::Error> {
    let _ = (server, arguments);
    match COMMANDS.number(command)? {
        _ => Err(runtime::not_found(command)),
    }
}
/// Answers a message, or what was wrong with it; `None` where nothing is to be
/// answered. Commands that came out of band run like the others.
pub async fn answer<S: Server>(
    server: &S,
    session: runtime::Session,
    message: Result<runtime::Value, runtime::Error>,
) -> Option<runtime::Value> {
    match runtime::Request::read(message, session, COMMANDS) {
        Err(refusal) => Some(refusal.into_reply()),
        Ok(request) => {
            let runtime::Request { id, command, arguments, .. } = request;
            let result = dispatch(server, command.name, arguments).await;
            command.reply(id, result)
        }
    }
}
