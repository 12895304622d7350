//! QMP: what each command of the schema does.
//!
//! [`Commands`] leads every generated command to a function, and does nothing else; commands that
//! are not here answer that they are not built in. [`Monitor`] serves clients on a socket.
//! Invariant: everything here runs on the control plane's queue. Not here: argument checks
//! (generated), the graph's verbs (`layer/`, `graph/`).
//!
//! ```no_run
//! use block_core::export::{Exports, NoExports};
//! use block_core::qmp::{Daemon, Monitor};
//!
//! fn serve(queue: &block_core::Queue) -> std::io::Result<()> {
//!     let daemon = Daemon::new(queue, Exports::new(queue, Box::new(NoExports)));
//!     Monitor::bind("qmp.sock".as_ref())?.run(&daemon);
//!     queue.block_on(async {
//!         daemon.ended().await;
//!         daemon.exports().close_all().await;
//!         queue.layer().close_all(queue).await.map_err(std::io::Error::other)
//!     })
//! }
//! ```

mod bitmap;
mod blockdev;
mod commands;
mod error;
mod export;
mod job;
pub mod log;
mod object;
mod outbox;
mod query;
mod server;
mod session;
mod snapshot;

pub use server::{Daemon, Monitor};
