//! Damage beside `qemu-img check`: the same verdict before, after `-r leaks` and after `-r all`, and
//! what is left reads as it did. Damage that a rebuild meets at any power cut.

use super::*;
use block_core::driver::CheckReport;

/// Clusters of the image that is damaged.
const CLUSTER: usize = 4096;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(*bytes[at..].first_chunk().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn offset(entry: u64) -> usize {
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

/// Where things are in an image.
pub(super) struct Places {
    l1: usize,
    pub(super) l2: usize,
    pub(super) table: usize,
    block: usize,
    snapshots: usize,
}

impl Places {
    pub(super) fn of(bytes: &[u8]) -> Places {
        let at = |place: usize| usize::try_from(word(bytes, place)).unwrap();
        let (l1, table) = (at(40), at(48));
        Places {
            l1,
            l2: offset(word(bytes, l1)),
            table,
            block: offset(word(bytes, table)),
            snapshots: at(64),
        }
    }
}

/// An image with data, zeroes, kept and compressed clusters and a snapshot.
fn sound() -> Disk {
    let options = CreateOptions {
        cluster_size: CLUSTER as u64,
        ..sized(1 << 20)
    };
    let mut disk = check(&options, None, "write 0+300k aa; pack 400k+64k bb");
    let change = block_core::driver::SnapshotChange::Create(super::snapshots::info("one"));
    block_on(disk.image.snapshot(&disk.bench, change)).unwrap();
    disk.run("write 0+20k cc; write 600k+20k dd; zero 600k+4k; reopen");
    disk
}

fn for_check(writable: bool) -> OpenOptions {
    OpenOptions {
        writable,
        for_check: true,
        ..small_cache()
    }
}

/// What the tool ends with.
fn exit_code(report: &CheckReport) -> i32 {
    match () {
        () if report.check_errors > 0 => 1,
        () if report.corruptions > 0 => 2,
        () if report.leaks > 0 => 3,
        () => 0,
    }
}

/// Checks as the tool does: once more after anything was repaired.
pub(super) fn checked(bytes: Vec<u8>, repair: Repair) -> (i32, Vec<u8>, Vec<String>) {
    let bench = bench(bytes, None);
    let options = for_check(repair != Repair::None);
    let image = match block_on(Image::open(&bench, "test", options)) {
        Ok(image) => image,
        Err(error) => return (1, bench.file.bytes(), vec![error.chain()]),
    };
    let mut report = block_on(image.check(&bench, repair)).unwrap();
    let mut messages = std::mem::take(&mut report.messages);
    if report.corruptions_fixed + report.leaks_fixed > 0 {
        report = block_on(image.check(&bench, Repair::None)).unwrap();
        messages.append(&mut report.messages);
    }
    if repair != Repair::None {
        block_on(image.close(&bench)).unwrap();
    }
    (exit_code(&report), bench.file.bytes(), messages)
}

/// Whether the disk is to read as before, once all is repaired.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Same,
    Lost,
}

/// Damages the image, and compares what both programs make of it.
#[track_caller]
fn check_damage(name: &str, after: After, damage: impl Fn(&mut Vec<u8>, &Places)) {
    let disk = sound();
    let mut bytes = disk.bench.file.bytes();
    let places = Places::of(&bytes);
    damage(&mut bytes, &places);
    let Some(dir) = super::Scratch::with_qemu(&format!("damage-{name}")) else {
        return;
    };
    for (repair, words) in [
        (Repair::None, &["check"][..]),
        (Repair::Leaks, &["check", "-r", "leaks"]),
        (Repair::All, &["check", "-r", "all"]),
    ] {
        let path = dir.write("theirs", &bytes);
        let said = Command::new("qemu-img")
            .args(words)
            .args(["-f", "qcow2", &path])
            .output()
            .unwrap();
        let (code, repaired, messages) = checked(bytes.clone(), repair);
        let theirs = String::from_utf8_lossy(&said.stderr).into_owned();
        // What is repaired here and not there is looked at below.
        let better = repair == Repair::All && code == 0;
        assert!(
            better || Some(code) == said.status.code(),
            "{name} {repair:?}: {code} {messages:#?}\n{:?} {theirs}",
            said.status
        );
        if repair != Repair::All || code != 0 {
            continue;
        }
        dir.write("ours", &repaired);
        dir.qemu_img(&["check", "-q", "ours"]);
        if after == After::Same {
            let disk = Disk::open(repaired, None, disk.model.clone());
            disk.expect_model();
            dir.write("model", &disk.model);
            dir.qemu_img(&["compare", "-q", "-F", "raw", "-f", "qcow2", "ours", "model"]);
        }
    }
}

#[test]
fn damaged_refcount_structures_are_written_anew() {
    let same = |name, damage: fn(&mut Vec<u8>, &Places)| check_damage(name, After::Same, damage);
    same("table-reserved", |b, p| b[p.table + 7] |= 1);
    same("block-unaligned", |b, p| b[p.table + 6] |= 2);
    same("block-outside", |b, p| put(b, p.table, 1 << 40));
    same("block-gone", |b, p| put(b, p.table, 0));
    same("block-zeroed", |b, p| b[p.block..p.block + CLUSTER].fill(0));
    same("block-noise", |b, p| {
        b[p.block..p.block + CLUSTER].copy_from_slice(&noise(3, CLUSTER));
    });
    same("block-is-data", |b, p| {
        let data = word(b, p.l2 + 80);
        put(b, p.table, offset(data) as u64);
    });
    same("block-twice", |b, p| put(b, p.table + 8, p.block as u64));
    same("table-outside", |b, _| put(b, 48, 1 << 40));
    same("table-none", |b, _| b[56..60].fill(0));
    same("table-is-l1", |b, p| put(b, 48, p.l1 as u64));
    same("one-count-gone", |b, p| {
        b[p.block + 40..p.block + 42].fill(0);
    });
}

#[test]
fn counts_and_flags_are_made_right() {
    let same = |name, damage: fn(&mut Vec<u8>, &Places)| check_damage(name, After::Same, damage);
    same("sound", |_, _| {});
    same("leak", |b, p| {
        let cluster = b.len().div_ceil(CLUSTER);
        b.resize((cluster + 1) * CLUSTER, 0);
        b[p.block + 2 * cluster + 1] = 1;
    });
    same("leak-behind-the-end", |b, p| {
        let cluster = b.len().div_ceil(CLUSTER);
        b[p.block + 2 * cluster + 1] = 1;
    });
    same("too-high", |b, p| b[p.block + 2 * 9 + 1] += 3);
    same("flag", |b, p| b[p.l2 + 8] ^= 0x80);
    same("l1-flag", |b, p| b[p.l1] ^= 0x80);
    same("marked-corrupt", |b, _| b[79] |= 2);
    same("marked-dirty", |b, _| b[79] |= 1);
}

#[test]
fn what_cannot_be_repaired_is_told() {
    let lost = |name, damage: fn(&mut Vec<u8>, &Places)| check_damage(name, After::Lost, damage);
    lost("shared-data", |b, p| {
        let other = word(b, p.l2 + 8);
        put(b, p.l2, other);
    });
    lost("table-is-l1", |b, p| {
        let entry = 1 << 63 | p.l1 as u64;
        put(b, p.l1, entry);
    });
    lost("table-is-block", |b, p| {
        let entry = 1 << 63 | p.block as u64;
        put(b, p.l1, entry);
    });
    lost("data-outside", |b, p| put(b, p.l2, 1 << 40 | 1 << 63));
    lost("data-unaligned", |b, p| b[p.l2 + 6] |= 2);
    lost("data-is-header", |b, p| b[p.l2..p.l2 + 7].fill(0));
    lost("l2-reserved", |b, p| b[p.l2] |= 1);
    lost("l1-reserved", |b, p| b[p.l1] |= 1);
    lost("l2-outside", |b, p| put(b, p.l1, 1 << 40 | 1 << 63));
    lost("l2-unaligned", |b, p| b[p.l1 + 6] |= 2);
    lost("l1-outside", |b, _| put(b, 40, 1 << 40));
    lost("kept-unaligned", |b, p| {
        // The first cluster of 600k is zeroes with a cluster kept.
        let at = p.l2 + 8 * 150;
        assert_eq!(b[at + 7] & 1, 1);
        b[at + 6] |= 2;
    });
}

#[test]
fn snapshot_tables_are_cut_where_they_are_wrong() {
    let same = |name, damage: fn(&mut Vec<u8>, &Places)| check_damage(name, After::Same, damage);
    same("snapshot-l1-outside", |b, p| put(b, p.snapshots, 1 << 40));
    same("snapshot-l1-unaligned", |b, p| b[p.snapshots + 6] |= 2);
    same("snapshot-l1-long", |b, p| b[p.snapshots + 8] = 0x10);
    same("snapshots-many", |b, _| {
        b[60..64].copy_from_slice(&70_000_u32.to_be_bytes())
    });
    same("extra-short", |b, p| {
        let entry = b[p.snapshots..p.snapshots + CLUSTER].to_vec();
        b[p.snapshots + 36..p.snapshots + 40].fill(0);
        b[p.snapshots + 40..p.snapshots + 100].copy_from_slice(&entry[64..124]);
    });
    same("extra-long", |b, p| {
        let entry = b[p.snapshots..p.snapshots + 200].to_vec();
        b[p.snapshots + 36..p.snapshots + 40].copy_from_slice(&2000_u32.to_be_bytes());
        b[p.snapshots + 2040..p.snapshots + 2100].copy_from_slice(&entry[64..124]);
    });
}

/// What a repair says is left is what the next check finds, whatever else was repaired beside it.
#[test]
fn a_rebuild_and_completed_snapshots_leave_the_count_of_the_rest() {
    let disk = sound();
    let mut bytes = disk.bench.file.bytes();
    let p = Places::of(&bytes);
    let entry = bytes[p.snapshots..p.snapshots + CLUSTER].to_vec();
    bytes[p.snapshots + 36..p.snapshots + 40].fill(0);
    bytes[p.snapshots + 40..p.snapshots + 100].copy_from_slice(&entry[64..124]);
    bytes[p.block..p.block + CLUSTER].fill(0);
    put(&mut bytes, p.l2, 1 << 40 | 1 << 63);
    let bench = bench(bytes, None);
    let image = block_on(Image::open(&bench, "test", for_check(true))).unwrap();
    let repaired = block_on(image.check(&bench, Repair::All)).unwrap();
    let left = block_on(image.check(&bench, Repair::None)).unwrap();
    assert!(left.corruptions > 0, "{left:#?}");
    assert_eq!(repaired.corruptions, left.corruptions, "{repaired:#?}");
}

/// Cuts the power after every event of a rebuild: what is left is as damaged as before, or whole.
#[test]
fn a_power_cut_in_a_rebuild_leaves_what_can_be_rebuilt() {
    for bits in [1, 16, 64] {
        let options = CreateOptions {
            cluster_size: 512,
            refcount_bits: bits,
            ..sized(256 << 10)
        };
        let mut disk = check(&options, None, "write 0+200k aa; pack 200k+20k bb");
        disk.reopen();
        let mut start = disk.bench.file.bytes();
        let places = Places::of(&start);
        start[places.block..places.block + 512].fill(0);
        let bench = bench(start.clone(), None);
        bench.file.record();
        let image = block_on(Image::open(&bench, "test", for_check(true))).unwrap();
        let report = block_on(image.check(&bench, Repair::All)).unwrap();
        assert_eq!(exit_code(&report), 0, "{:#?}", report.messages);
        assert!(report.corruptions_fixed > 0);
        let events = bench.file.events();
        let mut random = Random(bits);
        for cut in 0..=events.len() {
            let barrier = events[..cut]
                .iter()
                .rposition(|e| matches!(e, Event::Flush));
            let mut bytes = start.clone();
            for (index, event) in events[..cut].iter().enumerate() {
                if index < barrier.unwrap_or(0) || random.below(2) == 0 {
                    apply(&mut bytes, event);
                }
            }
            let (code, bytes, messages) = checked(bytes, Repair::All);
            assert_eq!(code, 0, "{bits} {cut}: {messages:#?}");
            let left = Disk::open(bytes, None, disk.model.clone());
            left.expect_model();
            left.expect_clean();
        }
    }
}

/// Two L1 entries with one L2 table: flags are made right once, and the counts say that it is shared.
#[test]
fn a_table_of_two_entries_is_repaired_once() {
    let options = CreateOptions {
        cluster_size: 512,
        ..sized(128 << 10)
    };
    let disk = check(&options, None, "write 0+32k aa; write 32k+32k bb; reopen");
    let mut bytes = disk.bench.file.bytes();
    let p = Places::of(&bytes);
    let first = word(&bytes, p.l1);
    put(&mut bytes, p.l1 + 8, first);
    let bench = bench(bytes, None);
    let image = block_on(Image::open(&bench, "test", for_check(true))).unwrap();
    let found = block_on(image.check(&bench, Repair::All)).unwrap();
    // A count and a flag of the table, and of each of its 64 clusters; the L1 flag is in two entries.
    assert_eq!(found.corruptions_fixed, 2 * 65 + 1, "{:#?}", found.messages);
    let found = block_on(image.check(&bench, Repair::None)).unwrap();
    assert!(found.is_clean(), "{:#?}", found.messages);
}
