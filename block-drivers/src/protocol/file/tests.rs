//! Against files of the host, and of the simulator where faults and order count; what needs
//! `qemu-img` says so and skips without it.

use std::path::Path;

use block_core::driver::StatusKind;
use block_core::engine::sim::{Fault, Sim, SimKind, SimOp};
use block_core::engine::{Aio, SimFile};
use block_core::graph::perm::Perm;
use block_core::graph::{CacheMode, NodeId};
use block_core::{Error, Request};
use expect_test::{Expect, expect};
use rustix::io::Errno;

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

#[test]
fn the_last_sector_is_whole() {
    check(
        1000,
        "read 1000+24; write 1000+24 77; read 512+512; write 1024+1 11",
        expect!["00*24; 00*488 77*24; write: INVAL"],
    );
}

#[test]
fn zeroes_keep_space_unless_they_may_unmap() {
    check(
        64 << 10,
        "write 0+32k aa; zero 4k+4k unmap; zero 12k+4k; zero 20000+100; status 0+8k; read 0+32k",
        expect!["data*4k zero*4k; aa*4k 00*4k aa*4k 00*4k aa*3616 00*100 aa*12668"],
    );
}

#[test]
fn direct_zeroes_need_no_alignment() {
    check_options(
        64 << 10,
        direct,
        "write 0+32k aa; zero 4000+5000 unmap; zero 12001+4001; read 0+32k",
        expect!["aa*4000 00*5000 aa*3001 00*4001 aa*16766"],
    );
}

#[test]
fn discards_leave_holes() {
    check(
        64 << 10,
        "write 0+64k aa; discard 8k+16k; discard 60k+4k; status 0+64k; read 8k+4k",
        expect!["data*8k zero*16k data*36k zero*4k; 00*4k"],
    );
}

/// What a format does: requests behind the end of the file.
#[test]
fn requests_behind_the_end_grow_the_file() {
    let scratch = Scratch::new(1000);
    let rig = Rig::host();
    let file = FileDriver::open(FileOptions::path(scratch.path())).unwrap();
    let node = rig.add("file", file, &[]).unwrap();
    let backend = rig.writer(node).unwrap();
    let found = rig.block_on(async {
        let file = rig.layer.node(&rig.queue, node).unwrap();
        assert_eq!(file.read_bytes(5000, 10).await.unwrap()[..], [0; 10]);
        file.write_bytes(8192, b"far").await.unwrap();
        let holes = ZeroFlags {
            may_unmap: true,
            no_fallback: false,
        };
        file.write_zeroes(500..20_000, holes).await.unwrap();
        file.discard(0..1 << 30).await.unwrap();
        let kept = ZeroFlags::default();
        file.write_zeroes(20_000..24_000, kept).await.unwrap();
        let status = file.status(1 << 20..1 << 21).await.unwrap();
        assert_eq!((status.kind, status.len), (StatusKind::Zero, 1 << 20));
        file.read_bytes(8192, 3).await.unwrap().to_vec()
    });
    assert_eq!(found, [0; 3]);
    rig.block_on(rig.layer.remove_backend(&backend));
    assert_eq!(std::fs::metadata(scratch.path()).unwrap().len(), 24_000);
    assert_eq!(rig.len(node), 24_064);
}

#[test]
fn after_a_failed_sync_no_flush_succeeds() {
    let scratch = Scratch::new(4096);
    let rig = Rig::host();
    let file = FileDriver::open(FileOptions::path(scratch.path())).unwrap();
    let leaf = Arc::clone(&file.leaf);
    let node = rig.add("file", file, &[]).unwrap();
    let mut disk = rig.disk(node);
    assert_eq!(disk.run("write 0+1k aa; flush"), "");
    leaf.mark_sync_failed();
    assert_eq!(
        disk.run("flush; flush; read 0+512"),
        "flush: IO; flush: IO; aa*512"
    );
}

