/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `event.json`.
    mod event {
        use super::super::runtime;

        /// `S`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct S {
            /// `a`.
            pub a: i64,
        }

        impl S {
            /// One with its required members alone.
            pub fn new(a: i64) -> Self {
                Self { a }
            }
        }

        impl std::fmt::Debug for S {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("S", self, f)
            }
        }

        impl runtime::Fields for S {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }
    }

    pub use self::event::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
    /// From `event.json`.
    mod event {
        use super::super::runtime;
        use super::super::types;

        /// `PLAIN`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Plain {}

        impl Plain {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Plain {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Plain", self, f)
            }
        }

        impl runtime::Fields for Plain {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }

        /// `WITH_DATA`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct WithData {
            /// `a`.
            pub a: String,
        }

        impl WithData {
            /// One with its required members alone.
            pub fn new(a: impl Into<String>) -> Self {
                Self { a: a.into() }
            }
        }

        impl std::fmt::Debug for WithData {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("WithData", self, f)
            }
        }

        impl runtime::Fields for WithData {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }

        /// `BY_TYPE`.
        #[derive(Clone, PartialEq)]
        pub struct ByType(
            /// Its members.
            pub types::S,
        );

        impl std::fmt::Debug for ByType {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("ByType", self, f)
            }
        }

        impl runtime::Fields for ByType {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                runtime::Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.0, object);
            }
        }
    }

    pub use self::event::*;
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
{"name": "PLAIN", "meta-type": "event", "arg-type": "0"},
{"name": "WITH_DATA", "meta-type": "event", "arg-type": "1"},
{"name": "BY_TYPE", "meta-type": "event", "arg-type": "2"},
{"name": "0", "meta-type": "object", "members": []},
{"name": "1", "meta-type": "object", "members": [{"name": "a", "type": "str"}]},
{"name": "2", "meta-type": "object", "members": [{"name": "a", "type": "int"}]},
{"name": "str", "meta-type": "builtin", "json-type": "string"},
{"name": "int", "meta-type": "builtin", "json-type": "int"}
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
    use super::events;

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

    /// Any event of the schema.
    #[derive(Clone, PartialEq)]
    #[non_exhaustive]
    pub enum Event {
        /// `PLAIN`.
        Plain(events::Plain),
        /// `WITH_DATA`.
        WithData(events::WithData),
        /// `BY_TYPE`.
        ByType(events::ByType),
    }

    impl Event {
        /// Names of all events, in schema order.
        pub const NAMES: &'static [&'static str] = &["PLAIN", "WITH_DATA", "BY_TYPE"];

        /// Its name on the wire.
        pub fn name(&self) -> &'static str {
            match *self {
                Self::Plain(_) => "PLAIN",
                Self::WithData(_) => "WITH_DATA",
                Self::ByType(_) => "BY_TYPE",
            }
        }

        /// What it carries.
        pub fn data(&self) -> runtime::Object {
            use runtime::Fields as _;
            let mut object = runtime::Object::new();
            match *self {
                Self::Plain(ref data) => data.put(&mut object),
                Self::WithData(ref data) => data.put(&mut object),
                Self::ByType(ref data) => data.put(&mut object),
            }
            object
        }

        /// The message that tells clients, for something that happened at `at`.
        pub fn to_value(&self, at: runtime::Timestamp) -> runtime::Value {
            at.event(self.name(), self.data())
        }

        /// Reads event `name` with `data`; `None` for one that the schema does not have.
        ///
        /// # Errors
        /// When the data does not fit the schema. Members it does not have are skipped.
        pub fn decode(name: &str, data: runtime::Object) -> Result<Option<Self>, runtime::Invalid> {
            use runtime::Wire as _;
            let data = runtime::Value::Object(data);
            let unknown = runtime::Unknown::Ignore;
            Ok(Some(match name {
                "PLAIN" => Self::Plain(events::Plain::decode(data, unknown)?),
                "WITH_DATA" => Self::WithData(events::WithData::decode(data, unknown)?),
                "BY_TYPE" => Self::ByType(events::ByType::decode(data, unknown)?),
                _ => return Ok(None),
            }))
        }
    }

    impl std::fmt::Debug for Event {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            runtime::debug_object(self.name(), &self.data(), f)
        }
    }

    impl runtime::Events for Event {
        fn decode(name: &str, data: runtime::Object) -> Result<Option<Self>, runtime::Invalid> {
            Self::decode(name, data)
        }
    }

    impl From<events::Plain> for Event {
        fn from(data: events::Plain) -> Self {
            Self::Plain(data)
        }
    }

    impl From<events::WithData> for Event {
        fn from(data: events::WithData) -> Self {
            Self::WithData(data)
        }
    }

    impl From<events::ByType> for Event {
        fn from(data: events::ByType) -> Self {
            Self::ByType(data)
        }
    }
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
