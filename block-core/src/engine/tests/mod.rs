//! One suite for every kind of engine: with a ring, with a ring whose leaf went to threads, without
//! a ring, and the simulator where it can do as much. Here are the rig, and what is done with files.

mod events;
mod life;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::count_allocations::allocations;
use super::sim::{Sim, SimEngine};
use super::uring::{SetUp, Uring};
use super::*;
use crate::buffer::GuestMemory;

static POOL: LazyLock<Arc<Pool>> =
    LazyLock::new(|| Pool::new(NonZeroUsize::new(3).unwrap()).unwrap());

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Ring,
    /// A ring as older kernels have it.
    OldRing(SetUp),
    RingAndThreads,
    NoRing,
    Sim,
}

/// How the rig learns of completions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sleep {
    Wait,
    Notifier,
}

struct Rig {
    engine: Box<dyn Engine>,
    leaf: Arc<Leaf>,
    slot: Slot,
    file: Option<File>,
    sim: Option<Sim>,
    sleep: Sleep,
    next: u64,
}

const HOSTS: [Kind; 5] = [
    Kind::Ring,
    Kind::OldRing(SetUp::Cooperative),
    Kind::OldRing(SetUp::Plain),
    Kind::RingAndThreads,
    Kind::NoRing,
];

/// Runs `test` on every kind of engine and both ways to sleep.
fn everywhere(test: impl Fn(&mut Rig)) {
    on(&HOSTS, &test);
    on(&[Kind::Sim], &test);
}

/// Runs `test` on the engines with descriptors.
fn on_hosts(test: impl Fn(&mut Rig)) {
    on(&HOSTS, &test);
}

fn on(kinds: &[Kind], test: &dyn Fn(&mut Rig)) {
    for &kind in kinds {
        for sleep in [Sleep::Wait, Sleep::Notifier] {
            println!("{kind:?} {sleep:?}");
            test(&mut Rig::new(kind, sleep));
        }
    }
}

