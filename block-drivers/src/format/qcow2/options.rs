//! Options of an open image: from the schema's type to what the image keeps to.
//! Called by open. Invariant: an option is honoured or refused by name, never ignored.

use block_core::{Error, Result};
use block_schema::types::BlockdevOptionsQcow2;

use super::image::{DEFAULT_CACHE, OpenOptions};
use super::overlap::Checked;

/// What of a cache for both holds refcount blocks: they describe eight times as much.
const REFCOUNT_SHARE: u64 = 8;

/// Checks the options; `discard_unmap` and `writable` are the node's.
///
/// # Errors
/// `InvalidOption` for values that exclude each other; `Unsupported` for what is not built in.
pub(super) fn parse(
    node: &str,
    options: &BlockdevOptionsQcow2,
    writable: bool,
    discard_unmap: bool,
) -> Result<OpenOptions> {
    let absent = [(
        options.cache_clean_interval.is_some_and(|s| s != 0),
        "cache-clean-interval",
    )];
    if let Some((_, name)) = absent.iter().find(|(given, _)| *given) {
        let what = format!("option '{name}'");
        return Err(Error::Unsupported {
            node: node.to_owned(),
            what,
        });
    }
    let (l2_cache, refcount_cache) = caches(
        bytes("cache-size", options.cache_size)?,
        bytes("l2-cache-size", options.l2_cache_size)?,
        bytes("refcount-cache-size", options.refcount_cache_size)?,
    )?;
    Ok(OpenOptions {
        writable,
        l2_cache,
        refcount_cache,
        pass_discard_request: options.pass_discard_request.unwrap_or(discard_unmap),
        pass_discard_snapshot: options.pass_discard_snapshot.unwrap_or(discard_unmap),
        pass_discard_other: options.pass_discard_other.unwrap_or(false),
        discard_no_unref: options.discard_no_unref.unwrap_or(false),
        lazy_refcounts: options.lazy_refcounts,
        l2_entry: bytes("l2-cache-entry-size", options.l2_cache_entry_size)?,
        overlap: Checked::of(options.overlap_check.as_ref()),
        for_check: false,
    })
}

fn bytes(option: &str, value: Option<i64>) -> Result<Option<u64>> {
    value
        .map(|v| {
            u64::try_from(v).map_err(|_| Error::invalid(option, format!("{option} is negative")))
        })
        .transpose()
}

/// Bytes for L2 tables and for refcount blocks.
fn caches(both: Option<u64>, l2: Option<u64>, refcounts: Option<u64>) -> Result<(u64, u64)> {
    let share = |all: u64| (all - all / REFCOUNT_SHARE, all / REFCOUNT_SHARE);
    let (default_l2, default_refcounts) = share(DEFAULT_CACHE);
    let too_large =
        |option: &str| Error::invalid(option, format!("{option} may not exceed cache-size"));
    match (both, l2, refcounts) {
        (Some(_), Some(_), Some(_)) => Err(Error::invalid(
            "cache-size",
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
        )),
        (Some(all), Some(l2), None) => {
            let rest = all
                .checked_sub(l2)
                .ok_or_else(|| too_large("l2-cache-size"))?;
            Ok((l2, rest))
        }
        (Some(all), None, Some(refcounts)) => {
            let rest = all
                .checked_sub(refcounts)
                .ok_or_else(|| too_large("refcount-cache-size"))?;
            Ok((rest, refcounts))
        }
        (Some(all), None, None) => Ok(share(all)),
        (None, l2, refcounts) => Ok((
            l2.unwrap_or(default_l2),
            refcounts.unwrap_or(default_refcounts),
        )),
    }
}

#[cfg(test)]
mod tests {
    use block_schema::types::BlockdevRef;

    use super::*;

    #[test]
    fn what_is_not_built_in_is_refused_by_name() {
        let none = BlockdevOptionsQcow2::new(BlockdevRef::Reference("file".to_owned()));
        assert!(parse("top", &none, true, false).is_ok());
        let cleaned = BlockdevOptionsQcow2 {
            cache_clean_interval: Some(600),
            ..none
        };
        let refused = parse("top", &cleaned, true, false).map(|_| ()).unwrap_err();
        let name = "cache-clean-interval";
        assert!(refused.to_string().contains(name), "{refused}");
    }
}
