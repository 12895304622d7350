//! What one expression may look like: known keys, shapes of values, flags.
//! Called by `include.rs` for each expression; its drafts go to `resolve.rs`.
//! Invariant: a draft has the shape of its kind; inline structs have become drafts of their own,
//! placed before the one that holds them. Not here: whether a name is defined.

use crate::doc;
use crate::error::{Diagnostic, Diagnostics};
use crate::schema::Doc;
use crate::source::Span;
use crate::syntax::{Expression, Node, Object, Text, Value};

/// A definition whose names are not resolved yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) name: Text,
    pub(crate) doc: Doc,
    pub(crate) kind: DraftKind,
}

#[derive(Debug)]
pub(crate) enum DraftKind {
    Enum {
        values: Vec<Text>,
    },
    Struct {
        base: Option<Text>,
        members: Vec<DraftMember>,
    },
    Union {
        base: Option<Text>,
        choice: Choice,
        branches: Vec<DraftMember>,
    },
    Command {
        data: DraftData,
        returns: Option<DraftType>,
        typed: bool,
        answers: bool,
    },
    Event {
        data: DraftData,
    },
}

/// How a union's branch is chosen.
#[derive(Debug)]
pub(crate) enum Choice {
    /// By an implicit `type`.
    Wrapper,
    /// By the JSON type.
    Json,
    /// By a member of the base.
    Member(Text),
}

#[derive(Debug)]
pub(crate) struct DraftMember {
    pub(crate) name: Text,
    pub(crate) optional: bool,
    pub(crate) ty: DraftType,
}

#[derive(Debug)]
pub(crate) enum DraftType {
    Name(Text),
    List(Text),
}

#[derive(Debug)]
pub(crate) enum DraftData {
    Members(Vec<DraftMember>),
    Type(Text),
}

/// What a top-level expression turned out to be.
pub(crate) enum Checked {
    Include(Text),
    Definitions(Vec<Draft>),
    Nothing,
}

/// Keys that tell an expression's kind: the kind's name in messages, and the other keys it has.
const KINDS: [(&str, &str, &[&str]); 6] = [
    ("include", "an include", &[]),
    ("enum", "an enum", &["data"]),
    ("type", "a type", &["data", "base"]),
    ("union", "a union", &["data", "base", "discriminator"]),
    (
        "command",
        "a command",
        &["data", "returns", "gen", "success-response"],
    ),
    ("event", "an event", &["data"]),
];

/// Kinds that only today's dialect has.
const OTHER_KINDS: [&str; 3] = ["struct", "alternate", "pragma"];

/// Whether documentation is read from comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comments {
    Read,
    Skip,
}

/// Judges one expression.
pub(crate) fn check(
    expression: &Expression,
    comments: Comments,
    diagnostics: &mut Diagnostics,
) -> Checked {
    let object = &expression.object;
    let kind = KINDS.iter().find(|(key, ..)| object.find(key).is_some());
    let Some(&(key, described, others)) = kind else {
        diagnostics.push(no_kind(object));
        return Checked::Nothing;
    };
    let mut checker = Checker {
        described,
        diagnostics,
        drafts: Vec::new(),
    };
    checker.known_keys(object, key, others);
    let Some(name) = checker.name(object, key) else {
        return Checked::Nothing;
    };
    if key == "include" {
        return Checked::Include(name);
    }
    let Some(kind) = checker.definition(key, &name, object) else {
        return Checked::Nothing;
    };
    let mut drafts = checker.drafts;
    let doc = match comments {
        Comments::Read => doc::lenient(&expression.comment, &name.text),
        Comments::Skip => Doc::default(),
    };
    drafts.push(Draft { name, doc, kind });
    Checked::Definitions(drafts)
}

fn no_kind(object: &Object) -> Diagnostic {
    let other = object
        .pairs
        .iter()
        .find(|(key, _)| OTHER_KINDS.contains(&key.text.as_str()));
    if let Some((key, _)) = other {
        return Diagnostic::other_dialect(key.span, &key.text);
    }
    let span = object
        .pairs
        .first()
        .map_or(object.span, |(key, _)| key.span);
    Diagnostic::no_kind(span, &join(KINDS.iter().map(|(key, ..)| *key)))
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

struct Checker<'a> {
    described: &'static str,
    diagnostics: &'a mut Diagnostics,
    drafts: Vec<Draft>,
}

