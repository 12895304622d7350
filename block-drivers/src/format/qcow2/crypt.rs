//! Encryption: guest data on its way between memory and the file.
//!
//! Called by `read` and `write` for every run of data clusters, and by open, create and unlock for
//! the key. Invariant: the caller's memory never holds encrypted bytes, nor is it encrypted in
//! place: bytes pass through a buffer of ours, a bounded piece at a time. Without a key nothing is
//! read or written. Compressed clusters are not encrypted. Spec: qcow2 "Data encryption", "Full
//! disk encryption header pointer". Not here: ciphers and the LUKS header (`kit/crypto`).

use std::sync::{Arc, OnceLock};

use block_core::secret::Secret;
use block_core::{AlignedBuf, Error, IoBuf, Result};
use block_schema::types::{
    ImageInfoSpecificQCow2Encryption, ImageInfoSpecificQCow2EncryptionBranch, QCryptoBlockInfoLUKS,
    QCryptoBlockInfoLUKSSlot,
};
use parking_lot::Mutex;

use super::error::ImageError;
use super::header::{Encryption, Header};
use super::image::Image;
use super::map::{Cluster, Host};
use super::read::{slice, usize_of};
use crate::kit::addr::{GuestOffset, HostOffset};
use crate::kit::crypto::luks::{self, HEADER_LEN};
use crate::kit::crypto::{
    CipherAlgorithm, CipherMode, CipherSpec, IvAlgorithm, KeyBytes, SECTOR, SectorCipher,
};
use crate::kit::image_file::{ImageFile, Surroundings};

/// Bytes that are encrypted or decrypted at once.
const PIECE: u64 = 1 << 20;
/// Up to this many bytes a thread's queue does the work itself: handing it on costs as much.
const INLINE: usize = 64 << 10;

/// How an image's data is encrypted, and with what key.
pub(super) struct Crypt {
    method: Method,
    /// Set once, when the key is known.
    cipher: OnceLock<Arc<SectorCipher>>,
    /// Set with it, where the image holds the key.
    key: OnceLock<KeyBytes>,
}

enum Method {
    /// By the guest's sector, with the passphrase as key.
    Aes,
    /// By the host's sector, with the key in the LUKS header at `place`.
    Luks {
        header: Mutex<Arc<luks::Header>>,
        place: HostOffset,
    },
}

/// The cipher of method 1: the header says nothing about it.
const LEGACY: CipherSpec = CipherSpec {
    algorithm: CipherAlgorithm::Aes128,
    mode: CipherMode::Cbc,
    iv: IvAlgorithm::Plain64,
    iv_hash: None,
};

/// Which way.
#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

impl Crypt {
    /// Reads what the image says about its encryption; `None` when it has none.
    ///
    /// # Errors
    /// `Corrupt` for a LUKS header that is none; errors of the file.
    pub(super) async fn read<F: ImageFile>(
        file: &F,
        node: &str,
        header: &Header,
    ) -> Result<Option<Crypt>> {
        let method = match header.encryption {
            Encryption::None => return Ok(None),
            Encryption::Aes => Method::Aes,
            Encryption::Luks { place, len } => {
                let bytes = file.read_bytes(place.0, HEADER_LEN).await?;
                let header = luks::Header::parse(&bytes, len)
                    .map_err(|source| ImageError::Luks { source }.at(node))?;
                Method::Luks {
                    header: Mutex::new(Arc::new(header)),
                    place,
                }
            }
        };
        Ok(Some(Crypt {
            method,
            cipher: OnceLock::new(),
            key: OnceLock::new(),
        }))
    }

    /// Whether the key is known.
    pub(super) fn has_key(&self) -> bool {
        self.cipher.get().is_some()
    }

    /// The key of this passphrase, where the image can tell whether it is right.
    ///
    /// # Errors
    /// `InvalidOption` when it is wrong; errors of the file.
    pub(super) async fn unlock<E: Surroundings>(
        &self,
        env: &E,
        node: &str,
        passphrase: &Secret,
    ) -> Result<()> {
        let cipher = match &self.method {
            Method::Aes => legacy_cipher(passphrase).map_err(|e| e.at(node))?,
            Method::Luks { header, place } => {
                let header = Arc::clone(&header.lock());
                let (cipher, key) = find_key(env, node, &header, *place, passphrase).await?;
                self.key.get_or_init(|| key);
                cipher
            }
        };
        // Whoever was faster found the same key.
        self.cipher.get_or_init(|| Arc::new(cipher));
        Ok(())
    }

    /// The LUKS header and where it is; `None` for an image that has none.
    pub(super) fn luks(&self) -> Option<(Arc<luks::Header>, HostOffset)> {
        match &self.method {
            Method::Aes => None,
            Method::Luks { header, place } => Some((Arc::clone(&header.lock()), *place)),
        }
    }

