//! Guest data in a file of its own: against the model, against the raw file, against `qemu-img`.

use block_core::driver::{SnapshotChange, SnapshotKey};

use super::*;
use crate::kit::image_file::ImageFile;

fn beside(size: u64) -> CreateOptions {
    CreateOptions {
        data_file: Some("data.raw".into()),
        ..sized(size)
    }
}

fn raw(size: u64) -> CreateOptions {
    CreateOptions {
        data_file_raw: true,
        ..beside(size)
    }
}

impl Disk {
    fn data_bytes(&self) -> Vec<u8> {
        self.bench.data.as_ref().unwrap().bytes()
    }

    /// The data file is the disk, byte by byte.
    #[track_caller]
    fn expect_raw(&self) {
        let bytes = self.data_bytes();
        assert_eq!(bytes.len(), self.model.len());
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != self.model[at]) {
            panic!("byte {at:#x} of the data file is not the disk's");
        }
    }
}

#[test]
fn data_lies_where_the_guest_has_it() {
    let mut disk = check(
        &beside(1 << 20),
        None,
        "write 0+3 aa; write 130k+70k bb; flush",
    );
    let data = disk.data_bytes();
    assert_eq!(
        (data.len(), data[0], data[200 * 1024 - 1]),
        (1 << 20, 0xaa, 0xbb)
    );
    disk.expect_qemu_agrees("beside");
}

#[test]
fn old_bytes_of_the_data_file_do_not_show() {
    let mut disk = Disk::create(&beside(256 << 10), None);
    let garbage = noise(3, 256 << 10);
    let data = disk.bench.data.as_ref().unwrap();
    block_on(data.write_bytes(0, &garbage)).unwrap();
    disk.run("write 70k+1k aa; discard 0+64k; zero 129k+1k");
    disk.expect_model();
    disk.expect_qemu_agrees("old-bytes");
}

/// A shrink that fails anywhere: what reads as zeroes is zero in the data file, too.
#[test]
fn a_raw_data_file_is_the_disk_in_a_failed_shrink() {
    for budget in 0.. {
        let mut disk = Disk::create(&raw(256 << 10), None);
        disk.run("write 0+256k aa; flush");
        disk.bench.file.fail_after(Some(budget));
        let done = block_on(
            disk.image
                .resize(&disk.bench, 100 << 10, Preallocation::Off),
        );
        disk.bench.file.fail_after(None);
        disk.model = vec![0; usize::try_from(disk.image.size()).unwrap()];
        let buf = IoBuf::zeroed(disk.model.len());
        block_on(disk.image.read(&disk.bench, 0, buf.clone())).unwrap();
        disk.model = buf.to_vec();
        disk.expect_raw();
        if done.is_ok() {
            assert!(budget > 2, "it wrote something");
            return;
        }
    }
}

#[test]
fn a_raw_data_file_is_always_the_disk() {
    let mut disk = Disk::create(&raw((1 << 20) + 512), None);
    disk.expect_raw();
    for script in [
        "write 1k+300k aa",
        "zero 3k+200k; flush",
        "unmap 0+128k",
        "discard 128k+64k",
        "resize 3m",
        "write 2900k+100k bb",
        "resize 1m",
        "resize 2m; reopen",
    ] {
        disk.run(script);
        disk.expect_model();
        disk.expect_raw();
    }
    disk.expect_clean();
    disk.expect_qemu_agrees("raw");
}

