//! What each request does to the backend, and the reply it becomes.
//!
//! Called by the connection. One request of the backend is the usual case and allocates nothing
//! but its memory; what takes several steps is a boxed future. Spec: "Request types",
//! "Structured reply types". Not here: whether a request is legal (`nbd/request.rs`).

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use block_core::bitmap::{Busy, DirtyBitmap};
use block_core::driver::{StatusKind, ZeroFlags};
use block_core::queue::{BackendSlot, LocalQueue, RequestFuture};
use block_core::request::Request;
use block_core::{Backend, IoBuf, Result};
use smallvec::{SmallVec, smallvec};

use super::buffers::Buffers;
use super::server::Export;
use crate::nbd::errno_to_wire;
use crate::nbd::layout::{allocation, dirty_bitmap};
use crate::nbd::outbox::{Message, Share};
use crate::nbd::reply::{self, Extent, Head, MAX_EXTENTS, Position};
use crate::nbd::request::{Action, Durability};
use crate::nbd::server_handshake::{ALLOCATION_CONTEXT, Contexts, bitmap_context};

/// Reads from this length on ask for holes first: what is not there need not be sent.
const SPARSE_LEN: u64 = 64 << 10;
/// Holes told apart in one reply.
const MAX_HOLES: usize = 64;

impl Action {
    /// Bytes of memory the request needs.
    pub(super) fn memory(&self) -> usize {
        let len = match self {
            Action::Read { range, .. } => range.end - range.start,
            Action::Write { len, .. } => u64::from(*len),
            Action::Flush
            | Action::Trim { .. }
            | Action::Cache
            | Action::WriteZeroes { .. }
            | Action::BlockStatus { .. } => 0,
        };
        usize::try_from(len).unwrap_or(usize::MAX)
    }
}

/// The reply of a request that is not performed.
pub(super) fn refusal(structured: bool, cookie: u64, error: u32, reason: &str) -> Head {
    if structured {
        reply::error(cookie, error, reason)
    } else {
        reply::simple(cookie, error)
    }
}

/// What a request found.
enum Answer {
    /// That it was done.
    Done,
    /// That a read of no byte was done; it is answered like a read.
    NoData,
    /// Bytes from `offset`, and where there are none.
    Data {
        offset: u64,
        buf: IoBuf,
        holes: Vec<Range<usize>>,
    },
    /// What each context says, by its id.
    Extents(Vec<(u32, Vec<Extent>)>),
}

type Task = Pin<Box<dyn Future<Output = Result<Answer>>>>;

enum Progress {
    /// There was nothing to do.
    Ended(Answer),
    /// One request of the backend, without data to send.
    Request(RequestFuture),
    /// One read from `offset`.
    Read { future: RequestFuture, offset: u64 },
    /// Several steps.
    Task(Task),
}

/// A request in flight.
pub(super) struct Work {
    cookie: u64,
    share: Share,
    /// For people who read a structured error.
    failure: &'static str,
    progress: Progress,
}

/// The client's own part of a request.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    pub(super) cookie: u64,
    pub(super) share: Share,
}

/// Where a connection's requests go.
pub(super) struct Target {
    queue: LocalQueue,
    slot: BackendSlot,
    backend: Arc<Backend>,
    structured: bool,
    writethrough: bool,
    /// The run of data that was met last, from where to where: reads inside it need not ask for
    /// holes. What became a hole since is sent as zeroes, which is as right.
    data: Rc<Cell<(u64, u64)>>,
    contexts: Rc<Selected>,
}

/// What a client wants to know of status.
struct Selected {
    allocation: bool,
    /// Dirty bitmaps, with the ids of their contexts.
    bitmaps: Vec<(u32, Arc<Busy>)>,
}

