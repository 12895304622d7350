//! The target `qcow2_snapshot_table`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("qcow2_snapshot_table", bytes));
