//! Words of metadata replaced at random, wherever an image has metadata: header and extensions, tables
//! of all levels, counts, snapshots, bitmaps; with guest data inside and in a file of its own. Whatever
//! the image says then, nothing panics or hangs, and what is opened read-only stays as it was.

use std::ops::Range;
use std::sync::Arc;

use block_core::bitmap::{DirtyBitmap, State};
use block_core::driver::{SnapshotChange, SnapshotKey};
use block_schema::types::SnapshotInfo;

use super::*;

/// Bytes of the disk.
const SIZE: u64 = 256 << 10;
/// Tables of a kind that are damaged.
const TABLES: usize = 8;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Words at which bounds and flags change their mind.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    511,
    512,
    513,
    1 << 20,
    1 << 31,
    1 << 32,
    0xffff_ffff,
    (1 << 56) - 512,
    1 << 56,
    1 << 62,
    1 << 63,
    u64::MAX,
    u64::MAX - 511,
    COPIED | 512,
    COPIED | 1024,
    COPIED | 4096,
    COMPRESSED | 1000,
    COMPRESSED | (1 << 61) | 2000,
    1024,
    2048,
    4096,
];

/// An image, and where its metadata is.
struct Whole {
    file: Vec<u8>,
    data: Option<Vec<u8>>,
    places: Vec<Range<usize>>,
}

impl Whole {
    /// An image after a script and what else is done to it.
    fn new(options: &CreateOptions, then: impl Fn(&mut Disk)) -> Whole {
        let mut disk = Disk::create(options, None);
        disk.run("write 0+50k aa; zero 10k+5k; write 100k+3k bb; unmap 30k+2k; flush");
        then(&mut disk);
        disk.reopen();
        Whole {
            file: disk.bench.file.bytes(),
            data: disk.bench.data.as_ref().map(MemoryFile::bytes),
            places: places(&disk.image),
        }
    }

