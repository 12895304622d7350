//! `create`: makes a new image. `convert` and `serve` make theirs here, too.

use std::path::PathBuf;
use std::sync::Arc;

use block_core::Backend;
use block_core::driver::Preallocation;
use block_core::error::kernel_text;
use block_core::graph::{NodeId, info};
use block_drivers::format::qcow2;
use block_drivers::protocol::file;
use block_schema::types::{
    BlockdevDriver, BlockdevOptions, BlockdevOptionsBranch, BlockdevOptionsFile,
};

use crate::image::{self, Image};
use crate::opts::create::CreateOptions;
use crate::opts::create_help as help;
use crate::opts::image::{Backing, ImageArgs, ImageName, OpenHow, SessionArgs};
use crate::opts::number;
use crate::report::{Failure, Outcome, outln};
use crate::session::{self, Session};

/// Make a new image
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Format of the new image: raw, qcow2
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: String,
    /// Options of the format: key=value,…
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The image's backing file
    #[arg(short, long, value_name = "FILENAME")]
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<String>,
    /// Do not open the backing file
    #[arg(short = 'u', long)]
    backing_unsafe: bool,
    /// Print errors only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    session: SessionArgs,
    /// The image, and the length of its disk
    #[arg(value_name = "FILENAME [SIZE]")]
    operands: Vec<String>,
}

/// An image to be made.
pub(crate) struct NewImage {
    pub(crate) filename: String,
    pub(crate) format: BlockdevDriver,
    pub(crate) options: CreateOptions,
}

pub(crate) fn run(args: Args) -> Outcome {
    if help::is_asked_for(&args.options) {
        return help::print(creatable_format(&args.format)?, !args.operands.is_empty());
    }
    let (filename, size) = match args.operands.as_slice() {
        [filename] => (filename, None),
        [filename, size] => (filename, Some(number::size(size, "image size")?)),
        [_, _, unexpected, ..] => {
            return Err(Failure::usage(&format!(
                "Unexpected argument: {unexpected}"
            )));
        }
        [] => return Err(Failure::usage("Expecting image file name")),
    };
    session::run(&args.session, async |session| {
        create(session, filename, size, &args)
            .await
            .map_err(|failure| failure.while_doing(filename))?;
        Ok(0)
    })
}

async fn create(
    session: &Session,
    filename: &str,
    size: Option<u64>,
    args: &Args,
) -> Result<(), Failure> {
    let format = creatable_format(&args.format)?;
    let mut options = CreateOptions::parse(&args.options, format)?;
    if options.size.is_some() && size.is_some() {
        return Err(Failure::new("The image size must be specified only once"));
    }
    options.size = options.size.or(size);
    set_backing(
        &mut options,
        format,
        args.backing.as_deref(),
        args.backing_format.as_deref(),
    )?;
    let mut new = NewImage {
        filename: filename.to_owned(),
        format,
        options,
    };
    if !args.backing_unsafe {
        new.look_at_backing(session, &args.session).await?;
    }
    if new.options.size.is_none() {
        return Err(Failure::new("Image creation needs a size parameter"));
    }
    if !args.quiet {
        outln!("{}", new.options.line(filename, format));
    }
    new.create(session).await
}

/// The format of a new image by its name.
///
/// # Errors
/// A name that no driver has, or that of a driver which makes no images.
pub(crate) fn creatable_format(name: &str) -> Result<BlockdevDriver, Failure> {
    let format: BlockdevDriver = name
        .parse()
        .map_err(|_| Failure::new(format!("Unknown file format '{name}'")))?;
    match format {
        BlockdevDriver::Raw | BlockdevDriver::Qcow2 => Ok(format),
        other => Err(Failure::new(format!(
            "Format driver '{other}' does not support image creation"
        ))),
    }
}

