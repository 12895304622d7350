//! An engine beside other threads: closures, bell and notifier; and what outlives what.

use super::*;

#[test]
fn closures_run_on_other_threads_and_may_fail_or_panic() {
    on_hosts(|rig| {
        let here = thread::current().id();
        let elsewhere = Operation::Blocking(Box::new(move || {
            Ok(u64::from(thread::current().id() != here))
        }));
        assert_eq!(rig.run(elsewhere).result, Ok(1));
        let fails = Operation::Blocking(Box::new(|| Err(Errno::DQUOT.into())));
        assert_eq!(rig.run(fails).result, Err(Errno::DQUOT));
        let panics = Operation::Blocking(Box::new(|| std::panic::resume_unwind(Box::new(1))));
        assert_eq!(rig.run(panics).result, Err(Errno::IO));
    });
}

#[test]
fn the_bell_wakes_from_any_thread() {
    everywhere(|rig| {
        let bell = rig.engine.bell();
        // Rung before, during and after: each is one wake-up at least, and none is lost.
        bell.ring();
        rig.sleep();
        rig.reap();
        let rung = Arc::new(AtomicU64::new(0));
        let (go, gone) = mpsc::channel();
        let counter = Arc::clone(&rung);
        let ringer = thread::spawn(move || {
            while gone.recv().is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
                bell.ring();
            }
        });
        for round in 1..2000 {
            go.send(()).unwrap();
            while rung.load(Ordering::Relaxed) < round {
                rig.sleep();
                assert!(rig.reap().is_empty());
            }
        }
        drop(go);
        ringer.join().unwrap();
    });
}

#[test]
fn a_reaped_notifier_is_quiet_and_inline_completions_raise_it() {
    everywhere(|rig| {
        rig.write(0, &[1; 4096], false);
        // The first call raises it, for what came before.
        rig.is_quiet();
        rig.reap();
        assert!(rig.is_quiet());
        // This read is in the page cache: some engines answer it at submission.
        let (slot, buf) = (rig.slot, IoBuf::zeroed(4096));
        rig.submit(Operation::Read {
            slot,
            offset: 0,
            buf,
        });
        rig.engine.kick().unwrap();
        while rig.is_quiet() {
            rig.sleep();
        }
        assert_eq!(rig.collect(1)[0].result, Ok(4096));
        rig.reap();
        assert!(rig.is_quiet());
        rig.engine.bell().ring();
        assert!(!rig.is_quiet());
        rig.reap();
        assert!(rig.is_quiet());
    });
}

#[test]
fn memory_outlives_a_dropped_engine() {
    for kind in [Kind::Ring, Kind::NoRing] {
        let mut rig = Rig::new(kind, Sleep::Wait);
        let (socket, _peer) = socket_pair();
        let memory = Arc::new(GuestMemory::anonymous(4096, None));
        let buf = guest(&memory, 0..4096);
        rig.submit(Operation::Recv {
            socket: Arc::clone(&socket),
            buf,
        });
        let (tell, hear) = mpsc::channel();
        rig.submit(Operation::Blocking(Box::new(move || {
            tell.send(()).unwrap();
            Ok(0)
        })));
        let buf = guest(&memory, 0..4096);
        let slot = rig.slot;
        rig.submit(Operation::Write {
            slot,
            offset: 0,
            buf,
            fua: true,
        });
        rig.engine.kick().unwrap();
        drop(rig);
        hear.recv().unwrap();
        assert_eq!(Arc::strong_count(&socket), 1);
    }
}

#[test]
fn a_panic_in_a_callback_does_not_hang() {
    let (socket, _peer) = socket_pair();
    let mut rig = Rig::new(Kind::Ring, Sleep::Wait);
    rig.submit(Operation::Recv {
        socket,
        buf: IoBuf::zeroed(1),
    });
    rig.submit(Operation::Timer {
        after: Duration::ZERO,
    });
    rig.submit(Operation::Timer {
        after: Duration::ZERO,
    });
    let panicked = thread::spawn(move || {
        while rig.engine.wait(None).is_ok() {
            rig.engine
                .reap(&mut |_| std::panic::resume_unwind(Box::new(1)));
        }
    });
    assert!(panicked.join().is_err());
}

#[test]
fn a_detached_leaf_lives_until_its_last_operation() {
    on_hosts(|rig| {
        let slot = rig.slot;
        rig.submit(Operation::Write {
            slot,
            offset: 0,
            buf: IoBuf::zeroed(4096),
            fua: true,
        });
        rig.engine.detach(slot);
        assert_eq!(rig.collect(1)[0].result, Ok(4096));
        assert_eq!(Arc::strong_count(&rig.leaf), 1);
        // The place is free for the next one.
        let leaf = leaf_of(rig.file().try_clone().unwrap(), Aio::IoUring, 4096);
        rig.slot = rig.engine.attach(leaf);
        assert_eq!(rig.read(0, 4096), [0; 4096]);
    });
}

#[test]
fn options_choose_the_ring() {
    let engine = |ring| {
        let pool = Arc::clone(&POOL);
        HostEngine::new(&HostEngineOptions {
            ring_entries: 64,
            ring,
            pool,
        })
        .unwrap()
    };
    assert!(!engine(Ring::Off).has_ring());
    assert_eq!(engine(Ring::Auto).has_ring(), Uring::new(64).is_ok());
}

#[test]
fn an_engine_moves_to_its_thread_before_it_is_used() {
    let mut rig = Rig::new(Kind::Ring, Sleep::Notifier);
    let _ = rig.engine.notifier().as_fd();
    let worker = thread::spawn(move || {
        rig.write(0, b"moved", false);
        rig.read(0, 5)
    });
    assert_eq!(worker.join().unwrap(), b"moved");
}
