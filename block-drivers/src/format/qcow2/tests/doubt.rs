//! Writes and flushes that fail and arrive all the same, one at a time: whichever header the disk has
//! then, what was flushed later is there after a power cut, and nothing is corrupt.

use block_core::driver::{AmendOptions, BackingName, SnapshotChange, SnapshotKey};
use block_schema::types::SnapshotInfo;

use super::power::check_survivor;
use super::*;

/// Does a verb with ever later writes and flushes of it lied about; then the image is used, and the
/// power is cut. Of the disk's bytes those behind `kept` are no longer anybody's.
#[track_caller]
fn check_lies(
    options: &CreateOptions,
    before: impl Fn(&mut Disk),
    kept: usize,
    verb: impl Fn(&mut Disk) -> block_core::Result<()>,
) {
    let backing = options.backing_file.as_ref().map(|_| noise(8, 64 << 10));
    for lie in 0.. {
        let mut disk = Disk::create(options, backing.clone());
        before(&mut disk);
        disk.bench.file.lie_after(lie);
        let done = verb(&mut disk);
        if !disk.bench.file.has_lied() {
            assert!(lie > 2, "the verb wrote something");
            return done.unwrap();
        }
        let what = format!("lie {lie}: {:?}", done.map_err(|error| error.chain()));
        let len = usize::try_from(disk.image.size()).unwrap();
        disk.model.resize(len, 0);
        disk.run("write 1k+5k 77; write 40k+3k 88; flush");
        let bytes = disk.bench.file.bytes();
        let found = Header::parse(
            &bytes[..disk.image.geometry.cluster_len()],
            bytes.len() as u64,
        );
        let known = disk.image.header.lock().clone();
        assert_eq!(
            found,
            Ok(known),
            "{what}: the disk has the header that memory knows"
        );
        let free = kept.min(len)..len;
        check_survivor(bytes, &backing, &disk.model, &[free], &what);
    }
}

fn small() -> CreateOptions {
    CreateOptions {
        cluster_size: 512,
        ..sized(64 << 10)
    }
}

fn resize(disk: &Disk, len: u64) -> block_core::Result<()> {
    block_on(disk.image.resize(&disk.bench, len, Preallocation::Off))
}

fn snapshot(disk: &Disk, change: SnapshotChange) -> block_core::Result<()> {
    block_on(disk.image.snapshot(&disk.bench, change)).map(drop)
}

fn take(disk: &Disk) -> block_core::Result<()> {
    let info = SnapshotInfo::new(String::new(), "one".to_owned(), 0, 0, 0, 0, 0);
    snapshot(disk, SnapshotChange::Create(info))
}

fn key() -> SnapshotKey {
    SnapshotKey {
        id: None,
        name: Some("one".to_owned()),
    }
}

fn filled(disk: &mut Disk) {
    disk.run("write 0+30k 11; flush");
}

fn with_snapshot(disk: &mut Disk) {
    filled(disk);
    take(disk).unwrap();
}

#[test]
fn a_longer_disk_that_may_have_another_l1_table() {
    let longer = |disk: &mut Disk| resize(disk, 8 << 20);
    // Nothing has a table: each comes with an entry of the L1 table.
    check_lies(&small(), |_| {}, usize::MAX, longer);
    check_lies(&small(), filled, usize::MAX, longer);
}

#[test]
fn a_shorter_disk_that_may_have_its_old_length() {
    let full = |disk: &mut Disk| disk.run("write 0+64k 11; flush");
    // What lies behind the end is given up first.
    let kept = 44 << 10;
    check_lies(&small(), full, kept, |disk| resize(disk, 44 << 10));
}

#[test]
fn snapshots_that_may_be_there_or_not() {
    let all = usize::MAX;
    check_lies(&small(), filled, all, |disk| take(disk));
    let apply = |disk: &mut Disk| snapshot(disk, SnapshotChange::Apply(key()));
    check_lies(&small(), with_snapshot, all, apply);
    let delete = |disk: &mut Disk| snapshot(disk, SnapshotChange::Delete(key()));
    check_lies(&small(), with_snapshot, all, delete);
}

#[test]
fn an_emptied_image_that_may_be_full() {
    check_lies(&small(), filled, usize::MAX, |disk| {
        block_on(disk.image.make_empty(&disk.bench))?;
        disk.model.fill(0);
        Ok(())
    });
}

#[test]
fn a_backing_file_that_may_have_another_name() {
    let options = CreateOptions {
        cluster_size: 4096,
        ..over_backing(64 << 10)
    };
    let names = ["x", "a-longer-name-than-the-one-before.raw", ""];
    for name in names {
        check_lies(&options, filled, usize::MAX, |disk| {
            let backing = (!name.is_empty()).then(|| BackingName {
                filename: name.to_owned(),
                format: Some("raw".to_owned()),
            });
            block_on(disk.image.name_backing(&disk.bench, backing))
        });
    }
}

#[test]
fn late_counts_whose_mark_may_be_gone() {
    let lazy = CreateOptions {
        lazy_refcounts: true,
        ..small()
    };
    check_lies(&lazy, filled, usize::MAX, |disk| {
        block_on(disk.image.flush_all(&disk.bench))
    });
    let amended = AmendOptions {
        lazy_refcounts: Some(true),
        ..AmendOptions::default()
    };
    let unflushed = |disk: &mut Disk| disk.run("write 0+30k 11");
    check_lies(&small(), unflushed, usize::MAX, |disk| {
        block_on(disk.image.amend(&disk.bench, &amended))
    });
}
