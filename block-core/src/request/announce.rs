//! Announcements and claims: who is using which range of which node right now (DESIGN: announce,
//! then look up).
//!
//! Each queue has a table of announcements that only it writes. A request announces itself before
//! it reads a table entry, a claim or a gate, and leaves when its I/O has completed. Whoever needs
//! a range alone publishes a claim first and looks at the announcements afterwards. Both sides put
//! a full fence between their write and their reads, so at least one of them sees the other.
//!
//! A *direct* announcement covers everything below its node: its bytes go straight to the leaf,
//! and it never waits for anybody. A request that must go level by level is *indirect*: it covers
//! its own node alone, and its requests to children are announced there. One that holds a claim is
//! *inert*: no claim waits for it, drains do. Invariant: what waits for a claim is not announced.

use std::ops::Range;

use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering, fence};
use crate::graph::NodeId;
use crate::request::map::Access;
use crate::sync::WaitList;

/// Requests that one queue can have announced; more wait for a free place.
pub(crate) const ANNOUNCEMENTS: usize = 2048;

/// How far an announcement reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Its node and everything below.
    Direct,
    /// Its node alone.
    Indirect,
    /// Only drains care.
    Inert,
}

/// One announcement, as another queue sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announcement {
    pub(crate) node: NodeId,
    pub(crate) access: Access,
    pub(crate) reach: Reach,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Announcement {
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.start < range.end && range.start < self.end
    }
}

const VALID: u64 = 1;
const WRITE: u64 = 2;
const INDIRECT: u64 = 4;
const INERT: u64 = 8;
/// A count that tells one announcement in a place from the next.
const TURN: u64 = 16;
const TURNS: u64 = (1 << NODE_SHIFT) - TURN;
const NODE_SHIFT: u32 = 32;

#[derive(Default)]
struct Entry {
    state: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// Only its own queue looks at this.
    turn: AtomicU64,
}

/// The announcements of one queue. Only that queue's thread calls what changes them.
pub(crate) struct InFlight {
    entries: Box<[Entry]>,
    /// No entry from here on was ever used.
    high: AtomicUsize,
}

impl InFlight {
    pub(crate) fn new() -> InFlight {
        InFlight::with_places(ANNOUNCEMENTS)
    }

    pub(crate) fn with_places(count: usize) -> InFlight {
        let entries = (0..count).map(|_| Entry::default()).collect();
        InFlight {
            entries,
            high: AtomicUsize::new(0),
        }
    }

    /// Publishes; what the caller reads after this is covered.
    pub(crate) fn announce(
        &self,
        slot: u16,
        node: NodeId,
        access: Access,
        reach: Reach,
        range: &Range<u64>,
    ) {
        let index = usize::from(slot);
        if index >= self.high.load(Ordering::Relaxed) {
            self.high.store(index + 1, Ordering::Relaxed);
        }
        let entry = &self.entries[index];
        entry.start.store(range.start, Ordering::Relaxed);
        entry.end.store(range.end, Ordering::Relaxed);
        let write = match access {
            Access::Read => 0,
            Access::Write => WRITE,
        };
        let turn = entry.turn.load(Ordering::Relaxed).wrapping_add(TURN) & TURNS;
        entry.turn.store(turn, Ordering::Relaxed);
        let state = VALID | write | reach_bits(reach) | turn | u64::from(node.0) << NODE_SHIFT;
        entry.state.store(state, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Narrows a direct announcement, or makes it inert.
    pub(crate) fn set_reach(&self, slot: u16, reach: Reach) {
        let entry = &self.entries[usize::from(slot)];
        let state = entry.state.load(Ordering::Relaxed) & !(INDIRECT | INERT);
        entry
            .state
            .store(state | reach_bits(reach), Ordering::Release);
    }

    /// Takes the announcement back; the caller wakes those who wait for it when its batch ends.
    pub(crate) fn leave(&self, slot: u16) {
        self.entries[usize::from(slot)]
            .state
            .store(0, Ordering::Release);
    }

    /// The announcements of readers that satisfy `f`, to ask later whether they have left.
    /// The caller has fenced since its own write.
    pub(crate) fn readers(&self, mut f: impl FnMut(NodeId) -> bool) -> Vec<Reader> {
        let high = self.high.load(Ordering::Relaxed);
        let reader = |(slot, entry): (usize, &Entry)| {
            let state = entry.state.load(Ordering::Acquire);
            let empty = entry.start.load(Ordering::Relaxed) == entry.end.load(Ordering::Relaxed);
            let reads = state & (VALID | WRITE) == VALID && !empty;
            let node = NodeId(u32::try_from(state >> NODE_SHIFT).unwrap_or(u32::MAX));
            (reads && f(node)).then_some(Reader {
                slot,
                state: state & !(INDIRECT | INERT),
            })
        };
        self.entries[..high]
            .iter()
            .enumerate()
            .filter_map(reader)
            .collect()
    }

    /// Whether a reader is still announced.
    pub(crate) fn is_there(&self, reader: &Reader) -> bool {
        let state = self.entries[reader.slot].state.load(Ordering::Acquire);
        state & !(INDIRECT | INERT) == reader.state
    }

    /// Whether any announcement satisfies `f`. The caller has fenced since its own write.
    pub(crate) fn any(&self, mut f: impl FnMut(Announcement) -> bool) -> bool {
        let high = self.high.load(Ordering::Relaxed);
        self.entries[..high].iter().any(|entry| {
            let state = entry.state.load(Ordering::Acquire);
            state & VALID != 0
                && f(Announcement {
                    node: NodeId(u32::try_from(state >> NODE_SHIFT).unwrap_or(u32::MAX)),
                    access: if state & WRITE != 0 {
                        Access::Write
                    } else {
                        Access::Read
                    },
                    reach: match (state & INERT != 0, state & INDIRECT != 0) {
                        (true, _) => Reach::Inert,
                        (false, true) => Reach::Indirect,
                        (false, false) => Reach::Direct,
                    },
                    start: entry.start.load(Ordering::Relaxed),
                    end: entry.end.load(Ordering::Relaxed),
                })
        })
    }
}

/// A reader's announcement, told from later ones in the same place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    slot: usize,
    state: u64,
}

fn reach_bits(reach: Reach) -> u64 {
    match reach {
        Reach::Direct => 0,
        Reach::Indirect => INDIRECT,
        Reach::Inert => INERT,
    }
}

/// What a claim keeps away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// Writers: what is there stays readable until the claimer publishes the new state.
    Write,
    /// Readers and writers: storage that they may be using is about to go.
    Exclusive,
}

