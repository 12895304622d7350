//! `amend`: changes the format of an image that is there.

use block_core::driver::{AmendOptions, Preallocation};
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
const KEYS: [(&str, &str); 8] = [
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
        amend(session, &image, wanted).await?;
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
                return Err(Failure::new(format!("option '{key}' is not built in")));
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

async fn amend(session: &Session, image: &Image, wanted: Wanted) -> Result<(), Failure> {
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
