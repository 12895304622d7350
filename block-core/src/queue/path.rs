//! A request's way through its queue: announce, look, map, submit, complete; the long way when one
//! of these cannot be done from memory alone.
//! Called by `LocalQueue::submit` and `request`, and by the engine's completions. Invariant: a
//! request's announcement, snapshot and memory stay in its slab entry until `finish`.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use rustix::io::Errno;

use super::aside::Toll;
use super::executor::TaskKind;
use super::settle::End;
use super::snapshot::Snapshot;
use super::{BackendSlot, Done, LocalQueue, OpFuture};
use crate::backend::Backend;
use crate::buffer::IoBuf;
use crate::engine::{Completion, LeafId, Operation, Slot, Token};
use crate::error::{Error, Result};
use crate::graph::NodeIndex;
use crate::layer::Obstacle;
use crate::request::announce::Reach;
use crate::request::cx::{Child, Cx};
use crate::request::map::{Access, Extent, Lookup, Mapping, Piece};
use crate::request::status::ChainStatus;
use crate::request::watch::Watch;
use crate::request::{Op, Request, generic};
use crate::stats::Kind;

pub(super) enum OpState {
    /// A piece of a request.
    Request(usize),
    /// Somebody on this queue waits, or will.
    Future {
        waker: Option<Waker>,
        done: Option<Completion>,
    },
    /// Nobody waits any more; the operation still runs.
    Detached,
}

pub(super) enum Target {
    Token(u64),
    Future {
        waker: Option<Waker>,
        done: Option<(Result<()>, IoBuf)>,
    },
    Detached,
}

pub(super) struct RequestState {
    pub(super) target: Target,
    pub(super) outstanding: u32,
    pub(super) error: Option<Error>,
    pub(super) announcement: Option<u16>,
    pub(super) snapshot: Option<Rc<Snapshot>>,
    pub(super) backend: BackendSlot,
    pub(super) op: Op,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) fua: bool,
    pub(super) started: Duration,
    pub(super) buf: IoBuf,
}

impl LocalQueue {
    /// Steps 2 to 5 of a request.
    pub(super) fn start(&self, slot: BackendSlot, request: Request, target: Target) -> usize {
        let state = RequestState {
            target,
            outstanding: 1,
            error: None,
            announcement: None,
            snapshot: None,
            backend: slot,
            op: request.op,
            offset: request.offset,
            len: request.len,
            fua: request.fua,
            started: self.now(),
            buf: IoBuf::empty(),
        };
        let index = self.0.requests.borrow_mut().insert(state);
        match self.try_fast(index, slot, request) {
            Fast::Started => {}
            Fast::Ended(end, buf) => {
                self.0.requests.borrow_mut()[index].buf = buf;
                self.finish(index, end);
            }
            Fast::Slow(request, toll) => {
                let queue = self.clone();
                let task = async move { queue.carry_out(index, slot, request, toll).await };
                self.spawn_task(Box::pin(task), TaskKind::Request);
            }
        }
        index
    }

