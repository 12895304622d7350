//! What a finding about one expression speaks of, in our words and in the reference's.

/// A part of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject<'a> {
    /// The definition, by the key that tells its kind.
    Definition(&'a str),
    /// The value of a key.
    Key(&'a str),
    /// Some member or element of a key's value.
    Element(&'a str),
    /// The one with this name; a member's as written, with the mark of optional ones.
    Member(&'a str, &'a str),
}

impl Subject<'_> {
    /// As we say it.
    pub(crate) fn ours(self) -> String {
        match self {
            Self::Definition(meta) => format!("the {meta}"),
            Self::Key(key) => format!("`{key}`"),
            Self::Element("features") => "a feature".to_owned(),
            Self::Element(key) => format!("an element of `{key}`"),
            Self::Member("features", name) => format!("feature `{name}`"),
            Self::Member(_, name) => format!("`{}`", name.strip_prefix('*').unwrap_or(name)),
        }
    }

    /// As the reference says it.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Definition(meta) => meta.to_owned(),
            Self::Key(key) => format!("'{key}'"),
            Self::Element(key) => format!("'{key}' member"),
            Self::Member(key, name) => format!("'{key}' member '{name}'"),
        }
    }
}
