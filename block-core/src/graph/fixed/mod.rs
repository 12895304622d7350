//! The fixed part of a chain: images below the active one, which nobody can change, and what was
//! found out about them, so that a read costs one look however many they are.
//!
//! An image is *fixed* in a snapshot when it is read-only there, as is the node that it ends with,
//! and its other children lead to the same place for ever. Then nobody writes, allocates, discards,
//! populates or resizes it: the request path refuses each on a read-only node, and a verb that makes
//! it writable opens it again as another [`Node`](super::Node), in another graph. Nor can anybody
//! else write its file: a format lets nobody (`perm`), whatever it does itself; and with
//! `force-share`, where others may, the tables that the driver holds are as old as what is kept here.
//! So which leaf holds a byte of a run of fixed images is the same as long as the snapshot lives.
//! What changes a read-only node all the same (an internal snapshot that is shown, a repair) does so
//! while the node is drained and publishes a graph of its own before the drain ends
//! (`Change::publish_again`).
//!
//! What was found is kept by the snapshot and dies with it. Drafts keep nothing: their edges move.
//! A request is announced before it looks, and checks after that whether its snapshot is the current
//! one: what it finds here is as good as what it would find in the drivers' tables. A direct
//! announcement stands for all nodes below its root, whether or not the walk asks them.
//!
//! The disk is cut into granules, as large as the smallest cluster of the images. Each has one slot
//! (`slots.rs`), shared with others of a large disk, which holds the run that was looked for last: its
//! range, and a leaf with an offset, or zeroes, or that it shows through to what is below the fixed
//! images (which may change, and is walked each time), or which node has to produce the bytes. The
//! last is for the long way, which starts at that node; it is never data. Slots are 32 bytes; a
//! head of a chain has at most [`MAX_SLOTS`] of them, 8 MiB, and memory only for those in use.
//!
//! Not here: writable nodes, which the walk asks each time (`graph/mod.rs`); the long way (`request/through.rs`).

mod slots;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use slots::Slots;

use super::perm::Role;
use super::{Entry, Graph, NodeIndex};
use crate::engine::LeafId;
use crate::request::map::{Access, EdgeIndex, Extent, Lookup, Mapping};

/// Fewer images are asked one by one: that costs as much as looking here.
const MIN_IMAGES: u32 = 3;
/// Slots of one head; with clusters of 64 KiB they are for 16 GiB.
const MAX_SLOTS: u64 = 1 << 18;
/// Bits of the smallest and the largest granule.
const GRANULE_BITS: Range<u32> = 12..22;

/// Fixed images from one node down, and what was found out about them.
#[derive(Debug)]
pub(super) struct Fixed {
    /// How many, this one included.
    images: u32,
    granule_bits: u32,
    slots: u64,
    /// Made when a request first enters here; nothing when there is no memory.
    known: OnceLock<Option<Slots>>,
}

/// A run of a node's bytes with one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// In the node that was asked, within one granule.
    range: Range<u64>,
    place: Place,
}

/// Where the first byte of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it reads as zeroes.
    Zero,
    /// In a descriptor.
    Leaf(LeafId, u64),
    /// In none of the images: what is behind this one, the lowest, shows through.
    Behind(NodeIndex, u64),
    /// In this image, which has to produce the bytes.
    Inside(NodeIndex, u64),
}

impl Place {
    fn advance(self, skip: u64) -> Place {
        match self {
            Place::Zero => Place::Zero,
            Place::Leaf(leaf, offset) => Place::Leaf(leaf, offset + skip),
            Place::Behind(node, offset) => Place::Behind(node, offset + skip),
            Place::Inside(node, offset) => Place::Inside(node, offset + skip),
        }
    }
}

impl Run {
    /// The part of the run from `at` on, and not behind `end`: how long it is and where it starts.
    fn part(&self, at: u64, end: u64) -> (u64, Place) {
        let skip = at - self.range.start;
        (self.range.end.min(end) - at, self.place.advance(skip))
    }
}

const LEN_BITS: u32 = 30;
const NUMBER_BITS: u32 = 32;

impl Run {
    fn encode(&self) -> [u64; 3] {
        let (kind, number, offset) = match self.place {
            Place::Zero => (0, 0, 0),
            Place::Leaf(leaf, offset) => (1, leaf.index() as u64, offset),
            Place::Behind(node, offset) => (2, u64::from(node.0), offset),
            Place::Inside(node, offset) => (3, u64::from(node.0), offset),
        };
        let len = self.range.end - self.range.start;
        let packed = len | kind << LEN_BITS | number << NUMBER_BITS;
        [self.range.start, packed, offset]
    }

