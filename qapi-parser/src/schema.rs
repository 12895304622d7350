//! The resolved model that emitters read: every name it mentions is defined.
//! Built by `resolve.rs`, added to by `overlay.rs`.
//! Invariant: entities stand in schema order (an included file before what follows the include);
//! bases are acyclic; members of a struct, its base and its branches do not clash.
//! Both dialects end here: what only one of them can say is a field or variant of its own.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::cond::Cond;
use crate::source::{Sources, Span};

/// A whole schema.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// Types, commands and events by name, in schema order.
    pub entities: IndexMap<String, Entity>,
    /// The schema's files by the stem that [`Entity::module`] names, in the order of their first
    /// line: the root first.
    pub modules: IndexMap<String, Module>,
    /// The files it was read from: what a build script must watch.
    pub files: Vec<PathBuf>,
}

/// A file of the schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Documentation that stands in it by itself, about no definition.
    pub doc: String,
}

/// Which language expressions are read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Each expression as what it can only be; either, where it could be both.
    #[default]
    Auto,
    /// That of QEMU 2.1: `type`, simple and anonymous `union`, nested inline structs.
    Legacy,
    /// Today's: `struct`, `alternate`, `if`, `features`, documentation that is checked.
    Modern,
}

/// One definition.
#[derive(Debug, Clone)]
pub struct Entity {
    /// Its name as written. Of an inline struct: the names that lead to it, joined by `-`.
    pub name: String,
    /// Stem of the schema file that defines it, as in `block-core`.
    pub module: String,
    /// Where it was defined.
    pub span: Span,
    /// When it is there at all.
    pub cond: Cond,
    /// What is to be known of it: an open set, of which `deprecated` and `unstable` mean something
    /// to generators.
    pub features: Vec<Feature>,
    /// Its documentation.
    pub doc: Doc,
    /// What it defines.
    pub kind: Kind,
}

/// Something to be known of an entity, member or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// When it holds.
    pub cond: Cond,
}

/// Documentation: of the whole and of each member, value or branch. Texts are as written, without
/// the comment marks and common indentation, paragraphs apart by an empty line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doc {
    /// Of the whole.
    pub body: String,
    /// By member, value or branch name.
    pub members: IndexMap<String, String>,
    /// By name of the feature.
    pub features: IndexMap<String, String>,
    /// What follows, in the order written.
    pub sections: Vec<Section>,
}

/// A part of documentation with a heading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it is about.
    pub kind: SectionKind,
    /// Its text.
    pub text: String,
}

/// Headings that documentation knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// The version that brought it.
    Since,
    /// What a command answers.
    Returns,
    /// How a command fails.
    Errors,
    /// What is left to be done; not for users.
    Todo,
    /// More of the body.
    Plain,
}

/// What an entity is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A set of strings.
    Enum(Enum),
    /// An object type.
    Struct(Struct),
    /// An object type whose further members depend on one of its own.
    FlatUnion(FlatUnion),
    /// On the wire `{"type": …, "data": …}`.
    SimpleUnion(SimpleUnion),
    /// One of several types, told apart by JSON type.
    Alternate(Alternate),
    /// A command.
    Command(Command),
    /// An event.
    Event(Event),
}

/// A set of strings.
#[derive(Debug, Clone)]
pub struct Enum {
    /// The values, in schema order.
    pub values: Vec<EnumValue>,
    /// What C names start with instead of the enum's own name.
    pub prefix: Option<String>,
}

/// One value of an enum.
#[derive(Debug, Clone)]
pub struct EnumValue {
    /// Its name.
    pub name: String,
    /// When it is there.
    pub cond: Cond,
    /// What is to be known of it.
    pub features: Vec<Feature>,
    /// Where its name was written.
    pub span: Span,
}

/// An object type.
#[derive(Debug, Clone)]
pub struct Struct {
    /// A struct whose members come first.
    pub base: Option<String>,
    /// Its own members.
    pub members: Vec<Member>,
}

/// A member of an object, or an argument.
#[derive(Debug, Clone)]
pub struct Member {
    /// Name on the wire.
    pub name: String,
    /// Whether it may be absent.
    pub optional: bool,
    /// Its type.
    pub ty: Type,
    /// When it is there.
    pub cond: Cond,
    /// What is to be known of it.
    pub features: Vec<Feature>,
    /// Where its name was written.
    pub span: Span,
    /// Where its type was written.
    pub ty_span: Span,
}

/// A use of a type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// One the language has.
    Builtin(Builtin),
    /// One that the schema defines.
    Named(String),
    /// An array.
    List(Box<Type>),
}

