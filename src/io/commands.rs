//! The commands of `io`.
//!
//! Each parses its words, does its request, verifies and reports. Asynchronous ones report when
//! they end; `aio_flush` waits for them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use block_core::driver::{StatusKind, ZeroFlags};
use block_core::error::{Result as BlockResult, kernel_text};
use block_core::sync::WaitList;
use block_core::{Error, IoBuf};
use block_schema::Wire;
use block_schema::types::ImageInfoSpecific;

use super::words::{Failed, Words, number};
use crate::human::{self, IoReport, as_float};
use crate::image::{Durable, Image, errno_text};
use crate::opts::create::preallocation_of;
use crate::report::{self, out, outln};
use crate::session::Session;

/// Bytes of the largest request.
const MAX_REQUEST: u64 = 0x7fff_fe00;

/// What memory for writes holds unless told otherwise.
const WRITE_PATTERN: u8 = 0xcd;

type Done = Result<(), Failed>;

/// A command as `help` and usage messages show it.
struct Command {
    name: &'static str,
    short: &'static str,
    /// Letters that it knows, for [`Words::parse`].
    letters: &'static str,
    /// Operands: the least, and the most if there is one.
    operands: (usize, Option<usize>),
    usage: &'static str,
    about: &'static str,
    writes: bool,
}

const fn command(
    name: &'static str,
    short: &'static str,
    letters: &'static str,
    usage: &'static str,
    about: &'static str,
) -> Command {
    Command {
        name,
        short,
        letters,
        operands: (0, Some(0)),
        usage,
        about,
        writes: false,
    }
}

impl Command {
    const fn with(self, least: usize, most: Option<usize>) -> Command {
        Command {
            operands: (least, most),
            ..self
        }
    }

    const fn writing(self) -> Command {
        Command {
            writes: true,
            ..self
        }
    }

    /// What count of words would do, when `count` does not. Letters count as words, so there is
    /// no upper bound for commands that take some.
    fn refuses(&self, count: usize) -> Option<String> {
        let (least, most) = self.operands;
        let most = most.filter(|_| self.letters.is_empty());
        if count >= least && most.is_none_or(|most| count <= most) {
            return None;
        }
        Some(match most {
            None => format!("at least {least} arguments"),
            Some(most) if most == least => format!("{least} arguments"),
            Some(most) => format!("between {least} and {most} arguments"),
        })
    }

    fn print_usage(&self) -> Failed {
        outln!("{} {} -- {}", self.name, self.usage, self.about);
        Failed
    }
}

const COMMANDS: &[Command] = &[
    command(
        "aio_flush",
        "",
        "",
        "",
        "waits for all asynchronous requests",
    ),
    command(
        "aio_read",
        "",
        "CP:qv",
        "[-Cqv] [-P pattern] off len [len..]",
        "starts a read",
    )
    .with(2, None),
    command(
        "aio_write",
        "",
        "CfP:quz",
        "[-Cfquz] [-P pattern] off len [len..]",
        "starts a write",
    )
    .with(2, None)
    .writing(),
    command(
        "alloc",
        "a",
        "",
        "offset [count]",
        "tells how much of a range is allocated",
    )
    .with(1, Some(2)),
    command("discard", "d", "Cq", "[-Cq] off len", "gives a range back")
        .with(2, Some(2))
        .writing(),
    command("flush", "f", "", "", "makes all writes durable"),
    command("help", "?", "", "[command]", "shows the commands").with(0, Some(1)),
    command("info", "i", "", "", "shows what the image is"),
    command("length", "l", "", "", "shows the image's length"),
    command("map", "", "", "", "shows which parts are allocated"),
    command("quit", "q", "", "", "ends the program"),
    command(
        "read",
        "r",
        "Cl:pP:qs:v",
        "[-Cqv] [-P pattern [-s off] [-l len]] off len",
        "reads a range",
    )
    .with(2, Some(2)),
    command(
        "readv",
        "",
        "CP:qv",
        "[-Cqv] [-P pattern] off len [len..]",
        "reads a range",
    )
    .with(2, None),
    command("sleep", "", "", "ms", "waits").with(1, Some(1)),
    command(
        "truncate",
        "t",
        "m:",
        "[-m prealloc_mode] off",
        "sets the image's length",
    )
    .with(1, Some(1))
    .writing(),
    command(
        "write",
        "w",
        "cCfnpP:qs:uz",
        "[-cCfnquz] [-P pattern | -s source_file] off len",
        "writes a range",
    )
    .with(2, Some(2))
    .writing(),
    command(
        "writev",
        "",
        "CfP:q",
        "[-Cfq] [-P pattern] off len [len..]",
        "writes a range",
    )
    .with(2, None)
    .writing(),
];

