//! `io` beside `qemu-io`.

use super::{Bench, Said, beside};

/// Reports without what differs from run to run.
fn timeless(said: &Said) -> (String, Option<i32>) {
    let line = |line: &str| match line.split_once(" ops; ") {
        Some((before, _)) => before.to_owned(),
        None => line.split(",1,0:00:00").next().unwrap_or(line).to_owned(),
    };
    let lines: Vec<String> = said.out.lines().map(line).collect();
    (lines.join("\n"), said.code)
}

#[track_caller]
fn check(format: &str, commands: &[&str]) {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let words = commands.iter().flat_map(|command| ["-c", command]);
    let line: Vec<&str> = ["-f", format]
        .into_iter()
        .chain(words)
        .chain(["disk"])
        .collect();
    let make = ["create", "-q", "-f", format, "disk", "5M"];
    bench.prepare("qemu-img", &make);
    let ours = bench.ours("qemu-io", &line);
    bench.prepare("qemu-img", &make);
    let theirs = bench.theirs("qemu-io", &line);
    assert_eq!(
        timeless(&ours),
        timeless(&theirs),
        "{}{}",
        ours.err,
        theirs.err
    );
}

#[test]
fn reads_and_writes_report_alike() {
    for format in ["raw", "qcow2"] {
        check(
            format,
            &[
                "write -P 0xab 0 64k",
                "read -P 0xab 0 64k",
                "read -P 0 64k 64k",
            ],
        );
        check(
            format,
            &[
                "write 1k 1k",
                "read -v 1020 20",
                "r -P 0xcd -s 4 -l 20 1020 64",
            ],
        );
        check(format, &["writev -P 7 0 4k 8k 512", "readv -P 7 0 12k 512"]);
        check(
            format,
            &[
                "aio_write -P 5 1M 64k",
                "aio_flush",
                "aio_read -P 5 1M 64k",
                "aio_flush",
            ],
        );
        check(
            format,
            &["write -q 0 64k", "read -C 0 4k", "write -f 0 512", "flush"],
        );
        check(
            format,
            &[
                "write 0 1M",
                "discard 0 64k",
                "write -z 64k 64k",
                "write -zu 1M 64k",
            ],
        );
    }
}

#[test]
fn failures_are_told_alike() {
    for format in ["raw", "qcow2"] {
        check(format, &["read -P 1 0 4k"]);
        check(format, &["read 5M 512"]);
        check(format, &["write 5M 512", "write 0 512"]);
        check(format, &["aio_read -P 9 0 4k", "aio_flush"]);
        check(format, &["foo 1", "read 0 512"]);
        check(
            format,
            &["read x 1", "read 0 9E", "read 0 3G", "write -P 300 0 1"],
        );
        check(
            format,
            &[
                "write -n 0 1",
                "write -zP 1 0 1",
                "read -P 0 -s 4 -l 10 0 12",
            ],
        );
    }
}

#[test]
fn vectors_fail_by_their_own_name() {
    check("raw", &["writev 5M 512 512", "readv 5M 512"]);
    check("raw", &["aio_read 6M 512", "aio_flush"]);
    check(
        "raw",
        &["aio_write -z 0 1k 1k", "aio_read -i 0 1", "write -zr 0 1k"],
    );
    check(
        "raw",
        &["readv 0 3G", "writev 0 2G 1k", "write 0 3G", "discard 0 3G"],
    );
    check(
        "raw",
        &["write -bz 0 512", "write -fb 0 512", "read -b 1 512"],
    );
    check("raw", &["read -r -P 0 0 4k", "readv -r 0 4k"]);
}

