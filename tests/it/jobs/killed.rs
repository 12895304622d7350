//! The daemon is killed at some moment of a job, while a client writes: every write that the client
//! flushed is there, and the chain is whole.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use block_core::engine::Ring;
use block_core::{BackendSlot, IoBuf, Queue, Request};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{base, fill};
use crate::support::load::{BACKING, BLOCK, DISK, engine};
use crate::support::{self, Random, Scratch, record};

/// The longest time between a job's start and the kill.
const LONGEST: u64 = 400;

/// A daemon of the chain, detached, with its sockets in the folder.
struct Daemon {
    dir: Scratch,
    pid: Pid,
}

impl Daemon {
    fn start(name: &str) -> Daemon {
        let dir = Scratch::new(name);
        let path = |file: &str| dir.path(file);
        std::fs::write(path("base.img"), base()).expect("a base");
        let layer = support::layer();
        let queue = layer.new_queue(engine(Ring::Auto)).start();
        let (base, middle) = (path("base.img"), path("middle.qcow2"));
        support::create_qcow2(&queue, &middle, DISK, Some((&base, "raw")));
        fill(&queue, &middle);
        support::create_qcow2(&queue, &path("top.qcow2"), DISK, Some((&middle, "qcow2")));
        let status = Command::new(env!("CARGO_BIN_EXE_qblk"))
            .current_dir(path(""))
            .env(record::VARIABLE, record::PATH)
            .args(["serve", "--daemonize", "--pidfile", "pid"])
            .args([
                "--blockdev",
                "driver=qcow2,node-name=top,file.driver=file,file.filename=top.qcow2",
            ])
            .args(["--nbd-server", "addr.type=unix,addr.path=nbd.sock"])
            .args([
                "--export",
                "type=nbd,id=top,node-name=top,name=,writable=on",
            ])
            .args([
                "--chardev",
                "socket,id=qmp,path=qmp.sock,server=on,wait=off",
            ])
            .args(["--monitor", "chardev=qmp"])
            .status();
        assert!(status.expect("our own program").success());
        let pid = std::fs::read_to_string(path("pid")).expect("a pid file");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.expect("a number");
        Daemon { dir, pid }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path(file)
    }

    fn qmp(&self, words: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_qblk"))
            .arg("qmp")
            .arg(self.path("qmp.sock"))
            .args(words)
            .output();
        let output = output.expect("our own program");
        assert!(output.status.success(), "{output:?}");
    }

    /// Kills it, and waits until its locks are gone.
    fn kill(&self) {
        let process = pidfd_open(self.pid, PidfdFlags::empty()).expect("it runs");
        kill_process(self.pid, Signal::KILL).expect("it is ours");
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None).expect("its end");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        kill_process(self.pid, Signal::KILL).ok();
    }
}

/// A disk as the client knows it: what each block holds, and what it may hold instead.
struct Model {
    blocks: Vec<u8>,
    unsure: Option<(usize, u8)>,
}

impl Model {
    /// Writes blocks, and flushes, until `until`.
    fn write(&mut self, queue: &Queue, slot: BackendSlot, random: &mut Random, until: Instant) {
        let blocks = self.blocks.len() as u64;
        while Instant::now() < until {
            let block = support::usize(random.below(blocks));
            let byte = u8::try_from(1 + random.below(200)).expect("a byte");
            let buf = IoBuf::copy_of(&vec![byte; support::usize(BLOCK)]);
            self.unsure = Some((block, byte));
            let done = queue.block_on(async {
                let write = Request::write(block as u64 * BLOCK, buf);
                queue.request(slot, write).await?;
                queue.request(slot, Request::flush()).await
            });
            done.unwrap_or_else(|error| panic!("{}", error.chain()));
            self.blocks[block] = byte;
            self.unsure = None;
        }
    }
}

