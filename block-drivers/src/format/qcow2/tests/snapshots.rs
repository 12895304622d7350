//! Internal snapshots against a model: what each holds, what a power cut leaves, what `qemu-img`
//! says, and what becomes of tables that somebody damaged.

use std::collections::BTreeMap;

use block_core::driver::{SnapshotChange, SnapshotKey};
use block_schema::types::SnapshotInfo;

use super::*;

/// An image with snapshots, and what each must hold.
pub(super) struct Album {
    pub(super) disk: Disk,
    snapshots: BTreeMap<String, Vec<u8>>,
}

pub(super) fn info(name: &str) -> SnapshotInfo {
    SnapshotInfo {
        id: String::new(),
        name: name.to_owned(),
        vm_state_size: 0,
        date_sec: 1_000_000_000,
        date_nsec: 5,
        vm_clock_sec: 3,
        vm_clock_nsec: 7,
        icount: None,
    }
}

pub(super) fn named(name: &str) -> SnapshotKey {
    SnapshotKey {
        id: None,
        name: Some(name.to_owned()),
    }
}

fn change(disk: &Disk, change: SnapshotChange) -> block_core::Result<SnapshotInfo> {
    block_on(disk.image.snapshot(&disk.bench, change))
}

/// What a snapshot of an image holds, by opening a copy read-only.
fn shown(bytes: &[u8], backing: &Option<Vec<u8>>, name: &str) -> Vec<u8> {
    let bench = bench(bytes.to_vec(), backing.clone());
    let options = OpenOptions {
        writable: false,
        ..small_cache()
    };
    let image = block_on(Image::open(&bench, "test", options)).unwrap();
    block_on(image.snapshot(&bench, SnapshotChange::Show(named(name)))).unwrap();
    let buf = IoBuf::zeroed(usize::try_from(image.size()).unwrap());
    block_on(image.read(&bench, 0, buf.clone())).unwrap();
    assert_eq!(
        bench.file.bytes(),
        bytes,
        "a read-only image is not written"
    );
    buf.to_vec()
}

impl Album {
    pub(super) fn new(options: &CreateOptions, backing: Option<Vec<u8>>) -> Album {
        Album {
            disk: Disk::create(options, backing),
            snapshots: BTreeMap::new(),
        }
    }

    /// Scripts of a disk, and `take NAME`, `apply NAME`, `delete NAME`.
    pub(super) fn run(&mut self, script: &str) {
        for op in script.split(';').map(str::trim).filter(|op| !op.is_empty()) {
            match op.split_once(' ') {
                Some(("take", name)) => self.take(name),
                Some(("apply", name)) => self.apply(name),
                Some(("delete", name)) => self.delete(name),
                Some(_) | None => self.disk.step(op),
            }
        }
    }

    fn take(&mut self, name: &str) {
        change(&self.disk, SnapshotChange::Create(info(name))).unwrap();
        self.snapshots
            .insert(name.to_owned(), self.disk.model.clone());
    }

    fn apply(&mut self, name: &str) {
        change(&self.disk, SnapshotChange::Apply(named(name))).unwrap();
        self.disk.model = self.snapshots[name].clone();
        assert_eq!(self.disk.image.size(), self.disk.model.len() as u64);
    }

    fn delete(&mut self, name: &str) {
        change(&self.disk, SnapshotChange::Delete(named(name))).unwrap();
        self.snapshots.remove(name);
    }

    #[track_caller]
    pub(super) fn expect_all(&mut self) {
        self.disk.expect_model();
        self.disk.expect_clean();
        self.disk.reopen();
        self.disk.expect_model();
        let bytes = self.disk.bench.file.bytes();
        let backing = self.disk.bench.backing.as_ref().map(MemoryFile::bytes);
        for (name, model) in &self.snapshots {
            assert!(shown(&bytes, &backing, name) == *model, "snapshot {name}");
        }
    }

    /// Asks `qemu-img` about the image and every snapshot.
    #[track_caller]
    pub(super) fn expect_qemu_agrees(&mut self, name: &str) {
        self.expect_all();
        self.disk.expect_qemu_agrees(name);
        let Some(dir) = Scratch::with_qemu(name) else {
            return;
        };
        let image = dir.write("image.qcow2", &self.disk.bench.file.bytes());
        if let Some(backing) = &self.disk.bench.backing {
            dir.write("backing.raw", &backing.bytes());
        }
        for (name, model) in &self.snapshots {
            dir.qemu_img(&["snapshot", "-a", name, &image]);
            let model = dir.write("model.raw", model);
            dir.qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw", &image, &model]);
        }
        dir.qemu_img(&["check", "-q", &image]);
    }
}

