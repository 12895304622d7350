//! Internal snapshots by QMP: what `qemu-storage-daemon` answers, we answer; and writers go on
//! beside.

use block_core::{IoBuf, Request};
use block_schema::Value;

use super::interop::{Oracle, qemu_img, skip};
use super::rig::{Client, Rig};

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

fn take(arguments: &str) -> String {
    execute("blockdev-snapshot-internal-sync", arguments)
}

fn delete(arguments: &str) -> String {
    execute("blockdev-snapshot-delete-internal-sync", arguments)
}

fn add(image: &str) -> String {
    let file = format!(r#""file": {{"driver": "file", "filename": "{image}"}}"#);
    execute(
        "blockdev-add",
        &format!(r#""driver": "qcow2", "node-name": "q", {file}"#),
    )
}

/// A reply without what depends on when it was made.
fn timeless(mut reply: Value) -> Value {
    if let Value::Object(reply) = &mut reply
        && let Some(Value::Object(mut snapshot)) = reply.remove("return")
    {
        for moment in ["date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"] {
            snapshot.remove(moment);
        }
        reply.insert("return", snapshot);
    }
    reply
}

fn answers(client: &mut Client, image: &str, raw: &str) -> Vec<Value> {
    let read_only = format!(
        r#""driver": "qcow2", "node-name": "ro", "read-only": true,
           "file": {{"driver": "file", "filename": "{image}.ro"}}"#
    );
    let raw = format!(r#""driver": "file", "node-name": "r", "filename": "{raw}""#);
    let inputs = [
        add(image),
        execute("blockdev-add", &read_only),
        execute("blockdev-add", &raw),
        take(r#""device": "q", "name": "a""#),
        take(r#""device": "q", "name": "a""#),
        take(r#""device": "q", "name": """#),
        take(r#""device": "zz", "name": "a""#),
        take(r#""device": "ro", "name": "a""#),
        take(r#""device": "r", "name": "a""#),
        take(r#""device": "q", "name": "b""#),
        delete(r#""device": "q""#),
        delete(r#""device": "zz", "name": "a""#),
        delete(r#""device": "q", "name": "c""#),
        delete(r#""device": "q", "id": "1", "name": "b""#),
        delete(r#""device": "q", "id": "9""#),
        delete(r#""device": "r", "name": "a""#),
        delete(r#""device": "q", "id": "2""#),
        delete(r#""device": "q", "name": "a""#),
        r#"{"execute": "quit"}"#.to_owned(),
    ];
    inputs
        .iter()
        .map(|input| timeless(client.reply(input)))
        .collect()
}

#[test]
fn snapshot_commands_answer_as_in_qemu() {
    let rig = Rig::start();
    let raw = rig.file("disk.img", 65536);
    let images = ["theirs", "ours"].map(|name| rig.path(name));
    for image in images
        .iter()
        .flat_map(|image| [image.clone(), format!("{image}.ro")])
    {
        if !qemu_img(&["create", "-q", "-f", "qcow2", &image, "1M"]) {
            return skip("there is no qemu-img");
        }
    }
    let Some((oracle, mut theirs)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let wanted = answers(&mut theirs, &images[0], &raw);
    drop(oracle);
    let mut ours = rig.client();
    for (have, want) in answers(&mut ours, &images[1], &raw).into_iter().zip(wanted) {
        assert_eq!(have, want);
    }
    rig.join();
}

#[test]
fn a_guest_writes_while_snapshots_come_and_go() {
    let rig = Rig::start();
    let image = rig.path("running.qcow2");
    if !qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        &image,
        "1M",
    ]) {
        return skip("there is no qemu-img");
    }
    let mut client = rig.client();
    let file = format!(r#""file": {{"driver": "file", "filename": "{image}"}}"#);
    let options = format!(r#""driver": "qcow2", "id": "d", "node-name": "q", {file}"#);
    client.ok(&execute("blockdev-add", &options));
    let write = |at: u64, byte: u8| {
        let written = rig.request("d", Request::write(at, IoBuf::copy_of(&[byte; 6000])));
        written
            .map(drop)
            .unwrap_or_else(|error| panic!("{}", error.chain()));
    };
    for round in 1..=6_u8 {
        for at in 0..40_u64 {
            write(at * 20_000 + u64::from(round), round);
        }
        client.ok(&take(&format!(r#""device": "d", "name": "s{round}""#)));
        if round % 2 == 0 {
            client.ok(&delete(&format!(
                r#""device": "d", "name": "s{}""#,
                round - 1
            )));
        }
    }
    write(0, 99);
    client.ok(&execute("blockdev-del", r#""id": "d""#));
    let check = std::process::Command::new("qemu-img")
        .args(["check", &image])
        .output();
    let check = check.expect("qemu-img was there");
    assert!(check.status.success(), "{check:?}");
    for round in [2_u8, 4, 6] {
        let (name, copy) = (format!("s{round}"), format!("{image}.raw"));
        assert!(qemu_img(&[
            "convert", "-l", &name, "-O", "raw", &image, &copy
        ]));
        let disk = std::fs::read(&copy).expect("a copy");
        for at in 0..40_usize {
            let start = at * 20_000 + usize::from(round);
            assert_eq!(
                disk[start..start + 6000],
                [round; 6000],
                "{name} at {start}"
            );
        }
    }
    client.ok(r#"{"execute": "quit"}"#);
    rig.join();
}
