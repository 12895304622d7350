//! Options of an open image: from the schema's type to what the image keeps to.
//! Called by open. Invariant: an option is honoured or refused by name, never ignored.

use std::time::Duration;

use block_core::{Error, Result};
use block_schema::types::BlockdevOptionsQcow2;

use super::image::{DEFAULT_CACHE, OpenOptions};
use super::overlap::Checked;

/// What of a cache for both holds refcount blocks: they describe eight times as much.
const REFCOUNT_SHARE: u64 = 8;

/// Seconds after which unused tables leave memory, unless options say otherwise.
const CLEAN_INTERVAL: u64 = 600;

/// Checks the options; `discard_unmap` and `writable` are the node's.
///
/// # Errors
/// `InvalidOption` for values that exclude each other, or that cannot be.
pub(super) fn parse(
    options: &BlockdevOptionsQcow2,
    writable: bool,
    discard_unmap: bool,
) -> Result<OpenOptions> {
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
        clean_interval: clean_interval(options.cache_clean_interval)?,
        overlap: Checked::of(options.overlap_check.as_ref()),
        for_check: false,
    })
}

/// Time between rounds; `None` for 0.
fn clean_interval(seconds: Option<i64>) -> Result<Option<Duration>> {
    let option = "cache-clean-interval";
    let seconds = bytes(option, seconds)?.unwrap_or(CLEAN_INTERVAL);
    if u32::try_from(seconds).is_err() {
        return Err(Error::invalid(option, "Cache clean interval too big"));
    }
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
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

    #[track_caller]
    fn check_interval(seconds: Option<i64>, want: std::result::Result<Option<u64>, &str>) {
        let options = BlockdevOptionsQcow2 {
            cache_clean_interval: seconds,
            ..BlockdevOptionsQcow2::new(BlockdevRef::Reference("file".to_owned()))
        };
        let found = parse(&options, true, false).map(|options| options.clean_interval);
        let found = found.map_err(|error| error.chain());
        match (&found, want) {
            (Ok(found), Ok(want)) => assert_eq!(*found, want.map(Duration::from_secs)),
            (Err(found), Err(want)) => assert!(found.contains(want), "{found}"),
            (found, want) => panic!("{found:?}, not {want:?}"),
        }
    }

    #[test]
    fn tables_leave_memory_after_ten_minutes_unless_options_say_otherwise() {
        check_interval(None, Ok(Some(600)));
        check_interval(Some(1), Ok(Some(1)));
        check_interval(Some(0), Ok(None));
        check_interval(Some(i64::from(u32::MAX)), Ok(Some(u64::from(u32::MAX))));
        check_interval(Some(1 << 32), Err("Cache clean interval too big"));
        check_interval(Some(-1), Err("cache-clean-interval is negative"));
    }
}
