//! A cache of tables of 64-bit entries, bounded in bytes, whose hits take no lock.
//! Called by formats for their mapping tables and reference counts, from any number of queues.
//!
//! A slot holds one table as atomics under a tag. A reader finds the slot through the directory,
//! reads the tag, the entries, and the tag again: the same tag twice means that the entries in
//! between were this table's. A slot gets a new tag before it is filled with another table, so
//! a reader that raced sees a miss, never a wrong entry. Single entries change under readers, who
//! see the old or the new one. Everything else (pins, loads, dirt) is under one short lock.
//!
//! Entries of two words are kept whole by the same tag. While the first word of one changes, the slot
//! has no readable table, and another generation afterwards, as if the table had been loaded anew: so
//! under one tag a first word has one value, and whatever second word is seen with it was its own. A
//! change of second words alone needs no new tag. Generations have 32 bits: who sleeps between its two
//! looks at a tag through exactly so many changes, hours of nothing else, would be deceived.
//!
//! Memory of tables that nobody used for a while goes back to the system, not to an allocator: their
//! slots are hidden first, like those that change hands, and a late reader finds old words or zeroes.
//!
//! Invariants: a dirty, pinned or written-back slot is never reused; one load a table at a time;
//! a copy handed out for writing holds every entry set before it was taken.
//! Not here: I/O, and what must be durable before what (the formats' `cache.rs`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use block_core::atomic::{AtomicU32, AtomicU64, Mutex, Ordering, SharedWords, fence};
use block_core::sync::WaitList;

/// Entries of one piece of the directory.
const CHUNK: usize = 4096;
/// Entries that are written together: a page of the file.
const PAGE: usize = 512;

/// Tables by key; keys are small and dense (an index in the table one level up).
pub(crate) struct TableCache {
    entries: usize,
    slots: Box<[Slot]>,
    /// Key → slot + 1, in pieces made when they are first needed.
    directory: Box<[OnceLock<Box<[AtomicU32]>>]>,
    state: Mutex<State>,
    changed: WaitList,
}

/// A table's place.
struct Slot {
    /// `generation << 32 | key + 1`; the low half is 0 while no table is readable.
    tag: AtomicU64,
    words: OnceLock<SharedWords>,
    /// [`IN_ROUND`] and [`SINCE_DROP`].
    used: AtomicU32,
}

/// Hit since the clock's hand went by.
const IN_ROUND: u32 = 1;
/// Loaded or hit since unused tables were dropped.
const SINCE_DROP: u32 = 2;

#[derive(Default)]
struct State {
    keys: HashMap<u64, usize>,
    slots: Vec<SlotState>,
    hand: usize,
    dirty: usize,
}

#[derive(Clone, Default)]
struct SlotState {
    key: Option<u64>,
    /// Somebody fills it, or gives its memory back.
    loading: bool,
    /// Whether it may have memory.
    resident: bool,
    pins: u32,
    /// Entries that differ from the disk.
    dirty: Option<Range<usize>>,
    /// Whether what the entries refer to must be durable before they are.
    after_data: bool,
    /// A copy is on its way to the disk.
    writing: bool,
}

/// Whether what a changed entry refers to must be durable before the entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// It refers to something new.
    Data,
    /// It gives something up, or only its flags changed.
    Nothing,
}

