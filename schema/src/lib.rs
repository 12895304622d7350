//! QEMU's block layer schema as Rust types.
