//! On-disk structures: a check of their layout at compile time, and reads that stay in bounds.
//! Used by every driver's `layout.rs` and `header.rs`. Not here: what the fields mean.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::FromBytes;

/// Refuses to compile when a structure or a field is not where the specification puts it.
macro_rules! assert_layout {
    ($type:ty, size = $size:expr, { $($field:ident: $offset:expr),* $(,)? }) => {
        const _: () = {
            assert!(std::mem::size_of::<$type>() == $size);
            $(assert!(std::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}
pub(crate) use assert_layout;

/// Copies a structure out of `bytes` at `offset`; `None` when it ends outside.
pub(crate) fn read_struct<T: FromBytes>(bytes: &[u8], offset: usize) -> Option<T> {
    T::read_from_prefix(bytes.get(offset..)?)
        .ok()
        .map(|(value, _)| value)
}

/// The bytes at `offset`; `None` when they end outside.
pub(crate) fn read_slice(bytes: &[u8], offset: usize, len: usize) -> Option<&[u8]> {
    bytes.get(offset..offset.checked_add(len)?)
}

/// Big-endian words of a table; bytes behind the last whole word are not looked at.
pub(crate) fn words_be(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|w| u64::from_be_bytes(*w)).collect()
}

/// A table's words as they are stored, big-endian.
pub(crate) fn bytes_be(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}
