//! Places for compressed clusters: bytes of host clusters, one behind the other.
//! Called by `compressed`. Several compressed clusters share a host cluster, which counts a
//! reference for each of them. Where the next one goes is kept in memory alone: what is left of a
//! host cluster when the image is closed belongs to the clusters in it, and leaks nothing.
//! Invariants: one request at a time takes places; the open host cluster is counted, and as soon as
//! nothing refers to it any more, it is open no longer.
//! Spec: qcow2 "Compressed Clusters Descriptor". Not here: what is written there.

use block_core::Result;
use block_schema::types::BlkdebugEvent;
use rustix::io::Errno;

use super::counts::{FreeReason, Refcounts};
use super::image::Image;
use super::layout::L2Entry;
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};

/// A place of a compressed cluster; given up when dropped before [`commit`](Self::commit).
pub(super) struct Packing<'a> {
    refcounts: &'a Refcounts,
    at: HostOffset,
    len: u64,
    entry: L2Entry,
    committed: bool,
}

impl Packing<'_> {
    /// The first byte.
    pub(super) fn offset(&self) -> HostOffset {
        self.at
    }

    /// The entry that points there.
    pub(super) fn entry(&self) -> L2Entry {
        self.entry
    }

    /// Keeps the place: something in memory points at it now.
    pub(super) fn commit(mut self) {
        self.committed = true;
    }
}

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.refcounts
                .free_later(self.at, self.len, FreeReason::Other);
        }
    }
}

impl Image {
    /// Takes a place for each of `lens`, which are not 0 and less than a cluster; they lie in their
    /// order, and next to each other where there is room.
    ///
    /// # Errors
    /// As [`reserve`](Image::reserve); `FBIG` when entries cannot name places so far behind.
    pub(super) async fn pack<E: Surroundings>(
        &self,
        env: &E,
        lens: impl Iterator<Item = u64>,
    ) -> Result<Vec<Packing<'_>>> {
        let _one = self.refcounts.packing.lock().await;
        env.file().event(BlkdebugEvent::ClusterAllocBytes);
        let mut places = Vec::new();
        for len in lens {
            let at = match self.pack_into_open(env, len).await? {
                Some(at) => at,
                None => self.pack_into_new(env, len).await?,
            };
            let entry = L2Entry::packed(at, len, self.geometry.cluster_bits);
            let place = Packing {
                refcounts: &self.refcounts,
                at,
                len,
                entry: entry.unwrap_or(L2Entry::UNALLOCATED),
                committed: false,
            };
            if entry.is_none() {
                return Err(self.no_space(Errno::FBIG));
            }
            places.push(place);
        }
        Ok(places)
    }

    /// A place in the open host cluster, if there is room and its count can rise.
    async fn pack_into_open<E: Surroundings>(
        &self,
        env: &E,
        len: u64,
    ) -> Result<Option<HostOffset>> {
        let open = self.refcounts.state.lock().open;
        let Some(at) = open.filter(|&at| self.room(at) >= len) else {
            return Ok(None);
        };
        let taken = self.raise_open(env, at, at.plus(len)).await?;
        Ok(taken.then_some(at))
    }

    /// A place at the start of a host cluster of its own, or, where that follows the open one, from
    /// there on.
    async fn pack_into_new<E: Surroundings>(&self, env: &E, len: u64) -> Result<HostOffset> {
        let reserved = self.reserve(env, 1).await?;
        let start = reserved.offset();
        let open = self.refcounts.state.lock().open;
        if let Some(at) = open.filter(|&at| at.plus(self.room(at)) == start)
            && self.raise_open(env, at, at.plus(len)).await?
        {
            reserved.commit();
            return Ok(at);
        }
        reserved.commit();
        let mut state = self.refcounts.state.lock();
        state.open = self.still_open(start.plus(len));
        state.has_packed = true;
        Ok(start)
    }

    /// Counts one more reference to the open host cluster, and moves the open place to `next`;
    /// false when it is not open at `at` any more, or its count is as high as it can be.
    async fn raise_open<E: Surroundings>(
        &self,
        env: &E,
        at: HostOffset,
        next: HostOffset,
    ) -> Result<bool> {
        let cluster = self.geometry.cluster_of(at);
        let block = self.block(env, cluster / self.geometry.block_reach());
        let Some(block) = block.await? else {
            return Ok(false);
        };
        let next = self.still_open(next);
        Ok(self.refcounts.raise_open(&block, at, next))
    }

    /// Bytes from an open place to the end of its host cluster.
    fn room(&self, at: HostOffset) -> u64 {
        self.geometry.cluster_size() - self.geometry.within(at.0)
    }

    /// A place inside a host cluster; none at its end.
    fn still_open(&self, at: HostOffset) -> Option<HostOffset> {
        (self.geometry.within(at.0) != 0).then_some(at)
    }
}
