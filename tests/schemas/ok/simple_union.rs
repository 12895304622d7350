/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `simple_union.json`.
    mod simple_union {
        use super::super::runtime;

        /// `Base`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Base {
            /// `x`.
            pub x: i64,
        }

        impl Base {
            /// One with its required members alone.
            pub fn new(x: i64) -> Self {
                Self { x }
            }
        }

        impl std::fmt::Debug for Base {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Base", self, f)
            }
        }

        impl runtime::Fields for Base {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { x: members.req("x")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("x", &self.x);
            }
        }

        /// `U`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub enum U {
            /// `a`.
            A(String),
            /// `b`.
            B(Vec<i64>),
            /// `c`.
            C(Base),
            /// One that the schema does not have.
            Other {
                /// The value of `type`.
                tag: String,
                /// The value of `data`.
                data: runtime::Value,
            },
        }

        impl U {
            /// Which branch it is.
            pub fn kind(&self) -> UKind {
                match self {
                    Self::A(_) => UKind::A,
                    Self::B(_) => UKind::B,
                    Self::C(_) => UKind::C,
                    Self::Other { tag, .. } => UKind::Other(tag.clone()),
                }
            }
        }

        impl std::fmt::Debug for U {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("U", self, f)
            }
        }

        impl runtime::Fields for U {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(match members.req("type")? {
                    UKind::A => Self::A(members.req("data")?),
                    UKind::B => Self::B(members.req("data")?),
                    UKind::C => Self::C(members.req("data")?),
                    UKind::Other(tag) => Self::Other { tag, data: members.req("data")? },
                })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("type", &self.kind());
                match self {
                    Self::A(data) => object.put("data", data),
                    Self::B(data) => object.put("data", data),
                    Self::C(data) => object.put("data", data),
                    Self::Other { data, .. } => object.put("data", data),
                }
            }
        }

        /// Which branch `U` holds.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum UKind {
            /// `a`.
            A,
            /// `b`.
            B,
            /// `c`.
            C,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl UKind {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[Self::A, Self::B, Self::C];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::A => "a",
                    Self::B => "b",
                    Self::C => "c",
                    Self::Other(name) => name,
                }
            }
        }

        impl std::fmt::Display for UKind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for UKind {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for UKind {
            fn read(
                value: runtime::Value,
                context: runtime::Context,
            ) -> Result<Self, runtime::Invalid> {
                runtime::read_open_name(value, context, Self::VARIANTS, Self::as_str, Self::Other)
            }

            fn encode(&self) -> runtime::Value {
                runtime::Value::from(self.as_str())
            }
        }

        /// `V`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct V {
            /// `x`.
            pub x: i64,
            /// Its branch.
            pub data: VBranch,
        }

        impl V {
            /// One with its required members alone.
            pub fn new(x: i64, data: VBranch) -> Self {
                Self { x, data }
            }
        }

        impl std::fmt::Debug for V {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("V", self, f)
            }
        }

        impl runtime::Fields for V {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let x = members.req("x")?;
                Ok(Self { x, data: runtime::Fields::take(members)? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("x", &self.x);
                runtime::Fields::put(&self.data, object);
            }
        }

        /// What `V` holds besides its base.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub enum VBranch {
            /// `a`.
            A(String),
            /// One that the schema does not have.
            Other {
                /// The value of `type`.
                tag: String,
                /// The value of `data`.
                data: runtime::Value,
            },
        }

        impl VBranch {
            /// Which branch it is.
            pub fn kind(&self) -> VKind {
                match self {
                    Self::A(_) => VKind::A,
                    Self::Other { tag, .. } => VKind::Other(tag.clone()),
                }
            }
        }

        impl std::fmt::Debug for VBranch {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("VBranch", self, f)
            }
        }

        impl runtime::Fields for VBranch {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(match members.req("type")? {
                    VKind::A => Self::A(members.req("data")?),
                    VKind::Other(tag) => Self::Other { tag, data: members.req("data")? },
                })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("type", &self.kind());
                match self {
                    Self::A(data) => object.put("data", data),
                    Self::Other { data, .. } => object.put("data", data),
                }
            }
        }

        /// Which branch `V` holds.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum VKind {
            /// `a`.
            A,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl VKind {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[Self::A];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::A => "a",
                    Self::Other(name) => name,
                }
            }
        }

        impl std::fmt::Display for VKind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for VKind {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for VKind {
            fn read(
                value: runtime::Value,
                context: runtime::Context,
            ) -> Result<Self, runtime::Invalid> {
                runtime::read_open_name(value, context, Self::VARIANTS, Self::as_str, Self::Other)
            }

            fn encode(&self) -> runtime::Value {
                runtime::Value::from(self.as_str())
            }
        }
    }

    pub use self::simple_union::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
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

/// The schema as a whole: server, events, names.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub(crate) mod interface {
    use super::runtime;

    /// Every command.
    pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[]);

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
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
