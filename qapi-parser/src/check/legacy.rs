//! What one expression of QEMU 2.1's dialect may look like: known keys, shapes of values, flags.
//! Called by `check`, and by `overlay.rs` for what overlays add.
//! Invariant: inline structs have become drafts of their own, placed before the one that holds
//! them. Not here: whether a name is defined.

use crate::check::draft::{Draft, Language, Origin, Scope, TypeText};
use crate::cond::Cond;
use crate::error::{Diagnostic, Diagnostics};
use crate::schema::{
    Alternate, Arguments, Base, Branch, Command, Doc, Entity, Enum, EnumValue, Event, FlatUnion,
    Kind, Member, SimpleUnion, Struct,
};
use crate::syntax::{Node, Object, Text, Value};

/// Keys that tell an expression's kind: the kind's name in messages, and the other keys it has.
const KINDS: [(&str, &str, &[&str]); 5] = [
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

/// Whether `object` has a key that tells its kind.
pub(super) fn has_kind(object: &Object) -> bool {
    KINDS.iter().any(|(key, ..)| object.find(key).is_some())
}

/// The definitions that `object`, of file `module`, makes: inline structs first.
pub(super) fn check(object: &Object, module: &str, diagnostics: &mut Diagnostics) -> Vec<Draft> {
    let kind = KINDS.iter().find(|(key, ..)| object.find(key).is_some());
    let Some(&(key, described, others)) = kind else {
        diagnostics.push(no_kind(object));
        return Vec::new();
    };
    let mut checker = Checker {
        described,
        module,
        scope: Scope::anonymous(object.span),
        diagnostics,
        drafts: Vec::new(),
    };
    checker.known_keys(object, key, others);
    let Some(name) = checker.name(object, key) else {
        return Vec::new();
    };
    checker.scope.definition = Some((key, name.text.clone()));
    let mut origin = Origin::new(Language::Legacy, checker.scope.clone());
    if let Some(kind) = checker.definition(key, &name, object, &mut origin) {
        checker.enter(name, kind, origin);
    }
    checker.drafts
}

fn no_kind(object: &Object) -> Diagnostic {
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
    module: &'a str,
    scope: Scope,
    diagnostics: &'a mut Diagnostics,
    drafts: Vec<Draft>,
}

impl<'a> Checker<'a> {
    fn of_overlay(data: &Value, module: &'a str, diagnostics: &'a mut Diagnostics) -> Self {
        Self {
            described: "an overlay",
            module,
            scope: Scope::anonymous(data.span),
            diagnostics,
            drafts: Vec::new(),
        }
    }

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

    fn enter(&mut self, name: Text, kind: Kind, origin: Origin) {
        let entity = Entity {
            name: name.text,
            module: self.module.to_owned(),
            span: name.span,
            cond: Cond::Always,
            features: Vec::new(),
            doc: Doc::default(),
            kind,
        };
        self.drafts.push(Draft { entity, origin });
    }

    fn definition(
        &mut self,
        key: &str,
        name: &Text,
        object: &Object,
        origin: &mut Origin,
    ) -> Option<Kind> {
        match key {
            "enum" => {
                let data = self.required(object, "data", name)?;
                Some(Kind::Enum(Enum {
                    values: self.values(data),
                    prefix: None,
                }))
            }
            "type" => {
                let base = self.name(object, "base");
                origin.base = base.as_ref().map(|base| base.span);
                let data = self.required(object, "data", name)?;
                Some(Kind::Struct(Struct {
                    base: base.map(|base| base.text),
                    members: self.members(data, &name.text),
                }))
            }
            "union" => self.union(name, object, origin),
            "command" => {
                let arguments = self.data(object, &name.text, origin);
                let returns = object.find("returns");
                origin.returns = returns.map(|value| value.span);
                let returns = returns.and_then(|v| self.named_type(v, "`returns`"));
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
                Some(Kind::Command(Command {
                    arguments,
                    returns: returns.map(|ty| ty.resolve()),
                    typed,
                    answers,
                    allow_oob: false,
                    allow_preconfig: false,
                    coroutine: false,
                    boxed: false,
                    flat: None,
                }))
            }
            _ => Some(Kind::Event(Event {
                data: self.data(object, &name.text, origin),
                boxed: false,
            })),
        }
    }

    fn union(&mut self, name: &Text, object: &Object, origin: &mut Origin) -> Option<Kind> {
        let base = self.name(object, "base");
        origin.base = base.as_ref().map(|base| base.span);
        let base = base.map(|base| base.text);
        let discriminator = object.find("discriminator");
        let data = self.required(object, "data", name)?;
        let branches = self.branches(data);
        let Some(value) = discriminator else {
            return Some(Kind::SimpleUnion(SimpleUnion { base, branches }));
        };
        match &value.node {
            Node::Object(object) if object.pairs.is_empty() => {
                Some(Kind::Alternate(Alternate { branches }))
            }
            Node::String(discriminator) => {
                origin.discriminator = Some(value.span);
                let Some(base) = base else {
                    self.diagnostics.push(Diagnostic::needs_base(name.span));
                    return None;
                };
                Some(Kind::FlatUnion(FlatUnion {
                    base: Base::Named(base),
                    discriminator: discriminator.clone(),
                    // Filled in once every base is known.
                    tag: String::new(),
                    branches,
                }))
            }
            Node::Object(_) | Node::List(_) | Node::Bool(_) => {
                self.refuse(value, "`discriminator`", "a string or {}");
                None
            }
        }
    }

    fn values(&mut self, data: &Value) -> Vec<EnumValue> {
        let Node::List(list) = &data.node else {
            self.refuse(data, "`data` of an enum", "a list");
            return Vec::new();
        };
        let mut values: Vec<EnumValue> = Vec::new();
        for value in list {
            let Some(text) = self.text(value, "an enum value") else {
                continue;
            };
            if let Some(first) = values.iter().find(|first| first.name == text.text) {
                let error = Diagnostic::duplicate(text.span, "value", &text.text, first.span);
                self.diagnostics.push(error);
                continue;
            }
            values.push(EnumValue {
                name: text.text,
                cond: Cond::Always,
                features: Vec::new(),
                span: text.span,
            });
        }
        values
    }

    fn data(&mut self, object: &Object, owner: &str, origin: &mut Origin) -> Arguments {
        match object.find("data") {
            None => Arguments::Members(Vec::new()),
            Some(value) => match value.as_text() {
                Some(name) => {
                    origin.data = Some(name.span);
                    Arguments::Type(name.text)
                }
                None => Arguments::Members(self.members(value, owner)),
            },
        }
    }

    fn members(&mut self, data: &Value, owner: &str) -> Vec<Member> {
        let Node::Object(object) = &data.node else {
            self.refuse(data, "`data`", "an object of members");
            return Vec::new();
        };
        let mut members: Vec<Member> = Vec::new();
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
            if let Some(first) = members.iter().find(|first| first.name == name.text) {
                let error = Diagnostic::duplicate(name.span, "member", &name.text, first.span);
                self.diagnostics.push(error);
                continue;
            }
            if let Some(ty) = self.member_type(value, owner, &name) {
                members.push(Member {
                    name: name.text,
                    optional,
                    ty: ty.resolve(),
                    cond: Cond::Always,
                    features: Vec::new(),
                    span: name.span,
                    ty_span: ty.name.span,
                });
            }
        }
        members
    }

    /// A type's name, a list of one, or a struct written in place.
    fn member_type(&mut self, value: &Value, owner: &str, member: &Text) -> Option<TypeText> {
        if !matches!(value.node, Node::Object(_)) {
            return self.named_type(value, &format!("the type of `{}`", member.text));
        }
        let name = Text {
            span: member.span,
            text: format!("{owner}-{}", member.text),
        };
        let members = self.members(value, &name.text);
        let kind = Kind::Struct(Struct {
            base: None,
            members,
        });
        let origin = Origin::new(Language::Legacy, self.scope.clone());
        self.enter(name.clone(), kind, origin);
        Some(TypeText { name, list: false })
    }

    fn named_type(&mut self, value: &Value, what: &str) -> Option<TypeText> {
        match &value.node {
            Node::String(text) => Some(TypeText {
                name: Text {
                    span: value.span,
                    text: text.clone(),
                },
                list: false,
            }),
            Node::List(list) => match &list[..] {
                [element] => {
                    let name = self.text(element, what)?;
                    Some(TypeText { name, list: true })
                }
                _ => {
                    self.diagnostics.push(Diagnostic::list_length(value.span));
                    None
                }
            },
            Node::Bool(_) | Node::Object(_) => {
                self.refuse(value, what, "a type's name or a list of one");
                None
            }
        }
    }

    fn branches(&mut self, data: &Value) -> Vec<Branch> {
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
            branches.extend(ty.map(|ty| Branch {
                name: name.text.clone(),
                ty: ty.resolve(),
                cond: Cond::Always,
                span: name.span,
                ty_span: ty.name.span,
            }));
        }
        branches
    }
}

/// The members that overlay object `data` adds to `owner`, with inline structs as drafts.
pub(crate) fn overlay_members(
    data: &Value,
    owner: &str,
    module: &str,
    diagnostics: &mut Diagnostics,
) -> (Vec<Member>, Vec<Draft>) {
    let mut checker = Checker::of_overlay(data, module, diagnostics);
    let members = checker.members(data, owner);
    (members, checker.drafts)
}

/// The branches that overlay object `data` adds.
pub(crate) fn overlay_branches(data: &Value, diagnostics: &mut Diagnostics) -> Vec<Branch> {
    Checker::of_overlay(data, "", diagnostics).branches(data)
}

/// The enum values that overlay list `data` adds.
pub(crate) fn overlay_values(data: &Value, diagnostics: &mut Diagnostics) -> Vec<EnumValue> {
    Checker::of_overlay(data, "", diagnostics).values(data)
}
