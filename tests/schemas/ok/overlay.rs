/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `overlay.json`.
    mod overlay {
        use super::super::runtime;

        /// Kinds.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum K {
            /// The "first"
            A,
            /// New.
            B,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl K {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[Self::A, Self::B];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::A => "a",
                    Self::B => "b",
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
            /// `kind`.
            pub kind: K,
        }

        impl Base {
            /// One with its required members alone.
            pub fn new(kind: K) -> Self {
                Self { kind }
            }
        }

        impl std::fmt::Debug for Base {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Base", self, f)
            }
        }

        impl runtime::Fields for Base {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { kind: members.req("kind")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("kind", &self.kind);
            }
        }

        /// `A`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct A {
            /// `x`.
            pub x: Option<i64>,
            /// `more`.
            pub more: Option<Vec<String>>,
            /// `deep`.
            pub deep: Option<ADeep>,
        }

        impl A {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self { x: None, more: None, deep: None }
            }

            /// Sets `x`.
            #[must_use]
            pub fn x(mut self, value: i64) -> Self {
                self.x = Some(value);
                self
            }

            /// Sets `more`.
            #[must_use]
            pub fn more(mut self, value: Vec<String>) -> Self {
                self.more = Some(value);
                self
            }

            /// Sets `deep`.
            #[must_use]
            pub fn deep(mut self, value: ADeep) -> Self {
                self.deep = Some(value);
                self
            }
        }

        impl std::fmt::Debug for A {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("A", self, f)
            }
        }

        impl runtime::Fields for A {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (x, more, deep) = members.take(["x", "more", "deep"])?;
                Ok(Self { x, more, deep })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put_opt("x", &self.x);
                object.put_opt("more", &self.more);
                object.put_opt("deep", &self.deep);
            }
        }

        /// `B`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct B {
            /// `y`.
            pub y: i64,
        }

        impl B {
            /// One with its required members alone.
            pub fn new(y: i64) -> Self {
                Self { y }
            }
        }

        impl std::fmt::Debug for B {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("B", self, f)
            }
        }

        impl runtime::Fields for B {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { y: members.req("y")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("y", &self.y);
            }
        }

        /// `U`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct U {
            /// `kind`.
            pub kind: UBranch,
        }

        impl U {
            /// One with its required members alone.
            pub fn new(kind: UBranch) -> Self {
                Self { kind }
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
                let kind = members.req("kind")?;
                let kind = UBranch::take(kind, members)?;
                Ok(Self { kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("kind", &self.kind.kind());
                self.kind.put(object);
            }
        }

        /// What `U` holds besides its base, by `kind`.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum UBranch {
            /// The "first"
            A(B),
            /// New.
            B(A),
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
                    Self::Other { tag, .. } => K::Other(tag.clone()),
                }
            }

            fn take(tag: K, members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                match tag {
                    K::A => members.branch(Self::A),
                    K::B => members.branch(Self::B),
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
                    Self::Other { members, .. } => runtime::Fields::put(members, object),
                }
            }
        }

        /// `A-deep`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct ADeep {
            /// `z`.
            pub z: i64,
        }

        impl ADeep {
            /// One with its required members alone.
            pub fn new(z: i64) -> Self {
                Self { z }
            }
        }

        impl std::fmt::Debug for ADeep {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("ADeep", self, f)
            }
        }

        impl runtime::Fields for ADeep {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { z: members.req("z")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("z", &self.z);
            }
        }
    }

    pub use self::overlay::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `overlay.json`.
    mod overlay {
        use super::super::runtime;
        use super::super::types;

        /// `c`.
        #[derive(Clone, PartialEq)]
        pub struct C {
            /// `u`.
            pub u: types::U,
        }

        impl std::fmt::Debug for C {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("C", self, f)
            }
        }

        impl runtime::Fields for C {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let u = if members.has("u") {
                    members.req("u")?
                } else {
                    runtime::Fields::take(members)?
                };
                Ok(Self { u })
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.u, object);
            }
        }

        impl runtime::Command for C {
            const NAME: &'static str = "c";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }
    }

    pub use self::overlay::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
    /// From `overlay.json`.
    mod overlay {
        use super::super::runtime;

        /// `E`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct E {
            /// `extra`.
            pub extra: Option<String>,
        }

        impl E {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self { extra: None }
            }

            /// Sets `extra`.
            #[must_use]
            pub fn extra(mut self, value: impl Into<String>) -> Self {
                self.extra = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for E {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("E", self, f)
            }
        }

        impl runtime::Fields for E {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { extra: members.opt("extra")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put_opt("extra", &self.extra);
            }
        }
    }

    pub use self::overlay::*;
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `overlay.json`.
    mod overlay {
        use super::super::runtime;
        use super::super::commands;

        /// What a server does for the commands of `overlay.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait Overlay {
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

    pub use self::overlay::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    /// The schema, as JSON text.
    pub const JSON: &str = r####"[
{"name": "c", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
{"name": "E", "meta-type": "event", "arg-type": "2"},
{"name": "0", "meta-type": "object", "members": [{"name": "kind", "type": "3"}], "tag": "kind", "variants": [{"case": "a", "type": "4"}, {"case": "b", "type": "5"}]},
{"name": "1", "meta-type": "object", "members": []},
{"name": "2", "meta-type": "object", "members": [{"name": "extra", "type": "str", "default": null}]},
{"name": "3", "meta-type": "enum", "members": [{"name": "a"}, {"name": "b"}], "values": ["a", "b"]},
{"name": "4", "meta-type": "object", "members": [{"name": "y", "type": "int"}]},
{"name": "5", "meta-type": "object", "members": [{"name": "x", "type": "int", "default": null}, {"name": "more", "type": "[str]", "default": null}, {"name": "deep", "type": "6", "default": null}]},
{"name": "str", "meta-type": "builtin", "json-type": "string"},
{"name": "int", "meta-type": "builtin", "json-type": "int"},
{"name": "[str]", "meta-type": "array", "element-type": "str"},
{"name": "6", "meta-type": "object", "members": [{"name": "z", "type": "int"}]}
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
    pub const DOCS: &[(&str, &str, &str)] = &[("3", "a", "the \"first\""), ("3", "b", "new")];
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
    pub trait Server: server::Overlay {}

    impl<T: server::Overlay> Server for T {}

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
            0 => runtime::run(server, arguments, server::Overlay::c).await,
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
