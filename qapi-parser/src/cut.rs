//! Text to pieces: where expressions begin and end, what comments stand between, and what is no
//! token at all. One pass over the bytes, without recursion.
//! Called by `parse.rs`.
//! Invariant: a chunk's brackets nest at most [`MAX_DEPTH`] deep before its first fatal flaw, so
//! the grammar, which recurses, can be let loose on it.
//! Not here: what an expression may say.

use crate::doc::Gap;
use crate::source::FileId;

/// How deep brackets may nest. QEMU's own schemas need five levels.
pub(crate) const MAX_DEPTH: usize = 64;

/// How often reading starts over within an expression that never ends: each time costs the rest
/// of the file.
const MAX_RESTARTS: usize = 16;

/// How many flaws are kept of an expression, and of what is none.
const MAX_FLAWS: usize = 256;

/// A file in pieces.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) chunks: Vec<Chunk>,
    /// What is no part of an expression.
    pub(crate) flaws: Vec<Flaw>,
    /// Documentation after the last expression.
    pub(crate) rest: Gap,
}

/// An expression, and the comments before it.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) start: usize,
    /// One past its last bracket; of one that never ends, the end of the text.
    pub(crate) end: usize,
    /// The text since the expression before.
    pub(crate) before: usize,
    pub(crate) gap: Gap,
    pub(crate) flaws: Vec<Flaw>,
}

/// Something that is no token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flaw {
    /// The token in which it stands: where the reference compiler sees it.
    pub(crate) token: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) kind: FlawKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlawKind {
    /// A string that its line does not close.
    Unterminated,
    /// What begins no token.
    Stray,
    /// A token where only an expression can stand.
    NoExpression,
    /// A string or literal where only an expression can stand.
    NoObject,
    TooDeep,
    /// A character that today's strings cannot have.
    Character,
    /// A backslash before anything but another, in today's strings.
    Escape,
    /// Today's documentation within an expression.
    Documentation,
}

impl FlawKind {
    /// Whether the old dialect takes it for what it is.
    pub(crate) fn is_modern(self) -> bool {
        matches!(self, Self::Character | Self::Escape | Self::Documentation)
    }
}

/// Cuts schema file `file`, whose text is `text`.
pub(crate) fn cut(file: FileId, text: &str) -> Cut {
    let mut cutter = Cutter {
        file,
        text,
        at: 0,
        open: Vec::new(),
        flaws: Vec::new(),
        flawed_to: 0,
        told_once: Vec::new(),
        next_start: None,
    };
    let mut out = Cut::default();
    let mut restarts = 0;
    let mut before = 0;
    while let Some(start) = cutter.between(&mut out) {
        let end = cutter.expression();
        out.chunks.push(Chunk {
            start,
            end: end.unwrap_or(text.len()),
            before,
            gap: std::mem::take(&mut out.rest),
            flaws: std::mem::take(&mut cutter.flaws),
        });
        if end.is_none() {
            // What looks like the next expression was most likely meant as one.
            let Some(next) = cutter.next_start.filter(|_| restarts < MAX_RESTARTS) else {
                break;
            };
            restarts += 1;
            cutter.at = next;
        }
        before = cutter.at;
    }
    out
}

struct Cutter<'t> {
    file: FileId,
    text: &'t str,
    at: usize,
    /// Brackets that are open.
    open: Vec<u8>,
    flaws: Vec<Flaw>,
    /// The end of the last line that has a flaw.
    flawed_to: usize,
    /// What is told once of the expression being read, and was.
    told_once: Vec<FlawKind>,
    /// The first `{` in the first column within the expression being read.
    next_start: Option<usize>,
}

