//! Schema names to Rust names: the one place that knows both. A registry allocates every name
//! before anything is emitted, so that no two are the same.
//! Called by `lib.rs`, which makes the registry, and by every emitter, which asks it.
//! Invariant: each name is an identifier in all editions, hides nothing of the prelude, and depends
//! on the schema alone; who comes first in the schema has the plain name, later ones a number.
//! Not here: paths to names (`emit/mod.rs`).

use std::collections::{HashMap, HashSet};

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use qapi_parser::{Arguments, Base, Kind, Member, Schema};

/// Keywords of the editions 2015 to 2024, reserved ones included.
const KEYWORDS: [&str; 53] = [
    "Self", "_", "abstract", "as", "async", "await", "become", "box", "break", "const", "continue",
    "crate", "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if",
    "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub",
    "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// Keywords that cannot be raw identifiers.
const NEVER_RAW: [&str; 5] = ["Self", "_", "crate", "self", "super"];

/// Types and constructors of the preludes: a definition of that name would hide it from generated
/// code, and from users who import everything.
const PRELUDE: [&str; 34] = [
    "AsMut",
    "AsRef",
    "AsyncFn",
    "AsyncFnMut",
    "AsyncFnOnce",
    "Box",
    "Clone",
    "Copy",
    "Default",
    "DoubleEndedIterator",
    "Drop",
    "Eq",
    "Err",
    "ExactSizeIterator",
    "Extend",
    "Fn",
    "FnMut",
    "FnOnce",
    "From",
    "FromIterator",
    "Future",
    "Into",
    "IntoFuture",
    "IntoIterator",
    "Iterator",
    "None",
    "Ok",
    "Option",
    "Ord",
    "PartialEq",
    "PartialOrd",
    "Result",
    "Send",
    "Some",
];

/// The rest of them.
const PRELUDE_MORE: [&str; 9] = [
    "Self", "Sized", "String", "Sync", "ToOwned", "ToString", "TryFrom", "TryInto", "Vec",
];

/// Associated names that generated types have; setters stay clear of them.
const METHODS: [&str; 5] = ["clone", "eq", "fmt", "kind", "new"];

/// File names that some systems reserve, and what is declared next to the modules.
const MODULES: [&str; 5] = ["aux", "con", "nul", "prn", "runtime"];

/// Something in the schema that has no name in Rust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unnamed {
    pub(crate) name: String,
    pub(crate) span: qapi_parser::Span,
}

/// Every name that generated code gives to something of the schema.
#[derive(Debug, Default)]
pub(crate) struct Names {
    types: HashMap<String, TypeNames>,
    commands: HashMap<String, String>,
    methods: HashMap<String, String>,
    events: HashMap<String, String>,
    modules: HashMap<String, String>,
    /// By schema file: the server's traits, of commands in band and out of band.
    servers: HashMap<String, (String, String)>,
    /// By owner, then by member, value or branch.
    inner: HashMap<String, Inner>,
}

#[derive(Debug, Default)]
struct TypeNames {
    ident: String,
    branch: String,
    kind: String,
}

#[derive(Debug, Default)]
struct Inner {
    fields: HashMap<String, String>,
    setters: HashMap<String, String>,
    variants: HashMap<String, String>,
    other: String,
}

impl Names {
    /// Allocates for everything in `schema`.
    pub(crate) fn new(schema: &Schema) -> Result<Self, Vec<Unnamed>> {
        let mut names = Self::default();
        let mut unnamed = Vec::new();
        names.modules(schema);
        names.definitions(schema, &mut unnamed);
        for entity in schema.entities.values() {
            let inner = inner(schema, entity, &mut unnamed);
            names.inner.insert(entity.name.clone(), inner);
        }
        if unnamed.is_empty() {
            Ok(names)
        } else {
            Err(unnamed)
        }
    }

    fn modules(&mut self, schema: &Schema) {
        let mut pool = Pool::new(&MODULES);
        let mut traits = Pool::new(&PRELUDE);
        let stems = schema.modules.keys();
        let used = schema.entities.values().map(|entity| &entity.module);
        for stem in stems.chain(used) {
            if !self.modules.contains_key(stem) {
                // A file called like a keyword would still be fine, `mod.rs` would not.
                let mut name = snake(stem);
                if KEYWORDS.contains(&name.as_str()) {
                    name.push('_');
                }
                self.modules.insert(stem.clone(), pool.take(name));
                let name = pascal(stem);
                let oob = traits.take(format!("{name}Oob"));
                self.servers.insert(stem.clone(), (traits.take(name), oob));
            }
        }
    }

