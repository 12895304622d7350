//! `create`: makes a new image. `convert` and `serve` make theirs here, too.

use std::path::PathBuf;

use block_core::driver::Preallocation;
use block_drivers::protocol::file;
use block_schema::types::BlockdevDriver;

use crate::image::{self, Image};
use crate::info::name_from;
use crate::opts::create::CreateOptions;
use crate::opts::image::{Backing, ImageArgs, ImageName, ImplicitArgs, OpenHow, is_format};
use crate::opts::number;
use crate::report::{Failure, Outcome};
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
    implicit: ImplicitArgs,
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
    let implicit = args.implicit;
    session::run(implicit.policy, async |session| {
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
        new.look_at_backing(session, args.implicit).await?;
    }
    if new.options.size.is_none() {
        return Err(Failure::new("Image creation needs a size parameter"));
    }
    if !args.quiet {
        println!("{}", new.options.line(filename, format));
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
        implicit: ImplicitArgs,
    ) -> Result<(), Failure> {
        let Some(backing) = self.options.backing_file.clone() else {
            return Ok(());
        };
        let full = name_from(&self.filename, &backing);
        let args = ImageArgs {
            image_opts: false,
            force_share: false,
            implicit,
        };
        let format = self.options.backing_fmt.as_deref();
        let name = ImageName::new(&full, format, &args)?;
        let how = OpenHow {
            backing: Backing::Ignore,
            ..OpenHow::read(&args)
        };
        if format.is_none() {
            let guessed = image::guess_format(session, &name, how).await?;
            return Err(Failure::new(format!(
                "Backing file specified without backing format\nDetected format of {guessed}."
            )));
        }
        let opened = Image::open_unprefixed(session, &name, "backing", how).await;
        let image = opened.map_err(|failure| {
            Failure::new(format!("{}\nCould not open backing image.", failure.text()))
        })?;
        self.options.size = self.options.size.or(Some(image.len()?));
        image.close().await?;
        Ok(())
    }

    /// Makes the image; what was in the file is lost.
    ///
    /// # Errors
    /// What is wrong with the options; what the kernel says.
    pub(crate) async fn create(&self, session: &Session) -> Result<(), Failure> {
        if !is_format(self.format) {
            return Err(Failure::new("not an image format"));
        }
        // Disks are made of sectors.
        let len = self.options.size.unwrap_or(0).next_multiple_of(512);
        let path = PathBuf::from(
            self.filename
                .strip_prefix("file:")
                .unwrap_or(&self.filename),
        );
        match self.format {
            BlockdevDriver::Raw => {
                let preallocation = self.options.preallocation.unwrap_or(Preallocation::Off);
                create_file(session, path, len, preallocation).await
            }
            other => Err(Failure::new(format!(
                "creating {other} images is not built in"
            ))),
        }
    }
}

async fn create_file(
    session: &Session,
    path: PathBuf,
    len: u64,
    preallocation: Preallocation,
) -> Result<(), Failure> {
    let options = file::CreateOptions {
        path,
        len,
        preallocation,
    };
    let created = session.queue().blocking(move || Ok(file::create(&options)));
    match created.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(block_core::Error::Open { path, source })) => {
            let why = crate::report::system_text(&source);
            Err(Failure::new(format!("Could not create '{path}': {why}")))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(Failure::new(crate::report::system_text(&error))),
    }
}
