//! `bitmap`, and what `info`, `convert`, `measure` and `check` do with bitmaps, beside `qemu-img`.

use super::{Bench, beside};

fn bench_with_bitmaps() -> Option<Bench> {
    let bench = beside(&["qemu-img", "qemu-io", "qemu-storage-daemon"])?;
    let img = |words: &[&str]| bench.prepare("qemu-img", words);
    img(&["create", "-q", "-f", "qcow2", "i.qcow2", "4M"]);
    img(&["create", "-q", "-f", "qcow2", "long.qcow2", "8M"]);
    img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "compat=0.10",
        "v2.qcow2",
        "1M",
    ]);
    img(&["create", "-q", "-f", "raw", "r.raw", "1M"]);
    img(&["bitmap", "--add", "i.qcow2", "b0"]);
    img(&["bitmap", "--add", "--disable", "-g", "4k", "i.qcow2", "b1"]);
    img(&["bitmap", "--add", "long.qcow2", "long"]);
    bench.prepare("qemu-io", &["-c", "write 100k 1M", "i.qcow2"]);
    Some(bench)
}

/// An image whose bitmap somebody left in use.
fn leave_in_use(bench: &Bench, image: &str) {
    bench.prepare("qemu-img", &["bitmap", "--add", image, "lost"]);
    // The flags of the first entry of the directory, which the extension behind the features names.
    let path = bench.path(image);
    let mut bytes = std::fs::read(&path).expect("the image");
    let kind = 0x2385_2875_u32.to_be_bytes();
    let at = bytes[..65536].windows(4).position(|word| word == kind);
    let at = at.expect("the bitmaps extension") + 8 + 16;
    let word = bytes[at..].first_chunk().expect("its offset");
    let directory = usize::try_from(u64::from_be_bytes(*word)).expect("an offset");
    bytes[directory + 15] |= 1;
    std::fs::write(&path, bytes).expect("the image");
}

#[test]
fn bitmaps_are_refused_as_in_qemu() {
    let Some(bench) = bench_with_bitmaps() else {
        return;
    };
    leave_in_use(&bench, "i.qcow2");
    for words in [
        &["i.qcow2", "b0"][..],
        &["--add"],
        &["--add", "i.qcow2"],
        &["--add", "i.qcow2", "b0"],
        &["--add", "i.qcow2", ""],
        &["--add", "i.qcow2", "c", "more"],
        &["--add", "-g", "100", "i.qcow2", "c"],
        &["--add", "-g", "x", "i.qcow2", "c"],
        &["--add", "-f", "nope", "i.qcow2", "c"],
        &["--clear", "i.qcow2", "zz"],
        &["--remove", "i.qcow2", "zz"],
        &["--enable", "i.qcow2", "zz"],
        &["--disable", "nowhere", "zz"],
        &["--merge", "zz", "i.qcow2", "b1"],
        &["--merge", "long", "-b", "long.qcow2", "i.qcow2", "b1"],
        &["--merge", "b1", "-b", "nowhere", "i.qcow2", "b1"],
        &["-g", "4k", "--clear", "i.qcow2", "b0"],
        &["-F", "raw", "--merge", "b1", "i.qcow2", "b0"],
        &["-b", "x", "--clear", "i.qcow2", "b0"],
        &["--clear", "i.qcow2", "b0"],
        &["--enable", "i.qcow2", "b0"],
        &["--merge", "b0", "i.qcow2", "b1"],
        &["--image-opts", "-f", "qcow2", "--clear", "i.qcow2", "b0"],
        &["--bogus"],
        &["--add", "-U", "i.qcow2", "c"],
    ] {
        let words = [&["bitmap"], words].concat();
        let (ours, theirs) = (
            bench.ours("qemu-img", &words),
            bench.theirs("qemu-img", &words),
        );
        if words.contains(&"-U") || words.contains(&"--bogus") {
            assert_eq!(ours.code, theirs.code, "{words:?}");
        } else {
            assert_eq!(ours, theirs, "{words:?}");
        }
    }
    // These name a node, which every run calls differently.
    for image in ["v2.qcow2", "r.raw"] {
        let said = bench.ours("qemu-img", &["bitmap", "--add", image, "c"]);
        assert_eq!(said.code, Some(1), "{image}: {said:?}");
    }
}

#[test]
fn bitmaps_are_shown_as_in_qemu() {
    let Some(bench) = bench_with_bitmaps() else {
        return;
    };
    leave_in_use(&bench, "i.qcow2");
    bench.check_same("qemu-img", &["info", "i.qcow2"]);
    bench.check_same_json("qemu-img", &["info", "--output=json", "i.qcow2"]);
    bench.check_same("qemu-img", &["check", "i.qcow2"]);
    for format in ["qcow2", "raw"] {
        bench.check_same("qemu-img", &["measure", "-O", format, "i.qcow2"]);
    }
    for options in ["cluster_size=4k", "compat=0.10"] {
        let words = ["measure", "-O", "qcow2", "-o", options, "i.qcow2"];
        bench.check_same("qemu-img", &words);
    }
}

