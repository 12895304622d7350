//! The lives of jobs as clients see them: which states follow each other, what each state answers,
//! and what jobs of one transaction do to each other. The same script is given to QEMU's daemon,
//! where there is one: answers and events must be those that the test expects of ours.

use std::collections::VecDeque;

use block_schema::Value;
use expect_test::{Expect, expect};

use super::interop::{Oracle, qemu_img, skip};
use super::rig::{Client, Rig};

/// Bytes of the disks.
const LEN: usize = 1 << 20;

/// A conversation, and what came of it.
pub(super) struct Tale {
    client: Client,
    /// What was answered to what was asked for the tale's sake.
    pub(super) answers: Vec<String>,
    /// What was told of jobs.
    events: Vec<String>,
    /// Events that nobody has waited for.
    fresh: VecDeque<String>,
}

impl Tale {
    fn hear(&mut self, message: &Value) {
        let data = |name: &str| {
            let value = message.get("data").and_then(|data| data.get(name));
            value.and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let event = message.get("event").and_then(Value::as_str);
        let line = match event.unwrap_or_default() {
            "JOB_STATUS_CHANGE" => format!("{} {}", data("id"), data("status")),
            event @ "BLOCK_JOB_PENDING" => format!("{} {event}", data("id")),
            event if event.starts_with("BLOCK_JOB") => {
                format!("{} {event} {}", data("device"), data("error"))
                    .trim_end()
                    .to_owned()
            }
            _ => return,
        };
        // A drain makes QEMU's jobs stand still for a moment.
        let (job, status) = line.split_once(' ').unwrap_or_default();
        if matches!(status, "running" | "ready") {
            let pause = format!(
                "{job} {}",
                ["paused", "standby"][usize::from(status == "ready")]
            );
            if self.events.last() == Some(&pause) && !self.is_told(&pause) {
                self.events.pop();
                self.fresh.retain(|event| *event != pause);
                return;
            }
        }
        self.events.push(line.clone());
        self.fresh.push_back(line);
    }

    /// Whether the script has waited for a pause.
    fn is_told(&self, pause: &String) -> bool {
        !self.fresh.contains(pause)
    }

    pub(super) fn reply(&mut self, command: &str, arguments: &str) -> Value {
        let text = format!(r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#);
        self.client.send(&text);
        loop {
            let message = self.client.receive();
            if message.get("event").is_none() {
                return message;
            }
            self.hear(&message);
        }
    }

    /// Runs a command that succeeds.
    #[track_caller]
    pub(super) fn ok(&mut self, command: &str, arguments: &str) {
        let reply = self.reply(command, arguments);
        assert!(reply.get("return").is_some(), "{command}: {reply}");
    }

    /// Runs a command whose answer is part of the tale.
    pub(super) fn tell(&mut self, command: &str, arguments: &str) {
        let reply = self.reply(command, arguments);
        let error = reply.get("error").and_then(|error| error.get("desc"));
        let told = match (error, reply.get("return")) {
            (Some(desc), _) => desc.as_str().unwrap_or("?").to_owned(),
            (None, Some(Value::Array(jobs))) => {
                jobs.iter().map(summary).collect::<Vec<_>>().join(", ")
            }
            (None, _) => "ok".to_owned(),
        };
        self.answers.push(format!("{command}: {told}"));
    }

    /// Which job of several gets on first, and which stand still while another begins, is nobody's
    /// business.
    pub(super) fn forget_order(&mut self) {
        self.events.retain(|event| !event.ends_with(" paused"));
        self.events.sort();
        self.events.dedup();
    }

    /// Waits for what is told of a job.
    pub(super) fn wait(&mut self, line: &str) {
        loop {
            while let Some(event) = self.fresh.pop_front() {
                if event == line {
                    return;
                }
            }
            let message = self.client.receive();
            self.hear(&message);
        }
    }
}

/// What is the same in both daemons of what is told of a job.
fn summary(job: &Value) -> String {
    let text = |name| job.get(name).and_then(Value::as_str).unwrap_or_default();
    let flag = |name| job.get(name).map(Value::to_ascii_json).unwrap_or_default();
    let named = format!("{}{} {}", text("id"), text("device"), text("status"));
    let mut told = vec![named];
    for name in ["auto-finalize", "auto-dismiss", "actively-synced"] {
        if job.get(name).is_some() {
            told.push(format!("{name}={}", flag(name)));
        }
    }
    if job.get("error").is_some() {
        told.push(format!("error={}", text("error")));
    }
    told.join(" ")
}

pub(super) fn file(rig: &Rig, folder: &str, name: &str) -> String {
    std::fs::create_dir_all(rig.path(folder)).expect("a folder");
    rig.path(&format!("{folder}/{name}"))
}

/// Disks `src`, `dst`, `src2`, `dst2`.
pub(super) fn disks(rig: &Rig, folder: &str, tale: &mut Tale) {
    for (name, byte) in [("src", 1), ("dst", 0), ("src2", 2), ("dst2", 0)] {
        let path = file(rig, folder, name);
        std::fs::write(&path, vec![byte; LEN]).expect("a disk");
        let options = format!(r#""driver": "file", "node-name": "{name}", "filename": "{path}""#);
        tale.ok("blockdev-add", &options);
    }
}

/// A chain of nodes `top`, `mid` and `base`.
pub(super) fn chain(rig: &Rig, folder: &str, tale: &mut Tale) {
    let [base, mid, top] = ["base", "mid", "top"].map(|name| file(rig, folder, name));
    std::fs::write(&base, vec![1; LEN]).expect("a base");
    let over = |below: &str, format: &str, path: &str| {
        let made = qemu_img(&[
            "create", "-q", "-f", "qcow2", "-b", below, "-F", format, path,
        ]);
        assert!(made, "{path}");
    };
    over(&base, "raw", &mid);
    over(&mid, "qcow2", &top);
    let file = |path: &str| format!(r#""file": {{"driver": "file", "filename": "{path}"}}"#);
    let (base, mid, top) = (file(&base), file(&mid), file(&top));
    let options = format!(
        r#""driver": "qcow2", "node-name": "top", {top}, "backing":
            {{"driver": "qcow2", "node-name": "mid", {mid}, "backing":
                {{"driver": "raw", "node-name": "base", {base}}}}}"#
    );
    tale.ok("blockdev-add", &options);
}

/// Tells a tale to both daemons.
#[track_caller]
pub(super) fn check(script: impl Fn(&Rig, &str, &mut Tale), answers: Expect, events: Expect) {
    if !qemu_img(&["--version"]) {
        return skip("there is no qemu-img");
    }
    let rig = Rig::start();
    let tell = |client: Client, folder: &str| {
        let mut tale = Tale {
            client,
            answers: Vec::new(),
            events: Vec::new(),
            fresh: VecDeque::new(),
        };
        script(&rig, folder, &mut tale);
        (tale.answers.join("\n"), tale.events.join("\n"))
    };
    let ours = tell(rig.client(), "ours");
    answers.assert_eq(&ours.0);
    events.assert_eq(&ours.1);
    let Some((oracle, client)) = Oracle::negotiated(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    let theirs = tell(client, "theirs");
    drop(oracle);
    assert_eq!(ours, theirs);
}

#[test]
fn a_job_waits_to_be_finalized_and_then_to_be_dismissed() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            tale.ok(
                "block-stream",
                r#""device": "top", "job-id": "j", "bottom": "mid",
                   "auto-finalize": false, "auto-dismiss": false"#,
            );
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("query-jobs", "");
            tale.tell("query-block-jobs", "");
            for verb in ["pause", "resume", "complete", "dismiss"] {
                tale.tell(&format!("job-{verb}"), r#""id": "j""#);
            }
            tale.tell("block-stream", r#""device": "top", "job-id": "j""#);
            tale.tell("block-job-set-speed", r#""device": "j", "speed": -1"#);
            tale.tell("job-finalize", r#""id": "j""#);
            tale.tell("query-jobs", "");
            for verb in ["pause", "cancel", "complete", "finalize"] {
                tale.tell(&format!("job-{verb}"), r#""id": "j""#);
            }
            tale.tell("block-job-cancel", r#""device": "j""#);
            tale.tell("block-job-finalize", r#""id": "j""#);
            tale.tell("job-dismiss", r#""id": "j""#);
            tale.tell("query-jobs", "");
            for verb in [
                "pause", "resume", "cancel", "complete", "finalize", "dismiss",
            ] {
                tale.tell(&format!("job-{verb}"), r#""id": "j""#);
            }
            tale.tell("block-job-finalize", r#""id": "j""#);
            tale.tell("block-job-dismiss", r#""id": "j""#);
        },
        expect![[r#"
            query-jobs: j pending
            query-block-jobs: j pending auto-finalize=false auto-dismiss=false
            job-pause: Job 'j' in state 'pending' cannot accept command verb 'pause'
            job-resume: Can't resume a job that was not paused
            job-complete: Job 'j' in state 'pending' cannot accept command verb 'complete'
            job-dismiss: Job 'j' in state 'pending' cannot accept command verb 'dismiss'
            block-stream: Node 'top' is busy: block device is in use by block job: stream
            block-job-set-speed: Job 'j' in state 'pending' cannot accept command verb 'set-speed'
            job-finalize: ok
            query-jobs: j concluded
            job-pause: Job 'j' in state 'concluded' cannot accept command verb 'pause'
            job-cancel: Job 'j' in state 'concluded' cannot accept command verb 'cancel'
            job-complete: Job 'j' in state 'concluded' cannot accept command verb 'complete'
            job-finalize: Job 'j' in state 'concluded' cannot accept command verb 'finalize'
            block-job-cancel: Job 'j' in state 'concluded' cannot accept command verb 'cancel'
            block-job-finalize: Job 'j' in state 'concluded' cannot accept command verb 'finalize'
            job-dismiss: ok
            query-jobs: 
            job-pause: Job not found
            job-resume: Job not found
            job-cancel: Job not found
            job-complete: Job not found
            job-finalize: Job not found
            job-dismiss: Job not found
            block-job-finalize: Block job 'j' not found
            block-job-dismiss: Block job 'j' not found"#]],
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
fn a_job_that_pends_can_be_given_up_and_has_done_nothing() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            tale.ok(
                "block-stream",
                r#""device": "top", "job-id": "j", "auto-finalize": false, "auto-dismiss": false"#,
            );
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("block-job-cancel", r#""device": "j""#);
            tale.tell("query-jobs", "");
            tale.tell("query-block-jobs", "");
            tale.tell("block-job-dismiss", r#""id": "j""#);
            // The chain is what it was: its middle can be taken out still.
            tale.ok(
                "block-commit",
                r#""device": "top", "job-id": "k", "top-node": "mid", "base-node": "base""#,
            );
            tale.wait("k null");
        },
        expect![[r#"
            block-job-cancel: ok
            query-jobs: j concluded error=Operation canceled
            query-block-jobs: j concluded auto-finalize=false auto-dismiss=false error=Operation canceled
            block-job-dismiss: ok"#]],
        expect![[r#"
            j created
            j running
            j waiting
            j pending
            j BLOCK_JOB_PENDING
            j aborting
            j BLOCK_JOB_CANCELLED
            j concluded
            j null
            k created
            k running
            k waiting
            k pending
            k BLOCK_JOB_COMPLETED
            k concluded
            k null"#]],
    );
}

#[test]
fn ends_of_a_chain_are_named_once_and_rightly() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            for members in [
                r#""base": "x""#,
                r#""base": "x", "base-node": "y""#,
                r#""base": "x", "bottom": "y""#,
                r#""bottom": "x", "base-node": "y""#,
                r#""base-node": "no""#,
                r#""base-node": "top""#,
                r#""bottom": "no""#,
                r#""bottom": "base", "backing-file": "x""#,
            ] {
                let arguments = format!(r#""device": "top", "job-id": "j", {members}"#);
                tale.tell("block-stream", &arguments);
            }
            for members in [
                r#""top-node": "mid", "top": "x""#,
                r#""top-node": "no""#,
                r#""top": "no""#,
                r#""base-node": "base", "base": "x""#,
                r#""base-node": "no""#,
                r#""base": "no""#,
                r#""top-node": "mid", "base-node": "top""#,
                r#""top-node": "mid", "base-node": "mid""#,
                r#""top-node": "base""#,
                r#""backing-file": "x""#,
            ] {
                let arguments = format!(r#""device": "top", "job-id": "j", {members}"#);
                tale.tell("block-commit", &arguments);
            }
            tale.tell("query-jobs", "");
        },
        expect![[r#"
            block-stream: Can't find 'x' in the backing chain
            block-stream: 'base' and 'base-node' cannot be specified at the same time
            block-stream: 'base' and 'bottom' cannot be specified at the same time
            block-stream: 'bottom' and 'base-node' cannot be specified at the same time
            block-stream: Cannot find device='' nor node-name='no'
            block-stream: Node 'top' is not a backing image of 'top'
            block-stream: Cannot find device='' nor node-name='no'
            block-stream: backing file specified, but streaming the entire chain
            block-commit: 'top-node' and 'top' are mutually exclusive
            block-commit: Cannot find device='' nor node-name='no'
            block-commit: Top image file no not found
            block-commit: 'base-node' and 'base' are mutually exclusive
            block-commit: Cannot find device='' nor node-name='no'
            block-commit: Can't find 'no' in the backing chain
            block-commit: 'top' is not in this backing file chain
            block-commit: cannot commit an image into itself
            block-commit: cannot commit an image into itself
            block-commit: 'backing-file' specified, but 'top' is the active layer
            query-jobs: "#]],
        expect![[""]],
    );
}

#[test]
fn a_commit_of_the_active_image_is_completed_while_it_is_paused() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            tale.ok("block-commit", r#""device": "top", "job-id": "j""#);
            tale.wait("j BLOCK_JOB_READY");
            tale.tell("job-finalize", r#""id": "j""#);
            tale.tell("job-resume", r#""id": "j""#);
            tale.tell("job-pause", r#""id": "j""#);
            tale.tell("job-pause", r#""id": "j""#);
            tale.wait("j standby");
            tale.tell("job-complete", r#""id": "j""#);
            tale.tell("job-resume", r#""id": "j""#);
            tale.wait("j null");
        },
        expect![[r#"
            job-finalize: Job 'j' in state 'ready' cannot accept command verb 'finalize'
            job-resume: Can't resume a job that was not paused
            job-pause: ok
            job-pause: Job is already paused
            job-complete: ok
            job-resume: ok"#]],
        expect![[r#"
            j created
            j running
            j ready
            j BLOCK_JOB_READY
            j standby
            j ready
            j waiting
            j pending
            j BLOCK_JOB_COMPLETED
            j concluded
            j null"#]],
    );
}

#[test]
fn a_mirror_pends_before_it_leads_its_users_away() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            let start = |more: &str| {
                format!(
                    r#""device": "src", "target": "dst", "job-id": "j", "sync": "full",
                       "auto-finalize": false, "auto-dismiss": false{more}"#
                )
            };
            tale.tell("blockdev-mirror", &start(r#", "replaces": "no""#));
            tale.tell("blockdev-mirror", &start(r#", "replaces": "dst2""#));
            tale.tell("blockdev-mirror", &start(r#", "replaces": "src""#));
            tale.wait("j BLOCK_JOB_READY");
            tale.tell("query-block-jobs", "");
            for mode in ["background", "write-blocking", "background"] {
                let arguments = format!(r#""id": "j", "type": "mirror", "copy-mode": "{mode}""#);
                tale.tell("block-job-change", &arguments);
            }
            tale.tell("job-complete", r#""id": "j""#);
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("block-job-finalize", r#""id": "j""#);
            tale.tell("query-jobs", "");
            tale.tell("job-dismiss", r#""id": "j""#);
        },
        expect![[r#"
            blockdev-mirror: Failed to find node with node-name='no'
            blockdev-mirror: Cannot replace 'dst2' by a node mirrored from 'src', because it cannot be guaranteed that doing so would not lead to an abrupt change of visible data
            blockdev-mirror: ok
            query-block-jobs: j ready auto-finalize=false auto-dismiss=false actively-synced=false
            block-job-change: ok
            block-job-change: ok
            block-job-change: Change to copy mode 'background' is not implemented
            job-complete: ok
            block-job-finalize: ok
            query-jobs: j concluded
            job-dismiss: ok"#]],
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
fn a_mirror_is_given_up_gently_or_by_force_or_while_it_pends() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            let start = r#""device": "src", "target": "dst", "job-id": "j", "sync": "full""#;
            for force in [false, true] {
                tale.ok("blockdev-mirror", start);
                tale.wait("j BLOCK_JOB_READY");
                let arguments = format!(r#""device": "j", "force": {force}"#);
                tale.tell("block-job-cancel", &arguments);
                tale.wait("j null");
            }
            tale.ok(
                "blockdev-mirror",
                &format!(r#"{start}, "auto-finalize": false"#),
            );
            tale.wait("j BLOCK_JOB_READY");
            tale.tell("block-job-cancel", r#""device": "j""#);
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("block-job-cancel", r#""device": "j""#);
            tale.wait("j null");
        },
        expect![[r#"
            block-job-cancel: ok
            block-job-cancel: ok
            block-job-cancel: ok
            block-job-cancel: ok"#]],
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
            j aborting
            j BLOCK_JOB_CANCELLED
            j concluded
            j null
            j created
            j running
            j ready
            j BLOCK_JOB_READY
            j waiting
            j pending
            j BLOCK_JOB_PENDING
            j aborting
            j BLOCK_JOB_CANCELLED
            j concluded
            j null"#]],
    );
}

fn backup(n: &str, more: &str) -> String {
    format!(
        r#"{{"type": "blockdev-backup", "data": {{"device": "src{n}", "target": "dst{n}",
            "sync": "full", "job-id": "j{n}"{more}}}}}"#
    )
}

fn grouped(actions: &[String]) -> String {
    let actions = actions.join(", ");
    format!(r#""actions": [{actions}], "properties": {{"completion-mode": "grouped"}}"#)
}

#[test]
fn backups_of_a_group_wait_for_each_other_and_for_a_user() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            let abort = r#"{"type": "abort", "data": {}}"#.to_owned();
            tale.tell("transaction", &grouped(&[backup("", ""), abort]));
            let manual = r#", "auto-finalize": false"#;
            let both = grouped(&[backup("", manual), backup("2", "")]);
            tale.tell("transaction", &both);
            tale.wait("j BLOCK_JOB_PENDING");
            tale.tell("query-jobs", "");
            tale.tell("job-finalize", r#""id": "j2""#);
            tale.tell("query-jobs", "");
            tale.forget_order();
        },
        expect![[r#"
            transaction: Action 'abort' does not support transaction property completion-mode = grouped
            transaction: ok
            query-jobs: j2 pending, j pending
            job-finalize: ok
            query-jobs: "#]],
        expect![[r#"
            j BLOCK_JOB_COMPLETED
            j BLOCK_JOB_PENDING
            j concluded
            j created
            j null
            j pending
            j running
            j waiting
            j2 BLOCK_JOB_COMPLETED
            j2 concluded
            j2 created
            j2 null
            j2 pending
            j2 running
            j2 waiting"#]],
    );
}

#[test]
fn a_backup_that_is_given_up_takes_its_group_along() {
    check(
        |rig, folder, tale| {
            disks(rig, folder, tale);
            let kept = r#", "auto-dismiss": false"#;
            // Nobody writes: it has something to do for ever.
            let endless = backup("", kept).replace("full", "none");
            let both = grouped(&[endless, backup("2", kept)]);
            tale.tell("transaction", &both);
            tale.wait("j2 waiting");
            tale.tell("job-cancel", r#""id": "j""#);
            for job in ["j", "j2"] {
                while !tale.events.contains(&format!("{job} concluded")) {
                    let message = tale.client.receive();
                    tale.hear(&message);
                }
            }
            tale.tell("query-jobs", "");
            tale.tell("job-dismiss", r#""id": "j""#);
            tale.tell("job-dismiss", r#""id": "j2""#);
            tale.forget_order();
        },
        expect![[r#"
            transaction: ok
            job-cancel: ok
            query-jobs: j2 concluded error=Operation canceled, j concluded error=Operation canceled
            job-dismiss: ok
            job-dismiss: ok"#]],
        expect![[r#"
            j BLOCK_JOB_CANCELLED
            j aborting
            j concluded
            j created
            j null
            j running
            j2 BLOCK_JOB_CANCELLED
            j2 aborting
            j2 concluded
            j2 created
            j2 null
            j2 running
            j2 waiting"#]],
    );
}

#[test]
fn a_stream_fills_the_middle_of_a_chain() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            tale.tell("block-stream", r#""device": "mid""#);
            tale.tell("block-commit", r#""device": "top""#);
            tale.tell("block-stream", r#""device": "mid", "job-id": "j""#);
            tale.wait("j null");
            tale.tell(
                "block-stream",
                r#""device": "top", "job-id": "k", "base-node": "base""#,
            );
            tale.tell(
                "block-stream",
                r#""device": "top", "job-id": "k", "base-node": "mid""#,
            );
            tale.wait("k null");
        },
        expect![[r#"
            block-stream: Invalid job ID ''
            block-commit: Invalid job ID ''
            block-stream: ok
            block-stream: Cannot find device='' nor node-name='base'
            block-stream: ok"#]],
        expect![[r#"
            j created
            j running
            j waiting
            j pending
            j BLOCK_JOB_COMPLETED
            j concluded
            j null
            k created
            k running
            k waiting
            k pending
            k BLOCK_JOB_COMPLETED
            k concluded
            k null"#]],
    );
}

#[test]
fn a_backing_file_is_not_called_what_the_image_says_when_another_one_is_open() {
    check(
        |rig, folder, tale| {
            chain(rig, folder, tale);
            let [other, again] = ["other", "again"].map(|name| file(rig, folder, name));
            std::fs::write(&other, vec![2; LEN]).expect("another base");
            let base = file(rig, folder, "base");
            let made = qemu_img(&[
                "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", &again,
            ]);
            assert!(made, "{again}");
            let node = |name: &str, other: &str| {
                format!(
                    r#""driver": "qcow2", "node-name": "{name}", "read-only": true,
                        "file": {{"driver": "file", "filename": "{again}"}},
                        "backing": {{"driver": "raw", "read-only": true,
                            "file": {{"driver": "file", "filename": "{other}"}}}}"#
                )
            };
            tale.ok("blockdev-add", &node("led", &other));
            for name in ["base", &base] {
                let arguments = format!(r#""device": "led", "job-id": "j", "base": "{name}""#);
                let reply = tale.reply("block-commit", &arguments);
                let error = reply.get("error").and_then(|error| error.get("desc"));
                let desc = error.and_then(Value::as_str).unwrap_or("ok");
                tale.answers.push(desc.replace(&base, "BASE"));
            }
        },
        expect![[r#"
            Can't find 'base' in the backing chain
            Can't find 'BASE' in the backing chain"#]],
        expect![[""]],
    );
}
