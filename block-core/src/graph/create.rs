//! New images, for verbs that put them into the graph: overlays and the targets of jobs.
//!
//! Their names come from the command, never from inside an image, so no policy is asked. An image
//! is made, and durable with its folder, before anybody opens it. Not here: what formats write, and
//! the options of the image tool.

use std::sync::Arc;

use block_schema::types::{BlockdevDriver, BlockdevOptions, BlockdevRef};

use crate::driver::BackingName;
use crate::error::{Error, Result, kernel_text};
use crate::graph::perm::{Perm, Use};
use crate::graph::{Draft, Node};
use crate::layer::Layer;
use crate::queue::{LocalQueue, shield};
use crate::request::cx::Child;

/// An empty image that is to be made, everything else as its format has it by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewImage {
    /// Its name; may begin with a protocol.
    pub filename: String,
    /// Its format.
    pub format: BlockdevDriver,
    /// Bytes of the disk.
    pub size: u64,
    /// The backing file that it names, as it is to be spelled there.
    pub backing: Option<BackingName>,
}

/// A node that only its maker sees, such as the file of an image that is being made. Its locks are
/// held until this is dropped.
pub struct Apart(Child);

impl Apart {
    /// The node.
    pub fn child(&self) -> &Child {
        &self.0
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Err(error) = self.0.node().driver().set_permissions(Use::NOTHING) {
            tracing::warn!("giving up locks: {}", error.chain());
        }
    }
}

impl Layer {
    /// A node without children for its maker alone, who writes it: it is never in the graph.
    ///
    /// # Errors
    /// `ImageLocked` when another program uses the file; `InvalidOption` when the name is taken.
    pub fn apart(&self, queue: &LocalQueue, node: Arc<Node>) -> Result<Apart> {
        let write = Use {
            need: Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE,
            share: Perm::CONSISTENT_READ,
            ..Use::NOTHING
        };
        let mut draft = Draft::from(&self.graph());
        let index = draft.add(Arc::clone(&node), Vec::new())?;
        let snapshot = queue.hold(Arc::new(draft.graph().clone()));
        let apart = Apart(Child::new(queue.clone(), snapshot, index));
        // Dropped on an error, which gives back what was locked by then.
        node.driver().set_permissions(write)?;
        Ok(apart)
    }

    /// Makes an empty image; what was in the file is lost.
    ///
    /// # Errors
    /// `InvalidOption` when the format makes no images, or none like this one, and when the file
    /// cannot be made; `ImageLocked` when another program uses it.
    pub async fn create_image(&self, queue: &LocalQueue, image: NewImage) -> Result<()> {
        shield(queue, async move |layer, queue| {
            let created = layer.registry().create(&queue, image).await;
            created.map_err(|error| match error {
                Error::Open { path, source } => {
                    let why = kernel_text(&source);
                    Error::invalid("filename", format!("Could not create '{path}': {why}"))
                }
                error => error,
            })
        })
        .await
    }

    /// The options that open an image by its name and format, and nothing that it names.
    ///
    /// # Errors
    /// `InvalidOption` for a protocol that nobody knows, or a driver that is no format.
    pub fn image_options(&self, filename: &str, format: BlockdevDriver) -> Result<BlockdevOptions> {
        let registry = self.registry();
        let file = BlockdevOptions::new(registry.parse_filename(filename)?);
        if file.driver.kind() == format {
            return Ok(file);
        }
        let file = BlockdevRef::Definition(Box::new(file));
        let Some(branch) = registry.format_over(format, file) else {
            let reason = format!("Driver '{format}' is no image format");
            return Err(Error::invalid("format", reason));
        };
        Ok(BlockdevOptions::new(branch))
    }
}
