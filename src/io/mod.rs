//! `io`: requests to an image by hand, one command a line or `-c`.
//!
//! Not here: what the commands do (`commands.rs`).

mod commands;
mod words;

use std::io::{BufRead, Write};

use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow};
use crate::report::{self, Failure, Outcome, out};
use crate::session::{self, Session};
use block_core::error::kernel_text;

use commands::Shell;

/// Send requests to an image: read, write, flush, discard …
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Run this command instead of those on the standard input; may be repeated
    #[arg(short = 'c', long = "cmd", value_name = "COMMAND")]
    commands: Vec<String>,
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Open the image read-only
    #[arg(short, long)]
    read_only: bool,
    /// Bypass the host's page cache
    #[arg(short, long)]
    nocache: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// How I/O reaches the kernel: threads, native, io_uring
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let [filename] = args.filename.as_slice() else {
        return Err(Failure::usage("Expecting one image file name"));
    };
    if args.image.image_opts && args.format.is_some() {
        return Err(Failure::new("--image-opts and -f are mutually exclusive"));
    }
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let how = how(&args)?;
    session::run(&args.image.session, async |session| {
        let opened = Image::open_unprefixed(session, &name, "image", how).await;
        let device = if args.image.image_opts {
            "can't open".to_owned()
        } else {
            format!("can't open device {filename}")
        };
        let image = opened.map_err(|failure| failure.while_doing(&device))?;
        run_all(session, image, &args).await
    })
}

fn how(args: &Args) -> Result<OpenHow, Failure> {
    let writethrough = CacheMode::parse("writethrough", "cache")?;
    let cache = match (&args.cache, args.nocache) {
        (Some(name), _) => CacheMode::parse(name, "cache")?,
        (None, true) => CacheMode::parse("none", "cache")?,
        (None, false) => writethrough,
    };
    let aio = match args.aio.as_deref() {
        None => None,
        Some("threads") => Some("threads"),
        Some("native") => Some("native"),
        Some("io_uring") => Some("io_uring"),
        Some(other) => return Err(Failure::new(format!("Invalid aio option: {other}"))),
    };
    let access = if args.read_only {
        Access::Read
    } else {
        Access::Write
    };
    Ok(OpenHow {
        access,
        aio,
        ..OpenHow::read(&args.image).with_cache(cache)
    })
}

async fn run_all(session: &Session, image: Image, args: &Args) -> Outcome {
    let mut shell = Shell::new(session, image);
    let mut failed = false;
    if args.commands.is_empty() {
        let mut lines = std::io::stdin().lock().lines();
        while !shell.has_quit() {
            prompt();
            let Some(line) = lines.next() else { break };
            let line = line.map_err(|error| Failure::new(kernel_text(&error)))?;
            failed |= shell.run(&line).await.is_err();
        }
    }
    for command in &args.commands {
        if shell.has_quit() {
            break;
        }
        failed |= shell.run(command).await.is_err();
    }
    shell.settle().await;
    Ok(u8::from(failed))
}

fn prompt() {
    out!("{}> ", report::program());
    // A closed pipe shows when the results are printed.
    std::io::stdout().flush().ok();
}
