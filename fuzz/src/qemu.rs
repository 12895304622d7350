//! QEMU's tools, as the tests that compare use them, and the images that these start from.
//! Called by the differential tests. Invariant: what hangs ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image;
use crate::mutate::{self, Random};

/// Images of either maker in a round, besides the corpus.
const MADE: usize = 3;

/// Gives a test qcow2 images to damage and compare, and a folder to do so: in each round the corpus,
/// and images made by ourselves and by the tools. None where the tools are not installed.
///
/// # Panics
/// When the tools are not there and must be, or cannot make an image; when there is no corpus.
pub fn each_original(test: &str, mut look: impl FnMut(&mut Random, &Path, &[u8])) {
    if !installed() {
        println!("not compared: qemu-img is not installed");
        return;
    }
    let folder = Scratch::new(test);
    let seed = mutate::seed(test);
    let corpus = crate::corpus("qcow2_image").expect("a corpus");
    for round in 0..mutate::rounds() {
        let mut random = Random::new(seed.wrapping_add(round));
        let mut originals = corpus.clone();
        for _ in 0..MADE {
            originals.push(image::made(&mut random));
            originals.push(made(&mut random, &folder.0));
        }
        for original in originals {
            look(&mut random, &folder.0, &original);
        }
    }
}

/// The number behind a key of JSON.
pub fn number(json: &str, key: &str) -> Option<u64> {
    let digits = json[json.find(key)? + key.len()..].trim_start_matches([':', ' ']);
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    digits[..end].parse().ok()
}

/// Runs a tool; what hangs ends. All it says, whether it succeeds or fails.
pub fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let mut limited = Command::new("timeout");
    limited.args(["60", tool]).args(arguments);
    let output = limited.output().expect("a tool that is installed");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

/// What an image's disk holds, to the tools.
///
/// # Errors
/// What they say when they cannot read it.
pub fn disk(folder: &Path, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (image, raw) = (folder.join("image"), folder.join("raw"));
    std::fs::write(&image, bytes).expect("room for an image");
    let (image, target) = (image.display().to_string(), raw.display().to_string());
    let convert = ["convert", "-f", "qcow2", "-O", "raw", &image, &target];
    run("qemu-img", &convert)?;
    Ok(std::fs::read(&raw).expect("what was converted"))
}

/// A new image by the tools.
fn made(random: &mut Random, folder: &Path) -> Vec<u8> {
    let path = folder.join("new");
    let name = path.display().to_string();
    let options = *random.pick(&[
        "cluster_size=512,refcount_bits=8",
        "cluster_size=512,compat=0.10",
        "cluster_size=1024,lazy_refcounts=on",
        "cluster_size=4096,compression_type=zstd",
        "cluster_size=4096,refcount_bits=1",
    ]);
    let create = ["create", "-q", "-f", "qcow2", "-o", options, &name, "128k"];
    run("qemu-img", &create).expect("a new image");
    let mut arguments = vec![
        "-f".to_owned(),
        "qcow2".to_owned(),
        "-d".into(),
        "unmap".into(),
    ];
    for _ in 0..random.below(8) {
        let kind = *random.pick(&["-P 7", "-P 200", "-z", "-c -P 9"]);
        let (at, len) = (random.below(28) * 4096, 4096 * (1 + random.below(3)));
        let step = if kind.starts_with("-c") && !options.contains("4096") {
            format!("discard {at} {len}")
        } else if kind.starts_with("-c") {
            format!("write {kind} {at} 4096")
        } else {
            format!("write {kind} {at} {len}")
        };
        arguments.extend(["-c".to_owned(), step]);
    }
    arguments.push(name);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // It refuses to compress over a cluster that is there, and goes on.
    let _ = run("qemu-io", &arguments);
    std::fs::read(&path).expect("the new image")
}

/// Folder of a run, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Scratch {
        let name = format!("fuzz-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays only costs space.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The tools are there, or the tests must do without.
fn installed() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    let required = std::env::var_os("QBLK_REQUIRE_INTEROP").is_some();
    assert!(found || !required, "qemu-img is not installed");
    found
}
