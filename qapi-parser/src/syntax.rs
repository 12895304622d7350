//! The tree as written: strings, booleans, lists and objects with their places; nothing judged.
//! Built by `parse.rs`, read by `include.rs`, `check.rs` and `overlay.rs`.
//! Invariant: keys of an [`Object`] are unique (a second one was reported and left out).

use crate::cut::Flaw;
use crate::doc::Gap;
use crate::source::Span;

/// A value with the place where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) span: Span,
    pub(crate) node: Node,
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    String(String),
    Bool(bool),
    List(Vec<Value>),
    Object(Object),
}

/// A string with the place where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) span: Span,
    pub(crate) text: String,
}

/// Keys and values in the order written.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) span: Span,
    pub(crate) pairs: Vec<(Text, Value)>,
}

/// A top-level object with what stands before it.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) object: Object,
    /// Where the expression before it ended.
    pub(crate) before: usize,
    /// Today's documentation before it.
    pub(crate) gap: Gap,
    /// What today's dialect does not have in an expression.
    pub(crate) flaws: Vec<Flaw>,
}

impl Object {
    pub(crate) fn find(&self, key: &str) -> Option<&Value> {
        self.pairs
            .iter()
            .find(|(name, _)| name.text == key)
            .map(|(_, value)| value)
    }
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.node {
            Node::String(_) => "a string",
            Node::Bool(_) => "a boolean",
            Node::List(_) => "a list",
            Node::Object(_) => "an object",
        }
    }

    /// Whether the reference compiler would take it for true.
    pub(crate) fn is_truthy(&self) -> bool {
        match &self.node {
            Node::String(text) => !text.is_empty(),
            Node::Bool(value) => *value,
            Node::List(list) => !list.is_empty(),
            Node::Object(object) => !object.pairs.is_empty(),
        }
    }

    pub(crate) fn as_text(&self) -> Option<Text> {
        match &self.node {
            Node::String(text) => Some(Text {
                span: self.span,
                text: text.clone(),
            }),
            Node::Bool(_) | Node::List(_) | Node::Object(_) => None,
        }
    }
}
