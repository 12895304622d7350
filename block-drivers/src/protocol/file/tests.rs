//! Against files of the host; what needs `qemu-img` says so and skips without it.

use std::path::Path;

use block_core::graph::CacheMode;
use expect_test::{Expect, expect};

use super::*;
use crate::kit::script::{Rig, Scratch};

#[track_caller]
fn check(len: u64, script: &str, want: Expect) {
    check_options(len, |path| FileOptions::path(path), script, want);
}

#[track_caller]
fn check_options(len: u64, options: impl Fn(&Path) -> FileOptions, script: &str, want: Expect) {
    let scratch = Scratch::new(len);
    let rig = Rig::host();
    let driver = FileDriver::open(options(scratch.path())).unwrap();
    let node = rig.add("file", driver, &[]).unwrap();
    want.assert_eq(&rig.disk(node).zeroed().run(script));
}

fn direct(path: &Path) -> FileOptions {
    FileOptions {
        cache: CacheMode {
            direct: true,
            ..CacheMode::default()
        },
        ..FileOptions::path(path)
    }
}

#[test]
fn reads_what_was_written() {
    check(
        64 << 10,
        "write 4k+4k aa; write 100+3 bb; flush; read 0+12k",
        expect![[r#"00*100 bb*3 00*3993 aa*4k 00*4k"#]],
    );
}

#[test]
fn direct_requests_need_no_alignment() {
    check_options(
        64 << 10,
        direct,
        "write 0+16k 11; write 513+1000 aa; write 4095+2 bb; read 512+1004; read 4094+4; read 0+16k",
        expect![[r#"11*1 aa*1000 11*3; 11*1 bb*2 11*1; 11*513 aa*1000 11*2582 bb*2 11*12287"#]],
    );
}
