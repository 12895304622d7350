//! Names of images: from what a user writes to the schema's `BlockdevOptions`.
//!
//! A name is a path, a URI that a driver understands, `json:{…}`, or with `--image-opts` a list of
//! options. Called by every subcommand through `image.rs`. Invariant: names on the command line
//! are explicit, so nothing here asks the policy. Not here: opening, probing.

use block_core::graph::policy::protocol_of;
use block_core::graph::registry::Registry;
use block_drivers::Drivers;
use block_schema::types::{BlockdevDriver, BlockdevOptions, BlockdevRef};
use block_schema::{Object, Unknown, Value, Wire};

use super::cache::CacheMode;
use super::{keyval, typed};
use crate::report::Failure;
use crate::session::ImplicitOpen;

/// Options of every subcommand that opens an image.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ImageArgs {
    /// FILENAME is a list of options (driver=qcow2,file.filename=…) and not a name
    #[arg(long)]
    pub(crate) image_opts: bool,
    /// Open the image although another program may be writing it
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

/// What a subcommand's images have around them.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct SessionArgs {
    /// Make an object that options refer to: secret,id=…,file=… or data=…; may be repeated
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) object: Vec<String>,
    /// What to do with names found inside an image (backing file, data file)
    #[arg(
        long = "implicit-open",
        value_enum,
        default_value_t,
        value_name = "POLICY"
    )]
    pub(crate) policy: ImplicitOpen,
}

/// What the user calls an image.
#[derive(Clone, Debug)]
pub(crate) struct ImageName {
    /// As written.
    pub(crate) text: String,
    /// The format given for it.
    pub(crate) format: Option<String>,
    /// Whether `text` is a list of options.
    pub(crate) is_options: bool,
    /// How to decrypt it, where `text` does not say.
    pub(crate) encrypt: Option<Object>,
    /// The encryption formats of its chain, as far as they are known, for keys that come without.
    pub(crate) encrypt_formats: Vec<String>,
}

/// The one image that a command line names.
///
/// # Errors
/// When there is none, or there are more.
pub(crate) fn one_name(names: &[String]) -> Result<&str, Failure> {
    match names {
        [name] => Ok(name),
        _ => Err(Failure::usage("Expecting one image file name")),
    }
}

/// How an image is to be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenHow {
    /// Whether it will be written.
    pub(crate) access: Access,
    /// Whether other programs may write it meanwhile.
    pub(crate) force_share: bool,
    /// Whether its backing file is opened too.
    pub(crate) backing: Backing,
    /// How it is cached.
    pub(crate) cache: CacheMode,
    /// The I/O backend; the driver's choice if `None`.
    pub(crate) aio: Option<&'static str>,
    /// What becomes of zeroes that are written, if that is said.
    pub(crate) detect_zeroes: Option<&'static str>,
    /// Whether discarded ranges are given back to the file system.
    pub(crate) discard: bool,
    /// Whether guest data is wanted, and so the key to it.
    pub(crate) content: Content,
}

/// What of an image is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Its disk: without the key, an encrypted image cannot be opened.
    Data,
    /// What it says of itself: no key is asked for, and none that was given is tried.
    Metadata,
    /// As [`Metadata`](Content::Metadata), however damaged it is.
    Damage,
    /// As [`Metadata`](Content::Metadata), by its own file alone: no file that it names for its
    /// data is opened.
    Header,
}

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is only read.
    Read,
    /// It is written.
    Write,
}

/// Whether to follow an image to its backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// As the image says.
    Follow,
    /// The image alone.
    Ignore,
}

impl OpenHow {
    /// For reading.
    pub(crate) fn read(args: &ImageArgs) -> OpenHow {
        OpenHow {
            access: Access::Read,
            force_share: args.force_share,
            backing: Backing::Follow,
            cache: CacheMode::WRITEBACK,
            aio: None,
            detect_zeroes: None,
            discard: true,
            content: Content::Data,
        }
    }

    /// For reading and writing.
    pub(crate) fn write(args: &ImageArgs) -> OpenHow {
        OpenHow {
            access: Access::Write,
            ..OpenHow::read(args)
        }
    }

    /// In another cache mode.
    #[must_use]
    pub(crate) fn with_cache(self, cache: CacheMode) -> OpenHow {
        OpenHow { cache, ..self }
    }

    /// For what the image says of itself alone.
    #[must_use]
    pub(crate) fn metadata_only(self) -> OpenHow {
        OpenHow {
            content: Content::Metadata,
            ..self
        }
    }

    /// For what the image says of itself, right or wrong.
    #[must_use]
    pub(crate) fn for_check(self) -> OpenHow {
        OpenHow {
            content: Content::Damage,
            ..self
        }
    }

