//! `convert`: copies images into a new one, or into one that is there.
//!
//! Not here: copying itself (`copy.rs`), making the target (`create.rs`).

mod bitmaps;
mod copy;

use block_core::driver::{Preallocation, SnapshotChange, SnapshotKey};
use block_core::error::Error;

use crate::create::{NewImage, creatable_format, set_backing};
use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::create::CreateOptions;
use crate::opts::create_help as help;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::keyval;
use crate::opts::number;
use crate::opts::size::parse_size;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, chain_text};
use crate::session::{self, Session};
use crate::snapshot::by_id_or_name;

use bitmaps::Inconsistent;
use block_schema::Object;
use block_schema::types::BlockdevDriver;
use copy::{Copy, How, Source, Unreadable, Unwritten, Zeroes};

/// Copy images to another one, in another format if wanted
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the sources; guessed if not given
    #[arg(short, long = "source-format", value_name = "FMT")]
    format: Option<String>,
    /// Format of the target
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the new image: key=value,…
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Backing file of the new image; what the sources do not store themselves is not copied
    #[arg(short = 'B', long, value_name = "FILENAME")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// The target exists; do not make it
    #[arg(short, long)]
    no_create: bool,
    /// The existing target reads as zeroes
    #[arg(long)]
    target_is_zero: bool,
    /// The target's name is a list of options
    #[arg(long)]
    target_image_opts: bool,
    /// Compress what is written
    #[arg(short, long)]
    compress: bool,
    /// Zeroes to become holes, at least this many bytes in a row; 0 allocates everything
    #[arg(short = 'S', long, value_name = "SIZE")]
    sparse_size: Option<String>,
    /// Pieces under way at once
    #[arg(
        short = 'm',
        long = "parallel",
        value_name = "COUNT",
        default_value = "8"
    )]
    workers: String,
    /// Let pieces be written in any order
    #[arg(short = 'W', long)]
    oob: bool,
    /// Most bytes a second
    #[arg(short, long, value_name = "RATE")]
    rate_limit: Option<String>,
    /// Copy what is stored as it is, without a look for zeroes in it
    #[arg(short = 'C', long)]
    copy_offload: bool,
    /// Go on where a source cannot be read, with zeroes
    #[arg(long)]
    salvage: bool,
    /// Cache mode of the target
    #[arg(short = 't', value_name = "CACHE", default_value = "unsafe")]
    target_cache: String,
    /// Cache mode of the sources
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// Copy what the source was in a snapshot: snapshot.id=ID,snapshot.name=NAME, or one of the two
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Copy the bitmaps that the source's image stores, too
    #[arg(long)]
    bitmaps: bool,
    /// Leave bitmaps out whose content is lost
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// Show how far it is
    #[arg(short, long)]
    progress: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The sources, one after the other, and the target
    #[arg(value_name = "FILENAME… TARGET")]
    filenames: Vec<String>,
}

const MAX_SPARSE: u64 = 16 << 20;

const NO_COMPRESSION: &str = "Compression not supported for this file format";

pub(crate) fn run(args: Args) -> Outcome {
    if help::is_asked_for(&args.options) {
        return help::print(
            creatable_format(&args.target_format)?,
            !args.filenames.is_empty(),
        );
    }
    let Some((target, sources)) = args.filenames.split_last().filter(|(_, s)| !s.is_empty()) else {
        return Err(Failure::new("Must specify image file name"));
    };
    check_combinations(&args)?;
    let workers = number::bounded(&args.workers, "number of coroutines", 1..=16)?;
    let rate = args.rate_limit.as_deref();
    let rate = rate.map(|rate| number::size(rate, "rate limit"));
    let how = How {
        sparse: parse_sparse(args.sparse_size.as_deref().unwrap_or("4k"))?,
        zeroes: match args.copy_offload {
            true => Zeroes::OfStatus,
            false => Zeroes::OfBytes,
        },
        workers: usize::try_from(workers).unwrap_or(1),
        in_order: !args.oob,
        piece: copy::PIECE,
        compression_unit: None,
        rate: rate.transpose()?.filter(|&rate| rate > 0),
        unreadable: match (args.salvage, args.quiet) {
            (false, _) => Unreadable::Fails,
            (true, false) => Unreadable::IsToldOf,
            (true, true) => Unreadable::IsZeroes,
        },
    };
    session::run(&args.image.session, async |session| {
        let sources = open_sources(session, sources, &args).await?;
        let total = sources.last().map_or(0, |source| source.end);
        let with_bitmaps = sources.first().filter(|_| args.bitmaps);
        if let Some(source) = with_bitmaps {
            bitmaps::check_source(&source.image, inconsistent(&args))?;
        }
        let (target, zeroed) = open_target(session, target, total, &args).await?;
        if with_bitmaps.is_some() {
            bitmaps::check_target(&target)?;
        }
        let progress = Progress::start(args.progress && !args.quiet, total);
        let how = How {
            piece: copy::piece_between(&sources, &target)?,
            compression_unit: compression_unit(&target, &args)?,
            ..how
        };
        let copy = Copy::new(session.queue(), &sources, &target, zeroed, how, &progress);
        copy.run().await?;
        progress.finish();
        if let Some(source) = with_bitmaps {
            bitmaps::copy(session, &source.image, &target).await?;
        }
        target.close().await?;
        Ok(0)
    })
}

