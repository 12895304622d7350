//! Listening sockets, and the task that accepts.
//!
//! Runs on one queue; connections are handed to others. Invariant: a client is accepted only when
//! there is room for it, so that the rest waits in the kernel's backlog.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use block_core::queue::LocalQueue;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::server::Shared;
use crate::nbd::first;

/// Where a server listens.
#[derive(Debug)]
pub enum Address {
    /// A Unix socket; what is at the path is replaced.
    Unix(PathBuf),
    /// A TCP port; 0 lets the kernel choose.
    Inet {
        /// Name or address; "" means every interface.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket that listens already.
    Listening(OwnedFd),
}

/// Where a server really listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Inet(SocketAddr),
    /// A socket that was given.
    Given,
}

/// A socket that listens; its path goes with it.
pub(super) struct Listener {
    socket: Arc<OwnedFd>,
    address: BoundAddress,
}

impl Listener {
    pub(super) fn bind(address: Address) -> io::Result<Listener> {
        let (socket, address): (OwnedFd, _) = match address {
            Address::Unix(path) => (bind_unix(&path)?.into(), BoundAddress::Unix(path)),
            Address::Inet { host, port } => {
                let listener = bind_inet(&host, port)?;
                let bound = listener.local_addr()?;
                (listener.into(), BoundAddress::Inet(bound))
            }
            Address::Listening(socket) => (socket, BoundAddress::Given),
        };
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Listener {
            socket: Arc::new(socket),
            address,
        })
    }

    pub(super) fn address(&self) -> &BoundAddress {
        &self.address
    }

    /// Accepts until the server stops.
    pub(super) async fn run(self, queue: LocalQueue, server: Arc<Shared>) {
        Running {
            listener: self,
            server: Gone(server),
        }
        .accept_all(&queue)
        .await;
    }

    fn accept(&self) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::accept_with(&self.socket, flags)?;
        // Replies are gathered already; a Unix socket has no such option.
        rustix::net::sockopt::set_tcp_nodelay(&socket, true).ok();
        Ok(socket)
    }
}

/// A listener at work. The socket and its path go first, then the server hears of it.
struct Running {
    listener: Listener,
    server: Gone,
}

impl Running {
    async fn accept_all(&self, queue: &LocalQueue) {
        let Running {
            listener,
            server: Gone(server),
        } = self;
        while server.wait_for_room().await {
            let ready = first(queue.readable(&listener.socket), server.stopped()).await;
            match ready {
                None => break,
                Some(Err(error)) => {
                    tracing::error!("NBD listener: {error}");
                    break;
                }
                Some(Ok(())) => {}
            }
            match listener.accept() {
                Ok(socket) => server.welcome(socket),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // Out of descriptors or memory: others may give some back.
                    tracing::warn!("NBD listener: {error}");
                    queue.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let BoundAddress::Unix(path) = &self.address
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

/// Tells the server that nobody accepts any more, also when the queue goes first.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.listener_gone();
    }
}

/// Binds a port of a host; of every interface, by IPv6 where there is any, when none is named.
fn bind_inet(host: &str, port: u16) -> io::Result<TcpListener> {
    if host.is_empty() {
        return TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
    }
    TcpListener::bind((host, port))
}

/// Binds a path, in place of a socket that an earlier server left there.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}
