//! Options of a new image: `-o key=value,…`, their checks, and the line that shows them.
//! Called by `create` and `convert`. Not here: making the image (`create.rs`).

use block_core::driver::Preallocation;
use block_schema::types::BlockdevDriver;

use super::encrypt::EncryptOptions;
use super::keyval;
use super::size::{SizeError, parse_size};
use crate::report::Failure;

/// Options of a new image, as given; what is `None` takes the format's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CreateOptions {
    /// Bytes of the guest's disk.
    pub(crate) size: Option<u64>,
    /// The backing file's name, to be stored as it is.
    pub(crate) backing_file: Option<String>,
    /// The backing file's format.
    pub(crate) backing_fmt: Option<String>,
    /// Bytes of a cluster.
    pub(crate) cluster_size: Option<u64>,
    /// `0.10` or `1.1`.
    pub(crate) compat: Option<String>,
    /// `zlib` or `zstd`.
    pub(crate) compression_type: Option<String>,
    /// A file that holds guest data alone.
    pub(crate) data_file: Option<String>,
    /// Whether that file is kept readable as a raw image.
    pub(crate) data_file_raw: Option<bool>,
    /// Whether clusters have 32 subclusters.
    pub(crate) extended_l2: Option<bool>,
    /// Whether refcounts are written late.
    pub(crate) lazy_refcounts: Option<bool>,
    /// What is allocated at once.
    pub(crate) preallocation: Option<Preallocation>,
    /// Bits of a refcount.
    pub(crate) refcount_bits: Option<u64>,
    /// Whether the file system should not copy on write.
    pub(crate) nocow: Option<bool>,
    /// Bytes that the file system should allocate at once: none, as nobody tells it so.
    pub(crate) extent_size_hint: Option<u64>,
    /// How guest data is encrypted.
    pub(crate) encrypt: EncryptOptions,
}

const RAW_OPTIONS: [&str; 4] = ["size", "preallocation", "nocow", "extent_size_hint"];

impl CreateOptions {
    /// Parses lists of options for a format; of equal keys the last counts.
    ///
    /// # Errors
    /// A key that the format does not have, or a value that is none of its.
    pub(crate) fn parse(
        lists: &[String],
        format: BlockdevDriver,
    ) -> Result<CreateOptions, Failure> {
        let mut options = CreateOptions::default();
        for part in lists.iter().flat_map(|list| keyval::split(list)) {
            let (key, value) = part.split_once('=').unwrap_or((&part, "on"));
            if format != BlockdevDriver::Qcow2 && !RAW_OPTIONS.contains(&key) {
                return Err(Failure::new(format!("Invalid parameter '{key}'")));
            }
            options.set(key, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        match key {
            "encryption" => self.encrypt.legacy = Some(switch_of(key, value)?),
            key if key.starts_with("encrypt.") => self.encrypt.set(key, value)?,
            "size" => self.size = Some(size_of(key, value)?),
            "backing_file" => self.backing_file = Some(value.to_owned()),
            "backing_fmt" => self.backing_fmt = Some(value.to_owned()),
            "cluster_size" => self.cluster_size = Some(size_of(key, value)?),
            "compat" => self.compat = Some(value.to_owned()),
            "compression_type" => self.compression_type = Some(value.to_owned()),
            "data_file" => self.data_file = Some(value.to_owned()),
            "data_file_raw" => self.data_file_raw = Some(switch_of(key, value)?),
            "extended_l2" => self.extended_l2 = Some(switch_of(key, value)?),
            "lazy_refcounts" => self.lazy_refcounts = Some(switch_of(key, value)?),
            "nocow" => self.nocow = Some(switch_of(key, value)?),
            "extent_size_hint" => self.extent_size_hint = Some(no_hint(key, value)?),
            "preallocation" => self.preallocation = Some(preallocation_of(value)?),
            "refcount_bits" => self.refcount_bits = Some(size_of(key, value)?),
            _ => return Err(Failure::new(format!("Invalid parameter '{key}'"))),
        }
        Ok(())
    }

    /// What `create` prints before it starts: the format's options with their defaults.
    pub(crate) fn line(&self, filename: &str, format: BlockdevDriver) -> String {
        let mut line = format!("Formatting '{filename}', fmt={format}");
        let mut show = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        };
        let preallocation = self
            .preallocation
            .map(|mode| preallocation_name(mode).to_owned());
        let size = self.size.map(|size| size.to_string());
        let hint = self.extent_size_hint.map(|hint| hint.to_string());
        let on_off = |on: bool| Some(if on { "on" } else { "off" }.to_owned());
        if format != BlockdevDriver::Qcow2 {
            show("size", size);
            show("nocow", self.nocow.and_then(on_off));
            show("preallocation", preallocation);
            show("extent_size_hint", hint);
            return line;
        }
        show("encryption", self.encrypt.legacy.and_then(on_off));
        for (key, value) in self.encrypt.given() {
            show(key, Some(value.to_owned()));
        }
        show(
            "cluster_size",
            Some(self.cluster_size.unwrap_or(65536).to_string()),
        );
        show("extended_l2", on_off(self.extended_l2 == Some(true)));
        show("preallocation", preallocation);
        let compression = self.compression_type.as_deref().unwrap_or("zlib");
        show("compression_type", Some(compression.to_owned()));
        show("size", size);
        show("compat", self.compat.clone());
        show("backing_file", self.backing_file.clone());
        show("backing_fmt", self.backing_fmt.clone());
        show("data_file", self.data_file.clone());
        show("data_file_raw", self.data_file_raw.and_then(on_off));
        show("lazy_refcounts", on_off(self.lazy_refcounts == Some(true)));
        show(
            "refcount_bits",
            Some(self.refcount_bits.unwrap_or(16).to_string()),
        );
        show("nocow", self.nocow.and_then(on_off));
        show("extent_size_hint", hint);
        line
    }
}

fn size_of(key: &str, value: &str) -> Result<u64, Failure> {
    parse_size(value).map_err(|error| {
        Failure::new(match error {
            SizeError::OutOfRange => {
                format!("Value '{value}' is out of range for parameter '{key}'")
            }
            SizeError::Invalid => format!(
                "Parameter '{key}' expects a non-negative number below 2^64\n\
                 Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                 and exabytes, respectively."
            ),
        })
    })
}

/// The only hint there is.
fn no_hint(key: &str, value: &str) -> Result<u64, Failure> {
    match size_of(key, value)? {
        0 => Ok(0),
        _ => Err(Failure::new(format!(
            "Parameter '{key}' is not built in but for 0"
        ))),
    }
}

/// A switch by its words.
///
/// # Errors
/// A word that is none.
pub(crate) fn switch_of(key: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Failure::new(format!(
            "Parameter '{key}' expects 'on' or 'off'"
        ))),
    }
}

