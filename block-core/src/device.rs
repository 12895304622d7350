//! What is done to a device by its name: the verbs of the schema, with the schema's own types.
//!
//! Called by QMP, and by programs that embed the layer. Not here: devices themselves (`backend.rs`),
//! what a limit does (`throttle`).

use std::sync::Arc;

use block_schema::commands::{BlockPasswd, BlockResize, BlockSetIoThrottle};

use crate::backend::Backend;
use crate::driver::Preallocation;
use crate::error::{Error, Result};
use crate::graph::NodeId;
use crate::layer::Layer;
use crate::queue::LocalQueue;
use crate::secret::Secret;
use crate::throttle::Rates;

/// The longest image that clients know of: a multiple of the largest alignment, 1 GiB.
const LONGEST: u64 = i64::MAX as u64 >> 30 << 30;

impl Layer {
    /// Sets the limits of a device; all of them 0 is none. What waits for the old ones goes by the
    /// new ones.
    ///
    /// # Errors
    /// `DeviceNotFound`; `InvalidOption` for limits that exclude each other or are out of range:
    /// those in force stay then.
    pub fn block_set_io_throttle(&self, limits: &BlockSetIoThrottle) -> Result<()> {
        let backend = self.device(&limits.device)?;
        backend.throttle().set(Rates::try_from(limits)?);
        Ok(())
    }

    /// Sets the length of an image in use.
    ///
    /// # Errors
    /// `DeviceNotFound`, `NodeNotFound`; `InvalidOption` when it names both or neither, or for a
    /// length out of range or an image that is read-only; what the driver answers.
    pub async fn block_resize(&self, queue: &LocalQueue, wanted: &BlockResize) -> Result<()> {
        let node = self.named(wanted.device.as_deref(), wanted.node_name.as_deref())?;
        let Ok(len) = u64::try_from(wanted.size) else {
            return Err(Error::invalid("size", "Parameter 'size' expects a >0 size"));
        };
        if len > LONGEST {
            let reason = format!("offset({len}) exceeds maximum({LONGEST})");
            return Err(Error::invalid("size", reason));
        }
        self.graph().check_no_overlay(node)?;
        match self.resize(queue, node, len, Preallocation::Off).await {
            Err(Error::ReadOnly { .. }) => Err(Error::invalid("device", "Image is read-only")),
            done => done,
        }
    }

    /// Gives an encrypted image that was opened without its key the passphrase.
    ///
    /// # Errors
    /// `DeviceNotFound`, `NodeNotFound`; `InvalidOption` when it names both or neither, the image is
    /// not encrypted, or the passphrase is wrong.
    pub async fn block_passwd(&self, queue: &LocalQueue, given: BlockPasswd) -> Result<()> {
        let node = self.named(given.device.as_deref(), given.node_name.as_deref())?;
        let passphrase = Secret::new(given.password.into_bytes());
        self.unlock(queue, node, passphrase).await
    }

    /// The node that a command means by a device or by a node's name; it has to say one of them.
    ///
    /// # Errors
    /// `InvalidOption` when it says both or neither, `DeviceNotFound`, `NodeNotFound`.
    pub(crate) fn named(&self, device: Option<&str>, node: Option<&str>) -> Result<NodeId> {
        match (device, node) {
            (Some(_), Some(_)) => {
                let reason = "Need exactly one of 'device' and 'node-name'";
                Err(Error::invalid("device", reason))
            }
            (None, None) => Err(Error::invalid(
                "device",
                "Cannot find device='' nor node-name=''",
            )),
            (Some(device), None) => Ok(self.device(device)?.root()),
            (None, Some(name)) => {
                let graph = self.graph();
                let index = graph.find(name).ok_or_else(|| Error::NodeNotFound {
                    node: name.to_owned(),
                })?;
                Ok(graph.entry(index).node.id())
            }
        }
    }

    /// The device of a name.
    ///
    /// # Errors
    /// `DeviceNotFound`.
    pub fn device(&self, name: &str) -> Result<Arc<Backend>> {
        self.backend(name).ok_or_else(|| Error::DeviceNotFound {
            device: name.to_owned(),
        })
    }
}
