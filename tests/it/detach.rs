//! A caller that goes away at any await of any operation, or verb: it runs to its end all the
//! same, its I/O lands late, and nothing else notices.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use block_core::driver::Repair;
use block_core::graph::DetectZeroes;
use block_core::{IoBuf, Request, Result};
use block_schema::commands::{BlockStream, BlockdevReopen, ChangeBackingFile};

use crate::support::machine::{self, BACKING, CLUSTER, Content, Machine, SECTOR, SIZE, Step, Verb};
use crate::support::{self, Random};

/// What is there before: a written cluster, a zeroed one, and neighbours from the backing file.
const BEFORE: [Step; 3] = [
    Step::Write {
        at: 0,
        len: 2 * CLUSTER,
        byte: 0x11,
    },
    Step::Zero {
        at: 4 * CLUSTER,
        len: CLUSTER,
    },
    Step::Flush,
];

/// Does `step` for a caller that leaves after `turns` completions below; says whether the caller
/// was still there when it ended.
fn abandoned(seed: u64, content: Content, step: Step, turns: usize) -> bool {
    let machine = Machine::new(machine::fresh_with(seed, content), 2);
    let slots = machine.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    for before in BEFORE {
        machine.together(&slots, &[before]);
        before.apply(&mut disk);
    }
    let queue = machine.queue();
    let stayed = {
        let mut request = pin!(queue.request(slots[0], step.request()));
        let mut poll = || {
            let mut context = Context::from_waker(Waker::noop());
            request.as_mut().poll(&mut context)
        };
        let mut ended = poll().is_ready();
        for _ in 0..turns {
            if ended {
                break;
            }
            queue.kick();
            queue.wait(Some(Duration::ZERO));
            queue.reap(|_| {});
            ended = matches!(poll(), Poll::Ready(_));
        }
        ended
    };
    step.apply(&mut disk);
    // Meanwhile others work elsewhere, and make what there is durable.
    let elsewhere = Step::Write {
        at: 20 * CLUSTER + 512,
        len: 512,
        byte: 0x33,
    };
    machine.together(&slots, &[elsewhere, Step::Flush]);
    elsewhere.apply(&mut disk);
    // Nobody holds the request; its queue still ends it.
    queue.park();
    let (at, len, _) = step.effect();
    let over = Step::Write {
        at: at / SECTOR * SECTOR,
        len: SECTOR,
        byte: 0x99,
    };
    let context = format!("{step:?} left after {turns}, seed {seed}");
    assert!(machine.read_all(&slots) == disk, "{context}: not done");
    if len > 0 {
        machine.together(&slots, &[Step::Flush, over]);
        over.apply(&mut disk);
    }
    let report = machine.check(Repair::None);
    let report = report.unwrap_or_else(|error| panic!("{context}: {}", error.chain()));
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{context}");
    assert!(machine.read_all(&slots) == disk, "{context}");
    machine.close().expect("a clean close");
    stayed
}

/// Leaves at every point until the operation is over first.
fn check(step: Step) {
    check_in(Content::Plain, step);
}

fn check_in(content: Content, step: Step) {
    let seed = support::seed("detach");
    let mut turns = 0;
    while !abandoned(seed, content, step, turns) {
        turns += 1;
        assert!(turns < 1000, "{step:?} never ends");
    }
    println!("{step:?}: {turns} places to leave at");
    assert!(turns > 0, "{step:?} has a place to leave at");
}

#[test]
fn an_allocating_write() {
    check(Step::Write {
        at: 8 * CLUSTER + 1024,
        len: 2 * CLUSTER,
        byte: 0x22,
    });
}

#[test]
fn a_write_in_place() {
    check(Step::Write {
        at: 512,
        len: 1024,
        byte: 0x22,
    });
}

#[test]
fn a_write_into_a_zero_cluster() {
    check(Step::Write {
        at: 4 * CLUSTER + 512,
        len: 512,
        byte: 0x22,
    });
}

#[test]
fn zeroes_over_data_and_neighbours() {
    check(Step::Zero {
        at: CLUSTER + 512,
        len: 2 * CLUSTER,
    });
}

#[test]
fn a_discard() {
    check(Step::Discard {
        at: 0,
        len: CLUSTER,
    });
}

#[test]
fn a_write_that_fills_subclusters() {
    check_in(
        Content::Subclusters,
        Step::Write {
            at: 3 * CLUSTER - 700,
            len: 1000,
            byte: 0x22,
        },
    );
}

#[test]
fn a_flush() {
    // With something to flush: what the caller leaves before is not waited for.
    let seed = support::seed("detach");
    let mut random = Random::new(seed);
    let machine = Machine::new(machine::fresh(seed), 1);
    let slots = machine.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    for turns in 0..40 {
        let step = Step::random(&mut random, 0, SIZE / SECTOR);
        machine.together(&slots, &[step]);
        step.apply(&mut disk);
        let queue = machine.queue();
        {
            let mut flush = pin!(queue.request(slots[0], Request::flush()));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..turns {
                if flush.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                queue.kick();
                queue.wait(Some(Duration::ZERO));
            }
        }
        assert!(machine.read_all(&slots) == disk, "after {turns} turns");
    }
    machine.together(&slots, &[Step::Flush]);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!((report.corruptions, report.leaks), (0, 0));
}

