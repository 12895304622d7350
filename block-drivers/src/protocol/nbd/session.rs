//! The requests of one connection, from the call to the reply: who waits for which cookie, and
//! whether a reply fits its request.
//!
//! Called by drivers' tasks on any queue and by the connection's own task (`connection.rs`).
//! Invariant: a cookie is answered once; after the session has ended nothing waits in it. The lock
//! is held for table work only. Spec: "Simple reply message", "Structured reply chunk message".

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use block_core::IoBuf;
use parking_lot::Mutex;
use rustix::io::Errno;
use slab::Slab;

use crate::nbd::WireError;
use crate::nbd::client_handshake::Facts;
use crate::nbd::layout::{chunk, command};
use crate::nbd::outbox::{Message, Outbox, Share};
use crate::nbd::reply::{self, Extent, Head, Position};
use crate::nbd::request::Header;
use crate::nbd::wire_to_errno;

/// Separate runs of data that one reply may consist of before they join.
const MAX_RUNS: usize = 4096;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    /// The server broke the protocol; the connection was cut.
    #[error(transparent)]
    Protocol(#[from] WireError),
    /// The socket failed.
    #[error("socket")]
    Socket(#[from] io::Error),
    /// The node was closed, or the queue that served the connection ended.
    #[error("connection was closed")]
    Closed,
}

/// How a request failed.
#[derive(Clone, Debug)]
pub(super) enum CallError {
    /// The server answered with an error.
    Remote(Errno),
    /// The connection ended first.
    Ended(Arc<SessionEnd>),
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
    /// What is written, or where the bytes read go.
    pub(super) buf: IoBuf,
}

/// What a request brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Status(Extent),
}

/// A request without its reply.
struct Entry {
    generation: u32,
    command: u16,
    offset: u64,
    len: u32,
    /// Where the bytes of a read go.
    buf: IoBuf,
    /// Which bytes came, within the request; sorted and apart.
    runs: Vec<Range<u64>>,
    extent: Option<Extent>,
    error: Option<Errno>,
    waker: Option<Waker>,
    done: Option<Result<Answer, CallError>>,
    /// Nobody waits any more.
    detached: bool,
}

impl Entry {
    fn missing(&self) -> u64 {
        let came: u64 = self.runs.iter().map(|run| run.end - run.start).sum();
        u64::from(self.len) - came
    }

    /// Notes that the bytes of `range`, of the export, come; refuses what was not asked for or
    /// came before. Returns the range within the request.
    fn cover(&mut self, offset: u64, len: u64) -> Result<Range<u64>, WireError> {
        let wrong = WireError::ChunkRange { offset, len };
        let start = offset.checked_sub(self.offset).ok_or(wrong.clone())?;
        let end = start.checked_add(len).ok_or(wrong.clone())?;
        if len == 0 || end > u64::from(self.len) {
            return Err(wrong);
        }
        let at = self.runs.partition_point(|run| run.end <= start);
        if self.runs.get(at).is_some_and(|run| run.start < end) {
            return Err(wrong);
        }
        let joins_left = at > 0 && self.runs.get(at - 1).is_some_and(|run| run.end == start);
        let joins_right = self.runs.get(at).is_some_and(|run| run.start == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.runs[at - 1].end = self.runs[at].end;
                self.runs.remove(at);
            }
            (true, false) => self.runs[at - 1].end = end,
            (false, true) => self.runs[at].start = start,
            (false, false) if self.runs.len() == MAX_RUNS => return Err(wrong),
            (false, false) => self.runs.insert(at, start..end),
        }
        Ok(start..end)
    }

    fn outcome(&self) -> Result<Result<Answer, CallError>, WireError> {
        if let Some(errno) = self.error {
            return Ok(Err(CallError::Remote(errno)));
        }
        match (self.command, self.extent) {
            (command::READ, _) if self.missing() > 0 => Err(WireError::ShortReply {
                missing: self.missing(),
            }),
            (command::BLOCK_STATUS, None) => Err(WireError::ShortReply {
                missing: u64::from(self.len),
            }),
            (command::BLOCK_STATUS, Some(extent)) => Ok(Ok(Answer::Status(extent))),
            _ => Ok(Ok(Answer::Done)),
        }
    }
}

