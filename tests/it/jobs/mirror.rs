//! Mirrors and the commit of the active image: the disk goes over to the copy under load, and no byte
//! is lost on the way.

use block_core::engine::Ring;
use block_core::job::Ending;
use block_schema::commands::{BlockCommit, BlockdevMirror, DriveMirror};
use block_schema::types::{BlockdevOptions, MirrorCopyMode, MirrorSyncMode, NewImageMode};
use block_schema::{Unknown, Value, Wire};

use super::{Chain, Meddling, POOL, RINGS};
use crate::support;
use crate::support::load::DISK;

impl Chain {
    /// An empty image over another file, open as the node `target`.
    fn add_target(&self, backing: Option<&str>) {
        let target = self.path("target.qcow2");
        let backing = backing.map(|file| self.path(file));
        let backing = backing.as_deref().map(|path| (path, "qcow2"));
        support::create_qcow2(&self.queue, &target, DISK, backing);
        self.add_node(&format!(
            r#"{{"driver": "qcow2", "node-name": "target", "discard": "unmap",
                "file": {{"driver": "file", "filename": "{}"}}}}"#,
            target.display()
        ));
    }

    fn add_node(&self, json: &str) {
        let value = Value::from_json(json).expect("valid JSON");
        let options = BlockdevOptions::decode(value, Unknown::Refuse).expect("valid options");
        let adding = self.layer.blockdev_add(&self.queue, options);
        let added = self.queue.block_on(adding);
        added.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    /// The name of the node that the disk is.
    fn root(&self) -> String {
        let graph = self.layer.graph();
        let index = graph.index_of(self.disk.root()).expect("a disk has a node");
        graph.entry(index).node.name().to_owned()
    }
}