/// Sets the backing file that options of their own name (`-b`, `-B`, `-F`).
///
/// # Errors
/// When the format has none.
pub(crate) fn set_backing(
    options: &mut CreateOptions,
    format: BlockdevDriver,
    file: Option<&str>,
    file_format: Option<&str>,
) -> Result<(), Failure> {
    let refused = |what: &str| {
        Err(Failure::new(format!(
            "{what} not supported for file format '{format}'"
        )))
    };
    if format == BlockdevDriver::Raw {
        return match (file, file_format) {
            (Some(_), _) => refused("Backing file"),
            (None, Some(_)) => refused("Backing file format"),
            (None, None) => Ok(()),
        };
    }
    if let Some(file) = file {
        options.backing_file = Some(file.to_owned());
    }
    if let Some(file_format) = file_format {
        options.backing_fmt = Some(file_format.to_owned());
    }
    Ok(())
}

impl NewImage {
    /// Opens the backing file, which must be there, and takes its length where none was given.
    async fn look_at_backing(
        &mut self,
        session: &Session,
        around: &SessionArgs,
    ) -> Result<(), Failure> {
        let Some(backing) = self.options.backing_file.clone() else {
            return Ok(());
        };
        let full = info::name_from(&self.filename, &backing);
        let args = ImageArgs {
            image_opts: false,
            force_share: false,
            session: around.clone(),
        };
        let format = self.options.backing_fmt.as_deref();
        let name = ImageName::new(&full, format, &args)?;
        let how = OpenHow {
            backing: Backing::Ignore,
            ..OpenHow::read(&args).metadata_only()
        };
        let not_opened = |failure: Failure| {
            Failure::new(format!("{}\nCould not open backing image.", failure.text()))
        };
        if format.is_none() {
            let guessed = image::guess_format(session, &name, how).await;
            let guessed = guessed.map_err(not_opened)?;
            return Err(Failure::new(format!(
                "Backing file specified without backing format\nDetected format of {guessed}."
            )));
        }
        let opened = Image::open_unprefixed(session, &name, "backing", how).await;
        let image = opened.map_err(not_opened)?;
        self.options.size = self.options.size.or(Some(image.len()?));
        image.close().await?;
        Ok(())
    }

    /// Makes the image; what was in the file is lost.
    ///
    /// # Errors
    /// What is wrong with the options; what the kernel says.
    pub(crate) async fn create(&self, session: &Session) -> Result<(), Failure> {
        let filename = &self.filename;
        let path = PathBuf::from(path_of(filename));
        let nocow = self.options.nocow == Some(true);
        match self.format {
            BlockdevDriver::Raw => {
                let preallocation = self.options.preallocation.unwrap_or(Preallocation::Off);
                create_file(session, path, self.len(), preallocation, nocow).await
            }
            BlockdevDriver::Qcow2 => {
                let options = self.qcow2_options(session)?;
                // Before what was in the file is lost.
                options.validate().map_err(told)?;
                let mut emptied = Vec::new();
                let made = async {
                    for path in [Some(path), options.data_file.as_ref().map(PathBuf::from)] {
                        let Some(path) = path else { continue };
                        create_file(session, path.clone(), 0, Preallocation::Off, nocow).await?;
                        emptied.push(path);
                    }
                    self.format_qcow2(session, &options).await
                };
                let made = made.await;
                if made.is_err() {
                    remove_files(session, emptied).await;
                }
                made
            }
            other => Err(Failure::new(format!(
                "creating {other} images is not built in"
            ))),
        }
    }

    /// Bytes of the guest's disk; disks are made of sectors.
    pub(crate) fn len(&self) -> u64 {
        self.options.size.unwrap_or(0).next_multiple_of(512)
    }

