//! What one expression of today's dialect may look like: keys, names, shapes of values, flags.
//! Called by `check`. Findings come in the order in which the reference compiler looks for them.
//! Not here: conditions and features (`parts.rs`); whether a name is defined (`resolve`).

use crate::check::draft::{Draft, Language, Origin, Scope, TypeText};
use crate::check::name::{self, Style};
use crate::error::{Diagnostic, Diagnostics, Subject};
use crate::pragma::Pragmas;
use crate::schema::{
    Alternate, Arguments, Base, Branch, Command, Doc, Entity, Enum, EnumValue, Event, FlatUnion,
    Kind, Member, Struct,
};
use crate::source::Span;
use crate::syntax::{Node, Object, Text, Value};

/// Keys that tell an expression's kind, with the keys it must and may have besides.
const KINDS: [(&str, &[&str], &[&str]); 6] = [
    ("enum", &["data"], &["if", "features", "prefix"]),
    ("struct", &["data"], &["base", "if", "features"]),
    (
        "union",
        &["base", "discriminator", "data"],
        &["if", "features"],
    ),
    ("alternate", &["data"], &["if", "features"]),
    (
        "command",
        &[],
        &[
            "data",
            "returns",
            "boxed",
            "if",
            "features",
            "gen",
            "success-response",
            "allow-oob",
            "allow-preconfig",
            "coroutine",
        ],
    ),
    ("event", &[], &["data", "boxed", "if", "features"]),
];

/// Flags that say no, then those that say yes.
const DENIALS: [&str; 2] = ["gen", "success-response"];
const GRANTS: [&str; 4] = ["boxed", "allow-oob", "allow-preconfig", "coroutine"];

/// An expression whose kind and name are known.
pub(super) struct Named {
    pub(super) scope: Scope,
    pub(super) meta: &'static str,
    pub(super) name: Text,
}

/// Finds what `object` defines.
pub(super) fn named(
    object: &Object,
    pragmas: &Pragmas,
    diagnostics: &mut Diagnostics,
) -> Option<Named> {
    let mut scope = Scope::anonymous(object.span);
    let metas = KINDS.iter().map(|(meta, ..)| *meta);
    let found: Vec<&'static str> = metas
        .clone()
        .filter(|meta| object.find(meta).is_some())
        .collect();
    let [meta] = found[..] else {
        let span = object
            .pairs
            .first()
            .map_or(object.span, |(key, _)| key.span);
        let kinds = ["enum", "struct", "union", "alternate", "command", "event"];
        diagnostics.push(Diagnostic::not_one_kind(&scope, span, found.len(), &kinds));
        return None;
    };
    let value = object.find(meta)?;
    let Some(name) = value.as_text() else {
        let of = Subject::Key(meta);
        diagnostics.push(Diagnostic::name_not_string(&scope, value.span, of));
        return None;
    };
    scope.definition = Some((meta, name.text.clone()));
    let style = match meta {
        "event" => Style::Upper,
        "command" => Style::Lower {
            upper: false,
            underscore: pragmas.command_names.contains(&name.text),
        },
        _ => Style::Camel,
    };
    let mut checker = Checker {
        scope: &scope,
        diagnostics,
    };
    checker.name(&name, &name.text, Subject::Definition(meta), style);
    if style == Style::Camel && name.text.ends_with("List") {
        let error = Diagnostic::list_suffix(&scope, name.span, meta);
        checker.diagnostics.push(error);
    }
    Some(Named { scope, meta, name })
}

/// The definition that `object` makes, which [`named`] has looked at.
pub(super) fn definition(
    named: Named,
    object: &Object,
    module: &str,
    pragmas: &Pragmas,
    diagnostics: &mut Diagnostics,
) -> Option<Draft> {
    let Named { scope, meta, name } = named;
    let mut checker = Checker {
        scope: &scope,
        diagnostics,
    };
    let (_, required, optional) = KINDS.iter().find(|(kind, ..)| *kind == meta)?;
    let required: Vec<&str> = std::iter::once(meta)
        .chain(required.iter().copied())
        .collect();
    checker.keys(
        object,
        name.span,
        Subject::Definition(meta),
        &required,
        optional,
    );
    let mut origin = Origin::new(Language::Modern, scope.clone());
    let excused = pragmas.member_names.contains(&name.text);
    let members = if excused {
        Style::EXCUSED
    } else {
        Style::LOWER
    };
    let kind = match meta {
        "enum" => checker.enumeration(object, members),
        "struct" => checker.structure(object, members, &mut origin),
        "union" => checker.union(object, members, &mut origin),
        "alternate" => checker.alternate(object),
        "command" => checker.command(object, &mut origin),
        _ => checker.event(object, &mut origin),
    };
    let cond = checker.condition(object, Subject::Definition(meta));
    let features = checker.features(object);
    checker.flags(object);
    let entity = Entity {
        name: name.text,
        module: module.to_owned(),
        span: name.span,
        cond,
        features,
        doc: Doc::default(),
        kind: kind?,
    };
    Some(Draft { entity, origin })
}

