//! The graph as a picture, without help from other programs. Invariant: the text is well-formed XML,
//! whatever names a server gives. Not here: where boxes stand (`layout.rs`).

use super::dot::label;
use super::layout::{Layout, Place, Size, place};
use super::model::Graph;
use super::tree::describe;

/// Width of a letter and height of a line, in the font below.
const LETTER: f64 = 7.3;
const LINE: f64 = 16.0;
const MARGIN: f64 = 12.0;
/// Longer names are cut in the middle: their ends tell most.
const MAX_LETTERS: usize = 44;

const STYLE: &str = "\
text{font:12px monospace;fill:#222}\
.name{font-weight:bold}\
.role{font-size:11px;fill:#666}\
rect{fill:#f4f7fb;stroke:#4a6785}\
.ro{stroke-dasharray:4 3}\
.user rect{fill:#fdf3e3;stroke:#a8752b;rx:12px}\
path{fill:none;stroke:#4a6785}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.role{fill:#aaa}rect{fill:#22303f}.user rect{fill:#3b2f1c}}";

/// A box with its lines.
struct Drawn {
    lines: Vec<String>,
    class: &'static str,
}

impl Drawn {
    fn size(&self) -> Size {
        let letters = self.lines.iter().map(|line| line.chars().count()).max();
        let letters = u32::try_from(letters.unwrap_or(0)).unwrap_or(u32::MAX);
        let lines = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        Size {
            width: f64::from(letters) * LETTER + 2.0 * MARGIN,
            height: f64::from(lines) * LINE + MARGIN,
        }
    }
}

/// Draws a graph.
pub(super) fn draw(graph: &Graph) -> String {
    let users = graph.users.len();
    let mut boxes: Vec<Drawn> = Vec::new();
    let mut edges = Vec::new();
    let mut roles = Vec::new();
    for (index, user) in graph.users.iter().enumerate() {
        boxes.push(Drawn {
            lines: vec![cut(&describe(user))],
            class: "user",
        });
        for &node in &user.nodes {
            edges.push((index, users + node));
            roles.push("");
        }
    }
    for node in &graph.nodes {
        let lines = label(node).into_iter().filter(|line| !line.is_empty());
        boxes.push(Drawn {
            lines: lines.map(|line| cut(&line)).collect(),
            class: if node.read_only { "ro" } else { "rw" },
        });
    }
    for edge in &graph.edges {
        edges.push((users + edge.parent, users + edge.child));
        roles.push(&edge.role);
    }
    let sizes: Vec<Size> = boxes.iter().map(Drawn::size).collect();
    let layout = place(&sizes, &edges);
    let Size { width, height } = layout.whole;
    let (width, height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"-{MARGIN} -{MARGIN} {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n"
    );
    out += &ways(&layout, &roles);
    for ((drawn, size), at) in boxes.iter().zip(&sizes).zip(&layout.places) {
        out += &one_box(drawn, *size, *at);
    }
    out + "</svg>\n"
}

fn ways(layout: &Layout, roles: &[&str]) -> String {
    let mut out = String::new();
    for (points, role) in layout.ways.iter().zip(roles) {
        let Some(first) = points.first() else {
            continue;
        };
        let mut path = format!("M{:.0} {:.0}", first.x, first.y);
        for pair in points.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let middle = f64::midpoint(from.y, to.y);
            path += &format!(
                "C{:.0} {middle:.0} {:.0} {middle:.0} {:.0} {:.0}",
                from.x, to.x, to.x, to.y
            );
        }
        out += &format!("<path d=\"{path}\"/>\n");
        if let (false, Some(last)) = (role.is_empty(), points.last()) {
            let (x, y) = (last.x + 4.0, last.y - 6.0);
            let role = escape(role);
            out += &format!("<text class=\"role\" x=\"{x:.0}\" y=\"{y:.0}\">{role}</text>\n");
        }
    }
    out
}

fn one_box(drawn: &Drawn, size: Size, at: Place) -> String {
    let Size { width, height } = size;
    let mut out = format!(
        "<g class=\"{}\"><rect x=\"{:.0}\" y=\"{:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"4\"/>",
        drawn.class, at.x, at.y
    );
    let mut y = at.y + LINE;
    for (number, line) in drawn.lines.iter().enumerate() {
        let class = if number == 0 { " class=\"name\"" } else { "" };
        let (x, line) = (at.x + MARGIN, escape(line));
        out += &format!("<text{class} x=\"{x:.0}\" y=\"{y:.0}\">{line}</text>");
        y += LINE;
    }
    out + "</g>\n"
}

fn cut(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= MAX_LETTERS {
        return text.to_owned();
    }
    let half = MAX_LETTERS / 2;
    let first: String = letters[..half - 1].iter().collect();
    let last: String = letters[letters.len() - half..].iter().collect();
    format!("{first}…{last}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
