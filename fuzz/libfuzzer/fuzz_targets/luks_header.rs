//! The target `luks_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("luks_header", bytes));
