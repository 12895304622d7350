//! `resize`: sets the length of an image.

use block_core::driver::Preallocation;

use crate::image::Image;
use crate::opts::create::preallocation_of;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::size::parse_size;
use crate::report::{self, Failure, Outcome, outln};
use crate::session::{self, Session};

/// Set the length of an image
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Let the image become shorter
    #[arg(long)]
    shrink: bool,
    /// What to allocate of new space: off, metadata, falloc, full
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: String,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Option<String>,
    /// Its new length; + or - make it a difference
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true)]
    size: Option<String>,
}

/// A new length as the user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Exactly(u64),
    LongerBy(u64),
    ShorterBy(u64),
}

pub(crate) fn run(args: Args) -> Outcome {
    let (Some(filename), Some(size)) = (&args.filename, &args.size) else {
        return Err(Failure::usage("Expecting image file name and size"));
    };
    let preallocation = preallocation_of(&args.preallocation)?;
    let length = parse_length(size)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    session::run(&args.image.session, async |session| {
        let image = Image::open(session, &name, "image", OpenHow::write(&args.image)).await?;
        resize(session, &image, length, preallocation, &args).await?;
        if !args.quiet {
            outln!("Image resized.");
        }
        Ok(0)
    })
}

fn parse_length(text: &str) -> Result<Length, Failure> {
    let size = |digits| {
        parse_size(digits).map_err(|_| {
            Failure::new(
                "Parameter 'size' expects a non-negative number below 2^64\n\
                 Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                 and exabytes, respectively.",
            )
        })
    };
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(digits), _) => size(digits).map(Length::LongerBy),
        (_, Some(digits)) => size(digits).map(Length::ShorterBy),
        (None, None) => size(text).map(Length::Exactly),
    }
}

async fn resize(
    session: &Session,
    image: &Image,
    length: Length,
    preallocation: Preallocation,
    args: &Args,
) -> Result<(), Failure> {
    let current = image.len()?;
    let new = match length {
        Length::Exactly(len) => Some(len),
        Length::LongerBy(bytes) => current.checked_add(bytes),
        Length::ShorterBy(bytes) => current.checked_sub(bytes),
    };
    let Some(new) = new.filter(|&len| len > 0 && len <= i64::MAX.unsigned_abs()) else {
        return Err(Failure::new("New image size must be positive"));
    };
    if new <= current && preallocation != Preallocation::Off {
        return Err(Failure::new(
            "Preallocation can only be used for growing images",
        ));
    }
    if new < current && !args.shrink {
        let failure = Failure::new("Use the --shrink option to perform a shrink operation.");
        report::error(failure.text());
        report::warning(
            "Shrinking an image will delete all data beyond the shrunken image's end. Before \
             performing such an operation, make sure there is no important data there.",
        );
        return Err(Failure::reported());
    }
    // Images end on sectors, whatever their files do.
    let new = new.next_multiple_of(512);
    session
        .layer()
        .resize(session.queue(), image.id(), new, preallocation)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_make_differences() {
        assert_eq!(parse_length("1M").unwrap(), Length::Exactly(1 << 20));
        assert_eq!(parse_length("+1k").unwrap(), Length::LongerBy(1024));
        assert_eq!(parse_length("-512").unwrap(), Length::ShorterBy(512));
        assert!(parse_length("+-1").is_err());
        assert!(parse_length("x").is_err());
    }
}
