//! `dd`: copies blocks from an image to a new one, with the operands of `dd`.
//!
//! Not here: copies that skip holes (`convert`).

use block_core::IoBuf;
use block_core::error::Error;

use crate::create::{NewImage, creatable_format};
use crate::image::{Durable, Image, errno_text};
use crate::opts::create::CreateOptions;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::number;
use crate::report::{self, Failure, Outcome};
use crate::session::{self, Session};

/// Bytes of a block at most.
const MAX_BLOCK: u64 = 0x7fff_ffff;

/// Bytes of a request: what is larger than a block is written in several.
const PIECE: u64 = 2 << 20;

/// Copy blocks of an image to a new one: if=, of=, bs=, count=, skip=
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the source; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the new image
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    target_format: String,
    #[command(flatten)]
    image: ImageArgs,
    /// if=SOURCE of=TARGET [bs=BYTES] [count=BLOCKS] [skip=BLOCKS]
    #[arg(value_name = "OPERANDS")]
    operands: Vec<String>,
}

/// The operands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Operands {
    source: Option<String>,
    target: Option<String>,
    block: Option<u64>,
    count: Option<u64>,
    skip: Option<u64>,
}

impl Operands {
    fn parse(words: &[String]) -> Result<Operands, Failure> {
        let mut operands = Operands::default();
        let any = 0..=i64::MAX.unsigned_abs();
        for word in words {
            let unknown = |name: &str| Failure::new(format!("unrecognized operand {name}"));
            let (name, value) = word.split_once('=').ok_or_else(|| unknown(word))?;
            match name {
                "if" => operands.source = Some(value.to_owned()),
                "of" => operands.target = Some(value.to_owned()),
                "bs" => operands.block = Some(number::bounded(value, "bs", 1..=MAX_BLOCK)?),
                "count" => operands.count = Some(number::bounded(value, "count", any.clone())?),
                "skip" => operands.skip = Some(number::bounded(value, "skip", any.clone())?),
                name => return Err(unknown(name)),
            }
        }
        Ok(operands)
    }

    /// The bytes to copy of a source of `len`: from where, and to where.
    fn range(&self, len: u64) -> (u64, u64) {
        let block = self.block.unwrap_or(512);
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        let end = self.count.map_or(len, |count| bytes(count).min(len));
        (bytes(self.skip.unwrap_or(0)), end)
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    let operands = Operands::parse(&args.operands)?;
    let (Some(source), Some(target)) = (&operands.source, &operands.target) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    let name = ImageName::new(source, args.format.as_deref(), &args.image)?;
    session::run(&args.image.session, async |session| {
        let source = Image::open(session, &name, "source", OpenHow::read(&args.image)).await?;
        let (mut start, end) = operands.range(source.len()?);
        let target = make_target(session, target, end.saturating_sub(start), &args).await?;
        if start > end {
            report::error(&format!("{}: cannot skip to specified offset", name.text));
            start = end;
        }
        copy(&source, &target, start..end).await?;
        target.close().await?;
        Ok(0)
    })
}

async fn make_target(
    session: &Session,
    filename: &str,
    len: u64,
    args: &Args,
) -> Result<Image, Failure> {
    let format = creatable_format(&args.target_format)?;
    let options = CreateOptions {
        size: Some(len),
        ..CreateOptions::parse(&[], format)?
    };
    let new = NewImage {
        filename: filename.to_owned(),
        format,
        options,
    };
    let created = new.create(session).await;
    created.map_err(|failure| {
        failure.while_doing(&format!("{filename}: error while creating output image"))
    })?;
    let plain = ImageArgs {
        image_opts: false,
        force_share: false,
        ..args.image.clone()
    };
    let name = ImageName::new(filename, Some(format.as_str()), &plain)?;
    Image::open(session, &name, "target", OpenHow::write(&plain)).await
}

async fn copy(source: &Image, target: &Image, range: std::ops::Range<u64>) -> Result<(), Failure> {
    let failed = |what: &str, error: &Error| {
        let why = errno_text(error);
        Failure::new(format!("error while {what} image file: {why}"))
    };
    let mut at = range.start;
    while at < range.end {
        let len = PIECE.min(range.end - at);
        let buf = IoBuf::zeroed(usize::try_from(len).unwrap_or(0));
        let read = source.read(at, buf).await;
        let buf = read.map_err(|error| failed("reading from input", &error))?;
        let written = target.write(at - range.start, buf, Durable::Later).await;
        written.map_err(|error| failed("writing to output", &error))?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &[&str], len: u64, want: Result<(u64, u64), &str>) {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let got = Operands::parse(&words).map(|operands| operands.range(len));
        assert_eq!(
            got.as_ref().map_err(Failure::text),
            want.as_ref().map_err(|&text| text)
        );
    }

    #[test]
    fn blocks_are_counted_from_the_start() {
        check(&["if=a", "of=b"], 1000, Ok((0, 1000)));
        check(&["bs=1k", "count=2"], 4096, Ok((0, 2048)));
        check(&["bs=1k", "count=3", "skip=1"], 4096, Ok((1024, 3072)));
        check(&["bs=1M", "count=9"], 4096, Ok((0, 4096)));
        check(&["skip=9"], 512, Ok((9 * 512, 512)));
    }

    #[test]
    fn words_that_are_no_operands_are_named() {
        check(&["conv=sync"], 0, Err("unrecognized operand conv"));
        check(&["if"], 0, Err("unrecognized operand if"));
        check(&["bs=x"], 0, Err("Invalid bs specified: 'x'."));
    }
}
