//! Tokens as they will be written: what `quote!` makes, read once, so that nobody copies its trees
//! again to look at them.
//! Made where an emitter is done; read by `print.rs`. Not here: layout.

use proc_macro2::{Delimiter, Literal, Spacing, TokenStream, TokenTree};

/// A token as it is written.
#[derive(Clone)]
pub(crate) enum Token {
    Word(String),
    /// One operator, however many characters.
    Mark(&'static str),
    Lifetime(String),
    Literal(String),
    Group(Delimiter, Vec<Token>),
}

/// All marks, those first of which another is the beginning.
const MARKS: [&str; 44] = [
    "..=", "...", "::", "->", "=>", "==", "!=", "<=", ">=", "&&", "||", "..", "+=", "-=", "*=",
    "/=", "%=", "^=", "&=", "|=", "~", "!", "@", "#", "$", "%", "^", "&", "*", "-", "=", "+", "|",
    ";", ":", ",", "<", ".", ">", "/", "?", "\'", "_", "\\",
];

/// The tokens of `stream`.
pub(crate) fn read(stream: TokenStream) -> Vec<Token> {
    let mut out = Vec::new();
    read_into(stream, &mut out);
    out
}

/// Adds the tokens of `stream` to `out`.
pub(crate) fn read_into(stream: TokenStream, out: &mut Vec<Token>) {
    let mut marks = String::new();
    let mut tokens = stream.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Group(group) => match group.delimiter() {
                Delimiter::None => read_into(group.stream(), out),
                delimiter => out.push(Token::Group(delimiter, read(group.stream()))),
            },
            TokenTree::Ident(ident) => out.push(Token::Word(ident.to_string())),
            TokenTree::Literal(literal) => out.push(Token::Literal(literal.to_string())),
            TokenTree::Punct(punct) if punct.as_char() == '\'' => {
                if let Some(TokenTree::Ident(ident)) = tokens.next() {
                    out.push(Token::Lifetime(format!("'{ident}")));
                }
            }
            TokenTree::Punct(punct) => {
                marks.push(punct.as_char());
                let goes_on = punct.spacing() == Spacing::Joint
                    && matches!(tokens.peek(), Some(TokenTree::Punct(next)) if next.as_char() != '\'');
                if !goes_on {
                    split_marks(&marks, out);
                    marks.clear();
                }
            }
        }
    }
}

/// Operators out of a run of punctuation, the longest first. Angle brackets stay single: two may
/// close two lists.
fn split_marks(marks: &str, out: &mut Vec<Token>) {
    let mut rest = marks;
    // Every character of which tokens are made is a mark.
    while let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
        out.push(Token::Mark(mark));
        rest = &rest[mark.len()..];
    }
}

/// Whether a path that begins with `module` is among `tokens`.
pub(crate) fn uses(tokens: &[Token], module: &str) -> bool {
    let mut before: Option<&Token> = None;
    tokens.iter().any(|token| {
        let found = match token {
            Token::Mark("::") => matches!(before, Some(Token::Word(word)) if word == module),
            Token::Group(_, inner) => uses(inner, module),
            _ => false,
        };
        before = Some(token);
        found
    })
}

/// `text` as a literal; a raw one, whose characters nobody has to escape and to read back, where
/// there can be one.
pub(crate) fn text_literal(text: &str) -> Literal {
    let mut fence = String::new();
    while text.contains(&format!("\"{fence}")) {
        fence.push('#');
    }
    let raw = || format!("r{fence}\"{text}\"{fence}").parse().ok();
    let plain = !text.contains('\r') && fence.len() < 8;
    let raw = plain.then(raw).flatten();
    raw.unwrap_or_else(|| Literal::string(text))
}

/// The value of a string literal; `None` for other literals.
pub(crate) fn unescape(literal: &str) -> Option<String> {
    if let Some(raw) = literal.strip_prefix('r') {
        let fence = raw.len() - raw.trim_start_matches('#').len();
        let inner = raw.get(fence..raw.len().checked_sub(fence)?)?;
        return inner
            .strip_prefix('"')?
            .strip_suffix('"')
            .map(str::to_owned);
    }
    let inner = literal.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(inner.to_owned());
    }
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next()? {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            '0' => out.push('\0'),
            'u' => {
                let code: String = characters
                    .by_ref()
                    .skip(1)
                    .take_while(|c| *c != '}')
                    .collect();
                out.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
            }
            'x' => {
                let code: String = characters.by_ref().take(2).collect();
                out.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
            }
            other => out.push(other),
        }
    }
    Some(out)
}

impl Token {
    pub(crate) fn is_mark(&self, mark: &str) -> bool {
        matches!(self, Self::Mark(this) if *this == mark)
    }

    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(this) if this == word)
    }

    pub(crate) fn is_group(&self, delimiter: Delimiter) -> bool {
        matches!(self, Self::Group(this, _) if *this == delimiter)
    }

    /// Whether a value or type can end with it.
    pub(crate) fn ends_operand(&self) -> bool {
        match self {
            Self::Word(word) => !is_operator_word(word),
            Self::Mark(mark) => matches!(*mark, ">" | "?"),
            Self::Lifetime(_) => false,
            Self::Literal(_) | Self::Group(..) => true,
        }
    }
}

/// Keywords after which an operand begins.
pub(crate) fn is_operator_word(word: &str) -> bool {
    matches!(
        word,
        "as" | "break"
            | "const"
            | "dyn"
            | "else"
            | "for"
            | "if"
            | "impl"
            | "in"
            | "let"
            | "match"
            | "move"
            | "mut"
            | "pub"
            | "ref"
            | "return"
            | "type"
            | "use"
            | "where"
            | "while"
    )
}
