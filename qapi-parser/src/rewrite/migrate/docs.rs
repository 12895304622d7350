//! Comments of the 2.1 dialect to documentation that today's rules take.
//! Called by `definitions.rs` for the comment before each definition.
//! Invariant: what is written is accepted: members first and of the definition alone, each section
//! once, none empty. Text is kept line by line; what has no place of its own becomes a paragraph.

use indexmap::IndexMap;

use super::super::tree::{Comment, Lead};
use crate::doc::{Gap, Next};
use crate::source::FileId;

/// Text of a part, in lines.
pub(super) type Lines = Vec<String>;

/// A comment, taken apart.
#[derive(Debug, Default, Clone)]
pub(super) struct Doc {
    pub(super) body: Lines,
    pub(super) members: IndexMap<String, Lines>,
    /// Paragraphs after the first member.
    after: Lines,
    returns: Lines,
    todo: Lines,
    since: Lines,
}

/// What a definition has that documentation can speak of.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    pub(super) members: Vec<String>,
    pub(super) answer: Answer,
}

/// What becomes of text about what is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It stays.
    Value,
    /// It tells how the command fails.
    Nothing,
    /// The definition is no command.
    None,
}

/// A lead whose documentation was taken out.
#[derive(Debug)]
pub(super) struct Taken {
    /// What stood before the documentation.
    pub(super) before: Lead,
    pub(super) doc: Option<Doc>,
    /// What stood behind it.
    pub(super) behind: Vec<Comment>,
}

/// Takes the comment about `name` out of `lead`.
pub(super) fn take(mut lead: Lead, name: &str) -> Taken {
    let is_mark = |comment: &Comment| comment.text == "##";
    let mut marks = lead.comments.iter().enumerate().rev();
    let mut mark = || marks.find(|(_, c)| is_mark(c)).map(|(index, _)| index);
    let found = mark().zip(mark()).filter(|&(close, open)| {
        let title = lead.comments[open + 1..close].first();
        title.is_some_and(|title| content(title).trim_end_matches(':') == format!("@{name}"))
    });
    let Some((close, open)) = found else {
        if !is_accepted(&lead.comments, Next::Definition) {
            lead.comments.iter_mut().for_each(quiet);
        }
        let (doc, behind) = (None, Vec::new());
        let before = lead;
        return Taken {
            before,
            doc,
            behind,
        };
    };
    let mut behind = lead.comments.split_off(close + 1);
    directive(&mut behind);
    let lines: Vec<Comment> = lead.comments.split_off(open);
    if !is_accepted(&lead.comments, Next::Other) {
        lead.comments.iter_mut().for_each(quiet);
    }
    let doc = read(lines[2..lines.len() - 1].iter().map(content));
    let gap = lines.first().is_some_and(|open| open.gap);
    lead.gap = gap;
    Taken {
        before: lead,
        doc: Some(doc),
        behind,
    }
}

/// Makes sure that `comments`, which stand before no definition, are none about one.
pub(super) fn directive(comments: &mut [Comment]) {
    if !is_accepted(comments, Next::Other) {
        comments.iter_mut().for_each(quiet);
    }
}

/// Whether `comments` are right as they are, and about no definition.
fn is_accepted(comments: &[Comment], next: Next) -> bool {
    let mut text = String::new();
    for comment in comments {
        text.push_str(&comment.text);
        text.push('\n');
    }
    let mut gap = Gap::default();
    let (mut at, mut start) = (0, 0);
    for line in text.split_inclusive('\n') {
        if start >= at && line.starts_with("##") {
            at = gap.read(FileId(0), &text, start);
        }
        start += line.len();
    }
    let found = gap.close(next);
    found.faults.is_empty() && found.block.is_none()
}

/// Makes documentation an ordinary comment.
fn quiet(comment: &mut Comment) {
    let text = comment.text.trim_start_matches('#');
    comment.text = format!("#{text}");
}

fn content(comment: &Comment) -> &str {
    let text = comment.text.trim_start_matches('#');
    text.strip_prefix(' ').unwrap_or(text)
}

/// Where a line goes.
#[derive(Debug, Clone)]
enum Place {
    Body,
    After,
    Members(Vec<String>),
    Returns,
    Todo,
    Since,
    Note,
    Example,
}

