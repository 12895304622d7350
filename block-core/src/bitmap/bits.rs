//! A row of bits that any thread sets without a lock, and one takes.
//!
//! Called by `bitmap/mod.rs`. A bit is set by one atomic OR, so bits of one word set on two queues
//! at once are both there; it is taken by one swap, so a bit is either in what was taken or still
//! here. A second row tells which pages of the first were ever touched: pages that were not are
//! neither read nor given memory. A page's mark is set before its first bit and never cleared, so
//! whoever finds it clear has nothing to miss.
//! Not here: what a bit stands for, and the moment of the cut (the node is drained then).

use std::ops::Range;

use crate::atomic::{AtomicU64, Ordering, zeroed};

/// Bits of a word.
const WORD: u64 = 64;
/// Words whose state one bit of the second row tells: a page of memory.
const PAGE: u64 = 512;

/// A row of bits.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Box<[AtomicU64]>,
    touched: Box<[AtomicU64]>,
    len: u64,
}

impl Bits {
    /// `len` bits, all clear; `None` when there is no memory for them.
    pub(crate) fn new(len: u64) -> Option<Bits> {
        let words = len.div_ceil(WORD);
        let row = |words: u64| zeroed(usize::try_from(words).ok()?);
        Some(Bits {
            words: row(words)?,
            touched: row(words.div_ceil(PAGE).div_ceil(WORD))?,
            len,
        })
    }

    /// How many bits there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Sets the bits of `range` that exist.
    pub(crate) fn set(&self, range: Range<u64>) {
        let range = range.start..range.end.min(self.len);
        let mut at = range.start;
        while at < range.end {
            let word = at / WORD;
            let end = range.end.min((word + 1) * WORD);
            self.or(word, mask(at % WORD, end - word * WORD));
            at = end;
        }
    }

    /// Clears all.
    pub(crate) fn clear(&self) {
        for (_, word) in self.touched_words() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Clears all and returns what was set; `None`, with nothing changed, when there is no memory.
    pub(crate) fn take(&self) -> Option<Bits> {
        let taken = Bits::new(self.len)?;
        for (index, word) in self.touched_words() {
            let bits = word.swap(0, Ordering::Relaxed);
            taken.or(index, bits);
        }
        Some(taken)
    }

    /// Sets what is set in `other`, which has as many bits.
    pub(crate) fn merge(&self, other: &Bits) {
        for (index, word) in other.touched_words() {
            self.or(index, word.load(Ordering::Relaxed));
        }
    }

    /// How many bits are set.
    pub(crate) fn ones(&self) -> u64 {
        let words = self.touched_words();
        words
            .map(|(_, word)| u64::from(word.load(Ordering::Relaxed).count_ones()))
            .sum()
    }

    /// The first run of set bits at or behind `from`.
    pub(crate) fn next_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.next_set(from, self.len)?;
        Some(start..self.next_clear(start, self.len))
    }

    /// The first run of clear bits within a range.
    pub(crate) fn next_gap(&self, range: Range<u64>) -> Option<Range<u64>> {
        let end = range.end.min(self.len);
        let start = self.next_clear(range.start, end);
        if start >= end {
            return None;
        }
        let next = self.next_set(start, end);
        Some(start..next.unwrap_or(end))
    }