    fn definitions(&mut self, schema: &Schema, unnamed: &mut Vec<Unnamed>) {
        let reserved = [&PRELUDE[..], &PRELUDE_MORE].concat();
        let mut types = Pool::new(&reserved);
        let mut commands = Pool::new(&reserved);
        let mut events = Pool::new(&reserved);
        let mut methods = Pool::new(&[]);
        for entity in schema.entities.values() {
            if !has_name(&entity.name) {
                unnamed.push(Unnamed {
                    name: entity.name.clone(),
                    span: entity.span,
                });
                continue;
            }
            let key = entity.name.clone();
            let name = pascal(&entity.name);
            match entity.kind {
                Kind::Command(_) => {
                    self.commands.insert(key.clone(), commands.take(name));
                    self.methods.insert(key, methods.take(snake(&entity.name)));
                }
                Kind::Event(_) => drop(self.events.insert(key, events.take(name))),
                _ => {
                    let ident = types.take(name);
                    let names = TypeNames {
                        ident,
                        ..TypeNames::default()
                    };
                    self.types.insert(key, names);
                }
            }
        }
        // What belongs to a union makes way for definitions.
        for (name, entity) in &schema.entities {
            let Some(names) = self.types.get_mut(name) else {
                continue;
            };
            let base = names.ident.trim_end_matches('_');
            match entity.kind {
                Kind::FlatUnion(_) => names.branch = types.take(format!("{base}Branch")),
                Kind::SimpleUnion(_) => {
                    names.kind = types.take(format!("{base}Kind"));
                    names.branch = types.take(format!("{base}Branch"));
                }
                _ => {}
            }
        }
    }

    /// Type `name`.
    pub(crate) fn ty(&self, name: &str) -> Ident {
        made(self.types.get(name).map(|names| &names.ident), name)
    }

    /// The enum of union `name`'s branches, where that is not the union itself.
    pub(crate) fn branches(&self, name: &str) -> Ident {
        made(self.types.get(name).map(|names| &names.branch), name)
    }

    /// The enum of simple union `name`'s tag.
    pub(crate) fn tag(&self, name: &str) -> Ident {
        made(self.types.get(name).map(|names| &names.kind), name)
    }

    /// Command `name`, as a type.
    pub(crate) fn command(&self, name: &str) -> Ident {
        made(self.commands.get(name), name)
    }

    /// Command `name`, as a method.
    pub(crate) fn method(&self, name: &str) -> Ident {
        made(self.methods.get(name), name)
    }

    /// Event `name`, as a type, and as a variant of the enum of all events.
    pub(crate) fn event(&self, name: &str) -> Ident {
        made(self.events.get(name), name)
    }

    /// The module of schema file `stem`.
    pub(crate) fn module(&self, stem: &str) -> Ident {
        made(self.modules.get(stem), stem)
    }

    /// The trait of a server for the commands of schema file `stem`.
    pub(crate) fn server(&self, stem: &str) -> Ident {
        made(self.servers.get(stem).map(|(name, _)| name), stem)
    }

    /// The same for those that may run out of band.
    pub(crate) fn oob_server(&self, stem: &str) -> Ident {
        made(self.servers.get(stem).map(|(_, name)| name), stem)
    }

    /// Member `member` of `owner`, or of its base, as a field.
    pub(crate) fn field(&self, owner: &str, member: &str) -> Ident {
        made(self.inner(owner, |inner| &inner.fields, member), member)
    }

    /// Member `member` of `owner`, or of its base, as a method that sets it.
    pub(crate) fn setter(&self, owner: &str, member: &str) -> Ident {
        made(self.inner(owner, |inner| &inner.setters, member), member)
    }

    /// Value or branch `value` of `owner`.
    pub(crate) fn variant(&self, owner: &str, value: &str) -> Ident {
        made(self.inner(owner, |inner| &inner.variants, value), value)
    }

    /// The variant of `owner` for what the schema does not have.
    pub(crate) fn other(&self, owner: &str) -> Ident {
        made(self.inner.get(owner).map(|inner| &inner.other), "Other")
    }

    fn inner(
        &self,
        owner: &str,
        space: fn(&Inner) -> &HashMap<String, String>,
        name: &str,
    ) -> Option<&String> {
        space(self.inner.get(owner)?).get(name)
    }
}

/// An allocated name; what was never allocated is not of this schema, and comes out as it is for
/// the compiler to show.
fn made(name: Option<&String>, asked: &str) -> Ident {
    match name {
        Some(name) => ident(name),
        None => ident(&snake(asked)),
    }
}

