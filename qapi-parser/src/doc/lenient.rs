//! Comments of the 2.1 dialect, which nobody judged: what can be read of them is.
//! Called by `check.rs` for expressions of that dialect.
//! Invariant: never fails.

use crate::schema::Doc;

/// The documentation in `comment` if it is a block about `name`, else nothing.
pub(crate) fn lenient(comment: &str, name: &str) -> Doc {
    let lines: Vec<&str> = comment.lines().map(str::trim_start).collect();
    let edges: Vec<usize> = (0..lines.len())
        .filter(|&i| lines[i].trim_end() == "##")
        .collect();
    let [.., first, last] = edges[..] else {
        return Doc::default();
    };
    let mut block = lines[first + 1..last].iter().map(|line| {
        let text = line.trim_start_matches('#');
        text.strip_prefix(' ').unwrap_or(text).trim_end()
    });
    let about = block.next().and_then(|line| line.strip_prefix('@'));
    if about.map(|title| title.trim_end_matches(':')) != Some(name) {
        return Doc::default();
    }
    let mut doc = Doc::default();
    let mut member: Option<String> = None;
    for line in block {
        if let Some((title, text)) = line.strip_prefix('@').and_then(|rest| rest.split_once(':')) {
            doc.members.insert(title.to_owned(), text.trim().to_owned());
            member = Some(title.to_owned());
            continue;
        }
        let text = match &member {
            Some(title) if line.starts_with(' ') => doc.members.entry(title.clone()).or_default(),
            _ => {
                if !line.is_empty() {
                    member = None;
                }
                &mut doc.body
            }
        };
        // Empty lines part paragraphs, however many there are.
        if line.is_empty() && text.ends_with('\n') {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line.trim_start());
    }
    doc.body.truncate(doc.body.trim_end().len());
    for text in doc.members.values_mut() {
        text.truncate(text.trim_end().len());
    }
    doc
}