fn check_combinations(args: &Args) -> Result<(), Failure> {
    let refused = [
        (
            args.skip_broken_bitmaps && !args.bitmaps,
            "Use of --skip-broken-bitmaps requires --bitmaps",
        ),
        (
            args.compress && args.copy_offload,
            "Cannot enable copy offloading when -c is used",
        ),
        (
            args.sparse_size.is_some() && args.copy_offload,
            "Cannot enable copy offloading when -S is used",
        ),
        (
            args.copy_offload && args.salvage,
            "Cannot use copy offloading in salvaging mode",
        ),
        (
            args.filenames.len() > 2 && args.bitmaps,
            "Copying bitmaps only possible with single source",
        ),
        (
            args.target_image_opts && !args.no_create,
            "--target-image-opts requires use of -n flag",
        ),
        (
            args.no_create && !args.options.is_empty(),
            "-o has no effect when skipping image creation",
        ),
        (
            args.target_is_zero && !args.no_create,
            "--target-is-zero requires use of -n flag",
        ),
        (
            args.target_is_zero && args.backing.is_some(),
            "Cannot use --target-is-zero when the destination image has a backing file",
        ),
        (
            args.filenames.len() > 2 && args.snapshot.is_some(),
            "No support for concatenating multiple snapshot",
        ),
        (
            args.filenames.len() > 2 && args.backing.is_some(),
            "Having a backing file for the target makes no sense when concatenating multiple \
             input images",
        ),
    ];
    match refused.iter().find(|(found, _)| *found) {
        Some((_, text)) => Err(Failure::new(*text)),
        None => Ok(()),
    }
}

fn inconsistent(args: &Args) -> Inconsistent {
    match args.skip_broken_bitmaps {
        true => Inconsistent::Skipped,
        false => Inconsistent::Refused,
    }
}

