//! Definitions of the 2.1 dialect in today's words.
//! Called by `migrate` for each expression of a file in that dialect.
//! Invariant: what goes over the wire stays the same; types that only had a place get a name,
//! before the definition that needs them.

use std::collections::HashMap;

use super::super::tree::{Comment, Container, Item, Lead, Node, Pair, Value};
use super::docs::{self, Answer, Doc, Subject};
use super::names::{ESCAPES, Names, camel, is_lower, of_type};
use crate::schema::{Command, Kind, Schema, Type};

const KINDS: [&str; 6] = ["enum", "type", "struct", "union", "command", "event"];

/// Rewrites definitions one by one.
pub(super) struct Definitions<'a> {
    schema: &'a Schema,
    pub(super) names: Names,
    /// Structs that hold a simple union's branch, by what they hold.
    wrappers: HashMap<String, String>,
    /// What the definition being rewritten needs before it.
    out: Vec<Item>,
}

/// A definition on its way.
struct Draft {
    object: Container<Pair>,
    members: Vec<String>,
    answer: Answer,
}

impl<'a> Definitions<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self {
            schema,
            names: Names::new(schema),
            wrappers: HashMap::new(),
            out: Vec::new(),
        }
    }

    /// What `item` becomes: the definition, and before it those that it needs now.
    pub(super) fn rewrite(&mut self, item: Item) -> Vec<Item> {
        let Item { mut before, object } = item;
        let kind = KINDS.into_iter().find(|kind| object.find(kind).is_some());
        let name = kind.and_then(|kind| object.find(kind)?.as_str().map(str::to_owned));
        let Some((kind, old)) = kind.zip(name) else {
            docs::directive(&mut before.comments);
            return vec![Item { before, object }];
        };
        let docs::Taken {
            before,
            mut doc,
            behind,
        } = docs::take(before, &old);
        let new = self.names.ty(&old);
        let draft = match kind {
            "enum" => self.enumeration(object, &new),
            "union" => self.union(object, &old, &new, &mut doc),
            "command" | "event" => self.call(object, &old, &mut doc),
            _ => self.structure(object, &old, &new),
        };
        let Draft {
            object,
            members,
            answer,
        } = draft;
        let object = rename(object, kind, &new);
        let mut comments = behind;
        if let Some(doc) = &doc {
            let subject = Subject {
                name: &new,
                members,
                answer,
            };
            let gap = before.gap || !self.out.is_empty();
            comments.splice(0..0, self.document(doc, &subject, gap));
        }
        self.place(before, comments, object)
    }

    /// The items that were made, `object` last. Of what stood before that, what is about it stays
    /// with it.
    fn place(
        &mut self,
        mut before: Lead,
        mut comments: Vec<Comment>,
        object: Container<Pair>,
    ) -> Vec<Item> {
        let mut items = std::mem::take(&mut self.out);
        let attached = match before.comments.iter().rposition(|comment| comment.gap) {
            _ if items.is_empty() => 0,
            _ if before.gap => before.comments.len(),
            at => at.unwrap_or(0),
        };
        comments.splice(0..0, before.comments.split_off(attached));
        if let Some(first) = comments.first_mut() {
            first.gap |= !items.is_empty();
        }
        let gap = (before.gap || !items.is_empty()) && !comments.iter().any(|c| c.alone);
        items.push(Item {
            before: Lead { comments, gap },
            object,
        });
        if let Some(first) = items.first_mut() {
            first.before.comments.splice(0..0, before.comments);
        }
        items
    }

    fn document(&mut self, doc: &Doc, subject: &Subject<'_>, gap: bool) -> Vec<Comment> {
        if !docs::missing(doc, subject).is_empty() {
            let exceptions = &mut self.names.exceptions.documentation;
            exceptions.insert(subject.name.to_owned());
        }
        docs::write(doc, subject, gap)
    }

    /// Puts a definition before the one being rewritten.
    fn add(&mut self, pairs: Vec<Pair>, doc: Option<(Doc, Vec<String>, String)>) {
        let mut before = Lead {
            comments: Vec::new(),
            gap: true,
        };
        if let Some((doc, members, name)) = doc {
            let subject = Subject {
                name: &name,
                members,
                answer: Answer::None,
            };
            before.comments = self.document(&doc, &subject, true);
        }
        let object = pairs.into();
        self.out.push(Item { before, object });
    }

    fn enumeration(&mut self, mut object: Container<Pair>, name: &str) -> Draft {
        let mut members = Vec::new();
        for pair in object.items.iter_mut().filter(|pair| pair.key == "data") {
            let Node::List(values) = &mut pair.value.node else {
                continue;
            };
            for value in &mut values.items {
                if let Node::String(text) = &mut value.node {
                    *text = self.names.member(name, text);
                    members.push(text.clone());
                }
            }
        }
        self.except(name, &members);
        Draft {
            object,
            members,
            answer: Answer::None,
        }
    }

    fn structure(&mut self, mut object: Container<Pair>, old: &str, new: &str) -> Draft {
        let mut members = Vec::new();
        for pair in &mut object.items {
            match (pair.key.as_str(), &mut pair.value.node) {
                ("base", Node::String(base)) => *base = self.names.ty(base),
                ("data", Node::Object(data)) => members = self.members(data, old),
                _ => {}
            }
        }
        self.except(new, &members);
        Draft {
            object,
            members,
            answer: Answer::None,
        }
    }

    /// Lets `owner` have members that break the rules, if it has some.
    fn except(&mut self, owner: &str, members: &[String]) {
        if !members.iter().all(|member| is_lower(member)) {
            self.names.exceptions.members.insert(owner.to_owned());
        }
    }

    /// Renames types and members of `data`, whose inline structs are called after `path`.
    fn members(&mut self, data: &mut Container<Pair>, path: &str) -> Vec<String> {
        let mut members = Vec::new();
        for pair in &mut data.items {
            let optional = pair.key.starts_with('*');
            let old = pair.key.trim_start_matches('*').to_owned();
            let new = self.names.member(path, &old);
            pair.key = format!("{}{new}", if optional { "*" } else { "" });
            let inline = format!("{path}-{old}");
            match &mut pair.value.node {
                Node::Object(inner) if self.schema.structure(&inline).is_some() => {
                    let members = self.members(inner, &inline);
                    let name = self.names.new_type(&inline);
                    self.except(&name, &members);
                    let empty = Container::from(Vec::new());
                    let inner = Node::Object(std::mem::replace(inner, empty));
                    let definition = [("struct", Value::string(&name)), ("data", inner.into())];
                    self.add(definition.map(|(key, v)| Pair::new(key, v)).into(), None);
                    pair.value.node = Node::String(name);
                }
                node => self.types(node),
            }
            members.push(new);
        }
        members
    }

    /// Renames the type, or the type of a list's elements.
    fn types(&self, node: &mut Node) {
        match node {
            Node::String(name) => *name = self.names.ty(name),
            Node::List(list) => {
                for element in &mut list.items {
                    self.types(&mut element.node);
                }
            }
            Node::Bool(_) | Node::Object(_) => {}
        }
    }

    fn union(
        &mut self,
        mut object: Container<Pair>,
        old: &str,
        new: &str,
        doc: &mut Option<Doc>,
    ) -> Draft {
        match self.schema.get(old).map(|entity| &entity.kind) {
            Some(Kind::Alternate(_)) => {
                object.items.retain(|pair| pair.key != "discriminator");
                let mut members = Vec::new();
                self.each_branch(&mut object, |_, pair| {
                    // These names go over no wire.
                    let name = pair.key.to_ascii_lowercase().replace(['_', '.'], "-");
                    members.push(name.clone());
                    pair.key = name;
                });
                let object = rename(object, "union", new);
                Draft {
                    object: rekey(object, "union", "alternate"),
                    members,
                    answer: Answer::None,
                }
            }
            Some(Kind::SimpleUnion(_)) => self.simple_union(object, new, doc),
            _ => {
                self.each_branch(&mut object, |names, pair| {
                    pair.key = names.member(old, &pair.key);
                });
                for pair in &mut object.items {
                    if let ("base", Node::String(base)) = (pair.key.as_str(), &mut pair.value.node)
                    {
                        *base = self.names.ty(base);
                    }
                }
                Draft {
                    object,
                    members: Vec::new(),
                    answer: Answer::None,
                }
            }
        }
    }

    /// Renames the types of branches and calls `each` for every branch.
    fn each_branch(
        &mut self,
        object: &mut Container<Pair>,
        mut each: impl FnMut(&mut Names, &mut Pair),
    ) {
        for pair in object.items.iter_mut().filter(|pair| pair.key == "data") {
            let Node::Object(branches) = &mut pair.value.node else {
                continue;
            };
            for branch in &mut branches.items {
                self.types(&mut branch.value.node);
                each(&mut self.names, branch);
            }
        }
    }

    /// `{"type": …, "data": …}` said with an enum, a struct a branch, and a base.
    fn simple_union(
        &mut self,
        mut object: Container<Pair>,
        name: &str,
        doc: &mut Option<Doc>,
    ) -> Draft {
        let kind = self.names.new_type(&format!("{name}Kind"));
        let mut values = Vec::new();
        self.each_branch(&mut object, |names, pair| {
            pair.key = names.member(name, &pair.key);
            values.push(pair.key.clone());
        });
        let list: Vec<Value> = values.iter().map(Value::string).collect();
        let own = doc.as_mut().map(|doc| doc.split(&values));
        let own = own.filter(|doc| !doc.members.is_empty());
        self.except(&kind, &values);
        self.add(
            vec![
                Pair::new("enum", Value::string(&kind)),
                Pair::new("data", Node::List(list.into())),
            ],
            own.map(|doc| (doc, values.clone(), kind.clone())),
        );
        for pair in object.items.iter_mut().filter(|pair| pair.key == "data") {
            let Node::Object(branches) = &mut pair.value.node else {
                continue;
            };
            for branch in &mut branches.items {
                branch.value.node = Node::String(self.wrapper(&branch.value.node));
            }
        }
        let base = object
            .find("base")
            .and_then(|base| base.as_str().map(str::to_owned));
        let tag = Pair::new("type", Value::string(&kind));
        let tag = Node::Object(vec![tag].into());
        let (base, members) = match base {
            None => (Value::from(tag), vec!["type".to_owned()]),
            Some(base) => {
                let own = self.names.new_type(&format!("{name}Base"));
                let base = self.names.ty(&base);
                self.add(
                    vec![
                        Pair::new("struct", Value::string(&own)),
                        Pair::new("base", Value::string(base)),
                        Pair::new("data", tag),
                    ],
                    None,
                );
                (Value::string(own), Vec::new())
            }
        };
        if let Some(doc) = doc
            && !members.is_empty()
        {
            let text = format!("which of @{kind} it is");
            doc.members
                .entry("type".to_owned())
                .or_insert_with(|| vec![text]);
        }
        object.items.retain(|pair| pair.key != "base");
        let at = object
            .items
            .iter()
            .position(|pair| pair.key == "data")
            .unwrap_or(0);
        let discriminator = Pair::new("discriminator", Value::string("type"));
        object
            .items
            .splice(at..at, [Pair::new("base", base), discriminator]);
        Draft {
            object,
            members,
            answer: Answer::None,
        }
    }

    /// The struct whose member `data` is of type `node`, made if there is none yet.
    fn wrapper(&mut self, node: &Node) -> String {
        let (held, list) = match node {
            Node::List(list) => (list.items.first().and_then(Value::as_str), "List"),
            Node::String(name) => (Some(name.as_str()), ""),
            Node::Bool(_) | Node::Object(_) => (None, ""),
        };
        let held = held.unwrap_or_default();
        let key = format!("{held} {list}");
        if let Some(wrapper) = self.wrappers.get(&key) {
            return wrapper.clone();
        }
        let name = self
            .names
            .new_type(&format!("{}{list}Wrapper", of_type(held)));
        self.wrappers.insert(key, name.clone());
        let data = vec![Pair::new("data", node.clone())];
        self.add(
            vec![
                Pair::new("struct", Value::string(&name)),
                Pair::new("data", Node::Object(data.into())),
            ],
            None,
        );
        name
    }

    /// A command or event.
    fn call(&mut self, mut object: Container<Pair>, name: &str, doc: &mut Option<Doc>) -> Draft {
        let mut members = Vec::new();
        let mut boxed = false;
        let mut escaped = false;
        let mut answer = Answer::None;
        if object.find("command").is_some() {
            let returns = object.find("returns").is_some();
            answer = if returns {
                Answer::Value
            } else {
                Answer::Nothing
            };
            if !is_lower(name) {
                self.names.exceptions.commands.insert(name.to_owned());
            }
            if returns && !self.returns_object(name) {
                self.names.exceptions.returns.insert(name.to_owned());
            }
        }
        for pair in &mut object.items {
            match (pair.key.as_str(), &mut pair.value.node) {
                ("gen" | "success-response", value) => *value = Node::Bool(false),
                ("returns", returns) => self.types(returns),
                ("data", Node::String(data)) => {
                    escaped = ESCAPES.contains(&data.as_str());
                    let kind = self.schema.get(data).map(|entity| &entity.kind);
                    boxed = matches!(kind, Some(Kind::FlatUnion(_) | Kind::SimpleUnion(_)));
                    *data = self.names.ty(data);
                }
                ("data", Node::Object(data)) => {
                    members = self.members(data, name);
                    if !members.iter().all(|member| is_lower(member)) {
                        let empty = Container::from(Vec::new());
                        let data = std::mem::replace(data, empty);
                        let moved = std::mem::take(&mut members);
                        pair.value.node = self.arguments(name, data, moved, doc);
                    }
                }
                _ => {}
            }
        }
        if escaped {
            let note = format!("`{name}` takes any arguments, which cannot be said: none are");
            self.names.notes.push(note);
            object.items.retain(|pair| pair.key != "data");
        }
        if boxed && object.find("boxed").is_none() {
            object.items.push(Pair::new("boxed", Node::Bool(true)));
        }
        Draft {
            object,
            members,
            answer,
        }
    }

    /// Moves arguments whose names break the rules, which only a struct's may, into one.
    fn arguments(
        &mut self,
        command: &str,
        data: Container<Pair>,
        members: Vec<String>,
        doc: &mut Option<Doc>,
    ) -> Node {
        let name = self.names.new_type(&format!("{}Arguments", camel(command)));
        let own = doc.as_mut().map(|doc| {
            let mut own = doc.split(&members);
            own.body = vec![format!("Arguments of @{command}.")];
            (own, members.clone(), name.clone())
        });
        self.except(&name, &members);
        let pairs = vec![
            Pair::new("struct", Value::string(&name)),
            Pair::new("data", Node::Object(data)),
        ];
        self.add(pairs, own);
        Node::String(name)
    }

    fn returns_object(&self, command: &str) -> bool {
        let Some(Kind::Command(Command { returns, .. })) =
            self.schema.get(command).map(|entity| &entity.kind)
        else {
            return true;
        };
        let ty = match returns {
            Some(Type::List(element)) => element,
            Some(ty) => ty,
            None => return true,
        };
        let Type::Named(name) = ty else { return false };
        let kind = self.schema.get(name).map(|entity| &entity.kind);
        matches!(
            kind,
            Some(Kind::Struct(_) | Kind::FlatUnion(_) | Kind::SimpleUnion(_))
        )
    }
}

/// `object` with `name` under the key that tells its kind.
fn rename(mut object: Container<Pair>, kind: &str, name: &str) -> Container<Pair> {
    for pair in object.items.iter_mut().filter(|pair| pair.key == kind) {
        pair.value.node = Node::String(name.to_owned());
    }
    rekey(object, "type", "struct")
}

fn rekey(mut object: Container<Pair>, from: &str, to: &str) -> Container<Pair> {
    for pair in object.items.iter_mut().filter(|pair| pair.key == from) {
        pair.key = to.to_owned();
    }
    object
}