    /// 64 bits by the number of their word, the first one lowest; 0 behind the end.
    pub(crate) fn word(&self, index: u64) -> u64 {
        self.place(index)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Sets those of 64 bits that exist.
    pub(crate) fn or_word(&self, index: u64, bits: u64) {
        let first = index.saturating_mul(WORD);
        let there = self.len.saturating_sub(first).min(WORD);
        self.or(index, bits & mask(0, there));
    }

    fn next_set(&self, from: u64, end: u64) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = at / WORD;
            if !self.is_touched(word / PAGE) {
                at = (word / PAGE + 1) * PAGE * WORD;
                continue;
            }
            let rest = self.word(word) & mask(at % WORD, WORD);
            if rest != 0 {
                let found = word * WORD + u64::from(rest.trailing_zeros());
                return (found < end).then_some(found);
            }
            at = (word + 1) * WORD;
        }
        None
    }

    fn next_clear(&self, from: u64, end: u64) -> u64 {
        let mut at = from;
        while at < end {
            let word = at / WORD;
            let rest = !self.word(word) & mask(at % WORD, WORD);
            if rest != 0 {
                return end.min(word * WORD + u64::from(rest.trailing_zeros()));
            }
            at = (word + 1) * WORD;
        }
        end
    }

    fn place(&self, index: u64) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(index).ok()?)
    }

    fn or(&self, index: u64, bits: u64) {
        let Some(word) = self.place(index) else {
            return;
        };
        // Set already, as with most writes: no store that other queues would have to see.
        if bits == 0 || word.load(Ordering::Relaxed) & bits == bits {
            return;
        }
        let page = index / PAGE;
        let mark = self.touched.get(usize::try_from(page / WORD).unwrap_or(0));
        if let Some(mark) = mark.filter(|_| !self.is_touched(page)) {
            mark.fetch_or(1 << (page % WORD), Ordering::Relaxed);
        }
        word.fetch_or(bits, Ordering::Relaxed);
    }

    fn is_touched(&self, page: u64) -> bool {
        let mark = self.touched.get(usize::try_from(page / WORD).unwrap_or(0));
        mark.is_some_and(|mark| mark.load(Ordering::Relaxed) >> (page % WORD) & 1 == 1)
    }

    /// The words of touched pages, with their numbers.
    fn touched_words(&self) -> impl Iterator<Item = (u64, &AtomicU64)> {
        let pages = (self.words.len() as u64).div_ceil(PAGE);
        let words = (0..pages)
            .filter(|&page| self.is_touched(page))
            .flat_map(|page| page * PAGE..(page + 1) * PAGE);
        words.filter_map(|index| Some((index, self.place(index)?)))
    }
}

/// The bits of a word from `start` to `end`.
fn mask(start: u64, end: u64) -> u64 {
    let below = |bit: u64| match bit {
        WORD.. => u64::MAX,
        bit => (1 << bit) - 1,
    };
    below(end) & !below(start)
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges may have one"
)]
mod tests {
    use super::*;

    /// Runs after setting each range.
    #[track_caller]
    fn check(len: u64, ranges: &[Range<u64>], want: &[Range<u64>]) {
        let bits = Bits::new(len).unwrap();
        for range in ranges {
            bits.set(range.clone());
        }
        let runs = |bits: &Bits| {
            let first = bits.next_run(0);
            std::iter::successors(first, |run| bits.next_run(run.end)).collect::<Vec<_>>()
        };
        assert_eq!(runs(&bits), want);
        assert_eq!(bits.ones(), want.iter().map(|r| r.end - r.start).sum());
        // Gaps are what lies between the runs, in any range.
        for range in [0..len, 1..len, len / 3..len / 2] {
            let first = bits.next_gap(range.clone());
            let gaps = std::iter::successors(first, |gap| bits.next_gap(gap.end..range.end));
            let is_set = |bit: &u64| want.iter().any(|run| run.contains(bit));
            assert!(
                gaps.flatten().eq(range.clone().filter(|bit| !is_set(bit))),
                "{range:?}"
            );
        }
        let taken = bits.take().unwrap();
        assert_eq!((runs(&taken).as_slice(), bits.ones()), (want, 0));
        bits.merge(&taken);
        assert_eq!(runs(&bits), want);
        bits.clear();
        assert_eq!(bits.next_run(0), None);
    }

    #[test]
    fn ranges_join_across_words_and_pages() {
        check(0, &[0..9], &[]);
        check(1, &[0..9], &[0..1]);
        check(
            200,
            &[3..4, 63..65, 65..128, 199..300],
            &[3..4, 63..128, 199..200],
        );
        let pages = 64 * 512;
        check(
            pages * 200,
            &[pages - 1..pages + 1, pages * 130..pages * 131],
            &[pages - 1..pages + 1, pages * 130..pages * 131],
        );
    }

    #[test]
    fn a_word_has_no_bits_behind_the_end() {
        let bits = Bits::new(70).unwrap();
        bits.or_word(1, u64::MAX);
        bits.or_word(2, u64::MAX);
        assert_eq!((bits.ones(), bits.word(1), bits.word(2)), (6, 0x3f, 0));
    }
}
