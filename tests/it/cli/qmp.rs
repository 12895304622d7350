//! `qmp`: scripts against our daemon and QEMU's, which answer alike, and a person at a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::serve::Served;
use super::{Bench, Said, beside};

/// So long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon with QMP sockets `qmp.sock` and `second.sock`; killed when the test fails.
pub(super) struct Daemon<'a>(pub(super) &'a Bench);

impl<'a> Daemon<'a> {
    /// Starts ours, or QEMU's.
    fn start(bench: &'a Bench, ours: bool) -> Daemon<'a> {
        let words = [
            "--chardev",
            "socket,id=c,path=qmp.sock,server=on,wait=off",
            "--monitor",
            "chardev=c",
            // For a second client, while the first stays.
            "--chardev",
            "socket,id=d,path=second.sock,server=on,wait=off",
            "--monitor",
            "chardev=d",
            "--pidfile",
            "daemon.pid",
            "--daemonize",
        ];
        let said = match ours {
            true => bench.ours("qemu-storage-daemon", &words),
            false => bench.theirs("qemu-storage-daemon", &words),
        };
        assert_eq!(said.code, Some(0), "{said:?}");
        let file = File::create(bench.path("disk.raw")).expect("a file");
        file.set_len(1 << 20).expect("a sparse file");
        Daemon(bench)
    }

    /// A daemon in the background runs in the root folder.
    pub(super) fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }

    /// The line that opens its disk.
    fn add(&self) -> String {
        let path = self.path("disk.raw");
        format!("blockdev-add driver=file node-name=disk filename={path} read-only=off\n")
    }

