//! Images with extended L2 entries: against a model, against `qemu-img`, by what they copy, after
//! power cuts, and damaged.

use block_core::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};
use expect_test::{Expect, expect};

use super::on_a_graph::{folder, qcow2, rig};
use super::repair::{Places, checked};
use super::snapshots::{Album, check_album, check_cuts, random_album};
use super::*;

const KIB: u64 = 1 << 10;

/// An image with subclusters of `cluster_size / 32` bytes.
fn extended(size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions {
        cluster_size,
        extended_l2: true,
        ..sized(size)
    }
}

fn over(options: CreateOptions) -> CreateOptions {
    CreateOptions {
        backing_file: Some("backing.raw".into()),
        backing_format: Some("raw".into()),
        ..options
    }
}

fn encrypted(options: CreateOptions) -> CreateOptions {
    CreateOptions {
        encryption: Some(CreateEncryption::Aes(Secret::new(b"key".to_vec()))),
        ..options
    }
}

#[test]
fn every_cluster_size_keeps_data_and_qemu_agrees() {
    for cluster_bits in 14..=21 {
        let cluster_size = 1u64 << cluster_bits;
        let options = extended(cluster_size * 6 + 512, cluster_size);
        let mut disk = Disk::create(&options, None);
        random_run(&mut disk, 300 + cluster_bits, 40);
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("subclusters-{cluster_bits}"));
    }
}

#[test]
fn every_cluster_size_shows_the_backing_file_and_qemu_agrees() {
    for cluster_bits in 14..=21 {
        let cluster_size = 1u64 << cluster_bits;
        let size = cluster_size * 6 + 512;
        let shorter = usize::try_from(size - cluster_size * 2).unwrap();
        let options = over(extended(size, cluster_size));
        let mut disk = Disk::create(&options, Some(noise(cluster_bits, shorter)));
        random_run(&mut disk, 400 + cluster_bits, 40);
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("subclusters-over-{cluster_bits}"));
    }
}

#[test]
fn a_disk_with_many_tables_keeps_data_and_qemu_agrees() {
    // A table of 1024 entries reaches over 16 MiB; the cache holds four.
    let options = extended(120 << 20, 16 * KIB);
    let mut disk = Disk::create(&options, None);
    disk.run(
        "write 16383k+2k aa; write 31m+2m bb; write 100m+1 cc; zero 32m+1000; unmap 1m+99m; \
         write 47m+3m dd; discard 48m+16m; resize 200m; write 199m+7 ee; resize 130m; reopen",
    );
    disk.expect_model();
    disk.expect_clean();
    disk.expect_qemu_agrees("subclusters-tables");
}

#[test]
fn encrypted_subclusters_keep_data() {
    for (seed, options) in [
        (1, encrypted(extended(200 * KIB, 16 * KIB))),
        (2, encrypted(over(extended(200 * KIB, 16 * KIB)))),
    ] {
        let backing = options.backing_file.is_some().then(|| noise(3, 150_000));
        let mut disk = Disk::create(&options, backing);
        let mut random = Random(seed * 1001);
        for _ in 0..150 {
            let sector = random.below(400);
            let (at, len) = (sector * 512, (1 + random.below(70)).min(400 - sector) * 512);
            match random.below(8) {
                0 => disk.zero(at, len, random.below(2) == 0),
                1 => disk.discard(at, len),
                2 => disk.reopen(),
                _ => {
                    let bytes = noise(random.below(u64::MAX), usize::try_from(len).unwrap());
                    disk.write(at, &bytes);
                }
            }
            disk.expect_model();
        }
        disk.reopen();
        disk.expect_model();
        disk.expect_clean();
    }
}

