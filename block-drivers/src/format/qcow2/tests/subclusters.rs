//! Images with extended L2 entries: against a model, against `qemu-img`, and by what they copy.

use super::*;

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
        let backing = noise(
            cluster_bits,
            usize::try_from(size - cluster_size * 2).unwrap(),
        );
        let options = over(extended(size, cluster_size));
        let mut disk = Disk::create(&options, Some(backing));
        random_run(&mut disk, 400 + cluster_bits, 40);
        disk.expect_clean();
        disk.expect_qemu_agrees(&format!("subclusters-over-{cluster_bits}"));
    }
}
