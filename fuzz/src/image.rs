//! Whole qcow2 images through the layer: opened, checked, mapped, read, and written.
//! Called by the targets, and by the differential test for what we make of an image. Runs on the
//! simulator, so one image is one history. Invariant: work is bounded by constants, not by what the
//! image says of itself.

use std::ops::Range;
use std::sync::Arc;

use block_core::driver::{CheckReport, Child, Repair, SnapshotChange, StatusKind, ZeroFlags};
use block_core::engine::SimFile;
use block_core::engine::sim::{Sim, SimEngine};
use block_core::graph::policy::DenyAll;
use block_core::graph::{Node, NodeFacts, NodeId};
use block_core::{IoBuf, Layer, Queue, Result};
use block_drivers::Drivers;
use block_drivers::format::qcow2::{self, CreateOptions, Version};
use block_drivers::protocol::file::FileDriver;
use block_schema::types::{BlockdevOptions, SnapshotInfo};
use block_schema::{Unknown, Value, Wire};

use crate::mutate::Random;

/// Bytes of a disk that are looked at.
pub const LOOKED_AT: u64 = 4 << 20;
/// Extents that are looked at.
const EXTENTS: usize = 4096;
/// Bytes read at once.
const PIECE: u64 = 64 << 10;
/// The image's file.
const FILE: SimFile = SimFile(0);
/// The one of its data, where that is beside it.
const DATA: SimFile = SimFile(1);
/// Bytes of that.
const DATA_LEN: usize = 64 << 10;

/// What an open image may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing changes.
    Read,
    /// Everything may.
    Write,
}

/// An open image.
pub struct Opened {
    sim: Sim,
    layer: Layer,
    queue: Queue,
    top: NodeId,
    /// The disk.
    disk: Child,
}

impl Opened {
    /// Opens an image without its backing file, and with some data file if it wants one.
    ///
    /// # Errors
    /// Why it is not opened.
    pub fn new(bytes: &[u8], access: Access) -> Result<Opened> {
        let sim = Sim::new(1);
        sim.create_file(bytes);
        sim.create_file(&[0xda; DATA_LEN]);
        Opened::on(sim, access)
    }

    fn on(sim: Sim, access: Access) -> Result<Opened> {
        let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(DenyAll));
        let queue = layer.new_queue(Box::new(SimEngine::new(&sim))).start();
        let node = |name: &str, file| {
            let facts = NodeFacts {
                name: name.to_owned(),
                discard_unmap: true,
                read_only: access == Access::Read,
                ..NodeFacts::default()
            };
            Node::new(facts, Box::new(FileDriver::from_leaf(sim.open(file))))
        };
        let data = has_data_file(&sim.contents(FILE)).then(|| node("data", DATA));
        let option = data.as_ref().map_or("", |_| r#""data-file": "data","#);
        let file = node("file", FILE);
        let json = format!(
            r#"{{"driver": "qcow2", "node-name": "top", "discard": "unmap", "read-only": {},
                 {option} "file": "file", "backing": null,
                 "l2-cache-size": 65536, "refcount-cache-size": 65536}}"#,
            access == Access::Read
        );
        let value = Value::from_json(&json).expect("written as JSON");
        let options = BlockdevOptions::decode(value, Unknown::Refuse).expect("right options");
        let opened = queue.block_on(async {
            layer.add_node(file, &[]).await?;
            if let Some(data) = data {
                layer.add_node(data, &[]).await?;
            }
            let top = layer.blockdev_add(&queue, options).await?;
            Ok((top, layer.node(&queue, top)?))
        });
        let (top, disk) = opened?;
        Ok(Opened {
            sim,
            layer,
            queue,
            top,
            disk,
        })
    }

    /// Bytes of the disk.
    pub fn len(&self) -> u64 {
        self.disk.len()
    }

    /// Whether the disk has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks the image.
    ///
    /// # Errors
    /// Why it cannot be checked.
    pub fn check(&self, repair: Repair) -> Result<CheckReport> {
        let work = self.layer.check(&self.queue, self.top, repair);
        self.queue.block_on(work)
    }

    /// Reads a range of the disk.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let len = usize::try_from(range.end - range.start).expect("ranges are small");
        let buf = IoBuf::zeroed(len);
        let read = self.disk.read(range.start, buf.clone());
        self.queue.block_on(read)?;
        Ok(buf.to_vec())
    }

    /// Maps the disk and reads what it holds, in parts that cannot be told from zeroes without that.
    fn look(&self) {
        let end = self.len().min(1 << 40);
        let (mut at, mut looked_at) = (0, 0);
        for _ in 0..EXTENTS {
            if at >= end || looked_at >= LOOKED_AT {
                return;
            }
            let Ok(status) = self.queue.block_on(self.disk.status(at..end)) else {
                // A table that cannot be read: behind it others may be.
                at = at.saturating_add(PIECE);
                continue;
            };
            assert!(status.len > 0, "an extent without a byte at {at:#x}");
            let read = status.len.min(PIECE).min(self.len() - at);
            if let Ok(bytes) = self.read(at..at + read) {
                let zero = bytes.iter().all(|byte| *byte == 0);
                assert!(
                    status.kind == StatusKind::Data || zero,
                    "{at:#x} is {:?}, and not zero",
                    status.kind
                );
            }
            looked_at += read;
            at = at.saturating_add(status.len);
        }
    }

    /// Closes it; what the file holds then.
    fn close(self) -> Sim {
        // Whether everything could be written is for the image to say; nothing hangs or panics.
        let _ = self.queue.block_on(self.layer.close_all(&self.queue));
        self.sim
    }
}

