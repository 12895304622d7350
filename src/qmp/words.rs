//! The language of a line: `command key=value nested.key=value list=[a, b]`.
//!
//! Quotes `'…'` and `"…"` keep blanks; in `"…"` a backslash takes the next character as it is. A
//! value that begins with `[` or `{` goes on to its closing bracket.
//! Called by `typed` for what was written and by `complete` for what is being written.
//! Invariant: words are ranges of the line, in order. Not here: what words mean.

/// One word of a line, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<'a> {
    /// Byte of the line where it starts.
    pub(super) start: usize,
    pub(super) raw: &'a str,
    /// Where the first `=` outside of quotes and brackets is, in `raw`.
    equals: Option<usize>,
}

impl<'a> Word<'a> {
    /// A word that nobody has begun to write.
    pub(super) fn empty_at(start: usize) -> Word<'a> {
        Word {
            start,
            raw: "",
            equals: None,
        }
    }

    /// What is before `=`, and what is behind.
    pub(super) fn pair(&self) -> Option<(&'a str, Text<'a>)> {
        let (key, value) = self.raw.split_at(self.equals?);
        Some((key, Text(&value[1..])))
    }

    /// All of it, as a text.
    pub(super) fn text(&self) -> Text<'a> {
        Text(self.raw)
    }

    /// The byte of the line where it ends.
    pub(super) fn end(&self) -> usize {
        self.start + self.raw.len()
    }
}

/// A value as written, with its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) &'a str);

impl Text<'_> {
    /// Without quotes.
    pub(super) fn unquoted(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        let mut quote = None;
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            match quote {
                Some('"') if c == '\\' => out.extend(chars.next()),
                Some(open) if c == open => quote = None,
                None if is_quote(c) => quote = Some(c),
                _ => out.push(c),
            }
        }
        out
    }

    pub(super) fn is_quoted(&self) -> bool {
        self.0.starts_with(is_quote)
    }

    pub(super) fn is_bracketed(&self) -> bool {
        self.0.starts_with(['[', '{'])
    }
}

/// The words of a line, and what is missing at its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words<'a> {
    pub(super) words: Vec<Word<'a>>,
    /// The quote or bracket that nothing closes.
    pub(super) open: Option<char>,
}

fn is_quote(c: char) -> bool {
    matches!(c, '\'' | '"')
}

/// Cuts a line into words.
pub(super) fn split(line: &str) -> Words<'_> {
    let mut words = Vec::new();
    let mut open = None;
    let mut at = 0;
    while let Some(skip) = line[at..].find(|c: char| !c.is_whitespace()) {
        let start = at + skip;
        let scan = Scan::of(&line[start..]);
        at = start + scan.len;
        open = scan.open;
        words.push(Word {
            start,
            raw: &line[start..at],
            equals: scan.equals,
        });
    }
    Words { words, open }
}

/// The line of words that a shell has taken apart already.
pub(super) fn line_of(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) if !word.starts_with(['[', '{']) => (format!("{key}="), value),
            _ => (String::new(), word.as_str()),
        };
        let is_plain = |c: char| !c.is_whitespace() && !is_quote(c) && c != '\\';
        if Text(value).is_bracketed() || (value.chars().all(is_plain) && !word.is_empty()) {
            return word.clone();
        }
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{key}\"{value}\"")
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// How far the first word of a text goes.
struct Scan {
    len: usize,
    equals: Option<usize>,
    open: Option<char>,
}

impl Scan {
    fn of(text: &str) -> Scan {
        let mut equals = None;
        let mut nesting = Nesting::default();
        // Brackets mean something at the start of the word and of its value only.
        let mut starts = true;
        for (at, c) in text.char_indices() {
            if nesting.is_plain() {
                if c.is_whitespace() {
                    return Scan {
                        len: at,
                        equals,
                        open: None,
                    };
                }
                if c == '=' && equals.is_none() {
                    equals = Some(at);
                    starts = true;
                    continue;
                }
            }
            nesting.take(c, starts);
            starts = false;
        }
        Scan {
            len: text.len(),
            equals,
            open: nesting.open(),
        }
    }
}

