//! Over files of the host.

use block_core::graph::NodeId;
use expect_test::{Expect, expect};

use super::*;
use crate::kit::script::{Rig, Scratch};
use crate::protocol::file::{FileDriver, FileOptions};

fn file_under(rig: &Rig, scratch: &Scratch) -> NodeId {
    let file = FileDriver::open(FileOptions::path(scratch.path())).unwrap();
    rig.add("file", file, &[]).unwrap()
}

/// Runs a script on a window of a new file, then one on the file itself.
#[track_caller]
fn check(raw: RawDriver, script: &str, file_script: &str, want: Expect) {
    let scratch = Scratch::new(64 << 10);
    let rig = Rig::host();
    let file = file_under(&rig, &scratch);
    let raw = rig
        .add("raw", raw, &[("file", Role::Filtered, file)])
        .unwrap();
    let found = rig.disk(raw).zeroed().run(script);
    let below = rig.disk(file).run(file_script);
    want.assert_eq(&format!("{found} | {below}"));
}

fn guessed() -> RawDriver {
    RawDriver::whole().guessed(Box::new(|head| head.starts_with(&[0xaa; 4])))
}

#[test]
fn whole_child_shows_through() {
    check(
        RawDriver::whole(),
        "write 4k+4k aa; zero 5k+1k; flush; read 0+10k; write 64k+1 11",
        "read 0+10k",
        expect!["00*4k aa*1k 00*1k aa*2k 00*2k; write: INVAL | 00*4k aa*1k 00*1k aa*2k 00*2k"],
    );
}

#[test]
fn a_window_keeps_to_its_bounds() {
    check(
        RawDriver::window(4096, Some(8192), 64 << 10).unwrap(),
        "write 0+8k 11; zero 512+512; discard 4k+4k; read 8k+1; write 8191+2 22; status 0+8k",
        "read 4095+2; read 12287+2; read 4k+2k; status 0+64k",
        expect![
            "read: INVAL; write: INVAL; data*4k zero*4k | 00*1 11*1; 00*2; 11*512 00*512 11*1k; zero*4k data*4k zero*56k"
        ],
    );
}

#[test]
fn a_window_without_size_ends_with_its_child() {
    let scratch = Scratch::new(64 << 10);
    let rig = Rig::host();
    let file = file_under(&rig, &scratch);
    let raw = RawDriver::window(4096, None, 64 << 10).unwrap();
    let raw = rig
        .add("raw", raw, &[("file", Role::Filtered, file)])
        .unwrap();
    assert_eq!(rig.len(raw), 60 << 10);
    rig.block_on(
        rig.layer
            .resize(&rig.queue, raw, 1 << 20, Preallocation::Off),
    )
    .unwrap();
    assert_eq!((rig.len(raw), rig.len(file)), (1 << 20, (1 << 20) + 4096));
    assert_eq!(
        rig.disk(raw).run("write 1020k+4k 55; read 1020k+4k"),
        "55*4k"
    );
}

#[test]
fn windows_outside_the_child_are_refused() {
    let refused = |offset, size| match RawDriver::window(offset, size, 8192) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    expect!["Offset (8193) cannot be greater than size of the containing file (8192)"]
        .assert_eq(&refused(8193, None));
    expect!["The sum of offset (4096) and size (4608) has to be smaller or equal to the  actual size of the containing file (8192)"].assert_eq(&refused(4096, Some(4608)));
    expect!["Specified size is not multiple of 512"].assert_eq(&refused(0, Some(100)));
    expect![
        "Offset (18446744073709551615) cannot be greater than size of the containing file (8192)"
    ]
    .assert_eq(&refused(u64::MAX, Some(u64::MAX)));
    assert_eq!(refused(8192, Some(0)), "accepted");
}

#[test]
fn a_guessed_image_never_becomes_a_format() {
    check(
        guessed(),
        "write 0+4k aa; write 0+3 aa; write 3+1 aa; write 2+2 bb; write 512+512 aa; \
         write 0+1 cc; read 0+1k; \
         zero 0+1k; read 0+1k",
        "read 0+1k",
        expect!["write: PERM; write: PERM; cc*1 aa*1 bb*2 00*508 aa*512; 00*1k | 00*1k"],
    );
}

#[test]
fn zeroes_cannot_finish_a_header() {
    let looks = |head: &[u8]| head.starts_with(&[0xaa, 0, 0xaa]);
    check(
        RawDriver::whole().guessed(Box::new(looks)),
        "write 0+3 aa; zero 1+1; discard 1+1; read 0+4",
        "read 0+4",
        expect!["zero: PERM; aa*3 00*1 | aa*3 00*1"],
    );
}
