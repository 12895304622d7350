//! The block layer: everything that is the same for every driver.
//!
//! In the order of a request: a [`request`] enters through a backend, is announced and mapped on
//! the graph, and ends as an operation of an [`engine`].

pub mod buffer;
pub mod engine;
pub mod error;
pub mod request;

pub use buffer::{AlignedBuf, GuestMemory, IoBuf};
pub use error::{Error, Result};