    /// The short way: everything in memory, bytes straight to the leaf.
    fn try_fast(&self, index: usize, slot: BackendSlot, request: Request) -> Fast {
        let (snapshot, root) = match self.root_of(slot) {
            Ok(found) => found,
            Err(error) => return Fast::Ended(End::Refused(error), request.buf),
        };
        let node = &snapshot.graph.entry(root).node;
        let (entry, toll) = {
            let backends = self.0.backends.borrow();
            let backend = &backends[slot.0 as usize].backend;
            let end = snapshot.graph.len(root);
            if let Err(error) = backend.admit(&request, node, end) {
                return Fast::Ended(End::Refused(error), request.buf);
            }
            (Entry::of(backend), self.pay_at_once(backend, &request))
        };
        let access = request.access();
        match request.op {
            _ if toll == Toll::Due => return Fast::Slow(request, toll),
            Op::Read => {}
            Op::Write if !request.fua && snapshot.graph.plain_writes(root) => {}
            Op::Write
            | Op::WriteCompressed
            | Op::WriteZeroes(_)
            | Op::Populate
            | Op::Discard
            | Op::Flush => {
                return Fast::Slow(request, toll);
            }
        }
        if request.len == 0 {
            return Fast::Ended(End::Done, request.buf);
        }
        let range = request.range();
        let Some(place) = self.0.free_announcements.borrow_mut().pop() else {
            return Fast::Slow(request, toll);
        };
        self.0
            .shared
            .in_flight
            .announce(place, node.id(), access, Reach::Direct, &range);
        let mut mapping = Mapping::new();
        // First the gate, then the version: whoever finds a gate open that a verb had closed sees
        // the graph that the verb published behind it.
        let clear =
            self.0
                .layer
                .obstacle(&snapshot.graph, root, access, &range, Reach::Direct, entry)
                == Obstacle::None
                && self.0.layer.version() == snapshot.graph.version()
                && snapshot.graph.walk(root, access, range, &mut mapping) == Lookup::Mapped
                && self.fits(&snapshot, &mapping, &request.buf);
        if !clear {
            self.leave(place);
            return Fast::Slow(request, toll);
        }
        {
            let mut requests = self.0.requests.borrow_mut();
            let state = &mut requests[index];
            state.announcement = Some(place);
            state.snapshot = Some(snapshot);
            state.outstanding = 0;
        }
        self.submit_pieces(index, access, &mapping, request.buf)
    }

    /// Whether every leaf can take its piece as it is; attaches leaves on the way.
    fn fits(&self, snapshot: &Snapshot, mapping: &Mapping, buf: &IoBuf) -> bool {
        let mut memory_alignment = 1;
        for piece in mapping.pieces() {
            if let Extent::Leaf { leaf, offset } = piece.extent {
                let Some(attached) = self.leaf(&snapshot.graph, leaf) else {
                    return false;
                };
                if (offset | piece.len) & attached.request_mask != 0 {
                    return false;
                }
                memory_alignment = memory_alignment.max(attached.memory_alignment);
            }
        }
        memory_alignment == 1 || buf.is_aligned(memory_alignment as usize)
    }

    fn submit_pieces(&self, index: usize, access: Access, mapping: &Mapping, buf: IoBuf) -> Fast {
        let pieces = mapping.pieces();
        if let [
            Piece {
                extent: Extent::Leaf { leaf, offset },
                ..
            },
        ] = *pieces
        {
            // The common case: the memory travels with the operation and comes back with it.
            self.0.requests.borrow_mut()[index].outstanding = 1;
            self.submit_piece(index, access, leaf, offset, buf);
            return Fast::Started;
        }
        let mut at = 0;
        let mut submitted = 0;
        for piece in pieces {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            match piece.extent {
                Extent::Leaf { leaf, offset } => {
                    self.submit_piece(index, access, leaf, offset, buf.slice(at..at + len));
                    submitted += 1;
                }
                Extent::Zero | Extent::Unallocated | Extent::Child { .. } | Extent::Transform => {
                    buf.fill(at..at + len, 0)
                }
            }
            at += len;
        }
        if submitted == 0 {
            return Fast::Ended(End::Done, buf);
        }
        let mut requests = self.0.requests.borrow_mut();
        let state = &mut requests[index];
        state.outstanding = submitted;
        state.buf = buf;
        Fast::Started
    }

    fn submit_piece(&self, index: usize, access: Access, leaf: LeafId, offset: u64, buf: IoBuf) {
        let operation = transfer(access, self.attached(leaf), offset, buf);
        let op = self.0.ops.borrow_mut().insert(OpState::Request(index));
        self.0
            .engine
            .borrow_mut()
            .submit(Token(op as u64), operation);
    }

