//! Copying from sources to a target.
//!
//! Reads only what the sources store; several pieces are under way at once. Invariant: unless any
//! order will do, the write of a piece starts only when those of all pieces before it have, so that
//! a format allocates clusters in the order of the disk.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::time::{Duration, Instant};

use block_core::driver::{StatusKind, ZeroFlags};
use block_core::error::{Error, Result};
use block_core::sync::{AsyncMutex, WaitList};
use block_core::{IoBuf, LocalQueue};

use crate::human::as_float;
use crate::image::{Durable, Image, errno_text};
use crate::progress::Progress;
use crate::report::{Failure, warning};
use crate::session::join_all;

/// Bytes of a piece that is read and written.
pub(super) const PIECE: u64 = 2 << 20;

/// The same from page cache to page cache, which are copies by the processor: the second one finds in its
/// caches what the first has left there.
const CACHED_PIECE: u64 = 512 << 10;

/// Bytes that are given up at once where a source cannot be read.
const SECTOR: u64 = 512;

/// Units of compression in a piece: each worker has so many in memory, twice.
const UNITS: u64 = 4;

/// Bytes of zeroes written by one request.
const ZERO_PIECE: u64 = 256 << 20;

/// A source, and where it goes on the target.
pub(super) struct Source {
    pub(super) image: Image,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What the target holds where nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// Zeroes.
    Zeroes,
    /// Anything.
    Unknown,
    /// The first bytes of its backing file, and zeroes behind them.
    Backing(u64),
}

/// What is taken for zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroes {
    /// What a source says is zeroes.
    OfStatus,
    /// Bytes, too.
    OfBytes,
}

/// What becomes of bytes of a source that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The copy fails.
    Fails,
    /// They are zeroes, and a warning tells of them.
    IsToldOf,
    /// They are zeroes.
    IsZeroes,
}

/// How to copy.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// Bytes of zeroes in a row that become a hole; `None` writes everything.
    pub(super) sparse: Option<u64>,
    /// What is such zeroes.
    pub(super) zeroes: Zeroes,
    /// Pieces under way at once.
    pub(super) workers: usize,
    /// Whether writes start in the order of the disk.
    pub(super) in_order: bool,
    /// Bytes of a piece, where nothing is compressed.
    pub(super) piece: u64,
    /// Whether the target compresses, and the bytes that it does so with at a time.
    pub(super) compression_unit: Option<u64>,
    /// Most bytes a second that are copied.
    pub(super) rate: Option<u64>,
    /// What becomes of what cannot be read.
    pub(super) unreadable: Unreadable,
}

impl How {
    /// Bytes of a piece of data, at most.
    fn piece_len(self) -> u64 {
        let units = |unit: u64| unit.saturating_mul(UNITS);
        self.compression_unit.map_or(self.piece, units)
    }
}

/// Bytes of a piece between these; no part of a cluster of the target.
///
/// # Errors
/// When an image was closed.
pub(super) fn piece_between(sources: &[Source], target: &Image) -> Result<u64> {
    let cached = target.is_cached() && sources.iter().all(|source| source.image.is_cached());
    let cluster = target.node()?.node().driver().describe().cluster_size;
    Ok(match cached {
        true => CACHED_PIECE.max(cluster.unwrap_or(0)).min(PIECE),
        false => PIECE,
    })
}

/// A copy under way, shared by its workers.
pub(super) struct Copy<'a> {
    queue: &'a LocalQueue,
    sources: &'a [Source],
    target: &'a Image,
    unwritten: Unwritten,
    how: How,
    progress: &'a Progress,
    /// Held by the worker that looks for the next piece.
    scanning: AsyncMutex,
    scan: RefCell<Scan>,
    /// The piece whose write may start.
    turn: Cell<u64>,
    turns: WaitList,
    failed: Cell<bool>,
    started: Instant,
    /// Bytes of data that were copied, or are about to be.
    copied: Cell<u64>,
}

/// Where the search for pieces is.
#[derive(Default)]
struct Scan {
    source: usize,
    at: u64,
    /// The rest of the run that `at` is in.
    run: Option<(u64, Kind)>,
    next_ticket: u64,
}

/// What is to be done for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Copy its bytes.
    Data,
    /// Make it zeroes.
    Zero,
    /// It is as it should be.
    Nothing,
}

