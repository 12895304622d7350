#![doc = include_str!("README.md")]

mod connection;
mod session;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use block_core::driver::{Cx, Driver, Pending, Status, StatusKind, ZeroFlags};
use block_core::graph::open::Opener;
use block_core::limits::Limits;
use block_core::queue::LocalQueue;
use block_core::request::map::{Access, Lookup, Mapping};
use block_core::{Error, IoBuf, Result};
use block_schema::types::{
    BlockdevOptionsNbd, FdSocketAddress, InetSocketAddress, SocketAddress, SocketAddressBranch,
    UnixSocketAddress,
};
use parking_lot::Mutex;

use crate::nbd::Family;
use crate::nbd::client_handshake::Facts;
use crate::nbd::layout::{allocation, command, command_flag, transmission};
use crate::nbd::uri::{ExportAddress, ServerAddress};
use connection::Peer;
use session::{Answer, CallError, Command, Session, SessionEnd};

/// Connections of one node, however many queues use it.
const MAX_CONNECTIONS: usize = 16;
/// Between two attempts to connect, while `open-timeout` lasts.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Zero bytes written at a time to a server that cannot write zeroes.
const ZERO_CHUNK: u64 = 1 << 20;

/// Opens the driver by its options.
///
/// # Errors
/// `InvalidOption` and `Unsupported` for options, `Open` when the server cannot be reached or
/// refuses the export.
pub async fn open(opener: &mut Opener, options: BlockdevOptionsNbd) -> Result<Box<dyn Driver>> {
    let timeout = Duration::from_secs(options.open_timeout.unwrap_or(0).into());
    let peer = peer_of(opener.node_name(), options)?;
    opener.set_filename(filename_of(&peer));
    let queue = opener.queue().clone();
    let session = open_within(&queue, &peer, timeout).await?;
    if session.facts().flags & transmission::READ_ONLY != 0 && !opener.is_read_only() {
        if !opener.auto_read_only() {
            session.close();
            let reason = "request on write denied without write permission";
            return Err(Error::invalid("read-only", reason));
        }
        opener.set_read_only();
    }
    Ok(Box::new(Nbd::new(peer, session)))
}

/// The options that a file name stands for; see [`ExportAddress`].
///
/// # Errors
/// `InvalidOption` when it is none of the forms.
pub fn parse_filename(name: &str) -> Result<BlockdevOptionsNbd> {
    let address = ExportAddress::parse(name)
        .map_err(|error| Error::invalid("filename", error.to_string()))?;
    let server = match address.server {
        ServerAddress::Unix { path } => SocketAddressBranch::Unix(UnixSocketAddress::new(path)),
        ServerAddress::Inet { host, port } => {
            SocketAddressBranch::Inet(InetSocketAddress::new(host, port))
        }
    };
    let mut options = BlockdevOptionsNbd::new(SocketAddress::new(server));
    options.export = Some(address.export).filter(|export| !export.is_empty());
    Ok(options)
}

fn unsupported(node: &str, what: &str) -> Error {
    Error::Unsupported {
        node: node.to_owned(),
        what: what.to_owned(),
    }
}