    /// The long way to its end, on a task of its own.
    pub(super) async fn carry_out(
        &self,
        index: usize,
        slot: BackendSlot,
        request: Request,
        toll: Toll,
    ) {
        let buf = request.buf.clone();
        let end = match self.run_slow(index, slot, request, toll).await {
            Ok(Ok(())) => End::Done,
            Ok(Err(error)) => End::Failed(error),
            Err(error) => End::Refused(error),
        };
        self.0.requests.borrow_mut()[index].buf = buf;
        self.settle(index, end);
    }

    /// The long way; the outer error says that the request never began.
    async fn run_slow(
        &self,
        index: usize,
        slot: BackendSlot,
        request: Request,
        mut toll: Toll,
    ) -> Result<Result<()>> {
        let backend = Arc::clone(&self.0.backends.borrow()[slot.0 as usize].backend);
        let entry = Entry::of(&backend);
        let (snapshot, root, announced, watch) = loop {
            let (snapshot, root) = self.root_of(slot)?;
            let node = Arc::clone(&snapshot.graph.entry(root).node);
            backend.admit(&request, &node, snapshot.graph.len(root))?;
            if std::mem::replace(&mut toll, Toll::Paid) == Toll::Due {
                drop(snapshot);
                self.pay(index, &backend, &request).await;
                continue;
            }
            let watch = match request.access() {
                Access::Write if request.op != Op::Populate => {
                    match Watch::begin(&node, self, &request.range()).await {
                        Ok(watch) => watch,
                        Err(error) => return Ok(Err(error)),
                    }
                }
                Access::Read | Access::Write => Watch::NOTHING,
            };
            match self.try_announce(&snapshot, root, &request, entry).await {
                Ok(announced) if watch.is_current(&node) => {
                    break (snapshot, root, announced, watch);
                }
                Ok(_) => {}
                Err(()) => {
                    drop(snapshot);
                    if entry == Entry::Device && self.0.layer.is_stopped() {
                        let went_on = self.0.layer.goes_on(&backend);
                        let went_on = self.wait_aside(index, went_on).await;
                        went_on.ok_or(Error::ShutDown)?;
                    } else {
                        self.wait_for_obstacle(&node, &request, entry).await;
                    }
                }
            }
        };
        let cx = Cx::new(self.clone(), snapshot, root, Some(Rc::new(announced)));
        let result = generic::perform(&cx, request).await;
        Ok(result.and(watch.end(cx).await))
    }

    /// The status of the first run of a range of a backend's node, through its chain; held up by drains
    /// as requests are. The range is within the node.
    ///
    /// # Errors
    /// What a node of the chain answers.
    pub(crate) async fn chain_status(
        &self,
        slot: BackendSlot,
        range: std::ops::Range<u64>,
    ) -> Result<ChainStatus> {
        let look = Request {
            len: range.end.saturating_sub(range.start),
            ..Request::read(range.start, IoBuf::empty())
        };
        let (snapshot, root, _announced) = loop {
            let (snapshot, root) = self.root_of(slot)?;
            let node = Arc::clone(&snapshot.graph.entry(root).node);
            match self
                .try_announce(&snapshot, root, &look, Entry::Client)
                .await
            {
                Ok(announced) => break (snapshot, root, announced),
                Err(()) => {
                    drop(snapshot);
                    self.wait_for_obstacle(&node, &look, Entry::Client).await;
                }
            }
        };
        let node = Child::new(self.clone(), snapshot, root);
        node.chain_status(range).await
    }

    /// Announces level by level work; an error says that something is in the way.
    pub(super) async fn try_announce(
        &self,
        snapshot: &Rc<Snapshot>,
        index: NodeIndex,
        request: &Request,
        entry: Entry,
    ) -> Result<Announced, ()> {
        let node = &snapshot.graph.entry(index).node;
        let announced = self
            .announce(
                node.id(),
                request.access(),
                Reach::Indirect,
                &request.range(),
            )
            .await;
        let graph = &snapshot.graph;
        let obstacle = self.0.layer.obstacle(
            graph,
            index,
            request.access(),
            &request.range(),
            Reach::Indirect,
            entry,
        );
        // Behind the gate, as on the short way.
        let current = self.0.layer.version() == graph.version();
        if current && obstacle == Obstacle::None {
            Ok(announced)
        } else {
            Err(())
        }
    }

