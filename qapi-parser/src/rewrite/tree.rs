//! A schema file with everything in it: expressions, comments, empty lines. Nothing is judged.
//! Read by [`File::read`] for `format` and `migrate`, which change and lay it out anew.
//! Invariant: what is read was accepted by `parse.rs` before, so brackets match and nest at most
//! `MAX_DEPTH` deep; a tree laid out and read again is the same tree.

use crate::cut::string_end;

/// What a file holds, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) items: Vec<Item>,
    /// Comments after the last expression.
    pub(super) end: Vec<Comment>,
}

/// An expression with what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) before: Lead,
    pub(super) object: Container<Pair>,
}

/// What stands before a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lead {
    pub(super) comments: Vec<Comment>,
    /// An empty line between the last comment and the token.
    pub(super) gap: bool,
}

/// One comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Comment {
    /// From `#` on, without trailing space.
    pub(super) text: String,
    /// Alone on its line, or behind something.
    pub(super) alone: bool,
    /// After an empty line.
    pub(super) gap: bool,
}

/// What stands between two brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container<T> {
    pub(super) items: Vec<T>,
    /// Before the closing bracket.
    pub(super) end: Lead,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) before: Lead,
    /// Without quotes, as written.
    pub(super) key: String,
    pub(super) value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) before: Lead,
    pub(super) node: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// A string, without quotes, as written.
    String(String),
    Bool(bool),
    List(Container<Value>),
    Object(Container<Pair>),
}

impl File {
    /// Reads `text`, which `parse.rs` has accepted.
    pub(super) fn read(text: &str) -> Self {
        let mut reader = Reader {
            tokens: Lexer::new(text).tokens(),
            at: 0,
        };
        let mut items = Vec::new();
        loop {
            let token = reader.next();
            match token.kind {
                Kind::Open('{') => items.push(Item {
                    before: token.before,
                    object: reader.object(),
                }),
                Kind::End => {
                    let end = token.before.comments;
                    return Self { items, end };
                }
                // Nothing else is accepted there.
                Kind::Open(_) | Kind::Close | Kind::Comma | Kind::Colon => {}
                Kind::String(_) | Kind::Bool(_) => {}
            }
        }
    }
}

impl Value {
    /// A string that nobody wrote.
    pub(super) fn string(text: impl Into<String>) -> Self {
        Node::String(text.into()).into()
    }

    /// The string that it is.
    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.node {
            Node::String(text) => Some(text),
            Node::Bool(_) | Node::List(_) | Node::Object(_) => None,
        }
    }
}

impl From<Node> for Value {
    fn from(node: Node) -> Self {
        let before = Lead::default();
        Self { before, node }
    }
}

impl Pair {
    /// A pair that nobody wrote.
    pub(super) fn new(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            before: Lead::default(),
            key: key.into(),
            value: value.into(),
        }
    }
}

impl<T> From<Vec<T>> for Container<T> {
    fn from(items: Vec<T>) -> Self {
        let end = Lead::default();
        Self { items, end }
    }
}

impl Container<Pair> {
    /// The value under `key`.
    pub(super) fn find(&self, key: &str) -> Option<&Value> {
        let pair = self.items.iter().find(|pair| pair.key == key);
        pair.map(|pair| &pair.value)
    }
}

#[derive(Debug)]
struct Token {
    before: Lead,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Open(char),
    Close,
    Comma,
    Colon,
    String(String),
    Bool(bool),
    End,
}

/// Cuts text into tokens with what stands before each.
struct Lexer<'t> {
    text: &'t str,
    at: usize,
    before: Lead,
    /// Line ends since the last token or comment.
    newlines: usize,
    tokens: Vec<Token>,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            before: Lead::default(),
            // The first line begins like one after a line end, but not after an empty one.
            newlines: 1,
            tokens: Vec::new(),
        }
    }

    fn tokens(mut self) -> Vec<Token> {
        while let Some(next) = self.text[self.at..].chars().next() {
            let start = self.at;
            self.at += next.len_utf8();
            match next {
                '\n' => self.newlines += 1,
                '#' => self.comment(start),
                '\'' => {
                    let (Ok(end) | Err(end)) = string_end(self.text.as_bytes(), self.at, b'\'');
                    let content = &self.text[self.at..end.saturating_sub(1).max(self.at)];
                    self.at = end;
                    self.push(Kind::String(content.to_owned()));
                }
                '{' | '[' => self.push(Kind::Open(next)),
                '}' | ']' => self.push(Kind::Close),
                ',' => self.push(Kind::Comma),
                ':' => self.push(Kind::Colon),
                't' | 'f' => {
                    let rest = &self.text[self.at..];
                    let word = rest.find(|c: char| !c.is_ascii_alphanumeric());
                    self.at += word.unwrap_or(rest.len());
                    self.push(Kind::Bool(next == 't'));
                }
                _ => {}
            }
        }
        self.push(Kind::End);
        self.tokens
    }

    fn comment(&mut self, start: usize) {
        let rest = &self.text[start..];
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        self.at = start + line.len();
        self.before.comments.push(Comment {
            text: line.trim_end().to_owned(),
            alone: self.newlines > 0,
            gap: self.newlines > 1,
        });
        self.newlines = 0;
    }

    fn push(&mut self, kind: Kind) {
        let mut before = std::mem::take(&mut self.before);
        before.gap = self.newlines > 1;
        self.newlines = 0;
        self.tokens.push(Token { before, kind });
    }
}

/// Builds the tree.
struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

impl Reader {
    fn next(&mut self) -> Token {
        let kind = Kind::End;
        let end = Token {
            before: Lead::default(),
            kind,
        };
        let token = self.tokens.get_mut(self.at);
        self.at += 1;
        token.map_or(end, |token| Token {
            before: std::mem::take(&mut token.before),
            kind: token.kind.clone(),
        })
    }

    /// Passes commas and colons; what stands before them goes before what follows.
    fn next_item(&mut self) -> Token {
        let mut passed = Lead::default();
        loop {
            let mut token = self.next();
            passed.comments.append(&mut token.before.comments);
            if !matches!(token.kind, Kind::Comma | Kind::Colon) {
                let gap = token.before.gap;
                token.before = Lead { gap, ..passed };
                return token;
            }
        }
    }

    fn object(&mut self) -> Container<Pair> {
        let mut items = Vec::new();
        loop {
            let token = self.next_item();
            let Kind::String(key) = token.kind else {
                let end = token.before;
                return Container { items, end };
            };
            let first = self.next_item();
            let value = self.value(first);
            let before = token.before;
            items.push(Pair { before, key, value });
        }
    }

    fn list(&mut self) -> Container<Value> {
        let mut items = Vec::new();
        loop {
            let token = self.next_item();
            if matches!(token.kind, Kind::Close | Kind::End) {
                let end = token.before;
                return Container { items, end };
            }
            items.push(self.value(token));
        }
    }

    /// The value that begins with `token`; depth is bounded by `parse.rs`.
    fn value(&mut self, token: Token) -> Value {
        let node = match token.kind {
            Kind::Open('{') => Node::Object(self.object()),
            Kind::Open(_) => Node::List(self.list()),
            Kind::Bool(value) => Node::Bool(value),
            Kind::String(text) => Node::String(text),
            Kind::Close | Kind::Comma | Kind::Colon | Kind::End => Node::String(String::new()),
        };
        let before = token.before;
        Value { before, node }
    }
}
