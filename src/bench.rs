//! `bench`: how fast an image answers requests of one size.

use std::sync::Arc;
use std::time::Instant;

use block_core::{BackendSlot, IoBuf, LocalQueue, Request};

use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::number;
use crate::report::{Failure, Outcome, outln};
use crate::session::{self, Session};

/// Run a simple benchmark: requests of one size, several at once
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Number of requests
    #[arg(short, long, value_name = "COUNT", default_value = "75000")]
    count: String,
    /// Requests in flight at once
    #[arg(short, long, value_name = "DEPTH", default_value = "64")]
    depth: String,
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Flush after this many writes
    #[arg(long, value_name = "COUNT")]
    flush_interval: Option<String>,
    /// How I/O reaches the kernel: threads, native, io_uring
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// Bypass the host's page cache
    #[arg(short, long)]
    native: bool,
    /// Flush while other writes are in flight
    #[arg(long)]
    no_drain: bool,
    /// First byte
    #[arg(short, long, value_name = "OFFSET", default_value = "0")]
    offset: String,
    /// Byte to write
    #[arg(long, value_name = "PATTERN")]
    pattern: Option<String>,
    /// Share the requests between so many threads, each with a queue and the depth of its own
    #[arg(long, value_name = "COUNT", default_value = "1")]
    queues: String,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    /// Bytes of each request
    #[arg(short = 's', long, value_name = "SIZE", default_value = "4096")]
    buffer_size: String,
    /// From one request to the next; the request's size if 0
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "0")]
    step_size: String,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Write instead of reading
    #[arg(short, long)]
    write: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

const INT_MAX: u64 = i32::MAX.unsigned_abs() as u64;

/// What is measured.
struct Plan {
    count: u64,
    depth: u64,
    len: u64,
    step: u64,
    offset: u64,
    pattern: u8,
    write: bool,
    flush: Flush,
    queues: u64,
}

/// When a flush is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Never,
    /// After this many writes, when they have completed.
    Drained(u64),
    /// After this many writes, beside others.
    Beside(u64),
}

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    let plan = plan(&args)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let how = how(&args)?;
    session::run(&args.image.session, async |session| {
        let image = Image::open(session, &name, "image", how).await?;
        if !args.quiet {
            outln!("{}", plan.text());
        }
        let started = Instant::now();
        if plan.queues == 1 {
            Bench::new(image.queue(), image.slot(), image.len()?, &plan).run()?;
        } else {
            on_threads(session, &image, &plan).await?;
        }
        if !args.quiet {
            outln!(
                "Run completed in {:.3} seconds.",
                started.elapsed().as_secs_f64()
            );
        }
        Ok(0)
    })
}

/// Gives each thread its part of the requests, one after the other on the disk.
async fn on_threads(session: &Session, image: &Image, plan: &Plan) -> Result<(), Failure> {
    let end = image.len()?;
    let mut threads = Vec::new();
    for number in 0..plan.queues {
        let count = plan.count / plan.queues;
        let skipped = number.saturating_mul(count).saturating_mul(plan.step);
        let part = Plan {
            count,
            depth: plan.depth.min(count),
            offset: plan
                .offset
                .saturating_add(skipped)
                .checked_rem(end)
                .unwrap_or(0),
            ..*plan
        };
        let queue = session.layer().new_queue(Box::new(session.engine()?));
        let backend = Arc::clone(image.backend());
        threads.push(std::thread::spawn(move || {
            let queue = queue.start();
            let slot = queue.attach(&backend);
            Bench::new(&queue, slot, end, &part).run()
        }));
    }
    let joined = image.queue().blocking(move || {
        let ended = threads.into_iter().map(std::thread::JoinHandle::join);
        Ok(ended.collect::<Vec<_>>())
    });
    let lost = || Failure::new("A thread of the benchmark ended early");
    for ended in joined.await.map_err(|_| lost())? {
        ended.map_err(|_| lost())??;
    }
    Ok(())
}

fn plan(args: &Args) -> Result<Plan, Failure> {
    let count = number::bounded(&args.count, "request count", 1..=INT_MAX)?;
    let depth = number::bounded(&args.depth, "queue depth", 1..=INT_MAX)?;
    let len = number::bounded(&args.buffer_size, "buffer size", 1..=INT_MAX)?;
    let step = number::bounded(&args.step_size, "step size", 0..=INT_MAX)?;
    let interval = args.flush_interval.as_deref();
    let interval = interval.map(|text| number::bounded(text, "flush interval", 0..=INT_MAX));
    let interval = interval.transpose()?.filter(|&interval| interval > 0);
    if interval.is_some() && !args.write {
        return Err(Failure::new(
            "--flush-interval is only available in write tests",
        ));
    }
    if interval.is_some_and(|interval| interval < depth) {
        return Err(Failure::new("Flush interval can't be smaller than depth"));
    }
    let queues = number::bounded(&args.queues, "number of queues", 1..=256)?;
    if count < queues {
        return Err(Failure::new("There are fewer requests than queues"));
    }
    let pattern = args.pattern.as_deref();
    let pattern = pattern.map(|text| number::bounded(text, "pattern byte", 0..=0xff));
    Ok(Plan {
        count,
        depth,
        len,
        step: if step == 0 { len } else { step },
        offset: number::size(&args.offset, "offset")?,
        pattern: u8::try_from(pattern.transpose()?.unwrap_or(0)).unwrap_or(0),
        write: args.write,
        flush: match interval {
            None => Flush::Never,
            Some(interval) if args.no_drain => Flush::Beside(interval),
            Some(interval) => Flush::Drained(interval),
        },
        queues,
    })
}

