//! What `query-qmp-schema` answers for a schema, as a value: commands and events, then the types
//! that they use, names masked by numbers.
//! Called by `emit/introspect.rs`, which puts it into generated code, and by `qapi-gen introspect`.
//! Invariant: order and numbers are the reference compiler's. It numbers types as it meets them,
//! whatever their conditions, so what a configuration leaves out leaves a gap.

mod walk;

use std::collections::BTreeSet;

use qapi_parser::{Cond, Schema};

use crate::runtime::{Object, Value};

/// How types are called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TypeNames {
    /// By numbers, so that clients look at commands and events instead.
    #[default]
    Masked,
    /// As in the schema.
    Plain,
}

/// Which symbols of `if` are configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// What has a condition is there, whatever it says.
    Everything,
    /// These, and no others.
    Symbols(BTreeSet<String>),
}

impl Config {
    fn holds(&self, cond: &Cond) -> bool {
        match self {
            Self::Everything => true,
            Self::Symbols(symbols) => cond.holds(&|symbol: &str| symbols.contains(symbol)),
        }
    }
}

impl<S: Into<String>> FromIterator<S> for Config {
    fn from_iter<I: IntoIterator<Item = S>>(symbols: I) -> Self {
        Self::Symbols(symbols.into_iter().map(Into::into).collect())
    }
}

/// The answer of a program that was built with `config`: an array of `SchemaInfo`.
pub fn introspect(schema: &Schema, names: TypeNames, config: &Config) -> Value {
    let (entries, _) = walk::entries(schema, names);
    Value::Array(resolve(&entries, config))
}

/// The same as JSON text in pieces, each with when it is there. A piece that is a comma is
/// left out behind an opening bracket.
pub(crate) fn pieces(schema: &Schema, names: TypeNames) -> Vec<(Cond, String)> {
    let (entries, _) = walk::entries(schema, names);
    let mut pieces = Pieces::default();
    pieces.tree(&Tree::List(entries));
    pieces.out
}

/// What the schema's documentation says of the entries of [`introspect`], called by `names`.
pub fn documentation(schema: &Schema, names: TypeNames) -> Vec<Documented> {
    let (_, docs) = walk::entries(schema, names);
    docs
}

/// A text, and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documented {
    /// The name of an entry.
    pub entry: String,
    /// Its member or value; empty for the entry itself.
    pub member: String,
    /// What is said of it.
    pub text: String,
}

/// A value parts of which have conditions.
#[derive(Debug, Clone, PartialEq)]
enum Tree {
    Value(Value),
    Object(Vec<(&'static str, Tree)>),
    List(Vec<Item>),
}

/// An item of a list.
#[derive(Debug, Clone, PartialEq)]
struct Item {
    tree: Tree,
    cond: Cond,
}

impl Item {
    fn new(tree: impl Into<Tree>, cond: &Cond) -> Self {
        let (tree, cond) = (tree.into(), cond.clone());
        Self { tree, cond }
    }

    /// Whether it has a condition.
    fn may_go(&self) -> bool {
        !self.cond.is_always()
    }
}

impl Tree {
    fn resolve(&self, config: &Config) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Object(members) => {
                let member = |(name, tree): &(&'static str, Self)| (*name, tree.resolve(config));
                Value::Object(members.iter().map(member).collect::<Object>())
            }
            Self::List(items) => Value::Array(resolve(items, config)),
        }
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Value(text.into())
    }
}

impl From<String> for Tree {
    fn from(text: String) -> Self {
        Self::Value(text.into())
    }
}

impl From<Vec<Item>> for Tree {
    fn from(items: Vec<Item>) -> Self {
        Self::List(items)
    }
}

#[derive(Default)]
struct Pieces {
    out: Vec<(Cond, String)>,
    /// What must hold here, outermost first.
    conds: Vec<Cond>,
}

impl Pieces {
    fn text(&mut self, text: &str) {
        let cond = self.cond();
        match self.out.last_mut() {
            Some((last, piece)) if *last == cond && piece != "," => piece.push_str(text),
            _ => self.out.push((cond, text.to_owned())),
        }
    }

    fn tree(&mut self, tree: &Tree) {
        match tree {
            Tree::Value(value) => self.text(&value.to_ascii_json()),
            Tree::Object(members) => {
                for (index, (name, member)) in members.iter().enumerate() {
                    let before = if index == 0 { "{" } else { ", " };
                    self.text(&format!("{before}\"{name}\": "));
                    self.tree(member);
                }
                self.text("}");
            }
            Tree::List(items) => {
                self.text("[");
                for (index, Item { tree, cond }) in items.iter().enumerate() {
                    // What stands before may not be there: then the comma is dropped.
                    let starts_piece = !cond.is_always() || items[..index].iter().any(Item::may_go);
                    if !cond.is_always() {
                        self.conds.push(cond.clone());
                    }
                    if starts_piece {
                        self.out.push((self.cond(), ",".to_owned()));
                    } else if index > 0 {
                        self.text(", ");
                    }
                    self.tree(tree);
                    if !cond.is_always() {
                        self.conds.pop();
                    }
                }
                self.text("]");
            }
        }
    }

    /// What must hold here.
    fn cond(&self) -> Cond {
        match self.conds.as_slice() {
            [] => Cond::Always,
            [cond] => cond.clone(),
            conds => Cond::All(conds.to_vec()),
        }
    }
}

fn resolve(items: &[Item], config: &Config) -> Vec<Value> {
    let kept = items.iter().filter(|item| config.holds(&item.cond));
    kept.map(|item| item.tree.resolve(config)).collect()
}
