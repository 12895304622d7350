//! `-o help`: the options of a new image, as they are listed.
//! Called by `create` and `convert`. Invariant: what stands here, `CreateOptions` takes; a test goes
//! through the list.

use block_schema::types::BlockdevDriver;

use super::keyval;
use crate::report::{Outcome, outln};

/// An option: its name with the kind of its value, and what it is.
type Line = (&'static str, &'static str);

const SIZE: Line = ("size=<size>", "Virtual disk size");

const QCOW2: [Line; 21] = [
    ("backing_file=<str>", "File name of a base image"),
    ("backing_fmt=<str>", "Image format of the base image"),
    ("cluster_size=<size>", "qcow2 cluster size"),
    (
        "compat=<str>",
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    (
        "compression_type=<str>",
        "Compression method used for image cluster compression",
    ),
    ("data_file=<str>", "File name of an external data file"),
    (
        "data_file_raw=<bool (on/off)>",
        "The external data file must stay valid as a raw image",
    ),
    (
        "encrypt.cipher-alg=<str>",
        "Name of encryption cipher algorithm",
    ),
    (
        "encrypt.cipher-mode=<str>",
        "Name of encryption cipher mode",
    ),
    (
        "encrypt.format=<str>",
        "Encrypt the image, format choices: 'aes', 'luks'",
    ),
    (
        "encrypt.hash-alg=<str>",
        "Name of encryption hash algorithm",
    ),
    (
        "encrypt.iter-time=<num>",
        "Time to spend in PBKDF in milliseconds",
    ),
    ("encrypt.ivgen-alg=<str>", "Name of IV generator algorithm"),
    (
        "encrypt.ivgen-hash-alg=<str>",
        "Name of IV generator hash algorithm",
    ),
    (
        "encrypt.key-secret=<str>",
        "ID of secret providing qcow AES key or LUKS passphrase",
    ),
    (
        "encryption=<bool (on/off)>",
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    ("extended_l2=<bool (on/off)>", "Extended L2 tables"),
    (
        "lazy_refcounts=<bool (on/off)>",
        "Postpone refcount updates",
    ),
    (
        "preallocation=<str>",
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    (
        "refcount_bits=<num>",
        "Width of a reference count entry in bits",
    ),
    SIZE,
];

/// Options that files have, whatever is in them.
const FILE: [Line; 1] = [(
    "nocow=<bool (on/off)>",
    "Turn off copy-on-write (valid only on btrfs)",
)];

const RAW_FILE: Line = (
    "preallocation=<str>",
    "Preallocation mode (allowed values: off, falloc, full)",
);

/// Whether one of the lists of options asks for help.
pub(crate) fn is_asked_for(lists: &[String]) -> bool {
    let mut parts = lists.iter().flat_map(|list| keyval::split(list));
    parts.any(|part| part == "help" || part == "?")
}

/// Prints the options of a format, with those of files where one is named.
pub(crate) fn print(format: BlockdevDriver, has_file: bool) -> Outcome {
    let mut lines = match format {
        BlockdevDriver::Qcow2 => QCOW2.to_vec(),
        _ if has_file => vec![RAW_FILE, SIZE],
        _ => vec![SIZE],
    };
    if has_file {
        lines.extend(FILE);
    }
    lines.sort_unstable();
    outln!("Supported {format} options:");
    for (option, what) in lines {
        outln!("  {option:<22} - {what}");
    }
    if !has_file {
        outln!(
            "\nThe protocol level may support further options.\n\
             Specify the target filename to include those options."
        );
    }
    Ok(0)
}
