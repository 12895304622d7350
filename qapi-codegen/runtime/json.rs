//! Bytes to JSON values: a push parser for a stream without framing.
//! A session feeds it what it reads; each complete value, or error, comes out once.
//! Reads JSON and what QEMU reads beyond it: single quotes, `\'`, a byte-order mark at the start.
//! Invariant: memory is bounded by the limits below, whatever the input; after an error the stream
//! is usable again from the next value on. A control byte (other than tab, CR and LF) or 0xFF
//! always brings it to that point.

use std::collections::HashSet;

use super::error::Error;
use super::value::{Object, Value};

/// How deep arrays and objects may nest.
const MAX_NESTING: usize = 1024;
/// Bytes of tokens in one value.
const MAX_BYTES: usize = 64 << 20;
/// Tokens in one value.
const MAX_TOKENS: usize = 2 << 20;
/// From so many members on, an object's keys are found by hash.
const MANY_KEYS: usize = 16;

const BOM: [u8; 3] = [0xef, 0xbb, 0xbf];

/// A push parser.
#[derive(Debug, Default)]
pub struct JsonStream {
    state: State,
    /// The token being read.
    token: Vec<u8>,
    builder: Builder,
    /// The value being read is lost and its error reported; only its end is looked for.
    skipping: bool,
    /// How much of a byte-order mark the stream began with; `None` past the start.
    bom: BomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BomState {
    Seen(usize),
    Past,
}

impl Default for BomState {
    fn default() -> Self {
        Self::Seen(0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Start,
    String {
        quote: u8,
    },
    Escape {
        quote: u8,
    },
    Keyword,
    Number(Number),
    /// After a stray byte: up to the next line, opening bracket or control byte.
    Recover,
}

/// How far a number got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Sign,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// The state after `byte`, or `None` if it does not belong to the number.
    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Sign, b'0') => Some(Self::Zero),
            (Self::Sign, b'1'..=b'9') | (Self::Digits, b'0'..=b'9') => Some(Self::Digits),
            (Self::Zero | Self::Digits, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Digits | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Some(Self::ExponentDigits)
            }
            _ => None,
        }
    }

    /// Whether a number may end here, before `byte`.
    fn ends(self, byte: u8) -> bool {
        match self {
            Self::Zero => !byte.is_ascii_digit(),
            Self::Digits | Self::Fraction | Self::ExponentDigits => true,
            Self::Sign | Self::Point | Self::Exponent | Self::ExponentSign => false,
        }
    }
}

type Outcome = Result<Value, Error>;

