//! The target `qcow2_beside`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("qcow2_beside", bytes));
