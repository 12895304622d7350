//! `commit`: writes what an image holds into an image behind it.

use std::time::{Duration, Instant};

use block_core::IoBuf;
use block_core::driver::{Preallocation, ZeroFlags};
use block_core::error::Error;

use crate::chain::{Above, Overlays};
use crate::human::as_float;
use crate::image::{Durable, Image};
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::number;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, outln};
use crate::session::{self, Session};

/// Write an image's content into its backing file
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Cache mode
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// The image of the backing chain to write to, instead of the first; implies -d
    #[arg(short, value_name = "BASE")]
    base: Option<String>,
    /// Leave the image as it is, not emptied
    #[arg(short)]
    drop: bool,
    /// Show how far it is
    #[arg(short, long)]
    progress: bool,
    /// Most bytes a second
    #[arg(short, value_name = "RATE")]
    rate_limit: Option<String>,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

/// Bytes of a piece that is read and written.
const PIECE: u64 = 2 << 20;
/// Bytes of zeroes written by one request.
const ZERO_PIECE: u64 = 256 << 20;

pub(crate) fn run(args: Args) -> Outcome {
    let rate = args
        .rate_limit
        .as_deref()
        .map(|rate| number::size(rate, "rate limit"));
    let rate = rate.transpose()?.filter(|&rate| rate > 0);
    let filename = one_name(&args.filename)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let cache = CacheMode::parse(&args.cache, "cache")?;
    session::run(&args.image.session, async |session| {
        commit(session, &name, &args, cache, rate).await?;
        if !args.quiet {
            outln!("Image committed.");
        }
        Ok(0)
    })
}

async fn commit(
    session: &Session,
    name: &ImageName,
    args: &Args,
    cache: CacheMode,
    rate: Option<u64>,
) -> Result<(), Failure> {
    let stays = args.drop || args.base.is_some();
    let how = OpenHow {
        access: if stays { Access::Read } else { Access::Write },
        ..OpenHow::read(&args.image).with_cache(cache)
    };
    let base = args.base.as_deref();
    let overlays = Overlays::open(session, name, base, how, &args.image).await?;
    let how = OpenHow {
        access: Access::Write,
        ..how
    };
    let base = Image::open(session, &overlays.base, "base", how).await?;
    copy(session, &overlays, &base, args, rate).await?;
    base.flush().await?;
    base.close().await?;
    let Some(top) = overlays.images.first().filter(|_| !stays) else {
        return Ok(());
    };
    match session.layer().make_empty(session.queue(), top.id()).await {
        // A format that cannot forget keeps what the base has as well.
        Ok(()) | Err(Error::Unsupported { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn copy(
    session: &Session,
    overlays: &Overlays,
    base: &Image,
    args: &Args,
    rate: Option<u64>,
) -> Result<(), Failure> {
    let end = overlays.images.first().map_or(Ok(0), Image::len)?;
    let progress = Progress::start(args.progress && !args.quiet, end);
    let (layer, queue) = (session.layer(), session.queue());
    if base.len()? < end {
        layer
            .resize(queue, base.id(), end, Preallocation::Off)
            .await?;
    }
    let (started, mut copied) = (Instant::now(), 0);
    let mut at = 0;
    while at < end {
        let (run, above) = overlays.status(at, end).await?;
        let len = match above {
            Above::Base => run,
            Above::Zero => {
                let len = run.min(ZERO_PIECE);
                let flags = ZeroFlags {
                    may_unmap: true,
                    no_fallback: false,
                };
                base.write_zeroes(at, len, flags, Durable::Later).await?;
                len
            }
            Above::Data(place) => {
                let len = run.min(PIECE);
                let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
                if let Some(overlay) = overlays.images.get(place) {
                    overlay.read(at, buf.clone()).await?;
                }
                base.write(at, buf, Durable::Later).await?;
                copied += len;
                len
            }
        };
        at += len;
        progress.add(len);
        if let Some(rate) = rate {
            keep_to(rate, copied, started);
        }
    }
    progress.finish();
    Ok(())
}

/// Waits until so many bytes are no more than a rate allows. Nothing else runs on this thread.
fn keep_to(rate: u64, copied: u64, started: Instant) {
    let due = Duration::from_secs_f64(as_float(copied) / as_float(rate));
    std::thread::sleep(due.saturating_sub(started.elapsed()));
}