/// The answer to a request for a table.
pub(crate) enum Acquire<'a> {
    /// The table is there.
    Ready(Pinned<'a>),
    /// It is not, and the caller loads it.
    Load(Loading<'a>),
    /// Somebody else loads it; wait with [`TableCache::loaded`] and ask again.
    Wait,
    /// Every slot is pinned or dirty; write some back and ask again.
    Full,
}

/// A copy of changed entries on its way to the disk.
pub(crate) struct Writeback {
    slot: usize,
    /// Which table.
    pub(crate) key: u64,
    /// Which entries.
    pub(crate) range: Range<usize>,
    /// Their values.
    pub(crate) words: Vec<u64>,
    /// What must be durable before this is written.
    pub(crate) needs: Needs,
}

impl TableCache {
    /// A cache for `bytes` of tables of `entries` words, with at least `min_tables`, and no more than
    /// there are keys.
    ///
    /// Keys go up to `keys`, exclusive. Memory for tables is taken when they are loaded.
    pub(crate) fn new(entries: usize, bytes: u64, min_tables: usize, keys: u64) -> TableCache {
        let fits = usize::try_from(bytes / (entries as u64 * 8)).unwrap_or(usize::MAX);
        // More than there can be tables would never be used.
        let most = usize::try_from(keys)
            .unwrap_or(usize::MAX)
            .min(u32::MAX as usize - 1);
        let count = fits.min(most).max(min_tables);
        let chunks = usize::try_from(keys.div_ceil(CHUNK as u64)).unwrap_or(usize::MAX);
        let slot = || Slot {
            tag: AtomicU64::new(0),
            words: OnceLock::new(),
            used: AtomicU32::new(0),
        };
        TableCache {
            entries,
            slots: (0..count).map(|_| slot()).collect(),
            directory: (0..chunks).map(|_| OnceLock::new()).collect(),
            state: Mutex::new(State {
                slots: vec![SlotState::default(); count],
                ..State::default()
            }),
            changed: WaitList::new(),
        }
    }

    /// A table as it is in memory now; takes no lock, and `None` means a miss.
    pub(crate) fn view(&self, key: u64) -> Option<View<'_>> {
        let slot = self.slots.get(
            self.directory_entry(key)?
                .load(Ordering::Acquire)
                .checked_sub(1)? as usize,
        )?;
        let tag = slot.tag.load(Ordering::Acquire);
        if tag & u64::from(u32::MAX) != key + 1 {
            return None;
        }
        let words = slot.words.get()?;
        slot.set_used();
        Some(View { slot, words, tag })
    }

    /// Pins a table, or says what to do to get it.
    pub(crate) fn acquire(&self, key: u64) -> Acquire<'_> {
        let mut state = self.state.lock();
        if let Some(&slot) = state.keys.get(&key) {
            let Some(entry) = state.slots.get_mut(slot) else {
                return Acquire::Full;
            };
            if entry.loading {
                return Acquire::Wait;
            }
            entry.pins += 1;
            self.slots[slot].set_used();
            return Acquire::Ready(Pinned {
                cache: self,
                slot,
                key,
            });
        }
        let Some(slot) = self.victim(&mut state) else {
            return Acquire::Full;
        };
        if let Some(old) = state.slots[slot].key.take() {
            state.keys.remove(&old);
        }
        self.slots[slot].hide();
        self.slots[slot].used.store(SINCE_DROP, Ordering::Relaxed);
        state.keys.insert(key, slot);
        state.slots[slot] = SlotState {
            key: Some(key),
            loading: true,
            resident: true,
            pins: 1,
            ..SlotState::default()
        };
        Acquire::Load(Loading {
            cache: self,
            slot,
            key,
            done: false,
        })
    }

    /// Waits until no load of this table is under way.
    pub(crate) async fn loaded(&self, key: u64) {
        let busy = |state: &State| {
            state
                .keys
                .get(&key)
                .and_then(|&s| state.slots.get(s))
                .is_some_and(|s| s.loading)
        };
        self.changed.wait_until(|| !busy(&self.state.lock())).await;
    }

    /// Waits until a slot can be taken, if need be after writing it back.
    pub(crate) async fn slot_free(&self) {
        self.changed
            .wait_until(|| {
                self.state
                    .lock()
                    .slots
                    .iter()
                    .any(|s| s.is_free() || s.is_only_dirty())
            })
            .await;
    }

    /// The clock: the next slot that nobody needs and that was not hit for a round.
    fn victim(&self, state: &mut State) -> Option<usize> {
        let count = self.slots.len();
        for _ in 0..2 * count {
            let slot = state.hand;
            state.hand = (slot + 1) % count;
            let entry = &state.slots[slot];
            if entry.is_free() && (entry.key.is_none() || !self.slots[slot].was_used(IN_ROUND)) {
                return Some(slot);
            }
        }
        None
    }

    fn directory_entry(&self, key: u64) -> Option<&AtomicU32> {
        let key = usize::try_from(key).ok()?;
        self.directory.get(key / CHUNK)?.get()?.get(key % CHUNK)
    }

    /// Forgets every table that nobody holds and that is as on disk: the disk has others now.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        for slot in 0..self.slots.len() {
            if !state.slots[slot].is_free() {
                continue;
            }
            if let Some(old) = state.slots[slot].key.take() {
                state.keys.remove(&old);
                self.slots[slot].hide();
            }
        }
    }

    /// Drops each table that was not used since the last call, that nobody holds and that is as on
    /// disk, and gives its memory back. Whether the next call may find more of them: tables with
    /// changes and tables that are held do not count.
    pub(crate) fn drop_unused(&self) -> bool {
        let filled: Vec<usize> = {
            let state = self.state.lock();
            let slots = state.slots.iter().enumerate();
            slots
                .filter(|(_, s)| s.resident)
                .map(|(slot, _)| slot)
                .collect()
        };
        let mut used = false;
        for slot in filled {
            used |= self.drop_slot(slot);
        }
        used
    }

    /// As [`drop_unused`](Self::drop_unused), for one slot.
    fn drop_slot(&self, slot: usize) -> bool {
        {
            let mut state = self.state.lock();
            let was_used = self.slots[slot].was_used(SINCE_DROP);
            let entry = &mut state.slots[slot];
            if was_used && entry.key.is_some() {
                return true;
            }
            if !entry.is_free() {
                return false;
            }
            // Nobody fills it again before its memory is gone.
            entry.loading = true;
            let old = entry.key.take();
            if let Some(old) = old {
                state.keys.remove(&old);
                self.slots[slot].hide();
            }
        }
        if let Some(words) = self.slots[slot].words.get() {
            words.release();
        }
        self.state.lock().slots[slot] = SlotState::default();
        self.changed.wake_all();
        false
    }

    /// Tables with changes, and all tables.
    pub(crate) fn dirty(&self) -> (usize, usize) {
        (self.state.lock().dirty, self.slots.len())
    }

    /// Copies the changes of every dirty table, one short lock each. The caller writes the copies
    /// and ends each with [`written`](Self::written) or [`failed`](Self::failed).
    pub(crate) fn take_dirty(&self) -> Vec<Writeback> {
        let dirty: Vec<usize> = {
            let state = self.state.lock();
            let slots = state.slots.iter().enumerate();
            slots
                .filter(|(_, s)| s.dirty.is_some())
                .map(|(slot, _)| slot)
                .collect()
        };
        dirty
            .into_iter()
            .filter_map(|slot| self.take_slot(slot))
            .collect()
    }

    fn take_slot(&self, slot: usize) -> Option<Writeback> {
        let mut state = self.state.lock();
        let entry = state.slots.get_mut(slot)?;
        if entry.writing {
            return None;
        }
        let dirty = entry.dirty.take()?;
        // Whole pages of the file, where tables have so many.
        let range = dirty.start / PAGE * PAGE..dirty.end.next_multiple_of(PAGE).min(self.entries);
        let key = entry.key?;
        entry.writing = true;
        let needs = if std::mem::take(&mut entry.after_data) {
            Needs::Data
        } else {
            Needs::Nothing
        };
        state.dirty -= 1;
        let words = self.slots[slot].words.get()?.get(range.clone())?;
        let words = words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        Some(Writeback {
            slot,
            key,
            range,
            words,
            needs,
        })
    }

    /// The copy is on disk, or as good as.
    pub(crate) fn written(&self, copy: &Writeback) {
        self.state.lock().slots[copy.slot].writing = false;
        self.changed.wake_all();
    }

    /// The copy did not reach the disk: its entries are dirty again.
    pub(crate) fn failed(&self, copy: &Writeback) {
        let mut state = self.state.lock();
        state.slots[copy.slot].writing = false;
        state.mark(copy.slot, copy.range.clone(), copy.needs);
        drop(state);
        self.changed.wake_all();
    }
}