    pub(super) async fn wait_for_obstacle(
        &self,
        node: &crate::graph::Node,
        request: &Request,
        entry: Entry,
    ) {
        let (access, range) = (request.access(), request.range());
        let layer = self.0.layer.clone();
        node.claims
            .released
            .wait_until(|| {
                let graph = layer.graph();
                let Some(index) = graph.index_of(node.id()) else {
                    return true;
                };
                layer.obstacle(&graph, index, access, &range, Reach::Indirect, entry)
                    == Obstacle::None
            })
            .await;
    }

    /// Announces, waiting for a free place.
    pub(crate) async fn announce(
        &self,
        node: crate::graph::NodeId,
        access: Access,
        reach: Reach,
        range: &std::ops::Range<u64>,
    ) -> Announced {
        let inner = &self.0;
        let mut place = None;
        inner
            .announcement_freed
            .wait_until(|| {
                place = inner.free_announcements.borrow_mut().pop();
                place.is_some()
            })
            .await;
        let slot = place.unwrap_or_default();
        inner
            .shared
            .in_flight
            .announce(slot, node, access, reach, range);
        Announced {
            queue: self.clone(),
            slot,
        }
    }

    pub(super) fn leave(&self, slot: u16) {
        self.0.shared.in_flight.leave(slot);
        self.0.free_announcements.borrow_mut().push(slot);
        self.0.left.set(true);
    }

    /// Tells those who wait for announcements, once a batch.
    pub(crate) fn notify_left(&self) {
        if self.0.left.replace(false) {
            self.0.announcement_freed.wake_all();
            self.0.layer.left().wake_all();
        }
    }

    pub(super) fn complete_op(&self, completion: Completion) {
        let index = usize::try_from(completion.token.0).unwrap_or(usize::MAX);
        let state = {
            let mut ops = self.0.ops.borrow_mut();
            match ops.get_mut(index) {
                Some(OpState::Future { waker, done }) => {
                    *done = Some(completion);
                    let waker = waker.take();
                    drop(ops);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    return;
                }
                Some(OpState::Request(_) | OpState::Detached) => ops.remove(index),
                None => return,
            }
        };
        if let OpState::Request(request) = state {
            self.complete_piece(request, completion);
        }
    }

    fn complete_piece(&self, index: usize, completion: Completion) {
        let finished = {
            let mut requests = self.0.requests.borrow_mut();
            let Some(request) = requests.get_mut(index) else {
                return;
            };
            if let Err(errno) = completion.result {
                let error = self.io_error(request, errno);
                request.error.get_or_insert(error);
            }
            if let Some(buf) = completion.buf
                && request.buf.is_empty()
            {
                request.buf = buf;
            }
            request.outstanding -= 1;
            request.outstanding == 0
        };
        if finished {
            let error = self.0.requests.borrow_mut()[index].error.take();
            self.settle(index, error.map_or(End::Done, End::Failed));
        }
    }

    fn io_error(&self, request: &RequestState, errno: Errno) -> Error {
        let backends = self.0.backends.borrow();
        let node = request.snapshot.as_ref().and_then(|snapshot| {
            let root = backends.get(request.backend.0 as usize)?.backend.root();
            let index = snapshot.graph.index_of(root)?;
            Some(snapshot.graph.entry(index).node.name().to_owned())
        });
        Error::Io {
            node: node.unwrap_or_default(),
            op: generic::verb(request.op),
            offset: request.offset,
            len: request.len,
            source: errno.into(),
        }
    }

