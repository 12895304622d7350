//! Stored bitmaps: bit for bit as QEMU has them, both ways; what a power cut leaves; and what becomes
//! of bitmaps that somebody damaged, or that nobody here knows.
#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges may have one"
)]

use std::ops::Range;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use block_core::bitmap::{BitmapName, DirtyBitmap, NewBitmap, State};
use block_core::graph::NodeId;
use block_core::graph::policy::DenyAll;
use block_schema::types::Qcow2BitmapInfoFlags;
use block_schema::{Value, types::BlockdevOptions};

use super::on_a_graph::{create_file, folder, qcow2, rig};
use super::*;
use crate::kit::script::Rig;

const LEN: u64 = (6 << 20) + 1536;

fn named(name: &str) -> BitmapName<'_> {
    BitmapName { node: "top", name }
}

fn persistent(granularity: u32) -> NewBitmap {
    NewBitmap {
        granularity: Some(granularity),
        persistent: true,
        disabled: false,
    }
}

fn opened(rig: &Rig, options: BlockdevOptions) -> NodeId {
    rig.block_on(rig.layer.blockdev_add(&rig.queue, options))
        .unwrap()
}

/// Closes the image; its file is unlocked then.
fn closed(rig: Rig) {
    let top = {
        let graph = rig.layer.graph();
        graph.entry(graph.find("top").unwrap()).node.id()
    };
    rig.block_on(async {
        for backend in rig.layer.backends() {
            rig.layer.remove_backend(&backend).await;
        }
        rig.layer.remove_node(&rig.queue, top).await.unwrap();
    });
}

fn bitmap(rig: &Rig, name: &str) -> Arc<DirtyBitmap> {
    rig.layer.dirty_bitmap(named(name)).unwrap().1
}

/// A copy of an image: the server unlocks what it serves some time after its client has left.
fn copy_of(path: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let copy = format!("{path}.{}", NEXT.fetch_add(1, Ordering::Relaxed));
    std::fs::copy(path, &copy).unwrap();
    copy
}

/// The dirty runs of a bitmap in an image, as this driver loads it.
fn dirty_here(path: &str, name: &str) -> Vec<Range<u64>> {
    let rig = rig(DenyAll);
    let mut options = qcow2("top", path);
    options.read_only = Some(true);
    opened(&rig, options);
    let runs = bitmap(&rig, name).runs().collect();
    closed(rig);
    runs
}

/// The dirty runs of a bitmap in an image, as an NBD client of `qemu-nbd` sees them.
fn dirty_there(dir: &Scratch, path: &str, name: &str) -> Vec<Range<u64>> {
    let copy = copy_of(path);
    let socket = format!("{copy}.socket");
    let status = Command::new("qemu-nbd")
        .args([
            "--fork", "-r", "-f", "qcow2", "-B", name, "-k", &socket, &copy,
        ])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let options = format!(
        "driver=nbd,server.type=unix,server.path={socket},x-dirty-bitmap=qemu:dirty-bitmap:{name}"
    );
    let map = dir.qemu_img(&["map", "--output=json", "--image-opts", &options]);
    let Value::Array(entries) = Value::from_json(&map).unwrap() else {
        panic!("{map}");
    };
    let number = |entry: &Value, field: &str| entry.get(field).unwrap().to_string().parse::<u64>();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for entry in entries
        .iter()
        .filter(|e| e.get("data") == Some(&Value::Bool(false)))
    {
        let start = number(entry, "start").unwrap();
        let end = start + number(entry, "length").unwrap();
        match runs.last_mut().filter(|run| run.end == start) {
            Some(run) => run.end = end,
            None => runs.push(start..end),
        }
    }
    runs
}

