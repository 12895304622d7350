//! How `io` opens an image: the same letters on the command line and behind `open`.

use super::Args;
use super::words::Words;
use crate::opts::cache::CacheMode;
use crate::opts::image::{Access, ImageArgs, OpenHow};
use crate::report::Failure;

/// What was said of it, as written.
pub(super) struct HowWords<'a> {
    read_only: bool,
    nocache: bool,
    snapshot: bool,
    force_share: bool,
    cache: Option<&'a str>,
    aio: Option<&'a str>,
    discard: Option<&'a str>,
}

impl<'a> HowWords<'a> {
    /// On the command line.
    pub(super) fn of_args(args: &'a Args) -> HowWords<'a> {
        HowWords {
            read_only: args.read_only,
            nocache: args.nocache,
            snapshot: args.snapshot,
            force_share: args.image.force_share,
            cache: args.cache.as_deref(),
            aio: args.aio.as_deref(),
            discard: args.discard.as_deref(),
        }
    }

    /// Behind `open`.
    pub(super) fn of_words(words: &Words<'a>) -> HowWords<'a> {
        HowWords {
            read_only: words.has('r'),
            nocache: words.has('n'),
            snapshot: words.has('s'),
            force_share: words.has('U'),
            cache: words.argument('t'),
            aio: words.argument('i'),
            discard: words.argument('d'),
        }
    }

    /// Whether writes go to a temporary overlay.
    pub(super) fn is_snapshot(&self) -> bool {
        self.snapshot
    }

    /// What it means.
    ///
    /// # Errors
    /// `Invalid … option: …`.
    pub(super) fn how(&self, args: &ImageArgs) -> Result<OpenHow, Failure> {
        let cache = match (self.cache, self.nocache) {
            (Some(name), _) => CacheMode::parse(name, "cache")?,
            (None, true) => CacheMode::parse("none", "cache")?,
            (None, false) => CacheMode::parse("writethrough", "cache")?,
        };
        let aio = match self.aio {
            None => None,
            Some("threads") => Some("threads"),
            Some("native") => Some("native"),
            Some("io_uring") => Some("io_uring"),
            Some(other) => return Err(Failure::new(format!("Invalid aio option: {other}"))),
        };
        let discard = match self.discard {
            None | Some("on" | "unmap") => true,
            Some("off" | "ignore") => false,
            Some(other) => return Err(Failure::new(format!("Invalid discard option: {other}"))),
        };
        let access = match self.read_only {
            true => Access::Read,
            false => Access::Write,
        };
        Ok(OpenHow {
            access,
            aio,
            discard,
            force_share: self.force_share,
            ..OpenHow::read(args).with_cache(cache)
        })
    }
}
