//! `docs/chores.md`: its daemon and its scripts, run as they stand there.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Bench, Said};
use crate::support::record;

/// The blocks of code of the document: the shell's, and the scripts by the names in their first
/// lines.
fn blocks() -> (String, HashMap<String, String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/chores.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let (mut shell, mut scripts) = (String::new(), HashMap::new());
    for block in text.split("```").skip(1).step_by(2) {
        let (language, code) = block.split_once('\n').expect("a block of lines");
        match language {
            "sh" => shell.push_str(code),
            "python" => {
                let first = code.lines().next().unwrap_or_default();
                let name = first.trim_start_matches("# ").split(' ').next();
                let name = name.unwrap_or_default().to_owned();
                assert!(scripts.insert(name, code.to_owned()).is_none());
            }
            other => panic!("a block of {other}"),
        }
    }
    (shell, scripts)
}

/// The daemon of the document, and its scripts beside it.
struct Chores {
    bench: Bench,
}

impl Chores {
    /// `None`, with a printed reason, where the scripts cannot run.
    fn start() -> Option<Chores> {
        let known = Command::new("python3")
            .args(["-c", "import qemu.qmp"])
            .stderr(Stdio::null())
            .status();
        if !known.is_ok_and(|status| status.success()) {
            let required = std::env::var_os("QBLK_REQUIRE_INTEROP").is_some();
            assert!(!required, "python3 has no qemu.qmp");
            println!("not run: python3 has no qemu.qmp");
            return None;
        }
        let bench = Bench::new();
        let (shell, scripts) = blocks();
        for (name, code) in scripts {
            std::fs::write(bench.path(&name), code).expect("a script");
        }
        let chores = Chores { bench };
        // The daemon goes to the background when it serves: then the shell is done.
        let shell = format!("{} --daemonize --pidfile pid", shell.trim_end());
        let said = chores.run("sh", &["-e", "-c", &shell]);
        assert_eq!(said.code, Some(0), "{said:?}");
        Some(chores)
    }

    /// Runs a program that finds ours by its name.
    fn run(&self, program: &str, words: &[&str]) -> Said {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new(program)
            .args(words)
            .current_dir(self.bench.path(""))
            .env("PATH", format!("{}:{path}", self.bench.path("").display()))
            .env(record::VARIABLE, record::PATH)
            .output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Runs one of the scripts, which must succeed; what it prints.
    #[track_caller]
    fn script(&self, name: &str, words: &[&str]) -> String {
        let said = self.run("python3", &[&[name, "qmp.sock", "disk"], words].concat());
        assert_eq!(said.code, Some(0), "{name}: {}", said.err);
        said.out
    }

    /// Serves the disk to a writer, fills its first megabyte, and flushes.
    #[track_caller]
    fn fill(&self, byte: &str) {
        let serve = [
            "qmp",
            "qmp.sock",
            "-c",
            "nbd-server-start addr.type=unix addr.data.path=nbd.sock",
            "-c",
            "nbd-server-add device=disk writable=true",
        ];
        let said = self.run("qblk", &serve);
        assert_eq!(said.code, Some(0), "{said:?}");
        let (write, uri) = (
            format!("write -P {byte} 0 1M"),
            "nbd+unix:///disk?socket=nbd.sock",
        );
        let said = self.run(
            "qblk",
            &["io", "-f", "raw", "-c", &write, "-c", "flush", uri],
        );
        assert_eq!(said.code, Some(0), "{said:?}");
        let said = self.run("qblk", &["qmp", "qmp.sock", "nbd-server-stop"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Checks what the first megabyte of an image reads as, opened with what is below it.
    #[track_caller]
    fn expect(&self, image: &str, byte: &str) {
        let read = format!("read -P {byte} 0 1M");
        let said = self.run(
            "qblk",
            &["io", "-U", "-r", "-f", "qcow2", "-c", &read, image],
        );
        assert_eq!(said.code, Some(0), "{image}: {said:?}");
        assert!(!said.out.contains("failed"), "{image}: {said:?}");
    }

    fn quit(&self) {
        let said = self.run("qblk", &["qmp", "qmp.sock", "quit"]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        // A test that failed leaves its daemon.
        if let Ok(pid) = std::fs::read_to_string(self.bench.path("pid")) {
            Command::new("kill").arg(pid.trim()).status().ok();
        }
    }
}

#[test]
fn snapshots_are_rotated() {
    let Some(chores) = Chores::start() else {
        return;
    };
    let path = |name: &str| chores.bench.path(name).display().to_string();
    chores.fill("0x11");
    let files = chores.script("rotate.py", &[&path("one.qcow2")]);
    assert_eq!(files.lines().count(), 2, "{files}");
    chores.fill("0x22");
    let files = chores.script("rotate.py", &[&path("two.qcow2")]);
    assert_eq!(files.lines().count(), 2, "{files}");
    assert!(files.starts_with(&path("two.qcow2")), "{files}");
    chores.fill("0x33");
    // The base has what the first overlay held.
    chores.expect("disk.qcow2", "0x22");
    chores.quit();
}

#[test]
fn a_disk_moves_to_other_storage() {
    let Some(chores) = Chores::start() else {
        return;
    };
    let target = chores.bench.path("elsewhere.qcow2").display().to_string();
    chores.fill("0x11");
    let file = chores.script("move.py", &[&target]);
    assert_eq!(file.trim(), target);
    chores.fill("0x22");
    chores.expect(&target, "0x22");
    chores.expect("disk.qcow2", "0x11");
    chores.quit();
}

#[test]
fn every_night_has_its_backup() {
    let Some(chores) = Chores::start() else {
        return;
    };
    std::fs::create_dir(chores.bench.path("nights")).expect("a folder");
    let bytes = ["0x11", "0x22", "0x33"];
    for byte in bytes {
        chores.fill(byte);
        let night = chores.script("nightly.py", &["nights"]);
        assert!(night.contains("night-"), "{night}");
    }
    chores.quit();
    for (night, byte) in bytes.iter().enumerate() {
        chores.expect(&format!("nights/night-{night:04}.qcow2"), byte);
    }
}
