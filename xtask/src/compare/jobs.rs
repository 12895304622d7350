//! Jobs of a daemon, from the command to the event that it is over or ready; what the daemon costs
//! meanwhile counts.
//!
//! Both daemons take the same command line and the same commands. Not here: what a guest does
//! meanwhile (`guest`).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Turn;
use super::files::Files;
use super::guest::{EXPORT, Guest};
use super::measure::{self, Cost, Server};
use super::rows::{Cache, Job, Kind, Load, Source};
use super::work::{Programs, await_listener};

/// The longest that a job may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Images of one run, by the names of their nodes.
type Images = Vec<(&'static str, Option<&'static str>, std::path::PathBuf)>;

/// Runs one job on the mixed image.
pub(super) fn run_job(
    job: Job,
    programs: &Programs,
    files: &Files,
    turn: Turn,
) -> Result<Cost, String> {
    let kind = job.kind;
    let images = make(job, files)?;
    let (socket, disk) = (files.path("qmp.sock"), files.path("disk.sock"));
    for socket in [&socket, &disk] {
        std::fs::remove_file(socket).ok();
    }
    let mut command = daemon(programs, &images, job.cache, &socket);
    let guest = match job.load {
        Load::Idle => None,
        Load::Guest => {
            command.args(export(kind, &disk));
            Some(disk)
        }
    };
    let mut server = Server::start(&mut command)?;
    await_listener(&mut server, &socket)?;
    let mut client = Client::connect(&socket)?;
    let guest = guest.map(|disk| Guest::start(&disk)).transpose()?;
    let mark = guest.as_ref().map(Guest::mark);
    let before = server.cpu_seconds()?;
    let start = Instant::now();
    client.run(&arguments(job, &images))?;
    client.await_event(match kind {
        Kind::Mirror => "BLOCK_JOB_READY",
        Kind::Stream | Kind::Commit | Kind::Backup => "BLOCK_JOB_COMPLETED",
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let share = guest
        .as_ref()
        .zip(mark)
        .map(|(guest, mark)| guest.share_since(&mark));
    let cpu_seconds = server.cpu_seconds()? - before;
    let max_rss_mib = server.max_rss_mib()?;
    guest.map(Guest::end).transpose()?;
    client.run(&json!({"execute": "quit"}))?;
    match job.cache {
        // What it has not written yet goes with the images.
        Cache::Hot => drop(server),
        // What a ring has open is locked for a moment after its process was killed.
        Cache::Direct => server.await_end()?,
    }
    if turn == Turn::WarmUp {
        check(kind, files)?;
    }
    Ok(Cost {
        amount: files.mixed_mib() as f64,
        seconds,
        cpu_seconds,
        max_rss_mib,
        file_mib: 0.0,
        guest_share: share.unwrap_or(0.0),
    })
}

/// Makes the images anew: a job changes them.
fn make(job: Job, files: &Files) -> Result<Images, String> {
    let mixed = files.mixed(Source::Qcow2);
    let (target, middle, top) = (
        files.path("job-target.qcow2"),
        files.path("job-middle.qcow2"),
        files.path("job-top.qcow2"),
    );
    let create = |path: &Path, backing: Option<&Path>| {
        std::fs::remove_file(path).ok();
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            command.args(["-F", "qcow2", "-b"]).arg(backing);
        }
        command.arg(path).arg(format!("{}M", files.mixed_mib()));
        measure::run(&mut command).map(drop)
    };
    Ok(match job.kind {
        Kind::Stream => {
            create(&top, Some(&mixed))?;
            vec![("base", None, mixed), ("top", Some("base"), top)]
        }
        Kind::Commit => {
            create(&target, None)?;
            copy(&mixed, &middle).map_err(|error| format!("a copy: {error}"))?;
            let mut rebase = Command::new("qemu-img");
            rebase.args(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]);
            measure::run(rebase.arg(&target).arg(&middle))?;
            create(&top, Some(&middle))?;
            vec![
                ("base", None, target),
                ("middle", Some("base"), middle),
                ("top", Some("middle"), top),
            ]
        }
        Kind::Mirror | Kind::Backup => {
            create(&target, None)?;
            let target = ("target", None, target);
            match job.load {
                Load::Idle => vec![("source", None, mixed), target],
                // The mixed image itself stays as it is.
                Load::Guest => {
                    create(&top, Some(&mixed))?;
                    let (base, source) = (("base", None, mixed), ("source", Some("base"), top));
                    vec![base, source, target]
                }
            }
        }
    })
}

/// Copies a file to disk, so that no flush of a job's has to wait for that.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::copy(from, to)?;
    std::fs::File::open(to)?.sync_all()
}

