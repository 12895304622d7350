//! `compare`: whether two images read the same.
//!
//! Exit codes: 0 equal, 1 different, 2 could not open, 3 no status, 4 could not read.

use block_core::driver::StatusKind;
use block_core::{AlignedBuf, IoBuf};

use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::progress::Progress;
use crate::report::{Failure, Outcome, chain_text};
use crate::session::{self, Session, join_all};

/// Compare what two images read as
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the first image; guessed if not given
    #[arg(short, long = "a-format", value_name = "FMT")]
    format: Option<String>,
    /// Format of the second image; guessed if not given
    #[arg(short = 'F', long = "b-format", value_name = "FMT")]
    second_format: Option<String>,
    /// Lengths and allocation must be equal, too
    #[arg(short, long)]
    strict: bool,
    /// Show how far it is
    #[arg(short, long)]
    progress: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    /// Cache mode of both images
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    #[command(flatten)]
    image: ImageArgs,
    /// The images
    #[arg(value_name = "FILENAME1 FILENAME2")]
    filenames: Vec<String>,
}

/// Bytes that are read at once.
const CHUNK: u64 = 2 << 20;

const NOT_OPENED: u8 = 2;
const NO_STATUS: u8 = 3;
const NOT_READ: u8 = 4;

pub(crate) fn run(args: Args) -> Outcome {
    let [first, second] = args.filenames.as_slice() else {
        return Err(Failure::usage("Expecting two image file names"));
    };
    let cache = CacheMode::parse(&args.source_cache, "source cache")
        .map_err(|failure| failure.with_code(NOT_OPENED))?;
    let first = ImageName::new(first, args.format.as_deref(), &args.image)?;
    let second = ImageName::new(second, args.second_format.as_deref(), &args.image)?;
    session::run(args.image.implicit.policy, async |session| {
        let how = OpenHow::read(&args.image).with_cache(cache);
        let images = open_both(session, [&first, &second], how)
            .await
            .map_err(|failure| failure.with_code(NOT_OPENED))?;
        let progress = Progress::start(args.progress && !args.quiet, longer(&images)?);
        let verdict = compare(&images, &args, &progress).await;
        progress.finish();
        let (text, code) = match verdict? {
            Verdict::Identical => ("Images are identical.".to_owned(), 0),
            Verdict::Differs(text) => (text, 1),
        };
        if !args.quiet {
            println!("{text}");
        }
        Ok(code)
    })
}

async fn open_both(
    session: &Session,
    names: [&ImageName; 2],
    how: OpenHow,
) -> Result<[Image; 2], Failure> {
    let first = Image::open(session, names[0], "first", how).await?;
    let second = Image::open(session, names[1], "second", how).await?;
    Ok([first, second])
}

fn longer(images: &[Image; 2]) -> Result<u64, Failure> {
    Ok(images[0].len()?.max(images[1].len()?))
}

enum Verdict {
    Identical,
    /// And how.
    Differs(String),
}

async fn compare(
    images: &[Image; 2],
    args: &Args,
    progress: &Progress,
) -> Result<Verdict, Failure> {
    let lens = [images[0].len()?, images[1].len()?];
    if args.strict && lens[0] != lens[1] {
        return Ok(Verdict::Differs(
            "Strict mode: Image size mismatch!".to_owned(),
        ));
    }
    let (common, all) = (lens[0].min(lens[1]), lens[0].max(lens[1]));
    let mut at = 0;
    let mut warned = false;
    while at < all {
        let end = if at < common { common } else { all };
        if at >= common && !warned && !args.quiet {
            println!("Warning: Image size mismatch!");
            warned = true;
        }
        let runs = [
            run_at(&images[0], at, end.min(lens[0])).await?,
            run_at(&images[1], at, end.min(lens[1])).await?,
        ];
        let len = runs
            .iter()
            .flatten()
            .map(|run| run.len)
            .min()
            .unwrap_or(end - at);
        if args.strict && runs[0].map(|run| run.kind) != runs[1].map(|run| run.kind) {
            let text = format!("Strict mode: Offset {at} block status mismatch!");
            return Ok(Verdict::Differs(text));
        }
        let reads = runs.map(|run| run.is_some_and(|run| run.kind == StatusKind::Data));
        let len = if reads == [false, false] {
            len
        } else {
            len.min(CHUNK)
        };
        if let Some(offset) = first_difference(images, reads, at, len).await? {
            return Ok(Verdict::Differs(format!(
                "Content mismatch at offset {offset}!"
            )));
        }
        at += len;
        progress.add(len);
    }
    Ok(Verdict::Identical)
}

#[derive(Clone, Copy)]
struct Run {
    len: u64,
    kind: StatusKind,
}

/// The first run of a range; `None` behind the image's end.
async fn run_at(image: &Image, at: u64, end: u64) -> Result<Option<Run>, Failure> {
    if at >= end {
        return Ok(None);
    }
    match image.node()?.chain_status(at..end).await {
        Ok(status) => Ok(Some(Run {
            len: status.len,
            kind: status.kind,
        })),
        Err(_) => {
            let text = format!("Sector allocation test failed for {}", image.name());
            Err(Failure::new(text).with_code(NO_STATUS))
        }
    }
}

/// The first byte in which the images differ; one that is not read has zeroes.
async fn first_difference(
    images: &[Image; 2],
    reads: [bool; 2],
    at: u64,
    len: u64,
) -> Result<Option<u64>, Failure> {
    let wanted = images.iter().zip(reads).filter(|(_, reads)| *reads);
    let work = wanted.map(|(image, _)| -> std::pin::Pin<Box<dyn Future<Output = _>>> {
        Box::pin(read(image, at, len))
    });
    let bytes: Result<Vec<AlignedBuf>, Failure> = join_all(work).await.into_iter().collect();
    let differs = match bytes?.as_slice() {
        [] => None,
        [one] => one.iter().position(|&byte| byte != 0),
        [one, other, ..] if **one == **other => None,
        // As others do: the sector tells where, not the byte.
        [one, other, ..] => {
            let mut sectors = one.chunks(512).zip(other.chunks(512));
            sectors.position(|(a, b)| a != b).map(|sector| sector * 512)
        }
    };
    Ok(differs.map(|byte| at + byte as u64))
}

async fn read(image: &Image, at: u64, len: u64) -> Result<AlignedBuf, Failure> {
    let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
    match image.read(at, buf).await {
        Ok(buf) => Ok(buf
            .try_into_aligned()
            .unwrap_or_else(|shared| AlignedBuf::copy_of(&shared.to_vec()))),
        Err(error) => Err(Failure::new(format!(
            "Error while reading offset {at} of {}: {}",
            image.name(),
            chain_text(&error)
        ))
        .with_code(NOT_READ)),
    }
}
