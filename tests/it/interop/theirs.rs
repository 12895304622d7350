//! Images that QEMU makes: we tell of them what `qemu-img` tells, read what is in them, and write
//! to them so that QEMU finds them clean and equal to a model.

use crate::support::{Random, seed, usize};

use super::{Disk, Io, Ops, Place, Shape};

const MIB: u64 = 1 << 20;

/// Whether an image starts with compressed clusters.
#[derive(Clone, Copy, Debug)]
enum Start {
    Plain,
    Compressed,
}

use Start::{Compressed, Plain};

#[track_caller]
fn check(options: &'static str, backing: Option<(&'static str, u64)>, size: u64, start: Start) {
    let Some(place) = Place::with(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let mut random = Random::new(seed(options));
    let shape = Shape {
        options,
        backing,
        size,
    };
    let mut disk = Disk::new(&place, shape, &mut random);
    place.run("qemu-img", &shape.create("disk", &size.to_string()));
    let mut commands = match start {
        Plain => Vec::new(),
        Compressed => Ops(&mut random).compressed(&mut disk),
    };
    commands.extend(Ops(&mut random).any(&mut disk, 20));
    place.io(Io::Theirs, "qcow2", "disk", &commands);
    place.qemu_agrees("disk", &disk.bytes);
    place.we_read("disk", &disk.bytes);
    place.same_answers("disk");

    let mut commands = Ops(&mut random).any(&mut disk, 25);
    commands.extend(Ops(&mut random).at_once(&mut disk, 16));
    commands.extend(Ops(&mut random).any(&mut disk, 15));
    place.io(Io::Ours, "qcow2", "disk", &commands);
    place.qemu_agrees("disk", &disk.bytes);
    place.same_answers("disk");

    let commands = Ops(&mut random).any(&mut disk, 15);
    place.io(Io::Theirs, "qcow2", "disk", &commands);
    place.we_read("disk", &disk.bytes);
    place.qemu_agrees("disk", &disk.bytes);
}

/// Snapshots inside an image keep what they hold while we write to the disk and resize it.
#[track_caller]
fn check_snapshots(options: &'static str, size: u64, start: Start) {
    let Some(place) = Place::with(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let mut random = Random::new(seed(options));
    let shape = Shape {
        options,
        backing: None,
        size,
    };
    let mut disk = Disk::new(&place, shape, &mut random);
    place.run("qemu-img", &shape.create("disk", &size.to_string()));
    if let Compressed = start {
        let commands = Ops(&mut random).compressed(&mut disk);
        place.io(Io::Theirs, "qcow2", "disk", &commands);
    }
    let mut kept = Vec::new();
    for name in ["first", "second", "third"] {
        let commands = Ops(&mut random).any(&mut disk, 20);
        place.io(Io::Ours, "qcow2", "disk", &commands);
        place.run("qemu-img", &["snapshot", "-c", name, "disk"]);
        kept.push((name, disk.bytes.clone()));
        place.same_answers("disk");
    }
    place.run("qemu-img", &["snapshot", "-d", "second", "disk"]);
    kept.remove(1);
    let commands = Ops(&mut random).any(&mut disk, 30);
    place.io(Io::Ours, "qcow2", "disk", &commands);
    place.qemu_agrees("disk", &disk.bytes);

    // Version 2 does not know how long the disk was at a snapshot.
    if !options.contains("compat=0.10") {
        disk.bytes.resize(usize(size + size / 2), 0);
        let len = disk.bytes.len().to_string();
        place.run("qblk", &["resize", "-q", "-f", "qcow2", "disk", &len]);
        place.qemu_agrees("disk", &disk.bytes);
        place.same_answers("disk");
    }
    for (name, bytes) in kept {
        place.run("qemu-img", &["convert", "-l", name, "disk", "read.raw"]);
        let read = std::fs::read(place.path("read.raw")).expect("a file");
        // QEMU reads a snapshot at the length that the disk has now.
        assert!(read.starts_with(&bytes), "snapshot {name} has changed");
    }
}

#[test]
fn snapshots() {
    check_snapshots("cluster_size=65536", 8 * MIB, Plain);
}

#[test]
fn snapshots_of_small_clusters_compressed() {
    let options = "cluster_size=4096,refcount_bits=64,compression_type=zstd";
    check_snapshots(options, 4 * MIB, Compressed);
}

#[test]
fn snapshots_of_smallest_clusters_of_version_2() {
    check_snapshots("cluster_size=512,compat=0.10", 2 * MIB, Compressed);
}

#[test]
fn subclusters() {
    check("cluster_size=65536,extended_l2=on", None, 8 * MIB, Plain);
}

#[test]
fn subclusters_over_raw() {
    let options = "cluster_size=131072,extended_l2=on,refcount_bits=8";
    check(options, Some(("raw", 6 * MIB)), 8 * MIB, Plain);
}

#[test]
fn smallest_subclusters_compressed() {
    let options = "cluster_size=16384,extended_l2=on,compression_type=zstd";
    check(options, Some(("qcow2", 8 * MIB)), 8 * MIB, Compressed);
}

#[test]
fn snapshots_of_subclusters() {
    let options = "cluster_size=32768,extended_l2=on";
    check_snapshots(options, 4 * MIB, Compressed);
}

#[test]
fn smallest_clusters() {
    check("cluster_size=512", None, 8 * MIB, Plain);
}

#[test]
fn smallest_clusters_and_refcounts_over_raw() {
    let backing = Some(("raw", 8 * MIB));
    check("cluster_size=512,refcount_bits=1", backing, 8 * MIB, Plain);
}

#[test]
fn smallest_clusters_compressed_with_zstd() {
    let options = "cluster_size=512,refcount_bits=64,compression_type=zstd";
    check(options, Some(("qcow2", 4 * MIB)), 8 * MIB, Compressed);
}

#[test]
fn smallest_clusters_of_version_2() {
    let backing = Some(("qcow2", 8 * MIB));
    check("cluster_size=512,compat=0.10", backing, 8 * MIB, Compressed);
}

#[test]
fn small_clusters_of_version_2() {
    check("cluster_size=4096,compat=0.10", None, 8 * MIB, Compressed);
}

#[test]
fn small_clusters_over_a_longer_file() {
    let options = "cluster_size=4096,refcount_bits=64";
    check(options, Some(("raw", 9 * MIB)), 8 * MIB + 1536, Plain);
}

#[test]
fn small_clusters_compressed_over_qcow2() {
    let options = "cluster_size=4096,refcount_bits=16,compression_type=zstd";
    check(options, Some(("qcow2", 8 * MIB)), 8 * MIB, Compressed);
}

#[test]
fn small_clusters_of_one_bit_refcounts() {
    check("cluster_size=4096,refcount_bits=1", None, 8 * MIB, Plain);
}

#[test]
fn usual_clusters_compressed() {
    check("cluster_size=65536", None, 16 * MIB, Compressed);
}

#[test]
fn usual_clusters_over_a_shorter_file() {
    let options = "cluster_size=65536,lazy_refcounts=on";
    check(options, Some(("qcow2", 5 * MIB + 512)), 16 * MIB, Plain);
}

#[test]
fn usual_clusters_of_version_2_over_raw() {
    let backing = Some(("raw", 6 * MIB));
    check("cluster_size=65536,compat=0.10", backing, 12 * MIB, Plain);
}

#[test]
fn usual_clusters_with_wide_refcounts_compressed_with_zstd() {
    let options = "cluster_size=65536,refcount_bits=64,compression_type=zstd";
    check(options, Some(("raw", 8 * MIB)), 8 * MIB + 4096, Compressed);
}

#[test]
fn largest_clusters_over_qcow2() {
    let options = "cluster_size=2097152,refcount_bits=1";
    check(options, Some(("qcow2", 16 * MIB)), 16 * MIB, Plain);
}

#[test]
fn largest_clusters_of_version_2_compressed() {
    let options = "cluster_size=2097152,compat=0.10";
    check(options, None, 16 * MIB - 512, Compressed);
}