impl Cutter<'_> {
    /// Passes over what stands before the next expression; where that starts.
    fn between(&mut self, out: &mut Cut) -> Option<usize> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            let start = self.at;
            match byte {
                b'{' | b'[' => return Some(start),
                b'#' if bytes.get(start + 1) == Some(&b'#') => {
                    self.at = out.rest.read(self.file, self.text, start);
                }
                b'#' => self.at = line_end(self.text, start),
                b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c => self.at += 1,
                b'}' | b']' | b':' | b',' => {
                    self.at += 1;
                    self.flaw(start, FlawKind::NoExpression);
                }
                b'\'' => {
                    self.string();
                    // What is wrong with the string says more than that it stands here.
                    if self.flaws.is_empty() {
                        self.flaw(start, FlawKind::NoObject);
                    }
                }
                _ => match self.literal() {
                    true => self.flaw(start, FlawKind::NoObject),
                    false => self.stray(),
                },
            }
            self.report(out);
        }
        None
    }

    /// Keeps what is wrong between expressions.
    fn report(&mut self, out: &mut Cut) {
        let room = MAX_FLAWS.saturating_sub(out.flaws.len());
        out.flaws.extend(self.flaws.drain(..).take(room));
    }

    /// Passes over the expression that starts here; one past its end, if it has one.
    fn expression(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        self.open.clear();
        self.told_once.clear();
        self.next_start = None;
        let first = self.at;
        while let Some(&byte) = bytes.get(self.at) {
            let start = self.at;
            match byte {
                b'{' | b'[' => {
                    if self.open.len() == MAX_DEPTH {
                        self.at += 1;
                        self.flaw(start, FlawKind::TooDeep);
                    }
                    let in_first_column = start > first && bytes[start - 1] == b'\n';
                    if byte == b'{' && in_first_column && self.next_start.is_none() {
                        self.next_start = Some(start);
                    }
                    self.at = start + 1;
                    self.open.push(byte);
                }
                b'}' | b']' => {
                    self.at += 1;
                    self.open.pop();
                    if self.open.is_empty() {
                        return Some(self.at);
                    }
                }
                b'\'' => self.string(),
                b'#' => {
                    self.at = line_end(self.text, start);
                    if bytes.get(start + 1) == Some(&b'#') {
                        self.flaw(start, FlawKind::Documentation);
                    }
                }
                b' ' | b'\t' | b'\r' | b'\n' | b':' | b',' | 0x0b | 0x0c => self.at += 1,
                _ => {
                    if !self.literal() {
                        self.stray();
                    }
                }
            }
        }
        None
    }

    /// Notes what stands from `start` to here.
    fn flaw(&mut self, start: usize, kind: FlawKind) {
        self.note(Flaw {
            token: start,
            start,
            end: self.at,
            kind,
        });
    }

    /// Keeps `flaw`, unless another makes it no news: the first of a line that no dialect allows
    /// tells it all; depth and documentation are told once.
    fn note(&mut self, flaw: Flaw) {
        let once = matches!(flaw.kind, FlawKind::TooDeep | FlawKind::Documentation);
        let is_told = once && self.told_once.contains(&flaw.kind);
        if is_told || flaw.start < self.flawed_to || self.flaws.len() >= MAX_FLAWS {
            return;
        }
        if once {
            self.told_once.push(flaw.kind);
        }
        if !flaw.kind.is_modern() && flaw.kind != FlawKind::NoObject {
            self.flawed_to = line_end(self.text, flaw.start);
        }
        self.flaws.push(flaw);
    }

    fn literal(&mut self) -> bool {
        let rest = &self.text[self.at..];
        let length = ["true", "false"]
            .into_iter()
            .find(|word| rest.starts_with(word))
            .map(str::len);
        self.at += length.unwrap_or(0);
        length.is_some()
    }

    /// Passes over what begins no token.
    fn stray(&mut self) {
        let start = self.at;
        let ends =
            |c: char| matches!(c, '[' | ']' | '{' | '}' | ':' | ',' | '\'') || c.is_whitespace();
        let rest = &self.text[start..];
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let length = rest[first..].find(ends).unwrap_or(rest.len() - first);
        self.at = start + first + length;
        self.flaw(start, FlawKind::Stray);
    }

    /// Passes over a string; a string ends on its line.
    fn string(&mut self) {
        let bytes = self.text.as_bytes();
        let token = self.at;
        let mut first: Option<Flaw> = None;
        let mut at = token + 1;
        loop {
            let start = at;
            let Some(&byte) = bytes.get(at) else {
                break;
            };
            at += 1;
            let kind = match byte {
                b'\'' => {
                    self.at = at;
                    first.into_iter().for_each(|flaw| self.note(flaw));
                    return;
                }
                b'\n' => {
                    at = start;
                    break;
                }
                b'\\' => match bytes.get(at) {
                    None | Some(b'\n') => continue,
                    Some(b'\\') => {
                        at += 1;
                        continue;
                    }
                    Some(_) => {
                        at = ceil_char_boundary(self.text, at + 1);
                        FlawKind::Escape
                    }
                },
                b' '..=b'~' => continue,
                _ => {
                    at = ceil_char_boundary(self.text, at);
                    FlawKind::Character
                }
            };
            first = first.or(Some(Flaw {
                token,
                start,
                end: at,
                kind,
            }));
        }
        first.into_iter().for_each(|flaw| self.note(flaw));
        self.at = at;
        self.flaw(token, FlawKind::Unterminated);
    }
}

/// One past the closing quote of a string whose text begins at `at`, or where its line ends
/// without one.
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

/// Where the first token from `at` on stands, or the end: comments are none.
pub(crate) fn next_token(text: &str, mut at: usize) -> usize {
    loop {
        let rest = text[at..].trim_start();
        at = text.len() - rest.len();
        if !rest.starts_with('#') || rest.starts_with("##") {
            return at;
        }
        at = line_end(text, at);
    }
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

/// How deep the brackets of JSON `text` nest, where they go deeper than [`MAX_DEPTH`].
pub(crate) fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                let (Ok(end) | Err(end)) = string_end(bytes, at, b'"');
                at = end;
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Some(start);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}
