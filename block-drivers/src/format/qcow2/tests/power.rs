//! Power cuts at any point, and files whose writes fail.

use super::*;

/// What a power cut leaves of the writes since the last barrier.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// Each with even odds.
    Some,
    /// The last one alone.
    Last,
}

/// Cuts the power after every event of a file that began as `durable`, and gives what is left of it,
/// twice for each cut: how many events there were, and the file.
pub(super) fn each_cut(
    mut durable: Vec<u8>,
    events: &[Event],
    random: &mut Random,
    mut look: impl FnMut(usize, Left, Vec<u8>),
) {
    let mut applied = 0;
    for cut in 1..=events.len() {
        let barrier = events[..cut]
            .iter()
            .rposition(|e| matches!(e, Event::Flush));
        for event in &events[applied..barrier.unwrap_or(0)] {
            apply(&mut durable, event);
        }
        applied = barrier.unwrap_or(0);
        for left in [Left::Some, Left::Last] {
            let mut bytes = durable.clone();
            for (index, event) in events[..cut].iter().enumerate().skip(applied) {
                let kept = match left {
                    Left::Some => random.below(2) == 0,
                    Left::Last => index + 1 == cut,
                };
                if kept {
                    apply(&mut bytes, event);
                }
            }
            look(cut, left, bytes);
        }
    }
}

/// Gives back what a cut has leaked, and expects nothing else to be wrong.
#[track_caller]
pub(super) fn expect_only_leaks(image: &Image, bench: &Bench, what: &str) {
    block_on(image.check(bench, Repair::Leaks)).unwrap();
    let report = block_on(image.check(bench, Repair::None)).unwrap();
    let left = (report.corruptions, report.leaks);
    assert_eq!(left, (0, 0), "{what}: {:#?}", report.messages);
}

#[test]
fn a_power_cut_at_any_point_loses_nothing_flushed() {
    let options = CreateOptions {
        cluster_size: 512,
        refcount_bits: 64,
        ..sized(128 << 10)
    };
    check_power_cuts(&options, 4);
    let lazy = CreateOptions {
        lazy_refcounts: true,
        ..options
    };
    check_power_cuts(&lazy, 2);
}

/// Cuts the power while random writes, zeroes and discards are done.
pub(super) fn check_power_cuts(options: &CreateOptions, seeds: u64) {
    for seed in 0..seeds {
        let backing = (seed % 2 == 0).then(|| noise(6, 128 << 10));
        cut_power(options, backing, seed, |disk, random, step| {
            let at = random.below(110 << 10);
            let len = 1 + random.below(15 << 10);
            match random.below(6) {
                0 => disk.discard(at, len),
                1 => disk.zero(at, len, true),
                _ => disk.write(at, &noise(step * 31 + seed, usize::try_from(len).unwrap())),
            }
            at..at + len
        });
    }
}

/// Does twenty steps, each of which tells what it touched, cuts the power after every event, with
/// some of the writes since the last flush lost, and opens what is left.
pub(super) fn cut_power(
    options: &CreateOptions,
    backing: Option<Vec<u8>>,
    seed: u64,
    change: impl Fn(&mut Disk, &mut Random, u64) -> std::ops::Range<u64>,
) {
    let mut disk = Disk::create(options, backing.clone());
    disk.bench.file.set_grows_slowly(seed % 2 == 1);
    // Freed clusters full of old bytes: new tables and data go there.
    disk.run("write 0+40k ee; flush; discard 0+40k; flush; reopen");
    let start = disk.bench.file.bytes();
    disk.bench.file.record();
    let mut random = Random(seed * 77 + 1);
    // After so many events the disk was this, durably; and which bytes were touched when.
    let mut flushed = vec![(0, disk.model.clone())];
    let mut touched: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for step in 0..20 {
        let begin = disk.bench.file.events().len();
        let range = change(&mut disk, &mut random, step);
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        touched.push((begin, range));
        if random.below(3) == 0 {
            disk.run("flush");
            flushed.push((disk.bench.file.events().len(), disk.model.clone()));
        }
    }
    let events = disk.bench.file.events();
    each_cut(start, &events, &mut random, |cut, left, bytes| {
        let (since, durable) = flushed.iter().rev().find(|(at, _)| *at <= cut).unwrap();
        let free: Vec<_> = touched
            .iter()
            .filter(|(b, _)| b >= since)
            .map(|(_, r)| r.clone())
            .collect();
        let what = format!("{seed} {cut} {left:?}");
        check_survivor(bytes, &backing, durable, &free, &what);
    });
}

