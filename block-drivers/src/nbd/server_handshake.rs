//! The server's side of the fixed newstyle handshake, as a state machine.
//!
//! The connection feeds it what it received and sends what it wrote; one call handles at most one
//! option, so what a client can make us hold is one answer. Invariant: after `EXPORT_NAME` or `GO`
//! succeeded nothing more is parsed as an option. TLS is refused by policy.
//! Spec: "Newstyle negotiation", "Fixed newstyle negotiation". Not here: time limits.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::HashSet;

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::layout::{
    self, INIT_PASSWD, MAX_PAYLOAD, MAX_STRING, OPTION_MAGIC, RawBlockSize, RawExport, RawGreeting,
    RawOption, allocation, dirty_bitmap, option, reply, transmission,
};
use super::option::{ClientOption, InfoRequest, MetaQuery, put_reply, put_server};
use super::{BlockSize, ExportInfo, Reader, WireError};

/// The longest option whose data we hold; longer ones are skipped and refused.
const MAX_OPTION_DATA: usize = 48 << 10;
/// Bytes that the caller must be able to hold for [`Handshake::advance`] to make progress.
pub(crate) const INPUT_CAPACITY: usize = MAX_OPTION_DATA + size_of::<RawOption>();
/// The most options of one handshake.
const MAX_OPTIONS: u32 = 1024;
/// The id under which `base:allocation` is selected.
pub(crate) const ALLOCATION_CONTEXT: u32 = 1;

/// The id under which a dirty bitmap is selected, by its place among those of the export.
pub(crate) fn bitmap_context(place: usize) -> u32 {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    ALLOCATION_CONTEXT.saturating_add(1).saturating_add(place)
}

/// The exports a handshake can choose from.
pub(crate) trait Catalog {
    /// What comes with a chosen export.
    type Export;

    /// The export of this name; "" is the default export.
    fn find(&self, name: &str) -> Option<(ExportInfo, Self::Export)>;

    /// Name and description of each export.
    fn list(&self) -> Vec<(String, String)>;
}

/// Where the handshake stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<E> {
    /// More bytes are needed.
    More,
    /// One option is answered; call again with what is left.
    Answered,
    /// The client is content: requests follow.
    Transmission(Agreed<E>),
    /// The client gave up; close without complaint.
    Aborted,
}

/// What was agreed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreed<E> {
    pub(crate) export: E,
    pub(crate) info: ExportInfo,
    pub(crate) structured: bool,
    pub(crate) contexts: Contexts,
}

/// The contexts that a client has selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contexts {
    /// `base:allocation`.
    pub(crate) allocation: bool,
    /// Dirty bitmaps, by their places among those of the export; in order.
    pub(crate) bitmaps: Vec<usize>,
}

impl Contexts {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        !self.allocation && self.bitmaps.is_empty()
    }

    /// The contexts of an export that some query means; of one that ends early all that begin so.
    fn meant_by(info: &ExportInfo, queries: &[&[u8]], wildcards: bool) -> Contexts {
        let queries: HashSet<&[u8]> = queries.iter().copied().collect();
        let asked = |query: &str| queries.contains(query.as_bytes());
        let all = wildcards && (asked(dirty_bitmap::SPACE) || asked(dirty_bitmap::PREFIX));
        let bitmap = |name: &str| all || asked(&format!("{}{name}", dirty_bitmap::PREFIX));
        let named = info.bitmaps.iter().enumerate();
        let bitmaps = named.filter(|(_, name)| bitmap(name));
        Contexts {
            allocation: asked(allocation::NAME) || wildcards && asked(allocation::SPACE),
            bitmaps: bitmaps.map(|(place, _)| place).collect(),
        }
    }

    /// All of an export.
    fn all(info: &ExportInfo) -> Contexts {
        Contexts {
            allocation: true,
            bitmaps: (0..info.bitmaps.len()).collect(),
        }
    }

    /// Tells of each context, under its id.
    fn put(&self, info: &ExportInfo, out: &mut Vec<u8>, number: u32, with_ids: bool) {
        let id = |id: u32| if with_ids { id } else { 0 };
        if self.allocation {
            put_context(out, number, id(ALLOCATION_CONTEXT), allocation::NAME);
        }
        for &place in &self.bitmaps {
            let Some(name) = info.bitmaps.get(place) else {
                continue;
            };
            let name = format!("{}{name}", dirty_bitmap::PREFIX);
            put_context(out, number, id(bitmap_context(place)), &name);
        }
    }
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Option,
    /// Bytes of an oversized option are thrown away.
    Skip {
        left: usize,
        option: u32,
    },
}

