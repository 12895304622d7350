//! Findings for people: message, place, the source line with what is meant underlined.

use std::fmt::{self, Write as _};

use super::{Diagnostic, Diagnostics};
use crate::source::Span;

/// How much of a line is shown, in characters.
const MAX_WIDTH: usize = 160;

impl Diagnostics {
    fn show(&self, out: &mut impl fmt::Write, diagnostic: &Diagnostic) -> fmt::Result {
        writeln!(out, "error: {}", diagnostic.message)?;
        let Some(span) = diagnostic.span else {
            return Ok(());
        };
        self.show_place(out, "-->", span, "")?;
        for (note, text) in &diagnostic.notes {
            self.show_place(out, ":::", *note, text)?;
        }
        let mut included_at = self.sources.file(span.file).included_at;
        while let Some(at) = included_at {
            let place = self.sources.place(at.file, at.start);
            let source = self.sources.file(at.file);
            let path = source.path.display();
            writeln!(out, "  = included from {path}:{}", place.line)?;
            included_at = source.included_at;
        }
        Ok(())
    }

    fn show_place(
        &self,
        out: &mut impl fmt::Write,
        arrow: &str,
        span: Span,
        text: &str,
    ) -> fmt::Result {
        let place = self.sources.place(span.file, span.start);
        let path = self.sources.file(span.file).path.display();
        let line = self.sources.line(span.file, span.start);
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(out, "{margin}{arrow} {path}:{number}:{}", place.column)?;
        // Of a long line, what stands before the place is left out.
        let left_out = if place.column > MAX_WIDTH {
            place.column - 1 - MAX_WIDTH / 2
        } else {
            0
        };
        let shown: String = line.chars().skip(left_out).take(MAX_WIDTH).collect();
        // Tabs stay tabs in the padding, so that the carets stand under what they mean.
        let left: usize = shown
            .chars()
            .take(place.column - 1 - left_out)
            .map(char::len_utf8)
            .sum();
        let padding: String = shown[..left]
            .chars()
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        let rest = &shown[left..];
        let mut end = (span.end - span.start).min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let width = rest[..end].chars().count().max(1);
        writeln!(out, "{margin} |\n{number} | {shown}")?;
        let mut carets = format!("{margin} | {padding}{}", "^".repeat(width));
        if !text.is_empty() {
            write!(carets, " {text}")?;
        }
        writeln!(out, "{carets}")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for diagnostic in self.iter() {
            if !first {
                writeln!(f)?;
            }
            first = false;
            self.show(f, diagnostic)?;
        }
        match self.left_out() {
            0 => Ok(()),
            count => writeln!(f, "\nerror: {count} more findings are not shown"),
        }
    }
}
