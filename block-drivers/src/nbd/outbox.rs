//! Messages that wait to be sent, gathered into few system calls.
//!
//! Filled by either side of a connection, emptied by its one sender. Invariant: the memory of a
//! batch's heads is written only while no send is under way.

use std::collections::VecDeque;

use block_core::IoBuf;

use super::reply::{Head, MAX_EXTENTS};

/// Bytes of heads in one batch; the largest head is a full list of extents.
const HEADS_CAPACITY: usize = 16 << 10;
const _: () = assert!(
    MAX_EXTENTS * 8 + 64 <= HEADS_CAPACITY,
    "the largest head fits"
);
/// Pieces of memory in one batch, well below the kernel's 1024.
const BATCH_SEGMENTS: usize = 256;
/// A batch ends at the reply that passes this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What a request holds of its connection's budget until its reply is sent; a client keeps none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

impl Share {
    pub(crate) fn add(&mut self, other: Share) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }

    pub(crate) fn sub(&mut self, other: Share) {
        self.requests -= other.requests;
        self.bytes -= other.bytes;
    }
}

/// One message: its head, its data, and what is given back when both are sent.
pub(crate) struct Message {
    pub(crate) head: Head,
    pub(crate) data: IoBuf,
    pub(crate) share: Share,
}

/// Messages to send at once.
pub(crate) struct Batch {
    pub(crate) buf: IoBuf,
    /// The data in it, message by message, for those who use the memory again.
    pub(crate) data: Vec<IoBuf>,
    pub(crate) share: Share,
}

/// What one connection has to send.
pub(crate) struct Outbox {
    waiting: VecDeque<Message>,
    heads: IoBuf,
}

impl Outbox {
    pub(crate) fn new() -> Outbox {
        Outbox {
            waiting: VecDeque::new(),
            heads: IoBuf::zeroed(HEADS_CAPACITY),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn push(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    /// Takes the messages of the next send; the last batch has been sent.
    pub(crate) fn next_batch(&mut self) -> Batch {
        let mut batch = Batch {
            buf: IoBuf::empty(),
            data: Vec::new(),
            share: Share::default(),
        };
        let mut head_end = 0;
        let mut run_start = 0;
        while let Some(next) = self.waiting.front() {
            let full = head_end + next.head.len() > HEADS_CAPACITY
                || batch.buf.segment_count() + 1 + next.data.segment_count() > BATCH_SEGMENTS
                || batch.buf.len() >= BATCH_BYTES;
            if full && head_end > 0 {
                break;
            }
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            self.heads.copy_in(head_end, &message.head);
            head_end += message.head.len();
            if !message.data.is_empty() {
                // Heads of messages without data join into one piece.
                batch.buf.append(self.heads.slice(run_start..head_end));
                batch.buf.append(message.data.clone());
                batch.data.push(message.data);
                run_start = head_end;
            }
            batch.share.add(message.share);
        }
        if run_start < head_end {
            batch.buf.append(self.heads.slice(run_start..head_end));
        }
        batch
    }
}
