//! Lines of a `##` comment, as the reference compiler's lexer takes them.
//! Called by `parse.rs`.
//! Invariant: nothing past the closing mark is taken. Not here: what a line means.

use super::fault::{Fault, Problem};
use crate::schema::SectionKind;
use crate::source::{FileId, Span};

/// A line of documentation without its mark and trailing space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'t> {
    /// Offset of its `#`.
    pub(super) mark: usize,
    /// Offset of `text`.
    pub(super) at: usize,
    pub(super) text: &'t str,
}

impl<'t> Line<'t> {
    /// How far it is indented, in characters.
    pub(super) fn indentation(&self) -> usize {
        let is_space = |character: &char| character.is_whitespace();
        self.text.chars().take_while(is_space).count()
    }

    /// What stands from byte `offset` on.
    fn from(&self, offset: usize) -> Line<'t> {
        Line {
            mark: self.mark,
            at: self.at + offset,
            text: &self.text[offset..],
        }
    }

    /// The name of `@name:`, and what follows it.
    pub(super) fn entry(&self) -> Option<(&'t str, Line<'t>)> {
        let (name, rest) = self.text.strip_prefix('@')?.split_once(':')?;
        let rest = rest.trim_start_matches(' ');
        Some((name, self.from(self.text.len() - rest.len())))
    }

    /// The heading of a section, and what follows it. Two colons are reST.
    pub(super) fn heading(&self) -> Option<(Heading, Line<'t>)> {
        HEADINGS.iter().find_map(|(name, heading)| {
            let rest = self.text.strip_prefix(name)?.strip_prefix(':')?;
            if rest.starts_with(':') {
                return None;
            }
            let rest = rest.trim_start_matches(' ');
            Some((*heading, self.from(self.text.len() - rest.len())))
        })
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Heading {
    Section(SectionKind),
    /// What reST has directives for by now.
    Retired(&'static str),
}

const HEADINGS: [(&str, Heading); 8] = [
    ("Returns", Heading::Section(SectionKind::Returns)),
    ("Errors", Heading::Section(SectionKind::Errors)),
    ("Since", Heading::Section(SectionKind::Since)),
    ("TODO", Heading::Section(SectionKind::Todo)),
    ("Note", Heading::Retired("Note")),
    ("Notes", Heading::Retired("Notes")),
    ("Example", Heading::Retired("Example")),
    ("Examples", Heading::Retired("Examples")),
];

/// Takes lines off a comment until its end.
pub(super) struct Lines<'t> {
    file: FileId,
    pub(super) text: &'t str,
    pub(super) at: usize,
    pub(super) faults: Vec<Fault>,
    /// The opening mark, once read.
    open: Option<Span>,
    /// Whether junk at the end is no news, as it was at the start.
    silent: bool,
    /// Where the closing mark is, or what stands in its place.
    pub(super) closed: usize,
}

impl<'t> Lines<'t> {
    /// Those of the comment whose first `#` is at `start` of `text`.
    pub(super) fn new(file: FileId, text: &'t str, start: usize) -> Self {
        Self {
            file,
            text,
            at: start,
            faults: Vec::new(),
            open: None,
            silent: false,
            closed: start,
        }
    }

    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let file = self.file;
        Span { file, start, end }
    }

    pub(super) fn report(&mut self, problem: Problem, span: Span, mark: usize) {
        let notes = Vec::new();
        let reference = self.span(mark, mark);
        self.faults.push(Fault {
            problem,
            span,
            reference,
            notes,
        });
    }

    /// The rest of the line at `self.at`, which is passed.
    fn take(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        self.at += line.len();
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Passes the opening mark.
    pub(super) fn open(&mut self) -> Span {
        let mark = self.at;
        let line = self.take();
        let span = self.span(mark, mark + line.len());
        if line != "##" {
            self.report(Problem::JunkAtStart, span, mark);
            self.silent = true;
        }
        self.open = Some(span);
        span
    }

    /// The next line, or `None` at the end of the block.
    pub(super) fn next(&mut self) -> Option<Line<'t>> {
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start().len();
        let mark = self.at + blank;
        self.closed = mark;
        if !self.text[mark..].starts_with('#') {
            self.never_ends(mark);
            return None;
        }
        self.at = mark;
        let line = self.take();
        let span = self.span(mark, mark + line.len());
        if line.starts_with("##") {
            if line != "##" && !self.silent {
                self.report(Problem::JunkAtEnd, span, mark);
            }
            return None;
        }
        let content = line[1..].trim_end();
        let text = if let Some(text) = line[1..].strip_prefix(' ') {
            text.trim_end()
        } else {
            if line != "#" {
                self.report(Problem::NoSpace, span, mark);
            }
            content
        };
        let at = mark + 1 + usize::from(line.as_bytes().get(1) == Some(&b' '));
        Some(Line { mark, at, text })
    }

    fn never_ends(&mut self, found: usize) {
        // The reference stops at the next token, or at the last line's end. What is no token is
        // reported as such.
        let rest = &self.text[found..];
        let is_token = rest.starts_with(['{', '}', '[', ']', ':', ',', '\'']);
        let is_word = rest.starts_with("true") || rest.starts_with("false");
        let mark = if rest.is_empty() {
            self.text.len() - usize::from(self.text.ends_with('\n'))
        } else {
            found
        };
        if let Some(open) = self.open
            && (is_token || is_word || rest.is_empty())
        {
            self.report(Problem::NeverEnds, open, mark);
        }
    }
}
