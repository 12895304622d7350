//! Bitmaps that an image stores: loaded when it opens, marked before it changes, stored when it
//! closes, removed when somebody says so.
//! Called by open, by the first write, by close, by `amend`, and by the verb that removes a bitmap;
//! drained, but for the first write. The order is argued in README.md, "Write order and crashes".
//! Invariant: on disk a bitmap is marked as in use before the first change of the image that it could
//! miss, and the mark goes with the write that names its new bits, after they are durable.
//! Spec: qcow2 "Bitmaps". Not here: the directory's bytes (`bitmap_directory.rs`), which writes set
//! bits (block-core's `bitmap`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use block_core::bitmap::{Bitmaps, DirtyBitmap, State};
use block_core::{Error, Result};
use block_schema::types::{Qcow2BitmapInfo, Qcow2BitmapInfoFlags};
use rustix::io::Errno;

use super::bitmap_directory::{
    MAX_BITMAP_BYTES, MAX_BITMAPS, MAX_DIRECTORY_BYTES, Place, Stored, directory_bytes, entry_len,
    parse_directory, with_in_use,
};
use super::counts::FreeReason;
use super::error::ImageError;
use super::geometry::Geometry;
use super::header::{Extension, Header, Version};
use super::image::Image;
use super::layout::{BitmapTableEntry, DIRTY_TRACKING, autoclear, bitmap_flags, extension};
use crate::kit::addr::HostOffset;
use crate::kit::image_file::{ImageFile, Surroundings};
use crate::kit::layout::{bytes_be, words_be};

/// Bytes that all bitmaps of an image take in memory at most; those that do not fit are not loaded.
const MAX_LOADED_BYTES: u64 = 1 << 30;
/// Bytes that a disk writes whole, or not at all.
const SECTOR: u64 = 512;

/// The bitmap directory as it is on disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// `None` when there is none, or nobody may trust it.
    place: Option<Place>,
    entries: Vec<Stored>,
    /// Nobody knows whether the disk vouches for another one, since a write of the header failed.
    in_doubt: bool,
}

/// Host ranges that something stood in.
type Clusters = Vec<(HostOffset, u64)>;

/// Reads the directory and every bitmap that can be used. A damaged directory is no error: the image
/// opens without bitmaps, and its first change takes back what vouches for them.
///
/// # Errors
/// Errors of the file.
pub(super) async fn load_bitmaps<F: ImageFile>(
    file: &F,
    header: &Header,
    node: &str,
    writable: bool,
) -> Result<(Directory, Arc<Bitmaps>)> {
    let directory = match read_directory(file, header, node).await {
        Ok(directory) => directory,
        Err(error @ Error::Corrupt { .. }) => {
            tracing::warn!(node, error = %error.chain(), "bitmaps are not loaded");
            Directory::default()
        }
        Err(error) => return Err(error),
    };
    let mut room = MAX_LOADED_BYTES;
    let mut list = Vec::new();
    for stored in &directory.entries {
        let state = State {
            enabled: stored.has(bitmap_flags::AUTO),
            persistent: true,
            inconsistent: false,
            read_only: !writable,
        };
        let loaded = load_bitmap(file, header, node, stored, state, &mut room).await;
        let bitmap = match loaded {
            Ok(bitmap) => bitmap,
            Err(error @ (Error::Corrupt { .. } | Error::InvalidOption { .. })) => {
                tracing::warn!(node, error = %error.chain(), "a bitmap is not loaded");
                lost(stored, state)?
            }
            Err(error) => return Err(error),
        };
        list.push(Arc::new(bitmap));
    }
    Ok((directory, Bitmaps::loaded(list)))
}

/// Reads and checks the directory of an image that vouches for one.
///
/// # Errors
/// `Corrupt` with what is wrong; errors of the file.
pub(super) async fn read_directory<F: ImageFile>(
    file: &F,
    header: &Header,
    node: &str,
) -> Result<Directory> {
    if header.autoclear & autoclear::BITMAPS == 0 {
        return Ok(Directory::default());
    }
    let place = Place::of(header, file.len()).map_err(|e| e.at(node))?;
    let Some(place) = place else {
        let what = "no extension in the header, and the bit that says so";
        return Err(ImageError::BitmapDirectory { offset: 0, what }.at(node));
    };
    // Bounded by 64 MiB and by the file.
    let len = usize::try_from(place.len).unwrap_or(usize::MAX);
    let bytes = file.read_bytes(place.offset.0, len).await?;
    let entries = parse_directory(&place, &bytes).map_err(|e| e.at(node))?;
    Ok(Directory {
        place: Some(place),
        entries,
        in_doubt: false,
    })
}

