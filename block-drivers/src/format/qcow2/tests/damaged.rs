//! Images that somebody damaged: each is a typed error with the specification's word, or reads as
//! the specification says; none panics, hangs, or takes memory by its own claim.

use block_core::Error;
use expect_test::{Expect, expect};

use super::*;

/// Opens a copy of a small image with bytes changed, and says what came of it.
#[track_caller]
fn check_open(changes: &[(usize, &[u8])], want: Expect) {
    let disk = Disk::create(
        &CreateOptions {
            cluster_size: 4096,
            ..sized(1 << 20)
        },
        None,
    );
    let mut bytes = disk.bench.file.bytes();
    for (at, new) in changes {
        bytes[*at..at + new.len()].copy_from_slice(new);
    }
    want.assert_eq(&opened(bytes));
}

fn opened(bytes: Vec<u8>) -> String {
    let bench = bench(bytes, None);
    let text = |error: Error| format!("{}: {}", class(&error), error.chain());
    match block_on(Image::open(&bench, "test", small_cache())) {
        Ok(_) => "opens".to_owned(),
        Err(error) => text(error),
    }
}

fn class(error: &Error) -> &'static str {
    match error {
        Error::Corrupt { .. } => "corrupt",
        Error::Unsupported { .. } => "unsupported",
        _ => "other",
    }
}

