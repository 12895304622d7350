//! Options: what a client says while the two sides haggle, and what a server answers.
//!
//! Called by both handshakes. Spec: "Option types", "Option reply types".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::layout::{self, RawOption, RawOptionReply, option, reply};
use super::{Reader, wire_len};

/// An option with its data taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientOption<'a> {
    ExportName(&'a [u8]),
    Abort,
    List,
    StartTls,
    Info(InfoRequest<'a>),
    Go(InfoRequest<'a>),
    StructuredReply,
    ListMetaContext(MetaQuery<'a>),
    SetMetaContext(MetaQuery<'a>),
    Unknown,
}

/// The data of `INFO` and `GO`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InfoRequest<'a> {
    /// The export.
    pub(crate) name: &'a [u8],
    /// Whether the client asked for the canonical name.
    pub(crate) wants_name: bool,
    /// Whether the client asked for the description.
    pub(crate) wants_description: bool,
    /// Whether the client will keep to the size constraints.
    pub(crate) wants_block_size: bool,
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetaQuery<'a> {
    /// The export.
    pub(crate) name: &'a [u8],
    /// The queries, in order; there are never more than the data has room for.
    pub(crate) queries: Vec<&'a [u8]>,
}

/// The data of an option is not what its type asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidOption;

impl<'a> ClientOption<'a> {
    /// Takes the data of option `number` apart.
    pub(crate) fn parse(number: u32, data: &'a [u8]) -> Result<ClientOption<'a>, InvalidOption> {
        let without_data = |parsed| {
            if data.is_empty() {
                Ok(parsed)
            } else {
                Err(InvalidOption)
            }
        };
        match number {
            option::EXPORT_NAME => Ok(ClientOption::ExportName(data)),
            // Data of an abort is ignored, as the specification asks.
            option::ABORT => Ok(ClientOption::Abort),
            option::LIST => without_data(ClientOption::List),
            option::STARTTLS => without_data(ClientOption::StartTls),
            option::INFO => Ok(ClientOption::Info(InfoRequest::parse(data)?)),
            option::GO => Ok(ClientOption::Go(InfoRequest::parse(data)?)),
            option::STRUCTURED_REPLY => without_data(ClientOption::StructuredReply),
            option::LIST_META_CONTEXT => Ok(ClientOption::ListMetaContext(MetaQuery::parse(data)?)),
            option::SET_META_CONTEXT => Ok(ClientOption::SetMetaContext(MetaQuery::parse(data)?)),
            _ => Ok(ClientOption::Unknown),
        }
    }
}

impl<'a> InfoRequest<'a> {
    fn parse(data: &'a [u8]) -> Result<InfoRequest<'a>, InvalidOption> {
        let mut reader = Reader(data);
        let name = reader.string().ok_or(InvalidOption)?;
        let count = reader.u16().ok_or(InvalidOption)?;
        let mut request = InfoRequest {
            name,
            wants_name: false,
            wants_description: false,
            wants_block_size: false,
        };
        for _ in 0..count {
            match reader.u16().ok_or(InvalidOption)? {
                layout::info::NAME => request.wants_name = true,
                layout::info::DESCRIPTION => request.wants_description = true,
                layout::info::BLOCK_SIZE => request.wants_block_size = true,
                // The export's size and flags come anyway; the rest is to be ignored.
                _ => {}
            }
        }
        if reader.is_empty() {
            Ok(request)
        } else {
            Err(InvalidOption)
        }
    }
}

impl<'a> MetaQuery<'a> {
    fn parse(data: &'a [u8]) -> Result<MetaQuery<'a>, InvalidOption> {
        let mut reader = Reader(data);
        let name = reader.string().ok_or(InvalidOption)?;
        let count = reader.u32().ok_or(InvalidOption)?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(reader.string().ok_or(InvalidOption)?);
        }
        if reader.is_empty() {
            Ok(MetaQuery { name, queries })
        } else {
            Err(InvalidOption)
        }
    }
}

/// Appends an option with its data.
pub(crate) fn put_option(out: &mut Vec<u8>, number: u32, data: &[&[u8]]) {
    let len = wire_len(data.iter().map(|part| part.len()).sum());
    let header = RawOption {
        magic: layout::OPTION_MAGIC.into(),
        option: number.into(),
        len: len.into(),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend(data.iter().copied().flatten());
}

/// The data of `GO`, asking for the size constraints.
pub(crate) fn put_go(out: &mut Vec<u8>, name: &str) {
    let len = U32::new(wire_len(name.len()));
    let infos = [U16::new(1), U16::new(layout::info::BLOCK_SIZE)];
    put_option(
        out,
        option::GO,
        &[len.as_bytes(), name.as_bytes(), infos.as_bytes()],
    );
}

/// The data of `SET_META_CONTEXT` with one query.
pub(crate) fn put_set_meta_context(out: &mut Vec<u8>, name: &str, query: &str) {
    let name_len = U32::new(wire_len(name.len()));
    let count_and_len = [U32::new(1), U32::new(wire_len(query.len()))];
    put_option(
        out,
        option::SET_META_CONTEXT,
        &[
            name_len.as_bytes(),
            name.as_bytes(),
            count_and_len.as_bytes(),
            query.as_bytes(),
        ],
    );
}

/// Appends a reply to an option.
pub(crate) fn put_reply(out: &mut Vec<u8>, number: u32, kind: u32, data: &[&[u8]]) {
    let header = RawOptionReply {
        magic: layout::OPTION_REPLY_MAGIC.into(),
        option: number.into(),
        kind: kind.into(),
        len: wire_len(data.iter().map(|part| part.len()).sum()).into(),
    };
    out.extend_from_slice(header.as_bytes());
    out.extend(data.iter().copied().flatten());
}

/// Appends one entry of the answer to `LIST`.
pub(crate) fn put_server(out: &mut Vec<u8>, name: &str, description: &str) {
    let len = U32::new(wire_len(name.len()));
    put_reply(
        out,
        option::LIST,
        reply::SERVER,
        &[len.as_bytes(), name.as_bytes(), description.as_bytes()],
    );
}