impl Target {
    pub(super) fn new(
        queue: &LocalQueue,
        export: &Export,
        structured: bool,
        contexts: &Contexts,
    ) -> Target {
        let bitmap = |&place: &usize| {
            let bitmap = export.bitmaps().get(place)?;
            Some((bitmap_context(place), Arc::clone(bitmap)))
        };
        let selected = Selected {
            allocation: contexts.allocation,
            bitmaps: contexts.bitmaps.iter().filter_map(bitmap).collect(),
        };
        Target {
            contexts: Rc::new(selected),
            queue: queue.clone(),
            slot: queue.attach(export.backend()),
            backend: Arc::clone(export.backend()),
            structured,
            writethrough: export.writethrough(),
            data: Rc::default(),
        }
    }

    /// Starts a legal request; `payload` is a write's.
    pub(super) fn start(
        &self,
        ticket: Ticket,
        action: Action,
        payload: IoBuf,
        buffers: &mut Buffers,
    ) -> Work {
        let failure = match action {
            Action::Read { .. } => "reading failed",
            Action::Write { .. } => "writing failed",
            Action::Flush => "flushing failed",
            Action::Trim { .. } => "discarding failed",
            Action::Cache => "caching failed",
            Action::WriteZeroes { .. } => "writing zeroes failed",
            Action::BlockStatus { .. } => "block status failed",
        };
        let progress = self.progress(action, payload, buffers);
        Work {
            cookie: ticket.cookie,
            share: ticket.share,
            failure,
            progress,
        }
    }

    fn progress(&self, action: Action, payload: IoBuf, buffers: &mut Buffers) -> Progress {
        match action {
            // Reading ahead would only fill memory that the host manages better.
            Action::Cache => Progress::Ended(Answer::Done),
            Action::Flush => self.request(Request::flush()),
            Action::Read { range, .. } if range.is_empty() => Progress::Ended(Answer::NoData),
            Action::Trim { range, .. } | Action::WriteZeroes { range, .. } if range.is_empty() => {
                Progress::Ended(Answer::Done)
            }
            Action::Read { range, whole } => {
                let buf = buffers.take(buffer_len(range.end - range.start));
                if self.structured && !whole && self.may_have_holes(&range) {
                    return Progress::Task(Box::pin(sparse_read(self.runs(), range, buf)));
                }
                let future = self
                    .queue
                    .request(self.slot, Request::read(range.start, buf));
                Progress::Read {
                    future,
                    offset: range.start,
                }
            }
            Action::Write { len: 0, .. } => Progress::Ended(Answer::Done),
            Action::Write {
                offset, durability, ..
            } => self.request(self.with(durability, Request::write(offset, payload))),
            Action::Trim { range, durability } => {
                self.data.set((0, 0));
                let discard = Request::discard(range.start, range.end - range.start);
                if durability == Durability::Cached && !self.writethrough {
                    return self.request(discard);
                }
                Progress::Task(Box::pin(durable_trim(
                    self.queue.clone(),
                    self.slot,
                    discard,
                )))
            }
            Action::WriteZeroes {
                range,
                may_unmap,
                only_fast,
                durability,
            } => {
                self.data.set((0, 0));
                let flags = ZeroFlags {
                    may_unmap,
                    no_fallback: only_fast,
                };
                let zero = Request::write_zeroes(range.start, range.end - range.start, flags);
                self.request(self.with(durability, zero))
            }
            Action::BlockStatus { range, one } => {
                let limit = if one { 1 } else { MAX_EXTENTS };
                let contexts = Rc::clone(&self.contexts);
                Progress::Task(Box::pin(statuses(self.runs(), contexts, range, limit)))
            }
        }
    }

    fn request(&self, request: Request) -> Progress {
        Progress::Request(self.queue.request(self.slot, request))
    }

    fn with(&self, durability: Durability, request: Request) -> Request {
        if durability == Durability::Fua || self.writethrough {
            request.with_fua()
        } else {
            request
        }
    }

    fn may_have_holes(&self, range: &Range<u64>) -> bool {
        let (start, end) = self.data.get();
        range.end - range.start >= SPARSE_LEN && !(start <= range.start && range.end <= end)
    }

    fn runs(&self) -> Runs {
        Runs {
            data: Rc::clone(&self.data),
            queue: self.queue.clone(),
            slot: self.slot,
            backend: Arc::clone(&self.backend),
        }
    }
}

