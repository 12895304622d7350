//! The options that every driver has, each by what reaches the kernel: an engine that writes down
//! what it is given.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use block_core::engine::{
    Aio, Bell, Completion, Engine, Fallocate, HostEngine, HostEngineOptions, Leaf, LeafFile,
    Operation, Pool, Ring, Slot, Token,
};
use block_core::{Error, IoBuf, Layer, Queue, Request};
use parking_lot::Mutex;
use rustix::fs::{OFlags, fcntl_getfl};

use crate::support::{self, Scratch};

/// What reached the kernel, in words, and how the files are open.
#[derive(Default)]
struct Seen {
    operations: Vec<&'static str>,
    files: Vec<File>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    aio: Aio,
    direct: bool,
    writable: bool,
}

struct Recording {
    inner: HostEngine,
    seen: Arc<Mutex<Seen>>,
}

impl Engine for Recording {
    fn attach(&mut self, leaf: Arc<Leaf>) -> Slot {
        if let LeafFile::Host(fd) = leaf.file() {
            let flags = fcntl_getfl(fd).expect("an open file");
            self.seen.lock().files.push(File {
                aio: leaf.aio(),
                direct: flags.contains(OFlags::DIRECT),
                writable: flags.intersects(OFlags::RDWR | OFlags::WRONLY),
            });
        }
        self.inner.attach(leaf)
    }

    fn detach(&mut self, slot: Slot) {
        self.inner.detach(slot);
    }

    fn submit(&mut self, token: Token, operation: Operation) {
        let word = match &operation {
            Operation::Read { .. } => Some("read"),
            Operation::Write { .. } => Some("write"),
            Operation::Sync { .. } => Some("sync"),
            Operation::Fallocate { mode, .. } => Some(match mode {
                Fallocate::PunchHole => "punch",
                Fallocate::ZeroRange => "zero",
                Fallocate::Allocate => "allocate",
            }),
            _ => None,
        };
        self.seen.lock().operations.extend(word);
        self.inner.submit(token, operation);
    }

    fn cancel(&mut self, token: Token) {
        self.inner.cancel(token);
    }

    fn kick(&mut self) -> io::Result<()> {
        self.inner.kick()
    }

    fn reap(&mut self, done: &mut dyn FnMut(Completion)) {
        self.inner.reap(done);
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.inner.wait(timeout)
    }

    fn notifier(&mut self) -> BorrowedFd<'_> {
        self.inner.notifier()
    }

    fn bell(&self) -> Arc<dyn Bell> {
        self.inner.bell()
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }
}

/// A device `d0`: raw over a file, with these options; dropping the queue closes it.
struct Rig {
    queue: Queue,
    seen: Arc<Mutex<Seen>>,
    scratch: Scratch,
}

const LEN: usize = 1 << 20;

impl Rig {
    fn new() -> Rig {
        let layer: Layer = support::layer();
        let inner = HostEngine::new(&HostEngineOptions {
            ring_entries: 16,
            ring: Ring::Auto,
            pool: Pool::new(NonZeroUsize::MIN).expect("a pool"),
        });
        let seen = Arc::new(Mutex::new(Seen::default()));
        let engine = Recording {
            inner: inner.expect("an engine"),
            seen: Arc::clone(&seen),
        };
        let queue = layer.new_queue(Box::new(engine)).start();
        let scratch = Scratch::new("options");
        std::fs::write(scratch.path("disk"), vec![1; LEN]).expect("a file");
        Rig {
            queue,
            seen,
            scratch,
        }
    }

    fn open(&self, options: &str) -> Result<(), Error> {
        let path = self.scratch.path("disk");
        let json = format!(
            r#"{{"driver": "raw", "id": "d0", {options}
                 "file": {{"driver": "file", "filename": "{}"}}}}"#,
            path.display()
        );
        support::try_open(&self.queue, &json, "d0").map(drop)
    }

    /// Does a request, and gives what reached the kernel.
    fn operations(&self, request: Request) -> Result<Vec<&'static str>, Error> {
        let backend = self.queue.layer().backend("d0").expect("a device");
        let slot = self.queue.attach(&backend);
        self.seen.lock().operations.clear();
        self.queue.block_on(self.queue.request(slot, request))?;
        Ok(std::mem::take(&mut self.seen.lock().operations))
    }

    fn file(&self) -> File {
        self.operations(Request::read(0, IoBuf::zeroed(4096)))
            .expect("a read");
        *self.seen.lock().files.last().expect("an open file")
    }
}

