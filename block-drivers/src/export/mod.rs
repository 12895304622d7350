//! Exports: nodes served outwards.

pub mod nbd;