impl Slot {
    /// Only the first hit of a round writes: a line that every queue writes would bounce.
    fn set_used(&self) {
        if self.used.load(Ordering::Relaxed) != IN_ROUND | SINCE_DROP {
            self.used.store(IN_ROUND | SINCE_DROP, Ordering::Relaxed);
        }
    }

    /// Whether it was used, and no longer so.
    fn was_used(&self, since: u32) -> bool {
        self.used.fetch_and(!since, Ordering::Relaxed) & since != 0
    }

    /// From here on no reader takes the slot for the table it holds.
    fn hide(&self) {
        let generation = self.tag.load(Ordering::Relaxed) >> 32;
        let next = (generation.wrapping_add(1) << 32) & !u64::from(u32::MAX);
        self.tag.store(next, Ordering::Relaxed);
        fence(Ordering::Release);
    }

    /// Shows a hidden slot to readers, as the table that it holds now.
    fn show(&self, key: u64) {
        let tag = self.tag.load(Ordering::Relaxed);
        self.tag.store(tag | (key + 1), Ordering::Release);
    }
}

impl SlotState {
    fn is_idle(&self) -> bool {
        self.pins == 0 && !self.writing && !self.loading
    }

    fn is_free(&self) -> bool {
        self.is_idle() && self.dirty.is_none()
    }

