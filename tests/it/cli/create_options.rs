//! Every option of a new qcow2 image, and of an amended one: the lists are QEMU's own, so that an
//! option which is new there fails here until somebody says what it does.

use block_schema::Value;

use super::{Bench, beside};

/// A secret for the options that want one.
const SECRET: &str = "secret,id=s,data=pass";
const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";

/// What to give for an option, and what `info` says then: members from the top, and the value.
struct Case {
    options: String,
    size: Option<&'static str>,
    want: (&'static [&'static str], &'static str),
}

fn case(options: impl Into<String>, at: &'static [&'static str], value: &'static str) -> Case {
    Case {
        options: options.into(),
        size: Some("1M"),
        want: (at, value),
    }
}

fn specific(option: &str) -> Option<(&'static [&'static str], &'static str, String)> {
    const ENCRYPT: usize = 3;
    let path: &'static [&'static str] = match option {
        "encrypt.cipher-alg" => &["format-specific", "data", "encrypt", "cipher-alg"],
        "encrypt.cipher-mode" => &["format-specific", "data", "encrypt", "cipher-mode"],
        "encrypt.hash-alg" => &["format-specific", "data", "encrypt", "hash-alg"],
        "encrypt.ivgen-alg" => &["format-specific", "data", "encrypt", "ivgen-alg"],
        "encrypt.ivgen-hash-alg" => &["format-specific", "data", "encrypt", "ivgen-hash-alg"],
        _ => return None,
    };
    let (value, more) = match path[ENCRYPT] {
        "cipher-alg" => ("aes-128", ""),
        "cipher-mode" => ("cbc", ""),
        "hash-alg" => ("sha512", ""),
        "ivgen-alg" => ("plain", ""),
        _ => (
            "sha256",
            ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.cipher-alg=aes-256",
        ),
    };
    Some((path, value, format!("{LUKS}{more},{option}={value}")))
}

fn create_case(option: &str) -> Case {
    if let Some((at, value, options)) = specific(option) {
        return case(options, at, value);
    }
    match option {
        "backing_file" => case(
            "backing_file=base.raw,backing_fmt=raw",
            &["backing-filename"],
            "base.raw",
        ),
        "backing_fmt" => case(
            "backing_file=base.raw,backing_fmt=raw",
            &["backing-filename-format"],
            "raw",
        ),
        "cluster_size" => case("cluster_size=4k", &["cluster-size"], "4096"),
        "compat" => case("compat=v2", &["format-specific", "data", "compat"], "0.10"),
        "compression_type" => case(
            "compression_type=zstd",
            &["format-specific", "data", "compression-type"],
            "zstd",
        ),
        "data_file" => case(
            "data_file=d.raw",
            &["format-specific", "data", "data-file"],
            "d.raw",
        ),
        "data_file_raw" => case(
            "data_file=d.raw,data_file_raw=on",
            &["format-specific", "data", "data-file-raw"],
            "true",
        ),
        "encrypt.format" | "encrypt.key-secret" | "encrypt.iter-time" => case(
            LUKS,
            &["format-specific", "data", "encrypt", "format"],
            "luks",
        ),
        "encryption" => case(
            "encryption=on,encrypt.key-secret=s",
            &["format-specific", "data", "encrypt", "format"],
            "aes",
        ),
        "extended_l2" => case(
            "extended_l2=on",
            &["format-specific", "data", "extended-l2"],
            "true",
        ),
        "lazy_refcounts" => case(
            "lazy_refcounts=on",
            &["format-specific", "data", "lazy-refcounts"],
            "true",
        ),
        "nocow" => case("nocow=on", &["format"], "qcow2"),
        "preallocation" => case("preallocation=full", &["format"], "qcow2"),
        "refcount_bits" => case(
            "refcount_bits=1",
            &["format-specific", "data", "refcount-bits"],
            "1",
        ),
        "size" => Case {
            size: None,
            ..case("size=2M", &["virtual-size"], "2097152")
        },
        other => panic!("nobody has said what option {other} does"),
    }
}

/// The names in a list of options.
fn names(help: &str) -> Vec<String> {
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    let named = lines.filter_map(|line| line.split_once("=<"));
    named.map(|(name, _)| name.to_owned()).collect()
}

