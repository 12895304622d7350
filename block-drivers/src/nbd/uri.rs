//! File names that mean an NBD export, taken apart: `nbd://host[:port]/export`,
//! `nbd+unix:///export?socket=PATH`, `nbd:unix:PATH[:exportname=NAME]`,
//! `nbd:host:port[:exportname=NAME]`.
//!
//! Called by whoever turns names into options. Spec: NBD `doc/uri.md`; the last two are QEMU's
//! older form. Not here: options given by member.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::layout::DEFAULT_PORT;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// A Unix socket.
    Unix {
        /// Its path.
        path: String,
    },
    /// A TCP port.
    Inet {
        /// Name or address, without brackets.
        host: String,
        /// Port number or service name.
        port: String,
    },
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServerAddress::Unix { path } => write!(f, "{path}"),
            ServerAddress::Inet { host, port } if host.contains(':') => {
                write!(f, "[{host}]:{port}")
            }
            ServerAddress::Inet { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// An export, by the name a user gave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExportAddress {
    /// Where the server listens.
    pub server: ServerAddress,
    /// The export; "" is the default one.
    pub export: String,
}

/// A name that begins like an NBD export's and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not one of the forms at all.
    #[error("No valid URL specified")]
    Form,
    /// A legacy name with another beginning.
    #[error("File name string for NBD must start with 'nbd:'")]
    Prefix,
    /// A legacy name without a server.
    #[error("NBD server address missing")]
    NoServer,
    /// A legacy name whose host and port cannot be told apart.
    #[error("error parsing address '{address}'")]
    Address {
        /// The part that should be `host:port`.
        address: String,
    },
}

impl ExportAddress {
    /// Takes a file name apart.
    ///
    /// # Errors
    /// When it is none of the four forms.
    pub fn parse(name: &str) -> Result<ExportAddress, NameError> {
        match name.split_once("://") {
            Some((scheme, rest)) => parse_uri(scheme, rest).ok_or(NameError::Form),
            None => parse_legacy(name),
        }
    }
}

fn parse_uri(scheme: &str, rest: &str) -> Option<ExportAddress> {
    // A fragment means nothing here, as in QEMU.
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = match before_query.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (before_query, ""),
    };
    let export = percent_decode(path)?;
    let server = match scheme {
        "nbd" | "nbd+tcp" if query.is_none() => tcp_authority(authority)?,
        "nbd+unix" if authority.is_empty() => {
            let socket = query?
                .strip_prefix("socket=")
                .filter(|s| !s.contains('&'))?;
            let path = percent_decode(socket)?;
            if path.is_empty() {
                return None;
            }
            ServerAddress::Unix { path }
        }
        _ => return None,
    };
    Some(ExportAddress { server, export })
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn tcp_authority(authority: &str) -> Option<ServerAddress> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            match behind.strip_prefix(':') {
                Some(port) => (host, port),
                None if behind.is_empty() => (host, ""),
                None => return None,
            }
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = match port {
        "" => DEFAULT_PORT,
        digits => digits.parse::<u16>().ok().filter(|&port| port > 0)?,
    };
    let host = percent_decode(host)?;
    if host.is_empty() {
        return None;
    }
    Some(ServerAddress::Inet {
        host,
        port: port.to_string(),
    })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high << 4 | low).ok().filter(|&b| b != 0)?);
    }
    String::from_utf8(bytes).ok()
}

fn parse_legacy(name: &str) -> Result<ExportAddress, NameError> {
    let (address, export) = name.split_once(":exportname=").unwrap_or((name, ""));
    let address = address.strip_prefix("nbd:").ok_or(NameError::Prefix)?;
    if address.is_empty() {
        return Err(NameError::NoServer);
    }
    let server = match address.strip_prefix("unix:") {
        Some("") => return Err(NameError::NoServer),
        Some(path) => ServerAddress::Unix {
            path: path.to_owned(),
        },
        None => legacy_inet(address).ok_or_else(|| NameError::Address {
            address: address.to_owned(),
        })?,
    };
    Ok(ExportAddress {
        server,
        export: export.to_owned(),
    })
}

fn legacy_inet(address: &str) -> Option<ServerAddress> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => address.split_once(':')?,
    };
    if port.is_empty() || port.contains([',', ':']) {
        return None;
    }
    Some(ServerAddress::Inet {
        host: host.to_owned(),
        port: port.to_owned(),
    })
}