#[test]
fn a_discard_may_be_waited_for_later() {
    // QEMU's older releases have no such command.
    let bench = Bench::new();
    let made = bench.ours("qemu-img", &["create", "-q", "-f", "raw", "disk", "1M"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let commands = [
        "aio_discard 0 64k",
        "aio_flush",
        "aio_discard 2M 512",
        "aio_flush",
    ];
    let words = commands.iter().flat_map(|command| ["-c", command]);
    let line: Vec<&str> = ["-f", "raw"]
        .into_iter()
        .chain(words)
        .chain(["disk"])
        .collect();
    let (out, code) = timeless(&bench.ours("qemu-io", &line));
    let want = "discarded  65536/65536 bytes at offset 0\n64 KiB, 1\n\
                aio_discard failed: Input/output error";
    assert_eq!((out.as_str(), code), (want, Some(0)));
}

#[test]
fn images_are_closed_and_opened_again() {
    for format in ["raw", "qcow2"] {
        let open = format!("open -o driver={format} disk");
        check(
            format,
            &[
                "write -P 1 0 4k",
                "close",
                &open,
                "read -P 1 0 4k",
                "length",
            ],
        );
        check(format, &["close", "read 0 512", "close", "sigraise 100"]);
        check(format, &["open disk", "length"]);
        let open = format!("open -r -o driver={format} disk");
        check(format, &["c", &open, "write 0 512", "read 0 512"]);
        check(
            format,
            &[
                "close",
                "open -t nope disk",
                "open -d nope disk",
                "open nope",
            ],
        );
    }
}

#[test]
fn options_change_while_an_image_is_open() {
    for format in ["raw", "qcow2"] {
        check(
            format,
            &["reopen -r", "write 0 512", "reopen -w", "write 0 512"],
        );
        check(
            format,
            &["write 0 4k", "reopen -c none", "read -P 0xcd 0 4k"],
        );
        check(
            format,
            &[
                "reopen -r -o read-only=on",
                "reopen -c none -o cache.direct=on",
            ],
        );
        check(
            format,
            &[
                "reopen -r -w",
                "reopen -o read-only=foo",
                "reopen -o driver=vmdk",
            ],
        );
    }
    let caches = "reopen -o cache-size=1M,l2-cache-size=2M";
    check(
        "qcow2",
        &[caches, "reopen -o refcount-cache-size=256T", "write 0 512"],
    );
    check(
        "qcow2",
        &[
            "reopen -o lazy-refcounts=on,overlap-check=all",
            "write 0 512",
        ],
    );
}

#[test]
fn a_temporary_overlay_leaves_the_image_as_it_was() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
    let line = [
        "-s",
        "-f",
        "qcow2",
        "-c",
        "write -P 7 0 64k",
        "-c",
        "read -P 7 0 64k",
        "disk",
    ];
    let ours = bench.ours("qemu-io", &line);
    assert_eq!(
        timeless(&ours),
        timeless(&bench.theirs("qemu-io", &line)),
        "{}",
        ours.err
    );
    bench.check_same("qemu-io", &["-f", "qcow2", "-c", "map", "disk"]);
}

#[test]
fn of_an_option_given_twice_the_last_counts() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "disk", "1M"]);
    let line = [
        "--cache", "nope", "--cache", "none", "-f", "qcow2", "-f", "raw",
    ];
    let ours = bench.ours("qemu-io", &[&line[2..], &["-c", "length", "disk"]].concat());
    assert_eq!(
        (ours.out.as_str(), ours.code),
        ("1 MiB\n", Some(0)),
        "{}",
        ours.err
    );
}

#[test]
fn the_image_is_shown_alike() {
    for format in ["raw", "qcow2"] {
        let write = "write -q 1M 64k";
        check(
            format,
            &[
                write,
                "info",
                "length",
                "map",
                "alloc 1M 1M",
                "alloc 0",
                "l",
                "i",
            ],
        );
        check(format, &["truncate 20M", "length", "truncate 1x"]);
    }
}

#[test]
fn read_only_images_are_not_written() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "disk", "1M"]);
    bench.check_same("qemu-io", &["-r", "-f", "raw", "-c", "write 0 512", "disk"]);
    bench.check_same("qemu-io", &["-c", "read 0 512", "missing"]);
}

#[test]
fn commands_come_from_the_standard_input_too() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "disk", "1M"]);
    let script = |program| format!("printf 'length\\nfoo\\nquit\\n' | {program} -f raw disk");
    let ours = bench.run("sh".as_ref(), &["-c", &script("./qemu-io")]);
    let theirs = bench.run("sh".as_ref(), &["-c", &script("qemu-io")]);
    assert_eq!(ours, theirs);
}

#[test]
fn a_guessed_raw_image_never_becomes_another_format() {
    let bench = Bench::new();
    std::fs::write(bench.path("disk"), vec![0; 65536]).unwrap();
    std::fs::write(bench.path("header"), b"QFI\xfb\0\0\0\x03").unwrap();
    let write = |format: &[&str], command| {
        bench.ours(
            "qblk",
            &[&["io"], format, &["-c", command, "disk"]].concat(),
        )
    };
    let said = write(&[], "write -s header 0 512");
    assert!(said.err.contains("probing guessed raw"), "{said:?}");
    assert_eq!(said.out, "write failed: Operation not permitted\n");
    assert_eq!(said.code, Some(1));
    assert_eq!(write(&[], "write -q -P 0xaa 0 4k").code, Some(0));
    assert_eq!(write(&[], "write -q -s header 512 512").code, Some(0));
    assert_eq!(
        write(&["-f", "raw"], "write -q -s header 0 512").code,
        Some(0)
    );
}