#[test]
fn a_disk_grows_and_shrinks_within_a_subcluster() {
    let script = "write 0+300k aa; resize 298k; resize 500k; write 299k+1k bb; zero 60k+200k; \
                  resize 98k; write 97k+1k cc; resize 600k; write 500k+1 dd";
    check(&extended(512 * KIB, 64 * KIB), None, script);
    let backing = || Some(noise(4, 1 << 20));
    check(&over(extended(512 * KIB, 64 * KIB)), backing(), script);
    let odd = "write 30k+1k aa; resize 31k; resize 1m; zero 0+33k; resize 32256; resize 500k";
    check(&over(extended(40 * KIB, 128 * KIB)), backing(), odd).expect_qemu_agrees("odd-sizes");
}

/// Where a write's cluster is afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where it was not before.
    New,
    /// Where it was.
    Same,
}

/// Does `before`, then one write of `len` bytes at `at`: how many bytes it writes to the file, and
/// where.
#[track_caller]
fn check_copied(before: &str, write: (u64, usize), want: (usize, Place)) {
    let options = over(extended(1 << 20, 128 * KIB));
    let mut album = Album::new(&options, Some(noise(5, 1 << 20)));
    album.run(before);
    album.run("flush");
    let (at, len) = write;
    let host = album.disk.entry(at).host();
    album.disk.bench.file.record();
    album.disk.write(at, &noise(6, len));
    let events = album.disk.bench.file.events();
    let written = events.iter().map(|event| match event {
        Event::Write(_, bytes) => bytes.len(),
        Event::Resize(_) | Event::Grow(_) | Event::Flush => 0,
    });
    let place = if album.disk.entry(at).host() == host {
        Place::Same
    } else {
        Place::New
    };
    assert_eq!((written.sum(), place), want, "{before}");
    album.expect_qemu_agrees("copied");
}

#[test]
fn a_write_copies_only_what_its_subclusters_need() {
    use Place::{New, Same};
    const SUB: u64 = 4 * KIB;
    // The table is there, the cluster is not.
    let fresh = "write 900k+1 ee";
    // A subcluster of its own, and one byte of it.
    check_copied(fresh, (5 * SUB, 4096), (4096, New));
    check_copied(fresh, (5 * SUB + 100, 1), (4096, New));
    check_copied(fresh, (5 * SUB + 2048, 4096), (8192, New));
    // Over the boundary of two clusters.
    check_copied(fresh, (31 * SUB + 1, 4096), (8192, New));
    // In place, in what the cluster had not yet, had, and had as zeroes.
    let start = "write 0+4k aa; zero 8k+4k";
    check_copied(start, (SUB + 100, 1), (4096, Same));
    check_copied(start, (100, 1), (1, Same));
    check_copied(start, (100, 5000), (8092, Same));
    check_copied(start, (2 * SUB + 1, 1), (4096, Same));
    check_copied(start, (2 * SUB, 4096), (4096, Same));
    // A shared cluster moves with the three subclusters that it has.
    let shared = "write 0+4k aa; zero 8k+4k; write 32k+8k bb; take a";
    check_copied(shared, (20 * SUB + 7, 1), (4 * 4096, New));
    check_copied(shared, (0, 4096), (3 * 4096, New));
    check_copied(shared, (9 * SUB, 2 * 4096), (4 * 4096, New));
}

#[test]
fn a_cluster_is_given_up_when_all_of_it_is_discarded() {
    let mut disk = check(
        &over(extended(1 << 20, 128 * KIB)),
        Some(noise(7, 1 << 20)),
        "write 0+128k aa; flush",
    );
    let allocated = |disk: &Disk| {
        let report = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
        report.clusters.unwrap().allocated
    };
    disk.run("zero 0+64k; unmap 64k+60k; discard 0+64k; flush");
    assert_eq!(allocated(&disk), 1, "a subcluster is still there");
    disk.expect_model();
    disk.run("zero 124k+4k; flush");
    assert_eq!(allocated(&disk), 1, "zeroes keep the cluster");
    disk.run("unmap 0+128k; flush");
    assert_eq!(allocated(&disk), 0);
    disk.expect_model();
    disk.run("write 0+1 bb; discard 0+128k; flush");
    assert_eq!(allocated(&disk), 0);
    disk.expect_model();
    assert!(disk.read(0, 1)[0] == 0, "the backing file is hidden");
    disk.expect_qemu_agrees("given-up");
}

