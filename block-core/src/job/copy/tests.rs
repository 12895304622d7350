//! What the engine asks of both sides, against sides that write it down.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::{Buffers, Copier, Ends, Kept, Kind, Runs, Store, parts};
use crate::buffer::IoBuf;
use crate::driver::{StatusKind, ZeroFlags};
use crate::error::Result;
use crate::request::status::ChainStatus;

/// A source of bytes and a target of runs, and what was asked of them.
struct Sides {
    source: Vec<u8>,
    target: Vec<ChainStatus>,
    asked: RefCell<Vec<String>>,
}

impl Sides {
    fn note(&self, what: String) -> Result<()> {
        self.asked.borrow_mut().push(what);
        Ok(())
    }
}

impl Ends for Sides {
    async fn source_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        Ok(status(range.end - range.start, StatusKind::Data, 0))
    }

    async fn target_status(&self, range: Range<u64>) -> Result<ChainStatus> {
        let mut start = 0;
        for run in &self.target {
            let end = start + run.len;
            if range.start < end {
                let len = end.min(range.end) - range.start;
                return Ok(ChainStatus { len, ..*run });
            }
            start = end;
        }
        let len = range.end - range.start;
        Ok(status(len, StatusKind::Unallocated, 1))
    }

    async fn read(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let start = usize::try_from(offset).expect("a small source");
        buf.copy_in(0, &self.source[start..start + buf.len()]);
        self.note(format!("read {offset}+{}", buf.len()))
    }

    async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        let first = buf.to_vec()[0];
        self.note(format!("write {offset}+{} {first}", buf.len()))
    }

    async fn write_compressed(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.note(format!("compress {offset}+{}", buf.len()))
    }

    async fn write_zeroes(&self, range: Range<u64>, flags: ZeroFlags) -> Result<()> {
        let how = match flags.may_unmap {
            true => "unmap",
            false => "zero",
        };
        self.note(format!("{how} {}+{}", range.start, range.end - range.start))
    }
}

fn status(len: u64, kind: StatusKind, depth: u32) -> ChainStatus {
    ChainStatus {
        len,
        kind,
        depth,
        compressed: false,
    }
}

/// The result of what has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}

/// Copies a range, four bytes at a time, from a source of ones whose second four bytes are zeroes, to
/// a target that has data, own zeroes, zeroes of the image below, and nothing, eight bytes each.
#[track_caller]
fn check(rules: (Store, Kept, bool), kind: Kind, range: Range<u64>, want: &[&str]) {
    let (store, kept, may_unmap) = rules;
    let copier = Copier {
        store,
        kept,
        may_unmap,
        buffers: Buffers::new(4),
    };
    let mut source = vec![1; 64];
    source[4..8].fill(0);
    let sides = Sides {
        source,
        target: vec![
            status(8, StatusKind::Data, 0),
            status(8, StatusKind::Zero, 0),
            status(8, StatusKind::Zero, 1),
            status(8, StatusKind::Unallocated, 0),
        ],
        asked: RefCell::default(),
    };
    now(copier.copy(&sides, kind, range)).expect("neither side fails");
    assert_eq!(*sides.asked.borrow(), want);
}

#[test]
fn data_goes_over_in_pieces() {
    let plain = (Store::Plain, Kept::Shown, true);
    let want = ["read 2+2", "write 2+2 1", "read 4+4", "write 4+4 0"];
    check(plain, Kind::Data, 2..8, &want);
    let compressed = (Store::Compressed, Kept::Shown, true);
    check(compressed, Kind::Data, 8..12, &["read 8+4", "compress 8+4"]);
}

#[test]
fn data_that_is_zeroes_is_made_so_where_that_is_wanted() {
    let sparse = (Store::Sparse, Kept::Shown, true);
    let want = ["read 0+4", "write 0+4 1", "read 4+4", "unmap 4+4"];
    check(sparse, Kind::Data, 0..8, &want);
}

#[test]
fn zeroes_are_not_read_and_only_made_where_there_are_none() {
    let shown = (Store::Plain, Kept::Shown, true);
    check(shown, Kind::Zero, 0..32, &["unmap 0+8"]);
    check(shown, Kind::Zero, 4..6, &["unmap 4+2"]);
    check(shown, Kind::Zero, 8..32, &[]);
}

#[test]
fn zeroes_of_others_are_made_where_they_may_become_something_else() {
    let own = (Store::Plain, Kept::Own, false);
    check(
        own,
        Kind::Zero,
        0..32,
        &["zero 0+8", "zero 16+8", "zero 24+8"],
    );
    let none = (Store::Plain, Kept::None, false);
    check(none, Kind::Zero, 0..32, &["zero 0+32"]);
}

#[test]
fn a_run_is_asked_for_once() {
    let mut runs = Runs::default();
    let mut asked = Vec::new();
    let mut lens = Vec::new();
    for (at, end) in [(0, 100), (4, 100), (9, 100), (10, 100), (12, 15)] {
        let ask = async |range: Range<u64>| {
            asked.push(range.clone());
            Ok(status(10, StatusKind::Data, 0))
        };
        lens.push(now(runs.first(at..end, ask)).expect("it is known").len);
    }
    assert_eq!(asked, [0..100, 10..100]);
    assert_eq!(lens, [10, 6, 1, 10, 3]);
}

#[test]
fn runs_are_cut_at_multiples() {
    let cut: Vec<_> = parts(3..9, 4).collect();
    assert_eq!(cut, [3..4, 4..8, 8..9]);
    assert_eq!(parts(4..4, 4).count(), 0);
}

#[test]
fn a_buffer_that_was_given_back_is_taken_again() {
    let buffers = Buffers::new(4);
    let lent = buffers.take();
    lent.first(4).fill(0..4, 7);
    let other = buffers.take();
    drop(lent);
    assert_eq!(buffers.take().first(9).to_vec(), [7; 4]);
    assert_eq!(other.first(2).to_vec(), [0; 2]);
}
