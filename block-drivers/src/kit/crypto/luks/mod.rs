//! The LUKS 1 header: which cipher an image has, and its key, wrapped by up to eight passphrases.
//!
//! Called by formats that carry such a header: they read and write its bytes, and run what takes
//! long (`Header::unlock`, `NewHeader::make`) where it holds up nobody. Invariant: a [`Header`] has
//! known names, key slots that overlap nothing, and no more PBKDF2 rounds than [`MAX_ROUNDS`] a
//! slot, so that unlocking ends. Spec: LUKS On-Disk Format 1.2.3. Not here: LUKS 2, payloads.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod layout;
mod new;
mod slots;
#[cfg(test)]
mod tests;

pub use new::LuksOptions;
pub(crate) use new::NewHeader;

use std::ops::Range;

use super::split;
use super::{CipherAlgorithm, CipherMode, CipherSpec, CryptoError, HashAlgorithm, IvAlgorithm};
use super::{KeyBytes, SECTOR, SectorCipher};
use crate::kit::layout::read_struct;
use layout::{ALIGNMENT, DISABLED, ENABLED, MAGIC, RawHeader, STRIPES, VERSION};

/// Bytes of the header in front of all key material.
pub(crate) const HEADER_LEN: usize = size_of::<RawHeader>();
/// PBKDF2 rounds at most, of a slot and of the key's digest: half a minute of a processor.
pub(crate) const MAX_ROUNDS: u32 = 1 << 27;

/// What is wrong with a LUKS header, or what it needs that is not built in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LuksError {
    /// The magic is missing.
    #[error("Volume is not in LUKS format")]
    Magic,
    /// Another version than 1.
    #[error("LUKS version {version} is not supported")]
    Version {
        /// `version`.
        version: u16,
    },
    /// A name without its end, or not in ASCII.
    #[error("LUKS header {field} is not NUL terminated")]
    Unterminated {
        /// Which name.
        field: &'static str,
    },
    /// A name that is not built in.
    #[error("LUKS {what} '{name}' is not supported")]
    Unknown {
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A key length that the cipher does not have.
    #[error("Algorithm '{cipher}' with key size {len} bytes not supported")]
    KeyLength {
        /// The cipher's name.
        cipher: String,
        /// `key-bytes`.
        len: u32,
    },
    /// A mode that does not name an initial vector.
    #[error("Unexpected cipher mode string format '{mode}'")]
    Mode {
        /// `cipher-mode`.
        mode: String,
    },
    /// ESSIV without a hash.
    #[error("Missing IV generator hash specification")]
    NoIvHash,
    /// Cipher, mode and hash do not go together.
    #[error("LUKS header cannot be used")]
    Cipher(#[source] CryptoError),
    /// A number of PBKDF2 rounds that is 0, or would take for ever.
    #[error("LUKS {what} iteration count is {rounds}, which is not 1 to {MAX_ROUNDS}")]
    Rounds {
        /// Whose rounds.
        what: &'static str,
        /// How many.
        rounds: u32,
    },
    /// A field of a key slot that cannot be.
    #[error("Keyslot {slot} is corrupted ({what})")]
    Slot {
        /// The slot's number.
        slot: usize,
        /// What is wrong, as a phrase.
        what: &'static str,
    },
    /// Key material on top of something else, or behind the header's end.
    #[error("Keyslot {slot} is overlapping with {other}")]
    Overlap {
        /// The slot's number.
        slot: usize,
        /// What is there.
        other: &'static str,
    },
}

impl LuksError {
    /// Whether the header may be right, and this build cannot do what it asks for.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            LuksError::Version { .. } | LuksError::Unknown { .. } | LuksError::KeyLength { .. }
        )
    }
}

/// A key slot in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveSlot {
    /// PBKDF2 rounds.
    pub(crate) rounds: u32,
    salt: [u8; 32],
}

/// A key slot: in use or not, it has a place for key material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) active: Option<ActiveSlot>,
    offset_sectors: u32,
}

impl Slot {
    /// Where its key material begins, in bytes of the header.
    pub(crate) fn offset(&self) -> u64 {
        bytes_of(self.offset_sectors)
    }
}

/// Stripes that every slot's key is spread over.
pub(crate) fn stripes() -> u32 {
    STRIPES
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) spec: CipherSpec,
    pub(crate) hash: HashAlgorithm,
    pub(crate) uuid: String,
    /// PBKDF2 rounds of the key's digest.
    pub(crate) digest_rounds: u32,
    digest: [u8; 20],
    digest_salt: [u8; 32],
    payload_sectors: u32,
    pub(crate) slots: Vec<Slot>,
}

