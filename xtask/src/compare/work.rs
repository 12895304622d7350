//! One run of a row's work by one side's programs.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::Turn;
use super::files::Files;
use super::measure::{self, Cost, Server};
use super::rows::{Against, Cache, Work};
use super::{jobs, tools, writes};

/// From one read of `bench` to the next: a prime number of blocks, so that all of the image is
/// read, and hardly anything twice in a row.
pub(super) const STEP: u64 = 7919 * 4096;

/// How one side's programs are called.
pub(super) enum Programs {
    /// Our one program, where it was built.
    Ours(PathBuf),
    /// QEMU's, as they are installed.
    Peer,
}

impl Programs {
    /// The image tool.
    pub(super) fn img(&self) -> Command {
        match self {
            Programs::Ours(qblk) => Command::new(qblk),
            Programs::Peer => Command::new("qemu-img"),
        }
    }

    /// A server of a raw file to readers, by the same way of I/O.
    fn nbd_server(&self, file: &Path, socket: &Path) -> Command {
        let (file, socket) = (file.display(), socket.display());
        match self {
            Programs::Ours(qblk) => {
                let node = format!(
                    "driver=raw,node-name=disk,read-only=on,file.driver=file,file.filename={file},\
                     file.aio=io_uring"
                );
                let mut command = Command::new(qblk);
                command.arg("serve").args(["--blockdev", &node]);
                command.arg("--nbd-server");
                command.arg(format!("addr.type=unix,addr.path={socket}"));
                command.args(["--export", "type=nbd,id=disk,node-name=disk,name="]);
                command
            }
            Programs::Peer => {
                let mut command = Command::new("qemu-nbd");
                command.args(["--persistent", "--read-only", "--shared=8", "--format=raw"]);
                command.args(["--aio=io_uring", &format!("--socket={socket}")]);
                command.arg(file.to_string());
                command
            }
        }
    }
}

/// Does the work of a row once.
///
/// # Errors
/// What the program says, or that what it did is wrong.
pub(super) fn run_once(
    work: &Work,
    programs: &Programs,
    files: &Files,
    turn: Turn,
) -> Result<Cost, String> {
    match work {
        Work::Bench { .. } => bench(work, programs, files),
        Work::Write { .. } => writes::write(work, programs, files),
        Work::AgainstFio { requests } => writes::against_fio(*requests, programs, files),
        Work::Queues { requests } => writes::queues(*requests, programs, files),
        Work::Layers {
            count,
            against,
            requests,
        } => layers(*count, *against, *requests, programs, files),
        Work::Tool { verb, pieces } => tools::run_verb(*verb, *pieces, programs, files),
        Work::Convert { .. } => convert(work, programs, files),
        Work::Job(job) => jobs::run_job(*job, programs, files, turn),
        Work::Nbd { .. } => serve(work, programs, files),
    }
}

fn bench(work: &Work, programs: &Programs, files: &Files) -> Result<Cost, String> {
    let &Work::Bench {
        format,
        cache,
        depth,
        aio,
        requests,
    } = work
    else {
        unreachable!("called for this work")
    };
    let cache = match cache {
        Cache::Hot => "writeback",
        Cache::Direct => "none",
    };
    let mut command = programs.img();
    command.args(["bench", "-f", format, "-t", cache, "-i", aio, "-s", "4096"]);
    command.args(["-d", &depth.to_string(), "-c", &requests.to_string()]);
    command.args(["-S", &STEP.to_string()]);
    finished(command.arg(files.full(format)), requests)
}

/// Reads through a chain, or by us from one image with the same bytes.
fn layers(
    count: u32,
    against: Against,
    requests: u32,
    programs: &Programs,
    files: &Files,
) -> Result<Cost, String> {
    let ours = files.ours();
    let (programs, count) = match (against, programs) {
        (Against::Peer, _) | (Against::OneLayer, Programs::Ours(_)) => (programs, count),
        (Against::OneLayer, Programs::Peer) => (&ours, 1),
    };
    let mut command = programs.img();
    command.args(["bench", "-f", "qcow2", "-t", "writeback", "-i", "io_uring"]);
    command.args(["-s", "4096", "-d", "64", "-c", &requests.to_string()]);
    command.args(["-S", &STEP.to_string()]);
    finished(command.arg(files.layers(count)), requests)
}

