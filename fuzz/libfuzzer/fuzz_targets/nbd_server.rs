//! The target `nbd_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("nbd_server", bytes));
