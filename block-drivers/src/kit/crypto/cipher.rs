//! Ciphers over sectors of 512 bytes, each with an initial vector made from its number.
//!
//! A whole sector's blocks go through the block cipher at once where the mode allows it, so that
//! the processor's AES instructions overlap. Called by formats for their data and by `luks` for key
//! material. Invariant: nothing here allocates after a cipher was made, and a cipher's keys are
//! wiped with it. Not here: which sector number a byte has.

#![warn(clippy::arithmetic_side_effects)]

use aes::cipher::array::Array;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use aes::{Aes128, Aes192, Aes256};

use super::{CryptoError, HashAlgorithm, named};

/// Bytes of a sector: of what one initial vector is made for.
pub(crate) const SECTOR: usize = 512;
/// Bytes of a cipher's block.
const BLOCK: usize = 16;
/// Blocks of a sector.
const BLOCKS: usize = SECTOR / BLOCK;

type Block = Array<u8, U16>;

/// A block cipher and its key's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherAlgorithm {
    /// AES with keys of 16 bytes.
    Aes128,
    /// AES with keys of 24 bytes.
    Aes192,
    /// AES with keys of 32 bytes; the default.
    Aes256,
}

named!(CipherAlgorithm {
    Aes128 => "aes-128",
    Aes192 => "aes-192",
    Aes256 => "aes-256",
});

impl CipherAlgorithm {
    /// The cipher's name in a LUKS header, which gives the key's length by itself.
    pub(super) fn luks_name(self) -> &'static str {
        match self {
            CipherAlgorithm::Aes128 | CipherAlgorithm::Aes192 | CipherAlgorithm::Aes256 => "aes",
        }
    }

    /// Whether a LUKS header may name this cipher.
    pub(super) fn is_luks(name: &str) -> bool {
        name == "aes"
    }

    /// The cipher of a LUKS header's name with keys of `len` bytes.
    pub(super) fn of_luks(name: &str, len: usize) -> Option<CipherAlgorithm> {
        match (name, len) {
            ("aes", 16) => Some(CipherAlgorithm::Aes128),
            ("aes", 24) => Some(CipherAlgorithm::Aes192),
            ("aes", 32) => Some(CipherAlgorithm::Aes256),
            _ => None,
        }
    }

    /// Bytes of a key.
    pub(super) fn key_len(self) -> usize {
        match self {
            CipherAlgorithm::Aes128 => 16,
            CipherAlgorithm::Aes192 => 24,
            CipherAlgorithm::Aes256 => 32,
        }
    }

    fn with_key(self, key: &[u8]) -> Result<Box<dyn Blocks>, CryptoError> {
        let wrong = |_| CryptoError::KeyLength {
            cipher: self.luks_name(),
            len: key.len(),
        };
        Ok(match self {
            CipherAlgorithm::Aes128 => Box::new(Aes128::new_from_slice(key).map_err(wrong)?),
            CipherAlgorithm::Aes192 => Box::new(Aes192::new_from_slice(key).map_err(wrong)?),
            CipherAlgorithm::Aes256 => Box::new(Aes256::new_from_slice(key).map_err(wrong)?),
        })
    }
}

/// How the blocks of a sector depend on one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherMode {
    /// Each block by itself, with a tweak; wants a key of twice the length. The default.
    Xts,
    /// Each block mixed with the one before.
    Cbc,
}

named!(CipherMode {
    Xts => "xts",
    Cbc => "cbc",
});

/// How a sector's number becomes its initial vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IvAlgorithm {
    /// The lower 32 bits of the number.
    Plain,
    /// The number; the default.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv,
}

named!(IvAlgorithm {
    Plain => "plain",
    Plain64 => "plain64",
    Essiv => "essiv",
});

/// Everything about a cipher but its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CipherSpec {
    pub(crate) algorithm: CipherAlgorithm,
    pub(crate) mode: CipherMode,
    pub(crate) iv: IvAlgorithm,
    /// The hash of ESSIV; other algorithms carry it without using it.
    pub(crate) iv_hash: Option<HashAlgorithm>,
}

impl CipherSpec {
    /// Bytes of a key.
    pub(crate) fn key_len(&self) -> usize {
        match self.mode {
            CipherMode::Xts => self.algorithm.key_len().saturating_mul(2),
            CipherMode::Cbc => self.algorithm.key_len(),
        }
    }
}

/// A block cipher with its key.
trait Blocks: Send + Sync {
    fn encrypt(&self, blocks: &mut [Block]);
    fn decrypt(&self, blocks: &mut [Block]);
}

impl<C> Blocks for C
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync,
{
    fn encrypt(&self, blocks: &mut [Block]) {
        self.encrypt_blocks(blocks);
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        self.decrypt_blocks(blocks);
    }
}

/// A cipher over sectors, with its key.
pub(crate) struct SectorCipher {
    data: Box<dyn Blocks>,
    mode: Mode,
    iv: Iv,
}

enum Mode {
    Xts { tweak: Box<dyn Blocks> },
    Cbc,
}

enum Iv {
    Plain,
    Plain64,
    Essiv(Box<dyn Blocks>),
}

