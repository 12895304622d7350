//! The program from outside: command lines, texts, exit codes, beside QEMU's tools on the same
//! images.
//!
//! `qblk` is called through links of the tools' names, so that messages must be equal to the
//! letter. A test whose tool is missing says so and passes, unless `QBLK_REQUIRE_INTEROP` is set.

mod bitmaps;
mod chores;
mod compressed;
mod copies;
mod create_options;
mod encrypted;
mod graph;
mod images;
mod io;
mod jobs;
mod nbd;
mod offline;
mod qmp;
mod serve;
mod snapshots;

use std::path::{Path, PathBuf};
use std::process::Command;

use block_schema::Value;

use crate::support::{Scratch, record};

/// What a program said, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    out: String,
    err: String,
    code: Option<i32>,
}

/// A folder with images, and our program under every name.
struct Bench {
    scratch: Scratch,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new("cli");
        for name in [
            "qblk",
            "qemu-img",
            "qemu-io",
            "qemu-nbd",
            "qemu-storage-daemon",
        ] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_qblk"), scratch.path(name))
                .expect("a link");
        }
        Bench { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Runs our program under a name.
    fn ours(&self, name: &str, words: &[&str]) -> Said {
        self.run(&self.path(name), words)
    }

    /// Runs QEMU's program of that name.
    fn theirs(&self, name: &str, words: &[&str]) -> Said {
        self.run(Path::new(name), words)
    }

    fn run(&self, program: &Path, words: &[&str]) -> Said {
        let mut command = Command::new(program);
        let output = command
            .args(words)
            .current_dir(self.path(""))
            .env("TZ", "UTC")
            .env(record::VARIABLE, record::PATH)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
    }

    /// Runs QEMU's program, which must succeed.
    fn prepare(&self, name: &str, words: &[&str]) {
        let said = self.theirs(name, words);
        assert_eq!(said.code, Some(0), "{name} {words:?}: {said:?}");
    }

    /// Both programs say the same, to the letter.
    #[track_caller]
    fn check_same(&self, name: &str, words: &[&str]) {
        let (ours, theirs) = (self.ours(name, words), self.theirs(name, words));
        assert_eq!(ours, theirs, "{name} {words:?}");
    }

    /// Both programs print the same JSON, whatever the order of members.
    #[track_caller]
    fn check_same_json(&self, name: &str, words: &[&str]) {
        let (ours, theirs) = (self.ours(name, words), self.theirs(name, words));
        let parse = |said: &Said| Value::from_json(&said.out).map_err(|error| error.to_string());
        assert_eq!(
            parse(&ours),
            parse(&theirs),
            "{name} {words:?}: {}",
            ours.err
        );
        assert_eq!(ours.code, theirs.code, "{name} {words:?}");
    }
}

/// A bench, or `None` with a printed reason when one of QEMU's programs is missing.
fn beside(tools: &[&str]) -> Option<Bench> {
    for tool in tools {
        if Command::new(tool).arg("--version").output().is_err() {
            let required = std::env::var_os("QBLK_REQUIRE_INTEROP").is_some();
            assert!(!required, "{tool} is not installed");
            println!("not compared with {tool}: it is not installed");
            return None;
        }
    }
    Some(Bench::new())
}