/// What whole granules of these ranges are, on a disk of `LEN` bytes.
fn granules(ranges: &[Range<u64>], granularity: u64) -> Vec<Range<u64>> {
    let mut dirty = vec![false; usize::try_from(LEN.div_ceil(granularity)).unwrap()];
    for range in ranges {
        let end = range.end.div_ceil(granularity);
        for granule in range.start / granularity..end {
            dirty[usize::try_from(granule).unwrap()] = true;
        }
    }
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (index, _) in (0_u64..).zip(&dirty).filter(|(_, dirty)| **dirty) {
        let run = index * granularity..LEN.min((index + 1) * granularity);
        match runs.last_mut().filter(|last| last.end == run.start) {
            Some(last) => last.end = run.end,
            None => runs.push(run),
        }
    }
    runs
}

#[test]
fn bitmaps_are_the_same_here_and_there() {
    let Some(dir) = Scratch::with_qemu("bitmaps") else {
        return;
    };
    for (cluster, granularity) in [(512, 512), (4096, 65536), (65536, 512), (2 << 20, 1 << 20)] {
        let path = dir.path("i.qcow2");
        let size = LEN.to_string();
        let cluster = format!("cluster_size={cluster}");
        dir.qemu_img(&["create", "-q", "-f", "qcow2", "-o", &cluster, &path, &size]);
        let bits = granularity.to_string();
        dir.qemu_img(&["bitmap", "--add", "-g", &bits, &path, "theirs"]);
        let io = |command: &str| dir.tool("qemu-io", &["-f", "qcow2", "-c", command, &path]);
        io("write 1000k 700k");
        io("write 3 1");
        let mut theirs = vec![1000 << 10..1700 << 10, 3..4];
        let granularity = u64::from(bits.parse::<u32>().unwrap());
        assert_eq!(
            dirty_there(&dir, &path, "theirs"),
            granules(&theirs, granularity)
        );
        assert_eq!(dirty_here(&path, "theirs"), granules(&theirs, granularity));

        let rig = rig(DenyAll);
        let node = opened(&rig, qcow2("top", &path));
        let bits = u32::try_from(granularity).unwrap();
        let added = rig
            .layer
            .block_dirty_bitmap_add(named("ours"), persistent(bits));
        rig.block_on(added).unwrap();
        let all = LEN / 2..LEN;
        let script = format!(
            "write 2m+1k aa; zero 100+5k; discard 4m+4m; write {}+512 bb",
            LEN - 512
        );
        let script = script.replace("4m+4m", &format!("4m+{}", LEN - (4 << 20)));
        rig.disk(node).run(&script);
        let ours = [2 << 20..(2 << 20) + 1024, 100..100 + 5120, 4 << 20..LEN];
        theirs.extend(ours.clone());
        assert!(all.contains(&ours[2].start));
        closed(rig);

        dir.qemu_img(&["check", "-q", &path]);
        for (name, ranges) in [("theirs", &theirs[..]), ("ours", &ours[..])] {
            let want = granules(ranges, granularity);
            assert_eq!(dirty_here(&path, name), want, "{cluster} {name}");
            assert_eq!(dirty_there(&dir, &path, name), want, "{cluster} {name}");
        }
        io("write 5M 1k");
        assert_eq!(dirty_here(&path, "ours"), dirty_there(&dir, &path, "ours"));
    }
}

