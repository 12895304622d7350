//! Encryption of image data: ciphers over sectors, and the LUKS header that keeps their key.
//!
//! All of it is synchronous and pure: bytes come in and go out, and nobody here reads a file.
//! Called by formats that hold encrypted data. Invariant: keys and passphrases stand only in memory
//! that is wiped when it goes, and no `Debug` output shows them. Spec: LUKS On-Disk Format 1.2.3.
//! Not here: where passphrases come from (the layer's secrets), which bytes are encrypted.

mod cipher;
mod hash;
pub(crate) mod luks;
mod split;

pub use cipher::{CipherAlgorithm, CipherMode, IvAlgorithm};
pub use hash::HashAlgorithm;

pub(crate) use cipher::{CipherSpec, SECTOR, SectorCipher};

use zeroize::Zeroizing;

/// Bytes that are wiped when they go.
pub(crate) type KeyBytes = Zeroizing<Vec<u8>>;

/// A cipher, mode or hash that is known by name and cannot be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// A key of another length than the cipher's.
    #[error("cipher '{cipher}' with a key of {len} bytes")]
    KeyLength {
        /// The cipher's name, without a length.
        cipher: &'static str,
        /// Bytes of the key.
        len: usize,
    },
    /// ESSIV wants a cipher whose key is as long as the hash.
    #[error("ESSIV with hash '{0}', whose digest is no AES key")]
    EssivHash(HashAlgorithm),
    /// The system gives no random bytes.
    #[error("no random bytes from the system")]
    Random,
}

/// Fills `bytes` with random bytes from the system.
///
/// # Errors
/// [`CryptoError::Random`].
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), CryptoError> {
    getrandom::fill(bytes).map_err(|_| CryptoError::Random)
}

/// Names in the schema's spelling, both ways.
macro_rules! named {
    ($type:ident { $($variant:ident => $name:literal),* $(,)? }) => {
        impl $type {
            /// The name in the schema.
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }
        }

        impl std::str::FromStr for $type {
            type Err = ();

            fn from_str(name: &str) -> Result<$type, ()> {
                match name { $($name => Ok($type::$variant),)* _ => Err(()) }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use named;
