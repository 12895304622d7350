//! Disk image tool and storage daemon.
fn main() {}
