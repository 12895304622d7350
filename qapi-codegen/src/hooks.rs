//! Hooks, looked up by place: what users change of single definitions.
//! Made by `lib.rs`, which refuses those that name nothing; asked by emitters.
//! Invariant: every hook is used by at least one emitter, or refused.

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Base, Kind, Member, Schema};

use crate::options::{Change, Hook};

/// The hooks of [`crate::Options`], as tokens.
#[derive(Default)]
pub(crate) struct Hooks {
    list: Vec<Entry>,
}

struct Entry {
    entity: String,
    member: Option<String>,
    change: What,
}

enum What {
    Derive(TokenStream),
    Attribute(TokenStream),
    Replace(TokenStream),
}

impl Hooks {
    /// The hooks in `options`, or what is wrong with them.
    pub(crate) fn new(schema: &Schema, hooks: &[Hook]) -> Result<Self, Vec<String>> {
        let mut list = Vec::new();
        let mut errors = Vec::new();
        for hook in hooks {
            match entry(schema, hook) {
                Ok(entry) => list.push(entry),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self { list })
        } else {
            Err(errors)
        }
    }

    fn of<'a>(
        &'a self,
        entity: &'a str,
        member: Option<&'a str>,
    ) -> impl Iterator<Item = &'a What> {
        let here =
            move |entry: &&Entry| entry.entity == entity && entry.member.as_deref() == member;
        self.list.iter().filter(here).map(|entry| &entry.change)
    }

    /// What stands in for type `entity`.
    pub(crate) fn replacement(&self, entity: &str) -> Option<TokenStream> {
        self.replaced(entity, None)
    }

    /// What stands in for the type of `member`.
    pub(crate) fn member_replacement(&self, entity: &str, member: &str) -> Option<TokenStream> {
        self.replaced(entity, Some(member))
    }

    fn replaced(&self, entity: &str, member: Option<&str>) -> Option<TokenStream> {
        self.of(entity, member).find_map(|what| match what {
            What::Replace(path) => Some(path.clone()),
            What::Derive(_) | What::Attribute(_) => None,
        })
    }

    /// Attributes for `entity`, or for a member of it.
    pub(crate) fn attributes(&self, entity: &str, member: Option<&str>) -> TokenStream {
        let attributes = self.of(entity, member).filter_map(|what| match what {
            What::Attribute(attribute) => Some(attribute.clone()),
            What::Derive(_) | What::Replace(_) => None,
        });
        attributes.collect()
    }

    /// Traits that `entity` derives too.
    pub(crate) fn derives(&self, entity: &str) -> Vec<TokenStream> {
        let derives = self.of(entity, None).filter_map(|what| match what {
            What::Derive(path) => Some(path.clone()),
            What::Attribute(_) | What::Replace(_) => None,
        });
        derives.collect()
    }
}

fn entry(schema: &Schema, hook: &Hook) -> Result<Entry, String> {
    let path = &hook.path;
    // Names of definitions have no dot in today's dialect; the old one allows any.
    let (entity, member) = match (schema.get(path), path.split_once('.')) {
        (None, Some((entity, member))) => (entity, Some(member)),
        _ => (path.as_str(), None),
    };
    let Some(found) = schema.get(entity) else {
        return Err(format!("hook `{path}`: the schema has no `{entity}`"));
    };
    if let Some(member) = member
        && !names(&found.kind).contains(&member)
    {
        return Err(format!(
            "hook `{path}`: `{entity}` has no `{member}` of its own"
        ));
    }
    let tokens = |text: &str| {
        let tokens: Result<TokenStream, _> = text.parse();
        tokens
            .ok()
            .filter(|tokens| !tokens.is_empty())
            .ok_or_else(|| format!("hook `{path}`: `{text}` is not Rust"))
    };
    let place = match member {
        Some(_) => "a member",
        None if found.kind.is_type() => "a type",
        None => "a command or event",
    };
    let change = match &hook.change {
        Change::Derive(path) if member.is_none() => What::Derive(tokens(path)?),
        Change::Attribute(attribute) if attribute.trim_start().starts_with('#') => {
            What::Attribute(tokens(attribute)?)
        }
        Change::Attribute(attribute) => {
            return Err(format!(
                "hook `{path}`: `{attribute}` is not an attribute, `#[…]`"
            ));
        }
        Change::Replace(_) if is_tag(schema, entity, member) => {
            return Err(format!(
                "hook `{path}`: a union's branches are chosen by it"
            ));
        }
        Change::Replace(path) if has_type(&found.kind, member) => What::Replace(tokens(path)?),
        Change::Derive(_) => return Err(format!("hook `{path}`: {place} derives nothing")),
        Change::Replace(_) => return Err(format!("hook `{path}`: {place} has no type to replace")),
    };
    Ok(Entry {
        entity: entity.to_owned(),
        member: member.map(str::to_owned),
        change,
    })
}