/// Whether a header says that guest data is in a file of its own.
fn has_data_file(bytes: &[u8]) -> bool {
    bytes.get(7) == Some(&3) && bytes.get(79).is_some_and(|bits| bits & 4 != 0)
}

/// Opens an image for reading, and looks at all of it; the file stays as it is.
///
/// # Panics
/// When something is wrong with us.
pub fn read_only(bytes: &[u8]) {
    let Ok(image) = Opened::new(bytes, Access::Read) else {
        return;
    };
    image.look();
    let first = image.check(Repair::None).ok();
    assert_eq!(first, image.check(Repair::None).ok(), "checked twice");
    let sim = image.close();
    assert!(sim.contents(FILE) == bytes, "a read-only image was written");
    assert!(
        sim.contents(DATA) == [0xda; DATA_LEN],
        "its data was written"
    );
}

/// As [`read_only`], and then as [`written`].
///
/// # Panics
/// When something is wrong with us.
pub fn both(bytes: &[u8]) {
    read_only(bytes);
    written(bytes);
}

/// Opens an image for writing, repairs it, and works on it. What a repair calls clean is clean, and
/// stays so.
///
/// # Panics
/// When it does not.
pub fn written(bytes: &[u8]) {
    let Ok(image) = Opened::new(bytes, Access::Write) else {
        return;
    };
    // On what is damaged first: the bytes decide how much.
    if bytes.len() % 2 == 1 {
        work(&image);
    }
    let repaired = image.check(Repair::All);
    let is_clean = |report: &CheckReport| report.corruptions == 0 && report.check_errors == 0;
    let clean = repaired.as_ref().is_ok_and(is_clean);
    if clean {
        let again = image.check(Repair::None).expect("it was just checked");
        assert!(is_clean(&again), "{repaired:?}, and then {again:?}");
        work(&image);
    }
    let sim = image.close();
    if !clean {
        return;
    }
    let image = Opened::on(sim, Access::Read).expect("a clean image opens again");
    let report = image.check(Repair::None).expect("a clean image is checked");
    let stays = is_clean(&report) || lacks_flags(&report);
    assert!(stays, "{:?}", report.messages);
    image.look();
    image.close();
}

/// Whether all that is wrong are missing flags: of what two entries shared, with counts that said so,
/// until one of them got a copy. Nobody knows the other by then, which gets a copy as well when it is
/// written; QEMU leaves the same.
fn lacks_flags(report: &CheckReport) -> bool {
    let wrong = report
        .messages
        .iter()
        .filter(|text| text.starts_with("ERROR"));
    let mut flags = wrong.map(|text| text.contains("OFLAG_COPIED") && text.ends_with("refcount=1"));
    report.check_errors == 0 && flags.all(|only| only)
}

/// Checks and repairs an image as the tool does: a repair that did anything is looked at again. What
/// it says, and the image that it leaves; `None` where it is not opened.
///
/// # Errors
/// Why it cannot be checked.
pub fn repaired(bytes: &[u8], repair: Repair) -> Option<Result<(CheckReport, Vec<u8>)>> {
    let access = match repair {
        Repair::None => Access::Read,
        Repair::Leaks | Repair::All => Access::Write,
    };
    let image = Opened::new(bytes, access).ok()?;
    let checked = image.check(repair).and_then(|first| {
        if first.corruptions_fixed + first.leaks_fixed == 0 {
            return Ok(first);
        }
        let mut again = image.check(Repair::None)?;
        again.corruptions_fixed = first.corruptions_fixed;
        again.leaks_fixed = first.leaks_fixed;
        Ok(again)
    });
    let sim = image.close();
    Some(checked.map(|report| (report, sim.contents(FILE))))
}

