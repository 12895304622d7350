//! Refcounts that are written late, and the corrupt bit.

use super::super::layout::incompatible;
use super::*;
use crate::kit::image_file::ImageFile;

fn lazy(size: u64) -> CreateOptions {
    CreateOptions {
        lazy_refcounts: true,
        ..sized(size)
    }
}

fn is_marked(disk: &Disk, bit: u64) -> bool {
    let bytes = disk.bench.file.bytes();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    header.has(bit)
}

#[test]
fn a_guests_flush_leaves_counts_and_says_so() {
    let mut disk = Disk::create(&lazy(1 << 20), None);
    disk.run("write 0+200k aa");
    assert!(!is_marked(&disk, incompatible::DIRTY));
    disk.run("flush");
    assert!(is_marked(&disk, incompatible::DIRTY));
    // As a power cut leaves it, for either program.
    let left = disk.bench.file.bytes();
    let ours = Disk::open(left.clone(), None, disk.model.clone());
    ours.expect_model();
    ours.expect_clean();
    assert!(!is_marked(&ours, incompatible::DIRTY));
    if let Some(dir) = Scratch::with_qemu("late-counts") {
        let image = dir.write("image.qcow2", &left);
        let model = dir.write("model.raw", &disk.model);
        let found = dir.status("qemu-img", &["check", "-q", &image]);
        assert_ne!(found, Some(0), "counts were late");
        dir.qemu_img(&["check", "-q", "-r", "all", &image]);
        dir.qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &image, &model]);
    }
    disk.run("reopen");
    assert!(!is_marked(&disk, incompatible::DIRTY));
    disk.expect_qemu_agrees("late-counts-closed");
}

#[test]
fn the_option_decides_before_the_image() {
    let mut disk = Disk::create(&lazy(1 << 20), None);
    disk.options.lazy_refcounts = Some(false);
    disk.run("reopen; write 0+64k aa; flush");
    assert!(!is_marked(&disk, incompatible::DIRTY));
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.options.lazy_refcounts = Some(true);
    disk.run("reopen; write 0+64k aa; flush");
    assert!(is_marked(&disk, incompatible::DIRTY));
}

#[test]
fn version_2_has_neither_late_counts_nor_kept_clusters() {
    let options = CreateOptions {
        version: Version::V2,
        ..sized(1 << 20)
    };
    let disk = Disk::create(&options, None);
    for (open, want) in [
        (
            OpenOptions {
                lazy_refcounts: Some(true),
                ..small_cache()
            },
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
        ),
        (
            OpenOptions {
                discard_no_unref: true,
                ..small_cache()
            },
            "discard-no-unref is only supported since qcow2 version 3",
        ),
    ] {
        let refused = block_on(Image::open(&disk.bench, "test", open));
        assert_eq!(refused.map(|_| ()).unwrap_err().to_string(), want);
    }
}

#[test]
fn late_counts_survive_growing_tables_and_small_caches() {
    let options = CreateOptions {
        cluster_size: 512,
        refcount_bits: 64,
        ..lazy(256 << 10)
    };
    for seed in 0..3 {
        let mut disk = Disk::create(&options, None);
        random_run(&mut disk, seed + 71, 80);
        disk.run("flush");
        let left = disk.bench.file.bytes();
        let ours = Disk::open(left, None, disk.model.clone());
        ours.expect_model();
        // Clusters that were freed and never counted so may leak, as after any cut.
        block_on(ours.image.check(&ours.bench, Repair::Leaks)).unwrap();
        ours.expect_clean();
    }
}

#[test]
fn damage_that_a_write_meets_ends_all_writes_until_repaired() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.run("write 0+256k aa; reopen");
    let l2 = disk.image.l2_place(0).unwrap();
    // The second cluster lies off its boundary.
    let good = disk.bench.file.bytes();
    let at = usize::try_from(l2.0 + 8).unwrap();
    let mut entry = good[at..at + 8].to_vec();
    entry[6] |= 2;
    block_on(disk.bench.file.write_bytes(l2.0 + 8, &entry)).unwrap();
    let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
    let write = |image: &Image, at: u64| {
        let buf = IoBuf::copy_of(&[0xbb; 512]);
        block_on(async {
            let written = image.write(&disk.bench, at, buf).await;
            image.noticed(&disk.bench, written).await
        })
    };
    write(&image, 0).unwrap();
    assert!(!is_marked(&disk, incompatible::CORRUPT));
    write(&image, 64 << 10).unwrap_err();
    assert!(is_marked(&disk, incompatible::CORRUPT));
    write(&image, 0).unwrap_err();
    let again = block_on(Image::open(&disk.bench, "test", small_cache()));
    let text = again.map(|_| ()).unwrap_err().chain();
    assert!(text.contains("image is corrupt"), "{text}");
    // Once the entry is right, a repair finds nothing, and clears the bit.
    block_on(disk.bench.file.write_bytes(l2.0 + 8, &good[at..at + 8])).unwrap();
    let repairing = OpenOptions {
        for_check: true,
        ..small_cache()
    };
    let image = block_on(Image::open(&disk.bench, "test", repairing)).unwrap();
    block_on(image.check(&disk.bench, Repair::All)).unwrap();
    assert!(!is_marked(&disk, incompatible::CORRUPT));
    write(&image, 0).unwrap();
}
