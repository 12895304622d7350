//! Encrypted images, made by `qemu-img` and by us, read, written and shown by both.

use super::{Bench, beside};
use crate::support::Random;

const SECRET: [&str; 2] = ["--object", "secret,id=s,data=letmein"];
/// Ways to encrypt, as `encrypt.format` and what else there is to it.
const WAYS: [(&str, &str); 5] = [
    ("luks", ""),
    (
        "luks",
        "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1",
    ),
    ("luks", "cipher-alg=aes-192,ivgen-alg=plain,hash-alg=sha512"),
    ("luks", "cipher-mode=cbc,ivgen-alg=plain64,hash-alg=sha224"),
    ("aes", ""),
];

fn create_options((format, more): (&str, &str)) -> String {
    let mut options = format!("encrypt.format={format},encrypt.key-secret=s,cluster_size=4k");
    for option in more.split(',').filter(|option| !option.is_empty()) {
        options += &format!(",encrypt.{option}");
    }
    if format == "luks" {
        options += ",encrypt.iter-time=10";
    }
    options
}

fn open_options(format: &str, image: &str) -> String {
    format!("driver=qcow2,encrypt.format={format},encrypt.key-secret=s,file.filename={image}")
}

fn bench_with_disk() -> Option<Bench> {
    let bench = beside(&["qemu-img", "qemu-io"])?;
    let mut random = Random::new(7);
    let mut disk = vec![0; 1 << 20];
    for byte in &mut disk[100_000..500_000] {
        *byte = random.below(256).to_le_bytes()[0];
    }
    std::fs::write(bench.path("disk.raw"), disk).expect("a disk");
    Some(bench)
}

impl Bench {
    #[track_caller]
    fn ours_succeeds(&self, name: &str, words: &[&str]) {
        let said = self.ours(name, words);
        assert_eq!(said.code, Some(0), "{name} {words:?}: {said:?}");
    }
}

#[test]
fn what_either_program_encrypts_the_other_reads_and_writes() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let write = |image: &str| {
        let mut words = SECRET.map(str::to_owned).to_vec();
        words.extend(["--image-opts", image].map(str::to_owned));
        for command in [
            "write -P 7 1000 5000",
            "write -P 9 700k 20k",
            "write -z 200k 64k",
        ] {
            words.extend(["-c", command].map(str::to_owned));
        }
        words
    };
    for way in WAYS {
        let create = create_options(way);
        let convert = [
            &["convert"],
            SECRET.as_slice(),
            &["-f", "raw", "-O", "qcow2", "-o", &create],
        ];
        let convert = convert.concat();
        bench.prepare(
            "qemu-img",
            &[&convert[..], &["disk.raw", "theirs.qcow2"]].concat(),
        );
        bench.ours_succeeds(
            "qemu-img",
            &[&convert[..], &["disk.raw", "ours.qcow2"]].concat(),
        );
        let (theirs, ours) = (
            open_options(way.0, "theirs.qcow2"),
            open_options(way.0, "ours.qcow2"),
        );
        let both = [
            &["compare"],
            SECRET.as_slice(),
            &["--image-opts", &theirs, &ours],
        ]
        .concat();
        bench.prepare("qemu-img", &both);
        bench.ours_succeeds("qemu-img", &both);
        // Each writes to what the other made.
        let words = write(&ours);
        bench.prepare(
            "qemu-io",
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        let words = write(&theirs);
        bench.ours_succeeds(
            "qemu-io",
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        bench.prepare("qemu-img", &both);
        bench.ours_succeeds("qemu-img", &both);
        for image in [&ours, &theirs] {
            let check = [
                &["check", "-q"],
                SECRET.as_slice(),
                &["--image-opts", image],
            ]
            .concat();
            bench.prepare("qemu-img", &check);
        }
        for image in ["ours.qcow2", "theirs.qcow2"] {
            bench.ours_succeeds("qemu-img", &["check", "-q", image]);
            bench.check_same("qemu-img", &["info", image]);
            bench.check_same_json("qemu-img", &["info", "--output=json", image]);
        }
    }
}

#[test]
fn keys_that_are_missing_or_wrong_are_told_as_by_qemu() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    for format in ["luks", "aes"] {
        let create = create_options((format, ""));
        let image = format!("{format}.qcow2");
        let words = [
            &["create", "-q"],
            SECRET.as_slice(),
            &["-f", "qcow2", "-o", &create, &image, "1M"],
        ];
        bench.prepare("qemu-img", &words.concat());
    }
    bench.prepare(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "plain.qcow2", "1M"],
    );
    let luks = open_options("luks", "luks.qcow2");
    let wrong = ["--object", "secret,id=s,data=wrong"];
    let convert = |object: &[&'static str], image: &str| {
        let mut words = vec!["convert".to_owned()];
        words.extend(object.iter().map(|&word| word.to_owned()));
        words.extend(["--image-opts", "-O", "raw", image, "out.raw"].map(str::to_owned));
        words
    };
    for words in [
        convert(&wrong, &luks),
        convert(&[], &luks),
        convert(&SECRET, &open_options("aes", "luks.qcow2")),
        convert(&SECRET, &open_options("luks", "aes.qcow2")),
        convert(&SECRET, &open_options("luks", "plain.qcow2")),
        convert(&SECRET, "driver=qcow2,file.filename=luks.qcow2"),
        convert(&["--object", "secret,id=s"], &luks),
        convert(&["--object", "secret,id=s,data=a,file=b"], &luks),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        bench.check_same("qemu-img", &words);
    }
    for image in ["luks.qcow2", "aes.qcow2"] {
        bench.check_same("qemu-img", &["convert", "-O", "raw", image, "out.raw"]);
        bench.check_same("qemu-io", &["-c", "read 0 512", image]);
    }
}