/// Runs a benchmark of requests to its end.
pub(super) fn finished(command: &mut Command, requests: u32) -> Result<Cost, String> {
    let ended = measure::run(command)?;
    if !ended.stdout.contains("Run completed in") {
        return Err(format!("no result in its output: {}", ended.stdout));
    }
    Ok(ended.cost(f64::from(requests)))
}

fn convert(work: &Work, programs: &Programs, files: &Files) -> Result<Cost, String> {
    let &Work::Convert {
        source,
        target_format,
        options,
    } = work
    else {
        unreachable!("called for this work")
    };
    let target = files.path("target");
    // The last round's target: its memory goes with it, before it was written to disk.
    std::fs::remove_file(&target).ok();
    let mut command = programs.img();
    command
        .args(["convert", "-f", source.format(), "-O", target_format])
        .args(options);
    let ended = measure::run(command.arg(files.mixed(source)).arg(&target))?;
    let mut check = Command::new("qemu-img");
    check.args(["compare", "-f", source.format(), "-F", target_format]);
    measure::run(check.arg(files.mixed(source)).arg(&target))?;
    let file_mib = match options.contains(&"-c") {
        true => file_mib(&target)?,
        false => 0.0,
    };
    std::fs::remove_file(&target).ok();
    Ok(Cost {
        file_mib,
        ..ended.cost(files.mixed_mib() as f64)
    })
}

fn file_mib(path: &Path) -> Result<f64, String> {
    let metadata = std::fs::metadata(path);
    let metadata = metadata.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(metadata.len() as f64 / f64::from(1 << 20))
}

fn serve(work: &Work, programs: &Programs, files: &Files) -> Result<Cost, String> {
    let &Work::Nbd {
        pattern,
        block_size,
        depth,
        seconds,
    } = work
    else {
        unreachable!("called for this work")
    };
    let socket = files.path("nbd.sock");
    std::fs::remove_file(&socket).ok();
    let mut server = Server::start(&mut programs.nbd_server(&files.full("raw"), &socket))?;
    await_listener(&mut server, &socket)?;
    let before = server.cpu_seconds()?;
    let mut client = Command::new("fio");
    client.args([
        "--name=compare",
        "--ioengine=nbd",
        "--time_based",
        "--output-format=json",
    ]);
    client.arg(format!("--uri=nbd+unix:///?socket={}", socket.display()));
    client
        .arg(format!("--rw={pattern}"))
        .arg(format!("--bs={block_size}"));
    client
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--runtime={seconds}"));
    let ended = measure::run(&mut client)?;
    let cpu_seconds = server.cpu_seconds()? - before;
    let read = fio_read(&ended.stdout)?;
    Ok(Cost {
        amount: match block_size {
            "4k" => read.requests,
            _ => read.bytes / f64::from(1 << 20),
        },
        seconds: read.seconds,
        cpu_seconds,
        max_rss_mib: server.max_rss_mib()?,
        file_mib: 0.0,
        guest_share: 0.0,
    })
}

/// Waits until the server takes connections at the socket.
pub(super) fn await_listener(server: &mut Server, socket: &Path) -> Result<(), String> {
    let start = Instant::now();
    while UnixStream::connect(socket).is_err() {
        server.check()?;
        if start.elapsed() > Duration::from_secs(10) {
            return Err("the server does not listen".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub(super) struct FioRead {
    pub(super) requests: f64,
    bytes: f64,
    pub(super) seconds: f64,
}

/// What the client read, by its own account.
pub(super) fn fio_read(output: &str) -> Result<FioRead, String> {
    // Warnings may stand before the document.
    let json = output.find('{').map_or("", |start| &output[start..]);
    let document: serde_json::Value =
        serde_json::from_str(json).map_err(|error| format!("fio: {error}: {output}"))?;
    let job = &document["jobs"][0];
    let read = &job["read"];
    let numbers = (
        job["error"].as_u64(),
        read["total_ios"].as_f64(),
        read["io_bytes"].as_f64(),
        read["runtime"].as_f64(),
    );
    match numbers {
        (Some(0), Some(requests), Some(bytes), Some(ms)) if requests > 0.0 => Ok(FioRead {
            requests,
            bytes,
            seconds: ms / 1000.0,
        }),
        _ => Err(format!("fio: no result: {output}")),
    }
}