#[test]
fn what_is_done_by_name_reaches_the_image() {
    let dir = folder("bitmap-verbs");
    let path = dir.path("i.qcow2");
    let rig1 = rig(DenyAll);
    create_file(&rig1, &path, &sized(LEN));
    let node = opened(&rig1, qcow2("top", &path));
    let layer = &rig1.layer;
    rig1.block_on(async {
        for name in ["a", "b", "gone"] {
            let added = layer.block_dirty_bitmap_add(named(name), persistent(65536));
            added.await.unwrap();
        }
        let temporary = NewBitmap::default();
        layer
            .block_dirty_bitmap_add(named("memory"), temporary)
            .await
            .unwrap();
        layer.block_dirty_bitmap_disable(named("b")).await.unwrap();
    });
    rig1.disk(node).run("write 0+1 aa; write 1m+1 bb");
    rig1.block_on(async {
        layer
            .block_dirty_bitmap_merge(named("b"), &[named("memory")])
            .await
            .unwrap();
        layer.block_dirty_bitmap_clear(named("a")).await.unwrap();
        layer
            .block_dirty_bitmap_remove(&rig1.queue, named("gone"))
            .await
            .unwrap();
    });
    rig1.disk(node).run("write 2m+1 bb");
    closed(rig1);
    assert_eq!(dirty_here(&path, "a"), [2 << 20..(2 << 20) + 65536]);
    let b = [0..65536, 1 << 20..(1 << 20) + 65536];
    assert_eq!(dirty_here(&path, "b"), b);

    // Changes by name alone, without a write, are stored as well.
    let rig2 = rig(DenyAll);
    opened(&rig2, qcow2("top", &path));
    assert!(rig2.layer.dirty_bitmap(named("gone")).is_err());
    assert!(rig2.layer.dirty_bitmap(named("memory")).is_err());
    assert!(!bitmap(&rig2, "b").is_enabled() && bitmap(&rig2, "a").is_enabled());
    rig2.block_on(async {
        let layer = &rig2.layer;
        layer.block_dirty_bitmap_enable(named("b")).await.unwrap();
        layer.block_dirty_bitmap_clear(named("a")).await.unwrap();
    });
    closed(rig2);
    assert_eq!(dirty_here(&path, "a"), []);
    assert_eq!(dirty_here(&path, "b"), b);
    if Scratch::with_qemu("bitmap-verbs-oracle").is_some() {
        dir.qemu_img(&["check", "-q", &path]);
        assert_eq!(dirty_there(&dir, &path, "b"), b);
    }

    let rig3 = rig(DenyAll);
    opened(&rig3, qcow2("top", &path));
    rig3.block_on(async {
        for name in ["a", "b"] {
            let removed = rig3
                .layer
                .block_dirty_bitmap_remove(&rig3.queue, named(name));
            removed.await.unwrap();
        }
    });
    closed(rig3);
    let mut disk = Disk::open(std::fs::read(&path).unwrap(), None, Vec::new());
    assert!(disk.image.header.lock().autoclear == 0 && disk.image.bitmap_infos().is_none());
    disk.expect_clean();
    disk.reopen();
}

#[test]
fn bitmaps_follow_resize_snapshots_and_emptying() {
    let dir = folder("bitmap-resize");
    let path = dir.path("i.qcow2");
    let rig1 = rig(DenyAll);
    create_file(&rig1, &path, &sized(1 << 20));
    let node = opened(&rig1, qcow2("top", &path));
    let (layer, queue) = (&rig1.layer, &rig1.queue);
    let resize = |len| {
        rig1.block_on(layer.resize(queue, node, len, Preallocation::Off))
            .unwrap()
    };
    let add = |name| {
        let added = layer.block_dirty_bitmap_add(named(name), persistent(65536));
        rig1.block_on(added).unwrap();
    };
    add("old");
    rig1.disk(node).run("write 0+1 aa; write 512k+1 bb");
    resize(256 << 10);
    resize(2 << 20);
    let old = [0..65536, 256 << 10..2 << 20];
    assert_eq!(bitmap(&rig1, "old").runs().collect::<Vec<_>>(), old);
    let info = super::snapshots::info("s");
    let change = |change| rig1.block_on(layer.snapshot(queue, node, change)).unwrap();
    change(block_core::driver::SnapshotChange::Create(info));
    add("since");
    rig1.disk(node).run("write 64k+1 cc");
    let since = || bitmap(&rig1, "since").runs().collect::<Vec<_>>();
    assert_eq!(since(), [65536..131_072]);
    change(block_core::driver::SnapshotChange::Apply(
        super::snapshots::named("s"),
    ));
    assert_eq!(since(), [0..2 << 20]);
    rig1.block_on(layer.block_dirty_bitmap_clear(named("since")))
        .unwrap();
    rig1.block_on(layer.make_empty(queue, node)).unwrap();
    assert_eq!(since(), [0..2 << 20]);
    closed(rig1);
    assert_eq!(dirty_here(&path, "since"), [0..2 << 20]);
    if Scratch::with_qemu("bitmap-resize-oracle").is_some() {
        dir.qemu_img(&["check", "-q", &path]);
        assert_eq!(dirty_there(&dir, &path, "since"), [0..2 << 20]);
    }
}