/// A node over a simulated file of zeroes, aligned as for O_DIRECT where that is not 1.
fn simulated(sim: &Sim, rig: &Rig, len: usize, alignment: u32) -> (NodeId, SimFile) {
    let leaf = sim.create_file(&vec![0; len]);
    let LeafFile::Sim(file) = *leaf.file() else {
        unreachable!("the simulator opened it")
    };
    let leaf = sim.open_aligned(file, alignment);
    let node = rig.add("file", FileDriver::from_leaf(leaf), &[]).unwrap();
    (node, file)
}

#[test]
fn a_sync_that_fails_once_fails_every_later_flush() {
    let sim = Sim::new(1);
    let rig = Rig::sim(&sim);
    let (node, _) = simulated(&sim, &rig, 4096, 1);
    sim.fail_when(1, 1, Fault::Errno(Errno::NOSPC), |op| {
        op.kind == SimKind::Sync
    });
    let found = rig
        .disk(node)
        .run("flush; write 0+1k aa; flush; flush; read 0+1k");
    assert_eq!(found, "flush: NOSPC; flush: IO; aa*1k");
}

#[test]
fn with_direct_io_a_later_sync_makes_up_for_a_failed_one() {
    let sim = Sim::new(1);
    let rig = Rig::sim(&sim);
    let (node, _) = simulated(&sim, &rig, 4096, 512);
    sim.fail_when(0, 1, Fault::Errno(Errno::NOSPC), |op| {
        op.kind == SimKind::Sync
    });
    assert_eq!(rig.disk(node).run("flush; flush"), "flush: NOSPC");
}

/// Starts all requests, and waits for them in turn.
fn together(rig: &Rig, node: NodeId, requests: Vec<Request>) {
    let backend = rig.writer(node).unwrap();
    let slot = rig.queue.attach(&backend);
    let started: Vec<_> = requests
        .into_iter()
        .map(|request| rig.queue.request(slot, request))
        .collect();
    for request in started {
        rig.block_on(request).unwrap();
    }
    rig.block_on(rig.layer.remove_backend(&backend));
}

fn bytes(byte: u8, len: usize) -> IoBuf {
    IoBuf::copy_of(&vec![byte; len])
}

#[test]
fn unaligned_writes_of_one_block_keep_each_other() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let rig = Rig::sim(&sim);
        let (node, file) = simulated(&sim, &rig, 8192, 4096);
        let requests = (0..8u8).map(|n| {
            let at = u64::from(n) * 600;
            Request::write(at, bytes(n + 1, 600))
        });
        together(&rig, node, requests.collect());
        let contents = sim.contents(file);
        for n in 0..8u8 {
            let part = &contents[usize::from(n) * 600..][..600];
            assert!(part.iter().all(|&b| b == n + 1), "seed {seed}, write {n}");
        }
        assert!(contents[4800..].iter().all(|&b| b == 0), "seed {seed}");
    }
}

#[test]
fn growing_by_zeroes_undoes_no_write_further_on() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let rig = Rig::sim(&sim);
        let (node, file) = simulated(&sim, &rig, 1024, 1);
        rig.block_on(async {
            let file = rig.layer.node(&rig.queue, node).unwrap();
            let flags = ZeroFlags {
                may_unmap: true,
                no_fallback: false,
            };
            let zero: Pending<'_> = Box::pin(file.write_zeroes(512..5000, flags));
            let write: Pending<'_> = Box::pin(file.write(6000, bytes(7, 1000)));
            let both = futures_of([zero, write]).await;
            assert!(both.iter().all(Result::is_ok), "seed {seed}");
        });
        let contents = sim.contents(file);
        assert_eq!(contents.len(), 7000, "seed {seed}");
        assert!(contents[6000..].iter().all(|&b| b == 7), "seed {seed}");
    }
}

/// Polls all to their end.
async fn futures_of<'a>(work: impl IntoIterator<Item = Pending<'a>>) -> Vec<Result<()>> {
    let mut work: Vec<Pending<'a>> = work.into_iter().collect();
    let mut ended: Vec<Option<Result<()>>> = work.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, end) in work.iter_mut().zip(&mut ended) {
            if end.is_none()
                && let std::task::Poll::Ready(result) = future.as_mut().poll(context)
            {
                *end = Some(result);
            }
        }
        if ended.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    ended.into_iter().flatten().collect()
}

