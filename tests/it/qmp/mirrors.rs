//! `blockdev-mirror` beside `qemu-storage-daemon`: the same answers, and the same events.

use block_schema::Value;

use super::backups::{Step, ask, run};
use super::interop::{Oracle, skip};
use super::rig::Rig;

fn mirror(arguments: &str) -> Step {
    ask("blockdev-mirror", arguments)
}

fn script(rig: &Rig) -> Vec<Step> {
    let node = |name: &str| {
        let path = rig.path(&format!("{name}.img"));
        let file = format!(r#""driver": "file", "node-name": "{name}-file", "filename": "{path}""#);
        ask(
            "blockdev-add",
            &format!(r#""driver": "raw", "node-name": "{name}", "file": {{{file}}}"#),
        )
    };
    let both = r#""device": "disk", "target": "copy", "sync": "full""#;
    let with = |rest: &str| mirror(&format!("{both}, {rest}"));
    let job = r#""device": "j""#;
    vec![
        ask("qmp_capabilities", ""),
        node("disk"),
        node("copy"),
        node("short"),
        mirror(r#""device": "disk", "target": "copy""#),
        mirror(r#""device": "disk", "target": "copy", "sync": "all""#),
        mirror(both),
        with(r#""job-id": "0j""#),
        with(r#""job-id": "j", "speed": -1"#),
        with(r#""job-id": "j", "granularity": 256"#),
        with(r#""job-id": "j", "granularity": 134217728"#),
        with(r#""job-id": "j", "granularity": 1000"#),
        with(r#""job-id": "j", "buf-size": -1"#),
        with(r#""job-id": "j", "copy-mode": "x""#),
        with(r#""job-id": "j", "on-source-error": "x""#),
        mirror(r#""device": "zz", "target": "copy", "sync": "full", "job-id": "j""#),
        mirror(r#""device": "disk", "target": "zz", "sync": "full", "job-id": "j""#),
        mirror(r#""device": "disk", "target": "disk", "sync": "full", "job-id": "j""#),
        mirror(r#""device": "disk", "target": "copy", "sync": "incremental", "job-id": "j""#),
        with(r#""job-id": "j""#),
        Step::Event("BLOCK_JOB_READY"),
        ask("block-job-set-speed", r#""device": "j", "speed": -1"#),
        ask("block-job-cancel", job),
        Step::Event("BLOCK_JOB_COMPLETED"),
        ask("block-job-complete", job),
        with(r#""job-id": "j", "copy-mode": "write-blocking""#),
        Step::Event("BLOCK_JOB_READY"),
        ask("block-job-cancel", r#""device": "j", "force": true"#),
        Step::Event("BLOCK_JOB_CANCELLED"),
        with(r#""job-id": "j", "on-source-error": "stop", "on-target-error": "enospc""#),
        Step::Event("BLOCK_JOB_READY"),
        ask("block-job-complete", job),
        Step::Event("BLOCK_JOB_COMPLETED"),
        ask("block-job-complete", job),
        ask("blockdev-del", r#""node-name": "copy""#),
        ask("blockdev-del", r#""node-name": "disk""#),
    ]
}

#[test]
fn mirrors_answer_as_in_qemu() {
    let rig = Rig::start();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(rig.path(name), bytes).expect("room for a disk");
    };
    let reset = || {
        write("disk.img", &[0x5a; 1 << 20]);
        write("copy.img", &[0x77; 1 << 20]);
        write("short.img", &[0x77; 65536]);
    };
    let script = script(&rig);
    reset();
    let Some((oracle, mut theirs)) = Oracle::start(&rig) else {
        return skip("there is no qemu-storage-daemon");
    };
    theirs.receive();
    let wanted = run(&mut theirs, &script);
    drop(oracle);
    reset();
    let mut ours = rig.connect();
    ours.receive();
    let answers: Vec<Value> = run(&mut ours, &script);
    for ((step, have), want) in script.iter().zip(answers).zip(wanted) {
        match step {
            Step::Ask(text) => assert_eq!(have, want, "for {text}"),
            Step::Event(name) => assert_eq!(have, want, "{name}"),
        }
    }
    let copy = std::fs::read(rig.path("copy.img")).expect("the copy");
    assert!(copy == vec![0x5a; 1 << 20]);
}
