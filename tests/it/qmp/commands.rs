//! What the commands do to nodes, devices and exports.

use std::fs::File;
use std::os::unix::fs::FileExt;

use block_core::{Error, IoBuf, Request};
use block_schema::Value;

use super::interop::{qemu_img, skip};
use super::rig::{Client, Rig};

#[track_caller]
fn check_error(client: &mut Client, input: &str, want: &str) {
    assert_eq!(client.error(input), want, "for {input}");
}

fn json(text: &str) -> Value {
    Value::from_json(text).expect("the expectation is JSON")
}

/// `blockdev-add` of a file, in today's spelling.
fn add_file(client: &mut Client, node: &str, path: &str) {
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments":
            {{"driver": "file", "node-name": "{node}", "filename": "{path}"}}}}"#
    ));
}

/// The named node's entry of `query-named-block-nodes`.
fn node(client: &mut Client, name: &str) -> Option<Value> {
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    let nodes = nodes.as_array().expect("a list");
    let named = |node: &&Value| node.get("node-name").and_then(Value::as_str) == Some(name);
    nodes.iter().find(named).cloned()
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        _ => value.get(name),
    })
}

#[track_caller]
fn check_int(value: &Value, path: &str, want: i64) {
    let found = at(value, path).and_then(Value::as_i64);
    assert_eq!(found, Some(want), "{path} of {value}");
}

#[test]
fn commands_are_listed_in_schema_order() {
    let rig = Rig::start();
    let list = rig.client().ok(r#"{"execute": "query-commands"}"#);
    let names: Vec<&str> = (list.as_array().expect("a list").iter())
        .filter_map(|info| info.get("name")?.as_str())
        .collect();
    let known: Vec<&str> = block_schema::COMMANDS
        .iter()
        .map(|spec| spec.name)
        .collect();
    assert_eq!(names, known);
}

#[test]
fn the_schema_describes_what_the_server_takes() {
    let rig = Rig::start();
    let schema = rig.client().ok(r#"{"execute": "query-qmp-schema"}"#);
    let entries = schema.as_array().expect("a list");
    let named = |name: &str| {
        let fits = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(name);
        entries.iter().find(fits).expect("an entry")
    };
    let resize = named("block_resize");
    assert_eq!(
        resize.get("meta-type").and_then(Value::as_str),
        Some("command")
    );
    let arguments = named(
        resize
            .get("arg-type")
            .and_then(Value::as_str)
            .expect("a type"),
    );
    let members = arguments.get("members").and_then(Value::as_array);
    let members = members.expect("members");
    // An optional member has a default, which is null.
    let defaults: Vec<Option<&Value>> = members.iter().map(|m| m.get("default")).collect();
    assert_eq!(defaults, [Some(&Value::Null), Some(&Value::Null), None]);
}

#[test]
fn a_node_is_added_shown_and_removed() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    add_file(&mut client, "f0", &path);
    let shown = node(&mut client, "f0").expect("the node is there");
    assert_eq!(at(&shown, "drv"), Some(&Value::from("file")));
    assert_eq!(at(&shown, "file"), Some(&Value::from(path.clone())));
    assert_eq!(at(&shown, "ro"), Some(&Value::from(false)));
    assert_eq!(at(&shown, "image/filename"), Some(&Value::from(path)));
    check_int(&shown, "image/virtual-size", 1 << 20);
    check_int(&shown, "image/actual-size", 0);
    check_int(&shown, "backing_file_depth", 0);
    assert_eq!(
        at(&shown, "cache"),
        Some(&json(
            r#"{"writeback": true, "direct": false, "no-flush": false}"#
        ))
    );
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#);
    assert_eq!(node(&mut client, "f0"), None);
    check_error(
        &mut client,
        r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#,
        "GenericError: Failed to find node with node-name='f0'",
    );
}

#[test]
fn blockdev_add_says_what_is_wrong() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 4096);
    add_file(&mut client, "f0", &path);
    let nowhere = rig.path("nowhere");
    for (options, want) in [
        (
            format!(r#""driver": "file", "node-name": "f1", "filename": "{nowhere}""#),
            format!("GenericError: Could not open '{nowhere}': No such file or directory"),
        ),
        (
            format!(r#""driver": "file", "filename": "{path}""#),
            "GenericError: 'id' and/or 'node-name' need to be specified for the root node"
                .to_owned(),
        ),
        (
            format!(r#""driver": "file", "node-name": "f0", "filename": "{path}""#),
            "GenericError: Duplicate nodes with node-name='f0'".to_owned(),
        ),
        (
            format!(r#""driver": "file", "node-name": "0f", "filename": "{path}""#),
            "GenericError: Invalid node-name: '0f'".to_owned(),
        ),
        (
            r#""driver": "raw", "node-name": "r0", "file": "nosuch""#.to_owned(),
            "GenericError: Cannot find device='nosuch' nor node-name='nosuch'".to_owned(),
        ),
        (
            format!(
                r#""driver": "raw", "node-name": "r0",
                    "file": {{"driver": "file", "id": "x", "filename": "{path}"}}"#
            ),
            "GenericError: Parameter 'file.id' is unexpected".to_owned(),
        ),
    ] {
        let input = format!(r#"{{"execute": "blockdev-add", "arguments": {{{options}}}}}"#);
        check_error(&mut client, &input, &want);
    }
    // Nothing of all that is left behind.
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    assert_eq!(nodes.as_array().map(<[Value]>::len), Some(1), "{nodes}");
}

#[test]
fn nodes_below_others_stay() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 4096);
    add_file(&mut client, "f0", &path);
    client.ok(r#"{"execute": "blockdev-add", "arguments":
            {"driver": "raw", "node-name": "r0", "file": "f0"}}"#);
    check_error(
        &mut client,
        r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#,
        "GenericError: Block device f0 is in use",
    );
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "r0"}}"#);
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#);
}

