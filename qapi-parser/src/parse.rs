//! Text to syntax: cuts a file into expressions, then reads each with the grammar.
//! Called by `include.rs` for schema files and by `overlay.rs` for overlays.
//! Invariant: the grammar, which recurses, sees only text whose brackets match and nest at most
//! [`MAX_DEPTH`] deep; a syntax error in one expression does not hide those in the next.
//! Not here: what an expression may say (`check.rs`).

use std::collections::HashMap;

use pest::Parser as _;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::doc::Gap;
use crate::error::{Diagnostic, Diagnostics};
use crate::source::{FileId, Span};
use crate::syntax::{Expression, Node, Object, Text, Value};

/// How deep brackets may nest. QEMU's own schemas need five levels.
pub(crate) const MAX_DEPTH: usize = 64;

#[derive(pest_derive::Parser)]
#[grammar = "qapi.pest"]
struct Grammar;

/// The expressions of schema file `file`, whose text is `text`.
pub(crate) fn schema(file: FileId, text: &str, diagnostics: &mut Diagnostics) -> Vec<Expression> {
    let chunks = Scanner {
        file,
        text,
        quote: b'\'',
        diagnostics,
    }
    .chunks();
    let mut expressions = Vec::new();
    for chunk in chunks {
        let reader = Reader {
            file,
            offset: chunk.start,
        };
        if let Some(object) = reader.read(Rule::expression, chunk.text(text), diagnostics) {
            expressions.push(Expression {
                object,
                comment: chunk.comment,
                gap: chunk.gap,
            });
        }
    }
    expressions
}

/// The one object of overlay file `file`.
pub(crate) fn overlay(file: FileId, text: &str, diagnostics: &mut Diagnostics) -> Option<Object> {
    let chunks = Scanner {
        file,
        text,
        quote: b'"',
        diagnostics,
    }
    .chunks();
    let chunk = chunks.into_iter().next()?;
    let reader = Reader {
        file,
        offset: chunk.start,
    };
    reader.read(Rule::overlay, &text[chunk.start..], diagnostics)
}

/// A balanced top-level object, and the comment before it.
struct Chunk {
    start: usize,
    end: usize,
    comment: String,
    gap: Gap,
}

impl Chunk {
    fn text<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start..self.end]
    }
}

/// Finds where expressions begin and end, without recursion.
struct Scanner<'a> {
    file: FileId,
    text: &'a str,
    quote: u8,
    diagnostics: &'a mut Diagnostics,
}

impl Scanner<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span {
            file: self.file,
            start,
            end,
        }
    }

    fn chunks(mut self) -> Vec<Chunk> {
        let bytes = self.text.as_bytes();
        let mut chunks = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut comment = String::new();
        let mut gap = Gap::default();
        let mut broken = false;
        let mut stray: Option<(usize, usize)> = None;
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            let start = at;
            at += 1;
            match byte {
                b'#' => {
                    let end = if open.is_empty() && self.text[start..].starts_with("##") {
                        gap.read(self.file, self.text, start)
                    } else {
                        line_end(self.text, start)
                    };
                    if open.is_empty() {
                        let lines = self.text[start..end].lines().map(str::trim_start);
                        lines.for_each(|line| add_comment(&mut comment, line));
                    }
                    at = end;
                    continue;
                }
                _ if byte == self.quote => match string_end(bytes, at, self.quote) {
                    Ok(end) => at = end,
                    Err(end) => {
                        let span = self.span(start, end);
                        self.diagnostics.push(Diagnostic::unterminated_string(span));
                        broken = true;
                        at = end;
                    }
                },
                b'{' | b'[' => {
                    if open.len() == MAX_DEPTH {
                        let span = self.span(start, at);
                        self.diagnostics.push(Diagnostic::too_deep(span, MAX_DEPTH));
                        broken = true;
                    }
                    if open.is_empty() && byte == b'{' {
                        self.report_stray(stray.take());
                    }
                    open.push(start);
                }
                b'}' | b']' if open.len() == 1 => {
                    let from = open.remove(0);
                    if bytes[from] == b'{' && !broken {
                        let comment = std::mem::take(&mut comment);
                        let gap = std::mem::take(&mut gap);
                        chunks.push(Chunk {
                            start: from,
                            end: at,
                            comment,
                            gap,
                        });
                    } else if !broken {
                        let span = self.span(from, from + 1);
                        self.diagnostics.push(Diagnostic::expected_object(span));
                    }
                    comment.clear();
                    gap = Gap::default();
                    broken = false;
                    continue;
                }
                b'}' | b']' if !open.is_empty() => {
                    open.pop();
                }
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                _ => {}
            }
            if open.is_empty() {
                // One message for a run of text between expressions.
                stray = Some(stray.map_or((start, at), |(first, _)| (first, at)));
            }
        }
        self.report_stray(stray);
        // After an error inside, that the rest does not close it is no news.
        if let (Some(&start), false) = (open.first(), broken) {
            let span = self.span(start, start + 1);
            self.diagnostics.push(Diagnostic::unclosed(span));
        }
        chunks
    }

    fn report_stray(&mut self, stray: Option<(usize, usize)>) {
        if let Some((start, end)) = stray {
            let end = end.min(line_end(self.text, start));
            let end = ceil_char_boundary(self.text, end);
            let span = self.span(start, end);
            self.diagnostics.push(Diagnostic::expected_object(span));
        }
    }
}

