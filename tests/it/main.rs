//! Integration tests of the whole.

mod qmp;
