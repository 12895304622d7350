//! Counts as they are in the file, for a check.
//! Called by `repair` (compares them with references) and `check_flags` (which of them are one).
//! Invariant: bounded memory; which counts are one is kept by a bit a cluster for many blocks, since a
//! disk written at random asks for another block with every entry of a table. Not here: counts in
//! use (`counts.rs`).

use block_core::Result;

use super::geometry::Geometry;
use super::image::Image;
use super::layout::RefcountTableEntry;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::words_be;

/// Bytes of bits that are kept: of 2 TiB of clusters of 64 KiB.
const MAX_BITS: usize = 4 << 20;

/// A refcount block as a check sees it.
pub(super) enum Stored {
    /// It is nowhere, or behind the end of the file: all its counts are 0.
    None,
    Words(Vec<u64>),
    /// Its offset is off a cluster boundary, or beyond what any file can have.
    Unreadable,
}

/// Which counts of a block are one.
enum Ones {
    None,
    Bits(Box<[u64]>),
    Unreadable,
}

/// Counts as they are in the file, while nobody changes them.
pub(super) struct StoredCounts<'a, E> {
    image: &'a Image,
    env: &'a E,
    /// Blocks by their index; each has one place.
    places: Vec<Option<(u64, Ones)>>,
    /// The block whose counts were asked for last.
    block: Option<(u64, Stored)>,
}

impl Image {
    /// A refcount block as it is in the file, which may be anywhere.
    pub(super) async fn stored_block<E: Surroundings>(
        &self,
        env: &E,
        index: u64,
    ) -> Result<Stored> {
        let entry = {
            let table = self.refcounts.table.lock();
            let place = usize::try_from(index).unwrap_or(usize::MAX);
            table.entries.get(place).copied().unwrap_or(0)
        };
        let Some(at) = RefcountTableEntry(entry).block() else {
            return Ok(Stored::None);
        };
        if self.geometry.within(at.0) != 0 || i64::try_from(at.0).is_err() {
            return Ok(Stored::Unreadable);
        }
        if at.0 >= env.file().len() {
            return Ok(Stored::None);
        }
        let len = self.geometry.cluster_len();
        let bytes = env.file().read_bytes(at.0, len).await?;
        Ok(Stored::Words(words_be(&bytes)))
    }
}

impl<'a, E: Surroundings> StoredCounts<'a, E> {
    pub(super) fn new(image: &'a Image, env: &'a E) -> Self {
        let reach = usize::try_from(image.geometry.block_reach()).unwrap_or(usize::MAX);
        let place = reach / 8 + size_of::<Option<(u64, Ones)>>();
        let blocks = image.refcounts.table.lock().entries.len();
        let count = (MAX_BITS / place).min(blocks).max(1);
        StoredCounts {
            image,
            env,
            places: (0..count).map(|_| None).collect(),
            block: None,
        }
    }

    pub(super) fn env(&self) -> &'a E {
        self.env
    }

    /// Whether a cluster's count is one; `None` when nobody can know it.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn is_one(&mut self, cluster: u64) -> Result<Option<bool>> {
        let reach = self.image.geometry.block_reach();
        let (index, within) = (cluster / reach, cluster % reach);
        let place = usize::try_from(index).unwrap_or(usize::MAX) % self.places.len();
        if let Some(Some((held, ones))) = self.places.get(place)
            && *held == index
        {
            return Ok(ones.has(within));
        }
        let stored = self.image.stored_block(self.env, index).await?;
        let ones = Ones::of(&stored, self.image.geometry);
        let is_one = ones.has(within);
        if let Some(place) = self.places.get_mut(place) {
            *place = Some((index, ones));
        }
        Ok(is_one)
    }

    /// A cluster's count; `None` when nobody can know it.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn of(&mut self, cluster: u64) -> Result<Option<u64>> {
        let reach = self.image.geometry.block_reach();
        let index = cluster / reach;
        let stored = match self.block.take() {
            Some((held, stored)) if held == index => stored,
            Some(_) | None => self.image.stored_block(self.env, index).await?,
        };
        let count = match &stored {
            Stored::None => Some(0),
            Stored::Words(words) => Some(self.image.geometry.count_in(words, cluster % reach)),
            Stored::Unreadable => None,
        };
        self.block = Some((index, stored));
        Ok(count)
    }
}

impl Ones {
    fn of(stored: &Stored, geometry: Geometry) -> Ones {
        let words = match stored {
            Stored::None => return Ones::None,
            Stored::Unreadable => return Ones::Unreadable,
            Stored::Words(words) => words,
        };
        let bits = (0..geometry.block_reach()).step_by(64).map(|first| {
            let bit = |n| u64::from(geometry.count_in(words, first + n) == 1) << n;
            (0..64).fold(0, |bits, n| bits | bit(n))
        });
        Ones::Bits(bits.collect())
    }

    /// Whether the count of a block's cluster is one; `None` when nobody can know it.
    fn has(&self, cluster: u64) -> Option<bool> {
        match self {
            Ones::None => Some(false),
            Ones::Bits(bits) => {
                let word = usize::try_from(cluster / 64).unwrap_or(usize::MAX);
                Some(
                    bits.get(word)
                        .is_some_and(|word| word >> (cluster % 64) & 1 == 1),
                )
            }
            Ones::Unreadable => None,
        }
    }
}
