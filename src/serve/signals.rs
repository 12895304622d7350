//! Signals that end the daemon, as bytes in a socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use block_core::LocalQueue;
use block_core::error::kernel_text;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::report::Failure;

/// SIGINT, SIGTERM and SIGHUP no longer kill the process.
pub(super) struct Signals(Arc<OwnedFd>);

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn catch() -> Result<Signals, Failure> {
        let refused = |error: std::io::Error| {
            Failure::new(format!("Could not catch signals: {}", kernel_text(&error)))
        };
        let (ours, theirs) = UnixStream::pair().map_err(refused)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let theirs = theirs.try_clone().map_err(refused)?;
            pipe::register(signal, theirs).map_err(refused)?;
        }
        Ok(Signals(Arc::new(ours.into())))
    }

    /// Waits for the first one.
    pub(super) async fn received(&self, queue: &LocalQueue) {
        queue.readable(&self.0).await.ok();
    }
}