    fn is_only_dirty(&self) -> bool {
        self.is_idle() && self.dirty.is_some()
    }
}

impl State {
    fn mark(&mut self, slot: usize, range: Range<usize>, needs: Needs) {
        let entry = &mut self.slots[slot];
        self.dirty += usize::from(entry.dirty.is_none());
        entry.dirty = Some(match entry.dirty.take() {
            Some(old) => old.start.min(range.start)..old.end.max(range.end),
            None => range,
        });
        entry.after_data |= needs == Needs::Data;
    }
}

/// A table that was there when the view was made; ask [`is_valid`](View::is_valid) after reading.
pub(crate) struct View<'a> {
    slot: &'a Slot,
    words: &'a [AtomicU64],
    tag: u64,
}

impl View<'_> {
    /// An entry, if the view is still valid afterwards.
    pub(crate) fn entry(&self, index: usize) -> u64 {
        self.words
            .get(index)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// The two words of an entry, if the view is still valid afterwards.
    pub(crate) fn pair(&self, index: usize) -> [u64; 2] {
        [self.entry(2 * index), self.entry(2 * index + 1)]
    }

    /// Whether everything read through this view was this table's.
    pub(crate) fn is_valid(&self) -> bool {
        fence(Ordering::Acquire);
        self.slot.tag.load(Ordering::Relaxed) == self.tag
    }
}

/// A table that stays in memory until this is dropped.
pub(crate) struct Pinned<'a> {
    cache: &'a TableCache,
    slot: usize,
    key: u64,
}

impl Pinned<'_> {
    /// An entry.
    ///
    /// # Panics
    /// When `index` is outside the table: it comes from masked arithmetic.
    pub(crate) fn entry(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::Acquire)
    }

    /// The two words of an entry, as they were together at some time.
    ///
    /// # Panics
    /// As [`entry`](Self::entry).
    pub(crate) fn pair(&self, index: usize) -> [u64; 2] {
        let slot = &self.cache.slots[self.slot];
        let words = self.words();
        let read = || [2 * index, 2 * index + 1].map(|word| words[word].load(Ordering::Relaxed));
        let tag = slot.tag.load(Ordering::Acquire);
        let pair = read();
        let view = View { slot, words, tag };
        if tag & u64::from(u32::MAX) != 0 && view.is_valid() {
            return pair;
        }
        // Somebody changes pairs of this table.
        let _state = self.cache.state.lock();
        read()
    }

    /// Sets an entry; readers see it at once.
    pub(crate) fn set(&self, index: usize, value: u64, needs: Needs) {
        let mut state = self.cache.state.lock();
        self.words()[index].store(value, Ordering::Release);
        state.mark(self.slot, index..index + 1, needs);
    }

    /// Sets entries from `first` on; no copy for the disk holds only some of them.
    pub(crate) fn set_run(&self, first: usize, values: impl Iterator<Item = u64>, needs: Needs) {
        let mut state = self.cache.state.lock();
        let mut index = first;
        for value in values {
            self.words()[index].store(value, Ordering::Release);
            index += 1;
        }
        if index > first {
            state.mark(self.slot, first..index, needs);
        }
    }

    /// Sets entries of two words from the `first` such entry on.
    ///
    /// Nobody sees a word of an old entry with one of a new entry: no valid view, no
    /// [`pair`](Self::pair), no copy for the disk.
    pub(crate) fn set_pairs(&self, first: usize, pairs: &[[u64; 2]], needs: Needs) {
        let mut state = self.cache.state.lock();
        let (slot, range) = (
            &self.cache.slots[self.slot],
            2 * first..2 * (first + pairs.len()),
        );
        let old = &self.words()[range.clone()];
        let mut both = old.chunks_exact(2).zip(pairs);
        let hidden = both.any(|(old, new)| old[0].load(Ordering::Relaxed) != new[0]);
        if hidden {
            slot.hide();
        }
        for (word, new) in old.iter().zip(pairs.as_flattened()) {
            word.store(*new, Ordering::Release);
        }
        if hidden {
            slot.show(self.key);
        }
        if !pairs.is_empty() {
            state.mark(self.slot, range, needs);
        }
    }

    /// Makes the whole table be written.
    pub(crate) fn mark_all(&self, needs: Needs) {
        self.cache
            .state
            .lock()
            .mark(self.slot, 0..self.cache.entries, needs);
    }

    fn words(&self) -> &[AtomicU64] {
        self.cache.slots[self.slot]
            .words
            .get()
            .expect("a pinned slot was filled")
    }
}

