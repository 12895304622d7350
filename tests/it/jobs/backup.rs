//! `blockdev-backup`: the target has the disk as it was at the moment of the command, whatever guests
//! write meanwhile.

use std::sync::Arc;
use std::time::Duration;

use block_core::bitmap::{BitmapName, NewBitmap};
use block_core::driver::StatusKind;
use block_core::engine::Ring;
use block_core::job::{Ending, Job};
use block_core::{Backend, Error};
use block_schema::commands::{BlockdevBackup, DriveBackup, Transaction};
use block_schema::types::{self, BitmapSyncMode, MirrorSyncMode, TransactionAction};

use super::{Chain, Meddling, POOL, RINGS};
use crate::support;
use crate::support::load::{CLUSTER, DISK, Enough, Load, Worker, read_cluster, verify_with};

/// A chain whose disk was written by some load, and an empty target.
struct Rig {
    chain: Chain,
    ring: Ring,
    target: Arc<Backend>,
    /// The model of the moment before the backup.
    moment: Vec<Worker>,
}

impl Rig {
    fn new(name: &str, (ring, aio): (Ring, &'static str), backing: Option<&str>) -> Rig {
        let chain = Chain::new(name, (ring, aio));
        let load = Load {
            ring,
            threads: 4,
            requests: 3000,
            seed: chain.seed,
            discards: true,
        };
        let moment = load.run(&chain.layer, &chain.disk, || {
            chain.queue.wait(Some(Duration::from_millis(5)));
            Enough::No
        });
        let target = add_target(&chain, "target", backing);
        Rig {
            chain,
            ring,
            target,
            moment,
        }
    }

    /// Starts a backup.
    fn start(&self, arguments: types::BlockdevBackup) -> Result<Arc<Job>, Error> {
        let arguments = BlockdevBackup(arguments);
        let starting = self
            .chain
            .layer
            .blockdev_backup(&self.chain.queue, arguments);
        self.chain.queue.block_on(starting)
    }

    /// Runs the load on until the job has ended.
    fn load(&self, job: Arc<Job>, meddling: Meddling) -> (Vec<Worker>, Ending) {
        let workers = self.moment.clone();
        self.chain.go_on(self.ring, workers, job, meddling)
    }

    /// The target, and where it has nothing the disk, reads as at the moment.
    fn verify_overwritten(&self) {
        let queue = &self.chain.queue;
        verify_with(&self.moment, |cluster| {
            let target = self.chain.layer.node(queue, self.target.root());
            let target = target.expect("the target");
            let range = cluster * CLUSTER..(cluster + 1) * CLUSTER;
            let status = queue
                .block_on(target.chain_status(range))
                .expect("a status");
            assert_eq!(status.len, CLUSTER, "whole granules are copied");
            let there = match status.kind {
                StatusKind::Unallocated => &self.chain.disk,
                StatusKind::Data | StatusKind::Zero => &self.target,
            };
            read_cluster(queue, there, cluster)
        });
    }
}

/// Makes and opens one more image.
fn add_target(chain: &Chain, name: &str, backing: Option<&str>) -> Arc<Backend> {
    let path = chain.path(&format!("{name}.qcow2"));
    let backing = backing.map(|file| chain.path(file));
    let backing = backing.as_deref().map(|path| (path, "qcow2"));
    support::create_qcow2(&chain.queue, &path, DISK, backing);
    let json = format!(
        r#"{{"driver": "qcow2", "id": "{name}", "node-name": "{name}-node",
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        path.display(),
    );
    support::open(&chain.queue, &json, name)
}

fn wanted(sync: MirrorSyncMode) -> types::BlockdevBackup {
    types::BlockdevBackup::new("disk", "target", sync)
}

/// Backs up under load, and compares.
fn check(name: &str, engine: (Ring, &'static str), sync: MirrorSyncMode, meddling: Meddling) {
    let backing = (sync == MirrorSyncMode::Top).then_some("middle.qcow2");
    let rig = Rig::new(name, engine, backing);
    let mut arguments = wanted(sync);
    if meddling != Meddling::None {
        // Slow enough for something to happen meanwhile.
        arguments.speed = Some(64 << 20);
    }
    let started = rig.start(arguments);
    let job = started.unwrap_or_else(|error| panic!("{}", error.chain()));
    let (workers, ending) = rig.load(job, meddling);
    match ending {
        Ending::Completed => {
            assert_ne!(
                sync,
                MirrorSyncMode::None,
                "that one does not end by itself"
            );
            let queue = &rig.chain.queue;
            verify_with(&rig.moment, |cluster| {
                read_cluster(queue, &rig.target, cluster)
            });
        }
        Ending::Cancelled => assert_eq!(meddling, Meddling::Cancel),
        Ending::Failed(error) => panic!("{error}"),
    }
    let Rig { chain, target, .. } = rig;
    drop(target);
    let dir = chain.verify(&workers);
    if let Some(qemu) = support::qemu_img() {
        let target = dir.path("target.qcow2");
        qemu.run(&["check", "-q", &target.display().to_string()]);
    }
}

#[test]
fn a_backup_under_load_has_the_disk_of_its_moment() {
    check("backup-rings", RINGS, MirrorSyncMode::Full, Meddling::None);
    check("backup-threads", POOL, MirrorSyncMode::Full, Meddling::None);
}

#[test]
fn a_backup_of_the_topmost_image_needs_the_rest_below_it() {
    check("backup-top", RINGS, MirrorSyncMode::Top, Meddling::None);
}

#[test]
fn a_backup_that_is_paused_and_slowed_loses_nothing() {
    check("backup-verbs", RINGS, MirrorSyncMode::Full, Meddling::Verbs);
}

#[test]
fn a_cancelled_backup_leaves_the_source_right() {
    check(
        "backup-cancel",
        POOL,
        MirrorSyncMode::Full,
        Meddling::Cancel,
    );
    check(
        "backup-cancel-top",
        RINGS,
        MirrorSyncMode::Top,
        Meddling::Cancel,
    );
}

#[test]
fn no_node_may_write_what_a_backup_watches() {
    let rig = Rig::new("backup-above", POOL, None);
    let job = rig.start(wanted(MirrorSyncMode::None)).expect("a job");
    let above = r#"{"driver": "raw", "id": "above", "file": "top"}"#;
    let refused = support::try_open(&rig.chain.queue, above, "above").expect_err("it writes");
    assert_eq!(
        refused.to_string(),
        "Node 'top' is busy: a job watches its writes; no node may write it"
    );
    job.cancel(false).expect("it runs");
    rig.chain.queue.block_on(job.ended());
    support::open(&rig.chain.queue, above, "above");
}

#[test]
fn what_is_overwritten_is_saved_until_the_job_is_cancelled() {
    let rig = Rig::new("backup-none", RINGS, None);
    let job = rig.start(wanted(MirrorSyncMode::None)).expect("a job");
    let load = Load {
        ring: rig.ring,
        threads: 4,
        requests: 4000,
        seed: rig.chain.seed,
        discards: true,
    };
    let (layer, disk) = (&rig.chain.layer, &rig.chain.disk);
    let workers = load.go_on(layer, disk, rig.moment.clone(), || {
        rig.chain.queue.wait(Some(Duration::from_millis(5)));
        Enough::No
    });
    let saved = job.progress().done;
    assert!(saved > 0 && saved <= DISK, "{saved}");
    rig.verify_overwritten();
    job.cancel(false).expect("it runs");
    let ending = rig.chain.queue.block_on(job.ended());
    assert_eq!(ending, Ending::Cancelled);
    rig.verify_overwritten();
    let Rig { chain, target, .. } = rig;
    drop((target, job));
    chain.verify(&workers);
}

/// Closes a target and its backing files.
fn close(chain: &Chain, target: &Arc<Backend>) {
    let node = target.root();
    let work = async {
        chain.layer.remove_backend(target).await;
        chain.layer.remove_node(&chain.queue, node).await
    };
    chain.queue.block_on(work).expect("nobody uses it");
}

#[test]
fn three_backups_by_bitmap_restore_each_moment() {
    let Rig {
        chain,
        ring,
        target,
        moment,
    } = Rig::new("backup-chain", RINGS, None);
    close(&chain, &target);
    let bitmap = BitmapName {
        node: "disk",
        name: "changes",
    };
    let added = chain
        .layer
        .block_dirty_bitmap_add(bitmap, NewBitmap::default());
    chain.queue.block_on(added).expect("a new bitmap");
    let mut moments = vec![moment];
    let steps = [
        ("first", None, MirrorSyncMode::Full, Meddling::None),
        (
            "lost",
            Some("first.qcow2"),
            MirrorSyncMode::Incremental,
            Meddling::Cancel,
        ),
        (
            "second",
            Some("first.qcow2"),
            MirrorSyncMode::Incremental,
            Meddling::None,
        ),
        (
            "third",
            Some("second.qcow2"),
            MirrorSyncMode::Incremental,
            Meddling::Verbs,
        ),
    ];
    for (name, backing, sync, meddling) in steps {
        let target = add_target(&chain, name, backing);
        let mut arguments = types::BlockdevBackup::new("disk", name, sync)
            .bitmap("changes")
            .bitmap_mode(BitmapSyncMode::OnSuccess)
            .job_id(format!("job-{name}"));
        if meddling != Meddling::None {
            arguments.speed = Some(16 << 20);
        }
        let starting = chain
            .layer
            .blockdev_backup(&chain.queue, BlockdevBackup(arguments));
        let started = chain.queue.block_on(starting);
        let job = started.unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(job.id(), format!("job-{name}"));
        let moment = moments.last().expect("at least one").clone();
        let (workers, ending) = chain.go_on(ring, moment.clone(), job, meddling);
        if ending == Ending::Completed {
            verify_with(&moment, |cluster| {
                read_cluster(&chain.queue, &target, cluster)
            });
        } else {
            assert_eq!(meddling, Meddling::Cancel, "{ending:?}");
        }
        moments.push(workers);
        close(&chain, &target);
    }
    let last = moments.pop().expect("at least one");
    chain.verify(&last);
}

#[test]
fn what_cannot_be_backed_up_is_refused() {
    let rig = Rig::new("backup-refused", POOL, None);
    let refused = |arguments: types::BlockdevBackup| {
        let error = rig.start(arguments).expect_err("no job");
        assert!(rig.chain.layer.jobs().len() <= 1);
        error.to_string()
    };
    let full = || wanted(MirrorSyncMode::Full);
    let named = |device, target| types::BlockdevBackup::new(device, target, MirrorSyncMode::Full);
    let check = |arguments, want: &str| assert_eq!(refused(arguments), want);
    check(
        named("nobody", "target"),
        "Cannot find device='nobody' nor node-name='nobody'",
    );
    check(
        named("disk", "nobody"),
        "Cannot find device='nobody' nor node-name='nobody'",
    );
    check(named("disk", "top"), "Source and target cannot be the same");
    check(full().job_id("1st"), "Invalid job ID '1st'");
    check(named("target-node", "disk").job_id(""), "Invalid job ID ''");
    check(
        full().speed(-1),
        "Parameter 'speed' expects a non-negative value",
    );
    check(
        wanted(MirrorSyncMode::Bitmap),
        "must provide a valid bitmap name for 'bitmap' sync mode",
    );
    check(full().bitmap("b"), "Bitmap 'b' could not be found");
    check(
        full().bitmap_mode(BitmapSyncMode::Never),
        "Cannot specify bitmap sync mode without a bitmap",
    );
    let short = rig.chain.path("short.img");
    std::fs::write(&short, [0; 4096]).expect("a short file");
    let json = format!(
        r#"{{"driver": "file", "id": "short", "filename": "{}"}}"#,
        short.display()
    );
    support::open(&rig.chain.queue, &json, "short");
    check(
        named("disk", "short"),
        "Source and target image have different sizes",
    );
    let text = refused(named("disk", "short").compress(true));
    assert_eq!(text, "Compression is not supported for this drive short");
    let job = rig.start(wanted(MirrorSyncMode::None)).expect("a job");
    let busy =
        |node: &str| format!("Node '{node}' is busy: block device is in use by block job: backup");
    check(full().job_id("other"), &busy("top"));
    check(
        named("short", "target").job_id("other"),
        &busy("target-node"),
    );
    job.cancel(true).expect("it runs");
    assert_eq!(rig.chain.queue.block_on(job.ended()), Ending::Cancelled);
}

#[test]
fn a_compressed_backup_has_the_same_content() {
    let rig = Rig::new("backup-compressed", RINGS, None);
    let job = rig.start(wanted(MirrorSyncMode::Full).compress(true));
    let (workers, ending) = rig.load(job.expect("a job"), Meddling::None);
    assert_eq!(ending, Ending::Completed);
    let queue = &rig.chain.queue;
    verify_with(&rig.moment, |cluster| {
        read_cluster(queue, &rig.target, cluster)
    });
    let target = rig
        .chain
        .layer
        .node(queue, rig.target.root())
        .expect("a node");
    let status = queue
        .block_on(target.chain_status(0..CLUSTER))
        .expect("a status");
    assert!(status.compressed);
    drop(target);
    let Rig { chain, target, .. } = rig;
    drop(target);
    chain.verify(&workers);
}

/// Backs up to a file that the command makes, and opens it afterwards.
fn check_drive(name: &str, sync: MirrorSyncMode) {
    let Rig {
        chain,
        ring,
        target,
        moment,
    } = Rig::new(name, POOL, None);
    close(&chain, &target);
    let copy = chain.path("copy.qcow2");
    let arguments = types::DriveBackup::new("disk", copy.display().to_string(), sync);
    let starting = chain
        .layer
        .drive_backup(&chain.queue, DriveBackup(arguments));
    let started = chain.queue.block_on(starting);
    let job = started.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(job.id(), "disk");
    let nodes = || chain.layer.graph().entries().count();
    let during = nodes();
    let (workers, ending) = chain.go_on(ring, moment.clone(), job, Meddling::None);
    assert_eq!(ending, Ending::Completed);
    assert_eq!(nodes() + 2, during, "the copy and its file are closed");
    let json = format!(
        r#"{{"driver": "qcow2", "id": "copy", "read-only": true,
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        copy.display(),
    );
    let opened = support::open(&chain.queue, &json, "copy");
    verify_with(&moment, |cluster| {
        read_cluster(&chain.queue, &opened, cluster)
    });
    drop(opened);
    let dir = chain.verify(&workers);
    if let Some(qemu) = support::qemu_img() {
        let copy = copy.display().to_string();
        qemu.run(&["check", "-q", &copy]);
        let info = qemu.run(&["info", &copy]);
        assert_eq!(info.contains("middle.qcow2"), sync == MirrorSyncMode::Top);
    }
    drop(dir);
}

#[test]
fn a_backup_to_a_new_file_has_the_disk_of_its_moment() {
    check_drive("drive-backup-full", MirrorSyncMode::Full);
}

#[test]
fn a_backup_of_the_topmost_image_names_the_backing_file() {
    check_drive("drive-backup-top", MirrorSyncMode::Top);
}

#[test]
fn a_file_that_is_there_can_be_backed_up_to() {
    let Rig { chain, target, .. } = Rig::new("drive-backup-existing", POOL, None);
    close(&chain, &target);
    let start = |file: &str, format: Option<&str>, mode| {
        let path = chain.path(file).display().to_string();
        let mut arguments = types::DriveBackup::new("disk", path, MirrorSyncMode::Full);
        arguments.mode = Some(mode);
        arguments.format = format.map(str::to_owned);
        let starting = chain
            .layer
            .drive_backup(&chain.queue, DriveBackup(arguments));
        chain.queue.block_on(starting)
    };
    let existing = types::NewImageMode::Existing;
    let nodes = || chain.layer.graph().entries().count();
    let before = nodes();
    let raw = chain.path("raw.img");
    std::fs::write(&raw, [0; 4096]).expect("a file");
    for (file, format, mode, want) in [
        (
            "raw.img",
            Some("raw"),
            existing,
            "Source and target image have different sizes",
        ),
        ("raw.img", Some("zip"), existing, "Unknown driver 'zip'"),
        (
            "new.img",
            Some("nbd"),
            types::NewImageMode::AbsolutePaths,
            "",
        ),
        ("raw.img", None, existing, ""),
        ("nowhere.img", Some("raw"), existing, ""),
    ] {
        let error = start(file, format, mode).expect_err("no job").chain();
        assert!(want.is_empty() || error == want, "{error}");
        assert_eq!(nodes(), before, "{file}");
    }
    for (file, format) in [("raw.img", Some("raw")), ("target.qcow2", None)] {
        std::fs::File::options()
            .write(true)
            .open(&raw)
            .and_then(|file| file.set_len(DISK))
            .expect("a longer file");
        let job = start(file, format, existing).unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(chain.queue.block_on(job.ended()), Ending::Completed);
        assert_eq!(nodes(), before, "{file}");
    }
    let closed = chain.queue.block_on(chain.layer.close_all(&chain.queue));
    closed.expect("a clean close");
    if let Some(qemu) = support::qemu_img() {
        let path = |file: &str| chain.path(file).display().to_string();
        qemu.run(&["compare", "-U", &path("top.qcow2"), &path("target.qcow2")]);
        qemu.run(&[
            "compare",
            "-U",
            "-F",
            "raw",
            &path("top.qcow2"),
            &path("raw.img"),
        ]);
    }
}

#[test]
fn backups_of_a_transaction_begin_together_or_not_at_all() {
    let rig = Rig::new("backup-together", RINGS, None);
    let Rig { chain, moment, .. } = &rig;
    let other = chain.path("other.img");
    std::fs::write(&other, [0x3c; 1 << 20]).expect("another disk");
    let json = format!(
        r#"{{"driver": "raw", "id": "other",
            "file": {{"driver": "file", "filename": "{}"}}}}"#,
        other.display()
    );
    support::open(&chain.queue, &json, "other");
    let copy = chain.path("copy.img").display().to_string();
    let to_file = types::DriveBackup::new("other", copy.clone(), MirrorSyncMode::Full);
    let actions = || {
        vec![
            TransactionAction::BlockdevBackup(wanted(MirrorSyncMode::Full)),
            TransactionAction::DriveBackup(to_file.clone()),
        ]
    };
    let run = |actions| {
        let all = chain
            .layer
            .transaction(&chain.queue, Transaction::new(actions));
        chain.queue.block_on(all)
    };
    let nodes = || chain.layer.graph().entries().count();
    let before = nodes();
    let mut fails = actions();
    fails.push(TransactionAction::Abort(types::Abort::new()));
    run(fails).expect_err("it was told to");
    assert!(chain.layer.jobs().is_empty());
    assert_eq!(nodes(), before);
    run(actions()).unwrap_or_else(|error| panic!("{}", error.chain()));
    let job = |name| chain.layer.job(name).expect("it has begun");
    let (first, second) = (job("disk"), job("other"));
    let (workers, ending) = chain.go_on(rig.ring, moment.clone(), first, Meddling::None);
    assert_eq!(ending, Ending::Completed);
    verify_with(moment, |cluster| {
        read_cluster(&chain.queue, &rig.target, cluster)
    });
    assert_eq!(chain.queue.block_on(second.ended()), Ending::Completed);
    assert!(std::fs::read(&copy).expect("a copy") == [0x3c; 1 << 20]);
    let Rig { chain, target, .. } = rig;
    drop((target, second));
    chain.verify(&workers);
}