    /// The options of a qcow2 image.
    ///
    /// # Errors
    /// What is wrong with them, or not built in.
    pub(crate) fn qcow2_options(&self, session: &Session) -> Result<qcow2::CreateOptions, Failure> {
        let given = &self.options;
        let defaults = qcow2::CreateOptions::default();
        Ok(qcow2::CreateOptions {
            size: self.len(),
            version: match given.compat.as_deref() {
                None => defaults.version,
                Some("0.10" | "v2") => qcow2::Version::V2,
                Some("1.1" | "v3") => qcow2::Version::V3,
                Some(other) => return Err(not_accepted("version", other)),
            },
            cluster_size: given.cluster_size.unwrap_or(defaults.cluster_size),
            refcount_bits: given.refcount_bits.unwrap_or(defaults.refcount_bits),
            lazy_refcounts: given.lazy_refcounts.unwrap_or(defaults.lazy_refcounts),
            compression: match given.compression_type.as_deref() {
                None => defaults.compression,
                Some("zlib") => qcow2::Compression::Deflate,
                Some("zstd") => qcow2::Compression::Zstd,
                Some(other) => return Err(not_accepted("compression-type", other)),
            },
            backing_file: given.backing_file.clone(),
            backing_format: given.backing_fmt.clone(),
            preallocation: given.preallocation.unwrap_or(defaults.preallocation),
            extended_l2: given.extended_l2.unwrap_or(defaults.extended_l2),
            data_file: given.data_file.as_deref().map(path_of),
            data_file_raw: given.data_file_raw.unwrap_or(false),
            encryption: given.encrypt.encryption(session.layer().secrets())?,
        })
    }

    async fn format_qcow2(
        &self,
        session: &Session,
        options: &qcow2::CreateOptions,
    ) -> Result<(), Failure> {
        let (queue, layer) = (session.queue(), session.layer());
        let file = NewFile::open(session, path_of(&self.filename), "new-file").await?;
        let node = layer.node(queue, file.node)?;
        let created = match &options.data_file {
            None => qcow2::create(queue, node, options).await,
            Some(name) => {
                let data = NewFile::open(session, name.clone(), "new-data").await?;
                let data_node = layer.node(queue, data.node)?;
                let created = qcow2::create_with_data_file(queue, node, data_node, options).await;
                data.close(session).await?;
                created
            }
        };
        file.close(session).await?;
        Ok(created?)
    }
}

/// A file that becomes part of an image.
struct NewFile {
    node: NodeId,
    /// Holds the file's locks.
    user: Arc<Backend>,
}

impl NewFile {
    async fn open(session: &Session, path: String, name: &str) -> Result<NewFile, Failure> {
        let branch = BlockdevOptionsBranch::File(BlockdevOptionsFile::new(path));
        let mut file = BlockdevOptions::new(branch);
        file.node_name = Some(name.to_owned());
        let node = session.layer().blockdev_add(session.queue(), file).await?;
        let user = session.layer().add_backend("", node, false).await?;
        Ok(NewFile { node, user })
    }

    async fn close(self, session: &Session) -> Result<(), Failure> {
        session.layer().remove_backend(&self.user).await;
        let removed = session.layer().remove_node(session.queue(), self.node);
        Ok(removed.await?)
    }
}

/// The path that a file's name stands for.
fn path_of(name: &str) -> String {
    name.strip_prefix("file:").unwrap_or(name).to_owned()
}

/// Reasons are told as they are.
pub(crate) fn told(error: block_core::Error) -> Failure {
    match error {
        block_core::Error::InvalidOption { reason, .. } => Failure::new(reason),
        error => error.into(),
    }
}

fn not_accepted(parameter: &str, value: &str) -> Failure {
    Failure::new(format!(
        "Parameter '{parameter}' does not accept value '{value}'"
    ))
}

/// Removes what is no image, and what it was is lost already.
async fn remove_files(session: &Session, paths: Vec<PathBuf>) {
    let queue = session.queue();
    let removed = queue.blocking(move || paths.iter().try_for_each(std::fs::remove_file));
    // What went wrong before is the error to tell.
    removed.await.ok();
}

async fn create_file(
    session: &Session,
    path: PathBuf,
    len: u64,
    preallocation: Preallocation,
    nocow: bool,
) -> Result<(), Failure> {
    let options = file::CreateOptions {
        path,
        len,
        preallocation,
        nocow,
    };
    let created = session.queue().blocking(move || Ok(file::create(&options)));
    match created.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(block_core::Error::Open { path, source })) => {
            let why = kernel_text(&source);
            Err(Failure::new(format!("Could not create '{path}': {why}")))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(kernel_text(&error))),
    }
}