#[test]
fn amending_keeps_bitmaps_and_refuses_what_would_lose_them() {
    let dir = folder("bitmap-amend");
    let path = dir.path("i.qcow2");
    let rig1 = rig(DenyAll);
    create_file(&rig1, &path, &sized(1 << 20));
    let node = opened(&rig1, qcow2("top", &path));
    let (layer, queue) = (&rig1.layer, &rig1.queue);
    let added = layer.block_dirty_bitmap_add(named("b"), persistent(65536));
    rig1.block_on(added).unwrap();
    rig1.disk(node).run("write 0+1 aa");
    let amend = |compat: Option<&str>, refcount_bits| {
        let options = block_core::driver::AmendOptions {
            compat: compat.map(str::to_owned),
            refcount_bits,
            ..Default::default()
        };
        rig1.block_on(layer.amend(queue, node, options))
    };
    assert!(amend(Some("0.10"), None).is_err());
    amend(None, Some(64)).unwrap();
    closed(rig1);
    assert_eq!(dirty_here(&path, "b"), [0..65536]);
    if Scratch::with_qemu("bitmap-amend-oracle").is_some() {
        dir.qemu_img(&["check", "-q", &path]);
        assert_eq!(dirty_there(&dir, &path, "b"), [0..65536]);
    }
}

/// A disk without a graph, which marks its bitmaps before each write as the graph does.
struct Tracked {
    disk: Disk,
    /// What the disk was when each bitmap was added.
    since: Vec<(String, Vec<u8>)>,
}

impl Tracked {
    fn add(&mut self, name: &str) {
        let state = State {
            enabled: true,
            persistent: true,
            ..State::default()
        };
        self.disk.image.check_new_bitmap(name, 512).unwrap();
        let bitmap = DirtyBitmap::new(name, 512, self.disk.image.size(), state).unwrap();
        self.disk.image.bitmaps.add(Arc::new(bitmap));
        self.since.push((name.to_owned(), self.disk.model.clone()));
    }

    fn remove(&mut self, name: &str) {
        let (image, bench) = (&self.disk.image, &self.disk.bench);
        block_on(image.remove_bitmap(bench, name)).unwrap();
        image.bitmaps.remove(name);
    }

    fn close(&mut self) {
        block_on(self.disk.image.store_bitmaps(&self.disk.bench)).unwrap();
        self.disk.reopen();
    }

    fn run(&mut self, script: &str) {
        for step in script.split(';').map(str::trim) {
            match step.split_once(' ') {
                Some(("add", name)) => self.add(name),
                Some(("remove", name)) => self.remove(name),
                None if step == "close" => self.close(),
                Some((_, rest)) => {
                    let (at, len) = rest
                        .split_whitespace()
                        .next()
                        .unwrap()
                        .split_once('+')
                        .unwrap();
                    let range = number(at)..number(at) + number(len);
                    for bitmap in self.disk.image.bitmaps.all().iter() {
                        bitmap.set(&range);
                    }
                    self.disk.step(step);
                }
                None => self.disk.step(step),
            }
        }
    }

    /// Names of the bitmaps that the image holds and vouches for.
    fn good(image: &Image) -> Vec<String> {
        let all = image.bitmaps.all();
        let good = all.iter().filter(|bitmap| !bitmap.is_inconsistent());
        good.map(|bitmap| bitmap.name().to_owned()).collect()
    }

