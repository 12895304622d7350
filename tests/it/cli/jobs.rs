//! `jobs` against our daemon and QEMU's.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use block_schema::Value;

use super::graph::set_up;
use super::qmp::{Daemon, with_both};

/// Starts a job that runs until it is told to be faster.
fn start(daemon: &Daemon<'_>) {
    let said = daemon.talk(&["block-stream", "device=top", "job-id=j", "speed=64K"], "");
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn a_table_shows_the_jobs_there_are() {
    with_both(|daemon| {
        let none = daemon.0.ours("qblk", &["jobs", "--once", "qmp.sock"]);
        assert_eq!(
            (none.out.as_str(), none.code),
            ("There are no jobs.\n", Some(0))
        );
        set_up(daemon);
        start(daemon);
        let table = daemon.0.ours("qblk", &["jobs", "--once", "qmp.sock"]).out;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2, "{table}");
        let words: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(words, ["JOB", "TYPE", "STATUS", "PROGRESS", "LIMIT"]);
        assert!(lines[1].starts_with("j    stream  "), "{table}");
        assert!(lines[1].ends_with("64 KiB/s"), "{table}");
        let json = daemon
            .0
            .ours("qblk", &["jobs", "--once", "--output=json", "qmp.sock"])
            .out;
        let job = Value::from_json(&json).expect("one line");
        assert_eq!(job.get("type"), Some(&Value::from("stream")), "{json}");
        let graph = daemon.0.ours("qblk", &["graph", "qmp.sock"]).out;
        assert!(graph.contains("job j (stream, "), "{graph}");
    });
}

/// Runs `qblk jobs` until the job has ended; it is let go once it was shown.
fn follow(daemon: &Daemon<'_>, words: &[&str]) -> (Vec<String>, Option<i32>) {
    start(daemon);
    let mut child = Command::new(daemon.0.path("qblk"))
        .args([&["jobs", "qmp.sock"], words].concat())
        .current_dir(daemon.0.path(""))
        .stdout(Stdio::piped())
        .spawn()
        .expect("our own program");
    let mut shown = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        shown.push(line.expect("text"));
        if shown.len() == 1 {
            let words = [
                "qmp",
                "second.sock",
                "block-job-set-speed",
                "device=j",
                "speed=0",
            ];
            let said = daemon.0.ours("qblk", &words);
            assert_eq!(said.code, Some(0), "{said:?}");
        }
    }
    (shown, child.wait().expect("a child").code())
}

#[test]
fn a_job_is_followed_to_its_end() {
    with_both(|daemon| {
        set_up(daemon);
        let (shown, code) = follow(daemon, &[]);
        assert_eq!(code, Some(0), "{shown:?}");
        assert!(shown[0].starts_with("j (stream): "), "{shown:?}");
        assert!(shown.iter().any(|line| line == "j: completed"), "{shown:?}");
    });
}

#[test]
fn programs_get_a_line_a_change() {
    with_both(|daemon| {
        set_up(daemon);
        let (shown, code) = follow(daemon, &["--output=json"]);
        assert_eq!(code, Some(0), "{shown:?}");
        let lines: Vec<Value> = shown
            .iter()
            .map(|line| Value::from_json(line).expect("JSON"))
            .collect();
        assert_eq!(
            lines[0].get("speed"),
            Some(&Value::from(65536)),
            "{shown:?}"
        );
        let ended = |line: &&Value| line.get("event") == Some(&Value::from("BLOCK_JOB_COMPLETED"));
        assert!(lines.iter().any(|line| ended(&line)), "{shown:?}");
        let last = lines.iter().rfind(|line| line.get("event").is_none());
        let wanted = Value::from_json(r#"{"job": "j", "status": "null"}"#).expect("JSON");
        assert_eq!(last, Some(&wanted), "{shown:?}");
    });
}
