//! The handle by which a guest device, job or export uses a root node: its name, whether it
//! writes, its limits, and its counters.
//!
//! Limits and rules about errors are those of a guest device. An export or job that uses the same
//! node is a user of its own: it has no limits, and its errors go to its client.
//!
//! Queues hold backends and check every request against them before anything else happens.
//! Not here: which graph snapshot a request runs on (`queue`), how limits are kept (`throttle`).

use std::sync::Arc;
use std::time::Duration;

use block_schema::types::BlockDeviceIoStatus;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::graph::perm::{Perm, Use};
use crate::graph::{Node, NodeId};
use crate::on_error::{Errors, OnError};
use crate::request::{Op, Request};
use crate::stats::{Counters, Kind, Totals};
use crate::throttle::{Rates, Throttle};

/// No node ever has this id.
pub(crate) const NOWHERE: NodeId = NodeId(0);

/// Who makes a backend's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// A guest's device, an export's client, a program.
    Guest,
    /// A job, which makes way for guests.
    Job,
}

/// A named user of a root node.
#[derive(Debug)]
pub struct Backend {
    name: String,
    user: User,
    access: Use,
    root: Mutex<Root>,
    counters: Mutex<Vec<Arc<Counters>>>,
    throttle: Throttle,
    errors: Errors,
}

/// The node that a backend uses: one in the graph of a version and later ones, another before.
/// Without this a queue could see the new node's name while its graph has no such node.
#[derive(Debug)]
struct Root {
    now: NodeId,
    since: u64,
    before: NodeId,
}

impl Backend {
    pub(crate) fn new(name: String, root: NodeId, access: Use, user: User) -> Arc<Backend> {
        let counters = Mutex::default();
        Arc::new(Backend {
            name,
            user,
            access,
            root: Mutex::new(Root {
                now: root,
                since: 0,
                before: root,
            }),
            counters,
            throttle: Throttle::default(),
            errors: Errors::default(),
        })
    }

    /// The QAPI `id`; empty for a backend that only a job or export uses.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What others are told that it is, where it is in their way.
    pub(crate) fn title(&self) -> &str {
        match self.name.as_str() {
            "" => "an export",
            name => name,
        }
    }

    /// Whether this user may not write, whatever its node allows.
    pub fn is_read_only(&self) -> bool {
        let outside = self.access.outside();
        !outside.need.contains(Perm::WRITE)
    }

    /// What it does with its node.
    pub(crate) fn access(&self) -> Use {
        self.access
    }

    /// The node it uses.
    pub fn root(&self) -> NodeId {
        self.root.lock().now
    }

    /// The node it uses in the graph of a version: one that somebody holds now.
    pub(crate) fn root_in(&self, version: u64) -> NodeId {
        let root = self.root.lock();
        if version < root.since {
            root.before
        } else {
            root.now
        }
    }

    /// Leads the backend to another node from the graph of a version on, which is to be published
    /// next. The node used until now is drained, so that nobody asks for a still older one.
    pub(crate) fn set_root(&self, now: NodeId, since: u64) {
        let mut root = self.root.lock();
        let before = root.now;
        *root = Root { now, since, before };
    }

    /// As [`set_root`](Backend::set_root), to no node, for good: its user is gone.
    pub(crate) fn retire(&self, since: u64) {
        self.set_root(NOWHERE, since);
    }

    /// Whether its user is gone.
    pub(crate) fn is_retired(&self) -> bool {
        self.root() == NOWHERE
    }

    /// Whether a guest uses it: stopping the machine and errors concern its requests.
    pub(crate) fn is_device(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whether a guest's request has ended since a moment of the clock.
    pub(crate) fn is_guest_at_work(&self, since: Duration) -> bool {
        self.user == User::Guest && self.last_access().is_some_and(|at| at >= since)
    }

    /// Its limits.
    pub fn limits(&self) -> Rates {
        self.throttle.rates()
    }

    /// What it does about errors. Those of exports and jobs are theirs, whatever this says.
    pub fn on_error(&self) -> OnError {
        self.errors.rules()
    }

    /// Changes what it does about errors from now on.
    pub fn set_on_error(&self, rules: OnError) {
        self.errors.set_rules(rules);
    }

    /// How its requests end; `None` where no error stops the machine.
    pub fn io_status(&self) -> Option<BlockDeviceIoStatus> {
        self.errors.status()
    }

    pub(crate) fn errors(&self) -> &Errors {
        &self.errors
    }

    pub(crate) fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// When a request of it ended last, by the clock of queues that are like those it was on.
    pub fn last_access(&self) -> Option<Duration> {
        let counters = self.counters.lock();
        counters.iter().filter_map(|c| c.last_access()).max()
    }

    /// What this backend did so far, on all queues together.
    pub fn totals(&self, kind: Kind) -> Totals {
        self.counters
            .lock()
            .iter()
            .map(|c| c.totals(kind))
            .fold(Totals::default(), |a, b| Totals {
                operations: a.operations + b.operations,
                bytes: a.bytes + b.bytes,
                time_ns: a.time_ns + b.time_ns,
                failed: a.failed + b.failed,
                refused: a.refused + b.refused,
            })
    }

    pub(crate) fn new_counters(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.counters.lock().push(Arc::clone(&counters));
        counters
    }

    /// Step 2 of a request: may this user do this to this node, of `end` bytes, at all?
    pub(crate) fn admit(&self, request: &Request, node: &Node, end: u64) -> Result<()> {
        if request
            .offset
            .checked_add(request.len)
            .is_none_or(|e| e > end)
        {
            return Err(Error::OutOfRange {
                node: node.name().to_owned(),
                offset: request.offset,
                len: request.len,
                end,
            });
        }
        match request.op {
            Op::Write | Op::WriteCompressed | Op::WriteZeroes(_) | Op::Populate | Op::Discard
                if self.is_read_only() || node.is_read_only() =>
            {
                Err(Error::ReadOnly {
                    node: node.name().to_owned(),
                })
            }
            Op::Read
            | Op::Flush
            | Op::Write
            | Op::WriteCompressed
            | Op::WriteZeroes(_)
            | Op::Populate
            | Op::Discard => Ok(()),
        }
    }
}
