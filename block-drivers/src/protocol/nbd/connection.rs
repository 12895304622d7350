//! One connection to a server: connecting, haggling, and the task that sends and receives.
//!
//! The task belongs to the queue that made the connection; requests of all queues reach it through
//! the [`Session`]. Invariant: however the task ends, the session ends with it. Not here: which
//! connection a request takes (`mod.rs`), whether a reply fits (`session.rs`).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use block_core::IoBuf;
use block_core::queue::LocalQueue;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::session::{Session, SessionEnd};
use crate::nbd::client_handshake::{Facts, Handshake, Step};
use crate::nbd::input::Input;
use crate::nbd::layout::chunk;
use crate::nbd::outbox::Outbox;
use crate::nbd::reply::{Position, ReplyHeader};
use crate::nbd::uri::ServerAddress;
use crate::nbd::{Family, WireError, first};

/// A server that takes longer to accept and to haggle is given up.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// The longest payload of a chunk without data: the longest message, with room to spare.
const MAX_CHUNK: u32 = 48 << 10;

/// What a connection is for.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) server: ServerAddress,
    pub(super) export: String,
    pub(super) keep_alive: bool,
    /// Which addresses of a host may be used.
    pub(super) family: Family,
}

/// Connects, haggles, and starts the connection's task on `queue`.
pub(super) async fn open(queue: &LocalQueue, peer: &Peer) -> Result<Arc<Session>, SessionEnd> {
    let opening = async {
        let socket = Arc::new(connect(queue, peer).await?);
        let (facts, input) = haggle(queue, &socket, &peer.export).await?;
        Ok::<_, SessionEnd>((socket, facts, input))
    };
    let timeout = || io::Error::from(io::ErrorKind::TimedOut);
    let (socket, facts, input) = first(opening, queue.sleep(CONNECT_MAX))
        .await
        .ok_or_else(timeout)??;
    let session = Session::new(facts);
    let served = Served(Arc::clone(&session));
    let connection = Connection {
        queue: queue.clone(),
        socket,
        served,
    };
    queue.spawn(async move { connection.run(input).await });
    Ok(session)
}

async fn connect(queue: &LocalQueue, peer: &Peer) -> io::Result<OwnedFd> {
    match &peer.server {
        ServerAddress::Unix { path } => connect_unix(queue, path).await,
        ServerAddress::Inet { host, port } => {
            let (host, port) = (host.clone(), port.clone());
            let addresses = queue.blocking(move || resolve(&host, &port)).await?;
            let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for address in addresses
                .iter()
                .filter(|address| peer.family.allows(address))
            {
                match connect_inet(queue, address).await {
                    Ok(socket) => {
                        sockopt::set_tcp_nodelay(&socket, true)?;
                        sockopt::set_socket_keepalive(&socket, peer.keep_alive)?;
                        return Ok(socket);
                    }
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        }
    }
}

/// Looks a host up; waits for the network, so it runs on the pool.
fn resolve(host: &str, port: &str) -> io::Result<Vec<SocketAddr>> {
    let number = match (port.parse::<u16>(), port) {
        (Ok(number), _) => number,
        (Err(_), "nbd") => crate::nbd::layout::DEFAULT_PORT,
        (Err(_), _) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "port is not a number",
            ));
        }
    };
    Ok((host, number).to_socket_addrs()?.collect())
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