#[track_caller]
pub(super) fn check_album(
    options: &CreateOptions,
    backing: Option<Vec<u8>>,
    script: &str,
) -> Album {
    let mut album = Album::new(options, backing);
    album.run(script);
    album.expect_all();
    album
}

fn small(cluster_size: u64) -> CreateOptions {
    CreateOptions {
        cluster_size,
        ..sized(256 << 10)
    }
}

#[test]
fn a_snapshot_keeps_what_the_disk_was() {
    let script = "write 0+100k 11; take a; write 50k+100k 22; discard 0+20k; take b; zero 60k+30k; \
                  apply a; write 10k+1k 33; delete b; take c; delete a; write 0+200k 44";
    for cluster_size in [512, 4096, 65536] {
        let mut album = check_album(&small(cluster_size), None, script);
        album.expect_qemu_agrees(&format!("album-{cluster_size}"));
        let v2 = CreateOptions {
            version: Version::V2,
            backing_file: Some("backing.raw".into()),
            backing_format: Some("raw".into()),
            ..small(cluster_size)
        };
        let backing = Some(noise(1, 200 << 10));
        check_album(&v2, backing, script).expect_qemu_agrees(&format!("album-v2-{cluster_size}"));
    }
}

#[test]
fn snapshots_remember_how_long_the_disk_was() {
    let mut album = check_album(
        &small(512),
        None,
        "write 0+256k 11; take small; resize 4m; write 3m+64k 22; take large; resize 100k; \
         take tiny; apply large; write 1m+1k 33; apply small; write 0+1k 44; apply tiny; \
         resize 300k",
    );
    album.expect_qemu_agrees("sizes");
}

#[test]
fn deleting_the_last_snapshot_leaves_an_image_without_any_trace() {
    let mut album = check_album(
        &small(4096),
        None,
        "write 0+100k 11; flush; take a; delete a",
    );
    album.run("write 0+100k 22; flush");
    album.expect_all();
    let header = album.disk.image.header.lock().clone();
    assert_eq!((header.snapshot_count, header.snapshots.0), (0, 0));
    // Every cluster is owned again: writing allocated nothing.
    let len = album.disk.bench.file.bytes().len();
    album.run("write 0+100k 33; flush");
    assert_eq!(album.disk.bench.file.bytes().len(), len);
}

#[test]
fn taking_and_deleting_again_and_again_does_not_grow_the_file() {
    let mut album = check_album(
        &small(512),
        None,
        "write 0+256k 11; take a; delete a; take a; delete a",
    );
    let len = album.disk.bench.file.bytes().len();
    for _ in 0..10 {
        album.run("take a; delete a");
    }
    album.expect_all();
    assert!(album.disk.bench.file.bytes().len() <= len + 4096);
}

/// Random scripts of writes and snapshots, the same for the same seed.
pub(super) fn random_album(album: &mut Album, seed: u64, steps: u64) {
    let mut random = Random(seed | 1);
    for step in 0..steps {
        let size = album.disk.model.len() as u64;
        let names: Vec<String> = album.snapshots.keys().cloned().collect();
        let some = |random: &mut Random| {
            let pick = usize::try_from(random.below(names.len().max(1) as u64)).unwrap();
            names.get(pick).cloned()
        };
        match (random.below(10), some(&mut random)) {
            (0 | 1, _) if names.len() < 6 => album.take(&format!("s{step}")),
            (2, Some(name)) => album.apply(&name),
            (3, Some(name)) => album.delete(&name),
            (4, _) => album.disk.reopen(),
            (5, _) if album.disk.image.version == Version::V3 => {
                let len = (size / 2 + random.below(size)).min(1 << 20) / 512 * 512;
                album.run(&format!("resize {len}"));
            }
            _ => random_run(&mut album.disk, seed * 1000 + step, 3),
        }
        album.disk.expect_model();
        album.disk.expect_clean();
    }
}

