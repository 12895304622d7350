/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `simple_union.json`.
pub(crate) mod simple_union {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, UnknownName, Value, Wire, read_fields,
        read_name, encode_fields, find_name,
    };
    use super::super::super::types;
    /// `Base`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Base {
        /// `x`.
        pub x: i64,
    }
    impl Wire for Base {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for Base {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self { x: members.req("x")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("x", &self.x);
        }
    }
    /// `U`.
    #[derive(Debug, Clone, PartialEq)]
    pub enum U {
        /// `a`.
        A(String),
        /// `b`.
        B(Vec<i64>),
        /// `c`.
        C(types::Base),
    }
    impl U {
        /// Which branch it is.
        pub fn kind(&self) -> UKind {
            match self {
                Self::A(_) => UKind::A,
                Self::B(_) => UKind::B,
                Self::C(_) => UKind::C,
            }
        }
    }
    impl Wire for U {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for U {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(
                match members.req("type")? {
                    UKind::A => Self::A(members.req("data")?),
                    UKind::B => Self::B(members.req("data")?),
                    UKind::C => Self::C(members.req("data")?),
                },
            )
        }
        fn put(&self, object: &mut Object) {
            object.put("type", &self.kind());
            match self {
                Self::A(data) => object.put("data", data),
                Self::B(data) => object.put("data", data),
                Self::C(data) => object.put("data", data),
            }
        }
    }
    /// Which branch `U` holds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum UKind {
        /// `a`.
        A,
        /// `b`.
        B,
        /// `c`.
        C,
    }
    impl UKind {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[Self::A, Self::B, Self::C];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {
                Self::A => "a",
                Self::B => "b",
                Self::C => "c",
            }
        }
    }
    impl std::fmt::Display for UKind {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for UKind {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for UKind {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
    /// `V`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct V {
        /// `x`.
        pub x: i64,
        /// Its branch.
        pub data: VBranch,
    }
    impl Wire for V {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for V {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self {
                x: members.req("x")?,
                data: Fields::take(members)?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put("x", &self.x);
            self.data.put(object);
        }
    }
    /// What `V` holds besides its base.
    #[derive(Debug, Clone, PartialEq)]
    pub enum VBranch {
        /// `a`.
        A(String),
    }
    impl VBranch {
        /// Which branch it is.
        pub fn kind(&self) -> VKind {
            match self {
                Self::A(_) => VKind::A,
            }
        }
    }
    impl Wire for VBranch {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for VBranch {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(
                match members.req("type")? {
                    VKind::A => Self::A(members.req("data")?),
                },
            )
        }
        fn put(&self, object: &mut Object) {
            object.put("type", &self.kind());
            match self {
                Self::A(data) => object.put("data", data),
            }
        }
    }
    /// Which branch `V` holds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum VKind {
        /// `a`.
        A,
    }
    impl VKind {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[Self::A];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {
                Self::A => "a",
            }
        }
    }
    impl std::fmt::Display for VKind {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for VKind {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for VKind {
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
    pub use super::modules::simple_union::types::*;
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
