//! Files that grow slowly: storage that is taken ahead of what is written.

use super::*;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::ImageFile;

#[test]
fn what_nobody_came_to_use_is_given_back() {
    let script = "write 0+100k aa; write 300k+4k bb; flush; discard 0+64k; flush; write 500k+1k cc";
    let plain = check(&sized(1 << 20), None, script);
    let mut slow = Disk::create(&sized(1 << 20), None);
    slow.bench.file.set_grows_slowly(true);
    slow.run(script);
    assert!(slow.bench.file.len() > plain.bench.file.len());
    slow.expect_clean();
    slow.reopen();
    // The last cluster stays whole.
    let end = plain.bench.file.len().next_multiple_of(64 << 10);
    assert_eq!(slow.bench.file.len(), end);
    slow.expect_model();
    slow.expect_clean();
}

#[test]
fn storage_is_taken_once_for_many_writes() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.bench.file.set_grows_slowly(true);
    disk.bench.file.record();
    disk.run("write 0+4k aa; write 64k+4k aa; write 128k+4k aa; write 192k+128k aa");
    let events = disk.bench.file.events();
    let grown = events.iter().filter(|e| matches!(e, Event::Grow(_)));
    assert_eq!(grown.count(), 1);
    // What lies ahead reads as zeroes: nobody writes them.
    let written = events.iter().map(|e| match e {
        Event::Write(_, data) => data.len(),
        Event::Resize(_) | Event::Grow(_) | Event::Flush => 0,
    });
    assert_eq!(written.sum::<usize>(), (12 + 128) << 10);
    disk.expect_model();
}

#[test]
fn a_file_that_declines_grows_by_what_is_written() {
    let mut disk = Disk::create(&sized(1 << 20), None);
    disk.bench.file.set_grows_slowly(true);
    disk.bench.file.fail_after(Some(0));
    block_on(disk.image.store_ahead(&disk.bench, HostOffset(512 << 10)));
    disk.bench.file.fail_after(None);
    disk.bench.file.record();
    disk.run("write 0+4k aa; write 64k+4k bb; flush");
    let events = disk.bench.file.events();
    assert!(!events.iter().any(|e| matches!(e, Event::Grow(_))));
    disk.expect_model();
    disk.reopen();
    disk.expect_model();
    disk.expect_clean();
}
