//! Changing the length of the guest's disk, and allocating clusters ahead of their use.
//! Called by the driver, drained. Invariant: the header names a longer disk only when its L1 table
//! is durable and its new bytes read as zeroes. Spec: qcow2 "Header", `size` and `l1_size`.

use std::ops::Range;

use block_core::driver::{Preallocation, ZeroFlags};
use block_core::{Error, Result};
use block_schema::types::BlkdebugEvent;

use super::error::ImageError;
use super::header::{MAX_L1_BYTES, Version};
use super::image::Image;
use super::layout::{FullEntry, L2Entry};
use super::map::{Cluster, Run};
use super::read::usize_of;
use crate::kit::addr::{GuestOffset, HostOffset};
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::bytes_be;
use crate::kit::table_cache::{Needs, Pinned};

impl Image {
    /// Sets the length of the disk.
    ///
    /// # Errors
    /// `InvalidOption` for a length off a sector or beyond the format's reach; `Unsupported` for
    /// version 2 images with snapshots; errors of the file.
    pub(super) async fn resize<E: Surroundings>(
        &self,
        env: &E,
        len: u64,
        preallocation: Preallocation,
    ) -> Result<()> {
        if !len.is_multiple_of(512) {
            return Err(Error::invalid(
                "size",
                "The new size must be a multiple of 512",
            ));
        }
        if self.geometry.l1_entries(len).saturating_mul(8) > MAX_L1_BYTES {
            return Err(Error::invalid(
                "size",
                "The image size is too large for its cluster size",
            ));
        }
        if self.version == Version::V2 && self.header.lock().snapshot_count > 0 {
            let what = ImageError::NotBuiltIn {
                what: "resizing a version 2 image with snapshots",
            };
            return Err(self.error(what));
        }
        self.need_data_file()?;
        self.first_write(env).await?;
        let old = self.size();
        if len < old {
            if preallocation != Preallocation::Off {
                let reason = "Preallocation can't be used for shrinking an image";
                return Err(Error::invalid("preallocation", reason));
            }
            return self.shrink(env, len).await;
        }
        let keeps_backing = self.geometry.is_extended();
        if preallocation != Preallocation::Off && env.backing().is_some() && !keeps_backing {
            let what = ImageError::NotBuiltIn {
                what: "preallocation over a backing file",
            };
            return Err(self.error(what));
        }
        // Behind the end of the disk a machine's state may lie, since a snapshot with one was applied.
        let state = self.geometry.ceil(old)..self.geometry.ceil(len);
        self.clear(env, state).await?;
        self.grow_l1(env, self.geometry.l1_entries(len)).await?;
        self.zero_new_range(env, old, len).await?;
        // Only tables that name every cluster agree with a data file that is read alone.
        let tables = match preallocation {
            Preallocation::Off if self.is_data_file_raw() => Preallocation::Metadata,
            mode => mode,
        };
        if tables != Preallocation::Off {
            self.zero_data_behind(env, old..len).await?;
        }
        self.resize_data(env, len, preallocation).await?;
        self.preallocate(env, self.geometry.ceil(old)..len, tables)
            .await?;
        self.flush(env).await?;
        self.update_header(env, |header| header.size = len).await?;
        self.set_size(len);
        self.flush_all(env).await
    }

    async fn shrink<E: Surroundings>(&self, env: &E, len: u64) -> Result<()> {
        let gone = self.geometry.ceil(len)..self.geometry.ceil(self.size());
        let unmap = ZeroFlags {
            may_unmap: true,
            no_fallback: false,
        };
        self.zero_raw_data(env, &gone, unmap).await?;
        self.clear(env, gone).await?;
        self.flush(env).await?;
        self.update_header(env, |header| header.size = len).await?;
        self.set_size(len);
        self.resize_data(env, len, Preallocation::Off).await?;
        self.flush_all(env).await
    }

    /// Moves the L1 table to where it has room for `entries`.
    async fn grow_l1<E: Surroundings>(&self, env: &E, entries: u64) -> Result<()> {
        let (old_at, old_len, old_entries) = {
            let header = self.header.lock();
            (
                header.l1_table,
                header.l1_bytes(),
                u64::from(header.l1_size),
            )
        };
        if entries <= old_entries {
            return Ok(());
        }
        let clusters = self.geometry.clusters(entries * 8);
        env.file().event(BlkdebugEvent::L1GrowAllocTable);
        let at = self.reserve_table(env, clusters).await?;
        // Afterwards the table in memory is the table on disk: requests are drained.
        self.flush(env).await?;
        let words: Vec<u64> = (0..entries).map(|index| self.l1.entry(index).0).collect();
        env.file().event(BlkdebugEvent::L1GrowWriteTable);
        env.file().write_bytes(at.0, &bytes_be(&words)).await?;
        env.file().flush().await?;
        env.file().event(BlkdebugEvent::L1GrowActivateTable);
        self.update_header(env, |header| {
            header.l1_table = at;
            // Bounded by MAX_L1_BYTES.
            header.l1_size = u32::try_from(entries).unwrap_or(u32::MAX);
        })
        .await?;
        if old_len > 0 {
            self.refcounts
                .free_later(old_at, old_len, super::counts::FreeReason::Other);
        }
        Ok(())
    }

