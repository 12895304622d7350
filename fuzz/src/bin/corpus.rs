//! Makes the corpus: `cargo run -p fuzz --bin fuzz-corpus` writes `fuzz/corpus/` anew, and leaves
//! there what it does not make.
//!
//! Images come from `qemu-img` and `qemu-io`, messages and texts from here. Images have random
//! identifiers and times, so another run makes other bytes of the same kind.

use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compress, Compression, FlushCompress};

type Failure = Box<dyn std::error::Error>;

/// A qcow2 image: its options, the operations of `qemu-io` on it, and what `qemu-img` does then.
struct Image {
    name: &'static str,
    options: &'static str,
    size: &'static str,
    io: &'static [&'static str],
    then: &'static [&'static [&'static str]],
}

const SNAPSHOTS: [&[&str]; 2] = [&["snapshot", "-c", "one"], &["snapshot", "-c", "two"]];

const IMAGES: [Image; 9] = [
    Image {
        name: "small-clusters",
        options: "cluster_size=512,refcount_bits=8",
        size: "256k",
        io: &[
            "write -P 1 0 20k",
            "write -z 5k 3k",
            "write -P 2 100k 3k",
            "discard 10k 2k",
        ],
        then: &[],
    },
    Image {
        name: "snapshots",
        options: "cluster_size=512",
        size: "64k",
        io: &["write -P 1 0 8k"],
        then: &SNAPSHOTS,
    },
    Image {
        name: "version-2",
        options: "cluster_size=512,compat=0.10",
        size: "64k",
        io: &["write -P 3 1k 5k"],
        then: &[&["snapshot", "-c", "old"]],
    },
    Image {
        name: "zlib",
        options: "cluster_size=4096",
        size: "64k",
        io: &[
            "write -c -P 4 0 4k",
            "write -c -P 5 8k 4k",
            "write -P 6 16k 4k",
        ],
        then: &[],
    },
    Image {
        name: "zstd",
        options: "cluster_size=4096,compression_type=zstd",
        size: "64k",
        io: &["write -c -P 7 0 4k", "write -c -P 8 8k 4k"],
        then: &[],
    },
    Image {
        name: "one-bit-refcounts",
        options: "cluster_size=1024,refcount_bits=1",
        size: "128k",
        io: &["write -P 9 0 3k", "write -z -u 0 1k"],
        then: &[],
    },
    Image {
        name: "bitmaps",
        options: "cluster_size=1024",
        size: "256k",
        io: &["write -P 10 0 2k"],
        then: &[
            &["bitmap", "--add", "-g", "512"],
            &["bitmap", "--add", "-g", "1024"],
        ],
    },
    Image {
        name: "lazy",
        options: "cluster_size=2048,lazy_refcounts=on,refcount_bits=64",
        size: "128k",
        io: &["write -P 11 0 4k"],
        then: &[],
    },
    Image {
        name: "subclusters",
        options: "cluster_size=16384,extended_l2=on",
        size: "128k",
        io: &["write -P 12 0 1k", "write -z 4k 1k", "write -P 13 32k 16k"],
        then: &[],
    },
];

/// Images whose data is in a file of its own.
const BESIDE: [Image; 2] = [
    Image {
        name: "data-file",
        options: "cluster_size=512,data_file=data",
        size: "64k",
        io: &["write -P 1 0 20k", "write -z 5k 3k", "discard 10k 2k"],
        then: &[&["bitmap", "--add", "-g", "512"]],
    },
    Image {
        name: "data-file-raw",
        options: "cluster_size=4096,data_file=data,data_file_raw=on",
        size: "64k",
        io: &["write -P 2 0 8k", "write -z 32k 8k"],
        then: &[],
    },
];

/// Headers of images that hold nothing else to look at.
const HEADERS: [(&str, &[&str]); 4] = [
    (
        "backing",
        &[
            "-b",
            "base.raw",
            "-F",
            "raw",
            "-u",
            "-o",
            "cluster_size=512",
        ],
    ),
    ("wide", &["-o", "cluster_size=2M,refcount_bits=64"]),
    ("data-file", &["-o", "data_file=data.raw"]),
    (
        "aes",
        &[
            "--object",
            "secret,id=s,data=k",
            "-o",
            "encrypt.format=aes,encrypt.key-secret=s",
        ],
    ),
];