#[test]
fn what_the_file_system_cannot_do_is_asked_once() {
    let sim = Sim::new(1);
    let rig = Rig::sim(&sim);
    let (node, _) = simulated(&sim, &rig, 16384, 1);
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let refuses = move |op: &SimOp| {
        let is_change = matches!(op.kind, SimKind::Fallocate(_));
        count.fetch_add(u32::from(is_change), std::sync::atomic::Ordering::Relaxed);
        is_change
    };
    sim.fail_when(0, usize::MAX, Fault::Errno(Errno::OPNOTSUPP), refuses);
    let mut disk = rig.disk(node);
    let found = disk.run(
        "write 0+16k aa; zero 0+4k; zero 8k+1k unmap; zero 4k+1k fast; discard 12k+4k; read 0+16k",
    );
    assert_eq!(found, "zero: NOTSUP; 00*4k aa*4k 00*1k aa*7k");
    // Zeroing a range, and punching a hole.
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn no_flush_never_syncs() {
    let scratch = Scratch::new(4096);
    let rig = Rig::host();
    let mut options = FileOptions::path(scratch.path());
    options.cache.no_flush = true;
    let file = FileDriver::open(options).unwrap();
    // A sync would fail now.
    file.leaf.mark_sync_failed();
    let node = rig.add("file", file, &[]).unwrap();
    assert_eq!(rig.disk(node).run("write 0+1k aa; flush"), "");
}

#[test]
fn resizing_preallocates_as_asked() {
    let scratch = Scratch::new(10_000);
    let rig = Rig::host();
    let file = FileDriver::open(FileOptions::path(scratch.path())).unwrap();
    let node = rig.add("file", file, &[]).unwrap();
    let resize = |len, mode| {
        let resized = rig.block_on(rig.layer.resize(&rig.queue, node, len, mode));
        let text = resized.map_or_else(|error| error.to_string(), |()| "resized".to_owned());
        let blocks =
            std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(scratch.path()).unwrap());
        let allocated = if blocks * 512 >= len { "all" } else { "some" };
        format!("{text}, {} bytes, {allocated} allocated", rig.len(node))
    };
    expect!["resized, 20480 bytes, some allocated"].assert_eq(&resize(20_480, Preallocation::Off));
    expect!["Unsupported preallocation mode: metadata, 20480 bytes, some allocated"]
        .assert_eq(&resize(40_960, Preallocation::Metadata));
    expect!["Cannot use preallocation for shrinking files, 20480 bytes, some allocated"]
        .assert_eq(&resize(8192, Preallocation::Full));
    expect!["resized, 8192 bytes, some allocated"].assert_eq(&resize(8192, Preallocation::Off));
    expect!["resized, 0 bytes, all allocated"].assert_eq(&resize(0, Preallocation::Off));
    expect!["resized, 1048576 bytes, all allocated"]
        .assert_eq(&resize(1 << 20, Preallocation::Falloc));
    expect!["resized, 3145728 bytes, all allocated"]
        .assert_eq(&resize(3 << 20, Preallocation::Full));
}

#[test]
fn only_files_are_files() {
    let open = |path: &str, change: fn(&mut FileOptions)| {
        let mut options = FileOptions::path(path);
        options.read_only = true;
        change(&mut options);
        match FileDriver::open(options) {
            Ok(driver) => format!("{} opened", driver.format_name()),
            Err(error) => error.chain(),
        }
    };
    let plain: fn(&mut FileOptions) = |_| {};
    expect!["'file' driver requires '/' to be a regular file"].assert_eq(&open("/", plain));
    expect!["'file' driver requires '/dev/null' to be a regular file"]
        .assert_eq(&open("/dev/null", plain));
    expect!["host_device opened"].assert_eq(&open("/dev/null", |o| o.kind = Kind::HostDevice));
    expect![
        "'host_device' driver requires '/proc/self/exe' to be either a character or block device"
    ]
    .assert_eq(&open("/proc/self/exe", |o| o.kind = Kind::HostDevice));
    expect!["could not open '/nonexistent': No such file or directory"]
        .assert_eq(&open("/nonexistent", plain));
    expect!["aio=native was specified, but it requires cache.direct=on, which was not specified."]
        .assert_eq(&open("/proc/self/exe", |o| o.aio = Aio::Native));
    expect!["could not open '/': Is a directory"].assert_eq(&open("/", |o| o.read_only = false));
}

