//! The protocol's structures and numbers, in the order of its specification; nothing else.
//!
//! Invariant: every structure is exactly its bytes on the wire (big-endian, no padding).
//! Spec: NBD `doc/proto.md`, with the values of "Values".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `INIT_PASSWD`, the first bytes a server sends.
pub(crate) const INIT_PASSWD: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Starts the newstyle greeting, and every option of a client.
pub(crate) const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Starts every reply to an option.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The magic of the oldstyle greeting.
pub(crate) const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Starts every request.
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts every simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts every chunk of a structured reply.
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The port registered for the protocol.
pub(crate) const DEFAULT_PORT: u16 = 10809;
/// The longest string ("the length of a string is at most 4096 bytes").
pub(crate) const MAX_STRING: usize = 4096;
/// The largest payload either side handles: the specification's default maximum.
pub(crate) const MAX_PAYLOAD: u32 = 32 << 20;

/// Handshake flags, from the server.
pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// The server can leave out the 124 zero bytes behind `EXPORT_NAME`.
pub(crate) const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flags.
pub(crate) const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client wants the 124 zero bytes left out.
pub(crate) const FLAG_C_NO_ZEROES: u32 = 1 << 1;
/// Zero bytes behind the answer to `EXPORT_NAME`.
pub(crate) const EXPORT_NAME_ZEROES: usize = 124;

/// Transmission flags: what an export can do.
pub(crate) mod transmission {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
    pub(crate) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Option types.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const STARTTLS: u32 = 5;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Option reply types; bit 31 marks the errors.
pub(crate) mod reply {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERROR_BIT: u32 = 1 << 31;
    pub(crate) const ERR_UNSUP: u32 = ERROR_BIT | 1;
    pub(crate) const ERR_POLICY: u32 = ERROR_BIT | 2;
    pub(crate) const ERR_INVALID: u32 = ERROR_BIT | 3;
    pub(crate) const ERR_PLATFORM: u32 = ERROR_BIT | 4;
    pub(crate) const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    pub(crate) const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    pub(crate) const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    pub(crate) const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    pub(crate) const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
}

/// Information types of `INFO` and `GO`.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Request types.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISC: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Command flags.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Flag of the last chunk of a structured reply.
pub(crate) const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Structured reply types; bit 15 marks the errors.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR_BIT: u16 = 1 << 15;
    pub(crate) const ERROR: u16 = ERROR_BIT | 1;
    pub(crate) const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Flags of the contexts of dirty bitmaps, in QEMU's name space.
pub(crate) mod dirty_bitmap {
    /// The name space.
    pub(crate) const SPACE: &str = "qemu:";
    /// What stands before a bitmap's name.
    pub(crate) const PREFIX: &str = "qemu:dirty-bitmap:";
    /// The range is dirty.
    pub(crate) const DIRTY: u32 = 1;
}

/// Flags of the `base:allocation` context.
pub(crate) mod allocation {
    /// The name space.
    pub(crate) const SPACE: &str = "base:";
    pub(crate) const NAME: &str = "base:allocation";
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// Error values.
pub(crate) mod error_value {
    pub(crate) const PERM: u32 = 1;
    pub(crate) const IO: u32 = 5;
    pub(crate) const NOMEM: u32 = 12;
    pub(crate) const INVAL: u32 = 22;
    pub(crate) const NOSPC: u32 = 28;
    pub(crate) const OVERFLOW: u32 = 75;
    pub(crate) const NOTSUP: u32 = 95;
    pub(crate) const SHUTDOWN: u32 = 108;
}

macro_rules! wire {
    ($(#[$doc:meta])* $name:ident, $size:literal, { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub(crate) struct $name {
            $($(#[$field_doc])* pub(crate) $field: $ty,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    };
}

wire!(
    /// The newstyle greeting.
    RawGreeting, 18, { passwd: U64, magic: U64, flags: U16, });
wire!(
    /// Starts an option of the client; `len` bytes of data follow.
    RawOption, 16, { magic: U64, option: U32, len: U32, });
wire!(
    /// Starts a reply to an option; `len` bytes of data follow.
    RawOptionReply, 20, { magic: U64, option: U32, kind: U32, len: U32, });
wire!(
    /// The answer to `EXPORT_NAME`, and the payload of `INFO_EXPORT` behind its type.
    RawExport, 10, { size: U64, flags: U16, });
wire!(
    /// The payload of `INFO_BLOCK_SIZE` behind its type.
    RawBlockSize, 12, { minimum: U32, preferred: U32, maximum: U32, });
wire!(
    /// A request; `len` bytes of payload follow a write.
    RawRequest, 28, { magic: U32, flags: U16, command: U16, cookie: U64, offset: U64, len: U32, });
wire!(
    /// A simple reply; the data of a successful read follows.
    RawSimpleReply, 16, { magic: U32, error: U32, cookie: U64, });
wire!(
    /// One chunk of a structured reply; `len` bytes of payload follow.
    RawChunk, 20, { magic: U32, flags: U16, kind: U16, cookie: U64, len: U32, });
wire!(
    /// The payload of `OFFSET_HOLE`.
    RawHole, 12, { offset: U64, len: U32, });
wire!(
    /// Starts the payload of an error chunk; the message follows.
    RawError, 6, { error: U32, message_len: U16, });
wire!(
    /// One extent of `BLOCK_STATUS`, behind the 32-bit context.
    RawExtent, 8, { len: U32, flags: U32, });
