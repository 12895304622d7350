//! Images in memory against a model of the disk, and against `qemu-img`.
//!
//! A script is a list of operations on the guest's disk: `write 4k+64k aa`, `zero`, `unmap`,
//! `pack` (a compressed write), `discard`, `flush`, `reopen`, `resize 1m`. After each script the
//! whole disk is read back.

mod ahead;
mod amend;
mod bitmaps;
mod compressed;
mod damaged;
mod damaged_at_random;
mod data_file;
mod disk;
mod doubt;
mod encrypted;
mod lazy;
mod on_a_graph;
mod overlap;
mod power;
mod repair;
mod snapshots;
mod subclusters;

use std::future::Future;
use std::pin::Pin;
use std::process::Command;

use block_core::IoBuf;
use block_core::driver::{Preallocation, Repair, ZeroFlags};
use block_core::secret::Secret;

use super::create::{CreateEncryption, CreateOptions, create};
use super::header::{Compression, Extension, Header, Version};
use super::header_write::UPDATE_OFFSET;
use super::image::{Image, OpenOptions};
use crate::kit::testing::{Bench, Event, MemoryFile, Random, apply, block_on, run_all};

use disk::*;
use power::{check_errors, check_power_cuts, cut_power, each_cut, expect_only_leaks};

#[test]
fn an_empty_image_reads_as_zeroes() {
    check(&sized(1 << 20), None, "");
    check(&sized(0), None, "");
}

#[test]
fn a_small_write_keeps_what_is_around_it() {
    check(
        &sized(1 << 20),
        None,
        "write 4k+4k aa; write 100+1 bb; write 60k+10k cc",
    );
    let backing = Some(noise(1, 1 << 20));
    check(
        &over_backing(1 << 20),
        backing,
        "write 4k+4k aa; write 70k+1 bb; write 200k+200k cc",
    );
}

#[test]
fn a_backing_file_may_be_shorter_than_the_image() {
    check(
        &over_backing(1 << 20),
        Some(noise(2, 100_000)),
        "write 99000+10 11; write 130k+1k 22",
    );
}

#[test]
fn zeroes_hide_the_backing_file() {
    let backing = Some(noise(3, 1 << 20));
    check(
        &over_backing(1 << 20),
        backing.clone(),
        "zero 10k+200k; write 70k+1k 11; unmap 64k+64k",
    );
    let v2 = CreateOptions {
        version: Version::V2,
        ..over_backing(1 << 20)
    };
    check(
        &v2,
        backing,
        "zero 10k+200k; write 70k+1k 11; unmap 64k+64k; discard 0+1m",
    );
    // Behind the backing file's end there is none to hide, but the image's own data to forget.
    check(
        &v2,
        Some(noise(3, 100 << 10)),
        "write 0+1m 22; zero 64k+128k; unmap 256k+64k; zero 500k+100k",
    );
}

#[test]
fn discarded_clusters_are_used_again_after_a_flush() {
    let mut disk = check(&sized(1 << 20), None, "write 0+512k aa; flush");
    let len = disk.bench.file.bytes().len();
    disk.run("discard 0+512k; flush; write 512k+512k bb; flush");
    disk.expect_model();
    disk.expect_clean();
    assert_eq!(disk.bench.file.bytes().len(), len);
}

#[test]
fn a_kept_cluster_takes_the_next_write() {
    let mut disk = check(&sized(1 << 20), None, "write 0+64k aa; zero 0+64k; flush");
    let len = disk.bench.file.bytes().len();
    disk.run("write 10k+1k bb; flush");
    disk.expect_model();
    assert_eq!(disk.bench.file.bytes().len(), len);
}

#[test]
fn a_disk_grows_and_shrinks() {
    check(
        &sized(1 << 20),
        None,
        "write 900k+124k aa; resize 3m; write 2m+64k bb; resize 950k; resize 2m",
    );
    let backing = Some(noise(4, 1 << 20));
    check(
        &over_backing(300 << 10),
        backing,
        "write 299k+1k aa; resize 1m; resize 200k; resize 2m",
    );
    let tiny = CreateOptions {
        cluster_size: 512,
        ..sized(64 << 10)
    };
    check(
        &tiny,
        None,
        "write 0+64k aa; resize 64m; write 63m+1m bb; resize 128m; write 127m+3 cc",
    );
}

