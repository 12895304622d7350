//! `info map check compare create resize convert bench` beside `qemu-img`.

use std::os::unix::fs::MetadataExt;

use super::{Bench, beside};

/// A chain of two, a compressed copy with a snapshot, a raw copy.
fn bench_with_images() -> Option<Bench> {
    let bench = beside(&["qemu-img", "qemu-io"])?;
    let img = |words: &[&str]| bench.prepare("qemu-img", words);
    let io = |words: &[&str]| bench.prepare("qemu-io", words);
    img(&["create", "-q", "-f", "qcow2", "base.qcow2", "64M"]);
    io(&[
        "-c",
        "write -P 1 0 1M",
        "-c",
        "write -P 2 10M 3M",
        "-c",
        "write -z 20M 1M",
        "-c",
        "write -P 3 63M 1M",
        "-c",
        "discard 10M 64k",
        "base.qcow2",
    ]);
    let overlay = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
    ];
    img(&[&overlay[..], &["top.qcow2", "80M"]].concat());
    io(&[
        "-c",
        "write -P 7 512k 100k",
        "-c",
        "write -z 11M 1M",
        "-c",
        "write -P 9 70M 64k",
        "top.qcow2",
    ]);
    img(&["convert", "-c", "-O", "qcow2", "top.qcow2", "packed.qcow2"]);
    img(&["snapshot", "-c", "before", "packed.qcow2"]);
    img(&["convert", "-O", "raw", "top.qcow2", "flat.raw"]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10,cluster_size=4k",
        "old.qcow2",
        "9M",
    ]);
    Some(bench)
}

const IMAGES: [&str; 5] = [
    "base.qcow2",
    "top.qcow2",
    "packed.qcow2",
    "flat.raw",
    "old.qcow2",
];

#[test]
fn a_check_shows_how_far_it_is() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let shown = bench.ours("qemu-img", &["check", "-p", "base.qcow2"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.out.contains("(0.00/100%)"), "{shown:?}");
    assert!(shown.out.contains("(100.00/100%)"), "{shown:?}");
    let quiet = bench.ours("qemu-img", &["check", "-p", "-q", "base.qcow2"]);
    assert_eq!((quiet.code, &*quiet.out), (Some(0), ""), "{quiet:?}");
    let json = ["check", "-p", "--output=json", "base.qcow2"];
    let refused = bench.ours("qemu-img", &json);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("--progress"), "{refused:?}");
}

#[test]
fn info_map_and_check_say_what_qemu_img_says() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    for image in IMAGES {
        bench.check_same("qemu-img", &["info", image]);
        bench.check_same("qemu-img", &["info", "--backing-chain", image]);
        bench.check_same("qemu-img", &["map", image]);
        bench.check_same("qemu-img", &["map", "--output=json", image]);
        bench.check_same(
            "qemu-img",
            &["map", "--output=json", "-s", "1000000", "-l", "9M", image],
        );
        bench.check_same_json("qemu-img", &["info", "--output=json", image]);
        bench.check_same_json(
            "qemu-img",
            &["info", "--output=json", "--backing-chain", image],
        );
        bench.check_same("qemu-img", &["check", image]);
        if image != "flat.raw" {
            bench.check_same_json("qemu-img", &["check", "--output=json", image]);
        }
    }
    let options = "driver=qcow2,file.driver=file,file.filename=base.qcow2";
    bench.check_same_json(
        "qemu-img",
        &["info", "--output=json", "--image-opts", options],
    );
    let json = r#"json:{"driver": "qcow2", "file": {"driver": "file", "filename": "base.qcow2"}}"#;
    bench.check_same_json("qemu-img", &["map", "--output=json", json]);
}

