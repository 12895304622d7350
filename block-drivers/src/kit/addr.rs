//! Offsets that cannot be mixed up: on the guest's disk, and in the file that holds the image.

use std::fmt;

/// A byte of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GuestOffset(pub(crate) u64);

/// A byte of the file that holds the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostOffset(pub(crate) u64);

impl HostOffset {
    /// The byte `len` further on; callers have bounded both far below 2^64.
    pub(crate) fn plus(self, len: u64) -> HostOffset {
        HostOffset(self.0 + len)
    }
}

impl fmt::LowerHex for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}

impl fmt::LowerHex for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.0, f)
    }
}
