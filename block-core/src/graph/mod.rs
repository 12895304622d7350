//! The graph: named nodes and the edges between them, as immutable snapshots.
//!
//! Requests walk a snapshot; verbs build the next one as a [`Draft`], check permissions on it and
//! publish it ([`Layer`](crate::layer::Layer)). A node outlives its snapshots; edges belong to
//! them. Indices are valid in one snapshot, ids for the life of the process.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::bitmap::Bitmaps;
use crate::driver::Driver;
use crate::engine::{Leaf, LeafId};
use crate::error::{Error, Result};
use crate::request::announce::Claims;
use crate::request::map::{Access, Extent, Lookup, Mapping};
use crate::request::watch::Watchers;

pub(crate) mod actions;
mod add;
pub(crate) mod blocker;
pub(crate) mod change_options;
pub mod create;
mod draft;
pub mod drain;
pub(crate) mod facts;
pub(crate) mod fixed;
pub mod info;
pub mod open;
pub(crate) mod overlay;
pub mod perm;
pub(crate) mod pivot;
pub mod policy;
pub(crate) mod rebase;
pub mod registry;
mod remove;
pub(crate) mod reopen;
pub(crate) mod transaction;

pub use draft::Draft;

use blocker::Blockers;
use fixed::Fixed;
use open::Origin;
use perm::Role;

/// Names a node for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// A node's place in one snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(u32);

impl NodeIndex {
    fn usize(self) -> usize {
        self.0 as usize
    }
}

/// What a node is besides its driver; fixed when it opens.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The `node-name`, given or made up (`#block…`).
    pub name: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The name shown for the image: a path or URI.
    pub filename: String,
    /// What to do with discards: `true` passes them on.
    pub discard_unmap: bool,
    /// Zero detection for writes.
    pub detect_zeroes: DetectZeroes,
    /// The cache mode shown by queries.
    pub cache: CacheMode,
    /// Whether other writers are tolerated (`force-share`).
    pub force_share: bool,
    /// Whether the node was opened inside another one's options, and goes with it.
    pub anonymous: bool,
    /// Whether the node was opened for a device by its `id`: it goes when a job has led the device
    /// elsewhere, and nothing else uses it.
    pub of_device: bool,
}

/// The schema's `detect-zeroes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectZeroes {
    /// Writes stay writes.
    #[default]
    Off,
    /// Writes of zeroes become `write_zeroes`.
    On,
    /// And may unmap.
    Unmap,
}

/// The schema's `cache` options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheMode {
    /// Writes may complete before they are durable.
    pub writeback: bool,
    /// Bypass the page cache.
    pub direct: bool,
    /// Ignore flushes.
    pub no_flush: bool,
}

impl Default for CacheMode {
    fn default() -> CacheMode {
        CacheMode {
            writeback: true,
            direct: false,
            no_flush: false,
        }
    }
}

/// One driver instance with its name and its claims.
///
/// A node that is opened again is another `Node` of the same id: all that others know it by, and
/// all that they have left at it, moves along.
pub struct Node {
    id: NodeId,
    facts: NodeFacts,
    driver: Box<dyn Driver>,
    bitmaps: Arc<Bitmaps>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) watchers: Arc<Watchers>,
    blockers: Arc<Blockers>,
    /// How it was opened, if that can be done again.
    origin: Option<Origin>,
    /// Somebody was told that the image is corrupt.
    corruption_told: AtomicBool,
    highest_written: AtomicU64,
}

impl Node {
    /// Wraps an opened driver. Such a node cannot be opened again: nobody knows how.
    pub fn new(facts: NodeFacts, driver: Box<dyn Driver>) -> Arc<Node> {
        Node::opened(facts, driver, None)
    }

    /// Wraps a driver that was opened by options.
    pub(crate) fn opened(
        facts: NodeFacts,
        driver: Box<dyn Driver>,
        origin: Option<Origin>,
    ) -> Arc<Node> {
        // 0 is never a node, so that an empty announcement names none.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NodeId(NEXT.fetch_add(1, Ordering::Relaxed));
        Arc::new(Node {
            id,
            facts,
            bitmaps: driver.bitmaps().unwrap_or_default(),
            driver,
            claims: Arc::default(),
            watchers: Arc::default(),
            blockers: Arc::default(),
            origin,
            corruption_told: AtomicBool::new(false),
            highest_written: AtomicU64::new(0),
        })
    }