    /// Runs `qblk qmp` on it, with a standard input.
    pub(super) fn talk(&self, words: &[&str], input: &str) -> Said {
        let mut child = Command::new(self.0.path("qblk"))
            .args([&["qmp", "qmp.sock"], words].concat())
            .current_dir(self.0.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("our own program");
        let mut stdin = child.stdin.take().expect("a pipe");
        // Who leaves at the first error does not read the rest.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let output = child.wait_with_output().expect("a child");
        Said {
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
            code: output.status.code(),
        }
    }

    #[track_caller]
    fn check(&self, words: &[&str], input: &str, out: &str, err: &str, code: i32) {
        let said = self.talk(words, input);
        let wanted = Said {
            out: out.to_owned(),
            err: err.to_owned(),
            code: Some(code),
        };
        assert_eq!(said, wanted, "{words:?} {input}");
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It removes the file when it ends by itself.
        if let Ok(pid) = std::fs::read_to_string(self.0.path("daemon.pid")) {
            Command::new("kill").arg(pid.trim()).status().ok();
        }
    }
}

/// The same test with both daemons.
pub(super) fn with_both(test: impl Fn(&Daemon<'_>)) {
    let ours = Bench::new();
    test(&Daemon::start(&ours, true));
    if let Some(theirs) = beside(&["qemu-storage-daemon"]) {
        test(&Daemon::start(&theirs, false));
    }
}

#[test]
fn a_script_does_its_lines_and_stops_at_the_first_that_fails() {
    with_both(|daemon| {
        let add = daemon.add();
        let script = format!("# a disk\n\n{add}blockdev-del node-name=nope\nquery-block\n");
        let err = "qblk: stdin:4: GenericError: Failed to find node with node-name='nope'\n";
        daemon.check(&[], &script, "{}\n", err, 1);
        let script = "blockdev-del node-name=nope\n{'execute': 'blockdev-del', \
                      'arguments': {'node-name': 'disk'}}\n";
        let err = "qblk: stdin:1: GenericError: Failed to find node with node-name='nope'\n";
        daemon.check(&["--keep-going"], script, "{}\n", err, 1);
    });
}

#[test]
fn lines_come_from_the_command_line_or_a_file_too() {
    with_both(|daemon| {
        daemon.check(
            &["-c", &daemon.add(), "-c", "blockdev-del node-name=disk"],
            "",
            "{}\n{}\n",
            "",
            0,
        );
        let script = daemon.0.path("script.qmp");
        std::fs::write(&script, "blockdev-del node-name=nope\n").expect("a file");
        let err = "qblk: script.qmp:1: GenericError: Failed to find node with node-name='nope'\n";
        daemon.check(&["-f", "script.qmp"], "", "", err, 1);
        let filename = format!("filename={}", daemon.path("disk.raw"));
        let words = ["blockdev-add", "driver=file", "node-name=disk", &filename];
        daemon.check(&words, "", "{}\n", "", 0);
        daemon.check(
            &["blockdev-del", r#"{"node-name": "disk"}"#],
            "",
            "{}\n",
            "",
            0,
        );
    });
}

#[test]
fn slips_are_told_before_anything_is_sent() {
    with_both(|daemon| {
        let err = "qblk: CommandNotFound: The command blockdev-ad has not been found; \
                   did you mean 'blockdev-add'?\n";
        daemon.check(&["blockdev-ad"], "", "", err, 1);
        let err = "qblk: Parameter 'driver' does not accept value 'fiel'; did you mean 'file'?\n";
        daemon.check(&["blockdev-add", "driver=fiel"], "", "", err, 1);
        let err = "qblk: Parameter 'nodename' is unexpected; did you mean 'node-name'?\n";
        daemon.check(&["blockdev-del", "nodename=disk"], "", "", err, 1);
        let err = "qblk: Parameter 'read-only' expects true or false, not '1'\n";
        let words = [
            "blockdev-add",
            "driver=file",
            "filename=disk.raw",
            "read-only=1",
        ];
        daemon.check(&words, "", "", err, 1);
        // What is missing is the server's to tell.
        let err = "qblk: GenericError: Parameter 'filename' is missing\n";
        daemon.check(&["blockdev-add", "driver=file"], "", "", err, 1);
    });
}

#[test]
fn a_script_waits_for_events_that_came_or_will_come() {
    with_both(|daemon| {
        let (add, socket) = (daemon.add(), daemon.path("nbd.sock"));
        let script = format!(
            "{add}nbd-server-start addr.type=unix addr.data.path={socket}\n\
             block-export-add type=nbd id=e node-name=disk\n\
             block-export-add type=nbd id=f node-name=disk name=f\n\
             block-export-del id=f\n\
             block-export-del id=e\n\
             wait BLOCK_EXPORT_DELETED id=e timeout=20\n\
             wait BLOCK_EXPORT_DELETED id=f timeout=20\n"
        );
        let said = daemon.talk(&["--json"], &script);
        assert_eq!((said.err.as_str(), said.code), ("", Some(0)), "{said:?}");
        let lines: Vec<&str> = said.out.lines().collect();
        assert_eq!(lines.len(), 8, "{said:?}");
        assert_eq!(lines[..6], ["{}"; 6]);
        for (line, id) in [(lines[6], "e"), (lines[7], "f")] {
            assert!(
                line.contains(r#""event": "BLOCK_EXPORT_DELETED""#),
                "{line}"
            );
            assert!(line.contains(&format!(r#""id": "{id}""#)), "{line}");
        }
        let err = "qblk: No BLOCK_EXPORT_DELETED came in time\n";
        daemon.check(
            &["-c", "wait BLOCK_EXPORT_DELETED timeout=0"],
            "",
            "",
            err,
            1,
        );
    });
}

#[test]
fn answers_are_json_in_both_forms_and_time_is_told_aside() {
    with_both(|daemon| {
        let compact = daemon.talk(&["--json", "query-version"], "");
        let pretty = daemon.talk(&["query-version"], "");
        let parse = |said: &Said| block_schema::Value::from_json(&said.out).expect("JSON");
        assert_eq!(parse(&compact), parse(&pretty));
        assert_eq!(compact.out.lines().count(), 1);
        assert!(pretty.out.starts_with("{\n    \"qemu\": {\n"), "{pretty:?}");
        let timed = daemon.talk(&["--timing", "query-version"], "");
        assert_eq!(timed.out, pretty.out);
        assert!(
            timed.err.starts_with('(') && timed.err.ends_with(" ms)\n"),
            "{timed:?}"
        );
    });
}

#[test]
fn quit_ends_the_script_and_nobody_answers_after_it() {
    with_both(|daemon| {
        daemon.check(&["-c", "quit", "-c", "query-block"], "", "{}\n", "", 0);
        // It may be closing yet, or be gone.
        let late = daemon.talk(&["query-block"], "");
        assert_eq!((late.out.as_str(), late.code), ("", Some(1)), "{late:?}");
    });
}

/// `qblk qmp` with a terminal.
struct Terminal {
    child: Child,
    screen: File,
    seen: String,
}

impl Terminal {
    fn open(daemon: &Daemon<'_>) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("a terminal");
        unlockpt(&master).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let side = || {
            let name = name.to_str().expect("a path");
            File::options()
                .read(true)
                .write(true)
                .open(name)
                .expect("a terminal")
        };
        let child = Command::new(daemon.0.path("qblk"))
            .args(["qmp", "qmp.sock"])
            .current_dir(daemon.0.path(""))
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env("XDG_STATE_HOME", daemon.0.path("state"))
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .expect("our own program");
        Terminal {
            child,
            screen: File::from(master),
            seen: String::new(),
        }
    }

    fn keys(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Reads until a text was shown, and forgets what came up to it.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let give_up = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = give_up.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("a few seconds");
            let ready = poll(&mut [PollFd::new(&self.screen, PollFlags::IN)], Some(&left));
            assert_ne!(
                ready.expect("a terminal"),
                0,
                "no {text} in {:?}",
                self.seen
            );
            let count = self.screen.read(&mut bytes).unwrap_or(0);
            assert_ne!(count, 0, "the end, and no {text} in {:?}", self.seen);
            self.seen += &String::from_utf8_lossy(&bytes[..count]);
        }
    }

    fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }
}

#[test]
fn a_person_completes_cancels_and_leaves() {
    with_both(|daemon| {
        let mut terminal = Terminal::open(daemon);
        terminal.expect("Ctrl-D leaves.");
        terminal.expect("qmp> ");
        let path = daemon.path("disk.raw");
        terminal.keys(&format!(
            "blockdev-add driver=file node-n\tdisk filen\t{path}\r"
        ));
        terminal.expect("{}\r\n");
        terminal.expect("qmp> ");
        terminal.keys("nonsense\x03");
        terminal.expect("qmp> ");
        // A bracket keeps the line open; what is wrong with it is told and forgotten.
        terminal.keys("{'execute': 'blockdev-del',\r'arguments': {'node-name': 'nope'}}\r");
        terminal.expect("GenericError: Failed to find node with node-name='nope'");
        terminal.expect("qmp> ");
        // From the history.
        terminal.keys("\x1b[A\x1b[A\r");
        terminal.expect("GenericError: ");
        terminal.expect("qmp> ");
        terminal.keys("\x04");
        assert_eq!(terminal.wait(), Some(0));
        daemon.check(&["blockdev-del", "node-name=disk"], "", "{}\n", "", 0);
        let history = std::fs::read_to_string(daemon.0.path("state/qblk/qmp-history"));
        let history = history.expect("a history");
        assert!(history.contains("blockdev-add driver=file"), "{history}");
        assert!(!history.contains("nonsense"), "{history}");
    });
}

#[test]
fn events_come_above_the_line_that_is_written_and_a_lost_server_ends_it() {
    with_both(|daemon| {
        let mut terminal = Terminal::open(daemon);
        terminal.expect("qmp> ");
        terminal.keys(&daemon.add());
        terminal.expect("{}\r\n");
        let socket = daemon.path("nbd.sock");
        terminal.keys(&format!(
            "nbd-server-start addr.type=unix addr.data.path={socket}\r"
        ));
        terminal.expect("{}\r\n");
        terminal.keys("block-export-add type=nbd id=e node-name=disk\r");
        terminal.expect("{}\r\n");
        terminal.keys("block-export-del id=e\r");
        // The event may come before the next prompt or after it.
        terminal.expect("BLOCK_EXPORT_DELETED id=e");
        terminal.keys("query-blo");
        terminal.expect("query-blo");
        let pid = std::fs::read_to_string(daemon.0.path("daemon.pid")).expect("a file");
        let killed = Command::new("kill").args(["-KILL", pid.trim()]).status();
        assert!(killed.expect("kill").success());
        terminal.expect("The server closed the connection");
        assert_eq!(terminal.wait(), Some(1));
        std::fs::remove_file(daemon.0.path("daemon.pid")).expect("a file");
    });
}

/// The blocks of a document that are of a kind, as commands and what they say.
fn examples(text: &str, kind: &str, prompt: &str) -> Vec<(String, Vec<String>)> {
    let mut examples: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(fence) = line.strip_prefix("```") {
            inside = fence == kind;
        } else if inside {
            match (line.strip_prefix(prompt), examples.last_mut()) {
                (Some(command), _) => examples.push((command.to_owned(), Vec::new())),
                (None, Some((_, said))) => said.push(line.to_owned()),
                (None, None) => panic!("{line} follows no command"),
            }
        }
    }
    examples
}

/// `…` in what is wanted stands for anything; on a line of its own, for all lines that follow.
fn is_as_shown(said: &str, wanted: &[String]) -> bool {
    let mut said = said.lines();
    for wanted in wanted {
        if wanted == "…" {
            return true;
        }
        let fits = said
            .next()
            .is_some_and(|said| match wanted.split_once('…') {
                Some((start, end)) => said.starts_with(start) && said.ends_with(end),
                None => said == wanted,
            });
        if !fits {
            return false;
        }
    }
    said.next().is_none()
}

#[test]
fn the_document_shows_what_happens() {
    let bench = Bench::new();
    let served = Served::by_default(&bench);
    let text = include_str!("../../../docs/qmp.md");
    let path = format!("PATH={}:$PATH", bench.path("").display());
    let quote = |line: &str| format!("'{}'", line.replace('\'', r"'\''"));
    let at_terminal = examples(text, "qmp", "qmp> ");
    let at_terminal = at_terminal.into_iter().map(|(line, said)| {
        (
            format!("qblk qmp qblk-data/qmp.sock -c {}", quote(&line)),
            said,
        )
    });
    let in_shell = examples(text, "console", "$ ");
    assert!(in_shell.len() > 2);
    for (command, wanted) in at_terminal.chain(in_shell) {
        let said = bench.run(
            "sh".as_ref(),
            &["-c", &format!("{path}; exec 2>&1; {command}")],
        );
        assert!(is_as_shown(&said.out, &wanted), "{command}: {}", said.out);
    }
    assert_eq!(served.terminate(), Some(0));
}