/// An open image and what is under way on it.
pub(super) struct Shell<'a> {
    session: &'a Session,
    image: Rc<Image>,
    in_flight: Rc<InFlight>,
    quit: bool,
}

/// Asynchronous requests that have not ended.
#[derive(Default)]
struct InFlight {
    count: Cell<u64>,
    changed: WaitList,
}

impl InFlight {
    fn add(&self, by: i64) {
        self.count.set(self.count.get().wrapping_add_signed(by));
        self.changed.wake_all();
    }
}

impl<'a> Shell<'a> {
    pub(super) fn new(session: &'a Session, image: Image) -> Shell<'a> {
        Shell {
            session,
            image: Rc::new(image),
            in_flight: Rc::default(),
            quit: false,
        }
    }

    /// Whether `quit` was said.
    pub(super) fn has_quit(&self) -> bool {
        self.quit
    }

    /// Waits for asynchronous requests.
    pub(super) async fn settle(&self) {
        let InFlight { count, changed } = &*self.in_flight;
        changed.wait_until(|| count.get() == 0).await;
    }

    /// Runs one line.
    pub(super) async fn run(&mut self, line: &str) -> Done {
        let words: Vec<&str> = line
            .split([' ', '\t'])
            .filter(|word| !word.is_empty())
            .collect();
        let Some((&name, words)) = words.split_first() else {
            return Ok(());
        };
        let Some(command) = find(name) else {
            eprintln!("command \"{name}\" not found");
            return Err(Failed);
        };
        let parsed = Shell::parse(command, name, words)?;
        if command.writes && self.is_read_only()? {
            report::error("Block node is read-only");
            return Err(Failed);
        }
        match command.name {
            "aio_flush" => {
                self.settle().await;
                Ok(())
            }
            "aio_read" => self.aio_read(&parsed),
            "aio_write" => self.aio_write(command, &parsed),
            "alloc" => self.alloc(&parsed).await,
            "discard" => self.discard(&parsed).await,
            "flush" => self.flush().await,
            "help" => help(&parsed),
            "info" => self.info(),
            "length" => self.length(),
            "map" => self.map().await,
            "quit" => {
                self.quit = true;
                Ok(())
            }
            "read" | "readv" => self.read(command, &parsed).await,
            "sleep" => self.sleep(&parsed).await,
            "truncate" => self.truncate(&parsed).await,
            "write" | "writev" => self.write(&parsed).await,
            name => unreachable!("{name} stands in the table"),
        }
    }

    fn parse<'w>(command: &Command, name: &str, words: &[&'w str]) -> Result<Words<'w>, Failed> {
        if let Some(expected) = command.refuses(words.len()) {
            let count = words.len();
            eprintln!("bad argument count {count} to {name}, expected {expected}");
            return Err(Failed);
        }
        let parsed = Words::parse(words, command.letters).map_err(|complaint| {
            eprintln!("{name}: {complaint}");
            command.print_usage()
        })?;
        let (given, (least, most)) = (parsed.operands.len(), command.operands);
        if given < least || most.is_some_and(|most| given > most) {
            return Err(command.print_usage());
        }
        Ok(parsed)
    }

    fn is_read_only(&self) -> Result<bool, Failed> {
        let node = self
            .image
            .node()
            .map_err(|error| failed("request", &error))?;
        Ok(node.is_read_only())
    }

    fn len(&self) -> Result<u64, Failed> {
        self.image
            .len()
            .map_err(|error| failed("getlength", &error))
    }

    async fn read(&self, command: &Command, words: &Words<'_>) -> Done {
        let Span { offset, len } = span(words, "length cannot exceed")?;
        let pattern = words.pattern()?;
        let (start, verified) = (words.size('s')?, words.size('l')?);
        if pattern.is_none() && (start.is_some() || verified.is_some()) {
            return Err(command.print_usage());
        }
        let start = start.unwrap_or(0);
        let verified = verified.or(len.checked_sub(start));
        let Some(verified) = verified.filter(|&v| v.saturating_add(start) <= len) else {
            outln!("pattern verification range exceeds end of read data");
            return Err(Failed);
        };
        let started = Instant::now();
        let read = self.image.read(offset, memory(len, 0xab)).await;
        let time = started.elapsed();
        let bytes = read.map_err(|error| failed("read", &error))?.to_vec();
        let (from, to) = (usize_of(start), usize_of(start + verified));
        let matches = pattern.is_none_or(|byte| bytes[from..to].iter().all(|&b| b == byte));
        if !matches {
            let at = offset + start;
            outln!("Pattern verification failed at offset {at}, {verified} bytes");
        }
        Report::of(words).print("read", Span { offset, len }, time, Some(&bytes));
        if matches { Ok(()) } else { Err(Failed) }
    }

    async fn write(&self, words: &Words<'_>) -> Done {
        let span = span(words, "length cannot exceed")?;
        let request = WriteRequest::parse(words)?;
        request.check_span(span)?;
        let memory = request.memory(span.len)?;
        let started = Instant::now();
        let written = request.start(&self.image, span, memory).await;
        let time = started.elapsed();
        written.map_err(|error| failed("write", &error))?;
        Report::of(words).print("wrote", span, time, None);
        Ok(())
    }

    fn aio_read(&self, words: &Words<'_>) -> Done {
        let span = span(words, "length cannot exceed")?;
        let pattern = words.pattern()?;
        let report = Report::of(words);
        let started = Instant::now();
        let read = self.image.read(span.offset, memory(span.len, 0xab));
        self.spawn(async move {
            match read.await {
                Err(error) => outln!("aio_read failed: {}", errno_text(&error)),
                Ok(buf) => {
                    let bytes = buf.to_vec();
                    if pattern.is_some_and(|byte| bytes.iter().any(|&b| b != byte)) {
                        let Span { offset, len } = span;
                        outln!("Pattern verification failed at offset {offset}, {len} bytes");
                    }
                    report.print("read", span, started.elapsed(), Some(&bytes));
                }
            }
        });
        Ok(())
    }

    fn aio_write(&self, command: &Command, words: &Words<'_>) -> Done {
        let span = span(words, "length cannot exceed")?;
        let request = WriteRequest::parse(words)?;
        if request.zeroes.is_some() && words.operands.len() != 2 {
            return Err(command.print_usage());
        }
        let report = Report::of(words);
        let memory = request.memory(span.len)?;
        let started = Instant::now();
        let image = Rc::clone(&self.image);
        let write = request.start(&self.image, span, memory);
        self.spawn(async move {
            match write.await {
                Err(error) => outln!("aio_write failed: {}", errno_text(&error)),
                Ok(()) => report.print("wrote", span, started.elapsed(), None),
            }
            drop(image);
        });
        Ok(())
    }

    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let in_flight = Rc::clone(&self.in_flight);
        in_flight.add(1);
        self.session.queue().spawn(async move {
            work.await;
            in_flight.add(-1);
        });
    }

    async fn discard(&self, words: &Words<'_>) -> Done {
        let span = span(words, "length cannot exceed")?;
        let started = Instant::now();
        let discarded = self.image.discard(span.offset, span.len).await;
        let time = started.elapsed();
        discarded.map_err(|error| failed("discard", &error))?;
        Report::of(words).print("discard", span, time, None);
        Ok(())
    }

    async fn flush(&self) -> Done {
        self.image
            .flush()
            .await
            .map_err(|error| failed("flush", &error))
    }

    fn length(&self) -> Done {
        outln!("{}", human::io_size(as_float(self.len()?)));
        Ok(())
    }

    async fn truncate(&self, words: &Words<'_>) -> Done {
        let len = number(words.operands[0])?;
        let mode = preallocation_of(words.argument('m').unwrap_or("off"));
        let preallocation = mode.map_err(|failure| {
            report::error(failure.text());
            Failed
        })?;
        let queue = self.session.queue();
        let resized = self
            .session
            .layer()
            .resize(queue, self.image.id(), len, preallocation);
        resized.await.map_err(|error| {
            report::error(&report::chain_text(&error));
            Failed
        })
    }

    async fn sleep(&self, words: &Words<'_>) -> Done {
        let Ok(milliseconds) = words.operands[0].parse() else {
            outln!("{} is not a valid number", words.operands[0]);
            return Err(Failed);
        };
        self.session
            .queue()
            .sleep(Duration::from_millis(milliseconds))
            .await;
        Ok(())
    }

    fn info(&self) -> Done {
        let node = self.image.node().map_err(|error| failed("info", &error))?;
        let driver = node.node().driver();
        let described = driver.describe();
        let cluster_size = described.cluster_size.unwrap_or(0);
        let specific = described.format_specific.as_ref();
        let vm_state = specific.map_or(0, |specific| {
            vm_state_offset(specific, cluster_size, node.len())
        });
        outln!("format name: {}", driver.format_name());
        outln!("cluster size: {}", human::io_size(as_float(cluster_size)));
        outln!("vm state offset: {}", human::io_size(as_float(vm_state)));
        let mut text = String::new();
        if let Some(specific) = specific {
            human::format_specific(&mut text, &specific.encode(), 0);
        }
        out!("{text}");
        Ok(())
    }

    async fn alloc(&self, words: &Words<'_>) -> Done {
        let offset = number(words.operands[0])?;
        let count = words.operands.get(1).map_or(Ok(512), |text| number(text))?;
        let end = self.len()?.min(offset.saturating_add(count));
        let (mut at, mut allocated) = (offset, 0);
        while at < end {
            let run = self.allocation(at, end).await?;
            allocated += if run.allocated { run.len } else { 0 };
            at += run.len;
        }
        let count = end.saturating_sub(offset).min(count);
        let start = human::io_size(as_float(offset));
        outln!("{allocated}/{count} bytes allocated at offset {start}");
        Ok(())
    }

    async fn map(&self) -> Done {
        let end = self.len()?;
        let mut at = 0;
        while at < end {
            let mut run = self.allocation(at, end).await?;
            while at + run.len < end {
                let next = self.allocation(at + run.len, end).await?;
                if next.allocated != run.allocated {
                    break;
                }
                run.len += next.len;
            }
            let word = if run.allocated {
                "    allocated"
            } else {
                "not allocated"
            };
            let (len, start) = (
                human::io_size(as_float(run.len)),
                human::io_size(as_float(at)),
            );
            outln!(
                "{len} ({:#x}) bytes {word} at offset {start} ({at:#x})",
                run.len
            );
            at += run.len;
        }
        Ok(())
    }

    /// Whether the image itself, without its backing file, has the first run of a range.
    async fn allocation(&self, start: u64, end: u64) -> Result<Allocation, Failed> {
        let node = self
            .image
            .node()
            .map_err(|error| failed("is_allocated", &error))?;
        if node.node().driver().shifted_child().is_some() {
            let len = end - start;
            let allocated = true;
            return Ok(Allocation { len, allocated });
        }
        let status = node.status(start..end).await;
        let status = status.map_err(|error| failed("is_allocated", &error))?;
        Ok(Allocation {
            len: status.len,
            allocated: status.kind != StatusKind::Unallocated,
        })
    }
}

