//! Tokens to text, laid out as rustfmt would: one small printer instead of a parser and a
//! formatter, which took most of the time of a run and most of what a build script had to compile.
//! Called by `file.rs`. Invariant: reading the text gives the tokens again, trailing commas aside.
//! Not here: comments, which tokens do not have; `doc` attributes become `///`.

use proc_macro2::Delimiter;

use crate::tokens::{Token, is_operator_word, unescape};

const WIDTH: usize = 100;
const INDENT: usize = 4;

/// Adds the text of `tokens`, items of a module, at a depth of `level`.
pub(crate) fn print(tokens: &[Token], level: usize, out: &mut String) {
    let mut printer = Printer {
        out: std::mem::take(out),
        indent: level,
    };
    printer.body(tokens, Body::Items);
    *out = printer.out;
}

/// The space before a line at a depth of `level`.
pub(crate) fn margin(level: usize) -> String {
    " ".repeat(level * INDENT)
}

/// What stands between two braces.
#[derive(Clone, Copy, PartialEq)]
enum Body {
    /// Items, an empty line between them.
    Items,
    /// Anything else, a line each.
    Lines,
}

/// Whether a list that a `<` opens is of generic arguments, by what stands before.
fn opens_generics(before: &[Token]) -> bool {
    match before {
        [.., Token::Word(earlier), Token::Word(_)] if earlier == "fn" => true,
        [.., Token::Word(word)] => {
            word.starts_with(|first: char| first.is_uppercase() || first == '_')
                || is_operator_word(word)
        }
        [.., Token::Mark(_)] | [] => true,
        _ => false,
    }
}

/// The parts of a body: `;` and `,` end one, and a block after which nothing of it can follow.
fn parts(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        let mut ends = false;
        match token {
            Token::Mark(mark) => match *mark {
                "<" if opens_generics(&tokens[start..at]) => depth += 1,
                ">" => depth = depth.saturating_sub(1),
                ";" => ends = true,
                "," => ends = depth == 0,
                _ => {}
            },
            Token::Group(Delimiter::Brace, _) => {
                ends = !tokens.get(at + 1).is_some_and(continues);
            }
            Token::Group(Delimiter::Bracket, _) => {
                // An inner attribute is a part of its own.
                ends = matches!(&tokens[start..at], [hash, bang] if hash.is_mark("#") && bang.is_mark("!"));
            }
            _ => {}
        }
        if ends {
            parts.push(&tokens[start..=at]);
            (start, depth) = (at + 1, 0);
        }
    }
    if start < tokens.len() {
        parts.push(&tokens[start..]);
    }
    parts
}

/// Whether `token` after a block belongs to what the block ended.
fn continues(token: &Token) -> bool {
    match token {
        Token::Mark(mark) => !matches!(*mark, "#" | "&" | "*" | "<" | "::"),
        Token::Word(word) => matches!(word.as_str(), "else" | "as"),
        _ => false,
    }
}