#[test]
fn leaks_are_found_and_repaired_with_the_exit_codes_of_qemu_img() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    // Cuts the L1 table's first entry off: what it led to leaks.
    let mut bytes = std::fs::read(bench.path("base.qcow2")).unwrap();
    let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap());
    let l1 = usize::try_from(l1).unwrap();
    bytes[l1..l1 + 8].fill(0);
    for name in ["ours.qcow2", "theirs.qcow2"] {
        std::fs::write(bench.path(name), &bytes).unwrap();
    }
    let check = |ours: &[&str], theirs: &[&str]| {
        let (ours, theirs) = (
            bench.ours("qemu-img", ours),
            bench.theirs("qemu-img", theirs),
        );
        assert_eq!(ours.code, theirs.code, "{ours:?} {theirs:?}");
        assert_eq!(ours.out, theirs.out);
        ours.code
    };
    assert_eq!(
        check(&["check", "ours.qcow2"], &["check", "theirs.qcow2"]),
        Some(3)
    );
    let repair = |name| ["check", "-r", "leaks", name];
    assert_eq!(
        check(&repair("ours.qcow2"), &repair("theirs.qcow2")),
        Some(0)
    );
    bench.prepare("qemu-img", &["check", "ours.qcow2"]);
}

#[test]
fn wrong_command_lines_get_the_answers_of_qemu_img() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let lines: &[&[&str]] = &[
        &[],
        &["nosuch"],
        &["info"],
        &["info", "a", "b"],
        &["info", "--bogus", "base.qcow2"],
        &["info", "missing"],
        &["info", "-f", "nope", "base.qcow2"],
        &["info", "--output=xml", "base.qcow2"],
        &["map", "missing"],
        &["check", "missing"],
        &["check", "flat.raw"],
        &["compare", "base.qcow2"],
        &["compare", "missing", "base.qcow2"],
        &["compare", "base.qcow2", "missing"],
        &["create"],
        &["create", "-f", "raw", "new", "1", "2"],
        &["create", "-f", "nope", "new", "1M"],
        &["create", "-f", "bochs", "new", "1M"],
        &["create", "-f", "raw", "new", "10x"],
        &["create", "-f", "raw", "new"],
        &["create", "-f", "qcow2", "-o", "foo=1", "new", "1M"],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "lazy_refcounts=maybe",
            "new",
            "1M",
        ],
        &["create", "-f", "qcow2", "-o", "cluster_size=3", "new", "1M"],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "extended_l2=on,cluster_size=8k",
            "new",
            "1M",
        ],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "extended_l2=on,compat=0.10",
            "new",
            "1M",
        ],
        &[
            "create",
            "-f",
            "qcow2",
            "-b",
            "base.qcow2",
            "-F",
            "qcow2",
            "-o",
            "preallocation=metadata",
            "new",
        ],
        &[
            "create",
            "-f",
            "qcow2",
            "-o",
            "refcount_bits=7",
            "new",
            "1M",
        ],
        &["create", "-f", "qcow2", "-o", "size=1M", "new", "1M"],
        &[
            "create", "-f", "qcow2", "-b", "missing", "-F", "qcow2", "new",
        ],
        &["create", "-f", "qcow2", "-b", "base.qcow2", "new"],
        &["create", "-f", "raw", "-b", "base.qcow2", "new", "1M"],
        &["create", "-f", "raw", "no/folder", "1M"],
        &["convert"],
        &["convert", "base.qcow2"],
        &["convert", "--bogus", "base.qcow2", "new"],
        &["convert", "missing", "new"],
        &["convert", "-O", "nope", "base.qcow2", "new"],
        &["convert", "-O", "raw", "base.qcow2", "no/folder"],
        &["convert", "-n", "-O", "raw", "base.qcow2", "missing"],
        &[
            "convert",
            "-n",
            "-o",
            "size=1",
            "-O",
            "raw",
            "base.qcow2",
            "flat.raw",
        ],
        &["convert", "-m", "17", "base.qcow2", "new"],
        &["convert", "-S", "1", "base.qcow2", "new"],
        &["convert", "-t", "nope", "base.qcow2", "new"],
        &["resize", "base.qcow2"],
        &["resize", "base.qcow2", "x"],
        &["resize", "base.qcow2", "1M"],
        &["resize", "base.qcow2", "--shrink", "--", "-1T"],
        &["bench", "-c", "x", "base.qcow2"],
        &["bench", "-d", "0", "base.qcow2"],
        &["bench", "--flush-interval=3", "base.qcow2"],
        &["bench", "-w", "--flush-interval=3", "base.qcow2"],
    ];
    let differ = |line: &&&[&str]| bench.ours("qemu-img", line) != bench.theirs("qemu-img", line);
    let different: Vec<_> = lines.iter().filter(differ).collect();
    for line in &different {
        let (ours, theirs) = (bench.ours("qemu-img", line), bench.theirs("qemu-img", line));
        println!("{line:?}\n  {ours:?}\n  {theirs:?}");
    }
    assert!(different.is_empty(), "{different:?}");
}