#[derive(Clone, Copy)]
struct Piece {
    ticket: u64,
    source: usize,
    start: u64,
    len: u64,
    kind: Kind,
}

impl<'a> Copy<'a> {
    /// A copy of the sources to the target, one after the other.
    pub(super) fn new(
        queue: &'a LocalQueue,
        sources: &'a [Source],
        target: &'a Image,
        unwritten: Unwritten,
        how: How,
        progress: &'a Progress,
    ) -> Copy<'a> {
        Copy {
            queue,
            sources,
            target,
            unwritten,
            how,
            progress,
            scanning: AsyncMutex::new(),
            scan: RefCell::default(),
            turn: Cell::new(0),
            turns: WaitList::new(),
            failed: Cell::new(false),
            started: Instant::now(),
            copied: Cell::new(0),
        }
    }

    /// Copies everything.
    ///
    /// # Errors
    /// The first piece that could not be read or written.
    pub(super) async fn run(&self) -> Result<(), Failure> {
        let worker = |_| -> Pin<Box<dyn Future<Output = Result<(), Failure>>>> {
            Box::pin(async {
                let ended = self.work().await;
                if ended.is_err() {
                    self.failed.set(true);
                    self.turns.wake_all();
                }
                ended
            })
        };
        let ended = join_all((0..self.how.workers).map(worker)).await;
        ended.into_iter().collect()
    }

    async fn work(&self) -> Result<(), Failure> {
        // As long as the longest piece so far: a sparse disk's are short.
        let mut buf = IoBuf::empty();
        while let Some(piece) = self.next_piece().await? {
            match piece.kind {
                Kind::Data => {
                    let len = usize::try_from(piece.len).unwrap_or(0);
                    if buf.len() < len {
                        buf = IoBuf::zeroed(len);
                    }
                    self.copy(piece, &buf).await?;
                }
                Kind::Zero => {
                    self.turn_of(piece).await;
                    let zeroed = self.zero(piece.start, piece.len);
                    self.pass_turn(piece);
                    zeroed
                        .await
                        .map_err(|error| write_failed(piece.start, &error))?;
                }
                Kind::Nothing => {
                    self.turn_of(piece).await;
                    self.pass_turn(piece);
                }
            }
            self.progress.add(piece.len);
        }
        Ok(())
    }

    /// The next piece in the order of the target; `None` at the end, and after an error.
    async fn next_piece(&self) -> Result<Option<Piece>, Failure> {
        let _scanning = self.scanning.lock().await;
        loop {
            let (index, at, run) = {
                let scan = self.scan.borrow();
                (scan.source, scan.at, scan.run)
            };
            let Some(source) = self.sources.get(index).filter(|_| !self.failed.get()) else {
                return Ok(None);
            };
            if at >= source.end {
                self.scan.borrow_mut().source += 1;
                continue;
            }
            let (end, kind) = match run.filter(|(end, _)| *end > at) {
                Some(run) => run,
                None => {
                    let run = self.run_at(source, at).await?;
                    self.in_units(at, run)
                }
            };
            let most = match kind {
                // Ends where the next begins, so that clusters are not cut.
                Kind::Data => self.how.piece_len() - at % self.how.piece_len(),
                Kind::Zero => ZERO_PIECE,
                Kind::Nothing => u64::MAX,
            };
            let len = most.min(end - at);
            let mut scan = self.scan.borrow_mut();
            scan.run = Some((end, kind));
            scan.at = at + len;
            scan.next_ticket += 1;
            return Ok(Some(Piece {
                ticket: scan.next_ticket - 1,
                source: index,
                start: at,
                len,
                kind,
            }));
        }
    }

    /// What of a run, by its end and kind, is done in one go where only whole units can be: whole
    /// units of it, or else one unit, with the data of whatever runs it has.
    fn in_units(&self, at: u64, (end, kind): (u64, Kind)) -> (u64, Kind) {
        let Some(unit) = self.how.compression_unit else {
            return (end, kind);
        };
        let whole = end - end % unit;
        if whole > at {
            return (whole, kind);
        }
        let total = self.sources.last().map_or(end, |source| source.end);
        (total.min(at.saturating_add(unit)), Kind::Data)
    }

    /// The run of a source that `at`, an offset on the target, is in: its end there, and its kind.
    async fn run_at(&self, source: &Source, at: u64) -> Result<(u64, Kind), Failure> {
        let range = at - source.start..source.end - source.start;
        let node = source.image.node()?;
        let own_only = matches!(self.unwritten, Unwritten::Backing(_)) && node.backing().is_some();
        let status = async |range| match own_only {
            true => {
                let status = node.status(range).await;
                status.map(|status| (status.len, status.kind))
            }
            false => {
                let status = node.chain_status(range).await;
                status.map(|status| (status.len, status.kind))
            }
        };
        let mut found = status(range.clone()).await;
        if found.is_err() && self.how.unreadable != Unreadable::Fails {
            // What is before the damage may be all right.
            let near = range.start..range.end.min(range.start.saturating_add(SECTOR));
            found = status(near).await;
        }
        let (len, kind) = match found {
            Ok(found) => found,
            Err(error) => {
                let text = "error while reading block status at offset";
                self.unreadable(text, range.start, &error)?;
                // The bytes may be there all the same.
                (SECTOR.min(range.end - range.start), StatusKind::Data)
            }
        };
        let kind = match (kind, self.unwritten) {
            (StatusKind::Data, _) => Kind::Data,
            _ if self.how.sparse.is_none() => Kind::Data,
            (StatusKind::Unallocated, Unwritten::Backing(end)) if own_only => {
                let shared = end.saturating_sub(at).min(len);
                return Ok(match shared {
                    0 => (at + len, Kind::Zero),
                    shared => (at + shared, Kind::Nothing),
                });
            }
            (_, Unwritten::Zeroes) => Kind::Nothing,
            (_, Unwritten::Unknown | Unwritten::Backing(_)) => Kind::Zero,
        };
        Ok((at + len, kind))
    }

    async fn copy(&self, piece: Piece, buf: &IoBuf) -> Result<(), Failure> {
        let buf = buf.slice(0..usize::try_from(piece.len).unwrap_or(0));
        self.keep_to_rate(piece.len).await;
        self.read(piece, &buf).await?;
        let block = self
            .how
            .sparse
            .filter(|_| self.how.zeroes == Zeroes::OfBytes)
            .map(|sparse| self.how.compression_unit.unwrap_or(sparse));
        let runs = runs_of(&buf, piece.start, block);
        self.turn_of(piece).await;
        if self.failed.get() {
            return Ok(());
        }
        let writes = runs
            .into_iter()
            .map(|run| self.write_run(piece.start, &buf, run));
        let writes: Vec<_> = writes.collect();
        // Compressed bytes find their place only when they are there, which may be in any order.
        let keeps_turn = self.how.compression_unit.is_some();
        if !keeps_turn {
            self.pass_turn(piece);
        }
        let written: Result<Vec<()>> = join_all(writes).await.into_iter().collect();
        if keeps_turn {
            self.pass_turn(piece);
        }
        written.map_err(|error| write_failed(piece.start, &error))?;
        Ok(())
    }

    /// Fills `buf` with a piece, which may go on in the next sources.
    async fn read(&self, piece: Piece, buf: &IoBuf) -> Result<(), Failure> {
        let end = piece.start + piece.len;
        let sources = self.sources.get(piece.source..).unwrap_or_default();
        for source in sources.iter().filter(|source| source.start < end) {
            let (from, to) = (piece.start.max(source.start), end.min(source.end));
            let within = |at: u64| usize::try_from(at - piece.start).unwrap_or(0);
            let part = buf.slice(within(from)..within(to));
            let from = from - source.start;
            let Err(error) = source.image.read(from, part.clone()).await else {
                continue;
            };
            if self.how.unreadable == Unreadable::Fails {
                let why = errno_text(&error);
                let text = format!("error while reading at byte {from}: {why}");
                return Err(Failure::new(text));
            }
            self.read_sectors(source, from, &part).await?;
        }
        Ok(())
    }

    /// Fills `buf` with what can be read of a source from an offset, and with zeroes.
    async fn read_sectors(&self, source: &Source, from: u64, buf: &IoBuf) -> Result<(), Failure> {
        let sector = usize::try_from(SECTOR).unwrap_or(buf.len());
        for at in (0..buf.len()).step_by(sector) {
            let part = at..buf.len().min(at + sector);
            let offset = from + at as u64;
            if let Err(error) = source.image.read(offset, buf.slice(part.clone())).await {
                self.unreadable("error while reading offset", offset, &error)?;
                buf.fill(part, 0);
            }
        }
        Ok(())
    }

    /// Tells of something at an offset of a source that cannot be read, as is wanted.
    ///
    /// # Errors
    /// Where nothing may be left out.
    fn unreadable(&self, text: &str, offset: u64, error: &Error) -> Result<(), Failure> {
        let text = format!("{text} {offset}: {}", errno_text(error));
        match self.how.unreadable {
            Unreadable::Fails => return Err(Failure::new(text)),
            Unreadable::IsToldOf => warning(&text),
            Unreadable::IsZeroes => {}
        }
        Ok(())
    }

    /// Waits until so many bytes more are in time.
    async fn keep_to_rate(&self, len: u64) {
        let copied = self.copied.get();
        self.copied.set(copied.saturating_add(len));
        if let Some(rate) = self.how.rate {
            let due = Duration::from_secs_f64(as_float(copied) / as_float(rate));
            let early = due.saturating_sub(self.started.elapsed());
            if !early.is_zero() {
                self.queue.sleep(early).await;
            }
        }
    }

    /// Writes a run of a piece; data is under way when this returns.
    fn write_run<'b>(
        &'b self,
        start: u64,
        buf: &IoBuf,
        run: Run,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        let at = start + run.start as u64;
        if !run.zero {
            let bytes = buf.slice(run.start..run.end);
            if self.how.compression_unit.is_some() {
                return Box::pin(self.target.write_compressed(at, bytes, Durable::Later));
            }
            return Box::pin(self.target.write(at, bytes, Durable::Later));
        }
        let len = (run.end - run.start) as u64;
        match self.unwritten {
            Unwritten::Zeroes => Box::pin(async { Ok(()) }),
            Unwritten::Unknown | Unwritten::Backing(_) => Box::pin(self.zero(at, len)),
        }
    }

    fn zero(&self, at: u64, len: u64) -> impl Future<Output = Result<()>> + use<> {
        let flags = ZeroFlags {
            may_unmap: true,
            no_fallback: false,
        };
        self.target.write_zeroes(at, len, flags, Durable::Later)
    }

    async fn turn_of(&self, piece: Piece) {
        if self.how.in_order {
            let is_turn = || self.turn.get() == piece.ticket || self.failed.get();
            self.turns.wait_until(is_turn).await;
        }
    }

    fn pass_turn(&self, piece: Piece) {
        self.turn.set(piece.ticket + 1);
        self.turns.wake_all();
    }
}

