//! Changes of the format: what the disk and its snapshots hold stays, and a power cut leaves one
//! header or the other.

use block_core::driver::{AmendOptions, BackingName, SnapshotChange};

use block_schema::types::SnapshotInfo;

use super::super::header_write::Rewrite;
use super::power::check_survivor;
use super::*;

fn amend(disk: &Disk, options: &AmendOptions) -> block_core::Result<()> {
    block_on(disk.image.amend(&disk.bench, options))
}

fn compat(level: &str) -> AmendOptions {
    AmendOptions {
        compat: Some(level.to_owned()),
        ..AmendOptions::default()
    }
}

fn bits(refcount_bits: u64) -> AmendOptions {
    AmendOptions {
        refcount_bits: Some(refcount_bits),
        ..AmendOptions::default()
    }
}

/// Amends an image after a script; it holds what it held, and is clean for us and for `qemu-img`.
#[track_caller]
fn check_amended(create: &CreateOptions, script: &str, options: &AmendOptions, name: &str) -> Disk {
    let backing = create.backing_file.as_ref().map(|_| noise(3, 200 << 10));
    let mut disk = Disk::create(create, backing);
    disk.run(script);
    amend(&disk, options).unwrap();
    let refused = block_on(disk.image.write(&disk.bench, 0, IoBuf::zeroed(512)));
    let changed = options.compat.is_some() || options.refcount_bits.is_some();
    assert_eq!(refused.is_err(), changed, "memory knows another format");
    disk.reopen();
    disk.expect_model();
    disk.expect_clean();
    disk.run("write 10k+20k 77; flush");
    disk.expect_model();
    disk.expect_qemu_agrees(name);
    disk
}

#[test]
fn versions_change_both_ways() {
    for cluster_size in [512, 4096, 65536] {
        let script = "write 0+100k 11; zero 20k+30k; unmap 120k+64k; flush";
        let v3 = CreateOptions {
            cluster_size,
            ..over_backing(256 << 10)
        };
        let name = format!("amend-{cluster_size}");
        let mut disk = check_amended(&v3, script, &compat("0.10"), &name);
        assert_eq!(disk.image.version, Version::V2);
        amend(&disk, &compat("1.1")).unwrap();
        disk.reopen();
        disk.expect_model();
        assert_eq!(disk.image.version, Version::V3);
        disk.expect_qemu_agrees(&name);
        let alone = CreateOptions {
            cluster_size,
            ..sized(256 << 10)
        };
        check_amended(&alone, script, &compat("0.10"), &name);
    }
}

#[test]
fn refcounts_change_their_width() {
    for (from, to) in [(16, 1), (1, 64), (64, 8), (16, 2)] {
        let create = CreateOptions {
            cluster_size: 512,
            refcount_bits: from,
            ..sized(1 << 20)
        };
        let script = "write 0+600k 11; discard 100k+50k; flush; write 900k+10k 22";
        let disk = check_amended(&create, script, &bits(to), &format!("bits-{from}-{to}"));
        assert_eq!(1 << disk.image.geometry.refcount_order, to);
    }
}

/// Cuts the power after every event of an amendment: what is left holds the disk, in the one format or
/// the other, with leaks at worst.
#[track_caller]
fn check_cuts(create: &CreateOptions, script: &str, options: &AmendOptions) {
    let backing = create.backing_file.as_ref().map(|_| noise(3, 64 << 10));
    let mut disk = Disk::create(create, backing.clone());
    // Freed clusters full of old bytes: what is new goes there.
    disk.run("write 0+40k ee; flush; discard 0+40k; flush");
    disk.run(script);
    let durable = disk.bench.file.bytes();
    disk.bench.file.record();
    amend(&disk, options).unwrap();
    let events = disk.bench.file.events();
    each_cut(durable, &events, &mut Random(5), |cut, left, bytes| {
        let what = format!("{options:?}: {cut} {left:?}");
        check_survivor(bytes, &backing, &disk.model, &[], &what);
    });
}