fn main() -> Result<(), Failure> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let scratch = std::env::temp_dir().join(format!("fuzz-corpus-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let made = images(&corpus, &scratch)
        .and_then(|()| headers(&corpus, &scratch))
        .and_then(|()| compressed(&corpus))
        .and_then(|()| nbd(&corpus))
        .and_then(|()| texts(&corpus));
    std::fs::remove_dir_all(&scratch)?;
    made
}

fn images(corpus: &Path, scratch: &Path) -> Result<(), Failure> {
    for image in &IMAGES {
        let bytes = made(image, scratch)?;
        write(corpus, "qcow2_image", image.name, &bytes)?;
        write(corpus, "qcow2_header", image.name, header_of(&bytes))?;
        if let Some(table) = snapshot_table(&bytes) {
            write(corpus, "qcow2_snapshot_table", image.name, &table)?;
        }
    }
    for image in &BESIDE {
        write(corpus, "qcow2_beside", image.name, &made(image, scratch)?)?;
    }
    Ok(())
}

/// The bytes of an image.
fn made(image: &Image, scratch: &Path) -> Result<Vec<u8>, Failure> {
    let command = |name: &str| {
        let mut command = Command::new(name);
        command.current_dir(scratch);
        command
    };
    let mut create = command("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-o", image.options]);
    run(create.args([image.name, image.size]))?;
    let mut io = command("qemu-io");
    io.args(["-f", "qcow2", "-d", "unmap"]);
    for step in image.io {
        io.args(["-c", step]);
    }
    run(io.arg(image.name))?;
    for (number, arguments) in image.then.iter().enumerate() {
        let mut then = command("qemu-img");
        then.args(*arguments).arg(image.name);
        if arguments[0] == "bitmap" {
            then.arg(format!("bitmap{number}"));
        }
        run(&mut then)?;
    }
    Ok(std::fs::read(scratch.join(image.name))?)
}

fn headers(corpus: &Path, scratch: &Path) -> Result<(), Failure> {
    for (name, arguments) in HEADERS {
        let path = scratch.join(format!("{name}.header"));
        let mut create = Command::new("qemu-img");
        create
            .current_dir(scratch)
            .args(["create", "-q", "-f", "qcow2"]);
        run(create.args(arguments).arg(&path).arg("1M"))?;
        write(
            corpus,
            "qcow2_header",
            name,
            header_of(&std::fs::read(&path)?),
        )?;
    }
    let ciphers = [
        ("xts", "cipher-alg=aes-256,cipher-mode=xts"),
        (
            "essiv",
            "cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        ),
    ];
    for (name, options) in ciphers {
        let path = scratch.join(format!("{name}.luks"));
        let mut create = Command::new("qemu-img");
        create.args([
            "create",
            "-q",
            "-f",
            "luks",
            "--object",
            "secret,id=s,data=k",
        ]);
        create.args(["-o", &format!("key-secret=s,iter-time=10,{options}")]);
        run(create.arg(&path).arg("1M"))?;
        let bytes = std::fs::read(&path)?;
        let len = u64::try_from(bytes.len())?.to_be_bytes();
        write(corpus, "luks_header", name, &[&len, &bytes[..592]].concat())?;
    }
    Ok(())
}

/// The header cluster up to the zeroes at its end.
fn header_of(bytes: &[u8]) -> &[u8] {
    let cluster = &bytes[..bytes.len().min(1 << bytes[23])];
    let used = cluster.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    &cluster[..(used + 33).min(cluster.len())]
}

/// The count and the table of an image's snapshots.
fn snapshot_table(bytes: &[u8]) -> Option<Vec<u8>> {
    let count = bytes[63];
    let at = u64::from_be_bytes(*bytes[64..].first_chunk()?);
    let at = usize::try_from(at).ok()?;
    let table = &bytes[at..(at + 256).min(bytes.len())];
    (count > 0).then(|| [&[count], table].concat())
}

fn compressed(corpus: &Path) -> Result<(), Failure> {
    let text: Vec<u8> = (0..4096_u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
    let mut packed = vec![0; 8192];
    let mut deflate = Compress::new(Compression::default(), false);
    deflate.compress(&text, &mut packed, FlushCompress::Finish)?;
    packed.truncate(usize::try_from(deflate.total_out())?);
    // Behind the byte of kind and size: an even one for deflate, and 512 << 3 bytes.
    write(
        corpus,
        "compressed_cluster",
        "deflate",
        &[&[6], &packed[..]].concat(),
    )?;
    let packed = zstd::bulk::compress(&text, 3)?;
    write(
        corpus,
        "compressed_cluster",
        "zstd",
        &[&[7], &packed[..]].concat(),
    )
}

/// Bytes of a message, from its fields.
fn message(fields: &[&[u8]]) -> Vec<u8> {
    fields.concat()
}

fn nbd(corpus: &Path) -> Result<(), Failure> {
    let option = |number: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
        message(&[b"IHAVEOPT", &number.to_be_bytes(), &len, data])
    };
    let request = |flags: u16, command: u16, offset: u64, len: u32| {
        let magic = 0x2560_9513_u32.to_be_bytes();
        let kind = [flags.to_be_bytes(), command.to_be_bytes()].concat();
        let range = message(&[&offset.to_be_bytes(), &len.to_be_bytes()]);
        message(&[&magic, &kind, &[0, 1, 2, 3, 4, 5, 6, 7], &range])
    };
    let flags = 3_u32.to_be_bytes();
    let go = option(7, b"\0\0\0\x04disk\0\x01\0\x03");
    let context = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";
    let requests = message(&[
        &request(0, 0, 4096, 4096),
        &request(1, 1, 0, 8),
        b"payload.",
        &request(0, 3, 0, 0),
        &request(0, 4, 0, 65536),
        &request(2, 6, 512, 512),
        &request(8, 7, 0, 1 << 20),
        &request(0, 2, 0, 0),
    ]);
    let export = message(&[&flags, &option(3, b""), &option(1, b"disk"), &requests]);
    write(corpus, "nbd_server", "export-name", &export)?;
    let modern = message(&[
        &flags,
        &option(8, b""),
        &option(10, context),
        &go,
        &requests,
    ]);
    write(corpus, "nbd_server", "go", &modern)?;

    let reply = |number: u32, kind: u32, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
        let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
        message(&[
            &magic,
            &number.to_be_bytes(),
            &kind.to_be_bytes(),
            &len,
            data,
        ])
    };
    let chunk = |flags: u16, kind: u16, data: &[u8]| {
        let len = u32::try_from(data.len()).unwrap_or(0).to_be_bytes();
        let magic = 0x668e_33ef_u32.to_be_bytes();
        let head = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
        message(&[&magic, &head, &[0, 0, 0, 0, 0, 0, 0, 1], &len, data])
    };
    let greeting = message(&[b"NBDMAGIC", b"IHAVEOPT", &[0, 3]]);
    let info = message(&[&[0, 0], &(1_u64 << 20).to_be_bytes(), &[0, 0x6d]]);
    let sizes = message(&[
        &[0, 3],
        &1_u32.to_be_bytes(),
        &4096_u32.to_be_bytes(),
        &[2, 0, 0, 0],
    ]);
    let answers = message(&[
        &chunk(0, 1, b"\0\0\0\0\0\0\0\0some data"),
        &chunk(1, 2, &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 0]),
        &chunk(1, 5, &[0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]),
        &chunk(1, 0x8001, b"\0\0\0\x05\0\x04text"),
        &chunk(1, 0, b""),
    ]);
    let served = message(&[
        &greeting,
        &reply(8, 1, b""),
        &reply(10, 4, b"\0\0\0\x01base:allocation"),
        &reply(10, 1, b""),
        &reply(7, 3, &info),
        &reply(7, 3, &sizes),
        &reply(7, 1, b""),
        &answers,
    ]);
    write(corpus, "nbd_client", "structured", &served)?;
    let simple = message(&[&0x6744_6698_u32.to_be_bytes(), &[0; 12]]);
    let refused = reply(8, 0x8000_0001, b"no");
    let old = message(&[
        &greeting,
        &refused,
        &reply(7, 3, &info),
        &reply(7, 1, b""),
        &simple,
    ]);
    write(corpus, "nbd_client", "simple", &old)
}

