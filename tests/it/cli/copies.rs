//! `convert`: how fast it may be, what it takes for zeroes, and what it does with damage.

use std::time::{Duration, Instant};

use super::{Bench, beside};

/// Damages the bytes of the compressed cluster that a qcow2 made by `qemu-img` begins with.
fn damage_compressed(bench: &Bench, name: &str) {
    let path = bench.path(name);
    let mut bytes = std::fs::read(&path).expect("an image");
    let word = |bytes: &[u8], at: usize| {
        let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        usize::try_from(u64::from_be_bytes(word) & 0x3f_ffff_ffff_ffff).expect("a place")
    };
    let l1 = word(&bytes, 40);
    let l2 = word(&bytes, l1) & !0x1ff;
    let stream = word(&bytes, l2);
    bytes[stream..stream + 16].fill(0xff);
    std::fs::write(&path, bytes).expect("the image");
}

#[test]
fn what_cannot_be_read_becomes_zeroes_when_salvaging() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "d.raw", "256k"]);
    bench.prepare(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 7 0 256k", "d.raw"],
    );
    let pack = [
        "convert", "-c", "-f", "raw", "-O", "qcow2", "d.raw", "d.qcow2",
    ];
    bench.prepare("qemu-img", &pack);
    damage_compressed(&bench, "d.qcow2");
    bench.check_same(
        "qemu-img",
        &["convert", "-m", "1", "-O", "raw", "d.qcow2", "out.raw"],
    );
    for quiet in [&[][..], &["-q"]] {
        let words = ["convert", "--salvage", "-O", "raw"];
        let words = [&words[..], quiet, &["d.qcow2", "out.raw"]].concat();
        bench.check_same("qemu-img", &words);
    }
    let words = [
        "convert",
        "-q",
        "--salvage",
        "-O",
        "raw",
        "d.qcow2",
        "out.raw",
    ];
    assert_eq!(bench.ours("qemu-img", &words).code, Some(0));
    let bytes = std::fs::read(bench.path("out.raw")).expect("the copy");
    assert!(bytes[..65536].iter().all(|&byte| byte == 0));
    assert!(bytes[65536..].iter().all(|&byte| byte == 7));
}

#[test]
fn a_copy_keeps_to_its_rate() {
    let bench = Bench::new();
    let bytes = vec![5; 8 << 20];
    std::fs::write(bench.path("d.raw"), &bytes).expect("a disk");
    let copy = |rate: &str| {
        let started = Instant::now();
        let said = bench.ours(
            "qemu-img",
            &[
                "convert", "-r", rate, "-f", "raw", "-O", "raw", "d.raw", "copy.raw",
            ],
        );
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(std::fs::read(bench.path("copy.raw")).expect("the copy") == bytes);
        started.elapsed()
    };
    // The last two of eight MiB start when six are in time.
    let slow = copy("8M");
    assert!(slow >= Duration::from_millis(750), "{slow:?}");
    copy("0");
    let said = bench.ours("qemu-img", &["convert", "-r", "x", "d.raw", "copy.raw"]);
    assert_eq!(said.err, "qemu-img: Invalid rate limit specified: 'x'.\n");
}

#[test]
fn an_offloaded_copy_has_the_zeroes_that_its_source_stores() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "d.qcow2", "1M"],
    );
    bench.prepare("qemu-io", &["-c", "write -P 0 0 256k", "d.qcow2"]);
    let map = |more: &[&str]| {
        let words = [
            &["convert", "-O", "qcow2"],
            more,
            &["d.qcow2", "copy.qcow2"],
        ]
        .concat();
        let said = bench.ours("qemu-img", &words);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let said = bench.theirs("qemu-img", &["map", "--output=json", "copy.qcow2"]);
        said.out.contains(r#""data": true"#)
    };
    assert!(!map(&[]));
    assert!(map(&["-C"]));
    for more in [["-C", "-c"], ["-C", "-S4k"], ["-C", "--salvage"]] {
        let words = [
            &["convert", "-O", "qcow2"],
            &more[..],
            &["d.qcow2", "copy.qcow2"],
        ];
        bench.check_same("qemu-img", &words.concat());
    }
}
