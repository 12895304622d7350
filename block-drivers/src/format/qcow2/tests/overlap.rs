//! Writes that would land in the image's own structures, here and with QEMU.

use block_schema::types::{Qcow2OverlapCheckFlags, Qcow2OverlapCheckMode, Qcow2OverlapChecks};

use super::super::overlap::Checked;
use super::*;
use crate::kit::image_file::ImageFile;

/// Which structure a damaged entry, or a damaged count, lets a write land in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Into {
    ActiveL1,
    OwnL2,
    RefcountBlock,
    Header,
}

fn mode(mode: Qcow2OverlapCheckMode) -> OpenOptions {
    OpenOptions {
        overlap: Checked::of(Some(&Qcow2OverlapChecks::Mode(mode))),
        ..small_cache()
    }
}

/// An image whose second cluster lies in a structure.
fn damaged(into: Into) -> Disk {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.run("write 0+256k aa; reopen");
    let l2 = disk.image.l2_place(0).unwrap();
    let header = disk.image.header.lock().clone();
    let host = match into {
        Into::ActiveL1 => header.l1_table.0,
        Into::OwnL2 => l2.0,
        Into::RefcountBlock => disk.image.block_at(0).unwrap().0,
        // The cluster of the header is no place that an entry can name: the table behind it is.
        Into::Header => header.refcount_table.0,
    };
    let entry = (1u64 << 63 | host).to_be_bytes();
    block_on(disk.bench.file.write_bytes(l2.0 + 8, &entry)).unwrap();
    disk
}

fn write(disk: &Disk, options: OpenOptions) -> block_core::Result<()> {
    let image = block_on(Image::open(&disk.bench, "test", options)).unwrap();
    let buf = IoBuf::copy_of(&[0xbb; 512]);
    block_on(async {
        let written = image.write(&disk.bench, 65536, buf).await;
        image.noticed(&disk.bench, written).await
    })
}

#[track_caller]
fn check(into: Into, what: &str) {
    let disk = damaged(into);
    let left = disk.bench.file.bytes();
    let text = write(&disk, small_cache()).unwrap_err().chain();
    let want = format!("Preventing invalid write on metadata (overlaps with {what})");
    assert!(text.ends_with(&want), "{text}");
    let bytes = disk.bench.file.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    assert!(header.has(super::super::layout::incompatible::CORRUPT));
    if let Some(dir) = Scratch::with_qemu(&format!("overlap-{into:?}")) {
        let image = dir.write("image.qcow2", &left);
        let mut command = Command::new("qemu-io");
        let said = command
            .args(["-c", "write 64k 512", &image])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains(&want), "{said}");
    }
    let disk = damaged(into);
    write(&disk, mode(Qcow2OverlapCheckMode::None)).unwrap();
}

#[test]
fn no_write_lands_in_a_structure() {
    check(Into::ActiveL1, "active L1 table");
    check(Into::OwnL2, "active L2 table");
    check(Into::RefcountBlock, "refcount block");
    check(Into::Header, "refcount table");
}

#[test]
fn constant_checks_do_not_look_at_l2_tables() {
    write(&damaged(Into::OwnL2), mode(Qcow2OverlapCheckMode::Constant)).unwrap();
    let refused = write(
        &damaged(Into::ActiveL1),
        mode(Qcow2OverlapCheckMode::Constant),
    );
    refused.unwrap_err();
}

#[test]
fn each_structure_has_its_own_switch() {
    let mut flags = Qcow2OverlapCheckFlags::new();
    flags.template = Some(Qcow2OverlapCheckMode::None);
    flags.active_l2 = Some(true);
    let options = OpenOptions {
        overlap: Checked::of(Some(&Qcow2OverlapChecks::Flags(flags))),
        ..small_cache()
    };
    write(&damaged(Into::OwnL2), options).unwrap_err();
    write(&damaged(Into::RefcountBlock), options).unwrap();
}

#[test]
fn a_table_that_counts_call_free_is_not_given_out() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.run("write 0+64k aa; reopen");
    let l2 = disk.image.l2_place(0).unwrap();
    let block = disk.image.block_at(0).unwrap();
    // Counts of 16 bits.
    let count = block.0 + disk.image.geometry.cluster_of(l2) * 2;
    block_on(disk.bench.file.write_bytes(count, &[0, 0])).unwrap();
    let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
    let buf = IoBuf::copy_of(&[0xbb; 512]);
    let refused = block_on(image.write(&disk.bench, 512 << 10, buf));
    let text = refused.unwrap_err().chain();
    assert!(text.ends_with("(overlaps with active L2 table)"), "{text}");
}

