//! Where a server is to listen, as the schema says it.
//!
//! Called by the exports that are built in. A host's port that is taken is passed over where a range
//! of ports is given. Not here: accepting (`nbd/listener.rs`).

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use block_core::Result;
use block_core::error::{Error, kernel_text};
use block_schema::types::{InetSocketAddress, SocketAddressLegacy, UnixSocketAddress};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::nbd::Address;
use crate::nbd::Family;

/// Clients that the kernel lets wait.
const BACKLOG: i32 = 128;

/// Where to listen, and how messages call it.
pub(super) fn address_of(address: &SocketAddressLegacy) -> Result<(Address, String)> {
    match address {
        SocketAddressLegacy::Unix(unix) => unix_address(unix),
        SocketAddressLegacy::Inet(inet) => inet_address(inet),
    }
}

/// Says that a socket is not to be had.
pub(super) fn cannot_bind(place: &str, error: &io::Error) -> Error {
    let why = kernel_text(error);
    Error::invalid("addr", format!("Failed to bind socket to {place}: {why}"))
}

fn unix_address(unix: &UnixSocketAddress) -> Result<(Address, String)> {
    let shown = unix.path.clone();
    if unix.r#abstract != Some(true) {
        if unix.tight.is_some() {
            let reason = "Parameter 'tight' needs 'abstract'";
            return Err(Error::invalid("addr.tight", reason));
        }
        return Ok((Address::Unix(unix.path.clone().into()), shown));
    }
    if unix.tight == Some(false) {
        let reason = "Parameter 'tight' is supported as 'true' only";
        return Err(Error::invalid("addr.tight", reason));
    }
    let listener = UnixAddr::from_abstract_name(&unix.path)
        .and_then(|address| UnixListener::bind_addr(&address))
        .map_err(|error| cannot_bind(&shown, &error))?;
    Ok((Address::Listening(listener.into()), shown))
}

fn inet_address(inet: &InetSocketAddress) -> Result<(Address, String)> {
    let refuse = |member: &str, reason: String| {
        let member = format!("addr.data.{member}");
        Err(Error::invalid(member, reason))
    };
    if inet.keep_alive == Some(true) {
        let reason = "keep-alive option is not supported for passive sockets";
        return refuse("keep-alive", reason.to_owned());
    }
    let Some(family) = Family::of(inet.ipv4, inet.ipv6) else {
        let reason = "Cannot disable IPv4 and IPv6 at same time";
        return refuse("ipv4", reason.to_owned());
    };
    let Ok(port) = inet.port.parse::<u16>() else {
        let reason = format!(
            "Parameter 'addr.data.port' expects a port, not '{}'",
            inet.port
        );
        return refuse("port", reason);
    };
    if inet.numeric == Some(true) && !is_numeric(&inet.host) {
        let reason = format!(
            "Parameter 'addr.data.host' expects a number, not '{}'",
            inet.host
        );
        return refuse("host", reason);
    }
    let last = inet.to.unwrap_or(port);
    let shown = format!("{}:{port}", inet.host);
    let bound = bind(&inet.host, port..=last, family);
    let socket = bound.map_err(|error| cannot_bind(&shown, &error))?;
    Ok((Address::Listening(socket.into()), shown))
}

fn is_numeric(host: &str) -> bool {
    host.is_empty() || host.parse::<std::net::IpAddr>().is_ok()
}

/// Binds the first free port of a host, or of every interface where none is named: then by IPv6,
/// where there is any, which also serves IPv4 unless that is not wanted.
fn bind(
    host: &str,
    ports: std::ops::RangeInclusive<u16>,
    family: Family,
) -> io::Result<TcpListener> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in ports {
        let found: Vec<SocketAddr> = match host {
            "" => vec![
                (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
                (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
            ],
            host => (host, port).to_socket_addrs()?.collect(),
        };
        for address in found.into_iter().filter(|address| family.allows(address)) {
            match listen(&address, family) {
                Ok(socket) => return Ok(socket),
                Err(error) => failed = error,
            }
        }
        if failed.kind() != io::ErrorKind::AddrInUse {
            break;
        }
    }
    Err(failed)
}

fn listen(address: &SocketAddr, family: Family) -> io::Result<TcpListener> {
    let kind = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = rustix::net::socket_with(kind, SocketType::STREAM, flags, None)?;
    // A port whose last connections are still fading away can be had again.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, family == Family::V6)?;
    }
    rustix::net::bind(&socket, address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
