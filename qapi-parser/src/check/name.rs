//! What names may look like today, and when two of them are one in C.
//! Called by `modern.rs` and `resolve`. A name is a stem behind an optional `__RFQDN_` of whoever
//! adds to a schema downstream, and an optional `x-`; rules about case are about the stem.

use std::hash::{Hash, Hasher};

use crate::check::draft::Language;

/// Which names a kind of thing may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Types.
    Camel,
    /// Events.
    Upper,
    /// Commands, members, values, features.
    Lower { upper: bool, underscore: bool },
}

impl Style {
    /// Names that a pragma does not excuse from any rule.
    pub(crate) const LOWER: Self = Self::Lower {
        upper: false,
        underscore: false,
    };

    /// Names that a pragma excuses from the rules about case.
    pub(crate) const EXCUSED: Self = Self::Lower {
        upper: true,
        underscore: true,
    };
}

/// Why a name cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not made of a letter, then letters, digits, `-` and `_`; or in the reserved `q_`.
    Invalid,
    /// Not what its style asks for.
    Style,
}

/// Judges `name`.
pub(crate) fn check(name: &str, style: Style) -> Result<(), Fault> {
    let stem = stem(name).ok_or(Fault::Invalid)?;
    if name.starts_with("q_") || name.starts_with("q-") {
        return Err(Fault::Invalid);
    }
    let has = |test: fn(&u8) -> bool| stem.as_bytes().iter().any(test);
    let fits = match style {
        Style::Camel => {
            stem.starts_with(|first: char| first.is_ascii_uppercase())
                && stem.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && has(u8::is_ascii_lowercase)
        }
        Style::Upper => !has(|&byte| byte.is_ascii_lowercase() || byte == b'-'),
        Style::Lower { upper, underscore } => {
            (upper || !has(u8::is_ascii_uppercase)) && (underscore || !stem.contains('_'))
        }
    };
    if fits { Ok(()) } else { Err(Fault::Style) }
}

/// What follows the prefixes of a well-formed name.
fn stem(name: &str) -> Option<&str> {
    let is_stem = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let rest = match name.strip_prefix("__") {
        None => name,
        Some(rest) => {
            let (domain, rest) = rest.split_once('_')?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
            if domain.is_empty() || !domain.bytes().all(legal) {
                return None;
            }
            rest
        }
    };
    let experimental = rest.get(..2).filter(|x| x.eq_ignore_ascii_case("x-"));
    let plain = experimental.map(|x| &rest[x.len()..]);
    plain
        .filter(|stem| is_stem(stem))
        .or_else(|| Some(rest).filter(|stem| is_stem(stem)))
}

/// A name as others of its kind are told from it: two whose identifiers in C are the same clash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    name: &'a str,
    /// The old dialect has no rule about identifiers.
    exact: bool,
}

impl<'a> Key<'a> {
    pub(crate) fn new(name: &'a str, language: Language) -> Self {
        Self {
            name,
            exact: language == Language::Legacy,
        }
    }

    fn bytes(self) -> impl Iterator<Item = u8> {
        self.name.bytes().map(move |byte| match byte {
            b'-' | b'.' if !self.exact => b'_',
            byte => byte,
        })
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes().eq(other.bytes())
    }
}

impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes().for_each(|byte| state.write_u8(byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_all(style: Style, good: &[&str], bad: &[&str]) {
        for name in good {
            assert_eq!(check(name, style), Ok(()), "{name}");
        }
        for name in bad {
            assert!(check(name, style).is_err(), "{name}");
        }
    }

    #[test]
    fn types_are_camel_case() {
        let good = ["Abc", "A1b", "ABc", "x-Abc", "__com.redhat_Abc"];
        check_all(
            Style::Camel,
            &good,
            &["abc", "ABC", "A-b", "A_b", "Abc.d", ""],
        );
    }

    #[test]
    fn events_have_no_lower_case_and_no_hyphen() {
        let good = ["A", "A_B", "A1", "__com.redhat_A_B"];
        check_all(Style::Upper, &good, &["a", "Ab", "A-B", "_A", "1A"]);
    }

    #[test]
    fn members_have_no_upper_case_and_no_underscore() {
        let good = ["a", "a-b", "x-a", "x-1", "__org.qemu_x-a", "a-"];
        let bad = [
            "A", "a_b", "q_a", "q-a", "1a", "a.b", "__a", "__a_", "_a", "-a", "ä", "x-",
        ];
        check_all(Style::LOWER, &good, &bad[..11]);
        check_all(Style::EXCUSED, &["a_b", "aB", "A"], &["q_a", "a.b"]);
    }
}
