//! A client of an NBD export that does no more than be there.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const EXPORT_NAME: u32 = 1;

/// Connects and chooses an export, by the oldest of the options that do so.
pub(super) fn attach(socket: &str, export: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("the NBD server listens");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    // Fixed newstyle, and no zeroes after the export's facts.
    let mut hello = 3_u32.to_be_bytes().to_vec();
    hello.extend_from_slice(OPTION_MAGIC);
    hello.extend_from_slice(&EXPORT_NAME.to_be_bytes());
    let len = u32::try_from(export.len()).expect("a short name");
    hello.extend_from_slice(&len.to_be_bytes());
    hello.extend_from_slice(export.as_bytes());
    stream.write_all(&hello).expect("sent");
    let mut facts = [0; 10];
    stream.read_exact(&mut facts).expect("the export's facts");
    stream
}