#[test]
fn random_work_keeps_both_kinds_of_data_files() {
    for seed in 0..4u64 {
        let cluster_size = 512 << (3 * (seed % 3));
        let size = cluster_size * 60 + 512;
        let options = CreateOptions {
            cluster_size,
            ..beside(size)
        };
        let mut disk = Disk::create(&options, None);
        random_run(&mut disk, seed + 11, 60);
        disk.expect_qemu_agrees(&format!("beside-{seed}"));
        let options = CreateOptions {
            cluster_size,
            ..raw(size)
        };
        let mut disk = Disk::create(&options, None);
        random_run(&mut disk, seed + 23, 60);
        disk.expect_raw();
        disk.expect_qemu_agrees(&format!("raw-{seed}"));
        for (kind, name) in [(beside as fn(u64) -> CreateOptions, "beside"), (raw, "raw")] {
            let options = CreateOptions {
                cluster_size: 16384 << seed,
                extended_l2: true,
                ..kind(((20 * 16384) << seed) + 512)
            };
            let mut disk = Disk::create(&options, None);
            random_run(&mut disk, seed + 31, 60);
            if name == "raw" {
                disk.expect_raw();
            }
            disk.expect_qemu_agrees(&format!("extended-{name}-{seed}"));
        }
    }
    let options = CreateOptions {
        data_file: Some("data.raw".into()),
        ..over_backing(200 << 10)
    };
    let mut disk = Disk::create(&options, Some(noise(9, 150 << 10)));
    random_run(&mut disk, 5, 60);
    disk.expect_qemu_agrees("beside-backing");
}

#[test]
fn preallocation_names_all_of_the_data_file() {
    for (mode, name) in [
        (Preallocation::Metadata, "metadata"),
        (Preallocation::Falloc, "falloc"),
        (Preallocation::Full, "full"),
    ] {
        let options = CreateOptions {
            preallocation: mode,
            ..beside(5 << 20)
        };
        let mut disk = check(&options, None, "write 100k+1k aa");
        let report = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
        let clusters = report.clusters.unwrap();
        assert_eq!(clusters.allocated, clusters.total);
        disk.expect_qemu_agrees(&format!("prealloc-{name}"));
    }
}

#[test]
fn the_raw_bit_survives_writes() {
    let disk = check(
        &raw(128 << 10),
        None,
        "write 0+1k aa; flush; reopen; zero 0+64k",
    );
    assert!(disk.image.is_data_file_raw());
}

#[test]
fn an_entry_off_its_place_is_corrupt() {
    let mut disk = Disk::create(&beside(1 << 20), None);
    disk.run("write 64k+128k aa; reopen");
    let l2 = disk.image.l2_place(0).unwrap();
    let entry = (1u64 << 63 | 192 << 10).to_be_bytes();
    block_on(disk.bench.file.write_bytes(l2.0 + 8, &entry)).unwrap();
    let buf = IoBuf::zeroed(512);
    let error = block_on(disk.image.read(&disk.bench, 64 << 10, buf)).unwrap_err();
    let text = error.chain();
    assert!(
        text.contains("does not match guest cluster offset"),
        "{text}"
    );
}

#[test]
fn snapshots_and_missing_data_files_are_refused() {
    let mut disk = Disk::create(&beside(1 << 20), None);
    let key = SnapshotKey::default();
    let taken = disk
        .image
        .snapshot(&disk.bench, SnapshotChange::Delete(key));
    let taken = block_on(taken);
    let text = taken.unwrap_err().chain();
    assert!(text.contains("data file"), "{text}");
    disk.run("write 0+1k aa; flush");
    let alone = bench(disk.bench.file.bytes(), None);
    let image = block_on(Image::open(&alone, "test", small_cache())).unwrap();
    let write = block_on(image.write(&alone, 0, IoBuf::zeroed(512)));
    assert!(write.is_err());
    let text = image.need_key().unwrap_err().chain();
    assert_eq!(text, "'data-file' is required for this image");
}

#[test]
fn create_refuses_what_a_data_file_cannot_be() {
    for (options, want) in [
        (
            CreateOptions {
                data_file: None,
                ..raw(512)
            },
            "data-file-raw requires data-file",
        ),
        (
            CreateOptions {
                backing_file: Some("b".into()),
                ..raw(512)
            },
            "Backing file and data-file-raw cannot be used at the same time",
        ),
        (
            CreateOptions {
                version: Version::V2,
                ..beside(512)
            },
            "External data files are only supported with compatibility level 1.1 and above (use \
             version=v3 or greater)",
        ),
    ] {
        let refused = block_on(create(&bench(Vec::new(), None), &options)).unwrap_err();
        assert_eq!(refused.to_string(), want);
    }
}
