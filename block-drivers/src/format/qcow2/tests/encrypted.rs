//! Encrypted images: what the disk holds is the model's, what the file holds is not.

use std::time::Duration;

use block_core::driver::ZeroFlags;
use block_core::graph::policy::DenyAll;
use block_core::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};
use block_core::{Error, Layer, Request};
use block_schema::types::{
    BlockdevOptions, BlockdevOptionsBranch, BlockdevQcow2Encryption, BlockdevQcow2EncryptionBranch,
    QCryptoBlockOptionsLUKS,
};

use super::super::map::Cluster;
use super::on_a_graph::{create_file, folder, qcow2, rig};
use super::*;
use crate::format::qcow2::{CipherAlgorithm, CipherMode, IvAlgorithm, LuksOptions};

fn key() -> Secret {
    Secret::new(b"right".to_vec())
}

/// A LUKS header that takes no time, with the shortest keys.
fn quick() -> LuksOptions {
    LuksOptions {
        cipher: CipherAlgorithm::Aes128,
        mode: CipherMode::Cbc,
        iv: IvAlgorithm::Essiv,
        iter_time: Duration::from_micros(1),
        ..LuksOptions::default()
    }
}

fn luks(size: u64) -> CreateOptions {
    CreateOptions {
        encryption: Some(CreateEncryption::Luks(quick(), key())),
        ..sized(size)
    }
}

fn aes(size: u64) -> CreateOptions {
    CreateOptions {
        encryption: Some(CreateEncryption::Aes(key())),
        ..sized(size)
    }
}

fn over(options: CreateOptions) -> CreateOptions {
    CreateOptions {
        backing_file: Some("backing.raw".into()),
        backing_format: Some("raw".into()),
        cluster_size: 4096,
        ..options
    }
}

#[test]
fn partial_writes_keep_what_is_around_them() {
    let script = "write 4k+4k aa; write 1k+512 bb; write 60k+10k cc; zero 8k+1k; zero 64k+64k; \
                  discard 4k+4k; flush; write 5k+512 dd; reopen; write 512+512 ee; unmap 0+512";
    for options in [luks(1 << 20), aes(1 << 20)] {
        check(&options, None, script);
        check(&over(options), Some(noise(1, 1 << 20)), script);
    }
}

#[test]
fn random_work_leaves_the_disk_as_the_model_says() {
    for (seed, options) in [
        (1, luks(1 << 20)),
        (2, aes(1 << 20)),
        (3, over(luks(1 << 20))),
    ] {
        let backing = options.backing_file.is_some().then(|| noise(seed, 700_000));
        let mut disk = Disk::create(&options, backing);
        let mut random = Random(seed * 77 + 1);
        for _ in 0..150 {
            let sector = random.below(2000);
            let (at, len) = (
                sector * 512,
                (random.below(47) + 1).min(2048 - sector) * 512,
            );
            match random.below(8) {
                0 => disk.zero(at, len, random.below(2) == 0),
                1 => disk.discard(at, len),
                2 => disk.reopen(),
                3 => block_on(disk.image.flush(&disk.bench)).unwrap(),
                _ => disk.write(
                    at,
                    &noise(random.below(u64::MAX), usize::try_from(len).unwrap()),
                ),
            }
        }
        disk.expect_model();
        disk.reopen();
        disk.expect_model();
        disk.expect_clean();
    }
}

#[test]
fn no_encrypted_cluster_is_mapped_to_the_file() {
    for options in [luks(1 << 20), aes(1 << 20)] {
        let mut disk = Disk::create(&options, None);
        disk.run("write 0+128k aa; zero 64k+64k");
        let mapped = |access, range| {
            let mut out = Mapping::new();
            let lookup = disk.image.try_map(EdgeIndex(0), access, range, &mut out);
            (
                lookup,
                out.pieces()
                    .iter()
                    .map(|piece| piece.extent)
                    .collect::<Vec<_>>(),
            )
        };
        let whole = mapped(Access::Read, 0..128 << 10);
        assert_eq!(
            whole,
            (Lookup::Mapped, vec![Extent::Transform, Extent::Zero])
        );
        assert_eq!(mapped(Access::Write, 0..4096), (Lookup::Miss, vec![]));
        let stored = disk.bench.file.bytes();
        assert!(
            !stored.windows(16).any(|bytes| bytes == [0xaa; 16]),
            "plain bytes in the file"
        );
    }
}

/// The guest's first cluster as it stands in the file, and where that is.
fn first_cluster(disk: &Disk) -> (u64, Vec<u8>) {
    let run = block_on(disk.image.first_status(&disk.bench, 0..512)).unwrap();
    let Cluster::Data(host) = run.cluster else {
        panic!("{run:?}");
    };
    let start = usize::try_from(host.offset.0).unwrap();
    (
        host.offset.0,
        disk.bench.file.bytes()[start..start + 65536].to_vec(),
    )
}

