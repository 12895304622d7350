/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `flat_union.json`.
pub(crate) mod flat_union {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, UnknownName, Value, Wire, read_fields,
        read_name, encode_fields, find_name,
    };
    use super::super::super::types;
    /// `K`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum K {
        /// `a`.
        A,
        /// `b`.
        B,
        /// `none`.
        None,
    }
    impl K {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[Self::A, Self::B, Self::None];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {
                Self::A => "a",
                Self::B => "b",
                Self::None => "none",
            }
        }
    }
    impl std::fmt::Display for K {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for K {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for K {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
    /// `Base`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Base {
        /// `x`.
        pub x: Option<i64>,
        /// `kind`.
        pub kind: types::K,
    }
    impl Base {
        /// One with no optional member.
        pub fn new(kind: types::K) -> Self {
            Self { x: None, kind }
        }
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
            Ok(Self {
                x: members.opt("x")?,
                kind: members.req("kind")?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put_opt("x", &self.x);
            object.put("kind", &self.kind);
        }
    }
    /// `A`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct A {
        /// `a`.
        pub a: String,
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
            Ok(Self { a: members.req("a")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("a", &self.a);
        }
    }
    /// `U`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct U {
        /// `x`.
        pub x: Option<i64>,
        /// `kind`.
        pub kind: UBranch,
    }
    impl U {
        /// One with no optional member of the base.
        pub fn new(kind: UBranch) -> Self {
            Self { x: None, kind }
        }
        /// The value of `kind`.
        pub fn kind(&self) -> types::K {
            self.kind.kind()
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
            let x = members.opt("x")?;
            let kind: types::K = members.req("kind")?;
            let kind = UBranch::take(kind, members)?;
            Ok(Self { x, kind })
        }
        fn put(&self, object: &mut Object) {
            object.put_opt("x", &self.x);
            object.put("kind", &self.kind.kind());
            self.kind.put(object);
        }
    }
    /// What `U` holds besides its base, by `kind`.
    #[derive(Debug, Clone, PartialEq)]
    pub enum UBranch {
        /// `a`.
        A(types::A),
        /// `b`.
        B(types::A),
        /// `none`.
        None,
    }
    impl UBranch {
        /// The value of `kind`.
        pub fn kind(&self) -> types::K {
            match self {
                Self::A(_) => types::K::A,
                Self::B(_) => types::K::B,
                Self::None => types::K::None,
            }
        }
        fn take(tag: types::K, members: &mut Members) -> Result<Self, Invalid> {
            match tag {
                types::K::A => members.branch(Self::A),
                types::K::B => members.branch(Self::B),
                types::K::None => Ok(Self::None),
            }
        }
        fn put(&self, object: &mut Object) {
            match self {
                Self::A(branch) => branch.put(object),
                Self::B(branch) => branch.put(object),
                Self::None => {}
            }
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
    pub use super::modules::flat_union::types::*;
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
