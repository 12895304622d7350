//! The client's side of the handshake, as a state machine.
//!
//! Asks for structured replies, then `base:allocation`, then the export by `GO`; where the server
//! knows none of them, falls back to `EXPORT_NAME`. The connection feeds it what it received and
//! sends what it wrote. Spec: "Newstyle negotiation", "Option reply types".
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::layout::{
    self, INIT_PASSWD, MAX_PAYLOAD, MAX_STRING, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    RawBlockSize, RawExport, RawGreeting, RawOptionReply, allocation, info, option, reply,
};
use super::option::{put_go, put_option, put_set_meta_context};
use super::{BlockSize, Reader, WireError};

/// The longest reply we hold: the largest string with room for what is around it.
const MAX_REPLY_DATA: usize = 2 * MAX_STRING + 64;
/// The most replies of one handshake.
const MAX_REPLIES: u32 = 256;

/// What the server told about the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Bytes of the export.
    pub(crate) size: u64,
    /// What it can do: `layout::transmission`.
    pub(crate) flags: u16,
    /// What requests must keep to.
    pub(crate) block_size: BlockSize,
    /// Whether reads are answered in chunks.
    pub(crate) structured: bool,
    /// The id of `base:allocation`, when it was selected.
    pub(crate) allocation: Option<u32>,
}

/// Where the handshake stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send what was written, then call again with more bytes.
    More,
    /// Requests may be sent.
    Ready(Facts),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Structured,
    Context,
    Go,
    ExportName,
}

/// One handshake for one export.
#[derive(Debug)]
pub(crate) struct Handshake {
    export: String,
    state: State,
    no_zeroes: bool,
    structured: bool,
    allocation: Option<u32>,
    described: Option<(u64, u16)>,
    block_size: Option<BlockSize>,
    replies: u32,
}

impl Handshake {
    /// A handshake for the export of this name.
    pub(crate) fn new(export: &str) -> Handshake {
        Handshake {
            export: export.to_owned(),
            state: State::Greeting,
            no_zeroes: false,
            structured: false,
            allocation: None,
            described: None,
            block_size: None,
            replies: 0,
        }
    }

    /// Takes one message off the front of `input`, appends what to send to `out`; returns how many
    /// bytes it took. With 0 taken, more bytes are needed.
    pub(crate) fn advance(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Step), WireError> {
        match self.state {
            State::Greeting => self.greeting(input, out),
            State::ExportName => self.export_name(input),
            State::Structured | State::Context | State::Go => self.option_reply(input, out),
        }
    }

    fn greeting(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Step), WireError> {
        let Ok((raw, _)) = RawGreeting::read_from_prefix(input) else {
            return Ok((0, Step::More));
        };
        if raw.passwd.get() != INIT_PASSWD {
            return Err(WireError::Greeting {
                magic: raw.passwd.get(),
            });
        }
        match raw.magic.get() {
            OPTION_MAGIC => {}
            OLDSTYLE_MAGIC => return Err(WireError::Oldstyle),
            magic => return Err(WireError::Greeting { magic }),
        }
        self.no_zeroes = raw.flags.get() & layout::FLAG_NO_ZEROES != 0;
        let fixed = raw.flags.get() & layout::FLAG_FIXED_NEWSTYLE != 0;
        let flags = if fixed {
            layout::FLAG_C_FIXED_NEWSTYLE
        } else {
            0
        } | if self.no_zeroes {
            layout::FLAG_C_NO_ZEROES
        } else {
            0
        };
        out.extend_from_slice(U32::new(flags).as_bytes());
        if fixed {
            put_option(out, option::STRUCTURED_REPLY, &[]);
            self.state = State::Structured;
        } else {
            self.ask_by_name(out);
        }
        Ok((size_of::<RawGreeting>(), Step::More))
    }

    fn ask_by_name(&mut self, out: &mut Vec<u8>) {
        put_option(out, option::EXPORT_NAME, &[self.export.as_bytes()]);
        self.state = State::ExportName;
    }

    fn ask_go(&mut self, out: &mut Vec<u8>) {
        put_go(out, &self.export);
        self.state = State::Go;
    }

    fn export_name(&mut self, input: &[u8]) -> Result<(usize, Step), WireError> {
        let zeroes = if self.no_zeroes {
            0
        } else {
            layout::EXPORT_NAME_ZEROES
        };
        let mut reader = Reader(input);
        let (Some(raw), Some(_)) = (reader.value::<RawExport>(), reader.take(zeroes)) else {
            return Ok((0, Step::More));
        };
        self.described = Some((raw.size.get(), raw.flags.get()));
        let taken = size_of::<RawExport>().saturating_add(zeroes);
        Ok((taken, Step::Ready(self.facts(option::EXPORT_NAME)?)))
    }