#[test]
fn what_is_not_built_in_fails_by_its_name() {
    let bench = Bench::new();
    let lines: &[(&[&str], &str)] = &[
        (&["info", "--object", "iothread,id=i", "x"], "'iothread'"),
        (
            &["serve", "--object", "throttle-group,id=t"],
            "'throttle-group'",
        ),
    ];
    for (line, name) in lines {
        let said = bench.ours("qblk", line);
        assert_eq!(said.code, Some(1), "{line:?}: {said:?}");
        assert!(said.err.contains(name), "{line:?}: {said:?}");
    }
}

#[test]
fn create_makes_what_qemu_img_makes() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let options: &[&[&str]] = &[
        &["-f", "qcow2"],
        &["-f", "qcow2", "-o", "compat=0.10"],
        &["-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on"],
        &[
            "-f",
            "qcow2",
            "-o",
            "compression_type=zstd",
            "-o",
            "refcount_bits=8",
        ],
        &["-f", "qcow2", "-o", "preallocation=metadata"],
        &["-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2"],
        &["-f", "qcow2", "-u", "-b", "missing", "-F", "raw"],
        &["-f", "raw"],
        &["-f", "raw", "-o", "preallocation=falloc"],
    ];
    for options in options {
        let line = [&["create"], *options, &["new", "10000000"]].concat();
        let ours = bench.ours("qemu-img", &line);
        if options[1] == "qcow2" && !line.contains(&"-u") {
            bench.prepare("qemu-img", &["check", "-q", "new"]);
        }
        let info = bench.theirs(
            "qemu-img",
            &["info", "--output=json", "-f", options[1], "new"],
        );
        let theirs = bench.theirs("qemu-img", &line);
        assert_eq!(ours, theirs, "{options:?}");
        let expected = bench.theirs(
            "qemu-img",
            &["info", "--output=json", "-f", options[1], "new"],
        );
        let shape = |text: &str| {
            let lines = text.lines().filter(|line| !line.contains("actual-size"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(shape(&info.out), shape(&expected.out), "{options:?}");
    }
}

#[test]
fn convert_copies_every_byte() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let ways: &[&[&str]] = &[
        &["-O", "raw"],
        &["-O", "raw", "-S", "0"],
        &["-O", "qcow2"],
        &[
            "-O",
            "qcow2",
            "-W",
            "-m",
            "16",
            "-o",
            "cluster_size=4k,compat=0.10",
        ],
        &["-O", "qcow2", "-m", "1", "-T", "none", "-t", "none"],
        &["-O", "qcow2", "-S", "64k", "-p", "-q"],
    ];
    for image in ["top.qcow2", "packed.qcow2", "flat.raw"] {
        for way in ways {
            let line = [&["convert"], *way, &[image, "copy"]].concat();
            let said = bench.ours("qemu-img", &line);
            assert_eq!(said.code, Some(0), "{line:?}: {said:?}");
            assert_eq!(said.err, "", "{line:?}");
            bench.prepare(
                "qemu-img",
                &["compare", "-F", way[1], "flat.raw", "-f", "raw", "copy"],
            );
            if way[1] == "qcow2" {
                bench.prepare("qemu-img", &["check", "copy"]);
            }
            // Over what is there: nothing of it may be left.
            let line = ["convert", "-n", "-O", way[1], "old.qcow2", "copy"];
            assert_eq!(bench.ours("qemu-img", &line).code, Some(0));
        }
    }
}

#[test]
fn convert_keeps_a_backing_file_and_joins_sources() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let line = [
        "convert",
        "-O",
        "qcow2",
        "-B",
        "base.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
        "thin",
    ];
    assert_eq!(bench.ours("qemu-img", &line).code, Some(0));
    bench.prepare("qemu-img", &["compare", "top.qcow2", "thin"]);
    let len = |name: &str| std::fs::metadata(bench.path(name)).unwrap().len();
    assert!(len("thin") < 1 << 20, "{} bytes", len("thin"));
    let line = [
        "convert",
        "-O",
        "raw",
        "base.qcow2",
        "old.qcow2",
        "base.qcow2",
        "joined",
    ];
    assert_eq!(bench.ours("qemu-img", &line).code, Some(0));
    let theirs = [
        "convert",
        "-O",
        "raw",
        "base.qcow2",
        "old.qcow2",
        "base.qcow2",
        "expected",
    ];
    bench.prepare("qemu-img", &theirs);
    bench.prepare("cmp", &["joined", "expected"]);
}

