//! Compressed writes: whole clusters, compressed by the thread pool, several at once.
//! Called by the driver with a claim on the clusters, as `write` is.
//! Invariant: as in `write`, an entry in memory names compressed bytes only when they have been
//! written, and whoever fails before that gives their place up. A cluster of zeroes becomes a zero
//! cluster, one that does not get shorter is written as it is.
//! Spec: qcow2 "Compressed Clusters Descriptor". Not here: where they go (`pack.rs`).

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use block_core::atomic::Mutex;
use block_core::driver::ZeroFlags;
use block_core::sync::WaitList;
use block_core::{Error, IoBuf, Result};
use block_schema::types::BlkdebugEvent;

use super::counts::FreeReason;
use super::header::{Compression, Version};
use super::image::Image;
use super::layout::{FullEntry, incompatible};
use super::pack::Packing;
use super::read::{slice, usize_of};
use crate::kit::addr::GuestOffset;
use crate::kit::compress::{HAS_ZSTD, Idle, deflate_raw, zstd_frame};
use crate::kit::image_file::{ImageFile, Surroundings, join_all};
use crate::kit::table_cache::Needs;

/// Bytes that a thread compresses at a time, unless a cluster has more: enough to be worth waking it.
const JOB_BYTES: u64 = 256 << 10;
/// Jobs under way for one request.
const JOBS: u64 = 64;

/// Threads that compress for one image, where there are no more processors: one may wait for its own.
const MIN_THREADS: usize = 4;

/// Who compresses for an image: threads beyond the processors would only have more in memory.
#[derive(Default)]
pub(super) struct Compressing {
    busy: Mutex<usize>,
    left: WaitList,
}

/// A place among those who compress, until it is dropped.
struct Place<'a>(&'a Compressing);

impl Compressing {
    async fn place(&self) -> Place<'_> {
        static MOST: OnceLock<usize> = OnceLock::new();
        let processors = || available_parallelism().map_or(1, NonZeroUsize::get);
        let most = *MOST.get_or_init(|| processors().max(MIN_THREADS));
        let enter = || {
            let mut busy = self.busy.lock();
            let is_free = *busy < most;
            *busy += usize::from(is_free);
            is_free
        };
        self.left.wait_until(enter).await;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.busy.lock() -= 1;
        self.0.left.wake_all();
    }
}

/// What a cluster is stored as.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Zero,
    Plain,
    Packed(Vec<u8>),
}

impl Form {
    /// Whether two clusters are stored by the same steps.
    fn is_like(&self, other: &Form) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// How clusters are compressed.
#[derive(Clone, Copy)]
struct Codec {
    compression: Compression,
    cluster_len: usize,
    /// Whether zeroes can be stored without bytes.
    zero_clusters: bool,
}

impl Image {
    /// Writes `buf` at `offset`, compressed. The caller holds a claim on the clusters.
    ///
    /// # Errors
    /// `InvalidOption` when the range is not whole clusters, but for the disk's end; `Unsupported`
    /// for images that hold no compressed clusters; else as [`write`](Image::write).
    pub(super) async fn write_compressed<E: Surroundings>(
        &self,
        env: &E,
        offset: u64,
        buf: IoBuf,
    ) -> Result<()> {
        let end = offset + buf.len() as u64;
        self.check_compressible(offset..end)?;
        self.first_write(env).await?;
        let unit = JOB_BYTES.max(self.geometry.cluster_size()) * JOBS;
        let mut at = offset;
        while at < end {
            let len = unit.min(end - at);
            let part = slice(&buf, at - offset, len);
            let forms = self.compress(env, &part).await?;
            self.write_forms(env, at, &part, &forms).await?;
            at += len;
        }
        Ok(())
    }

    fn check_compressible(&self, range: Range<u64>) -> Result<()> {
        let refused = if self.is_encrypted() {
            Some("compressed clusters of an encrypted image")
        } else if self.header.lock().has(incompatible::DATA_FILE) {
            Some("compressed clusters of an image with an external data file")
        } else if self.compression == Compression::Zstd && !HAS_ZSTD {
            Some("zstd compression")
        } else {
            None
        };
        if let Some(what) = refused {
            return Err(Error::Unsupported {
                node: self.node.clone(),
                what: what.to_owned(),
            });
        }
        let whole = |at| self.geometry.within(at) == 0;
        if whole(range.start) && (whole(range.end) || range.end == self.size()) {
            return Ok(());
        }
        let size = self.geometry.cluster_size();
        let reason = format!("compressed writes are of whole clusters of {size} bytes");
        Err(Error::invalid("offset", reason))
    }

    /// Compresses the clusters of a buffer.
    async fn compress<E: Surroundings>(&self, env: &E, buf: &IoBuf) -> Result<Vec<Form>> {
        let codec = Codec {
            compression: self.compression,
            cluster_len: self.geometry.cluster_len(),
            zero_clusters: self.version == Version::V3 || env.backing().is_none(),
        };
        let job = usize_of(JOB_BYTES).max(codec.cluster_len);
        let jobs = (0..buf.len()).step_by(job).map(|start| {
            let part = buf.slice(start..buf.len().min(start + job));
            async move {
                let _place = self.compressing.place().await;
                env.blocking(move || codec.forms_of(&part)).await
            }
        });
        let mut forms = Vec::new();
        for done in join_all(jobs).await {
            forms.append(&mut done?);
        }
        Ok(forms)
    }

