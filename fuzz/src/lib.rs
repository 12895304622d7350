//! Fuzzing: one target for each parser of bytes from outside.
//!
//! A target is a plain function that never panics, whatever it is given, and holds the parser to what
//! must be true of its answer. `libfuzzer/` drives targets with coverage, `tests/smoke.rs` with
//! mutations of the committed corpus; both by [`TARGETS`]. Invariant: a target depends on its bytes
//! alone, takes no more memory than it says, and leaves nothing behind.
//! Not here: what two programs make of the same image (`tests/differential.rs`, `tests/repairs.rs`).

pub mod damage;
pub mod image;
pub mod mutate;
pub mod qemu;

mod json;
mod options;
mod report;
mod schema;

use std::path::PathBuf;

/// One parser.
pub struct Target {
    /// Its name, which is also that of its folder in the corpus.
    pub name: &'static str,
    /// Does with bytes what the program would; panics when something is wrong.
    pub run: fn(&[u8]),
    /// Bytes of memory that it may hold at once, on inputs of up to [`MAX_INPUT`].
    pub memory: u64,
    /// How many mutations the short form tries.
    pub tries: u32,
}

/// Bytes of the largest input.
pub const MAX_INPUT: usize = 1 << 20;

const MIB: u64 = 1 << 20;

/// Every parser of bytes from outside.
pub const TARGETS: [Target; 12] = [
    Target {
        name: "qcow2_header",
        run: block_drivers::fuzz::qcow2_header,
        memory: 16 * MIB,
        tries: 20_000,
    },
    Target {
        name: "qcow2_snapshot_table",
        run: block_drivers::fuzz::qcow2_snapshot_table,
        memory: 4 * MIB,
        tries: 10_000,
    },
    Target {
        name: "qcow2_image",
        run: image::read_only,
        memory: 64 * MIB,
        tries: 500,
    },
    Target {
        name: "qcow2_image_written",
        run: image::written,
        memory: 64 * MIB,
        tries: 300,
    },
    Target {
        name: "qcow2_beside",
        run: image::both,
        memory: 64 * MIB,
        tries: 300,
    },
    Target {
        name: "compressed_cluster",
        run: block_drivers::fuzz::compressed_cluster,
        memory: 8 * MIB,
        tries: 2_000,
    },
    Target {
        name: "luks_header",
        run: block_drivers::fuzz::luks_header,
        memory: MIB,
        tries: 10_000,
    },
    Target {
        name: "nbd_server",
        run: block_drivers::fuzz::nbd_server,
        memory: 4 * MIB,
        tries: 10_000,
    },
    Target {
        name: "nbd_client",
        run: block_drivers::fuzz::nbd_client,
        memory: 4 * MIB,
        tries: 10_000,
    },
    Target {
        name: "json",
        run: json::stream,
        memory: 16 * MIB,
        tries: 3_000,
    },
    Target {
        name: "schema",
        run: schema::parse,
        memory: 32 * MIB,
        tries: 1_000,
    },
    Target {
        name: "options",
        run: options::parse,
        memory: 16 * MIB,
        tries: 5_000,
    },
];

/// The committed inputs of a target, in the order of their names.
///
/// # Errors
/// When its folder cannot be read.
pub fn corpus(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder(target))? {
        paths.push(entry?.path());
    }
    paths.sort();
    paths.into_iter().map(std::fs::read).collect()
}

/// Where a target's inputs are.
pub fn folder(target: &str) -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.join("corpus").join(corpus_of(target))
}

/// Targets that read the same bytes share their inputs.
fn corpus_of(target: &str) -> &str {
    match target {
        "qcow2_image_written" => "qcow2_image",
        name => name,
    }
}

/// Runs the target of this name; a longer input is no input.
///
/// # Panics
/// When there is no such target, or it finds something.
pub fn run(target: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|known| known.name == target);
    let known = found.unwrap_or_else(|| panic!("no target {target}"));
    if bytes.len() <= MAX_INPUT {
        (known.run)(bytes);
    }
}
