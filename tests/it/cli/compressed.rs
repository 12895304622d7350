//! Compressed writes by the tools: `convert -c`, `rebase -c` and `io`'s `write -c`, beside QEMU's.

use super::{Bench, beside};

/// A disk of 20 MiB and a bit, with text, noise, zeroes and holes.
fn bench_with_disk() -> Option<Bench> {
    let bench = beside(&["qemu-img", "qemu-io"])?;
    let mut disk = vec![0; (20 << 20) + 1536];
    for (number, (index, byte)) in (0_u32..).zip(disk.iter_mut().enumerate()) {
        let word = number.wrapping_mul(2_654_435_761);
        *byte = match (index >> 18) % 5 {
            0 => 0,
            1 => word.to_le_bytes()[3],
            2 => b'a' + word.to_le_bytes()[3] % 7,
            3 => 0x55,
            _ => (index >> 9).to_le_bytes()[0],
        };
    }
    std::fs::write(bench.path("disk.raw"), &disk).expect("a disk");
    bench.prepare(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "disk.raw",
            "disk.qcow2",
        ],
    );
    Some(bench)
}

/// Both programs do it with a file of their own, which holds the same after; `target` is its name.
#[track_caller]
fn check_written(bench: &Bench, words: &[&str], before: Option<&[&str]>) {
    let mut sizes = Vec::new();
    for ours in [true, false] {
        if let Some(before) = before {
            bench.prepare("qemu-img", before);
        }
        let said = match ours {
            true => bench.ours("qemu-img", words),
            false => bench.theirs("qemu-img", words),
        };
        assert_eq!(said.code, Some(0), "{words:?}: {said:?}");
        bench.prepare("qemu-img", &["check", "-q", "target"]);
        let compare = ["compare", "-q", "-f", "raw", "disk.raw", "target"];
        bench.prepare("qemu-img", &compare);
        let ours = bench.ours(
            "qemu-img",
            &["compare", "-q", "-f", "raw", "disk.raw", "target"],
        );
        assert_eq!(ours.code, Some(0), "{words:?}: {ours:?}");
        let len = std::fs::metadata(bench.path("target"))
            .expect("a file")
            .len();
        sizes.push(len);
        let said = bench.theirs("qemu-img", &["check", "--output=json", "target"]);
        assert!(
            said.out.contains("compressed-clusters"),
            "{words:?}: {said:?}"
        );
        std::fs::remove_file(bench.path("target")).expect("a file");
    }
    assert!(sizes[0] * 100 <= sizes[1] * 104, "{words:?}: {sizes:?}");
}

#[test]
fn convert_compresses_what_qemu_img_does() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let ways: &[&[&str]] = &[
        &[],
        &["-m", "16", "-W"],
        &["-o", "compression_type=zstd"],
        &["-o", "cluster_size=2M", "-m", "4"],
        &["-o", "cluster_size=4k,refcount_bits=1", "-W"],
        &["-o", "compat=0.10"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-S", "0"],
        &["-S", "64k", "-t", "none"],
    ];
    for way in ways {
        let words = [
            &["convert", "-c", "-O", "qcow2"],
            *way,
            &["disk.qcow2", "target"],
        ]
        .concat();
        check_written(&bench, &words, None);
    }
    let made = ["create", "-q", "-f", "qcow2", "target", "20973056"];
    let words = ["convert", "-c", "-n", "-O", "qcow2", "disk.qcow2", "target"];
    check_written(&bench, &words, Some(&made));
}

#[test]
fn units_of_compression_go_over_the_ends_of_sources() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let disk = std::fs::read(bench.path("disk.raw")).expect("a disk");
    for (name, part) in [("a", 0..100_352), ("b", 100_352..5_000_192)] {
        std::fs::write(bench.path(name), &disk[part]).expect("a part");
    }
    std::fs::write(bench.path("c"), &disk[5_000_192..]).expect("a part");
    let words = [
        "convert", "-c", "-f", "raw", "-O", "qcow2", "a", "b", "c", "target",
    ];
    check_written(&bench, &words, None);
}

