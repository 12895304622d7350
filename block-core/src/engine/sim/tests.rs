//! Order, holds, faults, time and power cuts of the simulator.

use std::collections::BTreeSet;

use super::*;
use crate::buffer::IoBuf;
use crate::driver::Driver;
use crate::engine::{Engine, Operation, Slot};
use crate::graph::{Node, NodeFacts};
use crate::layer::Layer;
use crate::queue::block_on_thread;
use crate::request::Request;
use crate::request::cx::Cx;
use crate::request::map::{Access, Extent, Lookup, Mapping};

/// One engine on one file.
struct Rig {
    sim: Sim,
    engine: SimEngine,
    leaf: Arc<Leaf>,
    slot: Slot,
}

const FILE: SimFile = SimFile(0);

impl Rig {
    fn new(seed: u64, bytes: &[u8]) -> Rig {
        let sim = Sim::new(seed);
        let leaf = sim.create_file(bytes);
        let mut engine = SimEngine::new(&sim);
        let slot = engine.attach(Arc::clone(&leaf));
        Rig {
            sim,
            engine,
            leaf,
            slot,
        }
    }

    fn submit(&mut self, token: u64, operation: Operation) {
        self.engine.submit(Token(token), operation);
    }

    fn write(&mut self, token: u64, offset: u64, bytes: &[u8]) {
        let (slot, buf) = (self.slot, IoBuf::copy_of(bytes));
        self.submit(
            token,
            Operation::Write {
                slot,
                offset,
                buf,
                fua: false,
            },
        );
    }

    fn read(&mut self, token: u64, offset: u64, len: usize) {
        let (slot, buf) = (self.slot, IoBuf::zeroed(len));
        self.submit(token, Operation::Read { slot, offset, buf });
    }

    fn sync(&mut self, token: u64) {
        let slot = self.slot;
        self.submit(token, Operation::Sync { slot });
    }

    /// What has completed, in order.
    fn reap(&mut self) -> Vec<(u64, Result<u64, Errno>)> {
        let mut done = Vec::new();
        self.engine
            .reap(&mut |one| done.push((one.token.0, one.result)));
        done
    }

    fn run(&mut self) -> Vec<(u64, Result<u64, Errno>)> {
        self.sim.run();
        self.reap()
    }

    /// Every content that a power cut can leave, with the latest cut that can.
    fn crashes(&self) -> BTreeSet<(Vec<u8>, usize)> {
        let options = CrashOptions {
            torn: false,
            ..CrashOptions::default()
        };
        self.sim
            .crash_states(options)
            .map(|s| (s.contents(FILE), s.cut()))
            .collect()
    }

    fn crash_texts(&self) -> Vec<String> {
        let texts: BTreeSet<String> = self
            .crashes()
            .into_iter()
            .map(|(c, _)| String::from_utf8(c).unwrap())
            .collect();
        texts.into_iter().collect()
    }
}

