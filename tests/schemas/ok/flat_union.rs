/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `flat_union.json`.
    mod flat_union {
        use super::super::runtime;

        /// `K`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum K {
            /// `a`.
            A,
            /// `b`.
            B,
            /// `none`.
            None,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl K {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[Self::A, Self::B, Self::None];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::A => "a",
                    Self::B => "b",
                    Self::None => "none",
                    Self::Other(name) => name,
                }
            }
        }

        impl std::fmt::Display for K {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for K {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for K {
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

        /// `Base`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Base {
            /// `x`.
            pub x: Option<i64>,
            /// `kind`.
            pub kind: K,
        }

        impl Base {
            /// One with its required members alone.
            pub fn new(kind: K) -> Self {
                Self { kind, x: None }
            }

            /// Sets `x`.
            #[must_use]
            pub fn x(mut self, value: i64) -> Self {
                self.x = Some(value);
                self
            }
        }

        impl std::fmt::Debug for Base {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Base", self, f)
            }
        }

        impl runtime::Fields for Base {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (x, kind) = members.take(["x", "kind"])?;
                Ok(Self { x, kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put_opt("x", &self.x);
                object.put("kind", &self.kind);
            }
        }

        /// `A`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct A {
            /// `a`.
            pub a: String,
        }

        impl A {
            /// One with its required members alone.
            pub fn new(a: impl Into<String>) -> Self {
                Self { a: a.into() }
            }
        }

        impl std::fmt::Debug for A {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("A", self, f)
            }
        }

        impl runtime::Fields for A {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }

        /// `U`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct U {
            /// `x`.
            pub x: Option<i64>,
            /// `kind`.
            pub kind: UBranch,
        }

        impl U {
            /// One with its required members alone.
            pub fn new(kind: UBranch) -> Self {
                Self { kind, x: None }
            }

            /// Sets `x`.
            #[must_use]
            pub fn x(mut self, value: i64) -> Self {
                self.x = Some(value);
                self
            }
        }

        impl U {
            /// The value of `kind`.
            pub fn kind(&self) -> K {
                self.kind.kind()
            }
        }

        impl std::fmt::Debug for U {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("U", self, f)
            }
        }

        impl runtime::Fields for U {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (x, kind) = members.take(["x", "kind"])?;
                let kind = UBranch::take(kind, members)?;
                Ok(Self { x, kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put_opt("x", &self.x);
                object.put("kind", &self.kind.kind());
                self.kind.put(object);
            }
        }

        /// What `U` holds besides its base, by `kind`.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum UBranch {
            /// `a`.
            A(A),
            /// `b`.
            B(A),
            /// `none`.
            None,
            /// One that the schema does not have.
            Other {
                /// The value of the discriminator.
                tag: String,
                /// The members that are not the base's.
                members: runtime::Object,
            },
        }

        impl UBranch {
            /// The value of `kind`.
            pub fn kind(&self) -> K {
                match self {
                    Self::A(_) => K::A,
                    Self::B(_) => K::B,
                    Self::None => K::None,
                    Self::Other { tag, .. } => K::Other(tag.clone()),
                }
            }

            fn take(tag: K, members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                match tag {
                    K::A => members.branch(Self::A),
                    K::B => members.branch(Self::B),
                    K::None => Ok(Self::None),
                    K::Other(tag) => {
                        let members = runtime::Fields::take(members)?;
                        Ok(Self::Other { tag, members })
                    },
                }
            }

            fn put(&self, object: &mut runtime::Object) {
                match self {
                    Self::A(branch) => runtime::Fields::put(branch, object),
                    Self::B(branch) => runtime::Fields::put(branch, object),
                    Self::None => {},
                    Self::Other { members, .. } => runtime::Fields::put(members, object),
                }
            }
        }
    }

    pub use self::flat_union::*;
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
