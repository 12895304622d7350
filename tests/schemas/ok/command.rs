/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
    /// From `command.json`.
    mod command {
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

    pub use self::command::*;
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `command.json`.
    mod command {
        use super::super::runtime;
        use super::super::types;

        /// `plain`.
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

        impl runtime::Command for Plain {
            const NAME: &'static str = "plain";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }

        /// `with_args`.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct WithArgs {
            /// `a`.
            pub a: String,
            /// `b`.
            pub b: Option<types::S>,
        }

        impl WithArgs {
            /// One with its required members alone.
            pub fn new(a: impl Into<String>) -> Self {
                Self { a: a.into(), b: None }
            }

            /// Sets `b`.
            #[must_use]
            pub fn b(mut self, value: types::S) -> Self {
                self.b = Some(value);
                self
            }
        }

        impl std::fmt::Debug for WithArgs {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("WithArgs", self, f)
            }
        }

        impl runtime::Fields for WithArgs {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                let (a, b) = members.take(["a", "b"])?;
                Ok(Self { a, b })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("a", &self.a);
                object.put_opt("b", &self.b);
            }
        }

        impl runtime::Command for WithArgs {
            const NAME: &'static str = "with_args";
            const ALLOW_OOB: bool = false;

            type Ok = types::S;
        }

        /// `by-type`.
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

        impl runtime::Command for ByType {
            const NAME: &'static str = "by-type";
            const ALLOW_OOB: bool = false;

            type Ok = Vec<types::S>;
        }

        /// `raw`.
        #[derive(Clone, PartialEq)]
        pub struct Raw(
            /// Its members.
            pub runtime::Object,
        );

        impl std::fmt::Debug for Raw {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Raw", self, f)
            }
        }

        impl runtime::Fields for Raw {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                runtime::Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.0, object);
            }
        }

        impl runtime::Command for Raw {
            const NAME: &'static str = "raw";
            const ALLOW_OOB: bool = false;

            type Ok = runtime::Value;
        }

        /// `raw2`.
        #[derive(Clone, PartialEq)]
        pub struct Raw2(
            /// Its members.
            pub runtime::Object,
        );

        impl std::fmt::Debug for Raw2 {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Raw2", self, f)
            }
        }

        impl runtime::Fields for Raw2 {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                runtime::Fields::take(members).map(Self)
            }

            fn put(&self, object: &mut runtime::Object) {
                runtime::Fields::put(&self.0, object);
            }
        }

        impl runtime::Command for Raw2 {
            const NAME: &'static str = "raw2";
            const ALLOW_OOB: bool = false;

            type Ok = runtime::Value;
        }

        /// `quiet`.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Quiet {}

        impl Quiet {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Quiet {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Quiet", self, f)
            }
        }

        impl runtime::Fields for Quiet {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }

        impl runtime::Command for Quiet {
            const NAME: &'static str = "quiet";
            const ALLOW_OOB: bool = false;
            const ANSWERS: bool = false;

            type Ok = ();
        }
    }

    pub use self::command::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `command.json`.
    mod command {
        use super::super::runtime;
        use super::super::types;
        use super::super::commands;

        /// What a server does for the commands of `command.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait Command {
            /// `plain`.
            fn plain(
                &self,
                arguments: commands::Plain,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("plain")))
            }

            /// `with_args`.
            fn with_args(
                &self,
                arguments: commands::WithArgs,
            ) -> impl std::future::Future<Output = Result<types::S, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("with_args")))
            }

            /// `by-type`.
            fn by_type(
                &self,
                arguments: commands::ByType,
            ) -> impl std::future::Future<Output = Result<Vec<types::S>, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("by-type")))
            }

            /// `raw`.
            fn raw(
                &self,
                arguments: commands::Raw,
            ) -> impl std::future::Future<Output = Result<runtime::Value, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("raw")))
            }

            /// `raw2`.
            fn raw2(
                &self,
                arguments: commands::Raw2,
            ) -> impl std::future::Future<Output = Result<runtime::Value, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("raw2")))
            }

            /// `quiet`.
            fn quiet(
                &self,
                arguments: commands::Quiet,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("quiet")))
            }
        }
    }

    pub use self::command::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    /// The schema, as JSON text.
    pub const JSON: &str = r####"[
{"name": "plain", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
{"name": "with_args", "meta-type": "command", "arg-type": "1", "ret-type": "2"},
{"name": "by-type", "meta-type": "command", "arg-type": "2", "ret-type": "[2]"},
{"name": "raw", "meta-type": "command", "arg-type": "3", "ret-type": "0"},
{"name": "raw2", "meta-type": "command", "arg-type": "4", "ret-type": "any"},
{"name": "quiet", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
{"name": "0", "meta-type": "object", "members": []},
{"name": "1", "meta-type": "object", "members": [{"name": "a", "type": "str"}, {"name": "b", "type": "2", "default": null}]},
{"name": "2", "meta-type": "object", "members": [{"name": "a", "type": "int"}]},
{"name": "[2]", "meta-type": "array", "element-type": "2"},
{"name": "3", "meta-type": "object", "members": [{"name": "props", "type": "any", "default": null}]},
{"name": "4", "meta-type": "object", "members": [{"name": "v", "type": "any"}]},
{"name": "any", "meta-type": "builtin", "json-type": "value"},
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
    use super::server;

    /// Every command.
    pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[
        runtime::CommandSpec::new(2, "by-type"),
        runtime::CommandSpec::new(0, "plain"),
        runtime::CommandSpec::new(5, "quiet").without_answer(),
        runtime::CommandSpec::new(3, "raw"),
        runtime::CommandSpec::new(4, "raw2"),
        runtime::CommandSpec::new(1, "with_args"),
    ]);

    /// What a server does for every command.
    pub trait Server: server::Command {}

    impl<T: server::Command> Server for T {}

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
            0 => runtime::run(server, arguments, server::Command::plain).await,
            1 => runtime::run(server, arguments, server::Command::with_args).await,
            2 => runtime::run(server, arguments, server::Command::by_type).await,
            3 => runtime::run(server, arguments, server::Command::raw).await,
            4 => runtime::run(server, arguments, server::Command::raw2).await,
            5 => runtime::run(server, arguments, server::Command::quiet).await,
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
