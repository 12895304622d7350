//! What is shared between queues, compiled a second time over loom's types and run under every
//! interleaving and every outcome of weak memory that its memory model allows.
//!
//! The files are those of the libraries, by path: `announce.rs` (announcements and claims),
//! `sync.rs` (wait lists), `line.rs` (the line of syncs), `bits.rs` (dirty bitmaps), `table_cache.rs`, `slots.rs` (runs of fixed images). They take atomics and
//! locks from `block_core::atomic`, which is [`atomic`] here. `models.rs` holds what must be true.
//! Not here: anything that waits for the kernel.
#![expect(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "whole files of other crates, of which the models use a part"
)]

// The files of `block-drivers` name `block_core`.
extern crate self as block_core;

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
