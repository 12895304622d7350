//! QEMU's tools, as the tests that compare use them.
//! Called by the differential tests. Invariant: what hangs ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mutate::Random;

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

/// A new image by the tools.
pub fn made(random: &mut Random, folder: &Path) -> Vec<u8> {
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
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes one for a test.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(test: &str) -> Scratch {
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
pub fn installed() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    let required = std::env::var_os("QBLK_REQUIRE_INTEROP").is_some();
    assert!(found || !required, "qemu-img is not installed");
    found
}