fn peer_of(node: &str, options: BlockdevOptionsNbd) -> Result<Peer> {
    if options.tls_creds.is_some() || options.tls_hostname.is_some() {
        return Err(unsupported(node, "TLS ('tls-creds', 'tls-hostname')"));
    }
    if options.reconnect_delay.unwrap_or(0) > 0 {
        return Err(unsupported(node, "connecting again ('reconnect-delay')"));
    }
    let export = options.export.unwrap_or_default();
    if export.len() > crate::nbd::layout::MAX_STRING {
        return Err(Error::invalid(
            "export",
            "export name too long to send to server",
        ));
    }
    let mut peer = Peer {
        server: ServerAddress::Unix {
            path: String::new(),
        },
        export,
        keep_alive: false,
        family: Family::Any,
    };
    match options.server.r#type {
        SocketAddressBranch::Unix(UnixSocketAddress {
            r#abstract: Some(true),
            ..
        }) => {
            return Err(unsupported(
                node,
                "the abstract namespace ('server.abstract')",
            ));
        }
        // `tight` says something about abstract names only.
        SocketAddressBranch::Unix(UnixSocketAddress { path, .. }) => {
            peer.server = ServerAddress::Unix { path };
        }
        SocketAddressBranch::Inet(inet) => {
            let numeric = inet.numeric == Some(true);
            if numeric && inet.host.parse::<std::net::IpAddr>().is_err() {
                return Err(Error::invalid(
                    "server.host",
                    "host is not a numeric address",
                ));
            }
            if inet.to.is_some() {
                return Err(Error::invalid(
                    "server.to",
                    "a range of ports is for listening only",
                ));
            }
            let Some(family) = Family::of(inet.ipv4, inet.ipv6) else {
                let reason = "neither IPv4 nor IPv6 may be used";
                return Err(Error::invalid("server.ipv4", reason));
            };
            peer.family = family;
            peer.keep_alive = inet.keep_alive.unwrap_or(false);
            peer.server = ServerAddress::Inet {
                host: inet.host,
                port: inet.port,
            };
        }
        SocketAddressBranch::Fd(FdSocketAddress { .. }) => {
            return Err(unsupported(
                node,
                "a connected descriptor ('server.type' fd)",
            ));
        }
    }
    Ok(peer)
}

fn filename_of(peer: &Peer) -> String {
    match &peer.server {
        ServerAddress::Unix { path } => format!("nbd+unix:///{}?socket={path}", peer.export),
        inet @ ServerAddress::Inet { .. } if peer.export.is_empty() => format!("nbd://{inet}"),
        inet @ ServerAddress::Inet { .. } => format!("nbd://{inet}/{}", peer.export),
    }
}

/// Connects; tries again until `timeout` has passed.
async fn open_within(queue: &LocalQueue, peer: &Peer, timeout: Duration) -> Result<Arc<Session>> {
    let mut left = timeout;
    loop {
        let end = match connection::open(queue, peer).await {
            Ok(session) => return check_facts(session, peer),
            Err(end) => end,
        };
        // What the server said will not change; what the network did may.
        let again = matches!(end, SessionEnd::Socket(_)) && !left.is_zero();
        if !again {
            return Err(open_error(peer, end));
        }
        let pause = RETRY_AFTER.min(left);
        queue.sleep(pause).await;
        left = left.saturating_sub(pause);
    }
}

fn open_error(peer: &Peer, end: SessionEnd) -> Error {
    let source = match end {
        SessionEnd::Socket(error) => error,
        end @ (SessionEnd::Protocol(_) | SessionEnd::Closed) => io::Error::other(end),
    };
    Error::Open {
        path: filename_of(peer),
        source,
    }
}

fn check_facts(session: Arc<Session>, peer: &Peer) -> Result<Arc<Session>> {
    let Facts {
        size, block_size, ..
    } = *session.facts();
    let wrong = if i64::try_from(size).is_err() {
        format!("export length {size} is too large")
    } else if size % u64::from(block_size.minimum) != 0 {
        format!(
            "export size {size} is not multiple of minimum block size {}",
            block_size.minimum
        )
    } else {
        return Ok(session);
    };
    session.close();
    Err(Error::Open {
        path: filename_of(peer),
        source: io::Error::other(wrong),
    })
}

/// An export of a server, as a node.
struct Nbd {
    peer: Peer,
    facts: Facts,
    /// The connection made first; the only one unless the server allows several.
    primary: Arc<Session>,
    others: Arc<Mutex<Others>>,
}

/// Connections of other queues, by the thread that the queue runs on.
#[derive(Default)]
struct Others {
    sessions: HashMap<ThreadId, Other>,
    closed: bool,
}

enum Other {
    /// On its way, or given up; requests take the first connection.
    Absent,
    Open(Arc<Session>),
}