    /// A slot that nothing was put into is a run of no bytes.
    fn decode([start, packed, offset]: [u64; 3]) -> Run {
        let len = packed & ((1 << LEN_BITS) - 1);
        let number = u32::try_from(packed >> NUMBER_BITS).unwrap_or(u32::MAX);
        let place = match packed >> LEN_BITS & 3 {
            1 => LeafId::from_index(number as usize)
                .map_or(Place::Zero, |leaf| Place::Leaf(leaf, offset)),
            2 => Place::Behind(NodeIndex(number), offset),
            3 => Place::Inside(NodeIndex(number), offset),
            _ => Place::Zero,
        };
        Run {
            range: start..start + len,
            place,
        }
    }
}

impl Fixed {
    fn granule(&self, at: u64) -> Range<u64> {
        let start = at >> self.granule_bits << self.granule_bits;
        start..start.saturating_add(1 << self.granule_bits)
    }

    fn slot(&self, at: u64) -> usize {
        let slot = at >> self.granule_bits & (self.slots - 1);
        usize::try_from(slot).unwrap_or(usize::MAX)
    }

    fn known(&self, at: u64) -> Option<Run> {
        let slots = self.known.get()?.as_ref()?;
        let run = Run::decode(slots.get(self.slot(at))?);
        run.range.contains(&at).then_some(run)
    }

    fn keep(&self, run: &Run) {
        let count = usize::try_from(self.slots).unwrap_or(usize::MAX);
        if let Some(slots) = self.known.get_or_init(|| Slots::new(count)) {
            slots.put(self.slot(run.range.start), run.encode());
        }
    }
}

/// What is computed of a node on the way up.
#[derive(Clone, Copy)]
struct Below {
    /// Whether what it maps to is the same for ever.
    steady: bool,
    /// Fixed images from here down.
    images: u32,
    /// The smallest unit of those that map.
    unit: u32,
}

impl Graph {
    /// Finds the fixed images; the graph does not change any more.
    pub(super) fn find_fixed(&mut self) {
        let mut below: Vec<Below> = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let found = self.look_below(entry, &below);
            below.push(found);
        }
        let fixed = |(found, (index, _)): (&Below, (NodeIndex, &Entry))| {
            (found.images >= MIN_IMAGES).then(|| {
                let granule_bits = found
                    .unit
                    .ilog2()
                    .clamp(GRANULE_BITS.start, GRANULE_BITS.end - 1);
                let granules = (self.len(index) >> granule_bits) + 1;
                Arc::new(Fixed {
                    images: found.images,
                    granule_bits,
                    slots: granules.min(MAX_SLOTS).next_power_of_two(),
                    known: OnceLock::new(),
                })
            })
        };
        self.fixed = below.iter().zip(self.entries()).map(fixed).collect();
    }

    fn look_below(&self, entry: &Entry, below: &[Below]) -> Below {
        let of = |index: NodeIndex| below.get(index.usize());
        let steady = |index: NodeIndex| of(index).is_some_and(|found| found.steady);
        let keeps_its_length = |entry: &Entry| {
            let end = &self.entry(entry.length.node).node;
            entry.node.is_read_only() && end.is_read_only()
        };
        let is_fixed = keeps_its_length(entry);
        let leads_on = entry.edges.iter().all(|edge| {
            let child = self.entry(edge.child);
            steady(edge.child) && (edge.role != Role::Cow || keeps_its_length(child))
        });
        let driver = entry.node.driver();
        // A descriptor's bytes are where they are, and every change of its file is another leaf.
        let is_steady = driver.leaf().is_some() || is_fixed && leads_on;
        let (target, _) = entry.target;
        // Its own children stand before it, and it before or at this node.
        let image = self.entry(target);
        let children = image.edges.iter().map(|edge| edge.child);
        let mut own = children.filter(|&child| Some(child) != image.backing);
        let image_is_fixed = is_fixed && image.node.is_read_only() && own.all(steady);
        if !image_is_fixed {
            return Below {
                steady: is_steady,
                images: 0,
                unit: u32::MAX,
            };
        }
        let behind = image.backing.and_then(of);
        let unit = match image.node.driver().supports_backing() {
            true => image.node.driver().limits().optimal_transfer.max(1),
            // Its bytes are in one piece.
            false => u32::MAX,
        };
        Below {
            steady: is_steady,
            images: 1 + behind.map_or(0, |found| found.images),
            unit: behind.map_or(unit, |found| unit.min(found.unit)),
        }
    }

    /// Whether reads of a node are looked up here.
    pub(super) fn fixed(&self, index: NodeIndex) -> Option<&Fixed> {
        self.fixed.get(index.usize())?.as_deref()
    }

    /// As [`walk`](Graph::walk), for reads of fixed images.
    pub(super) fn walk_fixed(
        &self,
        index: NodeIndex,
        fixed: &Fixed,
        range: Range<u64>,
        out: &mut Mapping,
    ) -> Lookup {
        let mut at = range.start;
        while at < range.end {
            let Some(run) = self.run_at(index, fixed, at..range.end) else {
                return Lookup::Miss;
            };
            let (len, place) = run.part(at, range.end);
            let lookup = match place {
                Place::Zero => out.push(len, Extent::Zero),
                Place::Leaf(leaf, offset) => out.push(len, Extent::Leaf { leaf, offset }),
                Place::Behind(image, offset) => {
                    self.walk_backing(self.entry(image), offset..offset + len, out)
                }
                Place::Inside(..) => Lookup::Miss,
            };
            if lookup == Lookup::Miss {
                return Lookup::Miss;
            }
            at += len;
        }
        Lookup::Mapped
    }

    /// The run of the first byte of `wanted`, from memory alone.
    fn run_at(&self, index: NodeIndex, fixed: &Fixed, wanted: Range<u64>) -> Option<Run> {
        if let Some(run) = fixed.known(wanted.start) {
            return Some(run);
        }
        let mut around = fixed.granule(wanted.start);
        around.end = around.end.min(self.len(index));
        let wanted = wanted.start..wanted.end.min(around.end);
        let mut descent = Descent::new(self, index, around, wanted)?;
        loop {
            let driver = self.entry(descent.image).node.driver();
            let mut pieces = Mapping::new();
            if driver.try_map(Access::Read, descent.asked(), &mut pieces) == Lookup::Miss {
                // What was asked for may be there when all around it is not.
                descent.narrow();
                pieces.clear();
                if driver.try_map(Access::Read, descent.asked(), &mut pieces) == Lookup::Miss {
                    return None;
                }
            }
            match descent.step(self, &pieces) {
                Step::Down => {}
                Step::End(Arrived::Run(run)) => {
                    fixed.keep(&run);
                    return Some(run);
                }
                Step::End(Arrived::Here) => return None,
            }
        }
    }
}

