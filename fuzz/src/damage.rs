//! Damage to the metadata of a qcow2 image: entries of tables, counts, snapshots, bitmaps.
//! Called by the smoke test and by those that compare repairs. Pure: one seed, one damage. An image that is damaged
//! this way mostly still opens, which random bytes of it rarely do.
//! Not here: headers and random bytes (`mutate.rs`).

use crate::mutate::Random;

/// Words that say where something is, without the flags.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Entries of a table that are looked at.
const ENTRIES: usize = 512;
/// The flags of entries, some reserved bits, and the lowest bits of offsets.
const FLIPPED: [u32; 10] = [63, 62, 61, 56, 0, 1, 8, 9, 10, 12];

/// Words of 64 bits of an image, by what they are.
#[derive(Default)]
struct Words {
    /// Places of the words of each kind.
    kinds: [Vec<usize>; KINDS],
}

const KINDS: usize = 8;
const L1: usize = 0;
const L2: usize = 1;
const REFCOUNT_TABLE: usize = 2;
const REFCOUNTS: usize = 3;
const SNAPSHOT: usize = 4;
const SNAPSHOT_L1: usize = 5;
const BITMAP: usize = 6;
const BITMAP_TABLE: usize = 7;

/// The header extension that names the bitmap directory.
const BITMAPS: usize = 0x2385_2875;

/// An image with one to three words of its metadata changed, but for its bitmaps: other programs do
/// not open an image whose bitmaps are wrong.
pub fn damaged(random: &mut Random, original: &[u8]) -> Vec<u8> {
    changed(random, original, &Words::of(original))
}

/// As [`damaged`], with its bitmaps.
pub fn damaged_anywhere(random: &mut Random, original: &[u8]) -> Vec<u8> {
    let mut words = Words::of(original);
    words.bitmaps(original);
    changed(random, original, &words)
}

fn changed(random: &mut Random, original: &[u8], words: &Words) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(3) {
        let kinds: Vec<&Vec<usize>> = words.kinds.iter().filter(|k| !k.is_empty()).collect();
        if kinds.is_empty() {
            break;
        }
        let kind = *random.pick(&kinds);
        let (at, other) = (*random.pick(kind), *random.pick(kind));
        let (old, like) = (word(&bytes, at), word(&bytes, other));
        let new = match random.below(9) {
            0 => 0,
            // Two entries with one meaning.
            1 | 2 => like,
            3 => old & OFFSET,
            4 => old ^ (original.len() as u64).next_multiple_of(512),
            5 => old.wrapping_add(512 << random.below(8)),
            6 => old.wrapping_sub(1 << random.below(60)),
            _ => old ^ 1 << random.pick(&FLIPPED),
        };
        bytes[at..at + 8].copy_from_slice(&new.to_be_bytes());
    }
    bytes
}

impl Words {
    fn of(bytes: &[u8]) -> Words {
        let mut words = Words::default();
        let cluster = 1 << half(bytes, 20).clamp(9, 21);
        let l1 = place(word(bytes, 40));
        words.table(bytes, L1, L2, (l1, half(bytes, 36) * 8), cluster);
        let table = place(word(bytes, 48));
        let len = half(bytes, 56).min(1 << 10) * cluster;
        words.table(bytes, REFCOUNT_TABLE, REFCOUNTS, (table, len), cluster);
        let mut at = place(word(bytes, 64));
        for _ in 0..half(bytes, 60).min(8) {
            if at + 40 > bytes.len() {
                break;
            }
            let fields = [at, at + 8, at + 32, at + 40, at + 48];
            let inside = fields.into_iter().filter(|at| at + 8 <= bytes.len());
            words.kinds[SNAPSHOT].extend(inside);
            let l1 = (place(word(bytes, at)), half(bytes, at + 8) * 8);
            words.table(bytes, SNAPSHOT_L1, L2, l1, cluster);
            let names = half(bytes, at + 12);
            let len = 40 + half(bytes, at + 36) + (names >> 16) + (names & 0xffff);
            at = at.saturating_add(len.next_multiple_of(8));
        }
        words
    }

    /// Notes the words of the bitmap directory, of the extension that names it, and of tables.
    fn bitmaps(&mut self, bytes: &[u8]) {
        let mut at = half(bytes, 100);
        for _ in 0..32 {
            let (kind, len) = (half(bytes, at), half(bytes, at + 4));
            if kind == 0 || kind == BITMAPS {
                break;
            }
            at = at
                .saturating_add(8 + len.next_multiple_of(8))
                .min(bytes.len());
        }
        if half(bytes, at) != BITMAPS {
            return;
        }
        let inside = |at: &usize| at + 8 <= bytes.len();
        self.kinds[BITMAP].extend([at + 8, at + 16, at + 24].iter().filter(|at| inside(at)));
        let mut entry = place(word(bytes, at + 24));
        for _ in 0..half(bytes, at + 8).min(8) {
            let fields = [entry, entry + 8, entry + 16];
            self.kinds[BITMAP].extend(fields.iter().filter(|at| inside(at)));
            let table = (place(word(bytes, entry)), half(bytes, entry + 8) * 8);
            self.words(bytes, BITMAP_TABLE, table);
            let len = 24 + half(bytes, entry + 20) + (half(bytes, entry + 16) & 0xffff);
            entry = entry
                .saturating_add(len.next_multiple_of(8))
                .min(bytes.len());
        }
    }

    /// Notes the words of a table, those that are not 0 and the first that is, and of what they name.
    fn table(
        &mut self,
        bytes: &[u8],
        kind: usize,
        below: usize,
        (at, len): (usize, usize),
        cluster: usize,
    ) {
        for entry in self.words(bytes, kind, (at, len)) {
            let named = place(word(bytes, entry) & OFFSET);
            if named > 0 {
                self.words(bytes, below, (named, cluster));
            }
        }
    }

    fn words(&mut self, bytes: &[u8], kind: usize, (at, len): (usize, usize)) -> Vec<usize> {
        let end = at.saturating_add(len.min(8 * ENTRIES)).min(bytes.len());
        let all = (at..end.saturating_sub(7)).step_by(8);
        let (used, unused): (Vec<usize>, Vec<usize>) = all.partition(|&at| word(bytes, at) != 0);
        self.kinds[kind].extend(used.iter().chain(unused.first()));
        used
    }
}

/// The word at a place; 0 behind the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    let end = at.saturating_add(8).min(bytes.len());
    let word = bytes.get(at..end).and_then(|word| word.first_chunk());
    word.map_or(0, |word| u64::from_be_bytes(*word))
}

/// Half a word.
fn half(bytes: &[u8], at: usize) -> usize {
    usize::try_from(word(bytes, at) >> 32).unwrap_or(0)
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
