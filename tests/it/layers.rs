//! Chains of random images, read through while their graph changes: what is known of images below
//! the active one must never outlive the change of one of them.
//!
//! Every image has a random length, and holds random clusters, parts of clusters and zeroes; a window
//! of a raw node stands in the middle and another one at the bottom. Readers on queues of their own
//! compare all they read with a model. Files that have left the chain are filled with other bytes: who
//! still read there would be found out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use block_core::driver::{Preallocation, SnapshotChange, SnapshotKey, ZeroFlags};
use block_core::engine::Ring;
use block_core::graph::NodeId;
use block_core::job::{Ending, Job};
use block_core::{Backend, IoBuf, Layer, LocalQueue, Request};
use block_schema::commands::{BlockCommit, BlockStream, BlockdevSnapshotSync};
use block_schema::types::{BlockdevSnapshot, SnapshotInfo};

use crate::support::{self, Random, Scratch, load};

const SECTOR: u64 = 512;
const CLUSTER: u64 = 65536;
/// Images over the raw file; the window is in the middle of them.
const IMAGES: u64 = 9;
const WINDOW_OVER: u64 = 4;
const CHANGES: u64 = 12;

/// What each sector reads as: a byte, and above it the one that is being written over it.
struct Model(Vec<AtomicU16>);

impl Model {
    fn new(sectors: &[u8]) -> Model {
        let sector = |&byte: &u8| AtomicU16::new(u16::from_le_bytes([byte, byte]));
        Model(sectors.iter().map(sector).collect())
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The bytes that a sector may have now.
    fn may_be(&self, sector: u64) -> [u8; 2] {
        self.0[support::usize(sector)]
            .load(Ordering::SeqCst)
            .to_le_bytes()
    }

    fn set(&self, sectors: std::ops::Range<u64>, byte: u8, write: impl FnOnce()) {
        let sectors = support::usize(sectors.start)..support::usize(sectors.end);
        for sector in &self.0[sectors.clone()] {
            let [old, _] = sector.load(Ordering::SeqCst).to_le_bytes();
            sector.store(u16::from_le_bytes([old, byte]), Ordering::SeqCst);
        }
        write();
        for sector in &self.0[sectors] {
            sector.store(u16::from_le_bytes([byte, byte]), Ordering::SeqCst);
        }
    }

    /// Reads a random range and compares.
    fn check_read(&self, queue: &LocalQueue, disk: &Arc<Backend>, random: &mut Random) {
        let start = random.below(self.len());
        let most = [1, 8, 160, 600][support::usize(random.below(4))];
        let count = (1 + random.below(most)).min(self.len() - start);
        let before: Vec<[u8; 2]> = (start..start + count).map(|s| self.may_be(s)).collect();
        let slot = queue.attach(disk);
        let buf = IoBuf::zeroed(support::usize(count * SECTOR));
        let read = queue.request(slot, Request::read(start * SECTOR, buf));
        let bytes = queue.block_on(read).expect("a read").to_vec();
        let sectors = bytes.chunks(support::usize(SECTOR));
        for ((sector, got), before) in (start..).zip(sectors).zip(before) {
            let after = self.may_be(sector);
            let byte = got[0];
            assert!(
                got.iter().all(|&other| other == byte),
                "sector {sector} is torn"
            );
            assert!(
                before.contains(&byte) || after.contains(&byte),
                "sector {sector} is {byte:#x}, not {before:x?} or {after:x?}"
            );
        }
    }
}

/// Images over one another, as options of the topmost and as what it reads as.
struct Chain {
    random: Random,
    dir: Scratch,
    options: String,
    sectors: Vec<u8>,
}

impl Chain {
    fn new(queue: &LocalQueue, seed: u64) -> Chain {
        let mut random = Random::new(seed);
        let dir = Scratch::new("layers");
        let path = dir.path("base.raw");
        let bytes: Vec<u8> = (0..20 * CLUSTER / SECTOR)
            .map(|_| byte(&mut random))
            .collect();
        let file = bytes.iter().flat_map(|&b| [b; 512]).collect::<Vec<u8>>();
        std::fs::write(&path, file).expect("a base");
        let mut chain = Chain {
            random,
            dir,
            options: file_options(&path),
            sectors: bytes,
        };
        chain.put_window("l0");
        for number in 1..=IMAGES {
            if number == WINDOW_OVER {
                chain.put_window("window");
            }
            chain.put_image(queue, number);
        }
        chain
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.path(&format!("l{number}.qcow2"))
    }