fn be32(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

fn be64(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

#[test]
fn version_and_magic_are_checked() {
    check_open(
        &[(0, b"QFI\xfa")],
        expect!["corrupt: image is not in qcow2 format"],
    );
    check_open(
        &[(4, &be32(1))],
        expect!["corrupt: Unsupported qcow2 version 1"],
    );
    check_open(
        &[(4, &be32(4))],
        expect!["corrupt: Unsupported qcow2 version 4"],
    );
}

#[test]
fn header_fields_are_in_range() {
    check_open(
        &[(20, &be32(8))],
        expect!["corrupt: Unsupported cluster size: 2^8"],
    );
    check_open(
        &[(20, &be32(22))],
        expect!["corrupt: Unsupported cluster size: 2^22"],
    );
    check_open(
        &[(100, &be32(96))],
        expect!["corrupt: qcow2 header too short"],
    );
    check_open(
        &[(100, &be32(108))],
        expect!["corrupt: header field header_length is 108, which is not a multiple of 8"],
    );
    check_open(
        &[(100, &be32(0xffff_fff8))],
        expect!["corrupt: qcow2 header exceeds cluster size"],
    );
    check_open(
        &[(96, &be32(7))],
        expect!["corrupt: Reference count entry width too large; may not exceed 64 bits"],
    );
    check_open(
        &[(24, &be64(1 << 40))],
        expect!["corrupt: L1 table is too small"],
    );
    check_open(
        &[(24, &be64(u64::MAX))],
        expect!["corrupt: Image is too big"],
    );
    check_open(
        &[(32, &be32(2))],
        expect!["corrupt: crypt_method is 2, and the encryption header pointer does not fit that"],
    );
    check_open(
        &[(32, &be32(3))],
        expect!["corrupt: Unsupported encryption method 3"],
    );
}

#[test]
fn tables_lie_on_clusters_inside_the_file() {
    check_open(
        &[(36, &be32(u32::MAX))],
        expect!["corrupt: Active L1 table too large"],
    );
    check_open(
        &[(36, &be32(0x40_0000))],
        expect!["corrupt: L1 table at 0x3000 of 33554432 bytes ends behind the file's 12296 bytes"],
    );
    check_open(
        &[(40, &be64(100))],
        expect!["corrupt: Active L1 table offset invalid"],
    );
    check_open(
        &[(40, &be64(0))],
        expect!["corrupt: Active L1 table offset invalid"],
    );
    check_open(
        &[(40, &be64(1 << 57))],
        expect!["corrupt: Active L1 table offset invalid"],
    );
    check_open(
        &[(40, &be64(1 << 30))],
        expect!["corrupt: L1 table at 0x40000000 of 8 bytes ends behind the file's 12296 bytes"],
    );
    check_open(
        &[(40, &be64(4096))],
        expect!["corrupt: L1 table at 0x1000 overlaps the refcount table"],
    );
    check_open(
        &[(48, &be64(u64::MAX - 4095))],
        expect!["corrupt: Reference count table offset invalid"],
    );
    check_open(
        &[(56, &be32(0))],
        expect!["corrupt: Image does not contain a reference count table"],
    );
    check_open(
        &[(56, &be32(u32::MAX))],
        expect!["corrupt: Reference count table too large"],
    );
    check_open(
        &[(60, &be32(65537))],
        expect!["corrupt: Snapshot table too large"],
    );
    check_open(
        &[(60, &be32(1))],
        expect!["corrupt: Snapshot table offset invalid"],
    );
    // Others look at its place also where there is none.
    check_open(
        &[(64, &be64(0x3004))],
        expect!["corrupt: Snapshot table offset invalid"],
    );
    check_open(
        &[(60, &be32(1)), (64, &be64(1 << 40))],
        expect![
            "corrupt: snapshot table at 0x10000000000 of 40 bytes ends behind the file's 12296 bytes"
        ],
    );
}

#[test]
fn features_are_understood_or_refused_by_name() {
    check_open(
        &[(72, &be64(4))],
        // Described, until somebody names its data file.
        expect!["opens"],
    );
    check_open(
        &[(72, &be64(16))],
        expect![
            "corrupt: header field cluster_bits is 12, which is not 14 to 21, as extended L2 entries need"
        ],
    );
    check_open(
        &[(72, &be64(1 << 63))],
        expect![
            "corrupt: Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000"
        ],
    );
    check_open(
        &[(72, &be64(2))],
        expect!["corrupt: image is corrupt; cannot be opened read/write"],
    );
    check_open(
        &[(72, &be64(8))],
        expect!["corrupt: compression_type is 0, and its incompatible feature bit is 1"],
    );
    check_open(
        &[(104, &[1])],
        expect!["corrupt: compression_type is 1, and its incompatible feature bit is 0"],
    );
    check_open(
        &[(72, &be64(8)), (104, &[2])],
        expect!["corrupt: compression_type is 2, and its incompatible feature bit is 1"],
    );
    // The image's own name for a bit that nobody knows: the table's first entry renamed.
    check_open(
        &[(72, &be64(1 << 40)), (120, &[0, 40]), (122, b"moon phase")],
        expect!["corrupt: Unsupported qcow2 feature(s): moon phase"],
    );
}

#[test]
fn extensions_and_names_stay_in_the_header_cluster() {
    check_open(
        &[(116, &be32(u32::MAX))],
        expect!["corrupt: Header extension too large"],
    );
    check_open(
        &[
            (112, &be32(0x1234)),
            (116, &be32(0)),
            (120, &be32(0x1234)),
            (124, &be32(0)),
        ],
        expect!["opens"],
    );
    check_open(
        &[(8, &be64(4000)), (16, &be32(200))],
        expect!["corrupt: Invalid backing file offset"],
    );
    check_open(
        &[(8, &be64(4000)), (16, &be32(1024))],
        expect!["corrupt: Backing file name too long"],
    );
    check_open(
        &[(8, &be64(130)), (16, &be32(4))],
        expect!["corrupt: backing file name at 0x82 overlaps the header extensions"],
    );
    check_open(
        &[(8, &be64(4000)), (16, &be32(2)), (4000, &[0xff, 0xfe])],
        expect!["corrupt: backing file name at 0xfa0 is not valid UTF-8"],
    );
}

#[test]
fn short_files_are_no_images() {
    let disk = Disk::create(
        &CreateOptions {
            cluster_size: 4096,
            ..sized(1 << 20)
        },
        None,
    );
    let bytes = disk.bench.file.bytes();
    for len in [0, 3, 71, 72, 103, 111, 4095, 8192, 12288, bytes.len() - 1] {
        let text = opened(bytes[..len].to_vec());
        assert!(text.starts_with("corrupt: "), "{len}: {text}");
    }
}

/// Reads the first cluster of an image whose first L2 entry was replaced.
#[track_caller]
fn check_entry(entry: u64, want: Expect) {
    let options = CreateOptions {
        cluster_size: 4096,
        ..sized(1 << 20)
    };
    let mut disk = Disk::create(&options, None);
    disk.run("write 0+8k aa");
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let l1 = usize::try_from(word(&bytes, 40)).unwrap();
    let l2 = usize::try_from(word(&bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    bytes[l2..l2 + 8].copy_from_slice(&be64(entry));
    let bench = bench(bytes, None);
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let buf = IoBuf::zeroed(4096);
    let read = block_on(image.read(&bench, 0, buf.clone()));
    let wrote = block_on(image.write(&bench, 10, IoBuf::copy_of(&[1])));
    let text = match read {
        Ok(()) => format!("reads {:#x}", buf.to_vec()[0]),
        Err(error) => {
            assert!(
                wrote.is_err(),
                "what cannot be read cannot be written in part"
            );
            error.chain()
        }
    };
    want.assert_eq(&text);
    // Its neighbour is as good as before.
    block_on(image.read(&bench, 4096, buf.clone())).unwrap();
    assert_eq!(buf.to_vec()[0], 0xaa);
}

#[test]
fn wrong_entries_are_errors_for_their_cluster_alone() {
    check_entry(0, expect!["reads 0x0"]);
    check_entry(1, expect!["reads 0x0"]);
    check_entry(
        1 << 63,
        expect![
            "L2 entry 0x8000000000000000 for guest offset 0x0 has the copied flag without an offset"
        ],
    );
    check_entry(
        0x8000_0000_0000_5200,
        expect![
            "L2 entry 0x8000000000005200 for guest offset 0x0 has an offset off a cluster boundary"
        ],
    );
    check_entry(
        0x8000_0000_4000_0000,
        expect![
            "L2 entry 0x8000000040000000 for guest offset 0x0 has an offset behind the end of the file"
        ],
    );
    check_entry(
        0x8100_0000_0000_5000,
        expect!["L2 entry 0x8100000000005000 for guest offset 0x0 has reserved bits set"],
    );
    check_entry(
        0x4000_0000_0000_0000,
        expect!["L2 entry 0x4000000000000000 for guest offset 0x0 has an offset in the header"],
    );
    check_entry(
        0x4000_0000_4000_0000,
        expect![
            "L2 entry 0x4000000040000000 for guest offset 0x0 has an offset behind the end of the file"
        ],
    );
    check_entry(
        0x4000_0000_0000_5000,
        expect![
            "compressed cluster at 0x5000 of 512 bytes: compressed data holds 511 of 4096 bytes"
        ],
    );
    check_entry(
        0xc000_0000_0000_5000,
        expect![
            "L2 entry 0xc000000000005000 for guest offset 0x0 has the copied flag on a compressed cluster"
        ],
    );
}

#[test]
fn a_flag_without_a_table_is_a_corruption() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.reopen();
    let mut bytes = disk.bench.file.bytes();
    let l1 = u64::from_be_bytes(*bytes[40..].first_chunk().unwrap());
    let l1 = usize::try_from(l1).unwrap();
    bytes[l1..l1 + 8].copy_from_slice(&be64(COPIED));
    let bench = bench(bytes, None);
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let report = block_on(image.check(&bench, Repair::None)).unwrap();
    expect![[r#"
        [
            "ERROR l1_entry=8000000000000000: Flag without a table; L1 entry corrupted",
        ]
    "#]]
    .assert_debug_eq(&report.messages);
    assert_eq!(report.corruptions, 1);
}

const COPIED: u64 = 1 << 63;
