//! What is done to a device by its name: the verbs of the schema, with the schema's own types.
//!
//! Called by QMP, and by programs that embed the layer. Not here: devices themselves (`backend.rs`),
//! what a limit does (`throttle`).

use std::sync::Arc;

use block_schema::commands::BlockSetIoThrottle;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::throttle::Rates;

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