/// The pieces of a range that a request finds without a lock.
fn mapped(disk: &Disk, access: Access, range: std::ops::Range<u64>) -> String {
    let mut out = Mapping::new();
    let lookup = disk.image.try_map(EdgeIndex(0), access, range, &mut out);
    let pieces = out.pieces().iter().map(|piece| {
        let what = match piece.extent {
            Extent::Child { offset, .. } => format!("file {:#x}", offset),
            Extent::Zero => "zero".to_owned(),
            Extent::Unallocated => "unallocated".to_owned(),
            Extent::Leaf { .. } | Extent::Transform => format!("{:?}", piece.extent),
        };
        format!("{what} {}k", piece.len / KIB)
    });
    let mut text: Vec<String> = pieces.collect();
    if lookup == Lookup::Miss {
        text.push("miss".to_owned());
    }
    text.join(", ")
}

#[test]
fn a_request_maps_subclusters() {
    let mut disk = check(
        &over(extended(1 << 20, 128 * KIB)),
        Some(noise(8, 1 << 20)),
        "write 0+8k aa; zero 16k+4k; write 124k+132k bb",
    );
    disk.run("write 400k+1 cc");
    let found = mapped(&disk, Access::Read, 0..384 * KIB);
    expect!["file 0xa0000 8k, unallocated 8k, zero 4k, unallocated 104k, file 0xbf000 132k, unallocated 128k"]
    .assert_eq(&found);
    expect!["file 0xa1000 4k, miss"].assert_eq(&mapped(&disk, Access::Write, 4096..16384));
    expect!["miss"].assert_eq(&mapped(&disk, Access::Write, 16384..20480));
}

#[test]
fn preallocated_subclusters_are_none_and_take_writes_in_place() {
    for (name, preallocation) in [
        ("metadata", Preallocation::Metadata),
        ("falloc", Preallocation::Falloc),
        ("full", Preallocation::Full),
    ] {
        let plain = CreateOptions {
            preallocation,
            ..over(extended(1 << 20, 64 * KIB))
        };
        for options in [plain.clone(), encrypted(plain)] {
            let mut disk = Disk::create(&options, Some(noise(9, 1 << 20)));
            disk.expect_model();
            let len = disk.bench.file.bytes().len();
            let script = "write 100k+100k aa; write 1k+512 bb; zero 256k+64k; zero 512k+4k";
            disk.run(script);
            disk.reopen();
            disk.expect_model();
            disk.expect_clean();
            assert_eq!(disk.bench.file.bytes().len(), len, "all was there");
            let report = block_on(disk.image.check(&disk.bench, Repair::None)).unwrap();
            assert_eq!(report.clusters.unwrap().allocated, 16);
            if disk.key.is_none() {
                disk.expect_qemu_agrees(&format!("subclusters-{name}"));
            }
        }
    }
}

#[test]
fn growing_with_preallocation_hides_the_backing_file() {
    let options = over(extended(100 * KIB, 64 * KIB));
    let mut disk = check(&options, Some(noise(10, 300_000)), "write 90k+10k aa");
    let grown = disk.image.resize(&disk.bench, 1 << 20, Preallocation::Full);
    block_on(grown).unwrap();
    disk.model.resize(1 << 20, 0);
    disk.expect_model();
    disk.expect_clean();
    disk.run("write 200k+1 bb; write 900k+1k cc");
    disk.expect_qemu_agrees("subclusters-grown");
}

