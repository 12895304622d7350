//! The commands of `io` that open and close: `open`, `close`, `reopen`.
//! Not here: requests (`commands.rs`).

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::rc::Rc;

use block_core::error::kernel_text;
use block_schema::types::BlockdevDriver;
use block_schema::{Object, Value};

use super::commands::{Done, Shell};
use super::how::HowWords;
use super::table::Command;
use super::words::{Failed, Words};
use crate::create::NewImage;
use crate::image::Image;
use crate::opts::cache::CacheMode;
use crate::opts::create::CreateOptions;
use crate::opts::image::{Access, ImageName, OpenHow};
use crate::opts::keyval;
use crate::report::{self, Failure, outln};

/// The name of the image's node, unless `open` is told another.
const NODE: &str = "image";

/// The name of the node below a temporary overlay.
const BELOW: &str = "below";

impl Shell<'_> {
    /// Opens the image of the command line.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) async fn open_first(&mut self, filename: &str) -> Result<(), Failure> {
        let args = self.args;
        let name = ImageName::new(filename, args.format.as_deref(), &args.image)?;
        let shown = (!name.is_options).then_some(filename);
        self.open_image(&name, shown, &HowWords::of_args(args))
            .await
    }

    pub(super) async fn open(&mut self, command: &Command, words: &Words<'_>) -> Done {
        let list = words.argument('o');
        if self.args.image.image_opts && list.is_some() {
            outln!("--image-opts and 'open -o' are mutually exclusive");
            return Err(Failed);
        }
        let path = words.operands.first().copied();
        let Some(name) = self.name_of(path, list) else {
            return Err(command.print_usage());
        };
        let opened = match self.image {
            None => {
                let how = HowWords::of_words(words);
                let shown = path.filter(|_| !self.args.image.image_opts);
                self.open_image(&name, shown, &how).await
            }
            Some(_) => Err(Failure::new("file open already, try 'help close'")),
        };
        opened.map_err(told)
    }

    /// What `open` is to open: a path as on the command line, or options, among them the path.
    fn name_of(&self, path: Option<&str>, list: Option<&str>) -> Option<ImageName> {
        let is_options = self.args.image.image_opts;
        let (text, is_options) = match (path, list) {
            (None, None) => return None,
            (Some(path), None) => (path.to_owned(), is_options),
            (None, Some(list)) => (list.to_owned(), true),
            (Some(path), Some(list)) => {
                let path = path.replace(',', ",,");
                (format!("{list},filename={path}"), true)
            }
        };
        Some(ImageName {
            text,
            format: None,
            is_options,
            encrypt: None,
            encrypt_formats: Vec::new(),
        })
    }

    /// Opens an image; `shown` is what messages call it.
    async fn open_image(
        &mut self,
        name: &ImageName,
        shown: Option<&str>,
        words: &HowWords<'_>,
    ) -> Result<(), Failure> {
        let how = words.how(&self.args.image)?;
        let opened = match words.is_snapshot() {
            false => Image::open_unprefixed(self.session, name, NODE, how).await,
            true => self.open_overlay(name, how).await,
        };
        let device = match shown {
            None => "can't open".to_owned(),
            Some(shown) => format!("can't open device {shown}"),
        };
        let image = opened.map_err(|failure| failure.while_doing(&device))?;
        self.image = Some(Rc::new(image));
        Ok(())
    }

    /// Opens an image below a new overlay, whose file has no name any more.
    async fn open_overlay(&mut self, name: &ImageName, how: OpenHow) -> Result<Image, Failure> {
        let session = self.session;
        let read = OpenHow {
            access: Access::Read,
            ..how
        };
        let below = Image::open_unprefixed(session, name, BELOW, read).await?;
        let path = temporary_file()?;
        let filename = path.display().to_string();
        let format = BlockdevDriver::Qcow2;
        let options = CreateOptions {
            size: Some(below.len()?),
            ..CreateOptions::parse(&[], format)?
        };
        let new = NewImage {
            filename: filename.clone(),
            format,
            options,
        };
        let opened = match new.create(session).await {
            Err(failure) => Err(failure),
            Ok(()) => {
                let filename = filename.replace(',', ",,");
                let text = format!(
                    "driver=qcow2,file.driver=file,file.filename={filename},backing={BELOW}"
                );
                let name = ImageName {
                    text,
                    format: None,
                    is_options: true,
                    encrypt: None,
                    encrypt_formats: Vec::new(),
                };
                let access = Access::Write;
                Image::open_unprefixed(session, &name, NODE, OpenHow { access, ..how }).await
            }
        };
        std::fs::remove_file(&path).ok();
        self.below = Some(below);
        opened
    }

    pub(super) async fn close(&mut self) -> Done {
        self.settle().await;
        let image = self.image.take().and_then(Rc::into_inner);
        let Some(image) = image else {
            return Ok(());
        };
        image.close().await.map_err(|error| told(error.into()))?;
        match self.below.take() {
            Some(below) => below.close().await.map_err(|error| told(error.into())),
            None => Ok(()),
        }
    }

    pub(super) async fn reopen(&mut self, words: &Words<'_>) -> Done {
        let changes = reopen_options(words).map_err(told)?;
        self.settle().await;
        let Some(image) = self.image.as_mut().and_then(Rc::get_mut) else {
            return Err(Failed);
        };
        image.reopen(changes).await.map_err(told)
    }
}

/// A new, empty file that only this user may read.
fn temporary_file() -> Result<PathBuf, Failure> {
    let folder = std::env::temp_dir();
    for number in 0_u32.. {
        let path = folder.join(format!("qblk-{}-{number}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        match options.write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                let why = kernel_text(&error);
                let text = format!("Could not create '{}': {why}", path.display());
                return Err(Failure::new(text));
            }
        }
    }
    Err(Failure::new("Could not create a temporary file"))
}

/// The options that `reopen` was given.
fn reopen_options(words: &Words<'_>) -> Result<Object, Failure> {
    let mut options = match words.argument('o') {
        Some(list) => keyval::parse(list, None)?,
        None => Object::new(),
    };
    let read_only = match (words.has('r'), words.has('w')) {
        (true, true) => return Err(Failure::new("Only one -r/-w option may be given")),
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    };
    if let Some(read_only) = read_only {
        if options.contains("read-only") {
            return Err(Failure::new("Cannot set both -r/-w and 'read-only'"));
        }
        options.insert("read-only", read_only);
    }
    if let Some(name) = words.argument('c') {
        let mode = CacheMode::parse(name, "cache")?;
        if options.contains("cache") {
            return Err(Failure::new("Cannot set both -c and the cache options"));
        }
        let mut cache = Object::new();
        cache.insert("writeback", Value::from(mode.writeback));
        cache.insert("direct", Value::from(mode.direct));
        cache.insert("no-flush", Value::from(mode.no_flush));
        options.insert("cache", cache);
    }
    Ok(options)
}

fn told(failure: Failure) -> Failed {
    report::error(failure.text());
    Failed
}
