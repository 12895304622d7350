//! `rebase`: gives an image another backing file, and keeps what it reads as.

use block_core::driver::{BackingName, Child, StatusKind};
use block_core::error::Error;
use block_core::graph::info::name_from;
use block_core::{AlignedBuf, IoBuf};
use block_schema::types::BlockdevDriver;

use crate::image::{Durable, Image, errno_text};
use crate::opts::cache::CacheMode;
use crate::opts::image::{Backing, ImageArgs, ImageName, OpenHow, one_name};
use crate::progress::Progress;
use crate::report::{Failure, Outcome, chain_text};
use crate::session::{self, Session};

/// Give an image another backing file
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Cache mode of the image
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Cache mode of the backing files
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// The new backing file; an empty name for none
    #[arg(short, value_name = "BACKING_FILE")]
    backing: Option<String>,
    /// Format of the new backing file
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<String>,
    /// Change the name alone, and open neither backing file
    #[arg(short = 'u')]
    r#unsafe: bool,
    /// Compress what is written
    #[arg(short, long)]
    compress: bool,
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

/// Bytes that are compared at once.
const PIECE: u64 = 2 << 20;

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    if !args.r#unsafe && args.backing.is_none() {
        let text = "Must specify backing file (-b) or use unsafe mode (-u)";
        return Err(Failure::usage(text));
    }
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let cache = CacheMode::parse(&args.cache, "cache")?;
    let source_cache = CacheMode::parse(&args.source_cache, "source cache")?;
    session::run(&args.image.session, async |session| {
        let follow = match args.r#unsafe {
            true => Backing::Ignore,
            false => Backing::Follow,
        };
        let how = OpenHow {
            backing: follow,
            force_share: false,
            ..OpenHow::write(&args.image).with_cache(cache)
        };
        let image = Image::open(session, &name, "image", how).await?;
        let compression_unit = image.compression_unit()?.filter(|_| args.compress);
        if args.compress && compression_unit.is_none() {
            let text = "Compression not supported for this file format";
            return Err(Failure::new(text));
        }
        if let Some(format) = &args.backing_format
            && format.parse::<BlockdevDriver>().is_err()
        {
            return Err(Failure::new(format!("Invalid format name: '{format}'")));
        }
        let progress = Progress::start(args.progress && !args.quiet, image.len()?);
        if !args.r#unsafe {
            let how = OpenHow::read(&args.image).with_cache(source_cache);
            let new = open_new_backing(session, &image, &args, how).await?;
            let target = Target {
                image: &image,
                compression_unit,
            };
            keep_content(target, new.as_ref(), &progress).await?;
            image.flush().await?;
        }
        change_name(session, &image, &args).await?;
        progress.finish();
        Ok(0)
    })
}

async fn open_new_backing(
    session: &Session,
    image: &Image,
    args: &Args,
    how: OpenHow,
) -> Result<Option<Image>, Failure> {
    let Some(backing) = args.backing.as_ref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let filename = image.node()?.node().facts().filename.clone();
    let plain = ImageArgs {
        image_opts: false,
        ..args.image.clone()
    };
    let full = name_from(&filename, backing);
    let name = ImageName::new(&full, args.backing_format.as_deref(), &plain)?;
    let opened = Image::open_unprefixed(session, &name, "new-backing", how).await;
    opened.map(Some).map_err(|failure| {
        failure.while_doing(&format!("Could not open new backing file '{backing}'"))
    })
}

/// The image, and how it is written.
#[derive(Clone, Copy)]
struct Target<'a> {
    image: &'a Image,
    /// Whether whole units are compressed, and their bytes.
    compression_unit: Option<u64>,
}

impl Target<'_> {
    async fn write(self, at: u64, buf: IoBuf) -> Result<(), Error> {
        let end = at + buf.len() as u64;
        let size = self.image.len()?;
        let is_whole =
            |unit: u64| at.is_multiple_of(unit) && (end.is_multiple_of(unit) || end == size);
        match self.compression_unit {
            Some(unit) if is_whole(unit) => {
                let written = self.image.write_compressed(at, buf, Durable::Later);
                written.await
            }
            Some(_) | None => self.image.write(at, buf, Durable::Later).await,
        }
    }
}