/// A bit of everything; errors are the image's.
fn work(image: &Opened) {
    let disk = &image.disk;
    let len = image.len().min(1 << 40);
    let zeroes = |may_unmap| ZeroFlags {
        may_unmap,
        no_fallback: false,
    };
    image.queue.block_on(async {
        for (number, at) in [0, len / 3, len / 2, len.saturating_sub(5000)]
            .into_iter()
            .enumerate()
        {
            let end = len.min(at + 4096);
            let bytes = usize::try_from(end - at).expect("a page");
            let _ = disk.write(at, IoBuf::copy_of(&vec![0xa5; bytes])).await;
            let end = len.min(at + 9000);
            let _ = disk
                .write_zeroes(at + (end - at) / 2..end, zeroes(number % 2 == 0))
                .await;
            let _ = disk.discard(at..len.min(at + 1024)).await;
            let _ = disk.flush().await;
        }
        let taken = SnapshotInfo::new(String::new(), "fuzz".to_owned(), 0, 0, 0, 0, 0);
        let change = SnapshotChange::Create(taken);
        let _ = image.layer.snapshot(&image.queue, image.top, change).await;
        let _ = disk.write(len / 2, IoBuf::copy_of(&[1; 10])).await;
    });
}

/// An image of ours with random content, for others to read.
///
/// # Panics
/// When it cannot be made.
pub fn made(random: &mut Random) -> Vec<u8> {
    let sim = Sim::new(1);
    sim.create_file(&[]);
    let cluster_size = *random.pick(&[512, 1024, 4096]);
    let version = *random.pick(&[Version::V2, Version::V3, Version::V3]);
    let options = CreateOptions {
        size: u64::from(random.number().to_le_bytes()[0] | 1) << 10,
        cluster_size,
        version,
        refcount_bits: match version {
            Version::V2 => 16,
            Version::V3 => *random.pick(&[1, 2, 4, 8, 16, 32, 64]),
        },
        ..CreateOptions::default()
    };
    create_on(&sim, &options);
    let image = Opened::on(sim, Access::Write).expect("a new image opens");
    image.queue.block_on(async {
        for _ in 0..random.below(12) {
            step(&image, random).await;
        }
    });
    image.close().contents(FILE)
}

fn create_on(sim: &Sim, options: &CreateOptions) {
    let layer = Layer::with_drivers(Arc::new(Drivers), Arc::new(DenyAll));
    let queue = layer.new_queue(Box::new(SimEngine::new(sim))).start();
    let facts = NodeFacts {
        name: "file".to_owned(),
        ..NodeFacts::default()
    };
    let file = FileDriver::from_leaf(sim.open(FILE));
    let created = queue.block_on(async {
        let node = layer
            .add_node(Node::new(facts, Box::new(file)), &[])
            .await?;
        qcow2::create(&queue, layer.node(&queue, node)?, options).await
    });
    created.expect("a new image");
}

async fn step(image: &Opened, random: &mut Random) {
    let len = usize::try_from(image.len()).expect("a small disk");
    let at = random.below(len);
    let count = (1 + random.below(9000)).min(len - at);
    let (from, to) = (at as u64, (at + count) as u64);
    let done = match random.below(8) {
        0 => {
            let flags = ZeroFlags {
                may_unmap: random.below(2) == 0,
                no_fallback: false,
            };
            image.disk.write_zeroes(from..to, flags).await
        }
        1 => image.disk.discard(from..to).await,
        2 => {
            let name = random.number().to_string();
            let taken = SnapshotInfo::new(String::new(), name, 0, 0, 0, 0, 0);
            let change = SnapshotChange::Create(taken);
            let snapshot = image.layer.snapshot(&image.queue, image.top, change);
            // With narrow counts a cluster cannot be shared.
            let _ = snapshot.await;
            Ok(())
        }
        _ => {
            let byte = random.number().to_le_bytes()[0];
            image
                .disk
                .write(from, IoBuf::copy_of(&vec![byte; count]))
                .await
        }
    };
    // Narrow counts again.
    let _ = done;
}