const JSON: [(&str, &str); 5] = [
    (
        "command",
        r#"{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": [1]}"#,
    ),
    (
        "blockdev-add",
        r#"{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "a",
            "l2-cache-size": 1048576, "file": {"driver": "file", "filename": "/a", "aio": "io_uring",
            "locking": "auto"}, "backing": null}}"#,
    ),
    (
        "options",
        r#"{"driver": "qcow2", "file": {"driver": "nbd", "server": {"type": "inet", "host": "::1",
            "port": "10809"}, "export": "x"}, "cache": {"direct": true}, "encrypt": {"format":
            "luks", "key-secret": "k"}} {"driver": "raw", "offset": 512, "file": "b"}"#,
    ),
    (
        "values",
        "[1, -2, 3.5e-7, 18446744073709551615, true, null, \"\\u00e9\\ud83d\\ude00\\n\", {}, []] 'x'",
    ),
    (
        "errors",
        "{\"a\": } ] {\"b\": [1, 2} \u{1} {\"c\": \"\\q\"} \"\u{e9}\" nul 01 \"open",
    ),
];

const OPTIONS: [(&str, &str); 7] = [
    (
        "node",
        "driver=qcow2,node-name=a,file.driver=file,file.filename=/a,,b,cache.direct=on",
    ),
    (
        "list",
        "driver=quorum,children.0=a,children.1.driver=null-co,children.1.size=4k",
    ),
    ("implied", "qcow2,read-only"),
    ("size", "1.5G"),
    ("hex", "0x1000"),
    ("uri", "nbd+unix:///export%20name?socket=/run/nbd.sock"),
    ("address", "nbd:[::1]:10809:exportname=a"),
];

/// Schemas of the compiler's own tests.
const SCHEMAS: [&str; 8] = [
    "anonymous_union",
    "base",
    "builtins",
    "collisions",
    "conditions",
    "event",
    "flat_union",
    "doc_sections",
];

fn texts(corpus: &Path) -> Result<(), Failure> {
    for (name, text) in JSON {
        write(corpus, "json", name, text.as_bytes())?;
    }
    for (name, text) in OPTIONS {
        write(corpus, "options", name, text.as_bytes())?;
    }
    let deep = "a.".repeat(20_000) + "a=1";
    write(corpus, "options", "deep", deep.as_bytes())?;
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/schemas/ok");
    for name in SCHEMAS {
        let text = std::fs::read(schemas.join(name).with_extension("json"))?;
        write(corpus, "schema", name, &text)?;
    }
    Ok(())
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let folder: PathBuf = corpus.join(target);
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join(name), bytes)?)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {errors}").into())
}
