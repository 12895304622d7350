//! Requests: headers from a client, checked against what was agreed on.
//!
//! Called by a server for every request; a client builds headers here. Spec: "Request types",
//! "Command flags", "Error values".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use zerocopy::{FromBytes, IntoBytes};

use super::WireError;
use super::layout::{
    MAX_PAYLOAD, REQUEST_MAGIC, RawRequest, command, command_flag as flag, error_value as value,
};

/// Bytes of a request without its payload.
pub(crate) const HEADER_LEN: usize = size_of::<RawRequest>();

/// What was agreed on, as far as requests are judged by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Bytes of the export.
    pub(crate) size: u64,
    /// Whether writes are refused.
    pub(crate) read_only: bool,
    /// Whether structured replies were agreed on.
    pub(crate) structured: bool,
    /// Whether any context was selected, so that status may be asked for.
    pub(crate) status: bool,
}

/// Whether a request is durable when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Cached,
    Fua,
}

/// A legal request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send the bytes of `range`, in any number of chunks unless `whole`.
    Read { range: Range<u64>, whole: bool },
    /// Write the payload at `offset`.
    Write {
        offset: u64,
        len: u32,
        durability: Durability,
    },
    /// Make everything answered so far durable.
    Flush,
    /// The bytes may be forgotten.
    Trim {
        range: Range<u64>,
        durability: Durability,
    },
    /// The bytes will be read soon.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes {
        range: Range<u64>,
        may_unmap: bool,
        only_fast: bool,
        durability: Durability,
    },
    /// Say what is allocated; one extent only with `one`.
    BlockStatus { range: Range<u64>, one: bool },
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Do it and answer.
    Perform(Action),
    /// Skip `payload` bytes, answer with the error.
    Refuse {
        error: u32,
        payload: u32,
        reason: &'static str,
    },
    /// Answer with the error and cut the connection: the payload is too long to be read.
    Cut { error: u32, reason: &'static str },
    /// Finish what is in flight and close.
    Disconnect,
}

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

impl Header {
    /// Reads a header; nothing but its magic is judged.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Header, WireError> {
        let raw = RawRequest::read_from_bytes(bytes).map_err(|_| WireError::Closed)?;
        if raw.magic.get() != REQUEST_MAGIC {
            return Err(WireError::RequestMagic {
                magic: raw.magic.get(),
            });
        }
        Ok(Header {
            flags: raw.flags.get(),
            command: raw.command.get(),
            cookie: raw.cookie.get(),
            offset: raw.offset.get(),
            len: raw.len.get(),
        })
    }

    /// The header's bytes.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let raw = RawRequest {
            magic: REQUEST_MAGIC.into(),
            flags: self.flags.into(),
            command: self.command.into(),
            cookie: self.cookie.into(),
            offset: self.offset.into(),
            len: self.len.into(),
        };
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// Judges the request by the terms. Payload, then read-only, then range, then flags: the
    /// order in which clients see errors when several apply.
    pub(crate) fn judge(&self, terms: &Terms) -> Verdict {
        let payload = if self.command == command::WRITE {
            self.len
        } else {
            0
        };
        let refuse = |error, reason| Verdict::Refuse {
            error,
            payload,
            reason,
        };
        if self.command == command::DISC {
            return Verdict::Disconnect;
        }
        if payload > MAX_PAYLOAD {
            return Verdict::Cut {
                error: value::INVAL,
                reason: "payload is above the maximum",
            };
        }
        if matches!(self.command, command::READ | command::CACHE) && self.len > MAX_PAYLOAD {
            return refuse(value::INVAL, "length is above the maximum");
        }
        let writes = matches!(
            self.command,
            command::WRITE | command::TRIM | command::WRITE_ZEROES
        );
        if terms.read_only && writes {
            return refuse(value::PERM, "export is read-only");
        }
        // A flush has no range; what stands in its fields is reserved.
        let end = match self.offset.checked_add(u64::from(self.len)) {
            _ if self.command == command::FLUSH => 0,
            Some(end) if end <= terms.size => end,
            _ if matches!(self.command, command::WRITE | command::WRITE_ZEROES) => {
                return refuse(value::NOSPC, "request ends behind the export");
            }
            _ => return refuse(value::INVAL, "request ends behind the export"),
        };
        if self.flags & !self.allowed_flags(terms) != 0 {
            return refuse(value::INVAL, "flag is not known for this command");
        }
        let range = self.offset..end;
        let has = |bit| self.flags & bit != 0;
        let durability = if has(flag::FUA) {
            Durability::Fua
        } else {
            Durability::Cached
        };
        Verdict::Perform(match self.command {
            command::READ => Action::Read {
                range,
                whole: has(flag::DF),
            },
            command::WRITE => Action::Write {
                offset: self.offset,
                len: self.len,
                durability,
            },
            command::FLUSH => Action::Flush,
            command::TRIM => Action::Trim { range, durability },
            command::CACHE => Action::Cache,
            command::WRITE_ZEROES => Action::WriteZeroes {
                range,
                may_unmap: !has(flag::NO_HOLE),
                only_fast: has(flag::FAST_ZERO),
                durability,
            },
            command::BLOCK_STATUS if !terms.status => {
                return refuse(value::INVAL, "no metadata context was selected");
            }
            command::BLOCK_STATUS if self.len == 0 => {
                return refuse(value::INVAL, "block status of no byte");
            }
            command::BLOCK_STATUS => Action::BlockStatus {
                range,
                one: has(flag::REQ_ONE),
            },
            _ => return refuse(value::INVAL, "command is unknown"),
        })
    }

    fn allowed_flags(&self, terms: &Terms) -> u16 {
        // FUA has a meaning for writes only, and servers are asked to bear it anywhere.
        let own = match self.command {
            command::READ if terms.structured => flag::DF,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
        own | flag::FUA
    }
}
