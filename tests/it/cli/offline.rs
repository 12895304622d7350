//! `measure commit rebase amend` beside `qemu-img`: each works on its own copy of the same images,
//! which must read alike afterwards.

use super::{Bench, beside};

/// A chain of three: `b`, `o` over it, `t` over that; with another image `n` and a raw one.
fn make_chain(bench: &Bench, dir: &str) {
    std::fs::create_dir_all(bench.path(dir)).expect("a folder");
    let at = |name: &str| format!("{dir}/{name}");
    let img = |words: &[&str]| bench.prepare("qemu-img", words);
    let io = |commands: &[&str], name: &str| {
        let mut words: Vec<&str> = commands.iter().flat_map(|c| ["-c", c]).collect();
        let name = at(name);
        words.push(&name);
        bench.prepare("qemu-io", &words);
    };
    img(&["create", "-q", "-f", "qcow2", &at("b"), "4M"]);
    io(&["write -P 1 0 2M"], "b");
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "b",
        "-F",
        "qcow2",
        &at("o"),
        "6M",
    ]);
    io(
        &["write -P 2 1M 1M", "write -z 2M 300k", "write -P 3 5M 64k"],
        "o",
    );
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "o",
        "-F",
        "qcow2",
        &at("t"),
    ]);
    io(&["write -P 4 1500k 100k", "discard 0 64k"], "t");
    img(&["create", "-q", "-f", "qcow2", &at("n"), "3M"]);
    io(&["write -P 1 0 1M", "write -P 8 2M 500k"], "n");
    img(&["convert", "-O", "raw", &at("n"), &at("r")]);
}

/// Both do the same to chains of their own; they say the same, and the images read the same.
#[track_caller]
fn check_chain(words: &[&str]) {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    make_chain(&bench, "chain");
    let theirs = bench.theirs("qemu-img", words);
    std::fs::rename(bench.path("chain"), bench.path("kept")).expect("a folder");
    make_chain(&bench, "chain");
    let ours = bench.ours("qemu-img", words);
    assert_eq!(ours, theirs, "{words:?}");
    for name in ["b", "o", "t"] {
        let (ours, theirs) = (format!("chain/{name}"), format!("kept/{name}"));
        bench.prepare("qemu-img", &["check", "-q", &ours]);
        bench.prepare("qemu-img", &["compare", "-q", &ours, &theirs]);
        let backing = |image: &str| {
            let said = bench.theirs("qemu-img", &["info", image]);
            let lines = said
                .out
                .lines()
                .filter(|line| line.starts_with("backing file"));
            lines
                .map(|line| line.replace("kept/", "chain/"))
                .collect::<Vec<_>>()
        };
        assert_eq!(backing(&ours), backing(&theirs), "{words:?}: {name}");
    }
}

#[test]
fn a_commit_leaves_what_qemus_leaves() {
    check_chain(&["commit", "chain/t"]);
    check_chain(&["commit", "-d", "chain/t"]);
    check_chain(&["commit", "-q", "-b", "b", "chain/t"]);
    check_chain(&["commit", "-r", "64M", "chain/o"]);
    check_chain(&["commit", "chain/b"]);
    check_chain(&["commit", "-b", "nowhere", "chain/t"]);
    check_chain(&["commit"]);
}

#[test]
fn a_rebase_leaves_what_qemus_leaves() {
    check_chain(&["rebase", "-b", "n", "-F", "qcow2", "chain/t"]);
    check_chain(&["rebase", "-b", "b", "-F", "qcow2", "chain/t"]);
    check_chain(&["rebase", "-b", "r", "-F", "raw", "chain/t"]);
    check_chain(&["rebase", "-b", "", "chain/t"]);
    check_chain(&["rebase", "-u", "-b", "n", "-F", "qcow2", "chain/t"]);
    check_chain(&["rebase", "-u", "-b", "", "chain/t"]);
    check_chain(&["rebase", "-u", "chain/t"]);
    check_chain(&["rebase", "-b", "n", "chain/t"]);
    check_chain(&["rebase", "-b", "n", "-F", "nope", "chain/t"]);
    check_chain(&["rebase", "-b", "nowhere", "-F", "qcow2", "chain/t"]);
    check_chain(&["rebase", "chain/t"]);
}

#[test]
fn measures_are_those_of_qemu() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    make_chain(&bench, "chain");
    for words in [
        "--size 1G -O qcow2",
        "--size 1G",
        "--size 1000000 -O qcow2 -o cluster_size=512,refcount_bits=1",
        "--size 1T -O qcow2 -o cluster_size=2M,refcount_bits=64",
        "--size 0 -O qcow2",
        "--size 1P -O qcow2",
        "--size 1P -O qcow2 -o cluster_size=512",
        "--size 1G -O qcow2 -o extended_l2=on",
        "--size 100G -O qcow2 -o extended_l2=on,cluster_size=16k",
        "--size 1G -O qcow2 -o extended_l2=on,cluster_size=8k",
        "--size 1M -O qcow2 -o cluster_size=3k",
        "--size 1M -O qcow2 -o bogus=1",
        "--size 1M -O nope",
        "-O qcow2 chain/t",
        "-O raw chain/t",
        "-O qcow2 -o cluster_size=4k chain/t",
        "-O qcow2 -o preallocation=full chain/t",
        "-O qcow2 -o backing_file=x chain/t",
        "-O qcow2 -o compat=0.10 chain/t",
        "-O qcow2 -f raw chain/r",
        "--size 1M chain/t",
        "-f raw --size 1M",
        "chain/t chain/o",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        bench.check_same("qemu-img", &[&["measure"], words.as_slice()].concat());
    }
    for options in [&["--size", "9M"][..], &["chain/t"]] {
        let words = [&["measure", "--output", "json", "-O", "qcow2"], options].concat();
        bench.check_same_json("qemu-img", &words);
    }
}

