//! Answers of a server, and what is drawn of them.

use block_schema::Value;

use super::layout::{Size, place};
use super::model::{Answers, Graph};
use super::tree::{self, Lines};
use super::{dot, svg};

/// An entry of `query-named-block-nodes`.
fn node(name: &str, driver: &str, file: &str, rest: &str) -> String {
    format!(
        r#"{{"node-name": "{name}", "drv": "{driver}", "file": "{file}", "ro": false,
             "image": {{"virtual-size": 1048576}}{rest}}}"#
    )
}

fn children(children: &str) -> String {
    let child = |text: &str| {
        let (role, name) = text.split_once('=').expect("ROLE=NAME");
        format!(r#"{{"child": "{role}", "node-name": "{name}"}}"#)
    };
    let children: Vec<String> = children.split_whitespace().map(child).collect();
    format!(r#", "children": [{}]"#, children.join(", "))
}

fn graph(nodes: &[String], devices: &str, jobs: &str, exports: &str, debug: &str) -> Graph {
    let parse = |text: &str| Value::from_json(text).expect("valid JSON");
    Graph::from(&Answers {
        nodes: parse(&format!("[{}]", nodes.join(", "))),
        devices: parse(devices),
        jobs: parse(jobs),
        exports: parse(exports),
        debug: parse(debug),
    })
}

fn disk() -> Graph {
    graph(
        &[
            node(
                "disk",
                "qcow2",
                "top.qcow2",
                &children("file=top-file backing=base"),
            ),
            node("top-file", "file", "top.qcow2", &children("")),
            node("base", "qcow2", "base.qcow2", &children("file=base-file")),
            node("base-file", "file", "base.qcow2", &children("")),
        ],
        r#"[{"device": "drive0", "inserted": {"node-name": "disk"}}, {"device": ""}]"#,
        r#"[{"device": "drive0", "type": "stream", "offset": 1, "len": 4}, {"device": "other", "type": "commit"}]"#,
        r#"[{"id": "e", "type": "nbd", "node-name": "base", "shutting-down": true}]"#,
        "null",
    )
}

#[track_caller]
fn check(graph: &Graph, lines: Lines, shown: &str) {
    assert_eq!(tree::draw(graph, lines), shown.trim_start_matches('\n'));
}

#[test]
fn a_tree_has_a_line_a_node_with_who_uses_it() {
    check(
        &disk(),
        Lines::UNICODE,
        "
disk                   qcow2  1 MiB  rw  top.qcow2
│  device drive0
│  job drive0 (stream, 25 %)
├─ file: top-file      file   1 MiB  rw  top.qcow2
└─ backing: base       qcow2  1 MiB  rw  base.qcow2
   │  export e (nbd, shutting down)
   └─ file: base-file  file   1 MiB  rw  base.qcow2
job other (commit)
",
    );
}

#[test]
fn a_node_with_two_parents_is_drawn_once_and_a_circle_ends() {
    let nodes = [
        node("a", "raw", "f", &children("file=f")),
        node("b", "raw", "f", &children("file=f")),
        node("f", "file", "f", &children("")),
        node("x", "raw", "x", &children("file=y")),
        node("y", "raw", "x", &children("file=x")),
    ];
    let graph = graph(&nodes, "[]", "[]", "[]", "null");
    check(
        &graph,
        Lines::ASCII,
        "
b           raw   1 MiB  rw  f
`- file: f  file  1 MiB  rw  f
a           raw   1 MiB  rw  f
`- file: f (above)
y           raw   1 MiB  rw  x
`- file: x  raw   1 MiB  rw  x
   `- file: y (above)
",
    );
    assert!(svg::draw(&graph).ends_with("</svg>\n"));
}

#[test]
fn edges_come_from_what_qemu_tells_for_debugging_or_else_from_file_names() {
    let nodes = |image: &str| {
        [
            node("top", "qcow2", "t", image),
            node("f", "file", "t", ""),
            node("base", "raw", "b", ""),
        ]
    };
    let debug = r#"{
        "nodes": [{"id": 1, "type": "block-driver", "name": "top"},
                  {"id": 2, "type": "block-driver", "name": "f"},
                  {"id": 3, "type": "block-driver", "name": "base"},
                  {"id": 4, "type": "block-job", "name": "j"}],
        "edges": [{"parent": 1, "child": 2, "name": "file"}, {"parent": 1, "child": 3, "name": "backing"},
                  {"parent": 4, "child": 3, "name": "main node"}, {"parent": 1, "child": 9, "name": "gone"}]}"#;
    let told = "
top               qcow2  1 MiB  rw  t
|- file: f        file   1 MiB  rw  t
`- backing: base  raw    1 MiB  rw  b
      job j (commit)
";
    let jobs = r#"[{"device": "j", "type": "commit"}]"#;
    check(
        &graph(&nodes(""), "[]", jobs, "[]", debug),
        Lines::ASCII,
        told,
    );
    let named = r#", "backing_file": "b""#;
    let guessed = graph(&nodes(named), "[]", "[]", "[]", "null");
    assert_eq!(guessed.edges.len(), 1);
    assert_eq!(guessed.edges[0].role, "backing");
}

#[test]
fn names_of_a_server_break_no_format() {
    let nodes = [node(r#"a\"<b>&\u001b"#, "raw", r"c\\d", &children(""))];
    let graph = graph(&nodes, "[]", "[]", "[]", "null");
    let dot = dot::draw(&graph);
    assert!(
        dot.contains(r#"label="a\"<b>&\\u001b\nraw, 1 MiB, rw\nc\\d""#),
        "{dot}"
    );
    let svg = svg::draw(&graph);
    assert!(svg.contains("a&quot;&lt;b&gt;&amp;\\u001b"), "{svg}");
    let json = graph.to_value().to_ascii_json();
    assert!(Value::from_json(&json).is_ok(), "{json}");
}

#[test]
fn boxes_do_not_touch_and_lines_pass_between() {
    let sizes = [Size {
        width: 50.0,
        height: 20.0,
    }; 5];
    // 0 leads to all; 1 to 3 by way of 2, and directly.
    let edges = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 4), (0, 3)];
    let layout = place(&sizes, &edges);
    for (a, at) in layout.places.iter().enumerate() {
        for other in &layout.places[a + 1..] {
            let apart = (at.x - other.x).abs() >= 50.0 || (at.y - other.y).abs() >= 20.0;
            assert!(apart, "{:?}", layout.places);
        }
    }
    for (&(parent, child), way) in edges.iter().zip(&layout.ways) {
        assert!(layout.places[parent].y < layout.places[child].y);
        // Points between the ends are in no box.
        for point in &way[1..way.len() - 1] {
            let inside = |at: &&super::layout::Place| {
                point.x > at.x && point.x < at.x + 50.0 && point.y > at.y && point.y < at.y + 20.0
            };
            assert_eq!(layout.places.iter().find(inside), None);
        }
    }
}
