//! `graph` against our daemon and QEMU's, which show the same.

use block_schema::Value;

use super::Bench;
use super::qmp::{Daemon, with_both};

/// Opens an image over another, and exports it.
pub(super) fn set_up(daemon: &Daemon<'_>) {
    let create = |words: &[&str]| {
        let said = daemon
            .0
            .ours("qblk", &[&["create", "-q", "-f", "qcow2"], words].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    create(&["base.qcow2", "16M"]);
    // What a job can copy.
    let filled = daemon
        .0
        .ours("qblk", &["io", "-c", "write -P 1 0 16M", "base.qcow2"]);
    assert_eq!(filled.code, Some(0), "{filled:?}");
    create(&["-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    let path = |name: &str| daemon.path(name);
    let script = format!(
        "blockdev-add driver=file node-name=base-file filename={} read-only=on\n\
         blockdev-add driver=qcow2 node-name=base file=base-file read-only=on\n\
         blockdev-add driver=file node-name=top-file filename={}\n\
         blockdev-add driver=qcow2 node-name=top file=top-file backing=base\n\
         nbd-server-start addr.type=unix addr.data.path={}\n\
         block-export-add type=nbd id=e node-name=top\n",
        path("base.qcow2"),
        path("top.qcow2"),
        path("nbd.sock"),
    );
    let said = daemon.talk(&[], &script);
    assert_eq!(said.code, Some(0), "{said:?}");
}

fn graph(bench: &Bench, output: &str) -> String {
    let said = bench.ours("qblk", &["graph", "qmp.sock", output]);
    assert_eq!((said.err.as_str(), said.code), ("", Some(0)), "{said:?}");
    said.out
}

#[test]
fn a_graph_is_drawn_with_edges_users_and_roles() {
    with_both(|daemon| {
        set_up(daemon);
        let text = graph(daemon.0, "--output=human");
        // Sizes of files and the width of columns differ, and a list of options is no file's name.
        let words = |line: &str| {
            let words = line.split_whitespace();
            let mut words: Vec<&str> = words.filter(|word| !word.contains('/')).collect();
            words.dedup();
            words.join(" ")
        };
        let lines: Vec<String> = text.lines().map(words).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[0], "top qcow2 16 MiB rw");
        assert_eq!(lines[1], "| export e (nbd)");
        assert!(lines[2].starts_with("|- file: top-file file "), "{text}");
        assert!(lines[2].ends_with(" rw"), "{text}");
        assert_eq!(lines[3], "`- backing: base qcow2 16 MiB ro");
        assert!(lines[4].starts_with("`- file: base-file file "), "{text}");
        assert!(lines[4].ends_with(" ro"), "{text}");
        let column = |line: &str, word: &str| line.find(word);
        let of_lines: Vec<Option<usize>> = text
            .lines()
            .filter(|l| l.contains("iB"))
            .map(|l| column(l, "iB  r"))
            .collect();
        assert!(of_lines.iter().all(|at| *at == of_lines[0]), "{text}");
    });
}

#[test]
fn programs_get_it_in_their_languages() {
    with_both(|daemon| {
        set_up(daemon);
        let json = Value::from_json(&graph(daemon.0, "--output=json")).expect("JSON");
        let nodes = json.get("nodes").and_then(Value::as_array).expect("nodes");
        let top = nodes
            .iter()
            .find(|node| node.get("node-name") == Some(&Value::from("top")));
        let children = top.and_then(|top| top.get("children")).expect("children");
        let wanted = r#"[{"child": "file", "node-name": "top-file"},
                         {"child": "backing", "node-name": "base"}]"#;
        let mut sorted: Vec<String> = children
            .as_array()
            .expect("a list")
            .iter()
            .map(Value::to_ascii_json)
            .collect();
        sorted.sort_by(|a, b| b.cmp(a));
        let wanted = Value::from_json(wanted).expect("JSON");
        let wanted: Vec<String> = wanted
            .as_array()
            .expect("a list")
            .iter()
            .map(Value::to_ascii_json)
            .collect();
        assert_eq!(sorted, wanted);
        let dot = graph(daemon.0, "--output=dot");
        assert!(
            dot.starts_with("digraph block {") && dot.contains("[label=\"backing\"]"),
            "{dot}"
        );
        let svg = graph(daemon.0, "--output=svg");
        assert!(
            svg.starts_with("<svg ") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect ").count(), 5, "{svg}");
        assert_eq!(svg.matches("<path ").count(), 4, "{svg}");
    });
}

#[test]
fn a_socket_of_nobody_is_named() {
    let bench = Bench::new();
    for command in ["graph", "jobs"] {
        let said = bench.ours("qblk", &[command, "nowhere"]);
        let wanted = "qblk: Could not connect to 'nowhere': No such file or directory\n";
        assert_eq!((said.err.as_str(), said.code), (wanted, Some(1)));
    }
}