impl Nbd {
    fn new(peer: Peer, primary: Arc<Session>) -> Nbd {
        let facts = *primary.facts();
        let own = Other::Open(Arc::clone(&primary));
        let sessions = HashMap::from([(std::thread::current().id(), own)]);
        let others = Arc::new(Mutex::new(Others {
            sessions,
            closed: false,
        }));
        Nbd {
            peer,
            facts,
            primary,
            others,
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.facts.flags & flag != 0
    }

    /// The connection for requests of a queue. A queue that has none gets one made, if the server
    /// says that its connections see one another's writes; until then it uses the first.
    fn session(&self, queue: &LocalQueue) -> Arc<Session> {
        if !self.has(transmission::CAN_MULTI_CONN) {
            return Arc::clone(&self.primary);
        }
        let thread = std::thread::current().id();
        let mut others = self.others.lock();
        match others.sessions.get(&thread) {
            Some(Other::Open(session)) if session.end().is_none() => return Arc::clone(session),
            Some(Other::Open(_) | Other::Absent) => return Arc::clone(&self.primary),
            None => {}
        }
        let full = others.sessions.len() >= MAX_CONNECTIONS;
        others.sessions.insert(thread, Other::Absent);
        drop(others);
        if !full {
            let (peer, facts) = (self.peer.clone(), self.facts);
            let others = Arc::downgrade(&self.others);
            let on = queue.clone();
            queue.spawn(async move {
                let session = match connection::open(&on, &peer).await {
                    Ok(session) if same_export(session.facts(), &facts) => session,
                    Ok(session) => return session.close(),
                    Err(end) => return tracing::debug!("another NBD connection: {end}"),
                };
                let Some(others) = others.upgrade() else {
                    return session.close();
                };
                let mut others = others.lock();
                if others.closed {
                    return session.close();
                }
                others.sessions.insert(thread, Other::Open(session));
            });
        }
        Arc::clone(&self.primary)
    }

    async fn call(&self, cx: &Cx, verb: &'static str, command: Command) -> Result<Answer> {
        let (offset, len) = (command.offset, u64::from(command.len));
        let result = self.session(cx.queue()).call(command).await;
        result.map_err(|error| {
            let source = match error {
                CallError::Remote(errno) => io::Error::from(errno),
                CallError::Ended(end) => io::Error::other(end),
            };
            Error::Io {
                node: cx.node_name().to_owned(),
                op: verb,
                offset,
                len,
                source,
            }
        })
    }

    async fn zero_bytes(&self, cx: &Cx, range: Range<u64>) -> Result<()> {
        let zeroes = IoBuf::zeroed(usize::try_from(ZERO_CHUNK).unwrap_or(usize::MAX));
        let mut at = range.start;
        while at < range.end {
            let len = ZERO_CHUNK
                .min(range.end - at)
                .min(self.facts.block_size.maximum.into());
            let part = zeroes.slice(0..usize::try_from(len).unwrap_or(usize::MAX));
            self.call(cx, "write zeroes", write(at, part)).await?;
            at += len;
        }
        Ok(())
    }

    fn close_sessions(&self) {
        let mut others = self.others.lock();
        others.closed = true;
        for other in others.sessions.values() {
            match other {
                Other::Open(session) => session.close(),
                Other::Absent => {}
            }
        }
        self.primary.close();
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        self.close_sessions();
    }
}

fn same_export(a: &Facts, b: &Facts) -> bool {
    (a.size, a.flags, a.block_size) == (b.size, b.flags, b.block_size)
        && a.allocation.is_some() == b.allocation.is_some()
}

/// Lengths of requests, which the limits keep below 4 GiB.
fn wire_len(range: &Range<u64>) -> u32 {
    u32::try_from(range.end - range.start).unwrap_or(u32::MAX)
}

fn command_on(command: u16, range: &Range<u64>) -> Command {
    let len = wire_len(range);
    Command {
        command,
        flags: 0,
        offset: range.start,
        len,
        buf: IoBuf::empty(),
    }
}

fn write(offset: u64, buf: IoBuf) -> Command {
    let range = offset..offset + buf.len() as u64;
    Command {
        buf,
        ..command_on(command::WRITE, &range)
    }
}

impl Driver for Nbd {
    fn format_name(&self) -> &'static str {
        "nbd"
    }

    fn len(&self) -> u64 {
        self.facts.size
    }

