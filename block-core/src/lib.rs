//! The block layer: everything that is the same for every driver.
//!
//! In the order of a request: a [`request`] enters a [`queue`] through a [`backend`], is announced
//! and mapped on the [`graph`], and ends as operations of an [`engine`]; what cannot be mapped is
//! done by the node's [`driver`]. The [`layer`] holds it all together.

pub mod atomic;
pub mod backend;
pub mod bitmap;
pub mod buffer;
pub mod device;
pub mod driver;
pub mod engine;
pub mod error;
pub mod events;
pub mod export;
pub mod graph;
pub mod job;
pub mod layer;
pub mod limits;
pub mod on_error;
pub mod qmp;
pub mod queue;
pub mod request;
pub mod secret;
pub mod stats;
pub mod sync;
pub mod throttle;

pub use backend::Backend;
pub use buffer::{AlignedBuf, GuestMemory, IoBuf};
pub use error::{Error, Result};
pub use layer::Layer;
pub use queue::{BackendSlot, Done, LocalQueue, Queue, QueueBuilder, QueueHandle};
pub use request::{Op, Request};
