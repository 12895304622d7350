//! `snapshot`, and `convert -l`, beside `qemu-img`.

use super::{Bench, beside};
use crate::support::{self, Random};

fn bench_with_snapshots() -> Option<Bench> {
    let bench = beside(&["qemu-img", "qemu-io"])?;
    let img = |words: &[&str]| bench.prepare("qemu-img", words);
    img(&["create", "-q", "-f", "qcow2", "i.qcow2", "4M"]);
    for (name, pattern) in [("one", "1"), ("two", "2"), ("1", "3")] {
        let write = format!("write -P {pattern} 100k 1M");
        bench.prepare("qemu-io", &["-c", &write, "i.qcow2"]);
        img(&["snapshot", "-c", name, "i.qcow2"]);
    }
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "refcount_bits=1",
        "bits.qcow2",
        "1M",
    ]);
    bench.prepare("qemu-io", &["-c", "write 0 64k", "bits.qcow2"]);
    img(&["create", "-q", "-f", "raw", "r.raw", "1M"]);
    Some(bench)
}

#[test]
fn snapshots_are_listed_and_refused_as_in_qemu() {
    let Some(bench) = bench_with_snapshots() else {
        return;
    };
    for words in [
        &["-l", "i.qcow2"][..],
        &["i.qcow2"],
        &["-l", "-U", "i.qcow2"],
        &["-l", "-q", "r.raw"],
        &["-l", "--image-opts", "driver=qcow2,file.filename=i.qcow2"],
        &["-a", "nope", "i.qcow2"],
        &["-d", "nope", "i.qcow2"],
        &["-d", "2", "i.qcow2"],
        &["-c", "a", "bits.qcow2"],
        &["-c", "a", "r.raw"],
        &["-a", "a", "--image-opts", "driver=raw,file.filename=r.raw"],
        &["-d", "a", "r.raw"],
        &["-l", "-a", "one", "i.qcow2"],
        &["-c", "one", "-d", "one", "i.qcow2"],
        &["-l"],
        &["-l", "i.qcow2", "i.qcow2"],
        &["-l", "nowhere"],
    ] {
        bench.check_same("qemu-img", &[&["snapshot"], words].concat());
    }
    bench.check_same("qemu-img", &["check", "i.qcow2"]);
    bench.check_same_json("qemu-img", &["info", "--output=json", "i.qcow2"]);
}

#[test]
fn a_snapshot_is_converted_by_id_or_name() {
    let Some(bench) = bench_with_snapshots() else {
        return;
    };
    for snapshot in [
        "one",
        "1",
        "two",
        "snapshot.name=two",
        "snapshot.id=3",
        "snapshot.id=2,snapshot.name=two",
        "snapshot.id=1,snapshot.name=two",
        "nope",
        "snapshot.id=one",
    ] {
        let words = |target| ["convert", "-l", snapshot, "-O", "raw", "i.qcow2", target];
        let (ours, theirs) = (
            bench.ours("qemu-img", &words("ours.raw")),
            bench.theirs("qemu-img", &words("theirs.raw")),
        );
        assert_eq!(ours, theirs, "{snapshot}");
        if ours.code == Some(0) {
            let read = |name| std::fs::read(bench.path(name)).expect("a copy");
            assert!(read("ours.raw") == read("theirs.raw"), "{snapshot}");
        }
    }
    let two = [
        "convert", "-l", "one", "-O", "raw", "i.qcow2", "i.qcow2", "x",
    ];
    bench.check_same("qemu-img", &two);
}

/// One of the programs does each step; afterwards both find the image clean, and each snapshot
/// holds what the disk was.
#[test]
fn programs_take_turns_at_one_image() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let mut random = Random::new(support::seed("programs_take_turns_at_one_image"));
    for options in [
        "cluster_size=4k",
        "compat=0.10,cluster_size=512",
        "cluster_size=64k,refcount_bits=8",
    ] {
        bench.prepare(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, "t", "2M"],
        );
        let mut names: Vec<String> = Vec::new();
        for step in 0..24 {
            let ours = random.below(2) == 0;
            let run = |tool: &str, words: &[&str]| match ours {
                true => {
                    let said = bench.ours(tool, words);
                    assert_eq!(said.code, Some(0), "{tool} {words:?}: {said:?}");
                }
                false => bench.prepare(tool, words),
            };
            let pick = support::usize(random.below(names.len().max(1) as u64));
            match (random.below(6), names.get(pick).cloned()) {
                (0, _) => {
                    let name = format!("s{step}");
                    run("qemu-img", &["snapshot", "-c", &name, "t"]);
                    bench.prepare("qemu-img", &["convert", "-O", "raw", "t", &name]);
                    names.push(name);
                }
                (1, Some(name)) => {
                    run("qemu-img", &["snapshot", "-a", &name, "t"]);
                    bench.prepare("qemu-img", &["compare", "-q", "-F", "raw", "t", &name]);
                }
                (2, Some(name)) => {
                    run("qemu-img", &["snapshot", "-d", &name, "t"]);
                    names.remove(pick);
                }
                (verb, _) => {
                    let at = random.below(3000) * 512;
                    let len = (1 + random.below(400)) * 512;
                    let verb = match verb {
                        3 => format!("write -P {} {at} {len}", step + 1),
                        4 => format!("write -z -u {at} {len}"),
                        _ => format!("discard {at} {len}"),
                    };
                    run("qemu-io", &["-c", &verb, "t"]);
                }
            }
            bench.prepare("qemu-img", &["check", "-q", "t"]);
            let said = bench.ours("qemu-img", &["check", "-q", "t"]);
            assert_eq!(said.code, Some(0), "{said:?}");
            for name in &names {
                for who in [Bench::ours, Bench::theirs] {
                    let words = ["convert", "-l", name, "-O", "raw", "t", "now"];
                    assert_eq!(who(&bench, "qemu-img", &words).code, Some(0));
                    let read = |name: &str| std::fs::read(bench.path(name)).expect("a copy");
                    assert!(
                        read("now") == read(name),
                        "{options}: {name} after step {step}"
                    );
                }
            }
        }
    }
}