impl Clone for Pinned<'_> {
    fn clone(&self) -> Self {
        self.cache.state.lock().slots[self.slot].pins += 1;
        Pinned {
            cache: self.cache,
            slot: self.slot,
            key: self.key,
        }
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state.lock();
        let entry = &mut state.slots[self.slot];
        entry.pins -= 1;
        if entry.pins == 0 {
            drop(state);
            self.cache.changed.wake_all();
        }
    }
}

/// A slot that its owner fills; dropped unfilled, it is free again and waiters try for themselves.
pub(crate) struct Loading<'a> {
    cache: &'a TableCache,
    slot: usize,
    key: u64,
    done: bool,
}

impl<'a> Loading<'a> {
    /// Fills the slot with the table's entries (zeroes behind them) and shows it to readers.
    pub(crate) fn fill(mut self, entries: &[u64]) -> Pinned<'a> {
        let cache = self.cache;
        let slot = &cache.slots[self.slot];
        let words = slot
            .words
            .get_or_init(|| SharedWords::zeroed(cache.entries));
        for (index, word) in words.iter().enumerate() {
            word.store(entries.get(index).copied().unwrap_or(0), Ordering::Relaxed);
        }
        slot.show(self.key);
        let key = usize::try_from(self.key).unwrap_or(usize::MAX);
        let chunk = cache.directory[key / CHUNK]
            .get_or_init(|| (0..CHUNK).map(|_| AtomicU32::new(0)).collect());
        let place = u32::try_from(self.slot + 1).expect("slots are counted in 32 bits");
        chunk[key % CHUNK].store(place, Ordering::Release);
        cache.state.lock().slots[self.slot].loading = false;
        self.done = true;
        cache.changed.wake_all();
        Pinned {
            cache,
            slot: self.slot,
            key: self.key,
        }
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.cache.state.lock();
        state.keys.remove(&self.key);
        state.slots[self.slot] = SlotState {
            resident: true,
            ..SlotState::default()
        };
        drop(state);
        self.cache.changed.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load<'a>(cache: &'a TableCache, key: u64, words: &[u64]) -> Pinned<'a> {
        match cache.acquire(key) {
            Acquire::Load(slot) => slot.fill(words),
            Acquire::Ready(table) => table,
            Acquire::Wait | Acquire::Full => panic!("table {key} cannot be loaded"),
        }
    }

    #[test]
    fn hits_see_what_was_loaded_and_set() {
        let cache = TableCache::new(4, 64, 1, 10_000);
        assert!(cache.view(9_999).is_none());
        let table = load(&cache, 9_999, &[1, 2]);
        table.set(1, 7, Needs::Data);
        let view = cache.view(9_999).unwrap();
        assert_eq!([0, 1, 2, 3].map(|i| view.entry(i)), [1, 7, 0, 0]);
        assert!(view.is_valid());
    }

    #[test]
    fn a_reused_slot_invalidates_views() {
        let cache = TableCache::new(4, 32, 1, 10);
        drop(load(&cache, 1, &[1; 4]));
        let view = cache.view(1).unwrap();
        drop(load(&cache, 2, &[2; 4]));
        assert!(!view.is_valid());
        assert!(cache.view(1).is_none());
        assert_eq!(cache.view(2).unwrap().entry(3), 2);
    }

    #[test]
    fn dirty_and_pinned_tables_stay() {
        let cache = TableCache::new(4, 64, 1, 10);
        let pinned = load(&cache, 1, &[]);
        load(&cache, 2, &[]).set(2, 5, Needs::Nothing);
        assert!(matches!(cache.acquire(3), Acquire::Full));
        let copies = cache.take_dirty();
        assert_eq!(copies.len(), 1);
        assert_eq!((copies[0].key, copies[0].range.clone()), (2, 0..4));
        assert_eq!(
            (&*copies[0].words, copies[0].needs),
            (&[0, 0, 5, 0][..], Needs::Nothing)
        );
        assert!(
            matches!(cache.acquire(3), Acquire::Full),
            "a table on its way stays"
        );
        cache.failed(&copies[0]);
        assert_eq!(cache.dirty(), (1, 2));
        let copies = cache.take_dirty();
        cache.written(&copies[0]);
        assert!(matches!(cache.acquire(3), Acquire::Load(_)));
        drop(pinned);
    }

    #[test]
    fn changes_during_a_write_stay_dirty() {
        let cache = TableCache::new(4, 64, 1, 10);
        let table = load(&cache, 1, &[]);
        table.set(0, 1, Needs::Data);
        let copies = cache.take_dirty();
        table.set(3, 2, Needs::Nothing);
        assert!(
            cache.take_dirty().is_empty(),
            "one write of a table at a time"
        );
        cache.written(&copies[0]);
        assert_eq!(cache.take_dirty()[0].words, [1, 0, 0, 2]);
    }

    #[test]
    fn unused_tables_are_dropped_but_for_dirty_and_held_ones() {
        let cache = TableCache::new(4096, 4 * 32768, 1, 10);
        drop(load(&cache, 0, &[7]));
        load(&cache, 1, &[]).set(5, 1, Needs::Data);
        let held = load(&cache, 2, &[9]);
        drop(load(&cache, 3, &[3]));
        assert!(cache.drop_unused(), "all were loaded since");
        let hit = cache.view(0).unwrap();
        assert!(cache.drop_unused(), "one was hit since");
        assert!(hit.is_valid());
        assert!(
            !cache.drop_unused(),
            "what has changes or is held is not waited for"
        );
        assert!(!hit.is_valid());
        let there = [0, 1, 2, 3].map(|key| cache.view(key).is_some());
        assert_eq!(there, [false, true, true, false]);
        assert_eq!((cache.dirty(), held.entry(0)), ((1, 4), 9));
        drop(held);
        let copies = cache.take_dirty();
        while cache.drop_unused() {}
        assert!(cache.view(2).is_none());
        assert!(cache.view(1).is_some(), "a table on its way stays");
        cache.written(&copies[0]);
        while cache.drop_unused() {}
        assert!(cache.view(1).is_none());
        let mut slots = cache.state.lock().slots.clone().into_iter();
        assert!(slots.all(|slot| slot.key.is_none() && !slot.resident));
        assert_eq!(load(&cache, 1, &[8]).entry(5), 0);
    }

    #[test]
    fn one_load_at_a_time_and_a_failed_one_frees_the_slot() {
        let cache = TableCache::new(4, 32, 1, 10);
        let Acquire::Load(slot) = cache.acquire(1) else {
            panic!("the cache is empty")
        };
        assert!(matches!(cache.acquire(1), Acquire::Wait));
        assert!(matches!(cache.acquire(2), Acquire::Full));
        drop(slot);
        assert!(matches!(cache.acquire(2), Acquire::Load(_)));
    }

    #[test]
    fn a_pair_that_changes_as_a_whole_invalidates_views() {
        let cache = TableCache::new(4, 32, 1, 10);
        let table = load(&cache, 1, &[1, 2, 3, 4]);
        let view = cache.view(1).unwrap();
        table.set_pairs(1, &[[3, 40]], Needs::Nothing);
        assert!(view.is_valid(), "first words are as they were");
        assert_eq!(view.pair(1), [3, 40]);
        table.set_pairs(0, &[[1, 2], [30, 41]], Needs::Data);
        assert!(!view.is_valid());
        assert_eq!(cache.view(1).unwrap().pair(1), [30, 41]);
        assert_eq!([0, 1].map(|index| table.pair(index)), [[1, 2], [30, 41]]);
        let copies = cache.take_dirty();
        assert_eq!(copies[0].words, [1, 2, 30, 41]);
        assert_eq!(copies[0].needs, Needs::Data);
    }

    #[test]
    fn readers_never_see_another_tables_entries() {
        let cache = TableCache::new(64, 64 * 8 * 2, 1, 8);
        std::thread::scope(|scope| {
            for seed in 0..2u64 {
                let cache = &cache;
                scope.spawn(move || {
                    for round in 0..2000 {
                        let key = (round * 5 + seed) % 8;
                        if let Acquire::Load(slot) = cache.acquire(key) {
                            slot.fill(&[key; 64]);
                        }
                    }
                });
            }
            let cache = &cache;
            scope.spawn(move || {
                for round in 0..20_000u64 {
                    let key = round % 8;
                    let Some(view) = cache.view(key) else {
                        continue;
                    };
                    let seen = [0, 31, 63].map(|i| view.entry(i));
                    assert!(!view.is_valid() || seen == [key; 3]);
                }
            });
        });
    }
}