#[test]
fn a_read_lands_in_memory_that_is_still_there() {
    let seed = support::seed("detach");
    let machine = Machine::new(machine::fresh(seed), 1);
    let slots = machine.open();
    machine.together(&slots, &BEFORE[..1]);
    let buf = IoBuf::zeroed(support::usize(CLUSTER));
    let queue = machine.queue();
    {
        let mut read = pin!(queue.request(slots[0], Request::read(0, buf.clone())));
        let mut context = Context::from_waker(Waker::noop());
        assert!(read.as_mut().poll(&mut context).is_pending());
    }
    queue.park();
    assert_eq!(buf.to_vec(), vec![0x11; support::usize(CLUSTER)]);
}

/// Starts a verb for a caller that leaves after `turns` turns of the queue; says whether the caller
/// was still there when it ended.
fn abandoned_verb(
    seed: u64,
    verb: &impl AsyncFn(&Machine) -> Result<()>,
    is_done: &impl Fn(&Machine) -> bool,
    turns: usize,
) -> bool {
    let machine = Machine::new(machine::fresh(seed), 1);
    let slots = machine.open();
    let mut disk = vec![BACKING; support::usize(SIZE)];
    for before in BEFORE {
        machine.together(&slots, &[before]);
        before.apply(&mut disk);
    }
    let stayed = {
        let mut verb = pin!(verb(&machine));
        let mut poll = || {
            let mut context = Context::from_waker(Waker::noop());
            match verb.as_mut().poll(&mut context) {
                Poll::Ready(done) => done.map(|()| true),
                Poll::Pending => Ok(false),
            }
        };
        let mut ended = poll();
        for _ in 0..turns {
            if !matches!(ended, Ok(false)) {
                break;
            }
            machine.turn();
            ended = poll();
        }
        ended.unwrap_or_else(|error| panic!("{}", error.chain()))
    };
    // Nobody waits for the verb; its queue still ends it.
    machine.queue().park();
    assert!(is_done(&machine), "left after {turns}, seed {seed}");
    let now = machine.read_all(&slots);
    let all = disk.len();
    assert!(now[..all] == disk && now[all..].iter().all(|byte| *byte == 0));
    let step = Step::Write {
        at: 9 * CLUSTER,
        len: SECTOR,
        byte: 0x44,
    };
    machine.together(&slots, &[step, Step::Flush]);
    let report = machine.check(Repair::None).expect("a check");
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{turns}");
    machine.close().expect("a clean close");
    stayed
}

fn check_verb(verb: impl AsyncFn(&Machine) -> Result<()>, is_done: impl Fn(&Machine) -> bool) {
    let seed = support::seed("detach");
    let mut turns = 0;
    while !abandoned_verb(seed, &verb, &is_done, turns) {
        turns += 1;
        assert!(turns < 1000, "it never ends");
    }
    println!("{turns} places to leave at");
    assert!(turns > 0, "there is a place to leave at");
}

#[test]
fn a_snapshot() {
    check_verb(
        async |machine| Verb::Take("one").run(machine.queue(), machine.top()).await,
        |machine| machine.snapshots().contains("one"),
    );
}

#[test]
fn a_resize() {
    check_verb(
        async |machine| {
            let longer = Verb::Resize(2 * SIZE);
            longer.run(machine.queue(), machine.top()).await
        },
        |machine| machine.disk().len() == 2 * SIZE,
    );
}

#[test]
fn an_image_opened_again() {
    check_verb(
        async |machine| {
            let options = r#"{"driver": "qcow2", "node-name": "top", "discard": "unmap",
                "detect-zeroes": "on", "file": "file", "backing": "base"}"#;
            let options = support::options(options);
            let reopen = BlockdevReopen::new(vec![options]);
            machine.layer.blockdev_reopen(machine.queue(), reopen).await
        },
        |machine| {
            let node = machine.disk();
            node.node().facts().detect_zeroes == DetectZeroes::On
        },
    );
}

#[test]
fn another_name_of_the_backing_file() {
    check_verb(
        async |machine| {
            let name = ChangeBackingFile::new("disk", "top", "elsewhere");
            machine
                .layer
                .change_backing_file(machine.queue(), name)
                .await
        },
        |machine| {
            let named = machine.disk().node().driver().describe().backing;
            named.is_some_and(|named| named.filename == "elsewhere")
        },
    );
}

#[test]
fn a_job_that_begins() {
    check_verb(
        async |machine| {
            let stream = BlockStream::new("disk");
            let begun = machine.layer.block_stream(machine.queue(), stream).await;
            begun.map(drop)
        },
        |machine| {
            for _ in 0..100_000 {
                if machine.layer.jobs().is_empty() {
                    break;
                }
                machine.turn();
            }
            let graph = machine.layer.graph();
            let top = graph.index_of(machine.top()).expect("it is open");
            graph.backing(top).is_none()
        },
    );
}