/// What a request of a device with these options does in the kernel.
#[track_caller]
fn check(options: &str, request: Request, want: &[&str]) {
    let rig = Rig::new();
    let done = rig.open(options).and_then(|()| rig.operations(request));
    let done = done.unwrap_or_else(|error| panic!("{options}: {}", error.chain()));
    assert_eq!(done, want, "{options}");
}

fn data() -> Request {
    Request::write(0, IoBuf::copy_of(&[7; 4096]))
}

fn zeroes() -> Request {
    Request::write(0, IoBuf::zeroed(4096))
}

#[test]
fn discards_pass_where_the_device_says_so() {
    let discard = || Request::discard(0, 65536);
    check("", discard(), &[]);
    check(r#""discard": "ignore","#, discard(), &[]);
    check(r#""discard": "unmap","#, discard(), &["punch"]);
}

#[test]
fn zeroes_are_detected_where_the_device_says_so() {
    check("", zeroes(), &["write"]);
    check(r#""detect-zeroes": "off","#, zeroes(), &["write"]);
    check(r#""detect-zeroes": "on","#, zeroes(), &["zero"]);
    check(r#""detect-zeroes": "on","#, data(), &["write"]);
    let unmap = r#""detect-zeroes": "unmap", "discard": "unmap","#;
    check(unmap, zeroes(), &["punch"]);
    check(unmap, data(), &["write"]);
    let error = Rig::new().open(r#""detect-zeroes": "unmap","#);
    assert_eq!(
        error.expect_err("refused").to_string(),
        "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap"
    );
}

#[test]
fn every_cache_mode_does_what_its_parts_say() {
    for bits in 0..8 {
        let [writeback, direct, no_flush] = [1, 2, 4].map(|bit| bits & bit != 0);
        let options = format!(
            r#""cache": {{"writeback": {writeback}, "direct": {direct}, "no-flush": {no_flush}}},"#
        );
        let write: &[&str] = if writeback || no_flush {
            &["write"]
        } else {
            &["write", "sync"]
        };
        let flush: &[&str] = if no_flush { &[] } else { &["sync"] };
        check(&options, data(), write);
        check(&options, Request::flush(), flush);
        let rig = Rig::new();
        rig.open(&options).expect("a device");
        assert_eq!(rig.file().direct, direct, "{options}");
    }
    check("", data(), &["write"]);
    check("", Request::flush(), &["sync"]);
}

#[test]
fn unaligned_requests_pass_the_page_cache_by() {
    let rig = Rig::new();
    rig.open(r#""cache": {"direct": true},"#).expect("a device");
    let odd = Request::write(1000, IoBuf::copy_of(&[9; 10]));
    rig.operations(odd).expect("a write");
    drop(rig.queue);
    let file = std::fs::read(rig.scratch.path("disk")).expect("the file");
    assert_eq!(file[999..1011], [1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1]);
}

#[test]
fn the_backend_of_requests_is_the_one_asked_for() {
    for (options, want) in [
        ("", Aio::Threads),
        (r#""aio": "threads","#, Aio::Threads),
        (r#""aio": "io_uring","#, Aio::IoUring),
        (
            r#""aio": "native", "cache": {"direct": true},"#,
            Aio::Native,
        ),
    ] {
        let rig = Rig::new();
        rig.open(options).expect("a device");
        assert_eq!(rig.file().aio, want, "{options}");
        assert_eq!(rig.operations(data()).expect("a write"), ["write"]);
    }
    let error = Rig::new().open(r#""aio": "native","#);
    assert_eq!(
        error.expect_err("refused").to_string(),
        "aio=native was specified, but it requires cache.direct=on, which was not specified."
    );
}

#[test]
fn read_only_devices_cannot_write_and_do_not_open_for_it() {
    let rig = Rig::new();
    rig.open(r#""read-only": true,"#).expect("a device");
    assert!(!rig.file().writable);
    for request in [data(), Request::discard(0, 4096)] {
        let refused = rig.operations(request);
        assert!(matches!(refused, Err(Error::ReadOnly { .. })));
    }
    let rig = Rig::new();
    rig.open(r#""read-only": false,"#).expect("a device");
    assert!(rig.file().writable);
}
