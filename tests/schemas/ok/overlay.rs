/// Definitions, a module for each schema file.
pub(crate) mod modules {
/// From `overlay.json`.
pub(crate) mod overlay {
/// Types.
pub(crate) mod types {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, UnknownName, Value, Wire, read_fields,
        read_name, encode_fields, find_name,
    };
    use super::super::super::types;
    /// Kinds.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum K {
        /// The "first"
        A,
        /// New.
        B,
    }
    impl K {
        /// Every value, in schema order.
        pub const VARIANTS: &'static [Self] = &[Self::A, Self::B];
        /// Its name on the wire.
        pub fn as_str(self) -> &'static str {
            match self {
                Self::A => "a",
                Self::B => "b",
            }
        }
    }
    impl std::fmt::Display for K {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.as_str())
        }
    }
    impl std::str::FromStr for K {
        type Err = UnknownName;
        fn from_str(text: &str) -> Result<Self, UnknownName> {
            find_name(text, Self::VARIANTS, Self::as_str)
        }
    }
    impl Wire for K {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_name(value, context, Self::VARIANTS, Self::as_str)
        }
        fn encode(&self) -> Value {
            Value::from(self.as_str())
        }
    }
    /// `Base`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Base {
        /// `kind`.
        pub kind: types::K,
    }
    impl Wire for Base {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for Base {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self { kind: members.req("kind")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("kind", &self.kind);
        }
    }
    /// `A`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct A {
        /// `x`.
        pub x: i64,
        /// `more`.
        pub more: Option<Vec<String>>,
        /// `deep`.
        pub deep: Option<types::ADeep>,
    }
    impl A {
        /// One with no optional member.
        pub fn new(x: i64) -> Self {
            Self { x, more: None, deep: None }
        }
    }
    impl Wire for A {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for A {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self {
                x: members.req("x")?,
                more: members.opt("more")?,
                deep: members.opt("deep")?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put("x", &self.x);
            object.put_opt("more", &self.more);
            object.put_opt("deep", &self.deep);
        }
    }
    /// `B`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct B {
        /// `y`.
        pub y: i64,
    }
    impl Wire for B {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for B {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self { y: members.req("y")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("y", &self.y);
        }
    }
    /// `U`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct U {
        /// `kind`.
        pub kind: UBranch,
    }
    impl U {
        /// One with no optional member of the base.
        pub fn new(kind: UBranch) -> Self {
            Self { kind }
        }
        /// The value of `kind`.
        pub fn kind(&self) -> types::K {
            self.kind.kind()
        }
    }
    impl Wire for U {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for U {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            let kind: types::K = members.req("kind")?;
            let kind = UBranch::take(kind, members)?;
            Ok(Self { kind })
        }
        fn put(&self, object: &mut Object) {
            object.put("kind", &self.kind.kind());
            self.kind.put(object);
        }
    }
    /// What `U` holds besides its base, by `kind`.
    #[derive(Debug, Clone, PartialEq)]
    pub enum UBranch {
        /// The "first"
        A(types::B),
        /// New.
        B(types::A),
    }
    impl UBranch {
        /// The value of `kind`.
        pub fn kind(&self) -> types::K {
            match self {
                Self::A(_) => types::K::A,
                Self::B(_) => types::K::B,
            }
        }
        fn take(tag: types::K, members: &mut Members) -> Result<Self, Invalid> {
            match tag {
                types::K::A => members.branch(Self::A),
                types::K::B => members.branch(Self::B),
            }
        }
        fn put(&self, object: &mut Object) {
            match self {
                Self::A(branch) => branch.put(object),
                Self::B(branch) => branch.put(object),
            }
        }
    }
    /// `A-deep`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ADeep {
        /// `z`.
        pub z: i64,
    }
    impl Wire for ADeep {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for ADeep {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self { z: members.req("z")? })
        }
        fn put(&self, object: &mut Object) {
            object.put("z", &self.z);
        }
    }
}
/// Commands.
pub(crate) mod commands {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, Value, Wire, read_fields,
        encode_fields, Command,
    };
    use super::super::super::types;
    /// `c`.
    #[derive(Debug, Clone, PartialEq)]
    pub struct C {
        /// `u`.
        pub u: types::U,
    }
    impl Wire for C {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for C {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            let u = if members.has("u") {
                members.req("u")?
            } else {
                Fields::take(members)?
            };
            Ok(Self { u })
        }
        fn put(&self, object: &mut Object) {
            self.u.put(object);
        }
    }
    impl Command for C {
        const NAME: &'static str = "c";
        const ALLOW_OOB: bool = false;
        type Ok = ();
    }
}
/// Events.
pub(crate) mod events {
    use super::super::super::runtime::{
        Context, Fields, Invalid, Members, Object, Value, Wire, read_fields,
        encode_fields,
    };
    /// `E`.
    #[derive(Debug, Clone, PartialEq, Default)]
    pub struct E {
        /// `extra`.
        pub extra: Option<String>,
    }
    impl Wire for E {
        fn read(value: Value, context: Context) -> Result<Self, Invalid> {
            read_fields(value, context)
        }
        fn encode(&self) -> Value {
            encode_fields(self)
        }
    }
    impl Fields for E {
        fn take(members: &mut Members) -> Result<Self, Invalid> {
            Ok(Self {
                extra: members.opt("extra")?,
            })
        }
        fn put(&self, object: &mut Object) {
            object.put_opt("extra", &self.extra);
        }
    }
}
/// What a server does.
pub(crate) mod server {
    use super::super::super::runtime;
    use super::commands;
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
}
}
/// The schema as `query-qmp-schema` tells it.
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
{"name": "5", "meta-type": "object", "members": [{"name": "x", "type": "int"}, {"name": "more", "type": "[str]", "default": null}, {"name": "deep", "type": "6", "default": null}]},
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
pub const DOCS: &[(&str, &str, &str)] = &[
    ("3", "a", "the \"first\""),
    ("3", "b", "new"),
];
}
use crate::runtime as runtime;
/// Every type of the schema.
pub mod types {
    pub use super::modules::overlay::types::*;
}
/// Every command of the schema: its arguments, as a type.
pub mod commands {
    pub use super::modules::overlay::commands::*;
}
/// Every event of the schema: its data, as a type.
pub mod events {
    pub use super::modules::overlay::events::*;
}
/// Every command.
pub const COMMANDS: &runtime::Commands = &runtime::Commands::new(
    &[runtime::CommandSpec::new(0, "c")],
);
/// What a server does, a trait for each schema file.
pub mod server {
    pub use super::modules::overlay::server::*;
}
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
        0 => runtime::run(arguments, |command| server::Overlay::c(server, command)).await,
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
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `E`.
    E(events::E),
}
impl Event {
    /// Names of all events, in schema order.
    pub const NAMES: &'static [&'static str] = &["E"];
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::E(_) => "E",
        }
    }
    /// What it carries.
    pub fn data(&self) -> runtime::Object {
        use runtime::Fields as _;
        let mut object = runtime::Object::new();
        match self {
            Self::E(data) => data.put(&mut object),
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
    pub fn decode(
        name: &str,
        data: runtime::Object,
    ) -> Result<Option<Self>, runtime::Invalid> {
        use runtime::Wire as _;
        let data = runtime::Value::Object(data);
        let unknown = runtime::Unknown::Ignore;
        Ok(
            Some(
                match name {
                    "E" => Self::E(events::E::decode(data, unknown)?),
                    _ => return Ok(None),
                },
            ),
        )
    }
}
impl runtime::Events for Event {
    fn decode(
        name: &str,
        data: runtime::Object,
    ) -> Result<Option<Self>, runtime::Invalid> {
        Self::decode(name, data)
    }
}
impl From<events::E> for Event {
    fn from(data: events::E) -> Self {
        Self::E(data)
    }
}
