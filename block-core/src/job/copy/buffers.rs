//! Memory that the pieces of a job's work use again and again: fresh memory costs a page fault a
//! page.
//!
//! Shared by all queues that copy for the job. The buffer that was given back last is taken first: it
//! is in the processor's cache still.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::buffer::IoBuf;

/// Buffers that are kept while nobody uses them.
const KEPT: usize = 16;

/// Buffers of one length.
#[derive(Clone)]
pub(in crate::job) struct Buffers {
    free: Arc<Mutex<Vec<IoBuf>>>,
    len: u64,
}

impl Buffers {
    /// None yet, of this many bytes each.
    pub(in crate::job) fn new(len: u64) -> Buffers {
        Buffers {
            free: Arc::default(),
            len,
        }
    }

    /// Bytes of each.
    pub(in crate::job) fn len(&self) -> u64 {
        self.len
    }

    /// One that nobody uses, with any content; it comes back when it is dropped. At that time no
    /// request may have it any more.
    pub(in crate::job) fn take(&self) -> Lent {
        let free = self.free.lock().pop();
        let fresh = || IoBuf::zeroed(usize::try_from(self.len).unwrap_or(usize::MAX));
        Lent {
            buf: free.unwrap_or_else(fresh),
            to: self.clone(),
        }
    }
}

/// A buffer in use.
pub(in crate::job) struct Lent {
    buf: IoBuf,
    to: Buffers,
}

impl Lent {
    /// Its first bytes.
    pub(in crate::job) fn first(&self, len: u64) -> IoBuf {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.buf.slice(0..len.min(self.buf.len()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buf = std::mem::replace(&mut self.buf, IoBuf::empty());
        let mut free = self.to.free.lock();
        if free.len() < KEPT {
            free.push(buf);
        }
    }
}