/// Which way.
#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

impl SectorCipher {
    /// A cipher with a key of [`CipherSpec::key_len`] bytes.
    ///
    /// # Errors
    /// [`CryptoError`] for a key of another length, and for ESSIV with a hash that gives no key.
    pub(crate) fn new(spec: &CipherSpec, key: &[u8]) -> Result<SectorCipher, CryptoError> {
        if key.len() != spec.key_len() {
            return Err(CryptoError::KeyLength {
                cipher: spec.algorithm.luks_name(),
                len: key.len(),
            });
        }
        let (data, tweak) = key.split_at(spec.algorithm.key_len());
        Ok(SectorCipher {
            data: spec.algorithm.with_key(data)?,
            mode: match spec.mode {
                CipherMode::Xts => Mode::Xts {
                    tweak: spec.algorithm.with_key(tweak)?,
                },
                CipherMode::Cbc => Mode::Cbc,
            },
            iv: match spec.iv {
                IvAlgorithm::Plain => Iv::Plain,
                IvAlgorithm::Plain64 => Iv::Plain64,
                IvAlgorithm::Essiv => Iv::Essiv(essiv(spec, key)?),
            },
        })
    }

    /// Encrypts sectors in place. The last may be cut off at a block's end.
    pub(crate) fn encrypt(&self, first_sector: u64, bytes: &mut [u8]) {
        self.run(first_sector, bytes, Direction::Encrypt);
    }

    /// Decrypts sectors in place. The last may be cut off at a block's end.
    pub(crate) fn decrypt(&self, first_sector: u64, bytes: &mut [u8]) {
        self.run(first_sector, bytes, Direction::Decrypt);
    }

    fn run(&self, first_sector: u64, bytes: &mut [u8], direction: Direction) {
        for (sector, bytes) in (first_sector..).zip(bytes.chunks_mut(SECTOR)) {
            let (blocks, rest) = Block::slice_as_chunks_mut(bytes);
            debug_assert!(rest.is_empty(), "sectors are made of whole blocks");
            let iv = self.iv.of(sector);
            match (&self.mode, direction) {
                (Mode::Xts { tweak }, direction) => self.xts(tweak.as_ref(), iv, blocks, direction),
                (Mode::Cbc, Direction::Encrypt) => self.cbc_encrypt(iv, blocks),
                (Mode::Cbc, Direction::Decrypt) => self.cbc_decrypt(iv, blocks),
            }
        }
    }

    /// Spec: IEEE 1619 "XTS-AES"; sectors are whole blocks, so nothing is ever stolen.
    fn xts(&self, tweak: &dyn Blocks, iv: Block, blocks: &mut [Block], direction: Direction) {
        let mut first = [iv];
        tweak.encrypt(&mut first);
        let mut tweaks = [0_u128; BLOCKS];
        let mut next = u128::from_le_bytes(first[0].into());
        for tweak in &mut tweaks {
            *tweak = next;
            // Times x, in GF(2^128) with the polynomial x^128 + x^7 + x^2 + x + 1.
            next = (next << 1) ^ (next >> 127).wrapping_mul(0x87);
        }
        xor_all(blocks, &tweaks);
        match direction {
            Direction::Encrypt => self.data.encrypt(blocks),
            Direction::Decrypt => self.data.decrypt(blocks),
        }
        xor_all(blocks, &tweaks);
    }

    fn cbc_encrypt(&self, iv: Block, blocks: &mut [Block]) {
        let mut before = u128::from_le_bytes(iv.into());
        for block in blocks {
            xor(block, before);
            self.data.encrypt(std::slice::from_mut(block));
            before = u128::from_le_bytes((*block).into());
        }
    }

    fn cbc_decrypt(&self, iv: Block, blocks: &mut [Block]) {
        let mut before = [0_u128; BLOCKS];
        let encrypted = std::iter::once(&iv).chain(blocks.iter());
        for (before, block) in before.iter_mut().zip(encrypted) {
            *before = u128::from_le_bytes((*block).into());
        }
        self.data.decrypt(blocks);
        xor_all(blocks, &before);
    }
}

fn xor_all(blocks: &mut [Block], with: &[u128; BLOCKS]) {
    for (block, with) in blocks.iter_mut().zip(with) {
        xor(block, *with);
    }
}

fn xor(block: &mut Block, with: u128) {
    let mixed = u128::from_le_bytes((*block).into()) ^ with;
    *block = mixed.to_le_bytes().into();
}

impl Iv {
    fn of(&self, sector: u64) -> Block {
        let number = match self {
            Iv::Plain => sector & u64::from(u32::MAX),
            Iv::Plain64 | Iv::Essiv(_) => sector,
        };
        let mut block = [u128::from(number).to_le_bytes().into()];
        if let Iv::Essiv(cipher) = self {
            cipher.encrypt(&mut block);
        }
        block[0]
    }
}

