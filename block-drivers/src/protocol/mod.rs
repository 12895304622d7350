//! Protocols: drivers that reach storage, at the bottom of every graph.

pub mod file;
pub mod nbd;
