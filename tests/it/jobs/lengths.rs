//! Chains whose images have different lengths: an image reads as zeroes behind the end of the one
//! below, and goes on so when a job puts a longer one there.

use std::path::{Path, PathBuf};

use block_core::driver::ZeroFlags;
use block_core::engine::Ring;
use block_core::job::Ending;
use block_core::{BackendSlot, IoBuf, LocalQueue, Request};
use block_schema::commands::{BlockCommit, BlockStream, DriveMirror};
use block_schema::types::{MirrorSyncMode, NewImageMode};

use super::to_the_end;
use crate::support::load::engine;
use crate::support::{self, Scratch};

/// Half a cluster: images end within one, too.
const HALF: u64 = 32 << 10;

/// What a job does to the chain; numbers are images, 0 the lowest.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Stream { base: Option<usize> },
    Commit { top: usize, base: usize },
    Mirror(MirrorSyncMode),
}

const VERBS: [Verb; 11] = [
    Verb::Stream { base: None },
    Verb::Stream { base: Some(0) },
    Verb::Stream { base: Some(1) },
    Verb::Commit { top: 1, base: 0 },
    Verb::Commit { top: 2, base: 0 },
    Verb::Commit { top: 2, base: 1 },
    Verb::Commit { top: 3, base: 0 },
    Verb::Commit { top: 3, base: 1 },
    Verb::Commit { top: 3, base: 2 },
    Verb::Mirror(MirrorSyncMode::Full),
    Verb::Mirror(MirrorSyncMode::Top),
];

/// Runs `verb` on images of `lens` half clusters, and compares what the disk is before and after.
fn check(lens: [u64; 4], verb: Verb) {
    let dir = Scratch::new("lengths");
    let layer = support::layer();
    let queue = layer.new_queue(engine(Ring::Off)).start();
    let paths: Vec<PathBuf> = (0..4).map(|n| dir.path(&format!("{n}.qcow2"))).collect();
    for (n, (path, len)) in paths.iter().zip(lens).enumerate() {
        let below = n.checked_sub(1).map(|n| (paths[n].as_path(), "qcow2"));
        support::create_qcow2(&queue, path, len * HALF, below);
        fill(&queue, n, path, len);
    }
    let disk = support::open(&queue, &over(&paths[3], "disk"), "disk");
    let slot = queue.attach(&disk);
    let name = |n: usize| Some(paths[n].display().to_string());
    let want = read(&queue, slot, lens[3]);
    let starting = async {
        match verb {
            Verb::Stream { base } => {
                let mut stream = BlockStream::new("disk");
                stream.base = base.and_then(name);
                layer.block_stream(&queue, stream).await
            }
            Verb::Commit { top, base } => {
                let mut commit = BlockCommit::new("disk");
                (commit.top, commit.base) = (name(top), name(base));
                layer.block_commit(&queue, commit).await
            }
            Verb::Mirror(sync) => {
                let target = dir.path("copy.qcow2").display().to_string();
                let mut mirror = DriveMirror::new("disk", target, sync);
                mirror.format = Some("qcow2".to_owned());
                mirror.mode = Some(NewImageMode::AbsolutePaths);
                layer.drive_mirror(&queue, mirror).await
            }
        }
    };
    let context = format!("{lens:?} {verb:?}");
    let job = queue.block_on(starting);
    let job = job.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
    assert_eq!(queue.block_on(to_the_end(&job)), Ending::Completed);
    let have = read(&queue, slot, lens[3]);
    let other = have.iter().zip(&want).position(|(have, want)| have != want);
    assert_eq!(other, None, "{context}: the first byte that changed");
    assert!(have.len() == want.len(), "{context}");
    let closed = queue.block_on(layer.close_all(&queue));
    closed.expect("a clean close");
}

fn over(path: &Path, id: &str) -> String {
    format!(
        r#"{{"driver": "qcow2", "id": "{id}", "discard": "unmap",
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        path.display()
    )
}

/// Gives the lowest image bytes everywhere, and each other one bytes and zeroes in its first cluster.
fn fill(queue: &LocalQueue, n: usize, path: &Path, len: u64) {
    let backend = support::open(queue, &over(path, "filling"), "filling");
    let slot = queue.attach(&backend);
    let bytes = |len: u64, n: usize| {
        let byte = u8::try_from(n + 1).expect("few images");
        IoBuf::copy_of(&vec![byte; support::usize(len)])
    };
    let work = async {
        match n {
            0 => {
                let all = Request::write(0, bytes(len * HALF, n));
                queue.request(slot, all).await?;
            }
            _ => {
                let first = Request::write(0, bytes(HALF, n));
                queue.request(slot, first).await?;
                let zeroes = Request::write_zeroes(HALF, HALF, ZeroFlags::default());
                queue.request(slot, zeroes).await?;
            }
        }
        let root = backend.root();
        queue.layer().remove_backend(&backend).await;
        queue.layer().remove_node(queue, root).await
    };
    queue.block_on(work).expect("a filled image");
}

fn read(queue: &LocalQueue, disk: BackendSlot, len: u64) -> Vec<u8> {
    let buf = IoBuf::zeroed(support::usize(len * HALF));
    let reading = queue.request(disk, Request::read(0, buf.clone()));
    queue.block_on(reading).expect("readable");
    buf.to_vec()
}

#[test]
fn zeroes_behind_the_end_of_an_image_stay_zeroes() {
    // Lengths whose order differs at each place; the random chains have all others.
    for lens in [[9, 3, 9, 9], [9, 8, 3, 9], [3, 9, 5, 8], [9, 4, 9, 5]] {
        for verb in VERBS {
            check(lens, verb);
        }
    }
}