#[test]
fn a_fifo_does_not_keep_the_opener_waiting() {
    let fifo = std::env::temp_dir().join(format!("qblk-test-{}-fifo", std::process::id()));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let mut options = FileOptions::path(&fifo);
    options.read_only = true;
    let opened = FileDriver::open(options).map(|_| ());
    std::fs::remove_file(&fifo).unwrap();
    assert!(
        matches!(opened, Err(Error::InvalidOption { .. })),
        "{opened:?}"
    );
}

#[test]
fn a_running_program_is_auto_read_only() {
    // Nobody may write it, not even root.
    let open = |auto_read_only| {
        let mut options = FileOptions::path("/proc/self/exe");
        options.auto_read_only = auto_read_only;
        FileDriver::open(options).map(|driver| driver.is_read_only())
    };
    assert_eq!(open(false).unwrap_err().errno(), Errno::TXTBSY);
    assert!(open(true).unwrap());
}

#[test]
fn descriptors_must_allow_what_the_node_does() {
    let scratch = Scratch::new(4096);
    let open = |read_only| {
        let file = std::fs::File::open(scratch.path()).unwrap();
        let mut options = FileOptions::fd(file.into());
        options.read_only = read_only;
        FileDriver::open(options).map(|driver| driver.is_read_only())
    };
    assert!(open(true).unwrap());
    assert!(matches!(open(false), Err(Error::InvalidOption { .. })));
}

const READER: Use = Use {
    need: Perm::CONSISTENT_READ,
    ..Use::NOTHING
};

/// What a format does that writes.
fn format() -> Use {
    block_core::graph::perm::Role::Image.child_use(Use::backend(false), false)
}

fn locked(scratch: &Scratch) -> FileDriver {
    FileDriver::open(FileOptions::path(scratch.path())).unwrap()
}

