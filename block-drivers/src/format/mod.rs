//! Image formats: drivers that interpret the bytes of a child.

pub mod qcow2;
pub mod raw;
