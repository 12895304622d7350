/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `conditions.json`.
    mod conditions {
        use super::super::runtime;

        /// `Kind`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            /// `a`.
            A,
            /// `b`.
            #[cfg(feature = "config-b")]
            B,
            /// One that the schema does not have, by its name on the wire.
            Other(String),
        }

        impl Kind {
            /// Every value of the schema, in its order.
            pub const VARIANTS: &'static [Self] = &[Self::A, #[cfg(feature = "config-b")] Self::B];

            /// Its name on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    Self::A => "a",
                    #[cfg(feature = "config-b")]
                    Self::B => "b",
                    Self::Other(name) => name,
                }
            }
        }

        impl std::fmt::Display for Kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for Kind {
            type Err = runtime::UnknownName;

            fn from_str(text: &str) -> Result<Self, runtime::UnknownName> {
                runtime::find_open_name(text, Self::VARIANTS, Self::as_str)
            }
        }

        impl runtime::Wire for Kind {
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

        /// `Item`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Item {
            /// `x`.
            pub x: i64,
            /// `y`.
            ///
            /// - `deprecated`
            #[cfg(any(feature = "config-b", not(feature = "config-c")))]
            #[deprecated]
            pub y: Option<String>,
        }

        impl Item {
            /// One with its required members alone.
            pub fn new(x: i64) -> Self {
                Self {
                    x,
                    #[cfg(any(feature = "config-b", not(feature = "config-c")))]
                    y: None,
                }
            }

            /// Sets `y`.
            #[cfg(any(feature = "config-b", not(feature = "config-c")))]
            #[deprecated]
            #[must_use]
            pub fn y(mut self, value: impl Into<String>) -> Self {
                self.y = Some(value.into());
                self
            }
        }

        impl std::fmt::Debug for Item {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Item", self, f)
            }
        }

        impl runtime::Fields for Item {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let x = members.req("x")?;
                #[cfg(any(feature = "config-b", not(feature = "config-c")))]
                let y = members.opt("y")?;
                Ok(Self {
                    x,
                    #[cfg(any(feature = "config-b", not(feature = "config-c")))]
                    y,
                })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("x", &self.x);
                #[cfg(any(feature = "config-b", not(feature = "config-c")))]
                object.put_opt("y", &self.y);
            }
        }

        /// `Choice`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Choice {
            /// `kind`.
            pub kind: ChoiceBranch,
        }

        impl Choice {
            /// One with its required members alone.
            pub fn new(kind: ChoiceBranch) -> Self {
                Self { kind }
            }
        }

        impl Choice {
            /// The value of `kind`.
            pub fn kind(&self) -> Kind {
                self.kind.kind()
            }
        }

        impl std::fmt::Debug for Choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Choice", self, f)
            }
        }

        impl runtime::Fields for Choice {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let kind = members.req("kind")?;
                let kind = ChoiceBranch::take(kind, members)?;
                Ok(Self { kind })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("kind", &self.kind.kind());
                self.kind.put(object);
            }
        }

        /// What `Choice` holds besides its base, by `kind`.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum ChoiceBranch {
            /// `a`.
            A(Item),
            /// `b`.
            #[cfg(feature = "config-b")]
            B(Item),
            /// One that the schema does not have.
            Other {
                /// The value of the discriminator.
                tag: String,
                /// The members that are not the base's.
                members: runtime::Object,
            },
        }

        impl ChoiceBranch {
            /// The value of `kind`.
            pub fn kind(&self) -> Kind {
                match self {
                    Self::A(_) => Kind::A,
                    #[cfg(feature = "config-b")]
                    Self::B(_) => Kind::B,
                    Self::Other { tag, .. } => Kind::Other(tag.clone()),
                }
            }

            fn take(tag: Kind, members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                match tag {
                    Kind::A => members.branch(Self::A),
                    #[cfg(feature = "config-b")]
                    Kind::B => members.branch(Self::B),
                    Kind::Other(tag) => {
                        let members = runtime::Fields::take(members)?;
                        Ok(Self::Other { tag, members })
                    },
                }
            }

            fn put(&self, object: &mut runtime::Object) {
                match self {
                    Self::A(branch) => runtime::Fields::put(branch, object),
                    #[cfg(feature = "config-b")]
                    Self::B(branch) => runtime::Fields::put(branch, object),
                    Self::Other { members, .. } => runtime::Fields::put(members, object),
                }
            }
        }
    }

    pub use self::conditions::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `conditions.json`.
    mod conditions {
        use super::super::runtime;
        use super::super::types;

        /// `do-it`.
        ///
        /// # Features
        ///
        /// - `unstable`
        #[cfg(feature = "config-c")]
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct DoIt {
            /// `what`.
            pub what: types::Choice,
        }

        #[cfg(feature = "config-c")]
        impl DoIt {
            /// One with its required members alone.
            pub fn new(what: types::Choice) -> Self {
                Self { what }
            }
        }

        #[cfg(feature = "config-c")]
        impl std::fmt::Debug for DoIt {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("DoIt", self, f)
            }
        }

        #[cfg(feature = "config-c")]
        impl runtime::Fields for DoIt {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { what: members.req("what")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("what", &self.what);
            }
        }

        #[cfg(feature = "config-c")]
        impl runtime::Command for DoIt {
            const NAME: &'static str = "do-it";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }
    }

    pub use self::conditions::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
    /// From `conditions.json`.
    mod conditions {
        use super::super::runtime;
        use super::super::types;

        /// `DONE`.
        #[cfg(feature = "config-c")]
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Done {
            /// `a`.
            pub a: types::Item,
        }

        #[cfg(feature = "config-c")]
        impl Done {
            /// One with its required members alone.
            pub fn new(a: types::Item) -> Self {
                Self { a }
            }
        }

        #[cfg(feature = "config-c")]
        impl std::fmt::Debug for Done {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Done", self, f)
            }
        }

        #[cfg(feature = "config-c")]
        impl runtime::Fields for Done {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { a: members.req("a")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
            }
        }
    }

    pub use self::conditions::*;
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `conditions.json`.
    mod conditions {
        use super::super::runtime;
        use super::super::commands;

        /// What a server does for the commands of `conditions.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait Conditions {
            /// `do-it`.
            ///
            /// # Features
            ///
            /// - `unstable`
            #[cfg(feature = "config-c")]
            fn do_it(
                &self,
                arguments: commands::DoIt,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("do-it")))
            }
        }
    }

    pub use self::conditions::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    const PIECES: &[&str] = &[
        r####"["####,
        #[cfg(feature = "config-c")]
        r####","####,
        #[cfg(feature = "config-c")]
        r####"{"name": "do-it", "meta-type": "command", "arg-type": "0", "ret-type": "1", "features": ["unstable"]}"####,
        #[cfg(feature = "config-c")]
        r####","####,
        #[cfg(feature = "config-c")]
        r####"{"name": "DONE", "meta-type": "event", "arg-type": "2"}"####,
        #[cfg(feature = "config-c")]
        r####","####,
        #[cfg(feature = "config-c")]
        r####"{"name": "0", "meta-type": "object", "members": [{"name": "what", "type": "3"}]}"####,
        r####","####,
        r####"{"name": "1", "meta-type": "object", "members": []}"####,
        #[cfg(feature = "config-c")]
        r####","####,
        #[cfg(feature = "config-c")]
        r####"{"name": "2", "meta-type": "object", "members": [{"name": "a", "type": "4"}]}"####,
        r####","####,
        r####"{"name": "3", "meta-type": "object", "members": [{"name": "kind", "type": "5"}], "tag": "kind", "variants": [{"case": "a", "type": "4"}"####,
        #[cfg(feature = "config-b")]
        r####","####,
        #[cfg(feature = "config-b")]
        r####"{"case": "b", "type": "4"}"####,
        r####"]}"####,
        r####","####,
        r####"{"name": "4", "meta-type": "object", "members": [{"name": "x", "type": "int"}"####,
        #[cfg(any(feature = "config-b", not(feature = "config-c")))]
        r####","####,
        #[cfg(any(feature = "config-b", not(feature = "config-c")))]
        r####"{"name": "y", "type": "str", "default": null, "features": ["deprecated"]}"####,
        r####"]}"####,
        r####","####,
        r####"{"name": "5", "meta-type": "enum", "members": [{"name": "a"}"####,
        #[cfg(feature = "config-b")]
        r####","####,
        #[cfg(feature = "config-b")]
        r####"{"name": "b"}"####,
        r####"], "values": ["a""####,
        #[cfg(feature = "config-b")]
        r####","####,
        #[cfg(feature = "config-b")]
        r####""b""####,
        r####"]}"####,
        r####","####,
        r####"{"name": "int", "meta-type": "builtin", "json-type": "int"}"####,
        r####","####,
        r####"{"name": "str", "meta-type": "builtin", "json-type": "string"}]"####,
    ];

    /// The schema, as JSON text.
    pub fn json() -> String {
        let mut text = String::new();
        for piece in PIECES {
            if *piece == "," && text.ends_with('[') {
                continue;
            }
            text.push_str(piece);
        }
        text
    }

    /// The schema, as a value: an array of `SchemaInfo`.
    ///
    /// # Errors
    /// None: the text is JSON.
    pub fn value() -> Result<Value, Error> {
        Value::from_json(&json())
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
        #[cfg(feature = "config-c")]
        runtime::CommandSpec::new(0, "do-it"),
    ]);

    /// What a server does for every command.
    pub trait Server: server::Conditions {}

    impl<T: server::Conditions> Server for T {}

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
            #[cfg(feature = "config-c")]
            0 => runtime::run(server, arguments, server::Conditions::do_it).await,
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
        /// `DONE`.
        #[cfg(feature = "config-c")]
        Done(events::Done),
    }

    impl Event {
        /// Names of all events, in schema order.
        pub const NAMES: &'static [&'static str] = &[#[cfg(feature = "config-c")] "DONE"];

        /// Its name on the wire.
        pub fn name(&self) -> &'static str {
            match *self {
                #[cfg(feature = "config-c")]
                Self::Done(_) => "DONE",
            }
        }

        /// What it carries.
        pub fn data(&self) -> runtime::Object {
            use runtime::Fields as _;
            let mut object = runtime::Object::new();
            match *self {
                #[cfg(feature = "config-c")]
                Self::Done(ref data) => data.put(&mut object),
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
                #[cfg(feature = "config-c")]
                "DONE" => Self::Done(events::Done::decode(data, unknown)?),
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

    #[cfg(feature = "config-c")]
    impl From<events::Done> for Event {
        fn from(data: events::Done) -> Self {
            Self::Done(data)
        }
    }
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
