//! The target `nbd_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("nbd_client", bytes));
