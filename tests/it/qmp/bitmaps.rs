//! Dirty bitmaps by QMP: what `qemu-storage-daemon` answers, we answer; and what guests write while
//! bitmaps come and go is in the bitmaps that were there.

use block_core::{IoBuf, Request};
use block_schema::Value;

use super::interop::{Oracle, qemu_img, skip};
use super::rig::{Client, Rig};

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

/// `block-dirty-bitmap-VERB` on a bitmap of node `q`.
fn bitmap(verb: &str, name: &str, more: &str) -> String {
    let command = format!("block-dirty-bitmap-{verb}");
    execute(&command, &format!(r#""node": "q", "name": "{name}"{more}"#))
}

fn add_node(image: &str, id: &str) -> String {
    let file = format!(r#""file": {{"driver": "file", "filename": "{image}"}}"#);
    execute(
        "blockdev-add",
        &format!(r#""driver": "qcow2", {id} "node-name": "q", {file}"#),
    )
}

/// The bitmaps of node `q`, as queries show them.
fn shown(client: &mut Client) -> Value {
    let reply = client.reply(r#"{"execute": "query-named-block-nodes"}"#);
    let Some(Value::Array(nodes)) = reply.get("return") else {
        panic!("{reply}");
    };
    let named = |node: &&Value| node.get("node-name") == Some(&Value::String("q".to_owned()));
    let node = nodes.iter().find(named).expect("node q");
    node.get("dirty-bitmaps").cloned().unwrap_or(Value::Null)
}

fn answers(client: &mut Client, image: &str, raw: &str) -> Vec<Value> {
    let raw = format!(r#""driver": "file", "node-name": "r", "filename": "{raw}""#);
    let mut found = Vec::new();
    for input in [
        add_node(image, ""),
        execute("blockdev-add", &raw),
        bitmap("add", "a", ""),
        bitmap("add", "a", ""),
        bitmap("add", "", ""),
        bitmap("add", "small", r#", "granularity": 256"#),
        bitmap("add", "odd", r#", "granularity": 768"#),
        bitmap("add", "negative", r#", "granularity": -1"#),
        bitmap("add", "wide", r#", "granularity": 4294967296"#),
        bitmap("add", "p", r#", "persistent": true, "granularity": 4096"#),
        bitmap("add", "p", r#", "persistent": true"#),
        bitmap("add", "d", r#", "disabled": true"#),
        bitmap("add", &"n".repeat(1024), ""),
        bitmap("add", &"n".repeat(1024), r#", "persistent": true"#),
        execute(
            "block-dirty-bitmap-add",
            r#""node": "r", "name": "x", "persistent": true"#,
        ),
        execute("block-dirty-bitmap-add", r#""node": "zz", "name": "x""#),
        execute("block-dirty-bitmap-add", r#""node": "r", "name": "x""#),
        bitmap("clear", "zz", ""),
        execute("block-dirty-bitmap-clear", r#""node": "zz", "name": "x""#),
        bitmap("clear", "a", ""),
        bitmap("enable", "d", ""),
        bitmap("disable", "a", ""),
        bitmap("disable", "zz", ""),
        execute(
            "block-dirty-bitmap-merge",
            r#""node": "q", "target": "a", "bitmaps": ["p", {"node": "q", "name": "d"}]"#,
        ),
        execute(
            "block-dirty-bitmap-merge",
            r#""node": "q", "target": "a", "bitmaps": ["p", "zz"]"#,
        ),
        execute(
            "block-dirty-bitmap-merge",
            r#""node": "q", "target": "a", "bitmaps": [{"node": "r", "name": "x"}]"#,
        ),
        execute(
            "block-dirty-bitmap-merge",
            r#""node": "q", "target": "a", "bitmaps": [{"node": "zz", "name": "x"}]"#,
        ),
        execute(
            "block-dirty-bitmap-merge",
            r#""node": "q", "target": "a", "bitmaps": [7]"#,
        ),
        execute("block-dirty-bitmap-merge", r#""node": "q", "target": "a""#),
        bitmap("remove", "d", ""),
        bitmap("remove", "d", ""),
    ] {
        found.push(client.reply(&input));
    }
    found.push(shown(client));
    found.push(client.reply(&execute("blockdev-del", r#""node-name": "q""#)));
    found.push(client.reply(&add_node(image, "")));
    found.push(shown(client));
    found.push(client.reply(&bitmap("remove", "p", "")));
    found.push(shown(client));
    found.push(client.reply(r#"{"execute": "quit"}"#));
    found
}

#[test]
fn bitmap_commands_answer_as_in_qemu() {
    let rig = Rig::start();
    let raw = rig.file("disk.img", 65536);
    let images = ["theirs", "ours"].map(|name| rig.path(name));
    for image in &images {
        if !qemu_img(&["create", "-q", "-f", "qcow2", image, "1M"]) {
            return skip("there is no qemu-img");
        }
    }
    let Some((oracle, mut theirs)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let wanted = answers(&mut theirs, &images[0], &raw);
    drop(oracle);
    let mut ours = rig.client();
    let found = answers(&mut ours, &images[1], &raw);
    for (index, (have, want)) in found.into_iter().zip(wanted).enumerate() {
        assert_eq!(have, want, "answer {index}");
    }
    rig.join();
}

#[test]
fn a_guest_writes_while_bitmaps_come_and_go() {
    let rig = Rig::start();
    let image = rig.path("running.qcow2");
    if !qemu_img(&["create", "-q", "-f", "qcow2", &image, "1M"]) {
        return skip("there is no qemu-img");
    }
    let mut client = rig.client();
    client.ok(&add_node(&image, r#""id": "d","#));
    let write = |at: u64| {
        let request = Request::write(at, IoBuf::copy_of(&[7; 512]));
        let written = rig.request("d", request);
        written
            .map(drop)
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    };
    let count = |client: &mut Client, name: &str| {
        let Value::Array(all) = shown(client) else {
            panic!("there are bitmaps");
        };
        let named = |b: &&Value| b.get("name") == Some(&Value::String(name.to_owned()));
        let found = all.iter().find(named).expect("the bitmap");
        let count = found.get("count").expect("its count").to_string();
        count.parse::<u64>().expect("a number")
    };
    // The first write goes the long way, the others the short one.
    write(0);
    client.ok(&bitmap(
        "add",
        "all",
        r#", "persistent": true, "granularity": 4096"#,
    ));
    for at in 0..20_u64 {
        let name = format!("b{at}");
        client.ok(&bitmap("add", &name, r#", "granularity": 4096"#));
        write(at * 4096);
        write(at * 4096 + 1024);
        assert_eq!(count(&mut client, &name), 4096);
        assert_eq!(count(&mut client, "all"), (at + 1) * 4096);
        if at % 3 == 0 {
            client.ok(&bitmap("remove", &name, ""));
        }
    }
    client.ok(&execute("blockdev-del", r#""id": "d""#));
    let check = std::process::Command::new("qemu-img")
        .args(["check", &image])
        .output();
    let check = check.expect("qemu-img was there");
    assert!(check.status.success(), "{check:?}");
    client.ok(&add_node(&image, r#""id": "d","#));
    assert_eq!(count(&mut client, "all"), 20 * 4096);
    client.ok(r#"{"execute": "quit"}"#);
    rig.join();
}

/// An overlay with bitmaps `b`, which is off, and `on`; and its backing file with `low`.
fn make_images(rig: &Rig, folder: &str) -> Option<[String; 2]> {
    let base = rig.path(&format!("{folder}-base"));
    let top = rig.path(&format!("{folder}-top"));
    let made = qemu_img(&["create", "-q", "-f", "qcow2", &base, "1M"])
        && qemu_img(&["bitmap", "--add", "-g", "4k", &base, "low"]);
    let wrote = |image: &str, command: &str| {
        let mut io = std::process::Command::new("qemu-io");
        let io = io.args(["-f", "qcow2", "-c", command, image]);
        io.output().is_ok_and(|output| output.status.success())
    };
    let done = made
        && wrote(&base, "write 100k 8k")
        && qemu_img(&["bitmap", "--disable", &base, "low"])
        && qemu_img(&[
            "create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &top,
        ])
        && qemu_img(&["bitmap", "--add", "-g", "512", &top, "b"])
        && qemu_img(&["bitmap", "--add", &top, "on"])
        && wrote(&top, "write 3k 1k")
        && wrote(&top, "write 1020k 4k")
        && qemu_img(&["bitmap", "--disable", &top, "b"]);
    done.then_some([base, top])
}

fn exported(client: &mut Client, [base, top]: &[String; 2], socket: &str) -> Vec<Value> {
    let file = |path: &str| format!(r#""file": {{"driver": "file", "filename": "{path}"}}"#);
    let backing = format!(
        r#""backing": {{"driver": "qcow2", "node-name": "low", "read-only": true, {}}}"#,
        file(base)
    );
    let node = format!(
        r#""driver": "qcow2", "node-name": "q", {}, {backing}"#,
        file(top)
    );
    let start = format!(r#""addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}"#);
    let export = |id: &str, more: &str| {
        execute(
            "block-export-add",
            &format!(r#""type": "nbd", "id": "{id}", "node-name": "q", "name": "{id}"{more}"#),
        )
    };
    let mut found = Vec::new();
    for input in [
        execute("blockdev-add", &node),
        export("e", r#", "bitmaps": ["zz"]"#),
        execute("nbd-server-start", &start),
        export("e", r#", "bitmaps": ["zz"]"#),
        export("e", r#", "bitmaps": [{"node": "q", "name": "zz"}]"#),
        export("e", r#", "bitmaps": [{"node": "zz", "name": "b"}]"#),
        export("e", r#", "bitmaps": ["on"]"#),
        export("e", r#", "bitmaps": [1]"#),
        export("e", r#", "bitmaps": ["b", "low"]"#),
        export("f", r#", "bitmaps": ["b"]"#),
        execute(
            "nbd-server-add",
            r#""device": "q", "name": "g", "bitmap": "b""#,
        ),
        bitmap("remove", "b", ""),
        bitmap("clear", "b", ""),
        bitmap("enable", "b", ""),
        export(
            "w",
            r#", "writable": true, "bitmaps": [{"node": "q", "name": "on"}]"#,
        ),
    ] {
        found.push(client.reply(&input));
    }
    found.push(shown(client));
    for (export, name) in [("e", "b"), ("e", "low"), ("w", "on"), ("e", "on")] {
        let context = format!("qemu:dirty-bitmap:{name}");
        let options = format!(
            "driver=nbd,server.type=unix,server.path={socket},export={export},\
             x-dirty-bitmap={context}"
        );
        let output = std::process::Command::new("qemu-img")
            .args(["map", "--output=json", "--image-opts", &options])
            .output();
        let said = String::from_utf8_lossy(&output.expect("it was there").stdout).into_owned();
        found.push(Value::from_json(&said).unwrap_or(Value::Null));
    }
    found.push(client.reply(r#"{"execute": "nbd-server-stop"}"#));
    found.push(client.reply(&bitmap("remove", "b", "")));
    found.push(client.reply(r#"{"execute": "quit"}"#));
    found
}

#[test]
fn exported_bitmaps_are_those_of_qemu() {
    let rig = Rig::start();
    let (Some(for_them), Some(for_us)) = (make_images(&rig, "theirs"), make_images(&rig, "ours"))
    else {
        return skip("there is no qemu-img or qemu-io");
    };
    let Some((oracle, mut theirs)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let wanted = exported(&mut theirs, &for_them, &rig.path("theirs.sock"));
    drop(oracle);
    let mut ours = rig.client();
    let found = exported(&mut ours, &for_us, &rig.path("ours.sock"));
    let runs = |map: &Value| map.as_array().map_or(0, <[Value]>::len);
    let maps: Vec<usize> = found.iter().skip(16).take(4).map(runs).collect();
    // Clean and dirty runs; the last was not offered.
    assert_eq!(maps, [4, 3, 3, 0], "{found:?}");
    for (index, (have, want)) in found.into_iter().zip(wanted).enumerate() {
        assert_eq!(have, want, "answer {index}");
    }
    rig.join();
}
