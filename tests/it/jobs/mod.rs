//! Jobs on a chain of images while four queues write to it, every byte verified: to their end, with
//! pauses and changes of speed, and cancelled. The seed is printed.

mod backup;
mod backup_faults;
mod changes;
mod commit;
mod killed;
mod lengths;
mod mirror;
mod mirror_faults;
mod mirror_space;
mod stream;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block_core::engine::Ring;
use block_core::job::{Ending, Job};
use block_core::{Backend, Error, IoBuf, Layer, Queue, Request};
use block_schema::types::JobStatus;

use crate::support::load::{BACKING, DISK, Enough, Load, Worker, engine, verify};
use crate::support::{self, Random, Scratch};

/// What a user does to a job while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meddling {
    /// Waits for its end.
    None,
    /// Pauses it, lets it go on, and limits its speed, again and again.
    Verbs,
    /// Gives it up at some moment.
    Cancel,
}

/// A disk of a raw base, an image over it, and an active image on top, all by their files' names.
struct Chain {
    dir: Scratch,
    layer: Layer,
    queue: Queue,
    disk: Arc<Backend>,
    seed: u64,
    /// Whether the load discards, which reads as zeroes in the active image.
    discards: bool,
}

/// Bytes of the base that show, and that are hidden, by turns.
const STRETCH: usize = 192 << 10;

const RINGS: (Ring, &str) = (Ring::Auto, "io_uring");
const POOL: (Ring, &str) = (Ring::Off, "threads");

impl Chain {
    fn new(name: &str, engine: (Ring, &'static str)) -> Chain {
        Chain::over(name, engine, |_| String::new())
    }

    /// As [`new`](Chain::new), where every image of the chain passes discards on.
    fn that_discards(name: &str, engine: (Ring, &'static str)) -> Chain {
        Chain::over(name, engine, |dir| {
            let file = |name: &str| {
                let path = dir.path(name);
                format!(
                    r#""file": {{"driver": "file", "filename": "{}"}}"#,
                    path.display()
                )
            };
            format!(
                r#", "backing": {{"driver": "qcow2", "discard": "unmap", {}, "backing":
                    {{"driver": "raw", "discard": "unmap", {}}}}}"#,
                file("middle.qcow2"),
                file("base.img"),
            )
        })
    }

    /// A chain whose active image is opened with more options.
    fn over(
        name: &str,
        (ring, aio): (Ring, &'static str),
        more: impl FnOnce(&Scratch) -> String,
    ) -> Chain {
        let seed = support::seed(name);
        let dir = Scratch::new(name);
        let path = |file: &str| dir.path(file);
        std::fs::write(path("base.img"), base()).expect("a base");
        let layer = support::layer();
        let queue = layer.new_queue(engine(ring)).start();
        let (base, middle) = (path("base.img"), path("middle.qcow2"));
        support::create_qcow2(&queue, &middle, DISK, Some((&base, "raw")));
        fill(&queue, &middle);
        support::create_qcow2(&queue, &path("top.qcow2"), DISK, Some((&middle, "qcow2")));
        let json = format!(
            r#"{{"driver": "qcow2", "id": "disk", "node-name": "top", "discard": "unmap",
                "file": {{"driver": "file", "filename": "{}", "aio": "{aio}"}}{}}}"#,
            path("top.qcow2").display(),
            more(&dir),
        );
        let disk = support::open(&queue, &json, "disk");
        Chain {
            dir,
            layer,
            queue,
            disk,
            seed,
            discards: true,
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path(file)
    }

    /// Runs the load until the job has ended, and a little longer.
    fn load(&self, ring: Ring, job: Arc<Job>, meddling: Meddling) -> (Vec<Worker>, Ending) {
        self.go_on(ring, Vec::new(), job, meddling)
    }

    /// Starts a job, and runs the load until it has ended; says whether it has done its work, as all do
    /// but those that are given up.
    fn carry_out(
        &self,
        ring: Ring,
        starting: impl Future<Output = Result<Arc<Job>, Error>>,
        meddling: Meddling,
    ) -> (Vec<Worker>, bool) {
        let started = self.queue.block_on(starting);
        let job = started.unwrap_or_else(|error| panic!("{}", error.chain()));
        let (workers, ending) = self.load(ring, job, meddling);
        let whole = ending == Ending::Completed;
        assert!(
            whole || meddling == Meddling::Cancel && ending == Ending::Cancelled,
            "{ending:?}"
        );
        (workers, whole)
    }

