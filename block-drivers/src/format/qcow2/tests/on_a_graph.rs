//! The driver as a node, over files of the host, opened by its options.

use std::sync::Arc;

use block_core::driver::Repair;
use block_core::engine::{HostEngine, HostEngineOptions, Pool, Ring};
use block_core::graph::policy::{DenyAll, LocalFiles, OpenPolicy};
use block_core::{IoBuf, Layer, Request};
use block_schema::types::{
    BlockdevOptions, BlockdevOptionsBranch, BlockdevOptionsFile, BlockdevOptionsQcow2, BlockdevRef,
};

use super::*;
use crate::Drivers;
use crate::kit::script::Rig;
use crate::protocol::file::FileDriver;

fn options(node: &str, driver: BlockdevOptionsBranch) -> BlockdevOptions {
    BlockdevOptions {
        node_name: Some(node.to_owned()),
        discard: Some(block_schema::types::BlockdevDiscardOptions::Unmap),
        ..BlockdevOptions::new(driver)
    }
}

pub(super) fn qcow2(node: &str, path: &str) -> BlockdevOptions {
    let filename = path.to_owned();
    let file = BlockdevOptionsBranch::File(BlockdevOptionsFile {
        filename,
        locking: None,
    });
    let mut file = options(&format!("{node}-file"), file);
    file.discard = None;
    let driver = BlockdevOptionsBranch::Qcow2(BlockdevOptionsQcow2 {
        cache_size: Some(1 << 20),
        ..BlockdevOptionsQcow2::new(BlockdevRef::Definition(Box::new(file)))
    });
    options(node, driver)
}

pub(super) fn rig(policy: impl OpenPolicy + 'static) -> Rig {
    Rig::of(Layer::with_drivers(Arc::new(Drivers), Arc::new(policy)))
}

/// Makes an image in a file.
pub(super) fn create_file(rig: &Rig, path: &str, options: &CreateOptions) {
    let mode = Preallocation::Off;
    crate::protocol::file::create(&crate::protocol::file::CreateOptions {
        path: path.into(),
        len: 0,
        preallocation: mode,
        nocow: false,
    })
    .unwrap();
    let driver = FileDriver::open(crate::protocol::file::FileOptions::path(path)).unwrap();
    let node = rig.add("new", driver, &[]).unwrap();
    rig.block_on(async {
        let file = rig.layer.node(&rig.queue, node).unwrap();
        super::super::create(&rig.queue, file, options)
            .await
            .unwrap();
        rig.layer.remove_node(&rig.queue, node).await.unwrap();
    });
}

