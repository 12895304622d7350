//! What a node asks of the requests that reach it.
//!
//! Drivers state it, the request path keeps it (`request/`): drivers never see a request that
//! breaks their own limits.

/// A node's demands on requests; the default asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths of reads and writes are multiples of this power of two.
    pub request_alignment: u32,
    /// The most bytes of one read or write.
    pub max_transfer: u64,
    /// The most bytes of one `write_zeroes`.
    pub max_write_zeroes: u64,
    /// The most bytes of one `discard`.
    pub max_discard: u64,
    /// Requests of this multiple are cheapest: the cluster size of a format. A driver that asks for
    /// an alignment claims no more than whole units of this around a request.
    pub optimal_transfer: u32,
    /// Writes behind the end wait for one another: who appends does well to ask for storage before,
    /// by [`Driver::allocate`](crate::driver::Driver::allocate).
    pub grows_slowly: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_alignment: 1,
            // What one system call moves at most, on a page boundary.
            max_transfer: 0x7fff_f000,
            max_write_zeroes: u64::MAX,
            max_discard: u64::MAX,
            optimal_transfer: 4096,
            grows_slowly: false,
        }
    }
}
