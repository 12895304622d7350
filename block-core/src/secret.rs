//! Secrets: passphrases and keys that options name by id.
//!
//! A store of the layer, filled by `object-add` and `--object`; drivers ask for a secret when they
//! open (`Opener::secret`). Invariant: a secret's bytes are wiped when the last handle goes, no
//! `Debug` output or error shows them, and no query returns them. Not here: what they open.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, KeyInit};
use block_schema::types::{
    ObjectOptions, ObjectOptionsBranch, QCryptoSecretFormat, SecretCommonProperties,
    SecretProperties,
};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Bytes of a secret at most.
const MAX_LEN: usize = 1 << 20;
/// Bytes of the cipher's block.
const BLOCK: usize = 16;

type Bytes = Zeroizing<Vec<u8>>;

/// A passphrase or key; clones are handles to the same bytes.
#[derive(Clone)]
pub struct Secret(Arc<Bytes>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(Arc::new(Zeroizing::new(bytes)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The secrets of a layer, by id.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<BTreeMap<String, Secret>>);

impl Secrets {
    /// Makes an object. Reads its file, if it has one, and so may block.
    ///
    /// # Errors
    /// `InvalidOption` for an id that is taken or no name, and for what cannot be decoded; `Open`
    /// for the file.
    pub fn add_object(&self, options: ObjectOptions) -> Result<()> {
        let ObjectOptions { id, qom_type } = options;
        let ObjectOptionsBranch::Secret(properties) = qom_type;
        self.check_id(&id)?;
        let secret = self.load(&properties)?;
        self.add(&id, secret)
    }

    /// Adds a secret.
    ///
    /// # Errors
    /// `InvalidOption` for an id that is taken or no name.
    pub fn add(&self, id: &str, secret: Secret) -> Result<()> {
        self.check_id(id)?;
        self.0.lock().insert(id.to_owned(), secret);
        Ok(())
    }

    /// Removes a secret; who has it keeps it.
    ///
    /// # Errors
    /// `InvalidOption` when there is none.
    pub fn remove(&self, id: &str) -> Result<()> {
        match self.0.lock().remove(id) {
            Some(_) => Ok(()),
            None => Err(Error::invalid("id", format!("object '{id}' not found"))),
        }
    }

    /// The secret of an id.
    ///
    /// # Errors
    /// `InvalidOption` when there is none.
    pub fn find(&self, id: &str) -> Result<Secret> {
        let found = self.0.lock().get(id).cloned();
        found.ok_or_else(|| Error::invalid("key-secret", format!("No secret with id '{id}'")))
    }

    fn check_id(&self, id: &str) -> Result<()> {
        let mut chars = id.chars();
        let is_name = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        if !is_name {
            return Err(Error::invalid("id", "Parameter 'id' expects an identifier"));
        }
        if self.0.lock().contains_key(id) {
            let text = "attempt to add duplicate property";
            let reason = format!("{text} '{id}' to object (type 'container')");
            return Err(Error::invalid("id", reason));
        }
        Ok(())
    }

    fn load(&self, properties: &SecretProperties) -> Result<Secret> {
        let given = match (&properties.file, &properties.data) {
            (Some(_), Some(_)) => {
                let reason = "'file' and 'data' are mutually exclusive";
                return Err(Error::invalid("file", reason));
            }
            (Some(file), None) => read_file(file)?,
            (None, Some(data)) => Zeroizing::new(data.clone().into_bytes()),
            (None, None) => {
                let reason = "Either 'file' or 'data' must be provided";
                return Err(Error::invalid("data", reason));
            }
        };
        let common = SecretCommonProperties {
            format: properties.format,
            keyid: properties.keyid.clone(),
            iv: properties.iv.clone(),
        };
        let bytes = match common.format {
            Some(QCryptoSecretFormat::Base64) => decode_base64(&given, "data")?,
            Some(QCryptoSecretFormat::Raw) | None => given,
        };
        let bytes = match &common.keyid {
            Some(key) => decrypt(&self.find(key)?, common.iv.as_deref(), bytes)?,
            None => bytes,
        };
        Ok(Secret(Arc::new(bytes)))
    }
}

fn read_file(path: &str) -> Result<Bytes> {
    let open = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    let mut bytes = Zeroizing::new(vec![0; MAX_LEN + 1]);
    let mut len = 0;
    let mut file = file.take(MAX_LEN as u64 + 1);
    loop {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(open(error)),
        }
    }
    if len > MAX_LEN {
        let reason = format!("'{path}' is longer than {MAX_LEN} bytes");
        return Err(Error::invalid("file", reason));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Decrypts a secret that is wrapped with another one. Spec: PKCS #7 padding, AES-256-CBC.
fn decrypt(key: &Secret, iv: Option<&str>, mut bytes: Bytes) -> Result<Bytes> {
    let refuse = |option: &str, reason: &str| Err(Error::invalid(option, reason));
    let Ok(cipher) = Aes256::new_from_slice(key.bytes()) else {
        return refuse("keyid", "Key should be 32 bytes in length");
    };
    let Some(iv) = iv else {
        return refuse("iv", "IV is required to decrypt secret");
    };
    let iv = decode_base64(iv.as_bytes(), "iv")?;
    let Ok(mut before) = <[u8; BLOCK]>::try_from(iv.as_slice()) else {
        let reason = format!("IV should be 16 bytes in length not {}", iv.len());
        return refuse("iv", &reason);
    };
    let (blocks, rest) = bytes.as_chunks_mut::<BLOCK>();
    if blocks.is_empty() || !rest.is_empty() {
        return refuse("data", "Length of encrypted data is not a multiple of 16");
    }
    for block in blocks {
        let encrypted = *block;
        let mut plain = encrypted.into();
        cipher.decrypt_block(&mut plain);
        for ((to, plain), before) in block.iter_mut().zip(plain).zip(before) {
            *to = plain ^ before;
        }
        before = encrypted;
    }
    let padding = usize::from(bytes.last().copied().unwrap_or(0));
    if padding > BLOCK {
        let reason = "Incorrect number of padding bytes found on decrypted data";
        return refuse("data", reason);
    }
    let len = bytes.len() - padding;
    bytes.truncate(len);
    Ok(bytes)
}

/// Bytes from base64, in which line ends are allowed.
fn decode_base64(text: &[u8], option: &str) -> Result<Bytes> {
    decode_symbols(text).ok_or_else(|| {
        let reason = format!("'{option}' is not valid base64 data");
        Error::invalid(option, reason)
    })
}

fn decode_symbols(text: &[u8]) -> Option<Bytes> {
    let lines = text.iter().copied().filter(|c| !matches!(c, b'\n' | b'\r'));
    let symbols = Zeroizing::new(lines.collect::<Vec<u8>>());
    let padding = symbols.iter().rev().take_while(|c| **c == b'=').count();
    if !symbols.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(symbols.len() / 4 * 3));
    for group in symbols[..symbols.len() - padding].chunks(4) {
        let mut bits = 0_u32;
        for place in 0..4 {
            let symbol = group.get(place).copied();
            bits = bits << 6 | symbol.map_or(Some(0), digit)?;
        }
        let [_, triple @ ..] = bits.to_be_bytes();
        bytes.extend_from_slice(&triple[..group.len() - 1]);
    }
    Some(bytes)
}

fn digit(symbol: u8) -> Option<u32> {
    let value = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(secrets: &Secrets, id: &str, properties: SecretProperties) -> Result<()> {
        let kind = ObjectOptionsBranch::Secret(properties);
        secrets.add_object(ObjectOptions::new(kind, id.to_owned()))
    }

    fn of_data(data: &str, format: QCryptoSecretFormat) -> SecretProperties {
        SecretProperties {
            format: Some(format),
            data: Some(data.to_owned()),
            ..SecretProperties::default()
        }
    }

    #[track_caller]
    fn check(properties: SecretProperties, want: Result<&[u8], &str>) {
        let secrets = Secrets::default();
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        add(&secrets, "key", of_data(key, QCryptoSecretFormat::Base64)).unwrap();
        let got = add(&secrets, "s", properties).and_then(|()| secrets.find("s"));
        let got = got.map(|secret| secret.bytes().to_vec());
        assert_eq!(
            got.map_err(|error| error.to_string()),
            want.map(<[u8]>::to_vec).map_err(str::to_owned)
        );
    }

    #[test]
    fn data_is_raw_or_base64() {
        use QCryptoSecretFormat::{Base64, Raw};
        check(of_data("abc=", Raw), Ok(b"abc="));
        check(of_data("YWJj", Base64), Ok(b"abc"));
        check(of_data("YWJjZA==\n", Base64), Ok(b"abcd"));
        check(of_data("/+8=", Base64), Ok(&[0xff, 0xef]));
        check(of_data("", Base64), Ok(b""));
        for wrong in ["YWJ", "YW=j", "====", "YWJj*===", "A==="] {
            check(
                of_data(wrong, Base64),
                Err("'data' is not valid base64 data"),
            );
        }
        let neither = SecretProperties::default();
        check(neither, Err("Either 'file' or 'data' must be provided"));
    }

    #[test]
    fn a_secret_may_be_wrapped_with_another() {
        // printf letmein | openssl enc -aes-256-cbc -a -K $(printf 0123456789abcdef0123456789abcdef
        // | xxd -p -c 64) -iv 00000000000000000000000000000000
        let wrapped = |data: &str, iv: Option<&str>| SecretProperties {
            keyid: Some("key".to_owned()),
            iv: iv.map(str::to_owned),
            ..of_data(data, QCryptoSecretFormat::Base64)
        };
        let iv = Some("AAAAAAAAAAAAAAAAAAAAAA==");
        check(wrapped("yaX//RwWd58JvrjMnO8YPA==", iv), Ok(b"letmein"));
        check(
            wrapped("yaX//RwWd58JvrjMnO8YPA==", None),
            Err("IV is required to decrypt secret"),
        );
        check(
            wrapped("yaX//RwWd58JvrjMnO8YPA==", Some("AAAA")),
            Err("IV should be 16 bytes in length not 3"),
        );
        check(
            wrapped("YWJj", iv),
            Err("Length of encrypted data is not a multiple of 16"),
        );
    }

    #[test]
    fn ids_are_names_and_taken_once() {
        let secrets = Secrets::default();
        secrets.add("a-1", Secret::new(vec![1])).unwrap();
        assert!(secrets.add("a-1", Secret::new(vec![2])).is_err());
        assert!(secrets.add("1", Secret::new(vec![2])).is_err());
        assert_eq!(
            secrets.find("b").unwrap_err().to_string(),
            "No secret with id 'b'"
        );
        secrets.remove("a-1").unwrap();
        assert_eq!(
            secrets.remove("a-1").unwrap_err().to_string(),
            "object 'a-1' not found"
        );
    }

    #[test]
    fn debug_output_shows_no_byte() {
        let secrets = Secrets::default();
        secrets.add("a", Secret::new(b"hidden".to_vec())).unwrap();
        assert_eq!(format!("{:?}", secrets.find("a").unwrap()), "Secret(…)");
        assert!(!format!("{secrets:?}").contains("hidden"));
    }
}