/// Checks parts of the expression of `scope`.
pub(super) struct Checker<'a> {
    pub(super) scope: &'a Scope,
    pub(super) diagnostics: &'a mut Diagnostics,
}

impl Checker<'_> {
    /// Judges `name`, the text of `at` without marks.
    pub(super) fn name(&mut self, at: &Text, name: &str, of: Subject<'_>, style: Style) {
        if let Err(fault) = name::check(name, style) {
            let error = Diagnostic::bad_name(self.scope, at.span, of, name, (fault, style));
            self.diagnostics.push(error);
        }
    }

    /// Keys that must be there and others that may; `at` is where a missing one is missed.
    pub(super) fn keys(
        &mut self,
        object: &Object,
        at: Span,
        of: Subject<'_>,
        required: &[&str],
        optional: &[&str],
    ) {
        let mut missing = Vec::new();
        for &key in required {
            if object.find(key).is_none() {
                missing.push(key);
            }
        }
        if !missing.is_empty() {
            let error = Diagnostic::missing_keys(self.scope, at, of, &missing);
            self.diagnostics.push(error);
        }
        let is_known = |key: &str| required.contains(&key) || optional.contains(&key);
        if object.pairs.iter().all(|(key, _)| is_known(&key.text)) {
            return;
        }
        let known: Vec<&str> = required.iter().chain(optional).copied().collect();
        let keys = object.pairs.iter().map(|(key, _)| key);
        let unknown: Vec<&Text> = keys.filter(|key| !is_known(&key.text)).collect();
        let names: Vec<&str> = unknown.iter().map(|key| key.text.as_str()).collect();
        for key in unknown {
            let (scope, name) = (self.scope, &key.text);
            let error = Diagnostic::unknown_keys(scope, key.span, of, name, &names, &known);
            self.diagnostics.push(error);
        }
    }

    pub(super) fn refuse(&mut self, value: &Value, of: Subject<'_>, expected: &str, words: &str) {
        let shapes = (expected, value.kind());
        let error = Diagnostic::shape(self.scope, value.span, of, shapes, words);
        self.diagnostics.push(error);
    }

    fn enumeration(&mut self, object: &Object, style: Style) -> Option<Kind> {
        let data = object.find("data")?;
        let Node::List(list) = &data.node else {
            self.refuse(data, Subject::Key("data"), "a list", " must be an array");
            return None;
        };
        let prefix = object.find("prefix");
        if let Some(prefix) = prefix.filter(|prefix| prefix.as_text().is_none()) {
            self.refuse(
                prefix,
                Subject::Key("prefix"),
                "a string",
                " must be a string",
            );
        }
        let mut values = Vec::with_capacity(list.len());
        for value in list {
            values.extend(self.value(value, style));
        }
        Some(Kind::Enum(Enum {
            values,
            prefix: prefix.and_then(Value::as_text).map(|text| text.text),
        }))
    }

    /// One value of an enum: its name, or an object with it.
    fn value(&mut self, value: &Value, style: Style) -> Option<EnumValue> {
        let of = Subject::Element("data");
        let object = match &value.node {
            Node::Object(object) => Some(object),
            Node::String(_) | Node::Bool(_) | Node::List(_) => None,
        };
        if let Some(object) = object {
            self.keys(object, value.span, of, &["name"], &["if", "features"]);
        }
        let named = object.map_or(Some(value), |object| object.find("name"))?;
        let Some(name) = named.as_text() else {
            let error = Diagnostic::name_not_string(self.scope, named.span, of);
            self.diagnostics.push(error);
            return None;
        };
        let of = Subject::Member("data", &name.text);
        // Values may start with a digit, which no other name may.
        if name.text.starts_with(|first: char| first.is_ascii_digit()) {
            self.name(&name, &format!("d{}", name.text), of, style);
        } else {
            self.name(&name, &name.text, of, style);
        }
        let (cond, features) = match object {
            Some(object) => (self.condition(object, of), self.features(object)),
            None => Default::default(),
        };
        Some(EnumValue {
            name: name.text,
            cond,
            features,
            span: name.span,
        })
    }

    fn structure(&mut self, object: &Object, style: Style, origin: &mut Origin) -> Option<Kind> {
        let members = object
            .find("data")
            .map(|data| self.members(data, "data", style));
        let base = self.type_name(object.find("base"), Subject::Key("base"));
        origin.base = base.as_ref().map(|base| base.span);
        Some(Kind::Struct(Struct {
            base: base.map(|base| base.text),
            members: members?,
        }))
    }

    fn union(&mut self, object: &Object, style: Style, origin: &mut Origin) -> Option<Kind> {
        let base = object.find("base").map(|value| match value.as_text() {
            Some(name) => {
                origin.base = Some(name.span);
                Base::Named(name.text)
            }
            None => Base::Inline(self.members(value, "base", style)),
        });
        let discriminator = object.find("discriminator").and_then(|value| {
            origin.discriminator = Some(value.span);
            let text = value.as_text();
            if text.is_none() {
                let of = Subject::Key("discriminator");
                let error = Diagnostic::name_not_string(self.scope, value.span, of);
                self.diagnostics.push(error);
            }
            text
        });
        let data = self.branches_of(object.find("data")?)?;
        let mut branches = Vec::with_capacity(data.pairs.len());
        for (name, value) in &data.pairs {
            branches.extend(self.branch(name, value, false));
        }
        Some(Kind::FlatUnion(FlatUnion {
            base: base?,
            discriminator: discriminator?.text,
            // Filled in once every base is known.
            tag: String::new(),
            branches,
        }))
    }

    /// The branches that a union or an alternate lists as its `data`.
    fn branches_of<'v>(&mut self, data: &'v Value) -> Option<&'v Object> {
        let Node::Object(branches) = &data.node else {
            let of = Subject::Key("data");
            self.refuse(data, of, "an object", " must be an object");
            return None;
        };
        Some(branches)
    }

    fn alternate(&mut self, object: &Object) -> Option<Kind> {
        let value = object.find("data")?;
        if !value.is_truthy() {
            let error = Diagnostic::no_branches_listed(self.scope, value.span);
            self.diagnostics.push(error);
            return None;
        }
        let data = self.branches_of(value)?;
        let mut branches = Vec::with_capacity(data.pairs.len());
        for (name, value) in &data.pairs {
            let of = Subject::Member("data", &name.text);
            self.name(name, &name.text, of, Style::LOWER);
            branches.extend(self.branch(name, value, true));
        }
        Some(Kind::Alternate(Alternate { branches }))
    }

    fn branch(&mut self, name: &Text, value: &Value, arrays: bool) -> Option<Branch> {
        let of = Subject::Member("data", &name.text);
        let (cond, ty) = match &value.node {
            Node::Object(object) => {
                self.keys(object, name.span, of, &["type"], &["if"]);
                (self.condition(object, of), object.find("type")?)
            }
            Node::String(_) | Node::Bool(_) | Node::List(_) => (Default::default(), value),
        };
        let ty = if arrays {
            self.type_or_array(ty, of)?
        } else {
            let name = self.type_name(Some(ty), of)?;
            TypeText { name, list: false }
        };
        Some(Branch {
            name: name.text.clone(),
            ty: ty.resolve(),
            cond,
            span: name.span,
            ty_span: ty.name.span,
        })
    }

    fn command(&mut self, object: &Object, origin: &mut Origin) -> Option<Kind> {
        let arguments = self.arguments(object, origin);
        let returns = object.find("returns").and_then(|value| {
            origin.returns = Some(value.span);
            self.type_or_array(value, Subject::Key("returns"))
        });
        let has = |key| object.find(key).is_some_and(Value::is_truthy);
        let denies = |key| object.find(key).is_some_and(|value| !value.is_truthy());
        Some(Kind::Command(Command {
            arguments: arguments?,
            returns: returns.map(|ty| ty.resolve()),
            typed: !denies("gen"),
            answers: !denies("success-response"),
            allow_oob: has("allow-oob"),
            allow_preconfig: has("allow-preconfig"),
            coroutine: has("coroutine"),
            boxed: has("boxed"),
            flat: None,
        }))
    }

    fn event(&mut self, object: &Object, origin: &mut Origin) -> Option<Kind> {
        Some(Kind::Event(Event {
            data: self.arguments(object, origin)?,
            boxed: object.find("boxed").is_some_and(Value::is_truthy),
        }))
    }

    /// What a command takes or an event carries; none after an error.
    fn arguments(&mut self, object: &Object, origin: &mut Origin) -> Option<Arguments> {
        let boxed = object.find("boxed").filter(|value| value.is_truthy());
        let Some(data) = object.find("data") else {
            if let Some(flag) = boxed {
                let error = Diagnostic::boxed_needs_data(self.scope, flag.span);
                self.diagnostics.push(error);
                return None;
            }
            return Some(Arguments::Members(Vec::new()));
        };
        if boxed.is_none() && data.as_text().is_none() {
            return Some(Arguments::Members(self.members(data, "data", Style::LOWER)));
        }
        let name = self.type_name(Some(data), Subject::Key("data"))?;
        origin.data = Some(name.span);
        Some(Arguments::Type(name.text))
    }

    /// The members that `value`, under `key`, lists.
    fn members(&mut self, value: &Value, key: &str, style: Style) -> Vec<Member> {
        let Node::Object(object) = &value.node else {
            let expected = "an object of members or a type's name";
            let words = " should be an object or type name";
            self.refuse(value, Subject::Key(key), expected, words);
            return Vec::new();
        };
        let mut members = Vec::with_capacity(object.pairs.len());
        for (name, value) in &object.pairs {
            members.extend(self.member(name, value, key, style));
        }
        members
    }

    fn member(&mut self, at: &Text, value: &Value, key: &str, style: Style) -> Option<Member> {
        let of = Subject::Member(key, &at.text);
        let optional = at.text.strip_prefix('*');
        let name = optional.unwrap_or(&at.text);
        self.name(at, name, of, style);
        if name == "u" || name.starts_with("has_") || name.starts_with("has-") {
            let error = Diagnostic::reserved_name(self.scope, at.span, of);
            self.diagnostics.push(error);
        }
        let (ty, cond, features) = match &value.node {
            Node::Object(object) => {
                self.keys(object, at.span, of, &["type"], &["if", "features"]);
                let cond = self.condition(object, of);
                (object.find("type"), cond, self.features(object))
            }
            Node::String(_) | Node::Bool(_) | Node::List(_) => {
                (Some(value), Default::default(), Vec::new())
            }
        };
        let ty = self.type_or_array(ty?, of)?;
        Some(Member {
            name: name.to_owned(),
            optional: optional.is_some(),
            ty: ty.resolve(),
            cond,
            features,
            span: at.span,
            ty_span: ty.name.span,
        })
    }

    fn type_name(&mut self, value: Option<&Value>, of: Subject<'_>) -> Option<Text> {
        let value = value?;
        let name = value.as_text();
        if name.is_none() {
            self.refuse(value, of, "a type's name", " should be a type name");
        }
        name
    }

    fn type_or_array(&mut self, value: &Value, of: Subject<'_>) -> Option<TypeText> {
        let (name, list) = match &value.node {
            Node::String(_) => (value.as_text(), false),
            Node::List(elements) => match &elements[..] {
                [element] => (element.as_text(), true),
                _ => (None, true),
            },
            Node::Bool(_) | Node::Object(_) => {
                let expected = "a type's name or a list of one";
                self.refuse(value, of, expected, " should be a type name or array");
                return None;
            }
        };
        if name.is_none() {
            let error = Diagnostic::array_element(self.scope, value.span, of);
            self.diagnostics.push(error);
        }
        Some(TypeText { name: name?, list })
    }

    fn flags(&mut self, object: &Object) {
        let flags = DENIALS
            .map(|key| (key, false))
            .into_iter()
            .chain(GRANTS.map(|key| (key, true)));
        for (key, only) in flags {
            let value = object.find(key);
            if let Some(value) = value.filter(|v| !matches!(v.node, Node::Bool(b) if b == only)) {
                let error = Diagnostic::flag_value(self.scope, value.span, key, only);
                self.diagnostics.push(error);
            }
        }
        if let (Some(oob), Some(coroutine)) = (object.find("allow-oob"), object.find("coroutine")) {
            let error = Diagnostic::flags_clash(self.scope, coroutine.span, oob.span);
            self.diagnostics.push(error);
        }
    }
}