/// Names of an entity's own members, values or branches.
fn names(kind: &Kind) -> Vec<&str> {
    fn listed(members: &[Member]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }
    match kind {
        Kind::Enum(values) => values.names().collect(),
        Kind::Struct(structure) => listed(&structure.members),
        Kind::FlatUnion(union) => {
            let mut names = match &union.base {
                Base::Named(_) => Vec::new(),
                Base::Inline(members) => listed(members),
            };
            names.extend(union.branches.iter().map(|branch| branch.name.as_str()));
            names
        }
        Kind::SimpleUnion(union) => union.branches.iter().map(|b| b.name.as_str()).collect(),
        Kind::Alternate(alternate) => alternate.branches.iter().map(|b| b.name.as_str()).collect(),
        Kind::Command(command) => match &command.arguments {
            Arguments::Members(members) => listed(members),
            Arguments::Type(_) => Vec::new(),
        },
        Kind::Event(event) => match &event.data {
            Arguments::Members(members) => listed(members),
            Arguments::Type(_) => Vec::new(),
        },
    }
}

/// Whether a definition, or a member of it, has a type that can be another.
fn has_type(kind: &Kind, member: Option<&str>) -> bool {
    match member {
        None => kind.is_type(),
        Some(_) => !matches!(kind, Kind::Enum(_)),
    }
}

/// Whether it is the enum that chooses a union's branches, or the member that holds it.
fn is_tag(schema: &Schema, entity: &str, member: Option<&str>) -> bool {
    schema.entities.values().any(|user| match &user.kind {
        Kind::FlatUnion(union) => match member {
            None => union.tag == entity,
            Some(member) => {
                let members = schema.base_members(user, union);
                let tag = members
                    .iter()
                    .find(|(member, _)| member.name == union.discriminator);
                tag.is_some_and(|(tag, owner)| owner.name == entity && tag.name == member)
            }
        },
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, change: Change, want: &str) {
        let schema = qapi_parser::parse("../tests/schemas/ok/flat_union.json").unwrap();
        let path = path.to_owned();
        let error = Hooks::new(&schema, &[Hook { path, change }])
            .err()
            .unwrap_or_default();
        assert_eq!(error.join("; "), want);
    }

    #[test]
    fn a_hook_that_fits_nothing_is_refused() {
        let eq = || Change::Derive("Eq".to_owned());
        let with = |path: &str| Change::Replace(path.to_owned());
        check("K", eq(), "");
        check("Nope", eq(), "hook `Nope`: the schema has no `Nope`");
        check(
            "K.nope",
            eq(),
            "hook `K.nope`: `K` has no `nope` of its own",
        );
        check("K.a", eq(), "hook `K.a`: a member derives nothing");
        check(
            "K",
            with("u8"),
            "hook `K`: a union's branches are chosen by it",
        );
        check(
            "K.a",
            with("u8"),
            "hook `K.a`: a member has no type to replace",
        );
        let attribute = Change::Attribute("doc(hidden)".to_owned());
        check(
            "K",
            attribute,
            "hook `K`: `doc(hidden)` is not an attribute, `#[…]`",
        );
    }
}