    /// Makes bytes that were behind the end of the disk zero: of its last cluster, and of a backing
    /// file that is longer than the disk was.
    async fn zero_new_range<E: Surroundings>(&self, env: &E, old: u64, len: u64) -> Result<()> {
        let backing = env.backing().map_or(0, ImageFile::len);
        let end = self.geometry.ceil(old).max(backing).min(len);
        if old >= end {
            return Ok(());
        }
        // Cut at the cluster: `write_zeroes` takes the end of the disk for the end of a cluster.
        let last = self.geometry.ceil(old).min(end);
        self.zero_partial(env, old..last).await?;
        if last < end {
            let end = self.geometry.ceil(end);
            self.write_zeroes(env, last..end, ZeroFlags::default())
                .await?;
        }
        Ok(())
    }

    /// Zeroes the end of a cluster that holds bytes.
    async fn zero_partial<E: Surroundings>(&self, env: &E, range: Range<u64>) -> Result<()> {
        if self.geometry.is_extended() {
            return self.write_zero_part(env, range, ZeroFlags::default()).await;
        }
        let (key, part) = self.one_table(&range);
        if range.is_empty() {
            return Ok(());
        }
        let stored = match self.table(env, key).await? {
            Some(table) => {
                let run = self.first_run(&table, part).map_err(|e| self.error(e))?;
                matches!(run.cluster, Cluster::Data(_) | Cluster::Compressed(_))
            }
            None => false,
        };
        let shows = env.backing().is_some_and(|b| b.len() > range.start);
        if stored || shows {
            let len = usize_of(range.end - range.start);
            self.write(env, range.start, block_core::IoBuf::zeroed(len))
                .await?;
        }
        Ok(())
    }

    /// Points the entries of a run at its clusters in the data file, whose bytes are zeroes.
    fn name_data(&self, table: &Pinned<'_>, guest: u64, run: Run) {
        let start = HostOffset(self.geometry.floor(guest));
        let first = self.geometry.l2_index(GuestOffset(guest));
        let count = self.geometry.clusters(run.skip + run.len);
        let named = |n: u64| {
            let host = start.plus(n << self.geometry.cluster_bits);
            match (self.geometry.is_extended(), self.is_encrypted()) {
                // Its subclusters go on as they are: none is stored.
                (true, _) => FullEntry {
                    entry: L2Entry::owned(host),
                    ..self.entry_at(table, first + usize_of(n))
                },
                // No bytes of the file are zeroes of an encrypted disk.
                (false, true) => self.full_entry(L2Entry::owned_zero(host)),
                (false, false) => self.full_entry(L2Entry::owned(host)),
            }
        };
        let entries: Vec<FullEntry> = (0..count).map(named).collect();
        self.set_entries(table, first, entries.into_iter(), Needs::Data);
    }

    /// Allocates the unallocated clusters of `range`, which no backing file covers, or whose
    /// subclusters can show it all the same.
    pub(super) async fn preallocate<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
        mode: Preallocation,
    ) -> Result<()> {
        if mode == Preallocation::Off {
            return Ok(());
        }
        if self.is_encrypted() && self.version == Version::V2 {
            let what = "preallocation of an encrypted version 2 image".to_owned();
            return Err(Error::Unsupported {
                node: self.node.clone(),
                what,
            });
        }
        let mut rest = range;
        while rest.start < rest.end {
            let (key, part) = self.one_table(&rest);
            let table = self.owned_table(env, key).await?;
            let run = self.first_run(&table, part).map_err(|e| self.error(e))?;
            rest.start += match run.cluster {
                Cluster::Zero(None) if !self.geometry.is_extended() => run.len,
                Cluster::Unallocated(None) | Cluster::Zero(None) if self.has_data_file() => {
                    self.name_data(&table, rest.start, run);
                    run.len
                }
                Cluster::Unallocated(None) | Cluster::Zero(None) => {
                    let clusters = self.geometry.clusters(run.skip + run.len);
                    let reserved = self.reserve(env, clusters).await?;
                    let (at, count) = (reserved.offset(), reserved.count());
                    let len = count << self.geometry.cluster_bits;
                    let shows = !self.geometry.is_extended() && !reserved.is_fresh();
                    if mode == Preallocation::Full || shows {
                        env.file()
                            .write_zeroes(at.0..at.0 + len, ZeroFlags::default())
                            .await?;
                    }
                    let entry = match self.is_encrypted() {
                        // No bytes of the file are zeroes of an encrypted disk.
                        true => L2Entry::owned_zero,
                        false => L2Entry::owned,
                    };
                    let first = self.geometry.l2_index(GuestOffset(rest.start));
                    let entries = (0..count).map(|n| {
                        let host = at.plus(n << self.geometry.cluster_bits);
                        if !self.geometry.is_extended() {
                            return self.full_entry(entry(host));
                        }
                        // Its subclusters go on as they are: none is stored.
                        let old = self.entry_at(&table, first + usize_of(n));
                        let entry = L2Entry::owned(host);
                        FullEntry { entry, ..old }
                    });
                    let entries: Vec<FullEntry> = entries.collect();
                    self.set_entries(&table, first, entries.into_iter(), Needs::Data);
                    reserved.commit();
                    len - run.skip
                }
                Cluster::Unallocated(Some(_))
                | Cluster::Zero(_)
                | Cluster::Data(_)
                | Cluster::Compressed(_) => run.len,
            };
            drop(table);
            // Before a flush: what is reserved and not written must be in the file, or no entry on
            // disk may name it.
            let end = self.host_end();
            if !self.has_data_file() && env.file().len() < end {
                let mode = match mode {
                    Preallocation::Falloc | Preallocation::Full => Preallocation::Falloc,
                    Preallocation::Off | Preallocation::Metadata => Preallocation::Off,
                };
                env.file().resize(end, mode).await?;
            }
            self.limit_dirty(env).await?;
        }
        Ok(())
    }
}
