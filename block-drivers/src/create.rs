//! New images for verbs: an overlay, or the target of a job.
//!
//! Called by the registry. Order: the options are checked before what was in the file is lost; the
//! image is durable before its name is, so that a power cut leaves a whole image or none by that
//! name. Not here: how a format is laid out (the formats), the image tool's options.

use std::path::Path;

use block_core::driver::Preallocation;
use block_core::graph::create::NewImage;
use block_core::graph::registry::{Registry, cannot_create};
use block_core::graph::{Node, NodeFacts};
use block_core::{Error, LocalQueue, Result};
use block_schema::types::{BlockdevDriver, BlockdevOptionsBranch};

use crate::format::qcow2;
use crate::protocol::file::{self, FileDriver, FileOptions};
use crate::registry::Drivers;

/// Makes an empty image.
///
/// # Errors
/// As [`Registry::create`].
pub(crate) async fn create(drivers: &Drivers, queue: &LocalQueue, image: NewImage) -> Result<()> {
    let path = match drivers.parse_filename(&image.filename)? {
        BlockdevOptionsBranch::File(file) => file.filename,
        other => {
            let reason = format!(
                "Protocol driver '{}' does not support image creation",
                other.kind()
            );
            return Err(Error::invalid("filename", reason));
        }
    };
    match image.format {
        BlockdevDriver::Raw => {
            if image.backing.is_some() {
                let reason = "Backing file not supported for file format 'raw'";
                return Err(Error::invalid("format", reason));
            }
            create_file(queue, &path, image.size.next_multiple_of(512)).await?;
        }
        BlockdevDriver::Qcow2 => create_qcow2(queue, &path, image).await?,
        other => return Err(cannot_create(other)),
    }
    on_thread(queue, &path, |path| sync_with_folder(Path::new(path))).await
}

async fn create_qcow2(queue: &LocalQueue, path: &str, image: NewImage) -> Result<()> {
    let (backing_file, backing_format) = match image.backing {
        None => (None, None),
        Some(backing) => (Some(backing.filename), backing.format),
    };
    let options = qcow2::CreateOptions {
        size: image.size.next_multiple_of(512),
        backing_file,
        backing_format,
        ..qcow2::CreateOptions::default()
    };
    options.validate()?;
    create_file(queue, path, 0).await?;
    let driver = FileDriver::open_on(queue, FileOptions::path(path)).await?;
    let facts = NodeFacts {
        name: format!("#new:{path}"),
        filename: path.to_owned(),
        ..NodeFacts::default()
    };
    let node = Node::new(facts, Box::new(driver));
    let file = queue.layer().apart(queue, node)?;
    qcow2::create(queue, file.child().clone(), &options).await
}

async fn create_file(queue: &LocalQueue, path: &str, len: u64) -> Result<()> {
    let options = file::CreateOptions {
        path: path.into(),
        len,
        preallocation: Preallocation::Off,
        nocow: false,
    };
    let created = queue.blocking(move || Ok(file::create(&options))).await;
    created.map_err(|source| cannot_open(path, source))?
}

/// Runs what may take long on a thread.
async fn on_thread(
    queue: &LocalQueue,
    path: &str,
    work: impl FnOnce(&str) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    let name = path.to_owned();
    let done = queue.blocking(move || work(&name)).await;
    done.map_err(|source| cannot_open(path, source))
}

/// Makes a file durable, and its name in its folder.
fn sync_with_folder(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    std::fs::File::open(folder)?.sync_all()
}

fn cannot_open(path: &str, source: std::io::Error) -> Error {
    Error::Open {
        path: path.to_owned(),
        source,
    }
}