    /// Each bitmap that a cut left and that says to be good covers all that changed since it was
    /// added.
    #[track_caller]
    fn expect_covered(&self, bytes: Vec<u8>, what: &str) -> Vec<String> {
        let bench = bench(bytes, None);
        let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
        let report = block_on(image.check(&bench, Repair::None)).unwrap();
        assert_eq!(report.corruptions, 0, "{what}: {:#?}", report.messages);
        let buf = IoBuf::zeroed(usize::try_from(image.size()).unwrap());
        block_on(image.read(&bench, 0, buf.clone())).unwrap();
        let now = buf.to_vec();
        let good = Tracked::good(&image);
        for name in &good {
            let bitmap = image.bitmaps.find(name).unwrap();
            let (_, then) = self.since.iter().rev().find(|(n, _)| n == name).unwrap();
            for (index, (now, then)) in (0..).zip(now.chunks(512).zip(then.chunks(512))) {
                let sector = index * 512..(index + 1) * 512;
                let dirty = bitmap.next_dirty(sector).is_some();
                assert!(
                    dirty || now == then,
                    "{what}: '{name}' misses sector {index}"
                );
            }
        }
        block_on(image.check(&bench, Repair::Leaks)).unwrap();
        let report = block_on(image.check(&bench, Repair::None)).unwrap();
        assert_eq!(
            (report.corruptions, report.leaks),
            (0, 0),
            "{what}: {:#?}",
            report.messages
        );
        good
    }
}

#[test]
fn a_power_cut_leaves_no_bitmap_that_misses_a_write() {
    let options = CreateOptions {
        cluster_size: 512,
        ..sized(48 << 10)
    };
    let mut tracked = Tracked {
        disk: Disk::create(&options, None),
        since: Vec::new(),
    };
    // Freed clusters full of old bytes: new tables and bits go there.
    tracked.run("write 0+40k ee; flush; discard 0+40k; flush; reopen");
    tracked.run("write 0+48k 11; reopen");
    let durable_bytes = tracked.disk.bench.file.bytes();
    tracked.disk.bench.file.record();
    let mut ends = Vec::new();
    let script = "add a; write 3k+2k 22; close; write 9k+1k 33; flush; add b; write 1k+7k 44; \
                  close; discard 0+5k; flush; remove a; write 30k+3k 55; close; write 40k+1k 66; \
                  add c; close; remove b; remove c; write 0+2k 77; close";
    for step in script.split(';').map(str::trim) {
        tracked.run(step);
        if step == "close" {
            let good = Tracked::good(&tracked.disk.image);
            ends.push((tracked.disk.bench.file.events().len(), good));
        }
    }
    let events = tracked.disk.bench.file.events();
    each_cut(
        durable_bytes,
        &events,
        &mut Random(7),
        |cut, left, bytes| {
            let good = tracked.expect_covered(bytes, &format!("{cut} {left:?}"));
            // What was closed is whole until something is written again.
            if let Some((_, then)) = ends.iter().find(|(end, _)| *end == cut) {
                assert_eq!(&good, then, "{cut}");
            }
        },
    );
    let names: Vec<_> = ends.into_iter().map(|(_, good)| good.join(" ")).collect();
    assert_eq!(names, ["a", "a b", "b", "b c", ""]);
}