#[test]
fn a_target_with_a_backing_file_shares_what_it_can() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let overlay = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "disk.qcow2",
        "-F",
        "qcow2",
    ];
    bench.prepare("qemu-img", &[&overlay[..], &["top.qcow2"]].concat());
    let change = "write -P 9 1M 3M";
    bench.prepare(
        "qemu-io",
        &["-c", change, "-c", "write -z 9M 1M", "top.qcow2"],
    );
    bench.prepare(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-c",
            change,
            "-c",
            "write -z 9M 1M",
            "disk.raw",
        ],
    );
    let words = [
        "convert",
        "-c",
        "-O",
        "qcow2",
        "-B",
        "disk.qcow2",
        "-F",
        "qcow2",
    ];
    check_written(
        &bench,
        &[&words[..], &["top.qcow2", "target"]].concat(),
        None,
    );
}

#[test]
fn rebase_compresses_what_it_keeps() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "other.qcow2", "9M"],
    );
    let before = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "disk.qcow2",
        "-F",
        "qcow2",
        "target",
    ];
    let words = ["rebase", "-c", "-b", "other.qcow2", "-F", "qcow2", "target"];
    check_written(&bench, &words, Some(&before));
    check_written(&bench, &["rebase", "-c", "-b", "", "target"], Some(&before));
}

#[test]
fn refusals_have_the_words_of_qemu() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let lines: &[&[&str]] = &[
        &["convert", "-c", "-O", "raw", "disk.qcow2", "x"],
        &["convert", "-c", "-n", "-O", "raw", "disk.qcow2", "disk.raw"],
        &[
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "preallocation=metadata",
            "disk.qcow2",
            "x",
        ],
        &[
            "convert",
            "-c",
            "-O",
            "qcow2",
            "--object",
            "secret,id=s,data=k",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s",
            "disk.qcow2",
            "x",
        ],
        &[
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zip",
            "disk.qcow2",
            "x",
        ],
        &["rebase", "-c", "-f", "raw", "-b", "", "disk.raw"],
    ];
    for line in lines {
        bench.check_same("qemu-img", line);
    }
    for command in [
        "write -c 100 65536",
        "write -c 65536 100",
        "write -c 512 65536",
        "write -c 0 512",
        "write -c -f 0 65536",
        "write -c -P 300 0 65536",
    ] {
        bench.check_same("qemu-io", &["-c", command, "disk.qcow2"]);
    }
    bench.check_same(
        "qemu-io",
        &["-f", "raw", "-c", "write -c 0 65536", "disk.raw"],
    );
}

#[test]
fn both_programs_read_what_the_other_wrote_by_hand() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "i", "5M"]);
    let write = |from: &str, byte: &str| format!("write -q -c -P {byte} {from} 1M");
    let read = |from: &str, byte: &str| format!("read -q -P {byte} {from} 1M");
    for (ours, theirs) in [("0", "1M"), ("2M", "3M")] {
        let said = bench.ours("qemu-io", &["-c", &write(ours, "1"), "i"]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
        bench.prepare(
            "qemu-io",
            &["-c", &read(ours, "1"), "-c", &write(theirs, "2"), "i"],
        );
        bench.check_same("qemu-io", &["-c", &read(theirs, "2"), "i"]);
        bench.prepare("qemu-img", &["check", "-q", "i"]);
    }
    // The end of the disk may cut the last cluster.
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "j", "66048"]);
    let write = bench.ours("qemu-io", &["-c", "write -q -c 65536 512", "j"]);
    assert_eq!((write.code, write.out.as_str()), (Some(0), ""), "{write:?}");
    let read = ["-c", "read -q -P 0xcd 65536 512", "j"];
    bench.check_same("qemu-io", &read);
}
