//! Address families that a user wants, for servers and clients.

use std::net::SocketAddr;

/// Address families that a host's name may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Whichever there is.
    Any,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Family {
    /// What the schema's `ipv4` and `ipv6` stand for; `None` when nothing is left.
    pub(crate) fn of(ipv4: Option<bool>, ipv6: Option<bool>) -> Option<Family> {
        match (ipv4, ipv6) {
            (Some(false), Some(false)) => None,
            (Some(true), None | Some(false)) | (None, Some(false)) => Some(Family::V4),
            (None | Some(false), Some(true)) | (Some(false), None) => Some(Family::V6),
            (None, None) | (Some(true), Some(true)) => Some(Family::Any),
        }
    }

    /// Whether an address is of the family.
    pub(crate) fn allows(self, address: &SocketAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}
