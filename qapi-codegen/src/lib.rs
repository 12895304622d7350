//! Generates typed Rust from QAPI schemas.