impl Directory {
    /// Where it is, and its bitmaps.
    pub(super) fn parts(&self) -> Option<(Place, &[Stored])> {
        Some((self.place?, &self.entries))
    }

    /// Whether the image vouches for its bitmaps, and they were loaded.
    pub(super) fn is_vouched_for(&self) -> bool {
        self.place.is_some()
    }

    /// Whether the bit that vouches for bitmaps must be cleared, whatever memory says of it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Says that the bit is durably 0.
    pub(super) fn settle_doubt(&mut self) {
        self.in_doubt = false;
    }
}

/// A bitmap that can only be seen and removed.
fn lost(stored: &Stored, state: State) -> Result<DirtyBitmap> {
    let granularity = 1 << stored.granularity_bits.clamp(9, 31);
    let state = State {
        inconsistent: true,
        ..state
    };
    DirtyBitmap::new(&stored.shown_name(), granularity, 0, state)
}

async fn load_bitmap<F: ImageFile>(
    file: &F,
    header: &Header,
    node: &str,
    stored: &Stored,
    state: State,
    room: &mut u64,
) -> Result<DirtyBitmap> {
    if stored.has(bitmap_flags::IN_USE) {
        return lost(stored, state);
    }
    let wrong = |what| {
        let name = stored.shown_name();
        ImageError::Bitmap { name, what }.at(node)
    };
    if let Some(what) = stored.unknown_part() {
        return Err(wrong(what));
    }
    let geometry = header.geometry;
    stored
        .check_table(geometry, file.len())
        .map_err(|e| e.at(node))?;
    let bits = header.size.div_ceil(1 << stored.granularity_bits);
    if u64::from(stored.table_size) != table_entries(geometry, bits) {
        return Err(wrong("a table that does not fit the disk's length"));
    }
    *room = room
        .checked_sub(bits.div_ceil(8))
        .ok_or_else(|| wrong("no room: the image's bitmaps take more than 1 GiB"))?;
    let granularity = 1 << stored.granularity_bits;
    let bitmap = DirtyBitmap::new(&stored.shown_name(), granularity, header.size, state)?;
    let words = geometry.entries();
    let table = read_table(file, node, geometry, stored).await?;
    for (entry, first) in table.into_iter().zip((0..).step_by(geometry.entries_len())) {
        match entry.data() {
            Some(at) => {
                let bytes = file.read_bytes(at.0, geometry.cluster_len()).await?;
                for (index, chunk) in (first..).zip(bytes.chunks_exact(8)) {
                    let word = chunk.first_chunk().copied().unwrap_or_default();
                    bitmap.set_word(index, u64::from_le_bytes(word));
                }
            }
            None if entry == BitmapTableEntry::ONES => {
                let end = (first + words).min(bits.div_ceil(64));
                for index in first..end {
                    bitmap.set_word(index, u64::MAX);
                }
            }
            None => {}
        }
    }
    Ok(bitmap)
}

/// Reads a bitmap's table, whose place has been checked.
///
/// # Errors
/// Errors of the file.
pub(super) async fn read_entries<F: ImageFile>(
    file: &F,
    stored: &Stored,
) -> Result<Vec<BitmapTableEntry>> {
    let len = usize::try_from(stored.table_bytes()).unwrap_or(usize::MAX);
    let bytes = file.read_bytes(stored.table.0, len).await?;
    Ok(words_be(&bytes).into_iter().map(BitmapTableEntry).collect())
}

/// As [`read_entries`], with every entry checked.
///
/// # Errors
/// `Corrupt` when an entry cannot be; errors of the file.
async fn read_table<F: ImageFile>(
    file: &F,
    node: &str,
    geometry: Geometry,
    stored: &Stored,
) -> Result<Vec<BitmapTableEntry>> {
    let entries = read_entries(file, stored).await?;
    let file_len = file.len();
    if entries
        .iter()
        .any(|entry| entry.cannot_be(geometry, file_len))
    {
        let (name, what) = (stored.shown_name(), "a table entry that cannot be");
        return Err(ImageError::Bitmap { name, what }.at(node));
    }
    Ok(entries)
}

