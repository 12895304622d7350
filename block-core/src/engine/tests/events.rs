//! What comes from outside: sockets, readiness, timers, and giving up on them.

use super::*;

#[test]
fn sockets_send_all_and_receive_some() {
    on_hosts(|rig| {
        let (socket, mut peer) = socket_pair();
        let bytes = pattern(3_000_000, 5);
        let mut buf = IoBuf::copy_of(&bytes[..10]);
        buf.append(IoBuf::copy_of(&bytes[10..]));
        rig.submit(Operation::Send {
            socket: Arc::clone(&socket),
            buf,
        });
        rig.submit(Operation::Recv {
            socket: Arc::clone(&socket),
            buf: IoBuf::zeroed(100),
        });
        let reader = thread::spawn(move || {
            let mut got = vec![0; 3_000_000];
            peer.read_exact(&mut got).unwrap();
            peer.write_all(b"answer").unwrap();
            (got, peer)
        });
        for done in rig.collect(2) {
            match done.token {
                Token(1) => assert_eq!(done.result, Ok(3_000_000)),
                _ => {
                    assert_eq!(done.result, Ok(6));
                    assert_eq!(done.buf.unwrap().to_vec()[..7], *b"answer\0");
                }
            }
        }
        let (got, peer) = reader.join().unwrap();
        assert!(got == bytes);
        let mut scattered = IoBuf::zeroed(3);
        scattered.append(IoBuf::zeroed(7));
        (&peer).write_all(b"pieces").unwrap();
        let done = rig.run(Operation::Recv {
            socket: Arc::clone(&socket),
            buf: scattered,
        });
        assert_eq!(
            (done.result, done.buf.unwrap().to_vec()),
            (Ok(6), b"pieces\0\0\0\0".to_vec())
        );
        drop(peer);
        let recv = Operation::Recv {
            socket: Arc::clone(&socket),
            buf: IoBuf::zeroed(9),
        };
        assert_eq!(rig.run(recv).result, Ok(0));
        let send = Operation::Send {
            socket,
            buf: IoBuf::zeroed(9),
        };
        assert_eq!(rig.run(send).result, Err(Errno::PIPE));
    });
}

#[test]
fn polls_tell_of_readiness_and_hang_up() {
    on_hosts(|rig| {
        let (socket, mut peer) = socket_pair();
        assert_eq!(
            rig.run(Operation::Writable {
                fd: Arc::clone(&socket)
            })
            .result,
            Ok(0)
        );
        let token = rig.submit(Operation::Readable {
            fd: Arc::clone(&socket),
        });
        rig.engine.kick().unwrap();
        assert!(rig.reap().is_empty());
        peer.write_all(b"x").unwrap();
        assert_eq!(rig.collect(1)[0].token, token);
        let done = rig.run(Operation::Recv {
            socket: Arc::clone(&socket),
            buf: IoBuf::zeroed(9),
        });
        assert_eq!(done.result, Ok(1));
        rig.submit(Operation::Readable { fd: socket });
        drop(peer);
        assert_eq!(rig.collect(1)[0].result, Ok(0));
        let file = Arc::new(rig.file().try_clone().unwrap().into());
        assert_eq!(rig.run(Operation::Readable { fd: file }).result, Ok(0));
    });
}

#[test]
fn timers_end_in_order() {
    everywhere(|rig| {
        let start = Instant::now();
        for ms in [30, 10, 20] {
            rig.submit(Operation::Timer {
                after: Duration::from_millis(ms),
            });
        }
        let order: Vec<_> = rig
            .collect(3)
            .iter()
            .map(|done| (done.token.0, done.result))
            .collect();
        assert_eq!(order, [(2, Ok(0)), (3, Ok(0)), (1, Ok(0))]);
        let passed = rig.sim.as_ref().map_or_else(|| start.elapsed(), Sim::now);
        assert!(passed >= Duration::from_millis(30));
        assert_eq!(
            rig.run(Operation::Timer {
                after: Duration::ZERO
            })
            .result,
            Ok(0)
        );
    });
}

#[test]
fn what_waits_for_events_can_be_cancelled() {
    on_hosts(|rig| {
        let (socket, _peer) = socket_pair();
        let timer = rig.submit(Operation::Timer {
            after: Duration::MAX,
        });
        let recv = Operation::Recv {
            socket: Arc::clone(&socket),
            buf: IoBuf::zeroed(10),
        };
        let recv = rig.submit(recv);
        let readable = rig.submit(Operation::Readable {
            fd: Arc::clone(&socket),
        });
        // One of them is cancelled before it was started, and one nobody knows.
        rig.engine.cancel(timer);
        rig.engine.kick().unwrap();
        rig.engine.cancel(recv);
        rig.engine.cancel(readable);
        rig.engine.cancel(Token(999));
        for done in rig.collect(3) {
            assert_eq!(done.result, Err(Errno::CANCELED), "{:?}", done.token);
        }
        assert_eq!(Arc::strong_count(&socket), 1);
    });
}

#[test]
fn a_cancelled_timer_leaves_the_notifier_quiet() {
    on_hosts(|rig| {
        let timer = rig.submit(Operation::Timer {
            after: Duration::from_millis(1),
        });
        rig.engine.kick().unwrap();
        rig.engine.cancel(timer);
        rig.collect(1);
        // Without a ring the clock still fires, once.
        let limit = Duration::from_millis(20).try_into().unwrap();
        let fd = rig.engine.notifier();
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit));
        rig.reap();
        assert!(rig.is_quiet());
    });
}
