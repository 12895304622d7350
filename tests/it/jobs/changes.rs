//! The graph changes again and again while four queues read, write, discard and flush: overlays, streams,
//! commits, mirrors, backups, modes, lengths, bitmaps and limits come and go at random, also while
//! jobs run, and no request is lost, nor any byte. The long form makes a million requests.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::driver::Preallocation;
use block_core::engine::Ring;
use block_core::job::{Ending, Job};
use block_core::{Error, Layer, Result};
use block_schema::commands::{
    BlockCommit, BlockSetIoThrottle, BlockStream, BlockdevBackup, BlockdevReopen,
    BlockdevSnapshotSync, DriveMirror,
};
use block_schema::types::{self, BlockdevSnapshot, JobStatus, MirrorSyncMode};
use block_schema::{Unknown, Value, Wire};

use super::{Chain, POOL, RINGS};
use crate::support::load::{DISK, Enough, Load, verify};
use crate::support::{self, Random};

/// Requests of one round, over all threads; of the long form.
const REQUESTS: u64 = 40_000;
const MANY: u64 = 1_000_000;
/// How long one change may take before somebody waits for ever.
const PATIENCE: Duration = Duration::from_secs(180);

/// What happens to the graph.
struct Changes<'a> {
    chain: &'a Chain,
    random: Random,
    /// Files made so far.
    files: u32,
    /// What was done, for who looks at a failure.
    log: Vec<String>,
    /// What is done, if not anything.
    only: Option<&'static str>,
    /// Hears of each change that begins.
    watchdog: Sender<String>,
}