fn read<'c>(lines: impl Iterator<Item = &'c str>) -> Doc {
    let mut doc = Doc::default();
    let mut place = Place::Body;
    let mut blank = true;
    for line in lines {
        let started = start(line);
        let is_new = started.is_some();
        let plain = blank && !line.is_empty() && !line.starts_with(' ');
        let text = if let Some((next, text)) = started {
            place = next;
            text
        } else {
            if plain && !matches!(place, Place::Body | Place::After | Place::Example) {
                place = Place::After;
            }
            match place {
                Place::Example | Place::Note if line.is_empty() => String::new(),
                Place::Example => format!("    {line}"),
                Place::Note => format!("    {}", line.trim_start()),
                _ => line.to_owned(),
            }
        };
        if let Place::Members(names) = &place
            && is_new
        {
            for name in names {
                doc.members.entry(name.clone()).or_default();
            }
        }
        if doc.members.is_empty() && matches!(place, Place::After) {
            place = Place::Body;
        }
        let is_paragraph = is_new && matches!(place, Place::Note | Place::Example);
        for to in doc.places(&place) {
            if is_paragraph {
                to.push(String::new());
            }
            to.extend(text.split('\n').map(str::to_owned));
            if is_new && matches!(place, Place::Example) {
                to.push(String::new());
            }
        }
        blank = line.is_empty();
    }
    doc
}

impl Doc {
    /// Takes out what is said of `members`, to be said of a type of their own.
    pub(super) fn split(&mut self, members: &[String]) -> Self {
        let mut own = Self {
            since: self.since.clone(),
            ..Self::default()
        };
        for name in members {
            if let Some((name, lines)) = self.members.shift_remove_entry(name) {
                own.members.insert(name, lines);
            }
        }
        own
    }

    fn places(&mut self, place: &Place) -> Vec<&mut Lines> {
        match place {
            Place::Body => vec![&mut self.body],
            Place::After | Place::Note | Place::Example => vec![&mut self.after],
            Place::Members(names) => {
                let own = self.members.iter_mut();
                own.filter(|(name, _)| names.contains(name))
                    .map(|(_, lines)| lines)
                    .collect()
            }
            Place::Returns => vec![&mut self.returns],
            Place::Todo => vec![&mut self.todo],
            Place::Since => vec![&mut self.since],
        }
    }
}

/// The part that `line` starts, and its text on this line.
fn start(line: &str) -> Option<(Place, String)> {
    if line.starts_with('@')
        && let Some((names, text)) = line.split_once(':')
    {
        let name = |name: &str| Some(name.trim().strip_prefix('@')?.to_owned());
        let names: Option<Vec<String>> = names.split(',').map(name).collect();
        let names = names?;
        if names
            .iter()
            .any(|name| name.is_empty() || name.contains(' '))
        {
            return None;
        }
        let text = text.trim();
        let text = text.strip_prefix("#optional").unwrap_or(text);
        return Some((Place::Members(names), text.trim_start().to_owned()));
    }
    if let Some(version) = line.strip_prefix("Since ")
        && version.trim().starts_with(|c: char| c.is_ascii_digit())
    {
        return Some((Place::Since, version.trim().to_owned()));
    }
    let (tag, text) = line.split_once(':')?;
    let text = text.trim();
    match tag {
        "Returns" => Some((Place::Returns, text.to_owned())),
        "Since" => Some((Place::Since, text.to_owned())),
        "TODO" => Some((Place::Todo, text.to_owned())),
        "Note" | "Notes" => Some((Place::Note, format!(".. note:: {text}"))),
        "Example" | "Examples" => {
            let text = if text.is_empty() {
                String::new()
            } else {
                format!("\n\n    {text}")
            };
            Some((Place::Example, format!("{tag}::{text}")))
        }
        _ => None,
    }
}

/// The comment about `subject`, as today's dialect wants it; `gap` before it.
pub(super) fn write(doc: &Doc, subject: &Subject<'_>, gap: bool) -> Vec<Comment> {
    let mut out = Writer::default();
    out.line(&format!("@{}:", subject.name));
    out.paragraphs(&doc.body);
    let is_own = |name: &str| subject.members.iter().any(|own| own == name);
    for (name, lines) in doc.members.iter().filter(|(name, _)| is_own(name)) {
        out.entry(&format!("@{name}:"), lines);
    }
    for (name, lines) in doc.members.iter().filter(|(name, _)| !is_own(name)) {
        out.paragraphs(&with_heading(name, lines));
    }
    out.paragraphs(&doc.after);
    match subject.answer {
        Answer::Value => out.entry("Returns:", &doc.returns),
        Answer::Nothing => out.entry("Errors:", &failures(&doc.returns)),
        Answer::None => out.paragraphs(&doc.returns),
    }
    let missing = missing(doc, subject);
    // The reference compiler looks for a section behind the last member when it fills in others.
    if !missing.is_empty() && doc.todo.is_empty() && doc.since.is_empty() {
        out.entry("TODO:", &vec![format!("document {}", missing.join(", "))]);
    }
    out.entry("TODO:", &doc.todo);
    out.entry("Since:", &doc.since);
    let mut comments = vec![comment("##")];
    comments.extend(out.lines.iter().map(|line| comment(&mark(line))));
    comments.push(comment("##"));
    if let Some(first) = comments.first_mut() {
        first.gap = gap;
    }
    comments
}

