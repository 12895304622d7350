//! A `##` comment to a [`Block`]: title, body, members, features, sections.
//! Called by the scanner of schema files wherever `##` stands between expressions.
//! Invariant: what is wrong is said in the order in which the reference compiler would meet it;
//! reading goes on after each. Not here: whether what is documented exists (`check.rs`).

use indexmap::IndexMap;

use super::fault::{Fault, Part, Problem};
use super::lines::{Heading, Line, Lines};
use crate::schema::{Doc, Section, SectionKind};
use crate::source::{FileId, Span};
use crate::syntax::Text;

/// A documentation comment as read.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Its opening `##`.
    pub(crate) span: Span,
    /// What it is about; `None` for documentation that stands by itself.
    pub(crate) symbol: Option<Text>,
    pub(crate) body: String,
    pub(crate) members: IndexMap<String, Entry>,
    pub(crate) features: IndexMap<String, Entry>,
    pub(crate) sections: Vec<(SectionKind, Entry)>,
}

/// A text and where it begins.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The name or heading.
    pub(crate) span: Span,
    pub(crate) text: String,
}

impl Block {
    /// The first section of a kind.
    pub(crate) fn section(&self, kind: SectionKind) -> Option<&Entry> {
        let found = self.sections.iter().find(|(of, _)| *of == kind);
        found.map(|(_, entry)| entry)
    }

    /// What the model keeps of it.
    pub(crate) fn doc(&self) -> Doc {
        let texts = |entries: &IndexMap<String, Entry>| {
            let text = |(name, entry): (&String, &Entry)| (name.clone(), entry.text.clone());
            entries.iter().map(text).collect()
        };
        let section = |(kind, entry): &(SectionKind, Entry)| Section {
            kind: *kind,
            text: entry.text.clone(),
        };
        Doc {
            body: self.body.clone(),
            members: texts(&self.members),
            features: texts(&self.features),
            sections: self.sections.iter().map(section).collect(),
        }
    }
}

/// What [`block`] found.
pub(crate) struct Parsed {
    pub(crate) block: Block,
    pub(crate) faults: Vec<Fault>,
    /// Where reading goes on: behind the closing `##`.
    pub(crate) end: usize,
}

/// Reads the block whose first `#` is at `start` of `text`.
pub(crate) fn block(file: FileId, text: &str, start: usize) -> Parsed {
    Reader::new(Lines::new(file, text, start)).read()
}

/// Where the next line's text goes.
#[derive(Debug, Clone, Copy)]
enum Place {
    Body,
    Member(usize),
    Feature(usize),
    Section(usize),
    /// A second one of what there can be one of.
    Nowhere,
}

struct Reader<'t> {
    lines: Lines<'t>,
    block: Block,
    line: Option<Line<'t>>,
    place: Place,
    /// Parts in the order read, to judge empty ones in that order.
    parts: Vec<(Part, Place, usize)>,
}

impl<'t> Reader<'t> {
    fn new(mut lines: Lines<'t>) -> Self {
        let span = lines.open();
        let line = lines.next();
        let block = Block {
            span,
            symbol: None,
            body: String::new(),
            members: IndexMap::new(),
            features: IndexMap::new(),
            sections: Vec::new(),
        };
        Self {
            lines,
            block,
            line,
            place: Place::Body,
            parts: Vec::new(),
        }
    }

    fn read(mut self) -> Parsed {
        match self.line {
            Some(line) if line.text.starts_with('@') => self.definition(line),
            _ => self.free_form(),
        }
        self.finish();
        Parsed {
            block: self.block,
            faults: self.lines.faults,
            end: self.lines.at,
        }
    }

    fn advance(&mut self) {
        self.line = self.lines.next();
    }

    fn skip_blank(&mut self) {
        while self.line.is_some_and(|line| line.text.is_empty()) {
            self.advance();
        }
    }

    /// Reports `problem` at the first `length` bytes of `line`.
    fn report(&mut self, problem: Problem, line: Line<'_>, length: usize) {
        let span = self.lines.span(line.at, line.at + length);
        self.lines.report(problem, span, line.mark);
    }

