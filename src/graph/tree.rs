//! The graph as a tree of text: a node a line, its children below it, columns aligned.
//! Invariant: each node is drawn out once; where it stands again, it says that it is above. Not here:
//! where nodes come from (`model.rs`).

use super::model::{Graph, User};
use crate::human;

/// The lines that a tree is drawn with.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    fork: &'static str,
    last: &'static str,
    bar: &'static str,
}

impl Lines {
    pub(super) const UNICODE: Lines = Lines {
        fork: "├─ ",
        last: "└─ ",
        bar: "│  ",
    };
    pub(super) const ASCII: Lines = Lines {
        fork: "|- ",
        last: "`- ",
        bar: "|  ",
    };
}

/// What stands in a line.
enum Line {
    /// The tree's column, then driver, size, access and file.
    Node([String; 5]),
    /// What stands under a node's columns.
    Note(String),
}

/// A node that is still to be drawn.
struct Open {
    node: usize,
    /// What stands before the lines of its own children.
    indent: String,
    /// What stands before its name.
    head: String,
}

/// Draws a graph.
pub(super) fn draw(graph: &Graph, lines: Lines) -> String {
    let mut out = Vec::new();
    let mut drawn = vec![false; graph.nodes.len()];
    for root in graph.roots() {
        draw_from(graph, root, lines, &mut drawn, &mut out);
    }
    // A circle has no root.
    for node in 0..graph.nodes.len() {
        if !drawn[node] {
            draw_from(graph, node, lines, &mut drawn, &mut out);
        }
    }
    let idle = graph.users.iter().filter(|user| user.nodes.is_empty());
    out.extend(idle.map(|user| Line::Note(describe(user))));
    align(&out)
}

fn draw_from(graph: &Graph, root: usize, lines: Lines, drawn: &mut [bool], out: &mut Vec<Line>) {
    let mut open = vec![Open {
        node: root,
        indent: String::new(),
        head: String::new(),
    }];
    while let Some(Open { node, indent, head }) = open.pop() {
        let shown = &graph.nodes[node];
        if std::mem::replace(&mut drawn[node], true) {
            out.push(Line::Note(format!("{head}{} (above)", shown.name)));
            continue;
        }
        out.push(Line::Node([
            format!("{head}{}", shown.name),
            shown.driver.clone(),
            shown.size.map(human::size).unwrap_or_default(),
            shown.access().to_owned(),
            shown.shown_file().to_owned(),
        ]));
        let children = graph.children(node);
        let bar = if children.is_empty() {
            "   "
        } else {
            lines.bar
        };
        for user in graph.users_of(node) {
            out.push(Line::Note(format!("{indent}{bar}{}", describe(user))));
        }
        // The last is drawn last, so it goes in first.
        for (number, edge) in children.iter().enumerate().rev() {
            let is_last = number + 1 == children.len();
            let (branch, bar) = match is_last {
                true => (lines.last, "   "),
                false => (lines.fork, lines.bar),
            };
            open.push(Open {
                node: edge.child,
                indent: format!("{indent}{bar}"),
                head: format!("{indent}{branch}{}: ", edge.role),
            });
        }
    }
}

/// A user in one line.
pub(super) fn describe(user: &User) -> String {
    let (kind, name) = (user.kind.as_str(), &user.name);
    match user.detail.as_str() {
        "" => format!("{kind} {name}"),
        detail => format!("{kind} {name} ({detail})"),
    }
}

fn align(lines: &[Line]) -> String {
    let mut widths = [0; 5];
    for line in lines {
        if let Line::Node(cells) = line {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let mut out = String::new();
    for line in lines {
        match line {
            Line::Note(text) => out.push_str(text),
            Line::Node([tree, driver, size, access, file]) => {
                let [w0, w1, w2, w3, _] = widths;
                let text = format!("{tree:w0$}  {driver:w1$}  {size:>w2$}  {access:w3$}  {file}");
                out.push_str(text.trim_end());
            }
        }
        out.push('\n');
    }
    out
}
