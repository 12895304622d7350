//! Documentation to `///`: which text stands where, with its sections as headings. What has none
//! gets a line that says what it is, so that generated code passes `missing_docs`.
//! Called by the emitters. Not here: markup (`markdown.rs`).

use proc_macro2::TokenStream;
use qapi_parser::{Arguments, Base, Cond, Entity, Feature, Kind, Section, SectionKind};
use quote::quote;

use super::{Context, Scope};
use crate::markdown::{self, markdown};
use crate::options::Conditions;
use crate::tokens::text_literal;

/// The documentation of a whole entity, as it stands in `scope`.
pub(super) fn entity(context: &Context<'_>, scope: Scope<'_>, entity: &Entity) -> TokenStream {
    let links = Links {
        context,
        scope,
        entity,
    };
    let mut text = links.sentence(&entity.doc.body);
    if text.is_empty() {
        text = format!("`{}`.", entity.name);
    }
    // Plain sections go on where the body ended; the others have a heading, once.
    for kind in [
        SectionKind::Plain,
        SectionKind::Returns,
        SectionKind::Errors,
        SectionKind::Since,
    ] {
        let of_kind = |section: &&Section| section.kind == kind && !section.text.is_empty();
        for (index, section) in entity.doc.sections.iter().filter(of_kind).enumerate() {
            text.push_str("\n\n");
            if index == 0
                && let Some(heading) = heading(kind)
            {
                text.push_str(&format!("# {heading}\n\n"));
            }
            text.push_str(&links.sentence(&section.text));
        }
        if kind == SectionKind::Errors {
            text.push_str(&links.features(&entity.features, "# Features\n\n"));
        }
    }
    attribute(&text)
}

fn heading(kind: SectionKind) -> Option<&'static str> {
    match kind {
        SectionKind::Returns => Some("Returns"),
        SectionKind::Errors => Some("Errors"),
        SectionKind::Since => Some("Since"),
        SectionKind::Plain | SectionKind::Todo => None,
    }
}

/// The documentation of member, value or branch `name`, which `owner` has, in `entity`.
pub(super) fn member(
    context: &Context<'_>,
    entity: &Entity,
    owner: &Entity,
    name: &str,
    features: &[Feature],
) -> TokenStream {
    let scope = context.scope(entity);
    let links = Links {
        context,
        scope,
        entity: owner,
    };
    let mut text = match owner.doc.members.get(name) {
        Some(text) => links.sentence(text),
        None => String::new(),
    };
    if text.is_empty() {
        text = format!("`{name}`.");
    }
    text.push_str(&links.features(features, ""));
    attribute(&text)
}

/// What documentation says, on one line without markup.
pub(super) fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('@', "").replace("``", "`")
}

/// `text` as one attribute; the printer makes lines of it.
fn attribute(text: &str) -> TokenStream {
    let mut out = String::with_capacity(text.len() + 16);
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if !line.is_empty() {
            out.push(' ');
            out.push_str(line);
        }
    }
    let out = text_literal(&out);
    quote!(#[doc = #out])
}

/// Finds what documentation mentions by name.
struct Links<'a> {
    context: &'a Context<'a>,
    /// Where the text will stand.
    scope: Scope<'a>,
    /// What it is about.
    entity: &'a Entity,
}

impl Links<'_> {
    /// `text` in markdown, as a sentence.
    fn sentence(&self, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        let mut text = markdown(text, &|name| self.find(name));
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let ends_open =
            text.ends_with(|last: char| last.is_alphanumeric() || matches!(last, '`' | ')'));
        if ends_open && !text.ends_with("```") {
            text.push('.');
        }
        text
    }

    /// The features of something, as a list below `heading`.
    fn features(&self, features: &[Feature], heading: &str) -> String {
        let mut out = String::new();
        for feature in features {
            out.push_str(if out.is_empty() { "\n\n" } else { "\n" });
            if out.len() == 2 {
                out.push_str(heading);
            }
            let text = self.entity.doc.features.get(&feature.name);
            let text = text.map_or_else(String::new, |text| self.sentence(text));
            let text = text.replace('\n', "\n  ").replace("\n  \n", "\n\n");
            let colon = if text.is_empty() { "" } else { ": " };
            out.push_str(&format!("- `{}`{colon}{text}", feature.name));
        }
        out
    }

    /// The link to what is called `name`; `None` when it is nothing of this schema, or may be left
    /// out of it.
    fn find(&self, name: &str) -> Option<String> {
        if let Some(target) = self.member(name) {
            return Some(target);
        }
        let found = self.context.schema.get(name)?;
        self.path(found)
    }

    /// The path of what `entity` defines, from where the text stands.
    fn path(&self, entity: &Entity) -> Option<String> {
        let context = self.context;
        if !self.is_there(&entity.cond) || context.hooks.replacement(&entity.name).is_some() {
            return None;
        }
        let (space, ident) = match entity.kind {
            Kind::Command(_) => ("commands", context.names.command(&entity.name)),
            Kind::Event(_) => ("events", context.names.event(&entity.name)),
            _ => ("types", context.names.ty(&entity.name)),
        };
        Some(match self.scope {
            Scope::Types(file) if space == "types" && file == entity.module => ident.to_string(),
            Scope::Types(_) if space == "types" => format!("super::{ident}"),
            Scope::Commands if space == "commands" => format!("super::{ident}"),
            Scope::Events if space == "events" => format!("super::{ident}"),
            Scope::Types(_) | Scope::Commands | Scope::Events | Scope::Server => {
                format!("super::super::{space}::{ident}")
            }
            Scope::Interface => format!("super::{space}::{ident}"),
        })
    }

    /// The link to member, value or branch `name` of what the text is about.
    fn member(&self, name: &str) -> Option<String> {
        let (context, entity) = (self.context, self.entity);
        let members = match &entity.kind {
            Kind::Struct(structure) => &structure.members,
            Kind::FlatUnion(union) => match &union.base {
                Base::Inline(members) => members,
                Base::Named(_) => return None,
            },
            Kind::Command(command) => match &command.arguments {
                Arguments::Members(members) if command.typed => members,
                _ => return None,
            },
            Kind::Event(event) => match &event.data {
                Arguments::Members(members) => members,
                Arguments::Type(_) => return None,
            },
            Kind::Enum(values) => {
                let value = values.values.iter().find(|value| value.name == name)?;
                let ident = context.names.variant(&entity.name, name);
                return self.anchor(&value.cond, "variant", &ident.to_string());
            }
            Kind::SimpleUnion(_) | Kind::Alternate(_) => return None,
        };
        let member = members.iter().find(|member| member.name == name)?;
        let ident = context.names.field(&entity.name, name);
        self.anchor(&member.cond, "structfield", &ident.to_string())
    }

    /// A field's own page is its struct's.
    fn anchor(&self, cond: &Cond, kind: &str, ident: &str) -> Option<String> {
        if !self.is_there(cond) {
            return None;
        }
        let ident = ident.trim_start_matches("r#");
        Some(format!("{}#{kind}.{ident}", self.path(self.entity)?))
    }

    fn is_there(&self, cond: &Cond) -> bool {
        self.context.options.conditions != Conditions::Features || cond.is_always()
    }
}

/// The documentation that stands by itself in a schema file.
pub(super) fn file(text: &str) -> String {
    markdown::markdown(text, &|_| None)
}