#[test]
fn compare_finds_the_same_differences() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    let pairs = [
        ["top.qcow2", "packed.qcow2"],
        ["top.qcow2", "flat.raw"],
        ["base.qcow2", "top.qcow2"],
        ["flat.raw", "old.qcow2"],
        ["old.qcow2", "base.qcow2"],
    ];
    for [first, second] in pairs {
        bench.check_same("qemu-img", &["compare", first, second]);
        bench.check_same("qemu-img", &["compare", "-q", second, first]);
    }
    bench.check_same("qemu-img", &["compare", "-s", "base.qcow2", "top.qcow2"]);
    bench.check_same("qemu-img", &["compare", "-s", "base.qcow2", "base.qcow2"]);
}

#[test]
fn sizes_are_understood_alike() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    for size in [
        "1024.0", "1024.0b", ".5k", "1.5k", "1.5", "1.5b", "-1024", "-1k", "1Z", "0x10k", "1e3",
        "x",
    ] {
        let create = ["create", "-f", "qcow2", "d.qcow2", "--", size];
        bench.check_same("qemu-img", &create);
        let option = format!("size={size}");
        let create = ["create", "-f", "qcow2", "-o", &option, "d.qcow2"];
        bench.check_same("qemu-img", &create);
    }
}

#[test]
fn words_that_are_wrong_are_named_alike() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "d.qcow2", "1M"],
    );
    for words in [
        &["check", "-r", "x", "d.qcow2"][..],
        &["check", "--repair=x", "d.qcow2"],
    ] {
        bench.check_same("qemu-img", words);
    }
    for open in [
        "open -o driver=qcow2 x",
        "open -o driver=qcow2,file.filename=x",
        "open x",
    ] {
        bench.check_same("qemu-io", &["-c", open]);
    }
    bench.check_same(
        "qemu-io",
        &["--image-opts", "-c", "open driver=qcow2,file.filename=x"],
    );
    let bench_of = |program: &str| {
        let said = match program {
            "ours" => bench.ours("qemu-img", &["bench", "-c", "3", "d.qcow2"]),
            _ => bench.theirs("qemu-img", &["bench", "-c", "3", "d.qcow2"]),
        };
        said.out.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(bench_of("ours"), bench_of("theirs"));
}

#[test]
fn a_shorter_disk_gives_its_space_back() {
    let bench = Bench::new();
    let path = bench.path("d.qcow2");
    let ours = |words: &[&str]| {
        let said = bench.ours("qemu-img", words);
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.err);
    };
    let held = || std::fs::metadata(&path).expect("the image").blocks() * 512;
    ours(&["create", "-q", "-f", "qcow2", "d.qcow2", "64M"]);
    let said = bench.ours(
        "qemu-io",
        &["-c", "write 0 1M", "-c", "write 32M 16M", "d.qcow2"],
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(held() > 17 << 20, "{}", held());
    ours(&["resize", "--shrink", "d.qcow2", "32M"]);
    assert!(held() < 2 << 20, "{}", held());
}

