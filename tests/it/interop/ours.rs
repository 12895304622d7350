//! Images that we make: `qemu-img` tells of them what it tells of its own, and writes to them.

use crate::support::{Random, seed};

use super::json::{self, Free};
use super::{Disk, Io, Ops, Place, Shape};

const SIZE: u64 = 8 << 20;

#[track_caller]
fn check(options: &'static str, backing: Option<(&'static str, u64)>) {
    let Some(place) = Place::with(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let mut random = Random::new(seed(options));
    let shape = Shape {
        options,
        backing,
        size: SIZE,
    };
    let mut disk = Disk::new(&place, shape, &mut random);
    let told = ["qemu-img", "qblk"].map(|program| {
        place.run(program, &shape.create("disk", &SIZE.to_string()));
        place.run("qemu-img", &["info", "--output=json", "disk"])
    });
    let [theirs, ours] = told;
    // How many blocks the file system gave is not the format's business.
    json::assert_same("info", &ours, &theirs, Free::Member("actual-size"));
    place.qemu_agrees("disk", &disk.bytes);
    place.same_answers("disk");

    let commands = Ops(&mut random).any(&mut disk, 30);
    place.io(Io::Theirs, "qcow2", "disk", &commands);
    place.we_read("disk", &disk.bytes);
    place.same_answers("disk");
    let commands = Ops(&mut random).any(&mut disk, 30);
    place.io(Io::Ours, "qcow2", "disk", &commands);
    place.qemu_agrees("disk", &disk.bytes);

    // A copy of it alone, in the same shape.
    let (source, target) = (["-f", "qcow2", "disk"], ["-O", "qcow2", "copy"]);
    let copy = ["convert", "-o", options];
    place.run("qblk", &[&copy[..], &source, &target].concat());
    place.qemu_agrees("copy", &disk.bytes);
    place.same_answers("copy");
}

#[test]
fn subclusters() {
    check("cluster_size=65536,extended_l2=on", None);
}

#[test]
fn smallest_subclusters_over_a_shorter_file() {
    let options = "cluster_size=16384,extended_l2=on,refcount_bits=64";
    check(options, Some(("qcow2", SIZE / 2)));
}

#[test]
fn largest_subclusters_over_raw() {
    let options = "cluster_size=2097152,extended_l2=on";
    check(options, Some(("raw", SIZE)));
}

#[test]
fn preallocated_subclusters() {
    let options = "cluster_size=65536,extended_l2=on,preallocation=metadata";
    check(options, None);
}

#[test]
fn smallest_clusters() {
    check("cluster_size=512,refcount_bits=64", None);
}

#[test]
fn smallest_clusters_of_version_2_over_raw() {
    check("cluster_size=512,compat=0.10", Some(("raw", SIZE)));
}

#[test]
fn small_clusters_over_qcow2() {
    let options = "cluster_size=4096,refcount_bits=1,compression_type=zstd";
    check(options, Some(("qcow2", SIZE)));
}

#[test]
fn usual_clusters() {
    check("cluster_size=65536", None);
}

#[test]
fn usual_clusters_of_version_2() {
    check("cluster_size=65536,compat=0.10", None);
}

#[test]
fn usual_clusters_over_a_shorter_file() {
    let options = "cluster_size=65536,lazy_refcounts=on,refcount_bits=64";
    check(options, Some(("qcow2", SIZE / 2)));
}

#[test]
fn largest_clusters_over_raw() {
    let options = "cluster_size=2097152,refcount_bits=1";
    check(options, Some(("raw", SIZE)));
}

#[test]
fn with_metadata_for_everything() {
    check("cluster_size=4096,preallocation=metadata", None);
}