fn how(args: &Args) -> Result<OpenHow, Failure> {
    let mut cache = CacheMode::parse(&args.cache, "cache")?;
    cache.direct |= args.native;
    let access = if args.write {
        Access::Write
    } else {
        Access::Read
    };
    let aio = match args.aio.as_deref() {
        None => None,
        Some("threads") => Some("threads"),
        Some("native") => Some("native"),
        Some("io_uring") => Some("io_uring"),
        Some(other) => return Err(Failure::new(format!("Invalid aio option: {other}"))),
    };
    Ok(OpenHow {
        access,
        aio,
        ..OpenHow::read(&args.image).with_cache(cache)
    })
}

impl Plan {
    fn text(&self) -> String {
        let verb = if self.write { "write" } else { "read" };
        let mut text = format!(
            "Sending {} {verb} requests, {} bytes each, {} in parallel (starting at offset {}, \
             step size {})",
            self.count, self.len, self.depth, self.offset, self.step
        );
        if let Flush::Drained(interval) | Flush::Beside(interval) = self.flush {
            text.push_str(&format!("\nSending flush every {interval} requests"));
        }
        if self.queues > 1 {
            text.push_str(&format!("\nSharing them between {} queues", self.queues));
        }
        text
    }
}

/// A run: requests without a future each, straight on the queue.
struct Bench<'a> {
    queue: &'a LocalQueue,
    slot: BackendSlot,
    plan: &'a Plan,
    end: u64,
    offset: u64,
    /// Requests not submitted yet.
    left: u64,
    in_flight: u64,
    completed: u64,
    flushing: bool,
    buffers: Vec<IoBuf>,
}

/// Marks a flush among the buffers' tokens.
const FLUSH: u64 = u64::MAX;

impl<'a> Bench<'a> {
    fn new(queue: &'a LocalQueue, slot: BackendSlot, end: u64, plan: &'a Plan) -> Bench<'a> {
        let len = usize::try_from(plan.len).unwrap_or(usize::MAX);
        let buffer = |_| {
            let buf = IoBuf::zeroed(len);
            buf.fill(0..len, plan.pattern);
            buf
        };
        Bench {
            queue,
            slot,
            plan,
            end,
            offset: plan.offset,
            left: plan.count,
            in_flight: 0,
            completed: 0,
            flushing: false,
            // More than there are requests are never under way.
            buffers: (0..plan.depth.min(plan.count)).map(buffer).collect(),
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let queue = self.queue;
        let mut free: Vec<u64> = (0..self.plan.depth.min(self.plan.count)).collect();
        while self.left > 0 || self.in_flight > 0 || self.flushing {
            while self.left > 0 && !self.must_drain() {
                let Some(token) = free.pop() else { break };
                self.submit(token);
            }
            queue.wait(None);
            let mut failed = None;
            let mut flush = false;
            queue.reap(|done| {
                if let Err(error) = done.result {
                    failed.get_or_insert(error);
                }
                if done.token == FLUSH {
                    self.flushing = false;
                } else {
                    free.push(done.token);
                    flush |= self.complete();
                }
            });
            if let Some(error) = failed {
                let why = crate::image::errno_text(&error);
                return Err(Failure::new(format!("Failed request: {why}")));
            }
            if flush {
                self.flushing = true;
                queue.submit(self.slot, Request::flush(), FLUSH);
            }
        }
        Ok(())
    }

    /// Whether new requests wait for a flush, or for those before it.
    fn must_drain(&self) -> bool {
        let submitted = self.plan.count - self.left;
        match self.plan.flush {
            Flush::Drained(interval) => {
                self.flushing
                    || self.in_flight > 0 && submitted > 0 && submitted.is_multiple_of(interval)
            }
            Flush::Never | Flush::Beside(_) => false,
        }
    }

    fn submit(&mut self, token: u64) {
        let Some(buf) = usize::try_from(token)
            .ok()
            .and_then(|index| self.buffers.get(index))
        else {
            return;
        };
        let request = match self.plan.write {
            true => Request::write(self.offset, buf.clone()),
            false => Request::read(self.offset, buf.clone()),
        };
        self.queue.submit(self.slot, request, token);
        self.left -= 1;
        self.in_flight += 1;
        self.offset = self.offset.saturating_add(self.plan.step);
        self.offset = self.offset.checked_rem(self.end).unwrap_or(0);
    }

    /// Books a completed request; true when it is time for a flush.
    fn complete(&mut self) -> bool {
        self.in_flight -= 1;
        self.completed += 1;
        match self.plan.flush {
            Flush::Never => false,
            Flush::Beside(interval) => self.completed.is_multiple_of(interval),
            Flush::Drained(interval) => {
                self.in_flight == 0 && self.completed.is_multiple_of(interval)
            }
        }
    }
}
