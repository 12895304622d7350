//! What the READMEs show; a test holds them to it.
#![forbid(unsafe_code)]

pub mod built;
pub mod expanded;
#[cfg(unix)]
pub mod moved;