#[test]
fn failing_to_store_leaves_the_marks() {
    let options = CreateOptions {
        cluster_size: 512,
        ..sized(48 << 10)
    };
    for budget in 0..40 {
        let mut tracked = Tracked {
            disk: Disk::create(&options, None),
            since: Vec::new(),
        };
        tracked.run("add a; write 3k+2k 22; close; write 9k+1k 33; add b; write 20k+1k 44");
        let disk = &tracked.disk;
        disk.bench.file.fail_after(Some(budget));
        let stored = block_on(disk.image.store_bitmaps(&disk.bench));
        disk.bench.file.fail_after(None);
        let good = tracked.expect_covered(disk.bench.file.bytes(), &format!("{budget}"));
        assert!(stored.is_err() || good == ["a", "b"], "{budget}: {good:?}");
        // Once more, without failures.
        tracked.run("write 1k+1k 55; close");
        let good = tracked.expect_covered(tracked.disk.bench.file.bytes(), "again");
        assert_eq!(good, ["a", "b"]);
    }
}

/// An image with bitmaps `a` (tracks) and `b` (does not), and its directory's place.
fn two_bitmaps() -> (Vec<u8>, usize) {
    let mut tracked = Tracked {
        disk: Disk::create(&sized(1 << 20), None),
        since: Vec::new(),
    };
    tracked.run("add a; add b; write 3k+2k 22");
    let image = &tracked.disk.image;
    let b = State {
        persistent: true,
        ..State::default()
    };
    image.bitmaps.remove("b");
    let b = DirtyBitmap::new("b", 65536, image.size(), b).unwrap();
    b.set(&(0..1));
    image.bitmaps.add(Arc::new(b));
    tracked.close();
    let bytes = tracked.disk.bench.file.bytes();
    let (place, _) = tracked
        .disk
        .image
        .directory
        .lock()
        .clone()
        .parts()
        .map(|(p, e)| (p, e.len()))
        .unwrap();
    (bytes, usize::try_from(place.offset.0).unwrap())
}