    /// Step 6: counters, the announcement goes, then the caller hears.
    pub(super) fn finish(&self, index: usize, end: End) {
        let mut requests = self.0.requests.borrow_mut();
        let Some(request) = requests.get_mut(index) else {
            return;
        };
        request.outstanding = 0;
        if let Some(slot) = request.announcement.take() {
            self.leave(slot);
        }
        request.snapshot = None;
        if let Some(attached) = self.0.backends.borrow().get(request.backend.0 as usize) {
            let (kind, counters) = (Kind::of(request.op), &attached.counters);
            let span = request.started..self.now();
            match end {
                End::Done => counters.done(kind, request.len, span),
                End::Failed(_) => counters.failed(kind, span),
                End::Refused(_) => counters.refused(kind, span.end),
            }
        }
        let result = match end {
            End::Done => Ok(()),
            End::Failed(error) | End::Refused(error) => Err(error),
        };
        match &mut request.target {
            Target::Future { waker, done } => {
                let buf = std::mem::replace(&mut request.buf, IoBuf::empty());
                *done = Some((result, buf));
                let waker = waker.take();
                drop(requests);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Target::Token(token) => {
                let token = *token;
                let request = requests.remove(index);
                self.0.done.borrow_mut().push_back(Done {
                    token,
                    result,
                    buf: request.buf,
                });
            }
            Target::Detached => {
                requests.remove(index);
            }
        }
    }

    /// The time by the engine's clock, read once a batch.
    pub(crate) fn now(&self) -> Duration {
        match self.0.now.get() {
            Some(now) => now,
            None => {
                let now = self.0.engine.borrow().now();
                self.0.now.set(Some(now));
                now
            }
        }
    }

    /// Whether a mapping's leaves take its pieces as they are; for requests of drivers.
    pub(crate) fn fits_leaves(&self, snapshot: &Snapshot, mapping: &Mapping, buf: &IoBuf) -> bool {
        self.fits(snapshot, mapping, buf)
    }

    /// Starts the leaf operations of a mapped range, for requests of drivers.
    pub(crate) fn leaf_ops(
        &self,
        access: Access,
        mapping: &Mapping,
        buf: &IoBuf,
    ) -> smallvec::SmallVec<[OpFuture; 2]> {
        let mut at = 0;
        let mut started = smallvec::SmallVec::new();
        for piece in mapping.pieces() {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            match piece.extent {
                Extent::Leaf { leaf, offset } => {
                    let slot = self.attached(leaf);
                    let buf = buf.slice(at..at + len);
                    started.push(self.op(transfer(access, slot, offset, buf)));
                }
                Extent::Zero | Extent::Unallocated | Extent::Child { .. } | Extent::Transform => {
                    buf.fill(at..at + len, 0)
                }
            }
            at += len;
        }
        started
    }
}

enum Fast {
    /// Operations are on their way.
    Started,
    /// It is over already.
    Ended(End, IoBuf),
    /// It needs a task.
    Slow(Request, Toll),
}

/// How a request comes to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// From a guest.
    Device,
    /// From an export or a job.
    Client,
    /// From the node above.
    Inside,
}

impl Entry {
    fn of(backend: &Backend) -> Entry {
        if backend.is_device() {
            Entry::Device
        } else {
            Entry::Client
        }
    }
}

/// An announcement of a task; leaves when dropped.
pub(crate) struct Announced {
    pub(super) queue: LocalQueue,
    pub(super) slot: u16,
}

impl Announced {
    pub(crate) fn set_reach(&self, reach: Reach) {
        self.queue.0.shared.in_flight.set_reach(self.slot, reach);
        self.queue.0.left.set(true);
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.queue.leave(self.slot);
    }
}

/// Moves bytes between memory and a leaf.
fn transfer(access: Access, slot: Slot, offset: u64, buf: IoBuf) -> Operation {
    match access {
        Access::Read => Operation::Read { slot, offset, buf },
        Access::Write => Operation::Write {
            slot,
            offset,
            buf,
            fua: false,
        },
    }
}