fn temp_file() -> File {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("engine-test-{}-{number}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("a temp file");
    std::fs::remove_file(path).expect("it was just made");
    file
}

fn leaf_of(fd: impl Into<OwnedFd>, aio: Aio, len: u64) -> Arc<Leaf> {
    let facts = LeafFacts {
        aio,
        request_alignment: 1,
        memory_alignment: 1,
        len,
    };
    Leaf::new(LeafFile::Host(fd.into()), facts)
}

impl Rig {
    fn new(kind: Kind, sleep: Sleep) -> Rig {
        let (set_up, aio) = match kind {
            Kind::Ring => (Some(SetUp::Deferred), Aio::IoUring),
            Kind::OldRing(set_up) => (Some(set_up), Aio::IoUring),
            Kind::RingAndThreads => (Some(SetUp::Deferred), Aio::Threads),
            Kind::NoRing => (None, Aio::IoUring),
            Kind::Sim => return Rig::simulated(sleep),
        };
        // Where this kernel has no such ring there is nothing to test.
        let ring = set_up.and_then(|set_up| Uring::with(set_up, 8).ok());
        let file = temp_file();
        let leaf = leaf_of(file.try_clone().unwrap(), aio, 0);
        let mut engine = Box::new(HostEngine::over(ring, Arc::clone(&POOL)).unwrap());
        let slot = engine.attach(Arc::clone(&leaf));
        let file = Some(file);
        Rig {
            engine,
            leaf,
            slot,
            file,
            sim: None,
            sleep,
            next: 0,
        }
    }

    fn simulated(sleep: Sleep) -> Rig {
        let sim = Sim::new(1);
        let leaf = sim.create_file(&[]);
        let mut engine = Box::new(SimEngine::new(&sim));
        let slot = engine.attach(Arc::clone(&leaf));
        let sim = Some(sim);
        Rig {
            engine,
            leaf,
            slot,
            file: None,
            sim,
            sleep,
            next: 0,
        }
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("a host's rig")
    }

    fn submit(&mut self, operation: Operation) -> Token {
        self.next += 1;
        self.engine.submit(Token(self.next), operation);
        Token(self.next)
    }

    fn reap(&mut self) -> Vec<Completion> {
        let mut done = Vec::new();
        self.engine.reap(&mut |one| done.push(one));
        done
    }

    /// Sleeps once.
    fn sleep(&mut self) {
        match self.sleep {
            Sleep::Wait => self.engine.wait(Some(Duration::from_secs(20))).unwrap(),
            Sleep::Notifier => {
                let limit = Duration::from_secs(20).try_into().unwrap();
                self.engine.kick().unwrap();
                if let Some(sim) = &self.sim {
                    sim.run();
                }
                let fd = self.engine.notifier();
                assert_ne!(
                    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)),
                    Ok(0)
                );
            }
        }
    }

    fn collect(&mut self, count: usize) -> Vec<Completion> {
        let limit = Instant::now() + Duration::from_secs(20);
        let mut done = self.reap();
        while done.len() < count {
            assert!(
                Instant::now() < limit,
                "{} of {count} completions",
                done.len()
            );
            self.sleep();
            done.extend(self.reap());
        }
        assert_eq!(done.len(), count);
        done
    }

    fn run(&mut self, operation: Operation) -> Completion {
        let token = self.submit(operation);
        let done = self.collect(1).remove(0);
        assert_eq!(done.token, token);
        done
    }

    fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let (slot, buf) = (self.slot, IoBuf::copy_of(&vec![0xee; len]));
        let done = self.run(Operation::Read { slot, offset, buf });
        assert_eq!(done.result, Ok(len as u64));
        done.buf.unwrap().to_vec()
    }

    fn write(&mut self, offset: u64, bytes: &[u8], fua: bool) {
        let (slot, buf) = (self.slot, IoBuf::copy_of(bytes));
        let done = self.run(Operation::Write {
            slot,
            offset,
            buf,
            fua,
        });
        assert_eq!(done.result, Ok(bytes.len() as u64));
        assert_eq!(done.buf.unwrap().to_vec(), bytes);
    }

    fn is_quiet(&mut self) -> bool {
        let fd = self.engine.notifier();
        poll(
            &mut [PollFd::new(&fd, PollFlags::IN)],
            Some(&Default::default()),
        ) == Ok(0)
    }
}

fn guest(memory: &Arc<GuestMemory>, range: Range<usize>) -> IoBuf {
    IoBuf::guest(memory, std::slice::from_ref(&range)).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i * 7 + seed + i / 251) % 251).unwrap())
        .collect()
}

fn socket_pair() -> (Arc<OwnedFd>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Arc::new(ours.into()), theirs)
}

#[test]
fn what_was_written_is_read() {
    everywhere(|rig| {
        let bytes = pattern(100_000, 1);
        rig.write(4096, &bytes, false);
        assert_eq!(rig.read(4096, bytes.len()), bytes);
        assert_eq!(
            (rig.leaf.len(), rig.leaf.highest_written()),
            (104_096, 104_096)
        );
    });
}

#[test]
fn a_read_behind_the_end_is_zeroes() {
    everywhere(|rig| {
        rig.write(0, &[7; 1000], false);
        assert_eq!(rig.read(500, 1000), [[7; 500], [0; 500]].concat());
        assert_eq!(rig.read(1 << 40, 10), [0; 10]);
    });
}

#[test]
fn a_durable_write_is_a_write() {
    everywhere(|rig| {
        rig.write(10, b"durable", true);
        assert_eq!(rig.read(10, 7), b"durable");
    });
}