    /// Takes over the LUKS header that the disk has now.
    pub(super) fn set_luks(&self, new: Arc<luks::Header>) {
        match &self.method {
            Method::Aes => {}
            Method::Luks { header, .. } => *header.lock() = new,
        }
    }

    /// The key that LUKS slots wrap, once it is known.
    pub(super) fn key(&self) -> Option<KeyBytes> {
        self.key.get().cloned()
    }

    /// What `info` tells.
    pub(super) fn info(&self) -> ImageInfoSpecificQCow2Encryption {
        use ImageInfoSpecificQCow2EncryptionBranch as Branch;
        ImageInfoSpecificQCow2Encryption::new(match &self.method {
            Method::Aes => Branch::Aes,
            Method::Luks { header, .. } => Branch::Luks(luks_info(&header.lock())),
        })
    }

    /// The number that a sector's initial vector is made of.
    fn sector(&self, guest: GuestOffset, host: HostOffset) -> u64 {
        let whole = (guest.0 | host.0).is_multiple_of(SECTOR as u64);
        assert!(whole, "the node's limits keep requests to whole sectors");
        let offset = match self.method {
            Method::Aes => guest.0,
            Method::Luks { .. } => host.0,
        };
        offset / SECTOR as u64
    }
}

/// Method 1: the first bytes of the passphrase are the key. Nothing tells a wrong one.
fn legacy_cipher(passphrase: &Secret) -> Result<SectorCipher, ImageError> {
    let mut key = KeyBytes::new(vec![0; LEGACY.key_len()]);
    for (to, from) in key.iter_mut().zip(passphrase.bytes()) {
        *to = *from;
    }
    SectorCipher::new(&LEGACY, &key).map_err(|source| ImageError::Luks {
        source: luks::LuksError::Cipher(source),
    })
}

/// Tries a passphrase on every key slot in use.
async fn find_key<E: Surroundings>(
    env: &E,
    node: &str,
    header: &luks::Header,
    place: HostOffset,
    passphrase: &Secret,
) -> Result<(SectorCipher, KeyBytes)> {
    for slot in &header.slots {
        let Some(active) = slot.active.clone() else {
            continue;
        };
        // Within the area, which lies within the file, and of a known cipher's length.
        let range = header.material(slot);
        let material = env
            .file()
            .read_bytes(place.0 + range.start, usize_of(range.end - range.start))
            .await?;
        let material = KeyBytes::new(material.to_vec());
        let (header, passphrase) = (header.clone(), passphrase.clone());
        let found = env
            .blocking(move || header.unlock(&active, passphrase.bytes(), material))
            .await?;
        match found {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(source) => return Err(ImageError::Luks { source }.at(node)),
        }
    }
    Err(Error::invalid(
        "encrypt.key-secret",
        "Invalid password, cannot unlock any keyslot",
    ))
}

fn luks_info(header: &luks::Header) -> QCryptoBlockInfoLUKS {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let slot = |slot: &luks::Slot| QCryptoBlockInfoLUKSSlot {
        active: slot.active.is_some(),
        iters: slot.active.as_ref().map(|active| i64::from(active.rounds)),
        stripes: slot.active.as_ref().map(|_| i64::from(luks::stripes())),
        key_offset: signed(slot.offset()),
    };
    QCryptoBlockInfoLUKS {
        cipher_alg: header.spec.algorithm.to_string(),
        cipher_mode: header.spec.mode.to_string(),
        ivgen_alg: header.spec.iv.to_string(),
        ivgen_hash_alg: header.spec.iv_hash.map(|hash| hash.to_string()),
        hash_alg: header.hash.to_string(),
        detached_header: header.payload_offset() == 0,
        payload_offset: signed(header.payload_offset()),
        master_key_iters: i64::from(header.digest_rounds),
        uuid: header.uuid.clone(),
        slots: header.slots.iter().map(slot).collect(),
    }
}

