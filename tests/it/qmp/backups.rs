//! `blockdev-backup` beside `qemu-storage-daemon`: the same answers, and the same events.

use block_schema::Value;

use super::interop::{Oracle, skip};
use super::rig::{Client, Rig};

/// What is asked, or waited for.
pub(super) enum Step {
    /// A command.
    Ask(String),
    /// An event with its data; all before it are passed over.
    Event(&'static str),
}

pub(super) fn ask(command: &str, arguments: &str) -> Step {
    Step::Ask(format!(
        r#"{{"execute": "{command}", "arguments": {{{arguments}}}}}"#
    ))
}

fn backup(arguments: &str) -> Step {
    ask("blockdev-backup", arguments)
}

fn transaction(actions: &[&str]) -> Step {
    ask(
        "transaction",
        &format!(r#""actions": [{}]"#, actions.join(", ")),
    )
}

/// What comes back from a script. An event may come before the reply to what caused it.
pub(super) fn run(client: &mut Client, script: &[Step]) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    let mut answers = Vec::new();
    for step in script {
        match step {
            Step::Ask(text) => {
                let mut message = client.ask(text);
                while message.get("event").is_some() {
                    events.push(message);
                    message = client.receive();
                }
                answers.push(message);
            }
            Step::Event(name) => loop {
                let is_it =
                    |event: &Value| event.get("event").and_then(Value::as_str) == Some(*name);
                if let Some(place) = events.iter().position(is_it) {
                    let event = events.swap_remove(place);
                    answers.push(event.get("data").cloned().expect("data"));
                    break;
                }
                events.push(client.receive());
            },
        }
    }
    answers
}

fn script(rig: &Rig) -> Vec<Step> {
    let file = |name: &str, len: u64| {
        let path = rig.file(&format!("{name}.img"), len);
        let node = format!(r#""driver": "file", "node-name": "{name}-file", "filename": "{path}""#);
        ask(
            "blockdev-add",
            &format!(r#""driver": "raw", "node-name": "{name}", "file": {{{node}}}"#),
        )
    };
    let full = r#""device": "disk", "target": "copy", "sync": "full""#;
    let with = |rest: &str| backup(&format!("{full}, {rest}"));
    let job = r#""device": "j""#;
    vec![
        ask("qmp_capabilities", ""),
        file("disk", 1 << 20),
        file("copy", 1 << 20),
        file("short", 1 << 19),
        backup(r#""device": "disk", "target": "copy""#),
        backup(r#""device": "disk", "target": "copy", "sync": "all""#),
        backup(r#""device": "disk", "target": "copy", "sync": "full", "x": 1"#),
        backup(r#""device": "zz", "target": "copy", "sync": "full""#),
        backup(r#""device": "disk", "target": "zz", "sync": "full""#),
        backup(r#""device": "disk", "target": "disk", "sync": "full", "job-id": "j""#),
        backup(r#""device": "disk", "target": "short", "sync": "full", "job-id": "j""#),
        backup(full),
        with(r#""job-id": "0j""#),
        with(r#""job-id": "j", "speed": -1"#),
        with(r#""job-id": "j", "compress": true"#),
        with(r#""job-id": "j", "bitmap": "b""#),
        with(r#""job-id": "j", "bitmap-mode": "never""#),
        with(r#""job-id": "j", "on-target-error": "x""#),
        backup(r#""device": "disk", "target": "copy", "sync": "bitmap", "job-id": "j""#),
        backup(r#""device": "disk", "target": "copy", "sync": "incremental", "job-id": "j""#),
        ask("block-dirty-bitmap-add", r#""node": "disk", "name": "b""#),
        with(r#""job-id": "j", "bitmap": "b""#),
        with(r#""job-id": "j", "bitmap": "b", "bitmap-mode": "never""#),
        backup(
            r#""device": "disk", "target": "copy", "sync": "none", "job-id": "j",
                "bitmap": "b", "bitmap-mode": "always""#,
        ),
        backup(
            r#""device": "disk", "target": "copy", "sync": "incremental", "job-id": "j",
                "bitmap": "b", "bitmap-mode": "always""#,
        ),
        with(r#""job-id": "j""#),
        Step::Event("BLOCK_JOB_COMPLETED"),
        with(r#""job-id": "j", "bitmap": "b", "bitmap-mode": "on-success""#),
        Step::Event("BLOCK_JOB_COMPLETED"),
        backup(
            r#""device": "disk", "target": "copy", "sync": "incremental", "job-id": "j",
                "bitmap": "b""#,
        ),
        Step::Event("BLOCK_JOB_COMPLETED"),
        backup(r#""device": "disk", "target": "copy", "sync": "top", "job-id": "j""#),
        Step::Event("BLOCK_JOB_COMPLETED"),
        backup(r#""device": "disk", "target": "copy", "sync": "none", "job-id": "j""#),
        backup(r#""device": "short", "target": "copy", "sync": "full", "job-id": "k""#),
        ask("block-job-complete", job),
        ask("block-job-set-speed", r#""device": "j", "speed": -1"#),
        ask("block-job-set-speed", r#""device": "j", "speed": 65536"#),
        ask("block_resize", r#""node-name": "copy", "size": 65536"#),
        ask("block-job-cancel", job),
        Step::Event("BLOCK_JOB_CANCELLED"),
        ask("block-job-cancel", job),
        transaction(&[
            r#"{"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "c"}}"#,
            r#"{"type": "blockdev-backup", "data": {"device": "disk", "target": "copy",
                "sync": "full", "job-id": "j", "bitmap": "c", "bitmap-mode": "on-success"}}"#,
            r#"{"type": "abort", "data": {}}"#,
        ]),
        transaction(&[
            r#"{"type": "blockdev-backup", "data": {"device": "disk", "target": "copy",
                "sync": "incremental", "job-id": "j", "bitmap": "c"}}"#,
        ]),
        transaction(&[
            r#"{"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "c"}}"#,
            r#"{"type": "blockdev-backup", "data": {"device": "disk", "target": "copy",
                "sync": "full", "job-id": "j", "bitmap": "c", "bitmap-mode": "on-success"}}"#,
        ]),
        Step::Event("BLOCK_JOB_COMPLETED"),
        ask("blockdev-del", r#""node-name": "copy""#),
        ask("blockdev-del", r#""node-name": "disk""#),
    ]
}

#[test]
fn backups_answer_as_in_qemu() {
    let rig = Rig::start();
    let script = script(&rig);
    let Some((oracle, mut theirs)) = Oracle::start(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    theirs.receive();
    let wanted = run(&mut theirs, &script);
    drop(oracle);
    let mut ours = rig.connect();
    ours.receive();
    let answers = run(&mut ours, &script);
    for ((step, have), want) in script.iter().zip(answers).zip(wanted) {
        match step {
            Step::Ask(text) => assert_eq!(have, want, "for {text}"),
            Step::Event(name) => assert_eq!(have, want, "{name}"),
        }
    }
}
