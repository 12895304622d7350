//! The graph changes again and again while four queues write: overlays, streams, commits, mirrors
//! and lengths come at random, and no request is lost, nor any byte.

use block_core::driver::Preallocation;
use block_core::engine::Ring;
use block_core::job::{Ending, Job};
use block_core::{Error, Result};
use block_schema::commands::{BlockCommit, BlockStream, BlockdevSnapshotSync, DriveMirror};
use block_schema::types::{BlockdevSnapshot, JobStatus, MirrorSyncMode};

use super::{Chain, POOL, RINGS};
use crate::support::load::{DISK, Enough, Load, verify};
use crate::support::{self, Random};

/// Requests of one round, over all threads.
const REQUESTS: u64 = 60_000;

/// What happens to the graph.
struct Changes<'a> {
    chain: &'a Chain,
    random: Random,
    /// Files made so far.
    files: u32,
    /// What was done, for who looks at a failure.
    log: Vec<String>,
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
        let (layer, queue) = (&self.chain.layer, &self.chain.queue);
        let what = match (self.random.below(6), images.len()) {
            (0, _) | (_, 1) => "snapshot",
            (1, 3..) => "commit",
            (2, _) => "stream",
            (3, _) => "active commit",
            (4, _) => "mirror",
            _ => "resize",
        };
        self.log.push(format!("{what} of {} images", images.len()));
        let result: Result<()> = match what {
            "snapshot" => {
                let mut wanted = BlockdevSnapshot::new(self.new_file());
                wanted.device = Some("disk".to_owned());
                queue.block_on(layer.blockdev_snapshot_sync(queue, BlockdevSnapshotSync(wanted)))
            }
            "commit" => {
                let mut commit = BlockCommit::new("disk");
                commit.top = Some(images[1].clone());
                commit.base = Some(images[2].clone());
                queue
                    .block_on(layer.block_commit(queue, commit))
                    .map(|job| self.finish(&job))
            }
            "stream" => {
                let mut stream = BlockStream::new("disk");
                stream.base = images.get(2).cloned();
                queue
                    .block_on(layer.block_stream(queue, stream))
                    .map(|job| self.finish(&job))
            }
            "active commit" => {
                let mut commit = BlockCommit::new("disk");
                commit.top = Some(images[0].clone());
                commit.base = Some(images[1].clone());
                queue
                    .block_on(layer.block_commit(queue, commit))
                    .map(|job| self.finish(&job))
            }
            "mirror" => {
                let target = self.new_file();
                let mut mirror = DriveMirror::new("disk", target, MirrorSyncMode::Full);
                mirror.format = Some("qcow2".to_owned());
                queue
                    .block_on(layer.drive_mirror(queue, mirror))
                    .map(|job| self.finish(&job))
            }
            _ => [DISK + (1 << 20), DISK].into_iter().try_for_each(|len| {
                let root = self.chain.disk.root();
                queue.block_on(layer.resize(queue, root, len, Preallocation::Off))
            }),
        };
        result.unwrap_or_else(|error: Error| {
            panic!("{:?}: {}", self.log, error.chain());
        });
        let now = self.images();
        for gone in images.iter().filter(|image| !now.contains(image)) {
            std::fs::remove_file(gone).expect("it was there");
        }
    }

    /// Waits for a job; one that becomes ready is completed.
    fn finish(&self, job: &Job) {
        let queue = &self.chain.queue;
        loop {
            let seen = job.info();
            match job.status() {
                JobStatus::Ready => drop(job.complete()),
                JobStatus::Concluded | JobStatus::Null => break,
                _ => {}
            }
            queue.block_on(job.changed_since(&seen));
        }
        let ending = queue.block_on(job.ended());
        assert_eq!(ending, Ending::Completed, "{:?}", self.log);
    }
}

fn check(name: &str, engine: (Ring, &'static str)) {
    for _ in 0..support::rounds(1) {
        let chain = Chain::new(name, engine);
        let mut changes = Changes {
            chain: &chain,
            random: Random::new(chain.seed),
            files: 0,
            log: Vec::new(),
        };
        let load = Load {
            ring: engine.0,
            threads: 4,
            requests: REQUESTS,
            // Not every image of the chain passes them on.
            discards: false,
            seed: chain.seed,
        };
        let workers = load.run(&chain.layer, &chain.disk, || {
            changes.next();
            Enough::No
        });
        println!("{} changes: {:?}", changes.log.len(), changes.log);
        let images = changes.images();
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
    check("changes-rings", RINGS);
}

#[test]
fn a_graph_that_changes_all_the_time_loses_nothing_on_threads() {
    check("changes-threads", POOL);
}
