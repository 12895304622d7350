//! `map`: which runs of an image are stored, in which file of its chain, and where.

use block_core::driver::{Child, Status, StatusKind};
use block_core::error::Result;

use crate::image::Image;
use crate::opts::image::{ImageArgs, ImageName, OpenHow, is_format, one_name};
use crate::opts::number;
use crate::opts::output::Output;
use crate::report::{Failure, Outcome, chain_text, out, outln};
use crate::session;

/// Show which parts of an image are stored, and where
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// First byte to show
    #[arg(short, long, value_name = "OFFSET", default_value = "0")]
    start_offset: String,
    /// Bytes to show
    #[arg(short = 'l', long, value_name = "LEN")]
    max_length: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "human|json")]
    output: Output,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

/// A run of bytes that are stored alike.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    start: u64,
    len: u64,
    /// Backing files down to the image that decides.
    depth: u32,
    /// Whether that image has the run at all.
    present: bool,
    /// Whether it reads as zeroes.
    zero: bool,
    /// Whether bytes are stored for it.
    data: bool,
    compressed: bool,
    /// The file that holds it as it is, and where.
    place: Option<(String, u64)>,
}

impl Entry {
    /// Whether `next` goes on where this ends.
    fn continues(&self, next: &Entry) -> bool {
        let places_follow = match (&self.place, &next.place) {
            (None, None) => true,
            (Some((file, at)), Some((next_file, next_at))) => {
                file == next_file && at + self.len == *next_at
            }
            (None, Some(_)) | (Some(_), None) => false,
        };
        places_follow
            && (
                self.depth,
                self.present,
                self.zero,
                self.data,
                self.compressed,
            ) == (
                next.depth,
                next.present,
                next.zero,
                next.data,
                next.compressed,
            )
    }

    fn json(&self) -> String {
        let place = self.place.as_ref();
        let offset = place.map_or(String::new(), |(_, at)| format!(", \"offset\": {at}"));
        format!(
            "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \
             \"data\": {}, \"compressed\": {}{offset}}}",
            self.start, self.len, self.depth, self.present, self.zero, self.data, self.compressed
        )
    }