/// Tables of a preallocated range reach the disk in the middle of it, when memory is full of them:
/// the file is as long as they say by then.
#[test]
fn a_power_cut_while_space_is_preallocated_leaves_no_corruption() {
    let options = CreateOptions {
        cluster_size: 512,
        refcount_bits: 64,
        ..sized(64 << 10)
    };
    for mode in [
        Preallocation::Metadata,
        Preallocation::Falloc,
        Preallocation::Full,
    ] {
        let mut disk = Disk::create(&options, None);
        disk.run("write 0+40k ee; flush; reopen");
        let mut bytes = disk.bench.file.bytes();
        disk.bench.file.record();
        block_on(disk.image.resize(&disk.bench, 2 << 20, mode)).unwrap();
        block_on(disk.image.flush(&disk.bench)).unwrap();
        for (cut, event) in disk.bench.file.events().iter().enumerate() {
            apply(&mut bytes, event);
            if cut % 7 == 0 {
                let what = format!("{mode:?} {cut}");
                check_survivor(bytes.clone(), &None, &disk.model, &[], &what);
            }
        }
    }
}

/// Holds what a power cut left against what was durable; bytes in `free` may be anything.
#[track_caller]
pub(super) fn check_survivor(
    bytes: Vec<u8>,
    backing: &Option<Vec<u8>>,
    durable: &[u8],
    free: &[std::ops::Range<usize>],
    what: &str,
) {
    let bench = bench(bytes, backing.clone());
    let image = block_on(Image::open(&bench, "test", small_cache())).unwrap();
    let report = block_on(image.check(&bench, Repair::None)).unwrap();
    assert_eq!(report.corruptions, 0, "{what}: {:#?}", report.messages);
    let buf = IoBuf::zeroed(durable.len());
    block_on(image.read(&bench, 0, buf.clone())).unwrap();
    let mut now = buf.to_vec();
    for range in free {
        now[range.clone()].copy_from_slice(&durable[range.clone()]);
    }
    if let Some(at) = (0..now.len()).find(|&at| now[at] != durable[at]) {
        panic!("{what}: flushed byte {at:#x} is gone");
    }
    expect_only_leaks(&image, &bench, what);
}

#[test]
fn after_an_error_the_image_goes_on() {
    let options = CreateOptions {
        cluster_size: 512,
        refcount_bits: 64,
        ..sized(256 << 10)
    };
    check_errors(&options);
}

/// Lets ever later writes and flushes of the file fail.
pub(super) fn check_errors(options: &CreateOptions) {
    for budget in (0..400).step_by(7) {
        let mut disk = Disk::create(options, None);
        disk.bench.file.set_grows_slowly(budget % 2 == 1);
        disk.run("write 0+10k 11; flush");
        disk.bench.file.fail_after(Some(budget));
        let mut failed = Vec::new();
        for step in 0..40u64 {
            let at = (step * 7919) % (200 << 10);
            let buf = IoBuf::copy_of(&noise(step, 3000));
            let wrote = block_on(disk.image.write(&disk.bench, at, buf.clone()));
            let start = usize::try_from(at).unwrap();
            disk.model[start..start + 3000].copy_from_slice(&buf.to_vec());
            if wrote.is_err() {
                failed.push((at, buf));
            }
            if step % 5 == 0 {
                let _ = block_on(disk.image.flush(&disk.bench));
            }
        }
        disk.bench.file.fail_after(None);
        // What failed is done again, in order; what succeeded over it later too.
        for step in 0..40u64 {
            let at = (step * 7919) % (200 << 10);
            disk.write(at, &noise(step, 3000));
        }
        disk.expect_model();
        disk.reopen();
        disk.expect_model();
        disk.expect_clean();
    }
}