#[test]
fn nodes_inside_options_go_with_their_parent() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 4096);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "raw", "node-name": "r0",
            "file": {{"driver": "file", "node-name": "f0", "filename": "{path}"}}}}}}"#
    ));
    check_error(
        &mut client,
        r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#,
        "GenericError: Node f0 is not owned by the monitor",
    );
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "r0"}}"#);
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    assert_eq!(nodes, Value::from(Vec::new()));
}

#[test]
fn a_device_has_its_own_entry_in_queries() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    // The older spelling.
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"options": {{"driver": "raw",
            "id": "disk0", "file": {{"driver": "file", "filename": "{path}"}}}}}}}}"#
    ));
    let devices = client.ok(r#"{"execute": "query-block"}"#);
    assert_eq!(at(&devices, "0/device"), Some(&Value::from("disk0")));
    assert_eq!(at(&devices, "0/type"), Some(&Value::from("unknown")));
    assert_eq!(at(&devices, "0/removable"), Some(&Value::from(true)));
    assert_eq!(at(&devices, "0/locked"), Some(&Value::from(false)));
    assert_eq!(at(&devices, "0/inserted/drv"), Some(&Value::from("raw")));
    check_int(&devices, "0/inserted/image/virtual-size", 1 << 20);
    let stats = client.ok(r#"{"execute": "query-blockstats"}"#);
    assert_eq!(at(&stats, "0/device"), Some(&Value::from("disk0")));
    check_int(&stats, "0/stats/rd_operations", 0);
    check_int(&stats, "0/parent/stats/wr_highest_offset", 0);
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"id": "disk0"}}"#);
    assert_eq!(client.ok(r#"{"execute": "query-block"}"#), json("[]"));
    let nodes = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    assert_eq!(nodes, json("[]"));
    check_error(
        &mut client,
        r#"{"execute": "blockdev-del", "arguments": {"id": "disk0"}}"#,
        "DeviceNotFound: Cannot find device='disk0' nor node-name=''",
    );
}

#[test]
fn statistics_count_what_a_device_did() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "raw", "id": "d0", "offset": 4096,
            "file": {{"driver": "file", "filename": "{path}"}}}}}}"#
    ));
    for request in [
        Request::write(8192, IoBuf::zeroed(512)),
        Request::write(0, IoBuf::zeroed(512)),
        Request::read(0, IoBuf::zeroed(100)),
        Request::flush(),
    ] {
        rig.request("d0", request).expect("the request succeeds");
    }
    let stats = client.ok(r#"{"execute": "query-blockstats"}"#);
    check_int(&stats, "0/stats/wr_operations", 2);
    check_int(&stats, "0/stats/wr_bytes", 1024);
    check_int(&stats, "0/stats/rd_operations", 1);
    check_int(&stats, "0/stats/rd_bytes", 100);
    check_int(&stats, "0/stats/flush_operations", 1);
    // Of the guest's disk, and of the file below.
    check_int(&stats, "0/stats/wr_highest_offset", 8704);
    check_int(&stats, "0/parent/stats/wr_highest_offset", 8704 + 4096);
    assert_eq!(at(&stats, "0/parent/backing"), None);
}