/// One client's handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    state: State,
    fixed: bool,
    no_zeroes: bool,
    structured: bool,
    /// The export for which contexts are selected, and which.
    selected: Option<(String, Contexts)>,
    options: u32,
}

impl Handshake {
    /// A handshake, with the greeting to send.
    pub(crate) fn new(out: &mut Vec<u8>) -> Handshake {
        let greeting = RawGreeting {
            passwd: INIT_PASSWD.into(),
            magic: OPTION_MAGIC.into(),
            flags: (layout::FLAG_FIXED_NEWSTYLE | layout::FLAG_NO_ZEROES).into(),
        };
        out.extend_from_slice(greeting.as_bytes());
        Handshake {
            state: State::ClientFlags,
            fixed: false,
            no_zeroes: false,
            structured: false,
            selected: None,
            options: 0,
        }
    }

    /// Takes bytes off the front of `input` and appends answers to `out`; returns how many bytes
    /// it took.
    ///
    /// # Errors
    /// The connection must be cut, without an answer, after what is in `out` was sent.
    pub(crate) fn advance<C: Catalog>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Result<(usize, Step<C::Export>), WireError> {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Option => self.option(input, out, catalog),
            State::Skip { left, option } => {
                let taken = left.min(input.len());
                let left = left.saturating_sub(taken);
                if left > 0 {
                    self.state = State::Skip { left, option };
                    return Ok((taken, Step::More));
                }
                self.state = State::Option;
                let text: &[u8] = b"option data is too long";
                put_reply(out, option, reply::ERR_TOO_BIG, &[text]);
                Ok((taken, Step::Answered))
            }
        }
    }

    fn client_flags<E>(&mut self, input: &[u8]) -> Result<(usize, Step<E>), WireError> {
        let Some(flags) = Reader(input).u32() else {
            return Ok((0, Step::More));
        };
        if flags & !(layout::FLAG_C_FIXED_NEWSTYLE | layout::FLAG_C_NO_ZEROES) != 0 {
            return Err(WireError::HandshakeFlags { flags });
        }
        self.fixed = flags & layout::FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & layout::FLAG_C_NO_ZEROES != 0;
        self.state = State::Option;
        Ok((size_of::<u32>(), Step::Answered))
    }

    fn option<C: Catalog>(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Result<(usize, Step<C::Export>), WireError> {
        let mut reader = Reader(input);
        let Some(header) = reader.value::<RawOption>() else {
            return Ok((0, Step::More));
        };
        let (number, len) = (header.option.get(), header.len.get());
        if header.magic.get() != OPTION_MAGIC {
            return Err(WireError::OptionMagic {
                magic: header.magic.get(),
            });
        }
        let too_long = || WireError::OptionLength {
            option: number,
            len,
        };
        if len > MAX_PAYLOAD {
            return Err(too_long());
        }
        let len = usize::try_from(len).map_err(|_| too_long())?;
        if !self.fixed && number != option::EXPORT_NAME {
            return Err(WireError::NotFixed { option: number });
        }
        if number == option::EXPORT_NAME && len > MAX_STRING {
            return Err(too_long());
        }
        if len > MAX_OPTION_DATA {
            self.count_option()?;
            self.state = State::Skip {
                left: len,
                option: number,
            };
            return Ok((size_of::<RawOption>(), Step::Answered));
        }
        let Some(data) = reader.take(len) else {
            return Ok((0, Step::More));
        };
        self.count_option()?;
        let taken = size_of::<RawOption>().saturating_add(len);
        let step = match ClientOption::parse(number, data) {
            Ok(parsed) => self.answer(number, parsed, out, catalog)?,
            Err(_) => {
                if number == option::SET_META_CONTEXT {
                    // A failed selection replaces the one before, too.
                    self.selected = None;
                }
                refuse(out, number, reply::ERR_INVALID, "option data is malformed")
            }
        };
        Ok((taken, step))
    }

    fn count_option(&mut self) -> Result<(), WireError> {
        self.options = self.options.saturating_add(1);
        if self.options > MAX_OPTIONS {
            return Err(WireError::Flood { limit: MAX_OPTIONS });
        }
        Ok(())
    }

    fn answer<C: Catalog>(
        &mut self,
        number: u32,
        parsed: ClientOption<'_>,
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Result<Step<C::Export>, WireError> {
        Ok(match parsed {
            ClientOption::ExportName(name) => self.export_name(name, out, catalog)?,
            ClientOption::Abort => {
                put_reply(out, number, reply::ACK, &[]);
                Step::Aborted
            }
            ClientOption::List => {
                for (name, description) in catalog.list() {
                    put_server(out, &name, &description);
                }
                put_reply(out, number, reply::ACK, &[]);
                Step::Answered
            }
            ClientOption::StartTls => {
                refuse(out, number, reply::ERR_POLICY, "TLS is not configured")
            }
            ClientOption::Info(request) => {
                self.info(number, &request, out, catalog);
                Step::Answered
            }
            ClientOption::Go(request) => match self.info(number, &request, out, catalog) {
                Some((info, export)) => Step::Transmission(self.agreed(info, export)),
                None => Step::Answered,
            },
            ClientOption::StructuredReply if self.structured => refuse(
                out,
                number,
                reply::ERR_INVALID,
                "structured replies are agreed on already",
            ),
            ClientOption::StructuredReply => {
                self.structured = true;
                put_reply(out, number, reply::ACK, &[]);
                Step::Answered
            }
            ClientOption::ListMetaContext(query) => self.list_contexts(&query, out, catalog),
            ClientOption::SetMetaContext(query) => self.set_contexts(&query, out, catalog),
            ClientOption::Unknown => {
                refuse(out, number, reply::ERR_UNSUP, "option is not supported")
            }
        })
    }

    fn export_name<C: Catalog>(
        &mut self,
        name: &[u8],
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Result<Step<C::Export>, WireError> {
        let found = std::str::from_utf8(name)
            .ok()
            .and_then(|name| catalog.find(name));
        let Some((info, export)) = found else {
            let name = String::from_utf8_lossy(name).escape_debug().to_string();
            return Err(WireError::UnknownExport { name });
        };
        let agreed = self.agreed(info, export);
        let raw = RawExport {
            size: agreed.info.size.into(),
            flags: agreed.info.flags.into(),
        };
        out.extend_from_slice(raw.as_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; layout::EXPORT_NAME_ZEROES]);
        }
        Ok(Step::Transmission(agreed))
    }

    /// Answers `INFO` and `GO`; the export, when there is one.
    fn info<C: Catalog>(
        &self,
        number: u32,
        request: &InfoRequest<'_>,
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Option<(ExportInfo, C::Export)> {
        let found = std::str::from_utf8(request.name)
            .ok()
            .and_then(|name| catalog.find(name));
        let Some((info, export)) = found else {
            refuse::<C::Export>(out, number, reply::ERR_UNKNOWN, "export is not available");
            return None;
        };
        let kind = |kind: u16| U16::new(kind);
        if request.wants_name {
            let kind = kind(layout::info::NAME);
            put_reply(
                out,
                number,
                reply::INFO,
                &[kind.as_bytes(), info.name.as_bytes()],
            );
        }
        if request.wants_description && !info.description.is_empty() {
            let kind = kind(layout::info::DESCRIPTION);
            put_reply(
                out,
                number,
                reply::INFO,
                &[kind.as_bytes(), info.description.as_bytes()],
            );
        }
        // Who did not ask for the constraints will not keep to them, so is told the minimum that
        // anybody may use; we pad what is not aligned.
        let minimum = if request.wants_block_size {
            info.block_size.minimum
        } else {
            1
        };
        let BlockSize {
            preferred, maximum, ..
        } = info.block_size;
        let sizes = RawBlockSize {
            minimum: minimum.into(),
            preferred: preferred.into(),
            maximum: maximum.into(),
        };
        let kind_size = kind(layout::info::BLOCK_SIZE);
        put_reply(
            out,
            number,
            reply::INFO,
            &[kind_size.as_bytes(), sizes.as_bytes()],
        );
        let flags = self.flags(&info);
        let raw = RawExport {
            size: info.size.into(),
            flags: flags.into(),
        };
        let kind = kind(layout::info::EXPORT);
        put_reply(out, number, reply::INFO, &[kind.as_bytes(), raw.as_bytes()]);
        put_reply(out, number, reply::ACK, &[]);
        Some((info, export))
    }

    fn flags(&self, info: &ExportInfo) -> u16 {
        let structured_only = if self.structured {
            transmission::SEND_DF
        } else {
            0
        };
        info.flags | transmission::HAS_FLAGS | structured_only
    }

    fn agreed<E>(&self, mut info: ExportInfo, export: E) -> Agreed<E> {
        info.flags = self.flags(&info);
        // A selection counts only for the export it named.
        let selected = self
            .selected
            .as_ref()
            .filter(|(name, _)| *name == info.name);
        let contexts = selected.map(|(_, contexts)| contexts.clone());
        Agreed {
            export,
            info,
            structured: self.structured,
            contexts: contexts.unwrap_or_default(),
        }
    }

    fn list_contexts<C: Catalog>(
        &self,
        query: &MetaQuery<'_>,
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Step<C::Export> {
        let number = option::LIST_META_CONTEXT;
        let Some(info) = self.find_for_query(query, number, out, catalog) else {
            return Step::Answered;
        };
        let contexts = match query.queries.is_empty() {
            true => Contexts::all(&info),
            false => Contexts::meant_by(&info, &query.queries, true),
        };
        contexts.put(&info, out, number, false);
        put_reply(out, number, reply::ACK, &[]);
        Step::Answered
    }

    fn set_contexts<C: Catalog>(
        &mut self,
        query: &MetaQuery<'_>,
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Step<C::Export> {
        let number = option::SET_META_CONTEXT;
        self.selected = None;
        let Some(info) = self.find_for_query(query, number, out, catalog) else {
            return Step::Answered;
        };
        let contexts = Contexts::meant_by(&info, &query.queries, false);
        contexts.put(&info, out, number, true);
        self.selected = Some((info.name, contexts));
        put_reply(out, number, reply::ACK, &[]);
        Step::Answered
    }

    /// The export that a query is about; answers with an error where there is none.
    fn find_for_query<C: Catalog>(
        &self,
        query: &MetaQuery<'_>,
        number: u32,
        out: &mut Vec<u8>,
        catalog: &C,
    ) -> Option<ExportInfo> {
        if !self.structured {
            let text = "structured replies must be agreed on first";
            refuse::<C::Export>(out, number, reply::ERR_INVALID, text);
            return None;
        }
        let found = std::str::from_utf8(query.name)
            .ok()
            .and_then(|name| catalog.find(name));
        let Some((info, _)) = found else {
            refuse::<C::Export>(out, number, reply::ERR_UNKNOWN, "export is not available");
            return None;
        };
        Some(info)
    }
}

fn put_context(out: &mut Vec<u8>, number: u32, id: u32, name: &str) {
    let id = U32::new(id);
    put_reply(
        out,
        number,
        reply::META_CONTEXT,
        &[id.as_bytes(), name.as_bytes()],
    );
}

fn refuse<E>(out: &mut Vec<u8>, number: u32, kind: u32, text: &str) -> Step<E> {
    put_reply(out, number, kind, &[text.as_bytes()]);
    Step::Answered
}