#[test]
fn random_snapshots_keep_data_and_qemu_agrees() {
    for seed in 0..8 {
        let backing = (seed % 3 == 0).then(|| noise(seed, 150 << 10));
        let options = CreateOptions {
            cluster_size: [512, 1024, 4096, 65536][usize::try_from(seed % 4).unwrap()],
            refcount_bits: [16, 8, 64, 16][usize::try_from(seed % 4).unwrap()],
            version: if seed == 3 { Version::V2 } else { Version::V3 },
            backing_file: backing.as_ref().map(|_| "backing.raw".into()),
            backing_format: backing.as_ref().map(|_| "raw".into()),
            ..sized(200 << 10)
        };
        let mut album = Album::new(&options, backing);
        random_album(&mut album, seed + 40, 40);
        album.expect_qemu_agrees(&format!("random-album-{seed}"));
    }
}

/// The disk and its snapshots, and after which event that was durable.
struct Moment {
    ended: usize,
    durable: bool,
    disk: Vec<u8>,
    snapshots: BTreeMap<String, Vec<u8>>,
}

/// Cuts the power after every event of a script; what is left is a moment of the script at or behind
/// the last durable one, whole in its snapshots, and sector by sector in its disk.
pub(super) fn check_cuts(seed: u64, options: &CreateOptions, before: &str, script: &str) {
    let mut album = Album::new(options, None);
    album.run(before);
    album.disk.reopen();
    let durable_bytes = album.disk.bench.file.bytes();
    album.disk.bench.file.record();
    let moment = |album: &Album, durable| Moment {
        ended: album.disk.bench.file.events().len(),
        durable,
        disk: album.disk.model.clone(),
        snapshots: album.snapshots.clone(),
    };
    let mut moments = vec![moment(&album, true)];
    for step in script.split(';').map(str::trim) {
        album.run(step);
        let durable =
            ["flush", "take", "apply", "delete"].contains(&step.split(' ').next().unwrap());
        moments.push(moment(&album, durable));
    }
    let events = album.disk.bench.file.events();
    each_cut(
        durable_bytes,
        &events,
        &mut Random(seed),
        |cut, left, bytes| {
            let since = moments
                .iter()
                .rposition(|m| m.durable && m.ended <= cut)
                .unwrap();
            check_cut(bytes, &moments[since..], &format!("{seed} {cut} {left:?}"));
        },
    );
}

#[track_caller]
fn check_cut(bytes: Vec<u8>, moments: &[Moment], what: &str) {
    let bench = bench(bytes.clone(), None);
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let report = block_on(image.check(&bench, Repair::None)).unwrap();
    assert_eq!(report.corruptions, 0, "{what}: {:#?}", report.messages);
    let names: Vec<String> = image.snapshot_infos().into_iter().map(|i| i.name).collect();
    let found: BTreeMap<String, Vec<u8>> = names
        .into_iter()
        .map(|name| (name.clone(), shown(&bytes, &None, &name)))
        .collect();
    let buf = IoBuf::zeroed(usize::try_from(image.size()).unwrap());
    block_on(image.read(&bench, 0, buf.clone())).unwrap();
    let sectors = buf.to_vec();
    // A disk of this length with these snapshots, each sector of it from some such moment.
    let fits: Vec<&Moment> = moments
        .iter()
        .filter(|m| m.snapshots == found && m.disk.len() == sectors.len())
        .collect();
    assert!(!fits.is_empty(), "{what}: no moment had these snapshots");
    for (index, sector) in sectors.chunks(512).enumerate() {
        let range = index * 512..index * 512 + sector.len();
        let allowed = fits.iter().any(|m| m.disk[range.clone()] == *sector);
        assert!(allowed, "{what}: sector {index} is {:02x?}…", &sector[..4]);
    }
    expect_only_leaks(&image, &bench, what);
}

#[test]
fn a_power_cut_leaves_the_snapshots_of_one_moment() {
    for (seed, version) in [(2, Version::V2), (3, Version::V3)] {
        let options = CreateOptions {
            cluster_size: 512,
            refcount_bits: if seed == 3 { 64 } else { 16 },
            version,
            ..sized(64 << 10)
        };
        let before = "write 0+40k ee; flush; discard 0+40k; flush; write 0+60k 11; take old";
        check_cuts(
            seed,
            &options,
            before,
            "write 3k+10k 22; take a; write 5k+3k 33; flush; write 20k+9k 44; take b; \
             discard 0+10k; apply a; write 1k+2k 55; flush; delete old; write 40k+5k 66; \
             delete a; flush; apply b; write 0+1k 77; flush; delete b; flush",
        );
    }
}

#[test]
fn a_power_cut_leaves_one_length() {
    let options = CreateOptions {
        cluster_size: 512,
        ..sized(64 << 10)
    };
    check_cuts(
        9,
        &options,
        "write 0+64k 11; take small; resize 200k; write 150k+10k 22; take large",
        "apply small; write 0+1k 33; flush; apply large; delete small; flush",
    );
}

