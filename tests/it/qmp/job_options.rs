//! What options of jobs do, beyond what their answers say: the same in QEMU's daemon, where there is
//! one.

use block_schema::Value;
use expect_test::expect;

use super::interop::qemu_img_says;
use super::lives::{Tale, chain, check, disks, file};
use super::rig::Rig;

/// Tells what an image says of its backing file.
fn tell_backing(rig: &Rig, folder: &str, tale: &mut Tale) {
    let top = file(rig, folder, "top");
    let said = qemu_img_says(&["info", "-U", "--output=json", &top]);
    let said = Value::from_json(&said).expect("JSON of an image");
    let text = |name: &str| {
        let text = said.get(name).and_then(Value::as_str).unwrap_or("none");
        text.replace(&rig.path(folder), "").replace('/', "")
    };
    let [name, format] = ["backing-filename", "backing-filename-format"].map(text);
    tale.answers.push(format!("top is over {name}, {format}"));
}

/// Tells whether a bitmap of `src` is there, and whether it is in use.
fn tell_bitmap(tale: &mut Tale) {
    tale.tell(
        "block-dirty-bitmap-clear",
        r#""node": "src", "name": "since""#,
    );
}

/// Tells which node the only export serves.
fn tell_export(tale: &mut Tale) {
    let reply = tale.reply("query-block-exports", "");
    let exports = reply.get("return").and_then(Value::as_array);
    let export = exports.and_then(|exports| exports.first());
    let node = export.and_then(|export| export.get("node-name"));
    let node = match node.and_then(Value::as_str).unwrap_or("none") {
        // While a job runs there is a filter in QEMU.
        filter if filter.starts_with('#') => "src",
        node => node,
    };
    tale.answers.push(format!("exported: {node}"));
}

#[track_caller]
fn is_copy(rig: &Rig, folder: &str, name: &str) {
    let [source, copy] = ["src", name].map(|name| file(rig, folder, name));
    let [source, copy] = [source, copy].map(|path| std::fs::read(path).expect("a disk"));
    assert!(source == copy, "{name} is a copy");
}

