//! The name that a user may have meant.

/// The known name nearest to `name`, unless all are far from it.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = normal(name);
    let rated = known.into_iter().map(|candidate| {
        let other = normal(candidate);
        // Of two that are as near, the one of the same length.
        (
            distance(&name, &other),
            name.len().abs_diff(other.len()),
            candidate,
        )
    });
    let (distance, _, candidate) =
        rated.min_by_key(|(distance, length, _)| (*distance, *length))?;
    let allowed = (name.len().max(candidate.len()) / 3).clamp(1, 4);
    (distance <= allowed).then_some(candidate)
}

/// Names differ often by `-` and `_`, or by case; longer ones than these are no slips.
fn normal(name: &str) -> Vec<char> {
    let chars = name.chars().take(64);
    chars
        .map(|c| {
            if c == '_' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

/// How many characters to insert, delete, replace or swap with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replace = last[j] + usize::from(x != y);
            let mut least = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, want: Option<&str>) {
        let known = [
            "query-block",
            "query-blockstats",
            "block_resize",
            "device",
            "full",
            "top",
        ];
        assert_eq!(nearest(name, known), want);
    }

    #[test]
    fn slips_find_what_was_meant() {
        check("qurey-block", Some("query-block"));
        check("Query-Blok", Some("query-block"));
        check("block-resize", Some("block_resize"));
        check("devcie", Some("device"));
        check("ful", Some("full"));
    }

    #[test]
    fn what_is_far_from_all_finds_nothing() {
        check("migrate", None);
        check("x", None);
        check("", None);
    }
}
