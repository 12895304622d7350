//! Hashes by name: digests and PBKDF2.
//! Called by `luks` and `split`. Invariant: whoever asks for rounds has bounded them.

use std::time::Duration;

use sha1::Sha1;
use sha2::digest::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroize;

use super::{KeyBytes, named};

/// A hash that a LUKS header may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-1; in old images.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256; the default.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

named!(HashAlgorithm {
    Sha1 => "sha1",
    Sha224 => "sha224",
    Sha256 => "sha256",
    Sha384 => "sha384",
    Sha512 => "sha512",
});

/// Rounds of the first measurement.
const FIRST_ROUNDS: u32 = 1 << 12;
/// A measurement this long is good enough.
const LONG_ENOUGH: Duration = Duration::from_millis(40);

impl HashAlgorithm {
    /// Bytes of a digest.
    pub(super) fn digest_len(self) -> usize {
        match self {
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha224 => 28,
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha384 => 48,
            HashAlgorithm::Sha512 => 64,
        }
    }

    /// The digest of `head` followed by `body`.
    pub(super) fn digest(self, head: &[u8], body: &[u8]) -> KeyBytes {
        fn of<H: Digest>(head: &[u8], body: &[u8]) -> KeyBytes {
            let mut digest = H::new().chain_update(head).chain_update(body).finalize();
            let bytes = KeyBytes::new(digest.to_vec());
            digest.as_mut_slice().zeroize();
            bytes
        }
        match self {
            HashAlgorithm::Sha1 => of::<Sha1>(head, body),
            HashAlgorithm::Sha224 => of::<Sha224>(head, body),
            HashAlgorithm::Sha256 => of::<Sha256>(head, body),
            HashAlgorithm::Sha384 => of::<Sha384>(head, body),
            HashAlgorithm::Sha512 => of::<Sha512>(head, body),
        }
    }

    /// Derives `len` bytes from a passphrase, or from a key, by PBKDF2.
    pub(super) fn pbkdf2(
        self,
        passphrase: &[u8],
        salt: &[u8],
        rounds: u32,
        len: usize,
    ) -> KeyBytes {
        let mut out = KeyBytes::new(vec![0; len]);
        match self {
            HashAlgorithm::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(passphrase, salt, rounds, &mut out),
            HashAlgorithm::Sha224 => {
                pbkdf2::pbkdf2_hmac::<Sha224>(passphrase, salt, rounds, &mut out);
            }
            HashAlgorithm::Sha256 => {
                pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, salt, rounds, &mut out);
            }
            HashAlgorithm::Sha384 => {
                pbkdf2::pbkdf2_hmac::<Sha384>(passphrase, salt, rounds, &mut out);
            }
            HashAlgorithm::Sha512 => {
                pbkdf2::pbkdf2_hmac::<Sha512>(passphrase, salt, rounds, &mut out);
            }
        }
        out
    }

    /// Rounds that derive `len` bytes in `time` of this thread's processor time.
    pub(super) fn rounds_within(self, time: Duration, len: usize) -> u64 {
        let mut rounds = FIRST_ROUNDS;
        let mut took = self.time_of(rounds, len);
        while took < LONG_ENOUGH && rounds < 1 << 28 {
            rounds *= 4;
            took = self.time_of(rounds, len);
        }
        let wanted = u128::from(rounds) * time.as_nanos() / took.as_nanos().max(1);
        u64::try_from(wanted).unwrap_or(u64::MAX)
    }

    fn time_of(self, rounds: u32, len: usize) -> Duration {
        let start = thread_time();
        self.pbkdf2(b"passphrase", b"salt", rounds, len);
        thread_time().saturating_sub(start)
    }
}

fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = Duration::from_secs(now.tv_sec.unsigned_abs());
    seconds + Duration::from_nanos(now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hash: HashAlgorithm, rounds: u32, want: &str) {
        let derived = hash.pbkdf2(b"password", b"salt", rounds, want.len() / 2);
        let hex: String = derived.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, want);
        assert_eq!(hash.digest(b"a", b"b").len(), hash.digest_len());
    }

    #[test]
    fn pbkdf2_derives_what_the_standards_vectors_say() {
        // RFC 6070, and the same inputs with the other hashes.
        check(
            HashAlgorithm::Sha1,
            4096,
            "4b007901b765489abead49d926f721d065a429c1",
        );
        check(
            HashAlgorithm::Sha256,
            4096,
            "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a",
        );
        check(
            HashAlgorithm::Sha512,
            1,
            "867f70cf1ade02cff3752599a3a53dc4af34c7a669815ae5d513554e1c8cf252",
        );
    }

    #[test]
    fn more_time_means_more_rounds() {
        let short = HashAlgorithm::Sha256.rounds_within(Duration::from_millis(1), 32);
        let long = HashAlgorithm::Sha256.rounds_within(Duration::from_secs(1000), 32);
        assert!(short > 0 && long > short, "{short} {long}");
    }
}