    /// For what the image says of itself, whatever other files it names.
    #[must_use]
    pub(crate) fn header_only(self) -> OpenHow {
        OpenHow {
            backing: Backing::Ignore,
            content: Content::Header,
            ..self
        }
    }

    /// Says in a format's options which files that its image names stay closed.
    fn keep_closed(&self, driver: BlockdevDriver, options: &mut Object) {
        if self.backing == Backing::Ignore && has_backing(driver) {
            options.insert("backing", "");
        }
        if self.content == Content::Header && driver == BlockdevDriver::Qcow2 {
            options.insert("data-file", Value::Null);
        }
    }

    /// Sets what this says in a node's options, where they don't say it themselves.
    fn apply(&self, options: &mut Object) -> Result<(), Failure> {
        if self.force_share && options.get("force-share") == Some(&Value::Bool(false)) {
            return Err(Failure::new(
                "--force-share/-U conflicts with image options",
            ));
        }
        default(options, "read-only", self.access == Access::Read);
        if self.force_share {
            default(options, "force-share", true);
        }
        let discard = if self.discard { "unmap" } else { "ignore" };
        default(options, "discard", discard);
        if let Some(aio) = self.aio {
            default(options, "aio", aio);
        }
        if let Some(mode) = self.detect_zeroes {
            default(options, "detect-zeroes", mode);
        }
        let mut cache = match options.remove("cache") {
            Some(Value::Object(cache)) => cache,
            _ => Object::new(),
        };
        default(&mut cache, "writeback", self.cache.writeback);
        default(&mut cache, "direct", self.cache.direct);
        default(&mut cache, "no-flush", self.cache.no_flush);
        options.insert("cache", cache);
        Ok(())
    }
}

/// What to open for a name.
pub(crate) enum Target {
    /// This node, whose driver is known.
    Known(BlockdevOptions),
    /// This protocol node, and over it the format that its first bytes show.
    Probe {
        /// The node to look at.
        protocol: BlockdevOptions,
        /// Options for the format's node, but its driver and file.
        format: Object,
    },
}

/// The name that a protocol node gets while its format is guessed.
const PROTOCOL_NODE: &str = "protocol";

impl ImageName {
    /// A name, with a format if the user gave one.
    ///
    /// # Errors
    /// When a list of options comes with a format besides.
    pub(crate) fn new(
        text: &str,
        format: Option<&str>,
        args: &ImageArgs,
    ) -> Result<ImageName, Failure> {
        if args.image_opts && format.is_some() {
            let text = "--image-opts and --format are mutually exclusive";
            return Err(Failure::new(text));
        }
        Ok(ImageName {
            text: text.to_owned(),
            format: format.map(str::to_owned),
            is_options: args.image_opts,
            encrypt: None,
            encrypt_formats: Vec::new(),
        })
    }

    /// The options of the image's node. `name` becomes its `node-name`.
    ///
    /// # Errors
    /// What is wrong with the name or the options.
    pub(crate) fn target(&self, name: &str, how: &OpenHow) -> Result<Target, Failure> {
        let mut options = self.options()?;
        if let Some(format) = &self.format {
            options.insert("driver", format.as_str());
        }
        default(&mut options, "node-name", name);
        let driver = driver_of(&options)?;
        let is_protocol = driver.is_some_and(|driver| !is_format(driver));
        if is_protocol {
            how.apply(&mut options)?;
            return decode(options).map(Target::Known);
        }
        let filename = options.remove("filename");
        match (options.remove("file"), filename) {
            (Some(Value::Object(file)), _) => {
                options.insert("file", with_driver(file)?);
            }
            (Some(file), _) => options.insert("file", file),
            (None, Some(Value::String(filename))) => {
                options.insert("file", protocol_of_name(&filename)?);
            }
            (None, _) => {}
        }
        match options.remove("data-file") {
            Some(Value::Object(data)) => options.insert("data-file", with_driver(data)?),
            Some(data) => options.insert("data-file", data),
            None => {}
        }
        how.apply(&mut options)?;
        if let Some(encrypt) = &self.encrypt {
            default(&mut options, "encrypt", encrypt.clone());
        }
        match how.content {
            Content::Data => {}
            Content::Metadata | Content::Damage | Content::Header => {
                without_keys(&mut options);
            }
        }
        if let Some(driver) = driver {
            how.keep_closed(driver, &mut options);
            return decode(options).map(Target::Known);
        }
        let Some(Value::Object(mut protocol)) = options.remove("file") else {
            let text = "A block device must be specified for \"file\"";
            return Err(Failure::new(text));
        };
        protocol.insert("node-name", format!("{name}-{PROTOCOL_NODE}"));
        how.apply(&mut protocol)?;
        let protocol = decode(protocol)?;
        Ok(Target::Probe {
            protocol,
            format: options,
        })
    }