    /// The same node with a driver that was opened anew. Bitmaps that live in memory move along;
    /// those that are stored have been, and were loaded again.
    pub(crate) fn opened_again(
        &self,
        facts: NodeFacts,
        driver: Box<dyn Driver>,
        origin: Origin,
    ) -> Arc<Node> {
        let bitmaps = match driver.bitmaps() {
            None => Arc::clone(&self.bitmaps),
            Some(loaded) => {
                loaded.adopt(&self.bitmaps);
                loaded
            }
        };
        Arc::new(Node {
            id: self.id,
            facts,
            driver,
            bitmaps,
            claims: Arc::clone(&self.claims),
            watchers: Arc::clone(&self.watchers),
            blockers: Arc::clone(&self.blockers),
            origin: Some(origin),
            corruption_told: AtomicBool::new(false),
            highest_written: AtomicU64::new(0),
        })
    }

    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The node's identity.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The `node-name`.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// What was fixed at opening.
    pub fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.facts.read_only
    }

    /// Whether this is the first time that the image is found corrupt.
    pub(crate) fn tells_corruption(&self) -> bool {
        !self.corruption_told.swap(true, Ordering::Relaxed)
    }

    /// Notes a write that is about to start: in the bitmaps, and how far it goes.
    pub(crate) fn wrote(&self, range: &Range<u64>) {
        self.bitmaps.mark(range);
        // Queues share this: most writes only look.
        if range.end > self.highest_written.load(Ordering::Relaxed) && !range.is_empty() {
            self.highest_written.fetch_max(range.end, Ordering::Relaxed);
        }
    }

    /// The end of the highest byte that somebody wrote to this node, or tried to.
    pub fn highest_written(&self) -> u64 {
        self.highest_written.load(Ordering::Relaxed)
    }

    /// Its dirty bitmaps.
    pub fn bitmaps(&self) -> &Bitmaps {
        &self.bitmaps
    }

    /// The inside.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Node({} {:?})",
            self.driver.format_name(),
            self.facts.name
        )
    }
}

/// A link from a node to a child.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The option that names the child: `file`, `backing`, `children.0` …
    pub name: String,
    /// What the child is for.
    pub role: Role,
    /// The child.
    pub child: NodeIndex,
}

/// A link from a node to a child that stands nowhere yet, or elsewhere in another snapshot.
#[derive(Clone, Debug)]
pub(crate) struct NamedChild {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) child: NodeId,
}

/// A node in a snapshot.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The node.
    pub node: Arc<Node>,
    /// Its children, in the order in which the driver opened them.
    pub edges: Vec<Edge>,
    /// The nodes below, and the node itself; sorted.
    reach: Arc<[NodeId]>,
    below: Arc<[NodeIndex]>,
    writable_below: Arc<[NodeIndex]>,
    backing: Option<NodeIndex>,
    /// Whether no node on the way wants to look at writes.
    plain_writes: bool,
    /// The node whose bytes these are, and by how much they are shifted there.
    target: (NodeIndex, u64),
    /// The nodes on the way there, this one first, and where its first byte is in each.
    passed: Vec<(NodeIndex, u64)>,
    length: Length,
}

/// How long a node is: from `start` to the end of `node`, and not more than `most`.
#[derive(Clone, Copy, Debug)]
struct Length {
    node: NodeIndex,
    start: u64,
    most: u64,
}

/// An immutable state of the whole graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    version: u64,
    entries: Vec<Entry>,
    by_id: HashMap<NodeId, NodeIndex>,
    leaves: HashMap<LeafId, Arc<Leaf>>,
    /// By node; nothing in drafts.
    fixed: Vec<Option<Arc<Fixed>>>,
}

impl Graph {
    /// Counts up with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// All nodes; children stand before their parents.
    pub fn entries(&self) -> impl Iterator<Item = (NodeIndex, &Entry)> {
        (0..).map(NodeIndex).zip(&self.entries)
    }

    /// One node.
    ///
    /// # Panics
    /// When the index is of another snapshot and too large.
    pub fn entry(&self, index: NodeIndex) -> &Entry {
        &self.entries[index.usize()]
    }

    /// Where a node stands in this snapshot.
    pub fn index_of(&self, id: NodeId) -> Option<NodeIndex> {
        self.by_id.get(&id).copied()
    }

    /// As [`index_of`](Graph::index_of), for verbs that need the node.
    ///
    /// # Errors
    /// `NodeNotFound`.
    pub(crate) fn locate(&self, id: NodeId) -> Result<NodeIndex> {
        self.index_of(id).ok_or(Error::NodeNotFound {
            node: String::new(),
        })
    }

    /// Bytes of a node now.
    pub fn len(&self, index: NodeIndex) -> u64 {
        let Length { node, start, most } = self.entry(index).length;
        let end = self.entry(node).node.driver.len();
        end.saturating_sub(start).min(most)
    }