async fn connect_unix(queue: &LocalQueue, path: &str) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    loop {
        let socket = stream_socket(AddressFamily::UNIX)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // The server's backlog is full, and nothing tells when it no longer is.
            Err(Errno::AGAIN) => queue.sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn connect_inet(queue: &LocalQueue, address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = Arc::new(stream_socket(family)?);
    match rustix::net::connect(&socket, address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => {
            queue.writable(&socket).await?;
            sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    match Arc::try_unwrap(socket) {
        Ok(socket) => Ok(socket),
        // The poll that has ended still holds its handle for a moment.
        Err(shared) => shared.try_clone(),
    }
}

async fn haggle(
    queue: &LocalQueue,
    socket: &Arc<OwnedFd>,
    export: &str,
) -> Result<(Facts, Input), SessionEnd> {
    let mut input = Input::new();
    let mut handshake = Handshake::new(export);
    let mut out = Vec::new();
    loop {
        let (taken, step) = handshake.advance(&input.unread(), &mut out)?;
        input.skip(taken);
        if !out.is_empty() {
            queue.send(socket, IoBuf::copy_of(&out)).await?;
            out.clear();
        }
        match step {
            Step::Ready(facts) => return Ok((facts, input)),
            Step::More if taken > 0 => {}
            Step::More => {
                if input.fill(queue, socket).await? == 0 {
                    return Err(WireError::Closed.into());
                }
            }
        }
    }
}

/// A session that ends when its connection's task does, also when the queue goes first.
struct Served(Arc<Session>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.fail(SessionEnd::Closed);
    }
}

struct Connection {
    queue: LocalQueue,
    socket: Arc<OwnedFd>,
    served: Served,
}

impl Connection {
    async fn run(&self, input: Input) {
        let progress = Cell::new(false);
        let ended = {
            let mut receiver = pin!(self.receive(input));
            let mut sender = pin!(self.send(&progress));
            poll_fn(|cx| {
                loop {
                    progress.set(false);
                    if let Poll::Ready(end) = receiver.as_mut().poll(cx) {
                        return Poll::Ready(end);
                    }
                    if let Poll::Ready(end) = sender.as_mut().poll(cx) {
                        return Poll::Ready(end);
                    }
                    if !progress.get() {
                        return Poll::Pending;
                    }
                }
            })
            .await
        };
        let end = match ended {
            Ok(()) => SessionEnd::Closed,
            Err(end) => {
                tracing::debug!("NBD connection: {end}");
                end
            }
        };
        self.served.0.fail(end);
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
    }

    /// Sends requests, many at a time, until the goodbye is sent.
    async fn send(&self, progress: &Cell<bool>) -> Result<(), SessionEnd> {
        let session = &self.served.0;
        let mut outbox = Outbox::new();
        loop {
            poll_fn(|cx| {
                session.collect(&mut outbox, cx);
                if outbox.is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            let batch = outbox.next_batch();
            self.queue.send(&self.socket, batch.buf).await?;
            progress.set(true);
            if outbox.is_empty() && session.is_closing() {
                return Ok(());
            }
        }
    }

    async fn receive(&self, mut input: Input) -> Result<(), SessionEnd> {
        let session = &self.served.0;
        loop {
            let mut head = [0; 20];
            let count = input.peek(&mut head);
            let Some((header, taken)) = ReplyHeader::parse(&head[..count])? else {
                self.fill(&mut input).await?;
                continue;
            };
            input.skip(taken);
            let cookie = match header {
                ReplyHeader::Simple { cookie, error } => {
                    let data = session.simple(cookie, error)?;
                    self.receive_into(&mut input, &data).await?;
                    session.complete(cookie)?;
                    continue;
                }
                ReplyHeader::Chunk {
                    cookie,
                    kind: chunk::OFFSET_DATA,
                    len,
                    ..
                } => {
                    let wrong = WireError::Chunk {
                        cookie,
                        kind: chunk::OFFSET_DATA,
                        len,
                    };
                    let len = len.checked_sub(8).ok_or(wrong)?;
                    let offset = u64::from_be_bytes(self.take(&mut input).await?);
                    let data = session.chunk_data(cookie, offset, u64::from(len))?;
                    self.receive_into(&mut input, &data).await?;
                    cookie
                }
                ReplyHeader::Chunk {
                    cookie, kind, len, ..
                } if len > MAX_CHUNK => {
                    return Err(WireError::Chunk { cookie, kind, len }.into());
                }
                ReplyHeader::Chunk {
                    cookie,
                    kind,
                    len,
                    position,
                } => {
                    let payload = IoBuf::zeroed(len as usize);
                    self.receive_into(&mut input, &payload).await?;
                    session.chunk(cookie, kind, position, &payload.to_vec())?;
                    cookie
                }
            };
            if let ReplyHeader::Chunk {
                position: Position::Last,
                ..
            } = header
            {
                session.complete(cookie)?;
            }
        }
    }

    async fn fill(&self, input: &mut Input) -> Result<(), SessionEnd> {
        if input.fill(&self.queue, &self.socket).await? == 0 {
            return Err(WireError::Closed.into());
        }
        Ok(())
    }

    async fn take<const N: usize>(&self, input: &mut Input) -> Result<[u8; N], SessionEnd> {
        loop {
            if let Some(bytes) = input.take() {
                return Ok(bytes);
            }
            self.fill(input).await?;
        }
    }

    async fn receive_into(&self, input: &mut Input, data: &IoBuf) -> Result<(), SessionEnd> {
        if !input.receive_all(&self.queue, &self.socket, data).await? {
            return Err(WireError::Closed.into());
        }
        Ok(())
    }
}