impl JsonStream {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `bytes`; gives the values and errors that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Outcome> {
        let mut out = Vec::new();
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            let whole = self.whole_token(byte, rest, &mut out);
            if whole > 0 {
                rest = &rest[whole..];
                continue;
            }
            let plain = self.plain(rest);
            if plain > 0 {
                self.token.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
            } else {
                self.byte(byte, &mut out);
                rest = after;
            }
        }
        out
    }

    /// Reads a token that `rest`, whose first byte is `byte`, holds whole, without copying it: the
    /// common case. Gives its length; 0 where it takes the way byte by byte.
    fn whole_token(&mut self, byte: u8, rest: &[u8], out: &mut Vec<Outcome>) -> usize {
        if self.state != State::Start || self.skipping || self.bom != BomState::Past {
            return 0;
        }
        let (token, len) = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return 1,
            b'{' | b'}' | b'[' | b']' | b',' | b':' => (Token::Punctuation(byte), 1),
            b'"' | b'\'' => {
                let ends = |other: &u8| *other == byte || *other == b'\\' || !is_text(*other);
                let end = rest.iter().skip(1).position(ends).map(|end| end + 1);
                match end {
                    Some(end) if rest.get(end) == Some(&byte) => (Token::String, end + 1),
                    _ => return 0,
                }
            }
            b'1'..=b'9' => {
                let end = rest.iter().position(|digit| !digit.is_ascii_digit());
                match end.and_then(|end| Some((end, *rest.get(end)?))) {
                    Some((end, b' ' | b',' | b'}' | b']' | b'\r' | b'\n')) => (Token::Number, end),
                    _ => return 0,
                }
            }
            _ => return 0,
        };
        if self.builder.bytes + len > MAX_BYTES {
            return 0;
        }
        self.token_done(token, &rest[..len], out);
        len
    }

    /// How many bytes of `rest` are plain text of the string being read, within the limit.
    fn plain(&self, rest: &[u8]) -> usize {
        let State::String { quote } = self.state else {
            return 0;
        };
        if self.skipping {
            return 0;
        }
        let room = MAX_BYTES.saturating_sub(self.builder.bytes + self.token.len());
        let is_plain = |byte: &u8| is_text(*byte) && *byte != quote && *byte != b'\\';
        rest.iter()
            .take(room)
            .take_while(|byte| is_plain(byte))
            .count()
    }

    /// Says that the stream has ended; gives a number or keyword that its end completes, or the
    /// error of a value that it cuts off. The parser is at the start of a stream again.
    pub fn finish(&mut self) -> Option<Outcome> {
        let mut out = Vec::new();
        // A space ends a number or keyword and changes nothing else.
        let in_string = matches!(self.state, State::String { .. } | State::Escape { .. });
        if !in_string {
            self.byte(b' ', &mut out);
        }
        if out.is_empty() && !self.skipping && (in_string || self.builder.started()) {
            out.push(Err(parse_error("premature EOI")));
        }
        *self = Self::default();
        out.pop()
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<Outcome>) {
        if let BomState::Seen(count) = self.bom {
            if BOM.get(count) == Some(&byte) {
                self.bom = if count == 2 {
                    BomState::Past
                } else {
                    BomState::Seen(count + 1)
                };
                return;
            }
            self.bom = BomState::Past;
            if count > 0 {
                self.stray(&BOM[..count], out);
            }
        }
        match self.state {
            State::Start => self.start(byte, out),
            State::String { .. } | State::Escape { .. } if !is_text(byte) => {
                self.abort(byte, out);
            }
            State::String { quote } => {
                self.push(byte, out);
                if byte == b'\\' {
                    self.state = State::Escape { quote };
                } else if byte == quote {
                    self.state = State::Start;
                    self.collected(Token::String, out);
                }
            }
            State::Escape { quote } => {
                self.push(byte, out);
                self.state = State::String { quote };
            }
            State::Keyword if byte.is_ascii_lowercase() => self.push(byte, out),
            State::Keyword => {
                self.state = State::Start;
                self.collected(Token::Keyword, out);
                self.start(byte, out);
            }
            State::Number(number) => match number.next(byte) {
                Some(next) => {
                    self.push(byte, out);
                    self.state = State::Number(next);
                }
                None if number.ends(byte) => {
                    self.state = State::Start;
                    self.collected(Token::Number, out);
                    self.start(byte, out);
                }
                None if is_reset(byte) => self.abort(byte, out),
                None => {
                    let mut text = std::mem::take(&mut self.token);
                    text.push(byte);
                    self.state = State::Start;
                    self.stray(&text, out);
                    self.track(byte);
                }
            },
            State::Recover => match byte {
                b'{' | b'[' => {
                    self.state = State::Start;
                    self.start(byte, out);
                }
                _ if byte != b'\t' && !is_text(byte) => self.state = State::Start,
                _ => {}
            },
        }
    }

    fn start(&mut self, byte: u8, out: &mut Vec<Outcome>) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'"' | b'\'' => self.begin(byte, State::String { quote: byte }, out),
            b'-' => self.begin(byte, State::Number(Number::Sign), out),
            b'0' => self.begin(byte, State::Number(Number::Zero), out),
            b'1'..=b'9' => self.begin(byte, State::Number(Number::Digits), out),
            b'a'..=b'z' => self.begin(byte, State::Keyword, out),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                self.push(byte, out);
                self.collected(Token::Punctuation(byte), out);
            }
            _ if is_reset(byte) => self.abort(byte, out),
            _ => self.stray(&[byte], out),
        }
    }

    fn begin(&mut self, byte: u8, state: State, out: &mut Vec<Outcome>) {
        self.state = state;
        self.push(byte, out);
    }

    /// Adds a byte to the token, within the limit.
    fn push(&mut self, byte: u8, out: &mut Vec<Outcome>) {
        if self.skipping {
            return;
        }
        if self.builder.bytes + self.token.len() >= MAX_BYTES {
            self.fail(Error::generic("JSON token size limit exceeded"), out);
            return;
        }
        self.token.push(byte);
    }

    /// Reports `error` and skips the rest of the value.
    fn fail(&mut self, error: Error, out: &mut Vec<Outcome>) {
        if !self.skipping {
            out.push(Err(error));
        }
        self.skipping = true;
        self.token = Vec::new();
        self.builder.forget();
    }

    /// A byte that belongs nowhere. Inside a value the rest of it is skipped, outside of one
    /// whatever comes up to the next line or bracket.
    fn stray(&mut self, text: &[u8], out: &mut Vec<Outcome>) {
        let shown = String::from_utf8_lossy(text).into_owned();
        let inside = self.builder.depth() > 0;
        self.fail(parse_error(&format!("stray '{shown}'")), out);
        if !inside {
            self.skipping = false;
            self.builder = Builder::default();
            self.state = State::Recover;
        }
    }

    /// A control byte: whatever was being read is given up. A line's end in a string does not bring
    /// the rest of that string back.
    fn abort(&mut self, byte: u8, out: &mut Vec<Outcome>) {
        if !self.skipping {
            let mut text = std::mem::take(&mut self.token);
            text.push(byte);
            let shown = String::from_utf8_lossy(&text).into_owned();
            out.push(Err(parse_error(&format!("stray '{shown}'"))));
        }
        *self = Self {
            bom: BomState::Past,
            ..Self::default()
        };
    }

    /// Lets a bracket that ended a broken token count for where the value ends.
    fn track(&mut self, byte: u8) {
        if self.skipping && self.builder.count(byte) {
            self.builder = Builder::default();
            self.skipping = false;
        }
    }

    /// A token that was put together byte by byte.
    fn collected(&mut self, token: Token, out: &mut Vec<Outcome>) {
        let text = std::mem::take(&mut self.token);
        self.token_done(token, &text, out);
    }

    fn token_done(&mut self, token: Token, text: &[u8], out: &mut Vec<Outcome>) {
        if !self.skipping {
            if self.builder.tokens >= MAX_TOKENS {
                self.fail(Error::generic("JSON token count limit exceeded"), out);
            } else {
                self.builder.tokens += 1;
                self.builder.bytes += text.len();
            }
        }
        let ended = match token {
            Token::Punctuation(byte) => self.builder.count(byte),
            Token::String | Token::Number | Token::Keyword => self.builder.depth() == 0,
        };
        if !self.skipping {
            if self.builder.depth() > MAX_NESTING {
                self.fail(Error::generic("JSON nesting depth limit exceeded"), out);
                return;
            }
            self.builder.add(token, text);
        }
        // A limit that struck outside of brackets leaves nothing to skip.
        if ended || (self.skipping && self.builder.depth() == 0) {
            let outcome = self.builder.finish();
            if !std::mem::take(&mut self.skipping) {
                out.push(outcome);
            }
        }
    }
}

