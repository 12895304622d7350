//! The program against QEMU's own: images that one makes and the other reads, writes and checks.
//!
//! A test whose program is missing says so and passes, unless `QBLK_REQUIRE_INTEROP` is set.
//! Differences on purpose are those of `docs/compat.md`; each is named where it is let pass.

mod disk;
mod json;
mod nbd;
mod ours;
mod theirs;

use std::path::PathBuf;
use std::process::Command;

use crate::support::{self, Scratch, record};

use disk::{Disk, Ops, Shape};
use json::Free;

/// A folder in which programs run, so that all names are short and relative.
struct Place(Scratch);

impl Place {
    /// A folder, or `None` with a printed reason where one of `programs` is missing.
    fn with(programs: &[&'static str]) -> Option<Place> {
        for program in programs {
            support::tool(program)?;
        }
        Some(Place(Scratch::new("interop")))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }

    fn command(&self, program: &str) -> Command {
        let program = match program {
            "qblk" => env!("CARGO_BIN_EXE_qblk"),
            other => other,
        };
        let mut command = Command::new(program);
        command
            .current_dir(self.path(""))
            .env(record::VARIABLE, record::PATH);
        command
    }

    /// Runs a program, which must succeed; gives what it printed.
    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output();
        let output = output.expect("it is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let success = output.status.success();
        assert!(success, "{program} {arguments:?}: {text}{errors}");
        text
    }

    /// Runs commands of `qemu-io`'s kind on an image of `format`, all in one process.
    #[track_caller]
    fn io(&self, program: Io, format: &str, image: &str, commands: &[String]) {
        let (program, first) = match program {
            Io::Theirs => ("qemu-io", None),
            Io::Ours => ("qblk", Some("io")),
        };
        let mut arguments: Vec<&str> = first.into_iter().collect();
        arguments.extend(["-t", "writeback", "-f", format, image]);
        for command in commands {
            arguments.extend(["-c", command]);
        }
        self.run(program, &arguments);
    }

    /// Asks both `qblk` and `qemu-img` about an image; they must say the same.
    #[track_caller]
    fn same_answers(&self, image: &str) {
        let questions = [
            ("info", Free::Nothing),
            ("map", Free::Holes),
            ("check", Free::Nothing),
        ];
        for (subcommand, free) in questions {
            let arguments = [subcommand, "--output=json", "-f", "qcow2", image];
            let ours = self.run("qblk", &arguments);
            let theirs = self.run("qemu-img", &arguments);
            json::assert_same(&format!("{subcommand} {image}"), &ours, &theirs, free);
        }
    }

    /// QEMU finds nothing wrong with an image, and finds the disk's bytes in it.
    #[track_caller]
    fn qemu_agrees(&self, image: &str, bytes: &[u8]) {
        std::fs::write(self.path("model.raw"), bytes).expect("a file");
        self.run("qemu-img", &["check", "-q", "-f", "qcow2", image]);
        let formats = ["compare", "-f", "raw", "-F", "qcow2"];
        self.run("qemu-img", &[&formats[..], &["model.raw", image]].concat());
    }

    /// What we read from an image are the disk's bytes.
    #[track_caller]
    fn we_read(&self, image: &str, bytes: &[u8]) {
        self.run("qblk", &["convert", "-f", "qcow2", image, "read.raw"]);
        let read = std::fs::read(self.path("read.raw")).expect("a file");
        if read != bytes {
            let differs = read.iter().zip(bytes).position(|(a, b)| a != b);
            let (ours, theirs) = (read.len(), bytes.len());
            panic!("{image}: byte {differs:?} differs; {ours} bytes of {theirs}");
        }
    }
}

/// Whose tool does requests.
#[derive(Clone, Copy, Debug)]
enum Io {
    Theirs,
    Ours,
}