    fn limits(&self) -> Limits {
        let sizes = self.facts.block_size;
        let unit = u64::from(sizes.minimum);
        let down = |len: u64| len - len % unit;
        Limits {
            request_alignment: sizes.minimum,
            max_transfer: down(sizes.maximum.into()).max(unit),
            max_write_zeroes: down(sizes.maximum.into()).max(unit),
            max_discard: down(i32::MAX.unsigned_abs().into()),
            optimal_transfer: sizes.preferred,
            grows_slowly: false,
        }
    }

    /// Bytes come from the server; nothing is mapped.
    fn try_map(&self, _: Access, _: Range<u64>, _: &mut Mapping) -> Lookup {
        Lookup::Miss
    }

    fn read<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            let range = offset..offset + buf.len() as u64;
            self.call(
                cx,
                "read",
                Command {
                    buf,
                    ..command_on(command::READ, &range)
                },
            )
            .await?;
            Ok(())
        })
    }

    fn write<'a>(&'a self, cx: &'a Cx, offset: u64, buf: IoBuf) -> Pending<'a> {
        Box::pin(async move {
            self.call(cx, "write", write(offset, buf)).await?;
            Ok(())
        })
    }

    fn write_zeroes<'a>(&'a self, cx: &'a Cx, range: Range<u64>, flags: ZeroFlags) -> Pending<'a> {
        Box::pin(async move {
            let fast = self.has(transmission::SEND_FAST_ZERO);
            if flags.no_fallback && !fast {
                return Err(cx.unsupported("writing zeroes fast"));
            }
            if !self.has(transmission::SEND_WRITE_ZEROES) {
                return self.zero_bytes(cx, range).await;
            }
            let no_hole = if flags.may_unmap {
                0
            } else {
                command_flag::NO_HOLE
            };
            let only_fast = if flags.no_fallback {
                command_flag::FAST_ZERO
            } else {
                0
            };
            let zero = command_on(command::WRITE_ZEROES, &range);
            let zero = Command {
                flags: no_hole | only_fast,
                ..zero
            };
            self.call(cx, "write zeroes", zero).await?;
            Ok(())
        })
    }

    fn discard<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a> {
        Box::pin(async move {
            if self.has(transmission::SEND_TRIM) {
                self.call(cx, "discard", command_on(command::TRIM, &range))
                    .await?;
            }
            Ok(())
        })
    }

    fn flush<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move {
            // One connection's flush covers the writes of all: the server said so.
            if self.has(transmission::SEND_FLUSH) {
                self.call(cx, "flush", command_on(command::FLUSH, &(0..0)))
                    .await?;
            }
            Ok(())
        })
    }

    fn status<'a>(&'a self, cx: &'a Cx, range: Range<u64>) -> Pending<'a, Status> {
        Box::pin(async move {
            let unit = u64::from(self.facts.block_size.minimum);
            let longest = u64::from(u32::MAX) - u64::from(u32::MAX) % unit;
            // The server answers for whole blocks only.
            let start = range.start - range.start % unit;
            let end = range
                .end
                .next_multiple_of(unit)
                .min(self.facts.size)
                .min(start + longest);
            let data = Status {
                len: range.end.min(end) - range.start,
                kind: StatusKind::Data,
                child: None,
                compressed: false,
            };
            if self.facts.allocation.is_none() {
                return Ok(data);
            }
            let ask = command_on(command::BLOCK_STATUS, &(start..end));
            let ask = Command {
                flags: command_flag::REQ_ONE,
                ..ask
            };
            let Answer::Status(extent) = self.call(cx, "status", ask).await? else {
                return Ok(data);
            };
            let covered = u64::from(extent.len).saturating_sub(range.start - start);
            if covered == 0 {
                // Nothing about the bytes in question: say what is always safe.
                return Ok(data);
            }
            // A hole that may read as anything has to be read.
            let zero = extent.flags & allocation::ZERO != 0;
            let kind = if zero {
                StatusKind::Zero
            } else {
                StatusKind::Data
            };
            Ok(Status {
                len: covered.min(data.len),
                kind,
                ..data
            })
        })
    }

    fn close<'a>(&'a self, cx: &'a Cx) -> Pending<'a> {
        Box::pin(async move {
            let flushed = self.flush(cx).await;
            self.close_sessions();
            flushed
        })
    }
}

#[cfg(test)]
mod tests;
