//! The NBD protocol's bytes, for the server (`export/nbd`) and the client (`protocol/nbd`).
//!
//! All but `input` and `outbox`, the two ends of a socket, is pure: bytes in, checked values out, and
//! back. Both sides of the handshake are state machines that neither wait nor own a socket, so that
//! tests run one against the other. Invariant: past this module nobody sees a raw field, and no length from the wire has met an
//! allocation before its bound. Not here: sockets, limits on connections, the backend.
//! Spec: NBD `doc/proto.md`.

pub(crate) mod client_handshake;
mod error;
mod family;
pub(crate) mod input;
pub(crate) mod layout;
pub(crate) mod option;
pub(crate) mod outbox;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod server_handshake;
pub mod uri;

pub use error::WireError;
pub(crate) use error::{errno_to_wire, wire_to_errno};
pub(crate) use family::Family;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use zerocopy::FromBytes;
use zerocopy::big_endian::{U16, U32};

/// What the two sides agree on about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportInfo {
    /// The export's own name.
    pub(crate) name: String,
    /// For people; may be empty.
    pub(crate) description: String,
    /// Bytes of the export.
    pub(crate) size: u64,
    /// What it can do: `layout::transmission`.
    pub(crate) flags: u16,
    /// What requests should keep to.
    pub(crate) block_size: BlockSize,
    /// Dirty bitmaps that clients may ask about; their contexts are `qemu:dirty-bitmap:` and this.
    pub(crate) bitmaps: Vec<String>,
}

/// Size constraints: powers of two, but for the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSize {
    /// Smallest unit of offsets and lengths.
    pub(crate) minimum: u32,
    /// Smallest unit that is done well.
    pub(crate) preferred: u32,
    /// Most bytes of a payload.
    pub(crate) maximum: u32,
}

impl Default for BlockSize {
    /// What holds where nothing was said.
    fn default() -> BlockSize {
        BlockSize {
            minimum: 1,
            preferred: 4096,
            maximum: layout::MAX_PAYLOAD,
        }
    }
}

/// Takes fields off the front of bytes from outside.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    fn value<T: FromBytes>(&mut self) -> Option<T> {
        let (value, tail) = T::read_from_prefix(self.0).ok()?;
        self.0 = tail;
        Some(value)
    }

    fn u16(&mut self) -> Option<u16> {
        self.value::<U16>().map(U16::get)
    }

    fn u32(&mut self) -> Option<u32> {
        self.value::<U32>().map(U32::get)
    }

    /// A string behind its 32-bit length.
    fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        if len > layout::MAX_STRING {
            return None;
        }
        self.take(len)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Lengths of what we send; all of it is built here and far below the limit.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("messages are built below 4 GiB")
}

/// The value of `work`, or nothing when `limit` ends first.
pub(crate) async fn first<T>(
    work: impl Future<Output = T>,
    limit: impl Future<Output = ()>,
) -> Option<T> {
    let (mut work, mut limit) = (pin!(work), pin!(limit));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
    })
    .await
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
