//! A mirror whose target runs out of space again and again, while four queues write: the job stops
//! each time, and goes on when there is space; no guest hears of it, and no byte is lost.

use std::time::Duration;

use block_core::job::Ending;
use block_schema::commands::BlockdevMirror;
use block_schema::types::{
    BlockDeviceIoStatus, BlockdevOnError, JobStatus, MirrorCopyMode, MirrorSyncMode,
};
use rustix::io::Errno;

use super::{Chain, POOL, RINGS, ending_of, to_the_end};
use crate::support::load::{DISK, Enough, Load};
use crate::support::{self, Random, flaky};

/// How often space runs out at most.
const TIMES: u32 = 12;

fn check(name: &str, mode: MirrorCopyMode, errno: Errno, policy: BlockdevOnError) {
    for _ in 0..support::rounds(1) {
        let engine = match mode {
            MirrorCopyMode::Background => RINGS,
            MirrorCopyMode::WriteBlocking => POOL,
        };
        let chain = Chain::new(name, engine);
        let mut random = Random::new(chain.seed);
        let target = chain.path("target.qcow2");
        support::create_qcow2(&chain.queue, &target, DISK, None);
        let trouble = flaky::add(&chain.queue, "flaky", &target);
        let json = r#"{"driver": "qcow2", "node-name": "target", "discard": "unmap",
            "file": "flaky"}"#;
        support::add_node(&chain.queue, json).expect("an image");
        let mut arguments = BlockdevMirror::new("disk", "target", MirrorSyncMode::Full);
        arguments.on_target_error = Some(policy);
        arguments.copy_mode = Some(mode);
        let starting = chain.layer.blockdev_mirror(&chain.queue, arguments);
        let job = chain.queue.block_on(starting).expect("a job");
        let load = Load {
            ring: engine.0,
            threads: 4,
            requests: 400_000,
            seed: chain.seed,
            discards: true,
        };
        let (mut begun, mut stops, mut ending) = (0, 0, None);
        let workers = load.run(&chain.layer, &chain.disk, || {
            chain.queue.wait(Some(Duration::from_millis(5)));
            ending = ending_of(&job);
            if ending.is_some() {
                return Enough::Yes;
            }
            let info = job.info();
            if info.io_status != BlockDeviceIoStatus::Ok {
                stops += 1;
                trouble.end();
                job.resume().expect("it waits");
            } else if begun < TIMES && random.below(2) == 0 {
                trouble.begin(errno);
                begun += 1;
            } else if begun == TIMES && info.status == Some(JobStatus::Ready) {
                trouble.end();
                job.complete().ok();
            }
            Enough::No
        });
        trouble.end();
        job.resume().ok();
        let ending = ending.unwrap_or_else(|| chain.queue.block_on(to_the_end(&job)));
        assert_eq!(ending, Ending::Completed);
        println!("space ran out {begun} times, the job stopped {stops} times");
        assert!(stops > 0);
        let dir = chain.verify(&workers);
        if let Some(qemu) = support::qemu_img() {
            let target = dir.path("target.qcow2").display().to_string();
            qemu.run(&["check", "-q", "-r", "leaks", &target]);
        }
    }
}

#[test]
fn a_mirror_waits_for_space_under_load() {
    let (mode, policy) = (MirrorCopyMode::Background, BlockdevOnError::Enospc);
    check("mirror-space", mode, Errno::NOSPC, policy);
}

#[test]
fn a_mirror_that_guests_wait_for_waits_for_its_cable() {
    let (mode, policy) = (MirrorCopyMode::WriteBlocking, BlockdevOnError::Stop);
    check("mirror-cable", mode, Errno::IO, policy);
}
