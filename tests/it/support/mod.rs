//! What the integration tests share: temporary folders, seeds, layers, images, and QEMU's tools.

pub(crate) mod disks;
pub(crate) mod flaky;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod named;
pub(crate) mod record;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block_core::driver::Preallocation;
use block_core::graph::policy::LocalFiles;
use block_core::graph::{Node, NodeFacts, NodeId};
use block_core::{Backend, Layer, LocalQueue};
use block_drivers::Drivers;
use block_drivers::format::qcow2;
use block_drivers::protocol::file::{self, FileDriver, FileOptions};
use block_schema::types::BlockdevOptions;
use block_schema::{Unknown, Value, Wire};

/// A temporary folder that goes with its owner.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("qblk-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Scratch(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays only costs space.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A small generator of random numbers (splitmix64): the same seed, the same run.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The seed of a test: a new one each run, or `QBLK_SEED`. Printed, to replay a failure.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("QBLK_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| u64::from(d.subsec_nanos()) ^ d.as_secs())
    });
    println!("{test}: QBLK_SEED={seed}");
    seed
}

/// How often a test repeats what it does with another seed: `few` times, or as often as
/// `QBLK_ROUNDS` says, for the long form.
pub(crate) fn rounds(few: u64) -> u64 {
    let asked = std::env::var("QBLK_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Whether this is a test's long form.
pub(crate) fn is_long_form() -> bool {
    std::env::var_os("QBLK_ROUNDS").is_some()
}

/// A number that is known to fit.
pub(crate) fn usize(value: u64) -> usize {
    usize::try_from(value).expect("tests are small")
}

/// A layer with all drivers that follows local backing files.
pub(crate) fn layer() -> Layer {
    // Events count, whoever listens.
    record::start();
    Layer::with_drivers(Arc::new(Drivers), Arc::new(LocalFiles))
}

/// Opens a node by JSON options with an `id`.
pub(crate) fn open(queue: &LocalQueue, json: &str, id: &str) -> Arc<Backend> {
    try_open(queue, json, id).unwrap_or_else(|error| panic!("{}", error.chain()))
}

/// As [`open`], where it may fail.
pub(crate) fn try_open(
    queue: &LocalQueue,
    json: &str,
    id: &str,
) -> block_core::Result<Arc<Backend>> {
    add_node(queue, json)?;
    let backend = queue.layer().backend(id);
    Ok(backend.expect("the options have an id"))
}

/// Opens a node by JSON options.
pub(crate) fn add_node(queue: &LocalQueue, json: &str) -> block_core::Result<NodeId> {
    let layer = queue.layer().clone();
    queue.block_on(layer.blockdev_add(queue, options(json)))
}

/// A node's options from JSON.
pub(crate) fn options(json: &str) -> BlockdevOptions {
    let value = Value::from_json(json).expect("valid JSON");
    BlockdevOptions::decode(value, Unknown::Refuse).expect("valid options")
}

/// Makes an empty qcow2 with clusters of 64 KiB.
pub(crate) fn create_qcow2(
    queue: &LocalQueue,
    path: &Path,
    size: u64,
    backing: Option<(&Path, &str)>,
) {
    let preallocation = Preallocation::Off;
    file::create(&file::CreateOptions {
        path: path.into(),
        len: 0,
        preallocation,
        nocow: false,
    })
    .expect("a new file");
    let driver = FileDriver::open(FileOptions::path(path)).expect("the new file");
    let facts = NodeFacts {
        name: "created".to_owned(),
        ..NodeFacts::default()
    };
    let mut options = qcow2::CreateOptions {
        size,
        ..qcow2::CreateOptions::default()
    };
    if let Some((name, format)) = backing {
        options.backing_file = Some(name.display().to_string());
        options.backing_format = Some(format.to_owned());
    }
    let layer = queue.layer();
    let work = async {
        let node = layer
            .add_node(Node::new(facts, Box::new(driver)), &[])
            .await?;
        qcow2::create(queue, layer.node(queue, node)?, &options).await?;
        layer.remove_node(queue, node).await
    };
    queue
        .block_on(work)
        .unwrap_or_else(|error| panic!("{}", error.chain()));
}

/// A program of QEMU's, where it is installed.
pub(crate) struct Tool(&'static str);

impl Tool {
    /// Runs it; it must succeed.
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(self.0)
            .args(arguments)
            .output()
            .expect("it is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{} {arguments:?}: {text}{errors}",
            self.0
        );
        text
    }
}

/// `qemu-img`, or `None` with a printed reason. With `QBLK_REQUIRE_INTEROP` it must be there.
pub(crate) fn qemu_img() -> Option<Tool> {
    tool("qemu-img")
}

/// A program, or `None` with a printed reason, as [`qemu_img`].
pub(crate) fn tool(name: &'static str) -> Option<Tool> {
    if Command::new(name).arg("--version").output().is_ok() {
        return Some(Tool(name));
    }
    assert!(
        std::env::var_os("QBLK_REQUIRE_INTEROP").is_none(),
        "{name} is not installed"
    );
    println!("not compared with {name}: it is not installed");
    None
}