fn write_failed(at: u64, error: &Error) -> Failure {
    Failure::new(format!(
        "error while writing at byte {at}: {}",
        errno_text(error)
    ))
}

/// A part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    zero: bool,
}

/// Takes bytes apart into zeroes and data, by blocks that are aligned on the target.
fn runs_of(buf: &IoBuf, start: u64, sparse: Option<u64>) -> Vec<Run> {
    let len = buf.len();
    let whole = |zero| Run {
        start: 0,
        end: len,
        zero,
    };
    let Some(block) = sparse else {
        return vec![whole(false)];
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < len {
        let offset = start + at as u64;
        let to_boundary = usize::try_from(block - offset % block).unwrap_or(len);
        let end = len.min(at.saturating_add(to_boundary));
        let zero = buf.is_zero(at..end);
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.end = end,
            _ => runs.push(Run {
                start: at,
                end,
                zero,
            }),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_blocks_of_the_target() {
        let buf = IoBuf::zeroed(12288);
        buf.fill(5000..5001, 1);
        let run = |start, end, zero| Run { start, end, zero };
        let want = [
            run(0, 4096, true),
            run(4096, 8192, false),
            run(8192, 12288, true),
        ];
        assert_eq!(runs_of(&buf, 0, Some(4096)), want);
        let shifted = [
            run(0, 2048, true),
            run(2048, 6144, false),
            run(6144, 12288, true),
        ];
        assert_eq!(runs_of(&buf, 2048, Some(4096)), shifted);
        assert_eq!(runs_of(&buf, 0, None), [run(0, 12288, false)]);
    }
}
