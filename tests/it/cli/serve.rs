//! `serve` and `qmp`: the daemon with its own default, and with `qemu-storage-daemon`'s options.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Bench, beside};
use crate::support::record;

/// A running daemon; killed when the test fails.
pub(super) struct Served {
    child: Child,
    /// The commands that it printed.
    hints: Vec<String>,
}

impl Served {
    /// Starts `serve` without options, and waits until it serves.
    pub(super) fn by_default(bench: &Bench) -> Served {
        let mut child = Command::new(bench.path("qblk"))
            .arg("serve")
            .current_dir(bench.path(""))
            .env_remove("CARGO")
            .env(record::VARIABLE, record::PATH)
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own program");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut hints = Vec::new();
        for line in out.lines().map(Result::unwrap) {
            let hint = line.strip_prefix("  ").map(str::to_owned);
            hints.extend(hint);
            if line.ends_with(" quit") {
                break;
            }
        }
        Served { child, hints }
    }

    pub(super) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .arg(pid)
                .status()
                .expect("kill")
                .success()
        );
        self.child.wait().expect("a child").code()
    }

    fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        self.child.kill().ok();
    }
}

#[test]
fn everything_that_serve_prints_works() {
    let bench = Bench::new();
    let served = Served::by_default(&bench);
    assert!(served.hints.len() > 4, "{:?}", served.hints);
    for hint in &served.hints {
        let said = bench.run("sh".as_ref(), &["-c", hint]);
        assert_eq!(said.code, Some(0), "{hint}: {said:?}");
        assert_ne!(said.out, "", "{hint}");
    }
    // The last one was `quit`.
    assert_eq!(served.wait(), Some(0));
    assert!(bench.path("qblk-data/disk.qcow2").exists());
    for socket in ["qblk-data/qmp.sock", "qblk-data/nbd.sock"] {
        assert!(!bench.path(socket).exists(), "{socket}");
    }
}

#[test]
fn a_second_server_keeps_the_disk_and_waits_for_nobody() {
    let bench = Bench::new();
    let uri = "nbd+unix:///disk?socket=qblk-data/nbd.sock";
    let io = |command: &str| bench.ours("qblk", &["io", "-f", "raw", "-c", command, uri]);
    let served = Served::by_default(&bench);
    assert_eq!(io("write -P 0x5a 0 1M").code, Some(0));
    let refused = bench.ours("qblk", &["serve"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .err
            .contains("Another server listens on 'qblk-data/qmp.sock'"),
        "{refused:?}"
    );
    assert_eq!(io("read -P 0x5a 0 1M").code, Some(0));
    assert_eq!(served.terminate(), Some(0));
    // What a killed server leaves behind.
    for socket in ["qblk-data/qmp.sock", "qblk-data/nbd.sock"] {
        drop(UnixListener::bind(bench.path(socket)).unwrap());
    }
    let served = Served::by_default(&bench);
    assert_eq!(io("read -P 0x5a 0 1M").code, Some(0));
    assert_eq!(served.terminate(), Some(0));
    let check = bench.ours("qblk", &["check", "qblk-data/disk.qcow2"]);
    assert_eq!(check.code, Some(0), "{check:?}");
}

#[test]
fn the_daemon_takes_the_options_of_qemu_storage_daemon() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "disk.qcow2", "8M"],
    );
    let started = bench.ours(
        "qemu-storage-daemon",
        &[
            "--blockdev",
            "driver=file,node-name=file0,filename=disk.qcow2,cache.direct=off",
            "--blockdev",
            r#"{"driver": "qcow2", "node-name": "disk", "file": "file0", "discard": "unmap"}"#,
            "--nbd-server",
            "addr.type=unix,addr.path=nbd.sock,max-connections=5",
            "--export",
            "type=nbd,id=export0,node-name=disk,name=disk,writable=on",
            "--chardev",
            "socket,id=qmp0,path=qmp.sock,server=on,wait=off",
            "--monitor",
            "chardev=qmp0",
            "--pidfile",
            "daemon.pid",
            "--daemonize",
        ],
    );
    assert_eq!(started.code, Some(0), "{started:?}");
    let pid = std::fs::read_to_string(bench.path("daemon.pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    // The daemon holds the image.
    bench.check_same("qemu-img", &["info", "disk.qcow2"]);
    bench.check_same("qemu-io", &["-c", "read 0 1", "disk.qcow2"]);
    let uri = "nbd+unix:///disk?socket=nbd.sock";
    bench.prepare("qemu-io", &["-f", "raw", "-c", "write -P 3 1M 1M", uri]);
    bench.check_same_json("qemu-img", &["map", "--output=json", "-f", "raw", uri]);
    bench.check_same_json("qemu-img", &["info", "--output=json", "-f", "raw", uri]);
    let copied = bench.ours(
        "qblk",
        &["convert", "-f", "raw", "-O", "qcow2", uri, "copy.qcow2"],
    );
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let read = bench.ours("qblk", &["io", "-r", "-c", "read -P 3 1M 1M", "copy.qcow2"]);
    assert_eq!(read.code, Some(0), "{read:?}");
    let qmp = |words: &[&str]| bench.ours("qblk", &[&["qmp", "qmp.sock"], words].concat());
    let wrong = qmp(&["blockdev-del", "node-name=nope"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.starts_with("qblk: GenericError: "), "{wrong:?}");
    let resized = qmp(&["block_resize", "node-name=disk", "size=16M"]);
    assert_eq!(
        (resized.out.as_str(), resized.code),
        ("{}\n", Some(0)),
        "{resized:?}"
    );
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    assert_eq!(qmp(&["quit"]).code, Some(0));
    // The reply comes before everything is closed.
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
    assert!(!bench.path("daemon.pid").exists());
    bench.prepare("qemu-img", &["check", "disk.qcow2"]);
}

#[test]
fn wrong_options_are_named() {
    let bench = Bench::new();
    let lines: &[(&[&str], &str)] = &[
        (
            &["--blockdev", "driver=nope,node-name=x"],
            "does not accept value 'nope'",
        ),
        (
            &["--blockdev", "driver=file,node-name=x"],
            "Parameter 'filename' is missing",
        ),
        (
            &["--blockdev", "driver=file,node-name=x,filename=missing"],
            "No such file",
        ),
        (&["--export", "nbd,id=e,node-name=x"], "x"),
        (&["--monitor", "chardev=nope"], "chardev \"nope\" not found"),
        (&["--chardev", "stdio,id=c"], "'stdio' is not built in"),
        (
            &["--nbd-server", "addr.type=unix"],
            "Parameter 'addr.data.path' is missing",
        ),
    ];
    for (line, text) in lines {
        let said = bench.ours("qemu-storage-daemon", line);
        assert_eq!(said.code, Some(1), "{line:?}: {said:?}");
        assert!(said.err.contains(text), "{line:?}: {said:?}");
    }
    let background = bench.ours(
        "qblk",
        &["serve", "--daemonize", "--monitor", "chardev=nope"],
    );
    assert_eq!(background.code, Some(1), "{background:?}");
}