    /// A raw node that shows a part of what is there.
    fn put_window(&mut self, name: &str) {
        let offset = self.random.below(300);
        let size = self.sectors.len() as u64 - offset - self.random.below(300);
        self.options = format!(
            r#"{{"driver": "raw", "node-name": "{name}", "offset": {}, "size": {}, "file": {}}}"#,
            offset * SECTOR,
            size * SECTOR,
            self.options
        );
        self.sectors.drain(..support::usize(offset));
        self.sectors.truncate(support::usize(size));
    }

    /// An image with something in some of its clusters.
    fn put_image(&mut self, queue: &LocalQueue, number: u64) {
        let random = &mut self.random;
        let sectors = 2000 + random.below(500);
        let path = self.dir.path(&format!("l{number}.qcow2"));
        support::create_qcow2(queue, &path, sectors * SECTOR, None);
        self.options = format!(
            r#"{{"driver": "qcow2", "node-name": "l{number}", "file": {}, "backing": {}}}"#,
            file_options(&path),
            self.options
        );
        self.sectors.resize(support::usize(sectors), 0);
        let disk = support::open(queue, &with_id(&self.options), "disk");
        let slot = queue.attach(&disk);
        for cluster in 0..sectors * SECTOR / CLUSTER {
            let per_cluster = CLUSTER / SECTOR;
            let start = cluster * per_cluster + random.below(2) * random.below(per_cluster);
            let end = (cluster + 1) * per_cluster;
            let (offset, len) = (start * SECTOR, (end - start) * SECTOR);
            let (request, byte) = match random.below(8) {
                0 => {
                    let flags = ZeroFlags::default();
                    (Request::write_zeroes(offset, len, flags), 0)
                }
                1 => {
                    let byte = byte(random);
                    let buf = IoBuf::copy_of(&vec![byte; support::usize(len)]);
                    (Request::write(offset, buf), byte)
                }
                _ => continue,
            };
            queue
                .block_on(queue.request(slot, request))
                .expect("a write");
            self.sectors[support::usize(start)..support::usize(end)].fill(byte);
        }
        remove(queue, &disk);
    }
}

fn byte(random: &mut Random) -> u8 {
    u8::try_from(1 + random.below(250)).expect("it is small")
}

fn file_options(path: &Path) -> String {
    format!(r#"{{"driver": "file", "filename": "{}"}}"#, path.display())
}

fn with_id(options: &str) -> String {
    options.replacen('{', r#"{"id": "disk", "#, 1)
}

fn remove(queue: &LocalQueue, disk: &Arc<Backend>) {
    let (layer, root) = (queue.layer().clone(), disk.root());
    queue.block_on(async {
        layer.remove_backend(disk).await;
        let removed = layer.remove_node(queue, root).await;
        removed.expect("a clean close");
    });
}

/// Reads on a thread and a queue of its own until told to stop.
fn read_until(stop: &AtomicBool, layer: &Layer, model: &Model, seed: u64) {
    let queue = layer.new_queue(load::engine(Ring::Off)).start();
    let disk = layer.backend("disk").expect("the disk");
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        model.check_read(&queue, &disk, &mut random);
    }
}

/// The chain while its graph changes.
struct Changing<'a> {
    chain: &'a mut Chain,
    layer: Layer,
    queue: &'a LocalQueue,
    model: &'a Model,
    written: HashSet<u64>,
    /// The images above the window, the active one last, as they are named.
    images: Vec<PathBuf>,
}

impl Changing<'_> {
    fn below(&mut self, end: usize) -> usize {
        support::usize(self.chain.random.below(end as u64))
    }

    /// The node of an image, the lowest above the window being 0.
    fn node(&self, place: usize) -> NodeId {
        let graph = self.layer.graph();
        let top = self.layer.backend("disk").expect("the disk").root();
        let top = graph.index_of(top).expect("it is there");
        let mut chain = std::iter::successors(Some(top), |&index| graph.backing(index));
        let index = chain.nth(self.images.len() - 1 - place);
        graph.entry(index.expect("it is there")).node.id()
    }

