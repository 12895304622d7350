//! What can be wrong with documentation: our words, the reference compiler's words and its place.
//! Made by `parse.rs` (the comment alone) and `check.rs` (comment and definition).
//! Invariant: the reference's text is byte for byte what it prints, since clients match on it.

use crate::schema::SectionKind;
use crate::source::Span;

/// One thing wrong with documentation.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) problem: Problem,
    /// Where it is: the word that is wrong.
    pub(crate) span: Span,
    /// Where the reference compiler sees it: the start of a token.
    pub(crate) reference: Span,
    /// Other places that have to do with it.
    pub(crate) notes: Vec<(Span, &'static str)>,
}

/// Which of the reference compiler's passes stops at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// While it reads a file; the place has a column.
    Lex,
    /// While it reads a file; the place is a line.
    Read,
    /// While it looks at one expression, at the documentation.
    Expression,
    /// While it looks at one expression, at the definition.
    Definition,
    /// While it resolves one definition, after all else about that.
    Resolve,
    /// When all definitions are resolved.
    End,
}

/// Kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    JunkAtStart,
    JunkAtEnd,
    NeverEnds,
    NoSpace,
    TitleWithoutColon,
    TitleWithoutName,
    FeaturesTwice,
    FeaturesEmpty,
    MemberAfterSection(String),
    Retired(&'static str),
    Heading,
    HeadingNotFirst,
    Indentation(usize),
    FreeFormMember(String),
    EmptyName,
    NameTwice(String),
    SectionTwice(Part),
    SectionEmpty(Part),
    NoDefinition(String),
    NotAboutDefinition,
    OtherName(String),
    Required,
    ReturnsNothing,
    CommandsOnly(Part),
    Undocumented {
        role: &'static str,
        name: String,
    },
    FeatureUndocumented(String),
    Unknown {
        what: &'static str,
        names: Vec<String>,
    },
}

/// A part of a block that has a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Member,
    Feature,
    Section(SectionKind),
}

impl Part {
    /// Its heading in the reference's messages.
    fn heading(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Feature => "Feature",
            Self::Section(SectionKind::Since) => "Since",
            Self::Section(SectionKind::Returns) => "Returns",
            Self::Section(SectionKind::Errors) => "Errors",
            Self::Section(SectionKind::Todo) => "Todo",
            Self::Section(SectionKind::Plain) => "Plain",
        }
    }
}