/// Bytes that may stand in a string.
fn is_text(byte: u8) -> bool {
    matches!(byte, b' '..=0xfd)
}

/// Bytes that clients send to bring the parser back to a known state.
fn is_reset(byte: u8) -> bool {
    !is_text(byte) && !matches!(byte, b'\t' | b'\r' | b'\n')
}

fn parse_error(what: &str) -> Error {
    Error::generic(format!("JSON parse error, {what}"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Punctuation(u8),
    String,
    Number,
    Keyword,
}

/// Puts a value together, token by token, without recursion.
#[derive(Debug, Default)]
struct Builder {
    open: Vec<Frame>,
    root: Option<Value>,
    error: Option<Error>,
    braces: isize,
    brackets: isize,
    tokens: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Frame {
    Object {
        object: Object,
        keys: Option<HashSet<String>>,
        key: Option<String>,
        next: Next,
    },
    Array {
        items: Vec<Value>,
        next: Next,
    },
}

/// What may come next inside a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Right after the opening bracket: an element or the end.
    First,
    /// After a comma: an element.
    Element,
    Colon,
    /// After the colon: the member's value.
    Value,
    /// After an element: a comma or the end.
    Separator,
}

impl Builder {
    fn started(&self) -> bool {
        self.tokens > 0
    }

    fn depth(&self) -> usize {
        <usize as std::convert::TryFrom<isize>>::try_from(self.braces + self.brackets).unwrap_or(0)
    }

    /// Drops what was built, keeping the depth.
    fn forget(&mut self) {
        self.open = Vec::new();
        self.root = None;
    }

    /// Counts a bracket; true when the value ends with it.
    fn count(&mut self, byte: u8) -> bool {
        match byte {
            b'{' => self.braces += 1,
            b'}' => self.braces -= 1,
            b'[' => self.brackets += 1,
            b']' => self.brackets -= 1,
            _ => {}
        }
        self.braces < 0 || self.brackets < 0 || (self.braces == 0 && self.brackets == 0)
    }

    /// What was built; the next value can begin. Room for brackets is kept.
    fn finish(&mut self) -> Outcome {
        let mut open = std::mem::take(&mut self.open);
        open.clear();
        let done = std::mem::take(self);
        self.open = open;
        match (done.error, done.root) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(parse_error("expecting value")),
        }
    }

    fn add(&mut self, token: Token, text: &[u8]) {
        if self.error.is_some() {
            return;
        }
        let result = match token {
            Token::Punctuation(b'{') => self.open_frame(Frame::Object {
                object: Object::new(),
                keys: None,
                key: None,
                next: Next::First,
            }),
            Token::Punctuation(b'[') => self.open_frame(Frame::Array {
                items: Vec::new(),
                next: Next::First,
            }),
            Token::Punctuation(byte) => self.punctuation(byte),
            Token::String => string(text).and_then(|text| self.string(text)),
            Token::Number => self.value(number(text)),
            Token::Keyword => keyword(text).and_then(|value| self.value(value)),
        };
        if let Err(error) = result {
            self.error = Some(error);
            self.forget();
        }
    }

    fn open_frame(&mut self, frame: Frame) -> Result<(), Error> {
        match self.open.last() {
            Some(Frame::Object {
                next: Next::First | Next::Element,
                ..
            }) => {
                return Err(parse_error("key is not a string in object"));
            }
            Some(Frame::Object {
                next: Next::Colon, ..
            }) => {
                return Err(parse_error("missing : in object pair"));
            }
            Some(Frame::Object {
                next: Next::Separator,
                ..
            }) => {
                return Err(parse_error("expected separator in dict"));
            }
            Some(Frame::Array {
                next: Next::Separator,
                ..
            }) => {
                return Err(parse_error("expected separator in list"));
            }
            Some(_) | None => {}
        }
        self.open.push(frame);
        Ok(())
    }

    fn punctuation(&mut self, byte: u8) -> Result<(), Error> {
        let error = match self.open.last_mut() {
            Some(Frame::Object { next, .. }) => match (*next, byte) {
                (Next::First | Next::Separator, b'}') => return self.close(),
                (Next::Separator, b',') => {
                    *next = Next::Element;
                    return Ok(());
                }
                (Next::Colon, b':') => {
                    *next = Next::Value;
                    return Ok(());
                }
                (Next::Separator, _) => "expected separator in dict",
                (Next::Colon, _) => "missing : in object pair",
                (Next::First | Next::Element | Next::Value, _) => "expecting value",
            },
            Some(Frame::Array { next, .. }) => match (*next, byte) {
                (Next::First | Next::Separator, b']') => return self.close(),
                (Next::Separator, b',') => {
                    *next = Next::Element;
                    return Ok(());
                }
                (Next::Separator, _) => "expected separator in list",
                _ => "expecting value",
            },
            None => "expecting value",
        };
        Err(parse_error(error))
    }

    fn close(&mut self) -> Result<(), Error> {
        match self.open.pop() {
            Some(Frame::Object { object, .. }) => self.value(Value::Object(object)),
            Some(Frame::Array { items, .. }) => self.value(Value::Array(items)),
            None => Err(parse_error("expecting value")),
        }
    }

    fn string(&mut self, text: String) -> Result<(), Error> {
        match self.open.last_mut() {
            Some(Frame::Object {
                key,
                next: next @ (Next::First | Next::Element),
                ..
            }) => {
                *key = Some(text);
                *next = Next::Colon;
                Ok(())
            }
            _ => self.value(Value::String(text)),
        }
    }

    fn value(&mut self, value: Value) -> Result<(), Error> {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Frame::Array {
                next: Next::Separator,
                ..
            }) => {
                return Err(parse_error("expected separator in list"));
            }
            Some(Frame::Array { items, next }) => {
                items.push(value);
                *next = Next::Separator;
            }
            Some(Frame::Object {
                object,
                keys,
                key,
                next,
            }) => match *next {
                Next::First | Next::Element => {
                    return Err(parse_error("key is not a string in object"));
                }
                Next::Colon => return Err(parse_error("missing : in object pair")),
                Next::Separator => return Err(parse_error("expected separator in dict")),
                Next::Value => {
                    let name = key.take().unwrap_or_default();
                    if is_duplicate(object, keys, &name) {
                        return Err(parse_error("duplicate key"));
                    }
                    object.push(name, value);
                    *next = Next::Separator;
                }
            },
        }
        Ok(())
    }
}

