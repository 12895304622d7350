//! How a new image is encrypted: `-o encrypt.format=luks,encrypt.key-secret=…`.
//! Called by `create.rs` beside it. Not here: secrets themselves (`session.rs`).

use std::time::Duration;

use block_core::secret::Secrets;
use block_drivers::format::qcow2::{CreateEncryption, LuksOptions};
use block_schema::Object;

use crate::report::Failure;

/// The options by name, in the order in which they are shown.
const KEYS: [&str; 8] = [
    "encrypt.format",
    "encrypt.key-secret",
    "encrypt.cipher-alg",
    "encrypt.cipher-mode",
    "encrypt.ivgen-alg",
    "encrypt.ivgen-hash-alg",
    "encrypt.hash-alg",
    "encrypt.iter-time",
];

/// Options about encryption, as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncryptOptions {
    /// `encryption=on`: what `encrypt.format=aes` is called today.
    pub(crate) legacy: Option<bool>,
    values: [Option<String>; KEYS.len()],
}

impl EncryptOptions {
    /// Sets an option by its name.
    ///
    /// # Errors
    /// A name that is none.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let mut named = KEYS.iter().zip(&mut self.values);
        match named.find(|(name, _)| **name == key) {
            Some((_, place)) => *place = Some(value.to_owned()),
            None => return Err(Failure::new(format!("Invalid parameter '{key}'"))),
        }
        Ok(())
    }

    /// The options that were given, by name.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = KEYS.iter().zip(&self.values);
        named.filter_map(|(key, value)| Some((*key, value.as_deref()?)))
    }

    /// Whether a new image is to be encrypted, by either name.
    pub(crate) fn asks_for_encryption(&self) -> bool {
        self.legacy == Some(true) || self.value("encrypt.format").is_some()
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.given()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// The format, by either name; `None` for an image that is not encrypted.
    fn format(&self) -> Result<Option<&str>, Failure> {
        let format = match (self.value("encrypt.format"), self.legacy) {
            (Some(_), Some(_)) => {
                let text =
                    "'encrypt.format' and its alias 'encryption' can't be used at the same time";
                return Err(Failure::new(text));
            }
            (Some(format), None) => Some(format),
            (None, Some(true)) => Some("aes"),
            (None, Some(false)) => return Ok(None),
            (None, None) => None,
        };
        if format.is_none() && self.given().next().is_some() {
            return Err(Failure::new("Parameter 'encrypt.format' is missing"));
        }
        Ok(format)
    }

    /// How the image is to be made.
    ///
    /// # Errors
    /// What is wrong, by the option's name; a secret that is none.
    pub(crate) fn encryption(
        &self,
        secrets: &Secrets,
    ) -> Result<Option<CreateEncryption>, Failure> {
        let Some(format) = self.format()? else {
            return Ok(None);
        };
        if !matches!(format, "aes" | "luks") {
            return Err(not_accepted("encrypt.format", format));
        }
        let luks = match format {
            "luks" => Some(self.luks()?),
            _ => None,
        };
        let for_luks = |key: &&str| !matches!(*key, "encrypt.format" | "encrypt.key-secret");
        if luks.is_none()
            && let Some(key) = self.given().map(|(key, _)| key).find(for_luks)
        {
            return Err(Failure::new(format!("Parameter '{key}' is unexpected")));
        }
        let Some(id) = self.value("encrypt.key-secret") else {
            let text = "Parameter 'encrypt.key-secret' is required for cipher";
            return Err(Failure::new(text));
        };
        let secret = secrets.find(id)?;
        Ok(Some(match luks {
            Some(luks) => CreateEncryption::Luks(luks, secret),
            None => CreateEncryption::Aes(secret),
        }))
    }

    fn luks(&self) -> Result<LuksOptions, Failure> {
        let defaults = LuksOptions::default();
        let iter_time = match self.value("encrypt.iter-time") {
            None => defaults.iter_time,
            Some(text) => match text.parse() {
                Ok(time) if time > 0 => Duration::from_millis(time),
                _ => {
                    let text = "Parameter 'encrypt.iter-time' expects a number above 0";
                    return Err(Failure::new(text));
                }
            },
        };
        Ok(LuksOptions {
            cipher: self.named("encrypt.cipher-alg")?.unwrap_or(defaults.cipher),
            mode: self.named("encrypt.cipher-mode")?.unwrap_or(defaults.mode),
            iv: self.named("encrypt.ivgen-alg")?.unwrap_or(defaults.iv),
            iv_hash: self.named("encrypt.ivgen-hash-alg")?,
            hash: self.named("encrypt.hash-alg")?.unwrap_or(defaults.hash),
            iter_time,
        })
    }

    fn named<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        let Some(name) = self.value(key) else {
            return Ok(None);
        };
        name.parse().map(Some).map_err(|_| not_accepted(key, name))
    }

    /// The `encrypt` option that opens an image made so.
    pub(crate) fn to_open(&self) -> Option<Object> {
        let format = self.format().ok()??;
        let mut options = Object::new();
        options.insert("format", format);
        options.insert("key-secret", self.value("encrypt.key-secret")?);
        Some(options)
    }
}

