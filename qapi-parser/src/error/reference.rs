//! What the reference compiler, QEMU's own, says to a schema: one finding, the first.
//! Invariant: byte for byte what it prints, since other tools match on it.

use std::fmt::Write as _;

use super::Diagnostics;
use crate::check::draft::Scope;
use crate::source::{FileId, Span};

/// The reference compiler's passes over a whole schema: it stops at the first finding of the
/// earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// Files, tokens, grammar, documentation blocks, includes, pragmas.
    Parse,
    /// One expression.
    Expression,
    /// Names that are taken.
    Define,
    /// What names stand for.
    Check,
    /// Documentation of what is not there.
    Documentation,
    /// How many features there are.
    Features,
}

/// What the reference compiler says.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    /// Where; nowhere when the root could not be read.
    place: Option<Place>,
    words: String,
    /// Another place, with what is said there.
    also: Option<(Place, &'static str)>,
}

/// A place as the reference shows it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: FileId,
    offset: usize,
    column: bool,
    definition: Option<(&'static str, String)>,
}

impl Place {
    /// The first line of an expression.
    pub(super) fn of(scope: &Scope) -> Self {
        Self {
            file: scope.at.file,
            offset: scope.at.start,
            column: false,
            definition: scope.definition.clone(),
        }
    }

    /// A token, with its column.
    pub(super) fn token(span: Span) -> Self {
        Self {
            file: span.file,
            offset: span.start,
            column: true,
            definition: None,
        }
    }
}

impl Reference {
    pub(super) fn new(place: Option<Place>, words: String) -> Self {
        Self {
            place,
            words,
            also: None,
        }
    }

    /// What it says, without the place.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    pub(super) fn also(&mut self, scope: &Scope, words: &'static str) {
        self.also = Some((Place::of(scope), words));
    }
}

impl Diagnostics {
    /// What the reference compiler prints about the schema: its first finding, in its words.
    ///
    /// Where it knows none of ours, since it would end otherwise or accept the schema, the first
    /// of ours as one line.
    pub fn reference(&self) -> String {
        let first = self
            .list
            .iter()
            .find_map(|finding| finding.reference.as_ref());
        let Some(reference) = first else {
            let gcc = self.gcc();
            return gcc
                .lines()
                .next()
                .map_or_else(String::new, |l| format!("{l}\n"));
        };
        let mut out = String::new();
        match &reference.place {
            Some(place) => self.show_reference(&mut out, place, &reference.words),
            None => {
                let _ = writeln!(out, "{}", reference.words);
            }
        }
        if let Some((place, words)) = &reference.also {
            self.show_reference(&mut out, place, words);
        }
        out
    }

    fn show_reference(&self, out: &mut String, place: &Place, words: &str) {
        let mut includes = Vec::new();
        let mut at = self.sources.file(place.file).included_at;
        while let Some(asked) = at {
            includes.push(asked);
            at = self.sources.file(asked.file).included_at;
        }
        // Writing to a string does not fail.
        for asked in includes.into_iter().rev() {
            let line = self.sources.place(asked.file, asked.start).line;
            let path = self.sources.file(asked.file).path.display();
            let _ = writeln!(out, "In file included from {path}:{line}:");
        }
        let path = self.sources.file(place.file).path.display();
        if let Some((meta, name)) = &place.definition {
            let _ = writeln!(out, "{path}: In {meta} '{name}':");
        }
        let line = self.sources.place(place.file, place.offset).line;
        let _ = write!(out, "{path}:{line}:");
        if place.column {
            let _ = write!(out, "{}:", self.reference_column(place));
        }
        let _ = writeln!(out, " {words}");
    }

    /// Columns as the reference counts them: its tabs do not do what they are meant to.
    fn reference_column(&self, place: &Place) -> usize {
        let text = &self.sources.file(place.file).text;
        let start = self.sources.line_start(place.file, place.offset);
        let before = text[start..place.offset].chars();
        before.fold(1, |column, character| match character {
            '\t' => (column + 7) % 8 + 1,
            _ => column + 1,
        })
    }
}
