/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `enum_names.json`.
    mod enum_names {
        use super::super::runtime;

        /// `E`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum E {
            /// `l1_grow.alloc`.
            L1GrowAlloc,
            /// `2fast`.
            _2fast,
            /// `with space`.
            WithSpace,
            /// `in`.
            In,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl E {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[
                Self::L1GrowAlloc,
                Self::_2fast,
                Self::WithSpace,
                Self::In,
            ];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::L1GrowAlloc => "l1_grow.alloc",
                    Self::_2fast => "2fast",
                    Self::WithSpace => "with space",
                    Self::In => "in",
                    Self::Other(name) => name,
                }
            }
        }

        impl std::fmt::Display for E {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for E {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for E {
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

        /// `Old`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Old {
            /// `e`.
            pub e: E,
        }

        impl Old {
            /// One with its required members alone.
            pub fn new(e: E) -> Self {
                Self { e }
            }
        }

        impl std::fmt::Debug for Old {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Old", self, f)
            }
        }

        impl runtime::Fields for Old {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { e: members.req("e")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("e", &self.e);
            }
        }
    }

    pub use self::enum_names::*;
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