#[test]
fn a_corrupt_image_is_reported_once() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.path("disk.qcow2");
    if !qemu_img(&["create", "-f", "qcow2", &path, "1M"]) {
        return skip("there is no qemu-img");
    }
    spoil_first_l1_entry(&path);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "qcow2", "id": "d0",
            "node-name": "n0", "file": {{"driver": "file", "filename": "{path}"}}}}}}"#
    ));
    for _ in 0..2 {
        let read = rig.request("d0", Request::read(0, IoBuf::zeroed(512)));
        assert!(matches!(read, Err(Error::Corrupt { .. })), "{read:?}");
    }
    let event = client.receive();
    assert_eq!(
        at(&event, "event"),
        Some(&Value::from("BLOCK_IMAGE_CORRUPTED"))
    );
    for _ in 0..2 {
        let failed = client.receive();
        assert_eq!(at(&failed, "event"), Some(&Value::from("BLOCK_IO_ERROR")));
    }
    assert_eq!(at(&event, "data/device"), Some(&Value::from("d0")));
    assert_eq!(at(&event, "data/node-name"), Some(&Value::from("n0")));
    assert_eq!(at(&event, "data/fatal"), Some(&Value::from(false)));
    // The next message is no second event.
    let reply = client.ask(r#"{"execute": "query-block-jobs"}"#);
    assert_eq!(at(&reply, "return"), Some(&json("[]")));
}

/// Lets the first entry of a qcow2 image's L1 table lead to where no L2 table can be.
fn spoil_first_l1_entry(path: &str) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("the image is there");
    // The header's `l1_table_offset`; spec: qcow2 "Header".
    let mut table = [0; 8];
    file.read_exact_at(&mut table, 40).expect("a header");
    let entry = 0x8000_0000_0000_0200_u64.to_be_bytes();
    let written = file.write_all_at(&entry, u64::from_be_bytes(table));
    written.expect("the image takes it");
}

