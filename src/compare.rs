//! `compare`: whether two images read the same.
//!
//! Several chunks are under way at once; of what they find, the first in the order of the disk
//! counts. Exit codes: 0 equal, 1 different, 2 could not open, 3 no status, 4 could not read.

use std::cell::{Cell, RefCell};
use std::pin::Pin;

use block_core::driver::StatusKind;
use block_core::sync::AsyncMutex;
use block_core::{AlignedBuf, IoBuf};

use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::progress::Progress;
use crate::report::{Failure, Outcome, chain_text, outln};
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

/// Chunks under way at once.
const WORKERS: usize = 4;

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
    session::run(&args.image.session, async |session| {
        let how = OpenHow::read(&args.image).with_cache(cache);
        let images = open_both(session, [&first, &second], how)
            .await
            .map_err(|failure| failure.with_code(NOT_OPENED))?;
        let lens = [images[0].len()?, images[1].len()?];
        let progress = Progress::start(args.progress && !args.quiet, lens[0].max(lens[1]));
        let found = match args.strict && lens[0] != lens[1] {
            true => Some((
                0,
                End::Differs("Strict mode: Image size mismatch!".to_owned()),
            )),
            false => {
                Comparison::new(&images, lens, args.strict, &progress)
                    .run()
                    .await
            }
        };
        progress.finish();
        conclude(found, lens, &args)
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

fn conclude(found: Option<(u64, End)>, lens: [u64; 2], args: &Args) -> Outcome {
    let say = |text: &str| {
        if !args.quiet {
            outln!("{text}");
        }
    };
    let common = lens[0].min(lens[1]);
    let reached_end = found.as_ref().is_none_or(|(at, _)| *at >= common);
    if lens[0] != lens[1] && reached_end && !args.strict {
        say("Warning: Image size mismatch!");
    }
    match found {
        None => {
            say("Images are identical.");
            Ok(0)
        }
        Some((_, End::Differs(text))) => {
            say(&text);
            Ok(1)
        }
        Some((_, End::Failed(failure))) => Err(failure),
    }
}

/// Why a comparison ends before the images do.
enum End {
    /// They differ, and how.
    Differs(String),
    /// It cannot go on.
    Failed(Failure),
}

/// A comparison under way, shared by its workers.
struct Comparison<'a> {
    images: &'a [Image; 2],
    lens: [u64; 2],
    strict: bool,
    progress: &'a Progress,
    /// Held by the worker that looks for the next chunk.
    scanning: AsyncMutex,
    at: Cell<u64>,
    /// What was found at the lowest offset so far.
    found: RefCell<Option<(u64, End)>>,
}

/// A part of the disk in which at least one image has data.
#[derive(Clone, Copy)]
struct Chunk {
    start: u64,
    len: u64,
    /// Which images must be read; the other reads as zeroes.
    reads: [bool; 2],
}

#[derive(Clone, Copy)]
struct Run {
    len: u64,
    kind: StatusKind,
}

impl<'a> Comparison<'a> {
    fn new(
        images: &'a [Image; 2],
        lens: [u64; 2],
        strict: bool,
        progress: &'a Progress,
    ) -> Comparison<'a> {
        Comparison {
            images,
            lens,
            strict,
            progress,
            scanning: AsyncMutex::new(),
            at: Cell::new(0),
            found: RefCell::new(None),
        }
    }

    async fn run(self) -> Option<(u64, End)> {
        let worker = |_| -> Pin<Box<dyn Future<Output = ()> + '_>> { Box::pin(self.work()) };
        join_all((0..WORKERS).map(worker)).await;
        self.found.into_inner()
    }

    async fn work(&self) {
        // As long as the longest chunk so far: a sparse disk's are short.
        let mut memory = [AlignedBuf::zeroed(0), AlignedBuf::zeroed(0)];
        while let Some(chunk) = self.next_chunk().await {
            let len = usize::try_from(chunk.len).unwrap_or(0);
            if memory[0].len() < len {
                memory = [AlignedBuf::zeroed(len), AlignedBuf::zeroed(len)];
            }
            match self.first_difference(chunk, &mut memory).await {
                Ok(None) => self.progress.add(chunk.len),
                Ok(Some(offset)) => {
                    let text = format!("Content mismatch at offset {offset}!");
                    self.end(chunk.start, End::Differs(text));
                }
                Err(failure) => self.end(chunk.start, End::Failed(failure)),
            }
        }
    }

    fn end(&self, at: u64, end: End) {
        let mut found = self.found.borrow_mut();
        if found.as_ref().is_none_or(|(first, _)| at < *first) {
            *found = Some((at, end));
        }
    }

    /// The next chunk that must be read; `None` at the end of the longer image, or when something
    /// was found.
    async fn next_chunk(&self) -> Option<Chunk> {
        let _scanning = self.scanning.lock().await;
        let (common, all) = (
            self.lens[0].min(self.lens[1]),
            self.lens[0].max(self.lens[1]),
        );
        while self.at.get() < all && self.found.borrow().is_none() {
            let start = self.at.get();
            let end = if start < common { common } else { all };
            let runs = match (
                self.run_at(0, start, end).await,
                self.run_at(1, start, end).await,
            ) {
                (Ok(first), Ok(second)) => [first, second],
                (Err(failure), _) | (_, Err(failure)) => {
                    self.end(start, End::Failed(failure));
                    return None;
                }
            };
            if self.strict && runs[0].map(|run| run.kind) != runs[1].map(|run| run.kind) {
                let text = format!("Strict mode: Offset {start} block status mismatch!");
                self.end(start, End::Differs(text));
                return None;
            }
            let len = runs
                .iter()
                .flatten()
                .map(|run| run.len)
                .min()
                .unwrap_or(end - start);
            let reads = runs.map(|run| run.is_some_and(|run| run.kind == StatusKind::Data));
            if reads != [false, false] {
                let len = len.min(CHUNK);
                self.at.set(start + len);
                return Some(Chunk { start, len, reads });
            }
            self.at.set(start + len);
            self.progress.add(len);
        }
        None
    }

    /// The first run of a range of one image; `None` behind its end.
    async fn run_at(&self, image: usize, start: u64, end: u64) -> Result<Option<Run>, Failure> {
        let end = end.min(self.lens[image]);
        if start >= end {
            return Ok(None);
        }
        let image = &self.images[image];
        match image.node()?.chain_status(start..end).await {
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

    /// The first byte in which the images differ.
    async fn first_difference(
        &self,
        chunk: Chunk,
        memory: &mut [AlignedBuf; 2],
    ) -> Result<Option<u64>, Failure> {
        let wanted = self.images.iter().zip(memory.iter_mut()).zip(chunk.reads);
        let reads = wanted.filter(|(_, wanted)| *wanted);
        let work = reads.map(|((image, memory), _)| -> Pin<Box<dyn Future<Output = _>>> {
            Box::pin(read(image, chunk, memory))
        });
        join_all(work)
            .await
            .into_iter()
            .collect::<Result<Vec<()>, _>>()?;
        let len = usize::try_from(chunk.len).unwrap_or(0);
        let [one, other] = [&memory[0][..len], &memory[1][..len]];
        let zeroes_end = |bytes: &[u8]| bytes.iter().position(|&byte| byte != 0);
        let differs = match chunk.reads {
            [true, true] if one == other => None,
            // As others do: the sector tells where, not the byte.
            [true, true] => {
                let mut sectors = one.chunks(512).zip(other.chunks(512));
                sectors.position(|(a, b)| a != b).map(|sector| sector * 512)
            }
            [true, false] => zeroes_end(one),
            [false, true] => zeroes_end(other),
            [false, false] => None,
        };
        Ok(differs.map(|byte| chunk.start + byte as u64))
    }
}

/// Fills the start of `memory` with a chunk of an image.
async fn read(image: &Image, chunk: Chunk, memory: &mut AlignedBuf) -> Result<(), Failure> {
    let whole = IoBuf::from(std::mem::replace(memory, AlignedBuf::zeroed(0)));
    let part = whole.slice(0..usize::try_from(chunk.len).unwrap_or(0));
    let read = image.read(chunk.start, part).await.map(drop);
    // The request has ended, so that this is the last handle.
    *memory = whole
        .try_into_aligned()
        .unwrap_or_else(|shared| AlignedBuf::copy_of(&shared.to_vec()));
    read.map_err(|error| {
        let (at, name, why) = (chunk.start, image.name(), chain_text(&error));
        Failure::new(format!("Error while reading offset {at} of {name}: {why}"))
            .with_code(NOT_READ)
    })
}