impl Header {
    /// Checks `bytes`, the first [`HEADER_LEN`] bytes of an area of `area_len` bytes.
    ///
    /// # Errors
    /// Everything that the specification calls an error, and names that are not built in.
    pub(crate) fn parse(bytes: &[u8], area_len: u64) -> Result<Header, LuksError> {
        let raw: RawHeader = read_struct(bytes, 0).ok_or(LuksError::Magic)?;
        if raw.magic != MAGIC {
            return Err(LuksError::Magic);
        }
        let version = raw.version.get();
        if version != VERSION {
            return Err(LuksError::Version { version });
        }
        let spec = cipher_spec(&raw)?;
        let header = Header {
            spec,
            hash: named(&text(&raw.hash_spec, "hash spec")?, "hash algorithm")?,
            uuid: text(&raw.uuid, "UUID")?,
            digest_rounds: rounds("key", raw.mk_digest_iter.get())?,
            digest: raw.mk_digest,
            digest_salt: raw.mk_digest_salt,
            payload_sectors: raw.payload_offset.get(),
            slots: slots(&raw)?,
        };
        header.check_places(area_len)?;
        Ok(header)
    }

    /// Where the payload would begin behind the header, in bytes.
    pub(crate) fn payload_offset(&self) -> u64 {
        bytes_of(self.payload_sectors)
    }

    /// Where a slot's key material is, in bytes of the header; a few hundred KiB.
    pub(crate) fn material(&self, slot: &Slot) -> Range<u64> {
        let start = slot.offset();
        start..start.saturating_add(material_len(&self.spec) as u64)
    }

    /// The cipher of the data and its key, if `passphrase` opens `slot`, whose key material is `material`.
    /// Takes as long as the slot's rounds take.
    ///
    /// # Errors
    /// [`LuksError::Cipher`].
    pub(crate) fn unlock(
        &self,
        slot: &ActiveSlot,
        passphrase: &[u8],
        material: KeyBytes,
    ) -> Result<Option<(SectorCipher, KeyBytes)>, LuksError> {
        let Some(key) = self.key(slot, passphrase, material)? else {
            return Ok(None);
        };
        let cipher = SectorCipher::new(&self.spec, &key).map_err(LuksError::Cipher)?;
        Ok(Some((cipher, key)))
    }

    /// The key, if `passphrase` opens `slot`; as [`unlock`](Header::unlock).
    ///
    /// # Errors
    /// [`LuksError::Cipher`].
    pub(crate) fn key(
        &self,
        slot: &ActiveSlot,
        passphrase: &[u8],
        mut material: KeyBytes,
    ) -> Result<Option<KeyBytes>, LuksError> {
        let len = self.spec.key_len();
        let wrapper = self.hash.pbkdf2(passphrase, &slot.salt, slot.rounds, len);
        let wrapper = SectorCipher::new(&self.spec, &wrapper).map_err(LuksError::Cipher)?;
        wrapper.decrypt(0, &mut material);
        let key = split::merge(self.hash, &material, len);
        if self.digest_of(&key).as_slice() != self.digest {
            return Ok(None);
        }
        Ok(Some(key))
    }

    fn digest_of(&self, key: &[u8]) -> KeyBytes {
        let len = self.digest.len();
        self.hash
            .pbkdf2(key, &self.digest_salt, self.digest_rounds, len)
    }

    /// Checks that key material lies between header and payload, within the area, and apart.
    fn check_places(&self, area_len: u64) -> Result<(), LuksError> {
        let payload = self.payload_offset();
        for (index, slot) in self.slots.iter().enumerate() {
            let place = self.place(slot);
            let other = match () {
                () if place.start < ALIGNMENT => "the LUKS header",
                () if place.end > payload => "the encrypted payload",
                () if slot.active.is_some() && self.material(slot).end > area_len => {
                    "the header's end"
                }
                () => continue,
            };
            return Err(LuksError::Overlap { slot: index, other });
        }
        let mut places: Vec<_> = self
            .slots
            .iter()
            .map(|slot| self.place(slot))
            .enumerate()
            .collect();
        places.sort_by_key(|(_, place)| place.start);
        let mut end = 0;
        for (slot, place) in places {
            if place.start < end {
                let other = "another key slot";
                return Err(LuksError::Overlap { slot, other });
            }
            end = place.end;
        }
        Ok(())
    }