/// Mirrors to a node under load, completes the job, and compares what the disk is then.
fn check(
    name: &str,
    engine: (Ring, &'static str),
    meddling: Meddling,
    change: impl FnOnce(&mut BlockdevMirror),
) {
    let chain = Chain::new(name, engine);
    let mut arguments = BlockdevMirror::new("disk", "target", MirrorSyncMode::Full);
    change(&mut arguments);
    let backing = match arguments.sync {
        MirrorSyncMode::Top => Some("middle.qcow2"),
        _ => None,
    };
    chain.add_target(backing);
    let starting = chain.layer.blockdev_mirror(&chain.queue, arguments);
    let (workers, whole) = chain.carry_out(engine.0, starting, meddling);
    assert_eq!(chain.root(), if whole { "target" } else { "top" });
    let dir = chain.verify(&workers);
    if let Some(qemu) = support::qemu_img() {
        let target = dir.path("target.qcow2").display().to_string();
        qemu.run(&["check", "-q", &target]);
    }
}

#[test]
fn the_disk_goes_over_to_a_full_copy_under_load() {
    check("mirror-rings", RINGS, Meddling::None, |_| {});
    check("mirror-threads", POOL, Meddling::None, |_| {});
}

#[test]
fn the_disk_goes_over_to_a_copy_of_its_top_image() {
    check("mirror-top", RINGS, Meddling::None, |arguments| {
        arguments.sync = MirrorSyncMode::Top;
    });
}

#[test]
fn a_mirror_that_is_paused_and_slowed_loses_nothing() {
    check("mirror-verbs", RINGS, Meddling::Verbs, |arguments| {
        arguments.speed = Some(64 << 20);
    });
}

#[test]
fn a_cancelled_mirror_leaves_the_disk_where_it_is() {
    check("mirror-cancel", POOL, Meddling::Cancel, |arguments| {
        arguments.speed = Some(64 << 20);
    });
}

#[test]
fn a_mirror_follows_writes_from_the_beginning() {
    check("mirror-blocking", RINGS, Meddling::None, |arguments| {
        arguments.copy_mode = Some(MirrorCopyMode::WriteBlocking);
    });
    check("mirror-blocking", POOL, Meddling::Verbs, |arguments| {
        arguments.copy_mode = Some(MirrorCopyMode::WriteBlocking);
    });
}

#[test]
fn granularity_and_buffer_may_be_small_and_large() {
    check("mirror-small", RINGS, Meddling::None, |arguments| {
        arguments.granularity = Some(32 << 10);
        arguments.buf_size = Some(256 << 10);
    });
    check("mirror-large", POOL, Meddling::None, |arguments| {
        arguments.granularity = Some(64 << 20);
        arguments.buf_size = Some(256 << 20);
    });
}

/// Commits the active image under load.
fn check_commit(name: &str, engine: (Ring, &'static str), base: &str, meddling: Meddling) {
    let chain = Chain::new(name, engine);
    let path = |file: &str| chain.path(file).display().to_string();
    let mut arguments = BlockCommit::new("disk");
    arguments.top = Some(path("top.qcow2"));
    arguments.base = Some(path(base));
    if meddling != Meddling::None {
        arguments.speed = Some(64 << 20);
    }
    let starting = chain.layer.block_commit(&chain.queue, arguments);
    let (workers, whole) = chain.carry_out(engine.0, starting, meddling);
    assert_eq!(chain.root() == "top", !whole);
    chain.verify(&workers);
}

#[test]
fn the_disk_goes_down_to_a_base_under_load() {
    check_commit("commit-active", RINGS, "base.img", Meddling::None);
    check_commit("commit-active", POOL, "middle.qcow2", Meddling::None);
}

#[test]
fn an_active_commit_that_is_paused_and_slowed_loses_nothing() {
    check_commit("commit-active-verbs", RINGS, "base.img", Meddling::Verbs);
}

#[test]
fn a_cancelled_active_commit_leaves_the_chain_as_it_was() {
    check_commit("commit-active-cancel", POOL, "base.img", Meddling::Cancel);
}

/// Mirrors to a file that the verb makes, or finds, under load.
fn check_drive(name: &str, sync: MirrorSyncMode, mode: NewImageMode) {
    let chain = Chain::new(name, RINGS);
    let target = chain.path("target.qcow2");
    if mode == NewImageMode::Existing {
        let (middle, top) = (chain.path("middle.qcow2"), chain.path("top.qcow2"));
        let backing = match sync {
            MirrorSyncMode::Top => Some(middle.as_path()),
            MirrorSyncMode::None => Some(top.as_path()),
            _ => None,
        };
        let backing = backing.map(|path| (path, "qcow2"));
        support::create_qcow2(&chain.queue, &target, DISK, backing);
    }
    let mut arguments = DriveMirror::new("disk", target.display().to_string(), sync);
    arguments.mode = Some(mode);
    let starting = chain.layer.drive_mirror(&chain.queue, arguments);
    let started = chain.queue.block_on(starting);
    let job = started.unwrap_or_else(|error| panic!("{}", error.chain()));
    let (workers, ending) = chain.load(RINGS.0, job, Meddling::None);
    assert_eq!(ending, Ending::Completed);
    assert!(chain.root().starts_with("#block"), "{}", chain.root());
    let dir = chain.verify(&workers);
    let Some(qemu) = support::qemu_img() else {
        return;
    };
    let target = dir.path("target.qcow2").display().to_string();
    qemu.run(&["check", "-q", &target]);
    let info = qemu.run(&["info", "--backing-chain", "--output=json", &target]);
    let below = match sync {
        MirrorSyncMode::Top => Some("middle.qcow2"),
        MirrorSyncMode::None => Some("top.qcow2"),
        _ => None,
    };
    assert_eq!(info.contains("backing-filename"), below.is_some(), "{info}");
    assert!(below.is_none_or(|file| info.contains(file)), "{info}");
}

#[test]
fn the_disk_goes_over_to_a_new_file() {
    check_drive(
        "drive-full",
        MirrorSyncMode::Full,
        NewImageMode::AbsolutePaths,
    );
    check_drive(
        "drive-top",
        MirrorSyncMode::Top,
        NewImageMode::AbsolutePaths,
    );
    check_drive(
        "drive-none",
        MirrorSyncMode::None,
        NewImageMode::AbsolutePaths,
    );
}

#[test]
fn the_disk_goes_over_to_a_file_that_is_there() {
    check_drive("drive-full", MirrorSyncMode::Full, NewImageMode::Existing);
    check_drive("drive-top", MirrorSyncMode::Top, NewImageMode::Existing);
    check_drive("drive-none", MirrorSyncMode::None, NewImageMode::Existing);
}
