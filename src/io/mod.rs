//! `io`: requests to an image by hand, one command a line or `-c`.
//!
//! Not here: which commands there are (`table.rs`) and what they do (`commands.rs`, `files.rs`).

mod commands;
mod files;
mod how;
mod request;
mod table;
mod words;

use std::io::{BufRead, Write};

use crate::opts::image::ImageArgs;
use crate::report::{self, Failure, Outcome, out};
use crate::session;
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
    /// Write to a temporary overlay, which goes in the end
    #[arg(short, long)]
    snapshot: bool,
    /// Bypass the host's page cache
    #[arg(short, long)]
    nocache: bool,
    /// Cache mode
    #[arg(short = 't', long, value_name = "CACHE")]
    cache: Option<String>,
    /// How I/O reaches the kernel: threads, native, io_uring
    #[arg(short = 'i', long, value_name = "AIO")]
    aio: Option<String>,
    /// What becomes of discards: unmap, ignore
    #[arg(short, long, value_name = "MODE")]
    discard: Option<String>,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let filename = match args.filename.as_slice() {
        [] => None,
        [filename] => Some(filename),
        _ => return Err(Failure::usage("Expecting one image file name")),
    };
    if args.image.image_opts && args.format.is_some() {
        return Err(Failure::new("--image-opts and -f are mutually exclusive"));
    }
    session::run(&args.image.session, async |session| {
        let mut shell = Shell::new(session, &args);
        if let Some(filename) = filename {
            shell.open_first(filename).await?;
        }
        run_all(shell, &args).await
    })
}

async fn run_all(mut shell: Shell<'_>, args: &Args) -> Outcome {
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