#[test]
fn resize_takes_differences() {
    let Some(bench) = bench_with_images() else {
        return;
    };
    for line in [
        &["resize", "old.qcow2", "+1M"][..],
        &["resize", "--shrink", "old.qcow2", "-2M"],
        &["resize", "old.qcow2", "--shrink", "5M"],
        &["resize", "-f", "raw", "flat.raw", "90M"],
        &["resize", "-q", "old.qcow2", "6M"],
    ] {
        let said = bench.ours("qemu-img", line);
        let text = if line[1] == "-q" {
            ""
        } else {
            "Image resized.\n"
        };
        assert_eq!(
            (said.out.as_str(), said.code),
            (text, Some(0)),
            "{line:?}: {}",
            said.err
        );
    }
    bench.prepare("qemu-img", &["check", "old.qcow2"]);
    let info = bench.theirs("qemu-img", &["info", "old.qcow2"]).out;
    assert!(info.contains("virtual size: 6 MiB"), "{info}");
    assert_eq!(
        std::fs::metadata(bench.path("flat.raw")).unwrap().len(),
        90 << 20
    );
}

#[test]
fn bench_sends_what_it_is_told() {
    let bench = Bench::new();
    let made = bench.ours("qblk", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let line = [
        "bench",
        "-w",
        "-c",
        "300",
        "-d",
        "7",
        "-s",
        "512",
        "-S",
        "1k",
        "-o",
        "4k",
        "--pattern=165",
        "--flush-interval=50",
        "disk",
    ];
    let said = bench.ours("qblk", &line);
    let (plan, end) = said.out.split_once("Run completed in ").unwrap();
    assert_eq!(
        plan,
        "Sending 300 write requests, 512 bytes each, 7 in parallel (starting at offset 4096, step \
         size 1024)\nSending flush every 50 requests\n"
    );
    assert!(end.ends_with(" seconds.\n"), "{end}");
    let line = [
        "io",
        "-c",
        "read -P 165 5k 512",
        "-c",
        "read -P 0 4608 512",
        "disk",
    ];
    assert_eq!(bench.ours("qblk", &line).code, Some(0));
    for extra in ["--no-drain", "-n"] {
        let line = [
            "bench",
            "-c",
            "100",
            "-w",
            "--flush-interval=64",
            extra,
            "disk",
        ];
        assert_eq!(bench.ours("qblk", &line).code, Some(0), "{extra}");
    }
}

#[test]
fn names_inside_images_are_followed_as_far_as_allowed() {
    let bench = Bench::new();
    let create = |words: &[&str]| {
        let said = bench.ours("qblk", &[&["create", "-q", "-f", "qcow2"], words].concat());
        assert_eq!(said.code, Some(0), "{said:?}");
    };
    create(&["base.qcow2", "1M"]);
    create(&["-b", "base.qcow2", "-F", "qcow2", "local.qcow2"]);
    create(&[
        "-u",
        "-b",
        "nbd://localhost/x",
        "-F",
        "raw",
        "remote.qcow2",
        "1M",
    ]);
    create(&[
        "-u",
        "-b",
        "json:{\"driver\":\"null-co\"}",
        "-F",
        "raw",
        "json.qcow2",
        "1M",
    ]);
    let open = |words: &[&str], image| bench.ours("qblk", &[&["map"], words, &[image]].concat());
    assert_eq!(open(&[], "local.qcow2").code, Some(0));
    for (words, image) in [
        (&["--implicit-open=none"][..], "local.qcow2"),
        (&[], "remote.qcow2"),
        (&[], "json.qcow2"),
    ] {
        let said = open(words, image);
        assert_eq!(said.code, Some(1));
        assert!(
            said.err.contains("which the open policy does not allow"),
            "{said:?}"
        );
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let bench = Bench::new();
    std::fs::write(bench.path("disk"), vec![0; 65536]).unwrap();
    let said = bench.run("sh".as_ref(), &["-c", "./qblk map disk > /dev/full"]);
    assert_eq!(said.err, "qblk: standard output: No space left on device\n");
    assert_eq!(said.code, Some(1));
    let closed = "(trap '' PIPE; ./qblk map disk; echo $? > code) | :; cat code";
    let said = bench.run("sh".as_ref(), &["-c", closed]);
    assert_eq!(said.err, "", "{said:?}");
}