#[track_caller]
fn check_moved(options: &CreateOptions, same: bool) {
    let mut disk = Disk::create(options, None);
    disk.run("write 0+64k aa; flush");
    let before = first_cluster(&disk);
    disk.run("discard 0+64k; flush; write 64k+64k 11; write 0+64k aa; flush");
    let after = first_cluster(&disk);
    assert_ne!(before.0, after.0, "the cluster moved");
    assert_eq!(before.1 == after.1, same);
}

#[test]
fn the_vector_is_of_the_hosts_sector_for_luks_and_of_the_guests_for_aes() {
    check_moved(&luks(1 << 20), false);
    check_moved(&aes(1 << 20), true);
}

#[test]
fn without_the_key_nothing_is_read_or_written() {
    for options in [luks(1 << 20), aes(1 << 20)] {
        let disk = Disk::create(&options, None);
        let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
        assert!(image.is_encrypted() && image.is_locked());
        let mut out = Mapping::new();
        let lookup = image.try_map(EdgeIndex(0), Access::Read, 0..4096, &mut out);
        assert_eq!((lookup, out.len()), (Lookup::Miss, 0));
        let before = disk.bench.file.bytes();
        let write = block_on(image.write(&disk.bench, 0, IoBuf::copy_of(&[1; 512])));
        assert!(matches!(write, Err(Error::Encrypted { .. })), "{write:?}");
        assert_eq!(before, disk.bench.file.bytes());
    }
}

#[test]
fn a_wrong_passphrase_is_told_where_the_image_can_tell() {
    let disk = Disk::create(&luks(1 << 20), None);
    let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
    for wrong in ["wrong", "", "right "] {
        let wrong = Secret::new(wrong.as_bytes().to_vec());
        let refused = block_on(image.unlock(&disk.bench, &wrong)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Invalid password, cannot unlock any keyslot"
        );
        assert!(image.is_locked());
    }
    block_on(image.unlock(&disk.bench, &key())).unwrap();
    assert!(!image.is_locked());
    let plain = Disk::create(&sized(1 << 20), None);
    assert!(block_on(plain.image.unlock(&plain.bench, &key())).is_err());
}

#[test]
fn preallocated_clusters_read_as_zeroes() {
    for options in [luks(1 << 20), aes(1 << 20)] {
        for preallocation in [
            Preallocation::Metadata,
            Preallocation::Falloc,
            Preallocation::Full,
        ] {
            let options = CreateOptions {
                preallocation,
                ..options.clone()
            };
            check(&options, None, "write 1k+1k aa; write 100k+64k bb");
        }
        let v2 = CreateOptions {
            version: Version::V2,
            preallocation: Preallocation::Metadata,
            ..options
        };
        assert!(block_on(create(&bench(Vec::new(), None), &v2)).is_err());
    }
}

#[test]
fn a_longer_disk_has_zeroes_at_its_end() {
    for options in [luks(100 << 10), aes(100 << 10)] {
        check(
            &options,
            None,
            "write 90k+10k aa; resize 300k; write 250k+1k bb; resize 99k; resize 1m",
        );
    }
}

#[test]
fn damaged_encryption_headers_are_typed_errors_and_nothing_worse() {
    let disk = Disk::create(&luks(1 << 20), None);
    let bytes = disk.bench.file.bytes();
    let place = bytes
        .windows(6)
        .position(|six| six == b"LUKS\xba\xbe")
        .unwrap();
    let rounds = |image: &Image| {
        let info = image.crypt.as_ref().map(super::super::crypt::Crypt::info);
        let info = format!("{info:?}");
        let counts = info.split("iters: ").skip(1).map(|after| {
            let end = after.find([',', ' ', '}']).unwrap_or(after.len());
            after[..end].to_owned()
        });
        counts.collect::<Vec<String>>()
    };
    let whole = bench(bytes.clone(), None);
    let intact = rounds(&block_on(Image::open(&whole, "test", small_cache())).unwrap());
    let mut random = Random(0x5eed);
    let mut opened = 0;
    for _ in 0..150 {
        let mut bytes = bytes.clone();
        for _ in 0..=random.below(3) {
            // The image's header with its extensions, or the LUKS header.
            let at = match random.below(3) {
                0 => random.below(160),
                _ => place as u64 + random.below(592),
            };
            bytes[usize::try_from(at).unwrap()] = random.below(256).to_le_bytes()[0];
        }
        if random.below(8) == 0 {
            bytes.truncate(usize::try_from(random.below(bytes.len() as u64)).unwrap());
        }
        let bench = bench(bytes, None);
        let Ok(image) = block_on(Image::open(&bench, "test", small_cache())) else {
            continue;
        };
        // Damaged rounds may be many: only those that are as they were are worth the time.
        if rounds(&image) == intact {
            // A key that is wrong now, or the right one.
            opened += usize::from(block_on(image.unlock(&bench, &key())).is_ok());
        }
    }
    assert!(opened > 0, "some damage hits nothing that matters");
}

fn with_key(mut options: BlockdevOptions, id: Option<&str>) -> BlockdevOptions {
    if let BlockdevOptionsBranch::Qcow2(qcow2) = &mut options.driver {
        let key = QCryptoBlockOptionsLUKS {
            key_secret: id.map(str::to_owned),
        };
        let format = BlockdevQcow2EncryptionBranch::Luks(key);
        qcow2.encrypt = Some(BlockdevQcow2Encryption::new(format));
    }
    options
}