#[test]
fn create_refuses_what_qemu_refuses() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    for options in [
        "encrypt.key-secret=s",
        "encrypt.format=luks",
        "encrypt.format=aes",
        "encryption=on",
        "encrypt.format=luks,encrypt.key-secret=none",
        "encrypt.format=zip,encrypt.key-secret=s",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=rot13",
        "encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-256",
        "encryption=on,encrypt.format=luks,encrypt.key-secret=s",
    ] {
        let words = [
            &["create"],
            SECRET.as_slice(),
            &["-f", "qcow2", "-o", options, "x.qcow2", "1M"],
        ];
        bench.check_same("qemu-img", &words.concat());
    }
}

#[test]
fn a_secret_may_come_from_a_file_or_be_wrapped() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    std::fs::write(bench.path("pass"), "bGV0bWVpbg==\n").expect("a file");
    let create = create_options(("luks", ""));
    let words = [
        "-f", "raw", "-O", "qcow2", "-o", &create, "disk.raw", "i.qcow2",
    ];
    bench.prepare(
        "qemu-img",
        &[&["convert"], SECRET.as_slice(), &words].concat(),
    );
    let image = open_options("luks", "i.qcow2");
    let key = "secret,id=k,data=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=,format=base64";
    let iv = "AAAAAAAAAAAAAAAAAAAAAA==";
    let wrapped = "yaX//RwWd58JvrjMnO8YPA==";
    let wrapped = format!("secret,id=s,keyid=k,iv={iv},data={wrapped},format=base64");
    for objects in [
        &["--object", "secret,id=s,file=pass,format=base64"][..],
        &["--object", key, "--object", &wrapped],
    ] {
        let compare = ["--image-opts", &image, "driver=raw,file.filename=disk.raw"];
        bench.check_same("qemu-img", &[&["compare"], objects, &compare].concat());
    }
}