/// A member of what QEMU says of an image, as text.
fn member(bench: &Bench, image: &str, path: &[&str]) -> String {
    let said = bench.theirs("qemu-img", &["info", "--output=json", image]);
    let mut value = Value::from_json(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    for name in path {
        let inner = value.get(name).cloned();
        value = inner.unwrap_or_else(|| panic!("no {name} of {path:?} in {}", said.out));
    }
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[test]
fn every_option_of_a_new_image_is_taken_and_read_back() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    bench.check_same("qemu-img", &["create", "-f", "qcow2", "-o", "help"]);
    bench.check_same("qemu-img", &["convert", "-O", "qcow2", "-o", "help"]);
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "base.raw", "1M"]);
    let help = bench.theirs("qemu-img", &["create", "-f", "qcow2", "-o", "help"]);
    let mut options = names(&help.out);
    assert!(options.len() > 20, "{help:?}");
    // QEMU lists it where a file is named.
    options.push("nocow".to_owned());
    for option in options {
        let case = create_case(&option);
        let mut words = vec!["create", "-q", "--object", SECRET, "-f", "qcow2", "-o"];
        words.extend([case.options.as_str(), "new.qcow2"]);
        words.extend(case.size);
        let said = bench.ours("qemu-img", &words);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{option}");
        assert_eq!(
            member(&bench, "new.qcow2", case.want.0),
            case.want.1,
            "{option}"
        );
        let checked = match option.starts_with("encrypt") {
            // The key is not asked for.
            true => bench.theirs("qemu-img", &["info", "new.qcow2"]),
            false => bench.theirs("qemu-img", &["check", "-q", "new.qcow2"]),
        };
        assert_eq!(checked.code, Some(0), "{option}: {checked:?}");
    }
}

#[test]
fn every_mode_of_preallocation_allocates_what_qemu_does() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "base.raw", "4M"]);
    for also in [
        "",
        ",extended_l2=on",
        ",extended_l2=on,backing_file=base.raw,backing_fmt=raw",
        ",data_file=d.raw",
        ",data_file=d.raw,data_file_raw=on",
        ",data_file=d.raw,extended_l2=on",
        ",backing_file=base.raw,backing_fmt=raw",
    ] {
        for mode in ["off", "metadata", "falloc", "full"] {
            let options = format!("preallocation={mode}{also}");
            let words = [
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                &options,
                "new.qcow2",
                "4M",
            ];
            let ours = bench.ours("qemu-img", &words);
            let check = ["check", "--output=json", "new.qcow2"];
            let allocated = |said: &super::Said| {
                let value = Value::from_json(&said.out).ok()?;
                value.get("allocated-clusters").map(ToString::to_string)
            };
            let of_ours = allocated(&bench.theirs("qemu-img", &check));
            let theirs = bench.theirs("qemu-img", &words);
            assert_eq!(ours, theirs, "{options}");
            if ours.code == Some(0) {
                let of_theirs = allocated(&bench.theirs("qemu-img", &check));
                assert_eq!(of_ours, of_theirs, "{options}");
            }
        }
    }
}

/// Options about the slots of a LUKS header, which `encrypted.rs` looks at.
const KEY_SLOTS: [&str; 5] = [
    "encrypt.iter-time",
    "encrypt.keyslot",
    "encrypt.new-secret",
    "encrypt.old-secret",
    "encrypt.state",
];

#[test]
fn every_option_of_an_amended_image_is_taken_and_read_back() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    let help = bench.theirs("qemu-img", &["amend", "-f", "qcow2", "-o", "help"]);
    let ours = bench.ours("qemu-img", &["amend", "-f", "qcow2", "-o", "help"]);
    let known = names(&help.out);
    assert!(known.len() > 10, "{help:?}");
    for option in &known {
        assert!(names(&ours.out).contains(option), "{option}: {ours:?}");
        if KEY_SLOTS.contains(&option.as_str()) {
            continue;
        }
        bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "base.raw", "1M"]);
        let created = match option.as_str() {
            "backing_file" | "backing_fmt" => "backing_file=base.raw,backing_fmt=raw",
            "data_file" | "data_file_raw" => "data_file=d.raw,data_file_raw=on",
            _ => "cluster_size=64k",
        };
        let words = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            created,
            "old.qcow2",
            "1M",
        ];
        bench.prepare("qemu-img", &words);
        let (change, path, want): (&str, &[&str], &str) = match option.as_str() {
            "backing_file" => ("backing_file=base.raw", &["backing-filename"], "base.raw"),
            "backing_fmt" => ("backing_fmt=raw", &["backing-filename-format"], "raw"),
            "compat" => (
                "compat=0.10",
                &["format-specific", "data", "compat"],
                "0.10",
            ),
            "data_file" => (
                "data_file=./d.raw",
                &["format-specific", "data", "data-file"],
                "./d.raw",
            ),
            "data_file_raw" => (
                "data_file_raw=off",
                &["format-specific", "data", "data-file-raw"],
                "false",
            ),
            "lazy_refcounts" => (
                "lazy_refcounts=on",
                &["format-specific", "data", "lazy-refcounts"],
                "true",
            ),
            "refcount_bits" => (
                "refcount_bits=64",
                &["format-specific", "data", "refcount-bits"],
                "64",
            ),
            "size" => ("size=3M", &["virtual-size"], "3145728"),
            other => panic!("nobody has said what option {other} does"),
        };
        let said = bench.ours("qemu-img", &["amend", "-o", change, "old.qcow2"]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{option}");
        assert_eq!(member(&bench, "old.qcow2", path), want, "{option}");
        bench.prepare("qemu-img", &["check", "-q", "old.qcow2"]);
    }
}

