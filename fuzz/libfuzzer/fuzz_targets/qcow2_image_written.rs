//! The target `qcow2_image_written`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::run("qcow2_image_written", bytes));