#[test]
fn a_power_cut_in_an_amendment_leaves_the_disk() {
    let script = "write 0+30k 11; zero 8k+8k; unmap 20k+4k; write 50k+5k 22; flush";
    let v3 = CreateOptions {
        cluster_size: 4096,
        ..over_backing(64 << 10)
    };
    check_cuts(&v3, script, &compat("0.10"));
    let v2 = CreateOptions {
        version: Version::V2,
        ..v3.clone()
    };
    check_cuts(&v2, script, &compat("1.1"));
    let small = CreateOptions {
        cluster_size: 512,
        ..over_backing(64 << 10)
    };
    for width in [1, 8, 64] {
        check_cuts(&small, script, &bits(width));
    }
    // Counts are late when the change begins.
    let lazy = CreateOptions {
        lazy_refcounts: true,
        ..small
    };
    let prompt = AmendOptions {
        lazy_refcounts: Some(false),
        ..bits(32)
    };
    check_cuts(&lazy, script, &prompt);
    let prompt_v2 = AmendOptions {
        refcount_bits: Some(16),
        lazy_refcounts: Some(false),
        ..compat("0.10")
    };
    check_cuts(&lazy, script, &prompt_v2);
}

/// What takes the place of zeroes is counted in the width that the image gets.
#[test]
fn a_downgrade_and_another_width_go_together() {
    let create = CreateOptions {
        cluster_size: 512,
        refcount_bits: 32,
        ..over_backing(256 << 10)
    };
    let script = "write 0+100k 11; zero 20k+30k; unmap 120k+64k; flush";
    let options = AmendOptions {
        refcount_bits: Some(16),
        ..compat("0.10")
    };
    let disk = check_amended(&create, script, &options, "amend-both");
    assert_eq!(disk.image.version, Version::V2);
}

/// What cannot become version 2 is refused before anything has changed.
#[test]
fn a_refused_downgrade_leaves_counts_as_they_were() {
    let create = CreateOptions {
        cluster_size: 512,
        refcount_bits: 32,
        compression: Compression::Zstd,
        ..sized(256 << 10)
    };
    let mut disk = check(&create, None, "write 0+100k 11; flush");
    let options = AmendOptions {
        refcount_bits: Some(16),
        ..compat("0.10")
    };
    amend(&disk, &options).unwrap_err();
    disk.run("write 50k+100k 22; flush; reopen");
    disk.expect_model();
    disk.expect_clean();
    assert_eq!(disk.image.geometry.refcount_order, 5);
}

#[test]
fn counts_that_do_not_fit_refuse_a_width() {
    let mut disk = check(&sized(256 << 10), None, "write 0+100k 11");
    let info = SnapshotInfo {
        id: String::new(),
        name: "a".to_owned(),
        vm_state_size: 0,
        date_sec: 0,
        date_nsec: 0,
        vm_clock_sec: 0,
        vm_clock_nsec: 0,
        icount: None,
    };
    block_on(
        disk.image
            .snapshot(&disk.bench, SnapshotChange::Create(info)),
    )
    .unwrap();
    let refused = amend(&disk, &bits(1)).unwrap_err();
    assert!(
        refused.to_string().contains("has a refcount of 2"),
        "{refused}"
    );
    disk.run("write 0+10k 22; flush");
    disk.expect_model();
    disk.reopen();
    disk.expect_model();
    let report = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
    assert_eq!(report.corruptions, 0, "{:#?}", report.messages);
}

#[test]
fn what_a_version_cannot_have_is_refused() {
    let disk = check(&sized(1 << 20), None, "");
    let refused = |options: AmendOptions| amend(&disk, &options).unwrap_err().to_string();
    assert!(refused(compat("0.9")).contains("Unknown compatibility level"));
    assert!(refused(bits(3)).contains("power of two"));
    let lazy = AmendOptions {
        lazy_refcounts: Some(true),
        ..compat("0.10")
    };
    assert!(refused(lazy).contains("Lazy refcounts only"));
    let wide = AmendOptions {
        refcount_bits: Some(8),
        ..compat("0.10")
    };
    assert!(refused(wide).contains("require compatibility level 1.1"));
}

