//! The anti-forensic splitter: a key spread over stripes, every bit of which is needed.
//! Called by `luks::slot`. Spec: LUKS "Anti-forensic splitter".

use super::{CryptoError, HashAlgorithm, KeyBytes, random};

/// Spreads `key` over `stripes` stripes.
///
/// # Errors
/// [`CryptoError::Random`].
pub(super) fn split(
    hash: HashAlgorithm,
    key: &[u8],
    stripes: usize,
) -> Result<KeyBytes, CryptoError> {
    let mut out = KeyBytes::new(vec![0; key.len() * stripes]);
    let last = key.len() * (stripes - 1);
    let (noise, end) = out.split_at_mut(last);
    random(noise)?;
    let block = fold(hash, noise, key.len());
    for ((to, key), block) in end.iter_mut().zip(key).zip(block.iter()) {
        *to = key ^ block;
    }
    Ok(out)
}

/// The key that `len` bytes a stripe hold.
pub(super) fn merge(hash: HashAlgorithm, stripes: &[u8], len: usize) -> KeyBytes {
    let (noise, end) = stripes.split_at(stripes.len().saturating_sub(len));
    let mut key = fold(hash, noise, len);
    xor(&mut key, end);
    key
}

/// All stripes but the last, folded into one.
fn fold(hash: HashAlgorithm, stripes: &[u8], len: usize) -> KeyBytes {
    let mut block = KeyBytes::new(vec![0; len]);
    for stripe in stripes.chunks(len) {
        xor(&mut block, stripe);
        diffuse(hash, &mut block);
    }
    block
}

/// Hashes each digest's length of a block, with its number before it.
fn diffuse(hash: HashAlgorithm, block: &mut [u8]) {
    for (number, part) in (0_u32..).zip(block.chunks_mut(hash.digest_len())) {
        let digest = hash.digest(&number.to_be_bytes(), part);
        for (to, from) in part.iter_mut().zip(digest.iter()) {
            *to = *from;
        }
    }
}

fn xor(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to ^= from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_key_comes_back_and_no_stripe_is_spare() {
        for hash in [
            HashAlgorithm::Sha1,
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha512,
        ] {
            for len in [16, 32, 64] {
                let key: Vec<u8> = (0..len).collect();
                let mut stripes = split(hash, &key, 7).unwrap();
                assert_eq!(stripes.len(), key.len() * 7);
                assert_eq!(*merge(hash, &stripes, key.len()), key);
                stripes[3] ^= 1;
                assert_ne!(*merge(hash, &stripes, key.len()), key);
            }
        }
    }
}