#[test]
fn segments_are_scattered_and_gathered_in_order() {
    everywhere(|rig| {
        // More segments than the kernel takes in one call.
        let bytes = pattern(5 * 1500, 3);
        let mut buf = IoBuf::empty();
        for piece in bytes.chunks(5) {
            buf.append(IoBuf::copy_of(piece));
        }
        let slot = rig.slot;
        let done = rig.run(Operation::Write {
            slot,
            offset: 9,
            buf,
            fua: false,
        });
        assert_eq!(done.result, Ok(7500));
        let mut buf = IoBuf::zeroed(1);
        for _ in 0..2 {
            buf.append(IoBuf::zeroed(3700));
        }
        let done = rig.run(Operation::Read {
            slot,
            offset: 9,
            buf,
        });
        assert_eq!(
            done.buf.unwrap().to_vec(),
            [&bytes[..], &[0]].concat()[..7401]
        );
    });
}

#[test]
fn the_owner_of_guest_memory_hears_of_reads() {
    everywhere(|rig| {
        rig.write(0, &[1; 600], false);
        let (tell, heard) = mpsc::channel();
        let tell = std::sync::Mutex::new(tell);
        let written: crate::buffer::Written =
            Box::new(move |at, len| tell.lock().unwrap().send((at, len)).unwrap());
        let memory = Arc::new(GuestMemory::anonymous(8192, Some(written)));
        let buf = guest(&memory, 4096..5096);
        let slot = rig.slot;
        assert_eq!(
            rig.run(Operation::Read {
                slot,
                offset: 0,
                buf
            })
            .result,
            Ok(1000)
        );
        let mut marked = [false; 8192];
        for (at, len) in heard.try_iter() {
            marked[at..at + len].fill(true);
        }
        assert!((0..8192).all(|at| marked[at] == (4096..5096).contains(&at)));
    });
}

#[test]
fn syncs_succeed_and_a_failed_one_sticks() {
    on_hosts(|rig| {
        rig.write(0, &[1; 10], false);
        let slot = rig.slot;
        for _ in 0..5 {
            rig.submit(Operation::Sync { slot });
        }
        for done in rig.collect(5) {
            assert_eq!(done.result, Ok(0));
        }
        // A pipe can't be synced.
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let leaf = leaf_of(pipe, Aio::IoUring, 0);
        let slot = rig.engine.attach(Arc::clone(&leaf));
        for _ in 0..3 {
            rig.submit(Operation::Sync { slot });
        }
        let mut results: Vec<_> = rig.collect(3).iter().map(|done| done.result).collect();
        results.retain(|&result| result != Err(Errno::INVAL));
        assert!(
            results.iter().all(|&result| result == Err(Errno::IO)),
            "{results:?}"
        );
        assert!(leaf.sync_failed());
        assert_eq!(rig.run(Operation::Sync { slot }).result, Err(Errno::IO));
    });
}

#[test]
fn a_failed_sync_past_the_page_cache_may_be_tried_again() {
    on_hosts(|rig| {
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let facts = LeafFacts {
            aio: Aio::IoUring,
            request_alignment: 512,
            memory_alignment: 512,
            len: 0,
        };
        let leaf = Leaf::new(LeafFile::Host(pipe), facts);
        let slot = rig.engine.attach(leaf);
        assert_eq!(rig.run(Operation::Sync { slot }).result, Err(Errno::INVAL));
        assert_eq!(rig.run(Operation::Sync { slot }).result, Err(Errno::INVAL));
    });
}