fn change(driver: &FileDriver, wanted: Use) -> String {
    match driver.set_permissions(wanted) {
        Ok(()) => "granted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_refused_change_keeps_the_locks_as_they_were() {
    let scratch = Scratch::new(4096);
    let (a, b, c) = (locked(&scratch), locked(&scratch), locked(&scratch));
    assert_eq!(change(&a, format()), "granted");
    expect![[r#"Failed to get "write" lock"#]].assert_eq(&change(&b, format()));
    // Nothing of what `b` wanted is left in the way of `c`, or of `a` itself.
    assert_eq!(change(&a, Use::NOTHING), "granted");
    assert_eq!(change(&c, format()), "granted");
    expect!["granted"].assert_eq(&change(&b, READER));
    // Asking for less is always granted, and lets others in.
    assert_eq!(change(&c, READER), "granted");
    assert_eq!(change(&b, format()), "granted");
    drop(b);
    assert_eq!(change(&a, format()), "granted");
}

#[test]
fn locking_off_and_force_share_keep_nobody_out() {
    let scratch = Scratch::new(4096);
    let mut options = FileOptions::path(scratch.path());
    options.locking = Locking::Off;
    let off = FileDriver::open(options).unwrap();
    let holder = locked(&scratch);
    assert_eq!(change(&off, format()), "granted");
    assert_eq!(change(&holder, format()), "granted");
    let mut options = FileOptions::path(scratch.path());
    options.force_share = true;
    options.read_only = true;
    let shared = FileDriver::open(options).unwrap();
    let reader = Use {
        share: Perm::CONSISTENT_READ,
        ..Use::NOTHING
    };
    assert_eq!(change(&shared, reader), "granted");
}

#[test]
fn creating_empties_no_file_in_use() {
    let scratch = Scratch::new(4096);
    let options = CreateOptions {
        path: scratch.path().to_owned(),
        len: 100_000,
        preallocation: Preallocation::Full,
        nocow: false,
    };
    let holder = locked(&scratch);
    assert_eq!(change(&holder, format()), "granted");
    let refused = create(&options).unwrap_err();
    expect![[r#"Failed to get "write" lock"#]].assert_eq(&refused.to_string());
    let name = scratch.path().display();
    assert_eq!(
        refused.hint().unwrap(),
        format!("Is another process using the image [{name}]?")
    );
    let len = || std::fs::metadata(scratch.path()).unwrap().len();
    assert_eq!(len(), 4096);
    drop(holder);
    for preallocation in [
        Preallocation::Full,
        Preallocation::Falloc,
        Preallocation::Off,
    ] {
        create(&CreateOptions {
            preallocation,
            ..options.clone()
        })
        .unwrap();
        assert_eq!(len(), 100_000);
    }
}

/// Whether the oracle of this name is here; says that a test skips when not.
fn have(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .output();
    if found.is_err() {
        eprintln!("skipped: no {program} in the path");
    }
    found.is_ok()
}

/// What an oracle says of an image, named `IMAGE` in its arguments and its answer.
fn ask(program: &str, arguments: &[&str], scratch: &Scratch) -> String {
    let name = scratch.path().display().to_string();
    let arguments = arguments
        .iter()
        .map(|&a| if a == "IMAGE" { &name } else { a });
    let done = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    if done.status.success() {
        return "accepted".to_owned();
    }
    String::from_utf8_lossy(&done.stderr).replace(&name, "IMAGE")
}

/// An empty qcow2 image made by qemu-img.
fn qcow2() -> Scratch {
    let scratch = Scratch::new(0);
    let create = ["create", "-q", "-f", "qcow2", "IMAGE", "1M"];
    assert_eq!(ask("qemu-img", &create, &scratch), "accepted");
    scratch
}

#[test]
fn qemu_refuses_what_we_hold() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let scratch = qcow2();
    let info = || ask("qemu-img", &["info", "IMAGE"], &scratch);
    let ours = locked(&scratch);
    assert_eq!(change(&ours, format()), "granted");
    expect![[r#"
        qemu-img: Could not open 'IMAGE': Failed to get shared "write" lock
        Is another process using the image [IMAGE]?
    "#]]
    .assert_eq(&info());
    let write = ["-f", "raw", "-c", "write 0 512", "IMAGE"];
    expect![[r#"
        qemu-io: can't open device IMAGE: Failed to get "write" lock
        Is another process using the image [IMAGE]?
    "#]]
    .assert_eq(&ask("qemu-io", &write, &scratch));
    let resize = ["resize", "-f", "raw", "IMAGE", "+1M"];
    expect![[r#"
        qemu-img: Could not open 'IMAGE': Failed to get "write" lock
        Is another process using the image [IMAGE]?
    "#]]
    .assert_eq(&ask("qemu-img", &resize, &scratch));
    assert_eq!(
        ask("qemu-img", &["info", "-U", "IMAGE"], &scratch),
        "accepted"
    );
    assert_eq!(change(&ours, READER), "granted");
    assert_eq!(info(), "accepted");
    assert_eq!(change(&ours, format()), "granted");
    drop(ours);
    assert_eq!(info(), "accepted");
}

#[test]
fn we_refuse_what_qemu_io_holds() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    if !have("qemu-io") || !have("qemu-img") {
        return;
    }
    let scratch = qcow2();
    let mut qemu = Command::new("qemu-io")
        .args(["-f", "qcow2"])
        .arg(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = qemu.stdin.take().unwrap();
    let mut output = BufReader::new(qemu.stdout.take().unwrap());
    // Once it has answered, it has its locks.
    input.write_all(b"read 0 512\n").unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let ours = locked(&scratch);
    let reader = Use {
        share: !Perm::WRITE,
        ..READER
    };
    expect![[r#"Failed to get "write" lock"#]].assert_eq(&change(&ours, format()));
    expect![[r#"Failed to get shared "write" lock"#]].assert_eq(&change(&ours, reader));
    assert_eq!(change(&ours, READER), "granted");
    drop(input);
    qemu.wait().unwrap();
    assert_eq!(change(&ours, format()), "granted");
}
