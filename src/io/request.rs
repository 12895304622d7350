//! What the words of a command of `io` say of its request: range, bytes, flags, report.
//! Not here: which commands there are (`table.rs`).

use std::time::Duration;

use block_core::IoBuf;
use block_core::driver::ZeroFlags;
use block_core::error::{Result as BlockResult, kernel_text};

use super::words::{Failed, Words, number};
use crate::human::{self, IoReport};
use crate::image::{Durable, Image};
use crate::report::{out, outln};

/// Bytes of the largest request.
const MAX_REQUEST: u64 = 0x7fff_fe00;

/// What memory for writes holds unless told otherwise.
const WRITE_PATTERN: u8 = 0xcd;

/// The range of a request.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Span {
    /// The range that two operands give: where, and how long.
    ///
    /// # Errors
    /// When they are no numbers; for more than a request's bytes, unless `limit` says otherwise.
    pub(super) fn of(words: &Words<'_>, limit: Limit) -> Result<Span, Failed> {
        let [offset, text] = words.operands[..] else {
            return Err(Failed);
        };
        let (offset, len) = (number(offset)?, number(text)?);
        let hint = match limit {
            Limit::None => return Ok(Span { offset, len }),
            Limit::Request => "",
            Limit::RequestWithoutN => " without -n",
        };
        if len > MAX_REQUEST {
            outln!("length cannot exceed {MAX_REQUEST}{hint}, given {text}");
            return Err(Failed);
        }
        Ok(Span { offset, len })
    }

    /// The range that operands give: where, and the length of each buffer.
    ///
    /// # Errors
    /// When they are no numbers, or more than a request's bytes.
    pub(super) fn of_buffers(words: &Words<'_>) -> Result<Span, Failed> {
        let (&offset, buffers) = words.operands.split_first().ok_or(Failed)?;
        let offset = number(offset)?;
        let mut len = 0;
        for text in buffers {
            let buffer = number(text)?;
            if buffer > MAX_REQUEST {
                outln!("Argument '{text}' exceeds maximum size {MAX_REQUEST}");
                return Err(Failed);
            }
            len += buffer;
            if len > MAX_REQUEST {
                outln!("The total number of bytes exceed the maximum size {MAX_REQUEST}");
                return Err(Failed);
            }
        }
        Ok(Span { offset, len })
    }

    /// Whether it is of whole sectors, as some requests must be.
    ///
    /// # Errors
    /// With a message when it is not.
    pub(super) fn check_sectors(self) -> Result<(), Failed> {
        for (value, name) in [(self.offset, "offset"), (self.len, "count")] {
            if !value.is_multiple_of(512) {
                outln!("{value} is not a sector-aligned value for '{name}'");
                return Err(Failed);
            }
        }
        Ok(())
    }
}

/// What bounds the length of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    Request,
    /// As [`Request`](Limit::Request), for those that `-n` would free of it.
    RequestWithoutN,
}

/// What the letters of a write say.
pub(super) struct WriteRequest<'a> {
    pub(super) zeroes: Option<ZeroFlags>,
    pub(super) compressed: bool,
    durable: Durable,
    pattern: u8,
    source: Option<&'a str>,
}

impl<'a> WriteRequest<'a> {
    /// Reads the letters.
    ///
    /// # Errors
    /// With a message for letters that exclude each other.
    pub(super) fn parse(words: &Words<'a>) -> Result<WriteRequest<'a>, Failed> {
        let zero = words.has('z');
        let refused = [
            (
                words.has('b') && zero,
                "-b and -z cannot be specified at the same time",
            ),
            (
                words.has('f') && (words.has('b') || words.has('c')),
                "-f and -b or -c cannot be specified at the same time",
            ),
            (words.has('n') && !zero, "-n requires -z to be specified"),
            (words.has('u') && !zero, "-u requires -z to be specified"),
            (
                usize::from(zero) + usize::from(words.has('P')) + usize::from(words.has('s')) > 1,
                "Only one of -z, -P, and -s can be specified at the same time",
            ),
            (
                zero && words.has('r'),
                "cannot combine zero write with registered I/O buffer",
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

    /// What bounds the request's length.
    pub(super) fn limit(&self) -> Limit {
        match &self.zeroes {
            Some(flags) if flags.no_fallback => Limit::None,
            _ => Limit::RequestWithoutN,
        }
    }

    /// The bytes to write.
    ///
    /// # Errors
    /// With a message when the file of a pattern cannot be read.
    pub(super) fn memory(&self, len: u64) -> Result<IoBuf, Failed> {
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

    /// Starts the request.
    pub(super) fn start(
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
pub(super) struct Report {
    machine: bool,
    quiet: bool,
    dump: bool,
}

impl Report {
    /// As the letters say.
    pub(super) fn of(words: &Words<'_>) -> Report {
        Report {
            machine: words.has('C'),
            quiet: words.has('q'),
            dump: words.has('v'),
        }
    }

    /// Shows it.
    pub(super) fn print(self, verb: &str, span: Span, time: Duration, bytes: Option<&[u8]>) {
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

/// Memory of one byte throughout.
pub(super) fn memory(len: u64, byte: u8) -> IoBuf {
    let len = usize_of(len);
    let buf = IoBuf::zeroed(len);
    buf.fill(0..len, byte);
    buf
}

/// Lengths of requests are below 2 GiB.
pub(super) fn usize_of(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
