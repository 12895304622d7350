//! What can be wrong with a peer's bytes, and the protocol's error numbers.

use rustix::io::Errno;

use super::layout::error_value as value;

/// A peer breaks the protocol, or refuses what we need.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The greeting is not that of a server.
    #[error("server's magic is {magic:#x}")]
    Greeting {
        /// What stands there.
        magic: u64,
    },
    /// The server speaks the oldstyle handshake.
    #[error("server speaks only the oldstyle handshake")]
    Oldstyle,
    /// The peer set handshake flags that nobody offered.
    #[error("handshake flags {flags:#x} are unknown")]
    HandshakeFlags {
        /// All flags it set.
        flags: u32,
    },
    /// An option, or a reply to one, starts with the wrong bytes.
    #[error("option magic is {magic:#x}")]
    OptionMagic {
        /// What stands there.
        magic: u64,
    },
    /// An option claims more data than any has.
    #[error("option {option} has {len} bytes of data")]
    OptionLength {
        /// The option.
        option: u32,
        /// Its claim.
        len: u32,
    },
    /// A client without fixed newstyle sent an option that needs it.
    #[error("option {option} needs fixed newstyle")]
    NotFixed {
        /// The option.
        option: u32,
    },
    /// More options, or replies, than a handshake needs.
    #[error("handshake has more than {limit} messages")]
    Flood {
        /// Where it was cut.
        limit: u32,
    },
    /// `EXPORT_NAME` for an export that is not there; the option has no error reply.
    #[error("export '{name}' is unknown")]
    UnknownExport {
        /// The name, with what cannot be printed replaced.
        name: String,
    },
    /// The server answered an option that was not the last one sent, or in a wrong form.
    #[error("reply of type {kind:#x} to option {option} is malformed or out of place")]
    OptionReply {
        /// The option it answers.
        option: u32,
        /// Its type.
        kind: u32,
    },
    /// The server refuses the export.
    #[error("export '{name}' is refused: {reason} ({message})")]
    Refused {
        /// The export asked for.
        name: String,
        /// What the reply's type means.
        reason: &'static str,
        /// The server's words.
        message: String,
    },
    /// The server's size constraints contradict themselves.
    #[error("block sizes {minimum}, {preferred}, {maximum} are not allowed")]
    BlockSize {
        /// Smallest unit.
        minimum: u32,
        /// Unit that is done well.
        preferred: u32,
        /// Most bytes of a payload.
        maximum: u32,
    },
    /// A request starts with the wrong bytes.
    #[error("request magic is {magic:#x}")]
    RequestMagic {
        /// What stands there.
        magic: u32,
    },
    /// A reply starts with the wrong bytes.
    #[error("reply magic is {magic:#x}")]
    ReplyMagic {
        /// What stands there.
        magic: u32,
    },
    /// A reply to a request that nobody sent, or that is already answered.
    #[error("reply to unknown cookie {cookie:#x}")]
    UnknownCookie {
        /// The reply's cookie.
        cookie: u64,
    },
    /// A simple reply to a request that must get a structured one.
    #[error("simple reply to request {cookie:#x}, which needs a structured one")]
    SimpleReply {
        /// The reply's cookie.
        cookie: u64,
    },
    /// A chunk whose type or length does not fit its request.
    #[error("reply chunk of type {kind:#x} and {len} bytes does not fit request {cookie:#x}")]
    Chunk {
        /// The reply's cookie.
        cookie: u64,
        /// The chunk's type.
        kind: u16,
        /// Bytes of its payload.
        len: u32,
    },
    /// A chunk for bytes that the request did not ask for, or that came before.
    #[error("reply chunk of {len} bytes at {offset:#x} is outside its request or overlaps")]
    ChunkRange {
        /// First byte the chunk describes.
        offset: u64,
        /// Bytes from there.
        len: u64,
    },
    /// A structured reply ended before all bytes had come.
    #[error("structured reply ends with {missing} bytes missing")]
    ShortReply {
        /// Bytes that no chunk described.
        missing: u64,
    },
    /// The peer closed the connection in the middle of a message.
    #[error("connection closed by the peer")]
    Closed,
}

/// The number a client gets for `errno`; total, unknown ones are `EIO` as the text suggests.
pub(crate) fn errno_to_wire(errno: Errno) -> u32 {
    match errno {
        Errno::PERM | Errno::ROFS | Errno::ACCESS => value::PERM,
        Errno::NOMEM => value::NOMEM,
        Errno::INVAL => value::INVAL,
        Errno::NOSPC | Errno::FBIG | Errno::DQUOT => value::NOSPC,
        Errno::OVERFLOW => value::OVERFLOW,
        Errno::NOTSUP => value::NOTSUP,
        Errno::SHUTDOWN => value::SHUTDOWN,
        _ => value::IO,
    }
}

/// The `errno` for a server's number; numbers outside the specification are `EINVAL`, as it says.
pub(crate) fn wire_to_errno(number: u32) -> Errno {
    match number {
        value::PERM => Errno::PERM,
        value::IO => Errno::IO,
        value::NOMEM => Errno::NOMEM,
        value::NOSPC => Errno::NOSPC,
        value::OVERFLOW => Errno::OVERFLOW,
        value::NOTSUP => Errno::NOTSUP,
        value::SHUTDOWN => Errno::SHUTDOWN,
        _ => Errno::INVAL,
    }
}