    /// The options that the name stands for, as far as it says.
    fn options(&self) -> Result<Object, Failure> {
        if self.is_options {
            let options = self.completed(keyval::parse(&self.text, None)?)?;
            return typed::arguments_of("blockdev-add", options);
        }
        if let Some(json) = self.text.strip_prefix("json:") {
            let value = Value::from_json(json)
                .map_err(|e| Failure::new(format!("Could not parse the JSON options: {e}")))?;
            let Value::Object(options) = value else {
                return Err(Failure::new("Invalid JSON object given"));
            };
            let options = self.completed(keyval::nested_keys(options)?)?;
            return typed::arguments_of("blockdev-add", options);
        }
        let mut options = Object::new();
        options.insert("filename", self.text.as_str());
        // A name with a protocol and no format still means the image inside.
        Ok(options)
    }

    /// Whether a key is given for an image of the chain, and not how it encrypts.
    pub(crate) fn has_key_without_format(&self) -> bool {
        let parsed = match self.text.strip_prefix("json:") {
            _ if self.is_options => keyval::parse(&self.text, None).ok(),
            Some(json) => match Value::from_json(json) {
                Ok(Value::Object(object)) => keyval::nested_keys(object).ok(),
                Ok(_) | Err(_) => None,
            },
            None => None,
        };
        parsed.is_some_and(|options| lacks_encrypt_format(&options))
    }

    /// Fills in what schema types must have and people leave out: how a key decrypts, which
    /// protocol a file name means.
    fn completed(&self, options: Object) -> Result<Object, Failure> {
        let formats: Vec<&str> = self.encrypt_formats.iter().map(String::as_str).collect();
        with_protocols(with_encrypt_formats(options, &formats))
    }
}

/// The node's options for a format over a protocol node that is open.
///
/// # Errors
/// When the format takes no file.
pub(crate) fn format_over(
    format: BlockdevDriver,
    protocol: &str,
    mut options: Object,
    how: &OpenHow,
) -> Result<BlockdevOptions, Failure> {
    options.insert("driver", format.as_str());
    options.insert("file", protocol);
    how.keep_closed(format, &mut options);
    // Their types show only now that the format is known.
    decoded(options)
}

fn default(options: &mut Object, name: &str, value: impl Into<Value>) {
    if !options.contains(name) {
        options.insert(name, value);
    }
}

fn driver_of(options: &Object) -> Result<Option<BlockdevDriver>, Failure> {
    match options.get("driver") {
        None => Ok(None),
        Some(Value::String(name)) => match name.parse() {
            Ok(driver) => Ok(Some(driver)),
            Err(_) => Err(Failure::new(format!("Unknown driver '{name}'"))),
        },
        Some(_) => Err(Failure::new("Parameter 'driver' expects a string")),
    }
}

/// Whether a driver reads images from a file below it.
pub(crate) fn is_format(driver: BlockdevDriver) -> bool {
    let file = BlockdevRef::Reference(String::new());
    Drivers.format_over(driver, file).is_some()
}

fn has_backing(driver: BlockdevDriver) -> bool {
    use BlockdevDriver as D;
    matches!(driver, D::Qcow2 | D::Qcow | D::Qed | D::Cow | D::Vmdk)
}

/// A nested node's options; without a driver, its file name says which.
fn with_driver(mut options: Object) -> Result<Object, Failure> {
    if options.contains("driver") {
        return Ok(options);
    }
    let Some(Value::String(filename)) = options.remove("filename") else {
        let text = "A block device must be specified for \"file\"";
        return Err(Failure::new(text));
    };
    let mut named = protocol_of_name(&filename)?;
    for (name, value) in options {
        named.insert(name, value);
    }
    Ok(named)
}

/// A key without a format is for that of the image where it is known, else for LUKS; in nested
/// nodes, too. `formats` are those of the image and of what lies behind it.
fn with_encrypt_formats(options: Object, formats: &[&str]) -> Object {
    let behind = formats.get(1..).unwrap_or_default();
    let member = |(name, value): (String, Value)| match value {
        Value::Object(inner) if name == "encrypt" => {
            let mut inner = inner;
            default(&mut inner, "format", *formats.first().unwrap_or(&"luks"));
            (name, Value::Object(inner))
        }
        Value::Object(inner) => {
            let formats = if name == "backing" { behind } else { &[] };
            let inner = with_encrypt_formats(inner, formats);
            (name, Value::Object(inner))
        }
        value => (name, value),
    };
    options.into_iter().map(member).collect()
}

/// Removes keys, those of backing files, too.
fn without_keys(options: &mut Object) {
    options.remove("encrypt");
    if let Some(mut backing) = options.remove("backing") {
        if let Value::Object(backing) = &mut backing {
            without_keys(backing);
        }
        options.insert("backing", backing);
    }
}