#[test]
fn fallocate_changes_what_is_stored() {
    everywhere(|rig| {
        rig.write(0, &[5; 16384], false);
        let slot = rig.slot;
        let punch = Operation::Fallocate {
            slot,
            mode: Fallocate::PunchHole,
            offset: 4096,
            len: 4096,
        };
        match rig.run(punch).result {
            Ok(_) => {
                assert_eq!(
                    rig.read(4000, 8192),
                    [&[5; 96][..], &[0; 4096], &[5; 4000]].concat()
                );
                let seek = |offset, what| Operation::Seek { slot, offset, what };
                assert_eq!(rig.run(seek(0, Seek::Hole)).result, Ok(4096));
                assert_eq!(rig.run(seek(4096, Seek::Data)).result, Ok(8192));
                assert_eq!(rig.run(seek(16384, Seek::Data)).result, Err(Errno::NXIO));
            }
            Err(errno) => assert_eq!(errno, Errno::OPNOTSUPP),
        }
        let zero = Operation::Fallocate {
            slot,
            mode: Fallocate::ZeroRange,
            offset: 8192,
            len: 16384,
        };
        match rig.run(zero).result {
            Ok(_) => assert_eq!(rig.leaf.len(), 24576),
            Err(errno) => assert_eq!(errno, Errno::OPNOTSUPP),
        }
        let nothing = Operation::Fallocate {
            slot,
            mode: Fallocate::Allocate,
            offset: 0,
            len: 0,
        };
        assert_eq!(rig.run(nothing).result, Ok(0));
    });
}

#[test]
fn truncation_sets_the_length() {
    everywhere(|rig| {
        rig.write(0, &[5; 100], false);
        let slot = rig.slot;
        assert_eq!(rig.run(Operation::Truncate { slot, len: 50 }).result, Ok(0));
        assert_eq!(rig.leaf.len(), 50);
        if let Some(file) = &rig.file {
            assert_eq!(file.metadata().unwrap().len(), 50);
        }
        assert_eq!(rig.read(40, 20), [[5; 10], [0; 10]].concat());
    });
}

#[test]
fn impossible_requests_fail_by_name() {
    on_hosts(|rig| {
        let slot = rig.slot;
        let read = |offset, len| Operation::Read {
            slot,
            offset,
            buf: IoBuf::zeroed(len),
        };
        assert_eq!(rig.run(read(u64::MAX, 1)).result, Err(Errno::INVAL));
        assert_eq!(rig.run(read(i64::MAX as u64, 1)).result, Err(Errno::INVAL));
        assert_eq!(rig.run(read(0, 0)).result, Ok(0));
        let unreadable = File::options().write(true).open("/dev/null").unwrap();
        let slot = rig.engine.attach(leaf_of(unreadable, Aio::IoUring, 0));
        let buf = IoBuf::zeroed(1);
        let read = Operation::Read {
            slot,
            offset: 0,
            buf,
        };
        assert_eq!(rig.run(read).result, Err(Errno::BADF));
    });
}

/// Random operations on `len` bytes of a file from `start`, many at once and never two that
/// overlap, against what the part must hold.
fn work_on_part(rig: &mut Rig, start: usize, len: usize) {
    const BLOCK: usize = 4096;
    let (slot, blocks) = (rig.slot, len / BLOCK);
    let mut model = vec![0u8; len];
    let mut seed = start as u64 + 1;
    for _ in 0..60 {
        let mut expected = BTreeMap::new();
        for block in 0..blocks {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = block * BLOCK;
            let offset = (start + at) as u64;
            let value = u8::try_from(seed >> 33 & 0xff).unwrap();
            let operation = match seed >> 45 & 7 {
                0 => Operation::Sync { slot },
                1 | 2 => {
                    model[at..at + BLOCK].fill(value);
                    let buf = IoBuf::copy_of(&[value; BLOCK]);
                    Operation::Write {
                        slot,
                        offset,
                        buf,
                        fua: value & 1 == 0,
                    }
                }
                _ => Operation::Read {
                    slot,
                    offset,
                    buf: IoBuf::zeroed(BLOCK),
                },
            };
            let want = match &operation {
                Operation::Read { .. } => Some(model[at..at + BLOCK].to_vec()),
                _ => None,
            };
            expected.insert(rig.submit(operation), want);
        }
        for done in rig.collect(blocks) {
            assert!(done.result.is_ok());
            if let Some(want) = &expected[&done.token] {
                assert!(done.buf.unwrap().to_vec() == *want);
            }
        }
    }
}

