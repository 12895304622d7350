//! `convert`: copies images into a new one, or into one that is there.
//!
//! Reads only what the sources store; several pieces are under way at once. Invariant: unless `-W`
//! is given, the write of a piece starts only when those of all pieces before it have, so that a
//! format allocates clusters in the order of the disk. Not here: making the target (`create.rs`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;

use block_core::IoBuf;
use block_core::driver::{StatusKind, ZeroFlags};
use block_core::error::Result;
use block_core::sync::{AsyncMutex, WaitList};

use crate::create::{NewImage, creatable_format, set_backing};
use crate::image::{Durable, Image, errno_text};
use crate::opts::cache::CacheMode;
use crate::opts::create::CreateOptions;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::number;
use crate::opts::size::parse_size;
use crate::progress::Progress;
use crate::report::{Failure, Outcome};
use crate::session::{self, Session, join_all};

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
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4k")]
    sparse_size: String,
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
    /// Cache mode of the target
    #[arg(short = 't', value_name = "CACHE", default_value = "unsafe")]
    target_cache: String,
    /// Cache mode of the sources
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
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

/// Bytes of a piece that is read and written.
const PIECE: u64 = 2 << 20;

/// Bytes of zeroes written by one request.
const ZERO_PIECE: u64 = 256 << 20;

const MAX_SPARSE: u64 = 16 << 20;

pub(crate) fn run(args: Args) -> Outcome {
    let Some((target, sources)) = args.filenames.split_last().filter(|(_, s)| !s.is_empty()) else {
        return Err(Failure::new("Must specify image file name"));
    };
    check_combinations(&args)?;
    let workers = number::bounded(&args.workers, "number of coroutines", 1..=16)?;
    let how = How {
        sparse: parse_sparse(&args.sparse_size)?,
        workers: usize::try_from(workers).unwrap_or(1),
        in_order: !args.oob,
    };
    session::run(args.image.implicit.policy, async |session| {
        let sources = open_sources(session, sources, &args).await?;
        let total = sources.last().map_or(0, |source| source.end);
        let (target, zeroed) = open_target(session, target, total, &args).await?;
        let progress = Progress::start(args.progress && !args.quiet, total);
        let copy = Copy::new(&sources, &target, zeroed, how, &progress);
        copy.run().await?;
        progress.finish();
        target.close().await?;
        Ok(0)
    })
}

