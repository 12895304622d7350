//! Memory that the pieces of a job's work use again and again: fresh memory costs a page fault a
//! page.

use std::cell::RefCell;
use std::rc::Rc;

use crate::buffer::IoBuf;

/// Buffers of one length, as many as were ever used at once.
#[derive(Clone)]
pub(crate) struct Buffers {
    free: Rc<RefCell<Vec<IoBuf>>>,
    len: usize,
}

impl Buffers {
    /// None yet, of this many bytes each.
    pub(crate) fn new(len: usize) -> Buffers {
        Buffers {
            free: Rc::default(),
            len,
        }
    }

    /// One that nobody uses, with any content; it comes back when it is dropped. At that time no
    /// request may have it any more.
    pub(crate) fn take(&self) -> Lent {
        let free = self.free.borrow_mut().pop();
        Lent {
            buf: free.unwrap_or_else(|| IoBuf::zeroed(self.len)),
            to: self.clone(),
        }
    }
}

/// A buffer in use.
pub(crate) struct Lent {
    buf: IoBuf,
    to: Buffers,
}

impl Lent {
    /// Its first bytes.
    pub(crate) fn first(&self, len: u64) -> IoBuf {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.buf.slice(0..len.min(self.buf.len()))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buf = std::mem::replace(&mut self.buf, IoBuf::empty());
        self.to.free.borrow_mut().push(buf);
    }
}
