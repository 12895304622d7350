//! What a node is besides its driver, as its options say it, over what it inherits from the node that
//! opens it.
//!
//! Pure but for the numbers of made-up names. Called when a node opens (`open.rs`). Not here: options
//! of drivers, which each reads itself.

use std::sync::atomic::{AtomicU64, Ordering};

use block_schema::types::{
    BlockdevAioOptions, BlockdevDetectZeroesOptions, BlockdevDiscardOptions, BlockdevOptions,
};

use crate::engine::Aio;
use crate::error::{Error, Result};
use crate::graph::reopen::Again;
use crate::graph::{CacheMode, DetectZeroes, NodeFacts};

/// Bytes of the longest name that a node can be given.
const MAX_NAME: usize = 31;

/// What children take over from the node that opens them.
#[derive(Clone, Debug)]
pub(crate) struct Inherited {
    pub(super) read_only: bool,
    pub(super) cache: CacheMode,
    pub(super) aio: Aio,
    pub(super) discard_unmap: bool,
    pub(super) force_share: bool,
    pub(super) auto_read_only: bool,
    /// Whether damage that a check reports is no reason to refuse the node.
    pub(super) for_check: bool,
    /// Whether nothing shows through yet: whoever opens the node puts its backing file there.
    pub(super) without_backing: bool,
    pub(super) depth: u32,
}

impl Inherited {
    /// For a node that gets its backing file later.
    pub(crate) fn without_backing() -> Inherited {
        Inherited {
            without_backing: true,
            ..Inherited::default()
        }
    }
}

impl Default for Inherited {
    fn default() -> Inherited {
        Inherited {
            read_only: false,
            cache: CacheMode::default(),
            aio: Aio::Threads,
            discard_unmap: false,
            force_share: false,
            auto_read_only: false,
            for_check: false,
            without_backing: false,
            depth: 0,
        }
    }
}

/// What the options say, over what is inherited.
pub(super) fn facts_of(
    options: &BlockdevOptions,
    inherited: &mut Inherited,
    again: Option<&Again>,
) -> Result<NodeFacts> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = match (&options.node_name, again) {
        (_, Some(again)) => again.name().to_owned(),
        (Some(name), None) => {
            check_name(name)?;
            name.clone()
        }
        (None, None) => format!("#block{:03}", NEXT.fetch_add(1, Ordering::Relaxed)),
    };
    let mut cache = inherited.cache;
    if let Some(given) = &options.cache {
        cache.writeback = given.writeback.unwrap_or(cache.writeback);
        cache.direct = given.direct.unwrap_or(cache.direct);
        cache.no_flush = given.no_flush.unwrap_or(cache.no_flush);
    }
    if let Some(aio) = options.aio {
        inherited.aio = match aio {
            BlockdevAioOptions::Threads => Aio::Threads,
            BlockdevAioOptions::Native => Aio::Native,
            BlockdevAioOptions::IoUring => Aio::IoUring,
        };
    }
    if let Some(auto) = options.auto_read_only {
        inherited.auto_read_only = auto;
    }
    if let Some(share) = options.force_share {
        inherited.force_share = share;
    }
    let discard_unmap = match options.discard {
        Some(BlockdevDiscardOptions::Unmap) => true,
        Some(BlockdevDiscardOptions::Ignore) => false,
        None => inherited.discard_unmap,
    };
    let detect_zeroes = match options.detect_zeroes {
        None | Some(BlockdevDetectZeroesOptions::Off) => DetectZeroes::Off,
        Some(BlockdevDetectZeroesOptions::On) => DetectZeroes::On,
        Some(BlockdevDetectZeroesOptions::Unmap) if discard_unmap => DetectZeroes::Unmap,
        Some(BlockdevDetectZeroesOptions::Unmap) => {
            return Err(Error::invalid(
                "detect-zeroes",
                "setting detect-zeroes to unmap is not allowed without setting discard \
                 operation to unmap",
            ));
        }
    };
    let read_only = options.read_only.unwrap_or(inherited.read_only);
    if inherited.force_share && !read_only {
        return Err(Error::invalid(
            "force-share",
            "force-share=on can only be used with read-only images",
        ));
    }
    // Whose a node is stays, whatever opens it again.
    let before = again.map(Again::facts);
    Ok(NodeFacts {
        name,
        read_only,
        filename: String::new(),
        discard_unmap,
        detect_zeroes,
        cache,
        force_share: inherited.force_share,
        anonymous: before.map_or(inherited.depth > 0, |before| before.anonymous),
        of_device: before.map_or(options.id.is_some(), |before| before.of_device),
    })
}

fn check_name(name: &str) -> Result<()> {
    let mut chars = name.chars();
    let fits = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    let reason = match (name.len() > MAX_NAME, fits) {
        (true, _) => "Node name too long".to_owned(),
        (false, false) => format!("Invalid node-name: '{name}'"),
        (false, true) => return Ok(()),
    };
    Err(Error::invalid("node-name", reason))
}

/// Refuses what only a device has: rules about its errors.
pub(super) fn refuse_rules(path: &str, options: &BlockdevOptions) -> Result<()> {
    let rules = [("rerror", options.rerror), ("werror", options.werror)];
    match rules.iter().find(|(_, given)| given.is_some()) {
        None => Ok(()),
        Some((rule, _)) => Err(Error::invalid(
            format!("{path}{rule}"),
            format!("Parameter '{path}{rule}' is unexpected"),
        )),
    }
}