impl BitmapTableEntry {
    /// Whether it has reserved bits, or names no cluster of the file.
    pub(super) fn cannot_be(self, geometry: Geometry, file_len: u64) -> bool {
        let outside = |at: HostOffset| geometry.within(at.0) != 0 || at.0 >= file_len;
        self.reserved() != 0 || self.data().is_some_and(outside)
    }
}

/// Entries of the table of a bitmap of so many bits.
fn table_entries(geometry: Geometry, bits: u64) -> u64 {
    geometry.clusters(bits.div_ceil(8))
}

impl Image {
    /// The bitmaps as tools show them.
    pub(super) fn bitmap_infos(&self) -> Option<Vec<Qcow2BitmapInfo>> {
        let directory = self.directory.lock();
        let info = |stored: &Stored| {
            let flag = |bit, shown| stored.has(bit).then_some(shown);
            let flags = [
                flag(bitmap_flags::IN_USE, Qcow2BitmapInfoFlags::InUse),
                flag(bitmap_flags::AUTO, Qcow2BitmapInfoFlags::Auto),
            ];
            Qcow2BitmapInfo {
                name: stored.shown_name(),
                granularity: 1_u32
                    .checked_shl(u32::from(stored.granularity_bits))
                    .unwrap_or(u32::MAX),
                flags: flags.into_iter().flatten().collect(),
            }
        };
        let infos: Vec<_> = directory.entries.iter().map(info).collect();
        (!infos.is_empty()).then_some(infos)
    }

