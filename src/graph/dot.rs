//! The graph in Graphviz's language, for who has it. Invariant: names are quoted.

use super::model::{Graph, Node};
use super::tree::describe;
use crate::human;

/// Writes a graph.
pub(super) fn draw(graph: &Graph) -> String {
    let mut out = String::from("digraph block {\n    node [shape=box, fontname=monospace];\n");
    for (index, node) in graph.nodes.iter().enumerate() {
        let label = label(node).map(|line| escape(&line)).join("\\n");
        out += &format!("    n{index} [label=\"{label}\"];\n");
    }
    for (index, user) in graph.users.iter().enumerate() {
        let label = escape(&describe(user));
        out += &format!("    u{index} [label=\"{label}\", shape=ellipse];\n");
        for node in &user.nodes {
            out += &format!("    u{index} -> n{node};\n");
        }
    }
    for edge in &graph.edges {
        let role = escape(&edge.role);
        out += &format!(
            "    n{} -> n{} [label=\"{role}\"];\n",
            edge.parent, edge.child
        );
    }
    out + "}\n"
}

/// What stands in a node's box: its name, what it is, and its file.
pub(super) fn label(node: &Node) -> [String; 3] {
    let size = node.size.map(|size| format!(", {}", human::size(size)));
    let what = format!(
        "{}{}, {}",
        node.driver,
        size.unwrap_or_default(),
        node.access()
    );
    [node.name.clone(), what, node.shown_file().to_owned()]
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
