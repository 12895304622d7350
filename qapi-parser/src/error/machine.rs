//! Findings for programs: a line each as compilers write them, or JSON.

use std::fmt::Write as _;

use super::Diagnostics;
use crate::source::Span;

impl Diagnostics {
    /// A line a finding, as GCC writes them: `file:line:column: error: message`, each followed by
    /// lines for what explains it with `note` in place of `error`.
    pub fn gcc(&self) -> String {
        let mut out = String::new();
        let mut line = |span: Option<Span>, kind: &str, text: &str| {
            // Writing to a string does not fail.
            let _ = match span {
                Some(span) => writeln!(out, "{}: {kind}: {text}", self.locate(span)),
                None => writeln!(out, "{kind}: {text}"),
            };
        };
        for finding in self.iter() {
            line(finding.span, "error", &finding.message);
            for (span, text) in &finding.notes {
                line(Some(*span), "note", text);
            }
            for asked in self.includes(finding.span) {
                line(Some(asked), "note", "included from here");
            }
        }
        if self.left_out() > 0 {
            let text = format!("{} more findings are not shown", self.left_out());
            line(None, "note", &text);
        }
        out
    }

    /// The findings as a JSON array of objects, in one line:
    ///
    /// ```json
    /// [{"severity": "error", "message": "…",
    ///   "place": {"file": "…", "line": 1, "column": 1, "end_line": 1, "end_column": 5},
    ///   "notes": [{"message": "…", "place": {…}}], "included_from": [{…}], "reference": "…"}]
    /// ```
    ///
    /// Lines and columns count from 1, columns in characters; the end is one past the last
    /// character. `place` is null when no file could be read; `included_from` goes from the file
    /// of the finding outwards; `reference` is what the reference compiler says to it without the
    /// place, null if it knows it not. Keys stay, new ones may come.
    pub fn json(&self) -> String {
        let findings = self.iter().map(|finding| {
            let notes = finding.notes.iter().map(|(span, text)| {
                let (text, place) = (string(text), self.json_place(*span));
                format!("{{\"message\":{text},\"place\":{place}}}")
            });
            let included = self.includes(finding.span).into_iter();
            let reference = finding.reference.as_ref();
            format!(
                "{{\"severity\":\"error\",\"message\":{},\"place\":{},\"notes\":{},\
                 \"included_from\":{},\"reference\":{}}}",
                string(&finding.message),
                finding
                    .span
                    .map_or_else(|| "null".to_owned(), |span| self.json_place(span)),
                array(notes),
                array(included.map(|asked| self.json_place(asked))),
                reference.map_or_else(|| "null".to_owned(), |known| string(known.words()))
            )
        });
        array(findings)
    }

    fn json_place(&self, span: Span) -> String {
        let start = self.sources.place(span.file, span.start);
        let end = self.sources.place(span.file, span.end);
        let path = self.sources.file(span.file).path.to_string_lossy();
        format!(
            "{{\"file\":{},\"line\":{},\"column\":{},\"end_line\":{},\"end_column\":{}}}",
            string(&path),
            start.line,
            start.column,
            end.line,
            end.column
        )
    }

    fn locate(&self, span: Span) -> String {
        let place = self.sources.place(span.file, span.start);
        let path = self.sources.file(span.file).path.display();
        format!("{path}:{}:{}", place.line, place.column)
    }

    /// Where the file of `span` is included, then the file of that, and so on.
    fn includes(&self, span: Option<Span>) -> Vec<Span> {
        let asked = |span: Span| self.sources.file(span.file).included_at;
        std::iter::successors(span.and_then(asked), |span| asked(*span)).collect()
    }
}

fn array(elements: impl Iterator<Item = String>) -> String {
    format!("[{}]", elements.collect::<Vec<_>>().join(","))
}

/// `text` as a JSON string.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