fn check_combinations(args: &Args) -> Result<(), Failure> {
    let refused = [
        (args.compress, "option '-c' (compression) is not built in"),
        (
            args.rate_limit.is_some(),
            "option '-r' (rate limit) is not built in",
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

/// A source, and where it goes on the target.
struct Source {
    image: Image,
    start: u64,
    end: u64,
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
        let end = start
            .checked_add(image.len()?)
            .ok_or_else(|| Failure::new("The sources are too long together"))?;
        sources.push(Source { image, start, end });
        start = end;
    }
    Ok(sources)
}

/// What the target holds where nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwritten {
    /// Zeroes.
    Zeroes,
    /// Anything.
    Unknown,
    /// The first bytes of its backing file, and zeroes behind them.
    Backing(u64),
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
    if !args.no_create {
        create_target(session, filename, total, args).await?;
    }
    let name = ImageName {
        text: filename.to_owned(),
        format: (!args.target_image_opts).then(|| args.target_format.clone()),
        is_options: args.target_image_opts,
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

async fn create_target(
    session: &Session,
    filename: &str,
    total: u64,
    args: &Args,
) -> Result<(), Failure> {
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
    let new = NewImage {
        filename: filename.to_owned(),
        format,
        options,
    };
    new.create(session).await.map_err(|failure| {
        failure.while_doing(&format!("{filename}: error while converting {format}"))
    })
}

/// How to copy.
#[derive(Clone, Copy)]
struct How {
    /// Bytes of zeroes in a row that become a hole; `None` writes everything.
    sparse: Option<u64>,
    workers: usize,
    in_order: bool,
}

/// A copy under way, shared by its workers.
struct Copy<'a> {
    sources: &'a [Source],
    target: &'a Image,
    unwritten: Unwritten,
    how: How,
    progress: &'a Progress,
    /// Held by the worker that looks for the next piece.
    scanning: AsyncMutex,
    scan: RefCell<Scan>,
    /// The piece whose write may start.
    turn: Cell<u64>,
    turns: WaitList,
    failed: Cell<bool>,
}

/// Where the search for pieces is.
#[derive(Default)]
struct Scan {
    source: usize,
    at: u64,
    /// The rest of the run that `at` is in.
    run: Option<(u64, Kind)>,
    next_ticket: u64,
}

/// What is to be done for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Copy its bytes.
    Data,
    /// Make it zeroes.
    Zero,
    /// It is as it should be.
    Nothing,
}

#[derive(Clone, Copy)]
struct Piece {
    ticket: u64,
    source: usize,
    start: u64,
    len: u64,
    kind: Kind,
}

impl<'a> Copy<'a> {
    fn new(
        sources: &'a [Source],
        target: &'a Image,
        unwritten: Unwritten,
        how: How,
        progress: &'a Progress,
    ) -> Copy<'a> {
        Copy {
            sources,
            target,
            unwritten,
            how,
            progress,
            scanning: AsyncMutex::new(),
            scan: RefCell::default(),
            turn: Cell::new(0),
            turns: WaitList::new(),
            failed: Cell::new(false),
        }
    }

    async fn run(&self) -> Result<(), Failure> {
        let worker = |_| -> Pin<Box<dyn Future<Output = Result<(), Failure>>>> {
            Box::pin(async {
                let ended = self.work().await;
                if ended.is_err() {
                    self.failed.set(true);
                    self.turns.wake_all();
                }
                ended
            })
        };
        let ended = join_all((0..self.how.workers).map(worker)).await;
        ended.into_iter().collect()
    }

    async fn work(&self) -> Result<(), Failure> {
        let buf = IoBuf::zeroed(usize::try_from(PIECE).unwrap_or(0));
        while let Some(piece) = self.next_piece().await? {
            match piece.kind {
                Kind::Data => self.copy(piece, &buf).await?,
                Kind::Zero => {
                    self.turn_of(piece).await;
                    let zeroed = self.zero(piece.start, piece.len);
                    self.pass_turn(piece);
                    zeroed
                        .await
                        .map_err(|error| write_failed(piece.start, &error))?;
                }
                Kind::Nothing => {
                    self.turn_of(piece).await;
                    self.pass_turn(piece);
                }
            }
            self.progress.add(piece.len);
        }
        Ok(())
    }

    /// The next piece in the order of the target; `None` at the end, and after an error.
    async fn next_piece(&self) -> Result<Option<Piece>, Failure> {
        let _scanning = self.scanning.lock().await;
        loop {
            let (index, at, run) = {
                let scan = self.scan.borrow();
                (scan.source, scan.at, scan.run)
            };
            let Some(source) = self.sources.get(index).filter(|_| !self.failed.get()) else {
                return Ok(None);
            };
            if at >= source.end {
                self.scan.borrow_mut().source += 1;
                continue;
            }
            let (end, kind) = match run.filter(|(end, _)| *end > at) {
                Some(run) => run,
                None => self.run_at(source, at).await?,
            };
            let most = match kind {
                // Ends where the next begins, so that clusters are not cut.
                Kind::Data => PIECE - at % PIECE,
                Kind::Zero => ZERO_PIECE,
                Kind::Nothing => u64::MAX,
            };
            let len = most.min(end - at);
            let mut scan = self.scan.borrow_mut();
            scan.run = Some((end, kind));
            scan.at = at + len;
            scan.next_ticket += 1;
            return Ok(Some(Piece {
                ticket: scan.next_ticket - 1,
                source: index,
                start: at,
                len,
                kind,
            }));
        }
    }

    /// The run of a source that `at`, an offset on the target, is in: its end there, and its kind.
    async fn run_at(&self, source: &Source, at: u64) -> Result<(u64, Kind), Failure> {
        let range = at - source.start..source.end - source.start;
        let node = source.image.node()?;
        let own_only = matches!(self.unwritten, Unwritten::Backing(_)) && node.backing().is_some();
        let status = if own_only {
            node.status(range)
                .await
                .map(|status| (status.len, status.kind))
        } else {
            node.chain_status(range)
                .await
                .map(|status| (status.len, status.kind))
        };
        let (len, kind) = status.map_err(|error| {
            let why = errno_text(&error);
            let start = at - source.start;
            Failure::new(format!(
                "error while reading block status at offset {start}: {why}"
            ))
        })?;
        let kind = match (kind, self.unwritten) {
            (StatusKind::Data, _) => Kind::Data,
            _ if self.how.sparse.is_none() => Kind::Data,
            (StatusKind::Unallocated, Unwritten::Backing(end)) if own_only => {
                let shared = end.saturating_sub(at).min(len);
                return Ok(match shared {
                    0 => (at + len, Kind::Zero),
                    shared => (at + shared, Kind::Nothing),
                });
            }
            (_, Unwritten::Zeroes) => Kind::Nothing,
            (_, Unwritten::Unknown | Unwritten::Backing(_)) => Kind::Zero,
        };
        Ok((at + len, kind))
    }

    async fn copy(&self, piece: Piece, buf: &IoBuf) -> Result<(), Failure> {
        let source = &self.sources[piece.source];
        let from = piece.start - source.start;
        let buf = buf.slice(0..usize::try_from(piece.len).unwrap_or(0));
        source
            .image
            .read(from, buf.clone())
            .await
            .map_err(|error| {
                let why = errno_text(&error);
                Failure::new(format!("error while reading at byte {from}: {why}"))
            })?;
        let runs = runs_of(&buf, piece.start, self.how.sparse);
        self.turn_of(piece).await;
        if self.failed.get() {
            return Ok(());
        }
        let writes = runs
            .into_iter()
            .map(|run| self.write_run(piece.start, &buf, run));
        let writes: Vec<_> = writes.collect();
        self.pass_turn(piece);
        let written: Result<Vec<()>> = join_all(writes).await.into_iter().collect();
        written.map_err(|error| write_failed(piece.start, &error))?;
        Ok(())
    }

    /// Writes a run of a piece; data is under way when this returns.
    fn write_run<'b>(
        &'b self,
        start: u64,
        buf: &IoBuf,
        run: Run,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + 'b>> {
        let at = start + run.start as u64;
        if !run.zero {
            let bytes = buf.slice(run.start..run.end);
            return Box::pin(self.target.write(at, bytes, Durable::Later));
        }
        let len = (run.end - run.start) as u64;
        match self.unwritten {
            Unwritten::Zeroes => Box::pin(async { Ok(()) }),
            Unwritten::Unknown | Unwritten::Backing(_) => Box::pin(self.zero(at, len)),
        }
    }

    fn zero(&self, at: u64, len: u64) -> impl Future<Output = Result<()>> + use<> {
        let flags = ZeroFlags {
            may_unmap: true,
            no_fallback: false,
        };
        self.target.write_zeroes(at, len, flags, Durable::Later)
    }

    async fn turn_of(&self, piece: Piece) {
        if self.how.in_order {
            let is_turn = || self.turn.get() == piece.ticket || self.failed.get();
            self.turns.wait_until(is_turn).await;
        }
    }

    fn pass_turn(&self, piece: Piece) {
        self.turn.set(piece.ticket + 1);
        self.turns.wake_all();
    }
}

