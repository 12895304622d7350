//! Replies to requests: simple ones, and the chunks of structured ones.
//!
//! A server builds them here, a client takes them apart and checks each against its request.
//! Spec: "Simple reply message", "Structured reply chunk message", "Structured reply types".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use smallvec::SmallVec;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::layout::{
    REPLY_FLAG_DONE, RawChunk, RawError, RawExtent, RawHole, RawSimpleReply, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, chunk,
};
use super::{Reader, WireError, wire_len};

/// The bytes of a reply in front of its data; most fit without an allocation.
pub(crate) type Head = SmallVec<[u8; 32]>;

/// Whether more chunks of the same reply follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    Middle,
    Last,
}

/// A run of one status, for `BLOCK_STATUS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) len: u32,
    pub(crate) flags: u32,
}

/// The most extents one reply lists.
pub(crate) const MAX_EXTENTS: usize = 1024;

/// A simple reply; the data of a successful read follows it.
pub(crate) fn simple(cookie: u64, error: u32) -> Head {
    let raw = RawSimpleReply {
        magic: SIMPLE_REPLY_MAGIC.into(),
        error: error.into(),
        cookie: cookie.into(),
    };
    Head::from_slice(raw.as_bytes())
}

fn chunk_head(cookie: u64, kind: u16, position: Position, len: u32) -> Head {
    let flags = match position {
        Position::Middle => 0,
        Position::Last => REPLY_FLAG_DONE,
    };
    let raw = RawChunk {
        magic: STRUCTURED_REPLY_MAGIC.into(),
        flags: flags.into(),
        kind: kind.into(),
        cookie: cookie.into(),
        len: len.into(),
    };
    Head::from_slice(raw.as_bytes())
}

/// The last chunk of a reply that has nothing to say.
pub(crate) fn done(cookie: u64) -> Head {
    chunk_head(cookie, chunk::NONE, Position::Last, 0)
}

/// A chunk that `len` bytes of data, read at `offset`, follow.
pub(crate) fn data(cookie: u64, position: Position, offset: u64, len: u32) -> Head {
    let len = len.saturating_add(wire_len(size_of::<U64>()));
    let mut head = chunk_head(cookie, chunk::OFFSET_DATA, position, len);
    head.extend_from_slice(U64::new(offset).as_bytes());
    head
}

/// A chunk for `len` zero bytes at `offset`.
pub(crate) fn hole(cookie: u64, position: Position, offset: u64, len: u32) -> Head {
    let raw = RawHole {
        offset: offset.into(),
        len: len.into(),
    };
    let mut head = chunk_head(
        cookie,
        chunk::OFFSET_HOLE,
        position,
        wire_len(size_of::<RawHole>()),
    );
    head.extend_from_slice(raw.as_bytes());
    head
}

/// A chunk that ends a reply with an error, with a short reason for people.
pub(crate) fn error(cookie: u64, error: u32, message: &str) -> Head {
    let message_len = u16::try_from(message.len()).unwrap_or(0);
    let message = if message_len == 0 { "" } else { message };
    let raw = RawError {
        error: error.into(),
        message_len: message_len.into(),
    };
    let len = wire_len(size_of::<RawError>()).saturating_add(wire_len(message.len()));
    let mut head = chunk_head(cookie, chunk::ERROR, Position::Last, len);
    head.extend_from_slice(raw.as_bytes());
    head.extend_from_slice(message.as_bytes());
    head
}

/// The chunk that answers `BLOCK_STATUS` for one context.
pub(crate) fn block_status(
    cookie: u64,
    position: Position,
    context: u32,
    extents: &[Extent],
) -> Head {
    let list_len = extents.len().saturating_mul(size_of::<RawExtent>());
    let len = wire_len(size_of::<U32>()).saturating_add(wire_len(list_len));
    let mut head = chunk_head(cookie, chunk::BLOCK_STATUS, position, len);
    head.extend_from_slice(U32::new(context).as_bytes());
    for extent in extents {
        let raw = RawExtent {
            len: extent.len.into(),
            flags: extent.flags.into(),
        };
        head.extend_from_slice(raw.as_bytes());
    }
    head
}

/// Where a reply's fixed part ends, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyHeader {
    /// Data follows when it answers a read without an error.
    Simple { cookie: u64, error: u32 },
    /// `len` bytes of payload follow.
    Chunk {
        cookie: u64,
        position: Position,
        kind: u16,
        len: u32,
    },
}

impl ReplyHeader {
    /// Takes a header off the front of `bytes`; `None` when more bytes are needed.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(ReplyHeader, usize)>, WireError> {
        let Some(magic) = Reader(bytes).u32() else {
            return Ok(None);
        };
        match magic {
            SIMPLE_REPLY_MAGIC => {
                Ok(RawSimpleReply::read_from_prefix(bytes)
                    .ok()
                    .map(|(raw, _)| {
                        let header = ReplyHeader::Simple {
                            cookie: raw.cookie.get(),
                            error: raw.error.get(),
                        };
                        (header, size_of::<RawSimpleReply>())
                    }))
            }
            STRUCTURED_REPLY_MAGIC => Ok(RawChunk::read_from_prefix(bytes).ok().map(|(raw, _)| {
                let last = raw.flags.get() & REPLY_FLAG_DONE != 0;
                let header = ReplyHeader::Chunk {
                    cookie: raw.cookie.get(),
                    position: if last {
                        Position::Last
                    } else {
                        Position::Middle
                    },
                    kind: raw.kind.get(),
                    len: raw.len.get(),
                };
                (header, size_of::<RawChunk>())
            })),
            magic => Err(WireError::ReplyMagic { magic }),
        }
    }
}

/// An error chunk's number and message.
pub(crate) fn parse_error(kind: u16, payload: &[u8]) -> Option<(u32, String)> {
    let mut reader = Reader(payload);
    let raw: RawError = reader.value()?;
    let message = reader.take(usize::from(raw.message_len.get()))?;
    // `ERROR_OFFSET` adds where; other errors may add what we need not know.
    if kind == chunk::ERROR_OFFSET {
        reader.value::<U64>()?;
    }
    Some((
        raw.error.get(),
        String::from_utf8_lossy(message).into_owned(),
    ))
}

/// The context and extents of a `BLOCK_STATUS` chunk; `None` when it is malformed.
pub(crate) fn parse_block_status(payload: &[u8]) -> Option<(u32, Vec<Extent>)> {
    let mut reader = Reader(payload);
    let context = reader.u32()?;
    let mut extents = Vec::new();
    while !reader.is_empty() {
        let raw: RawExtent = reader.value()?;
        if raw.len.get() == 0 {
            return None;
        }
        extents.push(Extent {
            len: raw.len.get(),
            flags: raw.flags.get(),
        });
    }
    if extents.is_empty() {
        None
    } else {
        Some((context, extents))
    }
}

/// A hole chunk's offset and length.
pub(crate) fn parse_hole(payload: &[u8]) -> Option<(u64, u32)> {
    let raw = RawHole::read_from_bytes(payload).ok()?;
    Some((raw.offset.get(), raw.len.get()))
}