/// A chain whose base is a file, with nothing above it that says how to read it.
fn chain_on_a_file(rig: &Rig, folder: &str, tale: &mut Tale) {
    chain(rig, folder, tale);
    tale.ok("blockdev-del", r#""node-name": "top""#);
    let [base, mid, top] = ["base", "mid", "top"].map(|name| file(rig, folder, name));
    let node = format!(r#""driver": "file", "node-name": "base", "filename": "{base}""#);
    tale.ok("blockdev-add", &node);
    let options = format!(
        r#""driver": "qcow2", "node-name": "top",
            "file": {{"driver": "file", "filename": "{top}"}}, "backing":
            {{"driver": "qcow2", "node-name": "mid",
                "file": {{"driver": "file", "filename": "{mid}"}}, "backing": "base"}}"#
    );
    tale.ok("blockdev-add", &options);
}

#[test]
fn an_image_over_a_file_says_raw_of_it_where_protocols_are_masked() {
    check(
        |rig, folder, tale| {
            for (mask, verb, nodes) in [
                ("false", "block-stream", r#""base-node": "base""#),
                ("true", "block-stream", r#""base-node": "base""#),
                ("false", "block-commit", r#""top-node": "mid""#),
                ("true", "block-commit", r#""top-node": "mid""#),
            ] {
                chain_on_a_file(rig, folder, tale);
                let arguments = format!(
                    r#""device": "top", "job-id": "j", {nodes}, "backing-mask-protocol": {mask}"#
                );
                tale.tell(verb, &arguments);
                tale.wait("j null");
                tell_backing(rig, folder, tale);
                tale.ok("blockdev-del", r#""node-name": "top""#);
                tale.ok("blockdev-del", r#""node-name": "base""#);
                tale.forget_order();
            }
        },
        expect![[r#"
            block-stream: ok
            top is over base, file
            block-stream: ok
            top is over base, raw
            block-commit: ok
            top is over base, file
            block-commit: ok
            top is over base, raw"#]],
        expect![[r#"
            j BLOCK_JOB_COMPLETED
            j concluded
            j created
            j null
            j pending
            j running
            j waiting"#]],
    );
}

#[test]
fn a_commit_changes_no_chain_before_it_is_finalized() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            tale.ok(
                "block-commit",
                r#""device": "top", "job-id": "j", "top-node": "mid",
                   "auto-finalize": false, "auto-dismiss": false"#,
            );
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("query-block-jobs", "");
            tell_backing(rig, folder, tale);
            tale.tell("job-finalize", r#""id": "j""#);
            tale.wait("j concluded");
            tale.tell("query-jobs", "");
            tell_backing(rig, folder, tale);
            tale.tell("job-dismiss", r#""id": "j""#);
            tale.tell("query-jobs", "");
        },
        expect![[r#"
            query-block-jobs: j pending auto-finalize=false auto-dismiss=false
            top is over mid, qcow2
            job-finalize: ok
            query-jobs: j concluded
            top is over base, raw
            job-dismiss: ok
            query-jobs: "#]],
        expect![[r#"
            j created
            j running
            j waiting
            j pending
            j BLOCK_JOB_PENDING
            j BLOCK_JOB_COMPLETED
            j concluded
            j null"#]],
    );
}

#[test]
fn a_mirror_to_a_file_replaces_its_node_when_it_is_finalized() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            tale.ok("blockdev-del", r#""node-name": "dst""#);
            let socket = file(rig, folder, "nbd.sock");
            let address = format!(r#""addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}"#);
            tale.ok("nbd-server-start", &address);
            tale.ok(
                "block-export-add",
                r#""type": "nbd", "id": "e", "node-name": "src""#,
            );
            let target = file(rig, folder, "dst");
            let with = |rest: &str| {
                format!(
                    r#""device": "src", "job-id": "j", "target": "{target}", "format": "raw",
                       "mode": "existing", "sync": "full", "auto-finalize": false,
                       "auto-dismiss": false, {rest}"#
                )
            };
            tale.tell("drive-mirror", &with(r#""replaces": "src""#));
            for replaced in ["nowhere", "src2"] {
                let named = format!(r#""node-name": "copy", "replaces": "{replaced}""#);
                tale.tell("drive-mirror", &with(&named));
            }
            let named = r#""node-name": "copy", "replaces": "src""#;
            tale.ok("drive-mirror", &with(named));
            tale.wait("j BLOCK_JOB_READY");
            tale.tell("job-complete", r#""id": "j""#);
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("query-block-jobs", "");
            tell_export(tale);
            tale.tell("job-finalize", r#""id": "j""#);
            tale.wait("j concluded");
            tale.tell("query-jobs", "");
            tell_export(tale);
            is_copy(rig, folder, "dst");
            tale.tell("job-dismiss", r#""id": "j""#);
            tale.tell("query-jobs", "");
        },
        expect![[r#"
            drive-mirror: a node-name must be provided when replacing a named node of the graph
            drive-mirror: Failed to find node with node-name='nowhere'
            drive-mirror: Cannot replace 'src2' by a node mirrored from 'src', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data
            job-complete: ok
            query-block-jobs: j pending auto-finalize=false auto-dismiss=false actively-synced=false
            exported: src
            job-finalize: ok
            query-jobs: j concluded
            exported: copy
            job-dismiss: ok
            query-jobs: "#]],
        expect![[r#"
            j created
            j running
            j ready
            j BLOCK_JOB_READY
            j waiting
            j pending
            j BLOCK_JOB_PENDING
            j BLOCK_JOB_COMPLETED
            j concluded
            j null"#]],
    );
}

#[test]
fn a_backup_to_a_file_has_its_bitmap_until_it_is_finalized() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            tale.ok("blockdev-del", r#""node-name": "dst""#);
            tale.ok(
                "block-dirty-bitmap-add",
                r#""node": "src", "name": "since""#,
            );
            let target = file(rig, folder, "dst");
            let arguments = format!(
                r#""device": "src", "job-id": "j", "target": "{target}", "format": "raw",
                   "mode": "existing", "sync": "full", "bitmap": "since",
                   "bitmap-mode": "on-success", "auto-finalize": false, "auto-dismiss": false"#
            );
            tale.ok("drive-backup", &arguments);
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("query-block-jobs", "");
            tell_bitmap(tale);
            tale.tell("job-finalize", r#""id": "j""#);
            tale.wait("j concluded");
            tale.tell("query-jobs", "");
            tell_bitmap(tale);
            is_copy(rig, folder, "dst");
            tale.tell("job-dismiss", r#""id": "j""#);
            tale.tell("query-jobs", "");
        },
        expect![[r#"
            query-block-jobs: j pending auto-finalize=false auto-dismiss=false
            block-dirty-bitmap-clear: Bitmap 'since' is currently in use by another operation and cannot be used
            job-finalize: ok
            query-jobs: j concluded
            block-dirty-bitmap-clear: ok
            job-dismiss: ok
            query-jobs: "#]],
        expect![[r#"
            j created
            j running
            j waiting
            j pending
            j BLOCK_JOB_PENDING
            j BLOCK_JOB_COMPLETED
            j concluded
            j null"#]],
    );
}

#[test]
fn a_copy_that_nobody_was_led_to_is_closed() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            tale.ok("blockdev-del", r#""node-name": "dst""#);
            let target = file(rig, folder, "dst");
            for name in ["", r#""node-name": "copy","#] {
                let arguments = format!(
                    r#""device": "src", "job-id": "j", "target": "{target}", "format": "raw",
                       {name} "mode": "existing", "sync": "full""#
                );
                tale.ok("drive-mirror", &arguments);
                tale.wait("j BLOCK_JOB_READY");
                tale.tell("job-complete", r#""id": "j""#);
                tale.wait("j null");
                let nodes = tale.reply("query-named-block-nodes", r#""flat": true"#);
                let nodes = nodes.get("return").and_then(Value::as_array);
                let count = nodes.map_or(0, <[Value]>::len);
                tale.answers.push(format!("{count} nodes"));
                is_copy(rig, folder, "dst");
            }
        },
        expect![[r#"
            job-complete: ok
            3 nodes
            job-complete: ok
            3 nodes"#]],
        expect![[r#"
            j created
            j running
            j ready
            j BLOCK_JOB_READY
            j waiting
            j pending
            j BLOCK_JOB_COMPLETED
            j concluded
            j null
            j created
            j running
            j ready
            j BLOCK_JOB_READY
            j waiting
            j pending
            j BLOCK_JOB_COMPLETED
            j concluded
            j null"#]],
    );
}

#[test]
fn a_mirror_goes_to_a_server_by_the_name_of_its_driver() {
    let rig = Rig::start();
    let mut client = rig.client();
    let execute = |command: &str, arguments: &str| {
        format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
    };
    for (name, byte) in [("src", 5), ("dst", 0)] {
        let path = rig.path(name);
        std::fs::write(&path, vec![byte; 1 << 20]).expect("a disk");
        let node = format!(r#""driver": "file", "node-name": "{name}", "filename": "{path}""#);
        client.ok(&execute("blockdev-add", &node));
    }
    let socket = rig.path("nbd.sock");
    let address = format!(r#""addr": {{"type": "unix", "data": {{"path": "{socket}"}}}}"#);
    client.ok(&execute("nbd-server-start", &address));
    let export = r#""type": "nbd", "id": "e", "node-name": "dst", "writable": true"#;
    client.ok(&execute("block-export-add", export));
    let mirror = format!(
        r#""device": "src", "job-id": "j", "target": "nbd+unix:///dst?socket={socket}",
           "format": "nbd", "mode": "existing", "sync": "full""#
    );
    client.ok_until(&execute("drive-mirror", &mirror), "BLOCK_JOB_READY");
    let complete = execute("job-complete", r#""id": "j""#);
    let ended = client.ok_until(&complete, "BLOCK_JOB_COMPLETED");
    assert_eq!(ended.get("error"), None);
    let copy = std::fs::read(rig.path("dst")).expect("the copy");
    assert!(copy == vec![5; 1 << 20]);
}