/// The cipher of ESSIV: as the data's, with a key as long as the hash's digest.
fn essiv(spec: &CipherSpec, key: &[u8]) -> Result<Box<dyn Blocks>, CryptoError> {
    let hash = spec.iv_hash.unwrap_or(HashAlgorithm::Sha256);
    let algorithm = CipherAlgorithm::of_luks(spec.algorithm.luks_name(), hash.digest_len())
        .ok_or(CryptoError::EssivHash(hash))?;
    algorithm.with_key(&hash.digest(key, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_IVS: [IvAlgorithm; 3] =
        [IvAlgorithm::Plain, IvAlgorithm::Plain64, IvAlgorithm::Essiv];

    fn spec(algorithm: CipherAlgorithm, mode: CipherMode, iv: IvAlgorithm) -> CipherSpec {
        CipherSpec {
            algorithm,
            mode,
            iv,
            iv_hash: None,
        }
    }

    fn from_hex(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .chars()
            .map(|c| c.to_digit(16).unwrap().to_le_bytes()[0])
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    #[test]
    fn xts_gives_the_standards_vectors() {
        // IEEE 1619, vectors 1, 2 and 10 (its first blocks).
        let plain = vec![0; 32];
        let wanted = from_hex("917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e");
        check_xts(CipherAlgorithm::Aes128, &[0; 32], 0, &plain, &wanted);
        let key = [[0x11; 16], [0x22; 16]].concat();
        let wanted = from_hex("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0");
        check_xts(
            CipherAlgorithm::Aes128,
            &key,
            0x33_3333_3333,
            &[0x44; 32],
            &wanted,
        );
        let key = from_hex(concat!(
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592"
        ));
        let plain: Vec<u8> = (0..32).collect();
        let wanted = from_hex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b");
        check_xts(CipherAlgorithm::Aes256, &key, 0xff, &plain, &wanted);
    }

    #[track_caller]
    fn check_xts(algorithm: CipherAlgorithm, key: &[u8], sector: u64, plain: &[u8], wanted: &[u8]) {
        let spec = spec(algorithm, CipherMode::Xts, IvAlgorithm::Plain64);
        let cipher = SectorCipher::new(&spec, key).unwrap();
        let mut bytes = plain.to_vec();
        cipher.encrypt(sector, &mut bytes);
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn cbc_gives_the_standards_vectors() {
        // NIST SP 800-38A F.2.1, whose initial vector is no sector number: mixed into the first
        // block instead.
        let key = from_hex("2b7e151628aed2a6abf7158809cf4f3c");
        let spec = spec(
            CipherAlgorithm::Aes128,
            CipherMode::Cbc,
            IvAlgorithm::Plain64,
        );
        let cipher = SectorCipher::new(&spec, &key).unwrap();
        let mut bytes =
            from_hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        for (byte, iv) in bytes.iter_mut().zip(0..16) {
            *byte ^= iv;
        }
        cipher.encrypt(0, &mut bytes);
        let wanted = from_hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2");
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn every_cipher_gives_back_what_it_took_and_tells_sectors_apart() {
        use CipherAlgorithm::{Aes128, Aes192, Aes256};
        for algorithm in [Aes128, Aes192, Aes256] {
            for mode in [CipherMode::Xts, CipherMode::Cbc] {
                for iv in ALL_IVS {
                    let spec = spec(algorithm, mode, iv);
                    let key: Vec<u8> = (0_u8..).take(spec.key_len()).collect();
                    let cipher = SectorCipher::new(&spec, &key).unwrap();
                    let plain = vec![7; 3 * SECTOR];
                    let mut bytes = plain.clone();
                    cipher.encrypt(5, &mut bytes);
                    assert_ne!(bytes[..SECTOR], bytes[SECTOR..2 * SECTOR], "{spec:?}");
                    assert_ne!(bytes[..16], bytes[16..32], "{spec:?}");
                    cipher.decrypt(5, &mut bytes);
                    assert_eq!(bytes, plain, "{spec:?}");
                }
            }
        }
    }

    #[test]
    fn only_the_plain_vector_repeats_after_32_bits() {
        for (iv, repeats) in ALL_IVS.into_iter().zip([true, false, false]) {
            let spec = spec(CipherAlgorithm::Aes128, CipherMode::Cbc, iv);
            let cipher = SectorCipher::new(&spec, &[9; 16]).unwrap();
            let encrypted = |sector| {
                let mut bytes = [0; SECTOR];
                cipher.encrypt(sector, &mut bytes);
                bytes
            };
            assert_eq!(encrypted(1) == encrypted(1 << 32 | 1), repeats, "{iv}");
        }
    }

    #[test]
    fn keys_and_hashes_of_a_wrong_length_are_refused() {
        let mut spec = spec(CipherAlgorithm::Aes256, CipherMode::Xts, IvAlgorithm::Essiv);
        let refused = |spec: &CipherSpec, len| SectorCipher::new(spec, &vec![0; len]).err();
        assert!(matches!(
            refused(&spec, 32),
            Some(CryptoError::KeyLength { len: 32, .. })
        ));
        spec.iv_hash = Some(HashAlgorithm::Sha1);
        assert_eq!(
            refused(&spec, 64),
            Some(CryptoError::EssivHash(HashAlgorithm::Sha1))
        );
    }
}