/// A random script, the same for the same seed.
fn random_run(disk: &mut Disk, seed: u64, steps: u64) {
    let mut random = Random(seed | 1);
    let size = disk.model.len() as u64;
    for _ in 0..steps {
        let at = random.below(size);
        let len = (1 + random.below(size - at)).min(1 + random.below(size / 4));
        match random.below(12) {
            0 => disk.run("flush"),
            1 => disk.reopen(),
            2 => disk.zero(at, len, false),
            3 => disk.zero(at, len, true),
            4 | 5 => disk.discard(at, len),
            _ => {
                let bytes = noise(random.below(u64::MAX), usize::try_from(len).unwrap());
                disk.write(at, &bytes);
            }
        }
    }
    disk.expect_model();
}

#[test]
fn every_geometry_keeps_data_and_qemu_agrees() {
    for (n, cluster_bits) in (9..=21).enumerate() {
        let refcount_bits = 1 << (n % 7);
        let size = (1u64 << cluster_bits).min(1 << 16) * 40 + 512;
        let options = CreateOptions {
            cluster_size: 1 << cluster_bits,
            refcount_bits,
            ..sized(size)
        };
        let mut disk = Disk::create(&options, None);
        random_run(
            &mut disk,
            100 + n as u64,
            if cluster_bits > 16 { 10 } else { 30 },
        );
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("geometry-{cluster_bits}"));
    }
}

#[test]
fn every_version_keeps_data_over_a_backing_file() {
    for (n, version) in [Version::V2, Version::V3].into_iter().enumerate() {
        for cluster_size in [512, 4096] {
            let size = cluster_size * 300;
            let options = CreateOptions {
                version,
                cluster_size,
                ..over_backing(size)
            };
            let backing = noise(7, usize::try_from(size - 1000).unwrap());
            let mut disk = Disk::create(&options, Some(backing));
            random_run(&mut disk, 200 + n as u64, 80);
            disk.expect_clean();
            disk.expect_qemu_agrees(&format!("version-{n}-{cluster_size}"));
        }
    }
}

#[test]
fn refcount_tables_move_when_they_are_full() {
    // 64 clusters of 512 bytes a block, 64 blocks a table cluster: 2 MiB.
    let options = CreateOptions {
        cluster_size: 512,
        refcount_bits: 64,
        ..sized(8 << 20)
    };
    let mut disk = check(
        &options,
        None,
        "write 0+3m aa; write 5m+3m bb; flush; write 3m+2m cc",
    );
    disk.expect_qemu_agrees("refcount-growth");
}

#[test]
fn preallocated_images_are_clean() {
    for (name, preallocation) in [
        ("metadata", Preallocation::Metadata),
        ("falloc", Preallocation::Falloc),
        ("full", Preallocation::Full),
    ] {
        let options = CreateOptions {
            preallocation,
            ..sized(3 << 20)
        };
        let mut disk = check(&options, None, "");
        let report = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
        assert_eq!(report.clusters.unwrap().allocated, 48);
        disk.run("write 100k+100k aa");
        disk.expect_qemu_agrees(name);
    }
}

