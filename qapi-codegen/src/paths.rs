//! Where definitions of a schema are in generated code.
//! Called by who writes code beside the generated: tables of types, tests.

use qapi_parser::{Kind, Schema};

use crate::Error;
use crate::names::Names;

/// The path of every definition's type, relative to the root of generated code, in schema order:
/// of `block-commit` it is `commands::BlockCommit`.
///
/// # Errors
/// [`Error::Refused`].
pub fn paths(schema: &Schema) -> Result<Vec<(&str, String)>, Error> {
    let names = Names::new(schema).map_err(|unnamed| {
        let message = |unnamed: &crate::names::Unnamed| {
            format!(
                "`{}` has no letter or digit for a name in Rust",
                unnamed.name
            )
        };
        Error::Refused(unnamed.iter().map(message).collect())
    })?;
    let path = |(name, kind): (&str, &Kind)| match kind {
        Kind::Command(_) => format!("commands::{}", names.command(name)),
        Kind::Event(_) => format!("events::{}", names.event(name)),
        Kind::Enum(_)
        | Kind::Struct(_)
        | Kind::FlatUnion(_)
        | Kind::SimpleUnion(_)
        | Kind::Alternate(_) => format!("types::{}", names.ty(name)),
    };
    let entities = schema.entities.iter();
    let paths = entities.map(|(name, entity)| (name.as_str(), path((name, &entity.kind))));
    Ok(paths.collect())
}
