//! Arithmetic of an image's tables: which entry describes which byte.
//! Called by everything; pure. Invariant: made from a checked header, so that shifts are in range.
//! Spec: qcow2 "Host cluster management", "Cluster mapping".

use crate::kit::addr::{GuestOffset, HostOffset};

/// Log2 of the subclusters of a cluster, where clusters have some.
const SUBCLUSTER_ORDER: u32 = 5;

/// Cluster size, refcount width and the width of L2 entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Log2 of the cluster size, 9 to 21.
    pub(super) cluster_bits: u32,
    /// Log2 of the bits of a refcount, 0 to 6.
    pub(super) refcount_order: u32,
    /// Log2 of the 8-byte words of an L2 entry: 0, or 1 with extended L2 entries.
    pub(super) l2_entry_order: u32,
}

impl Geometry {
    /// Bytes of a cluster.
    pub(super) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of a cluster, for memory.
    pub(super) fn cluster_len(self) -> usize {
        1 << self.cluster_bits
    }

    /// 8-byte entries in a cluster: of L1 and refcount tables.
    pub(super) fn entries(self) -> u64 {
        self.cluster_size() / 8
    }

    /// As [`entries`](Self::entries), for memory.
    pub(super) fn entries_len(self) -> usize {
        self.cluster_len() / 8
    }

    /// Whether L2 entries are extended: clusters have subclusters then.
    pub(super) fn is_extended(self) -> bool {
        self.l2_entry_order == 1
    }

    /// Entries in an L2 table.
    pub(super) fn l2_entries(self) -> u64 {
        self.entries() >> self.l2_entry_order
    }

    /// 8-byte words of an L2 entry, for memory.
    pub(super) fn l2_entry_words(self) -> usize {
        1 << self.l2_entry_order
    }

    /// Log2 of the size of a subcluster, in an image that has some.
    pub(super) fn subcluster_bits(self) -> u32 {
        self.cluster_bits - SUBCLUSTER_ORDER
    }

    /// Guest bytes that one L2 table describes.
    pub(super) fn l2_reach(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// The L1 entry of a guest byte.
    pub(super) fn l1_index(self, guest: GuestOffset) -> u64 {
        guest.0 >> (2 * self.cluster_bits - 3 - self.l2_entry_order)
    }

    /// The entry of a guest byte in its L2 table.
    pub(super) fn l2_index(self, guest: GuestOffset) -> usize {
        let index = (guest.0 >> self.cluster_bits) & (self.l2_entries() - 1);
        usize::try_from(index).unwrap_or(usize::MAX)
    }

    /// L1 entries for a disk of `size` bytes.
    pub(super) fn l1_entries(self, size: u64) -> u64 {
        size.div_ceil(self.l2_reach())
    }

    /// Bytes between a byte and the start of its cluster.
    pub(super) fn within(self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// The start of a byte's cluster.
    pub(super) fn floor(self, offset: u64) -> u64 {
        offset & !(self.cluster_size() - 1)
    }

    /// The first cluster boundary at or behind a byte; lengths here are below 2^63.
    pub(super) fn ceil(self, offset: u64) -> u64 {
        self.floor(offset.saturating_add(self.cluster_size() - 1))
    }

    /// Clusters that hold `len` bytes.
    pub(super) fn clusters(self, len: u64) -> u64 {
        len.div_ceil(self.cluster_size())
    }

    /// The number of a host byte's cluster.
    pub(super) fn cluster_of(self, host: HostOffset) -> u64 {
        host.0 >> self.cluster_bits
    }

    /// The first byte of a cluster.
    pub(super) fn host_of(self, cluster: u64) -> HostOffset {
        HostOffset(cluster << self.cluster_bits)
    }

    /// Clusters that one refcount block describes.
    pub(super) fn block_reach(self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// The largest refcount.
    pub(super) fn max_refcount(self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }

    /// Where the refcount of the `index`-th cluster of a block is: the word, and the shift in it.
    ///
    /// Words are big-endian. Refcounts narrower than a byte start at the byte's least bit.
    pub(super) fn refcount_place(self, index: u64) -> (usize, u32) {
        let width = 1u64 << self.refcount_order;
        let bit = index * width;
        let byte = (bit / 8) % 8;
        let shift = match self.refcount_order {
            0..=2 => 56 - 8 * byte + bit % 8,
            _ => 64 - (8 * byte + width),
        };
        let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
        (word, u32::try_from(shift).unwrap_or(0))
    }

    /// The refcount of the `index`-th cluster of a block.
    pub(super) fn count_in(self, words: &[u64], index: u64) -> u64 {
        let (word, shift) = self.refcount_place(index);
        (words.get(word).copied().unwrap_or(0) >> shift) & self.max_refcount()
    }

    /// Sets the refcount of the `index`-th cluster of a block.
    pub(super) fn put_count(self, words: &mut [u64], index: u64, count: u64) {
        let (word, shift) = self.refcount_place(index);
        if let Some(word) = words.get_mut(word) {
            *word = *word & !(self.max_refcount() << shift) | count << shift;
        }
    }
}
