//! Overlays: what is added to a schema without touching its files.
//! Called by `lib.rs` after names are defined and before they are checked, so that what an overlay
//! adds obeys the same rules.
//! Invariant: an overlay only adds: optional members, enum values, branches, documentation, a
//! second spelling for a command's argument. Of what the schema says, two things may change: a
//! branch's type, and that a member must be given.
//!
//! An overlay is a JSON object; each key names a definition, its value what is added:
//! `{"T": {"doc": "…", "docs": {"member": "…"}, "members": {"*m": "str"}, "values": ["v"],
//! "branches": {"b": "Type"}, "optional": ["member"], "flat": "argument"}}`.

use crate::check::legacy;
use crate::doc;
use crate::error::{Diagnostic, Diagnostics};
use crate::parse;
use crate::resolve::{self, Origins};
use crate::schema::{Arguments, Branch, Kind, Member, Schema, Type};
use crate::source::FileId;
use crate::syntax::{Node, Object, Text, Value};

const KEYS: [&str; 7] = [
    "doc", "docs", "members", "values", "branches", "optional", "flat",
];

/// Merges overlay `file`, whose text is `text`, into `schema`.
pub(crate) fn merge(
    schema: &mut Schema,
    origins: &mut Origins,
    file: FileId,
    text: &str,
    diagnostics: &mut Diagnostics,
) {
    let Some(object) = parse::overlay(file, text, diagnostics) else {
        return;
    };
    for (name, value) in &object.pairs {
        let Node::Object(additions) = &value.node else {
            let what = format!("the overlay of `{}`", name.text);
            let error = Diagnostic::expected(value.span, &what, "an object", value.kind());
            diagnostics.push(error);
            continue;
        };
        let Some(module) = schema.get(&name.text).map(|entity| entity.module.clone()) else {
            diagnostics.push(Diagnostic::overlay_unknown(name.span, &name.text));
            continue;
        };
        merge_entity(schema, origins, name, &module, additions, diagnostics);
    }
}

fn merge_entity(
    schema: &mut Schema,
    origins: &mut Origins,
    name: &Text,
    module: &str,
    additions: &Object,
    diagnostics: &mut Diagnostics,
) {
    for (key, value) in &additions.pairs {
        if !KEYS.contains(&key.text.as_str()) {
            let known = KEYS.map(|key| format!("`{key}`")).join(", ");
            let error = Diagnostic::unknown_key(key.span, &key.text, "an overlay", &known);
            diagnostics.push(error);
        }
        // Inline structs become definitions before their user takes them.
        let members = (key.text == "members").then(|| {
            let (members, drafts) = legacy::overlay_members(value, &name.text, module, diagnostics);
            for draft in drafts {
                resolve::define(schema, origins, draft, diagnostics);
            }
            members
        });
        let Some(entity) = schema.entities.get_mut(&name.text) else {
            continue;
        };
        let fits = match (key.text.as_str(), &mut entity.kind) {
            ("members", kind) => add_members(kind, members.unwrap_or_default(), diagnostics),
            ("values", Kind::Enum(values)) => {
                values
                    .values
                    .extend(legacy::overlay_values(value, diagnostics));
                true
            }
            ("branches", kind) => add_branches(kind, legacy::overlay_branches(value, diagnostics)),
            ("optional", kind) => make_optional(kind, value, &name.text, diagnostics),
            ("flat", Kind::Command(command)) => {
                let argument = value.as_text();
                if !is_flat(&command.arguments, argument.as_ref()) {
                    let error = Diagnostic::overlay_flat(value.span, "flat");
                    diagnostics.push(error);
                }
                command.flat = argument.map(|text| text.text);
                true
            }
            ("doc" | "docs", _) => true,
            _ => !KEYS.contains(&key.text.as_str()),
        };
        if !fits {
            let kind = entity.kind.describe();
            let error = Diagnostic::overlay_wrong_kind(key.span, &key.text, &name.text, kind);
            diagnostics.push(error);
        }
    }
    // Documentation last: it may speak of what was just added.
    document(schema, &name.text, additions, diagnostics);
}