impl Checker<'_> {
    fn known_keys(&mut self, object: &Object, key: &str, others: &[&str]) {
        let known = join(std::iter::once(key).chain(others.iter().copied()));
        for (name, _) in &object.pairs {
            if name.text != key && !others.contains(&name.text.as_str()) {
                let error = Diagnostic::unknown_key(name.span, &name.text, self.described, &known);
                self.diagnostics.push(error);
            }
        }
    }

    /// The string under `key`, which must not be empty.
    fn name(&mut self, object: &Object, key: &str) -> Option<Text> {
        let value = object.find(key)?;
        let name = self.text(value, &format!("`{key}`"))?;
        if name.text.is_empty() {
            self.diagnostics
                .push(Diagnostic::empty_name(name.span, &format!("`{key}`")));
            return None;
        }
        Some(name)
    }

    fn text(&mut self, value: &Value, what: &str) -> Option<Text> {
        let text = value.as_text();
        if text.is_none() {
            self.refuse(value, what, "a string");
        }
        text
    }

    fn refuse(&mut self, value: &Value, what: &str, expected: &str) {
        self.diagnostics.push(Diagnostic::expected(
            value.span,
            what,
            expected,
            value.kind(),
        ));
    }

    fn required<'o>(&mut self, object: &'o Object, key: &str, name: &Text) -> Option<&'o Value> {
        let value = object.find(key);
        if value.is_none() {
            self.diagnostics
                .push(Diagnostic::missing_key(name.span, key, self.described));
        }
        value
    }

    fn definition(&mut self, key: &str, name: &Text, object: &Object) -> Option<DraftKind> {
        match key {
            "enum" => {
                let data = self.required(object, "data", name)?;
                Some(DraftKind::Enum {
                    values: self.values(data),
                })
            }
            "type" => {
                let base = self.name(object, "base");
                let data = self.required(object, "data", name)?;
                Some(DraftKind::Struct {
                    base,
                    members: self.members(data, &name.text),
                })
            }
            "union" => {
                let base = self.name(object, "base");
                let choice = object.find("discriminator").map(|value| self.choice(value));
                let choice = choice.unwrap_or(Some(Choice::Wrapper));
                let data = self.required(object, "data", name)?;
                let branches = self.branches(data);
                Some(DraftKind::Union {
                    base,
                    choice: choice?,
                    branches,
                })
            }
            "command" => {
                let data = self.data(object, &name.text);
                let returns = object
                    .find("returns")
                    .and_then(|v| self.named_type(v, "`returns`"));
                let typed = object.find("gen").is_none();
                let answers = match object.find("success-response") {
                    None => true,
                    Some(value) => {
                        if value.as_text().is_none_or(|text| text.text != "no") {
                            let error = Diagnostic::flag(value.span, "success-response");
                            self.diagnostics.push(error);
                        }
                        false
                    }
                };
                Some(DraftKind::Command {
                    data,
                    returns,
                    typed,
                    answers,
                })
            }
            _ => Some(DraftKind::Event {
                data: self.data(object, &name.text),
            }),
        }
    }

    fn choice(&mut self, value: &Value) -> Option<Choice> {
        match &value.node {
            Node::String(text) => Some(Choice::Member(Text {
                span: value.span,
                text: text.clone(),
            })),
            Node::Object(object) if object.pairs.is_empty() => Some(Choice::Json),
            Node::Object(_) | Node::List(_) | Node::Bool => {
                self.refuse(value, "`discriminator`", "a string or {}");
                None
            }
        }
    }

    fn values(&mut self, data: &Value) -> Vec<Text> {
        let Node::List(list) = &data.node else {
            self.refuse(data, "`data` of an enum", "a list");
            return Vec::new();
        };
        let mut values: Vec<Text> = Vec::new();
        for value in list {
            let Some(text) = self.text(value, "an enum value") else {
                continue;
            };
            if let Some(first) = values.iter().find(|first| first.text == text.text) {
                let error = Diagnostic::duplicate(text.span, "value", &text.text, first.span);
                self.diagnostics.push(error);
                continue;
            }
            values.push(text);
        }
        values
    }

    fn data(&mut self, object: &Object, owner: &str) -> DraftData {
        match object.find("data") {
            None => DraftData::Members(Vec::new()),
            Some(value) => match value.as_text() {
                Some(name) => DraftData::Type(name),
                None => DraftData::Members(self.members(value, owner)),
            },
        }
    }

    fn members(&mut self, data: &Value, owner: &str) -> Vec<DraftMember> {
        let Node::Object(object) = &data.node else {
            self.refuse(data, "`data`", "an object of members");
            return Vec::new();
        };
        let mut members: Vec<DraftMember> = Vec::new();
        for (key, value) in &object.pairs {
            let name = key.text.strip_prefix('*');
            let optional = name.is_some();
            let name = Text {
                span: key.span,
                text: name.unwrap_or(&key.text).to_owned(),
            };
            if name.text.is_empty() {
                self.diagnostics
                    .push(Diagnostic::empty_name(key.span, "a member's name"));
                continue;
            }
            if let Some(first) = members.iter().find(|first| first.name.text == name.text) {
                let first = first.name.span;
                let error = Diagnostic::duplicate(name.span, "member", &name.text, first);
                self.diagnostics.push(error);
                continue;
            }
            if let Some(ty) = self.member_type(value, owner, &name) {
                members.push(DraftMember { name, optional, ty });
            }
        }
        members
    }

    /// A type's name, a list of one, or a struct written in place.
    fn member_type(&mut self, value: &Value, owner: &str, member: &Text) -> Option<DraftType> {
        if !matches!(value.node, Node::Object(_)) {
            return self.named_type(value, &format!("the type of `{}`", member.text));
        }
        let name = Text {
            span: member.span,
            text: format!("{owner}-{}", member.text),
        };
        let members = self.members(value, &name.text);
        let kind = DraftKind::Struct {
            base: None,
            members,
        };
        self.drafts.push(Draft {
            name: name.clone(),
            doc: Doc::default(),
            kind,
        });
        Some(DraftType::Name(name))
    }

    fn named_type(&mut self, value: &Value, what: &str) -> Option<DraftType> {
        match &value.node {
            Node::String(text) => Some(DraftType::Name(Text {
                span: value.span,
                text: text.clone(),
            })),
            Node::List(list) => match &list[..] {
                [element] => self.text(element, what).map(DraftType::List),
                _ => {
                    self.diagnostics.push(Diagnostic::list_length(value.span));
                    None
                }
            },
            Node::Bool | Node::Object(_) => {
                self.refuse(value, what, "a type's name or a list of one");
                None
            }
        }
    }

    fn branches(&mut self, data: &Value) -> Vec<DraftMember> {
        let Node::Object(object) = &data.node else {
            self.refuse(data, "`data` of a union", "an object of branches");
            return Vec::new();
        };
        let mut branches = Vec::new();
        for (name, value) in &object.pairs {
            if name.text.starts_with('*') {
                self.diagnostics
                    .push(Diagnostic::optional_branch(name.span, &name.text[1..]));
            }
            if matches!(value.node, Node::Object(_)) {
                self.diagnostics
                    .push(Diagnostic::branch_shape(value.span, "a union"));
                continue;
            }
            let ty = self.named_type(value, &format!("the type of branch `{}`", name.text));
            branches.extend(ty.map(|ty| DraftMember {
                name: name.clone(),
                optional: false,
                ty,
            }));
        }
        branches
    }
}

/// The members that overlay object `data` adds to `owner`, with inline structs as drafts.
pub(crate) fn overlay_members(
    data: &Value,
    owner: &str,
    diagnostics: &mut Diagnostics,
) -> (Vec<DraftMember>, Vec<Draft>) {
    let mut checker = Checker {
        described: "an overlay",
        diagnostics,
        drafts: Vec::new(),
    };
    let members = checker.members(data, owner);
    (members, checker.drafts)
}

/// The branches that overlay object `data` adds.
pub(crate) fn overlay_branches(data: &Value, diagnostics: &mut Diagnostics) -> Vec<DraftMember> {
    Checker {
        described: "an overlay",
        diagnostics,
        drafts: Vec::new(),
    }
    .branches(data)
}

/// The enum values that overlay list `data` adds.
pub(crate) fn overlay_values(data: &Value, diagnostics: &mut Diagnostics) -> Vec<Text> {
    Checker {
        described: "an overlay",
        diagnostics,
        drafts: Vec::new(),
    }
    .values(data)
}

impl DraftType {
    pub(crate) fn text(&self) -> &Text {
        match self {
            Self::Name(text) | Self::List(text) => text,
        }
    }

    pub(crate) fn span(&self) -> Span {
        self.text().span
    }
}