/// A preallocation mode by its name.
///
/// # Errors
/// A name that is none.
pub(crate) fn preallocation_of(name: &str) -> Result<Preallocation, Failure> {
    match name {
        "off" => Ok(Preallocation::Off),
        "metadata" => Ok(Preallocation::Metadata),
        "falloc" => Ok(Preallocation::Falloc),
        "full" => Ok(Preallocation::Full),
        _ => Err(Failure::new(format!("Invalid preallocation mode '{name}'"))),
    }
}

fn preallocation_name(mode: Preallocation) -> &'static str {
    match mode {
        Preallocation::Off => "off",
        Preallocation::Metadata => "metadata",
        Preallocation::Falloc => "falloc",
        Preallocation::Full => "full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(list: &str, format: BlockdevDriver, want: &str) {
        let options = CreateOptions::parse(&[list.to_owned()], format);
        let got = match options {
            Ok(options) => options.line("a", format),
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn the_line_shows_defaults_in_their_order() {
        check(
            "size=10M",
            BlockdevDriver::Qcow2,
            "Formatting 'a', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib \
             size=10485760 lazy_refcounts=off refcount_bits=16",
        );
        check(
            "size=1k,preallocation=falloc",
            BlockdevDriver::Raw,
            "Formatting 'a', fmt=raw size=1024 preallocation=falloc",
        );
    }

    #[test]
    fn what_the_format_does_not_have_is_refused() {
        check("foo=1", BlockdevDriver::Qcow2, "Invalid parameter 'foo'");
        check(
            "cluster_size=1k",
            BlockdevDriver::Raw,
            "Invalid parameter 'cluster_size'",
        );
        check(
            "lazy_refcounts=maybe",
            BlockdevDriver::Qcow2,
            "Parameter 'lazy_refcounts' expects 'on' or 'off'",
        );
        check(
            "size=5x",
            BlockdevDriver::Raw,
            "Parameter 'size' expects a non-negative number below 2^64\n\
             Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
             and exabytes, respectively.",
        );
        check(
            "size=-5",
            BlockdevDriver::Raw,
            "Value '-5' is out of range for parameter 'size'",
        );
    }
}
