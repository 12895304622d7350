//! Devices and jobs whose files fail, by QMP: what is shown, what is told, and how they go on.

use block_core::{IoBuf, Request};
use block_schema::Value;
use rustix::io::Errno;

use super::interop::{qemu_img, skip};
use super::rig::{Client, Rig};

/// Bytes of the disk.
const LEN: usize = 1 << 20;

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

/// A member of the first entry that a query shows.
#[track_caller]
fn first(client: &mut Client, query: &str, member: &str) -> String {
    let list = client.ok(&format!(r#"{{"execute": "{query}"}}"#));
    let entry = list.as_array().expect("a list")[0].clone();
    let value = entry.get(member).cloned().unwrap_or(Value::Null);
    value.as_str().map_or(value.to_string(), str::to_owned)
}

/// A device `d0` over the file `disk.img`, which is not empty.
fn add_disk(rig: &Rig, client: &mut Client) {
    let path = rig.path("disk.img");
    std::fs::write(&path, vec![0x5a; LEN]).expect("a disk");
    client.ok(&execute(
        "blockdev-add",
        &format!(r#""driver": "file", "id": "d0", "node-name": "n0", "filename": "{path}""#),
    ));
}

/// A machine stops at an error of a device; when what was wrong is made right it goes on.
#[track_caller]
fn check_stopped(options: &str, errno: Errno, status: &str) {
    let rig = Rig::start();
    let mut client = rig.client();
    let path = rig.file("disk.img", 1 << 20);
    let trouble = rig.add_flaky("flaky", &path);
    client.ok(&execute(
        "blockdev-add",
        &format!(r#""driver": "raw", "id": "d0", {options} "file": "flaky""#),
    ));
    trouble.begin(errno);
    std::thread::scope(|scope| {
        let write = Request::write(4096, IoBuf::copy_of(&[7; 512]));
        let guest = scope.spawn(|| rig.request("d0", write));
        let told = client.wait_for("BLOCK_IO_ERROR");
        assert_eq!(told.get("action").and_then(Value::as_str), Some("stop"));
        let nospace = told.get("nospace").and_then(Value::as_bool);
        assert_eq!(nospace, Some(status == "nospace"));
        client.wait_for("STOP");
        assert_eq!(first(&mut client, "query-block", "io-status"), status);
        assert!(!guest.is_finished());
        trouble.end();
        client.ok(r#"{"execute": "cont"}"#);
        let written = guest.join().expect("a guest");
        written.unwrap_or_else(|error| panic!("{}", error.chain()));
    });
    assert_eq!(first(&mut client, "query-block", "io-status"), "ok");
    let found = std::fs::read(&path).expect("the file");
    assert_eq!(found[4095..4098], [0, 7, 7]);
}

#[test]
fn a_device_shows_why_its_machine_stopped() {
    check_stopped("", Errno::NOSPC, "nospace");
    check_stopped(r#""werror": "stop","#, Errno::IO, "failed");
}

/// A job stops at its target; when what was wrong is made right it goes on.
fn check_job(start: &str, errno: Errno, status: &str, end: fn(&mut Client, &str)) {
    let rig = Rig::start();
    let mut client = rig.client();
    add_disk(&rig, &mut client);
    let copy = rig.file("copy.img", LEN as u64);
    let trouble = rig.add_flaky("copy", &copy);
    trouble.begin(errno);
    let told = client.ok_until(start, "BLOCK_JOB_ERROR");
    for (member, want) in [("device", "d0"), ("operation", "write"), ("action", "stop")] {
        assert_eq!(told.get(member).and_then(Value::as_str), Some(want));
    }
    while first(&mut client, "query-block-jobs", "status") != "paused" {}
    assert_eq!(first(&mut client, "query-block-jobs", "io-status"), status);
    trouble.end();
    end(
        &mut client,
        &execute("block-job-resume", r#""device": "d0""#),
    );
    assert!(std::fs::read(&copy).expect("the copy") == vec![0x5a; LEN]);
}

fn is_completed(told: &Value) {
    assert_eq!(told.get("offset"), told.get("len"));
    assert_eq!(told.get("error"), None);
}

#[test]
fn a_backup_waits_until_its_target_is_well() {
    let backup = |more: &str| {
        execute(
            "blockdev-backup",
            &format!(r#""device": "d0", "target": "copy", "sync": "full", {more}"#),
        )
    };
    let end = |client: &mut Client, resume: &str| {
        is_completed(&client.ok_until(resume, "BLOCK_JOB_COMPLETED"));
    };
    let stop = r#""on-target-error": "stop", "on-source-error": "report", "speed": 0"#;
    check_job(&backup(stop), Errno::IO, "failed", end);
    let enospc = r#""on-target-error": "enospc""#;
    check_job(&backup(enospc), Errno::NOSPC, "nospace", end);
}

#[test]
fn a_mirror_waits_until_its_target_is_well() {
    let mirror = |more: &str| {
        execute(
            "blockdev-mirror",
            &format!(r#""device": "d0", "target": "copy", "sync": "full", {more}"#),
        )
    };
    let end = |client: &mut Client, resume: &str| {
        client.ok_until(resume, "BLOCK_JOB_READY");
        assert_eq!(first(client, "query-block-jobs", "status"), "ready");
        assert_eq!(first(client, "query-block-jobs", "io-status"), "ok");
        client.ok(&execute("block-job-pause", r#""device": "d0""#));
        while first(client, "query-block-jobs", "status") != "standby" {}
        client.ok(resume);
        while first(client, "query-block-jobs", "status") != "ready" {}
        let complete = execute("block-job-complete", r#""device": "d0""#);
        is_completed(&client.ok_until(&complete, "BLOCK_JOB_COMPLETED"));
        let shown = client.ok(r#"{"execute": "query-block"}"#).to_ascii_json();
        assert!(shown.contains(r#""node-name": "copy""#), "{shown}");
    };
    let stop = r#""on-target-error": "stop", "on-source-error": "enospc",
        "copy-mode": "write-blocking", "granularity": 65536, "buf-size": 1048576"#;
    check_job(&mirror(stop), Errno::IO, "failed", end);
    let enospc = r#""on-target-error": "enospc", "copy-mode": "background", "speed": 0"#;
    check_job(&mirror(enospc), Errno::NOSPC, "nospace", end);
}

#[test]
fn a_backup_is_compressed_and_follows_its_bitmap() {
    let rig = Rig::start();
    let mut client = rig.client();
    add_disk(&rig, &mut client);
    let target = rig.path("copy.qcow2");
    if !qemu_img(&["create", "-q", "-f", "qcow2", &target, "1M"]) {
        return skip("there is no qemu-img");
    }
    client.ok(&execute(
        "blockdev-add",
        &format!(
            r#""driver": "qcow2", "id": "copy", "node-name": "c",
               "file": {{"driver": "file", "filename": "{target}"}}"#
        ),
    ));
    client.ok(&execute(
        "block-dirty-bitmap-add",
        r#""node": "n0", "name": "b""#,
    ));
    let write = Request::write(65536, IoBuf::copy_of(&[0x11; 65536]));
    rig.request("d0", write).expect("a write");
    let dirty = |client: &mut Client| {
        let nodes = client.ok(r#"{"execute": "query-block"}"#).to_ascii_json();
        nodes.contains(r#""count": 65536"#)
    };
    assert!(dirty(&mut client));
    let backup = execute(
        "blockdev-backup",
        r#""device": "d0", "target": "copy", "sync": "bitmap", "bitmap": "b",
           "bitmap-mode": "always", "compress": true"#,
    );
    is_completed(&client.ok_until(&backup, "BLOCK_JOB_COMPLETED"));
    assert!(!dirty(&mut client));
    let copied = |at| rig.request("copy", Request::read(at, IoBuf::zeroed(65536)));
    assert_eq!(copied(65536).expect("a read").to_vec(), [0x11; 65536]);
    assert_eq!(copied(0).expect("a read").to_vec(), [0; 65536]);
    // What was copied takes less than a cluster behind the image's tables.
    let len = std::fs::metadata(&target).expect("the copy").len();
    assert!(len < 5 * 65536 + 4096, "{len}");
}

#[test]
fn actions_of_a_transaction_that_succeeds_are_done() {
    let rig = Rig::start();
    let mut client = rig.client();
    add_disk(&rig, &mut client);
    let overlay = rig.path("overlay.qcow2");
    if !qemu_img(&["create", "-q", "-f", "qcow2", &overlay, "1M"]) {
        return skip("there is no qemu-img");
    }
    client.ok(&execute(
        "blockdev-add",
        &format!(
            r#""driver": "qcow2", "node-name": "over", "backing": null,
               "file": {{"driver": "file", "filename": "{overlay}"}}"#
        ),
    ));
    client.ok(&execute(
        "block-dirty-bitmap-add",
        r#""node": "n0", "name": "b""#,
    ));
    rig.request("d0", Request::write(0, IoBuf::zeroed(65536)))
        .expect("a write");
    client.ok(&execute(
        "transaction",
        r#""actions": [
            {"type": "block-dirty-bitmap-clear", "data": {"node": "n0", "name": "b"}},
            {"type": "blockdev-snapshot", "data": {"node": "n0", "overlay": "over"}}],
           "properties": {"completion-mode": "individual"}"#,
    ));
    client.ok(&execute(
        "transaction",
        r#""actions": [{"type": "block-dirty-bitmap-clear", "data": {"node": "n0", "name": "b"}}],
           "properties": {}"#,
    ));
    let shown = client.ok(r#"{"execute": "query-named-block-nodes"}"#);
    let named = |name: &str| {
        let nodes = shown.as_array().expect("a list");
        let node = nodes
            .iter()
            .find(|node| node.get("node-name") == Some(&Value::from(name)));
        node.expect("a node").to_ascii_json()
    };
    assert!(named("n0").contains(r#""count": 0"#), "{shown}");
    assert!(named("over").contains("disk.img"), "{shown}");
    // A guest's writes go to the overlay.
    rig.request("d0", Request::write(0, IoBuf::copy_of(&[9; 512])))
        .expect("a write");
    let below = std::fs::read(rig.path("disk.img")).expect("the disk");
    assert_eq!(below[0], 0);
}

#[test]
fn an_overlay_made_by_its_mode_names_an_absolute_path() {
    let rig = Rig::start();
    let mut client = rig.client();
    add_disk(&rig, &mut client);
    let overlay = rig.path("overlay.qcow2");
    client.ok(&execute(
        "blockdev-snapshot-sync",
        &format!(
            r#""device": "d0", "snapshot-file": "{overlay}", "format": "qcow2",
               "mode": "absolute-paths""#
        ),
    ));
    let disk = rig.path("disk.img");
    let bytes = std::fs::read(&overlay).expect("the overlay");
    let name = disk.as_bytes();
    assert!(disk.starts_with('/') && bytes.windows(name.len()).any(|found| found == name));
    let shown = client.ok(r#"{"execute": "query-block"}"#).to_ascii_json();
    assert!(
        shown.contains(&format!(r#""backing_file": "{disk}""#)),
        "{shown}"
    );
    let read = rig.request("d0", Request::read(0, IoBuf::zeroed(512)));
    assert_eq!(read.expect("a read").to_vec(), [0x5a; 512]);
}
