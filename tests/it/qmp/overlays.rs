//! Verbs that change the graph, by QMP: what `qemu-storage-daemon` answers, we answer, and the graph
//! looks alike afterwards.

use block_schema::Value;

use super::interop::{Oracle, qemu_img, skip};
use super::rig::Rig;

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

fn add(name: &str, driver: &str, image: &str, rest: &str) -> String {
    execute(
        "blockdev-add",
        &format!(
            r#""driver": "{driver}", "node-name": "{name}",
               "file": {{"driver": "file", "filename": "{image}"}}{rest}"#
        ),
    )
}

/// Gives both the same commands, each in a folder of its own with the same images.
///
/// `script` gets the folder; what it says in answers is left out.
fn compare(script: impl Fn(&str) -> Vec<String>) {
    let rig = Rig::start();
    let folders = ["theirs", "ours"].map(|name| rig.path(name));
    for folder in &folders {
        std::fs::create_dir(folder).expect("a folder");
        let image = |name: &str| format!("{folder}/{name}");
        let made = ["a", "b", "c", "d"]
            .iter()
            .all(|name| qemu_img(&["create", "-f", "qcow2", &image(name), "1M"]));
        let backed = qemu_img(&[
            "create",
            "-f",
            "qcow2",
            "-b",
            "a",
            "-F",
            "qcow2",
            &image("over-a"),
        ]);
        let raw = qemu_img(&["create", "-f", "raw", &image("raw"), "1M"]);
        if !made || !backed || !raw {
            return skip("there is no qemu-img");
        }
    }
    let Some((oracle, mut theirs)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let inputs = script(&folders[0]);
    let wanted: Vec<_> = inputs
        .iter()
        .map(|input| shown(theirs.reply(input), &folders[0]))
        .collect();
    theirs.ok(r#"{"execute": "quit"}"#);
    drop(oracle);
    let mut ours = rig.client();
    for (input, want) in script(&folders[1]).iter().zip(wanted) {
        assert_eq!(shown(ours.reply(input), &folders[1]), want, "for {input}");
    }
    ours.ok(r#"{"execute": "quit"}"#);
    rig.join();
}

/// An answer without the folder; of a list of nodes what the graph is, as far as formats make it.
fn shown(reply: Value, folder: &str) -> String {
    let Some(Value::Array(nodes)) = reply.get("return") else {
        return reply.to_ascii_json().replace(folder, "");
    };
    let line = |node: &Value| {
        let image = node.get("image");
        let backing = |depth: usize| {
            let start = image.cloned();
            (0..depth).fold(start, |image, _| image?.get("backing-image").cloned())
        };
        let name = |image: Option<Value>| image?.get("filename")?.as_str().map(str::to_owned);
        let chain = (0..8).map_while(|depth| name(backing(depth)));
        // These do not name what is behind them as it was opened: a `json:` name in QEMU.
        let named = |name: &String| {
            let unnamed = ["/b", "/c", "/over-a"]
                .iter()
                .any(|end| name.ends_with(end));
            !unnamed && !name.starts_with("json:")
        };
        let chain: Vec<String> = chain.filter(named).collect();
        format!(
            "{:?} {:?} {:?} {chain:?} {:?}",
            node.get("node-name"),
            node.get("drv"),
            node.get("ro"),
            bitmaps(node)
        )
    };
    let mut lines: Vec<String> = nodes
        .iter()
        .filter(|node| !line(node).contains("#block") && !line(node).contains("raw"))
        .map(|node| line(node).replace(folder, ""))
        .collect();
    lines.sort();
    lines.join("\n")
}

/// The dirty bitmaps of a node.
fn bitmaps(node: &Value) -> Vec<String> {
    let Some(Value::Array(bitmaps)) = node.get("dirty-bitmaps") else {
        return Vec::new();
    };
    let line = |bitmap: &Value| {
        let members = ["name", "recording", "persistent", "count"];
        let members = members.map(|member| bitmap.get(member).cloned());
        format!("{members:?}")
    };
    let mut lines: Vec<String> = bitmaps.iter().map(line).collect();
    lines.sort();
    lines
}

/// The nodes as they are now.
fn nodes() -> String {
    r#"{"execute": "query-named-block-nodes"}"#.to_owned()
}

fn sync(arguments: &str) -> String {
    execute("blockdev-snapshot-sync", arguments)
}

#[test]
fn snapshots_answer_as_in_qemu() {
    compare(|dir| {
        let over = |node: &str, overlay: &str| {
            let arguments = format!(r#""node": "{node}", "overlay": "{overlay}""#);
            execute("blockdev-snapshot", &arguments)
        };
        vec![
            add("a", "qcow2", &format!("{dir}/a"), ""),
            // In QEMU an overlay that nobody uses goes at once.
            execute(
                "blockdev-add",
                r#""driver": "raw", "node-name": "top", "file": "a""#,
            ),
            sync(&format!(r#""node-name": "a", "snapshot-file": "{dir}/s1""#)),
            sync(&format!(
                r#""node-name": "zz", "snapshot-file": "{dir}/s1", "snapshot-node-name": "s1""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/s1", "snapshot-node-name": "top""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/s1", "snapshot-node-name": "s1",
                   "format": "zip""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/s1", "snapshot-node-name": "s1",
                   "format": "raw""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/none/s1", "snapshot-node-name": "s1""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/a", "snapshot-node-name": "s1""#
            )),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/raw", "snapshot-node-name": "s1",
                   "format": "raw", "mode": "existing""#
            )),
            nodes(),
            sync(&format!(
                r#""node-name": "a", "snapshot-file": "{dir}/s1", "snapshot-node-name": "s1""#
            )),
            nodes(),
            sync(&format!(
                r#""node-name": "s1", "snapshot-file": "{dir}/b", "snapshot-node-name": "s2",
                   "mode": "existing""#
            )),
            nodes(),
            add("c", "qcow2", &format!("{dir}/c"), ""),
            add("raw", "raw", &format!("{dir}/raw"), ""),
            over("s2", "zz"),
            over("zz", "c"),
            over("s2", "raw"),
            over("s2", "c"),
            nodes(),
            add("d", "qcow2", &format!("{dir}/d"), ""),
            execute("blockdev-del", r#""node-name": "s1""#),
        ]
    });
}

#[test]
fn transactions_answer_as_in_qemu() {
    compare(|dir| {
        let action =
            |kind: &str, data: &str| format!(r#"{{"type": "{kind}", "data": {{{data}}}}}"#);
        let run = |actions: &[String]| {
            execute(
                "transaction",
                &format!(r#""actions": [{}]"#, actions.join(", ")),
            )
        };
        let abort = action("abort", "");
        let bitmap = |kind: &str, node: &str, name: &str| {
            action(
                &format!("block-dirty-bitmap-{kind}"),
                &format!(r#""node": "{node}", "name": "{name}""#),
            )
        };
        let merge = |target: &str, source: &str| {
            let data = format!(r#""node": "a", "target": "{target}", "bitmaps": ["{source}"]"#);
            action("block-dirty-bitmap-merge", &data)
        };
        let sync = |node: &str, overlay: &str| {
            action(
                "blockdev-snapshot-sync",
                &format!(
                    r#""node-name": "{node}", "snapshot-file": "{dir}/{overlay}",
                       "snapshot-node-name": "{overlay}""#
                ),
            )
        };
        let inside = |node: &str, name: &str| {
            let data = format!(r#""device": "{node}", "name": "{name}""#);
            action("blockdev-snapshot-internal-sync", &data)
        };
        let persistent = action(
            "block-dirty-bitmap-add",
            r#""node": "a", "name": "stored", "persistent": true"#,
        );
        vec![
            add("a", "qcow2", &format!("{dir}/a"), ""),
            execute(
                "blockdev-add",
                r#""driver": "raw", "node-name": "top", "file": "a""#,
            ),
            run(&[]),
            run(std::slice::from_ref(&abort)),
            run(&[bitmap("add", "a", "x"), bitmap("add", "a", "x")]),
            run(&[bitmap("add", "a", "x"), bitmap("add", "zz", "x")]),
            nodes(),
            run(&[bitmap("add", "a", "x"), persistent]),
            nodes(),
            run(&[
                bitmap("disable", "a", "x"),
                bitmap("clear", "a", "stored"),
                merge("x", "stored"),
                abort.clone(),
            ]),
            run(&[merge("x", "zz")]),
            run(&[bitmap("clear", "a", "zz")]),
            nodes(),
            run(&[bitmap("remove", "a", "x"), abort.clone()]),
            nodes(),
            run(&[bitmap("disable", "a", "x"), merge("stored", "x")]),
            run(&[bitmap("enable", "a", "x"), bitmap("remove", "a", "x")]),
            nodes(),
            run(&[sync("a", "s1"), abort.clone()]),
            run(&[sync("a", "s1"), sync("zz", "s2")]),
            run(&[sync("a", "s1"), sync("a", "s2")]),
            nodes(),
            run(&[sync("a", "s1"), bitmap("add", "s1", "m"), sync("s1", "s2")]),
            nodes(),
            run(&[inside("s2", ""), abort.clone()]),
            add("d", "qcow2", &format!("{dir}/d"), ""),
            run(&[inside("d", "x"), abort.clone()]),
            run(&[inside("d", "x"), inside("d", "y")]),
            run(&[inside("d", "y")]),
            run(&[inside("d", "")]),
            execute(
                "transaction",
                &format!(r#""actions": [{abort}], "properties": {{"completion-mode": "grouped"}}"#),
            ),
            execute("transaction", r#""actions": [{"type": "zip", "data": {}}]"#),
            nodes(),
        ]
    });
}

#[test]
fn nodes_are_opened_again_as_in_qemu() {
    compare(|dir| {
        let reopen =
            |options: &str| execute("blockdev-reopen", &format!(r#""options": [{options}]"#));
        let file = |name: &str| format!(r#"{{"driver": "file", "filename": "{dir}/{name}"}}"#);
        let (a, b, over) = (file("a"), file("b"), file("over-a"));
        let qcow2 = |name: &str, rest: &str| {
            reopen(&format!(
                r#"{{"driver": "qcow2", "node-name": "{name}", {rest}}}"#
            ))
        };
        vec![
            add("base", "qcow2", &format!("{dir}/a"), ""),
            add(
                "over",
                "qcow2",
                &format!("{dir}/over-a"),
                r#", "backing": "base""#,
            ),
            add("other", "qcow2", &format!("{dir}/c"), ""),
            execute("block_resize", r#""node-name": "base", "size": 2097152"#),
            nodes(),
            reopen(&format!(r#"{{"driver": "qcow2", "file": {a}}}"#)),
            qcow2("zz", &format!(r#""file": {a}"#)),
            reopen(&format!(
                r#"{{"driver": "raw", "node-name": "base", "file": {a}}}"#
            )),
            qcow2("base", &format!(r#""file": {b}"#)),
            qcow2("over", &format!(r#""file": {over}"#)),
            qcow2("base", &format!(r#""file": {a}, "read-only": true"#)),
            nodes(),
            qcow2("base", &format!(r#""file": {a}"#)),
            qcow2("over", &format!(r#""file": {over}, "backing": "zz""#)),
            qcow2("over", &format!(r#""file": {over}, "backing": "over""#)),
            qcow2("over", &format!(r#""file": {over}, "backing": null"#)),
            nodes(),
            execute("blockdev-del", r#""node-name": "base""#),
            qcow2("over", &format!(r#""file": {over}, "backing": "other""#)),
            qcow2(
                "other",
                &format!(r#""file": {}, "backing": "over""#, file("c")),
            ),
            nodes(),
        ]
    });
}

#[test]
fn backing_files_are_named_as_in_qemu() {
    compare(|dir| {
        let change = |device: &str, image: &str, name: &str| {
            execute(
                "change-backing-file",
                &format!(
                    r#""device": "{device}", "image-node-name": "{image}", "backing-file": "{name}""#
                ),
            )
        };
        vec![
            add("base", "qcow2", &format!("{dir}/a"), ""),
            add(
                "over",
                "qcow2",
                &format!("{dir}/over-a"),
                r#", "backing": "base""#,
            ),
            add("other", "qcow2", &format!("{dir}/c"), ""),
            change("zz", "over", "x"),
            change("over", "zz", "x"),
            change("over", "base", "x"),
            change("other", "over", "x"),
            change("base", "over", "x"),
            change("over", "over", &format!("{dir}/a")),
            nodes(),
        ]
    });
}
