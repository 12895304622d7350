//! The runtime on its own: the JSON stream, text output, limits; a client's end of a connection.

mod client;
mod json;

/// A small generator of random numbers (splitmix64): the same seed, the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let number = self.next() % u64::try_from(end).unwrap();
        usize::try_from(number).unwrap()
    }

    /// Cuts bytes into pieces, some of them empty.
    fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.below(bytes.len().min(40) + 1));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
