//! What a hypervisor does to a disk while its guest writes: takes a snapshot, streams the chain
//! into one image, and moves it to another file. No QMP, no async runtime.
//!
//! `cargo run --release --example live_jobs`. Four threads are the guest's queues: each writes
//! numbers to blocks of its own and verifies them at the end. Everything is in a temporary folder.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::events::Listener;
use block_core::graph::policy::LocalFiles;
use block_core::job::{Ending, Job};
use block_core::{Backend, IoBuf, Layer, Queue, Request};
use block_drivers::Drivers;
use block_schema::commands::{BlockStream, BlockdevSnapshotSync, DriveMirror};
use block_schema::types::{self, BlockdevOptions, MirrorSyncMode};
use block_schema::{Event, Timestamp, Unknown, Value, Wire};

const QUEUES: u64 = 4;
const DISK: u64 = 64 << 20;
const BLOCK: u64 = 4096;

type Anything = Box<dyn Error + Send + Sync>;

/// Prints what happens by itself.
struct Printer;

impl Listener for Printer {
    fn heard(&self, at: Timestamp, event: &Event) {
        println!("  {}", event.to_value(at).to_ascii_json());
    }
}

fn main() -> Result<(), Anything> {
    let folder = std::env::temp_dir().join(format!("live-jobs-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let result = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn run(folder: &Path) -> Result<(), Anything> {
    let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(LocalFiles));
    let printer = Arc::new(Printer);
    layer.events().subscribe(&printer);
    let control = new_queue(&layer)?;
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::File::create(path("disk.img"))?.set_len(DISK)?;
    let json = format!(
        r#"{{"driver": "raw", "id": "vda", "file": {{"driver": "file", "filename": "{}"}}}}"#,
        path("disk.img")
    );
    let options = BlockdevOptions::decode(Value::from_json(&json)?, Unknown::Refuse)?;
    control.block_on(layer.blockdev_add(&control, options))?;
    let disk = layer.backend("vda").ok_or("no device")?;

    let stop = Arc::new(AtomicBool::new(false));
    let guests: Vec<_> = (0..QUEUES)
        .map(|number| {
            let (layer, disk, stop) = (layer.clone(), Arc::clone(&disk), Arc::clone(&stop));
            std::thread::spawn(move || guest(&layer, &disk, number, &stop))
        })
        .collect();

    // The file stays as it is now; what the guest writes from here on goes to the overlay.
    println!("snapshot");
    let snapshot = types::BlockdevSnapshot {
        device: Some("vda".to_owned()),
        ..types::BlockdevSnapshot::new(path("overlay.qcow2"))
    };
    let snapshot = BlockdevSnapshotSync(snapshot);
    control.block_on(layer.blockdev_snapshot_sync(&control, snapshot))?;

    // The overlay gets what shows through, and needs the file no longer.
    println!("stream");
    let job = control.block_on(layer.block_stream(&control, BlockStream::new("vda")))?;
    completed(&control, &job)?;
    std::fs::remove_file(path("disk.img"))?;

    // The disk moves to another file.
    println!("mirror");
    let mirror = DriveMirror {
        format: Some("qcow2".to_owned()),
        ..DriveMirror::new("vda", path("elsewhere.qcow2"), MirrorSyncMode::Full)
    };
    let job = control.block_on(layer.drive_mirror(&control, mirror))?;
    let mut seen = job.info();
    while seen.ready != Some(true) {
        control.block_on(job.changed_since(&seen));
        seen = job.info();
    }
    job.complete()?;
    completed(&control, &job)?;
    std::fs::remove_file(path("overlay.qcow2"))?;

    stop.store(true, Ordering::Relaxed);
    let mut writes = 0;
    for guest in guests {
        writes += guest.join().map_err(|_| "a guest's thread died")??;
    }
    control.block_on(layer.close_all(&control))?;
    println!("{writes} writes from {QUEUES} queues, all of them there");
    Ok(())
}

fn new_queue(layer: &Layer) -> Result<Queue, Anything> {
    let options = HostEngineOptions {
        ring_entries: 64,
        ring: Ring::Auto,
        pool: Pool::new(NonZeroUsize::MIN)?,
    };
    Ok(layer
        .new_queue(Box::new(HostEngine::new(&options)?))
        .start())
}

/// Waits for a job, showing how far it is.
fn completed(queue: &Queue, job: &Job) -> Result<(), Anything> {
    match queue.block_on(job.ended()) {
        Ending::Completed => Ok(()),
        other => Err(format!("{}: {other:?}", job.id()).into()),
    }
}

/// Writes numbers to the blocks of one queue until it is told to stop, and verifies them all; how
/// many it wrote.
fn guest(
    layer: &Layer,
    disk: &Arc<Backend>,
    number: u64,
    stop: &AtomicBool,
) -> Result<u64, Anything> {
    let queue = new_queue(layer)?;
    let slot = queue.attach(disk);
    let blocks = DISK / BLOCK / QUEUES;
    let content = |turn: u64| (turn << 8 | number).to_le_bytes().repeat(512);
    let offset = |turn: u64| (turn * 31 % blocks * QUEUES + number) * BLOCK;
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let write = Request::write(offset(turn), IoBuf::copy_of(&content(turn)));
        queue.block_on(queue.request(slot, write))?;
        turn += 1;
    }
    for last in turn.saturating_sub(blocks)..turn {
        let buf = IoBuf::zeroed(content(last).len());
        let read = queue.request(slot, Request::read(offset(last), buf));
        if queue.block_on(read)?.to_vec() != content(last) {
            return Err(format!("queue {number}: write {last} is lost").into());
        }
    }
    Ok(turn)
}