/// Types the language has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// A string.
    Str,
    /// A signed 64-bit integer.
    Int,
    /// A floating-point number.
    Number,
    /// A boolean.
    Bool,
    /// A signed 8-bit integer.
    Int8,
    /// A signed 16-bit integer.
    Int16,
    /// A signed 32-bit integer.
    Int32,
    /// A signed 64-bit integer.
    Int64,
    /// An unsigned 8-bit integer.
    Uint8,
    /// An unsigned 16-bit integer.
    Uint16,
    /// An unsigned 32-bit integer.
    Uint32,
    /// An unsigned 64-bit integer.
    Uint64,
    /// An unsigned 64-bit integer that is a length in bytes.
    Size,
    /// JSON's `null`.
    Null,
    /// Any JSON value.
    Any,
    /// The kind of a JSON value, as a string.
    QType,
}

/// A struct whose discriminator tells which branch's members follow.
#[derive(Debug, Clone)]
pub struct FlatUnion {
    /// The members of every branch, the discriminator among them.
    pub base: Base,
    /// Name of the discriminator, a member of the base.
    pub discriminator: String,
    /// The discriminator's enum.
    pub tag: String,
    /// Branches in schema order; a value of the enum without a branch adds no members.
    pub branches: Vec<Branch>,
}

/// Where the common members of a flat union stand.
#[derive(Debug, Clone)]
pub enum Base {
    /// In a struct.
    Named(String),
    /// In the union itself.
    Inline(Vec<Member>),
}

/// A union that wraps its branches in `{"type": …, "data": …}`.
#[derive(Debug, Clone)]
pub struct SimpleUnion {
    /// A struct whose members stand beside `type` and `data`.
    pub base: Option<String>,
    /// Branches in schema order; their names are the values of `type`.
    pub branches: Vec<Branch>,
}

/// A union without a tag.
#[derive(Debug, Clone)]
pub struct Alternate {
    /// Branches in schema order, each of another JSON type.
    pub branches: Vec<Branch>,
}

/// One branch of a union or alternate.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its type. Of a flat union: a struct, or another flat union.
    pub ty: Type,
    /// When it is there.
    pub cond: Cond,
    /// Where its name was written.
    pub span: Span,
    /// Where its type was written.
    pub ty_span: Span,
}

/// A command.
#[derive(Debug, Clone)]
pub struct Command {
    /// What it takes.
    pub arguments: Arguments,
    /// What it answers; `None` is an empty object.
    pub returns: Option<Type>,
    /// False for `'gen': 'no'`: arguments and answer are whatever JSON says.
    pub typed: bool,
    /// False for `'success-response': 'no'`: it answers only when it fails.
    pub answers: bool,
    /// May be run out of band.
    pub allow_oob: bool,
    /// May be run before the machine is configured.
    pub allow_preconfig: bool,
    /// Runs as a coroutine in QEMU.
    pub coroutine: bool,
    /// Its arguments are one type, passed on as a whole.
    pub boxed: bool,
    /// Its only argument, whose members may also be given directly in place of it.
    pub flat: Option<String>,
}

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it carries.
    pub data: Arguments,
    /// Its data is one type, passed on as a whole.
    pub boxed: bool,
}

/// What a command takes or an event carries.
#[derive(Debug, Clone)]
pub enum Arguments {
    /// Members listed in place.
    Members(Vec<Member>),
    /// Those of a struct or flat union.
    Type(String),
}

impl Type {
    /// The type called `name` in a schema: built in, or else defined there.
    pub(crate) fn from_name(name: &str) -> Self {
        Builtin::from_name(name).map_or_else(|| Self::Named(name.to_owned()), Self::Builtin)
    }
}

impl Builtin {
    /// The type called `name` in a schema.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "str" => Self::Str,
            "int" => Self::Int,
            "number" => Self::Number,
            "bool" => Self::Bool,
            "int8" => Self::Int8,
            "int16" => Self::Int16,
            "int32" => Self::Int32,
            "int64" => Self::Int64,
            "uint8" => Self::Uint8,
            "uint16" => Self::Uint16,
            "uint32" => Self::Uint32,
            "uint64" => Self::Uint64,
            "size" => Self::Size,
            "null" => Self::Null,
            "any" => Self::Any,
            "QType" => Self::QType,
            _ => return None,
        })
    }

    /// Its name in a schema.
    pub fn name(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Size => "size",
            Self::Null => "null",
            Self::Any => "any",
            Self::QType => "QType",
        }
    }

    /// The kind of JSON value that it is.
    pub fn json_type(self) -> JsonType {
        match self {
            Self::Str | Self::QType => JsonType::String,
            Self::Number => JsonType::Number,
            Self::Bool => JsonType::Boolean,
            Self::Null => JsonType::Null,
            Self::Any => JsonType::Value,
            Self::Int
            | Self::Int8
            | Self::Int16
            | Self::Int32
            | Self::Int64
            | Self::Uint8
            | Self::Uint16
            | Self::Uint32
            | Self::Uint64
            | Self::Size => JsonType::Int,
        }
    }
}

