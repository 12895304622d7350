//! Members of commands that nothing else gives: each is taken, and shown where a query shows it.

use block_schema::Value;

use super::interop::{qemu_img, skip};
use super::rig::{Client, Rig};
use super::secrets::encrypted_image;

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

/// Opens a node, looks for a text in what is shown of it, and closes it.
#[track_caller]
fn check(client: &mut Client, options: &str, shown: &str) {
    client.ok(&execute("blockdev-add", options));
    let nodes = client
        .ok(r#"{"execute": "query-named-block-nodes"}"#)
        .to_ascii_json();
    assert!(nodes.contains(shown), "no {shown} for {options}: {nodes}");
    let devices = client.ok(r#"{"execute": "query-block"}"#);
    let is_device = devices != Value::from(vec![]);
    let name = if is_device {
        r#""id": "d""#
    } else {
        r#""node-name": "n""#
    };
    client.ok(&execute("blockdev-del", name));
}

#[test]
fn every_node_takes_the_options_of_all_nodes() {
    let rig = Rig::start();
    let mut client = rig.client();
    let file = format!(
        r#""driver": "file", "filename": "{}""#,
        rig.file("f", 1 << 20)
    );
    for (options, shown) in [
        (r#""discard": "ignore""#, ""),
        (r#""discard": "unmap""#, ""),
        (r#""detect-zeroes": "off""#, r#""detect_zeroes": "off""#),
        (r#""detect-zeroes": "on""#, r#""detect_zeroes": "on""#),
        (
            r#""detect-zeroes": "unmap", "discard": "unmap""#,
            r#""detect_zeroes": "unmap""#,
        ),
        (r#""cache": {}"#, r#""no-flush": false"#),
        (
            r#""cache": {"direct": false, "no-flush": true}"#,
            r#""no-flush": true"#,
        ),
        (r#""cache": {"writeback": false}"#, r#""writeback": false"#),
        (r#""aio": "threads""#, ""),
        (r#""aio": "io_uring""#, ""),
        (r#""read-only": true, "force-share": true"#, r#""ro": true"#),
        (
            r#""read-only": true, "auto-read-only": true"#,
            r#""ro": true"#,
        ),
        (
            r#""read-only": false, "auto-read-only": false"#,
            r#""ro": false"#,
        ),
        (r#""locking": "on""#, ""),
        (r#""locking": "off""#, ""),
        (r#""locking": "auto""#, ""),
    ] {
        check(
            &mut client,
            &format!(r#"{file}, "node-name": "n", {options}"#),
            shown,
        );
    }
    // Errors are reported by devices, and a device needs no node's name.
    for action in ["report", "ignore", "enospc", "stop"] {
        let rules = format!(r#""rerror": "{action}", "werror": "{action}""#);
        // Reads do not run out of space.
        let rules = rules.replace(r#""rerror": "enospc""#, r#""rerror": "report""#);
        check(&mut client, &format!(r#"{file}, "id": "d", {rules}"#), "");
    }
}

#[test]
fn formats_take_their_own_options() {
    let rig = Rig::start();
    let (image, data) = (rig.path("i.qcow2"), rig.path("data.raw"));
    let beside = format!("data_file={data},data_file_raw=on");
    let zstd = rig.path("z.qcow2");
    let made = qemu_img(&["create", "-q", "-f", "qcow2", &image, "1M"])
        && qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &beside,
            &rig.path("x.qcow2"),
            "1M",
        ])
        && qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compression_type=zstd",
            &zstd,
            "1M",
        ]);
    if !made {
        return skip("there is no qemu-img");
    }
    let mut client = rig.client();
    let over = |driver: &str, path: &str, options: &str| {
        format!(
            r#""driver": "{driver}", "node-name": "n", {options}
                "file": {{"driver": "file", "filename": "{path}"}}"#
        )
    };
    for options in [
        r#""lazy-refcounts": true,"#,
        r#""pass-discard-request": true, "pass-discard-snapshot": false, "pass-discard-other": true,"#,
        r#""discard-no-unref": true,"#,
        r#""overlap-check": "none","#,
        r#""overlap-check": "constant","#,
        r#""overlap-check": "cached","#,
        r#""overlap-check": "all","#,
        r#""overlap-check": {"template": "none", "main-header": true, "active-l1": true,
            "active-l2": true, "refcount-table": true, "refcount-block": true, "snapshot-table": true,
            "inactive-l1": true, "inactive-l2": true, "bitmap-directory": true},"#,
        r#""overlap-check": {},"#,
        r#""cache-size": 1048576,"#,
        r#""l2-cache-size": 1048576, "refcount-cache-size": 262144, "l2-cache-entry-size": 65536,"#,
        r#""cache-clean-interval": 0,"#,
        r#""cache-clean-interval": 4294967295,"#,
        r#""backing": null,"#,
    ] {
        check(
            &mut client,
            &over("qcow2", &image, options),
            r#""drv": "qcow2""#,
        );
    }
    let refused = execute(
        "blockdev-add",
        &over("qcow2", &image, r#""cache-clean-interval": 4294967296,"#),
    );
    assert!(
        client
            .error(&refused)
            .contains("Cache clean interval too big")
    );
    check(
        &mut client,
        &over("qcow2", &rig.path("x.qcow2"), ""),
        r#""data-file-raw": true"#,
    );
    let named = format!(r#""data-file": {{"driver": "file", "filename": "{data}"}},"#);
    check(
        &mut client,
        &over("qcow2", &rig.path("x.qcow2"), &named),
        r#""data-file": "#,
    );
    check(
        &mut client,
        &over("qcow2", &zstd, ""),
        r#""compression-type": "zstd""#,
    );
    check(
        &mut client,
        &over("raw", &image, r#""offset": 512, "size": 1024,"#),
        "1024",
    );
    let absent = execute(
        "blockdev-add",
        r#""driver": "null-co", "node-name": "n", "size": 1024"#,
    );
    assert!(client.error(&absent).contains("null-co"));
}

#[test]
fn a_device_shows_its_bitmaps() {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("f", 1 << 20);
    let disk = format!(r#""driver": "file", "id": "d", "node-name": "n", "filename": "{path}""#);
    client.ok(&execute("blockdev-add", &disk));
    client.ok(&execute(
        "block-dirty-bitmap-add",
        r#""node": "n", "name": "b""#,
    ));
    let devices = client.ok(r#"{"execute": "query-block"}"#);
    let device = devices.as_array().and_then(|devices| devices.first());
    let bitmaps = device.and_then(|device| device.get("dirty-bitmaps"));
    let bitmap = bitmaps
        .and_then(Value::as_array)
        .and_then(|bitmaps| bitmaps.first());
    let name = bitmap.and_then(|bitmap| bitmap.get("name"));
    assert_eq!(name, Some(&Value::from("b")), "{devices}");
}

#[test]
fn keys_come_from_files_and_by_the_node_s_name() {
    let rig = Rig::start();
    let Some(image) = encrypted_image(&rig) else {
        return skip("there is no qemu-img");
    };
    let mut client = rig.client();
    let key = rig.path("key");
    std::fs::write(&key, "letmein").expect("a file");
    let object = format!(r#""qom-type": "secret", "id": "s", "file": "{key}""#);
    client.ok(&execute("object-add", &object));
    let add = |encrypt: &str| {
        format!(
            r#""driver": "qcow2", "node-name": "n", "encrypt": {{"format": "luks"{encrypt}}},
                "file": {{"driver": "file", "filename": "{image}"}}"#
        )
    };
    check(
        &mut client,
        &add(r#", "key-secret": "s""#),
        r#""encryption_key_missing": false"#,
    );
    client.ok(&execute("blockdev-add", &add("")));
    client.ok(&execute(
        "block_passwd",
        r#""node-name": "n", "password": "letmein""#,
    ));
    let nodes = client
        .ok(r#"{"execute": "query-named-block-nodes"}"#)
        .to_ascii_json();
    assert!(
        nodes.contains(r#""encryption_key_missing": false"#),
        "{nodes}"
    );
}

#[test]
fn the_server_and_its_exports_take_their_options() {
    let (server, user) = (Rig::start(), Rig::start());
    let mut client = server.client();
    let path = server.file("disk.img", 1 << 20);
    client.ok(&execute(
        "blockdev-add",
        &format!(r#""driver": "file", "node-name": "f0", "filename": "{path}""#),
    ));
    client.ok(&execute(
        "block-dirty-bitmap-add",
        r#""node": "f0", "name": "b", "disabled": true"#,
    ));
    let limits = r#""handshake-max-seconds": 10, "max-connections": 4"#;
    let inet = r#""addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}"#;
    client.ok(&execute("nbd-server-start", &format!("{inet}, {limits}")));
    client.ok(r#"{"execute": "nbd-server-stop"}"#);
    let socket = server.path("nbd.sock");
    let unix =
        |more: &str| format!(r#""addr": {{"type": "unix", "data": {{"path": "{socket}"{more}}}}}"#);
    let hidden = unix(r#", "abstract": true, "tight": true"#);
    client.ok(&execute("nbd-server-start", &hidden));
    client.ok(r#"{"execute": "nbd-server-stop"}"#);
    let unix = unix(r#", "abstract": false"#);
    client.ok(&execute("nbd-server-start", &unix));
    client.ok(&execute(
        "block-export-add",
        r#""type": "nbd", "id": "e", "node-name": "f0", "name": "e", "description": "a disk",
           "writable": true, "writethrough": true, "allow-inactive": false, "fixed-iothread": false"#,
    ));
    client.ok(&execute(
        "nbd-server-add",
        r#""device": "f0", "name": "s", "description": "the same", "writable": false, "bitmap": "b""#,
    ));
    let mut nbd = user.client();
    check(
        &mut nbd,
        &format!(
            r#""driver": "nbd", "node-name": "n", "server": {{"type": "unix", "path": "{socket}"}},
                "export": "e""#
        ),
        r#""drv": "nbd""#,
    );
    client.ok(&execute("block-export-del", r#""id": "e", "mode": "safe""#));
    client.ok(&execute(
        "nbd-server-remove",
        r#""name": "s", "mode": "safe""#,
    ));
    for (mode, name) in [("", "x"), (r#", "mode": "hard""#, "y")] {
        let export = format!(r#""type": "nbd", "id": "{name}", "node-name": "f0""#);
        client.ok(&execute("block-export-add", &export));
        client.ok(&execute(
            "block-export-del",
            &format!(r#""id": "{name}"{mode}"#),
        ));
    }
}