/// Few keys are compared one by one, many are hashed: input decides how many there are.
fn is_duplicate(object: &Object, keys: &mut Option<HashSet<String>>, name: &str) -> bool {
    if object.len() < MANY_KEYS {
        return object.contains(name);
    }
    let known = || object.iter().map(|(key, _)| key.to_owned()).collect();
    !keys.get_or_insert_with(known).insert(name.to_owned())
}

fn keyword(text: &[u8]) -> Result<Value, Error> {
    match text {
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        b"null" => Ok(Value::Null),
        _ => {
            let shown = String::from_utf8_lossy(text);
            Err(parse_error(&format!("invalid keyword '{shown}'")))
        }
    }
}

/// A number's token: `i64`, else `u64`, else a double.
fn number(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).unwrap_or_default();
    if let Ok(number) = text.parse::<i64>() {
        return Value::Int(number);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Value::from(number);
    }
    Value::Float(text.parse().unwrap_or(f64::INFINITY))
}

/// A string's token, quotes included, to its text.
fn string(token: &[u8]) -> Result<String, Error> {
    let inside = token
        .get(1..token.len().saturating_sub(1))
        .unwrap_or_default();
    if inside.iter().all(|byte| byte.is_ascii() && *byte != b'\\') {
        return Ok(String::from_utf8_lossy(inside).into_owned());
    }
    let text =
        std::str::from_utf8(inside).map_err(|_| parse_error("invalid UTF-8 sequence in string"))?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '\\' {
            if is_noncharacter(character) {
                return Err(parse_error("invalid UTF-8 sequence in string"));
            }
            out.push(character);
            continue;
        }
        let escape = rest.chars().next().unwrap_or_default();
        rest = &rest[escape.len_utf8().min(rest.len())..];
        match escape {
            '"' | '\'' | '\\' | '/' => out.push(escape),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let (character, length) = unicode_escape(rest)?;
                out.push(character);
                rest = &rest[length..];
            }
            _ => return Err(parse_error("invalid escape sequence in string")),
        }
    }
    Ok(out)
}