/// Adds a comment line; a blank `##` pair starts a new block.
fn add_comment(block: &mut String, line: &str) {
    if line.trim_end() == "##" && block.trim_end().ends_with("\n##") {
        block.clear();
    }
    block.push_str(line);
    block.push('\n');
}

fn line_end(text: &str, from: usize) -> usize {
    text[from..]
        .find('\n')
        .map_or(text.len(), |length| from + length)
}

fn ceil_char_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// One past the closing quote, or where the line ends without one.
pub(crate) fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> Result<usize, usize> {
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => return Err(at),
            b'\\' if bytes.get(at + 1).is_some_and(|&next| next != b'\n') => at += 2,
            byte if byte == quote => return Ok(at + 1),
            _ => at += 1,
        }
    }
    Err(bytes.len())
}

/// Turns what the grammar matched into syntax.
struct Reader {
    file: FileId,
    offset: usize,
}

impl Reader {
    fn read(&self, rule: Rule, text: &str, diagnostics: &mut Diagnostics) -> Option<Object> {
        match Grammar::parse(rule, text) {
            Ok(mut pairs) => {
                let whole = pairs.next()?;
                let object = whole.into_inner().next()?;
                Some(self.object(object, diagnostics))
            }
            Err(error) => {
                diagnostics.push(self.grammar_error(text, &error));
                None
            }
        }
    }

    fn grammar_error(&self, text: &str, error: &pest::error::Error<Rule>) -> Diagnostic {
        let start = match error.location {
            InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
        };
        let width = text[start..].chars().next().map_or(0, char::len_utf8);
        let first = self.offset + start;
        let span = Span {
            file: self.file,
            start: first,
            end: first + width,
        };
        let expected = match &error.variant {
            ErrorVariant::ParsingError { positives, .. } => expectation(positives),
            ErrorVariant::CustomError { message } => message.clone(),
        };
        Diagnostic::grammar(span, &expected)
    }

    fn span(&self, pair: &Pair<'_, Rule>) -> Span {
        let span = pair.as_span();
        let (start, end) = (self.offset + span.start(), self.offset + span.end());
        Span {
            file: self.file,
            start,
            end,
        }
    }

    fn text(&self, pair: Pair<'_, Rule>) -> Text {
        let span = self.span(&pair);
        let json = pair.as_rule() == Rule::json_string;
        let raw = pair
            .into_inner()
            .next()
            .map_or("", |content| content.as_str());
        Text {
            span,
            text: unescape(raw, json),
        }
    }

    fn value(&self, pair: Pair<'_, Rule>, diagnostics: &mut Diagnostics) -> Value {
        let span = self.span(&pair);
        let node = match pair.as_rule() {
            Rule::string | Rule::json_string => Node::String(self.text(pair).text),
            Rule::literal => Node::Bool(pair.as_str() == "true"),
            Rule::list | Rule::json_list => Node::List(
                pair.into_inner()
                    .filter(|inner| !is_punctuation(inner.as_rule()))
                    .map(|inner| self.value(inner, diagnostics))
                    .collect(),
            ),
            _ => Node::Object(self.object(pair, diagnostics)),
        };
        Value { span, node }
    }

    fn object(&self, pair: Pair<'_, Rule>, diagnostics: &mut Diagnostics) -> Object {
        let span = self.span(&pair);
        let mut pairs: Vec<(Text, Value)> = Vec::new();
        let mut seen: HashMap<String, Span> = HashMap::new();
        for inner in pair
            .into_inner()
            .filter(|inner| !is_punctuation(inner.as_rule()))
        {
            let mut parts = inner
                .into_inner()
                .filter(|part| !is_punctuation(part.as_rule()));
            let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
                continue;
            };
            let key = self.text(key);
            let value = self.value(value, diagnostics);
            if let Some(&first) = seen.get(&key.text) {
                diagnostics.push(Diagnostic::duplicate_key(key.span, &key.text, first));
                continue;
            }
            seen.insert(key.text.clone(), key.span);
            pairs.push((key, value));
        }
        Object { span, pairs }
    }
}

fn is_punctuation(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::comma | Rule::colon | Rule::close_brace | Rule::close_bracket | Rule::EOI
    )
}

/// A backslash takes the next character as it is; in JSON, `n` and `t` mean what they do there.
fn unescape(raw: &str, json: bool) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') if json => out.push('\n'),
            Some('t') if json => out.push('\t'),
            Some(escaped) => out.push(escaped),
            None => {}
        }
    }
    out
}

/// What the grammar could have read, in words.
fn expectation(rules: &[Rule]) -> String {
    let mut words: Vec<&str> = Vec::new();
    for rule in rules {
        let word = match rule {
            Rule::comma => "`,`",
            Rule::colon => "`:`",
            Rule::close_brace => "`}`",
            Rule::close_bracket => "`]`",
            Rule::pair | Rule::json_pair | Rule::string | Rule::json_string => "a string",
            Rule::object | Rule::json_object => "an object",
            Rule::list | Rule::json_list => "a list",
            Rule::literal => "`true` or `false`",
            _ => "the end of the expression",
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    match words.split_last() {
        None => "something else".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
