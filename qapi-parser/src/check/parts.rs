//! Conditions and features, which definitions, members and values of today's dialect may have.
//! Called by `modern.rs`. Depth is bounded by that of the syntax.

use crate::check::modern::Checker;
use crate::check::name::Style;
use crate::cond::Cond;
use crate::error::{Diagnostic, Subject};
use crate::schema::Feature;
use crate::syntax::{Node, Object, Value};

const OPERATORS: [&str; 3] = ["all", "any", "not"];

impl Checker<'_> {
    /// What the `if` of `object` says, which is `of`.
    pub(super) fn condition(&mut self, object: &Object, of: Subject<'_>) -> Cond {
        let value = object.find("if");
        value
            .and_then(|value| self.cond(value, of))
            .unwrap_or_default()
    }

    fn cond(&mut self, value: &Value, of: Subject<'_>) -> Option<Cond> {
        match &value.node {
            Node::String(symbol) => {
                if !is_symbol(symbol) {
                    let error = Diagnostic::condition_name(self.scope, value.span, of, symbol);
                    self.diagnostics.push(error);
                }
                Some(Cond::Symbol(symbol.clone()))
            }
            Node::Object(object) => self.operator(value, object, of),
            Node::Bool(_) | Node::List(_) => {
                let error = Diagnostic::condition_shape(self.scope, value.span, of, value.kind());
                self.diagnostics.push(error);
                None
            }
        }
    }

    fn operator(&mut self, value: &Value, object: &Object, of: Subject<'_>) -> Option<Cond> {
        let unknown: Vec<&str> = object
            .pairs
            .iter()
            .map(|(key, _)| key.text.as_str())
            .filter(|key| !OPERATORS.contains(key))
            .collect();
        for (key, _) in &object.pairs {
            if !OPERATORS.contains(&key.text.as_str()) {
                let (scope, text) = (self.scope, &key.text);
                let error = Diagnostic::condition_unknown_key(scope, key.span, of, text, &unknown);
                self.diagnostics.push(error);
            }
        }
        let [(key, operands)] = &object.pairs[..] else {
            if unknown.is_empty() {
                let error = Diagnostic::condition_keys(self.scope, value.span, of);
                self.diagnostics.push(error);
            }
            return None;
        };
        match key.text.as_str() {
            "not" => Some(Cond::Not(Box::new(self.cond(operands, of)?))),
            "all" => Some(Cond::All(self.operands("all", operands, of)?)),
            "any" => Some(Cond::Any(self.operands("any", operands, of)?)),
            _ => None,
        }
    }

    fn operands(&mut self, operator: &str, value: &Value, of: Subject<'_>) -> Option<Vec<Cond>> {
        let Node::List(list) = &value.node else {
            let (scope, found) = (self.scope, value.kind());
            let error = Diagnostic::condition_list(scope, value.span, of, operator, found);
            self.diagnostics.push(error);
            return None;
        };
        if list.is_empty() {
            let error = Diagnostic::condition_empty(self.scope, value.span, of);
            self.diagnostics.push(error);
        }
        let conds = list.iter().map(|operand| self.cond(operand, of));
        let conds: Vec<Option<Cond>> = conds.collect();
        conds.into_iter().collect()
    }

    /// What the `features` of `object` list.
    pub(super) fn features(&mut self, object: &Object) -> Vec<Feature> {
        let Some(value) = object.find("features") else {
            return Vec::new();
        };
        let Node::List(list) = &value.node else {
            let of = Subject::Key("features");
            self.refuse(value, of, "a list", " must be an array");
            return Vec::new();
        };
        let mut features = Vec::with_capacity(list.len());
        for element in list {
            features.extend(self.feature(element));
        }
        features
    }

    fn feature(&mut self, value: &Value) -> Option<Feature> {
        let of = Subject::Element("features");
        let object = match &value.node {
            Node::Object(object) => Some(object),
            Node::String(_) | Node::Bool(_) | Node::List(_) => None,
        };
        if let Some(object) = object {
            self.keys(object, value.span, of, &["name"], &["if"]);
        }
        let named = object.map_or(Some(value), |object| object.find("name"))?;
        let Some(name) = named.as_text() else {
            let error = Diagnostic::name_not_string(self.scope, named.span, of);
            self.diagnostics.push(error);
            return None;
        };
        let of = Subject::Member("features", &name.text);
        self.name(&name, &name.text, of, Style::LOWER);
        let cond = object.map_or(Cond::Always, |object| self.condition(object, of));
        Some(Feature {
            name: name.text,
            cond,
        })
    }
}

fn is_symbol(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}
