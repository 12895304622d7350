//! Pieces to syntax: reads each expression with the grammar.
//! Called by `include.rs` for schema files and by `overlay.rs` for overlays.
//! Invariant: the grammar, which recurses, sees only what `cut.rs` found to nest within bounds; a
//! syntax error in one expression does not hide those in the next.
//! Not here: what an expression may say (`check`).

use std::collections::HashMap;

use pest::Parser as _;
use pest::error::{ErrorVariant, InputLocation};
use pest::iterators::Pair;

use crate::cut::{Chunk, Flaw, FlawKind, MAX_DEPTH, cut, next_token, too_deep};
use crate::doc::Gap;
use crate::error::{Diagnostic, Diagnostics};
use crate::source::{FileId, Span};
use crate::syntax::{Expression, Node, Object, Text, Value};

#[derive(pest_derive::Parser)]
#[grammar = "qapi.pest"]
struct Grammar;

/// A schema file as read.
pub(crate) struct Parsed {
    pub(crate) expressions: Vec<Expression>,
    /// Documentation after the last.
    pub(crate) rest: Gap,
    /// Documentation before what could not be read.
    pub(crate) lost: Vec<Gap>,
}

/// Reads schema file `file`, whose text is `text`.
pub(crate) fn schema(file: FileId, text: &str, diagnostics: &mut Diagnostics) -> Parsed {
    let pieces = cut(file, text);
    for flaw in &pieces.flaws {
        diagnostics.push(flaw_error(text, flaw.start, file, flaw));
    }
    let mut expressions = Vec::with_capacity(pieces.chunks.len());
    let mut lost = Vec::new();
    for chunk in pieces.chunks {
        match expression(file, text, chunk, diagnostics) {
            Ok(expression) => expressions.push(expression),
            Err(gap) => lost.push(gap),
        }
    }
    Parsed {
        expressions,
        rest: pieces.rest,
        lost,
    }
}

/// The expression `chunk`; what stands before it where it cannot be read.
fn expression(
    file: FileId,
    text: &str,
    chunk: Chunk,
    diagnostics: &mut Diagnostics,
) -> Result<Expression, Gap> {
    let fatal = chunk.flaws.iter().find(|flaw| !flaw.kind.is_modern());
    let end = fatal.map_or(chunk.end, |flaw| flaw.token);
    let reader = Reader {
        file,
        offset: chunk.start,
    };
    match reader.read(Rule::expression, &text[chunk.start..end], diagnostics) {
        Ok(Node::Object(object)) if fatal.is_none() => {
            return Ok(Expression {
                object,
                before: chunk.before,
                gap: chunk.gap,
                flaws: chunk.flaws,
            });
        }
        Ok(_) => {
            if fatal.is_none() {
                let span = reader.span_of(0, 1);
                let next = next_token(text, chunk.end);
                diagnostics.push(Diagnostic::not_an_object(span, next));
            }
        }
        Err(error) => {
            // Where the text was cut off, the flaw says why.
            let stop = chunk.start + error.at;
            let rest = text.get(stop..end).unwrap_or("");
            if fatal.is_none() || !rest.trim().is_empty() {
                diagnostics.push(reader.grammar_error(text, &error));
            }
        }
    }
    for flaw in &chunk.flaws {
        diagnostics.push(flaw_error(text, chunk.start, file, flaw));
    }
    Err(chunk.gap)
}

/// What is wrong with a token of `text`, the text of `file`, in the expression from `start` on.
pub(crate) fn flaw_error(text: &str, start: usize, file: FileId, flaw: &Flaw) -> Diagnostic {
    let span = |start, end| Span { file, start, end };
    let whole = span(flaw.start, flaw.end);
    let token = span(flaw.token, flaw.end);
    let shown = &text[flaw.start..flaw.end];
    match flaw.kind {
        FlawKind::Unterminated => Diagnostic::unterminated_string(whole),
        FlawKind::Stray => Diagnostic::stray(whole, shown),
        FlawKind::NoExpression => Diagnostic::no_expression(whole),
        FlawKind::NoObject => Diagnostic::not_an_object(whole, next_token(text, flaw.end)),
        FlawKind::TooDeep => Diagnostic::too_deep(whole, MAX_DEPTH),
        FlawKind::Character => Diagnostic::bad_character(whole, token),
        FlawKind::Escape => Diagnostic::bad_escape(whole, token, shown),
        FlawKind::Documentation => {
            // What the reference expects in its place is what the grammar does.
            let reader = Reader {
                file,
                offset: start,
            };
            let before = &text[start..flaw.token];
            let read = reader.read(Rule::expression, before, &mut Diagnostics::default());
            let words = read.map_or_else(|stop| reference_words(&stop.expected), |_| "");
            Diagnostic::inner_documentation(whole, words)
        }
    }
}