    /// Some of its metadata changed.
    fn damaged(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.file.clone();
        let pick =
            |random: &mut Random, len: usize| usize::try_from(random.below(len as u64)).unwrap();
        for _ in 0..=random.below(4) {
            let place = &self.places[pick(random, self.places.len())];
            let at = place.start + pick(random, place.len().div_ceil(4)) * 4;
            let word = match random.below(4) {
                // Where something else is.
                0 => {
                    let other = &self.places[pick(random, self.places.len())];
                    let flags = [0, COPIED, COMPRESSED, 1][pick(random, 4)];
                    (other.start as u64 & !511) | flags
                }
                1 => random.0,
                _ => EDGES[pick(random, EDGES.len())],
            };
            let word = word.to_be_bytes();
            let part = match random.below(3) {
                0 => &word[..],
                1 => &word[4..],
                _ => &word[7..],
            };
            let at = at.min(bytes.len() - part.len());
            bytes[at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    fn bench(&self, bytes: Vec<u8>) -> Bench {
        Bench {
            data: self.data.clone().map(MemoryFile::new),
            ..bench(bytes, None)
        }
    }
}

/// Where metadata is: a range each, so that small structures are damaged as often as large ones.
fn places(image: &Image) -> Vec<Range<usize>> {
    let range = |at: u64, len: u64| {
        let place = |at| usize::try_from(at).unwrap();
        place(at)..place(at + len)
    };
    let cluster = image.geometry.cluster_size();
    let header = image.header.lock().clone();
    let mut places = vec![
        range(0, 112),
        // Extensions, in clusters that have room for them.
        range(104, cluster.min(256) - 104),
        range(header.l1_table.0, header.l1_bytes()),
        range(header.refcount_table.0, 64),
    ];
    let tables = image
        .active_l1()
        .into_iter()
        .filter_map(|entry| entry.table());
    places.extend(tables.take(TABLES).map(|at| range(at.0, cluster)));
    let blocks = image.refcount_table().into_iter().filter(|&at| at != 0);
    places.extend(blocks.take(TABLES).map(|at| range(at, cluster)));
    let snapshots = image.snapshots.lock();
    if !snapshots.entries.is_empty() {
        places.push(range(header.snapshots.0, snapshots.table_len));
        let l1 = snapshots
            .entries
            .iter()
            .map(|s| (s.l1_table.0, s.l1_bytes()));
        places.extend(l1.map(|(at, len)| range(at, len)));
    }
    if let Some((place, entries)) = image.directory.lock().parts() {
        places.push(range(place.offset.0, place.len));
        let tables = entries.iter().map(|s| (s.table.0, s.table_bytes()));
        places.extend(tables.map(|(at, len)| range(at, len)));
    }
    places
}

fn named(name: &str) -> SnapshotKey {
    SnapshotKey {
        id: None,
        name: Some(name.to_owned()),
    }
}

fn taken(name: &str) -> SnapshotChange {
    SnapshotChange::Create(SnapshotInfo::new(
        String::new(),
        name.to_owned(),
        0,
        0,
        0,
        0,
        0,
    ))
}

fn with_snapshots(disk: &mut Disk) {
    for name in ["one", "two"] {
        block_on(disk.image.snapshot(&disk.bench, taken(name))).unwrap();
        disk.run("write 5k+20k cc; write 150k+1k dd; flush");
    }
}

fn with_bitmaps(disk: &mut Disk) {
    let state = State {
        enabled: true,
        persistent: true,
        ..State::default()
    };
    // Bits, ones alone, and nothing.
    for (name, granularity, set) in [
        ("some", 512, 0..100_000),
        ("all", 512, 0..SIZE),
        ("none", 4096, 0..0),
    ] {
        let bitmap = DirtyBitmap::new(name, granularity, SIZE, state).unwrap();
        bitmap.set(&set);
        disk.image.bitmaps.add(Arc::new(bitmap));
    }
    block_on(disk.image.store_bitmaps(&disk.bench)).unwrap();
}

/// Damages an image again and again, and does everything to what is left; how often it still opened.
fn check_random(whole: &Whole, seed: u64, tries: u64) {
    let mut random = Random(seed);
    let long = std::env::var("QBLK_ROUNDS").ok();
    let rounds: u64 = long.and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut opened = 0;
    for round in 0..rounds.saturating_mul(tries) {
        let bytes = whole.damaged(&mut random);
        let bench = whole.bench(bytes.clone());
        let read_only = OpenOptions {
            writable: false,
            ..small_cache()
        };
        if let Ok(image) = block_on(Image::open(&bench, "test", read_only)) {
            look(&image, &bench);
            let _ = block_on(image.snapshot(&bench, SnapshotChange::Show(named("one"))));
            look(&image, &bench);
            assert!(bench.file.bytes() == bytes, "round {round}: it was written");
            assert!(bench.data.as_ref().map(MemoryFile::bytes) == whole.data);
        }
        let bench = whole.bench(bytes);
        let Ok(image) = block_on(Image::open(&bench, "test", small_cache())) else {
            continue;
        };
        opened += 1;
        // On what is damaged, or on what a repair made of it.
        if round % 2 == 0 {
            let _ = block_on(image.check(&bench, Repair::All));
        }
        work(&image, &bench);
        let _ = block_on(image.check(&bench, Repair::All));
        let _ = block_on(image.resize(&bench, 2 * SIZE, Preallocation::Off));
        let _ = block_on(image.store_bitmaps(&bench));
        let _ = block_on(image.close(&bench));
    }
    assert!(opened > tries / 10, "{opened} images opened");
}

fn look(image: &Image, bench: &Bench) {
    let buf = IoBuf::zeroed(2048);
    for at in (0..SIZE).step_by(2048) {
        let _ = block_on(image.read(bench, at, buf.clone()));
    }
    let _ = block_on(image.check(bench, Repair::None));
    let _ = (image.bitmap_infos(), image.snapshot_infos());
}

fn work(image: &Image, bench: &Bench) {
    let flags = ZeroFlags {
        may_unmap: true,
        no_fallback: false,
    };
    for at in [0, 10 << 10, 60 << 10, 200 << 10] {
        let _ = block_on(image.write(bench, at + 7, IoBuf::zeroed(3000)));
        let _ = block_on(image.write_zeroes(bench, at..at + 4096, flags));
        let _ = block_on(image.discard(bench, at..at + 8192));
        let _ = block_on(image.flush(bench));
    }
    let _ = block_on(image.snapshot(bench, SnapshotChange::Apply(named("one"))));
    let _ = block_on(image.snapshot(bench, taken("three")));
    let _ = block_on(image.write(bench, 5 << 10, IoBuf::zeroed(3000)));
    let _ = block_on(image.snapshot(bench, SnapshotChange::Delete(named("two"))));
    let _ = block_on(image.remove_bitmap(bench, "all"));
    for bitmap in image.bitmaps.all().iter() {
        bitmap.set(&(0..1));
    }
    let _ = block_on(image.store_bitmaps(bench));
    let _ = block_on(image.write(bench, 9 << 10, IoBuf::zeroed(3000)));
    let _ = block_on(image.flush_guest(bench));
}

fn small() -> CreateOptions {
    CreateOptions {
        cluster_size: 512,
        refcount_bits: 8,
        ..sized(SIZE)
    }
}

#[test]
fn tables_and_counts() {
    check_random(&Whole::new(&small(), |_| {}), 2026, 300);
}

#[test]
fn snapshot_tables() {
    check_random(&Whole::new(&small(), with_snapshots), 2027, 200);
}

#[test]
fn bitmap_directories_and_tables() {
    check_random(&Whole::new(&small(), with_bitmaps), 2028, 200);
    let both = |disk: &mut Disk| {
        with_snapshots(disk);
        with_bitmaps(disk);
    };
    check_random(&Whole::new(&small(), both), 2029, 150);
}

#[test]
fn images_whose_data_lies_beside_them() {
    let beside = CreateOptions {
        data_file: Some("data".to_owned()),
        ..small()
    };
    check_random(&Whole::new(&beside, with_bitmaps), 2030, 200);
    let raw = CreateOptions {
        data_file_raw: true,
        ..beside
    };
    check_random(&Whole::new(&raw, |_| {}), 2031, 200);
}

#[test]
fn subclusters_and_late_counts() {
    let extended = CreateOptions {
        cluster_size: 16384,
        extended_l2: true,
        lazy_refcounts: true,
        ..sized(SIZE)
    };
    check_random(&Whole::new(&extended, with_snapshots), 2032, 30);
}