#[test]
fn counts_that_cannot_hold_a_reference_refuse_a_snapshot() {
    let options = CreateOptions {
        refcount_bits: 1,
        ..small(4096)
    };
    let mut album = check_album(&options, None, "write 0+100k 11; flush");
    let refused = change(&album.disk, SnapshotChange::Create(info("a"))).unwrap_err();
    assert_eq!(refused.errno(), rustix::io::Errno::INVAL, "{refused}");
    album.run("write 0+10k 22; flush");
    album.expect_all();
}

#[test]
fn a_snapshot_that_does_not_know_how_long_the_disk_was_is_a_corruption() {
    let album = check_album(&small(512), None, "write 0+1k 11; take a");
    let mut bytes = album.disk.bench.file.bytes();
    let table = u64::from_be_bytes(*bytes[64..].first_chunk().unwrap());
    let extra_len = usize::try_from(table).unwrap() + 36;
    // As version 2 has them.
    bytes[extra_len..extra_len + 4].copy_from_slice(&[0; 4]);
    let bench = bench(bytes, None);
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let report = block_on(image.check(&bench, Repair::None)).unwrap();
    assert_eq!(
        (report.corruptions, report.messages),
        (
            1,
            vec!["ERROR snapshot table entry 0 is incomplete".to_owned()]
        )
    );
}

#[test]
fn what_a_snapshot_is_called_is_found_by_id_and_name() {
    let mut album = check_album(&small(4096), None, "take 7; write 0+1k 11; take a");
    let key = |id: Option<&str>, name: Option<&str>| SnapshotKey {
        id: id.map(str::to_owned),
        name: name.map(str::to_owned),
    };
    let delete = |album: &Album, key| change(&album.disk, SnapshotChange::Delete(key));
    for none in [
        key(Some("7"), None),
        key(Some("1"), Some("a")),
        key(None, Some("b")),
    ] {
        assert!(delete(&album, none).is_err());
    }
    let gone = delete(&album, key(Some("2"), Some("a"))).unwrap();
    assert_eq!((gone.id.as_str(), gone.name.as_str()), ("2", "a"));
    album.snapshots.remove("a");
    let next = change(&album.disk, SnapshotChange::Create(info("b"))).unwrap();
    assert_eq!(next.id, "2");
    album.snapshots.insert("b".into(), album.disk.model.clone());
    album.expect_all();
}

#[test]
fn extra_data_that_nobody_knows_stays_with_its_snapshot() {
    let mut album = check_album(&small(4096), None, "write 0+10k 11; take a; write 0+10k 22");
    let at = usize::try_from(album.disk.image.header.lock().snapshots.0).unwrap();
    let mut bytes = album.disk.bench.file.bytes();
    // 16 bytes more than we know, and a VM state that only the wide field can say.
    bytes[at + 36..at + 40].copy_from_slice(&40u32.to_be_bytes());
    bytes[at + 40..at + 48].copy_from_slice(&(5u64 << 32).to_be_bytes());
    bytes.resize(bytes.len().max(at + 88), 0);
    bytes[at + 64..at + 82].copy_from_slice(b"unknown 16 bytes1a");
    let mut album = Album {
        disk: Disk::open(bytes, None, album.disk.model.clone()),
        snapshots: std::mem::take(&mut album.snapshots),
    };
    album.run("take b; delete b; take c; apply a");
    album.expect_all();
    let infos = album.disk.image.snapshot_infos();
    assert_eq!(
        (infos[0].name.as_str(), infos[0].vm_state_size),
        ("a", 5 << 32)
    );
    let at = usize::try_from(album.disk.image.header.lock().snapshots.0).unwrap();
    assert_eq!(
        &album.disk.bench.file.bytes()[at + 64..at + 82],
        b"unknown 16 bytes1a"
    );
}

