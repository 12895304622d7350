//! Compressed writes: what is stored, where, and what a power cut leaves of it.

use super::*;
use crate::format::qcow2::layout::L2Entry;
use crate::kit::addr::HostOffset;

impl Disk {
    pub(super) fn pack(&mut self, at: u64, bytes: &[u8]) {
        let buf = IoBuf::copy_of(bytes);
        block_on(self.image.write_compressed(&self.bench, at, buf)).unwrap();
        let start = usize::try_from(at).unwrap();
        self.model[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// The entry of a byte of the disk.
    pub(super) fn entry(&self, at: u64) -> L2Entry {
        let geometry = self.image.geometry;
        let guest = crate::kit::addr::GuestOffset(at);
        let table = block_on(self.image.table(&self.bench, geometry.l1_index(guest)));
        let table = table.unwrap().unwrap();
        self.image.entry_at(&table, geometry.l2_index(guest)).entry
    }

    fn count_at(&self, host: HostOffset) -> u64 {
        let cluster = self.image.geometry.cluster_of(host);
        block_on(self.image.refcount(&self.bench, cluster)).unwrap()
    }
}

/// Bytes that become about half as long.
fn half_noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = noise(seed, len);
    bytes.iter_mut().for_each(|byte| *byte &= 0x0f);
    bytes
}

fn of_clusters(cluster_size: u64, size: u64) -> CreateOptions {
    CreateOptions {
        cluster_size,
        ..sized(size)
    }
}

/// A random script in which half of the writes are compressed.
fn random_packs(disk: &mut Disk, seed: u64, steps: u64) {
    let mut random = Random(seed | 1);
    let size = disk.model.len() as u64;
    let cluster = disk.image.geometry.cluster_size();
    for _ in 0..steps {
        let at = random.below(size);
        let len = (1 + random.below(size - at)).min(1 + random.below(size / 4));
        let (start, end) = (at / cluster * cluster, (at + len).next_multiple_of(cluster));
        let whole = usize::try_from(end.min(size) - start).unwrap();
        let seed = random.below(u64::MAX);
        match random.below(14) {
            0 => disk.run("flush"),
            1 => disk.reopen(),
            2 => disk.zero(at, len, true),
            3 => disk.discard(at, len),
            4 => disk.pack(start, &vec![0; whole]),
            5 => disk.pack(start, &noise(seed, whole)),
            6..10 => disk.pack(start, &half_noise(seed, whole)),
            _ => disk.write(at, &noise(seed, usize::try_from(len).unwrap())),
        }
    }
    disk.expect_model();
}

#[test]
fn every_geometry_packs_and_qemu_agrees() {
    for (n, cluster_bits) in (9..=21).enumerate() {
        let size = (1u64 << cluster_bits).min(1 << 16) * 40 + 512;
        let options = CreateOptions {
            refcount_bits: 1 << (n % 7),
            compression: [Compression::Deflate, Compression::Zstd][n % 2],
            ..of_clusters(1 << cluster_bits, size)
        };
        let mut disk = Disk::create(&options, None);
        random_packs(&mut disk, 300 + n as u64, if n > 7 { 12 } else { 40 });
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("pack-{cluster_bits}"));
    }
}

#[test]
fn every_version_packs_over_a_backing_file() {
    for (n, version) in [Version::V2, Version::V3].into_iter().enumerate() {
        let options = CreateOptions {
            version,
            cluster_size: 4096,
            ..over_backing(1 << 20)
        };
        let mut disk = Disk::create(&options, Some(noise(7, 1_000_000)));
        random_packs(&mut disk, 400 + n as u64, 80);
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("pack-version-{n}"));
    }
}

#[test]
fn clusters_with_subclusters_are_packed_whole() {
    let options = CreateOptions {
        extended_l2: true,
        ..of_clusters(16_384, 1 << 20)
    };
    let mut disk = Disk::create(&options, None);
    random_packs(&mut disk, 500, 80);
    disk.expect_clean();
    disk.expect_qemu_agrees("pack-extended");
}

