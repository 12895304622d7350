//! What a connection, on either side, received and has not parsed yet.
//!
//! Invariant: `start <= end <= CAPACITY`; the bytes between are unread. Large payloads pass by:
//! they are received into their own memory, with this buffer behind it, so that one system call
//! brings the rest of a payload and the requests that follow.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use block_core::IoBuf;
use block_core::queue::LocalQueue;

use super::server_handshake::INPUT_CAPACITY;

/// Bytes of the buffer: some fifty 28-byte requests with room to spare, or sixteen 4 KiB writes.
const CAPACITY: usize = 64 << 10;
const _: () = assert!(INPUT_CAPACITY <= CAPACITY, "the longest option fits");

/// The receive buffer of one connection.
pub(crate) struct Input {
    buf: IoBuf,
    start: usize,
    end: usize,
}

impl Input {
    pub(crate) fn new() -> Input {
        Input {
            buf: IoBuf::zeroed(CAPACITY),
            start: 0,
            end: 0,
        }
    }

    /// Unread bytes.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// A copy of all unread bytes.
    pub(crate) fn unread(&self) -> Vec<u8> {
        self.buf.slice(self.start..self.end).to_vec()
    }

    /// Copies the next bytes out, if there are enough, and moves past them.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        if self.len() < N {
            return None;
        }
        let mut bytes = [0; N];
        self.buf.copy_out(self.start, &mut bytes);
        self.skip(N);
        Some(bytes)
    }

    /// Moves past up to `len` bytes; says how many.
    pub(crate) fn skip(&mut self, len: usize) -> usize {
        let skipped = len.min(self.len());
        self.start += skipped;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
        skipped
    }

    /// Copies the next bytes to the front of `bytes`, without moving past them; says how many.
    pub(crate) fn peek(&self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len());
        self.buf.copy_out(self.start, &mut bytes[..count]);
        count
    }

    /// Receives behind the unread bytes; 0 when the peer has closed.
    pub(crate) async fn fill(
        &mut self,
        queue: &LocalQueue,
        socket: &Arc<OwnedFd>,
    ) -> io::Result<usize> {
        if self.start > 0 {
            // What is left here is the beginning of one message, so there is little to move.
            let unread = self.unread();
            self.buf.copy_in(0, &unread);
            self.start = 0;
            self.end = unread.len();
        }
        let (count, _) = queue
            .recv(socket, self.buf.slice(self.end..CAPACITY))
            .await?;
        self.end += count;
        Ok(count)
    }

    /// Fills `payload` from what is here and from the socket; false when the peer closed before.
    pub(crate) async fn receive_all(
        &mut self,
        queue: &LocalQueue,
        socket: &Arc<OwnedFd>,
        payload: &IoBuf,
    ) -> io::Result<bool> {
        let mut at = payload.len().min(self.len());
        payload.copy_from(0, &self.buf, self.start, at);
        self.skip(at);
        while at < payload.len() {
            // Nothing is unread here. What comes behind the payload goes to the buffer.
            let mut rest = payload.slice(at..payload.len());
            let missing = rest.len();
            rest.append(self.buf.clone());
            let (count, _) = queue.recv(socket, rest).await?;
            if count == 0 {
                return Ok(false);
            }
            at += count.min(missing);
            self.start = 0;
            self.end = count.saturating_sub(missing);
        }
        Ok(true)
    }
}