#[test]
fn data_files_are_told_of_as_qemu_tells() {
    let Some(bench) = beside(&["qemu-img", "qemu-io"]) else {
        return;
    };
    bench.prepare("qemu-img", &["create", "-q", "-f", "raw", "base.raw", "1M"]);
    for words in [
        &["-o", "data_file=d.raw,data_file_raw=on", "a.qcow2", "1M"][..],
        &["-o", "data_file_raw=on", "b.qcow2", "1M"],
        &["-o", "compat=0.10,data_file=e.raw", "b.qcow2", "1M"],
        &["-o", "data_file=none/e.raw", "b.qcow2", "1M"],
        &[
            "-b",
            "base.raw",
            "-F",
            "raw",
            "-o",
            "data_file=e.raw,data_file_raw=on",
            "b.qcow2",
        ],
    ] {
        let words = [&["create", "-f", "qcow2"], words].concat();
        bench.check_same("qemu-img", &words);
    }
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "plain.qcow2", "1M"],
    );
    let with = "driver=qcow2,file.filename=plain.qcow2,data-file.filename=d.raw";
    for words in [
        &["info", "a.qcow2"][..],
        &["map", "a.qcow2"],
        &["check", "a.qcow2"],
        &["snapshot", "-c", "x", "a.qcow2"],
        &["map", "--image-opts", with],
        &["amend", "-o", "data_file=x", "plain.qcow2"],
        &["amend", "-o", "data_file_raw=on", "plain.qcow2"],
        &["amend", "-o", "compat=0.10", "a.qcow2"],
        &[
            "convert",
            "-O",
            "qcow2",
            "-o",
            "data_file=c.raw",
            "a.qcow2",
            "c.qcow2",
        ],
        &["measure", "-O", "qcow2", "-o", "data_file=c.raw", "a.qcow2"],
        &["resize", "a.qcow2", "2M"],
        &["compare", "a.qcow2", "d.raw"],
    ] {
        bench.check_same("qemu-img", words);
    }
    let said = bench.ours(
        "qemu-img",
        &["amend", "-o", "data_file=gone.raw", "a.qcow2"],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    bench.check_same("qemu-img", &["info", "a.qcow2"]);
    bench.check_same("qemu-img", &["map", "a.qcow2"]);
    let back = "driver=qcow2,file.filename=a.qcow2,data-file.filename=d.raw";
    let script = [
        "-c",
        "write -P 7 100k 300k",
        "-c",
        "write -z 128k 64k",
        "-c",
        "discard 0 1M",
    ];
    let words = [&script[..4], &["--image-opts", back]].concat();
    bench.prepare("qemu-io", &words);
    let read = [
        "-c",
        "read -P 7 192k 64k",
        "-c",
        "read -P 0 128k 64k",
        "--image-opts",
        back,
    ];
    let said = bench.ours("qemu-io", &read);
    assert!(
        !said.out.contains("failed") && said.code == Some(0),
        "{said:?}"
    );
    let words = [
        &["-c", "write -P 9 1500k 100k"],
        &["--image-opts", back][..],
    ]
    .concat();
    assert_eq!(bench.ours("qemu-io", &words).code, Some(0));
    bench.prepare(
        "qemu-img",
        &[
            "compare",
            "--image-opts",
            back,
            "driver=file,filename=d.raw",
        ],
    );
    bench.prepare("qemu-img", &["check", "--image-opts", back]);
}

#[test]
fn an_image_that_cannot_be_made_leaves_no_file() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    for was_there in [false, true] {
        let run = |said: fn(&Bench, &[&str]) -> Option<i32>| {
            if was_there {
                std::fs::write(bench.path("new"), "what it was").unwrap();
            }
            let words = [
                "create",
                "-f",
                "qcow2",
                "-o",
                "data_file=no/folder",
                "new",
                "1M",
            ];
            let code = said(&bench, &words);
            let left = bench.path("new").exists();
            std::fs::remove_file(bench.path("new")).ok();
            (code, left)
        };
        let ours = run(|bench, words| bench.ours("qemu-img", words).code);
        let theirs = run(|bench, words| bench.theirs("qemu-img", words).code);
        assert_eq!(ours, theirs);
        assert_eq!(ours, (Some(1), false));
    }
}

#[test]
fn no_hint_of_extents_is_a_hint_of_none() {
    let Some(bench) = beside(&["qemu-img"]) else {
        return;
    };
    for format in ["raw", "qcow2"] {
        let options = "extent_size_hint=0,nocow=off,preallocation=off";
        bench.check_same(
            "qemu-img",
            &["create", "-f", format, "-o", options, "d", "1M"],
        );
    }
    let said = bench.ours(
        "qemu-img",
        &[
            "create",
            "-f",
            "raw",
            "-o",
            "extent_size_hint=1M",
            "d",
            "1M",
        ],
    );
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("'extent_size_hint'"), "{said:?}");
}
