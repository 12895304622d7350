//! All that may differ from one schema to the next.
//! Read by every pass; filled in by `Builder`, the macro and the command line.
//! Invariant: an option that names something the schema does not have is an error, never ignored.

use std::collections::BTreeSet;

/// How to generate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether types get serde's traits.
    pub serde: Serde,
    /// Where the runtime comes from.
    pub runtime: Runtime,
    /// What becomes of `if`.
    pub conditions: Conditions,
    /// What a newer peer may say.
    pub unknown: Unknown,
    /// Whether other crates may list all members and values.
    pub growth: Growth,
    /// Which commands and events are generated.
    pub only: Only,
    /// What is changed of single definitions, in the order given.
    pub hooks: Vec<Hook>,
    /// What servers write.
    pub server: Server,
    /// What the runtime has for clients beyond the blocking one.
    pub client: Client,
}

/// What an emitted runtime has for clients beyond the blocking one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// A client that does not block, for any executor. The two below need it, and imply it.
    pub asynchronous: Part,
    /// tokio's streams for it; the crate depends on tokio.
    pub tokio: Part,
    /// Streams of `futures-io` for it; the crate depends on that.
    pub futures: Part,
    /// Descriptors sent over Unix sockets; the crate depends on rustix, with its feature `net`.
    pub descriptors: Part,
}

/// Whether a part of the runtime is emitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Part {
    /// It is not.
    #[default]
    Off,
    /// It is.
    On,
    /// It is, and compiled when the crate's cargo feature of this name is on.
    Feature(String),
}

/// What the traits of servers are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Server {
    /// What a method answers that is not written.
    pub missing: Missing,
    /// What the futures of methods are.
    pub futures: Futures,
}

/// What a server answers to a command of the schema that it has no code for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// What it answers to any other name: class `CommandNotFound`.
    #[default]
    NotFound,
    /// That it is not built in: class `GenericError`.
    NotBuiltIn,
}

/// Where the futures of a server's methods can run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Futures {
    /// On the thread that made them, or anywhere if what they hold is `Send`.
    #[default]
    Local,
    /// Anywhere: methods have to give `Send` futures, and servers are `Sync`.
    Send,
}

/// Whether generated types implement serde's `Serialize` and `Deserialize`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Serde {
    /// They do not.
    #[default]
    Off,
    /// They do; the crate depends on serde.
    On,
    /// They do when the crate's cargo feature of this name is on.
    Feature(String),
}

/// Where generated code finds its support code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Runtime {
    /// It is emitted too.
    #[default]
    Inline,
    /// It is a module at this path, from an earlier run.
    Path(String),
}

/// What becomes of the `if` of definitions, members, values and branches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Conditions {
    /// Everything is there: for clients, which do not know how their server was configured.
    #[default]
    AllOn,
    /// Kept as `#[cfg(feature = "…")]`: symbol `CONFIG_LINUX` is the cargo feature
    /// `config-linux`. [`crate::features`] lists what `Cargo.toml` must declare.
    Features,
    /// Decided now: these symbols are configured, others are not.
    Resolved(BTreeSet<String>),
}

/// What generated types do with enum values and branches that the schema does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Enums, and the branches of unions with a tag, have one more variant that keeps them. What
    /// decodes leniently (a client) meets it; what decodes strictly (a server) refuses as ever.
    #[default]
    Open,
    /// They are errors, for both ends.
    Closed,
}

/// Whether structs and enums are `#[non_exhaustive]`, so that a newer schema breaks no user in
/// another crate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Growth {
    /// As [`Options::unknown`] says: open output is, closed output is not.
    #[default]
    AsUnknown,
    /// They are.
    NonExhaustive,
    /// They are not: struct literals work everywhere.
    Exhaustive,
}

/// Which commands and events are generated, with what they reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Only {
    /// All, and every type.
    #[default]
    Everything,
    /// Those of these names, and the types that they use.
    Named(BTreeSet<String>),
}

/// A change to one definition or one of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// A definition's name as in the schema, or that and a member's, value's or branch's:
    /// `BlockdevOptions`, `BlockdevOptions.driver`.
    pub path: String,
    /// What to do there.
    pub change: Change,
}

/// What a [`Hook`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Derives this trait too, as in `Eq` or `my_crate::MyTrait`. Definitions only.
    Derive(String),
    /// Puts this attribute there, written as in Rust: `#[doc(alias = "disk")]`.
    Attribute(String),
    /// Uses this Rust type instead. A definition is then not generated; its stand-in implements the
    /// runtime's `Wire` (and `Fields`, where its members are taken in). Of a member: of this one
    /// alone; optional members are an `Option` of it.
    Replace(String),
}

impl Options {
    /// Whether types are `#[non_exhaustive]`.
    pub fn is_non_exhaustive(&self) -> bool {
        match self.growth {
            Growth::AsUnknown => self.unknown == Unknown::Open,
            Growth::NonExhaustive => true,
            Growth::Exhaustive => false,
        }
    }
}

/// The cargo feature that stands for configuration symbol `symbol`: in lower case, with `-` for
/// `_`.
pub fn feature_name(symbol: &str) -> String {
    symbol.to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_become_cargo_features() {
        assert_eq!(
            feature_name("CONFIG_LINUX_IO_URING"),
            "config-linux-io-uring"
        );
    }

    #[test]
    fn open_output_may_grow_unless_told() {
        let mut options = Options::default();
        assert!(options.is_non_exhaustive());
        options.unknown = Unknown::Closed;
        assert!(!options.is_non_exhaustive());
        options.growth = Growth::NonExhaustive;
        assert!(options.is_non_exhaustive());
    }
}