fn inner(schema: &Schema, entity: &qapi_parser::Entity, unnamed: &mut Vec<Unnamed>) -> Inner {
    let mut inner = Inner::default();
    let members: Vec<&Member> = match &entity.kind {
        Kind::Struct(_) => all(schema.members(&entity.name)),
        Kind::FlatUnion(union) => match &union.base {
            Base::Named(name) => all(schema.members(name)),
            Base::Inline(members) => members.iter().collect(),
        },
        Kind::SimpleUnion(union) => union
            .base
            .as_deref()
            .map_or_else(Vec::new, |base| all(schema.members(base))),
        Kind::Command(command) => listed(&command.arguments),
        Kind::Event(event) => listed(&event.data),
        Kind::Enum(_) | Kind::Alternate(_) => Vec::new(),
    };
    let (mut fields, mut setters) = (Pool::new(&[]), Pool::new(&METHODS));
    if matches!(entity.kind, Kind::SimpleUnion(_)) {
        // The field that holds the branch.
        fields.reserve("data");
    }
    for member in members {
        check(&member.name, member.span, unnamed);
        let key = &member.name;
        let name = snake(&member.name);
        inner.fields.insert(key.clone(), fields.take(name.clone()));
        inner.setters.insert(key.clone(), setters.take(name));
    }
    let mut variants = Pool::new(&[]);
    let mut add = |name: &str, span| {
        check(name, span, unnamed);
        if !inner.variants.contains_key(name) {
            let ident = variants.take(pascal(name));
            inner.variants.insert(name.to_owned(), ident);
        }
    };
    match &entity.kind {
        Kind::Enum(values) => values.values.iter().for_each(|v| add(&v.name, v.span)),
        // Named as the tag's values are: one match reads like the other.
        Kind::FlatUnion(union) => {
            if let Some(Kind::Enum(values)) = schema.get(&union.tag).map(|tag| &tag.kind) {
                values.values.iter().for_each(|v| add(&v.name, v.span));
            }
        }
        Kind::SimpleUnion(union) => union.branches.iter().for_each(|b| add(&b.name, b.span)),
        Kind::Alternate(alternate) => alternate.branches.iter().for_each(|b| add(&b.name, b.span)),
        Kind::Struct(_) | Kind::Command(_) | Kind::Event(_) => {}
    }
    inner.other = variants.other();
    inner
}

fn all<T>(members: Vec<(&Member, T)>) -> Vec<&Member> {
    members.into_iter().map(|(member, _)| member).collect()
}

fn listed(arguments: &Arguments) -> Vec<&Member> {
    match arguments {
        Arguments::Members(members) => members.iter().collect(),
        Arguments::Type(_) => Vec::new(),
    }
}

fn check(name: &str, span: qapi_parser::Span, unnamed: &mut Vec<Unnamed>) {
    if !has_name(name) {
        let name = name.to_owned();
        unnamed.push(Unnamed { name, span });
    }
}

/// Whether anything of `name` can stand in an identifier, and all that will can.
fn has_name(name: &str) -> bool {
    name.chars().any(char::is_alphanumeric)
        && (name.is_ascii() || is_ident(&snake(name)) && is_ident(&pascal(name)))
}

/// Whether letters beyond ASCII are ones that identifiers may have.
fn is_ident(name: &str) -> bool {
    let tokens: Result<TokenStream, _> = name.parse();
    tokens.is_ok_and(|tokens| {
        let mut tokens = tokens.into_iter();
        matches!(
            (tokens.next(), tokens.next()),
            (Some(TokenTree::Ident(_)), None)
        )
    })
}

/// Names of one namespace.
struct Pool {
    taken: HashSet<String>,
}

impl Pool {
    fn new(reserved: &[&str]) -> Self {
        let taken = reserved.iter().map(|&name| name.to_owned()).collect();
        Self { taken }
    }