fn lacks_encrypt_format(options: &Object) -> bool {
    options.iter().any(|(name, value)| match value {
        Value::Object(inner) if name == "encrypt" => !inner.contains("format"),
        Value::Object(inner) => lacks_encrypt_format(inner),
        _ => false,
    })
}

/// Files of nested nodes that are given by name alone get the driver that the name stands for.
fn with_protocols(options: Object) -> Result<Object, Failure> {
    let member = |(name, value): (String, Value)| {
        let value = match value {
            Value::Object(inner) => {
                let is_file = matches!(name.as_str(), "file" | "data-file");
                let inner = with_protocols(inner)?;
                Value::Object(match is_file && inner.contains("filename") {
                    true => with_driver(inner)?,
                    false => inner,
                })
            }
            value => value,
        };
        Ok((name, value))
    };
    options.into_iter().map(member).collect()
}

/// The options of the protocol node that a file name stands for.
fn protocol_of_name(filename: &str) -> Result<Object, Failure> {
    if protocol_of(filename) == Some("json") {
        let text = "json: names are not allowed as file names of options";
        return Err(Failure::new(text));
    }
    let branch = Drivers.parse_filename(filename)?;
    match BlockdevOptions::new(branch).encode() {
        Value::Object(options) => Ok(options),
        _ => Ok(Object::new()),
    }
}

/// A node's options, from texts.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn decoded(options: Object) -> Result<BlockdevOptions, Failure> {
    decode(typed::arguments_of("blockdev-add", options)?)
}

fn decode(options: Object) -> Result<BlockdevOptions, Failure> {
    BlockdevOptions::decode(Value::Object(options), Unknown::Refuse)
        .map_err(|invalid| Failure::new(invalid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, format: Option<&str>, is_options: bool, want: &str) {
        let name = ImageName {
            text: text.to_owned(),
            format: format.map(str::to_owned),
            is_options,
            encrypt: None,
            encrypt_formats: Vec::new(),
        };
        let how = OpenHow {
            access: Access::Read,
            force_share: false,
            backing: Backing::Follow,
            cache: CacheMode::WRITEBACK,
            aio: None,
            detect_zeroes: None,
            discard: true,
            content: Content::Data,
        };
        let shown = |options: BlockdevOptions| {
            let mut value = options.encode();
            if let Value::Object(object) = &mut value {
                for common in ["read-only", "discard", "cache"] {
                    object.remove(common);
                }
            }
            value.to_ascii_json()
        };
        let got = match name.target("image", &how) {
            Ok(Target::Known(options)) => shown(options),
            Ok(Target::Probe { protocol, .. }) => format!("probe {}", shown(protocol)),
            Err(failure) => failure.text().to_owned(),
        };
        assert_eq!(got, want);
    }

    #[test]
    fn names_become_options() {
        check(
            "a.img",
            None,
            false,
            r#"probe {"driver": "file", "node-name": "image-protocol", "filename": "a.img"}"#,
        );
        check(
            "a.img",
            Some("raw"),
            false,
            concat!(
                r#"{"driver": "raw", "node-name": "image", "#,
                r#""file": {"driver": "file", "filename": "a.img"}}"#
            ),
        );
        check(
            "a.img",
            Some("file"),
            false,
            r#"{"driver": "file", "node-name": "image", "filename": "a.img"}"#,
        );
        check(
            r#"json:{"driver": "raw", "size": "4k", "file.filename": "x"}"#,
            None,
            false,
            concat!(
                r#"{"driver": "raw", "node-name": "image", "file": {"driver": "file", "filename": "x"}, "#,
                r#""size": 4096}"#
            ),
        );
        check(
            "driver=qcow2,file.driver=file,file.filename=x",
            None,
            true,
            concat!(
                r#"{"driver": "qcow2", "node-name": "image", "#,
                r#""file": {"driver": "file", "filename": "x"}}"#
            ),
        );
    }

    #[test]
    fn a_key_without_a_format_is_for_luks() {
        check(
            "driver=qcow2,encrypt.key-secret=s,file=x",
            None,
            true,
            concat!(
                r#"{"driver": "qcow2", "node-name": "image", "file": "x", "#,
                r#""encrypt": {"format": "luks", "key-secret": "s"}}"#
            ),
        );
        check(
            "driver=qcow2,encrypt.key-secret=s,encrypt.format=aes,file=x",
            None,
            true,
            concat!(
                r#"{"driver": "qcow2", "node-name": "image", "file": "x", "#,
                r#""encrypt": {"format": "aes", "key-secret": "s"}}"#
            ),
        );
    }

    #[test]
    fn what_no_driver_understands_is_refused() {
        check("a.img", Some("nope"), false, "Unknown driver 'nope'");
        check("gopher:x", None, false, "Unknown protocol 'gopher'");
        check(
            "driver=raw,file.driver=file,file.filename=x,bogus=1",
            None,
            true,
            "Parameter 'bogus' is unexpected",
        );
    }
}
