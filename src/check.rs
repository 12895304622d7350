//! `check`: looks for damage in an image, and repairs it.
//!
//! Exit codes: 0 clean, 1 could not check, 2 corrupt, 3 leaks only, 63 the format has no check.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use block_core::driver::{CheckReport, Repair};
use block_core::error::Error;
use block_schema::Wire;
use block_schema::types::ImageCheck;

use crate::human;
use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, ImageName, OpenHow, one_name};
use crate::opts::output::Output;
use crate::order;
use crate::progress::Progress;
use crate::report::{Failure, Outcome, chain_text, out, outln};
use crate::session::{self, Session};

/// Check an image, and repair it
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the image; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "human|json")]
    output: Output,
    /// Repair leaked clusters, or everything that can be repaired
    #[arg(short, long, value_enum, value_name = "leaks|all")]
    repair: Option<RepairArg>,
    /// Cache mode
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// Show how far the check is
    #[arg(short, long)]
    progress: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    image: ImageArgs,
    /// The image
    #[arg(value_name = "FILENAME")]
    filename: Vec<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum RepairArg {
    Leaks,
    All,
}

const NO_CHECK: u8 = 63;
/// How often progress is shown.
const INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(args: Args) -> Outcome {
    let filename = one_name(&args.filename)?;
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let cache = CacheMode::parse(&args.source_cache, "source cache")?;
    if args.progress && args.output == Output::Json {
        return Err(Failure::new("--progress cannot be used with --output=json"));
    }
    session::run(&args.image.session, async |session| {
        let mut how = OpenHow::read(&args.image).with_cache(cache).for_check();
        if args.repair.is_some() {
            how.access = Access::Write;
        }
        let image = Image::open(session, &name, "image", how).await?;
        let check = check_and_repair(session, &image, &args).await?;
        if !args.quiet {
            print(&check, &args);
        }
        exit_code(&check)
    })
}

async fn check_and_repair(
    session: &Session,
    image: &Image,
    args: &Args,
) -> Result<ImageCheck, Failure> {
    let repair = match args.repair {
        None => Repair::None,
        Some(RepairArg::Leaks) => Repair::Leaks,
        Some(RepairArg::All) => Repair::All,
    };
    let report = one_check(session, image, repair, args).await?;
    if report.corruptions_fixed == 0 && report.leaks_fixed == 0 {
        return image_check(image, &report);
    }
    if args.output == Output::Human && !args.quiet {
        outln!(
            "The following inconsistencies were found and repaired:\n\n    \
             {} leaked clusters\n    {} corruptions\n\nDouble checking the fixed image now...",
            report.leaks_fixed,
            report.corruptions_fixed
        );
    }
    let mut again = one_check(session, image, Repair::None, args).await?;
    again.leaks_fixed = report.leaks_fixed;
    again.corruptions_fixed = report.corruptions_fixed;
    image_check(image, &again)
}

async fn one_check(
    session: &Session,
    image: &Image,
    repair: Repair,
    args: &Args,
) -> Result<CheckReport, Failure> {
    let progress = Progress::start_share(args.progress && !args.quiet);
    let check = session.layer().check(session.queue(), image.id(), repair);
    let checked = watched(session, image, check, &progress).await;
    progress.finish();
    match checked {
        Ok(report) => {
            for message in &report.messages {
                eprintln!("{message}");
            }
            Ok(report)
        }
        Err(Error::Unsupported { .. }) => {
            Err(Failure::new("This image format does not support checks").with_code(NO_CHECK))
        }
        Err(error) => Err(Failure::new(format!(
            "Check failed: {}",
            chain_text(&error)
        ))),
    }
}

/// Does a check, and shows how far it is meanwhile.
async fn watched<T>(
    session: &Session,
    image: &Image,
    check: impl Future<Output = T>,
    progress: &Progress,
) -> T {
    let mut check = pin!(check);
    let mut watch = pin!(async {
        loop {
            session.queue().sleep(INTERVAL).await;
            let node = image.node().ok();
            let done = node.and_then(|node| node.node().driver().check_progress());
            if let Some(done) = done {
                progress.set_share(done.done, done.total);
            }
        }
    });
    poll_fn(|cx| {
        // It never ends.
        let _: Poll<()> = watch.as_mut().poll(cx);
        check.as_mut().poll(cx)
    })
    .await
}

fn image_check(image: &Image, report: &CheckReport) -> Result<ImageCheck, Failure> {
    let format = image.node()?.node().driver().format_name().to_owned();
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let found = |count: u64| (count > 0).then(|| signed(count));
    let clusters = report.clusters.unwrap_or_default();
    let mut check = ImageCheck::new(image.name().to_owned(), format, signed(report.check_errors));
    check.image_end_offset = report.image_end_offset.and_then(found);
    check.corruptions = found(report.corruptions);
    check.leaks = found(report.leaks);
    check.corruptions_fixed = found(report.corruptions_fixed);
    check.leaks_fixed = found(report.leaks_fixed);
    check.total_clusters = found(clusters.total);
    check.allocated_clusters = found(clusters.allocated);
    check.fragmented_clusters = found(clusters.fragmented);
    check.compressed_clusters = found(clusters.compressed);
    Ok(check)
}

fn print(check: &ImageCheck, args: &Args) {
    match args.output {
        Output::Human => out!("{}", human::image_check(check)),
        Output::Json => outln!("{}", order::pretty_json(&check.encode())),
    }
}

fn exit_code(check: &ImageCheck) -> Outcome {
    if check.check_errors > 0 {
        return Err(Failure::new("Check failed"));
    }
    match (check.corruptions, check.leaks) {
        (Some(_), _) => Ok(2),
        (None, Some(_)) => Ok(3),
        (None, None) => Ok(0),
    }
}
