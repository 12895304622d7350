//! Slots of three words that any thread reads and writes whole, and nobody waits for.
//! Called by `fixed`, which says what the words mean. A slot counts its changes: an odd count says
//! that somebody is writing it. A reader that saw the same even count before and after its words saw
//! words that were written together; else it has seen nothing. Two writers of one slot: the second
//! lets it be, since what it would keep can be found out again.
//! Invariant: a slot starts with words of 0. Counts have 64 bits and do not come round.

use crate::atomic::{AtomicU64, Ordering, fence, zeroed};

/// The count, and the words.
const STRIDE: usize = 4;

/// A fixed number of slots.
pub(crate) struct Slots {
    words: Box<[AtomicU64]>,
}

impl Slots {
    /// So many slots; `None` when there is no memory. What nobody writes takes none.
    pub(crate) fn new(count: usize) -> Option<Slots> {
        let words = zeroed(count.checked_mul(STRIDE)?)?;
        Some(Slots { words })
    }

    fn slot(&self, index: usize) -> Option<&[AtomicU64; STRIDE]> {
        self.words.as_chunks().0.get(index)
    }

    /// What the slot holds, unless somebody is writing it.
    pub(crate) fn get(&self, index: usize) -> Option<[u64; 3]> {
        let [count, words @ ..] = self.slot(index)?;
        let before = count.load(Ordering::Acquire);
        let seen = words.each_ref().map(|word| word.load(Ordering::Relaxed));
        // No word above is read after the count below.
        fence(Ordering::Acquire);
        let after = count.load(Ordering::Relaxed);
        (before.is_multiple_of(2) && before == after).then_some(seen)
    }

    /// Lets the slot hold this, unless somebody else is writing it.
    pub(crate) fn put(&self, index: usize, new: [u64; 3]) {
        let Some([count, words @ ..]) = self.slot(index) else {
            return;
        };
        let before = count.load(Ordering::Relaxed);
        let is_mine = before.is_multiple_of(2)
            && count
                .compare_exchange(before, before + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if !is_mine {
            return;
        }
        // Who sees one of the new words sees the odd count, or a later one.
        fence(Ordering::Release);
        for (word, new) in words.iter().zip(new) {
            word.store(new, Ordering::Relaxed);
        }
        count.store(before + 2, Ordering::Release);
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slots({})", self.words.len() / STRIDE)
    }
}