/// The members of `subject` of which `doc` says nothing.
pub(super) fn missing<'s>(doc: &Doc, subject: &'s Subject<'_>) -> Vec<&'s str> {
    let has_text = |lines: &Lines| lines.iter().any(|line| !line.is_empty());
    let names = subject.members.iter().map(String::as_str);
    let is_missing = |name: &&str| !doc.members.get(*name).is_some_and(has_text);
    names.filter(is_missing).collect()
}

fn comment(text: &str) -> Comment {
    Comment {
        text: text.to_owned(),
        alone: true,
        gap: false,
    }
}

fn mark(line: &str) -> String {
    if line.is_empty() {
        "#".to_owned()
    } else {
        format!("# {line}")
    }
}

fn with_heading(name: &str, lines: &Lines) -> Lines {
    let mut text: Lines = lines
        .iter()
        .map(|line| line.trim_start().to_owned())
        .collect();
    if let Some(first) = text.first_mut() {
        *first = format!("{name}: {first}");
    }
    text
}

/// What remains of text about what is returned when that is nothing.
fn failures(lines: &Lines) -> Lines {
    const NOTHING: [&str; 2] = ["nothing on success", "nothing"];
    let mut lines = lines.clone();
    if let Some(first) = lines.first_mut() {
        let lower = first.to_ascii_lowercase();
        if let Some(nothing) = NOTHING.iter().find(|nothing| lower.starts_with(**nothing)) {
            let rest = first[nothing.len()..].trim_start_matches(['.', ',', ';', ' ']);
            *first = rest.to_owned();
        }
    }
    let is_case = |line: &String| line.trim_start().starts_with("If ");
    if !lines.iter().any(is_case) {
        return lines;
    }
    let mut list = vec![String::new()];
    for line in lines.iter().filter(|line| !line.is_empty()) {
        let text = line.trim_start();
        let bullet = if is_case(line) || list.len() == 1 {
            "- "
        } else {
            "  "
        };
        list.push(format!("    {bullet}{text}"));
    }
    list
}

/// Collects the lines of a comment.
#[derive(Debug, Default)]
struct Writer {
    lines: Lines,
}

impl Writer {
    fn line(&mut self, line: &str) {
        let is_blank = |line: &String| line.is_empty();
        if line.is_empty() && self.lines.last().is_none_or(is_blank) {
            return;
        }
        self.lines.push(line.trim_end().to_owned());
    }

    /// Paragraphs, apart from what stands before them.
    fn paragraphs(&mut self, lines: &Lines) {
        let lines = trimmed(lines);
        if lines.is_empty() {
            return;
        }
        self.line("");
        for line in lines {
            if self.lines.last().is_some_and(String::is_empty) {
                self.first_line(line);
            } else {
                self.line(line);
            }
        }
    }

    /// A paragraph's first line, so that it means nothing else.
    fn first_line(&mut self, line: &str) {
        let line = match line.trim_start_matches('=') {
            heading if heading.len() < line.len() => heading.trim_start(),
            line => line,
        };
        match line.strip_prefix('@') {
            Some(rest) if rest.contains(':') => self.line(rest),
            _ if ["Features:", "Errors:"]
                .iter()
                .any(|tag| line.starts_with(tag)) =>
            {
                self.line(&format!(" {line}"));
            }
            _ => self.line(line),
        }
    }

    /// Text under a heading, if there is any.
    fn entry(&mut self, heading: &str, lines: &Lines) {
        let lines = trimmed(lines);
        let Some((first, rest)) = lines.split_first() else {
            return;
        };
        self.line("");
        let rest = if first.starts_with(' ') {
            self.line(heading);
            lines
        } else {
            self.line(&format!("{heading} {first}"));
            rest
        };
        let indentation = |line: &str| line.len() - line.trim_start().len();
        let filled = || rest.iter().filter(|line| !line.is_empty());
        let common = filled().map(|line| indentation(line)).min().unwrap_or(0);
        let mut is_first = true;
        for line in rest {
            if line.is_empty() {
                self.line("");
                continue;
            }
            // The first line says how far all are indented at least.
            let text = if is_first {
                line.trim_start()
            } else {
                line.get(common..).unwrap_or(line)
            };
            self.line(&format!("    {text}"));
            is_first = false;
        }
    }
}

/// `lines` without empty ones at the edges.
fn trimmed(lines: &Lines) -> &[String] {
    let is_filled = |line: &String| !line.is_empty();
    let Some(last) = lines.iter().rposition(is_filled) else {
        return &[];
    };
    let first = lines.iter().position(is_filled).unwrap_or(0);
    &lines[first..=last]
}
