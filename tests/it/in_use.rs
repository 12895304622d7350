//! An image that somebody writes, opened once more: refused, before anything of it is believed or
//! repaired.

use std::path::{Path, PathBuf};

use block_core::{IoBuf, Queue, Request};

use crate::support::{self, Scratch, load};

const SIZE: u64 = 1 << 20;

/// An image whose refcounts are behind, as it says itself, since it is in use.
struct InUse {
    queue: Queue,
    path: PathBuf,
    _dir: Scratch,
}

impl InUse {
    fn new() -> InUse {
        let dir = Scratch::new("in-use");
        let path = dir.path("disk.qcow2");
        let queue = load::queue(&support::layer());
        support::create_qcow2(&queue, &path, SIZE, None);
        let file = file(&path);
        let file = file.replace(r#"{"driver""#, r#"{"node-name": "file", "driver""#);
        support::add_node(&queue, &file).expect("the file");
        let disk = support::open(&queue, &qcow2("disk", r#""file""#), "disk");
        let slot = queue.attach(&disk);
        let buf = IoBuf::copy_of(&[7; 4096]);
        let write = queue.request(slot, Request::write(0, buf));
        queue.block_on(write).expect("a write");
        queue
            .block_on(queue.request(slot, Request::flush()))
            .expect("a flush");
        let image = InUse {
            queue,
            path,
            _dir: dir,
        };
        let bytes = image.bytes();
        assert_eq!(bytes[79], 1, "the image is marked dirty");
        image
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("it is there")
    }
}

fn file(path: &Path) -> String {
    format!(r#"{{"driver": "file", "filename": "{}"}}"#, path.display())
}

fn qcow2(id: &str, file: &str) -> String {
    format!(
        r#"{{"driver": "qcow2", "id": "{id}", "node-name": "{id}-node", "lazy-refcounts": true,
            "file": {file}}}"#
    )
}

#[track_caller]
fn check_refused(image: &InUse, queue: &Queue, file: &str, why: &str) {
    let before = image.bytes();
    let opened = support::try_open(queue, &qcow2("again", file), "again");
    let error = opened.map(drop).expect_err("it is in use").chain();
    assert!(error.contains(why), "{error}");
    assert!(image.bytes() == before, "a refused open has written");
}

#[test]
fn another_programs_image_is_left_alone() {
    let image = InUse::new();
    let queue = load::queue(&support::layer());
    let why = "Failed to get \"write\" lock";
    check_refused(&image, &queue, &file(&image.path), why);
    // Still so after the first refusal.
    check_refused(&image, &queue, &file(&image.path), why);
}

#[test]
fn a_file_has_one_format_that_writes_it() {
    let image = InUse::new();
    check_refused(&image, &image.queue, r#""file""#, "Conflicts with use by");
    let other = load::queue(&support::layer());
    let why = "Failed to get \"write\" lock";
    check_refused(&image, &other, &file(&image.path), why);
}