/// Copies into the image what it shows of the old backing file and would not of the new one.
async fn keep_content(
    target: Target<'_>,
    new: Option<&Image>,
    progress: &Progress,
) -> Result<(), Failure> {
    let node = target.image.node()?;
    let new = new.map(Image::node).transpose()?;
    let end = node.len();
    let unit = u64::from(node.limits().optimal_transfer).max(512);
    let unit = target.compression_unit.unwrap_or(unit);
    let mut at = 0;
    while at < end {
        let piece = (at + PIECE.max(unit)).next_multiple_of(unit).min(end);
        let run = node.status(at..piece).await.map_err(|error| {
            let text = errno_text(&error);
            Failure::new(format!("error while reading image metadata: {text}"))
        })?;
        if run.kind == StatusKind::Unallocated
            && (is_stored(&node, at, at + run.len).await?
                || is_stored_in(new.as_ref(), at, at + run.len).await?)
        {
            keep_run(target, new.as_ref(), at, run.len, unit).await?;
        }
        at += run.len;
        progress.add(run.len);
    }
    Ok(())
}

/// Whether any image of a chain may have other bytes than zeroes.
async fn is_stored(node: &Child, start: u64, end: u64) -> Result<bool, Failure> {
    let mut at = start;
    while at < end {
        let run = node.chain_status(at..end).await?;
        if run.kind == StatusKind::Data {
            return Ok(true);
        }
        at += run.len;
    }
    Ok(false)
}

async fn is_stored_in(new: Option<&Child>, start: u64, end: u64) -> Result<bool, Failure> {
    match new {
        Some(new) if start < new.len() => is_stored(new, start, end.min(new.len())).await,
        Some(_) | None => Ok(false),
    }
}

/// As [`keep_content`], for a run that the image does not hold; writes whole units.
async fn keep_run(
    target: Target<'_>,
    new: Option<&Child>,
    at: u64,
    len: u64,
    unit: u64,
) -> Result<(), Failure> {
    let count = usize::try_from(len).unwrap_or(0);
    let old = read(&target.image.node()?, at, count).await;
    let old = old.map_err(|_| Failure::new("error while reading from old backing file"))?;
    let now = match new {
        Some(new) => read(new, at, count)
            .await
            .map_err(|_| Failure::new("error while reading from new backing file"))?,
        None => AlignedBuf::zeroed(count),
    };
    let unit = usize::try_from(unit).unwrap_or(usize::MAX);
    let mut start = 0;
    let units: Vec<bool> = old
        .chunks(unit)
        .zip(now.chunks(unit))
        .map(|(a, b)| a != b)
        .collect();
    for same in units.chunk_by(|a, b| a == b) {
        let end = (start + same.len() * unit).min(count);
        if same.first() == Some(&true) {
            let differing = IoBuf::copy_of(&old[start..end]);
            let written = target.write(at + start as u64, differing).await;
            written.map_err(|error| {
                let text = errno_text(&error);
                Failure::new(format!("Error while writing to COW image: {text}"))
            })?;
        }
        start = end;
    }
    Ok(())
}

/// Bytes of an image, and zeroes behind its end.
async fn read(node: &Child, at: u64, len: usize) -> Result<AlignedBuf, Error> {
    let there = node.len().saturating_sub(at).min(len as u64);
    let buf = IoBuf::zeroed(len);
    let there = usize::try_from(there).unwrap_or(len);
    if there > 0 {
        node.read(at, buf.slice(0..there)).await?;
    }
    Ok(buf
        .try_into_aligned()
        .unwrap_or_else(|buf| AlignedBuf::copy_of(&buf.to_vec())))
}

async fn change_name(session: &Session, image: &Image, args: &Args) -> Result<(), Failure> {
    let name = args.backing.clone().filter(|name| !name.is_empty());
    let shown = name.clone().unwrap_or_else(|| "(null)".to_owned());
    let failed = |why: &str| {
        Failure::new(format!(
            "Could not change the backing file to '{shown}': {why}"
        ))
    };
    if name.is_some() && args.backing_format.is_none() {
        return Err(failed("backing format must be specified"));
    }
    let backing = name.map(|filename| BackingName {
        filename,
        format: args.backing_format.clone(),
    });
    let (layer, queue) = (session.layer(), session.queue());
    match layer.name_backing(queue, image.id(), backing).await {
        Ok(()) => Ok(()),
        Err(error) if error.errno() == rustix::io::Errno::NOSPC => {
            Err(failed("No space left in the file header"))
        }
        Err(error @ Error::Corrupt { .. }) => Err(failed(&chain_text(&error))),
        Err(error) => Err(failed(&errno_text(&error))),
    }
}