#[test]
fn clusters_lie_next_to_each_other() {
    let mut disk = check(&sized(8 << 20), None, "");
    let before = disk.bench.file.bytes().len();
    let data = half_noise(1, 8 << 20);
    disk.pack(0, &data);
    disk.run("flush");
    let len = disk.bench.file.bytes().len() - before;
    let (first, last) = (disk.entry(0), disk.entry((8 << 20) - 1));
    let (first, last) = (first.compressed(16), last.compressed(16));
    // One L2 table, and nothing lost between the clusters.
    let spanned = last.host.0 + last.len - first.host.0;
    assert!(spanned + 3 * 65536 > len as u64, "{spanned} of {len}");
    assert!(len < data.len() * 6 / 10, "{len}");
    disk.expect_model();
    disk.expect_clean();
}

#[test]
fn what_does_not_get_shorter_is_stored_as_it_is() {
    let mut disk = check(&sized(1 << 20), None, "");
    disk.pack(0, &noise(2, 128 << 10));
    assert!(!disk.entry(0).is_compressed() && disk.entry(0).is_copied());
    disk.run("pack 0+64k 00");
    assert_eq!(disk.entry(0), L2Entry::ZERO);
    disk.expect_model();
    disk.expect_clean();
}

#[test]
fn the_end_of_the_disk_may_cut_a_cluster() {
    let mut disk = check(&sized((1 << 20) + 512), None, "pack 1024k+512 aa");
    assert!(disk.entry(1 << 20).is_compressed());
    disk.expect_qemu_agrees("pack-end");
    disk.run("resize 2m; pack 1024k+64k bb");
    disk.expect_model();
    disk.expect_clean();
}

#[test]
fn counts_are_as_high_as_they_can_be() {
    for (refcount_bits, most) in [(1, 1), (2, 3), (4, 15)] {
        let options = CreateOptions {
            refcount_bits,
            ..sized(4 << 20)
        };
        let mut disk = check(&options, None, "pack 0+4m aa");
        let entry = disk.entry(0);
        assert_eq!(disk.count_at(entry.compressed(16).host), most);
        disk.expect_qemu_agrees(&format!("pack-width-{refcount_bits}"));
    }
}

#[test]
fn an_emptied_host_cluster_is_open_no_longer() {
    let mut disk = check(&sized(1 << 20), None, "pack 0+64k aa");
    disk.run("pack 0+64k aa; pack 64k+64k bb; flush; discard 0+128k; flush; flush");
    // The next write takes the host cluster that was open.
    disk.run("write 128k+64k cc; pack 192k+64k dd; flush");
    disk.expect_model();
    disk.expect_clean();
    let (plain, packed) = (disk.entry(128 << 10).host(), disk.entry(192 << 10));
    let packed = disk.image.geometry.floor(packed.compressed(16).host.0);
    assert_ne!(plain.0, packed);
}

#[test]
fn packing_goes_on_in_a_host_cluster_that_snapshots_share() {
    let mut disk = check(&sized(1 << 20), None, "");
    disk.run("pack 0+64k aa");
    let info =
        block_schema::types::SnapshotInfo::new(String::new(), "one".to_owned(), 0, 0, 0, 0, 0);
    let change = block_core::driver::SnapshotChange::Create(info);
    block_on(disk.image.snapshot(&disk.bench, change)).unwrap();
    disk.run("pack 64k+64k bb; pack 0+64k cc");
    disk.expect_model();
    disk.reopen();
    disk.expect_clean();
    disk.expect_qemu_agrees("pack-snapshot");
}