#[test]
fn compressed_clusters_become_subclusters() {
    let options = over(extended(512 * KIB, 64 * KIB));
    let mut disk = Disk::create(&options, Some(noise(11, 400_000)));
    let mut random = Random(77);
    for step in 0..60 {
        let cluster = random.below(8);
        let at = random.below(500 * KIB);
        let len = 1 + random.below(60_000).min(512 * KIB - at - 1);
        match random.below(7) {
            0 | 1 => {
                let mut bytes = noise(step, 64 << 10);
                bytes.iter_mut().for_each(|byte| *byte &= 0x11);
                disk.pack(cluster * 64 * KIB, &bytes);
            }
            2 => disk.zero(at, len, random.below(2) == 0),
            3 => disk.discard(at, len),
            4 => disk.reopen(),
            _ => disk.write(at, &noise(step + 500, usize::try_from(len).unwrap())),
        }
        disk.expect_model();
    }
    disk.expect_clean();
    disk.expect_qemu_agrees("subclusters-packed");
}

#[test]
fn images_of_qemu_read_and_take_writes() {
    for (name, options) in [
        ("plain", "extended_l2=on,cluster_size=128k"),
        ("small", "extended_l2=on,cluster_size=16k,refcount_bits=1"),
        ("large", "extended_l2=on,cluster_size=2M,refcount_bits=64"),
    ] {
        let Some(dir) = Scratch::with_qemu(&format!("theirs-{name}")) else {
            return;
        };
        let mut model = noise(12, 3 << 20);
        dir.write("backing.raw", &model);
        let over = format!("{options},backing_file=backing.raw,backing_fmt=raw");
        dir.qemu_img(&["create", "-q", "-f", "qcow2", "-o", &over, "i"]);
        let mut commands: Vec<String> = Vec::new();
        let mut random = Random(13);
        for _ in 0..40 {
            let (at, len) = (random.below(3 << 20), 1 + random.below(100_000));
            let len = len.min((3 << 20) - at);
            let byte = u8::try_from(random.below(200)).unwrap();
            let (start, end) = (
                usize::try_from(at).unwrap(),
                usize::try_from(at + len).unwrap(),
            );
            let zero = byte < 50;
            model[start..end].fill(if zero { 0 } else { byte });
            let what = if zero {
                "-z".to_owned()
            } else {
                format!("-P {byte}")
            };
            commands.push(format!("write {what} {at} {len}"));
        }
        let mut args = vec!["-f", "qcow2"];
        commands
            .iter()
            .for_each(|command| args.extend(["-c", command]));
        args.push("i");
        dir.tool("qemu-io", &args);
        let backing = Some(dir.read("backing.raw"));
        let mut disk = Disk::open(dir.read("i"), backing, model);
        disk.expect_model();
        disk.expect_clean();
        random_run(&mut disk, 14, 20);
        disk.expect_qemu_agrees(&format!("theirs-after-{name}"));
    }
}

#[test]
fn compressed_images_of_qemu_take_writes() {
    let Some(dir) = Scratch::with_qemu("subclusters-convert") else {
        return;
    };
    let mut model = noise(15, 1 << 20);
    model.iter_mut().for_each(|byte| *byte &= 0x11);
    model[200_000..400_000].fill(0);
    dir.write("model.raw", &model);
    let options = "extended_l2=on,cluster_size=32k";
    let convert = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
    dir.qemu_img(&[&convert[..], &["model.raw", "i"]].concat());
    let mut disk = Disk::open(dir.read("i"), None, model);
    disk.expect_model();
    disk.run("write 1k+1k aa; write 70k+100k bb; discard 200k+100k; zero 500k+70k; zero 900k+1k");
    disk.expect_qemu_agrees("subclusters-converted");
}

