//! Reading guest data, from wherever it is.
//! Called by `write` (bytes to copy) and by the driver for compressed runs; plain reads of a guest
//! go straight to the file by the mapping. Invariant: compressed bytes count only if the entry that
//! named them still stands when they have been read, for the cluster may have been replaced, freed
//! and used again meanwhile. Spec: qcow2 "Cluster mapping", "Compressed Clusters Descriptor".

use block_core::{Error, IoBuf, Result};
use block_schema::types::BlkdebugEvent;

use super::error::{DecompressErrorSource, ImageError};
use super::header::Compression;
use super::image::Image;
use super::layout::{CompressedCluster, L2Entry};
use super::map::Cluster;
use crate::kit::addr::GuestOffset;
use crate::kit::compress::{inflate_raw, unzstd};
use crate::kit::image_file::{ImageFile, Surroundings};

impl Image {
    /// Fills `buf` with guest data from `offset`; bytes behind the end of the disk are zeroes.
    ///
    /// # Errors
    /// `Corrupt` when an entry or a compressed cluster is wrong; errors of the files.
    pub(super) async fn read<E: Surroundings>(
        &self,
        env: &E,
        offset: u64,
        buf: IoBuf,
    ) -> Result<()> {
        let wanted_end = offset + buf.len() as u64;
        let end = wanted_end.min(self.size().max(offset));
        fill_zero(&buf, end - offset, wanted_end - offset);
        let mut at = offset;
        while at < end {
            let (key, part) = self.one_table(&(at..end));
            let table = self.table(env, key).await?;
            let run = match &table {
                Some(table) => self.first_run(table, part).map_err(|e| self.error(e))?,
                None => super::map::Run {
                    len: part.end - part.start,
                    cluster: Cluster::Unallocated(None),
                    skip: 0,
                },
            };
            let target = slice(&buf, at - offset, run.len);
            match run.cluster {
                Cluster::Zero(_) => fill_zero(&target, 0, run.len),
                Cluster::Unallocated(_) => self.read_backing(env, at, target).await?,
                Cluster::Data(host) => {
                    let place = host.offset.plus(run.skip);
                    env.file().event(BlkdebugEvent::ReadAio);
                    self.read_data(env, GuestOffset(at), place, target).await?;
                }
                Cluster::Compressed(from) => {
                    let index = self.geometry.l2_index(GuestOffset(at));
                    let stands = |entry: L2Entry| {
                        entry.is_compressed()
                            && entry.compressed(self.geometry.cluster_bits) == from
                    };
                    let data = self.decompress(env, from).await;
                    if !table
                        .as_ref()
                        .is_some_and(|t| stands(self.entry_at(t, index).entry))
                    {
                        // Written over meanwhile: what was read may be anything.
                        continue;
                    }
                    let (skip, len) = (usize_of(run.skip), usize_of(run.len));
                    target.copy_in(0, &data?[skip..skip + len]);
                }
            }
            at += run.len;
        }
        Ok(())
    }

    /// Fills `buf` from the image behind this one, and with zeroes behind that one's end.
    async fn read_backing<E: Surroundings>(&self, env: &E, offset: u64, buf: IoBuf) -> Result<()> {
        let len = buf.len() as u64;
        let Some(backing) = env.backing() else {
            fill_zero(&buf, 0, len);
            return Ok(());
        };
        let there = backing.len().saturating_sub(offset).min(len);
        fill_zero(&buf, there, len);
        if there > 0 {
            env.file().event(BlkdebugEvent::ReadBackingAio);
            backing.read(offset, slice(&buf, 0, there)).await?;
        }
        Ok(())
    }

    /// The bytes of a compressed cluster.
    async fn decompress<E: Surroundings>(
        &self,
        env: &E,
        from: CompressedCluster,
    ) -> Result<Vec<u8>> {
        // At most two clusters, by the width of the descriptor's fields.
        env.file().event(BlkdebugEvent::ReadCompressed);
        let packed = env
            .file()
            .read_bytes(from.host.0, usize_of(from.len))
            .await?;
        let (compression, len) = (self.compression, self.geometry.cluster_len());
        let unpacked = env
            .blocking(move || {
                let mut out = vec![0; len];
                match compression {
                    Compression::Deflate => inflate_raw(&packed, &mut out),
                    Compression::Zstd => unzstd(&packed, &mut out),
                }
                .map(|()| out)
            })
            .await?;
        unpacked.map_err(|source| -> Error {
            let source = DecompressErrorSource(source);
            self.error(ImageError::Compressed {
                offset: from.host.0,
                len: from.len,
                source,
            })
        })
    }
}

/// A part of a buffer, by offsets that lie within it.
pub(super) fn slice(buf: &IoBuf, start: u64, len: u64) -> IoBuf {
    buf.slice(usize_of(start)..usize_of(start + len))
}

fn fill_zero(buf: &IoBuf, start: u64, end: u64) {
    if start < end {
        buf.fill(usize_of(start)..usize_of(end), 0);
    }
}

/// A length that a buffer has, or that is bounded by two clusters.
pub(super) fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
