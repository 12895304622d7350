//! Discard and write zeroes: entries that change without data.
//! Called by the driver with an exclusive claim on the clusters: no read or write of the old host
//! clusters is under way, and none starts before the entries have changed.
//! Invariant: a host cluster is only given up, never reused here; see `cache.rs` for when it is.
//! Spec: qcow2 "Cluster mapping", "Standard Cluster Descriptor", "Extended L2 Entries".

use std::ops::Range;

use block_core::driver::ZeroFlags;
use block_core::{Error, IoBuf, Result};

use super::counts::FreeReason;
use super::header::Version;
use super::image::Image;
use super::layout::{FullEntry, L2Entry};
use super::map::Cluster;
use super::read::usize_of;
use crate::kit::addr::GuestOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::table_cache::{Needs, Pinned};

/// Zero bytes written at once where there is no other way.
const ZERO_CHUNK: u64 = 1 << 20;

/// What becomes of a cluster's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It stays.
    Keep,
    /// It becomes this; the cluster stays in use.
    Relabel(L2Entry),
    /// It becomes this; what it pointed at is given up.
    Replace(L2Entry),
}

impl Image {
    /// Forgets the whole clusters of `range`: they read as zeroes afterwards, also where the backing
    /// file showed through, or, in version 2 with a backing file, stay as they are.
    ///
    /// # Errors
    /// `Corrupt` when an L1 entry is wrong; errors of the file.
    pub(super) async fn discard<E: Surroundings>(&self, env: &E, range: Range<u64>) -> Result<()> {
        let empty = match (self.version, env.backing()) {
            (Version::V3, _) => L2Entry::ZERO,
            (Version::V2, None) => L2Entry::UNALLOCATED,
            // Without a zero flag the backing file's old data would show through.
            (Version::V2, Some(_)) => return Ok(()),
        };
        let (_, whole, _) = self.split(&range);
        let unmap = ZeroFlags {
            may_unmap: self.options.pass_discard_request,
            no_fallback: false,
        };
        self.first_write(env).await?;
        self.zero_raw_data(env, &whole, unmap).await?;
        if self.options.pass_discard_request {
            self.release_data(env, &whole).await;
        }
        let keep = self.options.discard_no_unref && self.version == Version::V3;
        let hides = env.backing().is_some_and(|b| b.len() > whole.start);
        self.change(
            env,
            whole.clone(),
            FreeReason::Request,
            |cluster| match cluster {
                Cluster::Unallocated(None) if hides => Change::Relabel(L2Entry::ZERO),
                Cluster::Unallocated(None) | Cluster::Zero(None) => Change::Keep,
                Cluster::Zero(Some(host))
                | Cluster::Unallocated(Some(host))
                | Cluster::Data(host)
                    if keep && host.owned =>
                {
                    Change::Relabel(L2Entry::owned_zero(host.offset))
                }
                Cluster::Zero(Some(_))
                | Cluster::Unallocated(Some(_))
                | Cluster::Data(_)
                | Cluster::Compressed(_) => Change::Replace(empty),
            },
        )
        .await?;
        self.release_kept(env, whole).await
    }

    /// Gives the bytes of kept clusters back to the file's file system, where that takes them; their
    /// place stays theirs. What is left reads as zeroes, so that entries which are still on disk after
    /// a power cut name zeroes. The caller holds an exclusive claim.
    async fn release_kept<E: Surroundings>(&self, env: &E, whole: Range<u64>) -> Result<()> {
        let keeps = self.options.discard_no_unref && self.options.pass_discard_request;
        if !keeps || self.has_data_file() || self.is_suspect() {
            return Ok(());
        }
        let flags = ZeroFlags {
            may_unmap: true,
            no_fallback: true,
        };
        let mut at = whole.start;
        while at < whole.end {
            let run = self.first_status(env, at..whole.end).await?;
            if let Cluster::Zero(Some(host)) = run.cluster
                && host.owned
            {
                let start = host.offset.0 + run.skip;
                // It may decline.
                let _ = env.file().write_zeroes(start..start + run.len, flags).await;
            }
            at += run.len;
        }
        Ok(())
    }

