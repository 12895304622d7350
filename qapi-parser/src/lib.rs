//! Reads and checks QAPI schemas.