pub(super) fn folder(name: &str) -> Scratch {
    let dir = std::env::temp_dir().join(format!("qcow2-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    Scratch(dir)
}

#[test]
fn a_node_takes_every_request() {
    let dir = folder("node");
    let path = dir.path("i.qcow2");
    let rig = rig(DenyAll);
    create_file(
        &rig,
        &path,
        &CreateOptions {
            cluster_size: 4096,
            ..sized(4 << 20)
        },
    );
    let node = rig
        .block_on(rig.layer.blockdev_add(&rig.queue, qcow2("top", &path)))
        .unwrap();
    let found = rig.disk(node).zeroed().run(
        "write 1k+1 aa; write 4k+64k bb; read 0+12k; zero 8k+8k; discard 32k+4k; read 28k+12k; \
         write 33k+1k cc; flush; zero 100+5000 unmap; read 0+80k; status 0+80k",
    );
    expect_test::expect![[
        r#"00*1k aa*1 00*3071 bb*8k; bb*4k 00*4k bb*4k; 00*5100 bb*3092 00*8k bb*16k 00*1k cc*1k 00*2k bb*32k 00*12k; data*8k zero*8k data*52k unallocated*12k"#
    ]]
    .assert_eq(&found);
    rig.block_on(rig.layer.close_all(&rig.queue)).unwrap();
    drop(rig);
    if Scratch::with_qemu("node-oracle").is_some() {
        dir.qemu_img(&["check", "-q", &path]);
    }
}

#[test]
fn a_backing_name_inside_an_image_is_the_policys_business() {
    let dir = folder("policy");
    let (base, top) = (dir.path("base.raw"), dir.path("top.qcow2"));
    std::fs::write(&base, noise(1, 1 << 20)).unwrap();
    let over = CreateOptions {
        backing_file: Some("base.raw".into()),
        ..over_backing(1 << 20)
    };
    let deny = rig(DenyAll);
    create_file(&deny, &top, &over);
    let refused = deny.block_on(deny.layer.blockdev_add(&deny.queue, qcow2("top", &top)));
    assert!(
        matches!(refused, Err(block_core::Error::Denied { .. })),
        "{refused:?}"
    );
    drop(deny);
    let follow = rig(LocalFiles);
    let node = follow.block_on(follow.layer.blockdev_add(&follow.queue, qcow2("top", &top)));
    let backend = follow.writer(node.unwrap()).unwrap();
    let slot = follow.queue.attach(&backend);
    let request = Request::write(70_000, IoBuf::copy_of(&[7; 100]));
    follow
        .block_on(follow.queue.request(slot, request))
        .unwrap();
    let mut model = noise(1, 1 << 20);
    model[70_000..70_100].fill(7);
    let request = Request::read(0, IoBuf::zeroed(1 << 20));
    let read = follow
        .block_on(follow.queue.request(slot, request))
        .unwrap();
    assert!(read.to_vec() == model);
    follow
        .block_on(follow.layer.close_all(&follow.queue))
        .unwrap();
    drop((backend, follow));
    if let Some(oracle) = Scratch::with_qemu("policy-oracle") {
        let model = oracle.write("model.raw", &model);
        dir.qemu_img(&["check", "-q", &top]);
        dir.qemu_img(&["compare", "-q", "-F", "raw", "-f", "qcow2", &top, &model]);
    }
}

#[test]
fn queues_share_an_image() {
    let options = CreateOptions {
        cluster_size: 2048,
        ..sized(3 << 20)
    };
    check_queues("queues", &options);
}

#[test]
fn queues_share_an_image_with_subclusters() {
    let options = CreateOptions {
        cluster_size: 16384,
        extended_l2: true,
        ..sized(3 << 20)
    };
    check_queues("queues-subclusters", &options);
}

/// Several queues on threads of their own write, zero, discard and read one image; each owns every
/// fourth KiB-and-a-bit, so that they meet in clusters but never in bytes.
fn check_queues(name: &str, options: &CreateOptions) {
    const QUEUES: u64 = 4;
    const PIECE: u64 = 1536;
    const SIZE: u64 = 3 << 20;
    let dir = folder(name);
    let path = dir.path("i.qcow2");
    let rig = rig(DenyAll);
    create_file(&rig, &path, options);
    let node = rig
        .block_on(rig.layer.blockdev_add(&rig.queue, qcow2("top", &path)))
        .unwrap();
    let backend = rig.writer(node).unwrap();
    let pool = Pool::new(std::num::NonZeroUsize::new(2).unwrap()).unwrap();
    let models: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..QUEUES)
            .map(|worker| {
                let (layer, backend, pool) =
                    (rig.layer.clone(), Arc::clone(&backend), Arc::clone(&pool));
                scope.spawn(move || {
                    let options = HostEngineOptions {
                        ring_entries: 16,
                        ring: Ring::Auto,
                        pool,
                    };
                    let engine = HostEngine::new(&options).unwrap();
                    let queue = layer.new_queue(Box::new(engine)).start();
                    let slot = queue.attach(&backend);
                    let mut model = vec![0; usize::try_from(SIZE).unwrap()];
                    let mut random = Random(worker * 2 + 99);
                    for step in 0..400u64 {
                        let piece = random.below(SIZE / PIECE / QUEUES) * QUEUES + worker;
                        let (at, len) = (piece * PIECE, usize::try_from(PIECE).unwrap());
                        let start = usize::try_from(at).unwrap();
                        let request = match random.below(8) {
                            0 => {
                                model[start..start + len].fill(0);
                                Request::write_zeroes(
                                    at,
                                    PIECE,
                                    ZeroFlags {
                                        may_unmap: true,
                                        no_fallback: false,
                                    },
                                )
                            }
                            1 => Request::flush(),
                            2 => Request::read(at, IoBuf::zeroed(len)),
                            _ => {
                                let byte = u8::try_from(step % 251).unwrap() + 1;
                                model[start..start + len].fill(byte);
                                Request::write(at, IoBuf::copy_of(&vec![byte; len]))
                            }
                        };
                        let expected = model[start..start + len].to_vec();
                        let is_read = matches!(request.op, block_core::Op::Read);
                        let done = queue.block_on(queue.request(slot, request)).unwrap();
                        if is_read {
                            assert!(done.to_vec() == expected, "worker {worker} step {step}");
                        }
                    }
                    model
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let slot = rig.queue.attach(&backend);
    let request = Request::read(0, IoBuf::zeroed(usize::try_from(SIZE).unwrap()));
    let now = rig
        .block_on(rig.queue.request(slot, request))
        .unwrap()
        .to_vec();
    let piece = usize::try_from(PIECE).unwrap();
    for (index, bytes) in now.chunks(piece).enumerate() {
        let model = &models[index % models.len()];
        assert!(
            bytes == &model[index * piece..index * piece + bytes.len()],
            "piece {index}"
        );
    }
    rig.block_on(rig.layer.remove_backend(&backend));
    drop(backend);
    let report = rig
        .block_on(rig.layer.check(&rig.queue, node, Repair::None))
        .unwrap();
    assert_eq!(
        (report.corruptions, report.leaks),
        (0, 0),
        "{:#?}",
        report.messages
    );
    rig.block_on(rig.layer.close_all(&rig.queue)).unwrap();
    drop(rig);
    if Scratch::with_qemu(&format!("{name}-oracle")).is_some() {
        dir.qemu_img(&["check", "-q", &path]);
    }
}