#[test]
fn resize_wants_one_name() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 4096);
    client.ok(&format!(
        r#"{{"execute": "blockdev-add", "arguments": {{"driver": "file", "id": "d0",
            "node-name": "f0", "filename": "{path}"}}}}"#
    ));
    for (names, want) in [
        ("", "GenericError: Cannot find device='' nor node-name=''"),
        (
            r#""device": "d0", "node-name": "f0","#,
            "GenericError: Need exactly one of 'device' and 'node-name'",
        ),
        (
            r#""device": "zz","#,
            "DeviceNotFound: Cannot find device='zz' nor node-name=''",
        ),
        (
            r#""node-name": "zz","#,
            "GenericError: Cannot find device='' nor node-name='zz'",
        ),
    ] {
        let input =
            format!(r#"{{"execute": "block_resize", "arguments": {{{names} "size": 8192}}}}"#);
        check_error(&mut client, &input, want);
    }
    check_error(
        &mut client,
        r#"{"execute": "block_resize", "arguments": {"device": "d0", "size": -1}}"#,
        "GenericError: Parameter 'size' expects a >0 size",
    );
    client.ok(r#"{"execute": "block_resize", "arguments": {"device": "d0", "size": 8192}}"#);
    let shown = node(&mut client, "f0").expect("the node is there");
    check_int(&shown, "image/virtual-size", 8192);
    client.ok(r#"{"execute": "block_resize", "arguments": {"node-name": "f0", "size": 512}}"#);
    let len = std::fs::metadata(path).expect("the file is there").len();
    assert_eq!(len, 512);
}

#[test]
fn exports_come_and_go() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    let socket = rig.path("nbd.sock");
    add_file(&mut client, "f0", &path);
    let start = format!(
        r#"{{"execute": "nbd-server-start", "arguments":
            {{"addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}}}}}"#
    );
    let not_running = "GenericError: NBD server not running";
    check_error(
        &mut client,
        r#"{"execute": "nbd-server-stop"}"#,
        not_running,
    );
    let export = |id: &str, node: &str, more: &str| {
        format!(
            r#"{{"execute": "block-export-add", "arguments":
                {{"type": "nbd", "id": "{id}", "node-name": "{node}"{more}}}}}"#
        )
    };
    check_error(&mut client, &export("e0", "f0", ""), not_running);
    client.ok(&start);
    check_error(
        &mut client,
        &start,
        "GenericError: NBD server already running",
    );
    client.ok(&export("e0", "f0", r#", "writable": true"#));
    for (input, want) in [
        (
            export("e0", "f0", ""),
            "GenericError: Block export id 'e0' is already in use",
        ),
        (
            export("e1", "f0", ""),
            "GenericError: NBD server already has export named 'f0'",
        ),
        (
            export("e1", "zz", ""),
            "GenericError: Cannot find device='' nor node-name='zz'",
        ),
        (
            export("1e", "f0", ""),
            "GenericError: Invalid block export id",
        ),
        (
            export("e1", "f0", r#", "name": "w", "iothread": "x""#),
            r#"GenericError: iothread "x" not found"#,
        ),
        (
            r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#.to_owned(),
            "GenericError: Node f0 is in use",
        ),
        (
            r#"{"execute": "nbd-server-add", "arguments": {"device": "zz"}}"#.to_owned(),
            "GenericError: Cannot find device='zz' nor node-name='zz'",
        ),
        (
            r#"{"execute": "nbd-server-add", "arguments":
                {"device": "f0", "name": "b", "bitmap": "m"}}"#
                .to_owned(),
            "GenericError: Bitmap 'm' is not found",
        ),
        (
            r#"{"execute": "block-export-del", "arguments": {"id": "zz"}}"#.to_owned(),
            "GenericError: Export 'zz' is not found",
        ),
    ] {
        check_error(&mut client, &input, want);
    }
    client.ok(r#"{"execute": "nbd-server-add", "arguments": {"device": "f0", "name": "second"}}"#);
    assert_eq!(
        client.ok(r#"{"execute": "query-block-exports"}"#),
        json(
            r#"[{"id": "second", "type": "nbd", "node-name": "f0", "shutting-down": false},
                {"id": "e0", "type": "nbd", "node-name": "f0", "shutting-down": false}]"#
        )
    );
    client.ok(r#"{"execute": "block-export-del", "arguments": {"id": "second"}}"#);
    check_deleted(&mut client, "second");
    client.send(r#"{"execute": "nbd-server-stop"}"#);
    check_deleted(&mut client, "e0");
    assert_eq!(client.receive(), json(r#"{"return": {}}"#));
    client.ok(r#"{"execute": "blockdev-del", "arguments": {"node-name": "f0"}}"#);
    assert!(!std::path::Path::new(&socket).exists());
}

#[track_caller]
fn check_deleted(client: &mut Client, id: &str) {
    let event = client.receive();
    assert_eq!(
        at(&event, "event"),
        Some(&Value::from("BLOCK_EXPORT_DELETED"))
    );
    assert_eq!(at(&event, "data/id"), Some(&Value::from(id)));
}

#[test]
fn an_export_with_clients_goes_only_by_force() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    let socket = rig.path("nbd.sock");
    add_file(&mut client, "f0", &path);
    client.ok(&format!(
        r#"{{"execute": "nbd-server-start", "arguments":
            {{"addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}}}}}"#
    ));
    client.ok(r#"{"execute": "nbd-server-add", "arguments": {"device": "f0"}}"#);
    let guest = super::nbd_guest::attach(&socket, "f0");
    check_error(
        &mut client,
        r#"{"execute": "block-export-del", "arguments": {"id": "f0"}}"#,
        "GenericError: export 'f0' still in use",
    );
    client.ok(r#"{"execute": "nbd-server-remove", "arguments": {"name": "f0", "mode": "hard"}}"#);
    check_deleted(&mut client, "f0");
    drop(guest);
}