impl Image {
    /// Whether guest data is stored encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.crypt.is_some()
    }

    /// Whether it is, and the key is not known.
    pub(super) fn is_locked(&self) -> bool {
        self.crypt.as_ref().is_some_and(|crypt| !crypt.has_key())
    }

    /// Whether guest data cannot be reached: the key, or the file that holds it, is not there.
    pub(super) fn is_closed(&self) -> bool {
        self.is_locked() || self.is_detached()
    }

    /// Refuses guest data of a locked image, and of one without its data file.
    ///
    /// # Errors
    /// `Encrypted`; `InvalidOption` without the data file.
    pub(super) fn need_key(&self) -> Result<()> {
        self.need_data_file()?;
        if self.is_locked() {
            return Err(self.locked());
        }
        Ok(())
    }

    /// Takes a passphrase.
    ///
    /// # Errors
    /// `InvalidOption` when it is wrong, or the image is not encrypted; errors of the file.
    pub(super) async fn unlock<E: Surroundings>(&self, env: &E, passphrase: &Secret) -> Result<()> {
        match &self.crypt {
            Some(crypt) => crypt.unlock(env, &self.node, passphrase).await,
            None => {
                let reason = format!("Device '{}' is not encrypted", self.node);
                Err(Error::invalid("device", reason))
            }
        }
    }

    fn locked(&self) -> Error {
        Error::Encrypted {
            node: self.node.clone(),
        }
    }

    /// Fills `buf` with the data of a run of clusters, or of a part of it.
    pub(super) async fn read_data<E: Surroundings>(
        &self,
        env: &E,
        guest: GuestOffset,
        host: HostOffset,
        buf: IoBuf,
    ) -> Result<()> {
        let Some(crypt) = &self.crypt else {
            return self.data(env)?.read(host.0, buf).await;
        };
        let cipher = crypt.cipher.get().ok_or_else(|| self.locked())?;
        let sector = crypt.sector(guest, host);
        let len = buf.len() as u64;
        for at in (0..len).step_by(usize_of(PIECE)) {
            let piece = PIECE.min(len - at);
            let bytes = self
                .data(env)?
                .read_bytes(host.0 + at, usize_of(piece))
                .await?;
            let sector = sector + at / SECTOR as u64;
            let bytes = convert(env, cipher, sector, bytes, Direction::Decrypt).await?;
            buf.copy_in(usize_of(at), &bytes);
        }
        Ok(())
    }

    /// Writes `buf` as the data of a run of clusters, or of a part of it.
    pub(super) async fn write_data<E: Surroundings>(
        &self,
        env: &E,
        guest: GuestOffset,
        host: HostOffset,
        buf: IoBuf,
    ) -> Result<()> {
        if self.is_suspect() && !self.has_data_file() {
            self.refuse_overlap(host, buf.len() as u64)?;
        }
        let Some(crypt) = &self.crypt else {
            return self.data(env)?.write(host.0, buf).await;
        };
        let cipher = crypt.cipher.get().ok_or_else(|| self.locked())?;
        let sector = crypt.sector(guest, host);
        let len = buf.len() as u64;
        for at in (0..len).step_by(usize_of(PIECE)) {
            let piece = PIECE.min(len - at);
            // The guest may change its memory meanwhile: it is read once, here.
            let mut bytes = AlignedBuf::zeroed(usize_of(piece));
            buf.copy_out(usize_of(at), &mut bytes);
            let sector = sector + at / SECTOR as u64;
            let bytes = convert(env, cipher, sector, bytes, Direction::Encrypt).await?;
            self.data(env)?.write(host.0 + at, bytes.into()).await?;
        }
        Ok(())
    }

    /// Writes in place if all of the range lies in data clusters of this image alone; false when
    /// clusters must be allocated. The caller's request is announced, and holds no claim.
    pub(super) async fn overwrite_encrypted<E: Surroundings>(
        &self,
        env: &E,
        offset: u64,
        buf: &IoBuf,
    ) -> Result<bool> {
        self.need_key()?;
        self.first_write(env).await?;
        let end = offset + buf.len() as u64;
        let mut places = Vec::new();
        let mut at = offset;
        while at < end {
            let run = self.first_status(env, at..end).await?;
            let Cluster::Data(host @ Host { owned: true, .. }) = run.cluster else {
                return Ok(false);
            };
            places.push((at, host.offset.plus(run.skip), run.len));
            at += run.len;
        }
        for (guest, host, len) in places {
            let part = slice(buf, guest - offset, len);
            self.write_data(env, GuestOffset(guest), host, part).await?;
        }
        Ok(true)
    }
}

/// Encrypts or decrypts bytes, where it holds up nobody for long.
async fn convert<E: Surroundings>(
    env: &E,
    cipher: &Arc<SectorCipher>,
    sector: u64,
    mut bytes: AlignedBuf,
    direction: Direction,
) -> Result<AlignedBuf> {
    let run = move |cipher: &SectorCipher, bytes: &mut [u8]| match direction {
        Direction::Encrypt => cipher.encrypt(sector, bytes),
        Direction::Decrypt => cipher.decrypt(sector, bytes),
    };
    if bytes.len() <= INLINE {
        run(cipher, &mut bytes);
        return Ok(bytes);
    }
    let cipher = Arc::clone(cipher);
    env.blocking(move || {
        run(&cipher, &mut bytes);
        bytes
    })
    .await
}