fn parse_sparse(text: &str) -> Result<Option<u64>, Failure> {
    match parse_size(text) {
        Ok(0) => Ok(None),
        Ok(bytes) if bytes <= MAX_SPARSE && bytes.is_multiple_of(512) => Ok(Some(bytes)),
        _ => Err(Failure::new(format!(
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 \
             up to {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."
        ))),
    }
}

async fn open_sources(
    session: &Session,
    names: &[String],
    args: &Args,
) -> Result<Vec<Source>, Failure> {
    let cache = CacheMode::parse(&args.source_cache, "source cache")?;
    let how = OpenHow::read(&args.image).with_cache(cache);
    let mut sources = Vec::new();
    let mut start = 0_u64;
    for (index, text) in names.iter().enumerate() {
        let name = ImageName::new(text, args.format.as_deref(), &args.image)?;
        let image = Image::open(session, &name, &format!("source{index}"), how).await?;
        if let Some(snapshot) = &args.snapshot {
            show_snapshot(session, &image, snapshot).await?;
        }
        let end = start
            .checked_add(image.len()?)
            .ok_or_else(|| Failure::new("The sources are too long together"))?;
        sources.push(Source { image, start, end });
        start = end;
    }
    Ok(sources)
}

/// Lets a source be what it was in a snapshot, by ID, name, or `snapshot.id=…,snapshot.name=…`.
///
/// # Errors
/// `Failed to load snapshot: …`.
pub(crate) async fn show_snapshot(
    session: &Session,
    image: &Image,
    text: &str,
) -> Result<(), Failure> {
    let failed = |why: &str| Failure::new(format!("Failed to load snapshot: {why}"));
    let key = match text.starts_with("snapshot.") {
        true => snapshot_key(text)?,
        false => by_id_or_name(image, text)?.unwrap_or_else(|| SnapshotKey {
            id: None,
            name: Some(text.to_owned()),
        }),
    };
    let show = SnapshotChange::Show(key);
    match session
        .layer()
        .snapshot(session.queue(), image.id(), show)
        .await
    {
        Ok(_) => Ok(()),
        Err(Error::Unsupported { .. }) => Err(failed(
            "the format does not support temporarily loading internal snapshots",
        )),
        Err(Error::InvalidOption { .. }) => Err(failed("Can't find snapshot")),
        Err(error) => Err(failed(&chain_text(&error))),
    }
}

fn snapshot_key(text: &str) -> Result<SnapshotKey, Failure> {
    let mut key = SnapshotKey::default();
    for part in keyval::split(text) {
        match part.split_once('=') {
            Some(("snapshot.id", id)) => key.id = Some(id.to_owned()),
            Some(("snapshot.name", name)) => key.name = Some(name.to_owned()),
            Some(_) | None => {
                let text = format!("Failed in parsing snapshot param '{text}'");
                return Err(Failure::new(text));
            }
        }
    }
    Ok(key)
}

async fn open_target(
    session: &Session,
    filename: &str,
    total: u64,
    args: &Args,
) -> Result<(Image, Unwritten), Failure> {
    let cache = CacheMode::parse(&args.target_cache, "cache")?;
    let how = OpenHow::write(&args.image).with_cache(cache);
    let how = OpenHow {
        force_share: false,
        ..how
    };
    let mut unwritten = match (args.no_create, args.target_is_zero) {
        (true, false) => Unwritten::Unknown,
        (true, true) | (false, _) => Unwritten::Zeroes,
    };
    let encrypt = match args.no_create {
        true => None,
        false => create_target(session, filename, total, args).await?,
    };
    let name = ImageName {
        text: filename.to_owned(),
        format: (!args.target_image_opts).then(|| args.target_format.clone()),
        is_options: args.target_image_opts,
        encrypt,
        encrypt_formats: Vec::new(),
    };
    let target = Image::open(session, &name, "target", how).await?;
    if target.len()? < total {
        return Err(Failure::new("output file is smaller than input file"));
    }
    if let Some(backing) = target.node()?.backing().filter(|_| !args.no_create) {
        unwritten = Unwritten::Backing(backing.len());
    }
    Ok((target, unwritten))
}

/// The unit of compressed writes, if they are asked for.
fn compression_unit(target: &Image, args: &Args) -> Result<Option<u64>, Failure> {
    if !args.compress {
        return Ok(None);
    }
    match target.compression_unit()? {
        Some(unit) => Ok(Some(unit)),
        None => Err(Failure::new(NO_COMPRESSION)),
    }
}

/// What compression excludes in a new image.
fn check_compression(format: BlockdevDriver, options: &CreateOptions) -> Result<(), Failure> {
    let preallocated = options
        .preallocation
        .is_some_and(|mode| mode != Preallocation::Off);
    let text = match () {
        () if format != BlockdevDriver::Qcow2 => NO_COMPRESSION,
        () if options.encrypt.asks_for_encryption() => {
            "Compression and encryption not supported at the same time"
        }
        () if preallocated => "Compression and preallocation not supported at the same time",
        () => return Ok(()),
    };
    Err(Failure::new(text))
}

/// Makes the target; gives back how to open it when it is encrypted.
async fn create_target(
    session: &Session,
    filename: &str,
    total: u64,
    args: &Args,
) -> Result<Option<Object>, Failure> {
    let format = creatable_format(&args.target_format)?;
    let mut options = CreateOptions::parse(&args.options, format)?;
    if options.size.is_some_and(|size| size != total) {
        let text = format!("The size of the target is that of its sources, {total} bytes");
        return Err(Failure::new(text));
    }
    options.size = Some(total);
    let backing = args.backing.as_deref();
    set_backing(
        &mut options,
        format,
        backing,
        args.backing_format.as_deref(),
    )?;
    if options.backing_file.is_some() && options.backing_fmt.is_none() {
        return Err(Failure::new(
            "Use of backing file requires explicit backing format",
        ));
    }
    if args.compress {
        check_compression(format, &options)?;
    }
    let encrypt = options.encrypt.to_open();
    let new = NewImage {
        filename: filename.to_owned(),
        format,
        options,
    };
    new.create(session).await.map_err(|failure| {
        failure.while_doing(&format!("{filename}: error while converting {format}"))
    })?;
    Ok(encrypt)
}