impl Problem {
    /// What is wrong, in our words.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::JunkAtStart => "a documentation comment starts with `##` alone".to_owned(),
            Self::JunkAtEnd => "a documentation comment ends with `##` alone".to_owned(),
            Self::NeverEnds => "this documentation comment is not ended by `##`".to_owned(),
            Self::NoSpace => "a line of documentation needs a space after `#`".to_owned(),
            Self::TitleWithoutColon => {
                "the name that is documented needs a `:` after it".to_owned()
            }
            Self::TitleWithoutName => "the name that is documented is missing".to_owned(),
            Self::FeaturesTwice => "`Features:` is given twice".to_owned(),
            Self::FeaturesEmpty => "`Features:` must be followed by `@feature:` lines".to_owned(),
            Self::MemberAfterSection(name) => {
                format!("`@{name}:` must stand before every section")
            }
            Self::Retired("Note" | "Notes") => {
                "a note is written `.. note::`, not as a section".to_owned()
            }
            Self::Retired(_) => {
                "an example is written `.. qmp-example::`, not as a section".to_owned()
            }
            Self::Heading => "a heading cannot stand in a definition's documentation".to_owned(),
            Self::HeadingNotFirst => "a heading must be the first line of its comment".to_owned(),
            Self::Indentation(columns) => {
                format!("this line is indented less than the one before it ({columns} columns)")
            }
            Self::FreeFormMember(name) => {
                format!("`@{name}:` cannot stand in documentation about no definition")
            }
            Self::EmptyName => "a name is missing between `@` and `:`".to_owned(),
            Self::NameTwice(name) => format!("`@{name}:` is given twice"),
            Self::SectionTwice(part) => format!("`{}:` is given twice", part.heading()),
            Self::SectionEmpty(Part::Member) => "a member's documentation is empty".to_owned(),
            Self::SectionEmpty(Part::Feature) => "a feature's documentation is empty".to_owned(),
            Self::SectionEmpty(part) => format!("`{}:` has no text", part.heading()),
            Self::NoDefinition(name) => {
                format!("the definition of `{name}` does not follow its documentation")
            }
            Self::NotAboutDefinition => {
                "documentation before a definition must start with its name".to_owned()
            }
            Self::OtherName(name) => format!("the documentation before it is about `{name}`"),
            Self::Required => "a documentation comment is required before it".to_owned(),
            Self::ReturnsNothing => "the command returns nothing".to_owned(),
            Self::CommandsOnly(part) => format!("only a command has `{}:`", part.heading()),
            Self::Undocumented { role, name } => format!("{role} `{name}` is not documented"),
            Self::FeatureUndocumented(name) => format!("feature `{name}` is not documented"),
            Self::Unknown { what, names } => {
                let names = names.iter().map(|name| format!("`{name}`"));
                let names = names.collect::<Vec<_>>().join(", ");
                format!("there is no {what} {names} to document")
            }
        }
    }

    /// What the reference compiler says.
    pub(crate) fn reference(&self) -> String {
        match self {
            Self::JunkAtStart => "junk after '##' at start of documentation comment".to_owned(),
            Self::JunkAtEnd => "junk after '##' at end of documentation comment".to_owned(),
            Self::NeverEnds => "documentation comment must end with '##'".to_owned(),
            Self::NoSpace => "missing space after #".to_owned(),
            Self::TitleWithoutColon => "line should end with ':'".to_owned(),
            Self::TitleWithoutName => "name required after '@'".to_owned(),
            Self::FeaturesTwice => "duplicated 'Features:' line".to_owned(),
            Self::FeaturesEmpty => "feature descriptions expected".to_owned(),
            Self::MemberAfterSection(name) => {
                format!("description of '@{name}:' follows a section")
            }
            Self::Retired(tag @ ("Note" | "Notes")) => format!(
                "The '{tag}' section is no longer supported. Please use rST's '.. note::' or \
                 '.. admonition:: notes' directives, or another suitable admonition instead."
            ),
            Self::Retired(tag) => format!(
                "The '{tag}' section is no longer supported. Please use the '.. qmp-example::' \
                 directive, or other suitable markup instead."
            ),
            Self::Heading => "unexpected '=' markup in definition documentation".to_owned(),
            Self::HeadingNotFirst => "'=' heading must come first in a comment block".to_owned(),
            Self::Indentation(columns) => {
                format!("unexpected de-indent (expected at least {columns} spaces)")
            }
            Self::FreeFormMember(name) => {
                format!("'@{name}:' not allowed in free-form documentation")
            }
            Self::EmptyName => "invalid parameter name".to_owned(),
            Self::NameTwice(name) => format!("'{name}' parameter name duplicated"),
            Self::SectionTwice(part) => format!("duplicated '{}' section", part.heading()),
            Self::SectionEmpty(part) => format!("text required after '{}:'", part.heading()),
            Self::NoDefinition(name) => {
                format!("documentation for '{name}' is not followed by the definition")
            }
            Self::NotAboutDefinition => "definition documentation required".to_owned(),
            Self::OtherName(name) => format!("documentation comment is for '{name}'"),
            Self::Required => "documentation comment required".to_owned(),
            Self::ReturnsNothing => {
                "'Returns' section, but command doesn't return anything".to_owned()
            }
            Self::CommandsOnly(part) => {
                format!("'{}' section is only valid for commands", part.heading())
            }
            Self::Undocumented { role, name } => format!("{role} '{name}' lacks documentation"),
            Self::FeatureUndocumented(name) => format!("feature '{name}' lacks documentation"),
            Self::Unknown { what, names } => {
                let (plural, verb) = match names.len() {
                    1 => ("", "does"),
                    _ => ("s", "do"),
                };
                let names = names.join("', '");
                format!("documented {what}{plural} '{names}' {verb} not exist")
            }
        }
    }

    /// Where the reference compiler would stop.
    pub(crate) fn stage(&self) -> Stage {
        match self {
            Self::JunkAtStart
            | Self::JunkAtEnd
            | Self::NeverEnds
            | Self::NoSpace
            | Self::TitleWithoutColon
            | Self::TitleWithoutName
            | Self::FeaturesTwice
            | Self::FeaturesEmpty
            | Self::MemberAfterSection(_)
            | Self::Retired(_)
            | Self::Heading
            | Self::HeadingNotFirst
            | Self::Indentation(_)
            | Self::FreeFormMember(_) => Stage::Lex,
            Self::EmptyName
            | Self::NameTwice(_)
            | Self::SectionTwice(_)
            | Self::SectionEmpty(_)
            | Self::NoDefinition(_)
            | Self::NotAboutDefinition => Stage::Read,
            Self::ReturnsNothing | Self::CommandsOnly(_) => Stage::Expression,
            Self::OtherName(_) | Self::Required => Stage::Definition,
            Self::Undocumented { .. } | Self::FeatureUndocumented(_) => Stage::Resolve,
            Self::Unknown { .. } => Stage::End,
        }
    }
}