    fn change(&mut self) {
        let below_active = self.images.len() - 1;
        match self.chain.random.below(5) {
            0 => self.write(),
            1 => self.snapshot(),
            2 if below_active > 0 => {
                let place = self.below(below_active);
                self.grow(place);
            }
            3 if below_active > 1 => self.commit(),
            4 if below_active > 0 => self.stream(),
            _ => self.write(),
        }
        for _ in 0..20 {
            let disk = self.layer.backend("disk").expect("the disk");
            self.model
                .check_read(self.queue, &disk, &mut self.chain.random);
        }
    }

    /// A guest's write, to sectors that had none.
    fn write(&mut self) {
        let start = self.chain.random.below(self.model.len());
        let end = self
            .model
            .len()
            .min(start + 1 + self.chain.random.below(100));
        let is_new = |sector: u64| !self.written.contains(&sector);
        let Some(end) = (start..=end)
            .take_while(|&s| s == start || is_new(s - 1))
            .last()
        else {
            return;
        };
        self.written.extend(start..end);
        let byte = byte(&mut self.chain.random);
        let buf = IoBuf::copy_of(&vec![byte; support::usize((end - start) * SECTOR)]);
        let disk = self.layer.backend("disk").expect("the disk");
        let slot = self.queue.attach(&disk);
        self.model.set(start..end, byte, || {
            let write = self
                .queue
                .request(slot, Request::write(start * SECTOR, buf));
            self.queue.block_on(write).expect("a write");
        });
    }

    fn snapshot(&mut self) {
        let path = self
            .chain
            .dir
            .path(&format!("s{}.qcow2", self.layer.graph().version()));
        let wanted = BlockdevSnapshot {
            device: Some("disk".to_owned()),
            ..BlockdevSnapshot::new(path.display().to_string())
        };
        let covered = self
            .layer
            .blockdev_snapshot_sync(self.queue, BlockdevSnapshotSync(wanted));
        self.queue.block_on(covered).expect("an overlay");
        self.images.push(path);
    }

    /// Makes an image below writable and longer, and read-only again.
    fn grow(&mut self, place: usize) {
        let id = self.node(place);
        let (layer, queue) = (&self.layer, self.queue);
        queue.block_on(async {
            layer
                .set_read_only(queue, id, false)
                .await
                .expect("writable");
            let node = layer.node(queue, id).expect("it is there");
            let longest = node.backing().map_or(0, |backing| backing.len());
            let len = node.len() + CLUSTER;
            drop(node);
            if longest <= len - CLUSTER {
                let grown = layer.resize(queue, id, len, Preallocation::Off).await;
                grown.expect("a longer image");
            }
            layer
                .set_read_only(queue, id, true)
                .await
                .expect("read-only");
        });
    }

    fn commit(&mut self) {
        let base = self.below(self.images.len() - 2);
        let top = base + 1 + self.below(self.images.len() - 2 - base);
        let mut arguments = BlockCommit::new("disk");
        arguments.top = Some(self.images[top].display().to_string());
        arguments.base = Some(self.images[base].display().to_string());
        let starting = self.layer.block_commit(self.queue, arguments);
        let job = self.queue.block_on(starting);
        self.finish(job);
        self.leave(base + 1..top + 1);
    }

    fn stream(&mut self) {
        let base = self.below(self.images.len() - 1);
        let mut arguments = BlockStream::new("disk");
        arguments.base = Some(self.images[base].display().to_string());
        let starting = self.layer.block_stream(self.queue, arguments);
        let job = self.queue.block_on(starting);
        self.finish(job);
        self.leave(base + 1..self.images.len() - 1);
    }

    fn finish(&self, job: block_core::Result<Arc<Job>>) {
        let job = job.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(self.queue.block_on(job.ended()), Ending::Completed);
    }

    /// Nobody needs these files any more.
    fn leave(&mut self, places: std::ops::Range<usize>) {
        for path in self.images.drain(places) {
            let len = std::fs::metadata(&path).expect("a file").len();
            std::fs::write(&path, vec![0xee; support::usize(len)]).expect("other bytes");
        }
    }
}