struct ClaimRecord {
    id: u64,
    range: Range<u64>,
    kind: ClaimKind,
}

/// The claims and the gate of one node; lives as long as the node, across snapshots.
#[derive(Default)]
pub(crate) struct Claims {
    /// Claims plus drains; 0 lets a request pass with one load.
    obstacles: AtomicU32,
    quiesced: AtomicU32,
    next_id: AtomicU64,
    records: Mutex<Vec<ClaimRecord>>,
    /// Woken when a claim or a drain ends.
    pub(crate) released: WaitList,
}

impl Claims {
    /// Publishes a claim; the caller fences, then waits for what was there before.
    pub(crate) fn publish(&self, range: Range<u64>, kind: ClaimKind) -> u64 {
        let mut records = self.records.lock();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        records.push(ClaimRecord { id, range, kind });
        self.obstacles.fetch_add(1, Ordering::Relaxed);
        id
    }

    /// Whether no claim older than `id` overlaps its range.
    pub(crate) fn is_first(&self, id: u64) -> bool {
        let records = self.records.lock();
        let Some(own) = records.iter().find(|r| r.id == id) else {
            return true;
        };
        !records
            .iter()
            .any(|r| r.id < id && overlap(&r.range, &own.range))
    }

    pub(crate) fn withdraw(&self, id: u64) {
        self.records.lock().retain(|r| r.id != id);
        self.obstacles.fetch_sub(1, Ordering::Release);
        self.released.wake_all();
    }

    pub(crate) fn quiesce(&self) {
        self.quiesced.fetch_add(1, Ordering::Relaxed);
        self.obstacles.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn resume(&self) {
        // Whoever finds the gate open sees what was done while it was closed.
        self.quiesced.fetch_sub(1, Ordering::Release);
        self.obstacles.fetch_sub(1, Ordering::Release);
        self.released.wake_all();
    }

    pub(crate) fn is_quiesced(&self) -> bool {
        self.quiesced.load(Ordering::Acquire) > 0
    }

    /// Whether a claim keeps `access` to `range` out; `None` stands for any range.
    pub(crate) fn keeps_out(&self, access: Access, range: Option<&Range<u64>>) -> bool {
        if self.obstacles.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.records.lock().iter().any(|r| {
            let concerns = match (r.kind, access) {
                (ClaimKind::Write, Access::Read) => false,
                (ClaimKind::Write, Access::Write) | (ClaimKind::Exclusive, _) => true,
            };
            concerns && range.is_none_or(|range| overlap(&r.range, range))
        })
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_seen_until_they_leave() {
        let table = InFlight::new();
        table.announce(3, NodeId(7), Access::Write, Reach::Direct, &(10..20));
        assert!(table.any(|a| a.node == NodeId(7) && a.overlaps(&(19..30))));
        assert!(!table.any(|a| a.overlaps(&(20..30))));
        table.set_reach(3, Reach::Inert);
        assert!(table.any(|a| a.reach == Reach::Inert && a.access == Access::Write));
        table.leave(3);
        assert!(!table.any(|_| true));
    }

    #[test]
    fn a_reader_is_told_from_the_next_in_its_place() {
        let table = InFlight::new();
        table.announce(0, NodeId(7), Access::Read, Reach::Direct, &(0..4096));
        table.announce(1, NodeId(7), Access::Write, Reach::Direct, &(0..4096));
        table.announce(2, NodeId(7), Access::Read, Reach::Indirect, &(0..0));
        let readers = table.readers(|node| node == NodeId(7));
        assert_eq!(readers.len(), 1);
        table.set_reach(0, Reach::Indirect);
        assert!(table.is_there(&readers[0]));
        table.leave(0);
        table.announce(0, NodeId(7), Access::Read, Reach::Direct, &(0..4096));
        assert!(!table.is_there(&readers[0]));
    }

    #[test]
    fn claims_are_served_in_order() {
        let claims = Claims::default();
        let first = claims.publish(0..10, ClaimKind::Write);
        let second = claims.publish(5..15, ClaimKind::Exclusive);
        let apart = claims.publish(20..30, ClaimKind::Write);
        assert!(claims.is_first(first) && !claims.is_first(second) && claims.is_first(apart));
        claims.withdraw(first);
        assert!(claims.is_first(second));
    }

    #[test]
    fn readers_pass_a_write_claim() {
        let claims = Claims::default();
        claims.publish(0..10, ClaimKind::Write);
        assert!(!claims.keeps_out(Access::Read, Some(&(0..10))));
        assert!(claims.keeps_out(Access::Write, Some(&(9..10))));
        assert!(!claims.keeps_out(Access::Write, Some(&(10..11))));
        claims.publish(0..10, ClaimKind::Exclusive);
        assert!(claims.keeps_out(Access::Read, None));
    }
}