#[test]
fn l2_tables_of_snapshots_are_checked_when_all_are() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.run("write 0+64k aa; flush");
    let info = block_schema::types::SnapshotInfo {
        id: String::new(),
        name: "one".to_owned(),
        vm_state_size: 0,
        date_sec: 0,
        date_nsec: 0,
        vm_clock_sec: 0,
        vm_clock_nsec: 0,
        icount: None,
    };
    let change = block_core::driver::SnapshotChange::Create(info);
    block_on(disk.image.snapshot(&disk.bench, change)).unwrap();
    // The active table goes elsewhere; the one that both had is the snapshot's alone.
    disk.run("write 0+64k bb; reopen");
    let snapshot = disk.image.snapshots.lock().entries[0].clone();
    let l1 = disk
        .image
        .read_l1(&disk.bench, snapshot.l1_table, snapshot.l1_size);
    let l2 = block_on(l1).unwrap()[0].table().unwrap();
    assert_ne!(disk.image.l2_place(0).unwrap(), l2);
    let active = disk.image.l2_place(0).unwrap();
    let entry = (1u64 << 63 | l2.0).to_be_bytes();
    block_on(disk.bench.file.write_bytes(active.0 + 8, &entry)).unwrap();
    let refused = write(&disk, mode(Qcow2OverlapCheckMode::All)).unwrap_err();
    let text = refused.chain();
    assert!(
        text.ends_with("(overlaps with inactive L2 table)"),
        "{text}"
    );
}

#[test]
fn kept_clusters_are_given_back_to_the_file() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.options.discard_no_unref = true;
    disk.run("write 0+256k aa; reopen; discard 64k+64k; unmap 128k+64k; zero 192k+64k");
    let bytes = disk.bench.file.bytes();
    let place = |image: &Image, guest: u64| {
        let run = block_on(image.first_status(&disk.bench, guest..guest + 65536)).unwrap();
        match run.cluster {
            super::super::map::Cluster::Zero(Some(host)) => usize::try_from(host.offset.0).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    for (guest, byte) in [(64 << 10, 0), (128 << 10, 0), (192 << 10, 0xaa)] {
        assert_eq!(bytes[place(&disk.image, guest)], byte, "{guest:#x}");
    }
    disk.expect_model();
    disk.expect_qemu_agrees("kept");
}

#[test]
fn entries_of_the_cache_are_whole_clusters() {
    let disk = Disk::create(&sized(1 << 20), None);
    for (bytes, want) in [
        (65536, ""),
        (
            4096,
            "an l2-cache-entry-size below the cluster size is not supported by node 'test'",
        ),
        (
            1000,
            "L2 cache entry size must be a power of two between 512 and the cluster size (65536)",
        ),
    ] {
        let options = OpenOptions {
            l2_entry: Some(bytes),
            ..small_cache()
        };
        let opened = block_on(Image::open(&disk.bench, "test", options));
        let said = opened.map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(said, want);
    }
}

/// Two L1 entries name one L2 table.
fn shared_table() -> Disk {
    let options = CreateOptions {
        cluster_size: 512,
        ..sized(128 << 10)
    };
    let mut disk = Disk::create(&options, None);
    disk.run("write 0+64k aa; reopen");
    let l1 = disk.image.header.lock().l1_table.0;
    let first = block_on(disk.bench.file.read_bytes(l1, 8)).unwrap();
    block_on(disk.bench.file.write_bytes(l1 + 8, &first)).unwrap();
    disk
}

#[test]
fn a_table_of_two_entries_is_not_written_by_either() {
    let disk = shared_table();
    for at in [0, 32 << 10] {
        let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
        let buf = IoBuf::zeroed(512);
        block_on(image.read(&disk.bench, at, buf.clone())).unwrap();
        assert_eq!(buf.to_vec(), [0xaa; 512]);
        let before = disk.bench.file.bytes();
        let text = block_on(image.write(&disk.bench, at, buf))
            .unwrap_err()
            .chain();
        assert!(text.contains("is that of another L1 entry, too"), "{text}");
        assert!(before == disk.bench.file.bytes(), "something was written");
    }
}

/// Counted and flagged as shared, it is copied by whoever writes first, and is the other's then.
#[test]
fn a_table_of_two_entries_is_copied_where_counts_say_so() {
    let disk = shared_table();
    let check = || OpenOptions {
        for_check: true,
        ..small_cache()
    };
    let image = block_on(Image::open(&disk.bench, "test", check())).unwrap();
    block_on(image.check(&disk.bench, Repair::All)).unwrap();
    block_on(image.close(&disk.bench)).unwrap();
    let mut model = vec![0xaa; 64 << 10];
    model.resize(128 << 10, 0);
    let mut disk = Disk::open(disk.bench.file.bytes(), None, model);
    disk.run("write 1k+1k bb; write 33k+1k cc; write 2k+1k dd; flush");
    disk.expect_model();
    // Flags of what is no longer shared may stay behind: they only cost a copy.
    let image = block_on(Image::open(&disk.bench, "test", check())).unwrap();
    let found = block_on(image.check(&disk.bench, Repair::All)).unwrap();
    assert_eq!((found.corruptions, found.leaks), (0, 0), "{found:?}");
    block_on(image.close(&disk.bench)).unwrap();
    let disk = Disk::open(disk.bench.file.bytes(), None, disk.model);
    disk.expect_model();
    disk.expect_clean();
}
