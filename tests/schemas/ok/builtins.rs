/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `builtins.json`.
    mod builtins {
        use super::super::runtime;

        /// `All`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct All {
            /// `s`.
            pub s: String,
            /// `i`.
            pub i: i64,
            /// `n`.
            pub n: f64,
            /// `b`.
            pub b: bool,
            /// `i8`.
            pub i8: i8,
            /// `i16`.
            pub i16: i16,
            /// `i32`.
            pub i32: i32,
            /// `i64`.
            pub i64: i64,
            /// `u8`.
            pub u8: u8,
            /// `u16`.
            pub u16: u16,
            /// `u32`.
            pub u32: u32,
            /// `u64`.
            pub u64: u64,
            /// `z`.
            pub z: u64,
            /// `o`.
            pub o: Option<String>,
            /// `l`.
            pub l: Vec<i64>,
        }

        impl All {
            /// One with its required members alone.
            pub fn new(
                s: impl Into<String>,
                i: i64,
                n: f64,
                b: bool,
                i8: i8,
                i16: i16,
                i32: i32,
                i64: i64,
                u8: u8,
                u16: u16,
                u32: u32,
                u64: u64,
                z: u64,
                l: Vec<i64>,
            ) -> Self {
                Self { s: s.into(), i, n, b, i8, i16, i32, i64, u8, u16, u32, u64, z, l, o: None }
            }

            /// Sets `o`.
            #[must_use]
            pub fn o(mut self, value: impl Into<String>) -> Self {
                self.o = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for All {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("All", self, f)
            }
        }

        impl runtime::Fields for All {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (s, i, n, b, i8, i16) = members.take(["s", "i", "n", "b", "i8", "i16"])?;
                let (i32, i64, u8, u16, u32, u64) = members.take([
                    "i32",
                    "i64",
                    "u8",
                    "u16",
                    "u32",
                    "u64",
                ])?;
                let (z, o, l) = members.take(["z", "o", "l"])?;
                Ok(Self { s, i, n, b, i8, i16, i32, i64, u8, u16, u32, u64, z, o, l })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("s", &self.s);
                object.put("i", &self.i);
                object.put("n", &self.n);
                object.put("b", &self.b);
                object.put("i8", &self.i8);
                object.put("i16", &self.i16);
                object.put("i32", &self.i32);
                object.put("i64", &self.i64);
                object.put("u8", &self.u8);
                object.put("u16", &self.u16);
                object.put("u32", &self.u32);
                object.put("u64", &self.u64);
                object.put("z", &self.z);
                object.put_opt("o", &self.o);
                object.put("l", &self.l);
            }
        }
    }

    pub use self::builtins::*;
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
