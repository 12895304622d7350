//! Cache modes by name: `-t` and `-T`.

use crate::report::Failure;

/// What a cache mode's name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheMode {
    /// Writes complete before they are durable; otherwise each is flushed.
    pub(crate) writeback: bool,
    /// Bypass the host's page cache.
    pub(crate) direct: bool,
    /// Ignore flushes.
    pub(crate) no_flush: bool,
}

impl CacheMode {
    /// Writes are cached and flushes obeyed.
    pub(crate) const WRITEBACK: CacheMode = CacheMode {
        writeback: true,
        direct: false,
        no_flush: false,
    };

    /// Parses a mode's name.
    ///
    /// # Errors
    /// `Invalid … option: NAME`, with `what` for the dots.
    pub(crate) fn parse(name: &str, what: &str) -> Result<CacheMode, Failure> {
        let (writeback, direct, no_flush) = match name {
            "writeback" => (true, false, false),
            "writethrough" => (false, false, false),
            "none" | "off" => (true, true, false),
            "directsync" => (false, true, false),
            "unsafe" => (true, false, true),
            _ => return Err(Failure::new(format!("Invalid {what} option: {name}"))),
        };
        Ok(CacheMode {
            writeback,
            direct,
            no_flush,
        })
    }
}
