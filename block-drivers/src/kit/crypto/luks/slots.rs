//! Key slots of a header that is there: one more passphrase, or one less.
//! Called by formats that carry such a header, which write what comes of it. Invariant: a slot's
//! `active` word alone says whether it is in use, so that one write of four bytes decides.

use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U32;

use super::layout::{DISABLED, ENABLED, RawHeader, RawSlot, STRIPES};
use super::new::rounds;
use super::{ActiveSlot, Header, KeyBytes, LuksError, SectorCipher};
use crate::kit::crypto::{random, split};

/// Where the first slot is in the header.
const FIRST_SLOT: usize = std::mem::offset_of!(RawHeader, key_slots);

/// A slot as it goes to disk.
pub(crate) struct SlotBytes {
    /// Where it is in the header.
    pub(crate) offset: u64,
    /// Its `active` word.
    pub(crate) active: [u8; 4],
    /// What is behind that word.
    pub(crate) rest: Vec<u8>,
}

impl Header {
    /// Wraps the key by one more passphrase: what its slot is, and its key material. Takes a bit
    /// longer than `iter_time`.
    ///
    /// # Errors
    /// [`LuksError::Cipher`].
    pub(crate) fn wrap(
        &self,
        key: &KeyBytes,
        passphrase: &[u8],
        iter_time: Duration,
    ) -> Result<(ActiveSlot, KeyBytes), LuksError> {
        let len = self.spec.key_len();
        let mut salt = [0; 32];
        random(&mut salt).map_err(LuksError::Cipher)?;
        let rounds = rounds(self.hash.rounds_within(iter_time, len));
        let wrapper = self.hash.pbkdf2(passphrase, &salt, rounds, len);
        let wrapper = SectorCipher::new(&self.spec, &wrapper).map_err(LuksError::Cipher)?;
        let mut material =
            split::split(self.hash, key, STRIPES as usize).map_err(LuksError::Cipher)?;
        wrapper.encrypt(0, &mut material);
        Ok((ActiveSlot { rounds, salt }, material))
    }

    /// The header with another content of a slot.
    pub(crate) fn with_slot(&self, index: usize, active: Option<ActiveSlot>) -> Header {
        let mut header = self.clone();
        if let Some(slot) = header.slots.get_mut(index) {
            slot.active = active;
        }
        header
    }

    /// A slot's bytes; `None` when there is no such slot.
    pub(crate) fn slot_bytes(&self, index: usize) -> Option<SlotBytes> {
        let slot = self.slots.get(index)?;
        let (active, iterations, salt) = match &slot.active {
            Some(active) => (ENABLED, active.rounds, active.salt),
            None => (DISABLED, 0, [0; 32]),
        };
        let raw = RawSlot {
            active: U32::new(active),
            iterations: U32::new(iterations),
            salt,
            key_material_offset: U32::new(slot.offset_sectors),
            stripes: U32::new(STRIPES),
        };
        let skip = index.checked_mul(size_of::<RawSlot>())?;
        let (active, rest) = raw.as_bytes().split_first_chunk()?;
        Some(SlotBytes {
            offset: FIRST_SLOT.checked_add(skip)? as u64,
            active: *active,
            rest: rest.to_vec(),
        })
    }
}
