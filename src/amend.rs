//! `amend`: changes the format of an image that is there.

use std::time::Duration;

use block_core::driver::{AmendOptions, KeySlotChange, Preallocation};
use block_core::secret::Secrets;
use block_schema::types::BlockdevDriver;

use crate::create::told;
use crate::image::{Image, guess_format};
use crate::opts::cache::CacheMode;
use crate::opts::create::switch_of;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::{keyval, number};
use crate::progress::Progress;
use crate::report::{Failure, Outcome, outln};
use crate::session::{self, Session};

/// Change the format of an image
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// What to change: key=value,…; `help` lists the keys
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Cache mode
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Also do what may lose data
    #[arg(long)]
    force: bool,
    /// Show how far it is
    #[arg(short, long)]
    progress: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

/// Options that can be changed, as `-o help` prints them.
const KEYS: [(&str, &str); 13] = [
    ("backing_file=<str>", "File name of a base image"),
    ("backing_fmt=<str>", "Image format of the base image"),
    (
        "compat=<str>",
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    ("data_file=<str>", "File name of an external data file"),
    (
        "data_file_raw=<bool (on/off)>",
        "The external data file must stay valid as a raw image",
    ),
    (
        "encrypt.iter-time=<num>",
        "Time to spend in PBKDF in milliseconds",
    ),
    (
        "encrypt.keyslot=<num>",
        "Select a single keyslot to modify explicitly",
    ),
    (
        "encrypt.new-secret=<str>",
        "New secret to set in the matching keyslots. Empty string to erase",
    ),
    (
        "encrypt.old-secret=<str>",
        "Select all keyslots that match this password",
    ),
    (
        "encrypt.state=<str>",
        "Select new state of affected keyslots (active/inactive)",
    ),
    (
        "lazy_refcounts=<bool (on/off)>",
        "Postpone refcount updates",
    ),
    (
        "refcount_bits=<num>",
        "Width of a reference count entry in bits",
    ),
    ("size=<size>", "Virtual disk size"),
];

/// Options that only a new image takes.
const CREATE_ONLY: [&str; 7] = [
    "cluster_size",
    "preallocation",
    "encryption",
    "encrypt.format",
    "extended_l2",
    "compression_type",
    "nocow",
];

/// What is to be changed.
#[derive(Default)]
struct Wanted {
    format: AmendOptions,
    size: Option<u64>,
    backing_file: Option<String>,
    backing_fmt: Option<String>,
    keys: KeyOptions,
}

/// How long trying a new passphrase takes, unless it is said.
const ITER_TIME: u64 = 2000;

/// Options about key slots, as given.
#[derive(Default, PartialEq)]
struct KeyOptions {
    state: Option<String>,
    slot: Option<i64>,
    new_secret: Option<String>,
    old_secret: Option<String>,
    iter_time: Option<u64>,
}

impl KeyOptions {
    fn set(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let number = || Failure::new(format!("Parameter '{key}' expects a number"));
        match key {
            "encrypt.state" => self.state = Some(value.to_owned()),
            "encrypt.keyslot" => self.slot = Some(value.parse().map_err(|_| number())?),
            "encrypt.new-secret" => self.new_secret = Some(value.to_owned()),
            "encrypt.old-secret" => self.old_secret = Some(value.to_owned()),
            "encrypt.iter-time" => self.iter_time = Some(value.parse().map_err(|_| number())?),
            key => return Err(Failure::new(format!("Invalid parameter '{key}'"))),
        }
        Ok(())
    }

    /// What they ask for.
    fn change(&self, secrets: &Secrets, force: bool) -> Result<KeySlotChange, Failure> {
        let refused = |text: &str| Err(Failure::new(text));
        // Numbers below zero are shown as they have always been.
        let slot = self.slot.map(|slot| match u64::try_from(slot) {
            Ok(slot) => slot,
            Err(_) => u64::from(u32::MAX),
        });
        let find = |id: &str| secrets.find(id).map_err(Failure::from);
        match self.state.as_deref() {
            None => refused("Parameter 'state' is missing"),
            Some("active") => {
                let Some(new) = &self.new_secret else {
                    return refused("'new-secret' is required to activate a keyslot");
                };
                if self.old_secret.is_some() {
                    return refused("'old-secret' must not be given when activating keyslots");
                }
                Ok(KeySlotChange::Add {
                    slot,
                    passphrase: find(new)?,
                    iter_time: Duration::from_millis(self.iter_time.unwrap_or(ITER_TIME)),
                    force,
                })
            }
            Some("inactive") => {
                if self.new_secret.is_some() {
                    return refused("'new-secret' must not be given when erasing keyslots");
                }
                if self.iter_time.is_some() {
                    return refused("'iter-time' must not be given when erasing keyslots");
                }
                Ok(KeySlotChange::Erase {
                    slot,
                    passphrase: self.old_secret.as_deref().map(find).transpose()?,
                    force,
                })
            }
            Some(other) => Err(Failure::new(format!(
                "Parameter 'state' does not accept value '{other}'"
            ))),
        }
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    if args.options.is_empty() {
        return Err(Failure::usage("Must specify options (-o)"));
    }
    let parts: Vec<String> = args.options.iter().flat_map(|o| keyval::split(o)).collect();
    let asks_help = parts.iter().any(|part| part == "help" || part == "?");
    if asks_help && args.format.is_some() {
        return help(args.format.as_deref().unwrap_or_default());
    }
    let [filename] = args.filename.as_slice() else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let cache = CacheMode::parse(&args.cache, "cache")?;
    session::run(&args.image.session, async |session| {
        let how = OpenHow::write(&args.image).with_cache(cache);
        if asks_help {
            let format = guess_format(session, &name, OpenHow::read(&args.image)).await?;
            return help(format.as_str());
        }
        let image = Image::open(session, &name, "image", how).await?;
        let format = image.node()?.node().driver().format_name();
        if format != "qcow2" {
            let text = format!("Format driver '{format}' does not support option amendment");
            return Err(Failure::new(text));
        }
        let progress = Progress::start(args.progress && !args.quiet, 100);
        let wanted = parse(&parts)?;
        amend(session, &image, wanted, args.force).await?;
        progress.finish();
        Ok(0)
    })
}

fn help(format: &str) -> Outcome {
    if format.parse::<BlockdevDriver>().is_err() {
        return Err(Failure::new(format!("Unknown file format '{format}'")));
    }
    if format != "qcow2" {
        let text = format!("Format driver '{format}' does not support option amendment");
        return Err(Failure::new(text));
    }
    outln!("Amend options for '{format}':");
    for (key, what) in KEYS {
        outln!("  {key:<22} - {what}");
    }
    Ok(0)
}

fn parse(parts: &[String]) -> Result<Wanted, Failure> {
    let mut wanted = Wanted::default();
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, "on"));
        let value_of = || value.to_owned();
        match key {
            "compat" => wanted.format.compat = Some(value_of()),
            "refcount_bits" => {
                let bits = value
                    .parse()
                    .map_err(|_| Failure::new(format!("Parameter '{key}' expects a number")));
                wanted.format.refcount_bits = Some(bits?);
            }
            "lazy_refcounts" => {
                wanted.format.lazy_refcounts = Some(switch_of(key, value)?);
            }
            "size" => wanted.size = Some(number::size(value, "image size")?),
            "backing_file" => wanted.backing_file = Some(value_of()),
            "backing_fmt" => wanted.backing_fmt = Some(value_of()),
            "data_file" => wanted.format.data_file = Some(value_of()),
            "data_file_raw" => wanted.format.data_file_raw = Some(switch_of(key, value)?),
            key if key.starts_with("encrypt.") && !CREATE_ONLY.contains(&key) => {
                wanted.keys.set(key, value)?;
            }
            key if CREATE_ONLY.contains(&key) => {
                return Err(Failure::new(format!(
                    "Invalid parameter '{key}'\nThis option is only supported for image creation"
                )));
            }
            key => return Err(Failure::new(format!("Invalid parameter '{key}'"))),
        }
    }
    Ok(wanted)
}