    fn free_form(&mut self) {
        let mut first = true;
        while let Some(line) = self.line {
            if let Some((name, rest)) = line.entry() {
                let problem = Problem::FreeFormMember(name.to_owned());
                self.report(problem, line, rest.at - line.at);
            }
            if line.text.starts_with('=') && !first {
                self.report(Problem::HeadingNotFirst, line, line.text.len());
            }
            self.append(line.text);
            self.advance();
            first = false;
        }
    }

    fn definition(&mut self, title: Line<'t>) {
        let name = title.text.strip_suffix(':');
        if name.is_none() {
            self.report(Problem::TitleWithoutColon, title, title.text.len());
        } else if name == Some("@") {
            self.report(Problem::TitleWithoutName, title, title.text.len());
        }
        let name = name.unwrap_or(title.text);
        self.block.symbol = Some(Text {
            span: self.lines.span(title.at + 1, title.at + name.len()),
            text: name[1..].to_owned(),
        });
        self.advance();
        let mut members_over = false;
        loop {
            self.skip_blank();
            let Some(line) = self.line else { break };
            if line.text == "Features:" {
                self.features(line);
                members_over = true;
            } else if let Some((name, rest)) = line.entry() {
                if members_over {
                    let problem = Problem::MemberAfterSection(name.to_owned());
                    self.report(problem, line, rest.at - line.at);
                }
                while let Some((name, rest)) = self.line.as_ref().and_then(Line::entry) {
                    self.entry(Part::Member, name, rest);
                }
                members_over = true;
            } else if let Some((heading, rest)) = line.heading() {
                self.section(heading, line, rest);
                members_over = true;
            } else {
                if line.text.starts_with('=') {
                    self.report(Problem::Heading, line, line.text.len());
                }
                self.paragraph(line);
            }
        }
    }

    fn features(&mut self, heading: Line<'t>) {
        if !self.block.features.is_empty() {
            self.report(Problem::FeaturesTwice, heading, heading.text.len());
        }
        self.advance();
        self.skip_blank();
        let before = self.block.features.len();
        while let Some((name, rest)) = self.line.as_ref().and_then(Line::entry) {
            self.entry(Part::Feature, name, rest);
        }
        if before == 0 && self.block.features.is_empty() {
            // The reference looks at the line that stands in their place.
            let mark = self.line.map_or(self.lines.closed, |line| line.mark);
            let end = heading.at + heading.text.len();
            let span = self.lines.span(heading.at, end);
            self.lines.report(Problem::FeaturesEmpty, span, mark);
        }
    }

    /// One `@name:` and its text.
    fn entry(&mut self, part: Part, name: &str, rest: Line<'t>) {
        let line = self.line.unwrap_or(rest);
        let length = 2 + name.len();
        if name.is_empty() {
            self.report(Problem::EmptyName, line, length);
        }
        let span = self.lines.span(line.at + 1, line.at + length - 1);
        let entries = match part {
            Part::Member => &mut self.block.members,
            Part::Feature | Part::Section(_) => &mut self.block.features,
        };
        if let Some(first) = entries.get(name).map(|entry| entry.span) {
            self.report(Problem::NameTwice(name.to_owned()), line, length);
            self.note_last(first);
            self.place = Place::Nowhere;
        } else {
            let text = String::new();
            let (index, _) = entries.insert_full(name.to_owned(), Entry { span, text });
            self.place = match part {
                Part::Member => Place::Member(index),
                Part::Feature | Part::Section(_) => Place::Feature(index),
            };
            self.parts.push((part, self.place, line.mark));
        }
        self.text(rest);
    }

    fn section(&mut self, heading: Heading, line: Line<'t>, rest: Line<'t>) {
        let length = line.text.find(':').unwrap_or(0);
        let kind = match heading {
            Heading::Section(kind) => kind,
            Heading::Retired(tag) => {
                self.report(Problem::Retired(tag), line, length);
                SectionKind::Plain
            }
        };
        let once = !matches!(kind, SectionKind::Todo | SectionKind::Plain);
        if once && let Some(first) = self.block.section(kind).map(|entry| entry.span) {
            let problem = Problem::SectionTwice(Part::Section(kind));
            self.report(problem, line, length);
            self.note_last(first);
            self.place = Place::Nowhere;
        } else {
            self.open_section(kind, line, length);
            if kind != SectionKind::Plain {
                self.parts
                    .push((Part::Section(kind), self.place, line.mark));
            }
        }
        self.text(rest);
    }

