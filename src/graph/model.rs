//! The graph as a server tells it: nodes, edges between them, and who uses them.
//!
//! Called by `mod.rs`. Invariant: every index in an edge or a user is one of `nodes`; what a server says
//! of nodes that are gone by then is left out. Not here: how it is drawn.

use std::collections::{BTreeMap, BTreeSet};

use block_schema::{Object, Value};

use crate::qmp::server::Server;
use crate::report::Failure;

/// What is drawn.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<Edge>,
    pub(super) users: Vec<User>,
}

/// A node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) file: String,
    pub(super) size: Option<u64>,
    pub(super) read_only: bool,
}

/// A link from a node to its child.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) parent: usize,
    pub(super) child: usize,
    /// What the child is to its parent: `file`, `backing` …
    pub(super) role: String,
}

/// What uses a node and is none.
#[derive(Debug)]
pub(super) struct User {
    pub(super) kind: UserKind,
    pub(super) name: String,
    /// More of it, in words.
    pub(super) detail: String,
    /// The nodes it uses; empty where the server does not tell.
    pub(super) nodes: Vec<usize>,
}

/// Kinds of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserKind {
    Device,
    Export,
    Job,
}

impl UserKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            UserKind::Device => "device",
            UserKind::Export => "export",
            UserKind::Job => "job",
        }
    }
}

/// What a server answered.
pub(super) struct Answers {
    pub(super) nodes: Value,
    pub(super) devices: Value,
    pub(super) jobs: Value,
    pub(super) exports: Value,
    /// The graph as QEMU tells it for debugging, where nodes do not tell their children.
    pub(super) debug: Value,
}

impl Answers {
    /// Asks a server.
    ///
    /// # Errors
    /// When the connection is lost, or the server refuses to tell its nodes.
    pub(super) fn of(server: &Server) -> Result<Answers, Failure> {
        // Of what a server does not have it has none.
        let ask = |command: &str| {
            let reply = server.execute(command, Object::new())?;
            Ok::<Value, Failure>(reply.unwrap_or(Value::Null))
        };
        let nodes = server.execute("query-named-block-nodes", Object::new())?;
        let nodes = nodes.map_err(|error| Failure::new(error.to_string()))?;
        let tells_children = items(&nodes)
            .iter()
            .all(|node| node.get("children").is_some());
        Ok(Answers {
            devices: ask("query-block")?,
            jobs: ask("query-block-jobs")?,
            exports: ask("query-block-exports")?,
            debug: match tells_children {
                true => Value::Null,
                false => ask("x-debug-query-block-graph")?,
            },
            nodes,
        })
    }
}