#[test]
fn a_snapshot_of_an_encrypted_image_is_readable() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let create = create_options(("luks", ""));
    let words = [
        "-f", "raw", "-O", "qcow2", "-o", &create, "disk.raw", "i.qcow2",
    ];
    bench.prepare(
        "qemu-img",
        &[&["convert"], SECRET.as_slice(), &words].concat(),
    );
    bench.ours_succeeds("qemu-img", &["snapshot", "-c", "one", "i.qcow2"]);
    let image = open_options("luks", "i.qcow2");
    let write = ["--image-opts", "-c", "write -P 5 100k 300k", &image];
    bench.ours_succeeds("qemu-io", &[SECRET.as_slice(), &write].concat());
    let back = ["--image-opts", "-l", "one", "-O", "raw", &image, "back.raw"];
    bench.ours_succeeds(
        "qemu-img",
        &[&["convert"], SECRET.as_slice(), &back].concat(),
    );
    let same = ["compare", "-f", "raw", "-F", "raw", "back.raw", "disk.raw"];
    bench.prepare("qemu-img", &same);
    let check = ["check", "-q", "--image-opts", &image];
    bench.prepare(
        "qemu-img",
        &[&check[..2], SECRET.as_slice(), &check[2..]].concat(),
    );
}

/// Both programs change key slots of an image of their own, and say and leave the same.
#[test]
fn key_slots_come_and_go_as_qemu_img_lets_them() {
    let Some(bench) = bench_with_disk() else {
        return;
    };
    let options = create_options(("luks", ""));
    for name in ["ours", "theirs"] {
        let create = ["create", "-q", "-f", "qcow2", "-o", &options, name, "1M"];
        let words = [&create[..1], &SECRET[..], &create[1..]].concat();
        bench.prepare("qemu-img", &words);
    }
    let secrets = [
        "--object",
        "secret,id=s,data=letmein",
        "--object",
        "secret,id=n,data=new",
        "--object",
        "secret,id=o,data=other",
    ];
    let steps: &[(&str, &[&str])] = &[
        ("encrypt.new-secret=n", &[]),
        ("encrypt.state=foo", &[]),
        ("encrypt.state=active", &[]),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.old-secret=s",
            &[],
        ),
        ("encrypt.state=active,encrypt.new-secret=zz", &[]),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=8",
            &[],
        ),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=-1",
            &[],
        ),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=0",
            &[],
        ),
        ("encrypt.state=inactive", &[]),
        ("encrypt.state=inactive,encrypt.keyslot=0", &[]),
        ("encrypt.state=inactive,encrypt.keyslot=3", &[]),
        ("encrypt.state=inactive,encrypt.old-secret=s", &[]),
        (
            "encrypt.state=inactive,encrypt.keyslot=0,encrypt.new-secret=n",
            &[],
        ),
        (
            "encrypt.state=inactive,encrypt.keyslot=0,encrypt.iter-time=10",
            &[],
        ),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10",
            &[],
        ),
        (
            "encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=10,encrypt.keyslot=6",
            &[],
        ),
        (
            "encrypt.state=active,encrypt.new-secret=o,encrypt.iter-time=10,encrypt.keyslot=6",
            &["--force"],
        ),
        (
            "encrypt.state=inactive,encrypt.keyslot=0,encrypt.old-secret=n",
            &[],
        ),
        ("encrypt.state=inactive,encrypt.old-secret=n", &[]),
        ("encrypt.state=inactive,encrypt.old-secret=n", &[]),
    ];
    for (step, force) in steps {
        let amend = |name: &str| {
            let image = open_options("luks", name);
            let words = [
                &["amend"],
                &secrets[..],
                *force,
                &["--image-opts", "-o", step, &image],
            ];
            match name {
                "ours" => bench.ours("qemu-img", &words.concat()),
                _ => bench.theirs("qemu-img", &words.concat()),
            }
        };
        assert_eq!(amend("ours"), amend("theirs"), "{step}");
    }
    let opens = |tool_of: &str, image: &str, secret: &str| {
        let object = format!("secret,id=s,data={secret}");
        let image = open_options("luks", image);
        let words = [
            "--object",
            &object,
            "--image-opts",
            "-c",
            "read 0 512",
            &image,
        ];
        match tool_of {
            "ours" => bench.ours("qemu-io", &words).code == Some(0),
            _ => bench.theirs("qemu-io", &words).code == Some(0),
        }
    };
    for image in ["ours", "theirs"] {
        for (secret, right) in [("letmein", true), ("other", true), ("new", false)] {
            assert_eq!(opens("ours", image, secret), right, "{image} {secret}");
            assert_eq!(opens("theirs", image, secret), right, "{image} {secret}");
        }
    }
}
