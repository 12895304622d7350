//! What checking one expression leaves behind: an entity, and where its parts were written.
//! Built by `legacy.rs` and `modern.rs`; `resolve` keeps the origin beside the schema.

use crate::doc::Block;
use crate::schema::{Entity, Type};
use crate::source::Span;
use crate::syntax::Text;

/// A definition whose names are not looked up yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) entity: Entity,
    pub(crate) origin: Origin,
}

/// Which of the two languages an expression was read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Legacy,
    Modern,
}

/// How and where a definition was written.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) language: Language,
    pub(crate) scope: Scope,
    /// Where the base's name stands.
    pub(crate) base: Option<Span>,
    pub(crate) discriminator: Option<Span>,
    /// Where the name stands that says what a command takes or an event carries.
    pub(crate) data: Option<Span>,
    pub(crate) returns: Option<Span>,
    /// Its documentation as written.
    pub(crate) block: Option<Block>,
}

/// The expression that a finding is about.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// All of it.
    pub(crate) at: Span,
    /// The key that tells its kind, and its name; none before they were found to be good.
    pub(crate) definition: Option<(&'static str, String)>,
}

impl Scope {
    pub(crate) fn anonymous(at: Span) -> Self {
        Self {
            at,
            definition: None,
        }
    }
}

impl Origin {
    pub(crate) fn new(language: Language, scope: Scope) -> Self {
        Self {
            language,
            scope,
            base: None,
            discriminator: None,
            data: None,
            returns: None,
            block: None,
        }
    }
}

/// A type as written, with its place.
#[derive(Debug, Clone)]
pub(crate) struct TypeText {
    pub(crate) name: Text,
    pub(crate) list: bool,
}

impl TypeText {
    pub(crate) fn resolve(&self) -> Type {
        let named = Type::from_name(&self.name.text);
        if self.list {
            Type::List(Box::new(named))
        } else {
            named
        }
    }
}