impl Work {
    /// The messages to send once the request has ended; the last one gives its share back.
    pub(super) fn poll_reply(
        &mut self,
        cx: &mut Context<'_>,
        structured: bool,
        buffers: &mut Buffers,
    ) -> Poll<SmallVec<[Message; 1]>> {
        let polled = match &mut self.progress {
            Progress::Ended(answer) => Poll::Ready(Ok(std::mem::replace(answer, Answer::Done))),
            Progress::Request(future) => Pin::new(future).poll(cx).map_ok(|payload| {
                buffers.give(payload);
                Answer::Done
            }),
            Progress::Read { future, offset } => {
                let offset = *offset;
                let data = move |buf| Answer::Data {
                    offset,
                    buf,
                    holes: Vec::new(),
                };
                Pin::new(future).poll(cx).map_ok(data)
            }
            Progress::Task(task) => task.as_mut().poll(cx),
        };
        polled.map(|result| match result {
            Ok(answer) => self.messages(answer, structured),
            Err(error) => {
                let errno = errno_to_wire(error.errno());
                tracing::debug!("NBD request: {}", error.chain());
                smallvec![self.last(refusal(structured, self.cookie, errno, self.failure))]
            }
        })
    }

    fn last(&self, head: Head) -> Message {
        Message {
            head,
            data: IoBuf::empty(),
            share: self.share,
        }
    }

    fn messages(&self, answer: Answer, structured: bool) -> SmallVec<[Message; 1]> {
        let cookie = self.cookie;
        match answer {
            Answer::NoData if structured => smallvec![self.last(reply::done(cookie))],
            Answer::Done | Answer::NoData => smallvec![self.last(reply::simple(cookie, 0))],
            Answer::Extents(contexts) => self.status_chunks(&contexts),
            Answer::Data { buf, .. } if !structured => {
                smallvec![Message {
                    data: buf,
                    ..self.last(reply::simple(cookie, 0))
                }]
            }
            Answer::Data { offset, buf, holes } => self.chunks(offset, &buf, &holes),
        }
    }

    /// A chunk for each context.
    fn status_chunks(&self, contexts: &[(u32, Vec<Extent>)]) -> SmallVec<[Message; 1]> {
        let last = contexts.len().saturating_sub(1);
        let chunk = |(index, (context, extents)): (usize, &(u32, Vec<Extent>))| {
            let position = match index == last {
                true => Position::Last,
                false => Position::Middle,
            };
            let head = reply::block_status(self.cookie, position, *context, extents);
            Message {
                share: match position {
                    Position::Last => self.share,
                    Position::Middle => Share::default(),
                },
                ..self.last(head)
            }
        };
        contexts.iter().enumerate().map(chunk).collect()
    }

    /// Data and holes in turn, in order; together they cover the buffer.
    fn chunks(&self, offset: u64, buf: &IoBuf, holes: &[Range<usize>]) -> SmallVec<[Message; 1]> {
        let mut messages: SmallVec<[Message; 1]> = SmallVec::new();
        let position = |end| {
            if end == buf.len() {
                Position::Last
            } else {
                Position::Middle
            }
        };
        let mut put = |range: Range<usize>, hole: bool| {
            if range.is_empty() {
                return;
            }
            let at = offset + range.start as u64;
            // Requests are bounded by `MAX_PAYLOAD`, so lengths fit.
            let len = u32::try_from(range.len()).unwrap_or(u32::MAX);
            let position = position(range.end);
            messages.push(Message {
                head: if hole {
                    reply::hole(self.cookie, position, at, len)
                } else {
                    reply::data(self.cookie, position, at, len)
                },
                data: if hole {
                    IoBuf::empty()
                } else {
                    buf.slice(range)
                },
                share: if position == Position::Last {
                    self.share
                } else {
                    Share::default()
                },
            });
        };
        let mut at = 0;
        for hole in holes {
            put(at..hole.start, false);
            put(hole.clone(), true);
            at = hole.end;
        }
        put(at..buf.len(), false);
        messages
    }
}

