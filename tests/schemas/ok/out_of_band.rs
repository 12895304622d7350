/// Every type of the schema.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod types {
}

/// Every command of the schema: its arguments, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod commands {
    /// From `out_of_band.json`.
    mod out_of_band {
        use super::super::runtime;

        /// Runs at once.
        ///
        /// # Since
        ///
        /// 1.0.
        #[derive(Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Now {
            /// How often.
            pub n: u8,
        }

        impl Now {
            /// One with its required members alone.
            pub fn new(n: u8) -> Self {
                Self { n }
            }
        }

        impl std::fmt::Debug for Now {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Now", self, f)
            }
        }

        impl runtime::Fields for Now {
            fn take(members: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self { n: members.req("n")? })
            }

            fn put(&self, object: &mut runtime::Object) {
                object.put("n", &self.n);
            }
        }

        impl runtime::Command for Now {
            const NAME: &'static str = "now";
            const ALLOW_OOB: bool = true;

            type Ok = i64;
        }

        impl runtime::OutOfBand for Now {}

        /// Waits for its turn.
        ///
        /// # Since
        ///
        /// 1.0.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Later {}

        impl Later {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Later {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Later", self, f)
            }
        }

        impl runtime::Fields for Later {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }

        impl runtime::Command for Later {
            const NAME: &'static str = "later";
            const ALLOW_OOB: bool = false;

            type Ok = ();
        }

        /// Answers nothing when it went well.
        ///
        /// # Since
        ///
        /// 1.0.
        #[derive(Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub struct Silent {}

        impl Silent {
            /// One with its required members alone.
            pub fn new() -> Self {
                Self {}
            }
        }

        impl std::fmt::Debug for Silent {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                runtime::debug("Silent", self, f)
            }
        }

        impl runtime::Fields for Silent {
            fn take(_: &mut runtime::Members) -> Result<Self, runtime::Invalid> {
                Ok(Self {})
            }

            fn put(&self, _: &mut runtime::Object) {}
        }

        impl runtime::Command for Silent {
            const NAME: &'static str = "silent";
            const ALLOW_OOB: bool = false;
            const ANSWERS: bool = false;

            type Ok = ();
        }
    }

    pub use self::out_of_band::*;
}

/// Every event of the schema: its data, as a type.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod events {
}

/// What a server does, a trait for each schema file.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod server {
    /// From `out_of_band.json`.
    mod out_of_band {
        use super::super::runtime;
        use super::super::commands;

        /// What a server does for the commands of `out_of_band.json`.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait OutOfBand {
            /// Waits for its turn.
            ///
            /// # Since
            ///
            /// 1.0.
            fn later(
                &self,
                arguments: commands::Later,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("later")))
            }

            /// Answers nothing when it went well.
            ///
            /// # Since
            ///
            /// 1.0.
            fn silent(
                &self,
                arguments: commands::Silent,
            ) -> impl std::future::Future<Output = Result<(), runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("silent")))
            }
        }

        /// What a server does for those of `out_of_band.json` that may run out of band.
        ///
        /// A method that is not written answers that there is no such command.
        /// Write a method as `async fn`; its future is `Send` if what it holds is.
        pub trait OutOfBandOob {
            /// Runs at once.
            ///
            /// # Since
            ///
            /// 1.0.
            fn now(
                &self,
                arguments: commands::Now,
            ) -> impl std::future::Future<Output = Result<i64, runtime::Error>> {
                let _ = arguments;
                std::future::ready(Err(runtime::not_found("now")))
            }
        }
    }

    pub use self::out_of_band::*;
}

/// The schema as `query-qmp-schema` tells it.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub mod introspect {
    use super::runtime::{Error, Value};

    /// The schema, as JSON text.
    pub const JSON: &str = r####"[
{"name": "now", "meta-type": "command", "arg-type": "0", "ret-type": "int", "allow-oob": true},
{"name": "later", "meta-type": "command", "arg-type": "1", "ret-type": "1"},
{"name": "silent", "meta-type": "command", "arg-type": "1", "ret-type": "1"},
{"name": "0", "meta-type": "object", "members": [{"name": "n", "type": "int"}]},
{"name": "int", "meta-type": "builtin", "json-type": "int"},
{"name": "1", "meta-type": "object", "members": []}
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
    pub const DOCS: &[(&str, &str, &str)] = &[
        ("now", "", "Runs at once."),
        ("later", "", "Waits for its turn."),
        ("silent", "", "Answers nothing when it went well."),
        ("0", "n", "how often"),
    ];
}

/// The schema as a whole: server, events, names.
#[allow(clippy::all, clippy::allow_attributes, deprecated, unused)]
pub(crate) mod interface {
    use super::runtime;
    use super::server;

    /// Every command.
    pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(&[
        runtime::CommandSpec::new(1, "later"),
        runtime::CommandSpec::new(0, "now").with_oob(),
        runtime::CommandSpec::new(2, "silent").without_answer(),
    ]);

    /// What a server does for every command.
    pub trait Server: server::OutOfBandOob + server::OutOfBand {}

    impl<T: server::OutOfBandOob + server::OutOfBand> Server for T {}

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
            0 => runtime::run(server, arguments, server::OutOfBandOob::now).await,
            1 => runtime::run(server, arguments, server::OutOfBand::later).await,
            2 => runtime::run(server, arguments, server::OutOfBand::silent).await,
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

    /// What a server does for every command that may run out of band.
    pub trait OobServer: server::OutOfBandOob {}

    impl<T: server::OutOfBandOob> OobServer for T {}

    /// As [`dispatch`], for a command that came out of band.
    ///
    /// # Errors
    /// That of the command, of its arguments, or that none of this name may run out of
    /// band.
    pub async fn dispatch_oob<S: OobServer>(
        server: &S,
        command: &str,
        arguments: runtime::Object,
    ) -> Result<runtime::Value, runtime::Error> {
        match COMMANDS.number(command)? {
            0 => runtime::run(server, arguments, server::OutOfBandOob::now).await,
            _ => Err(runtime::no_oob(command)),
        }
    }
}

use crate::runtime as runtime;

#[allow(clippy::allow_attributes, unused_imports)]
pub use self::interface::*;
