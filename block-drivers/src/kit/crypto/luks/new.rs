//! Making a header: a random key, wrapped by one passphrase.
//! Called by create. Invariant: nothing that was made is written before all of it was.

use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::{U16, U32};

use super::layout::{
    ALIGNMENT, DISABLED, ENABLED, MAGIC, RawHeader, RawSlot, SLOTS, STRIPES, VERSION,
};
use super::{MAX_ROUNDS, field, material_len, place_len};
use crate::kit::crypto::{
    CipherAlgorithm, CipherMode, CipherSpec, CryptoError, HashAlgorithm, IvAlgorithm, KeyBytes,
    SECTOR, SectorCipher, random, split,
};

/// PBKDF2 rounds at least.
const MIN_ROUNDS: u64 = 1000;

/// How an image is encrypted; the defaults are QEMU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuksOptions {
    /// The cipher.
    pub cipher: CipherAlgorithm,
    /// How blocks depend on one another.
    pub mode: CipherMode,
    /// How initial vectors are made.
    pub iv: IvAlgorithm,
    /// The hash of ESSIV; SHA-256 if not given.
    pub iv_hash: Option<HashAlgorithm>,
    /// The hash of key derivation.
    pub hash: HashAlgorithm,
    /// How long it takes to try a passphrase, on this processor.
    pub iter_time: Duration,
}

impl Default for LuksOptions {
    fn default() -> LuksOptions {
        LuksOptions {
            cipher: CipherAlgorithm::Aes256,
            mode: CipherMode::Xts,
            iv: IvAlgorithm::Plain64,
            iv_hash: None,
            hash: HashAlgorithm::Sha256,
            iter_time: Duration::from_millis(2000),
        }
    }
}

impl LuksOptions {
    fn spec(&self) -> CipherSpec {
        let iv_hash = match self.iv {
            IvAlgorithm::Essiv => Some(self.iv_hash.unwrap_or(HashAlgorithm::Sha256)),
            IvAlgorithm::Plain | IvAlgorithm::Plain64 => self.iv_hash,
        };
        CipherSpec {
            algorithm: self.cipher,
            mode: self.mode,
            iv: self.iv,
            iv_hash,
        }
    }

    /// Whether there can be a header for these options.
    ///
    /// # Errors
    /// [`CryptoError`] for a cipher, mode and hash that do not go together.
    pub(crate) fn check(&self) -> Result<(), CryptoError> {
        let spec = self.spec();
        let key = KeyBytes::new(vec![0; spec.key_len()]);
        SectorCipher::new(&spec, &key)?;
        if !material_len(&spec).is_multiple_of(SECTOR) {
            // Programs differ in what they take for the last sector.
            return Err(CryptoError::KeyLength {
                cipher: self.cipher.luks_name(),
                len: spec.key_len(),
            });
        }
        Ok(())
    }

    /// Bytes of the header with all its key slots.
    pub(crate) fn area_len(&self) -> u64 {
        let slots = place_len(&self.spec()).saturating_mul(SLOTS as u64);
        ALIGNMENT.saturating_add(slots)
    }
}

/// A header that was made and not written yet; what is between its parts is zeroes.
pub(crate) struct NewHeader {
    /// The first bytes.
    pub(crate) header: Vec<u8>,
    /// Where the key material goes.
    pub(crate) material_offset: u64,
    /// The key material, encrypted.
    pub(crate) material: KeyBytes,
}

impl NewHeader {
    /// Makes a key and wraps it. Takes a bit longer than `iter_time`.
    ///
    /// # Errors
    /// [`CryptoError`] as [`LuksOptions::check`] says, and without random bytes.
    pub(crate) fn make(options: &LuksOptions, passphrase: &[u8]) -> Result<NewHeader, CryptoError> {
        let (spec, hash) = (options.spec(), options.hash);
        let len = spec.key_len();
        let mut key = KeyBytes::new(vec![0; len]);
        random(&mut key)?;
        let (mut digest_salt, mut slot_salt, mut uuid) = ([0; 32], [0; 32], [0; 16]);
        random(&mut digest_salt)?;
        random(&mut slot_salt)?;
        random(&mut uuid)?;
        let mut digest = [0; 20];
        // Eight slots are tried with one passphrase: a digest each takes an eighth.
        let digest_rounds = rounds(hash.rounds_within(options.iter_time, digest.len()) / 8);
        let digested = hash.pbkdf2(&key, &digest_salt, digest_rounds, digest.len());
        digest.copy_from_slice(&digested);
        let slot_rounds = rounds(hash.rounds_within(options.iter_time, len));
        let wrapper = hash.pbkdf2(passphrase, &slot_salt, slot_rounds, len);
        let wrapper = SectorCipher::new(&spec, &wrapper)?;
        let mut material = split::split(hash, &key, STRIPES as usize)?;
        wrapper.encrypt(0, &mut material);

        let offset = |slot: u64| ALIGNMENT.saturating_add(place_len(&spec).saturating_mul(slot));
        let mut slots = [free_slot(0); SLOTS];
        for (slot, index) in slots.iter_mut().zip(0..) {
            *slot = free_slot(offset(index));
        }
        if let Some(first) = slots.first_mut() {
            first.active = U32::new(ENABLED);
            first.iterations = U32::new(slot_rounds);
            first.salt = slot_salt;
        }
        let raw = RawHeader {
            magic: MAGIC,
            version: U16::new(VERSION),
            cipher_name: field(spec.algorithm.luks_name()),
            cipher_mode: field(&mode_text(&spec)),
            hash_spec: field(hash.as_str()),
            payload_offset: sectors(options.area_len()),
            key_bytes: U32::new(u32::try_from(len).unwrap_or(0)),
            mk_digest: digest,
            mk_digest_salt: digest_salt,
            mk_digest_iter: U32::new(digest_rounds),
            uuid: field(&uuid_text(uuid)),
            key_slots: slots,
        };
        Ok(NewHeader {
            header: raw.as_bytes().to_vec(),
            material_offset: offset(0),
            material,
        })
    }
}

pub(super) fn rounds(wanted: u64) -> u32 {
    let rounds = wanted.clamp(MIN_ROUNDS, u64::from(MAX_ROUNDS));
    u32::try_from(rounds).unwrap_or(MAX_ROUNDS)
}

/// A length of few megabytes, in sectors.
fn sectors(bytes: u64) -> U32 {
    U32::new(u32::try_from(bytes >> SECTOR.trailing_zeros()).unwrap_or(u32::MAX))
}

fn free_slot(offset: u64) -> RawSlot {
    RawSlot {
        active: U32::new(DISABLED),
        iterations: U32::new(0),
        salt: [0; 32],
        key_material_offset: sectors(offset),
        stripes: U32::new(STRIPES),
    }
}

fn mode_text(spec: &CipherSpec) -> String {
    match spec.iv_hash {
        Some(hash) => format!("{}-{}:{hash}", spec.mode, spec.iv),
        None => format!("{}-{}", spec.mode, spec.iv),
    }
}

/// Random bytes as the text of a UUID, version 4. Spec: RFC 9562.
fn uuid_text(random: [u8; 16]) -> String {
    let number = u128::from_be_bytes(random);
    let number = number & !(0xf << 76) | 0x4 << 76;
    let number = number & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{number:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().to_owned();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}
