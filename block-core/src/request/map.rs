//! What a range of a node is made of: the vocabulary of [`Driver::try_map`](crate::driver::Driver).
//!
//! Filled by drivers, read by the walk. A `Mapping` has a fixed capacity and lives on the stack,
//! so that a cached request allocates nothing; what does not fit is a miss.

use smallvec::SmallVec;

use crate::engine::LeafId;

/// Extents a mapping can hold.
pub const MAPPING_CAPACITY: usize = 8;

/// What the caller is going to do with the mapped range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Overwrite it in place: only what this node owns alone and may be written without any
    /// change of metadata may be mapped.
    Write,
}

/// A child by its place in the node's list of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeIndex(pub u8);

/// Where one run of bytes of a node comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// From a child, at an offset in the child's address space.
    Child {
        /// Which child.
        edge: EdgeIndex,
        /// First byte there.
        offset: u64,
    },
    /// From a descriptor; only protocol drivers answer this.
    Leaf {
        /// Which descriptor.
        leaf: LeafId,
        /// First byte there.
        offset: u64,
    },
    /// Reads as zeroes, whatever a backing file holds.
    Zero,
    /// Not in this node: from the backing file, or zeroes without one.
    Unallocated,
    /// The node itself must produce the bytes: [`Driver::read_transformed`](crate::driver::Driver::read_transformed).
    Transform,
}

impl Extent {
    /// The same run, `skip` bytes further in.
    pub fn advance(self, skip: u64) -> Extent {
        match self {
            Extent::Child { edge, offset } => Extent::Child {
                edge,
                offset: offset + skip,
            },
            Extent::Leaf { leaf, offset } => Extent::Leaf {
                leaf,
                offset: offset + skip,
            },
            Extent::Zero => Extent::Zero,
            Extent::Unallocated => Extent::Unallocated,
            Extent::Transform => Extent::Transform,
        }
    }

    /// Whether `next` goes on where a run of `len` bytes of `self` ends.
    fn continues(self, len: u64, next: Extent) -> bool {
        match self {
            // Each transformed run (a compressed cluster) is produced by itself.
            Extent::Transform => false,
            Extent::Child { .. } | Extent::Leaf { .. } | Extent::Zero | Extent::Unallocated => {
                self.advance(len) == next
            }
        }
    }
}

/// One run of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes in the run; not 0.
    pub len: u64,
    /// Where they come from.
    pub extent: Extent,
}

/// Whether a mapping could be made from memory alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Lookup {
    /// The mapping covers the whole range.
    Mapped,
    /// It does not: a table must be loaded, something allocated, or there are too many runs.
    Miss,
}

/// The runs of one range, in order.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// Never more than fit inline. Memory that is not in use is not even cleared: the walk makes
    /// several mappings a request.
    pieces: SmallVec<[Piece; MAPPING_CAPACITY]>,
}

impl Mapping {
    /// An empty mapping.
    pub fn new() -> Mapping {
        Mapping::default()
    }

    /// Appends a run, joined to the last one where it goes on there; `Miss` when it does not fit.
    pub fn push(&mut self, len: u64, extent: Extent) -> Lookup {
        if len == 0 {
            return Lookup::Mapped;
        }
        if let Some(last) = self.pieces.last_mut()
            && last.extent.continues(last.len, extent)
        {
            last.len += len;
            return Lookup::Mapped;
        }
        if self.pieces.len() == MAPPING_CAPACITY {
            return Lookup::Miss;
        }
        self.pieces.push(Piece { len, extent });
        Lookup::Mapped
    }

    /// The runs.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Forgets all runs.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Bytes in all runs.
    pub fn len(&self) -> u64 {
        self.pieces().iter().map(|p| p.len).sum()
    }

    /// Whether there is no run.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_runs_join() {
        let mut m = Mapping::new();
        let child = |offset| Extent::Child {
            edge: EdgeIndex(0),
            offset,
        };
        for (len, extent) in [
            (4, child(0)),
            (4, child(4)),
            (4, child(16)),
            (1, Extent::Zero),
            (2, Extent::Zero),
        ] {
            assert_eq!(m.push(len, extent), Lookup::Mapped);
        }
        let want = [(8, child(0)), (4, child(16)), (3, Extent::Zero)];
        assert_eq!(m.pieces(), want.map(|(len, extent)| Piece { len, extent }));
        assert_eq!(m.len(), 15);
    }

    #[test]
    fn overflow_is_a_miss() {
        let mut m = Mapping::new();
        for _ in 0..MAPPING_CAPACITY {
            assert_eq!(m.push(1, Extent::Transform), Lookup::Mapped);
        }
        assert_eq!(m.push(1, Extent::Zero), Lookup::Miss);
    }
}
