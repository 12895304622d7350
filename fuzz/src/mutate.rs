//! Mutations: from inputs that parsers like to inputs that they may not like.
//! Called by the smoke test and the differential one. Pure: one seed, one sequence.

use crate::MAX_INPUT;

/// A small generator of random numbers (splitmix64): the same seed, the same run.
pub struct Random(u64);

impl Random {
    /// Starts a sequence.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let below = self.number() % u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(below).unwrap_or(0)
    }

    /// One of some things.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The seed of a run: a new one each time, or `QBLK_SEED`. Printed, to replay a failure.
pub fn seed(what: &str) -> u64 {
    let given = std::env::var("QBLK_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |d| u64::from(d.subsec_nanos()) ^ d.as_secs())
    });
    println!("{what}: QBLK_SEED={seed}");
    seed
}

/// How often a run repeats what it does: once, or as often as `QBLK_ROUNDS` says.
pub fn rounds() -> u64 {
    let asked = std::env::var("QBLK_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Numbers at which arithmetic and bounds change their mind.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    7,
    8,
    63,
    104,
    511,
    512,
    1024,
    4096,
    65536,
    (1 << 20) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    (1 << 56) - 512,
    1 << 56,
    1 << 62,
    1 << 63,
    u64::MAX,
    u64::MAX - 511,
    (1 << 63) | 4096,
    (1 << 62) | 4096,
];

/// An input made of one of the corpus, with a few changes.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(corpus).clone();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, corpus);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

/// An input as long as the one it is made of: words changed, mostly those that are not zero.
pub fn damaged(random: &mut Random, original: &[u8]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(3) {
        word(random, &mut bytes);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    if bytes.is_empty() {
        bytes.extend_from_slice(&random.number().to_le_bytes());
    }
    let at = random.below(bytes.len());
    let len = 1 + random.below((bytes.len() - at).min(64));
    match random.below(12) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.number().to_le_bytes()[0],
        2..=7 => word(random, bytes),
        8 => drop(bytes.drain(at..at + len)),
        9 => {
            let again = bytes[at..at + len].to_vec();
            bytes.splice(at..at, again);
        }
        10 => bytes.truncate(at),
        _ => {
            let other = random.pick(corpus);
            let from = random.below(other.len().max(1)).min(other.len());
            let to = (from + len).min(other.len());
            bytes.splice(at..at + len, other[from..to].to_vec());
        }
    }
}

/// Replaces a word of two to eight bytes by an edge, a neighbour, or another word of the input.
fn word(random: &mut Random, bytes: &mut [u8]) {
    let width = *random.pick(&[2, 4, 8, 8]);
    if bytes.len() < width {
        return;
    }
    let at = place(random, bytes, width);
    let old = number(&bytes[at..at + width]);
    let new = match random.below(4) {
        0 => old.wrapping_add(random.number() % 17).wrapping_sub(8),
        1 => {
            let from = place(random, bytes, width);
            number(&bytes[from..from + width])
        }
        2 => old ^ (1 << random.below(8 * width)),
        _ => *random.pick(&EDGES),
    };
    let new = new.to_be_bytes();
    bytes[at..at + width].copy_from_slice(&new[8 - width..]);
}

/// Where a word may be: on its boundary, half of the time in the first bytes; where all around is
/// zero it looks again.
fn place(random: &mut Random, bytes: &[u8], width: usize) -> usize {
    let mut at = 0;
    for _ in 0..16 {
        let end = match random.below(2) {
            0 => bytes.len().min(128),
            _ => bytes.len(),
        };
        at = (random.below(end) / width * width).min(bytes.len() - width);
        if number(&bytes[at..at + width]) != 0 {
            break;
        }
    }
    at
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