    fn open_section(&mut self, kind: SectionKind, line: Line<'t>, length: usize) {
        let span = self.lines.span(line.at, line.at + length);
        let text = String::new();
        self.block.sections.push((kind, Entry { span, text }));
        self.place = Place::Section(self.block.sections.len() - 1);
    }

    fn note_last(&mut self, first: Span) {
        if let Some(fault) = self.lines.faults.last_mut() {
            fault.notes.push((first, "first given here"));
        }
    }

    /// What stands behind `@name:` or a heading, and the indented lines after it.
    fn text(&mut self, rest: Line<'t>) {
        let mut texts: Vec<&str> = Vec::new();
        self.advance();
        while let Some(line) = self.line
            && line.text.is_empty()
        {
            texts.push("");
            self.advance();
        }
        if let Some(first) = self.line
            && first.indentation() > 0
        {
            texts.push(first.text);
            self.advance();
            self.indented(first.indentation(), &mut texts);
        }
        let text = join(rest.text, &texts);
        self.append(&text);
    }

    /// Lines until one is indented less than the first was.
    fn indented(&mut self, indentation: usize, texts: &mut Vec<&'t str>) {
        // As in the reference, only the line right after the first one must not be less indented:
        // later on that begins a paragraph.
        let mut second = true;
        while let Some(line) = self.line {
            if line.entry().is_some() {
                return;
            }
            if !line.text.is_empty() && line.indentation() < indentation {
                if second {
                    let problem = Problem::Indentation(indentation);
                    self.report(problem, line, line.text.len());
                }
                return;
            }
            texts.push(line.text);
            self.advance();
            second = false;
        }
    }

    /// Lines until an empty one.
    fn paragraph(&mut self, first: Line<'t>) {
        let plain = match self.place {
            Place::Body => true,
            Place::Section(index) => self.block.sections[index].0 == SectionKind::Plain,
            Place::Member(_) | Place::Feature(_) | Place::Nowhere => false,
        };
        if plain {
            self.append("");
        } else {
            self.open_section(SectionKind::Plain, first, first.text.len());
        }
        while let Some(line) = self.line
            && !line.text.is_empty()
        {
            self.append(line.text);
            self.advance();
        }
    }

    fn append(&mut self, line: &str) {
        let text = match self.place {
            Place::Body => &mut self.block.body,
            Place::Member(index) => &mut self.block.members[index].text,
            Place::Feature(index) => &mut self.block.features[index].text,
            Place::Section(index) => &mut self.block.sections[index].1.text,
            Place::Nowhere => return,
        };
        text.push_str(line);
        text.push('\n');
    }

    /// Drops empty lines at the edges of every text and reports those that are left empty.
    fn finish(&mut self) {
        let block = &mut self.block;
        let entries = block
            .members
            .values_mut()
            .chain(block.features.values_mut());
        let entries = entries.chain(block.sections.iter_mut().map(|(_, entry)| entry));
        let texts = std::iter::once(&mut block.body).chain(entries.map(|entry| &mut entry.text));
        for text in texts {
            *text = text.trim_matches('\n').to_owned();
        }
        for (part, place, mark) in std::mem::take(&mut self.parts) {
            let entry = match place {
                Place::Member(index) => &self.block.members[index],
                Place::Feature(index) => &self.block.features[index],
                Place::Section(index) => &self.block.sections[index].1,
                Place::Body | Place::Nowhere => continue,
            };
            if entry.text.is_empty() {
                let span = entry.span;
                self.lines.report(Problem::SectionEmpty(part), span, mark);
            }
        }
    }
}

/// `first` and `rest` without what `rest` is indented by in common.
fn join(first: &str, rest: &[&str]) -> String {
    let indentation = |line: &&str| line.chars().take_while(|c| c.is_whitespace()).count();
    let filled = rest.iter().filter(|line| !line.is_empty());
    let common = filled.map(indentation).min().unwrap_or(0);
    let mut text = first.to_owned();
    for line in rest {
        if !text.is_empty() {
            text.push('\n');
        }
        text.extend(line.chars().skip(common));
    }
    text
}
