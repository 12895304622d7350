//! One command of `io` as words: options by letter, operands behind them.
//! Not here: what the letters mean (`commands.rs`).

use crate::opts::size::{SizeError, parse_size};
use crate::report::outln;

/// The command failed, and has said why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// The letters a command was given, and its operands.
#[derive(Debug)]
pub(super) struct Words<'a> {
    letters: Vec<(char, Option<&'a str>)>,
    pub(super) operands: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Takes options off the words behind a command's name. `known` lists letters, a colon behind
    /// those with an argument.
    ///
    /// # Errors
    /// The complaint, for a letter that is not known or lacks its argument.
    pub(super) fn parse(words: &[&'a str], known: &str) -> Result<Words<'a>, String> {
        let mut letters = Vec::new();
        let mut operands = Vec::new();
        let mut rest = words.iter().copied();
        while let Some(word) = rest.next() {
            if word == "--" {
                operands.extend(rest);
                break;
            }
            let Some(cluster) = word.strip_prefix('-').filter(|c| !c.is_empty()) else {
                operands.push(word);
                continue;
            };
            for (at, letter) in cluster.char_indices() {
                let place = known.find(letter).filter(|_| letter != ':');
                let Some(place) = place else {
                    return Err(format!("invalid option -- '{letter}'"));
                };
                if !known[place + 1..].starts_with(':') {
                    letters.push((letter, None));
                    continue;
                }
                let tail = &cluster[at + letter.len_utf8()..];
                let argument = if tail.is_empty() {
                    rest.next()
                } else {
                    Some(tail)
                };
                if argument.is_none() {
                    return Err(format!("option requires an argument -- '{letter}'"));
                }
                letters.push((letter, argument));
                break;
            }
        }
        Ok(Words { letters, operands })
    }

    /// Whether a letter was given.
    pub(super) fn has(&self, letter: char) -> bool {
        self.letters.iter().any(|(given, _)| *given == letter)
    }

    /// The argument of a letter, the last if there are several.
    pub(super) fn argument(&self, letter: char) -> Option<&'a str> {
        let found = self
            .letters
            .iter()
            .rev()
            .find(|(given, _)| *given == letter);
        found.and_then(|(_, argument)| *argument)
    }

    /// The size that a letter was given.
    pub(super) fn size(&self, letter: char) -> Result<Option<u64>, Failed> {
        self.argument(letter).map(number).transpose()
    }

    /// The pattern byte, if one was given.
    pub(super) fn pattern(&self) -> Result<Option<u8>, Failed> {
        self.argument('P').map(pattern).transpose()
    }
}

/// A number of bytes.
pub(super) fn number(text: &str) -> Result<u64, Failed> {
    parse_size(text).map_err(|error| {
        match error {
            SizeError::Invalid => outln!(
                "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {text}"
            ),
            SizeError::OutOfRange => outln!("Parsing error: argument too large -- {text}"),
        }
        Failed
    })
}

/// A byte: decimal, or in C's spelling of hexadecimal or octal.
fn pattern(text: &str) -> Result<u8, Failed> {
    let byte = if let Some(digits) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        u8::from_str_radix(digits, 16)
    } else if let Some(digits) = text.strip_prefix('0').filter(|digits| !digits.is_empty()) {
        u8::from_str_radix(digits, 8)
    } else {
        text.parse()
    };
    byte.map_err(|_| {
        outln!("{text} is not a valid pattern byte");
        Failed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_may_stand_together_and_anywhere() {
        let words = Words::parse(&["-qP", "0xa", "0", "-v", "4k"], "qvP:").unwrap();
        assert!(words.has('q') && words.has('v') && !words.has('C'));
        assert_eq!(words.pattern(), Ok(Some(10)));
        assert_eq!(words.operands, ["0", "4k"]);
        let words = Words::parse(&["-P7", "--", "-1"], "P:").unwrap();
        assert_eq!(words.argument('P'), Some("7"));
        assert_eq!(words.operands, ["-1"]);
    }

    #[test]
    fn unknown_letters_are_named() {
        let error = Words::parse(&["-qz"], "q").unwrap_err();
        assert_eq!(error, "invalid option -- 'z'");
        let error = Words::parse(&["-P"], "P:").unwrap_err();
        assert_eq!(error, "option requires an argument -- 'P'");
    }

    #[test]
    fn patterns_are_bytes() {
        let bytes = [
            ("17", Ok(17)),
            ("0xff", Ok(255)),
            ("010", Ok(8)),
            ("0", Ok(0)),
        ];
        for (text, byte) in bytes {
            assert_eq!(pattern(text), byte);
        }
        assert_eq!(pattern("256"), Err(Failed));
        assert_eq!(pattern("x"), Err(Failed));
    }
}