#[test]
fn compressed_images_of_qemu_read_and_take_writes() {
    for (name, options) in [
        ("zlib", "cluster_size=64k"),
        ("zlib-small", "cluster_size=512"),
        ("zlib-large", "cluster_size=2M"),
        ("zlib-v2", "compat=0.10,cluster_size=4k"),
        ("zstd", "compression_type=zstd"),
    ] {
        let Some(dir) = Scratch::with_qemu(&format!("compressed-{name}")) else {
            return;
        };
        let mut model = noise(9, 1 << 20);
        for (index, byte) in model.iter_mut().enumerate() {
            // Compressible, with a cluster here and there that is not.
            *byte &= if (index >> 16) % 3 == 0 { 0xff } else { 0x11 };
        }
        model[300_000..500_000].fill(0);
        dir.write("model.raw", &model);
        dir.qemu_img(&[
            "convert",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            options,
            "model.raw",
            "i",
        ]);
        let mut disk = Disk::open(dir.read("i"), None, model);
        disk.expect_model();
        disk.expect_clean();
        disk.run("write 1k+1k aa; write 70k+100k bb; discard 200k+100k; zero 500k+70k");
        disk.expect_model();
        disk.expect_qemu_agrees(name);
    }
}

#[test]
fn snapshots_of_qemu_survive_writes() {
    let Some(dir) = Scratch::with_qemu("snapshot") else {
        return;
    };
    let model = noise(11, 1 << 20);
    dir.write("model.raw", &model);
    dir.qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "model.raw",
        "i",
    ]);
    dir.qemu_img(&["snapshot", "-c", "before", "i"]);
    // Flags that say "alone" although the snapshot shares: refcounts must win.
    let mut bytes = dir.read("i");
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let l1 = usize::try_from(word(&bytes, 40)).unwrap();
    let l2 = usize::try_from(word(&bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    bytes[l1] |= 0x80;
    bytes[l2] |= 0x80;
    let mut disk = Disk::open(bytes, None, model.clone());
    disk.run("write 0+100 aa; write 10k+50k bb; discard 100k+100k; zero 300k+100k; flush");
    disk.expect_model();
    disk.reopen();
    disk.expect_clean();
    disk.expect_qemu_agrees("snapshot-after");
    dir.write("i", &disk.bench.file.bytes());
    dir.qemu_img(&["snapshot", "-a", "before", "i"]);
    dir.qemu_img(&[
        "compare",
        "-q",
        "-F",
        "raw",
        "-f",
        "qcow2",
        "i",
        "model.raw",
    ]);
}

#[test]
fn leaks_and_wrong_counts_are_repaired() {
    let mut disk = check(&sized(1 << 20), None, "write 0+300k aa; write 500k+64k bb");
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    // The refcount block is the third cluster; counts are 16 bits.
    bytes[2 * 65536 + 2 * 6 + 1] = 0;
    bytes[2 * 65536 + 2 * 7 + 1] = 3;
    let disk = Disk::open(bytes, None, disk.model);
    let found = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
    assert_eq!(
        (found.corruptions, found.leaks),
        (3, 1),
        "{:#?}",
        found.messages
    );
    let fixed = block_on(disk.image.check(&disk.bench, Repair::All)).unwrap();
    assert_eq!(
        (fixed.corruptions_fixed, fixed.leaks_fixed),
        (1, 1),
        "{:#?}",
        fixed.messages
    );
    disk.expect_clean();
    disk.expect_model();
}

#[test]
fn a_dirty_image_is_repaired_before_it_is_written() {
    let mut disk = check(&sized(1 << 20), None, "write 0+300k aa");
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    bytes[79] |= 1;
    bytes[2 * 65536 + 2 * 6..2 * 65536 + 2 * 9].fill(0);
    let read_only = OpenOptions {
        writable: false,
        ..small_cache()
    };
    let untouched = bench(bytes.clone(), None);
    let image = block_on(Image::open(&untouched, "test", read_only)).unwrap();
    assert!(block_on(image.write(&untouched, 0, IoBuf::zeroed(1))).is_err());
    assert_eq!(untouched.file.bytes(), bytes);
    let mut disk = Disk::open(bytes, None, disk.model);
    disk.expect_clean();
    disk.run("write 700k+64k bb");
    disk.expect_model();
    disk.expect_qemu_agrees("dirty");
}

#[test]
fn autoclear_bits_are_durably_gone_before_the_first_write() {
    let disk = check(&sized(1 << 20), None, "write 0+64k aa");
    let mut bytes = disk.bench.file.bytes();
    bytes[95] |= 0x84;
    let disk = Disk::open(bytes, None, disk.model);
    disk.bench.file.record();
    disk.read(0, 4096);
    assert!(disk.bench.file.events().is_empty());
    block_on(disk.image.write(&disk.bench, 0, IoBuf::zeroed(512))).unwrap();
    let events = disk.bench.file.events();
    assert!(
        matches!(&events[..2], [Event::Write(24, _), Event::Flush]),
        "{events:?}"
    );
    assert_eq!(disk.bench.file.bytes()[95], 0);
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

#[test]
fn writers_of_different_clusters_do_not_disturb_each_other() {
    for seed in 0..30 {
        let options = CreateOptions {
            cluster_size: 512,
            ..sized(1 << 20)
        };
        let mut disk = Disk::create(&options, Some(noise(5, 1 << 20)));
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let mut random = Random(seed * 2 + 1);
        let (bench, image) = (&disk.bench, &disk.image);
        for slot in 0..64usize {
            let at = slot * 16384 + usize::try_from(random.below(4000)).unwrap();
            let len = 1 + usize::try_from(random.below(10_000)).unwrap();
            let bytes = noise(seed * 100 + slot as u64, len);
            disk.model[at..at + len].copy_from_slice(&bytes);
            tasks.push(Box::pin(async move {
                image
                    .write(bench, at as u64, IoBuf::copy_of(&bytes))
                    .await
                    .unwrap();
                if slot % 8 == 0 {
                    image.flush(bench).await.unwrap();
                }
            }));
        }
        run_all(seed, tasks);
        disk.expect_model();
        disk.reopen();
        disk.expect_model();
        disk.expect_clean();
    }
}

#[test]
fn create_refuses_what_no_image_can_be() {
    let refused = |options: CreateOptions| {
        let bench = bench(Vec::new(), None);
        assert!(block_on(create(&bench, &options)).is_err(), "{options:?}");
        assert!(bench.file.bytes().is_empty());
    };
    for cluster_size in [0, 256, 1000, 4 << 20] {
        refused(CreateOptions {
            cluster_size,
            ..sized(1 << 20)
        });
    }
    for refcount_bits in [0, 3, 128] {
        refused(CreateOptions {
            refcount_bits,
            ..sized(1 << 20)
        });
    }
    refused(sized(100));
    refused(CreateOptions {
        cluster_size: 512,
        ..sized(1 << 40)
    });
    refused(CreateOptions {
        version: Version::V2,
        refcount_bits: 8,
        ..sized(1 << 20)
    });
    refused(CreateOptions {
        version: Version::V2,
        lazy_refcounts: true,
        ..sized(1 << 20)
    });
    let compression = Compression::Zstd;
    refused(CreateOptions {
        version: Version::V2,
        compression,
        ..sized(1 << 20)
    });
    let preallocation = Preallocation::Full;
    refused(CreateOptions {
        preallocation,
        ..over_backing(1 << 20)
    });
    refused(CreateOptions {
        backing_format: Some("raw".into()),
        ..sized(1 << 20)
    });
}

#[test]
fn a_header_keeps_what_it_does_not_know() {
    let disk = Disk::create(&over_backing(1 << 20), Some(vec![0; 512]));
    let mut header = disk.image.header.lock().clone();
    header.extensions.insert(
        1,
        Extension {
            kind: 0x1234_5678,
            data: b"odd length".to_vec(),
        },
    );
    header.unknown_fields = vec![1, 2, 3, 4, 5, 6, 7, 8];
    let bytes = header.to_bytes().unwrap();
    assert_eq!(Header::parse(&bytes, 1 << 20), Ok(header.clone()));
    // An update of an open image touches neither fields nor extensions that it does not know.
    header.autoclear = 4;
    let mut updated = bytes.clone();
    updated[UPDATE_OFFSET..][..header.update_bytes().len()].copy_from_slice(&header.update_bytes());
    assert_eq!(Header::parse(&updated, 1 << 20), Ok(header));
}
