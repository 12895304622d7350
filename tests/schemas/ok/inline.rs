/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `inline.json`.
    mod inline {
        use super::super::runtime;

        /// `V-q-deep`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct VQDeep {
            /// `x`.
            pub x: String,
        }

        impl VQDeep {
            /// One with its required members alone.
            pub fn new(x: impl Into<String>) -> Self {
                Self { x: x.into() }
            }
        }

        impl std::fmt::Debug for VQDeep {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("VQDeep", self, f)
            }
        }

        impl runtime::Fields for VQDeep {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { x: members.req("x")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("x", &self.x);
            }
        }

        /// `V-q`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct VQ {
            /// `major`.
            pub major: i64,
            /// `deep`.
            pub deep: Option<VQDeep>,
        }

        impl VQ {
            /// One with its required members alone.
            pub fn new(major: i64) -> Self {
                Self { major, deep: None }
            }

            /// Sets `deep`.
            #[must_use]
            pub fn deep(mut self, value: VQDeep) -> Self {
                self.deep = Some(value);
                self
            }
        }

        impl std::fmt::Debug for VQ {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("VQ", self, f)
            }
        }

        impl runtime::Fields for VQ {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (major, deep) = members.take(["major", "deep"])?;
                Ok(Self { major, deep })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("major", &self.major);
                object.put_opt("deep", &self.deep);
            }
        }

        /// `V`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct V {
            /// `q`.
            pub q: VQ,
            /// `p`.
            pub p: String,
        }

        impl V {
            /// One with its required members alone.
            pub fn new(q: VQ, p: impl Into<String>) -> Self {
                Self { q, p: p.into() }
            }
        }

        impl std::fmt::Debug for V {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("V", self, f)
            }
        }

        impl runtime::Fields for V {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (q, p) = members.take(["q", "p"])?;
                Ok(Self { q, p })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("q", &self.q);
                object.put("p", &self.p);
            }
        }

        /// `c-a`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct CA {
            /// `b`.
            pub b: i64,
        }

        impl CA {
            /// One with its required members alone.
            pub fn new(b: i64) -> Self {
                Self { b }
            }
        }

        impl std::fmt::Debug for CA {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("CA", self, f)
            }
        }

        impl runtime::Fields for CA {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { b: members.req("b")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("b", &self.b);
            }
        }

        /// `E-a`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct EA {
            /// `b`.
            pub b: i64,
        }

        impl EA {
            /// One with its required members alone.
            pub fn new(b: i64) -> Self {
                Self { b }
            }
        }

        impl std::fmt::Debug for EA {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("EA", self, f)
            }
        }

        impl runtime::Fields for EA {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { b: members.req("b")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("b", &self.b);
            }
        }
    }

    pub use self::inline::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `inline.json`.
    mod inline {
        use super::super::runtime;
        use super::super::types;

        /// `c`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct C {
            /// `a`.
            pub a: types::CA,
        }

        impl C {
            /// One with its required members alone.
            pub fn new(a: types::CA) -> Self {
                Self { a }
            }
        }

        impl std::fmt::Debug for C {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("C", self, f)
            }
        }

        impl runtime::Fields for C {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }

        impl runtime::Command for C {
            const NAME: &'static str = "c";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }
    }

    pub use self::inline::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
    /// From `inline.json`.
    mod inline {
        use super::super::runtime;
        use super::super::types;

        /// `E`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct E {
            /// `a`.
            pub a: types::EA,
        }

        impl E {
            /// One with its required members alone.
            pub fn new(a: types::EA) -> Self {
                Self { a }
            }
        }

        impl std::fmt::Debug for E {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("E", self, f)
            }
        }

        impl runtime::Fields for E {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }
    }

    pub use self::inline::*;
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `inline.json`.
    mod inline {
        use super::super::runtime;
        use super::super::commands;

        /// What a server does for the commands of `inline.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait Inline {
            /// `c`.
            fn c(
                &self,
                arguments: commands::C,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("c")))
            }
        }
    }

    pub use self::inline::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    /// The schema, as JSON text.
    pub const JSON: &str = r####"[
{"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
{"name": "E", "meta-type": "event", "arg-type": "2"},
{"name": "0", "meta-type": "object", "members": [{"name": "a", "type": "3"}]},
{"name": "1", "meta-type": "object", "members": []},
{"name": "2", "meta-type": "object", "members": [{"name": "a", "type": "4"}]},
{"name": "3", "meta-type": "object", "members": [{"name": "b", "type": "int"}]},
{"name": "4", "meta-type": "object", "members": [{"name": "b", "type": "int"}]},
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
    use super::server;

    /// Every command.
    pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[
        runtime::CommandSpec::new(0, "c"),
    ]);

    /// What a server does for every command.
    pub trait Server: server::Inline {}

    impl<T: server::Inline> Server for T {}

    /// Checks the arguments of `command`, runs it on `server`, and gives its answer.
    ///
    /// # Errors
    /// That of the command, of its arguments, or that there is none of this name.
    pub async fn dispatch<S: Server>(
        server: &S,
        command: &str,
        arguments: runtime::Object,
    ) -> Result<runtime::Value, runtime::Error> {
        match COMMANDS.number(command)? {
            0 => runtime::run(server, arguments, server::Inline::c).await,
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
        /// `E`.
        E(events::E),
    }

    impl Event {
        /// Names of all events, in schema order.
        pub const NAMES: &'static [&'static str] = &["E"];

        /// Its name on the wire.
        pub fn name(&self) -> &'static str {
            match *self {
                Self::E(_) => "E",
            }
        }

        /// What it carries.
        pub fn data(&self) -> runtime::Object {
            use runtime::Fields as _;
            let mut object = runtime::Object::new();
            match *self {
                Self::E(ref data) => data.put(&mut object),
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
                "E" => Self::E(events::E::decode(data, unknown)?),
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

    impl From<events::E> for Event {
        fn from(data: events::E) -> Self {
            Self::E(data)
        }
    }
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