impl Graph {
    /// Puts together what a server answered.
    pub(super) fn from(answers: &Answers) -> Graph {
        // The oldest first: what others are built upon.
        let infos: Vec<&Value> = items(&answers.nodes).iter().rev().collect();
        let mut graph = Graph {
            nodes: infos.iter().map(|info| Node::from(info)).collect(),
            ..Graph::default()
        };
        let debug = Debug::from(&answers.debug);
        for (parent, info) in infos.iter().enumerate() {
            match (info.get("children"), debug.is_empty()) {
                (Some(children), _) => graph.add_children(parent, children),
                (None, false) => graph.add_told(parent, &debug),
                (None, true) => graph.add_guessed(parent, info),
            }
        }
        for device in items(&answers.devices) {
            let root = device.get("inserted").map(|node| text(node, "node-name"));
            let nodes = root
                .and_then(|name| graph.find(&name))
                .into_iter()
                .collect();
            graph.add_user(
                UserKind::Device,
                text(device, "device"),
                String::new(),
                nodes,
            );
        }
        for export in items(&answers.exports) {
            let mut detail = text(export, "type");
            if export.get("shutting-down").and_then(Value::as_bool) == Some(true) {
                detail += ", shutting down";
            }
            let node = graph.find(&text(export, "node-name"));
            let nodes = node.into_iter().collect();
            graph.add_user(UserKind::Export, text(export, "id"), detail, nodes);
        }
        for job in items(&answers.jobs) {
            let name = text(job, "device");
            let mut nodes = graph.resolve(debug.jobs.get(&name));
            if nodes.is_empty() {
                // A job is called after its device, unless its user calls it otherwise.
                let device = graph.users.iter().find(|user| user.name == name);
                nodes = device
                    .map(|device| device.nodes.clone())
                    .unwrap_or_default();
            }
            graph.add_user(UserKind::Job, name, job_detail(job), nodes);
        }
        graph
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    fn resolve(&self, names: Option<&Vec<String>>) -> Vec<usize> {
        let names = names.into_iter().flatten();
        names.filter_map(|name| self.find(name)).collect()
    }

    fn add_user(&mut self, kind: UserKind, name: String, detail: String, nodes: Vec<usize>) {
        // A device that has no name is an export's own, and is told as that.
        if !name.is_empty() {
            self.users.push(User {
                kind,
                name,
                detail,
                nodes,
            });
        }
    }

    fn add_edge(&mut self, parent: usize, role: String, child: &str) {
        let Some(child) = self.find(child) else {
            return;
        };
        let edge = Edge {
            parent,
            child,
            role,
        };
        if !self.edges.contains(&edge) {
            self.edges.push(edge);
        }
    }

    fn add_children(&mut self, parent: usize, children: &Value) {
        for child in items(children) {
            self.add_edge(parent, text(child, "child"), &text(child, "node-name"));
        }
    }

    fn add_told(&mut self, parent: usize, debug: &Debug) {
        let name = self.nodes[parent].name.clone();
        for (role, child) in debug.children.get(&name).into_iter().flatten() {
            self.add_edge(parent, role.clone(), child);
        }
    }

    /// Without a word on nodes, files' names must do.
    fn add_guessed(&mut self, parent: usize, info: &Value) {
        let children = info.get("image").and_then(|image| image.get("children"));
        let mut named: Vec<(String, String)> = items(children.unwrap_or(&Value::Null))
            .iter()
            .filter_map(|child| Some((text(child, "name"), text(child.get("info")?, "filename"))))
            .collect();
        let backing = text(info, "backing_file");
        if !backing.is_empty() {
            named.push(("backing".to_owned(), backing));
        }
        for (role, file) in named {
            // What is below was opened before.
            let below = self.nodes[..parent]
                .iter()
                .rev()
                .find(|node| node.file == file);
            if let Some(child) = below.map(|node| node.name.clone()) {
                self.add_edge(parent, role, &child);
            }
        }
    }

    /// The edges to a node's children, in their order.
    pub(super) fn children(&self, node: usize) -> Vec<&Edge> {
        self.edges
            .iter()
            .filter(|edge| edge.parent == node)
            .collect()
    }

    pub(super) fn users_of(&self, node: usize) -> Vec<&User> {
        let uses = |user: &&User| user.nodes.contains(&node);
        self.users.iter().filter(uses).collect()
    }

    /// Nodes without a parent, the oldest first.
    pub(super) fn roots(&self) -> Vec<usize> {
        let has_parent: BTreeSet<usize> = self.edges.iter().map(|edge| edge.child).collect();
        let all = 0..self.nodes.len();
        all.filter(|node| !has_parent.contains(node)).collect()
    }

    /// The whole as JSON.
    pub(super) fn to_value(&self) -> Value {
        let name = |node: &usize| Value::from(self.nodes[*node].name.as_str());
        let node = |(index, node): (usize, &Node)| {
            let child = |edge: &&Edge| {
                let mut child = Object::new();
                child.insert("child", edge.role.as_str());
                child.insert("node-name", name(&edge.child));
                Value::from(child)
            };
            let children: Vec<Value> = self.children(index).iter().map(child).collect();
            let mut object = Object::new();
            object.insert("node-name", node.name.as_str());
            object.insert("driver", node.driver.as_str());
            object.insert("file", node.file.as_str());
            if let Some(size) = node.size {
                object.insert("size", size);
            }
            object.insert("read-only", node.read_only);
            object.insert("children", children);
            Value::from(object)
        };
        let user = |user: &User| {
            let mut object = Object::new();
            object.insert("type", user.kind.as_str());
            object.insert("name", user.name.as_str());
            if !user.detail.is_empty() {
                object.insert("detail", user.detail.as_str());
            }
            object.insert("nodes", user.nodes.iter().map(name).collect::<Vec<Value>>());
            Value::from(object)
        };
        let mut object = Object::new();
        let nodes: Vec<Value> = self.nodes.iter().enumerate().map(node).collect();
        object.insert("nodes", nodes);
        object.insert("users", self.users.iter().map(user).collect::<Vec<Value>>());
        Value::from(object)
    }
}

impl Node {
    fn from(info: &Value) -> Node {
        let image = info.get("image").unwrap_or(&Value::Null);
        let size = image.get("virtual-size").and_then(Value::as_i64);
        Node {
            name: text(info, "node-name"),
            driver: text(info, "drv"),
            file: text(info, "file"),
            size: size.and_then(|size| u64::try_from(size).ok()),
            read_only: info.get("ro").and_then(Value::as_bool) == Some(true),
        }
    }

    /// Its file's name, unless that is a list of options: the nodes below say as much.
    pub(super) fn shown_file(&self) -> &str {
        match self.file.starts_with("json:") {
            true => "",
            false => &self.file,
        }
    }

    /// Whether it may be written, in two letters.
    pub(super) fn access(&self) -> &'static str {
        if self.read_only { "ro" } else { "rw" }
    }
}

/// QEMU's graph for debugging, by names.
#[derive(Default)]
struct Debug {
    children: BTreeMap<String, Vec<(String, String)>>,
    /// Nodes that jobs use.
    jobs: BTreeMap<String, Vec<String>>,
}

impl Debug {
    fn from(answer: &Value) -> Debug {
        let mut named: BTreeMap<i64, (String, String)> = BTreeMap::new();
        for node in items(answer.get("nodes").unwrap_or(&Value::Null)) {
            if let Some(id) = node.get("id").and_then(Value::as_i64) {
                named.insert(id, (text(node, "type"), text(node, "name")));
            }
        }
        let mut debug = Debug::default();
        for edge in items(answer.get("edges").unwrap_or(&Value::Null)) {
            let end = |name| named.get(&edge.get(name)?.as_i64()?);
            let (Some((kind, parent)), Some((_, child))) = (end("parent"), end("child")) else {
                continue;
            };
            match kind.as_str() {
                "block-driver" => {
                    let children = debug.children.entry(parent.clone()).or_default();
                    children.push((text(edge, "name"), child.clone()));
                }
                "block-job" => {
                    let nodes = debug.jobs.entry(parent.clone()).or_default();
                    nodes.push(child.clone());
                }
                _ => {}
            }
        }
        debug
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.jobs.is_empty()
    }
}

fn job_detail(job: &Value) -> String {
    let number = |name| job.get(name).and_then(Value::as_i64).unwrap_or(0);
    let (done, total) = (number("offset"), number("len"));
    let kind = text(job, "type");
    match i128::from(done.clamp(0, total.max(0))) * 100 {
        _ if total <= 0 => kind,
        done => format!("{kind}, {} %", done / i128::from(total)),
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_default()
}

/// A member's text, safe to be shown; empty without one.
fn text(value: &Value, name: &str) -> String {
    let text = value.get(name).and_then(Value::as_str);
    crate::qmp::print::plain(text.unwrap_or_default())
}
