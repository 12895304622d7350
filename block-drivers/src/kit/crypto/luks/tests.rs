//! Headers as they are made, damaged and read.

use std::time::Duration;

use super::*;

/// A header that was made in no time, with its area.
fn made(options: &LuksOptions) -> Vec<u8> {
    let options = LuksOptions {
        iter_time: Duration::from_micros(1),
        ..options.clone()
    };
    options.check().unwrap();
    let new = NewHeader::make(&options, b"right").unwrap();
    let mut area = vec![0; usize::try_from(options.area_len()).unwrap()];
    area[..HEADER_LEN].copy_from_slice(&new.header);
    let at = usize::try_from(new.material_offset).unwrap();
    area[at..][..new.material.len()].copy_from_slice(&new.material);
    area
}

fn unlock(area: &[u8], passphrase: &[u8]) -> Result<Option<SectorCipher>, LuksError> {
    let header = Header::parse(area, area.len() as u64)?;
    for slot in &header.slots {
        let range = header.material(slot);
        if let Some(active) = &slot.active {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            let material = KeyBytes::new(area[range].to_vec());
            if let Some((cipher, _)) = header.unlock(active, passphrase, material)? {
                return Ok(Some(cipher));
            }
        }
    }
    Ok(None)
}

#[test]
fn only_the_right_passphrase_opens_a_new_header() {
    use CipherAlgorithm::{Aes128, Aes256};
    for (cipher, mode, iv, hash) in [
        (
            Aes256,
            CipherMode::Xts,
            IvAlgorithm::Plain64,
            HashAlgorithm::Sha256,
        ),
        (
            Aes128,
            CipherMode::Cbc,
            IvAlgorithm::Essiv,
            HashAlgorithm::Sha1,
        ),
        (
            Aes128,
            CipherMode::Xts,
            IvAlgorithm::Plain,
            HashAlgorithm::Sha512,
        ),
    ] {
        let options = LuksOptions {
            cipher,
            mode,
            iv,
            hash,
            ..LuksOptions::default()
        };
        let area = made(&options);
        assert!(unlock(&area, b"right").unwrap().is_some());
        assert!(unlock(&area, b"wrong").unwrap().is_none());
        assert!(unlock(&area, b"").unwrap().is_none());
        let header = Header::parse(&area, area.len() as u64).unwrap();
        assert_eq!(header.payload_offset(), options.area_len());
        assert_eq!(header.uuid.len(), 36);
        assert_eq!(header.slots.len(), 8);
    }
}

#[test]
fn a_key_that_fills_no_sector_is_not_made() {
    let options = LuksOptions {
        cipher: CipherAlgorithm::Aes192,
        mode: CipherMode::Cbc,
        ..LuksOptions::default()
    };
    assert!(options.check().is_err());
}

#[track_caller]
fn check(offset: usize, bytes: &[u8], want: &str) {
    let mut area = made(&LuksOptions::default());
    area[offset..][..bytes.len()].copy_from_slice(bytes);
    let got = match Header::parse(&area, area.len() as u64) {
        Ok(_) => "a header".to_owned(),
        Err(error) => error.to_string(),
    };
    assert_eq!(got, want);
}

#[test]
fn damaged_fields_are_named() {
    check(0, b"X", "Volume is not in LUKS format");
    check(6, &[0, 2], "LUKS version 2 is not supported");
    check(
        8,
        &[b'a'; 32],
        "LUKS header cipher name is not NUL terminated",
    );
    check(8, b"des\0", "LUKS cipher 'des' is not supported");
    check(40, b"xts\0", "Unexpected cipher mode string format 'xts'");
    check(
        40,
        b"xex-plain\0",
        "LUKS cipher mode 'xex' is not supported",
    );
    check(40, b"cbc-lmk\0", "LUKS IV generator 'lmk' is not supported");
    check(
        40,
        b"xts-essiv\0",
        "Missing IV generator hash specification",
    );
    check(72, b"crc\0", "LUKS hash algorithm 'crc' is not supported");
    check(
        108,
        &[0xff; 4],
        "Algorithm 'aes' with key size 4294967295 bytes not supported",
    );
    check(
        164,
        &[0; 4],
        "LUKS key iteration count is 0, which is not 1 to 134217728",
    );
    check(
        212,
        &[0xff; 4],
        "LUKS key slot iteration count is 4294967295, which is not 1 to 134217728",
    );
    check(
        104,
        &[0; 4],
        "Keyslot 0 is overlapping with the encrypted payload",
    );
    check(
        208,
        &[1; 4],
        "Keyslot 0 is corrupted (neither active nor disabled)",
    );
    check(
        252,
        &[0; 4],
        "Keyslot 0 is corrupted (stripes are not 4000)",
    );
    check(
        248,
        &[0; 4],
        "Keyslot 0 is overlapping with the LUKS header",
    );
    check(
        296,
        &8_u32.to_be_bytes(),
        "Keyslot 1 is overlapping with another key slot",
    );
}

#[test]
fn an_area_that_ends_before_its_key_material_is_refused() {
    let area = made(&LuksOptions::default());
    let parsed = Header::parse(&area, 8192);
    let other = "the header's end";
    assert_eq!(parsed, Err(LuksError::Overlap { slot: 0, other }));
}

#[test]
fn no_damage_makes_parsing_panic_or_a_header_out_of_bounds() {
    let area = made(&LuksOptions::default());
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..20_000 {
        let mut head = area[..HEADER_LEN].to_vec();
        for _ in 0..=next() % 4 {
            let at = usize::try_from(next() % HEADER_LEN as u64).unwrap();
            head[at] = next().to_le_bytes()[0];
        }
        let cut = usize::try_from(next() % 1200).unwrap().min(HEADER_LEN);
        let len = area.len() as u64;
        if let Ok(header) = Header::parse(&head[..cut], len) {
            for slot in header.slots.iter().filter(|slot| slot.active.is_some()) {
                assert!(header.material(slot).end <= len && header.material(slot).start >= 4096);
            }
            assert!(header.digest_rounds <= MAX_ROUNDS);
        }
    }
}
