//! Watchers: who must do something before a write of a node starts, or after it has ended. A backup
//! saves what is about to be overwritten; a mirror that has to keep up copies what was written.
//!
//! A node with watchers takes no short way for writes. Its writes run level by level, and there
//! [`Watch::begin`] calls the watchers *before* the write is announced, and [`Watch::end`] when its
//! announcement is *inert*: a watcher reads the node itself, and no claim may wait for who waits.
//! Drains still do: when a node is drained, its watchers have nothing left to do.
//!
//! Invariant: watchers are added while the node is drained. So a write either was announced before,
//! and the drain waited for it, or it sees the watcher: on the short way when the walk asks
//! [`Watchers::are_there`], level by level when [`Watch::is_current`] is asked after announcing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use crate::driver::Pending;
use crate::error::Result;
use crate::graph::Node;
use crate::queue::LocalQueue;
use crate::request::cx::Cx;

/// Who wants to know of a node's writes, with what changes bytes in any way.
pub(crate) trait Watcher: Send + Sync {
    /// A write to `range` is about to start, on this queue; an error keeps it from doing so.
    fn before<'a>(&'a self, queue: &'a LocalQueue, range: Range<u64>) -> Pending<'a>;

    /// A write to `range` has ended, well or not, and its caller has not heard of it yet.
    fn after<'a>(&'a self, queue: &'a LocalQueue, range: Range<u64>) -> Pending<'a>;
}

type List = Vec<Arc<dyn Watcher>>;

/// The watchers of one node.
#[derive(Default)]
pub(crate) struct Watchers {
    /// Whether there are any: all that a request looks at if there are none.
    any: AtomicBool,
    list: ArcSwap<List>,
}

impl Watchers {
    /// Whether writes must go level by level. The request is announced.
    pub(crate) fn are_there(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Adds a watcher. The node is drained.
    pub(crate) fn add(&self, watcher: Arc<dyn Watcher>) {
        self.change(|list| list.push(watcher));
    }

    /// Removes a watcher; writes that began with it still end with it.
    pub(crate) fn remove(&self, watcher: &Arc<dyn Watcher>) {
        self.change(|list| list.retain(|w| !Arc::ptr_eq(w, watcher)));
    }

    fn change(&self, change: impl FnOnce(&mut List)) {
        let mut list = List::clone(&self.list.load());
        change(&mut list);
        let any = !list.is_empty();
        self.list.store(Arc::new(list));
        self.any.store(any, Ordering::Release);
    }
}

/// One write, as a node's watchers see it.
pub(crate) struct Watch {
    seen: Option<Arc<List>>,
    range: Range<u64>,
}

impl Watch {
    /// What watches a request that does not change anything.
    pub(crate) const NOTHING: Watch = Watch {
        seen: None,
        range: 0..0,
    };

    /// Tells the watchers of a node that a write is about to start.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub(crate) async fn begin(
        node: &Node,
        queue: &LocalQueue,
        range: &Range<u64>,
    ) -> Result<Watch> {
        let list = match node.watchers.are_there() {
            true => node.watchers.list.load_full(),
            false => Arc::default(),
        };
        for watcher in list.iter() {
            watcher.before(queue, range.clone()).await?;
        }
        Ok(Watch {
            seen: Some(list),
            range: range.clone(),
        })
    }

    /// Whether no watcher came since; asked after announcing. Else the write begins again.
    pub(crate) fn is_current(&self, node: &Node) -> bool {
        let Some(seen) = &self.seen else {
            return true;
        };
        if !node.watchers.are_there() {
            return true;
        }
        let now = node.watchers.list.load();
        now.iter().all(|w| seen.iter().any(|s| Arc::ptr_eq(w, s)))
    }

    /// Tells them that it has ended, which leaves its announcement only to drains until they have
    /// done what they want to do.
    ///
    /// # Errors
    /// What the caller should hear instead of success.
    pub(crate) async fn end(self, cx: Cx) -> Result<()> {
        let Some(seen) = self.seen.filter(|list| !list.is_empty()) else {
            return Ok(());
        };
        cx.wait_for_others();
        let mut result = Ok(());
        for watcher in seen.iter() {
            let ended = watcher.after(cx.queue(), self.range.clone()).await;
            result = result.and(ended);
        }
        result
    }
}