    /// Makes `range` read as zeroes.
    ///
    /// # Errors
    /// `NOTSUP` when zero bytes would have to be written and the flags forbid it; as `write`.
    pub(super) async fn write_zeroes<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
        flags: ZeroFlags,
    ) -> Result<()> {
        self.first_write(env).await?;
        let (head, whole, tail) = self.split(&range);
        for part in [head, tail] {
            self.write_zero_part(env, part, flags).await?;
        }
        let may_unmap = flags.may_unmap && !self.options.discard_no_unref;
        // Zeroes that may not be unallocated stay zeroes, should the image get a backing file later.
        let hides = !flags.may_unmap || env.backing().is_some_and(|b| b.len() > whole.start);
        self.zero_raw_data(env, &whole, flags).await?;
        if may_unmap && self.options.pass_discard_request {
            self.release_data(env, &whole).await;
        }
        match (self.version, env.backing()) {
            (Version::V3, _) => {
                self.change(env, whole.clone(), FreeReason::Request, |cluster| {
                    zero_change(cluster, may_unmap, hides)
                })
                .await?;
                if flags.may_unmap {
                    self.release_kept(env, whole).await?;
                }
                Ok(())
            }
            (Version::V2, None) => self.discard(env, whole).await,
            (Version::V2, Some(_)) => self.write_zero_bytes(env, whole, flags).await,
        }
    }

    /// The part before the first whole cluster of a range, the whole clusters, and the part behind.
    /// The end of the disk ends a whole cluster.
    fn split(&self, range: &Range<u64>) -> (Range<u64>, Range<u64>, Range<u64>) {
        let end = if range.end >= self.size() {
            self.geometry.ceil(range.end)
        } else {
            self.geometry.floor(range.end)
        };
        let start = self.geometry.ceil(range.start);
        if start >= end {
            return (range.clone(), start..start, range.end..range.end);
        }
        (
            range.start..start,
            start..end,
            end.min(range.end)..range.end,
        )
    }

    /// Zeroes a range without a whole cluster: whole subclusters by their bits, where entries have
    /// some, and the rest by bytes.
    pub(super) async fn write_zero_part<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
        flags: ZeroFlags,
    ) -> Result<()> {
        let mut at = range.start;
        while self.geometry.is_extended() && at < range.end {
            let end = range.end.min(self.geometry.ceil(at + 1));
            let whole = self.whole_subclusters(&(at..end));
            self.zero_raw_data(env, &whole, flags).await?;
            if !whole.is_empty() && self.zero_subclusters(env, whole.clone()).await? {
                self.write_zero_bytes(env, at..whole.start, flags).await?;
                at = whole.end.min(end);
            }
            self.write_zero_bytes(env, at..end, flags).await?;
            at = end;
        }
        self.write_zero_bytes(env, at..range.end, flags).await
    }

    /// The whole subclusters of a range; the end of the disk ends a whole one.
    fn whole_subclusters(&self, range: &Range<u64>) -> Range<u64> {
        let size = 1u64 << self.geometry.subcluster_bits();
        let start = range.start.next_multiple_of(size);
        let end = match range.end >= self.size() {
            true => range.end.next_multiple_of(size),
            false => range.end / size * size,
        };
        start..end.max(start)
    }

    /// Writes zero bytes where the range does not read as zeroes already.
    async fn write_zero_bytes<E: Surroundings>(
        &self,
        env: &E,
        range: Range<u64>,
        flags: ZeroFlags,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (key, mut part) = self.one_table(&(at..range.end));
            part.end = part.end.min(at.saturating_add(ZERO_CHUNK));
            let cluster = match self.table(env, key).await? {
                Some(table) => {
                    let run = self
                        .first_run(&table, part.clone())
                        .map_err(|e| self.error(e))?;
                    part.end = at + run.len;
                    run.cluster
                }
                None => Cluster::Unallocated(None),
            };
            let zero = match cluster {
                Cluster::Zero(_) => true,
                Cluster::Unallocated(_) => env.backing().is_none_or(|b| b.len() <= at),
                Cluster::Data(_) | Cluster::Compressed(_) => false,
            };
            if !zero && flags.no_fallback {
                let what = "writing zeroes without data".to_owned();
                return Err(Error::Unsupported {
                    node: self.node.clone(),
                    what,
                });
            }
            if !zero {
                self.write(env, at, IoBuf::zeroed(usize_of(part.end - at)))
                    .await?;
            }
            at = part.end;
        }
        Ok(())
    }

    /// Makes whole clusters unallocated, even over a backing file: what a shrinking disk loses. The
    /// file gets their space back, whatever is done with what guests discard.
    pub(super) async fn clear<E: Surroundings>(&self, env: &E, whole: Range<u64>) -> Result<()> {
        self.change(env, whole, FreeReason::Shrink, |cluster| match cluster {
            Cluster::Unallocated(None) => Change::Keep,
            Cluster::Unallocated(Some(_))
            | Cluster::Zero(_)
            | Cluster::Data(_)
            | Cluster::Compressed(_) => Change::Replace(L2Entry::UNALLOCATED),
        })
        .await
    }

    async fn change<E: Surroundings>(
        &self,
        env: &E,
        whole: Range<u64>,
        reason: FreeReason,
        rule: impl Fn(Cluster) -> Change,
    ) -> Result<()> {
        self.first_write(env).await?;
        let mut rest = whole;
        while rest.start < rest.end {
            let (key, part) = self.one_table(&rest);
            rest.start = part.end;
            // Without a table all are unallocated: if that is fine for one, it is for all.
            if self.l1.entry(key).0 == 0 && rule(Cluster::Unallocated(None)) == Change::Keep {
                continue;
            }
            let table = self.owned_table(env, key).await?;
            self.change_table(&table, part, reason, &rule);
            drop(table);
            self.limit_dirty(env).await?;
        }
        Ok(())
    }

    fn change_table(
        &self,
        table: &Pinned<'_>,
        part: Range<u64>,
        reason: FreeReason,
        rule: &impl Fn(Cluster) -> Change,
    ) {
        let first = self.geometry.l2_index(GuestOffset(part.start));
        let count = usize_of(self.geometry.clusters(part.end - part.start));
        let mut given_up = Vec::new();
        let mut changed: Option<Range<usize>> = None;
        let mut values: Vec<FullEntry> = Vec::with_capacity(count);
        for index in first..first + count {
            let old = self.entry_at(table, index);
            // A wrong entry stays for `check` to report.
            let change = self.summary(old).map_or(Change::Keep, rule);
            let new = match change {
                Change::Keep => old,
                Change::Relabel(new) => self.full_entry(new),
                Change::Replace(new) => {
                    given_up.push(old.entry);
                    self.full_entry(new)
                }
            };
            if new != old {
                let start = changed.map_or(index, |c| c.start);
                changed = Some(start..index + 1);
            }
            values.push(new);
        }
        let Some(changed) = changed else { return };
        let values = values
            .into_iter()
            .skip(changed.start - first)
            .take(changed.len());
        self.set_entries(table, changed.start, values, Needs::Nothing);
        for old in given_up {
            self.give_up(old, reason);
        }
    }
}

/// How a cluster becomes zeroes in version 3.
fn zero_change(cluster: Cluster, may_unmap: bool, hides_backing: bool) -> Change {
    match cluster {
        Cluster::Zero(None) => Change::Keep,
        Cluster::Unallocated(None) if hides_backing => Change::Relabel(L2Entry::ZERO),
        Cluster::Unallocated(None) => Change::Keep,
        Cluster::Data(host) | Cluster::Unallocated(Some(host)) if host.owned && !may_unmap => {
            Change::Relabel(L2Entry::owned_zero(host.offset))
        }
        Cluster::Zero(Some(_)) if !may_unmap => Change::Keep,
        Cluster::Data(_)
        | Cluster::Unallocated(Some(_))
        | Cluster::Zero(Some(_))
        | Cluster::Compressed(_) => Change::Replace(L2Entry::ZERO),
    }
}
