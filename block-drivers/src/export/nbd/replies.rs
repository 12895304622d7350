//! Replies that wait to be sent, gathered into few system calls.
//!
//! Filled as requests finish, emptied by the connection's one sender. Invariant: the memory of a
//! batch's heads is written only while no send is under way.

use std::collections::VecDeque;

use block_core::IoBuf;

use crate::nbd::reply::{Head, MAX_EXTENTS};

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

/// What a request holds of its connection's budget until its reply is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) requests: usize,
    pub(super) bytes: usize,
}

impl Share {
    pub(super) fn add(&mut self, other: Share) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }

    pub(super) fn sub(&mut self, other: Share) {
        self.requests -= other.requests;
        self.bytes -= other.bytes;
    }
}

/// One message: its head, its data, and what is given back when both are sent.
pub(super) struct Message {
    pub(super) head: Head,
    pub(super) data: IoBuf,
    pub(super) share: Share,
}

/// Messages to send at once.
pub(super) struct Batch {
    pub(super) buf: IoBuf,
    pub(super) share: Share,
}

/// The queue of replies of one connection.
pub(super) struct Replies {
    waiting: VecDeque<Message>,
    heads: IoBuf,
}

impl Replies {
    pub(super) fn new() -> Replies {
        Replies {
            waiting: VecDeque::new(),
            heads: IoBuf::zeroed(HEADS_CAPACITY),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    /// Takes the messages of the next send; the last batch has been sent.
    pub(super) fn next_batch(&mut self) -> Batch {
        let mut batch = Batch {
            buf: IoBuf::empty(),
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
                batch.buf.append(message.data);
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