#[derive(Default)]
struct Table {
    entries: Slab<Entry>,
    generation: u32,
    outgoing: VecDeque<Message>,
    connection: Option<Waker>,
    end: Option<Arc<SessionEnd>>,
    closing: bool,
}

impl Table {
    fn wake_connection(&self) {
        if let Some(waker) = &self.connection {
            waker.wake_by_ref();
        }
    }

    fn entry(&mut self, cookie: u64) -> Result<&mut Entry, WireError> {
        let unknown = WireError::UnknownCookie { cookie };
        let (index, generation) = split_cookie(cookie);
        match self.entries.get_mut(index) {
            Some(entry) if entry.generation == generation && entry.done.is_none() => Ok(entry),
            Some(_) | None => Err(unknown),
        }
    }

    /// Ends one request; its caller hears of it.
    fn finish(&mut self, index: usize, result: Result<Answer, CallError>) -> Option<Waker> {
        let entry = self.entries.get_mut(index)?;
        if entry.detached {
            self.entries.remove(index);
            return None;
        }
        entry.done = Some(result);
        // The caller may use its memory again.
        entry.buf = IoBuf::empty();
        entry.waker.take()
    }
}

fn cookie(index: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | index as u64
}

fn split_cookie(cookie: u64) -> (usize, u32) {
    let index = usize::try_from(cookie & 0xffff_ffff).unwrap_or(usize::MAX);
    (index, u32::try_from(cookie >> 32).unwrap_or(u32::MAX))
}

/// A connection as its users see it.
pub(super) struct Session {
    facts: Facts,
    table: Mutex<Table>,
}