#[test]
fn queues_share_a_file() {
    // Threads with an engine each write, read and sync parts of one file in random order; each
    // knows what its own part must hold.
    const PART: usize = 1 << 16;
    for kind in HOSTS {
        let shared = Rig::new(kind, Sleep::Wait);
        let workers: Vec<_> = [Sleep::Wait, Sleep::Notifier, Sleep::Wait]
            .into_iter()
            .enumerate()
            .map(|(number, sleep)| {
                let mut rig = Rig::new(kind, sleep);
                rig.slot = rig.engine.attach(Arc::clone(&shared.leaf));
                thread::spawn(move || work_on_part(&mut rig, number * PART, PART))
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
    }
}

#[test]
fn a_full_ring_queues() {
    everywhere(|rig| {
        let slot = rig.slot;
        // 200 operations on a ring of 8, and completions for more than its completion queue holds.
        for at in 0..200u64 {
            let buf = IoBuf::copy_of(&at.to_le_bytes());
            rig.submit(Operation::Write {
                slot,
                offset: at * 8,
                buf,
                fua: false,
            });
        }
        for done in rig.collect(200) {
            assert_eq!(done.result, Ok(8));
        }
        for at in 0..200u64 {
            rig.submit(Operation::Read {
                slot,
                offset: at * 8,
                buf: IoBuf::zeroed(8),
            });
        }
        for done in rig.collect(200) {
            let at = done.token.0 - 201;
            assert_eq!(done.buf.unwrap().to_vec(), at.to_le_bytes());
        }
        for _ in 0..100 {
            rig.submit(Operation::Timer {
                after: Duration::from_millis(1),
            });
        }
        rig.collect(100);
    });
}

#[test]
fn a_read_or_write_in_flight_allocates_nothing() {
    // Reads and writes of the steady state: everything has its size by the second round.
    let mut rig = Rig::new(Kind::Ring, Sleep::Wait);
    rig.write(0, &[1; 65536], false);
    let memory = Arc::new(GuestMemory::anonymous(65536, None));
    let slot = rig.slot;
    let mut reaped = 0;
    let mut round = |rig: &mut Rig| {
        for at in 0..16u64 {
            let place = usize::try_from(at).unwrap() * 4096;
            let buf = guest(&memory, place..place + 4096);
            let offset = at * 4096;
            rig.submit(if at % 2 == 0 {
                Operation::Read { slot, offset, buf }
            } else {
                Operation::Write {
                    slot,
                    offset,
                    buf,
                    fua: false,
                }
            });
        }
        while reaped < 16 {
            rig.sleep();
            rig.engine.reap(&mut |done| {
                assert_eq!(done.result, Ok(4096));
                reaped += 1;
            });
        }
        reaped = 0;
    };
    (0..4).for_each(|_| round(&mut rig));
    let before = allocations();
    (0..50).for_each(|_| round(&mut rig));
    assert_eq!(allocations() - before, 0);
}

#[test]
fn direct_access_reads_and_writes_blocks() {
    for kind in HOSTS {
        let mut rig = Rig::new(kind, Sleep::Wait);
        rig.write(0, &pattern(8192 + 100, 1), false);
        let path = format!("/proc/self/fd/{}", rig.file().as_raw_fd());
        let flags = libc::O_DIRECT;
        let open = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path);
        // A file system without O_DIRECT has nothing to test.
        let Ok(file) = open else { continue };
        let facts = LeafFacts {
            aio: rig.leaf.aio(),
            request_alignment: 4096,
            memory_alignment: 4096,
            len: 8292,
        };
        rig.slot = rig
            .engine
            .attach(Leaf::new(LeafFile::Host(file.into()), facts));
        // The end of the file is between two blocks.
        let bytes = rig.read(0, 16384);
        assert_eq!(bytes, [pattern(8292, 1), vec![0; 16384 - 8292]].concat());
        rig.write(4096, &pattern(8192, 9), true);
        assert_eq!(rig.read(4096, 8192), pattern(8192, 9));
    }
}