/// Where a step of a descent led.
pub(crate) enum Step {
    /// One image further down.
    Down,
    /// To the image that says what the byte is.
    End(Arrived),
}

/// What an image says about the wanted byte.
pub(crate) enum Arrived {
    /// Which run it is in.
    Run(Run),
    /// That it has it, by a way that is not in memory.
    Here,
}

const HERE: Step = Step::End(Arrived::Here);

/// The way down fixed images, for the run of one byte.
pub(crate) struct Descent {
    /// The image that is asked next, and what an offset of the node on top is there: so much more.
    image: NodeIndex,
    further: u64,
    images: u32,
    /// From the image on.
    images_left: u32,
    /// Of the node on top: what may be in one run with the wanted byte.
    within: Range<u64>,
    /// What is asked for, from the wanted byte on.
    wanted: Range<u64>,
}

impl Descent {
    /// Starts at a node that has fixed images; `None` when it has not, or the range is not in it.
    fn new(
        graph: &Graph,
        index: NodeIndex,
        within: Range<u64>,
        wanted: Range<u64>,
    ) -> Option<Descent> {
        let fixed = graph.fixed(index)?;
        let (image, further) = graph.entry(index).target;
        within.end.checked_add(further)?;
        (within.start <= wanted.start && wanted.start < wanted.end && wanted.end <= within.end)
            .then_some(Descent {
                image,
                further,
                images: fixed.images,
                images_left: fixed.images,
                within,
                wanted,
            })
    }

    /// The range to ask of the image.
    pub(crate) fn asked(&self) -> Range<u64> {
        self.within.start + self.further..self.within.end + self.further
    }

    /// Asks for no more than what is wanted.
    fn narrow(&mut self) {
        self.within.start = self.wanted.start;
        self.within.end = self.within.end.min(self.wanted.end);
    }

    /// The image that is asked.
    pub(crate) fn image(&self) -> NodeIndex {
        self.image
    }

    /// The wanted byte and what follows it, as far as it is known to be in one run: as a range of
    /// the image.
    pub(crate) fn rest(&self) -> Range<u64> {
        let end = self.within.end.min(self.wanted.end);
        self.wanted.start + self.further..end + self.further
    }

    /// How many images are above the one that is asked.
    pub(crate) fn passed(&self) -> u32 {
        self.images - self.images_left
    }

    /// How many of the wanted bytes are in one place, and which.
    pub(crate) fn place(&self, arrived: Arrived) -> (u64, Place) {
        match arrived {
            Arrived::Run(run) => run.part(self.wanted.start, self.wanted.end),
            Arrived::Here => {
                let Range { start, end } = self.rest();
                (end - start, Place::Inside(self.image, start))
            }
        }
    }

