//! The list of what no test exercises, with reasons: `docs/commands.holes`.
//!
//! A line is `KEY: reason`; lines that begin with `#` are for readers. A reason may begin with
//! `by chance`. Invariant: a key stands once.
//! Not here: which keys are holes (`page.rs`).

use std::collections::BTreeMap;

/// Reasons by key.
pub(super) type Holes = BTreeMap<String, String>;

/// How the reason begins where a run gets there or not, as threads go: no tick, in any run.
const BY_CHANCE: &str = "by chance";

/// Whether a hole is listed as one that some runs close.
pub(super) fn is_by_chance(holes: &Holes, key: &str) -> bool {
    holes
        .get(key)
        .is_some_and(|reason| reason.starts_with(BY_CHANCE))
}

/// Reads the list.
///
/// # Errors
/// The first line that is none of it.
pub(super) fn parse(text: &str) -> Result<Holes, String> {
    let mut holes = Holes::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("docs/commands.holes:{}: {what}", index + 1);
        let (key, reason) = line.split_once(": ").ok_or_else(|| wrong("no reason"))?;
        if reason.trim().is_empty() {
            return Err(wrong("no reason"));
        }
        let before = holes.insert(key.to_owned(), reason.trim().to_owned());
        if before.is_some() {
            return Err(wrong("a second line for this hole"));
        }
    }
    Ok(holes)
}

/// What is wrong with the list, given the holes there are.
pub(super) fn judge(listed: &Holes, found: &[String]) -> Vec<String> {
    let unlisted = found.iter().filter(|key| !listed.contains_key(*key));
    let unlisted =
        unlisted.map(|key| format!("not exercised, and not in docs/commands.holes: {key}"));
    let closed = listed.keys().filter(|key| !found.contains(key));
    let closed = closed.map(|key| format!("exercised by now, and in docs/commands.holes: {key}"));
    unlisted.chain(closed).collect()
}