async fn durable_trim(queue: LocalQueue, slot: BackendSlot, discard: Request) -> Result<Answer> {
    queue.request(slot, discard).await?;
    queue.request(slot, Request::flush()).await?;
    Ok(Answer::Done)
}

/// Looks up what is allocated.
struct Runs {
    queue: LocalQueue,
    slot: BackendSlot,
    backend: Arc<Backend>,
    data: Rc<Cell<(u64, u64)>>,
}

impl Runs {
    /// The first run of `range`: its length, and its flags in `base:allocation`.
    async fn first(&self, range: Range<u64>) -> Result<(u64, u32)> {
        let root = self.queue.layer().node(&self.queue, self.backend.root())?;
        let end = root.len().max(range.end);
        let status = root.chain_status(range.start..end).await?;
        let flags = match status.kind {
            StatusKind::Data => {
                self.data.set((range.start, range.start + status.len));
                0
            }
            StatusKind::Zero | StatusKind::Unallocated => allocation::HOLE | allocation::ZERO,
        };
        Ok((status.len.min(range.end - range.start), flags))
    }
}

/// What each selected context says of `range`, in at most `limit` extents.
async fn statuses(
    runs: Runs,
    contexts: Rc<Selected>,
    range: Range<u64>,
    limit: usize,
) -> Result<Answer> {
    let mut answers = Vec::new();
    if contexts.allocation {
        let extents = block_status(runs, range.clone(), limit).await?;
        answers.push((ALLOCATION_CONTEXT, extents));
    }
    for (context, bitmap) in &contexts.bitmaps {
        answers.push((*context, dirty_extents(bitmap.bitmap(), &range, limit)));
    }
    Ok(Answer::Extents(answers))
}

/// What is dirty from the start of `range`, in at most `limit` extents.
fn dirty_extents(bitmap: &DirtyBitmap, range: &Range<u64>, limit: usize) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = range.start;
    while at < range.end && extents.len() < limit {
        let next = bitmap.next_dirty(at..range.end);
        let (end, flags) = match next {
            Some(run) if run.start == at => (run.end, dirty_bitmap::DIRTY),
            Some(run) => (run.start, 0),
            None => (range.end, 0),
        };
        // The range is at most 4 GiB long, so lengths fit.
        let len = u32::try_from(end - at).unwrap_or(u32::MAX);
        extents.push(Extent { len, flags });
        at = end;
    }
    extents
}

/// The extents from the start of `range`, at most `limit`, neighbours of one kind joined.
async fn block_status(runs: Runs, range: Range<u64>, limit: usize) -> Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (len, flags) = runs.first(at..range.end).await?;
        // The range is at most 4 GiB long, so lengths fit.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        at += u64::from(len);
        let full = extents.len() == limit;
        match extents.last_mut() {
            Some(last) if last.flags == flags => last.len = last.len.saturating_add(len),
            Some(_) if full => break,
            Some(_) | None => extents.push(Extent { len, flags }),
        }
    }
    Ok(extents)
}

/// Reads what is there, and says where nothing is.
async fn sparse_read(runs: Runs, range: Range<u64>, buf: IoBuf) -> Result<Answer> {
    let mut holes: Vec<Range<usize>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        // A reply of very many pieces costs more than the zeroes in it.
        let (len, flags) = if holes.len() < MAX_HOLES {
            runs.first(at..range.end).await?
        } else {
            (range.end - at, 0)
        };
        let within = buffer_len(at - range.start)..buffer_len(at - range.start + len);
        if flags & allocation::ZERO == 0 {
            let part = Request::read(at, buf.slice(within));
            runs.queue.request(runs.slot, part).await?;
        } else {
            match holes.last_mut() {
                Some(last) if last.end == within.start => last.end = within.end,
                Some(_) | None => holes.push(within),
            }
        }
        at += len;
    }
    Ok(Answer::Data {
        offset: range.start,
        buf,
        holes,
    })
}

/// Lengths within one request, which `judge` has bounded.
fn buffer_len(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
