//! Requests straight to the disk: writes, and reads against what the device gives.
//!
//! Invariant: both sides begin with the same image, and the same bytes of it in memory.

use std::process::Command;

use super::files::Files;
use super::measure::{self, Cost};
use super::rows::{Target, Work};
use super::work::{Programs, STEP, finished, fio_read};

/// Requests in flight.
const DEPTH: &str = "64";
/// Queues of the row that has several.
const QUEUES: u32 = 4;

/// Arguments that all of it shares.
fn direct(programs: &Programs) -> Command {
    let mut command = programs.img();
    command.args([
        "bench", "-f", "qcow2", "-t", "none", "-i", "io_uring", "-d", DEPTH,
    ]);
    command
}

/// Writes as one side does it; the image that it leaves must be clean.
pub(super) fn write(work: &Work, programs: &Programs, files: &Files) -> Result<Cost, String> {
    let &Work::Write {
        target,
        block,
        stride,
        flush_every,
        requests,
    } = work
    else {
        unreachable!("called for this work")
    };
    let image = match target {
        Target::Overlay => files.overlay(),
        Target::Fresh => {
            let image = files.path("written.qcow2");
            std::fs::remove_file(&image).ok();
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            // A cluster for each write, and some.
            let len = (u64::from(requests) + 1) << 16;
            measure::run(create.arg(&image).arg(len.to_string()))?;
            image
        }
    };
    let mut command = direct(programs);
    command.args(["-w", "-s", &block.to_string(), "-S", &stride.to_string()]);
    command.args(["-c", &requests.to_string()]);
    if flush_every > 0 {
        command.args(["--flush-interval", &flush_every.to_string()]);
    }
    let cost = finished(command.arg(&image), requests)?;
    let mut check = Command::new("qemu-img");
    measure::run(check.args(["check", "-q", "-f", "qcow2"]).arg(&image))?;
    if target == Target::Fresh {
        std::fs::remove_file(&image).ok();
    }
    Ok(cost)
}

/// Reads: we through the format, the peer from the raw file by fio, which does nothing else.
pub(super) fn against_fio(
    requests: u32,
    programs: &Programs,
    files: &Files,
) -> Result<Cost, String> {
    match programs {
        Programs::Ours(_) => read(programs, files, requests, 1),
        Programs::Peer => {
            let mut fio = Command::new("fio");
            fio.args([
                "--name=compare",
                "--ioengine=io_uring",
                "--direct=1",
                "--rw=randread",
            ]);
            fio.args([
                "--bs=4k",
                "--output-format=json",
                &format!("--iodepth={DEPTH}"),
            ]);
            // What `bench` also does: as many requests, no place remembered.
            fio.args(["--norandommap", &format!("--number_ios={requests}")]);
            fio.arg(format!("--io_size={}", u64::from(requests) * 4096));
            fio.arg(format!("--filename={}", files.full("raw").display()));
            let ended = measure::run(&mut fio)?;
            let read = fio_read(&ended.stdout)?;
            Ok(Cost {
                seconds: read.seconds,
                ..ended.cost(read.requests)
            })
        }
    }
}

/// Reads by us: through several queues, and in the peer's place through one.
pub(super) fn queues(requests: u32, programs: &Programs, files: &Files) -> Result<Cost, String> {
    let ours = files.ours();
    match programs {
        Programs::Ours(_) => read(&ours, files, requests, QUEUES),
        Programs::Peer => read(&ours, files, requests, 1),
    }
}

fn read(programs: &Programs, files: &Files, requests: u32, queues: u32) -> Result<Cost, String> {
    let mut command = direct(programs);
    command.args([
        "-s",
        "4096",
        "-S",
        &STEP.to_string(),
        "-c",
        &requests.to_string(),
    ]);
    if queues > 1 {
        command.args(["--queues", &queues.to_string()]);
    }
    finished(command.arg(files.full("qcow2")), requests)
}