struct Allocation {
    len: u64,
    allocated: bool,
}

/// The range of a request.
#[derive(Clone, Copy)]
struct Span {
    offset: u64,
    len: u64,
}

/// The range that the operands give: where, and one length or more.
fn span(words: &Words<'_>, complaint: &str) -> Result<Span, Failed> {
    let (&offset, lens) = words.operands.split_first().ok_or(Failed)?;
    let offset = number(offset)?;
    let mut sum = 0_u64;
    for text in lens {
        let len = number(text)?;
        sum = sum.saturating_add(len);
        if sum > MAX_REQUEST {
            outln!("{complaint} {MAX_REQUEST}, given {text}");
            return Err(Failed);
        }
    }
    Ok(Span { offset, len: sum })
}

/// What the letters of a write say.
struct WriteRequest<'a> {
    zeroes: Option<ZeroFlags>,
    compressed: bool,
    durable: Durable,
    pattern: u8,
    source: Option<&'a str>,
}

impl<'a> WriteRequest<'a> {
    fn parse(words: &Words<'a>) -> Result<WriteRequest<'a>, Failed> {
        let zero = words.has('z');
        let refused = [
            (
                words.has('f') && words.has('c'),
                "-f and -b or -c cannot be specified at the same time",
            ),
            (words.has('n') && !zero, "-n requires -z to be specified"),
            (words.has('u') && !zero, "-u requires -z to be specified"),
            (
                usize::from(zero) + usize::from(words.has('P')) + usize::from(words.has('s')) > 1,
                "Only one of -z, -P, and -s can be specified at the same time",
            ),
        ];
        if let Some((_, complaint)) = refused.iter().find(|(found, _)| *found) {
            outln!("{complaint}");
            return Err(Failed);
        }
        Ok(WriteRequest {
            zeroes: zero.then(|| ZeroFlags {
                may_unmap: words.has('u'),
                no_fallback: words.has('n'),
            }),
            compressed: words.has('c'),
            durable: if words.has('f') {
                Durable::Now
            } else {
                Durable::Later
            },
            pattern: words.pattern()?.unwrap_or(WRITE_PATTERN),
            source: words.argument('s'),
        })
    }

    /// Compressed writes are of sectors, whatever the image's unit.
    fn check_span(&self, span: Span) -> Done {
        if !self.compressed {
            return Ok(());
        }
        for (value, name) in [(span.offset, "offset"), (span.len, "count")] {
            if !value.is_multiple_of(512) {
                outln!("{value} is not a sector-aligned value for '{name}'");
                return Err(Failed);
            }
        }
        Ok(())
    }

    /// The bytes to write.
    fn memory(&self, len: u64) -> Result<IoBuf, Failed> {
        let Some(path) = self.source else {
            let len = if self.zeroes.is_some() { 0 } else { len };
            return Ok(memory(len, self.pattern));
        };
        let bytes = std::fs::read(path).map_err(|error| {
            eprintln!("{path}: {}", kernel_text(&error));
            Failed
        })?;
        if bytes.is_empty() {
            eprintln!("{path}: file is empty");
            return Err(Failed);
        }
        let repeated: Vec<u8> = bytes.into_iter().cycle().take(usize_of(len)).collect();
        Ok(IoBuf::copy_of(&repeated))
    }

    fn start(
        &self,
        image: &Image,
        span: Span,
        memory: IoBuf,
    ) -> std::pin::Pin<Box<dyn Future<Output = BlockResult<()>>>> {
        let Span { offset, len } = span;
        match self.zeroes {
            Some(flags) => Box::pin(image.write_zeroes(offset, len, flags, self.durable)),
            None if self.compressed => {
                Box::pin(image.write_compressed(offset, memory, self.durable))
            }
            None => Box::pin(image.write(offset, memory, self.durable)),
        }
    }
}

/// How the end of a request is shown.
#[derive(Clone, Copy)]
struct Report {
    machine: bool,
    quiet: bool,
    dump: bool,
}

impl Report {
    fn of(words: &Words<'_>) -> Report {
        Report {
            machine: words.has('C'),
            quiet: words.has('q'),
            dump: words.has('v'),
        }
    }