#[test]
fn either_program_does_the_same_to_bitmaps() {
    let Some(bench) = bench_with_bitmaps() else {
        return;
    };
    let images = ["ours.qcow2", "theirs.qcow2"];
    for image in images {
        std::fs::copy(bench.path("i.qcow2"), bench.path(image)).expect("a copy");
    }
    for words in [
        &["--add", "-g", "64k", "new"][..],
        &["--merge", "b0", "new"],
        &["--add", "--merge", "new", "--disable", "other"],
        &["--remove", "b0"],
        &["--clear", "--enable", "b1"],
        &["-b", "i.qcow2", "--merge", "b0", "b1"],
        &["--image-opts", "--add", "by-options"],
    ] {
        for (image, ours) in images.into_iter().zip([true, false]) {
            let by_options = format!("driver=qcow2,file.filename={image}");
            let (name, before) = words.split_last().expect("a name");
            let image = match words.contains(&"--image-opts") {
                true => &by_options,
                false => image,
            };
            let words = [&["bitmap"], before, &[image, name]].concat();
            let said = match ours {
                true => bench.ours("qemu-img", &words),
                false => bench.theirs("qemu-img", &words),
            };
            assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{words:?}");
        }
    }
    for image in images {
        bench.prepare("qemu-img", &["check", "-q", image]);
    }
    let shown = |image: &str| {
        let said = bench.theirs("qemu-img", &["info", "--output=json", image]);
        let info = block_schema::Value::from_json(&said.out).expect("JSON");
        let data = info.get("format-specific").and_then(|s| s.get("data"));
        data.and_then(|data| data.get("bitmaps")).cloned()
    };
    assert_eq!(shown("ours.qcow2"), shown("theirs.qcow2"));
    // Merged into one bitmap each, their bits are the same: nothing is dirty in one alone.
    for name in ["new", "other", "b1"] {
        let bits = |image: &str| dirty(&bench, image, name);
        assert_eq!(bits("ours.qcow2"), bits("theirs.qcow2"), "{name}");
    }
}

/// The map of a bitmap as `qemu-img` sees it over NBD.
fn dirty(bench: &Bench, image: &str, name: &str) -> String {
    let socket = format!("{image}.{name}.sock");
    let words = ["--fork", "-r", "-f", "qcow2", "-B", name, "-k"];
    let at = bench.path(&socket);
    let at = at.to_str().expect("a path");
    // A copy: the server unlocks it some time after its client has left.
    let copy = format!("{image}.{name}");
    std::fs::copy(bench.path(image), bench.path(&copy)).expect("a copy");
    let served = std::process::Command::new("qemu-nbd")
        .args(words)
        .args([at, &copy])
        .current_dir(bench.path(""))
        .stdout(std::process::Stdio::null())
        .status();
    assert!(served.expect("qemu-nbd").success());
    let options = format!(
        "driver=nbd,server.type=unix,server.path={at},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
    );
    let said = bench.theirs(
        "qemu-img",
        &["map", "--output=json", "--image-opts", &options],
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    said.out
}

#[test]
fn convert_copies_bitmaps_as_in_qemu() {
    let Some(bench) = bench_with_bitmaps() else {
        return;
    };
    const CONVERT: [&str; 5] = ["convert", "-O", "qcow2", "--bitmaps", "i.qcow2"];
    bench.prepare("qemu-img", &[&CONVERT[..], &["theirs.qcow2"]].concat());
    let said = bench.ours("qemu-img", &[&CONVERT[..], &["ours.qcow2"]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    bench.prepare("qemu-img", &["check", "-q", "ours.qcow2"]);
    for name in ["b0", "b1"] {
        let bits = |image: &str| dirty(&bench, image, name);
        assert_eq!(bits("ours.qcow2"), bits("theirs.qcow2"), "{name}");
    }
    leave_in_use(&bench, "i.qcow2");
    for words in [
        &["--bitmaps", "i.qcow2", "out.qcow2"][..],
        &["--skip-broken-bitmaps", "i.qcow2", "out.qcow2"],
        &["--bitmaps", "i.qcow2", "i.qcow2", "out.qcow2"],
        &["--bitmaps", "r.raw", "out.qcow2"],
        &["--bitmaps", "v2.qcow2", "out.qcow2"],
        &["--bitmaps", "-O", "raw", "long.qcow2", "out.raw"],
        &["--bitmaps", "--skip-broken-bitmaps", "i.qcow2", "out.qcow2"],
    ] {
        let format = match words.contains(&"-O") {
            true => &["convert"][..],
            false => &["convert", "-O", "qcow2"],
        };
        bench.check_same("qemu-img", &[format, words].concat());
    }
}