    fn reserve(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// `name`, or the next like it that is free: `name_` for what means something to Rust, then
    /// numbers.
    fn take(&mut self, name: String) -> String {
        if !NEVER_RAW.contains(&name.as_str()) && self.taken.insert(name.clone()) {
            return name;
        }
        let marked = format!("{name}_");
        if is_reserved(&name) && self.taken.insert(marked.clone()) {
            return marked;
        }
        let dash = if name.ends_with(|last: char| last.is_ascii_digit()) {
            "_"
        } else {
            ""
        };
        let mut number = 2;
        loop {
            let numbered = format!("{name}{dash}{number}");
            if self.taken.insert(numbered.clone()) {
                return numbered;
            }
            number += 1;
        }
    }

    /// A variant for all the others.
    fn other(&mut self) -> String {
        let free = ["Other", "Unknown"]
            .into_iter()
            .find(|name| !self.taken.contains(*name));
        self.take(free.unwrap_or("OtherValue").to_owned())
    }
}

fn is_reserved(name: &str) -> bool {
    NEVER_RAW.contains(&name)
        || PRELUDE.contains(&name)
        || PRELUDE_MORE.contains(&name)
        || METHODS.contains(&name)
        || MODULES.contains(&name)
}

/// The words of a name in capitals: types, enum variants, commands, events.
fn pascal(name: &str) -> String {
    // Event names are upper case throughout; what has a lower-case letter keeps its case.
    let shouting = name.chars().any(char::is_uppercase) && !name.chars().any(char::is_lowercase);
    let mut out = String::new();
    let mut boundary = true;
    for character in name.chars() {
        if !character.is_alphanumeric() {
            // `+` means something in names of machines and codecs.
            if character == '+' {
                out.push_str("Plus");
            }
            boundary = true;
            continue;
        }
        // `1.2` and `12` stay apart.
        if boundary
            && character.is_ascii_digit()
            && out
                .chars()
                .next_back()
                .is_some_and(|last| last.is_ascii_digit())
        {
            out.push('_');
        }
        if boundary {
            out.extend(character.to_uppercase());
        } else if shouting {
            out.extend(character.to_lowercase());
        } else {
            out.push(character);
        }
        boundary = false;
    }
    if out.is_empty() || out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// The words of a name in lower case: fields, methods, modules.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut lower_before = false;
    for character in name.chars() {
        if !character.is_alphanumeric() {
            if character == '+' {
                out.push_str(if out.is_empty() || out.ends_with('_') {
                    "plus"
                } else {
                    "_plus"
                });
            }
            // Two underscores in a row are bad style to the compiler.
            if !out.is_empty() && !out.ends_with('_') {
                out.push('_');
            }
            lower_before = false;
            continue;
        }
        if character.is_uppercase() && lower_before {
            out.push('_');
        }
        lower_before = character.is_lowercase() || character.is_ascii_digit();
        out.extend(character.to_lowercase());
    }
    let mut out = out.trim_end_matches('_').to_owned();
    if out.is_empty() || out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

/// `name` as an identifier, raw where it is a keyword.
pub(crate) fn ident(name: &str) -> Ident {
    if NEVER_RAW.contains(&name) {
        Ident::new(&format!("{name}_"), Span::call_site())
    } else if KEYWORDS.contains(&name) {
        Ident::new_raw(name, Span::call_site())
    } else {
        Ident::new(name, Span::call_site())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_valid_rust() {
        assert_eq!(pascal("l1_grow.alloc_table"), "L1GrowAllocTable");
        assert_eq!(pascal("BLOCK_JOB_COMPLETED"), "BlockJobCompleted");
        assert_eq!(pascal("ImageInfoSpecificQCow2"), "ImageInfoSpecificQCow2");
        assert_eq!(pascal("1.2"), "_1_2");
        assert_eq!(pascal("pc+q35"), "PcPlusQ35");
        assert_eq!(snake("tray_open"), "tray_open");
        assert_eq!(snake("node-name"), "node_name");
        assert_eq!(snake("a--b_"), "a_b");
        assert_eq!(snake("__com.example_x"), "com_example_x");
        assert_eq!(ident("type").to_string(), "r#type");
        assert_eq!(ident("gen").to_string(), "r#gen");
    }

    #[test]
    fn what_meets_is_told_apart_by_a_number() {
        let mut pool = Pool::new(&PRELUDE_MORE);
        assert_eq!(pool.take("Foo".to_owned()), "Foo");
        assert_eq!(pool.take("Foo".to_owned()), "Foo2");
        assert_eq!(pool.take("Foo2".to_owned()), "Foo2_2");
        assert_eq!(pool.take("String".to_owned()), "String_");
        assert_eq!(pool.take("String".to_owned()), "String2");
        assert_eq!(pool.take("Self".to_owned()), "Self_");
        assert_eq!(pool.other(), "Other");
        assert_eq!(pool.other(), "Unknown");
    }

    #[test]
    fn punctuation_and_marks_alone_are_no_name() {
        assert!(has_name("a"));
        assert!(has_name("4"));
        assert!(has_name("größe"));
        assert!(!has_name("-"));
        assert!(!has_name(""));
        assert!(!has_name("a①"));
    }
}