/// Both amend an image of their own.
#[track_caller]
fn check_amend(bench: &Bench, create: &str, options: &str) {
    for image in ["ours", "theirs"] {
        let words = ["create", "-q", "-f", "qcow2", "-o", create, image, "9M"];
        bench.prepare("qemu-img", &words);
        let commands = [
            "-c",
            "write -P 5 1M 1M",
            "-c",
            "write -z 3M 1M",
            "-c",
            "write 8M 100k",
        ];
        bench.prepare("qemu-io", &[&commands[..], &[image]].concat());
    }
    let theirs = bench.theirs("qemu-img", &["amend", "-o", options, "theirs"]);
    let ours = bench.ours("qemu-img", &["amend", "-o", options, "ours"]);
    assert_eq!(ours, theirs, "{create}: {options}");
    bench.prepare("qemu-img", &["check", "-q", "ours"]);
    bench.prepare("qemu-img", &["compare", "-q", "ours", "theirs"]);
    let info = |image| {
        let said = bench.theirs("qemu-img", &["info", image]);
        let wanted = |line: &&str| {
            ["compat:", "lazy", "refcount", "virtual"]
                .iter()
                .any(|word| line.contains(word))
        };
        said.out
            .lines()
            .filter(wanted)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(info("ours"), info("theirs"), "{create}: {options}");
}

#[test]
fn amended_images_are_those_of_qemu() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    for create in [
        "compat=1.1",
        "compat=0.10,cluster_size=512",
        "cluster_size=512,refcount_bits=64",
    ] {
        for options in [
            "compat=0.10",
            "compat=1.1",
            "compat=0.9",
            "refcount_bits=8",
            "refcount_bits=1",
            "refcount_bits=3",
            "lazy_refcounts=on",
            "lazy_refcounts=x",
            "refcount_bits=32,lazy_refcounts=on",
            "size=20M",
            "cluster_size=4k",
            "backing_file=r",
            "bogus=1",
            "data_file_raw=on",
            "compat=0.10,refcount_bits=8",
            "compat=0.10,lazy_refcounts=on",
        ] {
            check_amend(&bench, create, options);
        }
    }
    bench.check_same("qemu-img", &["amend", "ours"]);
    bench.check_same("qemu-img", &["amend", "-o", "compat=1.1"]);
}

#[test]
fn blocks_are_copied_alike() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "64k"]);
    bench.prepare(
        "qemu-io",
        &[
            "-c",
            "write -q -P 1 0 5k",
            "-c",
            "write -q -P 2 7k 3k",
            "disk",
        ],
    );
    let lines: [&[&str]; 5] = [
        &["-O", "raw", "bs=1k", "count=9"],
        &["-f", "qcow2", "-O", "qcow2", "bs=3k", "skip=2"],
        &["bs=1k", "count=4", "skip=7"],
        &["bs=0"],
        &["conv=sync"],
    ];
    for line in lines {
        for (who, target) in [("ours", "of=ours"), ("theirs", "of=theirs")] {
            let words = [&["dd"], line, &["if=disk", target]].concat();
            let said = match who {
                "ours" => bench.ours("qemu-img", &words),
                _ => bench.theirs("qemu-img", &words),
            };
            let fails = line.contains(&"bs=0") || line.contains(&"conv=sync");
            assert_eq!(said.code, Some(i32::from(fails)), "{words:?}: {}", said.err);
        }
        bench.prepare("qemu-img", &["compare", "-s", "ours", "theirs"]);
    }
}

#[test]
fn json_comes_in_the_order_in_which_qemu_prints_it() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    let overlay = [
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk",
    ];
    bench.prepare("qemu-img", &overlay);
    bench.prepare("qemu-img", &["snapshot", "-c", "before", "disk"]);
    bench.check_same(
        "qemu-img",
        &["info", "--output=json", "--backing-chain", "disk"],
    );
    bench.check_same("qemu-img", &["check", "--output=json", "disk"]);
    bench.check_same(
        "qemu-img",
        &["measure", "--output=json", "-O", "qcow2", "disk"],
    );
}

#[test]
fn what_is_wrong_with_an_image_is_told_in_qemus_words() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    let patches: [(usize, &[u8]); 8] = [
        (4, &[0, 0, 0, 9]),
        (8, &[0, 0, 0, 0, 0, 0x20, 0, 0]),
        (20, &[0, 0, 0, 40]),
        (36, &[0xff, 0xff, 0xff, 0xff]),
        (48, &[0, 0, 0, 0, 0, 1, 0, 1]),
        (56, &[0, 1, 0, 0]),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
        (100, &[0xff, 0, 0, 0]),
    ];
    for (at, bytes) in patches {
        bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "disk", "1M"]);
        let mut image = std::fs::read(bench.path("disk")).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(bench.path("disk"), image).unwrap();
        bench.check_same("qemu-io", &["-f", "qcow2", "-c", "read 0 512", "disk"]);
    }
    bench.prepare("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    let overlay = [
        "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "disk",
    ];
    bench.prepare("qemu-img", &overlay);
    std::fs::remove_file(bench.path("base")).unwrap();
    bench.check_same("qemu-io", &["-c", "read 0 512", "disk"]);
    bench.check_same("qemu-img", &["create", "-f", "qcow2", "-b", "base", "new"]);
}