    /// As [`load`](Chain::load), by workers that have written the disk before, if there are some.
    fn go_on(
        &self,
        ring: Ring,
        workers: Vec<Worker>,
        job: Arc<Job>,
        meddling: Meddling,
    ) -> (Vec<Worker>, Ending) {
        let mut random = Random::new(self.seed);
        let mut ending = None;
        let load = Load {
            ring,
            threads: 4,
            requests: 400_000,
            seed: self.seed,
            discards: self.discards,
        };
        let meanwhile = || {
            self.queue.wait(Some(Duration::from_millis(5)));
            ending = ending_of(&job);
            if ending.is_some() {
                return Enough::Yes;
            }
            meddle(&job, meddling, &mut random);
            Enough::No
        };
        let workers = match workers.is_empty() {
            true => load.run(&self.layer, &self.disk, meanwhile),
            false => load.go_on(&self.layer, &self.disk, workers, meanwhile),
        };
        job.resume().ok();
        job.set_speed(0).ok();
        let ending = ending.unwrap_or_else(|| self.queue.block_on(to_the_end(&job)));
        (workers, ending)
    }

    /// Compares the disk with the model; closes it, and lets QEMU look at the image.
    fn verify(self, workers: &[Worker]) -> Scratch {
        let Chain {
            dir,
            layer,
            queue,
            disk,
            ..
        } = self;
        verify(&queue, &disk, workers);
        assert!(layer.jobs().is_empty());
        let closed = queue.block_on(layer.close_all(&queue));
        closed.expect("a clean close");
        drop((disk, queue, layer));
        if let Some(qemu) = support::qemu_img() {
            let top = dir.path("top.qcow2");
            qemu.run(&["check", "-q", &top.display().to_string()]);
        }
        dir
    }
}

/// How a job has ended, if it has.
fn ending_of(job: &Job) -> Option<Ending> {
    let ended = pin!(job.ended());
    let mut context = Context::from_waker(Waker::noop());
    match ended.poll(&mut context) {
        Poll::Ready(ending) => Some(ending),
        Poll::Pending => None,
    }
}

/// Waits for the end of a job, which is completed when it is ready.
async fn to_the_end(job: &Job) -> Ending {
    loop {
        let seen = job.info();
        if let Some(ending) = ending_of(job) {
            return ending;
        }
        job.complete().ok();
        job.changed_since(&seen).await;
    }
}

/// What the base holds: every other stretch of it is hidden by the image in the middle.
fn base() -> Vec<u8> {
    let mut bytes = vec![BACKING; support::usize(DISK)];
    for stretch in bytes.chunks_mut(2 * STRETCH) {
        stretch[..STRETCH].fill(0x11);
    }
    bytes
}

/// Writes what hides the base's.
fn fill(queue: &Queue, middle: &Path) {
    let json = format!(
        r#"{{"driver": "qcow2", "id": "middle",
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        middle.display()
    );
    let backend = support::open(queue, &json, "middle");
    let slot = queue.attach(&backend);
    let work = async {
        for at in (0..DISK).step_by(2 * STRETCH) {
            let buf = IoBuf::copy_of(&[BACKING; STRETCH]);
            queue.request(slot, Request::write(at, buf)).await?;
        }
        let layer = queue.layer();
        let root = backend.root();
        layer.remove_backend(&backend).await;
        layer.remove_node(queue, root).await
    };
    queue.block_on(work).expect("a filled image");
}

/// Does something to a job now and then, and completes it when it is ready. A verb that comes too
/// late is refused.
fn meddle(job: &Job, meddling: Meddling, random: &mut Random) {
    if job.status() == JobStatus::Ready && random.below(4) == 0 {
        job.complete().ok();
    }
    let result: Result<(), Error> = match (meddling, random.below(12)) {
        (Meddling::None, _) => Ok(()),
        (Meddling::Verbs, 0) => job.pause(),
        (Meddling::Verbs, 1) => job.set_speed(64 << 20),
        (Meddling::Verbs, 2 | 3) => job.set_speed(0),
        (Meddling::Verbs, _) => job.resume(),
        (Meddling::Cancel, 0) => job.cancel(true),
        (Meddling::Cancel, _) => Ok(()),
    };
    if let Err(error) = result {
        println!("{}", error.chain());
    }
}