async fn amend(
    session: &Session,
    image: &Image,
    wanted: Wanted,
    force: bool,
) -> Result<(), Failure> {
    let backing = image
        .node()?
        .node()
        .driver()
        .describe()
        .backing
        .unwrap_or_default();
    let differs = |new: Option<String>, now: &str| new.is_some_and(|new| new != now);
    if differs(wanted.backing_file, &backing.filename)
        || differs(
            wanted.backing_fmt,
            backing.format.as_deref().unwrap_or_default(),
        )
    {
        return Err(Failure::new(
            "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
        ));
    }
    let (layer, queue) = (session.layer(), session.queue());
    if wanted.keys != KeyOptions::default() {
        if !image.node()?.node().driver().describe().encrypted {
            let text = "Can't amend encryption options - encryption not present";
            return Err(Failure::new(text));
        }
        let change = wanted.keys.change(layer.secrets(), force)?;
        let changed = layer.change_key_slots(queue, image.id(), change).await;
        changed.map_err(told)?;
    }
    if let Some(size) = wanted.size {
        let resized = layer
            .resize(queue, image.id(), size, Preallocation::Off)
            .await;
        resized.map_err(told)?;
    }
    if wanted.format != AmendOptions::default() {
        let amended = layer.amend(queue, image.id(), wanted.format).await;
        amended.map_err(told)?;
    }
    Ok(())
}