    /// A line for a run with data; nothing for the others.
    fn line(&self) -> Result<Option<String>, Failure> {
        match &self.place {
            _ if !self.data => Ok(None),
            None => Err(Failure::new(
                "File contains external, encrypted or compressed clusters.",
            )),
            Some(_) if self.zero => Ok(None),
            Some((file, at)) => {
                // C's `%#x` writes zero without a prefix.
                let hex = |number: u64| match number {
                    0 => "0".to_owned(),
                    number => format!("{number:#x}"),
                };
                let (start, len, at) = (hex(self.start), hex(self.len), hex(*at));
                Ok(Some(format!("{start:<16}{len:<16}{at:<16}{file}")))
            }
        }
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let start = number::size(&args.start_offset, "start offset")?;
    let most = args
        .max_length
        .as_deref()
        .map(|len| number::size(len, "max length"));
    let most = most.transpose()?;
    session::run(&args.image.session, async |session| {
        let how = OpenHow::read(&args.image).metadata_only();
        let image = Image::open(session, &name, "image", how).await?;
        let node = image.node()?;
        let end = most.map_or(node.len(), |len| node.len().min(start.saturating_add(len)));
        let mut printer = Printer::start(args.output);
        let mut at = start;
        while at < end {
            let entry = first_entry(&node, at, end).await.map_err(|error| {
                Failure::new(format!(
                    "Could not read file metadata: {}",
                    chain_text(&error)
                ))
            })?;
            at += entry.len;
            printer.add(entry)?;
        }
        printer.finish()?;
        Ok(0)
    })
}

/// What the first bytes of a range are, through the chain below `top`.
async fn first_entry(top: &Child, start: u64, end: u64) -> Result<Entry> {
    let (mut node, mut end, mut depth) = (top.clone(), end, 0);
    loop {
        let run = own_status(&node, start, end.min(node.len())).await?;
        let Stored { status, place } = run;
        let entry = |present, zero, data| Entry {
            start,
            len: status.len,
            depth,
            present,
            zero,
            data,
            compressed: status.compressed,
            place: place.clone(),
        };
        match (status.kind, node.backing()) {
            (StatusKind::Data, _) => return Ok(entry(true, false, true)),
            (StatusKind::Zero, _) => return Ok(entry(true, true, false)),
            (StatusKind::Unallocated, Some(backing)) if start < backing.len() => {
                end = start + status.len;
                node = backing;
                depth += 1;
            }
            (StatusKind::Unallocated, _) => return Ok(entry(false, true, false)),
        }
    }
}

struct Stored {
    status: Status,
    place: Option<(String, u64)>,
}

/// What one image of the chain says; nodes that only shift their file are looked through.
async fn own_status(node: &Child, start: u64, end: u64) -> Result<Stored> {
    let (mut below, mut shift) = (node.clone(), 0);
    while let Some((edge, by)) = below.node().driver().shifted_child() {
        below = below.child(edge);
        shift += by;
    }
    let status = below.status(start + shift..end + shift).await?;
    let place = match status.child {
        Some((edge, at)) => Some((below.child(edge).node().facts().filename.clone(), at)),
        // A protocol node holds the bytes itself.
        None if is_protocol(&below) => Some((below.node().facts().filename.clone(), start + shift)),
        None => None,
    };
    Ok(Stored { status, place })
}

fn is_protocol(node: &Child) -> bool {
    let driver = node.node().driver().format_name().parse();
    driver.is_ok_and(|driver| !is_format(driver))
}

/// Joins runs, and prints each when the next cannot be joined to it.
struct Printer {
    output: Output,
    current: Option<Entry>,
}

impl Printer {
    fn start(output: Output) -> Printer {
        match output {
            Output::Human => outln!("{:<16}{:<16}{:<16}File", "Offset", "Length", "Mapped to"),
            Output::Json => out!("["),
        }
        Printer {
            output,
            current: None,
        }
    }

    fn add(&mut self, mut next: Entry) -> Result<(), Failure> {
        if self.output == Output::Human && (next.zero || !next.data) {
            // Lists for people do not tell kinds of zeroes apart.
            next.data = false;
            next.zero = true;
        }
        match &mut self.current {
            Some(current) if current.continues(&next) => current.len += next.len,
            current => {
                if let Some(done) = current.replace(next) {
                    self.print(&done, ",\n")?;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Failure> {
        if let Some(last) = self.current.take() {
            self.print(&last, "")?;
        }
        if self.output == Output::Json {
            outln!("]");
        }
        Ok(())
    }

    fn print(&self, entry: &Entry, separator: &str) -> Result<(), Failure> {
        match self.output {
            Output::Human => {
                if let Some(line) = entry.line()? {
                    outln!("{line}");
                }
            }
            Output::Json => out!("{}{separator}", entry.json()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: u64, len: u64, at: u64) -> Entry {
        Entry {
            start,
            len,
            depth: 1,
            present: true,
            zero: false,
            data: true,
            compressed: false,
            place: Some(("a".to_owned(), at)),
        }
    }

    #[test]
    fn runs_join_when_their_places_follow() {
        let run = entry(0, 10, 100);
        assert!(run.continues(&entry(10, 5, 110)));
        assert!(!run.continues(&entry(10, 5, 111)));
        let elsewhere = Entry {
            place: Some(("b".to_owned(), 110)),
            ..entry(10, 5, 110)
        };
        assert!(!run.continues(&elsewhere));
        let deeper = Entry {
            depth: 2,
            ..entry(10, 5, 110)
        };
        assert!(!run.continues(&deeper));
    }

    #[test]
    fn lines_are_columns_of_16() {
        let line = entry(0, 0x10000, 0x50000).line().unwrap().unwrap();
        assert_eq!(line, "0               0x10000         0x50000         a");
        let compressed = Entry {
            compressed: true,
            place: None,
            ..entry(0, 1, 0)
        };
        assert!(compressed.line().is_err());
    }
}
