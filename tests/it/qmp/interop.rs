//! The same questions to `qemu-storage-daemon`, and QEMU's own client library against us.
//!
//! A test whose program is missing says so and passes, unless `QBLK_REQUIRE_INTEROP` is set.

use std::io::ErrorKind;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use block_schema::{Object, Value};

use super::rig::{Client, Rig, limited};

/// Says why a test does nothing.
///
/// # Panics
/// Where interop is required.
pub(super) fn skip(why: &str) {
    assert!(
        std::env::var_os("QBLK_REQUIRE_INTEROP").is_none(),
        "interop is required, and {why}"
    );
    eprintln!("skipped: {why}");
}

/// QEMU's daemon, beside ours.
pub(super) struct Oracle(Child);

impl Oracle {
    pub(super) fn start(rig: &Rig) -> Option<(Oracle, Client)> {
        let (oracle, stream) = Oracle::start_quietly(rig)?;
        Some((oracle, Client::on(stream)))
    }

    /// As [`start`](Oracle::start), with a client that has negotiated.
    pub(super) fn negotiated(rig: &Rig) -> Option<(Oracle, Client)> {
        let (oracle, mut client) = Oracle::start(rig)?;
        client.receive();
        client.ok(r#"{"execute": "qmp_capabilities"}"#);
        Some((oracle, client))
    }

    /// Its socket, of which nothing was read yet.
    pub(super) fn start_quietly(rig: &Rig) -> Option<(Oracle, UnixStream)> {
        let socket = rig.path("oracle.sock");
        // It connects to us: who connects to it before its monitor is there may be greeted twice.
        let listener = UnixListener::bind(&socket).expect("a socket");
        let chardev = format!("socket,id=c,path={socket},server=off");
        let child = Command::new("qemu-storage-daemon")
            .args(["--chardev", &chardev, "--monitor", "chardev=c"])
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let mut oracle = Oracle(child);
        listener.set_nonblocking(true).expect("a mode of a socket");
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            let running = oracle.0.try_wait().expect("a child");
            assert!(running.is_none(), "qemu-storage-daemon ended at once");
            std::thread::yield_now();
        };
        stream.set_nonblocking(false).expect("a mode of a socket");
        Some((oracle, limited(stream)))
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Inputs that both answer alike, with the paths filled in.
fn common_inputs(rig: &Rig) -> Vec<String> {
    let disk = rig.file("disk.img", 1 << 20);
    let nowhere = rig.path("nowhere");
    let socket = rig.path("nbd.sock");
    let execute = |command: &str, arguments: &str| {
        format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}, "id": [1, null]}}"#)
    };
    let file = format!(r#""driver": "file", "filename": "{disk}""#);
    let nbd_start = execute(
        "nbd-server-start",
        &format!(r#""addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}"#),
    );
    let export = |rest: &str| execute("block-export-add", &format!(r#""type": "nbd", {rest}"#));
    vec![
        r#"{"execute": "query-version"}"#.to_owned(),
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["x"]}}"#.to_owned(),
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}"#.to_owned(),
        r#"{"execute": "qmp_capabilities"}"#.to_owned(),
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["x"]}}"#.to_owned(),
        r#"{"execute": "qmp_capabilities", "arguments": {"x": 1}}"#.to_owned(),
        r#"{"exec-oob": "qmp_capabilities"}"#.to_owned(),
        "{}".to_owned(),
        r#"{"id": {"a": 1}}"#.to_owned(),
        r#"{"execute": 1, "id": 1.5}"#.to_owned(),
        r#"{"execute": "query-version", "arguments": 1}"#.to_owned(),
        r#"{"execute": "query-named-block-nodes", "zz": 1}"#.to_owned(),
        r#"{"exec-oob": "query-block-jobs", "id": "o"}"#.to_owned(),
        r#"{"execute": "no-such-command", "id": null}"#.to_owned(),
        r#"{"execute": "query-block-jobs", "id": 18446744073709551615}"#.to_owned(),
        r#"{"execute": "query-block-jobs", "id": "\u00e9\ud83d\ude00\u007f"}"#.to_owned(),
        "[1]".to_owned(),
        r#""x""#.to_owned(),
        r#"{"execute": }"#.to_owned(),
        r#"{"execute" 1}"#.to_owned(),
        r#"{"execute": "a", "execute": "b"}"#.to_owned(),
        r#"{"execute": hello}"#.to_owned(),
        r#"{"execute": "\q"}"#.to_owned(),
        "{'execute': 'query-block-jobs', 'id': 'it\\'s'}".to_owned(),
        execute("query-block-jobs", r#""x": 1"#),
        execute("blockdev-add", r#""driver": "nope""#),
        execute("blockdev-add", r#""driver": "file", "node-name": "n""#),
        execute(
            "blockdev-add",
            r#""driver": "raw", "file": {"driver": "file"}"#,
        ),
        execute("blockdev-add", &format!(r#"{file}, "node-name": 1"#)),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "cache": {{"direct": 1}}"#),
        ),
        execute("blockdev-add", &format!(r#"{file}, "cache": {{"zip": 1}}"#)),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "a", "zip": 1"#),
        ),
        execute("blockdev-add", &format!(r#"{file}, "node-name": "0a""#)),
        execute(
            "blockdev-add",
            &format!(r#""driver": "file", "node-name": "n", "filename": "{nowhere}""#),
        ),
        execute(
            "blockdev-add",
            r#""driver": "raw", "node-name": "r", "file": "nosuch""#,
        ),
        execute("blockdev-add", &format!(r#"{file}, "node-name": "f0""#)),
        execute("blockdev-add", &format!(r#"{file}, "node-name": "f0""#)),
        execute(
            "blockdev-add",
            r#""driver": "raw", "node-name": "r0", "file": "f0""#,
        ),
        execute("blockdev-del", r#""node-name": "f0""#),
        execute("blockdev-del", r#""node-name": "zz""#),
        execute("block_resize", r#""size": 1"#),
        execute("block_resize", r#""size": 1, "node-name": "zz""#),
        execute("block_resize", r#""size": -1, "node-name": "r0""#),
        execute("block_resize", r#""size": 1.0, "node-name": "r0""#),
        execute("block_resize", r#""size": 65536, "node-name": "r0""#),
        execute("block_resize", r#""size": 1000, "node-name": "r0""#),
        execute("block_resize", r#""size": 0, "node-name": "r0""#),
        execute(
            "block_resize",
            r#""size": 9223372036854775807, "node-name": "r0""#,
        ),
        execute(
            "block_resize",
            r#""size": 9223372036854775808, "node-name": "r0""#,
        ),
        execute("block_resize", r#""size": 65536, "node-name": "f0""#),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "detect-zeroes": "unmap""#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "detect-zeroes": "x""#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "discard": 1"#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "aio": "native""#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "werror": "stop""#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "x", "force-share": true"#),
        ),
        execute(
            "blockdev-add",
            &format!(r#"{file}, "node-name": "ro", "read-only": true, "force-share": true"#),
        ),
        execute("block_resize", r#""size": 65536, "node-name": "ro""#),
        execute("blockdev-del", r#""node-name": "ro""#),
        execute(
            "nbd-server-start",
            r#""addr": {"type": "unix", "data": {"path": "x"}}, "max-connections": "1""#,
        ),
        execute(
            "nbd-server-start",
            r#""addr": {"type": "unix", "data": {"path": "x"}}, "max-connections": 4294967296"#,
        ),
        r#"{"execute": "nbd-server-stop"}"#.to_owned(),
        export(r#""id": "e", "node-name": "r0""#),
        nbd_start.clone(),
        nbd_start,
        export(r#""id": "1e", "node-name": "r0""#),
        export(r#""id": "e", "node-name": "zz""#),
        export(r#""id": "e", "node-name": "r0""#),
        export(r#""id": "e", "node-name": "r0""#),
        export(r#""id": "f", "node-name": "r0""#),
        execute("nbd-server-add", r#""device": "zz""#),
        execute(
            "nbd-server-add",
            r#""device": "r0", "name": "x", "bitmap": "m""#,
        ),
        execute("nbd-server-add", r#""device": "r0", "name": "x""#),
        r#"{"execute": "query-block-exports"}"#.to_owned(),
        execute("blockdev-del", r#""node-name": "r0""#),
        execute("block-export-del", r#""id": "zz""#),
        execute("block-export-del", r#""id": "e""#),
        r#"{"execute": "nbd-server-stop"}"#.to_owned(),
        execute("nbd-server-remove", r#""name": "zz""#),
        execute("block-export-del", r#""id": "e", "mode": "x""#),
        r#"{"execute": "query-block-jobs"}"#.to_owned(),
        r#"{"execute": "quit", "id": "bye"}"#.to_owned(),
    ]
}

#[test]
fn replies_are_those_of_qemu() {
    let rig = Rig::start();
    // One after the other: both lock the same files.
    let inputs = common_inputs(&rig);
    let Some((oracle, mut theirs)) = Oracle::start(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    theirs.receive();
    let wanted: Vec<_> = inputs.iter().map(|input| theirs.reply(input)).collect();
    drop(oracle);
    let mut ours = rig.connect();
    ours.receive();
    for (input, want) in inputs.iter().zip(wanted) {
        assert_eq!(ours.reply(input), want, "for {input}");
    }
    rig.join();
}

/// What a query shows of the named nodes, in this order.
fn shown_nodes(client: &mut Client, names: &[&str]) -> Vec<Value> {
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    let nodes = nodes.as_array().expect("a list");
    let shown = |name: &&str| {
        let named = |node: &&Value| node.get("node-name").and_then(Value::as_str) == Some(*name);
        let node = nodes.iter().find(named)?.as_object()?;
        let mut node = node.clone();
        // Of QEMU's older releases; today's say it by `encrypted` alone.
        node.remove("encryption_key_missing");
        // Of its newer ones: 10.1 and later.
        node.remove("children");
        Some(Value::from(node))
    };
    names.iter().filter_map(shown).collect()
}

/// Asks both the same after the same commands, QEMU first: both lock the same files.
fn compare(rig: &Rig, setup: &[String], question: impl Fn(&mut Client) -> Vec<Value>) {
    let Some((oracle, mut theirs)) = Oracle::start(rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    theirs.receive();
    for input in setup {
        theirs.ok(input);
    }
    let want = question(&mut theirs);
    theirs.ok(r#"{"execute": "quit"}"#);
    drop(oracle);
    let mut ours = rig.connect();
    ours.receive();
    for input in setup {
        ours.ok(input);
    }
    let have = question(&mut ours);
    assert_eq!(have.len(), want.len());
    for (have, want) in have.into_iter().zip(want) {
        let name = want.get("file").and_then(Value::as_str);
        if name.is_some_and(|name| name.starts_with("json:")) {
            assert_eq!(without_filename(have), without_filename(want));
        } else {
            assert_eq!(have, want);
        }
    }
}

/// A node whose name QEMU makes up of its options, where we show the file's.
fn without_filename(node: Value) -> Value {
    let mut node = node.as_object().expect("a node").clone();
    node.remove("file");
    if let Some(Value::Object(mut image)) = node.remove("image") {
        image.remove("filename");
        node.insert("image", image);
    }
    Value::from(node)
}

fn add(options: &str) -> String {
    format!(r#"{{"execute": "blockdev-add", "arguments": {options}}}"#)
}

/// Makes an image with QEMU's tool; false when there is none.
pub(super) fn qemu_img(args: &[&str]) -> bool {
    let status = Command::new("qemu-img")
        .args(args)
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// What `qemu-img` prints.
pub(super) fn qemu_img_says(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output();
    let output = output.expect("there is a qemu-img");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_chain_looks_as_in_qemu() {
    let rig = Rig::start();
    let (base, top) = (rig.path("base.qcow2"), rig.path("top.qcow2"));
    let made = qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
        &base,
        "1M",
    ]) && qemu_img(&["snapshot", "-c", "before", &base])
        && qemu_img(&[
            "create",
            "-f",
            "qcow2",
            "-b",
            "base.qcow2",
            "-F",
            "qcow2",
            &top,
        ]);
    if !made {
        return skip("there is no qemu-img");
    }
    let setup = [
        r#"{"execute": "qmp_capabilities"}"#.to_owned(),
        add(&format!(
            r#"{{"driver": "qcow2", "node-name": "top",
                "file": {{"driver": "file", "node-name": "top-file", "filename": "{top}"}},
                "backing": {{"driver": "qcow2", "node-name": "base",
                    "file": {{"driver": "file", "node-name": "base-file",
                              "filename": "{base}"}}}}}}"#
        )),
    ];
    compare(&rig, &setup, |client| {
        shown_nodes(client, &["top", "top-file", "base", "base-file"])
    });
}

#[test]
fn a_chain_that_images_name_looks_as_in_qemu() {
    let rig = Rig::start();
    let (base, top) = (rig.path("base.img"), rig.path("top.qcow2"));
    rig.file("base.img", 1 << 20);
    if !qemu_img(&["create", "-f", "qcow2", "-b", &base, "-F", "raw", &top]) {
        return skip("there is no qemu-img");
    }
    let setup = [
        r#"{"execute": "qmp_capabilities"}"#.to_owned(),
        add(&format!(
            r#"{{"driver": "qcow2", "node-name": "top", "read-only": true,
                "file": {{"driver": "file", "filename": "{top}"}}}}"#
        )),
        add(&format!(
            r#"{{"driver": "qcow2", "node-name": "alone", "backing": null, "read-only": true,
                "file": {{"driver": "file", "filename": "{top}"}}}}"#
        )),
    ];
    compare(&rig, &setup, |client| {
        shown_nodes(client, &["top", "alone"])
    });
}

#[test]
fn statistics_of_nodes_look_as_in_qemu() {
    let rig = Rig::start();
    let top = rig.path("top.qcow2");
    if !qemu_img(&["create", "-f", "qcow2", &top, "1M"]) {
        return skip("there is no qemu-img");
    }
    let setup = [
        r#"{"execute": "qmp_capabilities"}"#.to_owned(),
        add(&format!(
            r#"{{"driver": "qcow2", "node-name": "top", "read-only": true,
                "file": {{"driver": "file", "node-name": "file", "filename": "{top}"}}}}"#
        )),
    ];
    compare(&rig, &setup, |client| {
        let arguments = r#"{"query-nodes": true}"#;
        let stats = client.ok(&format!(
            r#"{{"execute": "query-blockstats", "arguments": {arguments}}}"#
        ));
        let nodes = stats.as_array().expect("a list").iter();
        nodes.map(structure).collect()
    });
}

/// The names of a node's statistics and of those below it.
fn structure(stats: &Value) -> Value {
    let mut names = Object::new();
    for (name, value) in stats.as_object().expect("an object").iter() {
        match name {
            "parent" | "backing" => names.insert(name, structure(value)),
            "node-name" | "device" => names.insert(name, value.clone()),
            _ => {}
        }
    }
    Value::from(names)
}

#[test]
fn nodes_look_as_in_qemu() {
    let rig = Rig::start();
    let disk = rig.file("disk.img", 1 << 20);
    std::fs::write(rig.path("odd.img"), [1; 1000]).expect("a small file");
    let odd = rig.path("odd.img");
    let setup = [
        r#"{"execute": "qmp_capabilities"}"#.to_owned(),
        add(&format!(
            r#"{{"driver": "file", "node-name": "f0", "filename": "{disk}", "read-only": true,
                "cache": {{"no-flush": true}}}}"#
        )),
        add(r#"{"driver": "raw", "node-name": "r0", "file": "f0", "read-only": true}"#),
        add(&format!(
            r#"{{"driver": "raw", "node-name": "r1",
                "discard": "unmap", "detect-zeroes": "unmap",
                "file": {{"driver": "file", "node-name": "f1", "filename": "{odd}"}}}}"#
        )),
    ];
    compare(&rig, &setup, |client| {
        shown_nodes(client, &["f0", "r0", "r1", "f1"])
    });
}

/// Drives every command with `qemu.qmp`, which checks the protocol on its own.
const SCRIPT: &str = r#"
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main(socket, disk, nbd):
    client = QMPClient('test')
    await client.connect(socket)
    assert client.greeting.QMP.capabilities == ['oob']
    run = client.execute
    version = await run('query-version')
    assert version['qemu']['major'] == 10, version
    assert {'name': 'blockdev-add'} in await run('query-commands')
    assert any(e['name'] == 'BLOCK_EXPORT_DELETED' for e in await run('query-qmp-schema'))
    await run('blockdev-add', {'driver': 'file', 'node-name': 'f0', 'filename': disk})
    await run('blockdev-add', {'options': {'driver': 'raw', 'id': 'd0', 'file': 'f0'}})
    assert (await run('query-block'))[0]['device'] == 'd0'
    assert len(await run('query-named-block-nodes')) == 2
    assert (await run('query-blockstats'))[0]['device'] == 'd0'
    await run('block_resize', {'device': 'd0', 'size': 8192})
    assert await run('query-block-jobs') == []
    await run('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': nbd}}})
    await run('block-export-add', {'type': 'nbd', 'id': 'e0', 'node-name': 'f0'})
    assert (await run('query-block-exports'))[0]['id'] == 'e0'
    with client.listener('BLOCK_EXPORT_DELETED') as events:
        await run('block-export-del', {'id': 'e0'})
        event = await events.get()
        assert event['data'] == {'id': 'e0'}, event
    await run('nbd-server-add', {'device': 'd0'})
    await run('nbd-server-remove', {'name': 'd0'})
    await run('nbd-server-stop')
    await run('blockdev-del', {'id': 'd0'})
    await run('blockdev-del', {'node-name': 'f0'})
    try:
        await run('block_resize', {'device': 'gone', 'size': 1})
        raise AssertionError('an unknown device was resized')
    except ExecuteError as error:
        assert error.error_class == 'DeviceNotFound', error
    try:
        await run('no-such-command')
        raise AssertionError('an unknown command was run')
    except ExecuteError as error:
        assert error.error_class == 'CommandNotFound', error
    await run('quit')
    try:
        await client.disconnect()
    except EOFError:
        pass  # The server was faster.

asyncio.run(main(*sys.argv[1:]))
"#;

#[test]
fn qemus_client_library_gets_along_with_us() {
    let known = Command::new("python3")
        .args(["-c", "import qemu.qmp"])
        .stderr(Stdio::null())
        .status();
    if !known.is_ok_and(|status| status.success()) {
        return skip("python3 has no qemu.qmp");
    }
    let rig = Rig::start();
    let disk = rig.file("disk.img", 4096);
    let status = Command::new("python3")
        .args([
            "-c",
            SCRIPT,
            &rig.path("qmp.sock"),
            &disk,
            &rig.path("nbd.sock"),
        ])
        .status();
    assert!(status.expect("python3 runs").success());
    rig.join();
}