    fn print(self, verb: &str, span: Span, time: Duration, bytes: Option<&[u8]>) {
        if self.quiet {
            return;
        }
        if let Some(bytes) = bytes.filter(|_| self.dump) {
            out!("{}", human::hex_dump(bytes, span.offset));
        }
        let Span { offset, len } = span;
        let report = IoReport {
            verb,
            offset,
            len,
            time,
        };
        if self.machine {
            out!("{}", report.machine_text());
        } else {
            out!("{}", report.text());
        }
    }
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|c| c.name == name || !c.short.is_empty() && c.short == name)
}

fn help(words: &Words<'_>) -> Done {
    match words.operands.first() {
        None => {
            for Command {
                name, usage, about, ..
            } in COMMANDS
            {
                outln!("{name} {usage} -- {about}");
            }
            outln!("\nUse 'help commandname' for extended help.");
            Ok(())
        }
        Some(name) => match find(name) {
            Some(command) => {
                command.print_usage();
                Ok(())
            }
            None => {
                outln!("command {name} not found");
                Err(Failed)
            }
        },
    }
}

/// Where a snapshot's machine state would be kept: behind the disk, from the next L1 entry on.
fn vm_state_offset(specific: &ImageInfoSpecific, cluster_size: u64, len: u64) -> u64 {
    match specific {
        ImageInfoSpecific::Qcow2(qcow2) => {
            let entry = if qcow2.extended_l2 == Some(true) {
                16
            } else {
                8
            };
            let reach = (cluster_size / entry).saturating_mul(cluster_size);
            len.checked_next_multiple_of(reach).unwrap_or(0)
        }
        ImageInfoSpecific::Vmdk(_) | ImageInfoSpecific::File(_) => 0,
    }
}

fn memory(len: u64, byte: u8) -> IoBuf {
    let len = usize_of(len);
    let buf = IoBuf::zeroed(len);
    buf.fill(0..len, byte);
    buf
}

/// Lengths of requests are below 2 GiB.
fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn failed(what: &str, error: &Error) -> Failed {
    outln!("{what} failed: {}", errno_text(error));
    Failed
}
