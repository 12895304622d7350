//! Exports: nodes served outwards.

pub mod nbd;
mod served;

pub use served::BuiltInExports;
