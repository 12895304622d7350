//! The commands of `io` that make requests, or ask.
//!
//! Each parses its words, does its request, verifies and reports. Asynchronous ones report when
//! they end; `aio_flush` waits for them. Not here: those that open and close (`files.rs`).

use std::cell::Cell;
use std::process::abort;
use std::rc::Rc;
use std::time::{Duration, Instant};

use block_core::Error;
use block_core::driver::StatusKind;
use block_core::error::kernel_text;
use block_core::sync::WaitList;
use block_schema::Wire;
use block_schema::types::ImageInfoSpecific;
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::Args;
use super::request::{Limit, Report, Span, WriteRequest, memory, usize_of};
use super::table::{self, Command, Needs};
use super::words::{Failed, Words, number};
use crate::human::{self, as_float};
use crate::image::{Image, errno_text};
use crate::opts::create::preallocation_of;
use crate::report::{self, out, outln};
use crate::session::Session;

/// As many signals as Linux has, and one.
const SIGNALS: u64 = 65;

pub(super) type Done = Result<(), Failed>;

/// An open image and what is under way on it.
pub(super) struct Shell<'a> {
    pub(super) session: &'a Session,
    pub(super) args: &'a Args,
    pub(super) image: Option<Rc<Image>>,
    /// What lies behind it, where it is a temporary overlay.
    pub(super) below: Option<Image>,
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
    /// Without an image.
    pub(super) fn new(session: &'a Session, args: &'a Args) -> Shell<'a> {
        Shell {
            session,
            args,
            image: None,
            below: None,
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
        let Some(command) = table::find(name) else {
            eprintln!("command \"{name}\" not found");
            return Err(Failed);
        };
        let parsed = self.prepare(command, name, words)?;
        match command.name {
            "abort" => abort(),
            "aio_discard" => self.aio_discard(&parsed),
            "aio_flush" => {
                self.settle().await;
                Ok(())
            }
            "aio_read" => self.aio_read(&parsed),
            "aio_write" => self.aio_write(&parsed),
            "alloc" => self.alloc(&parsed).await,
            "close" => self.close().await,
            "discard" => self.discard(&parsed).await,
            "flush" => self.flush().await,
            "help" => table::help(&parsed),
            "info" => self.info(),
            "length" => self.length(),
            "map" => self.map().await,
            "open" => self.open(command, &parsed).await,
            "quit" => {
                self.quit = true;
                Ok(())
            }
            "read" => self.read(command, &parsed).await,
            "readv" => self.readv(&parsed).await,
            "reopen" => self.reopen(&parsed).await,
            "sigraise" => sigraise(&parsed),
            "sleep" => self.sleep(&parsed).await,
            "truncate" => self.truncate(&parsed).await,
            "write" => self.write(&parsed).await,
            "writev" => self.writev(&parsed).await,
            name => unreachable!("{name} stands in the table"),
        }
    }

    /// Looks at what a command needs, and takes its words.
    fn prepare<'w>(
        &self,
        command: &Command,
        name: &str,
        words: &[&'w str],
    ) -> Result<Words<'w>, Failed> {
        if command.needs() != Needs::Nothing && self.image.is_none() {
            eprintln!("no file open, try 'help open'");
            return Err(Failed);
        }
        let parsed = command.parse(name, words)?;
        if command.needs() == Needs::Writable && self.is_read_only()? {
            report::error("Block node is read-only");
            return Err(Failed);
        }
        Ok(parsed)
    }

    /// The image; commands that need one run only with it.
    pub(super) fn image(&self) -> Result<&Rc<Image>, Failed> {
        self.image.as_ref().ok_or(Failed)
    }

    fn is_read_only(&self) -> Result<bool, Failed> {
        let node = self.image()?.node();
        let node = node.map_err(|error| failed("request", &error))?;
        Ok(node.is_read_only())
    }

    fn len(&self) -> Result<u64, Failed> {
        self.image()?
            .len()
            .map_err(|error| failed("getlength", &error))
    }

    async fn read(&self, command: &Command, words: &Words<'_>) -> Done {
        let span = Span::of(words, Limit::Request)?;
        let pattern = words.pattern()?;
        let (start, verified) = (words.size('s')?, words.size('l')?);
        if pattern.is_none() && (start.is_some() || verified.is_some()) {
            return Err(command.print_usage());
        }
        let start = start.unwrap_or(0);
        let verified = verified.or(span.len.checked_sub(start));
        let Some(verified) = verified.filter(|&v| v.saturating_add(start) <= span.len) else {
            outln!("pattern verification range exceeds end of read data");
            return Err(Failed);
        };
        if words.has('b') {
            span.check_sectors()?;
            return Err(no_machine_state("read"));
        }
        let verify = pattern.map(|byte| (byte, start, verified));
        self.read_range("read", words, span, verify).await
    }

    async fn readv(&self, words: &Words<'_>) -> Done {
        let span = Span::of_buffers(words)?;
        let verify = words.pattern()?.map(|byte| (byte, 0, span.len));
        self.read_range("readv", words, span, verify).await
    }

    /// Reads, and verifies a byte from a start on for a length.
    async fn read_range(
        &self,
        name: &str,
        words: &Words<'_>,
        span: Span,
        verify: Option<(u8, u64, u64)>,
    ) -> Done {
        let Span { offset, len } = span;
        let started = Instant::now();
        let read = self.image()?.read(offset, memory(len, 0xab)).await;
        let time = started.elapsed();
        let bytes = read.map_err(|error| failed(name, &error))?.to_vec();
        let mut matches = true;
        if let Some((byte, start, verified)) = verify {
            let (from, to) = (usize_of(start), usize_of(start + verified));
            matches = bytes[from..to].iter().all(|&b| b == byte);
            if !matches {
                let at = offset + start;
                outln!("Pattern verification failed at offset {at}, {verified} bytes");
            }
        }
        Report::of(words).print("read", span, time, Some(&bytes));
        if matches { Ok(()) } else { Err(Failed) }
    }

    async fn write(&self, words: &Words<'_>) -> Done {
        let request = WriteRequest::parse(words)?;
        let span = Span::of(words, request.limit())?;
        if request.compressed || words.has('b') {
            span.check_sectors()?;
        }
        if words.has('b') {
            return Err(no_machine_state("write"));
        }
        self.write_range("write", words, span, &request).await
    }

    async fn writev(&self, words: &Words<'_>) -> Done {
        let span = Span::of_buffers(words)?;
        let request = WriteRequest::parse(words)?;
        self.write_range("writev", words, span, &request).await
    }

    async fn write_range(
        &self,
        name: &str,
        words: &Words<'_>,
        span: Span,
        request: &WriteRequest<'_>,
    ) -> Done {
        let memory = request.memory(span.len)?;
        let started = Instant::now();
        let written = request.start(self.image()?, span, memory).await;
        let time = started.elapsed();
        written.map_err(|error| failed(name, &error))?;
        Report::of(words).print("wrote", span, time, None);
        Ok(())
    }

    fn aio_read(&self, words: &Words<'_>) -> Done {
        if words.has('i') {
            outln!("injecting invalid read request");
            return Ok(());
        }
        let pattern = words.pattern()?;
        let span = Span::of_buffers(words)?;
        let report = Report::of(words);
        let started = Instant::now();
        let read = self.image()?.read(span.offset, memory(span.len, 0xab));
        self.spawn(async move {
            match read.await {
                Err(error) => outln!("readv failed: {}", errno_text(&error)),
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

    fn aio_write(&self, words: &Words<'_>) -> Done {
        if words.has('i') {
            outln!("injecting invalid write request");
            return Ok(());
        }
        if words.has('z') && words.operands.len() != 2 {
            outln!("-z supports only a single length parameter");
            return Err(Failed);
        }
        if words.has('z') && words.has('P') {
            outln!("-z and -P cannot be specified at the same time");
            return Err(Failed);
        }
        let request = WriteRequest::parse(words)?;
        let span = match request.zeroes {
            Some(_) => Span::of(words, Limit::None)?,
            None => Span::of_buffers(words)?,
        };
        let report = Report::of(words);
        let memory = request.memory(span.len)?;
        let started = Instant::now();
        let image = Rc::clone(self.image()?);
        let write = request.start(&image, span, memory);
        self.spawn(async move {
            match write.await {
                Err(error) => outln!("aio_write failed: {}", errno_text(&error)),
                Ok(()) => report.print("wrote", span, started.elapsed(), None),
            }
            drop(image);
        });
        Ok(())
    }

    fn aio_discard(&self, words: &Words<'_>) -> Done {
        let span = Span::of(words, Limit::None)?;
        let report = Report::of(words);
        let started = Instant::now();
        let discard = self.image()?.discard(span.offset, span.len);
        self.spawn(async move {
            match discard.await {
                Err(error) => outln!("aio_discard failed: {}", errno_text(&error)),
                // Two blanks: clients know the line as it is.
                Ok(()) => report.print("discarded ", span, started.elapsed(), None),
            }
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
        let span = Span::of(words, Limit::Request)?;
        let started = Instant::now();
        let discarded = self.image()?.discard(span.offset, span.len).await;
        let time = started.elapsed();
        discarded.map_err(|error| failed("discard", &error))?;
        Report::of(words).print("discard", span, time, None);
        Ok(())
    }

    async fn flush(&self) -> Done {
        self.image()?
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
            .resize(queue, self.image()?.id(), len, preallocation);
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
        let node = self
            .image()?
            .node()
            .map_err(|error| failed("info", &error))?;
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
            .image()?
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

fn sigraise(words: &Words<'_>) -> Done {
    let text = words.operands[0];
    let wanted = number(text)?;
    if wanted > SIGNALS {
        outln!("signal argument '{text}' is too large to be a valid signal");
        return Err(Failed);
    }
    let raw = i32::try_from(wanted).unwrap_or(0);
    if let Some(signal) = Signal::from_named_raw(raw) {
        // It may be one that only says something.
        kill_process(getpid(), signal).ok();
    }
    Ok(())
}

/// Where a machine would save its memory is not reached from here.
fn no_machine_state(what: &str) -> Failed {
    outln!("{what} failed: {}", kernel_text(&Errno::OPNOTSUPP.into()));
    Failed
}

fn failed(what: &str, error: &Error) -> Failed {
    outln!("{what} failed: {}", errno_text(error));
    Failed
}