    /// Goes on by what the image says about the range that was asked of it, or about its beginning
    /// up to the wanted byte at least.
    pub(crate) fn step(&mut self, graph: &Graph, pieces: &Mapping) -> Step {
        let at = self.wanted.start;
        let mut start = self.within.start;
        for piece in pieces.pieces() {
            let end = start + piece.len;
            if at < end {
                self.within = start..end.min(self.within.end);
                return self.go(graph, piece.extent);
            }
            start = end;
        }
        HERE
    }

    fn go(&mut self, graph: &Graph, extent: Extent) -> Step {
        let start = self.within.start;
        match extent {
            Extent::Zero => self.found(Place::Zero),
            Extent::Leaf { leaf, offset } => self.found(Place::Leaf(leaf, offset)),
            Extent::Transform => self.found(Place::Inside(self.image, start + self.further)),
            Extent::Child { edge, offset } => self.in_child(graph, edge, offset),
            Extent::Unallocated => self.down(graph),
        }
    }

    fn found(&self, place: Place) -> Step {
        let range = self.within.clone();
        Step::End(Arrived::Run(Run { range, place }))
    }

    /// Follows the image's own child, which is steady.
    fn in_child(&mut self, graph: &Graph, edge: EdgeIndex, offset: u64) -> Step {
        let start = self.within.start;
        let Some(edge) = graph.entry(self.image).edges.get(usize::from(edge.0)) else {
            return HERE;
        };
        let walk = |range: &Range<u64>| {
            let below = offset.checked_add(range.start - start)?;
            let end = below.checked_add(range.end - range.start)?;
            let mut pieces = Mapping::new();
            let lookup = graph.walk(edge.child, Access::Read, below..end, &mut pieces);
            (lookup == Lookup::Mapped).then_some(pieces)
        };
        let pieces = match walk(&self.within) {
            Some(pieces) => pieces,
            None => {
                self.narrow();
                match walk(&self.within) {
                    Some(pieces) => pieces,
                    None => return HERE,
                }
            }
        };
        let mut start = self.within.start;
        for piece in pieces.pieces() {
            let end = start + piece.len;
            if self.wanted.start < end {
                self.within = start..end;
                return match piece.extent {
                    Extent::Zero => self.found(Place::Zero),
                    Extent::Leaf { leaf, offset } => self.found(Place::Leaf(leaf, offset)),
                    Extent::Child { .. } | Extent::Unallocated | Extent::Transform => HERE,
                };
            }
            start = end;
        }
        HERE
    }

    fn down(&mut self, graph: &Graph) -> Step {
        let Some(backing) = graph.backing(self.image) else {
            return self.found(Place::Zero);
        };
        if self.images_left == 1 {
            let offset = self.within.start + self.further;
            return self.found(Place::Behind(self.image, offset));
        }
        // Behind the end of a shorter image there are zeroes.
        let end = graph.len(backing).saturating_sub(self.further);
        if end <= self.wanted.start {
            self.within.start = self.within.start.max(end);
            return self.found(Place::Zero);
        }
        self.within.end = self.within.end.min(end);
        let (image, shift) = graph.entry(backing).target;
        let further = self.further.checked_add(shift);
        let Some(further) = further.filter(|&by| self.within.end.checked_add(by).is_some()) else {
            return HERE;
        };
        self.image = image;
        self.further = further;
        self.images_left -= 1;
        Step::Down
    }
}

/// What the long way needs: a byte's place, or the descent that is to find it.
pub(crate) enum Start {
    /// It is known.
    Known(u64, Place),
    /// It is not: images have to be asked, from the first.
    Ask(Descent),
}

impl Graph {
    /// Where to look for the first byte of `wanted` when memory alone may not do; `None` for a node
    /// without fixed images.
    pub(crate) fn start_through(&self, index: NodeIndex, wanted: Range<u64>) -> Option<Start> {
        let fixed = self.fixed(index)?;
        if let Some(run) = fixed.known(wanted.start) {
            let (len, place) = run.part(wanted.start, wanted.end);
            return Some(Start::Known(len, place));
        }
        self.descend(index, wanted).map(Start::Ask)
    }

    /// The way down a node's fixed images to the one that says what the first byte of `wanted` is.
    pub(crate) fn descend(&self, index: NodeIndex, wanted: Range<u64>) -> Option<Descent> {
        Descent::new(self, index, wanted.clone(), wanted)
    }

    /// Whether a node has fixed images that are looked up here.
    pub(crate) fn has_fixed(&self, index: NodeIndex) -> bool {
        self.fixed(index).is_some()
    }
}