/// The elements of a list in parentheses or brackets.
fn elements(tokens: &[Token]) -> Vec<&[Token]> {
    let mut elements = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark(mark) if *mark == "<" && opens_generics(&tokens[start..at]) => depth += 1,
            Token::Mark(mark) if *mark == ">" => depth = depth.saturating_sub(1),
            Token::Mark(mark) if *mark == "," && depth == 0 => {
                elements.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < tokens.len() {
        elements.push(&tokens[start..]);
    }
    elements
}

/// Attributes at the start, and what they stand on.
fn attributes(tokens: &[Token]) -> (Vec<(&'static str, &[Token])>, &[Token]) {
    let mut attributes = Vec::new();
    let mut rest = tokens;
    loop {
        match rest {
            [hash, Token::Group(Delimiter::Bracket, inner), after @ ..] if hash.is_mark("#") => {
                attributes.push(("#", &inner[..]));
                rest = after;
            }
            [
                hash,
                bang,
                Token::Group(Delimiter::Bracket, inner),
                after @ ..,
            ] if hash.is_mark("#") && bang.is_mark("!") => {
                attributes.push(("#!", &inner[..]));
                rest = after;
            }
            _ => return (attributes, rest),
        }
    }
}

/// The keyword that says what item it is, if it is one.
fn item(tokens: &[Token]) -> Option<&str> {
    let words = tokens.iter().filter_map(|token| match token {
        Token::Word(word) => Some(word.as_str()),
        _ => None,
    });
    let mut words = words.skip_while(|word| matches!(*word, "pub" | "async" | "unsafe"));
    words.next().filter(|word| {
        matches!(
            *word,
            "const" | "enum" | "fn" | "impl" | "mod" | "struct" | "trait" | "use"
        )
    })
}

struct Printer {
    out: String,
    /// Levels.
    indent: usize,
}

impl Printer {
    fn body(&mut self, tokens: &[Token], body: Body) {
        let mut before = None;
        for part in parts(tokens) {
            let start = self.out.len();
            self.part(part);
            let (attributes, rest) = attributes(part);
            // Short items of a kind stand together.
            let kind = item(rest).unwrap_or_default();
            let short = attributes.iter().all(|(mark, _)| *mark == "#!")
                && !self.out[start..].trim_end().contains('\n');
            let this = (kind.to_owned(), short);
            if body == Body::Items && before.is_some_and(|last| last != this || !this.1) {
                self.out.insert(start, '\n');
            }
            before = Some(this);
        }
    }

    fn margin(&mut self) {
        for _ in 0..self.indent * INDENT {
            self.out.push(' ');
        }
    }

    /// One part with its attributes, on lines of its own.
    fn part(&mut self, tokens: &[Token]) {
        let (attributes, rest) = attributes(tokens);
        for (mark, inner) in attributes {
            match doc(inner) {
                Some(text) => self.comment(if mark == "#" { "///" } else { "//!" }, &text),
                None => {
                    self.margin();
                    self.out.push_str(mark);
                    self.out.push('[');
                    self.flow(inner);
                    self.out.push_str("]\n");
                }
            }
        }
        if !rest.is_empty() {
            self.margin();
            self.flow(rest);
            self.out.push('\n');
        }
    }

    fn comment(&mut self, mark: &str, text: &str) {
        for line in text.split('\n') {
            self.margin();
            self.out.push_str(mark);
            self.out.push_str(line.trim_end());
            self.out.push('\n');
        }
    }

    /// How many characters are left on this line.
    fn left(&self) -> usize {
        let start = self.out.rfind('\n').map_or(0, |newline| newline + 1);
        WIDTH.saturating_sub(self.out.len() - start)
    }

    /// `tokens`, on this line if they fit, else with one group over several lines.
    fn flow(&mut self, tokens: &[Token]) {
        let start = self.out.len();
        let end = start + self.left();
        if flat(&mut self.out, tokens, end) {
            return;
        }
        self.out.truncate(start);
        let Some(at) = breaking(tokens) else {
            // Nothing to break at.
            flat(&mut self.out, tokens, usize::MAX);
            return;
        };
        let (head, tail) = (&tokens[..at], &tokens[at + 1..]);
        let Token::Group(delimiter, inner) = &tokens[at] else {
            return;
        };
        self.flow(head);
        if at > 0 && spaced(&tokens[..at], &tokens[at]) {
            self.out.push(' ');
        }
        self.group(*delimiter, inner, head);
        if let Some(next) = tail.first() {
            if spaced(&tokens[..=at], next) {
                self.out.push(' ');
            }
            self.flow(tail);
        }
    }

    /// A group over several lines.
    fn group(&mut self, delimiter: Delimiter, inner: &[Token], head: &[Token]) {
        let (open, close) = marks(delimiter);
        self.out.push(open);
        if delimiter == Delimiter::Brace && !is_literal(head, inner) {
            self.out.push('\n');
            self.indent += 1;
            let body = match item(attributes(head).1) {
                Some("impl" | "mod" | "trait") => Body::Items,
                _ => Body::Lines,
            };
            self.body(inner, body);
            self.indent -= 1;
            self.margin();
            self.out.push(close);
            return;
        }
        match &elements(inner)[..] {
            // What stands alone hugs its parentheses.
            [only] if delimiter == Delimiter::Parenthesis && !documented(only) => self.flow(inner),
            elements => {
                self.out.push('\n');
                self.indent += 1;
                for element in elements {
                    self.part(element);
                    let line = self.out.trim_end_matches('\n').len();
                    self.out.truncate(line);
                    self.out.push_str(",\n");
                }
                self.indent -= 1;
                self.margin();
            }
        }
        self.out.push(close);
    }
}

/// Whether an attribute stands at the start.
fn documented(tokens: &[Token]) -> bool {
    tokens.first().is_some_and(|first| first.is_mark("#"))
}

/// The group to be written over several lines: a block, or the longest list.
fn breaking(tokens: &[Token]) -> Option<usize> {
    let groups = || {
        tokens
            .iter()
            .enumerate()
            .filter_map(|(at, token)| match token {
                Token::Group(delimiter, inner) if !inner.is_empty() => {
                    Some((at, *delimiter, inner))
                }
                _ => None,
            })
    };
    let block = groups().find(|(at, delimiter, inner)| {
        *delimiter == Delimiter::Brace && !is_literal(&tokens[..*at], inner)
    });
    let longest = || groups().max_by_key(|(at, _, inner)| (weight(inner), *at));
    block.or_else(longest).map(|(at, ..)| at)
}

fn weight(tokens: &[Token]) -> usize {
    let weigh = |token: &Token| match token {
        Token::Word(text) | Token::Literal(text) => text.len(),
        Token::Group(_, inner) => weight(inner),
        Token::Mark(_) | Token::Lifetime(_) => 1,
    };
    tokens.iter().map(weigh).sum()
}

/// Whether braces after `before` are of a literal, pattern or list, which may stand on one line.
fn is_literal(before: &[Token], inner: &[Token]) -> bool {
    let named = match before.last() {
        Some(Token::Word(word)) => word.starts_with(char::is_uppercase),
        Some(Token::Mark(mark)) => *mark == "::",
        _ => false,
    };
    let plain = |token: &Token| !token.is_mark(";") && !token.is_mark("#");
    named
        && !matches!(
            item(before),
            Some("impl" | "struct" | "enum" | "fn" | "mod" | "trait")
        )
        && inner.iter().all(plain)
}

fn marks(delimiter: Delimiter) -> (char, char) {
    match delimiter {
        Delimiter::Brace => ('{', '}'),
        Delimiter::Bracket => ('[', ']'),
        Delimiter::Parenthesis | Delimiter::None => ('(', ')'),
    }
}

/// Writes `tokens` on one line of up to `end` bytes of `out`; false when they cannot stand there.
fn flat(out: &mut String, tokens: &[Token], end: usize) -> bool {
    for (at, token) in tokens.iter().enumerate() {
        if at > 0 && spaced(&tokens[..at], token) {
            out.push(' ');
        }
        match token {
            Token::Word(text) | Token::Lifetime(text) | Token::Literal(text) => {
                out.push_str(text);
            }
            Token::Mark(mark) => out.push_str(mark),
            Token::Group(delimiter, inner) => {
                if !flat_group(out, *delimiter, inner, &tokens[..at], end) {
                    return false;
                }
            }
        }
        if out.len() > end {
            return false;
        }
    }
    true
}

fn flat_group(
    out: &mut String,
    delimiter: Delimiter,
    inner: &[Token],
    before: &[Token],
    end: usize,
) -> bool {
    let brace = delimiter == Delimiter::Brace;
    if brace && !inner.is_empty() && !is_literal(before, inner) && end != usize::MAX {
        return false;
    }
    if delimiter == Delimiter::Parenthesis && documented(inner) {
        return false;
    }
    let (open, close) = marks(delimiter);
    let is_use = before.last().is_some_and(|last| last.is_mark("::"));
    let pad = if brace && !inner.is_empty() && !is_use {
        " "
    } else {
        ""
    };
    // A tuple of one needs its comma.
    let is_call = before.last().is_some_and(Token::ends_operand);
    let inner = match inner {
        [rest @ .., comma]
            if comma.is_mark(",") && (delimiter != Delimiter::Parenthesis || is_call) =>
        {
            rest
        }
        _ => inner,
    };
    out.push(open);
    out.push_str(pad);
    if !flat(out, inner, end) {
        return false;
    }
    out.push_str(pad);
    out.push(close);
    true
}

/// Whether a space stands between `before`, which is not empty, and `next`.
fn spaced(before: &[Token], next: &Token) -> bool {
    let [earlier @ .., last] = before else {
        return false;
    };
    // What follows an opening mark clings to it.
    match last {
        Token::Mark(mark) => match *mark {
            "::" | "." | "#" | "$" => return next.is_group(Delimiter::Brace) && *mark == ".",
            "!" => {
                return next.is_group(Delimiter::Brace)
                    && earlier.last().is_some_and(Token::ends_operand);
            }
            "&" | "*" | "-" if !earlier.last().is_some_and(Token::ends_operand) => return false,
            "&&" if !earlier.last().is_some_and(Token::ends_operand) => return false,
            "?" if earlier
                .last()
                .is_some_and(|token| token.is_mark(":") || token.is_mark("+")) =>
            {
                return false;
            }
            "<" if opens_generics(earlier) => return false,
            ".." | "..=" => return false,
            "|" if opens_closure(before) => return false,
            _ => {}
        },
        Token::Word(_) | Token::Lifetime(_) | Token::Literal(_) | Token::Group(..) => {}
    }
    match next {
        Token::Mark(mark) => match *mark {
            "," | ";" | ":" | "." => false,
            "?" => last.is_mark(":") || last.is_mark("+"),
            "::" => !last.ends_operand(),
            ".." | "..=" => !last.ends_operand() || last.is_mark(","),
            "!" => !matches!(last, Token::Word(word) if !is_operator_word(word)),
            ">" => !closes_generics(before),
            "<" => {
                !opens_generics(before)
                    || matches!(last, Token::Mark(mark) if *mark != ">")
                    || matches!(last, Token::Word(word) if is_operator_word(word) && word != "impl" && word != "for")
            }
            "|" => !closes_closure(before),
            _ => true,
        },
        Token::Group(Delimiter::Brace, _) => true,
        Token::Group(..) => match last {
            Token::Word(word) => is_operator_word(word) && word != "pub",
            Token::Mark(mark) => *mark != ">" && *mark != "?",
            Token::Lifetime(_) => true,
            Token::Literal(_) | Token::Group(..) => {
                matches!(last, Token::Group(Delimiter::Bracket, _))
                    && earlier.last().is_some_and(|token| token.is_mark("#"))
            }
        },
        Token::Word(_) | Token::Lifetime(_) | Token::Literal(_) => true,
    }
}

/// Whether a `>` after `before` closes a list that is open there.
fn closes_generics(before: &[Token]) -> bool {
    let mut depth = 0_usize;
    for (at, token) in before.iter().enumerate() {
        match token {
            Token::Mark(mark) if *mark == "<" && opens_generics(&before[..at]) => depth += 1,
            Token::Mark(mark) if *mark == ">" => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    depth > 0
}

/// Whether the `|` that ends `before` opens the parameters of a closure.
fn opens_closure(before: &[Token]) -> bool {
    let [earlier @ .., _] = before else {
        return false;
    };
    match earlier.last() {
        None => true,
        Some(Token::Mark(mark)) => !matches!(*mark, "|" | ">" | "?"),
        Some(Token::Word(word)) => word == "move",
        Some(_) => false,
    }
}

/// Whether a `|` after `before` closes the parameters of a closure.
fn closes_closure(before: &[Token]) -> bool {
    let last = before.iter().rposition(|token| token.is_mark("|"));
    last.is_some_and(|at| opens_closure(&before[..=at]))
}

/// The text of a `doc` attribute.
fn doc(inner: &[Token]) -> Option<String> {
    match inner {
        [name, equals, Token::Literal(literal)] if name.is_word("doc") && equals.is_mark("=") => {
            unescape(literal)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::read;

    /// Prints `source`, and compares with `want`.
    #[track_caller]
    fn check(source: &str, want: &str) {
        let text = |source: &str| {
            let mut text = String::new();
            print(&read(source.parse().unwrap()), 0, &mut text);
            text
        };
        assert_eq!(text(source), want);
        assert_eq!(text(want), want);
    }

    #[test]
    fn items_are_laid_out_as_rustfmt_does() {
        check(
            "use a::{b,c,}; pub(crate) mod x; #[doc=\" One\\n\\n two.\"]#[derive(Debug,Clone)] pub struct X<'a>{pub a:&'a str,b:Vec<Option<u8>>,}",
            "use a::{b, c};\n\npub(crate) mod x;\n\n/// One\n///\n/// two.\n#[derive(Debug, Clone)]\npub struct X<'a> {\n    pub a: &'a str,\n    b: Vec<Option<u8>>,\n}\n",
        );
    }

    #[test]
    fn bodies_break_and_literals_stay() {
        check(
            "impl<T: ?Sized> A for B<T> { fn f(&mut self, x: impl Into<String>) -> Result<(), E> { let y = -x * 2; let z = X { a, b: 1 }; match *self { Self::A(_) => Ok(()), A | B => { g(|a, b| a && !b)?; } } } fn g(){} }",
            "impl<T: ?Sized> A for B<T> {\n    fn f(&mut self, x: impl Into<String>) -> Result<(), E> {\n        let y = -x * 2;\n        let z = X { a, b: 1 };\n        match *self {\n            Self::A(_) => Ok(()),\n            A | B => {\n                g(|a, b| a && !b)?;\n            }\n        }\n    }\n\n    fn g() {}\n}\n",
        );
    }

    #[test]
    fn long_lists_take_a_line_an_element() {
        let long = "a".repeat(50);
        check(
            &format!("fn f() {{ call({long}, {long}).await?; Ok(Self {{ {long}, {long} }}) }}"),
            &format!(
                "fn f() {{\n    call(\n        {long},\n        {long},\n    ).await?;\n    Ok(Self {{\n        {long},\n        {long},\n    }})\n}}\n"
            ),
        );
    }

    #[test]
    fn fields_without_names_keep_their_attributes() {
        check(
            "pub struct X(#[doc = \" One.\"] pub u8,);",
            "pub struct X(\n    /// One.\n    pub u8,\n);\n",
        );
    }

    #[test]
    fn paths_and_attributes_keep_their_spaces() {
        check(
            "pub fn f(x: ::std::string::String) -> ::core::option::Option<<T as A>::B> { #[cfg(feature = \"x\")] g::<T>(&x, [1, 2], (a,)); if a < b { vec![1] } else { x.0 } }",
            "pub fn f(x: ::std::string::String) -> ::core::option::Option<<T as A>::B> {\n    #[cfg(feature = \"x\")]\n    g::<T>(&x, [1, 2], (a,));\n    if a < b {\n        vec![1]\n    } else {\n        x.0\n    }\n}\n",
        );
    }
}