/// One chain, as it is and while it changes.
fn check(seed: u64) {
    println!("this chain: {seed}");
    let layer = support::layer();
    let queue = layer.new_queue(load::engine(Ring::Off)).start();
    let mut chain = Chain::new(&queue, seed);
    if let Some(qemu) = support::qemu_img() {
        let copy = chain.dir.path("copy.raw");
        let copy = copy.display().to_string();
        qemu.run(&[
            "convert",
            "-O",
            "raw",
            &format!("json:{}", chain.options),
            &copy,
        ]);
        let copied = std::fs::read(&copy).expect("a copy");
        let want = chain
            .sectors
            .iter()
            .flat_map(|&b| [b; 512])
            .collect::<Vec<u8>>();
        assert!(copied == want, "the model is not what QEMU reads");
    }
    let disk = support::open(&queue, &with_id(&chain.options), "disk");
    let model = Model::new(&chain.sectors);
    for _ in 0..200 {
        model.check_read(&queue, &disk, &mut chain.random);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (stop, layer, model) = (&stop, &layer, &model);
            scope.spawn(move || read_until(stop, layer, model, seed ^ number));
        }
        let stopping = StopAtEnd(&stop);
        let images = (WINDOW_OVER..=IMAGES).map(|n| chain.path(n)).collect();
        let mut changing = Changing {
            chain: &mut chain,
            layer: layer.clone(),
            queue: &queue,
            model: &model,
            written: HashSet::new(),
            images,
        };
        for _ in 0..CHANGES {
            changing.change();
        }
        drop(stopping);
    });
    queue
        .block_on(layer.close_all(&queue))
        .expect("a clean close");
}

/// Lets the readers end, also when a change panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_known_of_a_chain_ends_with_each_change_of_it() {
    let seed = support::seed("layers");
    for round in 0..support::rounds(3) {
        check(seed.wrapping_add(round));
    }
}

/// This one commits an image into a longer one, below another that is longer, too.
#[test]
fn what_an_image_is_too_short_for_is_zeroes_after_its_commit() {
    check(1_384_697_104);
}

#[test]
fn a_snapshot_that_a_lower_image_shows_is_read_through_at_once() {
    let layer = support::layer();
    let queue = layer.new_queue(load::engine(Ring::Off)).start();
    let dir = Scratch::new("shown");
    let mut options = "null".to_owned();
    for number in 0..5 {
        let path = dir.path(&format!("l{number}.qcow2"));
        support::create_qcow2(&queue, &path, CLUSTER, None);
        options = format!(
            r#"{{"driver": "qcow2", "node-name": "l{number}", "file": {}, "backing": {options}}}"#,
            file_options(&path)
        );
        if number == 1 {
            let disk = support::open(&queue, &with_id(&options), "disk");
            write(&queue, &disk, 1);
            let info = SnapshotInfo::new(String::new(), "then".to_owned(), 0, 0, 0, 0, 0);
            let taken = layer.snapshot(&queue, disk.root(), SnapshotChange::Create(info));
            queue.block_on(taken).expect("a snapshot");
            write(&queue, &disk, 2);
            remove(&queue, &disk);
        }
    }
    let disk = support::open(&queue, &with_id(&options), "disk");
    assert_eq!([read(&queue, &disk), read(&queue, &disk)], [2, 2]);
    let graph = layer.graph();
    let image = graph.find("l1").expect("it is there");
    let key = SnapshotKey {
        name: Some("then".to_owned()),
        ..SnapshotKey::default()
    };
    let id = graph.entry(image).node.id();
    drop(graph);
    let shown = layer.snapshot(&queue, id, SnapshotChange::Show(key));
    queue.block_on(shown).expect("it is shown");
    assert_eq!([read(&queue, &disk), read(&queue, &disk)], [1, 1]);
}

fn write(queue: &LocalQueue, disk: &Arc<Backend>, byte: u8) {
    let slot = queue.attach(disk);
    let buf = IoBuf::copy_of(&vec![byte; support::usize(CLUSTER)]);
    let write = queue.request(slot, Request::write(0, buf));
    queue.block_on(write).expect("a write");
}

fn read(queue: &LocalQueue, disk: &Arc<Backend>) -> u8 {
    let slot = queue.attach(disk);
    let read = queue.request(slot, Request::read(4096, IoBuf::zeroed(512)));
    queue.block_on(read).expect("a read").to_vec()[0]
}
