//! Structures on disk, in the specification's order and words. Spec: LUKS "The partition header".

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::kit::layout::assert_layout;

/// `magic`.
pub(super) const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// `version` of the headers understood here.
pub(super) const VERSION: u16 = 1;
/// `active` of a slot in use.
pub(super) const ENABLED: u32 = 0x00ac_71f3;
/// `active` of a free slot.
pub(super) const DISABLED: u32 = 0x0000_dead;
/// `stripes` of every slot.
pub(super) const STRIPES: u32 = 4000;
/// Bytes before the first key material, which keeps to multiples of this.
pub(super) const ALIGNMENT: u64 = 4096;
/// Key slots.
pub(super) const SLOTS: usize = 8;

/// `struct luks_phdr`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 6],
    pub(super) version: U16,
    pub(super) cipher_name: [u8; 32],
    pub(super) cipher_mode: [u8; 32],
    pub(super) hash_spec: [u8; 32],
    pub(super) payload_offset: U32,
    pub(super) key_bytes: U32,
    pub(super) mk_digest: [u8; 20],
    pub(super) mk_digest_salt: [u8; 32],
    pub(super) mk_digest_iter: U32,
    pub(super) uuid: [u8; 40],
    pub(super) key_slots: [RawSlot; SLOTS],
}
assert_layout!(RawHeader, size = 592, {
    magic: 0, version: 6, cipher_name: 8, cipher_mode: 40, hash_spec: 72, payload_offset: 104,
    key_bytes: 108, mk_digest: 112, mk_digest_salt: 132, mk_digest_iter: 164, uuid: 168,
    key_slots: 208,
});

/// A key slot.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawSlot {
    pub(super) active: U32,
    pub(super) iterations: U32,
    pub(super) salt: [u8; 32],
    pub(super) key_material_offset: U32,
    pub(super) stripes: U32,
}
assert_layout!(RawSlot, size = 48, {
    active: 0, iterations: 4, salt: 8, key_material_offset: 40, stripes: 44,
});