#[test]
fn the_seed_picks_the_order_and_repeats_it() {
    let order = |seed| {
        let mut rig = Rig::new(seed, &[]);
        (0..20).for_each(|token| rig.write(token, token, &[1]));
        rig.run()
            .iter()
            .map(|(token, _)| *token)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
    assert_ne!(order(7), (0..20).collect::<Vec<_>>());
}

#[test]
fn operations_take_effect_when_they_complete() {
    let mut rig = Rig::new(1, b"old");
    rig.write(1, 0, b"new");
    rig.read(2, 0, 3);
    let read = rig.sim.pending()[1].id;
    assert!(rig.sim.complete(read));
    let mut seen = Vec::new();
    rig.engine
        .reap(&mut |done| seen = done.buf.unwrap().to_vec());
    assert_eq!(
        (seen, rig.sim.contents(FILE)),
        (b"old".to_vec(), b"old".to_vec())
    );
    assert_eq!(rig.run(), [(1, Ok(3))]);
    assert_eq!(rig.sim.contents(FILE), b"new");
    assert!(!rig.sim.complete(read));
}

#[test]
fn held_operations_stay_under_way() {
    let mut rig = Rig::new(1, &[0; 100]);
    let hold = rig
        .sim
        .hold(|op| op.kind == SimKind::Read && op.range.start < 50);
    rig.read(1, 0, 10);
    rig.read(2, 60, 10);
    assert_eq!(rig.run(), [(2, Ok(10))]);
    assert_eq!((rig.sim.pending().len(), rig.sim.held().len()), (0, 1));
    // Nothing can happen: the engine comes back for nothing.
    rig.engine.wait(None).unwrap();
    assert_eq!(rig.reap(), []);
    rig.sim.release(hold);
    assert_eq!(rig.run(), [(1, Ok(10))]);
}

#[test]
fn rules_fail_the_operations_they_name() {
    let mut rig = Rig::new(1, &[0; 4]);
    rig.sim.set_order(Order::Submitted);
    rig.sim.fail_when(1, 2, Fault::Errno(Errno::NOSPC), |op| {
        op.kind == SimKind::Write
    });
    (0..5).for_each(|token| rig.write(token, token, &[1]));
    let failed: Vec<u64> = rig
        .run()
        .iter()
        .filter(|(_, r)| *r == Err(Errno::NOSPC))
        .map(|(t, _)| *t)
        .collect();
    assert_eq!(failed, [1, 2]);
    assert_eq!(rig.sim.contents(FILE), [1, 0, 0, 1, 1]);
    rig.sim
        .fail_when(0, 1, Fault::Partial(2, Errno::IO), |_| true);
    rig.write(9, 0, &[7; 4]);
    assert_eq!(rig.run(), [(9, Err(Errno::IO))]);
    assert_eq!(rig.sim.contents(FILE), [7, 7, 0, 1, 1]);
}

#[test]
fn a_failed_sync_sticks_until_the_file_is_opened_anew() {
    let mut rig = Rig::new(1, &[]);
    rig.sim.fail_when(0, 1, Fault::Errno(Errno::NOSPC), |op| {
        op.kind == SimKind::Sync
    });
    rig.sim.set_order(Order::Submitted);
    rig.sync(1);
    rig.sync(2);
    assert_eq!(rig.run(), [(1, Err(Errno::NOSPC)), (2, Err(Errno::IO))]);
    rig.sync(3);
    assert_eq!(rig.reap(), [(3, Err(Errno::IO))]);
    rig.slot = rig.engine.attach(rig.sim.open(FILE));
    rig.sync(4);
    assert_eq!(rig.run(), [(4, Ok(0))]);
}

#[test]
fn unaligned_requests_fail_on_a_file_opened_for_direct_access() {
    let mut rig = Rig::new(1, &[3; 1024]);
    rig.slot = rig.engine.attach(rig.sim.open_aligned(FILE, 512));
    rig.sim.set_order(Order::Submitted);
    rig.read(1, 1, 512);
    rig.read(2, 512, 100);
    rig.read(3, 512, 512);
    assert_eq!(
        rig.run(),
        [(1, Err(Errno::INVAL)), (2, Err(Errno::INVAL)), (3, Ok(512))]
    );
}

#[test]
fn time_passes_only_when_nothing_else_can_happen() {
    let mut rig = Rig::new(1, &[0; 10]);
    rig.submit(
        1,
        Operation::Timer {
            after: Duration::from_secs(3600),
        },
    );
    rig.submit(
        2,
        Operation::Timer {
            after: Duration::from_secs(60),
        },
    );
    rig.read(3, 0, 1);
    assert_eq!(rig.run(), [(3, Ok(1)), (2, Ok(0)), (1, Ok(0))]);
    assert_eq!(rig.sim.now(), Duration::from_secs(3600));
    rig.submit(
        4,
        Operation::Timer {
            after: Duration::from_secs(10),
        },
    );
    rig.engine.wait(Some(Duration::from_secs(4))).unwrap();
    assert_eq!(
        (rig.reap(), rig.sim.now()),
        (vec![], Duration::from_secs(3604))
    );
    rig.sim.advance(Duration::from_secs(6));
    assert_eq!(rig.reap(), [(4, Ok(0))]);
    rig.submit(
        5,
        Operation::Timer {
            after: Duration::MAX,
        },
    );
    rig.engine.cancel(Token(5));
    assert_eq!(rig.reap(), [(5, Err(Errno::CANCELED))]);
}

#[test]
fn engines_get_their_own_completions() {
    let mut a = Rig::new(1, &[0; 10]);
    let mut b = SimEngine::new(&a.sim);
    let slot = b.attach(Arc::clone(&a.leaf));
    a.read(1, 0, 1);
    b.submit(
        Token(2),
        Operation::Read {
            slot,
            offset: 0,
            buf: IoBuf::zeroed(2),
        },
    );
    assert_eq!(a.run(), [(1, Ok(1))]);
    let mut seen = Vec::new();
    b.reap(&mut |done| seen.push(done.token.0));
    assert_eq!(seen, [2]);
}

#[test]
fn a_closure_may_use_the_simulator() {
    let mut rig = Rig::new(1, b"abc");
    let sim = rig.sim.clone();
    let closure = move || Ok(sim.contents(FILE).len() as u64);
    rig.submit(1, Operation::Blocking(Box::new(closure)));
    assert_eq!(rig.run(), [(1, Ok(3))]);
}

#[test]
fn a_sync_covers_what_had_completed_when_it_was_submitted() {
    let mut rig = Rig::new(1, b"....");
    rig.sim.set_order(Order::Submitted);
    rig.write(1, 0, b"A");
    rig.run();
    // B is under way when the sync is submitted, and completes before it.
    rig.write(2, 1, b"B");
    rig.sync(3);
    rig.run();
    assert_eq!(rig.crash_texts(), ["....", ".B..", "A...", "AB.."]);
    let after_sync = rig.sim.journal_len();
    let at_the_end: Vec<_> = rig
        .crashes()
        .into_iter()
        .filter(|c| c.1 == after_sync)
        .collect();
    assert_eq!(
        at_the_end,
        [
            (b"A...".to_vec(), after_sync),
            (b"AB..".to_vec(), after_sync)
        ]
    );
}

#[test]
fn a_write_under_way_may_arrive_before_those_that_complete_first() {
    let mut rig = Rig::new(1, b"....");
    rig.write(1, 0, b"A");
    let hold = rig.sim.hold(|op| op.range.start == 0);
    rig.write(2, 1, b"B");
    rig.run();
    rig.sync(3);
    rig.run();
    // While the cut is before B completed, A may be there without it, although B is synced by
    // the time A completes.
    rig.sim.release(hold);
    rig.run();
    assert_eq!(rig.crash_texts(), ["....", ".B..", "A...", "AB.."]);
    // Without the first write's completion too.
    let mut rig = Rig::new(1, b"....");
    rig.write(1, 0, b"A");
    assert_eq!(rig.crash_texts(), ["....", "A..."]);
}

#[test]
fn a_durable_write_needs_no_sync() {
    let mut rig = Rig::new(1, b"..");
    let (slot, buf) = (rig.slot, IoBuf::copy_of(b"D"));
    rig.write(1, 0, b"A");
    rig.run();
    rig.submit(
        2,
        Operation::Write {
            slot,
            offset: 1,
            buf,
            fua: true,
        },
    );
    rig.run();
    let end = rig.sim.journal_len();
    let last: Vec<_> = rig
        .crashes()
        .into_iter()
        .filter(|c| c.1 == end)
        .map(|c| c.0)
        .collect();
    assert_eq!(last, [b".D", b"AD"]);
}

#[test]
fn many_unsettled_writes_are_sampled_with_the_extremes() {
    let mut rig = Rig::new(1, &[b'.'; 12]);
    (0..12).for_each(|at| rig.write(at, at, b"x"));
    rig.run();
    let texts = rig.crash_texts();
    assert!(texts.contains(&"............".into()) && texts.contains(&"xxxxxxxxxxxx".into()));
    assert!(texts.len() > 100, "{} outcomes", texts.len());
}

#[test]
fn writes_tear_between_sectors() {
    let mut rig = Rig::new(1, &[b'.'; 2048]);
    rig.write(1, 256, &[b'x'; 1536]);
    rig.run();
    let mut torn = 0;
    for state in rig.sim.crash_states(CrashOptions::default()) {
        let bytes = state.contents(FILE);
        for sector in bytes[512..1536].chunks(512) {
            assert!(sector.iter().all(|&b| b == sector[0]), "a torn sector");
        }
        torn += usize::from(bytes[512] != bytes[1024]);
    }
    assert!(torn > 0);
}

#[test]
fn a_crashed_machine_boots_with_its_files() {
    let mut rig = Rig::new(1, b"old");
    rig.write(1, 0, b"new");
    rig.run();
    let state = rig
        .sim
        .crash_states(CrashOptions::default())
        .next()
        .unwrap();
    let sim = state.boot(2);
    assert_eq!(sim.contents(FILE), state.contents(FILE));
    assert_eq!(sim.open(FILE).len(), 3);
    assert_eq!(sim.crash_states(CrashOptions::default()).count(), 1);
}

/// A file as a node.
struct FileNode(Arc<Leaf>);

impl Driver for FileNode {
    fn format_name(&self) -> &'static str {
        "file"
    }
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn leaf(&self) -> Option<&Arc<Leaf>> {
        Some(&self.0)
    }
    fn try_map(&self, _: Access, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let extent = Extent::Leaf {
            leaf: self.0.id(),
            offset: range.start,
        };
        out.push(range.end - range.start, extent)
    }
    fn flush<'a>(&'a self, cx: &'a Cx) -> crate::driver::Pending<'a> {
        Box::pin(async move { cx.leaf(&self.0).sync().await })
    }
}