/// Kinds of JSON values, as introspection names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JsonType {
    /// A string.
    String,
    /// A number with a fraction.
    Number,
    /// A number without.
    Int,
    /// True or false.
    Boolean,
    /// Null.
    Null,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Any of them.
    Value,
}

impl JsonType {
    /// Its name in introspection.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Int => "int",
            Self::Boolean => "boolean",
            Self::Null => "null",
            Self::Object => "object",
            Self::Array => "array",
            Self::Value => "value",
        }
    }
}

impl Schema {
    /// The file in which `span` stands.
    pub fn file(&self, span: Span) -> Option<&Path> {
        self.files.get(span.file.0).map(PathBuf::as_path)
    }

    /// Where `span` stands, as `file:line:column`; without line where the file is gone by now.
    pub fn locate(&self, span: Span) -> String {
        let Some(path) = self.file(span) else {
            return "the schema".to_owned();
        };
        let Ok(text) = std::fs::read_to_string(path) else {
            return path.display().to_string();
        };
        let mut sources = Sources::default();
        let file = sources.add(path, text.into(), None);
        let place = sources.place(file, span.start);
        format!("{}:{}:{}", path.display(), place.line, place.column)
    }

    /// The entity called `name`.
    pub fn get(&self, name: &str) -> Option<&Entity> {
        self.entities.get(name)
    }

    /// The struct called `name`.
    pub fn structure(&self, name: &str) -> Option<&Struct> {
        match &self.get(name)?.kind {
            Kind::Struct(structure) => Some(structure),
            _ => None,
        }
    }

    /// All members of struct `name` with where each is documented, those of its bases first.
    pub fn members(&self, name: &str) -> Vec<(&Member, &Entity)> {
        let Some(entity) = self.get(name) else {
            return Vec::new();
        };
        let Kind::Struct(structure) = &entity.kind else {
            return Vec::new();
        };
        let mut members = structure
            .base
            .as_deref()
            .map_or_else(Vec::new, |b| self.members(b));
        members.extend(structure.members.iter().map(|member| (member, entity)));
        members
    }

    /// The members that every branch of `union`, which `entity` is, has; each with where it is
    /// documented.
    pub fn base_members<'a>(
        &'a self,
        entity: &'a Entity,
        union: &'a FlatUnion,
    ) -> Vec<(&'a Member, &'a Entity)> {
        match &union.base {
            Base::Named(name) => self.members(name),
            Base::Inline(members) => members.iter().map(|member| (member, entity)).collect(),
        }
    }

    /// The kind of JSON value that `ty` is; of an alternate, any.
    pub fn json_type(&self, ty: &Type) -> JsonType {
        match ty {
            Type::Builtin(builtin) => builtin.json_type(),
            Type::List(_) => JsonType::Array,
            Type::Named(name) => match self.get(name).map(|entity| &entity.kind) {
                Some(Kind::Enum(_)) => JsonType::String,
                Some(Kind::Alternate(_)) | None => JsonType::Value,
                Some(_) => JsonType::Object,
            },
        }
    }
}

impl Entity {
    /// Whether feature `name` is among its own.
    pub fn has_feature(&self, name: &str) -> bool {
        has_feature(&self.features, name)
    }
}

impl Member {
    /// Whether feature `name` is among its own.
    pub fn has_feature(&self, name: &str) -> bool {
        has_feature(&self.features, name)
    }
}

impl EnumValue {
    /// Whether feature `name` is among its own.
    pub fn has_feature(&self, name: &str) -> bool {
        has_feature(&self.features, name)
    }
}

fn has_feature(features: &[Feature], name: &str) -> bool {
    features.iter().any(|feature| feature.name == name)
}

impl Enum {
    /// The names of its values, in schema order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|value| value.name.as_str())
    }
}

impl Kind {
    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Enum(_) => "an enum",
            Self::Struct(_) => "a struct",
            Self::FlatUnion(_) | Self::SimpleUnion(_) => "a union",
            Self::Alternate(_) => "an anonymous union",
            Self::Command(_) => "a command",
            Self::Event(_) => "an event",
        }
    }

    /// Whether it can be the type of a member.
    pub fn is_type(&self) -> bool {
        !matches!(self, Self::Command(_) | Self::Event(_))
    }
}