/// The character of an escape, from behind its `\u`, and how many bytes of `rest` it took.
fn unicode_escape(rest: &str) -> Result<(char, usize), Error> {
    let invalid = |length: usize| {
        let shown = rest.get(..length).unwrap_or(rest);
        parse_error(&format!("\\u{shown} is not a valid Unicode character"))
    };
    let unit = hex4(rest).ok_or_else(|| invalid(4))?;
    let (code, length) = match (unit, rest.get(4..6)) {
        (0xd800..=0xdbff, Some("\\u")) => {
            let low = rest
                .get(6..)
                .and_then(hex4)
                .filter(|low| (0xdc00..=0xdfff).contains(low));
            let low = low.ok_or_else(|| invalid(4))?;
            (0x10000 + ((unit & 0x3ff) << 10) + (low & 0x3ff), 10)
        }
        _ => (unit, 4),
    };
    match char::from_u32(code) {
        Some(character) if !is_noncharacter(character) => Ok((character, length)),
        _ => Err(invalid(length)),
    }
}

fn hex4(text: &str) -> Option<u32> {
    let digits = text
        .get(..4)
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

/// Code points that Unicode sets aside for ever.
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

impl Value {
    /// Reads one JSON value from `text`.
    ///
    /// # Errors
    /// When there is none, it is broken, or something follows it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let mut stream = JsonStream::new();
        let mut outcomes = stream.feed(text.as_bytes());
        outcomes.extend(stream.finish());
        let mut outcomes = outcomes.into_iter();
        match (outcomes.next(), outcomes.next()) {
            (Some(outcome), None) => outcome,
            (Some(Err(error)), Some(_)) => Err(error),
            (Some(Ok(_)), Some(_)) => Err(parse_error("more than one value")),
            (None, _) => Err(parse_error("expecting value")),
        }
    }
}
