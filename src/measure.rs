//! `measure`: how large an image's file becomes, before it is made.

use block_core::driver::{Child, Preallocation, StatusKind};
use block_drivers::format::qcow2;
use block_schema::types::BlockdevDriver;
use block_schema::{Object, Value};

use crate::convert::show_snapshot;
use crate::create::{NewImage, creatable_format};
use crate::image::Image;
use crate::opts::create::CreateOptions;
use crate::opts::image::{ImageArgs, ImageName, OpenHow};
use crate::opts::number;
use crate::opts::output::Output;
use crate::order;
use crate::report::{self, Failure, Outcome, chain_text, outln};
use crate::session::{self, Session};

/// Tell how large the file of a new image would be
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the source; guessed if not given
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the new image
    #[arg(short = 'O', long, value_name = "FMT", default_value = "raw")]
    target_format: String,
    /// Options of the new image: key=value,…
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Measure what the source was in a snapshot
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Length of the new image's disk, instead of a source
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "human|json")]
    output: Output,
    #[command(flatten)]
    image: ImageArgs,
    /// The source
    #[arg(value_name = "FILENAME")]
    filenames: Vec<String>,
}

/// What an image takes.
struct Measure {
    required: u64,
    fully_allocated: u64,
    /// For bitmaps, where both images can have some.
    bitmaps: Option<u64>,
}

pub(crate) fn run(args: Args) -> Outcome {
    let size = args
        .size
        .as_deref()
        .map(|size| number::size(size, "image size"));
    let size = size.transpose()?;
    let needs_file = args.image.image_opts || args.format.is_some() || args.snapshot.is_some();
    let filename = match (args.filenames.as_slice(), size) {
        ([_, _, ..], _) => return Err(Failure::new("At most one filename argument is allowed.")),
        ([], _) if needs_file => {
            let text = "--image-opts, -f, and -l require a filename argument.";
            return Err(Failure::new(text));
        }
        ([_], Some(_)) => {
            let text = "--size N cannot be used together with a filename.";
            return Err(Failure::new(text));
        }
        ([], None) => {
            let text = "Either --size N or one filename must be specified.";
            return Err(Failure::new(text));
        }
        (names, _) => names.first(),
    };
    session::run(&args.image.session, async |session| {
        let source = match filename {
            Some(filename) => Some(open(session, filename, &args).await?),
            None => None,
        };
        let measure = measure(session, source.as_ref(), size, &args).await?;
        print(&measure, args.output);
        Ok(0)
    })
}

async fn open(session: &Session, filename: &str, args: &Args) -> Result<Image, Failure> {
    let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
    let image = Image::open(session, &name, "source", OpenHow::read(&args.image)).await?;
    if let Some(snapshot) = &args.snapshot {
        show_snapshot(session, &image, snapshot).await?;
    }
    Ok(image)
}

async fn measure(
    session: &Session,
    source: Option<&Image>,
    size: Option<u64>,
    args: &Args,
) -> Result<Measure, Failure> {
    let format = creatable_format(&args.target_format)?;
    let options = CreateOptions::parse(&args.options, format).map_err(|failure| {
        report::error(failure.text());
        Failure::new(format!("Invalid options for file format '{format}'"))
    })?;
    let mut new = NewImage {
        filename: String::new(),
        format,
        options,
    };
    let given = size.or(new.options.size);
    new.options.size = match source {
        Some(source) => Some(source.len()?),
        None => given,
    };
    if format == BlockdevDriver::Raw {
        let required = new.len();
        return Ok(Measure {
            required,
            fully_allocated: required,
            bitmaps: None,
        });
    }
    let has_backing = new.options.backing_file.take().is_some();
    new.options.backing_fmt = None;
    let options = new.qcow2_options(session)?;
    if options.encryption.is_some() {
        return Err(Failure::new("measuring encrypted images is not built in"));
    }
    let fully_allocated = qcow2::fully_allocated(&options)?;
    let disk = options.size.next_multiple_of(options.cluster_size);
    let required = match (source, options.preallocation) {
        (_, Preallocation::Full | Preallocation::Falloc) => disk,
        (None, _) => 0,
        // Nobody knows what the backing file has of the source.
        (Some(_), _) if has_backing => disk,
        (Some(source), _) => stored(&source.node()?, options.cluster_size).await?,
    };
    let takes_bitmaps = match source {
        Some(source) => has_bitmaps(&source.node()?) && options.version == qcow2::Version::V3,
        None => false,
    };
    let bitmaps = match source.filter(|_| takes_bitmaps) {
        Some(source) => Some(bitmaps_size(&source.node()?, options.cluster_size)),
        None => None,
    };
    Ok(Measure {
        // Tables for the whole disk are counted all the same.
        required: fully_allocated - disk + required,
        fully_allocated,
        bitmaps,
    })
}

/// Bytes of clusters that hold data of a source.
async fn stored(source: &Child, cluster_size: u64) -> Result<u64, Failure> {
    let (mut at, mut bytes) = (0, 0);
    while at < source.len() {
        let run = source
            .chain_status(at..source.len())
            .await
            .map_err(|error| {
                Failure::new(format!(
                    "Unable to get block status: {}",
                    chain_text(&error)
                ))
            })?;
        let mut len = run.len;
        if run.kind == StatusKind::Data {
            len = (at + len).next_multiple_of(cluster_size) - at;
            bytes += at % cluster_size + len;
        }
        at += len;
    }
    Ok(bytes)
}

/// Bytes that the bitmaps of a source take in an image, all their bits stored.
fn bitmaps_size(source: &Child, cluster_size: u64) -> u64 {
    // Bytes of an entry's fixed part.
    const ENTRY: u64 = 24;
    let all = source.node().bitmaps().all();
    let (mut clusters, mut directory) = (0, 0);
    for bitmap in all.iter().filter(|bitmap| bitmap.is_persistent()) {
        let bits = source.len().div_ceil(u64::from(bitmap.granularity()));
        let data = bits.div_ceil(8).div_ceil(cluster_size);
        clusters += data + (data * 8).div_ceil(cluster_size);
        directory += (ENTRY + bitmap.name().len() as u64).next_multiple_of(8);
    }
    (clusters + directory.div_ceil(cluster_size)) * cluster_size
}

/// Whether a format can store bitmaps; those that do are version 3 of qcow2.
pub(crate) fn has_bitmaps(source: &Child) -> bool {
    use block_schema::types::ImageInfoSpecific as Specific;
    match source.node().driver().describe().format_specific {
        Some(Specific::Qcow2(specific)) => specific.compat == "1.1",
        Some(_) | None => false,
    }
}

fn print(measure: &Measure, output: Output) {
    match output {
        Output::Human => {
            outln!("required size: {}", measure.required);
            outln!("fully allocated size: {}", measure.fully_allocated);
            if let Some(bitmaps) = measure.bitmaps {
                outln!("bitmaps size: {bitmaps}");
            }
        }
        Output::Json => {
            let mut object = Object::new();
            object.insert("required", measure.required);
            object.insert("fully-allocated", measure.fully_allocated);
            if let Some(bitmaps) = measure.bitmaps {
                object.insert("bitmaps", bitmaps);
            }
            outln!("{}", order::pretty_json(&Value::Object(object)));
        }
    }
}