fn write_failed(at: u64, error: &block_core::Error) -> Failure {
    Failure::new(format!(
        "error while writing at byte {at}: {}",
        errno_text(error)
    ))
}

/// A part of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    zero: bool,
}

/// Takes bytes apart into zeroes and data, by blocks that are aligned on the target.
fn runs_of(buf: &IoBuf, start: u64, sparse: Option<u64>) -> Vec<Run> {
    let len = buf.len();
    let whole = |zero| Run {
        start: 0,
        end: len,
        zero,
    };
    let Some(block) = sparse else {
        return vec![whole(false)];
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < len {
        let offset = start + at as u64;
        let to_boundary = usize::try_from(block - offset % block).unwrap_or(len);
        let end = len.min(at.saturating_add(to_boundary));
        let zero = buf.is_zero(at..end);
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.end = end,
            _ => runs.push(Run {
                start: at,
                end,
                zero,
            }),
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_blocks_of_the_target() {
        let buf = IoBuf::zeroed(12288);
        buf.fill(5000..5001, 1);
        let run = |start, end, zero| Run { start, end, zero };
        let want = [
            run(0, 4096, true),
            run(4096, 8192, false),
            run(8192, 12288, true),
        ];
        assert_eq!(runs_of(&buf, 0, Some(4096)), want);
        let shifted = [
            run(0, 2048, true),
            run(2048, 6144, false),
            run(6144, 12288, true),
        ];
        assert_eq!(runs_of(&buf, 2048, Some(4096)), shifted);
        assert_eq!(runs_of(&buf, 0, None), [run(0, 12288, false)]);
    }
}