#[test]
fn snapshots_share_clusters_and_not_bitmaps() {
    let script = "write 0+100k 11; take a; write 50k+100k 22; zero 8k+1k; discard 0+32k; take b; \
                  zero 60k+30k; write 61k+1 33; apply a; write 3k+1k 44; delete a; write 90k+5k 55";
    for cluster_size in [16 * KIB, 128 * KIB] {
        let options = extended(256 * KIB, cluster_size);
        let mut album = check_album(&options, None, script);
        album.expect_qemu_agrees(&format!("subclusters-album-{cluster_size}"));
        let mut album = check_album(&over(options), Some(noise(16, 200 << 10)), script);
        album.expect_qemu_agrees(&format!("subclusters-album-over-{cluster_size}"));
    }
}

#[test]
fn random_snapshots_keep_data_and_qemu_agrees() {
    for seed in 0..6 {
        let backing = (seed % 2 == 0).then(|| noise(seed, 150 << 10));
        let options = extended(300 * KIB, (16 * KIB) << (seed % 3));
        let options = match &backing {
            Some(_) => over(options),
            None => options,
        };
        let mut album = Album::new(&options, backing);
        random_album(&mut album, seed + 60, 40);
        album.expect_qemu_agrees(&format!("subclusters-random-album-{seed}"));
    }
}

#[test]
fn an_emptied_image_shows_its_backing_file_again() {
    let model = noise(17, 1 << 20);
    let mut disk = check(
        &over(extended(1 << 20, 64 * KIB)),
        Some(model.clone()),
        "write 0+100k 11; zero 500k+1k; write 700k+1 22",
    );
    block_on(disk.image.make_empty(&disk.bench)).unwrap();
    disk.model = model;
    disk.expect_model();
    disk.expect_clean();
    disk.expect_qemu_agrees("subclusters-emptied");
}

#[test]
fn after_an_error_the_image_goes_on() {
    check_errors(&extended(256 * KIB, 16 * KIB));
}

#[test]
fn a_power_cut_at_any_point_loses_nothing_flushed() {
    let options = CreateOptions {
        refcount_bits: 64,
        ..extended(128 * KIB, 16 * KIB)
    };
    check_power_cuts(&options, 6);
}

#[test]
fn a_power_cut_leaves_the_snapshots_of_one_moment() {
    let options = extended(64 * KIB, 16 * KIB);
    check_cuts(
        18,
        &options,
        "write 0+20k 11; zero 3k+1k; take a; write 4k+9k 22; flush",
        "write 1k+512 33; take b; zero 0+2k; write 20k+2k 44; flush; apply a; write 3k+512 55; \
         delete b; flush",
    );
}