fn check(name: &str, job: &[&str]) {
    let seed = support::seed(name);
    for round in 0..support::rounds(2) {
        let mut random = Random::new(seed.wrapping_add(round));
        let daemon = Daemon::start(name);
        let mut model = Model {
            blocks: vec![BACKING; support::usize(DISK / BLOCK)],
            unsure: None,
        };
        {
            let layer = support::layer();
            let queue = layer.new_queue(engine(Ring::Auto)).start();
            let json = format!(
                r#"{{"driver": "nbd", "id": "disk",
                    "server": {{"type": "unix", "path": "{}"}}}}"#,
                daemon.path("nbd.sock").display()
            );
            let disk = support::open(&queue, &json, "disk");
            let slot = queue.attach(&disk);
            daemon.qmp(job);
            let moment = Duration::from_millis(random.below(LONGEST));
            model.write(&queue, slot, &mut random, Instant::now() + moment);
            // One more is under way when the daemon goes.
            let block = support::usize(random.below(model.blocks.len() as u64));
            let buf = IoBuf::copy_of(&vec![0xee; support::usize(BLOCK)]);
            queue.submit(slot, Request::write(block as u64 * BLOCK, buf), 0);
            queue.kick();
            model.unsure = Some((block, 0xee));
            daemon.kill();
        }
        verify(&daemon, &model);
    }
}

/// Opens what is left, as the images name one another.
fn verify(daemon: &Daemon, model: &Model) {
    let layer = support::layer();
    let queue = layer.new_queue(engine(Ring::Auto)).start();
    let top = daemon.path("top.qcow2").display().to_string();
    let json = format!(
        r#"{{"driver": "qcow2", "id": "disk",
            "file": {{"driver": "file", "filename": "{top}"}}}}"#
    );
    let disk = support::open(&queue, &json, "disk");
    let slot = queue.attach(&disk);
    for (block, &byte) in model.blocks.iter().enumerate() {
        let buf = IoBuf::zeroed(support::usize(BLOCK));
        let read = queue.request(slot, Request::read(block as u64 * BLOCK, buf));
        let found = queue.block_on(read).expect("a read").to_vec();
        let may_be = model.unsure.filter(|&(unsure, _)| unsure == block);
        let fits = |byte: u8| found.iter().all(|&b| b == byte);
        assert!(
            fits(byte) || may_be.is_some_and(|(_, byte)| fits(byte)),
            "block {block} reads {:02x?}…, not {byte:02x}",
            &found[..16]
        );
    }
    let closed = queue.block_on(layer.close_all(&queue));
    closed.expect("a clean close");
    drop((disk, queue, layer));
    if let Some(qemu) = support::qemu_img() {
        // Leaks are repaired; nothing else may be wrong.
        qemu.run(&["check", "-q", "-r", "leaks", &top]);
    }
}

#[test]
fn a_daemon_killed_while_it_streams_loses_nothing() {
    check(
        "killed-stream",
        &[
            "block-stream",
            "device=top",
            "job-id=job",
            "speed=100000000",
        ],
    );
}

#[test]
fn a_daemon_killed_while_it_commits_loses_nothing() {
    check(
        "killed-commit",
        &[
            "block-commit",
            "device=top",
            "job-id=job",
            "top=middle.qcow2",
            "speed=100000000",
        ],
    );
}

#[test]
fn a_daemon_killed_while_it_mirrors_leaves_the_source_as_it_was() {
    check(
        "killed-mirror",
        &[
            "drive-mirror",
            "device=top",
            "job-id=job",
            "target=copy.qcow2",
            "format=qcow2",
            "sync=full",
            "copy-mode=write-blocking",
        ],
    );
}

#[test]
fn a_daemon_killed_while_it_commits_the_active_image_loses_nothing() {
    check(
        "killed-active-commit",
        &[
            "block-commit",
            "device=top",
            "job-id=job",
            "top=top.qcow2",
            "speed=100000000",
        ],
    );
}

#[test]
fn a_daemon_killed_while_it_backs_up_leaves_the_source_as_it_was() {
    check(
        "killed-backup",
        &[
            "drive-backup",
            "device=top",
            "job-id=job",
            "target=copy.qcow2",
            "format=qcow2",
            "sync=full",
            "speed=100000000",
        ],
    );
}