fn backing(name: &str, format: Option<&str>) -> Option<BackingName> {
    Some(BackingName {
        filename: name.to_owned(),
        format: format.map(str::to_owned),
    })
}

/// Every sector that a header's change writes may be lost: the old or the new header is left, or,
/// where other extensions move, the new one without names of features.
#[test]
fn another_backing_name_comes_with_one_sector() {
    check_names(&Disk::create(&over_backing(1 << 20), Some(vec![1; 512])));
    let mut disk = Disk::create(&over_backing(1 << 20), Some(vec![1; 512]));
    block_on(disk.image.rewrite_header(&disk.bench, |header| {
        // Behind the names of features, and across the end of the sector with the next one.
        for kind in [0x1234_5678, 0x1234_5679] {
            let data = vec![7; 24];
            header.extensions.push(Extension { kind, data });
        }
    }))
    .unwrap();
    disk.reopen();
    check_names(&disk);
}

#[track_caller]
fn check_names(disk: &Disk) {
    let names = [
        backing("next.qcow2", Some("qcow2")),
        backing("x", Some("raw")),
        None,
        backing(
            "a-much-longer-name-that-does-not-fit-where-the-last-one-was.raw",
            None,
        ),
        backing("backing.raw", Some("raw")),
    ];
    for name in names {
        let old = disk.bench.file.bytes();
        let before = Header::parse(&old[..65536], old.len() as u64).unwrap();
        disk.bench.file.record();
        block_on(disk.image.name_backing(&disk.bench, name.clone())).unwrap();
        let new = disk.bench.file.bytes();
        let after = Header::parse(&new[..65536], new.len() as u64).unwrap();
        assert_eq!(
            after.backing_file,
            name.as_ref().map(|name| name.filename.clone())
        );
        assert_eq!(after.backing_format(), name.and_then(|name| name.format));
        // Between any two sectors of any write.
        let mut now = old.clone();
        for event in disk.bench.file.events() {
            let Event::Write(at, bytes) = event else {
                continue;
            };
            for (n, sector) in bytes.chunks(512).enumerate() {
                apply(
                    &mut now,
                    &Event::Write(at + n as u64 * 512, sector.to_vec()),
                );
                let found = Header::parse(&now[..65536], now.len() as u64);
                let known = [&before, &after, &after.without_feature_names()];
                assert!(
                    found.as_ref().is_ok_and(|found| known.contains(&found)),
                    "{found:?}"
                );
            }
        }
    }
}

#[test]
fn a_header_without_room_stays_as_it_was() {
    let create = CreateOptions {
        cluster_size: 512,
        ..over_backing(1 << 20)
    };
    let disk = Disk::create(&create, Some(vec![1; 512]));
    let before = disk.bench.file.bytes();
    let long = backing(&"n".repeat(600), Some("raw"));
    let refused = block_on(disk.image.name_backing(&disk.bench, long)).unwrap_err();
    assert_eq!(refused.errno(), rustix::io::Errno::NOSPC);
    assert_eq!(disk.bench.file.bytes(), before);
    let header = disk.image.header.lock().clone();
    let plan = Rewrite::plan(&before[..512], &header, &header).unwrap();
    assert_eq!(
        plan.steps().count(),
        1,
        "a cluster of one sector is one write"
    );
}

#[test]
fn an_emptied_image_shows_its_backing_file_and_keeps_its_length() {
    let backing = noise(5, 200 << 10);
    let mut disk = check(
        &over_backing(256 << 10),
        Some(backing.clone()),
        "write 0+256k 11; zero 100k+64k; flush",
    );
    block_on(disk.image.make_empty(&disk.bench)).unwrap();
    disk.model = backing;
    disk.model.resize(256 << 10, 0);
    disk.expect_model();
    disk.run("write 30k+1k 22; flush");
    disk.expect_model();
    disk.expect_clean();
    disk.expect_qemu_agrees("emptied");
}
