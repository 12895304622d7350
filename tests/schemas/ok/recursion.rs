/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `recursion.json`.
pub(crate) mod recursion {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, Value, Wire, read_fields,
        encode_fields,
    };
    use super::super::super::types;
    /// `A`.
    #[derive(Debug, Clone, PartialEq, Default)]
    pub struct A {
        /// `b`.
        pub b: Option<Box<types::B>>,
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
            Ok(Self { b: members.opt("b")? })
        }
        fn put(&self, object: &mut Object) {
            object.put_opt("b", &self.b);
        }
    }
    /// `B`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct B {
        /// `a`.
        pub a: types::A,
        /// `l`.
        pub l: Vec<types::B>,
    }
    impl Wire for B {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for B {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self {
                a: members.req("a")?,
                l: members.req("l")?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put("a", &self.a);
            object.put("l", &self.l);
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
    pub use super::modules::recursion::types::*;
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
