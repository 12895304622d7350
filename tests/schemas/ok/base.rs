/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `base.json`.
    mod base {
        use super::super::runtime;

        /// `A`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct A {
            /// `a`.
            pub a: i64,
        }

        impl A {
            /// One with its required members alone.
            pub fn new(a: i64) -> Self {
                Self { a }
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

        /// `B`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct B {
            /// `a`.
            pub a: i64,
            /// `b`.
            pub b: Box<C>,
        }

        impl B {
            /// One with its required members alone.
            pub fn new(a: i64, b: impl Into<Box<C>>) -> Self {
                Self { a, b: b.into() }
            }
        }

        impl std::fmt::Debug for B {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("B", self, f)
            }
        }

        impl runtime::Fields for B {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (a, b) = members.take(["a", "b"])?;
                Ok(Self { a, b })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
                object.put("b", &self.b);
            }
        }

        /// `C`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct C {
            /// `a`.
            pub a: i64,
            /// `b`.
            pub b: Box<C>,
        }

        impl C {
            /// One with its required members alone.
            pub fn new(a: i64, b: impl Into<Box<C>>) -> Self {
                Self { a, b: b.into() }
            }
        }

        impl std::fmt::Debug for C {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("C", self, f)
            }
        }

        impl runtime::Fields for C {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (a, b) = members.take(["a", "b"])?;
                Ok(Self { a, b })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
                object.put("b", &self.b);
            }
        }
    }

    pub use self::base::*;
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