/// Two queues on one thread write and flush a file; the history is that of the seed, and no
/// power cut loses what was flushed.
fn history(seed: u64) -> Vec<u64> {
    let sim = Sim::new(seed);
    let leaf = sim.create_file(&[b'.'; 8]);
    let layer = Layer::new();
    let backend = block_on_thread(async {
        let facts = NodeFacts {
            name: "disk".into(),
            ..NodeFacts::default()
        };
        let node = layer
            .add_node(Node::new(facts, Box::new(FileNode(leaf))), &[])
            .await
            .unwrap();
        layer.add_backend("disk", node, false).await.unwrap()
    });
    let queues = [0, 1].map(|_| layer.new_queue(Box::new(SimEngine::new(&sim))).start());
    let slots = queues.each_ref().map(|queue| queue.attach(&backend));
    let mut order = Vec::new();
    for at in 0..8u64 {
        let queue = usize::try_from(at % 2).unwrap();
        let request = Request::write(at, IoBuf::copy_of(b"x"));
        queues[queue].submit(slots[queue], request, at);
    }
    while order.len() < 8 {
        sim.step();
        for queue in &queues {
            queue.reap(|done| order.push(done.token));
        }
    }
    queues[0].submit(slots[0], Request::flush(), 8);
    while order.len() < 9 {
        queues[0].wait(None);
        queues[0].reap(|done| order.push(done.token));
    }
    let flushed = sim.journal_len();
    let mut cuts = 0;
    for state in sim.crash_states(CrashOptions::default()) {
        if state.cut() >= flushed {
            assert_eq!(state.contents(FILE), b"xxxxxxxx", "{state:?}");
            cuts += 1;
        }
    }
    assert_eq!(cuts, 1);
    order
}

#[test]
fn queues_run_on_it_and_repeat_their_history() {
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}