    /// Where a node ends for those above it: a file grows by what they write and reads as zeroes
    /// behind its end, and so does what only shifts a file's bytes. Everything else ends where it
    /// ends.
    pub(crate) fn end_for_parents(&self, index: NodeIndex) -> u64 {
        let Length { node, start, most } = self.entry(index).length;
        match self.entry(node).node.driver.leaf() {
            Some(_) => (i64::MAX as u64).saturating_sub(start).min(most),
            None => self.len(index),
        }
    }

    /// The node of a `node-name`.
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.entries()
            .find(|(_, e)| e.node.name() == name)
            .map(|(index, _)| index)
    }

    /// The backing file of a node.
    pub fn backing(&self, index: NodeIndex) -> Option<NodeIndex> {
        self.entry(index).backing
    }

    /// The child in the role of a format's file or a filter's child: where the bytes live.
    pub fn primary(&self, index: NodeIndex) -> Option<NodeIndex> {
        self.entry(index)
            .edges
            .iter()
            .find(|e| matches!(e.role, Role::Image | Role::Filtered))
            .map(|e| e.child)
    }

    /// A descriptor of this snapshot.
    pub fn leaf(&self, id: LeafId) -> Option<&Arc<Leaf>> {
        self.leaves.get(&id)
    }

    pub(crate) fn has_leaf(&self, id: LeafId) -> bool {
        self.leaves.contains_key(&id)
    }

    /// Whether a request on `from` can touch `to`; a node that has left the graph reaches all.
    pub(crate) fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        match self.index_of(from) {
            Some(index) => self.entry(index).reach.binary_search(&to).is_ok(),
            None => true,
        }
    }

    /// The nodes below `index` that its requests can touch.
    pub(crate) fn below(&self, index: NodeIndex) -> &[NodeIndex] {
        &self.entry(index).below
    }

    /// Those of them that can be written.
    pub(crate) fn writable_below(&self, index: NodeIndex) -> &[NodeIndex] {
        &self.entry(index).writable_below
    }

    /// Whether writes to `index` may go straight to the leaf where they are mapped.
    pub(crate) fn plain_writes(&self, index: NodeIndex) -> bool {
        self.entry(index).plain_writes
    }

    /// Maps a range of a node down to leaves from memory alone; `buf` offsets follow the range.
    pub(crate) fn walk(
        &self,
        index: NodeIndex,
        access: Access,
        range: Range<u64>,
        out: &mut Mapping,
    ) -> Lookup {
        if access == Access::Read
            && let Some(fixed) = self.fixed(index)
        {
            return self.walk_fixed(index, fixed, range, out);
        }
        let entry = self.entry(index);
        let (target, shift) = entry.target;
        let Some(start) = range.start.checked_add(shift) else {
            return Lookup::Miss;
        };
        let Some(end) = range.end.checked_add(shift) else {
            return Lookup::Miss;
        };
        if access == Access::Write {
            for &(passed, shift) in &entry.passed {
                let range = range.start + shift..range.end + shift;
                let node = &self.entry(passed).node;
                if node.watchers.are_there() {
                    return Lookup::Miss;
                }
                node.wrote(&range);
            }
        }
        let entry = self.entry(target);
        let mut pieces = Mapping::new();
        if entry.node.driver.try_map(access, start..end, &mut pieces) == Lookup::Miss {
            return Lookup::Miss;
        }
        let mut at = start;
        for piece in pieces.pieces() {
            let found = match piece.extent {
                Extent::Leaf { .. } => out.push(piece.len, piece.extent),
                Extent::Child { edge, offset } => {
                    let Some(end) = offset.checked_add(piece.len) else {
                        return Lookup::Miss;
                    };
                    let Some(edge) = entry.edges.get(usize::from(edge.0)) else {
                        return Lookup::Miss;
                    };
                    self.walk(edge.child, access, offset..end, out)
                }
                Extent::Zero if access == Access::Read => out.push(piece.len, Extent::Zero),
                Extent::Unallocated if access == Access::Read => {
                    self.walk_backing(entry, at..at + piece.len, out)
                }
                Extent::Zero | Extent::Unallocated | Extent::Transform => Lookup::Miss,
            };
            if found == Lookup::Miss {
                return Lookup::Miss;
            }
            at += piece.len;
        }
        Lookup::Mapped
    }

    /// What shows through an unallocated range: the backing file, and zeroes behind its end.
    fn walk_backing(&self, entry: &Entry, range: Range<u64>, out: &mut Mapping) -> Lookup {
        let Some(backing) = entry.backing else {
            return out.push(range.end - range.start, Extent::Zero);
        };
        let end = self.len(backing).clamp(range.start, range.end);
        if range.start < end
            && self.walk(backing, Access::Read, range.start..end, out) == Lookup::Miss
        {
            return Lookup::Miss;
        }
        out.push(range.end - end, Extent::Zero)
    }
}

