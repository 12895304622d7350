//! What is shared between queues, compiled a second time over loom's types and run under every
//! interleaving and every outcome of weak memory that its memory model allows.
//!
//! The files are those of the libraries, by path: `announce.rs` (announcements and claims),
//! `sync.rs` (wait lists), `line.rs` (the line of syncs), `bits.rs` (dirty bitmaps), `table_cache.rs`,
//! `slots.rs` (runs of fixed images), `counts.rs` (refcounts of qcow2). They take atomics and locks from
//! `block_core::atomic`, which is [`atomic`] here. `models.rs` and `allocator.rs` hold what must be true.
//! Not here: anything that waits for the kernel.
#![expect(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "whole files of other crates, of which the models use a part"
)]

// The files of `block-drivers` name `block_core`.
extern crate self as block_core;

pub mod allocator;
pub mod atomic;
pub mod models;

#[path = "../../../block-core/src/request/announce.rs"]
mod announce;

#[path = "../../../block-core/src/sync.rs"]
pub mod sync;

#[path = "../../../block-core/src/engine/line.rs"]
mod line;

#[path = "../../../block-core/src/bitmap/bits.rs"]
mod bits;

#[path = "../../../block-core/src/graph/fixed/slots.rs"]
mod slots;

#[path = "../../../block-drivers/src/kit/table_cache.rs"]
mod table_cache;

#[path = "../../../block-drivers/src/kit/addr.rs"]
mod addr;

#[path = "../../../block-drivers/src/format/qcow2/geometry.rs"]
mod geometry;

#[path = "../../../block-drivers/src/format/qcow2/counts.rs"]
mod counts;

mod kit {
    pub(crate) use crate::{addr, table_cache};
}

pub mod layer {
    use loom::sync::Arc;

    use crate::announce::{InFlight, Reader};
    use crate::graph::NodeId;

    /// As the layer's, of one queue.
    pub struct Readers(Arc<InFlight>, Vec<Reader>);

    impl Readers {
        pub(crate) fn of(queue: &Arc<InFlight>, node: NodeId) -> Readers {
            let readers = queue.readers(|other| other == node);
            Readers(Arc::clone(queue), readers)
        }

        pub fn have_left(&mut self) -> bool {
            self.1.retain(|reader| self.0.is_there(reader));
            self.1.is_empty()
        }
    }
}

mod graph {
    /// As the graph counts nodes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NodeId(pub u32);
}

mod request {
    pub mod map {
        /// What a request does to the bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Access {
            Read,
            Write,
        }
    }
}