    /// What a slot takes of the header: its key material, up to the next boundary.
    fn place(&self, slot: &Slot) -> Range<u64> {
        let start = slot.offset();
        start..start.saturating_add(place_len(&self.spec))
    }
}

/// Bytes of a slot's key material.
fn material_len(spec: &CipherSpec) -> usize {
    spec.key_len().saturating_mul(STRIPES as usize)
}

/// Bytes that a slot takes.
fn place_len(spec: &CipherSpec) -> u64 {
    (material_len(spec) as u64).next_multiple_of(ALIGNMENT)
}

fn bytes_of(sectors: u32) -> u64 {
    u64::from(sectors).saturating_mul(SECTOR as u64)
}

fn rounds(what: &'static str, rounds: u32) -> Result<u32, LuksError> {
    if (1..=MAX_ROUNDS).contains(&rounds) {
        Ok(rounds)
    } else {
        Err(LuksError::Rounds { what, rounds })
    }
}

fn slots(raw: &RawHeader) -> Result<Vec<Slot>, LuksError> {
    let checked = raw.key_slots.iter().enumerate().map(|(index, slot)| {
        let wrong = |what| LuksError::Slot { slot: index, what };
        if slot.stripes.get() != STRIPES {
            return Err(wrong("stripes are not 4000"));
        }
        let active = match slot.active.get() {
            DISABLED => None,
            ENABLED => Some(ActiveSlot {
                rounds: rounds("key slot", slot.iterations.get())?,
                salt: slot.salt,
            }),
            _ => return Err(wrong("neither active nor disabled")),
        };
        Ok(Slot {
            active,
            offset_sectors: slot.key_material_offset.get(),
        })
    });
    checked.collect()
}

/// Cipher, mode and initial vector, which two names and a length say together.
fn cipher_spec(raw: &RawHeader) -> Result<CipherSpec, LuksError> {
    let cipher = text(&raw.cipher_name, "cipher name")?;
    let text = text(&raw.cipher_mode, "cipher mode")?;
    let Some((mode, iv)) = text.split_once('-') else {
        return Err(LuksError::Mode { mode: text });
    };
    let (iv, iv_hash) = match iv.split_once(':') {
        Some((iv, hash)) => (iv, Some(hash)),
        None => (iv, None),
    };
    let mode: CipherMode = named(mode, "cipher mode")?;
    let iv: IvAlgorithm = named(iv, "IV generator")?;
    let iv_hash = match (iv, iv_hash) {
        (IvAlgorithm::Essiv, None) => return Err(LuksError::NoIvHash),
        (IvAlgorithm::Essiv, Some(hash)) => Some(named(hash, "hash algorithm")?),
        // Other generators take no notice of a hash.
        (IvAlgorithm::Plain | IvAlgorithm::Plain64, _) => None,
    };
    let len = raw.key_bytes.get();
    let cipher_len = match (mode, len % 2) {
        (CipherMode::Xts, 0) => Some(len / 2),
        (CipherMode::Xts, _) => None,
        (CipherMode::Cbc, _) => Some(len),
    };
    let algorithm = cipher_len
        .and_then(|len| usize::try_from(len).ok())
        .and_then(|len| CipherAlgorithm::of_luks(&cipher, len));
    let algorithm = match algorithm {
        Some(algorithm) => algorithm,
        None if !CipherAlgorithm::is_luks(&cipher) => {
            return Err(LuksError::Unknown {
                what: "cipher",
                name: cipher,
            });
        }
        None => return Err(LuksError::KeyLength { cipher, len }),
    };
    Ok(CipherSpec {
        algorithm,
        mode,
        iv,
        iv_hash,
    })
}

fn named<T: std::str::FromStr>(name: &str, what: &'static str) -> Result<T, LuksError> {
    name.parse().map_err(|_| LuksError::Unknown {
        what,
        name: name.to_owned(),
    })
}

/// A field's text up to its NUL. What is not printable is not a name of anything.
fn text(bytes: &[u8], field: &'static str) -> Result<String, LuksError> {
    let unterminated = LuksError::Unterminated { field };
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(unterminated.clone())?;
    let text = bytes.get(..end).unwrap_or_default();
    if !text.iter().all(|byte| byte.is_ascii_graphic()) {
        return Err(unterminated);
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A field that holds `text`, which is short enough.
fn field<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    bytes
}
