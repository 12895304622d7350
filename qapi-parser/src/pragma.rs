//! Pragmas: what a schema asks of the compiler. They hold for all of it, and the last of a kind
//! wins, wherever it stands.

use std::collections::HashSet;

use crate::check::draft::Scope;
use crate::error::{Diagnostic, Diagnostics};
use crate::syntax::{Node, Object, Value};

/// What the pragmas of a schema said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pragmas {
    /// Every definition has documentation.
    pub(crate) doc_required: bool,
    /// Commands whose names may have `_`.
    pub(crate) command_names: HashSet<String>,
    /// Commands that may return what is no object.
    pub(crate) command_returns: HashSet<String>,
    /// Definitions with undocumented members.
    pub(crate) documentation: HashSet<String>,
    /// Types whose members' names may break the rules about case.
    pub(crate) member_names: HashSet<String>,
}

impl Pragmas {
    /// Takes what the pragma expression `object` says.
    pub(crate) fn obey(&mut self, object: &Object, diagnostics: &mut Diagnostics) {
        let scope = Scope::anonymous(object.span);
        if let [_, (other, _), ..] = &object.pairs[..] {
            diagnostics.push(Diagnostic::directive_keys(&scope, other.span, "pragma"));
        }
        let Some(value) = object.find("pragma") else {
            return;
        };
        let Node::Object(pragmas) = &value.node else {
            let kind = value.kind();
            diagnostics.push(Diagnostic::pragma_shape(&scope, value.span, kind));
            return;
        };
        for (key, value) in &pragmas.pairs {
            let list = match key.text.as_str() {
                "doc-required" => {
                    match value.node {
                        Node::Bool(required) => self.doc_required = required,
                        Node::String(_) | Node::List(_) | Node::Object(_) => {
                            diagnostics.push(Diagnostic::pragma_not_boolean(&scope, value.span));
                        }
                    }
                    continue;
                }
                "command-name-exceptions" => &mut self.command_names,
                "command-returns-exceptions" => &mut self.command_returns,
                "documentation-exceptions" => &mut self.documentation,
                "member-name-exceptions" => &mut self.member_names,
                name => {
                    diagnostics.push(Diagnostic::pragma_unknown(&scope, key.span, name));
                    continue;
                }
            };
            match names(value) {
                Some(names) => *list = names,
                None => diagnostics.push(Diagnostic::pragma_list(&scope, value.span, &key.text)),
            }
        }
    }
}

fn names(value: &Value) -> Option<HashSet<String>> {
    let Node::List(list) = &value.node else {
        return None;
    };
    let name = |value: &Value| value.as_text().map(|text| text.text);
    list.iter().map(name).collect()
}
