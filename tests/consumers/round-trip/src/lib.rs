//! Generated code for several schemas, each with a table that leads to the conversions of its
//! types by their names in the schema.
#![forbid(unsafe_code)]

/// How what is not in the schema is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// It is an error.
    Server,
    /// It is skipped or kept.
    Client,
}

/// Why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// From the value's root.
    pub path: String,
    /// The error's text.
    pub text: String,
}

/// JSON text to typed data, and back to JSON text.
pub type RoundTrip = fn(&str, Reader) -> Result<String, Refused>;

/// A compiled schema.
#[derive(Debug, Clone, Copy)]
pub struct Tested {
    /// Of the case.
    pub name: &'static str,
    /// The root file.
    pub schema: &'static str,
    /// What was merged into it.
    pub overlays: &'static [&'static str],
    /// By names of definitions.
    pub table: &'static [(&'static str, RoundTrip)],
}

/// Defines [`RoundTrip`]s for the types of the generated code it stands in.
macro_rules! round_trip {
    () => {
        fn round_trip<T>(text: &str, reader: crate::Reader) -> Result<String, crate::Refused>
        where
            T: runtime::Wire + PartialEq + std::fmt::Debug,
        {
            let unknown = match reader {
                crate::Reader::Server => runtime::Unknown::Refuse,
                crate::Reader::Client => runtime::Unknown::Ignore,
            };
            let value = runtime::Value::from_json(text).map_err(|error| crate::Refused {
                path: String::new(),
                text: error.to_string(),
            })?;
            let read = |value| T::decode(value, unknown);
            let typed = read(value).map_err(|error| crate::Refused {
                path: error.path(),
                text: error.to_string(),
            })?;
            let encoded = typed.encode();
            let text = encoded.to_ascii_json();
            // What a server sends is what its client gets.
            assert_eq!(read(encoded), Ok(typed));
            Ok(text)
        }
    };
}
use round_trip;

/// The schemas, each as a module.
pub mod schemas {
    use crate::Tested;

    include!(concat!(env!("OUT_DIR"), "/schemas.rs"));
}
pub use schemas::SCHEMAS;
