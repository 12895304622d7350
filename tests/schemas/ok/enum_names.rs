/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `enum_names.json`.
pub(crate) mod enum_names {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, UnknownName, Value, Wire, read_fields,
        read_name, encode_fields, find_name,
    };
    use super::super::super::types;
    /// `E`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum E {
        /// `l1_grow.alloc`.
        L1GrowAlloc,
        /// `2fast`.
        _2fast,
        /// `with space`.
        WithSpace,
        /// `in`.
        In,
    }
    impl E {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[
            Self::L1GrowAlloc,
            Self::_2fast,
            Self::WithSpace,
            Self::In,
        ];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {
                Self::L1GrowAlloc => "l1_grow.alloc",
                Self::_2fast => "2fast",
                Self::WithSpace => "with space",
                Self::In => "in",
            }
        }
    }
    impl std::fmt::Display for E {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for E {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for E {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
    /// `Old`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Old {
        /// `e`.
        pub e: types::E,
    }
    impl Wire for Old {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for Old {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self { e: members.req("e")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("e", &self.e);
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
    pub use super::modules::enum_names::types::*;
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