    /// Stores clusters, run by run of the same form.
    async fn write_forms<E: Surroundings>(
        &self,
        env: &E,
        start: u64,
        buf: &IoBuf,
        forms: &[Form],
    ) -> Result<()> {
        let mut at = start;
        for run in forms.chunk_by(Form::is_like) {
            let whole = (run.len() as u64) << self.geometry.cluster_bits;
            let len = whole.min(start + buf.len() as u64 - at);
            match run {
                [Form::Zero, ..] => {
                    let flags = ZeroFlags {
                        may_unmap: true,
                        no_fallback: false,
                    };
                    self.write_zeroes(env, at..at + len, flags).await?;
                }
                [Form::Plain, ..] => {
                    self.write(env, at, slice(buf, at - start, len)).await?;
                }
                [Form::Packed(_), ..] => self.write_packed(env, at, run).await?,
                [] => {}
            }
            at += len;
        }
        Ok(())
    }

    /// Writes compressed clusters, one L2 table's after the other.
    async fn write_packed<E: Surroundings>(
        &self,
        env: &E,
        start: u64,
        forms: &[Form],
    ) -> Result<()> {
        let mut at = start;
        let mut rest = forms;
        while !rest.is_empty() {
            let end = at + ((rest.len() as u64) << self.geometry.cluster_bits);
            let (key, part) = self.one_table(&(at..end));
            let here = usize_of(self.geometry.clusters(part.end - at));
            let (now, later) = rest.split_at(here);
            self.write_packed_table(env, key, at, now).await?;
            (at, rest) = (part.end, later);
            self.limit_dirty(env).await?;
        }
        Ok(())
    }

    async fn write_packed_table<E: Surroundings>(
        &self,
        env: &E,
        key: u64,
        at: u64,
        forms: &[Form],
    ) -> Result<()> {
        let packed = forms.iter().filter_map(|form| match form {
            Form::Packed(bytes) => Some(bytes.as_slice()),
            Form::Zero | Form::Plain => None,
        });
        let table = self.owned_table(env, key).await?;
        let lens = packed.clone().map(|bytes| bytes.len() as u64);
        let places = self.pack(env, lens).await?;
        for (host, bytes) in runs(places.iter().zip(packed)) {
            env.file().event(BlkdebugEvent::WriteCompressed);
            env.file().write_bytes(host, &bytes).await?;
        }
        let first = self.geometry.l2_index(GuestOffset(at));
        let old: Vec<FullEntry> = (first..first + places.len())
            .map(|index| self.entry_at(&table, index))
            .collect();
        let new = places.iter().map(|place| self.full_entry(place.entry()));
        self.set_entries(&table, first, new, Needs::Data);
        places.into_iter().for_each(Packing::commit);
        for old in old {
            self.give_up(old.entry, FreeReason::Other);
        }
        Ok(())
    }

    /// Makes the file end with a sector, as readers without a cache want it: a compressed cluster
    /// may end the file anywhere.
    pub(super) async fn fill_last_sector<E: Surroundings>(&self, env: &E) -> Result<()> {
        let file = env.file();
        let missing = file.len().next_multiple_of(512) - file.len();
        if missing == 0 || !self.refcounts.state.lock().has_packed {
            return Ok(());
        }
        file.write_bytes(file.len(), &vec![0; usize_of(missing)])
            .await
    }
}

/// Compressed clusters that lie next to each other, as one write each.
fn runs<'a>(clusters: impl Iterator<Item = (&'a Packing<'a>, &'a [u8])>) -> Vec<(u64, Vec<u8>)> {
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    for (place, bytes) in clusters {
        let at = place.offset().0;
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u64 == at => run.extend_from_slice(bytes),
            Some(_) | None => runs.push((at, bytes.to_vec())),
        }
    }
    runs
}

impl Codec {
    /// What clusters are stored as; the last may be shorter, and is filled with zeroes.
    fn forms_of(self, buf: &IoBuf) -> Vec<Form> {
        static MEMORY: Idle<(Vec<u8>, Vec<u8>)> = Idle::new();
        let (mut cluster, mut packed) = MEMORY.take().unwrap_or_default();
        cluster.resize(self.cluster_len, 0);
        // Room for what gets longer, too: a stream that ends can be used again.
        packed.resize(self.cluster_len + self.cluster_len / 16 + 64, 0);
        let mut form = |start: usize| {
            let end = buf.len().min(start + self.cluster_len);
            if self.zero_clusters && buf.is_zero(start..end) {
                return Form::Zero;
            }
            buf.copy_out(start, &mut cluster[..end - start]);
            cluster[end - start..].fill(0);
            let len = match self.compression {
                Compression::Deflate => deflate_raw(&cluster, &mut packed),
                Compression::Zstd => zstd_frame(&cluster, &mut packed),
            };
            // A cluster of the same length is better stored as it is.
            let shorter = len.filter(|len| *len < self.cluster_len);
            shorter.map_or(Form::Plain, |len| Form::Packed(packed[..len].to_vec()))
        };
        let starts = (0..buf.len()).step_by(self.cluster_len);
        let forms = starts.map(&mut form).collect();
        MEMORY.put((cluster, packed));
        forms
    }
}
