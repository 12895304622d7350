//! The target `compressed_cluster`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("compressed_cluster", bytes));