    /// Says on disk, durably, that bitmaps may miss what is written from now on. Called once before
    /// the first change of the image.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn mark_bitmaps<E: Surroundings>(&self, env: &E) -> Result<()> {
        // One that nobody here can use is left as it is, unless it should track what is written.
        let misses = |stored: &Stored| {
            !stored.has(bitmap_flags::IN_USE)
                && (stored.unknown_part().is_none() || stored.has(bitmap_flags::AUTO))
        };
        let directory = self.directory.lock().clone();
        let Some(place) = directory.place else {
            return Ok(());
        };
        if !directory.entries.iter().any(misses) {
            return Ok(());
        }
        let bytes = with_in_use(&directory.entries, misses);
        env.file().write_bytes(place.offset.0, &bytes).await?;
        env.file().flush().await?;
        for stored in &mut self.directory.lock().entries {
            if misses(stored) {
                stored.flags |= bitmap_flags::IN_USE;
            }
        }
        Ok(())
    }

    /// Takes the marks back from bitmaps that miss nothing: what they hold was stored, and nothing
    /// was written since. The image is drained, and writes nothing afterwards without marking anew.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn unmark_bitmaps<E: Surroundings>(&self, env: &E) -> Result<()> {
        let Directory {
            place, mut entries, ..
        } = self.directory.lock().clone();
        let Some(place) = place else {
            return Ok(());
        };
        let all = self.bitmaps.all();
        let good = all.iter().filter(|b| !b.is_inconsistent() && b.is_whole());
        let good: HashSet<&[u8]> = good.map(|bitmap| bitmap.name().as_bytes()).collect();
        for stored in &mut entries {
            if good.contains(&*stored.name) {
                stored.flags &= !bitmap_flags::IN_USE;
            }
        }
        let bytes = directory_bytes(&entries);
        env.file().write_bytes(place.offset.0, &bytes).await?;
        env.file().flush().await?;
        self.directory.lock().entries = entries;
        Ok(())
    }

    /// Whether the image can store one more bitmap.
    ///
    /// # Errors
    /// `InvalidOption` with the reason why not.
    pub(super) fn check_new_bitmap(&self, name: &str, granularity: u32) -> Result<()> {
        let refuse = |why: &str| {
            let node = &self.node;
            let reason = format!("Can't make bitmap '{name}' persistent in '{node}': {why}");
            Err(Error::invalid("persistent", reason))
        };
        if self.version == Version::V2 {
            return refuse("Cannot store dirty bitmaps in qcow2 v2 files");
        }
        if !self.options.writable {
            return refuse("the image is read-only");
        }
        let bits = self.size().div_ceil(u64::from(granularity));
        if bits == 0 {
            return refuse("the disk has no bytes");
        }
        if table_entries(self.geometry, bits) * self.geometry.cluster_size() > MAX_BITMAP_BYTES {
            return refuse("Too much space will be occupied by the bitmap. Use larger granularity");
        }
        if name.len() > block_core::bitmap::MAX_NAME {
            return refuse("Name length exceeds maximum (1023 characters)");
        }
        let directory = self.directory.lock();
        let stored = directory.entries.iter().map(|stored| &*stored.name);
        let stored: HashSet<&[u8]> = stored.collect();
        let is_new = |bitmap: &&Arc<DirtyBitmap>| {
            bitmap.is_persistent()
                && !bitmap.is_inconsistent()
                && !stored.contains(bitmap.name().as_bytes())
        };
        let all = self.bitmaps.all();
        let new: Vec<usize> = all.iter().filter(is_new).map(|b| b.name().len()).collect();
        let old = directory.entries.iter().map(Stored::entry_len);
        let new_len = |len: &usize| entry_len(*len, 0);
        let len: usize = old.chain(new.iter().map(new_len)).sum();
        if directory.entries.len() + new.len() >= usize::try_from(MAX_BITMAPS).unwrap_or(0) {
            return refuse("Maximum number of persistent bitmaps is already reached");
        }
        if (len + entry_len(name.len(), 0)) as u64 > MAX_DIRECTORY_BYTES {
            return refuse("Not enough space in the bitmap directory");
        }
        let mut header = self.header.lock().clone();
        with_extension(&mut header, Some(Place::NOWHERE));
        if header.to_bytes().is_err() {
            return refuse("the header has no room for it");
        }
        Ok(())
    }

    /// Stores the bitmaps that differ from the image, durably. The image is drained, and nothing is
    /// written to it afterwards, or [`mark_bitmaps`](Image::mark_bitmaps) comes first.
    ///
    /// # Errors
    /// `NOSPC` when the header or the file has no room; errors of the file. The bitmaps on disk stay
    /// marked then.
    pub(super) async fn store_bitmaps<E: Surroundings>(&self, env: &E) -> Result<()> {
        let storable = |bitmap: &&Arc<DirtyBitmap>| {
            bitmap.is_persistent()
                && !bitmap.is_inconsistent()
                && bitmap.bit_count() > 0
                && bitmap.is_whole()
        };
        let all = self.bitmaps.all();
        let bitmaps: Vec<_> = all.iter().filter(storable).collect();
        let differs = {
            let directory = self.directory.lock();
            let current = directory.current();
            let is_current = |name: &str| current.contains(name.as_bytes());
            bitmaps
                .iter()
                .any(|bitmap| bitmap.is_altered() || !is_current(bitmap.name()))
        };
        if !differs {
            return Ok(());
        }
        self.first_write(env).await?;
        let mut next = self.directory.lock().entries.clone();
        let mut replaced = Clusters::new();
        let mut made = Clusters::new();
        let written = self
            .write_bitmaps(env, &bitmaps, &mut next, &mut replaced, &mut made)
            .await;
        if let Err(error) = written {
            self.free_all(made);
            return Err(error);
        }
        self.replace_directory(env, next, made).await?;
        self.free_all(replaced);
        for bitmap in bitmaps {
            bitmap.set_unaltered();
        }
        // Whoever writes after all marks them first.
        self.pause();
        Ok(())
    }

    /// Removes a bitmap from the image, durably; one that is not there is no error. Drained.
    ///
    /// # Errors
    /// Errors of the file.
    pub(super) async fn remove_bitmap<E: Surroundings>(&self, env: &E, name: &str) -> Result<()> {
        let found = {
            let directory = self.directory.lock();
            let mut entries = directory.entries.iter();
            entries.find(|s| s.shown_name() == name).cloned()
        };
        let Some(found) = found else {
            return Ok(());
        };
        self.first_write(env).await?;
        let clusters = self.clusters_of(env, &found).await?;
        let mut next = self.directory.lock().entries.clone();
        next.retain(|stored| stored.name != found.name);
        self.replace_directory(env, next, Clusters::new()).await?;
        self.free_all(clusters);
        self.flush_all(env).await
    }

    /// Writes bits and tables of bitmaps to new clusters, and makes their entries.
    async fn write_bitmaps<E: Surroundings>(
        &self,
        env: &E,
        bitmaps: &[&Arc<DirtyBitmap>],
        next: &mut Vec<Stored>,
        replaced: &mut Clusters,
        made: &mut Clusters,
    ) -> Result<()> {
        let places = next.iter().map(|stored| stored.name.clone());
        let places: HashMap<Vec<u8>, usize> = places.zip(0..).collect();
        for bitmap in bitmaps {
            let (table, table_size) = self.write_bits(env, bitmap, made).await?;
            let auto = match bitmap.is_enabled() {
                true => bitmap_flags::AUTO,
                false => 0,
            };
            let place = places.get(bitmap.name().as_bytes()).copied();
            if let Some(stored) = place.and_then(|place| next.get_mut(place)) {
                replaced.extend(self.clusters_of(env, stored).await?);
                stored.table = table;
                stored.table_size = table_size;
                stored.flags = stored.flags & bitmap_flags::EXTRA_DATA_COMPATIBLE | auto;
            } else {
                next.push(Stored {
                    table,
                    table_size,
                    flags: auto,
                    kind: DIRTY_TRACKING,
                    // At most 31.
                    granularity_bits: u8::try_from(bitmap.granularity().trailing_zeros())
                        .unwrap_or(u8::MAX),
                    extra_data: Vec::new(),
                    name: bitmap.name().as_bytes().to_vec(),
                });
            }
        }
        Ok(())
    }

    /// Writes a bitmap's bits and table to new clusters; returns the table.
    async fn write_bits<E: Surroundings>(
        &self,
        env: &E,
        bitmap: &DirtyBitmap,
        made: &mut Clusters,
    ) -> Result<(HostOffset, u32)> {
        let (geometry, words) = (self.geometry, self.geometry.entries());
        let count = table_entries(geometry, bitmap.bit_count());
        if count * geometry.cluster_size() > MAX_BITMAP_BYTES {
            return Err(self.no_space(Errno::FBIG));
        }
        let mut table = vec![BitmapTableEntry::ZEROES.0; usize::try_from(count).unwrap_or(0)];
        let mut next = bitmap.next_word(0);
        while let Some(word) = next {
            let index = word / words;
            let here = index * words..(index + 1) * words;
            let bits: Vec<u64> = here.clone().map(|word| bitmap.word(word)).collect();
            let entry = if bits.iter().all(|&word| word == u64::MAX) {
                BitmapTableEntry::ONES
            } else {
                let at = self.make_room(env, geometry.cluster_size(), made).await?;
                let bytes: Vec<u8> = bits.iter().flat_map(|word| word.to_le_bytes()).collect();
                env.file().write_bytes(at.0, &bytes).await?;
                BitmapTableEntry(at.0)
            };
            if let Some(place) = table.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
                *place = entry.0;
            }
            next = bitmap.next_word(here.end);
        }
        let at = self.make_room(env, count * 8, made).await?;
        env.file().write_bytes(at.0, &bytes_be(&table)).await?;
        // Bounded by MAX_BITMAP_BYTES.
        Ok((at, u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// Reserves clusters next to each other.
    async fn make_room<E: Surroundings>(
        &self,
        env: &E,
        len: u64,
        made: &mut Clusters,
    ) -> Result<HostOffset> {
        let clusters = self.geometry.clusters(len);
        let at = self.reserve_table(env, clusters).await?;
        made.push((at, len));
        Ok(at)
    }

    /// Lets the image name another directory, which it then vouches for. `made` is what the new
    /// entries refer to and the old ones do not.
    async fn replace_directory<E: Surroundings>(
        &self,
        env: &E,
        next: Vec<Stored>,
        mut made: Clusters,
    ) -> Result<()> {
        let place = match self.write_directory(env, &next, &mut made).await {
            Ok(place) => place,
            Err(error) => {
                self.free_all(made);
                return Err(error);
            }
        };
        if let Err(error) = self.name_directory(env, place).await {
            // Nobody knows which directory the disk has: what either names stays counted, and the
            // next change of the image makes sure first that it vouches for neither.
            let mut directory = self.directory.lock();
            directory.place = None;
            directory.in_doubt = true;
            drop(directory);
            self.pause();
            return Err(error);
        }
        let new = Directory {
            place,
            entries: next,
            in_doubt: false,
        };
        let old = std::mem::replace(&mut *self.directory.lock(), new);
        if let Some(place) = old.place {
            self.free_all(vec![(place.offset, place.len)]);
        }
        Ok(())
    }

    /// Writes a directory to new clusters, with all that it refers to durable when this returns.
    async fn write_directory<E: Surroundings>(
        &self,
        env: &E,
        entries: &[Stored],
        made: &mut Clusters,
    ) -> Result<Option<Place>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes = directory_bytes(entries);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let len = bytes.len() as u64;
        if count > MAX_BITMAPS || len > MAX_DIRECTORY_BYTES {
            return Err(self.no_space(Errno::FBIG));
        }
        let offset = self.make_room(env, len, made).await?;
        env.file().write_bytes(offset.0, &bytes).await?;
        // Counts, bits, tables and directory, before the header names them.
        self.flush(env).await?;
        Ok(Some(Place { count, offset, len }))
    }

    /// Lets the header name a directory, or none, and vouch for it.
    ///
    /// Where the extension is there already and lies in one sector, that sector is all that changes.
    /// Else the bit that vouches for bitmaps is 0 meanwhile: a power cut there loses them.
    async fn name_directory<E: Surroundings>(&self, env: &E, place: Option<Place>) -> Result<()> {
        let vouch = |vouched: bool| {
            move |header: &mut Header| {
                header.autoclear &= !autoclear::BITMAPS;
                header.autoclear |= if vouched { autoclear::BITMAPS } else { 0 };
            }
        };
        let vouched = self.header.lock().autoclear & autoclear::BITMAPS != 0;
        let data = place.map(Place::to_bytes).unwrap_or_default();
        let there = match place {
            Some(_) => {
                self.extension_at(env, extension::BITMAPS, data.len())
                    .await?
            }
            None => None,
        };
        let in_one_sector =
            there.is_some_and(|at| at / SECTOR == (at + data.len() as u64 - 1) / SECTOR);
        if vouched && !in_one_sector {
            self.update_header(env, vouch(false)).await?;
        }
        match there {
            Some(at) => {
                self.update_extension(env, at, extension::BITMAPS, data)
                    .await?;
            }
            None => {
                self.rewrite_header(env, |header| with_extension(header, place))
                    .await?;
            }
        }
        if place.is_some() && !(vouched && in_one_sector) {
            self.update_header(env, vouch(true)).await?;
        }
        Ok(())
    }

    /// What a bitmap's table is and refers to. Nothing, when the table cannot be: nobody knows what
    /// is its own then.
    async fn clusters_of<E: Surroundings>(&self, env: &E, stored: &Stored) -> Result<Clusters> {
        let (file, geometry) = (env.file(), self.geometry);
        let placed = stored.check_table(geometry, file.len());
        let table = match placed.map_err(|e| self.error(e)) {
            Ok(()) => read_table(file, &self.node, geometry, stored).await,
            Err(error) => Err(error),
        };
        let table = match table {
            Ok(table) => table,
            Err(error @ Error::Corrupt { .. }) => {
                tracing::warn!(node = self.node, error = %error.chain(), "clusters are not freed");
                return Ok(Clusters::new());
            }
            Err(error) => return Err(error),
        };
        let data = table.into_iter().filter_map(BitmapTableEntry::data);
        let mut clusters: Clusters = data.map(|at| (at, geometry.cluster_size())).collect();
        clusters.push((stored.table, stored.table_bytes()));
        Ok(clusters)
    }

    fn free_all(&self, clusters: Clusters) {
        for (at, len) in clusters {
            self.refcounts.free_later(at, len, FreeReason::Other);
        }
    }
}

impl Directory {
    /// Names of bitmaps of which what is stored misses nothing.
    fn current(&self) -> HashSet<&[u8]> {
        let entries = self.entries.iter();
        let current = entries.filter(|stored| !stored.has(bitmap_flags::IN_USE));
        current.map(|stored| &*stored.name).collect()
    }
}

/// Puts the extension for a directory into a header, or takes it out.
fn with_extension(header: &mut Header, place: Option<Place>) {
    let kind = extension::BITMAPS;
    let Some(place) = place else {
        header.extensions.retain(|e| e.kind != kind);
        return;
    };
    let data = place.to_bytes();
    match header.extensions.iter_mut().find(|e| e.kind == kind) {
        Some(found) => found.data = data,
        None => header.extensions.push(Extension { kind, data }),
    }
}
