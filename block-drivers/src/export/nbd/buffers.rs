//! Memory for the data of requests, used again by the same connection.
//!
//! Fresh memory costs a read of 256 KiB as much as the read itself. Buffers never pass from one
//! connection to another, so that no client sees what another one read. Invariant: what is kept has
//! no other handle, a power of two of bytes, and together at most [`KEPT_BUSY`].

use block_core::{AlignedBuf, IoBuf};

/// The smallest buffer worth keeping.
const SMALLEST: usize = 4 << 10;
/// Sizes from there, each twice the one before: up to 1 MiB.
const CLASSES: usize = 9;
/// Bytes kept while requests are in flight.
const KEPT_BUSY: usize = 4 << 20;
/// Bytes kept by an idle connection.
const KEPT_IDLE: usize = 256 << 10;

/// The free buffers of one connection.
#[derive(Default)]
pub(super) struct Buffers {
    free: [Vec<AlignedBuf>; CLASSES],
    bytes: usize,
}

/// Where buffers of a length are kept, if they are.
fn class(len: usize) -> Option<usize> {
    let steps = len
        .checked_div(SMALLEST)
        .filter(|_| len.is_power_of_two())?
        .checked_ilog2()?;
    usize::try_from(steps).ok().filter(|&class| class < CLASSES)
}

impl Buffers {
    /// Memory of `len` bytes, for a request that fills all of it.
    pub(super) fn take(&mut self, len: usize) -> IoBuf {
        match class(len).and_then(|class| self.free[class].pop()) {
            Some(buf) => {
                self.bytes -= len;
                buf.into()
            }
            None => IoBuf::zeroed(len),
        }
    }

    /// Keeps memory that nobody uses any more, if there is room for it.
    pub(super) fn give(&mut self, buf: IoBuf) {
        let Some(class) = class(buf.len()) else {
            return;
        };
        if self.bytes + buf.len() <= KEPT_BUSY
            && let Ok(memory) = buf.try_into_aligned()
        {
            self.bytes += memory.len();
            self.free[class].push(memory);
        }
    }

    /// Lets go of what an idle connection should not hold.
    pub(super) fn rest(&mut self) {
        for list in self.free.iter_mut().rev() {
            while self.bytes > KEPT_IDLE
                && let Some(memory) = list.pop()
            {
                self.bytes -= memory.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_has_no_other_handle_and_a_common_size() {
        let mut buffers = Buffers::default();
        let shared = IoBuf::zeroed(4096);
        buffers.give(shared.clone());
        buffers.give(IoBuf::zeroed(5000));
        buffers.give(IoBuf::zeroed(2 << 20));
        buffers.give(IoBuf::zeroed(8192).slice(0..4096));
        assert_eq!(buffers.bytes, 0);
        let used = IoBuf::copy_of(&[7; 4096]);
        buffers.give(used);
        assert_eq!(buffers.bytes, 4096);
        assert_eq!(
            buffers.take(4096).to_vec(),
            [7; 4096],
            "the same memory, as it was left"
        );
        assert_eq!(buffers.bytes, 0);
        assert_eq!(buffers.take(4096).to_vec(), [0; 4096]);
    }

    #[test]
    fn holds_little_when_idle_and_not_much_when_busy() {
        let mut buffers = Buffers::default();
        (0..10).for_each(|_| buffers.give(IoBuf::zeroed(1 << 20)));
        assert_eq!(buffers.bytes, KEPT_BUSY);
        buffers.rest();
        assert_eq!(buffers.bytes, 0);
        (0..70).for_each(|_| buffers.give(IoBuf::zeroed(4096)));
        buffers.rest();
        assert_eq!(buffers.bytes, KEPT_IDLE);
    }
}
