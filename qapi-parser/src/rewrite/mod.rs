//! Schema files to schema files: one layout for all, and the 2.1 dialect in today's words.
//! Called by tools that write schemas. Works on a tree that keeps comments and empty lines.
//! Invariant: what is written means what was read. Not here: reading a schema's meaning, for
//! which the passes of `Loader` are asked.

mod layout;
mod migrate;
mod tree;

pub use migrate::{Migrated, Migration, migrate};

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::Diagnostics;
use crate::parse;

/// Lays out `text`, of schema file `path`, as QEMU lays out its schemas.
///
/// Comments stay where they are; formatting again changes nothing. `path` is for messages.
///
/// # Errors
/// Where `text` is no sequence of objects. What these mean is not judged.
pub fn format(path: impl AsRef<Path>, text: &str) -> Result<String, Diagnostics> {
    let file = accepted(path.as_ref(), text)?;
    Ok(layout::text(&file))
}

/// The tree of `text`, if the grammar has nothing against it.
fn accepted(path: &Path, text: &str) -> Result<tree::File, Diagnostics> {
    let text = text.replace("\r\n", "\n");
    let mut diagnostics = Diagnostics::default();
    let file = diagnostics.sources.add(path, text.as_str().into(), None);
    parse::schema(file, &text, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    Ok(tree::File::read(&text))
}