/// Opens a changed image; what is shown and good, then what is shown and good after a write by
/// somebody who opened it for writing and closed it.
#[track_caller]
fn check_changed(change: impl FnOnce(&mut Vec<u8>, usize), want: [&str; 2]) {
    let (mut bytes, directory) = two_bitmaps();
    change(&mut bytes, directory);
    let seen = |bytes: Vec<u8>, writable| {
        let bench = bench(bytes.clone(), None);
        let options = OpenOptions {
            writable,
            ..small_cache()
        };
        let image = block_on(Image::open(&bench, "test", options)).unwrap();
        let shown = |image: &Image| {
            let all = image.bitmaps.all();
            let one = |b: &Arc<DirtyBitmap>| match b.is_inconsistent() {
                true => format!("({})", b.name()),
                false => b.name().to_owned(),
            };
            all.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let found = shown(&image);
        if !writable {
            assert_eq!(
                bench.file.bytes(),
                bytes,
                "a read-only image is not written"
            );
            return (found, bytes);
        }
        for bitmap in image.bitmaps.all().iter().filter(|b| b.is_enabled()) {
            bitmap.set(&(0..512));
        }
        block_on(image.write(&bench, 0, IoBuf::zeroed(512))).unwrap();
        block_on(image.store_bitmaps(&bench)).unwrap();
        block_on(image.flush_all(&bench)).unwrap();
        (found, bench.file.bytes())
    };
    let (read_only, _) = seen(bytes.clone(), false);
    let (writable, bytes) = seen(bytes, true);
    assert_eq!(read_only, writable);
    let (after, _) = seen(bytes.clone(), false);
    assert_eq!([read_only, after], want);
    // Without what cannot be used, all can be repaired.
    let disk = Disk::open(bytes, None, Vec::new());
    for bitmap in disk
        .image
        .bitmaps
        .all()
        .iter()
        .filter(|b| b.is_inconsistent())
    {
        block_on(disk.image.remove_bitmap(&disk.bench, bitmap.name())).unwrap();
    }
    let report = block_on(disk.image.check(&disk.bench, Repair::All)).unwrap();
    assert_eq!(report.check_errors, 0);
    let disk = Disk::open(disk.bench.file.bytes(), None, Vec::new());
    disk.expect_clean();
}

/// Sets big-endian bytes.
fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Where the second entry of the directory is: names have one letter.
const SECOND: usize = 32;

#[test]
fn bitmaps_that_somebody_changed_are_shown_and_not_used() {
    check_changed(|_, _| {}, ["a b", "a b"]);
    // In use: nobody knows what they miss.
    check_changed(|b, d| b[d + 15] |= 1, ["(a) b", "(a) b"]);
    // Unknown flags, types, granularities: left as they are.
    check_changed(|b, d| b[d + 15] |= 8, ["(a) b", "(a) b"]);
    check_changed(|b, d| b[d + 16] = 2, ["(a) b", "(a) b"]);
    check_changed(|b, d| b[d + SECOND + 17] = 40, ["a (b)", "a (b)"]);
    // A name that is no text.
    check_changed(|b, d| b[d + 24] = 0xff, ["(\u{fffd}) b", "(\u{fffd}) b"]);
    // Tables that cannot be.
    check_changed(|b, d| b[d + 11] = 2, ["(a) b", "(a) b"]);
    check_changed(|b, d| put(b, d, &[0x7f]), ["(a) b", "(a) b"]);
    check_changed(|b, d| b[d + SECOND + 7] = 1, ["a (b)", "a (b)"]);
}

#[test]
fn a_directory_that_cannot_be_is_not_loaded() {
    let header = |bytes: &[u8]| {
        let kind = super::super::layout::extension::BITMAPS;
        super::super::header::extension_place(bytes, kind)
            .unwrap()
            .start
    };
    let damage = |change: fn(&mut Vec<u8>, usize, usize)| {
        check_changed(
            |bytes, directory| {
                let extension = header(bytes);
                change(bytes, extension, directory);
            },
            ["", ""],
        );
    };
    damage(|b, e, _| b[e + 3] = 3);
    damage(|b, e, _| b[e + 3] = 0);
    damage(|b, e, _| put(b, e, &[0, 1, 0, 0]));
    damage(|b, e, _| b[e + 7] = 1);
    damage(|b, e, _| put(b, e + 8, &[0x7f]));
    damage(|b, e, _| b[e + 15] -= 8);
    damage(|b, e, _| put(b, e + 16, &[0x7f]));
    damage(|b, e, _| b[e + 23] = 8);
    // Entries: name lengths, extra data, the same name twice.
    damage(|b, _, d| put(b, d + 18, &[0, 0]));
    damage(|b, _, d| put(b, d + 18, &[0xff, 0xff]));
    damage(|b, _, d| put(b, d + 20, &[0xff, 0xff, 0xff, 0xff]));
    damage(|b, _, d| b[d + SECOND + 24] = b'a');
    // The bit that vouches for them, cleared by a program that does not know bitmaps.
    damage(|b, _, _| b[95] = 0);
}

#[test]
fn a_damaged_table_entry_costs_one_bitmap() {
    let table = |b: &[u8], d: usize| {
        usize::try_from(u64::from_be_bytes(*b[d..].first_chunk().unwrap())).unwrap()
    };
    for entry in [0x2_u64, 1 << 60, 512, 1 << 50, (1 << 16) | 1] {
        check_changed(
            |b, d| {
                let at = table(b, d);
                put(b, at, &entry.to_be_bytes());
            },
            ["(a) b", "(a) b"],
        );
    }
    // All ones without a cluster.
    let (mut bytes, directory) = two_bitmaps();
    let at = table(&bytes, directory);
    put(&mut bytes, at, &1_u64.to_be_bytes());
    let disk = Disk::open(bytes, None, Vec::new());
    let a = disk.image.bitmaps.find("a").unwrap();
    assert_eq!(a.runs().collect::<Vec<_>>(), [0..1 << 20]);
}

#[test]
fn extra_data_stays_and_decides_who_may_use_a_bitmap() {
    let (bytes, directory) = two_bitmaps();
    // Eight bytes of extra data in the first entry, with and without the flag that allows use.
    for (flags, want, good) in [(2_u8, "(a)", false), (6, "a", true)] {
        let mut bytes = bytes.clone();
        bytes.resize(directory + 65536, 0);
        let mut entry = bytes[directory..directory + 24].to_vec();
        entry[15] = flags;
        entry[23] = 8;
        entry.extend(*b"whatever");
        entry.extend(*b"a\0\0\0\0\0\0\0");
        let second = bytes[directory + SECOND..directory + 2 * SECOND].to_vec();
        put(&mut bytes, directory, &entry);
        put(&mut bytes, directory + entry.len(), &second);
        let kind = super::super::layout::extension::BITMAPS;
        let place = super::super::header::extension_place(&bytes, kind).unwrap();
        bytes[place.start + 15] += 8;
        let disk = Disk::open(bytes, None, Vec::new());
        let a = disk.image.bitmaps.find("a").unwrap();
        assert_eq!(a.is_inconsistent(), !good, "{want}");
        for bitmap in disk.image.bitmaps.all().iter().filter(|b| b.is_enabled()) {
            bitmap.set(&(512 << 10..(512 << 10) + 1));
        }
        block_on(disk.image.write(&disk.bench, 512 << 10, IoBuf::zeroed(512))).unwrap();
        block_on(disk.image.store_bitmaps(&disk.bench)).unwrap();
        block_on(disk.image.flush_all(&disk.bench)).unwrap();
        disk.expect_clean();
        let stored = disk.image.directory.lock().clone();
        let entry = &stored.parts().unwrap().1[0];
        assert_eq!(entry.extra_data, b"whatever");
        // The one that could not be tracked says so.
        let infos = disk.image.bitmap_infos().unwrap();
        let in_use = infos[0].flags.contains(&Qcow2BitmapInfoFlags::InUse);
        assert_eq!(in_use, !good);
        assert_eq!(entry.flags & 4, u32::from(flags & 4));
    }
}

#[test]
fn marks_are_durable_before_the_first_change() {
    let (bytes, directory) = two_bitmaps();
    let disk = Disk::open(bytes, None, Vec::new());
    disk.bench.file.record();
    block_on(disk.image.write(&disk.bench, 0, IoBuf::zeroed(512))).unwrap();
    let events = disk.bench.file.events();
    let place = directory as u64;
    assert!(
        matches!(&events[..2], [Event::Write(at, _), Event::Flush] if *at == place),
        "{events:?}"
    );
    assert_eq!(
        disk.bench.file.bytes()[95],
        1,
        "the image still vouches for them"
    );
    let image = block_on(Image::open(&disk.bench, "test", small_cache())).unwrap();
    assert!(Tracked::good(&image).is_empty());
}

#[test]
fn limits_are_kept_before_anything_is_stored() {
    let refused = |options: &CreateOptions, name: &str, granularity| {
        let disk = Disk::create(options, None);
        disk.image
            .check_new_bitmap(name, granularity)
            .unwrap_err()
            .to_string()
    };
    let v2 = CreateOptions {
        version: Version::V2,
        ..sized(1 << 20)
    };
    assert!(refused(&v2, "b", 65536).ends_with("Cannot store dirty bitmaps in qcow2 v2 files"));
    let long = "n".repeat(1024);
    assert!(refused(&sized(1 << 20), &long, 65536).ends_with("maximum (1023 characters)"));
    let large = CreateOptions {
        cluster_size: 2 << 20,
        ..sized(0)
    };
    assert!(refused(&large, "b", 512).ends_with("the disk has no bytes"));
    let disk = Disk::create(&sized(1 << 20), None);
    disk.image.set_size(4 << 40);
    let refused = disk
        .image
        .check_new_bitmap("b", 512)
        .unwrap_err()
        .to_string();
    assert!(refused.ends_with("Use larger granularity"), "{refused}");
    disk.image.check_new_bitmap("b", 1024).unwrap();
}