impl Changes<'_> {
    /// The files of the images, the active one first.
    fn images(&self) -> Vec<String> {
        let graph = self.chain.layer.graph();
        let top = graph.index_of(self.chain.disk.root());
        std::iter::successors(top, |&index| graph.backing(index))
            .map(|index| graph.entry(index).node.facts().filename.clone())
            .collect()
    }

    fn new_file(&mut self) -> String {
        self.files += 1;
        let name = format!("file-{}.qcow2", self.files);
        self.chain.path(&name).display().to_string()
    }

    /// Does one thing, and waits for its end.
    fn next(&mut self) {
        let images = self.images();
        let by_chance = match (self.random.below(12), images.len()) {
            (0 | 1, _) => "snapshot",
            (2, 3..) => "commit",
            (3 | 4, 2..) => "stream",
            (5, 2..) => "active commit",
            (6, 2..) => "modes",
            (7, _) => "mirror",
            (8, _) => "backup",
            (9, _) => "options",
            (10, _) => "aside",
            _ => "resize",
        };
        let what = self.only.unwrap_or(by_chance);
        let said = format!("{what} of {} images", images.len());
        println!("{said}");
        // Nobody listens any more once the load has ended.
        self.watchdog.send(said.clone()).ok();
        self.log.push(said);
        let result = match what {
            "snapshot" => self.snapshot(),
            "commit" => self.commit(&images[1], &images[2]),
            "active commit" => self.commit(&images[0], &images[1]),
            "stream" => self.stream(images.get(2)),
            "modes" => self.modes(),
            "mirror" => self.mirror(),
            "backup" => self.backup(),
            "options" => self.options(),
            "aside" => self.aside(),
            _ => self.resize(),
        };
        result.unwrap_or_else(|error: Error| {
            panic!("{:?}: {}", self.log, error.chain());
        });
        let now = self.images();
        for gone in images.iter().filter(|image| !now.contains(image)) {
            std::fs::remove_file(gone).expect("it was there");
        }
    }

    fn snapshot(&mut self) -> Result<()> {
        let mut wanted = BlockdevSnapshot::new(self.new_file());
        wanted.device = Some("disk".to_owned());
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        queue.block_on(layer.blockdev_snapshot_sync(queue, BlockdevSnapshotSync(wanted)))
    }

    fn commit(&mut self, top: &str, base: &str) -> Result<()> {
        let mut commit = BlockCommit::new("disk");
        commit.top = Some(top.to_owned());
        commit.base = Some(base.to_owned());
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let job = queue.block_on(layer.block_commit(queue, commit))?;
        self.finish(&job)
    }

    fn stream(&mut self, base: Option<&String>) -> Result<()> {
        let mut stream = BlockStream::new("disk");
        stream.base = base.cloned();
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let job = queue.block_on(layer.block_stream(queue, stream))?;
        self.finish(&job)
    }

    fn mirror(&mut self) -> Result<()> {
        let mut mirror = DriveMirror::new("disk", self.new_file(), MirrorSyncMode::Full);
        mirror.format = Some("qcow2".to_owned());
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let job = queue.block_on(layer.drive_mirror(queue, mirror))?;
        self.finish(&job)
    }

    fn backup(&mut self) -> Result<()> {
        let file = self.new_file();
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        support::create_qcow2(queue, file.as_ref(), DISK, None);
        let node = support::add_node(
            queue,
            &format!(
                r#"{{"driver": "qcow2", "node-name": "backup",
                    "file": {{"driver": "file", "filename": "{file}"}}}}"#
            ),
        )?;
        let backup = types::BlockdevBackup::new("disk", "backup", MirrorSyncMode::Full);
        let job = queue.block_on(layer.blockdev_backup(queue, BlockdevBackup(backup)))?;
        self.finish(&job)?;
        self.chain.queue.block_on(async {
            let (layer, queue) = (&self.chain.layer, &self.chain.queue);
            layer.remove_node(queue, node).await
        })?;
        if let Some(qemu) = support::qemu_img() {
            qemu.run(&["check", "-q", &file]);
        }
        std::fs::remove_file(file).expect("it was there");
        Ok(())
    }

    /// The image below becomes writable, and is not any more.
    fn modes(&mut self) -> Result<()> {
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let graph = layer.graph();
        let top = graph.index_of(self.chain.disk.root());
        let below = top.and_then(|top| graph.backing(top)).expect("a chain");
        let below = graph.entry(below).node.id();
        drop(graph);
        queue.block_on(layer.set_read_only(queue, below, false))?;
        queue.block_on(layer.set_read_only(queue, below, true))
    }

    /// The active image is opened again with another cache mode, and as before.
    fn options(&mut self) -> Result<()> {
        let no_flush = self.random.below(2) == 0;
        let modes = [(self.random.below(2) == 0, no_flush), (true, false)];
        for (writeback, no_flush) in modes {
            let (layer, queue) = (&self.chain.layer, &self.chain.queue);
            let graph = layer.graph();
            let index = graph.index_of(self.chain.disk.root()).expect("a root");
            let named = |index| graph.entry(index).node.name().to_owned();
            let format = graph.entry(index).node.driver().format_name();
            let file = graph.primary(index).map(named).expect("a file");
            let backing = match (format, graph.backing(index)) {
                ("qcow2", None) => r#""backing": null,"#.to_owned(),
                ("qcow2", Some(below)) => format!(r#""backing": "{}","#, named(below)),
                _ => String::new(),
            };
            let json = format!(
                r#"{{"driver": "{format}", "node-name": "{}", "read-only": false, "file": "{file}", {backing}
                    "discard": "unmap",
                    "cache": {{"writeback": {writeback}, "no-flush": {no_flush}}}}}"#,
                named(index)
            );
            drop(graph);
            let value = Value::from_json(&json).expect("valid JSON");
            let options = types::BlockdevOptions::decode(value, Unknown::Refuse);
            let options = vec![options.expect("valid options")];
            queue.block_on(layer.blockdev_reopen(queue, BlockdevReopen { options }))?;
        }
        Ok(())
    }

    fn resize(&mut self) -> Result<()> {
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let root = self.chain.disk.root();
        [DISK + (1 << 20), DISK]
            .into_iter()
            .try_for_each(|len| queue.block_on(layer.resize(queue, root, len, Preallocation::Off)))
    }

    /// What is in no job's way.
    fn aside(&mut self) -> Result<()> {
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        if self.random.below(2) == 0 {
            let mut limits = BlockSetIoThrottle::new("disk", 0, 0, 0, 0, 0, 0);
            limits.bps = 400 << 20;
            limits.iops_wr = 20_000;
            layer.block_set_io_throttle(&limits)?;
            let none = BlockSetIoThrottle::new("disk", 0, 0, 0, 0, 0, 0);
            return layer.block_set_io_throttle(&none);
        }
        let bitmap = BitmapName {
            node: "disk",
            name: "changes",
        };
        let new = NewBitmap::default();
        queue.block_on(async {
            layer.block_dirty_bitmap_add(bitmap, new).await?;
            layer.block_dirty_bitmap_disable(bitmap).await?;
            layer.block_dirty_bitmap_enable(bitmap).await?;
            layer.block_dirty_bitmap_clear(bitmap).await?;
            layer.block_dirty_bitmap_remove(queue, bitmap).await
        })
    }

    /// Waits for a job, which is held and let go meanwhile; one that becomes ready is completed.
    fn finish(&mut self, job: &Job) -> Result<()> {
        loop {
            let seen = job.info();
            match job.status() {
                JobStatus::Ready => drop(job.complete()),
                JobStatus::Concluded | JobStatus::Null => break,
                _ => match self.random.below(40) {
                    0 => self.aside()?,
                    1 => drop(job.pause()),
                    2 => drop(job.set_speed(256 << 20)),
                    3 => drop(job.set_speed(0)),
                    _ => {}
                },
            }
            if job.info().paused {
                job.resume().ok();
            }
            self.chain.queue.block_on(job.changed_since(&seen));
        }
        let ending = self.chain.queue.block_on(job.ended());
        assert_eq!(ending, Ending::Completed, "{:?}", self.log);
        Ok(())
    }
}

