//! All that may differ from one schema to the next.

/// How to generate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether types get serde's traits.
    pub serde: Serde,
    /// Where the runtime comes from.
    pub runtime: Runtime,
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
