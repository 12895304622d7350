//! Verbs that change the graph, by QMP: what `qemu-storage-daemon` answers, we answer, and the graph
//! looks alike afterwards.

use block_schema::Value;

use super::interop::{Oracle, qemu_img, skip};
use super::rig::{Client, Rig};

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
    let Some((oracle, mut theirs)) = Oracle::start(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    theirs.receive();
    theirs.ok(r#"{"execute": "qmp_capabilities"}"#);
    let inputs = script(&folders[0]);
    let wanted: Vec<_> = inputs
        .iter()
        .map(|input| shown(theirs.reply(input), &folders[0]))
        .collect();
    theirs.ok(r#"{"execute": "quit"}"#);
    drop(oracle);
    let mut ours = rig.connect();
    ours.receive();
    ours.ok(r#"{"execute": "qmp_capabilities"}"#);
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
        // `b` and `c` do not name what is behind them: QEMU shows that as a `json:` name.
        let named = |name: &String| {
            let unnamed = ["/b", "/c"].iter().any(|end| name.ends_with(end));
            !unnamed && !name.starts_with("json:")
        };
        let chain: Vec<String> = chain.filter(named).collect();
        format!(
            "{:?} {:?} {:?} {chain:?}",
            node.get("node-name"),
            node.get("drv"),
            node.get("ro")
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