/// The one object of overlay file `file`.
pub(crate) fn overlay(file: FileId, text: &str, diagnostics: &mut Diagnostics) -> Option<Object> {
    let reader = Reader { file, offset: 0 };
    if let Some(at) = too_deep(text) {
        diagnostics.push(Diagnostic::too_deep(reader.span_of(at, at + 1), MAX_DEPTH));
        return None;
    }
    match reader.read(Rule::overlay, text, diagnostics) {
        Ok(Node::Object(object)) => Some(object),
        Ok(_) => None,
        Err(error) => {
            diagnostics.push(reader.grammar_error(text, &error));
            None
        }
    }
}

/// Where the grammar did not go on, and with what it could have.
struct Stop {
    at: usize,
    expected: Vec<Rule>,
}

/// Turns what the grammar matched into syntax.
struct Reader {
    file: FileId,
    offset: usize,
}

impl Reader {
    fn read(&self, rule: Rule, text: &str, diagnostics: &mut Diagnostics) -> Result<Node, Stop> {
        match Grammar::parse(rule, text) {
            Ok(pairs) => {
                let inner = pairs.into_iter().next().and_then(|p| p.into_inner().next());
                Ok(inner.map_or_else(
                    || Node::List(Vec::new()),
                    |value| self.value(value, diagnostics).node,
                ))
            }
            Err(error) => {
                let at = match error.location {
                    InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
                };
                let expected = match error.variant {
                    ErrorVariant::ParsingError { positives, .. } => positives,
                    ErrorVariant::CustomError { .. } => Vec::new(),
                };
                Err(Stop { at, expected })
            }
        }
    }

    fn grammar_error(&self, text: &str, stop: &Stop) -> Diagnostic {
        let start = (self.offset + stop.at).min(text.len());
        // At the end, what is missing is missing on the last line.
        let last_line = text.len() - usize::from(text.ends_with('\n'));
        let (start, end) = match text[start..].chars().next() {
            Some(next) => (start, start + next.len_utf8()),
            None => (last_line, last_line),
        };
        let span = Span {
            file: self.file,
            start,
            end,
        };
        let opened = self.span_of(0, 1);
        let unclosed = (start == last_line).then_some(opened);
        let words = reference_words(&stop.expected);
        Diagnostic::grammar(span, &expectation(&stop.expected), words, unclosed)
    }

    /// From byte `start` to `end` of the expression.
    fn span_of(&self, start: usize, end: usize) -> Span {
        Span {
            file: self.file,
            start: self.offset + start,
            end: self.offset + end,
        }
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
                let error = Diagnostic::duplicate_key(key.span, &key.text, first, value.span);
                diagnostics.push(error);
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

/// What the reference compiler says where the grammar could have gone on with `rules`.
fn reference_words(rules: &[Rule]) -> &'static str {
    let has = |wanted: &[Rule]| rules.iter().any(|rule| wanted.contains(rule));
    let value = has(&[Rule::object, Rule::list, Rule::literal]);
    if has(&[Rule::colon]) {
        "expected ':'"
    } else if has(&[Rule::comma]) && has(&[Rule::close_brace]) {
        "expected ',' or '}'"
    } else if has(&[Rule::comma]) {
        "expected ',' or ']'"
    } else if has(&[Rule::close_brace]) {
        "expected string or '}'"
    } else if has(&[Rule::close_bracket]) {
        "expected '{', '[', ']', string, or boolean"
    } else if value {
        "expected '{', '[', string, or boolean"
    } else {
        "expected string"
    }
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