impl Graph {
    /// Computes what the walk wants to know of a node whose children are resolved.
    fn resolve(&mut self, index: NodeIndex) {
        let entry = &self.entries[index.usize()];
        let mut reach = vec![entry.node.id];
        let mut below = Vec::new();
        let mut backing = None;
        let facts = &entry.node.facts;
        let mut plain_writes = facts.detect_zeroes == DetectZeroes::Off && facts.cache.writeback;
        for edge in &entry.edges {
            below.push(edge.child);
            below.extend(self.entries[edge.child.usize()].below.iter());
            if edge.role != Role::Cow {
                plain_writes &= self.entries[edge.child.usize()].plain_writes;
            }
            reach.extend(self.entries[edge.child.usize()].reach.iter());
            if edge.role == Role::Cow {
                backing = Some(edge.child);
            }
        }
        reach.sort_unstable();
        reach.dedup();
        below.sort_unstable();
        below.dedup();
        let target = entry
            .node
            .driver
            .shifted_child()
            .and_then(|(edge, shift)| {
                let child = entry.edges.get(usize::from(edge.0))?.child;
                let (target, further) = self.entries[child.usize()].target;
                Some((target, shift.checked_add(further)?))
            })
            .unwrap_or((index, 0));
        let mut passed = vec![(index, 0)];
        if let Some((edge, shift)) = entry.node.driver.shifted_child()
            && let Some(edge) = entry.edges.get(usize::from(edge.0))
            && target.0 != index
        {
            // The sum was checked with the target's.
            let below = &self.entries[edge.child.usize()].passed;
            passed.extend(below.iter().map(|&(node, by)| (node, by + shift)));
        }
        let is_writable = |index: &NodeIndex| !self.entry(*index).node.is_read_only();
        let writable_below = below.iter().copied().filter(is_writable).collect();
        let length = self.length_of(index, entry);
        let id = entry.node.id;
        if let Some(leaf) = entry.node.driver.leaf() {
            self.leaves.insert(leaf.id(), Arc::clone(leaf));
        }
        self.by_id.insert(id, index);
        let entry = &mut self.entries[index.usize()];
        entry.reach = reach.into();
        entry.below = below.into();
        entry.writable_below = writable_below;
        entry.plain_writes = plain_writes;
        entry.backing = backing;
        entry.target = target;
        entry.passed = passed;
        entry.length = length;
    }

    fn length_of(&self, index: NodeIndex, entry: &Entry) -> Length {
        let driver = &entry.node.driver;
        let own = Length {
            node: index,
            start: 0,
            most: u64::MAX,
        };
        let Some((edge, shift)) = driver.len_child() else {
            return own;
        };
        let Some(edge) = entry.edges.get(usize::from(edge.0)) else {
            return own;
        };
        let below = self.entry(edge.child).length;
        Length {
            node: below.node,
            // A start that no byte can have leaves no byte.
            start: below.start.saturating_add(shift),
            most: below.most.saturating_sub(shift).min(driver.len()),
        }
    }

    fn resolve_all(&mut self) {
        self.by_id.clear();
        self.leaves.clear();
        for index in 0..self.entries.len() {
            self.resolve(NodeIndex(u32::try_from(index).unwrap_or(u32::MAX)));
        }
    }

    /// Puts children before their parents again.
    fn sort(&mut self) {
        let mut order: Vec<NodeIndex> = Vec::with_capacity(self.entries.len());
        let mut placed = vec![false; self.entries.len()];
        while order.len() < self.entries.len() {
            let before = order.len();
            for (index, entry) in self.entries.iter().enumerate() {
                if !placed[index] && entry.edges.iter().all(|e| placed[e.child.usize()]) {
                    placed[index] = true;
                    order.push(NodeIndex(u32::try_from(index).unwrap_or(u32::MAX)));
                }
            }
            assert!(order.len() > before, "edges make no cycle");
        }
        let mut place = vec![NodeIndex(0); order.len()];
        for (new, old) in order.iter().enumerate() {
            place[old.usize()] = NodeIndex(u32::try_from(new).unwrap_or(u32::MAX));
        }
        let mut entries: Vec<Entry> = order
            .iter()
            .map(|old| self.entries[old.usize()].clone())
            .collect();
        for edge in entries.iter_mut().flat_map(|e| &mut e.edges) {
            edge.child = place[edge.child.usize()];
        }
        self.entries = entries;
    }
}