/// Quotes and brackets that are open.
#[derive(Default)]
struct Nesting {
    quote: Option<char>,
    escaped: bool,
    brackets: Vec<char>,
}

impl Nesting {
    fn is_plain(&self) -> bool {
        self.quote.is_none() && self.brackets.is_empty()
    }

    fn take(&mut self, c: char, may_bracket: bool) {
        let escapes = !self.brackets.is_empty() || self.quote == Some('"');
        match self.quote {
            Some(_) if self.escaped => self.escaped = false,
            Some(_) if c == '\\' && escapes => self.escaped = true,
            Some(open) if c == open => self.quote = None,
            Some(_) => {}
            None if is_quote(c) => self.quote = Some(c),
            None if may_bracket || !self.brackets.is_empty() => match c {
                '[' | '{' => self.brackets.push(c),
                ']' | '}' => drop(self.brackets.pop()),
                _ => {}
            },
            None => {}
        }
    }

    fn open(&self) -> Option<char> {
        self.quote.or_else(|| self.brackets.last().copied())
    }
}

/// The elements of a list that is written as `[a, "b c", {…}]`; `None` unless its bracket closes at
/// the end.
pub(super) fn elements(list: &str) -> Option<Vec<Text<'_>>> {
    let inner = list.trim_end().strip_prefix('[')?.strip_suffix(']')?;
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let mut elements = Vec::new();
    let mut nesting = Nesting::default();
    let mut start = 0;
    for (at, c) in inner.char_indices() {
        if c == ',' && nesting.is_plain() {
            elements.push(Text(inner[start..at].trim()));
            start = at + 1;
        } else {
            nesting.take(c, true);
        }
    }
    elements.push(Text(inner[start..].trim()));
    nesting.is_plain().then_some(elements)
}

/// The quote or bracket that a line of JSON leaves open.
pub(super) fn open_in_json(text: &str) -> Option<char> {
    let mut nesting = Nesting::default();
    text.chars().for_each(|c| nesting.take(c, true));
    nesting.open()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: &str) {
        let split = split(line);
        let words = split.words.iter().map(|word| match word.pair() {
            Some((key, value)) => format!("{key}={}", value.unquoted()),
            None => word.text().unquoted(),
        });
        let mut text = words.collect::<Vec<_>>().join(" | ");
        if let Some(open) = split.open {
            text = format!("{text} open {open}");
        }
        assert_eq!(text, want);
    }

    #[test]
    fn blanks_part_words_and_quotes_keep_them() {
        check("", "");
        check("  query-block\t", "query-block");
        check("a b=c  d.e=f=g", "a | b=c | d.e=f=g");
        check(
            r#"a b='c d' e="f \"g\" \\" h=x'y z'"#,
            r#"a | b=c d | e=f "g" \ | h=xy z"#,
        );
    }

    #[test]
    fn a_bracket_at_the_start_of_a_value_keeps_blanks_until_it_closes() {
        check("a b=[c, d] e", "a | b=[c, d] | e");
        check("a {'b': ']'} c", "a | {b: ]} | c");
        check("a b=c[d e]", "a | b=c[d | e]");
        check("b={ 'x': [ 1, 2 ] } c=d", "b={ x: [ 1, 2 ] } | c=d");
    }

    #[test]
    fn what_is_not_closed_is_told() {
        check("a b='c d", "a | b=c d open '");
        check("a b=[c d", "a | b=[c d open [");
        check("a b=[{c]", "a | b=[{c] open [");
    }

    #[test]
    fn lists_have_elements() {
        let texts = |list| {
            let elements = elements(list)?;
            Some(elements.iter().map(|element| element.0).collect::<Vec<_>>())
        };
        assert_eq!(texts("[]"), Some(vec![]));
        assert_eq!(
            texts("[a, 'b, c' ,{d, e}]"),
            Some(vec!["a", "'b, c'", "{d, e}"])
        );
        assert_eq!(texts("[a,]"), Some(vec!["a", ""]));
        assert_eq!(texts("[a"), None);
    }
}