    fn option_reply(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Step), WireError> {
        let mut reader = Reader(input);
        let Some(raw) = reader.value::<RawOptionReply>() else {
            return Ok((0, Step::More));
        };
        if raw.magic.get() != OPTION_REPLY_MAGIC {
            return Err(WireError::OptionMagic {
                magic: raw.magic.get(),
            });
        }
        let (number, kind, len) = (raw.option.get(), raw.kind.get(), raw.len.get());
        let malformed = WireError::OptionReply {
            option: number,
            kind,
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if number != self.asked() || len > MAX_REPLY_DATA {
            return Err(malformed);
        }
        let Some(data) = reader.take(len) else {
            return Ok((0, Step::More));
        };
        self.replies = self.replies.saturating_add(1);
        if self.replies > MAX_REPLIES {
            return Err(WireError::Flood { limit: MAX_REPLIES });
        }
        let taken = size_of::<RawOptionReply>().saturating_add(len);
        let step = match self.state {
            State::Structured => match kind {
                reply::ACK if data.is_empty() => {
                    self.structured = true;
                    put_set_meta_context(out, &self.export, allocation::NAME);
                    self.state = State::Context;
                    Step::More
                }
                reply::ACK => return Err(malformed),
                kind if kind & reply::ERROR_BIT != 0 => {
                    self.ask_go(out);
                    Step::More
                }
                _ => return Err(malformed),
            },
            State::Context => self.context(kind, data, out).ok_or(malformed)?,
            State::Go => self.go(kind, data, out)?,
            State::Greeting | State::ExportName => return Err(malformed),
        };
        Ok((taken, step))
    }

    /// The option whose replies are to come.
    fn asked(&self) -> u32 {
        match self.state {
            State::Structured => option::STRUCTURED_REPLY,
            State::Context => option::SET_META_CONTEXT,
            State::Go => option::GO,
            State::Greeting | State::ExportName => 0,
        }
    }

    fn context(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        match kind {
            reply::META_CONTEXT => {
                let mut reader = Reader(data);
                let id = reader.u32()?;
                if reader.0 != allocation::NAME.as_bytes() || self.allocation.is_some() {
                    return None;
                }
                self.allocation = Some(id);
            }
            reply::ACK => self.ask_go(out),
            kind if kind & reply::ERROR_BIT != 0 => {
                // Contexts that were announced before an error do not count.
                self.allocation = None;
                self.ask_go(out);
            }
            _ => return None,
        }
        Some(Step::More)
    }

    fn go(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Step, WireError> {
        let malformed = WireError::OptionReply {
            option: option::GO,
            kind,
        };
        match kind {
            reply::INFO => self.info(data).ok_or(malformed)?,
            reply::ACK if data.is_empty() => return Ok(Step::Ready(self.facts(option::GO)?)),
            reply::ERR_UNSUP => self.ask_by_name(out),
            kind if kind & reply::ERROR_BIT != 0 => {
                let message = String::from_utf8_lossy(data).escape_debug().to_string();
                return Err(WireError::Refused {
                    name: self.export.clone(),
                    reason: refusal(kind),
                    message,
                });
            }
            _ => return Err(malformed),
        }
        Ok(Step::More)
    }

    fn info(&mut self, data: &[u8]) -> Option<()> {
        let mut reader = Reader(data);
        match reader.u16()? {
            info::EXPORT => {
                let raw = RawExport::read_from_bytes(reader.0).ok()?;
                self.described = Some((raw.size.get(), raw.flags.get()));
            }
            info::BLOCK_SIZE => {
                let raw = RawBlockSize::read_from_bytes(reader.0).ok()?;
                self.block_size = Some(BlockSize {
                    minimum: raw.minimum.get(),
                    preferred: raw.preferred.get(),
                    maximum: raw.maximum.get(),
                });
            }
            // Types we do not know are to be ignored.
            _ => {}
        }
        Some(())
    }

    fn facts(&self, answered: u32) -> Result<Facts, WireError> {
        let missing = WireError::OptionReply {
            option: answered,
            kind: reply::ACK,
        };
        let (size, flags) = self.described.ok_or(missing)?;
        let block_size = self.block_size.unwrap_or_default();
        let BlockSize {
            minimum,
            preferred,
            maximum,
        } = block_size;
        let legal = minimum.is_power_of_two()
            && minimum <= 1 << 16
            && preferred.is_power_of_two()
            && preferred >= minimum
            && maximum >= minimum;
        if !legal {
            return Err(WireError::BlockSize {
                minimum,
                preferred,
                maximum,
            });
        }
        Ok(Facts {
            size,
            flags,
            block_size: BlockSize {
                maximum: maximum.min(MAX_PAYLOAD),
                ..block_size
            },
            structured: self.structured,
            allocation: self.allocation,
        })
    }
}

/// Error replies in words.
fn refusal(kind: u32) -> &'static str {
    match kind {
        reply::ERR_POLICY => "the server's policy forbids it",
        reply::ERR_INVALID => "the server finds the request invalid",
        reply::ERR_PLATFORM => "the server's platform does not support it",
        reply::ERR_TLS_REQD => "the server requires TLS",
        reply::ERR_UNKNOWN => "the server has no such export",
        reply::ERR_SHUTDOWN => "the server is shutting down",
        reply::ERR_BLOCK_SIZE_REQD => "the server requires its block sizes",
        reply::ERR_TOO_BIG => "the server finds the request too big",
        _ => "the server gives no known reason",
    }
}