#[test]
fn writers_of_subclusters_do_not_disturb_readers() {
    for seed in 0..30 {
        let options = over(extended(512 * KIB, 16 * KIB));
        let mut disk = Disk::create(&options, Some(vec![1; 512 << 10]));
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let mut random = Random(seed * 2 + 1);
        let (bench, image) = (&disk.bench, &disk.image);
        for cluster in 0..32u64 {
            // Three writes into a cluster, one after the other, while readers look at it.
            let starts = [0; 3].map(|_| cluster * 16 * KIB + random.below(12 * KIB));
            for &start in &starts {
                let at = usize::try_from(start).unwrap();
                disk.model[at..at + 3000].fill(2);
            }
            tasks.push(Box::pin(async move {
                for start in starts {
                    let buf = IoBuf::copy_of(&[2; 3000]);
                    image.write(bench, start, buf).await.unwrap();
                }
                if cluster % 8 == 0 {
                    image.flush(bench).await.unwrap();
                }
            }));
            tasks.push(Box::pin(async move {
                for _ in 0..6 {
                    let buf = IoBuf::zeroed(16 << 10);
                    let read = image.read(bench, cluster * 16 * KIB, buf.clone());
                    read.await.unwrap();
                    let bytes = buf.to_vec();
                    assert!(bytes.iter().all(|byte| [1, 2].contains(byte)), "{seed}");
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

/// Replaces the first entry and its bitmap in an image whose first cluster has two subclusters of
/// data and one of zeroes: what a read, a write and `check` say, which must be what `qemu-img` says.
#[track_caller]
fn check_pair(name: &str, change: impl Fn(u64, u64) -> (u64, u64), want: Expect) {
    let options = extended(1 << 20, 64 * KIB);
    let mut disk = Disk::create(&options, None);
    disk.run("write 0+4k aa; zero 8k+2k; write 64k+2k bb; reopen");
    let mut bytes = disk.bench.file.bytes();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let l1 = usize::try_from(word(&bytes, 40)).unwrap();
    let l2 = usize::try_from(word(&bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    let (entry, bitmap) = change(word(&bytes, l2), word(&bytes, l2 + 8));
    bytes[l2..l2 + 8].copy_from_slice(&entry.to_be_bytes());
    bytes[l2 + 8..l2 + 16].copy_from_slice(&bitmap.to_be_bytes());
    let bench = bench(bytes.clone(), None);
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let report = block_on(image.check(&bench, Repair::None)).unwrap();
    let read = block_on(image.read(&bench, 0, IoBuf::zeroed(4096)));
    let wrote = block_on(image.write(&bench, 20, IoBuf::copy_of(&[1])));
    let zeroed = block_on(image.write_zeroes(&bench, 0..4096, ZeroFlags::default()));
    let text = |result: block_core::Result<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => error.chain(),
    };
    let (read, wrote, zeroed) = (text(read), text(wrote), text(zeroed));
    assert_eq!((&read, &read), (&wrote, &zeroed));
    let found = format!("{read}\n{}\n", report.messages.join("\n"));
    want.assert_eq(&found);
    // Its neighbour is as good as before.
    let buf = IoBuf::zeroed(2048);
    block_on(image.read(&bench, 64 * KIB, buf.clone())).unwrap();
    assert_eq!(buf.to_vec(), [0xbb; 2048]);
    let Some(dir) = Scratch::with_qemu(&format!("pair-{name}")) else {
        return;
    };
    let path = dir.write("i", &bytes);
    let out = Command::new("qemu-img").args(["check", &path]).output();
    let told = String::from_utf8(out.unwrap().stderr).unwrap();
    for message in &report.messages {
        assert!(told.contains(message), "{message} is not in {told}");
    }
}

#[test]
fn damaged_bitmaps_are_errors_for_their_cluster_and_told_by_check() {
    check_pair(
        "both",
        |entry, bitmap| (entry, bitmap | 1 << 32),
        expect![[r#"
            L2 entry 0x8000000000050000 for guest offset 0x0 has a subcluster that is both allocated and zero
            ERROR offset=50000: Allocated cluster has corrupted subcluster allocation bitmap
        "#]],
    );
    check_pair(
        "nowhere",
        |_, bitmap| (0, bitmap),
        expect![[r#"
            L2 entry 0x0000000000000000 for guest offset 0x0 has allocated subclusters, and no offset
            ERROR: Unallocated cluster has non-zero subcluster allocation map
            Leaked cluster 5 refcount=1 reference=0
        "#]],
    );
    check_pair(
        "packed",
        |entry, bitmap| (entry & !(1 << 63) | 1 << 62, bitmap),
        expect![[r#"
            L2 entry 0x4000000000050000 for guest offset 0x0 has a subcluster bitmap, which compressed clusters have not
            ERROR compressed cluster 0 with non-zero subcluster allocation bitmap, entry=0x4000000000050000
            Leaked cluster 5 refcount=1 reference=0
        "#]],
    );
}

#[test]
fn a_wrong_copied_flag_is_repaired_and_the_bitmap_stays() {
    let mut disk = check(
        &extended(1 << 20, 64 * KIB),
        None,
        "write 0+4k aa; zero 8k+2k; write 64k+2k bb",
    );
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let l1 = usize::try_from(word(&bytes, 40)).unwrap();
    let l2 = usize::try_from(word(&bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    bytes[l2] &= 0x7f;
    let mut disk = Disk::open(bytes, None, disk.model);
    let found = block_on(disk.image.check(&disk.bench, Repair::All)).unwrap();
    assert_eq!((found.corruptions, found.corruptions_fixed), (0, 1));
    disk.expect_model();
    disk.expect_qemu_agrees("subclusters-flag");
}

/// Damages an image, lets either program repair it, and compares what the disk is then.
#[track_caller]
fn check_repaired(name: &str, damage: impl Fn(&mut Vec<u8>, &Places)) {
    let mut disk = check(
        &over(extended(1 << 20, 64 * KIB)),
        Some(noise(19, 1 << 20)),
        "write 64k+4k aa; zero 72k+2k; write 200k+90k bb; zero 0+4k; zero 0+1k",
    );
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    let places = Places::of(&bytes);
    damage(&mut bytes, &places);
    let Some(dir) = Scratch::with_qemu(&format!("repaired-{name}")) else {
        return;
    };
    dir.write("backing.raw", &noise(19, 1 << 20));
    dir.write("theirs", &bytes);
    dir.qemu_img(&["check", "-q", "-r", "all", "theirs"]);
    let (code, repaired, messages) = checked(bytes, Repair::All);
    assert_eq!(code, 0, "{messages:#?}");
    dir.write("ours", &repaired);
    dir.qemu_img(&["check", "-q", "ours"]);
    dir.qemu_img(&["compare", "-q", "ours", "theirs"]);
    assert_eq!(
        dir.qemu_img(&["map", "--output=json", "ours"])
            .matches("zero\": true")
            .count(),
        dir.qemu_img(&["map", "--output=json", "theirs"])
            .matches("zero\": true")
            .count(),
    );
}

#[test]
fn repairs_keep_subclusters() {
    check_repaired("block-gone", |bytes, places| {
        bytes[places.table..places.table + 8].fill(0);
    });
    check_repaired("flag", |bytes, places| bytes[places.l2 + 16] ^= 0x80);
    // Nothing is stored in the cluster: it goes, and its zeroes stay.
    check_repaired("kept-unaligned", |bytes, places| {
        let entry = places.l2 + 16;
        bytes[entry + 6] |= 2;
        bytes[entry + 12..entry + 16].fill(0);
    });
}

#[test]
fn create_refuses_what_has_no_subclusters() {
    let refused = |options: CreateOptions| {
        let bench = bench(Vec::new(), None);
        let error = block_on(create(&bench, &options)).unwrap_err();
        assert!(bench.file.bytes().is_empty());
        error.chain()
    };
    let small = refused(extended(1 << 20, 8 * KIB));
    expect!["Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"]
        .assert_eq(&small);
    let old = CreateOptions {
        version: Version::V2,
        ..extended(1 << 20, 64 * KIB)
    };
    expect!["Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)"].assert_eq(&refused(old));
}

#[test]
fn a_node_tells_what_subclusters_are() {
    let dir = folder("subclusters-node");
    let path = dir.path("i.qcow2");
    let rig = rig(block_core::graph::policy::DenyAll);
    super::on_a_graph::create_file(&rig, &path, &extended(1 << 20, 128 * KIB));
    let node = rig.block_on(rig.layer.blockdev_add(&rig.queue, qcow2("top", &path)));
    let found = rig.disk(node.unwrap()).zeroed().run(
        "write 1k+1 aa; write 8k+8k bb; zero 9k+6k; read 0+20k; discard 0+64k; zero 12k+4k unmap; \
         status 0+256k; discard 0+128k; status 0+256k",
    );
    expect!["00*1k aa*1 00*7167 bb*1k 00*6k bb*1k 00*4k; data*4k unallocated*4k data*4k zero*4k unallocated*240k; zero*128k unallocated*128k"].assert_eq(&found);
    rig.block_on(rig.layer.close_all(&rig.queue)).unwrap();
}