/// Tools have always told such a value's key without what is before the dot.
fn not_accepted(key: &str, value: &str) -> Failure {
    let key = key.strip_prefix("encrypt.").unwrap_or(key);
    Failure::new(format!("Parameter '{key}' does not accept value '{value}'"))
}

#[cfg(test)]
mod tests {
    use block_core::secret::Secret;

    use super::*;

    #[track_caller]
    fn check(options: &[(&str, &str)], legacy: Option<bool>, want: &str) {
        let mut given = EncryptOptions {
            legacy,
            ..EncryptOptions::default()
        };
        for (key, value) in options {
            given.set(&format!("encrypt.{key}"), value).unwrap();
        }
        let secrets = Secrets::default();
        secrets.add("s", Secret::new(vec![1])).unwrap();
        let got = match given.encryption(&secrets) {
            Ok(None) => "none".to_owned(),
            Ok(Some(CreateEncryption::Aes(_))) => "aes".to_owned(),
            Ok(Some(CreateEncryption::Luks(luks, _))) => {
                format!(
                    "luks {}-{}-{} {}",
                    luks.cipher, luks.mode, luks.iv, luks.hash
                )
            }
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn both_formats_and_the_old_name() {
        check(&[], None, "none");
        check(&[], Some(false), "none");
        check(&[("key-secret", "s")], Some(true), "aes");
        check(&[("format", "aes"), ("key-secret", "s")], None, "aes");
        let luks = [("format", "luks"), ("key-secret", "s")];
        check(&luks, None, "luks aes-256-xts-plain64 sha256");
        let other = [
            ("cipher-alg", "aes-128"),
            ("cipher-mode", "cbc"),
            ("hash-alg", "sha1"),
        ];
        check(
            &[luks.as_slice(), &other].concat(),
            None,
            "luks aes-128-cbc-plain64 sha1",
        );
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let key = ("key-secret", "s");
        check(&[key], None, "Parameter 'encrypt.format' is missing");
        check(
            &[("format", "luks")],
            None,
            "Parameter 'encrypt.key-secret' is required for cipher",
        );
        check(
            &[("format", "luks"), ("key-secret", "x")],
            None,
            "No secret with id 'x'",
        );
        check(
            &[("format", "luks"), key],
            Some(true),
            "'encrypt.format' and its alias 'encryption' can't be used at the same time",
        );
        check(
            &[("format", "aes"), key, ("cipher-alg", "aes-128")],
            None,
            "Parameter 'encrypt.cipher-alg' is unexpected",
        );
        check(
            &[("format", "luks"), key, ("hash-alg", "crc")],
            None,
            "Parameter 'hash-alg' does not accept value 'crc'",
        );
        check(
            &[("format", "luks"), key, ("iter-time", "0")],
            None,
            "Parameter 'encrypt.iter-time' expects a number above 0",
        );
    }
}