/// The disk that a guest uses.
fn export(kind: Kind, socket: &Path) -> Vec<String> {
    let node = match kind {
        Kind::Stream | Kind::Commit => "top",
        Kind::Mirror | Kind::Backup => "source",
    };
    vec![
        "--nbd-server".to_owned(),
        format!("addr.type=unix,addr.path={}", socket.display()),
        "--export".to_owned(),
        format!("type=nbd,id=guest,node-name={node},name={EXPORT},writable=on"),
    ]
}

fn daemon(programs: &Programs, images: &Images, cache: Cache, socket: &Path) -> Command {
    let mut command = match programs {
        Programs::Ours(qblk) => {
            let mut command = Command::new(qblk);
            command.arg("serve");
            command
        }
        Programs::Peer => Command::new("qemu-storage-daemon"),
    };
    let file = match cache {
        Cache::Hot => "file.aio=threads",
        Cache::Direct => "file.aio=io_uring,file.cache.direct=on",
    };
    for (node, backing, path) in images {
        let path = path.display();
        let backing = backing.map_or_else(String::new, |node| format!(",backing={node}"));
        command.arg("--blockdev").arg(format!(
            "driver=qcow2,node-name={node},file.driver=file,file.filename={path},{file}{backing}"
        ));
    }
    let socket = socket.display();
    command
        .arg("--chardev")
        .arg(format!("socket,id=qmp,path={socket},server=on,wait=off"))
        .args(["--monitor", "chardev=qmp"]);
    command
}

fn arguments(job: Job, images: &Images) -> Value {
    // In the background a mirror may never be done with what a guest writes.
    let mode = match job.load {
        Load::Idle => "background",
        Load::Guest => "write-blocking",
    };
    match job.kind {
        Kind::Stream => json!({
            "execute": "block-stream",
            "arguments": {"job-id": "job", "device": "top"},
        }),
        Kind::Commit => json!({
            "execute": "block-commit",
            "arguments": {"job-id": "job", "device": "top", "top": images[1].2},
        }),
        Kind::Mirror => json!({
            "execute": "blockdev-mirror",
            "arguments": {
                "job-id": "job", "device": "source", "target": "target", "sync": "full",
                "copy-mode": mode,
            },
        }),
        Kind::Backup => json!({
            "execute": "blockdev-backup",
            "arguments": {
                "job-id": "job", "device": "source", "target": "target", "sync": "full",
            },
        }),
    }
}

/// Compares what the job left with the mixed image.
fn check(kind: Kind, files: &Files) -> Result<(), String> {
    let result = files.path(match kind {
        Kind::Stream => "job-top.qcow2",
        Kind::Commit | Kind::Mirror | Kind::Backup => "job-target.qcow2",
    });
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-U", "-f", "qcow2", "-F", "qcow2"]);
    measure::run(compare.arg(files.mixed(Source::Qcow2)).arg(&result))?;
    Ok(())
}

/// A QMP session.
struct Client {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects and negotiates; again when there is no greeting, which QEMU's daemon forgets at times.
    fn connect(socket: &Path) -> Result<Client, String> {
        let describe = |error: std::io::Error| format!("{}: {error}", socket.display());
        for _ in 0..5 {
            let writer = UnixStream::connect(socket).map_err(describe)?;
            let limit = Duration::from_millis(500);
            writer.set_read_timeout(Some(limit)).map_err(describe)?;
            let reader = BufReader::new(writer.try_clone().map_err(describe)?);
            let mut client = Client { writer, reader };
            if client.next().is_ok() {
                let patience = Some(PATIENCE);
                client.writer.set_read_timeout(patience).map_err(describe)?;
                client.run(&json!({"execute": "qmp_capabilities"}))?;
                return Ok(client);
            }
        }
        Err("the daemon greets nobody".to_owned())
    }

    fn next(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        match read {
            Ok(0) => Err("the daemon has left".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{error}: {line}")),
            Err(error) => Err(format!("no answer: {error}")),
        }
    }

    /// Runs a command; events that come before its answer are lost.
    fn run(&mut self, command: &Value) -> Result<(), String> {
        // In one piece: the daemon may be gone before a line's end that comes after `quit`.
        let line = format!("{command}\n");
        let written = self.writer.write_all(line.as_bytes());
        written.map_err(|error| error.to_string())?;
        loop {
            let answer = self.next()?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}"));
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    fn await_event(&mut self, name: &str) -> Result<(), String> {
        loop {
            let message = self.next()?;
            if message["event"] == name {
                return match message["data"].get("error") {
                    None => Ok(()),
                    Some(error) => Err(format!("the job failed: {error}")),
                };
            }
        }
    }
}