/// The members that a definition has by itself, if it is one of those that have.
fn members_of(kind: &mut Kind) -> Option<&mut Vec<Member>> {
    let arguments = match kind {
        Kind::Struct(structure) => return Some(&mut structure.members),
        Kind::Command(command) => &mut command.arguments,
        Kind::Event(event) => &mut event.data,
        _ => return None,
    };
    match arguments {
        Arguments::Members(members) => Some(members),
        Arguments::Type(_) => None,
    }
}

/// Lets members be left out that had to be given.
fn make_optional(kind: &mut Kind, value: &Value, of: &str, diagnostics: &mut Diagnostics) -> bool {
    let Some(members) = members_of(kind) else {
        return false;
    };
    let Node::List(names) = &value.node else {
        refuse(value, "`optional`", "a list of names", diagnostics);
        return true;
    };
    for name in names {
        let Some(text) = name.as_text() else {
            refuse(name, "a member's name", "a string", diagnostics);
            continue;
        };
        match members.iter_mut().find(|member| member.name == text.text) {
            Some(member) => member.optional = true,
            None => {
                let error = Diagnostic::overlay_optional_unknown(name.span, &text.text, of);
                diagnostics.push(error);
            }
        }
    }
    true
}

fn add_members(kind: &mut Kind, added: Vec<Member>, diagnostics: &mut Diagnostics) -> bool {
    let Some(members) = members_of(kind) else {
        return false;
    };
    for member in added {
        if !member.optional {
            diagnostics.push(Diagnostic::overlay_required(member.span, &member.name));
        }
        if let Some(first) = members.iter().find(|first| first.name == member.name) {
            let error = Diagnostic::duplicate(member.span, "member", &member.name, first.span);
            diagnostics.push(error);
            continue;
        }
        members.push(member);
    }
    true
}

fn add_branches(kind: &mut Kind, added: Vec<Branch>) -> bool {
    let branches = match kind {
        Kind::FlatUnion(union) => &mut union.branches,
        Kind::SimpleUnion(union) => &mut union.branches,
        Kind::Alternate(alternate) => &mut alternate.branches,
        _ => return false,
    };
    for branch in added {
        match branches.iter_mut().find(|old| old.name == branch.name) {
            Some(old) => *old = branch,
            None => branches.push(branch),
        }
    }
    true
}

fn is_flat(arguments: &Arguments, name: Option<&Text>) -> bool {
    let Arguments::Members(members) = arguments else {
        return false;
    };
    let [only] = &members[..] else { return false };
    name.is_some_and(|name| name.text == only.name)
        && !only.optional
        && matches!(only.ty, Type::Named(_))
}

fn document(schema: &mut Schema, name: &str, additions: &Object, diagnostics: &mut Diagnostics) {
    let Some(entity) = schema.get(name) else {
        return;
    };
    let known = doc::member_names(entity);
    let mut doc = entity.doc.clone();
    if let Some(value) = additions.find("doc") {
        match value.as_text() {
            Some(text) => doc.body = text.text,
            None => refuse(value, "`doc`", "a string", diagnostics),
        }
    }
    match additions.find("docs") {
        None => {}
        Some(Value {
            node: Node::Object(members),
            ..
        }) => {
            for (member, value) in &members.pairs {
                if !known.contains(&member.text) {
                    let error = Diagnostic::overlay_doc_unknown(member.span, &member.text, name);
                    diagnostics.push(error);
                }
                match value.as_text() {
                    Some(text) => drop(doc.members.insert(member.text.clone(), text.text)),
                    None => refuse(value, "documentation", "a string", diagnostics),
                }
            }
        }
        Some(value) => refuse(value, "`docs`", "an object", diagnostics),
    }
    if let Some(entity) = schema.entities.get_mut(name) {
        entity.doc = doc;
    }
}

fn refuse(value: &Value, what: &str, expected: &str, diagnostics: &mut Diagnostics) {
    diagnostics.push(Diagnostic::expected(
        value.span,
        what,
        expected,
        value.kind(),
    ));
}