/// Ends the program when nothing was begun for long, and says who waits.
fn watch(changes: &Receiver<String>, layer: &Layer, seed: u64) {
    let mut last = String::new();
    loop {
        match changes.recv_timeout(PATIENCE) {
            Ok(change) => last = change,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("seed {seed}: '{last}' does not end");
                for job in layer.jobs() {
                    eprintln!("job {:?}: {:?}", job.id(), job.info());
                }
                for backend in layer.backends() {
                    let last = backend.last_access();
                    eprintln!("backend '{}' was used last {last:?} ago", backend.name());
                }
                std::process::exit(1);
            }
        }
    }
}

fn check(name: &str, engine: (Ring, &'static str), only: Option<&'static str>, few: u64) {
    let requests = match support::is_long_form() {
        true => MANY,
        false => few,
    };
    for _ in 0..support::rounds(1) {
        let chain = Chain::that_discards(name, engine);
        let (watchdog, begun) = channel();
        let (layer, seed) = (chain.layer.clone(), chain.seed);
        let watching = std::thread::spawn(move || watch(&begun, &layer, seed));
        let mut changes = Changes {
            chain: &chain,
            random: Random::new(chain.seed),
            files: 0,
            log: Vec::new(),
            only,
            watchdog,
        };
        let load = Load {
            ring: engine.0,
            threads: 4,
            requests,
            discards: true,
            seed: chain.seed,
        };
        let workers = load.run(&chain.layer, &chain.disk, || {
            changes.next();
            Enough::No
        });
        println!("{} changes", changes.log.len());
        let images = changes.images();
        drop(changes);
        watching.join().expect("a watchdog");
        verify(&chain.queue, &chain.disk, &workers);
        let closed = chain.queue.block_on(chain.layer.close_all(&chain.queue));
        closed.expect("a clean close");
        let Chain {
            dir,
            layer,
            queue,
            disk,
            ..
        } = chain;
        drop((disk, queue, layer));
        if let Some(qemu) = support::qemu_img() {
            for image in images.iter().filter(|image| image.ends_with(".qcow2")) {
                qemu.run(&["check", "-q", image]);
            }
        }
        drop(dir);
    }
}

#[test]
fn a_graph_that_changes_all_the_time_loses_nothing_on_rings() {
    check("changes-rings", RINGS, None, REQUESTS);
}

#[test]
fn a_graph_that_changes_all_the_time_loses_nothing_on_threads() {
    check("changes-threads", POOL, None, REQUESTS);
}

#[test]
fn an_image_that_is_opened_again_and_again_loses_nothing() {
    check("changes-options", RINGS, Some("options"), REQUESTS / 10);
}