#[test]
fn a_node_takes_unaligned_requests() {
    let dir = folder("encrypted");
    let path = dir.path("i.qcow2");
    let rig = rig(DenyAll);
    create_file(
        &rig,
        &path,
        &CreateOptions {
            cluster_size: 4096,
            ..luks(4 << 20)
        },
    );
    rig.layer.secrets().add("key", key()).unwrap();
    let add = |id| {
        rig.block_on(
            rig.layer
                .blockdev_add(&rig.queue, with_key(qcow2("top", &path), id)),
        )
    };
    assert_eq!(
        add(Some("none")).unwrap_err().to_string(),
        "No secret with id 'none'"
    );
    let node = add(Some("key")).unwrap();
    let found = rig.disk(node).zeroed().run(
        "write 1k+1 aa; write 200k+513 bb; write 4k+64k cc; read 0+12k; zero 8k+8k; discard 32k+4k; \
         read 28k+12k; write 33k+1k dd; flush; zero 100+5000 unmap; read 0+80k; read 200k+1k",
    );
    expect_test::expect!["00*1k aa*1 00*3071 cc*8k; cc*4k 00*4k cc*4k; 00*5100 cc*3092 00*8k cc*16k 00*1k dd*1k 00*2k cc*32k 00*12k; bb*513 00*511"].assert_eq(&found);
    rig.block_on(rig.layer.close_all(&rig.queue)).unwrap();
}

#[test]
fn an_image_opened_without_its_key_waits_for_it() {
    let dir = folder("locked");
    let path = dir.path("i.qcow2");
    let rig = rig(DenyAll);
    create_file(&rig, &path, &luks(1 << 20));
    let node = rig
        .block_on(
            rig.layer
                .blockdev_add(&rig.queue, with_key(qcow2("top", &path), None)),
        )
        .unwrap();
    let layer: &Layer = &rig.layer;
    let backend = rig.block_on(layer.add_backend("", node, false)).unwrap();
    let slot = rig.queue.attach(&backend);
    let ask = |request| {
        rig.block_on(rig.queue.request(slot, request))
            .map(|buf| buf.to_vec())
    };
    for request in [
        Request::read(0, IoBuf::zeroed(512)),
        Request::write(0, IoBuf::zeroed(512)),
        Request::write(3, IoBuf::zeroed(5)),
        Request::write_zeroes(0, 65536, ZeroFlags::default()),
        Request::discard(0, 65536),
    ] {
        let refused = ask(request);
        assert!(
            matches!(refused, Err(Error::Encrypted { .. })),
            "{refused:?}"
        );
    }
    let wrong = Secret::new(b"wrong".to_vec());
    assert!(rig.block_on(layer.unlock(&rig.queue, node, wrong)).is_err());
    assert!(ask(Request::read(0, IoBuf::zeroed(512))).is_err());
    rig.block_on(layer.unlock(&rig.queue, node, key())).unwrap();
    ask(Request::write(3, IoBuf::copy_of(b"hello"))).unwrap();
    assert_eq!(
        ask(Request::read(2, IoBuf::zeroed(7))).unwrap(),
        b"\0hello\0"
    );
    rig.block_on(layer.remove_backend(&backend));
    rig.block_on(layer.close_all(&rig.queue)).unwrap();
}

/// Cuts the power after every event of a passphrase's coming and going: the one that stays opens
/// the image all the time.
#[test]
fn a_power_cut_in_a_change_of_key_slots_leaves_the_other_passphrase() {
    use block_core::driver::KeySlotChange;
    let (kept, passing) = (Secret::new(b"kept".to_vec()), Secret::new(b"new".to_vec()));
    let luks = LuksOptions {
        iter_time: std::time::Duration::from_millis(1),
        ..LuksOptions::default()
    };
    let options = CreateOptions {
        encryption: Some(CreateEncryption::Luks(luks, kept.clone())),
        cluster_size: 4096,
        ..sized(64 << 10)
    };
    let mut disk = Disk::create(&options, None);
    disk.run("write 0+64k aa; flush");
    let mut bytes = disk.bench.file.bytes();
    disk.bench.file.record();
    for change in [
        KeySlotChange::Add {
            // The slot that lies across the end of a sector.
            slot: Some(6),
            passphrase: passing.clone(),
            iter_time: std::time::Duration::from_millis(1),
            force: false,
        },
        KeySlotChange::Erase {
            slot: None,
            passphrase: Some(passing.clone()),
            force: false,
        },
    ] {
        block_on(disk.image.change_key_slots(&disk.bench, change)).unwrap();
    }
    let opens = |bytes: &[u8], key: &Secret| {
        let bench = bench(bytes.to_vec(), None);
        let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
        block_on(image.unlock(&bench, key)).is_ok()
    };
    let events = disk.bench.file.events();
    let mut ever = false;
    for event in &events {
        apply(&mut bytes, event);
        assert!(opens(&bytes, &kept));
        ever |= opens(&bytes, &passing);
    }
    assert!(ever && !opens(&bytes, &passing));
}
