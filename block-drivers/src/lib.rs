//! Image formats, protocols, filters and exports for block-core.

pub mod export;
pub mod nbd;
pub mod registry;

pub use registry::Drivers;