#[test]
fn qemu_packs_behind_us_and_we_behind_qemu() {
    let Some(dir) = super::Scratch::with_qemu("pack-turns") else {
        return;
    };
    let mut disk = check(&of_clusters(4096, 1 << 20), None, "");
    for round in 0..4_u64 {
        let at = round * 200_704;
        disk.pack(at, &half_noise(round, 65_536));
        disk.reopen();
        let image = dir.write("i", &disk.bench.file.bytes());
        let from = at + 65_536;
        let command = format!("write -c -P {} {from} 131072", round + 1);
        dir.tool("qemu-io", &["-f", "qcow2", "-c", &command, &image]);
        let start = usize::try_from(from).unwrap();
        disk.model[start..start + 131_072].fill(u8::try_from(round + 1).unwrap());
        disk = Disk::open(dir.read("i"), None, disk.model);
        disk.expect_model();
        disk.expect_clean();
    }
    disk.expect_qemu_agrees("pack-turns-after");
}

#[test]
fn only_whole_clusters_of_images_that_take_them_are_packed() {
    let refused = |disk: &Disk, at: u64, len: usize| {
        let buf = IoBuf::zeroed(len);
        let written = block_on(disk.image.write_compressed(&disk.bench, at, buf));
        written.unwrap_err().errno()
    };
    let disk = check(&sized(1 << 20), None, "");
    assert_eq!(refused(&disk, 512, 65536), rustix::io::Errno::INVAL);
    assert_eq!(refused(&disk, 0, 512), rustix::io::Errno::INVAL);
    let options = CreateOptions {
        encryption: Some(CreateEncryption::Aes(Secret::new(b"key".to_vec()))),
        ..sized(1 << 20)
    };
    let disk = Disk::create(&options, None);
    assert_eq!(refused(&disk, 0, 65536), rustix::io::Errno::NOTSUP);
}

#[test]
fn packs_at_the_same_time_share_host_clusters() {
    for seed in 0..10 {
        let mut disk = Disk::create(&of_clusters(4096, 1 << 20), None);
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let (bench, image) = (&disk.bench, &disk.image);
        for slot in 0..32usize {
            let at = slot * 32_768;
            let bytes = half_noise(seed * 100 + slot as u64, 20_480);
            disk.model[at..at + bytes.len()].copy_from_slice(&bytes);
            tasks.push(Box::pin(async move {
                let buf = IoBuf::copy_of(&bytes);
                let written = match slot % 4 {
                    0 => image.write(bench, at as u64, buf).await,
                    _ => image.write_compressed(bench, at as u64, buf).await,
                };
                written.unwrap();
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
fn after_an_error_packing_goes_on() {
    for budget in (0..150).step_by(7) {
        let mut disk = Disk::create(&of_clusters(512, 256 << 10), None);
        disk.run("pack 0+10k 11; flush");
        disk.bench.file.fail_after(Some(budget));
        for step in 0..20u64 {
            let buf = IoBuf::copy_of(&half_noise(step, 4096));
            let at = step * 8192;
            let _ = block_on(disk.image.write_compressed(&disk.bench, at, buf));
            if step % 5 == 0 {
                let _ = block_on(disk.image.flush(&disk.bench));
            }
        }
        disk.bench.file.fail_after(None);
        for step in 0..20u64 {
            disk.pack(step * 8192, &half_noise(step, 4096));
        }
        disk.expect_model();
        disk.reopen();
        disk.expect_model();
        disk.expect_clean();
    }
}

#[test]
fn a_power_cut_loses_no_packed_cluster_that_was_flushed() {
    for seed in 0..3u64 {
        let options = CreateOptions {
            refcount_bits: [64, 2, 1][usize::try_from(seed % 3).unwrap()],
            ..of_clusters(512, 128 << 10)
        };
        let backing = (seed % 2 == 0).then(|| noise(6, 128 << 10));
        cut_power(&options, backing, seed, |disk, random, step| {
            let (start, len) = (random.below(220) * 512, (1 + random.below(30)) * 512);
            let bytes = half_noise(step * 31 + seed, usize::try_from(len).unwrap());
            match random.below(8) {
                0 => disk.discard(start, len),
                1 => disk.write(start + 7, &bytes),
                _ => disk.pack(start, &bytes),
            }
            start..start + 7 + len
        });
    }
}
