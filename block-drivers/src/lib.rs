//! Image formats, protocols, filters and exports for block-core.

pub(crate) mod create;
pub mod export;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod kit;
pub mod nbd;
pub mod protocol;
pub mod registry;

pub use registry::Drivers;
