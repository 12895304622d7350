//! QAPI schema to Rust, as a macro.