impl Session {
    pub(super) fn new(facts: Facts) -> Arc<Session> {
        Arc::new(Session {
            facts,
            table: Mutex::default(),
        })
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Why it ended, if it has.
    pub(super) fn end(&self) -> Option<Arc<SessionEnd>> {
        self.table.lock().end.clone()
    }

    /// Sends a request; the future is its reply.
    pub(super) fn call(self: &Arc<Self>, command: Command) -> Call {
        let mut table = self.table.lock();
        table.generation = table.generation.wrapping_add(1);
        let generation = table.generation;
        let Command {
            command,
            flags,
            offset,
            len,
            buf,
        } = command;
        let writes = command == command::WRITE;
        let done = table.end.clone().map(|end| Err(CallError::Ended(end)));
        let sends = done.is_none();
        let index = table.entries.insert(Entry {
            generation,
            command,
            offset,
            len,
            buf: if writes { IoBuf::empty() } else { buf.clone() },
            runs: Vec::new(),
            extent: None,
            error: None,
            waker: None,
            done,
            detached: false,
        });
        if sends {
            let cookie = cookie(index, generation);
            let header = Header {
                flags,
                command,
                cookie,
                offset,
                len,
            };
            let data = if writes { buf } else { IoBuf::empty() };
            let head = Head::from_slice(&header.to_bytes());
            table.outgoing.push_back(Message {
                head,
                data,
                share: Share::default(),
            });
            table.wake_connection();
        }
        Call {
            session: Arc::clone(self),
            index: Some(index),
        }
    }

    /// Says goodbye once everything before it is sent.
    pub(super) fn close(&self) {
        let mut table = self.table.lock();
        if table.end.is_some() || table.closing {
            return;
        }
        table.closing = true;
        let header = Header {
            flags: 0,
            command: command::DISC,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        let head = Head::from_slice(&header.to_bytes());
        let data = IoBuf::empty();
        table.outgoing.push_back(Message {
            head,
            data,
            share: Share::default(),
        });
        table.wake_connection();
    }

    /// Moves what is to be sent to the connection's outbox; remembers whom to wake for more.
    pub(super) fn collect(&self, outbox: &mut Outbox, cx: &Context<'_>) -> bool {
        let mut table = self.table.lock();
        if !table
            .connection
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            table.connection = Some(cx.waker().clone());
        }
        let any = !table.outgoing.is_empty();
        table
            .outgoing
            .drain(..)
            .for_each(|message| outbox.push(message));
        any
    }

    /// Whether the goodbye was said.
    pub(super) fn is_closing(&self) -> bool {
        self.table.lock().closing
    }

    /// Ends the session: everything in flight fails, and everything later.
    pub(super) fn fail(&self, end: SessionEnd) {
        let mut table = self.table.lock();
        if table.end.is_some() {
            return;
        }
        let end = Arc::new(end);
        table.end = Some(Arc::clone(&end));
        table.outgoing.clear();
        let waiting: Vec<usize> = table
            .entries
            .iter()
            .filter(|(_, e)| e.done.is_none())
            .map(|(i, _)| i)
            .collect();
        let ended = || Err(CallError::Ended(Arc::clone(&end)));
        let wakers: Vec<Waker> = waiting
            .into_iter()
            .filter_map(|index| table.finish(index, ended()))
            .collect();
        drop(table);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A simple reply. What it returns must be filled from the connection before
    /// [`complete`](Session::complete).
    pub(super) fn simple(&self, cookie: u64, error: u32) -> Result<IoBuf, WireError> {
        let mut table = self.table.lock();
        let entry = table.entry(cookie)?;
        let structured_only = matches!(entry.command, command::READ | command::BLOCK_STATUS);
        if self.facts.structured && structured_only {
            return Err(WireError::SimpleReply { cookie });
        }
        if error != 0 {
            entry.error = Some(wire_to_errno(error));
            return Ok(IoBuf::empty());
        }
        if entry.command != command::READ {
            return Ok(IoBuf::empty());
        }
        entry.cover(entry.offset, u64::from(entry.len))?;
        Ok(entry.buf.clone())
    }

    /// The data of a chunk is to come: where it goes.
    pub(super) fn chunk_data(
        &self,
        cookie: u64,
        offset: u64,
        len: u64,
    ) -> Result<IoBuf, WireError> {
        let mut table = self.table.lock();
        let entry = table.entry(cookie)?;
        if entry.command != command::READ {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            return Err(WireError::Chunk {
                cookie,
                kind: chunk::OFFSET_DATA,
                len,
            });
        }
        let range = entry.cover(offset, len)?;
        Ok(entry.buf.slice(index(range.start)..index(range.end)))
    }

    /// Any other chunk, with its payload.
    pub(super) fn chunk(
        &self,
        cookie: u64,
        kind: u16,
        position: Position,
        payload: &[u8],
    ) -> Result<(), WireError> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let wrong = WireError::Chunk { cookie, kind, len };
        let allocation = self.facts.allocation;
        let mut table = self.table.lock();
        let entry = table.entry(cookie)?;
        match kind {
            chunk::NONE if payload.is_empty() && position == Position::Last => {}
            chunk::OFFSET_HOLE if entry.command == command::READ => {
                let (offset, len) = reply::parse_hole(payload).ok_or(wrong)?;
                let range = entry.cover(offset, u64::from(len))?;
                entry.buf.fill(index(range.start)..index(range.end), 0);
            }
            chunk::BLOCK_STATUS if entry.command == command::BLOCK_STATUS => {
                let (context, extents) = reply::parse_block_status(payload).ok_or(wrong.clone())?;
                let first = extents.first().copied();
                if Some(context) != allocation || entry.extent.is_some() {
                    return Err(wrong);
                }
                entry.extent = first;
            }
            kind if kind & chunk::ERROR_BIT != 0 => {
                let (error, message) = reply::parse_error(kind, payload).ok_or(wrong)?;
                tracing::debug!("NBD server: error {error}: {}", message.escape_debug());
                // The first one is the reason; an error of 0 is none, and still an error.
                entry.error.get_or_insert(wire_to_errno(error));
            }
            _ => return Err(wrong),
        }
        Ok(())
    }

    /// The last part of a reply has come.
    pub(super) fn complete(&self, cookie: u64) -> Result<(), WireError> {
        let waker = {
            let mut table = self.table.lock();
            let outcome = table.entry(cookie)?.outcome()?;
            table.finish(split_cookie(cookie).0, outcome)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

/// Offsets within a request, which is at most 4 GiB long.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A request on its way. Dropping it detaches the request.
pub(super) struct Call {
    session: Arc<Session>,
    index: Option<usize>,
}

impl Future for Call {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let index = self.index.expect("not polled again after its end");
        let taken = {
            let mut table = self.session.table.lock();
            let entry = table
                .entries
                .get_mut(index)
                .expect("an entry stays until it was taken");
            match entry.done.take() {
                Some(result) => {
                    table.entries.remove(index);
                    Some(result)
                }
                None => {
                    entry.waker = Some(cx.waker().clone());
                    None
                }
            }
        };
        match taken {
            Some(result) => {
                self.index = None;
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut table = self.session.table.lock();
        if let Some(entry) = table.entries.get_mut(index) {
            if entry.done.is_some() {
                table.entries.remove(index);
            } else {
                entry.detached = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::nbd::BlockSize;

    fn session() -> Arc<Session> {
        Session::new(Facts {
            size: 1 << 20,
            flags: 0,
            block_size: BlockSize::default(),
            structured: true,
            allocation: Some(7),
        })
    }

    /// Sends a read of 100 bytes at 1000, plays `chunks` (offset and length) and shows the outcome.
    #[track_caller]
    fn check(chunks: &[(u64, u64)], want: Expect) {
        let session = session();
        let buf = IoBuf::zeroed(100);
        let command = Command {
            command: command::READ,
            flags: 0,
            offset: 1000,
            len: 100,
            buf,
        };
        let _call = session.call(command);
        let cookie = cookie(0, 1);
        let played = chunks
            .iter()
            .try_for_each(|&(offset, len)| session.chunk_data(cookie, offset, len).map(drop));
        let runs = session.table.lock().entries[0].runs.clone();
        let text = match played.and_then(|()| session.complete(cookie)) {
            Ok(()) => format!("{runs:?} complete"),
            Err(error) => format!("{runs:?} {error}"),
        };
        want.assert_eq(&text);
    }

    #[test]
    fn chunks_join_and_never_overlap() {
        check(&[(1000, 100)], expect!["[0..100] complete"]);
        check(
            &[(1050, 50), (1000, 20), (1020, 30)],
            expect!["[0..100] complete"],
        );
        check(
            &[(1000, 20), (1040, 20)],
            expect!["[0..20, 40..60] structured reply ends with 60 bytes missing"],
        );
        check(
            &[(1000, 20), (1019, 2)],
            expect!["[0..20] reply chunk of 2 bytes at 0x3fb is outside its request or overlaps"],
        );
        check(
            &[(1040, 20), (1030, 40)],
            expect!["[40..60] reply chunk of 40 bytes at 0x406 is outside its request or overlaps"],
        );
        check(
            &[(1000, 0)],
            expect!["[] reply chunk of 0 bytes at 0x3e8 is outside its request or overlaps"],
        );
        check(
            &[(1099, u64::MAX)],
            expect![
                "[] reply chunk of 18446744073709551615 bytes at 0x44b is outside its request or overlaps"
            ],
        );
    }

    fn flush() -> Command {
        Command {
            command: command::FLUSH,
            flags: 0,
            offset: 0,
            len: 0,
            buf: IoBuf::empty(),
        }
    }

    #[test]
    fn a_cookie_is_answered_once() {
        let session = session();
        let mut first = session.call(flush());
        assert_eq!(session.complete(cookie(0, 1)), Ok(()));
        let unknown = Err(WireError::UnknownCookie {
            cookie: cookie(0, 1),
        });
        assert_eq!(session.complete(cookie(0, 1)), unknown);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            Pin::new(&mut first).poll(&mut cx),
            Poll::Ready(Ok(Answer::Done))
        ));
        // The place is used again, the cookie is another.
        let second = session.call(flush());
        assert_eq!(session.complete(cookie(0, 1)), unknown);
        // A reply to nobody's request is still the one reply to it.
        drop(second);
        assert_eq!(session.complete(cookie(0, 2)), Ok(()));
        assert!(session.table.lock().entries.is_empty());
    }

    #[test]
    fn the_end_fails_everything_once_and_for_all() {
        let session = session();
        let mut before = session.call(flush());
        session.fail(SessionEnd::Protocol(WireError::Closed));
        session.fail(SessionEnd::Closed);
        let mut after = session.call(flush());
        let mut cx = Context::from_waker(Waker::noop());
        for call in [&mut before, &mut after] {
            let Poll::Ready(Err(CallError::Ended(end))) = Pin::new(call).poll(&mut cx) else {
                panic!("it has ended")
            };
            assert_eq!(end.to_string(), "connection closed by the peer");
        }
        let table = session.table.lock();
        assert!(table.entries.is_empty() && table.outgoing.is_empty());
    }
}