#[test]
fn the_state_of_a_machine_comes_back_with_its_snapshot() {
    let Some(dir) = Scratch::with_qemu("vm-state") else {
        return;
    };
    dir.qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=4k",
        "i",
        "1M",
    ]);
    let state = |pattern: &str, verb: &str| format!("{verb} -b -P {pattern} 0 300k");
    dir.tool(
        "qemu-io",
        &["-c", &state("0x77", "write"), "-c", "write -P 1 0 64k", "i"],
    );
    dir.qemu_img(&["snapshot", "-c", "theirs", "i"]);
    dir.tool("qemu-io", &["-c", &state("0x88", "write"), "i"]);
    let mut model = vec![0; 1 << 20];
    model[..64 << 10].fill(1);
    let mut disk = Disk::open(dir.read("i"), None, model.clone());
    change(&disk, SnapshotChange::Create(info("ours"))).unwrap();
    disk.run("write 0+64k 22");
    change(&disk, SnapshotChange::Apply(named("theirs"))).unwrap();
    disk.model = model;
    disk.reopen();
    disk.expect_clean();
    let path = dir.write("i", &disk.bench.file.bytes());
    dir.tool("qemu-io", &["-r", "-c", &state("0x77", "read"), &path]);
    dir.qemu_img(&["snapshot", "-a", "ours", "i"]);
    dir.tool("qemu-io", &["-r", "-c", &state("0x88", "read"), &path]);
    // A longer disk must not show the state that lay behind its end.
    disk.run("resize 8m; reopen");
    disk.expect_model();
    disk.expect_clean();
    change(&disk, SnapshotChange::Apply(named("theirs"))).unwrap();
    disk.reopen();
    dir.write("i", &disk.bench.file.bytes());
    dir.tool("qemu-io", &["-r", "-c", &state("0x77", "read"), &path]);
}

#[test]
fn damaged_snapshots_are_typed_errors_and_change_nothing() {
    let album = check_album(
        &small(4096),
        None,
        "write 0+100k 11; take a; write 0+50k 22; flush",
    );
    let bytes = album.disk.bench.file.bytes();
    let header = album.disk.image.header.lock().clone();
    let entry = usize::try_from(header.snapshots.0).unwrap();
    let be = |value: u64| value.to_be_bytes().to_vec();
    for (change_at, new, says) in [
        (0, be(1), "off a cluster boundary"),
        (0, be(1 << 40), "behind the end of the file"),
        (
            0,
            be(header.l1_table.0),
            "inside the header, the active L1 table",
        ),
        (
            0,
            be(header.refcount_table.0),
            "inside the header, the active L1 table",
        ),
        (8, u32::MAX.to_be_bytes().to_vec(), "more than 32 MiB"),
        (48, be(u64::MAX / 512 * 512), "beyond the format's reach"),
        (48, be(1000), "beyond the format's reach"),
    ] {
        let mut bytes = bytes.clone();
        bytes[entry + change_at..][..new.len()].copy_from_slice(&new);
        let disk = Disk::open(bytes, None, album.disk.model.clone());
        for wanted in [
            SnapshotChange::Apply(named("a")),
            SnapshotChange::Delete(named("a")),
        ] {
            let error = change(&disk, wanted).unwrap_err();
            assert!(
                matches!(error, block_core::Error::Corrupt { .. }),
                "{error}"
            );
            assert!(error.chain().contains(says), "{}", error.chain());
        }
        disk.expect_model();
        assert_eq!(disk.image.snapshot_infos().len(), 1);
    }
}

#[test]
fn an_error_on_the_way_leaves_the_old_snapshots() {
    let before = "write 0+60k 11; take a; write 3k+20k 22; take b; write 30k+9k 33; flush";
    for budget in 0..60 {
        let options = CreateOptions {
            cluster_size: 512,
            ..sized(64 << 10)
        };
        let mut album = check_album(&options, None, before);
        // What closing writes is not what fails here.
        album.disk.bench.file.fail_after(Some(budget));
        let wanted = match budget % 3 {
            0 => SnapshotChange::Create(info("c")),
            1 => SnapshotChange::Apply(named("a")),
            _ => SnapshotChange::Delete(named("a")),
        };
        let done = change(&album.disk, wanted);
        album.disk.bench.file.fail_after(None);
        match (done, budget % 3) {
            (Err(_), _) => {}
            (Ok(_), 0) => {
                album.snapshots.insert("c".into(), album.disk.model.clone());
            }
            (Ok(_), 1) => album.disk.model = album.snapshots["a"].clone(),
            (Ok(_), _) => {
                album.snapshots.remove("a");
            }
        }
        album.run("write 10k+1k 44; flush");
        album.disk.expect_model();
        if album.disk.image.snapshot_infos().len() == album.snapshots.len() {
            let report = block_on(album.disk.image.check(&album.disk.bench, Repair::None)).unwrap();
            assert_eq!(report.corruptions, 0, "{budget}: {:#?}", report.messages);
        }
    }
}
