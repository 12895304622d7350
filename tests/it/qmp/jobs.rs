//! Jobs as clients start, watch, hold and end them.

use std::os::unix::fs::MetadataExt;

use block_core::driver::ZeroFlags;
use block_core::{IoBuf, Request};
use block_schema::Value;

use super::interop::{qemu_img, skip};
use super::rig::{Client, Rig};

/// Bytes of the disk.
const LEN: usize = 4 << 20;
/// So slow that a job does not end by itself while a test looks at it.
const SLOW: &str = r#""speed": 65536"#;

fn execute(command: &str, arguments: &str) -> String {
    format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#)
}

/// A disk `disk` with nodes `top`, `middle` and `base`; what can be read is all in `base`.
struct Chain {
    /// Leaves before the daemon is told to end by another.
    client: Client,
    rig: Rig,
}

impl Chain {
    /// `None`, with a printed reason, where there is no `qemu-img`.
    fn start() -> Option<Chain> {
        let rig = Rig::start();
        let [base, middle, top] = ["base.img", "middle.qcow2", "top.qcow2"].map(|n| rig.path(n));
        std::fs::write(&base, vec![0x11; LEN]).expect("a base");
        let over = |backing: &str, format: &str, path: &str| {
            qemu_img(&[
                "create", "-q", "-f", "qcow2", "-b", backing, "-F", format, path,
            ])
        };
        if !(over(&base, "raw", &middle) && over(&middle, "qcow2", &top)) {
            skip("there is no qemu-img");
            return None;
        }
        let file = |path: &str| format!(r#""file": {{"driver": "file", "filename": "{path}"}}"#);
        let (base, middle, top) = (file(&base), file(&middle), file(&top));
        let mut client = rig.client();
        client.ok(&execute(
            "blockdev-add",
            &format!(
                r#""driver": "qcow2", "id": "disk", "node-name": "top", {top}, "backing":
                    {{"driver": "qcow2", "node-name": "middle", "read-only": true, {middle}, "backing":
                        {{"driver": "raw", "node-name": "base", "read-only": true, {base}}}}}"#
            ),
        ));
        Some(Chain { client, rig })
    }

    /// The entry of the only job.
    fn job(&mut self) -> Value {
        let jobs = self.client.ok(r#"{"execute": "query-block-jobs"}"#);
        let jobs = jobs.as_array().expect("a list");
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs[0].clone()
    }

    /// Runs a command that succeeds, and waits for an event that may come before or after the reply.
    fn until(&mut self, input: &str, event: &str) -> Value {
        self.client.send(input);
        let (mut replied, mut came) = (false, None);
        loop {
            let message = self.client.receive();
            if message.get("event").and_then(Value::as_str) == Some(event) {
                came = message.get("data").cloned();
            } else if message.get("event").is_none() {
                assert!(message.get("return").is_some(), "{input}: {message}");
                replied = true;
            }
            if let (true, Some(data)) = (replied, &came) {
                return data.clone();
            }
        }
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[test]
fn a_stream_is_held_and_let_go() {
    let Some(mut chain) = Chain::start() else {
        return;
    };
    let pause = execute("block-job-pause", r#""device": "disk""#);
    let not_there = "DeviceNotActive: Block job 'disk' not found";
    assert_eq!(chain.client.error(&pause), not_there);
    let start = execute("block-stream", &format!(r#""device": "disk", {SLOW}"#));
    chain.client.ok(&start);
    let job = chain.job();
    assert_eq!(text(&job, "type"), "stream");
    assert_eq!(job.get("speed").and_then(Value::as_i64), Some(65536));
    chain.client.ok(&pause);
    while text(&chain.job(), "status") != "paused" {}
    assert_eq!(chain.job().get("paused"), Some(&Value::from(true)));
    let refused = chain
        .client
        .error(&execute("block-job-cancel", r#""device": "disk""#));
    assert_eq!(
        refused,
        "GenericError: The block job for device 'disk' is currently paused"
    );
    let refused = chain
        .client
        .error(&execute("block-job-complete", r#""device": "disk""#));
    assert!(
        refused.contains("cannot accept command verb 'complete'"),
        "{refused}"
    );
    chain
        .client
        .ok(&execute("block-job-resume", r#""device": "disk""#));
    let fast = execute("block-job-set-speed", r#""device": "disk", "speed": 0"#);
    let data = chain.until(&fast, "BLOCK_JOB_COMPLETED");
    assert_eq!(data.get("offset"), data.get("len"));
    assert_eq!(data.get("error"), None);
    assert_eq!(
        chain.client.ok(r#"{"execute": "query-block-jobs"}"#),
        Value::from(vec![])
    );
    let shown = chain
        .client
        .ok(r#"{"execute": "query-block"}"#)
        .to_ascii_json();
    assert!(!shown.contains("middle.qcow2"), "{shown}");
}

#[test]
fn jobs_have_ids_and_end_where_they_are_told() {
    for (more, left) in [
        (r#", "base": "BASE", "on-error": "report""#, "base.img"),
        (
            r#", "base-node": "base", "backing-file": "NAME", "on-error": "stop""#,
            "NAME",
        ),
        (r#", "on-error": "ignore", "speed": 0"#, ""),
        (r#", "on-error": "enospc""#, ""),
    ] {
        let Some(mut chain) = Chain::start() else {
            return;
        };
        let base = chain.rig.path("base.img");
        let more = more.replace("BASE", &base);
        let start = execute(
            "block-stream",
            &format!(r#""device": "disk", "job-id": "j"{more}"#),
        );
        let data = chain.until(&start, "BLOCK_JOB_COMPLETED");
        assert_eq!(text(&data, "device"), "j", "{more}");
        let shown = chain
            .client
            .ok(r#"{"execute": "query-block"}"#)
            .to_ascii_json();
        assert!(shown.contains(left), "{left}: {shown}");
        assert!(!shown.contains("middle.qcow2"), "{shown}");
    }
}

#[test]
fn jobs_are_given_up() {
    let start = execute("block-stream", &format!(r#""device": "disk", {SLOW}"#));
    for force in ["", r#", "force": false"#, r#", "force": true"#] {
        let Some(mut chain) = Chain::start() else {
            return;
        };
        chain.client.ok(&start);
        let again = chain.client.error(&start);
        assert!(again.starts_with("GenericError: "), "{again}");
        let wrong = execute("block-stream", r#""device": "disk", "base": "nope""#);
        let refused = chain.client.error(&wrong);
        assert!(refused.starts_with("GenericError: "), "{refused}");
        let cancel = execute("block-job-cancel", &format!(r#""device": "disk"{force}"#));
        let data = chain.until(&cancel, "BLOCK_JOB_CANCELLED");
        assert_eq!(text(&data, "type"), "stream");
    }
}

#[test]
fn a_commit_takes_the_middle_out() {
    for (more, error) in [
        ("", ""),
        (
            r#", "job-id": "c", "base": "BASE", "speed": 0, "on-error": "report""#,
            "",
        ),
        (
            r#", "base-node": "base", "backing-file": "NAME", "on-error": "stop""#,
            "",
        ),
        (r#", "speed": -1"#, "GenericError: "),
    ] {
        let Some(mut chain) = Chain::start() else {
            return;
        };
        let (base, middle) = (chain.rig.path("base.img"), chain.rig.path("middle.qcow2"));
        let more = more.replace("BASE", &base);
        let start = execute(
            "block-commit",
            &format!(r#""device": "disk", "top": "{middle}"{more}"#),
        );
        if !error.is_empty() {
            let refused = chain.client.error(&start);
            assert!(refused.starts_with(error), "{refused}");
            continue;
        }
        let data = chain.until(&start, "BLOCK_JOB_COMPLETED");
        assert_eq!(text(&data, "type"), "commit", "{more}");
        assert_eq!(data.get("error"), None, "{more}");
        let shown = chain
            .client
            .ok(r#"{"execute": "query-block"}"#)
            .to_ascii_json();
        assert!(!shown.contains("middle.qcow2"), "{shown}");
        let stats = chain
            .client
            .ok(r#"{"execute": "query-blockstats"}"#)
            .to_ascii_json();
        assert!(stats.contains(r#""backing": "#), "{stats}");
    }
}

#[test]
fn a_mirror_goes_to_a_file_that_is_there_as_it_is_told() {
    let Some(mut chain) = Chain::start() else {
        return;
    };
    let target = chain.rig.path("target.qcow2");
    assert!(qemu_img(&["create", "-q", "-f", "qcow2", &target, "4M"]));
    let start = execute(
        "drive-mirror",
        &format!(
            r#""job-id": "move", "device": "disk", "target": "{target}", "node-name": "copy",
                "mode": "existing", "sync": "full", "speed": 1073741824, "granularity": 65536,
                "buf-size": 1048576, "on-source-error": "report", "on-target-error": "ignore",
                "unmap": true, "copy-mode": "background""#
        ),
    );
    let ready = chain.until(&start, "BLOCK_JOB_READY");
    assert_eq!(text(&ready, "device"), "move");
    assert_eq!(text(&ready, "type"), "mirror");
    assert_eq!(chain.job().get("ready"), Some(&Value::from(true)));
    let complete = execute("block-job-complete", r#""device": "move""#);
    let end = chain.until(&complete, "BLOCK_JOB_COMPLETED");
    assert_eq!(end.get("error"), None);
    assert_eq!(end.get("offset"), end.get("len"));
    let devices = chain.client.ok(r#"{"execute": "query-block"}"#);
    let inserted = devices.as_array().and_then(|list| list[0].get("inserted"));
    let inserted = inserted.expect("a medium");
    assert_eq!(text(inserted, "node-name"), "copy");
    assert_eq!(text(inserted, "file"), target);
}

#[test]
fn a_backup_goes_to_a_file_that_is_there_as_it_is_told() {
    let Some(mut chain) = Chain::start() else {
        return;
    };
    let full = chain.rig.path("full.qcow2");
    let later = chain.rig.path("later.qcow2");
    for target in [&full, &later] {
        assert!(qemu_img(&["create", "-q", "-f", "qcow2", target, "4M"]));
    }
    let add = execute(
        "block-dirty-bitmap-add",
        r#""node": "disk", "name": "since", "granularity": 65536"#,
    );
    chain.client.ok(&add);
    let start = execute(
        "drive-backup",
        &format!(
            r#""job-id": "night", "device": "disk", "target": "{full}", "mode": "existing",
                "sync": "full", "speed": 1073741824, "compress": true,
                "on-source-error": "report", "on-target-error": "ignore""#
        ),
    );
    let end = chain.until(&start, "BLOCK_JOB_COMPLETED");
    assert_eq!(text(&end, "device"), "night");
    assert_eq!(end.get("error"), None);
    // Nothing was written since: nothing is to be copied.
    let start = execute(
        "drive-backup",
        &format!(
            r#""device": "disk", "target": "{later}", "mode": "existing", "sync": "bitmap",
                "bitmap": "since", "bitmap-mode": "never""#
        ),
    );
    let end = chain.until(&start, "BLOCK_JOB_COMPLETED");
    assert_eq!(end.get("error"), None);
    assert_eq!(end.get("len").and_then(Value::as_i64), Some(0));
    let base = chain.rig.path("base.img");
    assert!(qemu_img(&[
        "compare", "-q", "-f", "raw", "-F", "qcow2", "-U", &base, &full
    ]));
}

#[test]
fn a_commit_gives_back_the_space_of_what_became_zeroes() {
    let rig = Rig::start();
    let [base, middle, top] = ["base.img", "middle.qcow2", "top.qcow2"].map(|n| rig.path(n));
    std::fs::write(&base, vec![0x11; LEN]).expect("a base");
    let args = ["create", "-q", "-f", "qcow2", "-b", &base, "-F", "raw"];
    if !qemu_img(&[&args[..], &[&middle]].concat()) {
        return skip("there is no qemu-img");
    }
    let mut client = rig.client();
    client.ok(&execute(
        "blockdev-add",
        &format!(
            r#""driver": "qcow2", "id": "disk", "node-name": "middle", "discard": "unmap",
               "file": {{"driver": "file", "filename": "{middle}"}}, "backing":
                   {{"driver": "raw", "node-name": "base", "discard": "unmap", "file":
                       {{"driver": "file", "filename": "{base}", "discard": "unmap"}}}}"#
        ),
    ));
    let zeroes = Request::write_zeroes(1 << 20, 2 << 20, ZeroFlags::default());
    rig.request("disk", zeroes).expect("zeroes are written");
    let over = format!(r#""device": "disk", "snapshot-file": "{top}", "format": "qcow2""#);
    client.ok(&execute("blockdev-snapshot-sync", &over));
    let mut chain = Chain { client, rig };
    let commit = r#""device": "disk", "job-id": "c", "top-node": "middle", "base-node": "base""#;
    let ended = chain.until(&execute("block-commit", commit), "BLOCK_JOB_COMPLETED");
    assert_eq!(ended.get("error"), None);
    let held = std::fs::metadata(&base).expect("the base").blocks() * 512;
    assert!(held <= (LEN - (2 << 20)) as u64, "{held}");
}

#[test]
fn who_ends_the_daemon_hears_how_its_jobs_end() {
    let Some(mut chain) = Chain::start() else {
        return;
    };
    let start = execute("block-stream", &format!(r#""device": "disk", {SLOW}"#));
    chain.client.ok(&start);
    chain.client.send(r#"{"execute": "quit"}"#);
    let mut events = Vec::new();
    loop {
        let message = chain.client.receive();
        match message.get("event").and_then(Value::as_str) {
            Some(event) => events.push(event.to_owned()),
            None => break,
        }
    }
    let ends = [
        "BLOCK_JOB_CANCELLED",
        "JOB_STATUS_CHANGE",
        "JOB_STATUS_CHANGE",
    ];
    assert_eq!(events[events.len() - 3..], ends, "{events:?}");
    drop(chain.client);
    chain.rig.join();
}

#[test]
fn a_chain_that_a_job_works_on_is_not_taken_apart() {
    let Some(mut chain) = Chain::start() else {
        return;
    };
    let start = execute("block-commit", r#""device": "disk", "job-id": "j""#);
    chain.until(&start, "BLOCK_JOB_READY");
    for (node, below) in [("top", "middle"), ("middle", "base")] {
        let path = chain.rig.path(&format!("{node}.qcow2"));
        let options = format!(
            r#""options": [{{"driver": "qcow2", "node-name": "{node}", "backing": null,
                "read-only": {}, "file": {{"driver": "file", "filename": "{path}"}}}}]"#,
            node == "middle"
        );
        let refused = chain.client.error(&execute("blockdev-reopen", &options));
        let want =
            format!("GenericError: Cannot change frozen 'backing' link from '{node}' to '{below}'");
        assert_eq!(refused, want);
    }
    let complete = execute("job-complete", r#""id": "j""#);
    let ended = chain.until(&complete, "BLOCK_JOB_COMPLETED");
    assert_eq!(ended.get("error"), None);
    let base = std::fs::read(chain.rig.path("base.img")).expect("the base");
    assert!(base == vec![0x11; LEN], "the disk is what it was");
}

#[test]
fn a_disk_that_ends_within_a_cluster_is_backed_up() {
    for len in [512, 4608, 65536, 66048, (1 << 20) + 512] {
        let rig = Rig::start();
        let mut client = rig.client();
        let [disk, copy] = ["disk.img", "copy.qcow2"].map(|name| rig.path(name));
        let bytes: Vec<u8> = (1..=u8::MAX).cycle().take(len).collect();
        std::fs::write(&disk, &bytes).expect("a disk");
        let node = format!(r#""driver": "file", "node-name": "disk", "filename": "{disk}""#);
        client.ok(&execute("blockdev-add", &node));
        let backup = format!(
            r#""device": "disk", "job-id": "j", "target": "{copy}", "format": "qcow2",
               "sync": "full""#
        );
        let ended = client.ok_until(&execute("drive-backup", &backup), "BLOCK_JOB_COMPLETED");
        assert_eq!(ended.get("error"), None);
        assert_eq!(ended.get("len"), ended.get("offset"));
        let node = format!(
            r#""driver": "qcow2", "id": "copy",
               "file": {{"driver": "file", "filename": "{copy}"}}"#
        );
        client.ok(&execute("blockdev-add", &node));
        let buf = IoBuf::zeroed(len);
        let read = rig.request("copy", Request::read(0, buf));
        let read = read.expect("the copy is read");
        assert!(read.to_vec() == bytes, "{len} bytes");
    }
}
