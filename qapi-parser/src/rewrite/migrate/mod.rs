//! A schema of the 2.1 dialect as files of today's.
//! Called by tools; reads through `Loader`, changes trees, lays them out.
//! Invariant: a file that needs nothing stays byte for byte; what goes over the wire stays the
//! same but for names that today's dialect cannot say (see [`Migration::notes`]).

mod definitions;
mod docs;
mod names;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use definitions::Definitions;
use names::Exceptions;

use super::layout;
use super::tree::{Container, File, Item, Lead, Node, Pair, Value};
use crate::error::Diagnostics;
use crate::include;
use crate::{Dialect, Loader};

/// A schema in today's dialect.
#[derive(Debug, Clone)]
pub struct Migration {
    /// All files of the schema, the root first.
    pub files: Vec<Migrated>,
    /// What could not be said as before, a sentence each.
    pub notes: Vec<String>,
}

/// A file of a migrated schema.
#[derive(Debug, Clone)]
pub struct Migrated {
    /// Where the file was read.
    pub path: PathBuf,
    /// What is to be written instead.
    pub text: String,
}

/// Says the schema whose root is `root` in today's dialect. Nothing is written.
///
/// Names that today's rules forbid are excepted by a `pragma` in the root.
///
/// # Errors
/// Everything that is wrong with the schema as it is.
pub fn migrate(root: impl AsRef<Path>) -> Result<Migration, Diagnostics> {
    let root = root.as_ref();
    let loader = Loader::new();
    let (schema, refused) = match loader.load(root) {
        Ok(schema) => (schema, None),
        // Where nothing tells the dialects apart, today's is taken, which is stricter.
        Err(errors) => match loader.dialect(Dialect::Legacy).load(root) {
            Ok(schema) => (schema, Some(errors)),
            Err(_) => return Err(errors),
        },
    };
    let mut definitions = Definitions::new(&schema);
    let mut files = Vec::new();
    for path in &schema.files {
        let mut diagnostics = Diagnostics::default();
        let text = include::read_text(path, None, &mut diagnostics);
        let text = text.ok_or(diagnostics)?.to_string();
        let tree = super::accepted(path, &text)?;
        files.push((path.clone(), text, tree));
    }
    let listed = pragmas(files.iter().map(|(.., tree)| tree));
    let has_modern = |tree: &File| tree.items.iter().any(|item| is_modern(&item.object));
    let any_modern = files.iter().any(|(.., tree)| has_modern(tree));
    let is_told = refused.is_some();
    if let Some(errors) = refused.filter(|_| any_modern) {
        return Err(errors);
    }
    let is_migrated = is_told || files.iter().any(|(.., tree)| is_legacy(tree));
    let mut trees = Vec::new();
    for (.., tree) in &files {
        let mut tree = tree.clone();
        if is_legacy(&tree) || is_migrated && !has_modern(&tree) {
            let items = tree.items.into_iter();
            let rewrite = |item: Item| {
                if is_modern(&item.object) {
                    vec![item]
                } else {
                    definitions.rewrite(item)
                }
            };
            tree.items = items.flat_map(rewrite).collect();
            docs::directive(&mut tree.end);
        }
        trees.push(tree);
    }
    let names = definitions.names;
    let pragma = names.exceptions.pragma();
    if let (Some(root), false) = (trees.first_mut(), pragma.is_empty()) {
        except(root, pragma, &listed);
    }
    let write = |((path, text, before), tree): ((PathBuf, String, File), File)| {
        let text = if tree == before {
            text
        } else {
            layout::text(&tree)
        };
        Migrated { path, text }
    };
    let files = files.into_iter().zip(trees).map(write).collect();
    let notes = names.notes;
    Ok(Migration { files, notes })
}

/// Whether expression `object` is of today's dialect alone.
fn is_modern(object: &Container<Pair>) -> bool {
    const KEYS: [&str; 7] = [
        "struct",
        "alternate",
        "pragma",
        "if",
        "features",
        "boxed",
        "coroutine",
    ];
    KEYS.iter().any(|key| object.find(key).is_some())
}

/// Whether something in `file` is of the 2.1 dialect alone.
fn is_legacy(file: &File) -> bool {
    let is_flag = |value: &Value| value.as_str().is_some();
    file.items.iter().any(|Item { object, .. }| {
        let has = |key| object.find(key).is_some();
        let untagged = match object.find("discriminator").map(|value| &value.node) {
            Some(Node::String(_)) => false,
            Some(_) | None => true,
        };
        has("type")
            || has("union") && untagged
            || ["gen", "success-response"]
                .iter()
                .any(|key| object.find(key).is_some_and(is_flag))
            || object.find("data").is_some_and(has_inline)
    })
}

/// Whether `data` holds an object that is no type of today's dialect.
fn has_inline(data: &Value) -> bool {
    let Node::Object(data) = &data.node else {
        return false;
    };
    data.items.iter().any(|pair| match &pair.value.node {
        Node::Object(inner) => {
            let known = |pair: &Pair| ["type", "if", "features"].contains(&pair.key.as_str());
            inner.find("type").is_none() || !inner.items.iter().all(known)
        }
        Node::String(_) | Node::Bool(_) | Node::List(_) => false,
    })
}

/// The names that pragmas of `files` except already.
fn pragmas<'f>(files: impl Iterator<Item = &'f File>) -> Exceptions {
    let mut listed = Exceptions::default();
    for item in files.flat_map(|file| &file.items) {
        let Some(Node::Object(pragma)) = item.object.find("pragma").map(|value| &value.node) else {
            continue;
        };
        for pair in &pragma.items {
            if let Node::List(names) = &pair.value.node {
                let names = names
                    .items
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned);
                listed.extend(&pair.key, names);
            }
        }
    }
    listed
}

/// Puts `pragma` into the schema's root: first, or last where others would take its place.
fn except(file: &mut File, mut pragma: Vec<Pair>, listed: &Exceptions) {
    let listed = listed.pragma();
    for pair in &mut pragma {
        let same = listed.iter().find(|other| other.key == pair.key);
        let (Node::List(own), Some(Node::List(others))) =
            (&mut pair.value.node, same.map(|other| &other.value.node))
        else {
            continue;
        };
        own.items.extend(others.items.iter().cloned());
    }
    let object: Container<Pair> = vec![Pair::new("pragma", Node::Object(pragma.into()))].into();
    let before = Lead {
        comments: Vec::new(),
        gap: true,
    };
    if !listed.is_empty() {
        let comments = std::mem::take(&mut file.end);
        let before = Lead {
            comments,
            gap: true,
        };
        file.items.push(Item { before, object });
        return;
    }
    let mut item = Item { before, object };
    if let Some(first) = file.items.first_mut() {
        // The file's own comment stays at its top.
        let comments = &mut first.before.comments;
        let is_apart = first.before.gap && !comments.iter().any(|c| c.text.starts_with("##"));
        let header = match comments.iter().rposition(|comment| comment.gap) {
            Some(at) if at > 0 => at,
            _ if is_apart => comments.len(),
            _ => 0,
        };
        item.before.comments = comments.drain(..header).collect();
        match comments.first_mut() {
            Some(next) => next.gap = true,
            None => first.before.gap = true,
        }
    }
    file.items.insert(0, item);
}
